//! Time of a whole reproduction with a built image.

use crate::process::measure;
use crate::table::Row;
use anyhow::{Result, ensure};
use guest_images::Store;
use guest_images::progress::for_stderr;
use std::path::Path;
use std::process::Command;

pub(crate) fn run(staleline: &Path, rounds: u32) -> Result<Row> {
    Store::open(None)?.ensure("linux-6.12-debug", &*for_stderr())?;
    let mut row = Row::new("repro mlx5-eexist".into(), &[]);
    for _ in 0..rounds {
        let run = measure(Command::new(staleline).args(["repro", "mlx5-eexist"]))?;
        ensure!(run.success, "staleline repro mlx5-eexist failed");
        row.add_seconds(run.wall.as_secs_f64());
    }
    Ok(row)
}
