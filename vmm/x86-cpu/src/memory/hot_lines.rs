//! Lines of the world's cache that a vCPU has just accessed: it accesses them again without asking the world.
//!
//! What allows that is [`World::load_hit`](crate::World::load_hit): the line is the one of its set that was accessed last, so
//! that a further hit changes nothing but a counter. A row holds one line. Lines of one set share a row, whatever is known of
//! a line goes when another one of its set comes; what else may end it changes [`World::hot_generation`](crate::World::hot_generation).

use super::tlb::{Context, Entry, PAGE_MASK, SHOWN};
use crate::world::Shown;

/// Lines of a page, if they are as short as can be.
const ROWS: usize = 256;

/// No line's tag or address: lines have at least 16 bytes, and there are four contexts.
const NONE: u64 = 15;

/// One line.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Tag of loads: the line's linear address and, below, the context.
    load: u64,
    /// Tag of stores. The world is still told of them: it wants to know whose the bytes are.
    store: u64,
    /// Host address minus linear address.
    addend: u64,
    /// Guest-physical address.
    phys: u64,
}

const EMPTY: Row = Row { load: NONE, store: NONE, addend: 0, phys: NONE };

#[derive(Debug, Clone)]
pub(crate) struct HotLines {
    rows: [Row; ROWS],
    shift: u32,
    /// Address bits that name a line: none of the lowest four.
    mask: u64,
    /// Rows in use, less one.
    last: usize,
    /// What the world said when the rows were known to hold.
    generation: u64,
    /// Loads and fetches of which the world is to hear.
    hits: u64,
}

impl Default for HotLines {
    fn default() -> Self {
        Self { rows: [EMPTY; ROWS], shift: 0, mask: 0, last: 0, generation: 0, hits: 0 }
    }
}

impl HotLines {
    /// A run begins on a world that shows this. Others may have accessed its cache since the last one, if they are there.
    pub(crate) fn enter(&mut self, shown: Shown, generation: u64, others: bool) {
        let Shown::Everything { line, sets } = shown else { return };
        // What tags and rows rely on holds whatever the world says.
        let shift = line.trailing_zeros().clamp(4, 8);
        let mask = !0 << shift;
        // Lines of one set are a multiple of this apart. A page is as far as linear addresses tell.
        let rows = (1 << sets.trailing_zeros().min(31)).min(4096 >> shift).min(ROWS);
        if others || (self.shift, self.last) != (shift, rows - 1) {
            self.forget();
        }
        (self.shift, self.mask, self.last) = (shift, mask, rows - 1);
        self.heed(generation);
    }

    /// The world may have done something to its cache.
    #[inline]
    pub(crate) fn heed(&mut self, generation: u64) {
        if self.generation != generation {
            self.generation = generation;
            self.forget();
        }
    }

    #[inline(always)]
    fn place(&self, address: u64) -> usize {
        (address >> self.shift) as usize & self.last & (ROWS - 1)
    }

    /// The tag of the line in which `len` bytes at `linear` end.
    #[inline(always)]
    fn tag(&self, linear: u64, len: usize, context: Context) -> u64 {
        linear.wrapping_add(len as u64 - 1) & self.mask | context as u64
    }

    /// Host address minus linear address for a load of `len` bytes that lie in one hot line; it is then counted.
    #[inline(always)]
    pub(super) fn load(&mut self, linear: u64, len: usize, context: Context) -> Option<u64> {
        let row = &self.rows[self.place(linear)];
        if row.load != self.tag(linear, len, context) {
            return None;
        }
        self.hits += 1;
        Some(row.addend)
    }

    /// The line's guest-physical address, and host address minus linear address, for a store of `len` bytes that lie in one
    /// line that was hot when it was last accessed here.
    #[inline(always)]
    pub(super) fn store(&self, linear: u64, len: usize, context: Context) -> Option<(u64, u64)> {
        let row = &self.rows[self.place(linear)];
        (row.store == self.tag(linear, len, context)).then_some((row.phys, row.addend))
    }

    /// Whether guest-physical `address` is in a hot line; then a load, or a fetch, is counted.
    #[inline(always)]
    pub(crate) fn physical_load(&mut self, address: u64) -> bool {
        if self.rows[self.place(address)].phys != address & self.mask {
            return false;
        }
        self.hits += 1;
        true
    }

    /// A load or store at `linear`, translated by `entry`, has hit: its line is hot.
    #[inline(always)]
    pub(super) fn install(&mut self, linear: u64, entry: &Entry, context: Context) {
        // A row is of one line in one page only if there are two or more.
        if self.last == 0 {
            return;
        }
        let clean = linear & PAGE_MASK | SHOWN;
        let tag = self.tag(linear, 1, context);
        let tagged = |known: u64| if known == clean { tag } else { NONE };
        self.rows[self.place(linear)] = Row {
            load: tagged(entry.read),
            store: tagged(entry.write),
            addend: entry.addend,
            phys: (entry.phys & PAGE_MASK | linear & !PAGE_MASK) & self.mask,
        };
    }

    /// A fetch or a walk's access at guest-physical `address` has hit: its line is hot.
    #[inline(always)]
    pub(crate) fn install_physical(&mut self, address: u64) {
        let phys = address & self.mask;
        let place = self.place(address);
        if self.rows[place].phys != phys && self.last != 0 {
            self.rows[place] = Row { phys, ..EMPTY };
        }
    }

    /// The world has seen an access to `len` bytes at guest-physical `address`: other lines of their sets are not hot any
    /// more, and these perhaps not either.
    #[inline(always)]
    pub(crate) fn displace(&mut self, address: u64, len: usize) {
        // Without rows nothing is hot, and lines may have no size.
        if self.last == 0 {
            return;
        }
        let end = address + len as u64;
        let mut at = address & self.mask;
        while at < end {
            let place = self.place(at);
            self.rows[place] = EMPTY;
            at += 1 << self.shift;
        }
    }

    /// Translations of linear page `page` are not known in `context` any more.
    pub(super) fn forget_page(&mut self, page: u64, context: Context) {
        let of_page = |tag: u64| tag & (PAGE_MASK | 0xf) == page & PAGE_MASK | context as u64;
        for row in self.rows.iter_mut().take(self.last + 1) {
            if of_page(row.load) || of_page(row.store) {
                (row.load, row.store) = (NONE, NONE);
            }
        }
    }

    /// No translation is known any more.
    pub(super) fn forget_translations(&mut self) {
        for row in self.rows.iter_mut().take(self.last + 1) {
            (row.load, row.store) = (NONE, NONE);
        }
    }

    /// Nothing is hot any more.
    fn forget(&mut self) {
        self.rows.iter_mut().take(self.last + 1).for_each(|row| *row = EMPTY);
    }

    /// How many loads and fetches the world is to hear of.
    pub(crate) fn take_hits(&mut self) -> u64 {
        std::mem::take(&mut self.hits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_rows_no_address_is_hot_or_looked_for() {
        let mut lines = HotLines::default();
        lines.enter(Shown::Pages, 1, true);
        // To go through lines up to here would take for ever.
        lines.displace(1 << 45, 4096);
        for address in [0, 8, 15, 1 << 45] {
            let contexts =
                [Context::Supervisor, Context::User, Context::SupervisorSmap, Context::UserAligned];
            for context in contexts {
                assert_eq!(lines.load(address, 8, context), None, "{address:#x}");
                assert_eq!(lines.store(address, 8, context), None, "{address:#x}");
            }
            assert!(!lines.physical_load(address), "{address:#x}");
        }
        assert_eq!(lines.take_hits(), 0);
    }
}
