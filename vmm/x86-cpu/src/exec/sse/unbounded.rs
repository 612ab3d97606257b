//! Operands scaled so that a result that overflowed or underflowed has a moderate exponent.
//!
//! When an unmasked overflow or underflow is reported, PE says whether the result would have been inexact had its exponent had
//! no bounds (SDM volume 1, 4.9.1.4 to 4.9.1.6). Scaling by powers of two keeps the significand of a result, so that
//! executing the instruction again on scaled operands shows it.

use super::host::{Lanes, pack, unpack};

/// Singles or doubles: lanes of `BITS` bits with `FRACTION` bits of fraction.
struct Format<const BITS: u32, const FRACTION: u32>;

impl<const BITS: u32, const FRACTION: u32> Format<BITS, FRACTION> {
    const LANES: usize = (128 / BITS) as usize;
    const FRACTION_MASK: u64 = (1 << FRACTION) - 1;
    /// Exponent field of infinities and NaNs.
    const SPECIAL: u64 = (1 << (BITS - 1 - FRACTION)) - 1;
    const BIAS: u64 = Self::SPECIAL / 2;

    fn split(value: Lanes) -> [u64; 4] {
        let value = unpack(value);
        std::array::from_fn(|lane| {
            if lane < Self::LANES {
                (value >> (lane as u32 * BITS)) as u64 & (u64::MAX >> (64 - BITS))
            } else {
                0
            }
        })
    }
    fn join(lanes: [u64; 4]) -> Lanes {
        let taken = lanes.iter().take(Self::LANES).rev();
        pack(taken.fold(0_u128, |value, lane| value.unbounded_shl(BITS) | u128::from(*lane)))
    }
    fn exponent(lane: u64) -> u64 {
        lane >> FRACTION & Self::SPECIAL
    }
    fn with_exponent(lane: u64, exponent: u64) -> u64 {
        lane & !(Self::SPECIAL << FRACTION) | exponent << FRACTION
    }
    /// Gives a finite value other than zero a magnitude from 1 to 2.
    fn normalise(lane: u64, flush: bool) -> u64 {
        let fraction = lane & Self::FRACTION_MASK;
        match Self::exponent(lane) {
            0 if fraction == 0 || flush => lane,
            0 => {
                let shift = fraction.leading_zeros() - (63 - FRACTION);
                let fraction = fraction << shift & Self::FRACTION_MASK;
                Self::with_exponent(lane & !Self::FRACTION_MASK | fraction, Self::BIAS)
            }
            exponent if exponent == Self::SPECIAL => lane,
            _ => Self::with_exponent(lane, Self::BIAS),
        }
    }
    /// Scales two terms down alike if their sum may overflow. A term too small for that is far below the last place of the
    /// sum before and after.
    fn lower(a: &mut u64, b: &mut u64) {
        let large = |exponent| exponent >= Self::SPECIAL - 2;
        if large(Self::exponent(*a)) || large(Self::exponent(*b)) {
            for term in [a, b] {
                let exponent = Self::exponent(*term);
                if exponent > Self::BIAS && exponent != Self::SPECIAL {
                    *term = Self::with_exponent(*term, exponent - Self::BIAS / 2);
                }
            }
        }
    }
    fn product(left: Lanes, right: Lanes, flush: bool) -> (Lanes, Lanes) {
        let each = |value| Self::join(Self::split(value).map(|lane| Self::normalise(lane, flush)));
        (each(left), each(right))
    }
    fn sum(left: Lanes, right: Lanes) -> (Lanes, Lanes) {
        let (mut left, mut right) = (Self::split(left), Self::split(right));
        left.iter_mut().zip(&mut right).for_each(|(a, b)| Self::lower(a, b));
        (Self::join(left), Self::join(right))
    }
    fn horizontal(left: Lanes, right: Lanes) -> (Lanes, Lanes) {
        let each = |value| {
            let mut lanes = Self::split(value);
            for pair in lanes.chunks_exact_mut(2) {
                if let [a, b] = pair {
                    Self::lower(a, b);
                }
            }
            Self::join(lanes)
        };
        (each(left), each(right))
    }
}

type Single = Format<32, 23>;
type Double = Format<64, 52>;

/// For operations whose results stay within bounds.
pub(super) fn bounded(left: Lanes, right: Lanes, _: bool) -> (Lanes, Lanes) {
    (left, right)
}
/// For products and quotients of singles. `flush`: denormals count as zero.
pub(super) fn product_single(left: Lanes, right: Lanes, flush: bool) -> (Lanes, Lanes) {
    Single::product(left, right, flush)
}
/// For products, quotients and conversions of doubles. `flush`: denormals count as zero.
pub(super) fn product_double(left: Lanes, right: Lanes, flush: bool) -> (Lanes, Lanes) {
    Double::product(left, right, flush)
}
/// For sums and differences of singles.
pub(super) fn sum_single(left: Lanes, right: Lanes, _: bool) -> (Lanes, Lanes) {
    Single::sum(left, right)
}
/// For sums and differences of doubles.
pub(super) fn sum_double(left: Lanes, right: Lanes, _: bool) -> (Lanes, Lanes) {
    Double::sum(left, right)
}
/// For horizontal sums and differences of singles.
pub(super) fn horizontal_single(left: Lanes, right: Lanes, _: bool) -> (Lanes, Lanes) {
    Single::horizontal(left, right)
}
/// For horizontal sums and differences of doubles.
pub(super) fn horizontal_double(left: Lanes, right: Lanes, _: bool) -> (Lanes, Lanes) {
    Double::horizontal(left, right)
}
