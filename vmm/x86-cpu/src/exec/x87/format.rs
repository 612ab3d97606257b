//! The double-extended format: sign bit 79, biased exponent bits 64-78, significand with explicit integer bit 0-63
//! (SDM volume 1, 4.2.2).

/// Sign bit.
pub(super) const SIGN: u128 = 1 << 79;
/// Everything but the sign.
pub(super) const MAGNITUDE: u128 = SIGN - 1;
/// All of the 80 bits.
pub(super) const BITS: u128 = (1 << 80) - 1;
/// Integer bit of the significand.
pub(super) const INTEGER: u64 = 1 << 63;
/// Bit that tells quiet from signalling NaNs.
pub(super) const QUIET: u64 = 1 << 62;
/// Biased exponent of infinities and NaNs.
pub(super) const MAX_EXPONENT: u16 = 0x7fff;
/// Exponent bias.
pub(super) const BIAS: i32 = 16383;

pub(super) const ZERO: u128 = 0;
pub(super) const ONE: u128 = pack(false, 0x3fff, INTEGER);
pub(super) const INFINITY: u128 = pack(false, MAX_EXPONENT, INTEGER);
/// The largest finite value.
pub(super) const LARGEST: u128 = pack(false, MAX_EXPONENT - 1, u64::MAX);
/// The quiet NaN that answers an invalid operation.
pub(super) const INDEFINITE: u128 = pack(true, MAX_EXPONENT, INTEGER | QUIET);

/// What an 80-bit pattern stands for (SDM volume 1, table 4-3 and 8.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Zero,
    /// Denormal or pseudo-denormal.
    Denormal,
    Normal,
    Infinity,
    QuietNan,
    SignallingNan,
    /// Unnormal, pseudo-NaN or pseudo-infinity: an invalid operand.
    Unsupported,
}

/// Assembles a value; `exponent` is biased.
pub(super) const fn pack(negative: bool, exponent: u16, significand: u64) -> u128 {
    (negative as u128) << 79 | ((exponent & MAX_EXPONENT) as u128) << 64 | significand as u128
}

/// Biased exponent.
pub(super) const fn exponent(value: u128) -> u16 {
    (value >> 64) as u16 & MAX_EXPONENT
}

/// Significand with its integer bit.
pub(super) const fn significand(value: u128) -> u64 {
    value as u64
}

/// Sign bit.
pub(super) const fn negative(value: u128) -> bool {
    value & SIGN != 0
}

/// What `value` stands for.
pub(super) const fn class(value: u128) -> Class {
    let significand = significand(value);
    match (exponent(value), significand & INTEGER != 0) {
        (0, _) if significand == 0 => Class::Zero,
        (0, _) => Class::Denormal,
        (_, false) => Class::Unsupported,
        (MAX_EXPONENT, true) if significand == INTEGER => Class::Infinity,
        (MAX_EXPONENT, true) if significand & QUIET != 0 => Class::QuietNan,
        (MAX_EXPONENT, true) => Class::SignallingNan,
        (_, true) => Class::Normal,
    }
}

/// The value of an integer, exact.
pub(super) const fn from_integer(value: i64) -> u128 {
    if value == 0 {
        return ZERO;
    }
    let magnitude = value.unsigned_abs();
    let shift = magnitude.leading_zeros();
    pack(value < 0, 0x3fff + 63 - shift as u16, magnitude << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fall_into_their_classes() {
        for (value, expected) in [
            (ZERO, Class::Zero),
            (SIGN, Class::Zero),
            (pack(false, 0, 1), Class::Denormal),
            (pack(false, 0, INTEGER | 1), Class::Denormal),
            (ONE, Class::Normal),
            (pack(true, 1, 1), Class::Unsupported),
            (pack(false, MAX_EXPONENT, 0), Class::Unsupported),
            (pack(false, MAX_EXPONENT, QUIET), Class::Unsupported),
            (INFINITY | SIGN, Class::Infinity),
            (INDEFINITE, Class::QuietNan),
            (pack(false, MAX_EXPONENT, INTEGER | 1), Class::SignallingNan),
        ] {
            assert_eq!(class(value), expected, "{value:#x}");
        }
    }

    #[test]
    fn integers_are_exact() {
        assert_eq!(from_integer(1), ONE);
        assert_eq!(from_integer(0), ZERO);
        assert_eq!(from_integer(-3), pack(true, 0x4000, 3 << 62));
        assert_eq!(from_integer(i64::MIN), pack(true, 0x3fff + 63, INTEGER));
        assert_eq!(from_integer(i64::MAX), pack(false, 0x3fff + 62, u64::MAX - 1));
    }
}
