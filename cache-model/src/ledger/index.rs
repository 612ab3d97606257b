//! Intervals by address.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The most intervals that one look-up returns: a guest that stacks more on one another does not slow each of its
/// device's accesses down without bound.
pub(super) const MOST: usize = 256;

/// Address ranges with a key each, found by what they overlap.
///
/// Ranges of similar length (up to the same power of two) are kept together, ordered by address: those of a length below
/// 2^n that overlap an address start less than 2^n before it. A look-up visits one run of neighbours for each power of
/// two that is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index(BTreeSet<Place>);

/// The exponent of the length, the address, the key, and the length.
type Place = (u32, u64, u64, u64);

fn place(key: u64, addr: u64, len: u64) -> Place {
    (u64::BITS - len.leading_zeros(), addr, key, len)
}

impl Index {
    pub fn insert(&mut self, key: u64, addr: u64, len: u64) {
        self.0.insert(place(key, addr, len));
    }

    pub fn remove(&mut self, key: u64, addr: u64, len: u64) {
        self.0.remove(&place(key, addr, len));
    }

    /// The keys of the ranges that overlap `addr .. addr + len`: at most [`MOST`], and whether that is not all.
    pub fn overlapping(&self, addr: u64, len: u64) -> (Vec<u64>, bool) {
        let (mut keys, mut looked_at) = (Vec::new(), 0);
        let Some(last) = len.checked_sub(1).map(|more| addr.saturating_add(more)) else {
            return (keys, false);
        };
        let mut exponent = 0;
        while let Some(&(found, ..)) = self.0.range((exponent, 0, 0, 0)..).next() {
            let longest = 1_u64.checked_shl(found).map_or(u64::MAX, |beyond| beyond - 1);
            let first = addr.saturating_sub(longest.saturating_sub(1));
            for &(_, start, key, len) in
                self.0.range((found, first, 0, 0)..=(found, last, u64::MAX, u64::MAX))
            {
                if looked_at == MOST {
                    return (keys, true);
                }
                looked_at += 1;
                if start.saturating_add(len) > addr {
                    keys.push(key);
                }
            }
            exponent = found + 1;
        }
        (keys, false)
    }

    /// The keys of the ranges that begin at `addr`, at most [`MOST`].
    pub fn beginning_at(&self, addr: u64) -> Vec<u64> {
        let (mut keys, mut exponent) = (Vec::new(), 0);
        while let Some(&(found, ..)) = self.0.range((exponent, 0, 0, 0)..).next() {
            let here = self.0.range((found, addr, 0, 0)..=(found, addr, u64::MAX, u64::MAX));
            keys.extend(here.map(|&(_, _, key, _)| key).take(MOST));
            exponent = found + 1;
        }
        keys.truncate(MOST);
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_search_of_everything(
            ranges in prop::collection::vec((0_u64..2_000, 1_u64..300), 0..40),
            gone in 0_usize..40,
            (addr, len) in (0_u64..2_300, 0_u64..200),
        ) {
            let mut index = Index::default();
            let mut kept = Vec::new();
            for (key, (start, len)) in (0..).zip(ranges) {
                index.insert(key, start, len);
                kept.push((key, start, len));
            }
            for (key, start, len) in kept.drain(..gone.min(kept.len())) {
                index.remove(key, start, len);
            }
            let overlaps = |&&(_, start, size): &&(u64, u64, u64)| {
                len > 0 && start < addr + len && start + size > addr
            };
            let expected: BTreeSet<u64> = kept.iter().filter(overlaps).map(|&(key, ..)| key).collect();
            let (found, cut) = index.overlapping(addr, len);
            prop_assert_eq!((found.iter().copied().collect(), cut), (expected, false));
            let begin: BTreeSet<u64> =
                kept.iter().filter(|&&(_, start, _)| start == addr).map(|&(key, ..)| key).collect();
            prop_assert_eq!(index.beginning_at(addr).into_iter().collect::<BTreeSet<_>>(), begin);
        }
    }

    #[test]
    fn ends_of_the_address_space_and_piles_are_no_trouble() {
        let mut index = Index::default();
        index.insert(1, u64::MAX - 3, 4);
        index.insert(2, 0, u64::MAX);
        assert_eq!(index.overlapping(u64::MAX - 2, u64::MAX), (vec![1, 2], false));
        assert_eq!(index.overlapping(0, 1), (vec![2], false));
        for key in 10..2_000 {
            index.insert(key, 0x1000, 64);
        }
        let (found, cut) = index.overlapping(0x1010, 1);
        assert!(cut && found.len() <= MOST);
        assert_eq!(index.beginning_at(0x1000).len(), MOST);
    }
}
