//! The register stack: TOP, tags and values. Only whether a register is empty is kept in the tags; the full tag word is
//! derived when it is stored, as the processor does (SDM volume 1, 8.1.7).

use super::format::{self, Class};
use crate::state::X87;

/// Tag of an empty register.
const EMPTY: u16 = 3;
const TOP_SHIFT: u16 = 11;
const TOP_MASK: u16 = 7 << TOP_SHIFT;

impl X87 {
    /// Number of the register that is ST(0).
    pub(crate) fn top(&self) -> u16 {
        self.status >> TOP_SHIFT & 7
    }
    /// Makes register `top` modulo 8 ST(0).
    pub(crate) fn set_top(&mut self, top: u16) {
        self.status = self.status & !TOP_MASK | (top & 7) << TOP_SHIFT;
    }
    /// Number of the register that is ST(`i`).
    pub(super) fn physical(&self, i: u8) -> usize {
        usize::from(self.top().wrapping_add(u16::from(i)) & 7)
    }
    /// Whether ST(`i`) is empty.
    pub(super) fn empty(&self, i: u8) -> bool {
        self.tags >> (2 * self.physical(i)) & 3 == EMPTY
    }
    /// The bits of ST(`i`), empty or not.
    pub(super) fn bits(&self, i: u8) -> u128 {
        self.regs[self.physical(i)] & format::BITS
    }
    /// The value of ST(`i`), unless it is empty.
    pub(super) fn get(&self, i: u8) -> Option<u128> {
        (!self.empty(i)).then(|| self.bits(i))
    }
    /// Fills ST(`i`).
    pub(super) fn put(&mut self, i: u8, value: u128) {
        let register = self.physical(i);
        self.regs[register] = value;
        self.tags &= !(3 << (2 * register));
    }
    /// Marks ST(`i`) empty.
    pub(super) fn free(&mut self, i: u8) {
        self.tags |= EMPTY << (2 * self.physical(i));
    }
    /// Pushes `value`, whether or not its register is empty.
    pub(super) fn push(&mut self, value: u128) {
        self.set_top(self.top().wrapping_sub(1));
        self.put(0, value);
    }
    /// Pops `count` values.
    pub(super) fn pop(&mut self, count: u8) {
        for _ in 0..count {
            self.free(0);
            self.set_top(self.top().wrapping_add(1));
        }
    }
    /// The full tag word: valid, zero, special or empty.
    #[must_use]
    pub(crate) fn full_tags(&self) -> u16 {
        (0..8).fold(0, |tags, register| {
            let tag = if self.tags >> (2 * register) & 3 == EMPTY {
                EMPTY
            } else {
                match format::class(self.regs[register] & format::BITS) {
                    Class::Normal => 0,
                    Class::Zero => 1,
                    _ => 2,
                }
            };
            tags | tag << (2 * register)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> X87 {
        X87 { tags: 0xffff, ..X87::default() }
    }

    #[test]
    fn pushes_and_pops_wrap_around() {
        let mut x87 = empty();
        for i in 0..8_u128 {
            assert!(x87.empty(7));
            x87.push(format::from_integer(i as i64));
        }
        assert_eq!((x87.top(), x87.tags), (0, 0));
        assert_eq!(x87.get(0), Some(format::from_integer(7)));
        assert_eq!(x87.get(7), Some(format::ZERO));
        x87.pop(2);
        assert_eq!((x87.top(), x87.tags), (2, 0x000f));
        assert_eq!(x87.get(7), None);
    }

    #[test]
    fn the_full_tag_word_follows_the_values() {
        let mut x87 = empty();
        x87.push(format::ONE);
        x87.push(format::ZERO);
        x87.push(format::INDEFINITE);
        x87.push(format::pack(false, 0, 1));
        assert_eq!(x87.full_tags(), 0b00_01_10_10_11_11_11_11);
    }
}
