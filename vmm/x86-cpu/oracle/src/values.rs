//! Operand values worth trying: limits, powers of two, and the corners of the floating-point formats.

use crate::rng::Rng;
use iced_x86::MemorySize;

/// What the elements of an operand are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Integers of so many bytes.
    Int(usize),
    Single,
    Double,
    Extended,
    Bcd,
}

impl Flavour {
    /// The elements of memory operands of kind `size`.
    pub fn of(size: MemorySize) -> Self {
        match size.element_type() {
            MemorySize::Float32 => Self::Single,
            MemorySize::Float64 => Self::Double,
            MemorySize::Float80 => Self::Extended,
            MemorySize::Bcd => Self::Bcd,
            other => match other.size() {
                1 => Self::Int(1),
                2 => Self::Int(2),
                4 => Self::Int(4),
                _ => Self::Int(8),
            },
        }
    }
    pub fn any(rng: &Rng) -> Self {
        rng.pick(&[Self::Int(1), Self::Int(2), Self::Int(4), Self::Int(8), Self::Single, Self::Double])
    }
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::Int(size) => size,
            Self::Single => 4,
            Self::Double => 8,
            Self::Extended | Self::Bcd => 10,
        }
    }
    /// A value for one element.
    pub fn value(self, rng: &Rng) -> u128 {
        match self {
            Self::Int(size) => u128::from(integer(rng, size as u32 * 8)),
            Self::Single => u128::from(single(rng)),
            Self::Double => u128::from(double(rng)),
            Self::Extended => extended(rng),
            Self::Bcd => bcd(rng),
        }
    }
    /// Fills `data` with elements.
    pub fn fill(self, rng: &Rng, data: &mut [u8]) {
        let repeat = rng.chance(10).then(|| self.value(rng));
        for element in data.chunks_mut(self.size()) {
            let value = repeat.unwrap_or_else(|| self.value(rng)).to_le_bytes();
            element.copy_from_slice(&value[..element.len()]);
        }
    }
}

/// An integer of `bits` bits.
pub fn integer(rng: &Rng, bits: u32) -> u64 {
    let mask = u64::MAX >> (64 - bits);
    let value = match rng.below(8) {
        0 => rng.pick(&[0, 0, 1, u64::MAX, u64::MAX - 1, 2, 3]),
        1 => {
            let sign = 1_u64 << (bits - 1);
            rng.pick(&[sign, sign - 1, sign + 1, mask, mask - 1, sign >> 1])
        }
        2 => {
            let sign = rng.pick(&[0x80_u64, 0x8000, 0x8000_0000, 1 << 63]);
            sign.wrapping_add(rng.below(3)).wrapping_sub(1)
        }
        3 => 1 << rng.below(u64::from(bits)),
        4 => (1_u64 << rng.below(u64::from(bits))).wrapping_neg(),
        5 => rng.below(130),
        6 => (rng.word() as i64 >> rng.below(64)) as u64,
        _ => rng.word(),
    };
    value & mask
}

/// The corners common to the IEEE formats: `exponent` and `fraction` bits.
fn ieee(rng: &Rng, exponent_bits: u32, fraction_bits: u32) -> u64 {
    let sign = rng.below(2) << (exponent_bits + fraction_bits);
    let top = (1_u64 << exponent_bits) - 1;
    let bias = top >> 1;
    let fraction_mask = (1_u64 << fraction_bits) - 1;
    let quiet = 1_u64 << (fraction_bits - 1);
    let fraction = match rng.below(6) {
        0 => 0,
        1 => fraction_mask,
        2 => 1,
        3 => quiet,
        4 => fraction_mask << rng.below(u64::from(fraction_bits)) & fraction_mask,
        _ => rng.word() & fraction_mask,
    };
    let (exponent, fraction) = match rng.below(20) {
        0 | 1 => (0, 0),
        2 => (0, rng.pick(&[1, fraction_mask, quiet, rng.word() & fraction_mask])),
        3 => (1, fraction),
        4 => (top - 1, fraction),
        5 => (top, 0),
        6 => (top, quiet),
        7 => (top, quiet | rng.word() & fraction_mask),
        8 => (top, (rng.word() & (quiet - 1)).max(1)),
        9..=11 => (bias + rng.below(3) - 1, fraction),
        // Near the limits of integers, with halves and neighbours of them.
        12 | 13 => {
            let scale = rng.pick(&[7, 8, 15, 16, 30, 31, 32, 62, 63, 64]) - rng.below(2);
            (bias + scale, rng.pick(&[0, 1, fraction_mask, fraction_mask - 1, quiet]))
        }
        // A small number with one half, the ties of rounding.
        14 => {
            let scale = rng.below(6);
            let unit = 1_u64 << (fraction_bits - scale as u32 - 1);
            (bias + scale, rng.word() & fraction_mask & !(unit - 1) | unit)
        }
        15 | 16 => (bias.saturating_add(rng.below(80)).saturating_sub(40), fraction),
        17 => (rng.below(top + 1), fraction),
        _ => (rng.below(top + 1), rng.word() & fraction_mask),
    };
    sign | exponent << fraction_bits | fraction
}

pub fn single(rng: &Rng) -> u32 {
    ieee(rng, 8, 23) as u32
}

pub fn double(rng: &Rng) -> u64 {
    ieee(rng, 11, 52)
}

const BIAS: u64 = 0x3fff;
const INTEGER: u64 = 1 << 63;

/// An 80-bit value: mostly valid, sometimes one of the encodings that the 8087 had and later processors reject.
pub fn extended(rng: &Rng) -> u128 {
    let sign = rng.below(2) << 15;
    let fraction = match rng.below(6) {
        0 | 1 => 0,
        2 => INTEGER - 1,
        3 => 1,
        4 => (INTEGER - 1) << rng.below(63) & (INTEGER - 1),
        _ => rng.word() >> 1,
    };
    let (exponent, significand) = match rng.below(24) {
        0 | 1 => (0, 0),
        2 => (0, (rng.word() >> 1).max(1)),
        // A pseudo-denormal.
        3 => (0, INTEGER | fraction),
        4 => (1, INTEGER | fraction),
        5 => (0x7ffe, INTEGER | fraction),
        6 => (0x7fff, INTEGER),
        7 => (0x7fff, INTEGER | 1 << 62),
        8 => (0x7fff, INTEGER | 1 << 62 | rng.word() >> 2),
        9 => (0x7fff, INTEGER | (rng.word() >> 2).max(1)),
        // An unnormal, pseudo-infinity or pseudo-NaN.
        10 => (rng.pick(&[1, BIAS, 0x7fff, rng.word() & 0x7fff]), rng.word() >> 1),
        11..=13 => (BIAS + rng.below(3) - 1, INTEGER | fraction),
        14 | 15 => {
            let scale = rng.pick(&[14, 15, 30, 31, 62, 63]);
            (BIAS + scale, INTEGER | rng.pick(&[0, 1, INTEGER - 1, INTEGER - 2, INTEGER >> 1]))
        }
        16 => {
            let scale = rng.below(6);
            let unit = 1_u64 << (62 - scale);
            (BIAS + scale, INTEGER | rng.word() & !(unit - 1) | unit)
        }
        // About the limits of the narrower formats.
        17 => (BIAS.wrapping_add(rng.pick(&[127, 128, 1023, 1024])) - rng.below(2), INTEGER | fraction),
        18 => (BIAS - rng.pick(&[126, 127, 149, 150, 1022, 1023, 1074, 1075]), INTEGER | fraction),
        19 | 20 => (BIAS + rng.below(80) - 40, INTEGER | fraction),
        _ => (rng.word() & 0x7fff, INTEGER | rng.word()),
    };
    u128::from(sign | exponent & 0x7fff) << 64 | u128::from(significand)
}

/// A packed decimal number: usually 18 valid digits.
pub fn bcd(rng: &Rng) -> u128 {
    if rng.chance(10) {
        return rng.wide() & ((1 << 80) - 1);
    }
    let digits = rng.below(19);
    let value = (0..digits).fold(0_u128, |value, _| value << 4 | u128::from(rng.below(10)));
    value | u128::from(rng.below(2)) << 79
}
