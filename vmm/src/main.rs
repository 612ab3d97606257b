//! The `staleline` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    staleline::cli::main()
}
