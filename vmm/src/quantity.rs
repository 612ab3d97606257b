//! Sizes, times and addresses as people write them.

use crate::memory::layout::{GIB, MIB};
use std::time::Duration;

/// Parses a size with its unit: `512M`, `2G`, `65536K`.
///
/// # Errors
/// A message for people.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let unit = match text.chars().last() {
        Some('K' | 'k') => 1024,
        Some('M' | 'm') => MIB,
        Some('G' | 'g') => GIB,
        _ => return Err("a size needs a unit: K, M or G, as in 512M".into()),
    };
    let number = text.get(..text.len() - 1).unwrap_or_default();
    let number: u64 = number.parse().map_err(|_| format!("'{number}' is not a whole number"))?;
    number.checked_mul(unit).ok_or_else(|| "too large".into())
}

/// Parses a number as C's `%#x` or `%d` prints it.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
}

/// Parses a number of seconds, fractions allowed.
///
/// # Errors
/// A message for people.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("not a positive number of seconds".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("6g"), Ok(6 << 30));
        assert_eq!(parse_size("64K"), Ok(65536));
        for bad in ["", "512", "M", "-1M", "1.5G", "x M", "99999999999999999G", "5Mi"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_are_positive() {
        assert_eq!(parse_seconds("1.5"), Ok(Duration::from_millis(1500)));
        for bad in ["", "0", "-1", "NaN", "inf", "1s", "1e300"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }
}
