//! `staleline replay`.

use anyhow::{Context, Result, anyhow};
use cache_model::replay::{Replay, Report};
use clap::Args;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Exit status: an expectation does not hold.
const STATUS_FAILED: u8 = 1;

/// Bytes of the trace that are read at once.
const PIECE: usize = 1 << 18;

#[derive(Debug, Args)]
pub(super) struct ReplayArguments {
    /// The trace; `-` is standard input.
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
}

/// Replays the trace, prints the report and returns the exit status.
pub(super) fn run(arguments: &ReplayArguments) -> Result<u8> {
    let report = if arguments.trace.as_os_str() == "-" {
        replay("<stdin>", &mut io::stdin().lock())?
    } else {
        let name = arguments.trace.display().to_string();
        let mut trace = File::open(&arguments.trace).with_context(|| format!("trace {name}"))?;
        replay(&name, &mut trace)?
    };
    if report.overflow != 0 {
        log::warn!("{} findings or records are beyond the limits and left out", report.overflow);
    }
    let mut json = serde_json::to_string_pretty(&report)?;
    json.push('\n');
    io::stdout().write_all(json.as_bytes())?;
    Ok(if report.failed.is_empty() { 0 } else { STATUS_FAILED })
}

/// Replays a trace of any length, piece by piece.
fn replay(name: &str, trace: &mut dyn Read) -> Result<Report> {
    let place = |error: cache_model::replay::Error| anyhow!("{name}:{}: {}", error.line_no, error.reason);
    let mut replay = Replay::new();
    let mut piece = vec![0; PIECE];
    loop {
        let len = match trace.read(&mut piece) {
            Ok(0) => return replay.finish().map_err(place),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("trace {name}")),
        };
        replay.feed(piece.get(..len).unwrap_or_default()).map_err(place)?;
    }
}
