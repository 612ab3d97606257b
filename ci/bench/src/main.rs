//! Benchmarks: whole runs of staleline, beside QEMU's TCG on the same kernel where QEMU is installed.
//!
//! Machines are shared and noisy: the two are run in turn, and the ratio is taken from one round each.

mod boot;
mod process;
mod repro;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::process::Command;

/// Measures staleline: boot speed against QEMU TCG, and the time of a reproduction.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure.
    #[arg(value_enum, default_values_t = [Benchmark::Boot, Benchmark::Repro])]
    benchmarks: Vec<Benchmark>,
    /// Rounds of each benchmark; the median is printed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Benchmark {
    /// Debian's 6.1 cloud kernel to user space and power-off.
    Boot,
    /// `staleline repro mlx5-eexist` with a built image.
    Repro,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let staleline = build_staleline()?;
    for benchmark in &arguments.benchmarks {
        match benchmark {
            Benchmark::Boot => boot::run(&staleline, arguments.rounds)?,
            Benchmark::Repro => repro::run(&staleline, arguments.rounds)?,
        }
    }
    Ok(())
}

/// Builds the release binary and returns its path, beside this one.
fn build_staleline() -> Result<PathBuf> {
    let status = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--package", "staleline"])
        .status()
        .context("cargo build")?;
    anyhow::ensure!(status.success(), "cargo build --release failed");
    let target = std::env::current_exe()?
        .ancestors()
        .nth(2)
        .context("this program is not in a target directory")?
        .join("release/staleline");
    anyhow::ensure!(target.exists(), "{} is missing", target.display());
    Ok(target)
}
