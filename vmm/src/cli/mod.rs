//! The command line: arguments in, exit status out.

mod later;
mod run;
mod size;
mod status;

use crate::session::STATUS_ERROR;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

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
}

/// Parses the command line, does what it says and returns the exit status.
#[must_use]
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
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
        Command::Run(arguments) => run::run(*arguments),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("staleline: {error:#}");
            ExitCode::from(STATUS_ERROR)
        }
    }
}
