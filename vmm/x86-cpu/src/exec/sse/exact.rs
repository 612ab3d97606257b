//! Floating point in integer arithmetic, for what the host may not have an instruction for: exact values, rounded once.

use super::float::mxcsr;

/// How results are rounded and exceptions recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Control {
    /// As in MXCSR: to nearest even, down, up, to zero.
    pub rounding: u32,
    /// Denormal operands count as zero.
    pub denormals_are_zero: bool,
    /// Tiny results become zero, unless underflow is unmasked.
    pub flush_to_zero: bool,
    /// Exceptions that are not masked, as flags.
    pub unmasked: u32,
}

impl Control {
    pub(super) fn of(mxcsr: u32) -> Self {
        Self {
            rounding: (mxcsr & mxcsr::ROUNDING) >> mxcsr::ROUNDING_SHIFT,
            denormals_are_zero: mxcsr & mxcsr::DAZ != 0,
            flush_to_zero: mxcsr & mxcsr::FTZ != 0,
            unmasked: !(mxcsr >> mxcsr::MASK_SHIFT) & mxcsr::FLAGS,
        }
    }
    /// Whether a magnitude of which something was cut off is to be rounded up. `rest` is 0 for nothing, 1 for less than half
    /// of the last place, 2 for half, 3 for more.
    fn rounds_up(self, negative: bool, odd: bool, rest: u32) -> bool {
        match self.rounding {
            0 => rest == 3 || rest == 2 && odd,
            1 => rest != 0 && negative,
            2 => rest != 0 && !negative,
            _ => false,
        }
    }
}

/// A value: its magnitude is `significand * 2^exponent`. The lowest bit of the significand may stand for any number of bits
/// cut off below it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exact {
    pub negative: bool,
    pub significand: u128,
    pub exponent: i32,
}

/// An operand, by what it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Class {
    Nan,
    Infinity,
    Finite(Exact),
}

/// The formats of `BITS` bits with `FRACTION` bits of fraction.
pub(super) struct Format<const BITS: u32, const FRACTION: u32>;

pub(super) type Half = Format<16, 10>;
pub(super) type Single = Format<32, 23>;
pub(super) type Double = Format<64, 52>;

impl<const BITS: u32, const FRACTION: u32> Format<BITS, FRACTION> {
    const FRACTION_MASK: u64 = (1 << FRACTION) - 1;
    const QUIET: u64 = 1 << (FRACTION - 1);
    /// Exponent field of infinities and NaNs.
    const SPECIAL: u64 = (1 << (BITS - 1 - FRACTION)) - 1;
    const BIAS: i32 = (Self::SPECIAL / 2) as i32;
    const SIGN: u64 = 1 << (BITS - 1);
    const INFINITY: u64 = Self::SPECIAL << FRACTION;
    /// The default NaN.
    pub(super) const INDEFINITE: u64 = Self::SIGN | Self::INFINITY | Self::QUIET;

    fn exponent_field(bits: u64) -> u64 {
        bits >> FRACTION & Self::SPECIAL
    }
    fn is_nan(bits: u64) -> bool {
        Self::exponent_field(bits) == Self::SPECIAL && bits & Self::FRACTION_MASK != 0
    }
    pub(super) fn is_signalling(bits: u64) -> bool {
        Self::is_nan(bits) && bits & Self::QUIET == 0
    }
    pub(super) fn is_denormal(bits: u64) -> bool {
        Self::exponent_field(bits) == 0 && bits & Self::FRACTION_MASK != 0
    }
    pub(super) fn quieted(bits: u64) -> u64 {
        bits | Self::QUIET
    }
    pub(super) fn infinity(negative: bool) -> u64 {
        Self::signed(negative, Self::INFINITY)
    }
    pub(super) fn is_negative(bits: u64) -> bool {
        bits & Self::SIGN != 0
    }
    /// Sign and fraction of a NaN, the fraction aligned to the top of 64 bits.
    pub(super) fn payload(bits: u64) -> (bool, u64) {
        (Self::is_negative(bits), (bits & Self::FRACTION_MASK) << (64 - FRACTION))
    }
    /// The quiet NaN with such a sign and fraction.
    pub(super) fn nan((negative, fraction): (bool, u64)) -> u64 {
        Self::signed(negative, Self::INFINITY | Self::QUIET | fraction >> (64 - FRACTION))
    }
    fn signed(negative: bool, magnitude: u64) -> u64 {
        if negative { magnitude | Self::SIGN } else { magnitude }
    }
    pub(super) fn class(bits: u64, denormals_are_zero: bool) -> Class {
        let fraction = bits & Self::FRACTION_MASK;
        let (significand, field) = match Self::exponent_field(bits) {
            field if field == Self::SPECIAL => {
                return if fraction == 0 { Class::Infinity } else { Class::Nan };
            }
            0 => (if denormals_are_zero { 0 } else { fraction }, 1),
            field => (fraction | 1 << FRACTION, field),
        };
        Class::Finite(Exact {
            negative: Self::is_negative(bits),
            significand: u128::from(significand),
            exponent: field as i32 - Self::BIAS - FRACTION as i32,
        })
    }

    /// The value in this format, and the exceptions of rounding it (SDM volume 1, 4.9.1.4 to 4.9.1.6 and 11.5.2): a result is
    /// tiny if it is after rounding as if the exponent had no bounds.
    pub(super) fn round(value: Exact, control: Control) -> (u64, u32) {
        let Exact { negative, significand, exponent } = value;
        if significand == 0 {
            return (Self::signed(negative, 0), 0);
        }
        let top = 127 - significand.leading_zeros() as i32;
        let (rounded, inexact) = cut(value, top - FRACTION as i32, control);
        // Rounding may have carried into one more place.
        let magnitude = exponent + top + i32::from(rounded >> (FRACTION + 1) != 0);
        let precision = |inexact| if inexact { mxcsr::PE } else { 0 };
        if magnitude > Self::BIAS {
            let away = match control.rounding {
                0 => true,
                1 => negative,
                2 => !negative,
                _ => false,
            };
            let bits = Self::signed(negative, if away { Self::INFINITY } else { Self::INFINITY - 1 });
            let masked = control.unmasked & mxcsr::OE == 0;
            return (bits, mxcsr::OE | precision(masked || inexact));
        }
        if magnitude > -Self::BIAS {
            // The leading one of the significand counts in the exponent field.
            let field = (magnitude + Self::BIAS - 1) as u64;
            let fraction = if rounded >> (FRACTION + 1) != 0 { rounded >> 1 } else { rounded };
            return (Self::signed(negative, (field << FRACTION) + fraction), precision(inexact));
        }
        let unmasked = control.unmasked & mxcsr::UE != 0;
        if control.flush_to_zero && !unmasked {
            return (Self::signed(negative, 0), mxcsr::UE | mxcsr::PE);
        }
        let (denormal, lost) = cut(value, 1 - Self::BIAS - FRACTION as i32 - exponent, control);
        let flags = match (unmasked, lost) {
            (true, _) => mxcsr::UE | precision(inexact),
            (false, true) => mxcsr::UE | mxcsr::PE,
            (false, false) => 0,
        };
        (Self::signed(negative, denormal), flags)
    }

    /// `a * b + c`, rounded once; the product and the addend negated as asked. Of several NaNs the first is returned.
    pub(super) fn fused(operands: [u64; 3], negate: [bool; 2], control: Control) -> (u64, u32) {
        if let Some(nan) = operands.into_iter().find(|bits| Self::is_nan(*bits)) {
            let signalling = operands.into_iter().any(Self::is_signalling);
            return (Self::quieted(nan), if signalling { mxcsr::IE } else { 0 });
        }
        let denormal = !control.denormals_are_zero && operands.into_iter().any(Self::is_denormal);
        let denormal = if denormal { mxcsr::DE } else { 0 };
        let [a, b, c] = operands;
        let product_negative = Self::is_negative(a) ^ Self::is_negative(b) ^ negate[0];
        let addend_negative = Self::is_negative(c) ^ negate[1];
        let class = |bits| Self::class(bits, control.denormals_are_zero);
        let zero = |class| matches!(class, Class::Finite(Exact { significand: 0, .. }));
        let infinite = |class| matches!(class, Class::Infinity);
        let (x, y, z) = (class(a), class(b), class(c));
        if infinite(x) && zero(y) || zero(x) && infinite(y) {
            return (Self::INDEFINITE, mxcsr::IE);
        }
        if infinite(x) || infinite(y) {
            if infinite(z) && addend_negative != product_negative {
                return (Self::INDEFINITE, mxcsr::IE);
            }
            return (Self::infinity(product_negative), denormal);
        }
        let (Class::Finite(x), Class::Finite(y), Class::Finite(z)) = (x, y, z) else {
            return (Self::infinity(addend_negative), denormal);
        };
        let product = Exact {
            negative: product_negative,
            significand: x.significand * y.significand,
            exponent: x.exponent + y.exponent,
        };
        let sum = add(product, Exact { negative: addend_negative, ..z }, control);
        let (bits, flags) = Self::round(sum, control);
        (bits, flags | denormal)
    }
}

/// The significand without its low `places` bits, rounded, and whether anything was cut off. A negative number of places
/// appends zeros.
fn cut(value: Exact, places: i32, control: Control) -> (u64, bool) {
    let Exact { negative, significand, .. } = value;
    if places <= 0 {
        return ((significand << -places) as u64, false);
    }
    let kept = significand.checked_shr(places as u32).unwrap_or(0) as u64;
    let half = 1_u128.checked_shl(places as u32 - 1);
    let cut_off = significand & 1_u128.checked_shl(places as u32).map_or(u128::MAX, |bit| bit - 1);
    let rest = match half {
        _ if cut_off == 0 => 0,
        None => 1,
        Some(half) if cut_off < half => 1,
        Some(half) if cut_off == half => 2,
        Some(_) => 3,
    };
    (kept + u64::from(control.rounds_up(negative, kept & 1 != 0, rest)), rest != 0)
}

/// The sum of two values. Of the smaller one only as much is kept as rounding needs to know.
fn add(a: Exact, b: Exact, control: Control) -> Exact {
    if a.significand == 0 && b.significand == 0 {
        // A sum of zeros of different signs is +0, or -0 when rounding down.
        let negative = if a.negative == b.negative { a.negative } else { control.rounding == 1 };
        return Exact { negative, ..a };
    }
    if a.significand == 0 || b.significand == 0 {
        return if a.significand == 0 { b } else { a };
    }
    // Both with their leading one in bit 125: below it are more places than any product has.
    let aligned = |value: Exact| {
        let shift = value.significand.leading_zeros() as i32 - 2;
        Exact { significand: value.significand << shift, exponent: value.exponent - shift, ..value }
    };
    let (a, b) = (aligned(a), aligned(b));
    let (large, small) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
    let distance = (large.exponent - small.exponent) as u32;
    let shifted = small.significand.checked_shr(distance).unwrap_or(0);
    let lost = shifted.checked_shl(distance) != Some(small.significand);
    let shifted = shifted | u128::from(lost);
    if large.negative == small.negative {
        return Exact { significand: large.significand + shifted, ..large };
    }
    if large.significand == shifted {
        return Exact { negative: control.rounding == 1, significand: 0, exponent: 0 };
    }
    let negative = if large.significand > shifted { large.negative } else { small.negative };
    Exact { negative, significand: large.significand.abs_diff(shifted), ..large }
}
