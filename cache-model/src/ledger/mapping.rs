//! One DMA mapping, and who has owned its bytes when.

use serde::{Deserialize, Serialize};

/// The most syncs that a mapping remembers one by one.
const SYNCS: usize = 64;

/// The direction of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// The device reads.
    ToDevice,
    /// The device writes.
    FromDevice,
    /// Both.
    Bidirectional,
    /// Both, at any time (dma_alloc_coherent).
    Coherent,
}

/// What a device does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transfer {
    /// It reads.
    Read,
    /// It writes.
    Write,
}

impl Direction {
    pub(super) fn allows(self, transfer: Transfer) -> bool {
        match self {
            Self::ToDevice => transfer == Transfer::Read,
            Self::FromDevice => transfer == Transfer::Write,
            Self::Bidirectional | Self::Coherent => true,
        }
    }

    /// Its name in Linux (`enum dma_data_direction`); `COHERENT` for memory that was allocated for DMA.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ToDevice => "TO_DEVICE",
            Self::FromDevice => "FROM_DEVICE",
            Self::Bidirectional => "BIDIRECTIONAL",
            Self::Coherent => "COHERENT",
        }
    }
}

/// What of a mapping's attributes (Linux's DMA_ATTR_…) says how its lines may be shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// DMA_ATTR_REQUIRE_COHERENT: the mapping must fail where DMA is not coherent.
    pub require_coherent: bool,
    /// DMA_ATTR_DEBUGGING_IGNORE_CACHELINES (CPU_CACHE_CLEAN before): the CPU leaves the mapping's lines alone, so they
    /// may have several mappings.
    pub shares_lines: bool,
    /// DMA_ATTR_SKIP_CPU_SYNC: neither mapping nor unmapping hands the memory over; syncs do.
    pub skip_cpu_sync: bool,
}

/// Memory that a device may access. `N` is the embedder's own note on it, a backtrace say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping<N = ()> {
    /// The device it is for.
    pub device: u32,
    /// Address of the first byte, as the device has it.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// Who may do what.
    pub direction: Direction,
    /// How its lines may be shared.
    pub attributes: Attributes,
    /// It is an application's memory, pinned: its CPU side has no call that would hand it over.
    pub user_pinned: bool,
    /// The embedder's.
    pub note: N,
}

impl<N: Default> Mapping<N> {
    /// A mapping of kernel memory without attributes.
    #[must_use]
    pub fn new(device: u32, addr: u64, len: u64, direction: Direction) -> Self {
        let (attributes, note) = (Attributes::default(), N::default());
        Self { device, addr, len, direction, attributes, user_pinned: false, note }
    }
}

impl<N> Mapping<N> {
    /// The address after its last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.addr.saturating_add(self.len)
    }

    /// True if the byte at `addr` is in it.
    #[must_use]
    pub fn contains(&self, addr: u64) -> bool {
        (self.addr..self.end()).contains(&addr)
    }

    /// True if CPU and device use it at the same time, so that both must always see the latest value: coherent memory, and
    /// user memory, which nobody hands over.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.direction == Direction::Coherent || self.user_pinned || self.attributes.require_coherent
    }
}

/// Who may use a mapping's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// The CPUs: before the mapping, after its end, and after a sync for them.
    Cpu,
    /// The device: from the mapping on, and after a sync for it.
    Device,
}

/// A sync of a part of a mapping: from then on it is `to`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Who owns it now.
    pub to: Owner,
    /// Address of its first byte.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u64,
    /// When.
    pub at: u64,
}

/// A mapping in the ledger, live or gone. Times are the embedder's stamps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<N = ()> {
    /// Its identity while it was live.
    pub id: u64,
    /// What was mapped.
    pub mapping: Mapping<N>,
    /// When.
    pub mapped_at: u64,
    /// When it ended, if it has.
    pub unmapped_at: Option<u64>,
    /// The latest syncs, oldest first.
    syncs: Vec<Handover>,
    /// When the last of the syncs no longer in `syncs` were: for the CPU, and for the device.
    forgotten: (Option<u64>, Option<u64>),
}

impl<N> Entry<N> {
    pub(super) fn new(id: u64, mapping: Mapping<N>, mapped_at: u64) -> Self {
        Self { id, mapping, mapped_at, unmapped_at: None, syncs: Vec::new(), forgotten: (None, None) }
    }

    /// The latest syncs, oldest first.
    #[must_use]
    pub fn syncs(&self) -> &[Handover] {
        &self.syncs
    }

    pub(super) fn synced(&mut self, sync: Handover) {
        if self.syncs.len() >= SYNCS {
            let old = self.syncs.remove(0);
            let forgotten = match old.to {
                Owner::Cpu => &mut self.forgotten.0,
                Owner::Device => &mut self.forgotten.1,
            };
            *forgotten = Some(old.at);
        }
        self.syncs.push(sync);
    }

    /// When the byte at `addr` was last handed to `to`, up to the time `by`. A sync that is remembered no more counts for
    /// every byte: a transfer too many makes nobody a culprit.
    #[must_use]
    pub fn last_transfer(&self, to: Owner, addr: u64, by: u64) -> Option<u64> {
        let (end, forgotten) = match to {
            Owner::Cpu => (self.unmapped_at, self.forgotten.0),
            Owner::Device => (Some(self.mapped_at), self.forgotten.1),
        };
        let end = end.filter(|_| !self.mapping.attributes.skip_cpu_sync);
        let covers = |sync: &&Handover| {
            sync.to == to && (sync.addr..sync.addr.saturating_add(sync.len)).contains(&addr)
        };
        let syncs = self.syncs.iter().filter(covers).map(|sync| sync.at);
        syncs.chain(end).chain(forgotten).filter(|&at| at <= by).max()
    }

    /// Who owned the byte at `addr` at the time `at`; [`Owner::Cpu`] outside the mapping and its life.
    #[must_use]
    pub fn owner(&self, addr: u64, at: u64) -> Owner {
        let device = self.last_transfer(Owner::Device, addr, at);
        if device.is_none() || !self.mapping.contains(addr) {
            return Owner::Cpu;
        }
        if self.last_transfer(Owner::Cpu, addr, at) >= device { Owner::Cpu } else { Owner::Device }
    }

    /// True from its mapping to its end.
    #[must_use]
    pub fn was_live(&self, at: u64) -> bool {
        self.mapped_at <= at && self.unmapped_at.is_none_or(|end| at < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry::new(1, Mapping::new(1, 0x100, 0x100, Direction::FromDevice), 10)
    }

    #[test]
    fn ownership_is_by_byte_and_time() {
        let mut entry = entry();
        assert_eq!(entry.owner(0x100, 9), Owner::Cpu);
        assert_eq!(entry.owner(0x100, 10), Owner::Device);
        entry.synced(Handover { to: Owner::Cpu, addr: 0x110, len: 0x10, at: 20 });
        assert_eq!((entry.owner(0x10f, 20), entry.owner(0x110, 20)), (Owner::Device, Owner::Cpu));
        assert_eq!(entry.owner(0x110, 19), Owner::Device);
        entry.synced(Handover { to: Owner::Device, addr: 0x110, len: 8, at: 30 });
        assert_eq!((entry.owner(0x110, 30), entry.owner(0x118, 30)), (Owner::Device, Owner::Cpu));
        assert_eq!((entry.owner(0x110, 25), entry.owner(0xff, 30)), (Owner::Cpu, Owner::Cpu));
        entry.unmapped_at = Some(40);
        assert_eq!((entry.owner(0x110, 39), entry.owner(0x110, 40)), (Owner::Device, Owner::Cpu));
    }

    #[test]
    fn only_syncs_hand_over_what_is_mapped_without() {
        let mut entry = entry();
        entry.mapping.attributes.skip_cpu_sync = true;
        assert_eq!(entry.last_transfer(Owner::Device, 0x100, 50), None);
        entry.synced(Handover { to: Owner::Device, addr: 0x100, len: 0x100, at: 20 });
        entry.unmapped_at = Some(40);
        assert_eq!((entry.owner(0x100, 19), entry.owner(0x100, 50)), (Owner::Cpu, Owner::Device));
        entry.synced(Handover { to: Owner::Cpu, addr: 0x100, len: 0x100, at: 30 });
        assert_eq!(entry.owner(0x100, 50), Owner::Cpu);
    }

    #[test]
    fn forgotten_syncs_count_for_all_bytes() {
        let mut entry = entry();
        for at in 0..SYNCS as u64 + 1 {
            entry.synced(Handover { to: Owner::Cpu, addr: 0x100 + at, len: 1, at: 100 + at });
        }
        assert_eq!(entry.syncs().len(), SYNCS);
        assert_eq!(entry.last_transfer(Owner::Cpu, 0x1f0, 1000), Some(100));
        assert_eq!(entry.last_transfer(Owner::Cpu, 0x105, 1000), Some(105));
        assert_eq!(entry.last_transfer(Owner::Device, 0x105, 1000), Some(10));
    }
}
