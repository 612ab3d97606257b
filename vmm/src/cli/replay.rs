//! `staleline replay`.

use anyhow::{Context, Result};
use clap::Args;
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Exit status: an expectation does not hold.
const STATUS_FAILED: u8 = 1;

#[derive(Debug, Args)]
pub(super) struct ReplayArguments {
    /// The trace; `-` is standard input.
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
}

/// Replays the trace, prints the report and returns the exit status.
pub(super) fn run(arguments: &ReplayArguments) -> Result<u8> {
    let name = arguments.trace.display().to_string();
    let text = if arguments.trace.as_os_str() == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(&arguments.trace)
    };
    let text = text.with_context(|| format!("trace {name}"))?;
    let report = cache_model::replay::run(&text).with_context(|| format!("trace {name}"))?;
    let mut json = serde_json::to_string_pretty(&report)?;
    json.push('\n');
    io::stdout().write_all(json.as_bytes())?;
    Ok(if report.failed.is_empty() { 0 } else { STATUS_FAILED })
}
