//! Benchmarks: staleline's software engine beside QEMU's TCG and Bochs, on one kernel and one initramfs; and the work of the
//! mlx5 device.
//!
//! Machines are shared and noisy: all peers run in turn in each round, a ratio is taken from one round, and the median of
//! the rounds is what counts. The guest's own clock is never asked, since the software engine's is virtual: the guest says
//! on its console when its work begins and ends.

mod bochs;
mod cache;
mod fork;
mod guest;
mod iommu;
mod ledger;
mod mlx5;
mod peer;
mod process;
mod replay;
mod repro;
mod suite;
mod table;
mod timing;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use guest::Guest;
use peer::Peer;
use std::path::PathBuf;
use std::process::Command;
use table::{Row, Table};
use timing::Timing;

/// Measures staleline's software engine, with the ratio to QEMU TCG and to Bochs where they are installed.
///
/// Prints a Markdown table and writes it to a file. Run it on a machine that does nothing else.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; can be given several times. Everything if it is not given.
    #[arg(long = "workload", value_enum, value_name = "NAME")]
    workloads: Vec<Workload>,
    /// Rounds of each workload. The median is what the table shows.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Leave this one out, though it is installed; can be given several times.
    #[arg(long, value_enum, value_name = "PEER")]
    without: Vec<Peer>,
    /// Measure this program instead of a fresh release build.
    #[arg(long, value_name = "FILE")]
    staleline: Option<PathBuf>,
    /// Where the table goes.
    #[arg(long, value_name = "FILE", default_value = "target/bench.md")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Debian's 6.1 cloud kernel to user space and power-off.
    Boot,
    /// A checksum, a sieve, a sort, divisions.
    Integer,
    /// Copies, sums and dependent loads over 32 MiB.
    Memory,
    /// System calls, pipes, page faults, forks.
    Kernel,
    /// Double precision: matrices, Mandelbrot's set, planets.
    Float,
    /// `staleline repro mlx5-eexist` with a built image; no peer can run it.
    Repro,
    /// Messages and bytes a second of the emulated ConnectX function, with no guest.
    Mlx5,
    /// Round trips of ibv_rc_pingpong in a guest; no peer can run it.
    Pingpong,
    /// Forks of a booted machine: host time and memory.
    Fork,
    /// `staleline suite` over seeds and workers.
    Suite,
    /// Operations a second of `staleline replay`, and of the cache model alone.
    Replay,
    /// A boot with a modelled cache and without, beside QEMU's.
    Cache,
    /// A boot with the ledger of DMA mappings on and off.
    Ledger,
    /// A boot, and reads of 4 KiB from a disk, with bounced DMA and with an IOMMU that insists on it.
    Iommu,
}

impl Workload {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let staleline = arguments.staleline.clone().map_or_else(build_staleline, Ok)?;
    let workloads = match arguments.workloads.as_slice() {
        [] => Workload::value_variants(),
        some => some,
    };
    let mut table = Table::new(&staleline, arguments.rounds);
    let peers: Vec<Peer> = Peer::value_variants()
        .iter()
        .copied()
        .filter(|peer| !arguments.without.contains(peer))
        .filter(|peer| table.add_peer(*peer))
        .collect();
    for &workload in workloads {
        match workload {
            Workload::Repro => table.add(repro::run(&staleline, arguments.rounds)?),
            Workload::Mlx5 => table.add_figures(mlx5::device(arguments.rounds)?),
            Workload::Pingpong => table.add_figures(mlx5::ping_pong(&staleline, arguments.rounds)?),
            Workload::Fork => table.add_figures(fork::run(arguments.rounds)?),
            Workload::Suite => table.add_figures(suite::run(&staleline, arguments.rounds)?),
            Workload::Replay => table.add_figures(replay::run(&staleline, arguments.rounds)?),
            Workload::Cache => {
                let guest = Guest::prepare(guest::BOOT)?;
                table.guest(&guest);
                table.add_figures(cache::run(&staleline, &guest, &peers, arguments.rounds)?);
            }
            Workload::Ledger => table.add_figures(ledger::run(&staleline, arguments.rounds)?),
            Workload::Iommu => table.add_figures(iommu::run(&staleline, arguments.rounds)?),
            Workload::Boot | Workload::Integer | Workload::Memory | Workload::Kernel | Workload::Float => {
                let guest = Guest::prepare(&workload.name())?;
                table.guest(&guest);
                table.add(measure(workload, &staleline, &guest, &peers, arguments.rounds)?);
            }
        }
    }
    let text = table.to_string();
    print!("{text}");
    if let Some(folder) = arguments.output.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::write(&arguments.output, text).with_context(|| arguments.output.display().to_string())?;
    eprintln!("written to {}", arguments.output.display());
    Ok(())
}

/// Runs one workload `rounds` times on staleline and each peer in turn.
fn measure(
    workload: Workload,
    staleline: &std::path::Path,
    guest: &Guest,
    peers: &[Peer],
    rounds: u32,
) -> Result<Row> {
    let name = workload.name();
    let mut row = Row::new(name.clone(), peers);
    for round in 1..=rounds {
        eprintln!("{name}: round {round} of {rounds}: staleline");
        let run = peer::staleline(staleline, guest, &[])?;
        let ours = run.time(guest.ends_itself())?;
        row.add(&ours, guest.instructions());
        for (at, peer) in peers.iter().enumerate() {
            eprintln!("{name}: round {round} of {rounds}: {}", peer.title());
            let theirs: Timing = peer.run(guest)?.time(guest.ends_itself() && peer.powers_off())?;
            ensure!(
                theirs.checksum == ours.checksum,
                "{name}: {} computes {:?}, staleline {:?}",
                peer.title(),
                theirs.checksum,
                ours.checksum
            );
            row.add_peer(at, &ours, &theirs);
        }
    }
    Ok(row)
}

/// Builds the release binary and returns its path, beside this one.
fn build_staleline() -> Result<PathBuf> {
    let status = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--package", "staleline"])
        .status()
        .context("cargo build")?;
    ensure!(status.success(), "cargo build --release failed");
    let target = std::env::current_exe()?
        .ancestors()
        .nth(2)
        .context("this program is not in a target directory")?
        .join("release/staleline");
    ensure!(target.exists(), "{} is missing", target.display());
    Ok(target)
}
