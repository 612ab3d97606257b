//! A set of pages of RAM.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Pages by number, up to a last one: those beyond are not in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageSet(Vec<u64>);

impl PageSet {
    /// None of so many pages, or all.
    #[must_use]
    pub fn new(pages: u64, present: bool) -> Self {
        Self(vec![if present { u64::MAX } else { 0 }; usize::try_from(pages.div_ceil(64)).unwrap_or(0)])
    }

    /// Puts `page` into it or takes it out.
    pub fn set(&mut self, page: u64, present: bool) {
        if let Some(word) = self.0.get_mut((page / 64) as usize) {
            let bit = 1 << (page % 64);
            *word = if present { *word | bit } else { *word & !bit };
        }
    }

    /// The same of all of `pages`.
    pub fn set_range(&mut self, pages: Range<u64>, present: bool) {
        let end = pages.end.min(64 * self.0.len() as u64);
        let mut page = pages.start;
        while page < end {
            let next = (page / 64 + 1) * 64;
            if page.is_multiple_of(64) && next <= end {
                if let Some(word) = self.0.get_mut((page / 64) as usize) {
                    *word = if present { u64::MAX } else { 0 };
                }
                page = next;
            } else {
                self.set(page, present);
                page += 1;
            }
        }
    }

    /// Whether `page` is in it.
    #[must_use]
    pub fn contains(&self, page: u64) -> bool {
        self.0.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether it has room for so many pages, and no more.
    #[must_use]
    pub fn is_of(&self, pages: u64) -> bool {
        self.0.len() as u64 == pages.div_ceil(64)
    }

    /// Its pages, 64 a word, those beyond the last one among them.
    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    /// The same, to be changed.
    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_their_pages() {
        for (start, end) in
            [(0, 0), (0, 64), (3, 5), (60, 70), (63, 192), (64, 128), (130, 999), (190, u64::MAX)]
        {
            let mut set = PageSet::new(192, false);
            set.set_range(start..end, true);
            for page in 0..300 {
                assert_eq!(
                    set.contains(page),
                    (start..end.min(192)).contains(&page),
                    "{page} of {start}..{end}"
                );
            }
            set.set_range(start..end, false);
            assert!(set.words().iter().all(|&word| word == 0));
        }
    }
}
