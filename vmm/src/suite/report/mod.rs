//! Reports for machines.

mod json;
mod junit;
mod ktap;

use super::results::ScenarioResult;
use anyhow::Result;

/// How results are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The kernel's test anything protocol, version 1: scenarios, in them cases, in them the run and its steps.
    Ktap,
    /// JUnit XML: a test suite for each scenario, a test case for each case.
    Junit,
    /// Everything that is known, as JSON.
    Json,
}

/// The report on `results`.
///
/// # Errors
/// If it cannot be put into words.
pub fn render(format: Format, results: &[ScenarioResult]) -> Result<String> {
    Ok(match format {
        Format::Ktap => ktap::render(results),
        Format::Junit => junit::render(results)?,
        Format::Json => json::render(results)?,
    })
}

#[cfg(test)]
mod samples;
