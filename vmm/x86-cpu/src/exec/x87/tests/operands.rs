//! Random x87 states, rich in the patterns where processors have to be careful.

use super::native::{IMAGE, MEMORY, State};
use crate::exec::x87::format;

/// SplitMix64.
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    fn bits(&mut self, bits: u32) -> u64 {
        // Long runs of ones and zeros are as likely as noise.
        let value = match self.below(6) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => u64::MAX << self.below(64),
            4 => u64::MAX >> self.below(64),
            _ => self.next(),
        };
        value & u64::MAX >> (64 - bits)
    }

    /// An 80-bit pattern of any class.
    pub(super) fn extended(&mut self) -> u128 {
        let negative = self.below(2) == 1;
        let fraction = self.bits(63);
        let integer = format::INTEGER;
        let (exponent, significand) = match self.below(24) {
            0 => (0, 0),
            1 => (0, fraction),
            2 => (0, integer | fraction),
            3 => (1 + self.below(3), integer | fraction),
            4 => (0x7ffe - self.below(3), integer | fraction),
            5 => (0x7fff, integer),
            6 => (0x7fff, integer | fraction),
            7 => (0x7fff, integer | format::QUIET | fraction),
            8 => (self.next() & 0x7fff, fraction),
            9 => (self.next() & 0x7fff, integer | fraction),
            // Where singles and doubles underflow and overflow.
            10 => (0x3fff - 127 - 24 + self.below(30), integer | fraction),
            11 => (0x3fff + 120 + self.below(10), integer | fraction),
            12 => (0x3fff - 1023 - 54 + self.below(60), integer | fraction),
            13 => (0x3fff + 1018 + self.below(10), integer | fraction),
            // Integers, halves and their neighbours.
            14 => (0x3fff + 10 + self.below(56), integer | fraction),
            15 => return format::from_integer(self.next() as i64 >> self.below(63)),
            16 => (0x3fff, integer),
            17 => {
                let half = format::from_integer(1 + (self.below(1 << 16) as i64) * 2);
                (u64::from(format::exponent(half)) - 1, format::significand(half))
            }
            _ => (0x3fff - 40 + self.below(80), integer | fraction),
        };
        format::pack(negative, exponent as u16, significand)
    }

    fn image(&mut self) -> [u8; IMAGE] {
        let mut image = [0; IMAGE];
        let masks = if self.below(2) == 0 { 0x3f } else { self.below(64) as u16 };
        let precision = [0, 2, 3][self.below(3) as usize];
        let control = 0x40 | masks | precision << 8 | (self.below(4) as u16) << 10;
        let seen = self.next() as u16;
        let status = seen & 0x7f40 | seen & 0x3f & masks;
        let mut tags = 0;
        for register in 0..8 {
            if self.below(7) == 0 {
                tags |= 3 << (2 * register);
            }
        }
        if self.below(2) == 0 {
            // A push needs ST(7) free.
            tags |= 3 << (2 * (((status >> 11 & 7) + 7) & 7));
        }
        image[0..2].copy_from_slice(&control.to_le_bytes());
        image[4..6].copy_from_slice(&status.to_le_bytes());
        image[8..10].copy_from_slice(&(tags as u16).to_le_bytes());
        image[12..16].copy_from_slice(&0x1111_2222_u32.to_le_bytes());
        image[18..20].copy_from_slice(&0x333_u16.to_le_bytes());
        image[20..24].copy_from_slice(&0x4444_5555_u32.to_le_bytes());
        let mut previous = 0;
        for register in image[28..].chunks_mut(10) {
            // Operands alike but for the last bits or the sign are where subtraction and comparison are hard.
            let value =
                if self.below(4) == 0 { previous ^ u128::from(self.below(4)) } else { self.extended() };
            register.copy_from_slice(&value.to_le_bytes()[..10]);
            previous = value;
        }
        image
    }

    fn memory(&mut self) -> [u8; MEMORY] {
        let mut memory = [0; MEMORY];
        for chunk in memory.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
        let sign = self.below(2);
        match self.below(5) {
            0 => memory[..10].copy_from_slice(&self.extended().to_le_bytes()[..10]),
            1 => {
                let exponent = [0, 1, 0xfe, 0xff, 0x7f, self.below(256)][self.below(6) as usize];
                let single = sign << 31 | exponent << 23 | self.bits(23);
                memory[..4].copy_from_slice(&(single as u32).to_le_bytes());
            }
            2 => {
                let exponent = [0, 1, 0x7fe, 0x7ff, 0x3ff, self.below(2048)][self.below(6) as usize];
                let double = sign << 63 | exponent << 52 | self.bits(52);
                memory[..8].copy_from_slice(&double.to_le_bytes());
            }
            3 => memory[..8].copy_from_slice(&(self.next() as i64 >> self.below(64)).to_le_bytes()),
            _ => {
                for byte in &mut memory[..9] {
                    *byte = (self.below(10) << 4 | self.below(10)) as u8;
                }
                memory[9] = (sign << 7) as u8;
            }
        }
        memory
    }

    /// A state in which no exception waits.
    pub(super) fn state(&mut self) -> State {
        let rflags = self.next() & 0x8d5 | 0x202;
        State { image: self.image(), memory: self.memory(), rax: self.next() & 0xffff_ffff, rflags }
    }
}
