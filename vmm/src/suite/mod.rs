//! Regression suites: scenarios as data, run side by side, judged, reported.
//!
//! A scenario is a TOML file. It boots a guest, runs steps in it, and says what has to come of that:
//!
//! ```toml
//! # name = "…"                # the file's name without .toml unless given
//! bug = "what it stands for"  # both must be there
//! source = "a commit, a report, a paragraph of a manual"
//! seeds = "1..10"             # or [1, 5]; both ends count; [1] by default. Of all that is random in the machine: in a guest
//!                             # with steps from its ready mark on, so that one boot serves them all
//! deadline = 60               # virtual seconds of a case, 60 by default
//!
//! [guest]                     # each the option of `staleline run` with its name, and its default
//! kernel = "linux-6.12-debug" # an image, or a file's path (with a slash); paths start from the scenario's folder
//! cmdline = "swiotlb=force"   # appended to the image's own; all there is with a file
//! memory = "512M"             # also: arch, cpus, initrd, kernel-source, cache, iommu, confidential, dma
//! devices = ["mlx5"]
//! files = ["data:/data"]      # HOST:GUEST
//! modules = ["driver"]        # folders of kernel modules, built for the image: /NAME.ko in the guest
//!
//! [matrix]                    # axes; every combination of their values is a cell
//! cpus = [1, 2]               # values of the guest's key of that name, or named variants that set some keys;
//! dma = { bounced = { cmdline = "swiotlb=force" }, coherent = {} }
//!                             # command lines, devices, files and modules add up, other keys are replaced
//! [[exclude]]                 # cells that there are not
//! cpus = "2"                  # or a list of values: ["2", "4"]
//! dma = "bounced"
//!
//! [[step]]                    # run in the guest, one after the other
//! name = "…"                  # the program, or the script's first line, by default
//! run = ["program", "argument"]
//! # script = "…"              # a shell script instead
//! # timeout = 10              # guest seconds after which it is killed: exit status 137
//! [[step.expect]]             # every one counts whose `when` holds (all of them without)
//! when = { dma = "bounced" }  # as in exclude
//! status = 1                  # 0 by default
//! output = ["text", { regex = "^a .*b$" }]  # each is in its output or error output
//! # { regex = "^a$", count = 3 } is there three times, { whole = "…" } is all of it but for white space at its ends
//! not-output = ["text"]       # none is
//! error-count = 1             # growth of dma-debug's error_count
//! [[each-step]]               # as [[step.expect]], of every step
//! not-output = ["Segmentation fault"]
//!
//! [[expect]]                  # of the run as a whole
//! status = 0                  # exit status of `staleline run`; 0 by default if there are steps and no other cause
//! cause = "exited"            # as `--status` names it: panic, deadline, power-off…
//! console = ["text"]          # also: not-console, log, not-log (the kernel's log)
//! log-warnings = ["taints"]   # each line of the log of level warning or worse, or that tells of trouble, has one of
//!                             # these; several such lists add up; [] is for a log that warns of nothing
//! dma-debug = ["cacheline tracking EEXIST"]  # all of its warnings, in order, by their beginnings
//! error-count = 1             # dma-debug's error_count at the end
//! memory = [                  # what RAM holds at the end, at guest-physical addresses, byte by byte
//!     { address = 0x100000, bytes = "00 11 aa ff" },
//! ]
//! ```
//!
//! `findings`, `verdict` and `culprit` are known and refused: no cache model runs under the guest yet that could raise a finding.
//! What cannot be used is an error of that scenario alone, with file and line; the others run.
//!
//! A case is a scenario at one cell with one seed. It is the command line of `staleline run` that [`case::Case::arguments`]
//! gives, nothing else, so that it can be done again by hand.

pub mod artefacts;
pub mod case;
mod expectation;
pub mod judge;
mod kernel_log;
mod keys;
mod matrix;
mod memory;
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
        let is_scenario = name.extension().is_some_and(|extension| extension == "toml");
        // A link to a folder above would go round for ever.
        if is_scenario || std::fs::symlink_metadata(&name)?.is_dir() {
            add_files(&name, files)?;
        }
    }
    Ok(())
}
