//! Which memory devices may access, and who owns it when: DMA mappings, live and for a while after, as Linux's DMA API
//! has them.
//!
//! The ledger judges only devices whose driver uses the DMA API, that is, has mapped something. What became of the bytes
//! of a mapping it does not know: [`crate::judge`] brings it together with what the model has seen.
//!
//! Everything is bounded: [`MAX_MAPPINGS`] live mappings, [`PAST_MAPPINGS`] that have ended, and the syncs of each.

mod index;
mod mapping;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use index::Index;
pub use mapping::{Attributes, Direction, Entry, Handover, Mapping, Owner, Transfer};

/// Bytes around a transaction in which a mapping counts as near.
pub const NEAR: u64 = 1 << 16;

/// The most mappings that may be live at once.
pub const MAX_MAPPINGS: usize = 1 << 17;

/// How many mappings are remembered after their end.
pub const PAST_MAPPINGS: usize = 1 << 10;

/// Why the ledger cannot follow an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// The identity is taken by a live mapping.
    #[error("mapping {0} exists already")]
    Exists(u64),
    /// No live mapping has this identity.
    #[error("there is no mapping {0}")]
    Unknown(u64),
    /// A partial sync is not wholly in its mapping.
    #[error("{len} bytes at offset {offset:#x} are outside mapping {id} of {size} bytes")]
    Outside {
        /// The mapping.
        id: u64,
        /// Its length in bytes.
        size: u64,
        /// Where the sync starts in it.
        offset: u64,
        /// The length of the sync in bytes.
        len: u64,
    },
    /// More than [`MAX_MAPPINGS`] are live. The ledger takes no transaction for rogue from then on.
    #[error("more than {MAX_MAPPINGS} live mappings")]
    Full,
}

/// What is wrong with a transaction that no mapping of its device allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RogueKind {
    /// There was a mapping, but it has ended.
    UseAfterUnmap,
    /// There is none, as far as is remembered.
    OutOfMapping,
    /// There is one, for the other direction.
    AgainstDirection,
}

/// A transaction that no mapping of its device allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rogue<'a, N> {
    /// What is wrong with it.
    pub kind: RogueKind,
    /// The first byte that it may not access.
    pub addr: u64,
    /// The mapping that has ended or is for the other direction; out of mappings, the one that it has run out of.
    pub mapping: Option<&'a Entry<N>>,
}

/// What is wrong with a new mapping in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Misuse {
    /// DMA_ATTR_REQUIRE_COHERENT on memory that is not an application's: the kernel's own can be synced.
    RequireCoherentOnKernelMemory,
    /// One of its lines has another mapping, of this identity, that follows other rules of coherence.
    MixedAttributes(u64),
}

/// All mappings of all devices.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ledger<N = ()> {
    live: BTreeMap<u64, Entry<N>>,
    live_index: Index,
    /// Mappings that have ended, by the order in which they have.
    past: BTreeMap<u64, Entry<N>>,
    past_index: Index,
    ended: u64,
    /// Devices that have ever mapped anything.
    devices: BTreeSet<u32>,
    /// A mapping was refused for want of room.
    overflowed: bool,
}

impl<N> Default for Ledger<N> {
    fn default() -> Self {
        Self {
            live: BTreeMap::new(),
            live_index: Index::default(),
            past: BTreeMap::new(),
            past_index: Index::default(),
            ended: 0,
            devices: BTreeSet::new(),
            overflowed: false,
        }
    }
}

impl<N> Ledger<N> {
    /// A device may access memory from the time `at` on.
    ///
    /// # Errors
    /// If the identity is taken or too many mappings are live.
    pub fn map(&mut self, id: u64, mapping: Mapping<N>, at: u64) -> Result<(), LedgerError> {
        self.devices.insert(mapping.device);
        if self.live.contains_key(&id) {
            return Err(LedgerError::Exists(id));
        }
        if self.live.len() >= MAX_MAPPINGS {
            self.overflowed = true;
            return Err(LedgerError::Full);
        }
        self.live_index.insert(id, mapping.addr, mapping.len);
        self.live.insert(id, Entry::new(id, mapping, at));
        Ok(())
    }

    /// What is wrong with a live mapping in itself, in a cache with lines of `line` bytes.
    #[must_use]
    pub fn misuse(&self, id: u64, line: u64) -> Vec<Misuse> {
        let Some(Entry { mapping, .. }) = self.live.get(&id) else { return Vec::new() };
        let mut found = Vec::new();
        if mapping.attributes.require_coherent && !mapping.user_pinned {
            found.push(Misuse::RequireCoherentOnKernelMemory);
        }
        let line = line.max(1);
        let rules = |mapping: &Mapping<N>| {
            let Attributes { require_coherent, shares_lines, .. } = mapping.attributes;
            (mapping.direction == Direction::Coherent, require_coherent, shares_lines)
        };
        let first = mapping.addr - mapping.addr % line;
        let len = mapping.end().saturating_sub(first).checked_next_multiple_of(line).unwrap_or(u64::MAX);
        let (others, _) = self.live_index.overlapping(first, len);
        let mixed = others.into_iter().filter_map(|id| self.live.get(&id)).filter(|other| {
            // Two readers do each other no harm.
            let harmless = [mapping.direction, other.mapping.direction] == [Direction::ToDevice; 2];
            other.id != id && !harmless && rules(&other.mapping) != rules(mapping)
        });
        found.extend(mixed.map(|other| other.id).min().map(Misuse::MixedAttributes));
        found
    }

    /// A mapping, or `(offset, length)` of it, is handed over to `to`; returns the bytes that this concerns, as (address,
    /// length).
    ///
    /// # Errors
    /// If there is no such mapping or the range is not wholly in it.
    pub fn sync(
        &mut self,
        id: u64,
        to: Owner,
        part: Option<(u64, u64)>,
        at: u64,
    ) -> Result<(u64, u64), LedgerError> {
        let entry = self.live.get_mut(&id).ok_or(LedgerError::Unknown(id))?;
        let size = entry.mapping.len;
        let (offset, len) = part.unwrap_or((0, size));
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(LedgerError::Outside { id, size, offset, len });
        }
        let addr = entry.mapping.addr.saturating_add(offset);
        entry.synced(Handover { to, addr, len, at });
        Ok((addr, len))
    }

    /// The device may no longer access the mapping's memory.
    ///
    /// # Errors
    /// If there is no such mapping.
    pub fn unmap(&mut self, id: u64, at: u64) -> Result<&Entry<N>, LedgerError> {
        let mut entry = self.live.remove(&id).ok_or(LedgerError::Unknown(id))?;
        let Mapping { addr, len, .. } = entry.mapping;
        self.live_index.remove(id, addr, len);
        entry.unmapped_at = Some(at);
        if self.past.len() >= PAST_MAPPINGS
            && let Some((order, old)) = self.past.pop_first()
        {
            self.past_index.remove(order, old.mapping.addr, old.mapping.len);
        }
        let order = self.ended;
        self.ended += 1;
        self.past_index.insert(order, addr, len);
        Ok(self.past.entry(order).or_insert(entry))
    }

    /// The live mapping of this identity.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Entry<N>> {
        self.live.get(&id)
    }

    /// The note on a live mapping.
    pub fn note_mut(&mut self, id: u64) -> Option<&mut N> {
        self.live.get_mut(&id).map(|entry| &mut entry.mapping.note)
    }

    /// All live mappings, by identity.
    pub fn live(&self) -> impl ExactSizeIterator<Item = &Entry<N>> {
        self.live.values()
    }

    /// The live mappings of a device that begin at `addr`, the newest (by identity) first.
    #[must_use]
    pub fn beginning_at(&self, device: u32, addr: u64) -> Vec<&Entry<N>> {
        let ids = self.live_index.beginning_at(addr);
        let mut entries: Vec<_> = ids.into_iter().filter_map(|id| self.live.get(&id)).collect();
        entries.retain(|entry| entry.mapping.device == device);
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.id));
        entries
    }

    /// The live mappings, of whichever device, that have a byte in `addr .. addr + len`, the newest first.
    #[must_use]
    pub fn live_at(&self, addr: u64, len: u64) -> Vec<&Entry<N>> {
        let (ids, _) = self.live_index.overlapping(addr, len);
        let mut entries: Vec<_> = ids.into_iter().filter_map(|id| self.live.get(&id)).collect();
        entries.sort_unstable_by_key(|entry| std::cmp::Reverse((entry.mapped_at, entry.id)));
        entries
    }

    /// As [`Ledger::live_at`], of mappings that have ended, the last to do so first.
    #[must_use]
    pub fn past_at(&self, addr: u64, len: u64) -> Vec<&Entry<N>> {
        let (mut orders, _) = self.past_index.overlapping(addr, len);
        orders.sort_unstable_by_key(|&order| std::cmp::Reverse(order));
        orders.into_iter().filter_map(|order| self.past.get(&order)).collect()
    }

    /// What is wrong with a DMA transaction that no live mapping of the device allows, if its driver uses the DMA API.
    #[must_use]
    pub fn rogue(&self, device: u32, transfer: Transfer, addr: u64, len: u64) -> Option<Rogue<'_, N>> {
        if self.overflowed || !self.devices.contains(&device) {
            return None;
        }
        let (ids, cut) = self.live_index.overlapping(addr, len);
        if cut {
            return None;
        }
        let of_device = |entry: &&Entry<N>| entry.mapping.device == device;
        let live: Vec<_> = ids.iter().filter_map(|id| self.live.get(id)).filter(of_device).collect();
        let end = addr.saturating_add(len);
        let (mut at, mut left) = (addr, None);
        while at < end {
            let covering = |entry: &&&Entry<N>| entry.mapping.contains(at);
            let allowing = live
                .iter()
                .filter(covering)
                .filter(|entry| entry.mapping.direction.allows(transfer))
                .max_by_key(|entry| entry.mapping.end());
            if let Some(entry) = allowing {
                at = entry.mapping.end();
                left = Some(*entry);
                continue;
            }
            if let Some(against) = live.iter().find(covering) {
                let kind = RogueKind::AgainstDirection;
                return Some(Rogue { kind, addr: at, mapping: Some(against) });
            }
            let past = self.past_at(at, 1).into_iter().find(of_device);
            let kind = if past.is_some() { RogueKind::UseAfterUnmap } else { RogueKind::OutOfMapping };
            return Some(Rogue { kind, addr: at, mapping: past.or(left) });
        }
        None
    }

    /// The mapping of a device that comes nearest to the `len` bytes at `addr`, for reports: one that has some of them, else one
    /// that had, else the live one that is the fewest bytes away, [`NEAR`] at most.
    #[must_use]
    pub fn nearest(&self, device: u32, addr: u64, len: u64) -> Option<&Entry<N>> {
        let of_device = |entry: &&Entry<N>| entry.mapping.device == device;
        let live = self.live_at(addr, len.max(1)).into_iter().find(of_device);
        let touching = live.or_else(|| self.past_at(addr, len.max(1)).into_iter().find(of_device));
        touching.or_else(|| {
            let (start, end) = (addr.saturating_sub(NEAR), addr.saturating_add(len).saturating_add(NEAR));
            let distance = |entry: &&Entry<N>| {
                let mapping = &entry.mapping;
                let before = addr.checked_sub(mapping.end());
                (before.unwrap_or_else(|| mapping.addr.saturating_sub(addr)), entry.id)
            };
            self.live_at(start, end - start).into_iter().filter(of_device).min_by_key(distance)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(addr: u64, len: u64, direction: Direction) -> Mapping {
        Mapping::new(1, addr, len, direction)
    }

    fn rogue(
        ledger: &Ledger,
        transfer: Transfer,
        addr: u64,
        len: u64,
    ) -> Option<(RogueKind, u64, Option<u64>)> {
        let rogue = ledger.rogue(1, transfer, addr, len)?;
        Some((rogue.kind, rogue.addr, rogue.mapping.map(|entry| entry.id)))
    }

    #[test]
    fn transactions_need_a_mapping_and_its_direction() {
        let mut ledger = Ledger::default();
        assert_eq!(rogue(&ledger, Transfer::Read, 0x100, 4), None);
        ledger.map(5, mapping(0x100, 0x10, Direction::ToDevice), 0).unwrap();
        ledger.map(6, mapping(0x110, 0x10, Direction::Bidirectional), 0).unwrap();
        assert_eq!(rogue(&ledger, Transfer::Read, 0x108, 0x18), None);
        let out = RogueKind::OutOfMapping;
        assert_eq!(rogue(&ledger, Transfer::Read, 0x108, 0x19), Some((out, 0x120, Some(6))));
        assert_eq!(rogue(&ledger, Transfer::Write, 0xff, 2), Some((out, 0xff, None)));
        let against = RogueKind::AgainstDirection;
        assert_eq!(rogue(&ledger, Transfer::Write, 0x10f, 2), Some((against, 0x10f, Some(5))));
        assert_eq!(rogue(&ledger, Transfer::Write, 0x110, 2), None);
        assert!(ledger.rogue(2, Transfer::Write, 0x800, 2).is_none());
        ledger.unmap(6, 1).unwrap();
        let after = RogueKind::UseAfterUnmap;
        assert_eq!(rogue(&ledger, Transfer::Write, 0x110, 2), Some((after, 0x110, Some(6))));
        ledger.map(7, mapping(0x110, 0x10, Direction::FromDevice), 2).unwrap();
        assert_eq!(rogue(&ledger, Transfer::Write, 0x110, 2), None);
    }

    #[test]
    fn the_nearest_mapping_is_one_that_has_the_bytes_or_had_or_is_close() {
        let mut ledger = Ledger::default();
        let nearest = |ledger: &Ledger, addr| ledger.nearest(1, addr, 8).map(|entry| entry.id);
        assert_eq!(nearest(&ledger, 0x100), None);
        ledger.map(5, mapping(0x100, 0x10, Direction::ToDevice), 0).unwrap();
        ledger.map(6, mapping(0x200, 0x10, Direction::ToDevice), 0).unwrap();
        ledger.map(7, Mapping::new(2, 0x180, 0x10, Direction::ToDevice), 0).unwrap();
        for (addr, id) in [(0x100, 5), (0xf9, 5), (0x120, 5), (0x1f0, 6), (0x180, 5), (0x210, 6), (0, 5)] {
            assert_eq!(nearest(&ledger, addr), Some(id), "{addr:#x}");
        }
        assert_eq!(nearest(&ledger, 0x210 + NEAR), None);
        ledger.unmap(6, 1).unwrap();
        assert_eq!((nearest(&ledger, 0x200), nearest(&ledger, 0x210)), (Some(6), Some(5)));
    }

    #[test]
    fn identities_and_ranges_are_checked() {
        let mut ledger = Ledger::default();
        ledger.map(5, mapping(0x100, 0x10, Direction::Coherent), 0).unwrap();
        assert_eq!(ledger.map(5, mapping(0, 1, Direction::Coherent), 0), Err(LedgerError::Exists(5)));
        assert_eq!(ledger.sync(5, Owner::Cpu, None, 1), Ok((0x100, 0x10)));
        assert_eq!(ledger.sync(5, Owner::Device, Some((8, 8)), 2), Ok((0x108, 8)));
        for offset in [8, u64::MAX] {
            let outside = ledger.sync(5, Owner::Cpu, Some((offset, 9)), 3);
            assert!(matches!(outside, Err(LedgerError::Outside { .. })));
        }
        assert_eq!(ledger.get(5).map(|entry| entry.syncs().len()), Some(2));
        assert_eq!(ledger.unmap(6, 4).map(|_| ()), Err(LedgerError::Unknown(6)));
    }

    #[test]
    fn mappings_are_found_by_address() {
        let mut ledger = Ledger::default();
        for id in 0..2_000 {
            ledger.map(id, mapping(id % 1_000 * 0x40, 0x20, Direction::ToDevice), id).unwrap();
        }
        let ids = |entries: Vec<&Entry>| entries.into_iter().map(|entry| entry.id).collect::<Vec<_>>();
        assert_eq!(ids(ledger.beginning_at(1, 0x80)), [1_002, 2]);
        assert!(ids(ledger.beginning_at(2, 0x80)).is_empty());
        assert_eq!(ids(ledger.live_at(0x9f, 0x22)), [1_003, 1_002, 3, 2]);
        for id in 0..2_000 {
            ledger.unmap(id, 5_000 + id).unwrap();
        }
        assert!(ids(ledger.live_at(0, u64::MAX)).is_empty());
        // The first of each address have been forgotten.
        assert_eq!(ids(ledger.past_at(0x9f, 0x22)), [1_003, 1_002]);
        assert_eq!(ledger.past_at(0x80, 1)[0].unmapped_at, Some(6_002));
    }

    #[test]
    fn misuse_is_seen_at_the_mapping() {
        let mut ledger: Ledger = Ledger::default();
        let require = Attributes { require_coherent: true, ..Attributes::default() };
        let with = |addr, direction, attributes, user_pinned| Mapping {
            attributes,
            user_pinned,
            ..mapping(addr, 0x20, direction)
        };
        let bidi = Direction::Bidirectional;
        ledger.map(1, with(0x100, bidi, require, true), 0).unwrap();
        assert_eq!(ledger.misuse(1, 64), []);
        ledger.map(2, with(0x200, bidi, require, false), 0).unwrap();
        assert_eq!(ledger.misuse(2, 64), [Misuse::RequireCoherentOnKernelMemory]);
        ledger.map(3, with(0x120, bidi, Attributes::default(), false), 0).unwrap();
        assert_eq!(ledger.misuse(3, 64), [Misuse::MixedAttributes(1)]);
        assert_eq!(ledger.misuse(3, 32), []);
        ledger.map(4, with(0x120, bidi, require, true), 0).unwrap();
        assert_eq!(ledger.misuse(4, 32), [Misuse::MixedAttributes(3)]);
        let shares = Attributes { shares_lines: true, ..Attributes::default() };
        ledger.map(5, with(0x300, Direction::ToDevice, shares, false), 0).unwrap();
        ledger.map(6, with(0x320, Direction::ToDevice, Attributes::default(), false), 0).unwrap();
        assert_eq!(ledger.misuse(6, 64), []);
        ledger.map(7, with(0x320, Direction::FromDevice, Attributes::default(), false), 0).unwrap();
        assert_eq!(ledger.misuse(7, 64), [Misuse::MixedAttributes(5)]);
    }

    #[test]
    fn a_full_ledger_accuses_nobody() {
        let mut ledger = Ledger::default();
        for id in 0..MAX_MAPPINGS as u64 {
            ledger.map(id, mapping(id * 0x40, 0x40, Direction::ToDevice), 0).unwrap();
        }
        assert!(ledger.rogue(1, Transfer::Write, 0, 1).is_some());
        assert_eq!(ledger.map(u64::MAX, mapping(0, 1, Direction::Coherent), 0), Err(LedgerError::Full));
        assert!(ledger.rogue(1, Transfer::Write, 0, 1).is_none());
    }
}
