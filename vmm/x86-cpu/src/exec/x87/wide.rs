//! Floating-point numbers of 128 bits, in which the transcendental functions are computed, and their rounding to the
//! double-extended format with every response to overflow and underflow.

use super::Computed;
use super::exception::{C1, OE, PE, UE};
use super::format::{self, BIAS, INTEGER, MAX_EXPONENT};

/// Added to or subtracted from the exponent of a result whose underflow or overflow is unmasked (SDM volume 1, 8.5.4).
const UNMASKED_BIAS: i32 = 24576;
const TOP: u128 = 1 << 127;

/// `mantissa` × 2^(`exponent` − 127) with bit 127 of the mantissa set, or zero. Operations truncate and keep the fact that
/// something was lost in the lowest bit: their relative error is below 2^-126, and rounding sees inexactness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wide {
    negative: bool,
    exponent: i32,
    mantissa: u128,
}

/// The lowest bit set if `lost` is not zero.
const fn sticky(lost: u128) -> u128 {
    (lost != 0) as u128
}

/// The 256-bit product, high and low half.
fn multiply(a: u128, b: u128) -> (u128, u128) {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let low = a0 * b0;
    let middle = a1 * b0 + (low >> 64);
    let other = a0 * b1 + (middle & LOW);
    (a1 * b1 + (middle >> 64) + (other >> 64), other << 64 | low & LOW)
}

impl Wide {
    pub(super) const ZERO: Self = Self { negative: false, exponent: 0, mantissa: 0 };
    pub(super) const ONE: Self = Self::constant(0, TOP);
    pub(super) const PI: Self = Self::constant(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);

    /// A positive number; bit 127 of `mantissa` is set.
    pub(super) const fn constant(exponent: i32, mantissa: u128) -> Self {
        Self { negative: false, exponent, mantissa }
    }
    /// `high` and `low` as one 256-bit mantissa, of which bit 255 weighs 2^`exponent`.
    pub(super) fn normalize(negative: bool, exponent: i32, high: u128, low: u128) -> Self {
        let shift = if high == 0 { 128 + low.leading_zeros() } else { high.leading_zeros() };
        let (high, low) = match shift {
            0 => (high, low),
            1..=127 => (high << shift | low >> (128 - shift), low << shift),
            256 => return Self::ZERO.with_sign(negative),
            _ => (low << (shift - 128), 0),
        };
        Self { negative, exponent: exponent - shift as i32, mantissa: high | sticky(low) }
    }
    /// A finite value of the double-extended format, exact.
    pub(super) fn from_extended(value: u128) -> Self {
        let exponent = i32::from(format::exponent(value).max(1)) - BIAS;
        let mantissa = u128::from(format::significand(value)) << 64;
        Self::normalize(format::negative(value), exponent, mantissa, 0)
    }
    pub(super) fn from_integer(value: i64) -> Self {
        Self::normalize(value < 0, 127, u128::from(value.unsigned_abs()), 0)
    }
    pub(super) const fn is_zero(self) -> bool {
        self.mantissa == 0
    }
    pub(super) const fn is_negative(self) -> bool {
        self.negative
    }
    /// Exponent: the magnitude is at least 2^exponent and below twice that.
    pub(super) const fn exponent(self) -> i32 {
        self.exponent
    }
    pub(super) const fn mantissa(self) -> u128 {
        self.mantissa
    }
    pub(super) fn negate(self) -> Self {
        Self { negative: !self.negative, ..self }
    }
    pub(super) fn magnitude(self) -> Self {
        Self { negative: false, ..self }
    }
    pub(super) fn with_sign(self, negative: bool) -> Self {
        Self { negative, ..self }
    }
    /// Times 2^`power`.
    pub(super) const fn shift(self, power: i32) -> Self {
        Self { exponent: self.exponent + power, ..self }
    }
    /// Whether the magnitude is less than that of `other`.
    pub(super) fn smaller(self, other: Self) -> bool {
        let key = |x: Self| (!x.is_zero(), x.exponent, x.mantissa);
        key(self) < key(other)
    }
    pub(super) fn multiply(self, other: Self) -> Self {
        if self.is_zero() || other.is_zero() {
            return Self::ZERO;
        }
        let (high, low) = multiply(self.mantissa, other.mantissa);
        let negative = self.negative != other.negative;
        Self::normalize(negative, self.exponent + other.exponent + 1, high, low)
    }
    pub(super) fn add(self, other: Self) -> Self {
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let (large, small) = if self.smaller(other) { (other, self) } else { (self, other) };
        let distance = large.exponent.abs_diff(small.exponent);
        let (high, mut low) = match distance {
            0 => (small.mantissa, 0),
            1..=127 => (small.mantissa >> distance, small.mantissa << (128 - distance)),
            _ => (0, small.mantissa.checked_shr(distance - 128).unwrap_or(0)),
        };
        if distance > 128 {
            low |= 1;
        }
        if large.negative != small.negative {
            let (low, borrow) = 0_u128.overflowing_sub(low);
            let high = large.mantissa - high - u128::from(borrow);
            return Self::normalize(large.negative, large.exponent, high, low);
        }
        let (sum, carry) = large.mantissa.overflowing_add(high);
        if carry {
            let mantissa = TOP | sum >> 1 | sum & 1 | sticky(low);
            return Self { negative: large.negative, exponent: large.exponent + 1, mantissa };
        }
        Self { mantissa: sum | sticky(low), ..large }
    }
    pub(super) fn subtract(self, other: Self) -> Self {
        self.add(other.negate())
    }
    /// `other` is not zero.
    pub(super) fn divide(self, other: Self) -> Self {
        if self.is_zero() || other.is_zero() {
            return Self::ZERO;
        }
        // One bit of the quotient a step; the remainder stays below the divisor.
        let whole = self.mantissa >= other.mantissa;
        let mut remainder = if whole { self.mantissa - other.mantissa } else { self.mantissa };
        let mut fraction = 0_u128;
        for _ in 0..128 {
            let carry = remainder & TOP != 0;
            remainder <<= 1;
            let bit = carry || remainder >= other.mantissa;
            if bit {
                remainder = remainder.wrapping_sub(other.mantissa);
            }
            fraction = fraction << 1 | u128::from(bit);
        }
        let negative = self.negative != other.negative;
        let exponent = self.exponent - other.exponent + 127;
        Self::normalize(negative, exponent, u128::from(whole), fraction | sticky(remainder))
    }
    pub(super) fn divide_by(self, divisor: i64) -> Self {
        self.divide(Self::from_integer(divisor))
    }

    /// Rounds to double-extended as the control word says. Precision control does not apply: it governs the basic
    /// operations only (SDM volume 1, 8.1.5.2).
    pub(super) fn round(self, control: u16) -> Computed {
        let sign = if self.negative { format::SIGN } else { 0 };
        if self.is_zero() {
            return Computed::exact(sign);
        }
        let before = self.exponent + BIAS;
        let rounded = self.round_bits(64, control);
        // Tininess and overflow are judged after rounding, as if the exponent had no bounds.
        let carried = rounded.kept >> 64 != 0;
        let significand = if carried { INTEGER } else { rounded.kept as u64 };
        let exponent = before + i32::from(carried);
        let inexact = rounded.status();
        let value = |exponent: i32| format::pack(self.negative, exponent as u16, significand);
        if exponent >= i32::from(MAX_EXPONENT) {
            if control & OE == 0 {
                return Computed { value: value(exponent - UNMASKED_BIAS), status: OE | inexact };
            }
            let to_infinity = match control >> 10 & 3 {
                0 => true,
                1 => self.negative,
                2 => !self.negative,
                _ => false,
            };
            return if to_infinity {
                Computed { value: format::INFINITY | sign, status: OE | PE | C1 }
            } else {
                Computed { value: format::LARGEST | sign, status: OE | PE }
            };
        }
        if exponent >= 1 {
            return Computed { value: value(exponent), status: inexact };
        }
        if control & UE == 0 {
            return Computed { value: value(exponent + UNMASKED_BIAS), status: UE | inexact };
        }
        let denormal = self.round_bits(64 + before.abs_diff(1), control);
        let kept = denormal.kept as u64;
        let status = if denormal.inexact { UE | denormal.status() } else { 0 };
        Computed { value: format::pack(self.negative, (kept >> 63) as u16, kept), status }
    }

    /// Drops the lowest `drop` bits of the mantissa, 64 or more.
    fn round_bits(self, drop: u32, control: u16) -> Rounded {
        let (kept, rest) = match drop {
            64..=127 => (self.mantissa >> drop, self.mantissa << (128 - drop)),
            128 => (0, self.mantissa),
            _ => (0, 1),
        };
        let up = match control >> 10 & 3 {
            0 => rest > TOP || rest == TOP && kept & 1 != 0,
            1 => self.negative && rest != 0,
            2 => !self.negative && rest != 0,
            _ => false,
        };
        Rounded { kept: kept + u128::from(up), up, inexact: rest != 0 }
    }
}

struct Rounded {
    kept: u128,
    up: bool,
    inexact: bool,
}

impl Rounded {
    fn status(&self) -> u16 {
        if self.inexact { PE | if self.up { C1 } else { 0 } } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(value: i64) -> Wide {
        Wide::from_integer(value)
    }

    #[test]
    fn arithmetic_on_integers_is_exact() {
        for (a, b) in [(1, 1), (7, -3), (-1_000_003, 999), (i64::MAX, -1), (1 << 40, 3), (5, -5)] {
            assert_eq!(wide(a).add(wide(b)), wide(a + b));
            assert_eq!(wide(a).subtract(wide(b)).is_zero(), a == b);
            let product = wide(a).multiply(wide(b));
            assert_eq!(product, wide(a * b));
            assert_eq!(product.divide(wide(b)), wide(a));
        }
    }

    #[test]
    fn what_is_lost_is_remembered() {
        let tiny = Wide::ONE.shift(-500);
        assert_eq!(Wide::ONE.add(tiny).mantissa, TOP | 1);
        assert_eq!(Wide::ONE.subtract(tiny), Wide::constant(-1, u128::MAX));
        assert_eq!(Wide::ONE.divide_by(3).mantissa, 0xaaaa_aaaa_aaaa_aaaa_aaaa_aaaa_aaaa_aaab);
    }

    #[test]
    fn rounding_knows_every_response() {
        const NEAREST: u16 = 0x37f;
        const DOWN: u16 = 0x77f;
        const UP: u16 = 0xb7f;
        let third = Wide::ONE.divide_by(3);
        let below = format::pack(false, 0x3ffd, 0xaaaa_aaaa_aaaa_aaaa);
        assert_eq!(third.round(NEAREST), Computed { value: below + 1, status: PE | C1 });
        assert_eq!(third.round(DOWN), Computed { value: below, status: PE });
        assert_eq!(third.negate().round(UP), Computed { value: below | format::SIGN, status: PE });
        let huge = Wide::ONE.shift(16384);
        assert_eq!(huge.round(NEAREST), Computed { value: format::INFINITY, status: OE | PE | C1 });
        assert_eq!(huge.round(DOWN), Computed { value: 0x7ffe_ffff_ffff_ffff_ffff, status: OE | PE });
        let biased = format::pack(false, (16384 + BIAS - UNMASKED_BIAS) as u16, INTEGER);
        assert_eq!(huge.round(NEAREST & !OE), Computed { value: biased, status: OE });
        let small = Wide::ONE.shift(-16385);
        assert_eq!(small.round(NEAREST), Computed::exact(format::pack(false, 0, INTEGER >> 3)));
        let biased = format::pack(false, (-16385 + BIAS + UNMASKED_BIAS) as u16, INTEGER);
        assert_eq!(small.round(NEAREST & !UE), Computed { value: biased, status: UE });
        let vanishing = Wide::ONE.shift(-20000);
        assert_eq!(vanishing.round(NEAREST), Computed { value: 0, status: UE | PE });
        assert_eq!(vanishing.round(UP), Computed { value: 1, status: UE | PE | C1 });
        // The largest number below the smallest normal one rounds up to it and is not tiny.
        let almost = Wide::constant(-16383, u128::MAX);
        assert_eq!(
            almost.round(NEAREST),
            Computed { value: format::pack(false, 1, INTEGER), status: PE | C1 }
        );
    }
}
