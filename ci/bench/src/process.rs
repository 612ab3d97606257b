//! Runs a command and measures it from outside.

use anyhow::{Context, Result};
use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub wall: Duration,
    /// Peak resident memory, KiB.
    pub peak_kib: u64,
    pub success: bool,
}

/// Runs `command` to its end with its output discarded.
pub(crate) fn measure(command: &mut Command) -> Result<Measured> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Measured { wall: start.elapsed(), peak_kib, success: status.success() });
        }
        if let Ok(status) = fs::read_to_string(&status_file) {
            peak_kib = high_water(&status).unwrap_or(peak_kib);
        }
        sleep(Duration::from_millis(5));
    }
}

fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The middle of `values`, which must not be empty.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read_in_kib() {
        assert_eq!(high_water("Name:\tx\nVmHWM:\t  1234 kB\nVmRSS:\t 1 kB\n"), Some(1234));
        assert_eq!(high_water("Name:\tx\n"), None);
    }

    #[test]
    fn a_failing_command_is_seen() {
        assert!(!measure(&mut Command::new("false")).unwrap().success);
        assert!(measure(&mut Command::new("true")).unwrap().success);
    }

    #[test]
    fn the_median_ignores_the_order() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
