//! Times as people write them.

use crate::bus::Nanos;

/// Reads a whole number with its unit: `2s`, `1500ms`, `20us`, `5ns`.
#[must_use]
pub fn parse(text: &str) -> Option<Nanos> {
    let units = [("ms", 1_000_000), ("us", 1_000), ("ns", 1), ("s", 1_000_000_000)];
    units.iter().find_map(|&(unit, nanos)| text.strip_suffix(unit)?.parse::<Nanos>().ok()?.checked_mul(nanos))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(parse("2s"), Some(2_000_000_000));
        assert_eq!(parse("1500ms"), Some(1_500_000_000));
        assert_eq!((parse("20us"), parse("5ns")), (Some(20_000), Some(5)));
        for bad in ["", "s", "2", "2 s", "-1s", "1.5s", "2min", "18446744073709551615s"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
