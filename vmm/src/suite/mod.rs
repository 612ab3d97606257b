//! Regression suites: scenarios as data, run side by side, judged, reported.
//!
//! The format of a scenario is documented in `ci/suites/README.md`. A case is the command line of `staleline run` that
//! [`case::Case::arguments`] gives, nothing else.

pub mod artefacts;
mod bounces;
pub mod case;
mod expectation;
mod findings;
pub mod judge;
mod kernel_log;
mod keys;
mod matrix;
mod memory;
mod outcome;
mod pattern;
pub mod progress;
pub mod report;
pub mod results;
pub mod runner;
mod scenario;
mod schedule;
mod seeds;
mod source;
mod steps;
mod text;

pub use scenario::Scenario;
pub use seeds::Seeds;
pub use source::ScenarioError;

use std::path::{Path, PathBuf};

/// The scenario files of `paths`: files as they are, of folders all `*.toml` in them and in their folders, by name.
///
/// # Errors
/// [`ScenarioError`] if a path cannot be read or a folder has no scenarios.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ScenarioError> {
    let mut files = Vec::new();
    for path in paths {
        let error = |reason: String| ScenarioError { file: path.clone(), line: None, reason };
        let before = files.len();
        add_files(path, &mut files).map_err(|failure| error(failure.to_string()))?;
        if files.len() == before {
            return Err(error("no scenarios (*.toml) in this folder".into()));
        }
    }
    Ok(files)
}

fn add_files(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut names = std::fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        // A link to a folder above would go round for ever.
        if std::fs::symlink_metadata(&name)?.is_dir() {
            add_files(&name, files)?;
        } else if name.extension().is_some_and(|extension| extension == "toml") {
            files.push(name);
        }
    }
    Ok(())
}
