//! Which guest pages hold decoded code, and which of them have been written since.

use std::collections::HashMap;

/// Lines of 64 bytes that decoded blocks were read from, by guest-physical page.
#[derive(Debug, Clone, Default)]
pub struct CodePages {
    lines: HashMap<u64, u64>,
    stale: Vec<u64>,
    /// Counts pages that became code pages: a vCPU that has seen fewer must check its writes again.
    generation: u64,
    epoch: u64,
}

/// Mask of the 64-byte lines that `len` bytes at `address` touch within its page.
fn line_mask(address: u64, len: u64) -> u64 {
    let first = (address & 0xfff) >> 6;
    let last = ((address & 0xfff) + len.max(1) - 1).min(0xfff) >> 6;
    (u64::MAX >> (63 - (last - first))) << first
}

impl CodePages {
    /// Records that a block was decoded from `len` bytes at guest-physical `address`, all in one page. Returns true if
    /// the page held no code before.
    pub(crate) fn mark(&mut self, address: u64, len: u64) -> bool {
        let lines = self.lines.entry(address >> 12).or_insert(0);
        let first = *lines == 0;
        *lines |= line_mask(address, len);
        self.generation += u64::from(first);
        first
    }
    /// Number of pages that have become code pages so far.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
    /// A translation epoch that no vCPU has had before.
    pub(crate) fn next_epoch(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch
    }
    /// Whether any code was decoded from the page of `address`.
    pub(crate) fn is_code_page(&self, address: u64) -> bool {
        self.lines.contains_key(&(address >> 12))
    }
    /// RAM changed: `len` bytes at guest-physical `address` (may span pages). Blocks decoded from the lines touched are
    /// discarded before the next block runs. Returns true if there are any.
    pub fn written(&mut self, address: u64, len: u64) -> bool {
        if self.lines.is_empty() || len == 0 {
            return false;
        }
        let mut hit = false;
        let end = address.saturating_add(len);
        let mut at = address;
        while at < end {
            let next = (at | 0xfff).saturating_add(1);
            let chunk = next.min(end) - at;
            if self.lines.get(&(at >> 12)).is_some_and(|lines| lines & line_mask(at, chunk) != 0) {
                self.stale.push(at >> 12);
                hit = true;
            }
            if next == u64::MAX {
                break;
            }
            at = next;
        }
        hit
    }
    /// Whether blocks wait to be discarded.
    #[must_use]
    pub fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }
    /// Takes the pages whose blocks are to be discarded and forgets their lines.
    pub(crate) fn take_stale(&mut self) -> Vec<u64> {
        let mut pages = std::mem::take(&mut self.stale);
        pages.sort_unstable();
        pages.dedup();
        for page in &pages {
            self.lines.remove(page);
        }
        pages
    }
    /// Forgets everything (all blocks have been discarded).
    pub(crate) fn clear(&mut self) {
        self.lines.clear();
        self.stale.clear();
    }
}
