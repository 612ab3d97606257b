//! The bytes that the peer writes and expects.
//!
//! A pattern is a sequence of little-endian 64-bit words, the word at `index` of repetition `repetition` being
//!
//! ```text
//! seed + (index + 1) · PER_WORD + (repetition + 1) · PER_REPETITION    (modulo 2^64)
//! ```
//!
//! Both factors are odd, so any word names its repetition. No byte of them, or of their difference, is 0x00 or 0xff, so
//! every single byte differs from the one a repetition earlier and from the one a word earlier: one stale byte is enough
//! to be noticed. `guest-images/programs/rdma-peer.h` defines the same for guest programs.

/// What each word adds.
pub const PER_WORD: u64 = 0x9e37_79b9_7f4a_7c15;
/// What each repetition adds.
pub const PER_REPETITION: u64 = 0xd6e8_feb8_6659_fd93;

/// One repetition of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    pub seed: u64,
    /// Counted from 0.
    pub repetition: u32,
}

impl Pattern {
    fn word(self, index: u64) -> u64 {
        let words = index.wrapping_add(1).wrapping_mul(PER_WORD);
        let repetitions = (u64::from(self.repetition) + 1).wrapping_mul(PER_REPETITION);
        self.seed.wrapping_add(words).wrapping_add(repetitions)
    }

    /// The bytes from `offset` on.
    pub fn bytes(self, offset: u64) -> impl Iterator<Item = u8> {
        (offset / 8..).flat_map(move |index| self.word(index).to_le_bytes()).skip((offset % 8) as usize)
    }

    /// Fills `data` with the bytes from `offset` on.
    pub fn fill(self, offset: u64, data: &mut [u8]) {
        for (byte, wanted) in data.iter_mut().zip(self.bytes(offset)) {
            *byte = wanted;
        }
    }

    /// Index of the first byte of `data` that is not the pattern's from `offset` on.
    #[must_use]
    pub fn mismatch(self, offset: u64, data: &[u8]) -> Option<usize> {
        data.iter().zip(self.bytes(offset)).position(|(found, wanted)| *found != wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::{PER_REPETITION, Pattern};

    const SEED: u64 = 0x0123_4567_89ab_cdef;

    #[test]
    fn a_word_names_its_repetition() {
        // The inverse of an odd number modulo 2^64, by Newton's iteration.
        let inverse =
            (0..6).fold(1u64, |x, _| x.wrapping_mul(2u64.wrapping_sub(PER_REPETITION.wrapping_mul(x))));
        assert_eq!(inverse.wrapping_mul(PER_REPETITION), 1);
        for repetition in [0, 1, 77, u32::MAX] {
            let word = Pattern { seed: SEED, repetition }.word(9);
            let base = Pattern { seed: SEED, repetition: 0 }.word(9);
            assert_eq!(word.wrapping_sub(base).wrapping_mul(inverse), u64::from(repetition));
        }
    }

    #[test]
    fn each_byte_changes_with_each_repetition_and_each_word() {
        for repetition in 0..2000 {
            let bytes =
                |repetition| -> Vec<u8> { Pattern { seed: SEED, repetition }.bytes(0).take(256).collect() };
            let (now, next) = (bytes(repetition), bytes(repetition + 1));
            for offset in 0..256 {
                assert_ne!(now[offset], next[offset], "byte {offset} of repetition {repetition}");
                if let Some(word_later) = now.get(offset + 8) {
                    assert_ne!(now[offset], *word_later, "byte {offset}");
                    assert_ne!(next[offset], *word_later, "byte {offset}");
                }
            }
        }
    }

    #[test]
    fn a_pattern_may_be_filled_and_checked_in_pieces() {
        let pattern = Pattern { seed: SEED, repetition: 3 };
        let mut whole = [0; 100];
        pattern.fill(0, &mut whole);
        let mut pieces = [0; 100];
        let (first, rest) = pieces.split_at_mut(13);
        pattern.fill(0, first);
        pattern.fill(13, rest);
        assert_eq!(whole, pieces);
        assert_eq!(pattern.mismatch(0, &whole), None);
        assert_eq!(pattern.mismatch(13, &whole[13..]), None);
        whole[50] ^= 1;
        assert_eq!(pattern.mismatch(13, &whole[13..]), Some(37));
    }
}
