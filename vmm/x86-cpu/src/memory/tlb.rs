//! The software TLB: linear page to host address, a comparison and an addition away.

use super::MemoryType;
use super::hot_lines::HotLines;
use crate::run::KeyHasher;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

/// Log2 of the entries of each context.
const INDEX_BITS: u32 = 9;
const ENTRIES: usize = 4 << INDEX_BITS;
pub(crate) const PAGE_MASK: u64 = !0xfff;

/// Tag bit: the entry holds nothing.
pub(super) const INVALID: u64 = 1;
/// Tag bit: the translation is known, but the access must take the slow path (not RAM, holds code, not cached as usual).
pub(super) const SLOW: u64 = 2;
/// Tag bit: the access is shown to the world.
pub(super) const SHOWN: u64 = 4;

/// `phys` bit: the page is global.
pub(super) const GLOBAL: u64 = 1;
/// `phys` bits 1-2: 0 for a 4 KiB page, 1 for 2 or 4 MiB, 2 for 1 GiB.
pub(super) const SIZE_SHIFT: u32 = 1;
/// `phys` bit: `addend` is valid.
pub(super) const HOST: u64 = 8;
/// `phys` bit: accesses are shown to the world.
pub(super) const VIA_WORLD: u64 = 16;
/// `phys` bits 5-7: the [`MemoryType`].
pub(super) const KIND_SHIFT: u32 = 5;
/// `phys` bit: the page is private, where that makes a difference ([`crate::encryption`]).
pub(super) const PRIVATE: u64 = 1 << 8;

/// One translation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Linear page for reads, with tag bits.
    pub read: u64,
    /// Linear page for writes, with tag bits; valid only if the page is writable and dirty.
    pub write: u64,
    /// Host address minus linear address.
    pub addend: u64,
    /// Guest-physical page, with the bits above.
    pub phys: u64,
}

const EMPTY: Entry = Entry { read: INVALID, write: INVALID, addend: 0, phys: 0 };

impl Entry {
    pub(super) fn kind(&self) -> MemoryType {
        MemoryType::of(self.phys >> KIND_SHIFT)
    }
    /// Has accesses shown to the world from now on.
    pub(super) fn show(&mut self) {
        let tag = SHOWN | if self.kind().hits() { 0 } else { SLOW };
        self.read |= tag;
        self.write |= tag;
        self.phys |= VIA_WORLD;
    }
}

/// Translations of instruction fetches. None makes way for another: which walks there are does not depend on where decoded
/// blocks begin and end, and so neither on probes.
#[derive(Clone, Default)]
struct FetchTlb(HashMap<u64, (u64, MemoryType), BuildHasherDefault<KeyHasher>>);

impl FetchTlb {
    /// Most translations kept.
    const MAX: usize = 1 << 16;

    const fn key(page: u64, user: bool) -> u64 {
        page | user as u64
    }
}

/// Privilege context of an access: each has its own part of the TLB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    /// CPL 0-2 where user pages may be accessed.
    Supervisor = 0,
    /// CPL 3.
    User = 1,
    /// CPL 0-2 with SMAP in force.
    SupervisorSmap = 2,
    /// CPL 3 with alignment checks: never takes the fast path.
    UserAligned = 3,
}

const CONTEXTS: [Context; 4] =
    [Context::Supervisor, Context::User, Context::SupervisorSmap, Context::UserAligned];

/// A set of page numbers that may hold more than was put in, never less.
#[derive(Clone)]
struct Filter([u64; FILTER_WORDS]);

const FILTER_WORDS: usize = 64;

impl Filter {
    const EMPTY: Self = Self([0; FILTER_WORDS]);

    fn place(number: u64) -> (usize, u64) {
        ((number >> 6) as usize & (FILTER_WORDS - 1), 1 << (number & 63))
    }
    fn insert(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.0[word] |= bit;
    }
    fn contains(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.0[word] & bit != 0
    }
}

/// Direct-mapped translations of all contexts.
#[derive(Clone)]
pub struct Tlb {
    entries: [Entry; ENTRIES],
    fetch: FetchTlb,
    base: usize,
    /// Regions of 4 MiB and of 1 GiB in which large pages were seen: translations of one page lie in many entries there.
    large: [Filter; 2],
    /// Pages that code was fetched from in this epoch.
    fetched: Filter,
    pub(crate) context: Context,
    /// Generation of the code pages that write entries are known to honour.
    pub(crate) code_generation: u64,
    /// Version of the code cache that this vCPU's epoch belongs to.
    pub(crate) code_version: u64,
    /// [`crate::World::shown_generation`] that the entries honour.
    pub(crate) shown_generation: u64,
    /// [`crate::World::label_generation`] that the entries honour.
    pub(crate) label_generation: u64,
    /// Lines of these pages that are accessed past the world.
    pub(crate) lines: HotLines,
    /// Addresses that the MTRRs give one type, looked up last.
    pub(super) range: (std::ops::Range<u64>, MemoryType),
}

impl std::fmt::Debug for Tlb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tlb").field("context", &self.context).finish_non_exhaustive()
    }
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            entries: [EMPTY; ENTRIES],
            fetch: FetchTlb::default(),
            base: 0,
            large: [Filter::EMPTY; 2],
            fetched: Filter::EMPTY,
            context: Context::Supervisor,
            code_generation: 0,
            code_version: 0,
            shown_generation: 0,
            label_generation: 0,
            lines: HotLines::default(),
            range: (0..0, MemoryType::Uncacheable),
        }
    }
}

impl Tlb {
    pub(crate) fn set_context(&mut self, context: Context) {
        self.context = context;
        self.base = (context as usize) << INDEX_BITS;
    }
    #[inline(always)]
    pub(super) fn entry(&self, linear: u64) -> &Entry {
        &self.entries[(self.base | (linear >> 12) as usize & ((1 << INDEX_BITS) - 1)) & (ENTRIES - 1)]
    }
    pub(super) fn entry_in(&mut self, context: Context, linear: u64) -> &mut Entry {
        let base = (context as usize) << INDEX_BITS;
        &mut self.entries[(base | (linear >> 12) as usize & ((1 << INDEX_BITS) - 1)) & (ENTRIES - 1)]
    }
    /// Guest-physical page of a fetch from linear page `page`, and its type, if known.
    pub(super) fn fetch(&self, page: u64, user: bool) -> Option<(u64, MemoryType)> {
        self.fetch.0.get(&FetchTlb::key(page, user)).copied()
    }
    /// Keeps a translation. Returns true if that made it forget all others: no block of this epoch may be entered again
    /// without a translation.
    pub(super) fn put_fetch(&mut self, page: u64, user: bool, phys: u64, kind: MemoryType) -> bool {
        let full = self.fetch.0.len() >= FetchTlb::MAX;
        if full {
            self.fetch.0.clear();
        }
        self.fetch.0.insert(FetchTlb::key(page, user), (phys, kind));
        full
    }
    /// Memory types have changed: forgets what was derived from them.
    pub(crate) fn forget_types(&mut self) {
        self.range.0 = 0..0;
    }
    /// Has accesses to the pages that `shows` names shown to the world.
    pub(crate) fn show(&mut self, mut shows: impl FnMut(u64, MemoryType) -> bool) {
        self.lines.forget_translations();
        for entry in &mut self.entries {
            let known = entry.read & INVALID == 0 || entry.write & INVALID == 0;
            if known && entry.phys & (HOST | VIA_WORLD) == HOST && shows(entry.phys & PAGE_MASK, entry.kind())
            {
                entry.show();
            }
        }
    }
    /// The entry for `linear` makes way for another, and with it what is known of lines in its page.
    pub(super) fn forget_lines(&mut self, context: Context, linear: u64) {
        let entry = *self.entry_in(context, linear);
        if entry.phys & VIA_WORLD != 0 {
            let tag = if entry.read & INVALID == 0 { entry.read } else { entry.write };
            self.lines.forget_page(tag, context);
        }
    }
    /// Records that blocks of this epoch lie in linear page `page`.
    pub(super) fn note_fetch(&mut self, page: u64) {
        self.fetched.insert(page >> 12);
    }
    /// A new epoch begins: no block of it has been looked up yet.
    pub(crate) fn forget_fetched(&mut self) {
        self.fetched = Filter::EMPTY;
    }
    /// Records the size of a page that is about to be cached.
    pub(super) fn note_size(&mut self, linear: u64, size_class: u64) {
        match size_class {
            0 => {}
            1 => self.large[0].insert(linear >> 22),
            _ => self.large[1].insert(linear >> 30),
        }
    }
    /// Forgets every translation; with `keep_global`, all but those of global pages.
    pub(crate) fn flush(&mut self, keep_global: bool) {
        self.fetch.0.clear();
        self.lines.forget_translations();
        if keep_global {
            for entry in &mut self.entries {
                if entry.phys & GLOBAL == 0 {
                    *entry = EMPTY;
                }
            }
        } else {
            self.entries = [EMPTY; ENTRIES];
            self.large = [Filter::EMPTY; 2];
        }
    }
    /// The frame that `linear` leads to by any of the translations of loads and stores.
    pub(super) fn frame(&mut self, linear: u64) -> Option<u64> {
        CONTEXTS.into_iter().find_map(|context| {
            let entry = self.entry_in(context, linear);
            let tag = if entry.read & INVALID == 0 { entry.read } else { entry.write };
            (tag & INVALID == 0 && (tag ^ linear) & PAGE_MASK == 0).then_some(entry.phys & PAGE_MASK)
        })
    }
    /// Forgets the translations of the page that holds `linear`, whatever its size. Returns whether code may have been
    /// fetched from it in this epoch.
    pub(crate) fn flush_page(&mut self, linear: u64) -> bool {
        self.lines.forget_translations();
        if self.large[0].contains(linear >> 22) || self.large[1].contains(linear >> 30) {
            self.flush_large_page(linear);
            return true;
        }
        for context in CONTEXTS {
            let entry = self.entry_in(context, linear);
            let tag = if entry.read & INVALID == 0 { entry.read } else { entry.write };
            if (tag ^ linear) & PAGE_MASK == 0 {
                *entry = EMPTY;
            }
        }
        for user in [false, true] {
            self.fetch.0.remove(&FetchTlb::key(linear & PAGE_MASK, user));
        }
        self.fetched.contains(linear >> 12)
    }

    fn flush_large_page(&mut self, linear: u64) {
        self.fetch.0.clear();
        for entry in &mut self.entries {
            let shift = match entry.phys >> SIZE_SHIFT & 3 {
                0 => 12,
                1 => 22,
                _ => 30,
            };
            let tag = if entry.read & INVALID == 0 { entry.read } else { entry.write };
            if tag & INVALID == 0 && (tag ^ linear) >> shift == 0 {
                *entry = EMPTY;
            }
        }
    }
    /// Forgets the translations of loads and stores to the frame of RAM at guest-physical `phys`.
    pub(crate) fn forget_frame(&mut self, phys: u64) {
        for entry in &mut self.entries {
            if (entry.phys ^ phys) & PAGE_MASK == 0 {
                *entry = EMPTY;
            }
        }
    }
    /// Forgets the translations of loads and stores.
    pub(crate) fn forget_data(&mut self) {
        self.entries = [EMPTY; ENTRIES];
    }
    /// Sends writes to guest-physical page `phys` down the slow path.
    pub(crate) fn guard_code_page(&mut self, phys: u64) {
        self.lines.forget_translations();
        for entry in &mut self.entries {
            if entry.write & INVALID == 0 && (entry.phys ^ phys) & PAGE_MASK == 0 {
                entry.write |= SLOW;
            }
        }
    }
    /// Sends the next write to each page down the slow path, which finds out whether it holds code.
    pub(crate) fn guard_all(&mut self) {
        self.lines.forget_translations();
        for entry in &mut self.entries {
            if entry.write & INVALID == 0 {
                entry.write |= SLOW;
            }
        }
    }
}
