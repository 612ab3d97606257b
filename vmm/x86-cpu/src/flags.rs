//! Arithmetic flags, kept lazily as the last result and its carries.

use serde::{Deserialize, Serialize};

/// EFLAGS bits (SDM volume 1, 3.4.3).
pub mod bits {
    pub const CF: u64 = 1 << 0;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The six flags that arithmetic writes.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
}

/// CF, PF, AF, ZF, SF and OF as a result and a word of carries, so that arithmetic stores two words and computes no
/// flag that nobody reads.
///
/// `result` is the last result, sign-extended to 64 bits. In `carries`, bit 63 is CF, bit 63 xor bit 62 is OF, bit 3 is
/// AF; bit 0 inverts the SF and bit 1 the PF that follow from `result`, for instructions that set flags one by one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LazyFlags {
    pub result: u64,
    pub carries: u64,
}

const CARRY_MASK: u64 = 3 << 62;
const AUX: u64 = 1 << 3;

impl LazyFlags {
    /// After a logical operation: CF, OF and AF clear. `result` is sign-extended.
    #[inline(always)]
    pub fn set_logic(&mut self, result: u64) {
        self.result = result;
        self.carries = 0;
    }
    /// After an addition of `width` bits: `carry_out` has in each bit the carry out of that position.
    #[inline(always)]
    pub fn set_carries(&mut self, result: u64, carry_out: u64, width: u32) {
        self.result = result;
        self.carries = (carry_out << (64 - width)) & CARRY_MASK | carry_out & AUX;
    }
    /// Sets the result with CF, OF and AF given.
    #[inline(always)]
    pub fn set_with(&mut self, result: u64, cf: bool, of: bool, af: bool) {
        self.result = result;
        self.carries = u64::from(cf) << 63 | u64::from(cf ^ of) << 62 | u64::from(af) << 3;
    }
    #[inline(always)]
    #[must_use]
    pub fn cf(&self) -> bool {
        self.carries >> 63 != 0
    }
    #[inline(always)]
    #[must_use]
    pub fn of(&self) -> bool {
        (self.carries ^ self.carries << 1) >> 63 != 0
    }
    #[inline(always)]
    #[must_use]
    pub fn af(&self) -> bool {
        self.carries & AUX != 0
    }
    #[inline(always)]
    #[must_use]
    pub fn zf(&self) -> bool {
        self.result == 0
    }
    #[inline(always)]
    #[must_use]
    pub fn sf(&self) -> bool {
        (self.result >> 63 ^ self.carries & 1) != 0
    }
    #[inline(always)]
    #[must_use]
    pub fn pf(&self) -> bool {
        ((self.result as u8).count_ones() & 1 == 0) ^ (self.carries & 2 != 0)
    }
    /// Replaces CF only.
    #[inline(always)]
    pub fn put_cf(&mut self, cf: bool) {
        self.put_cf_of(cf, self.of());
    }
    /// Replaces ZF only.
    pub fn put_zf(&mut self, zf: bool) {
        let others = self.to_bits() & !bits::ZF;
        self.set_bits(others | if zf { bits::ZF } else { 0 });
    }
    /// Replaces CF and OF only, as rotates do.
    #[inline(always)]
    pub fn put_cf_of(&mut self, cf: bool, of: bool) {
        self.carries = self.carries & !CARRY_MASK | u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    }
    /// The six flags at their EFLAGS positions.
    #[must_use]
    pub fn to_bits(&self) -> u64 {
        u64::from(self.cf())
            | u64::from(self.pf()) << 2
            | u64::from(self.af()) << 4
            | u64::from(self.zf()) << 6
            | u64::from(self.sf()) << 7
            | u64::from(self.of()) << 11
    }
    /// Sets all six flags from their EFLAGS positions; other bits are ignored.
    pub fn set_bits(&mut self, value: u64) {
        let zf = value & bits::ZF != 0;
        let (cf, of) = (value & bits::CF != 0, value & bits::OF != 0);
        self.set_with(u64::from(!zf), cf, of, value & bits::AF != 0);
        // A result of 0 has PF set, a result of 1 has it clear; neither has SF.
        self.carries |= u64::from(value & bits::SF != 0) | u64::from((value & bits::PF != 0) != zf) << 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_flags_survives() {
        for pattern in 0..64_u64 {
            let value = (pattern & 1)
                | (pattern >> 1 & 1) << 2
                | (pattern >> 2 & 1) << 4
                | (pattern >> 3 & 1) << 6
                | (pattern >> 4 & 1) << 7
                | (pattern >> 5 & 1) << 11;
            let mut flags = LazyFlags::default();
            flags.set_bits(value);
            assert_eq!(flags.to_bits(), value);
            flags.put_cf(value & 1 == 0);
            assert_eq!(flags.to_bits(), value ^ 1);
        }
    }
}
