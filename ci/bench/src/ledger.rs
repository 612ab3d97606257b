//! What following the guest's DMA mappings costs: the boot of a stock kernel whose mlx5 driver maps some thousand of them, with
//! the ledger and without in turn.

use crate::process::measure;
use crate::table::Figure;
use anyhow::{Result, ensure};
use guest_images::Store;
use guest_images::progress::for_stderr;
use std::path::Path;
use std::process::Command;

const IMAGE: &str = "debian-cloud-6.1";
/// What a run with it may take, times one without.
const TARGET: f64 = 1.05;

/// Measures boots to user space and a command that does nothing.
pub(crate) fn run(staleline: &Path, rounds: u32) -> Result<Vec<Figure>> {
    // What is built is built before anything is measured.
    Store::open(None)?.ensure(IMAGE, &*for_stderr())?;
    let figure = |what: &str, unit| Figure::new(format!("boot of {IMAGE} with mlx5, {what}"), unit);
    let (mut without, mut with) = (figure("--ledger off", "s"), figure("--ledger on", "s"));
    let mut ratio = figure("--ledger on: times off", "");
    ratio.target = Some(TARGET);
    for round in 1..=rounds {
        eprintln!("ledger: round {round} of {rounds}");
        let (off, on) = (boot(staleline, "off")?, boot(staleline, "on")?);
        without.values.push(off);
        with.values.push(on);
        ratio.values.push(on / off);
    }
    Ok(vec![without, with, ratio])
}

/// Seconds of one boot.
fn boot(staleline: &Path, ledger: &str) -> Result<f64> {
    let mut command = Command::new(staleline);
    command.args(["run", "--engine", "soft", "--kernel", IMAGE, "--device", "mlx5", "--ledger", ledger]);
    command.args(["--", "true"]);
    let measured = measure(&mut command)?;
    ensure!(measured.success, "it fails: {command:?}");
    Ok(measured.wall.as_secs_f64())
}
