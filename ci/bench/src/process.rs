//! Runs a command and measures it from outside.

use anyhow::{Context, Result};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub wall: Duration,
    pub success: bool,
}

/// Runs `command` to its end with its output discarded.
pub(crate) fn measure(command: &mut Command) -> Result<Measured> {
    let start = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().with_context(|| format!("{command:?}"))?;
    Ok(Measured { wall: start.elapsed(), success: status.success() })
}

/// The middle of `values`; not a number if there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_seen() {
        assert!(!measure(&mut Command::new("false")).unwrap().success);
        assert!(measure(&mut Command::new("true")).unwrap().success);
    }

    #[test]
    fn the_median_ignores_the_order() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }
}
