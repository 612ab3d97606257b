//! A set of byte positions within one cache line.

use serde::{Deserialize, Serialize};

use crate::geometry::MAX_LINE;

const WORD_BITS: usize = 64;
const WORDS: usize = MAX_LINE / WORD_BITS;

/// Which bytes of one line have a property: dirty, written by a device, and so on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteMask([u64; WORDS]);

impl ByteMask {
    /// No byte at all.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// The bytes `offset .. offset + len`; what lies beyond [`MAX_LINE`] is left out.
    #[must_use]
    pub fn range(offset: usize, len: usize) -> Self {
        let end = offset.saturating_add(len);
        let mut mask = Self::EMPTY;
        for (index, word) in mask.0.iter_mut().enumerate() {
            let base = index * WORD_BITS;
            *word = low_bits(end.saturating_sub(base)) & !low_bits(offset.saturating_sub(base));
        }
        mask
    }

    /// True if no byte is in the set.
    #[must_use]
    #[inline]
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// True if the byte at `offset` is in the set.
    #[must_use]
    pub fn contains(self, offset: usize) -> bool {
        self.0.get(offset / WORD_BITS).is_some_and(|word| word >> (offset % WORD_BITS) & 1 == 1)
    }

    /// Adds the byte at `offset`; an offset beyond [`MAX_LINE`] is ignored.
    pub fn insert(&mut self, offset: usize) {
        if let Some(word) = self.0.get_mut(offset / WORD_BITS) {
            *word |= 1 << (offset % WORD_BITS);
        }
    }

    /// Adds the bytes `offset .. offset + len`; what lies beyond [`MAX_LINE`] is left out.
    #[inline(always)]
    pub fn insert_range(&mut self, offset: usize, len: usize) {
        let (index, bit) = (offset / WORD_BITS, offset % WORD_BITS);
        match self.0.get_mut(index) {
            Some(word) if bit + len <= WORD_BITS => *word |= low_bits(len) << bit,
            _ => *self = self.or(Self::range(offset, len)),
        }
    }

    /// The bytes in either set.
    #[must_use]
    #[inline]
    pub fn or(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    /// The bytes in both sets.
    #[must_use]
    #[inline]
    pub fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    /// The bytes of this set that are not in `other`.
    #[must_use]
    #[inline]
    pub fn without(self, other: Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    /// The byte positions, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(index, word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest.wrapping_sub(1);
                (bit < WORD_BITS).then_some(index * WORD_BITS + bit)
            })
        })
    }

    /// The runs of neighbouring positions as (first, length), lowest first.
    pub fn runs(self) -> impl Iterator<Item = (usize, usize)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = self.next(at, 0)?;
            at = self.next(first, u64::MAX).unwrap_or(MAX_LINE);
            Some((first, at - first))
        })
    }

    /// As [`ByteMask::runs`], but every 64 bytes a new one begins.
    #[inline]
    pub(crate) fn parts(self) -> impl Iterator<Item = (usize, usize)> {
        self.0.into_iter().enumerate().flat_map(|(index, word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let first = rest.trailing_zeros() as usize;
                let len = rest.checked_shr(first as u32)?.trailing_ones() as usize;
                rest &= !(low_bits(len) << first);
                Some((index * WORD_BITS + first, len))
            })
        })
    }

    /// The lowest and the highest byte position.
    #[must_use]
    pub fn bounds(self) -> Option<(usize, usize)> {
        let first = self.next(0, 0)?;
        let last = self.iter().last()?;
        Some((first, last))
    }

    /// The lowest position from `at` on that is in the set, or with all ones for `flip` not in the set.
    fn next(self, at: usize, flip: u64) -> Option<usize> {
        let words = self.0.iter().enumerate().skip(at / WORD_BITS);
        let mut below = low_bits(at % WORD_BITS);
        words
            .map(|(index, word)| (index, (word ^ flip) & !std::mem::take(&mut below)))
            .find(|&(_, word)| word != 0)
            .map(|(index, word)| index * WORD_BITS + word.trailing_zeros() as usize)
    }

    /// The set as words, position 0 in the lowest bit of the first.
    #[must_use]
    pub fn words(self) -> [u64; WORDS] {
        self.0
    }

    /// The set that [`ByteMask::words`] gave.
    #[must_use]
    pub fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    #[inline]
    fn zip(self, other: Self, op: impl Fn(u64, u64) -> u64) -> Self {
        let mut mask = self;
        for (a, b) in mask.0.iter_mut().zip(other.0) {
            *a = op(*a, b);
        }
        mask
    }
}

fn low_bits(count: usize) -> u64 {
    if count >= WORD_BITS { u64::MAX } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cross_words() {
        for (offset, len) in [(0, 0), (0, 256), (60, 10), (64, 64), (255, 1), (3, 1), (250, 100)] {
            let mask = ByteMask::range(offset, len);
            for byte in 0..MAX_LINE {
                assert_eq!(
                    mask.contains(byte),
                    byte >= offset && byte < offset + len,
                    "{offset}+{len} at {byte}"
                );
            }
            let mut grown = ByteMask::EMPTY;
            grown.insert_range(offset, len);
            assert_eq!(grown, mask, "{offset}+{len}");
        }
        assert_eq!(ByteMask::range(60, 10).bounds(), Some((60, 69)));
        assert_eq!(ByteMask::EMPTY.bounds(), None);
    }

    #[test]
    fn set_algebra() {
        let low = ByteMask::range(0, 70);
        let high = ByteMask::range(60, 70);
        assert_eq!(low.and(high), ByteMask::range(60, 10));
        assert_eq!(low.or(high), ByteMask::range(0, 130));
        assert_eq!(low.without(high), ByteMask::range(0, 60));
        let mut one = ByteMask::EMPTY;
        one.insert(200);
        one.insert(MAX_LINE);
        assert_eq!(one.iter().collect::<Vec<_>>(), [200]);
        assert_eq!(low.or(one).parts().collect::<Vec<_>>(), [(0, 64), (64, 6), (200, 1)]);
        assert_eq!(low.without(one).or(one).runs().collect::<Vec<_>>(), [(0, 70), (200, 1)]);
        assert_eq!(ByteMask::from_words(low.words()), low);
        for (offset, len) in [(0, 256), (63, 2), (64, 64), (255, 1), (128, 128), (1, 127)] {
            let range = ByteMask::range(offset, len);
            assert_eq!(range.runs().collect::<Vec<_>>(), [(offset, len)]);
            let parts = range.parts().map(|(offset, len)| ByteMask::range(offset, len));
            assert_eq!(parts.fold(ByteMask::EMPTY, ByteMask::or), range);
        }
    }
}
