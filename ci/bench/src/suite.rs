//! `staleline suite` over numbers of seeds and of workers: what a seed costs that runs nothing, and how seeds scale with cores.

use crate::fork::TARGET;
use crate::process::measure;
use crate::table::Figure;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Nothing runs in the guest.
const SCENARIO: &str = "bug = 'none'
source = 'a benchmark'
[guest]
kernel = 'linux-6.12-debug'
devices = ['mlx5']
[[step]]
run = ['true']
";
const FEW: u32 = 10;
const MANY: u32 = 100;

/// Measures suites with one worker, two, and as many as there are cores.
pub(crate) fn run(staleline: &Path, rounds: u32) -> Result<Vec<Figure>> {
    let folder = TempDir::new().context("a folder for the scenario")?;
    std::fs::write(folder.path().join("nothing.toml"), SCENARIO)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut alone = Vec::new();
    let mut figures = Vec::new();
    for jobs in BTreeSet::from([1, 2, cores]) {
        let figure = |what: &str, unit| Figure::new(format!("a suite with {jobs} workers: {what}"), unit);
        let mut few = figure(&format!("{FEW} seeds"), "s");
        let mut many = figure(&format!("{MANY} seeds"), "s");
        let mut each = figure("a seed more, which runs nothing", "ms");
        let mut scaling = figure("seeds a second, times those of one worker", "");
        each.target = (jobs == 1).then_some(TARGET);
        for round in 0..rounds as usize {
            let [first, all] = [FEW, MANY].map(|seeds| suite(staleline, folder.path(), seeds, jobs));
            let (first, all) = (first?.as_secs_f64(), all?.as_secs_f64());
            few.values.push(first);
            many.values.push(all);
            // The boot is in both.
            let one = (all - first) / f64::from(MANY - FEW);
            each.values.push(one * 1000.0);
            if jobs == 1 {
                alone.push(one);
            }
            scaling.values.extend(alone.get(round).map(|alone| alone / one));
        }
        figures.extend([few, many, each]);
        if jobs != 1 {
            figures.push(scaling);
        }
    }
    Ok(figures)
}

fn suite(staleline: &Path, folder: &Path, seeds: u32, jobs: usize) -> Result<Duration> {
    let mut command = Command::new(staleline);
    command.arg("suite").arg(folder).arg("--artefacts").arg(folder.join("artefacts"));
    command.args(["--seeds", &format!("1..{seeds}"), "--jobs", &jobs.to_string()]);
    let measured = measure(&mut command)?;
    ensure!(measured.success, "it does not hold: {command:?}");
    Ok(measured.wall)
}
