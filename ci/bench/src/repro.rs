//! Time of a whole reproduction with a built image.

use crate::process::{measure, median};
use anyhow::{Result, ensure};
use guest_images::Store;
use guest_images::progress::for_stderr;
use std::path::Path;
use std::process::Command;

pub(crate) fn run(staleline: &Path, rounds: usize) -> Result<()> {
    Store::open(None)?.ensure("linux-6.12-debug", &*for_stderr())?;
    let (mut walls, mut peaks) = (vec![], vec![]);
    for _ in 0..rounds {
        let run = measure(Command::new(staleline).args(["repro", "mlx5-eexist"]))?;
        ensure!(run.success, "staleline repro mlx5-eexist failed");
        walls.push(run.wall.as_secs_f64());
        peaks.push(run.peak_kib as f64 / 1024.0);
    }
    println!("repro mlx5-eexist with a built image");
    println!("  staleline     {:7.2} s   peak {:.0} MiB", median(&walls), median(&peaks));
    Ok(())
}
