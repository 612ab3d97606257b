//! What caches could hold beside what the model's does: a line of any page that a vCPU has a cacheable translation of may be
//! brought in at any moment (SDM volume 3, 12.3), and stays until it is flushed.

use super::layout::PAGE;
use super::page_set::PageSet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use x86_cpu::MemoryType;

/// Words of a bit for each line of a page: lines have 16 bytes and more.
const LINE_WORDS: usize = 4;

/// The pages within reach of vCPUs' caches, and the lines that have been flushed beyond it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reach {
    /// Pages of RAM.
    pages: u64,
    /// Bytes of a line.
    line: u64,
    /// By vCPU: pages that it has used cacheable translations of since it dropped the last of them.
    used: Vec<PageSet>,
    /// Pages out of reach of which no line can be in a cache.
    absent: PageSet,
    /// Of other pages out of reach, the lines that have been flushed.
    flushed: BTreeMap<u64, [u64; LINE_WORDS]>,
}

impl Reach {
    /// At power-on, with RAM up to `end` and lines of so many bytes: caches are empty, and no translation has been used.
    #[must_use]
    pub fn new(end: u64, line: u64) -> Self {
        let pages = end / PAGE;
        Self { pages, line, used: Vec::new(), absent: PageSet::new(pages, true), flushed: BTreeMap::new() }
    }

    /// Whether memory of this type is cached.
    #[must_use]
    pub fn is_cacheable(kind: MemoryType) -> bool {
        !matches!(kind, MemoryType::Uncacheable | MemoryType::WriteCombining)
    }

    /// A vCPU has used a cacheable translation of the page that holds `address`.
    #[inline]
    pub fn used(&mut self, cpu: u32, address: u64) {
        let page = address / PAGE;
        if !self.used.get(cpu as usize).is_some_and(|used| used.contains(page)) {
            self.reach(cpu, page);
        }
    }

    #[cold]
    fn reach(&mut self, cpu: u32, page: u64) {
        while self.used.len() <= cpu as usize {
            self.used.push(PageSet::new(self.pages, false));
        }
        if let Some(used) = self.used.get_mut(cpu as usize) {
            used.set(page, true);
        }
        self.enter(page * PAGE);
    }

    /// Nothing is known of what caches hold of the page that holds `address`.
    pub fn enter(&mut self, address: u64) {
        self.absent.set(address / PAGE, false);
        self.flushed.remove(&(address / PAGE));
    }

    /// A vCPU has dropped all translations.
    pub fn dropped_all(&mut self, cpu: u32) {
        if let Some(used) = self.used.get_mut(cpu as usize) {
            used.words_mut().fill(0);
        }
    }

    /// A vCPU has dropped its translation of the page that holds `address`.
    pub fn dropped(&mut self, cpu: u32, address: u64) {
        if let Some(used) = self.used.get_mut(cpu as usize) {
            used.set(address / PAGE, false);
        }
    }

    /// The line that holds `address` has been flushed.
    pub fn flushed(&mut self, address: u64) {
        let page = address / PAGE;
        if self.may_be_filled(address) || self.absent.contains(page) || page >= self.pages {
            return;
        }
        let line = address % PAGE / self.line.max(1);
        let lines = self.flushed.entry(page).or_default();
        if let Some(word) = lines.get_mut((line / 64) as usize) {
            *word |= 1 << (line % 64);
        }
    }

    /// Every line has been flushed or dropped.
    pub fn flushed_all(&mut self) {
        self.flushed.clear();
        for (index, absent) in self.absent.words_mut().iter_mut().enumerate() {
            let reached =
                self.used.iter().filter_map(|used| used.words().get(index)).fold(0, |all, word| all | word);
            *absent |= !reached;
        }
    }

    /// Whether the line at `address` may be brought into a cache without being asked for.
    #[must_use]
    pub fn may_be_filled(&self, address: u64) -> bool {
        self.used.iter().any(|used| used.contains(address / PAGE))
    }

    /// Whether the line at `address` may be in a cache.
    #[must_use]
    pub fn may_be_cached(&self, address: u64) -> bool {
        let page = address / PAGE;
        let line = address % PAGE / self.line.max(1);
        let flushed = || {
            let word = self.flushed.get(&page).and_then(|lines| lines.get((line / 64) as usize));
            word.is_some_and(|word| word >> (line % 64) & 1 != 0)
        };
        !self.absent.contains(page) && !flushed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_until_it_is_flushed_out_of_reach() {
        let mut reach = Reach::new(16 * PAGE, 64);
        assert!(!reach.may_be_cached(0x1000), "caches are empty at first");
        reach.used(1, 0x1234);
        assert!(reach.may_be_filled(0x1ff8) && reach.may_be_cached(0x1ff8));
        reach.flushed(0x1040);
        assert!(reach.may_be_cached(0x1040), "it may have been brought in again");
        reach.dropped(0, 0x1000);
        assert!(reach.may_be_filled(0x1040), "by the other vCPU");
        reach.dropped(1, 0x1000);
        assert!(!reach.may_be_filled(0x1040) && reach.may_be_cached(0x1040));
        reach.flushed(0x1050);
        assert!(!reach.may_be_cached(0x1040) && reach.may_be_cached(0x1080));
        reach.used(0, 0x1fff);
        assert!(reach.may_be_filled(0x1040) && reach.may_be_cached(0x1040));
    }

    #[test]
    fn all_that_is_out_of_reach_is_flushed_at_once() {
        let mut reach = Reach::new(1024 * PAGE, 64);
        reach.used(0, 0x1000);
        reach.used(1, 0x2000);
        reach.dropped_all(0);
        reach.flushed_all();
        assert!(!reach.may_be_cached(0x1000) && reach.may_be_cached(0x2000));
        reach.enter(0x1000);
        assert!(reach.may_be_cached(0x1000) && !reach.may_be_filled(0x1000));
    }

    #[test]
    fn short_lines_and_addresses_that_are_no_ram_have_their_place() {
        let mut reach = Reach::new(2 * PAGE, 16);
        reach.used(0, 0);
        reach.used(0, 1 << 40);
        reach.dropped_all(0);
        for address in (0..PAGE).step_by(16) {
            assert!(reach.may_be_cached(address));
            reach.flushed(address);
            assert!(!reach.may_be_cached(address));
        }
        reach.flushed(1 << 40);
        assert_eq!(reach.flushed.len(), 1);
    }
}
