//! The command line: arguments in, exit status out.

mod images;
mod later;
mod matrix;
mod replay;
mod repro;
mod run;
mod status;
mod suite;

use crate::doctor;
use crate::session::STATUS_ERROR;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_LOG: &str = "warn";

/// Boots stock Linux kernels on a machine whose DMA can be made incoherent, bounced or confined, with an RDMA device
/// in it.
///
/// Exit status: that of COMMAND in the guest; 123 findings raised; 124 deadline or timeout; 125 staleline's own error, or
/// "cannot test"; 255 guest panic or unexpected stop.
#[derive(Debug, Parser)]
#[command(name = "staleline", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a guest.
    Run(Box<run::RunArguments>),
    /// Reproduce a known bug end to end: prints the evidence and a verdict. Without a name: list them.
    ///
    /// Exit status: 0 as expected, 1 the opposite, 125 everything else, so that `git bisect run staleline repro NAME
    /// --expect absent` finds the commit that brought it in.
    Repro(repro::ReproArguments),
    /// Run regression scenarios, side by side, and report.
    ///
    /// Exit status: 0 if all hold; 1 if one does not; 125 if none failed but one could not be tested (an error in its file, an
    /// image that cannot be had, Ctrl-C).
    Suite(Box<suite::SuiteArguments>),
    /// Guest images: list, build, find, remove.
    Images(images::ImagesArguments),
    /// Run the cache model alone over a text trace; prints JSON. Exit status 1 if an `expect` does not hold.
    Replay(replay::ReplayArguments),
    /// Say what this host can do: engines, tools, disk, mirror, cache.
    Doctor(DoctorArguments),
}

#[derive(Debug, clap::Args)]
struct DoctorArguments {
    /// Do not contact the mirror.
    #[arg(long)]
    offline: bool,
}

fn examine_host(arguments: &DoctorArguments) -> anyhow::Result<u8> {
    let options = doctor::Options { offline: arguments.offline, ..doctor::Options::default() };
    let report = doctor::examine(&options);
    doctor::print_to_stdout(&report)?;
    Ok(u8::try_from(report.exit_status()).unwrap_or(STATUS_ERROR))
}

/// The error and its causes in one line. Many errors quote their cause already: it is not said twice.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Parses the command line, does what it says and returns the exit status.
#[must_use]
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(DEFAULT_LOG)).init();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; everything else is ours, and clap's own status is not in the list.
            let status = if error.use_stderr() { STATUS_ERROR } else { 0 };
            let printed = error.print();
            return ExitCode::from(if printed.is_err() { STATUS_ERROR } else { status });
        }
    };
    let result = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Repro(arguments) => repro::run(&arguments),
        Command::Suite(arguments) => suite::run(&arguments),
        Command::Images(arguments) => images::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Doctor(arguments) => examine_host(&arguments),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("staleline: {}", message(&error));
            ExitCode::from(STATUS_ERROR)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn causes_are_said_once() {
        let quoted = anyhow::anyhow!("no such file").context("kernel x: no such file");
        assert_eq!(message(&quoted), "kernel x: no such file");
        let error: anyhow::Result<()> = Err(anyhow::anyhow!("line 1: bad"));
        assert_eq!(message(&error.context("trace y").unwrap_err()), "trace y: line 1: bad");
    }
}
