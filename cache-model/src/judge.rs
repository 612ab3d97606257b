//! What a finding means: what the model saw, judged by the ownership that the ledger knows.
//!
//! The ownership contract of Linux's DMA API is the measure. Every byte of a mapping is the device's from the mapping on
//! and after a sync for the device, the CPUs' after a sync for them and after the end. Who broke it:
//!
//! | seen | by the ledger | becomes | blame |
//! |---|---|---|---|
//! | device reads old bytes | the CPU stored them after it had handed the memory over | missing sync for device | driver |
//! | | before: the hand-over should have cleaned them | stale device read | platform |
//! | CPU reads old bytes | the device wrote them, and has them still | missing sync for CPU | driver |
//! | | they were handed back: that should have invalidated them | stale CPU read | platform |
//! | a device's bytes are lost | a CPU stored into the mapping while the device had it | ownership violation | driver |
//! | | or beside it, in the same line | lost DMA write, latent clobber | driver |
//! | | or before it was handed over: that should have cleaned the line | lost DMA write, latent clobber | platform |
//! | | or it was not handed over: the device wrote what was the CPU's | missing sync for device | driver |
//! | a CPU's bytes are lost | stored into a mapping while the device had it | ownership violation | driver |
//! | | in a line that has a mapping, but beside it | neighbour loss | driver |
//! | | elsewhere, discarded by hand | lost CPU write, latent clobber | driver |
//! | | in a mapping that was the CPU's | lost CPU write, latent clobber | platform |
//!
//! Memory that both sides use at once has nobody to hand it over: it is the platform's to keep coherent. Where that is an
//! application's, pinned, and neither a mapping nor its end came between the write and the read, the judgement says that
//! the user-space API has no call that would have helped.

use serde::{Deserialize, Serialize};

use crate::finding::{Agent, Event, EventKind, Finding, Kind as RawKind, Verdict, Writer};
use crate::ledger::{Entry, Ledger, Misuse, Owner, Rogue, RogueKind, Transfer};
use crate::mask::ByteMask;

/// What went wrong, in the DMA API's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A device read old bytes from RAM while a CPU's newer ones were in a cache, or not yet fenced.
    StaleDeviceRead,
    /// A CPU read old bytes while a device's newer ones were in RAM.
    StaleCpuRead,
    /// A device's bytes are gone: the line's write-back took them.
    LostDmaWrite,
    /// A CPU's bytes are gone: an invalidation discarded them.
    LostCpuWrite,
    /// A CPU's bytes beside a mapping, in one of its lines, are gone.
    NeighbourLoss,
    /// Bytes could have been lost, under another schedule.
    LatentClobber,
    /// The device read bytes that a CPU stored after handing the memory over.
    MissingSyncForDevice,
    /// A CPU read bytes that were still the device's.
    MissingSyncForCpu,
    /// A CPU stored into memory that was the device's.
    OwnershipViolation,
    /// DMA by a mapping that has ended.
    UseAfterUnmap,
    /// DMA outside the device's mappings.
    OutOfMapping,
    /// DMA for which the mapping has the other direction.
    AgainstDirection,
    /// DMA that the IOMMU did not let through.
    BlockedDma,
    /// Memory that has to be coherent has a bounce buffer: a device wrote there what the memory does not get, or read there what is
    /// no longer in the memory.
    BouncedCoherentMemory,
    /// DMA with memory that an encrypted guest has not shared.
    PrivateDma,
    /// DMA_ATTR_REQUIRE_COHERENT on the kernel's own memory.
    RequireCoherentOnKernelMemory,
    /// Mappings with different rules of coherence share a line.
    MixedAttributes,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::StaleDeviceRead,
        Self::StaleCpuRead,
        Self::LostDmaWrite,
        Self::LostCpuWrite,
        Self::NeighbourLoss,
        Self::LatentClobber,
        Self::MissingSyncForDevice,
        Self::MissingSyncForCpu,
        Self::OwnershipViolation,
        Self::UseAfterUnmap,
        Self::OutOfMapping,
        Self::AgainstDirection,
        Self::BlockedDma,
        Self::BouncedCoherentMemory,
        Self::PrivateDma,
        Self::RequireCoherentOnKernelMemory,
        Self::MixedAttributes,
    ];

    /// Its name in reports for machines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StaleDeviceRead => "stale-device-read",
            Self::StaleCpuRead => "stale-cpu-read",
            Self::LostDmaWrite => "lost-dma-write",
            Self::LostCpuWrite => "lost-cpu-write",
            Self::NeighbourLoss => "neighbour-loss",
            Self::LatentClobber => "latent-clobber",
            Self::MissingSyncForDevice => "missing-sync-for-device",
            Self::MissingSyncForCpu => "missing-sync-for-cpu",
            Self::OwnershipViolation => "ownership-violation",
            Self::UseAfterUnmap => "use-after-unmap",
            Self::OutOfMapping => "out-of-mapping",
            Self::AgainstDirection => "against-direction",
            Self::BlockedDma => "blocked-dma",
            Self::BouncedCoherentMemory => "bounced-coherent-memory",
            Self::PrivateDma => "private-dma",
            Self::RequireCoherentOnKernelMemory => "require-coherent-on-kernel-memory",
            Self::MixedAttributes => "mixed-attributes",
        }
    }
}

impl From<RogueKind> for Kind {
    fn from(kind: RogueKind) -> Self {
        match kind {
            RogueKind::UseAfterUnmap => Self::UseAfterUnmap,
            RogueKind::OutOfMapping => Self::OutOfMapping,
            RogueKind::AgainstDirection => Self::AgainstDirection,
        }
    }
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// The driver's, or whoever else of the guest broke the contract.
    Driver,
    /// The machine's: software did what the DMA API asks for, or could do nothing.
    Platform,
}

impl Blame {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Driver, Self::Platform];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Platform => "platform",
        }
    }
}

/// Which rules the ledger can tell the breaking of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// It hears of every sync. Linux from 6.10 on skips them, inline, for coherent devices.
    pub syncs: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { syncs: true }
    }
}

/// What a finding means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement<'a, N = ()> {
    /// What went wrong.
    pub kind: Kind,
    /// Whether it happened or could have.
    pub verdict: Verdict,
    /// Whose fault it is.
    pub blame: Blame,
    /// The platform's, for an application's memory: the user-space API has no call by which it could have been handed over.
    pub uapi_cannot_sync: bool,
    /// The access that should not have been, or not have been without a sync.
    pub culprit: Option<Writer>,
    /// The mapping that this is about.
    pub mapping: Option<&'a Entry<N>>,
}

/// Judges what the model has seen.
#[must_use]
pub fn judge<'a, N>(finding: &Finding, ledger: &'a Ledger<N>, rules: Rules) -> Judgement<'a, N> {
    let case = Case { finding, ledger, rules };
    match finding.kind {
        RawKind::StaleDeviceRead => case.stale_device_read(),
        RawKind::StaleCpuRead => case.stale_cpu_read(),
        RawKind::LostWrite => match case.writer() {
            Some(Writer { agent: Agent::Device(device), stamp, .. }) => case.lost_dma_write(device, stamp),
            writer => case.lost_cpu_write(writer),
        },
    }
}

/// Judges a transaction that no mapping allows. `culprit` is the device with the time.
#[must_use]
pub fn judge_rogue<'a, N>(rogue: &Rogue<'a, N>, culprit: Writer) -> Judgement<'a, N> {
    let (verdict, blame) = (Verdict::Manifest, Blame::Driver);
    let (kind, culprit, mapping) = (rogue.kind.into(), Some(culprit), rogue.mapping);
    Judgement { kind, verdict, blame, uapi_cannot_sync: false, culprit, mapping }
}

/// Judges a transaction that the IOMMU did not let through; `mapping` is the nearest. `culprit` is the device with the time.
#[must_use]
pub fn judge_blocked<N>(mapping: Option<&Entry<N>>, culprit: Writer) -> Judgement<'_, N> {
    judge_unreachable(Kind::BlockedDma, mapping, culprit)
}

/// Judges a transaction with memory that an encrypted guest has not shared; `mapping` is the nearest. `culprit` is the device
/// with the time.
#[must_use]
pub fn judge_private<N>(mapping: Option<&Entry<N>>, culprit: Writer) -> Judgement<'_, N> {
    judge_unreachable(Kind::PrivateDma, mapping, culprit)
}

fn judge_unreachable<N>(kind: Kind, mapping: Option<&Entry<N>>, culprit: Writer) -> Judgement<'_, N> {
    let (verdict, blame) = (Verdict::Manifest, Blame::Driver);
    Judgement { kind, verdict, blame, uapi_cannot_sync: false, culprit: Some(culprit), mapping }
}

/// Judges a transaction with the bounce buffer of memory that has to be coherent, where the two differ: a device that reads has got
/// wrong bytes, what one writes somebody may miss.
#[must_use]
pub fn judge_bounced<N>(mapping: &Entry<N>, transfer: Transfer, device: Writer) -> Judgement<'_, N> {
    let (verdict, culprit) = match transfer {
        Transfer::Read => (Verdict::Manifest, None),
        Transfer::Write => (Verdict::Latent, Some(device)),
    };
    let uapi_cannot_sync = mapping.mapping.user_pinned;
    let (kind, blame) = (Kind::BouncedCoherentMemory, Blame::Platform);
    Judgement { kind, verdict, blame, uapi_cannot_sync, culprit, mapping: Some(mapping) }
}

/// Judges a mapping that is wrong in itself; `culprit` made it.
#[must_use]
pub fn judge_misuse<N>(misuse: Misuse, mapping: &Entry<N>, culprit: Option<Writer>) -> Judgement<'_, N> {
    let kind = match misuse {
        Misuse::RequireCoherentOnKernelMemory => Kind::RequireCoherentOnKernelMemory,
        Misuse::MixedAttributes(_) => Kind::MixedAttributes,
    };
    let (verdict, blame) = (Verdict::Latent, Blame::Driver);
    Judgement { kind, verdict, blame, uapi_cannot_sync: false, culprit, mapping: Some(mapping) }
}

struct Case<'f, 'l, N> {
    finding: &'f Finding,
    ledger: &'l Ledger<N>,
    rules: Rules,
}

impl<'l, N> Case<'_, 'l, N> {
    fn stale_device_read(&self) -> Judgement<'l, N> {
        let now = self.finding.observer.stamp;
        let writer = self.writer();
        let mapping = match self.finding.observer.agent {
            Agent::Device(device) => self.mapping(Some(device), now),
            Agent::Cpu(_) => None,
        };
        let handed_over =
            mapping.and_then(|entry| entry.last_transfer(Owner::Device, self.finding.addr, now));
        // What a device itself has written no CPU has stored too late.
        let stored = writer.filter(|writer| matches!(writer.agent, Agent::Cpu(_)));
        let late = stored.is_some_and(|store| handed_over.is_none_or(|at| store.stamp > at));
        let kept = mapping.is_some_and(|entry| !entry.mapping.is_shared());
        let (kind, blame) = if self.rules.syncs && kept && late {
            (Kind::MissingSyncForDevice, Blame::Driver)
        } else {
            (Kind::StaleDeviceRead, Blame::Platform)
        };
        self.judgement(kind, blame, writer, mapping)
    }

    fn stale_cpu_read(&self) -> Judgement<'l, N> {
        let now = self.finding.observer.stamp;
        let writer = self.writer();
        let mapping = writer.and_then(|writer| match writer.agent {
            Agent::Device(device) => self.mapping(Some(device), writer.stamp),
            Agent::Cpu(_) => None,
        });
        let kept = mapping.zip(writer).is_some_and(|(entry, writer)| {
            let returned = entry.last_transfer(Owner::Cpu, self.finding.addr, now);
            !entry.mapping.is_shared() && returned.is_none_or(|at| at < writer.stamp)
        });
        let (kind, blame) = if self.rules.syncs && kept {
            (Kind::MissingSyncForCpu, Blame::Driver)
        } else {
            (Kind::StaleCpuRead, Blame::Platform)
        };
        self.judgement(kind, blame, writer, mapping)
    }

    fn lost_dma_write(&self, device: u32, written: u64) -> Judgement<'l, N> {
        let mapping = self.mapping(Some(device), written);
        let stores = self.stores();
        let latest =
            |stores: &mut dyn Iterator<Item = &Stored>| stores.max_by_key(|one| one.writer.stamp).copied();
        let last = latest(&mut stores.iter());
        let Some(entry) = mapping.filter(|entry| !entry.mapping.is_shared()) else {
            return self.lost(Kind::LostDmaWrite, Blame::Platform, last.map(|one| one.writer), mapping);
        };
        let devices = |addr, store: &Stored| entry.owner(addr, store.writer.stamp) == Owner::Device;
        match latest(&mut stores.iter().filter(|store| devices(self.finding.addr, store))) {
            Some(store) => {
                let line = self.finding.line.addr;
                let inside = store.bytes.iter().any(|at| devices(line.saturating_add(at as u64), &store));
                let kind = if inside { Kind::OwnershipViolation } else { Kind::LostDmaWrite };
                self.lost(kind, Blame::Driver, Some(store.writer), mapping)
            }
            // Written while it was the CPU's, which had not handed it over again.
            None if self.rules.syncs
                && entry.was_live(written)
                && entry.owner(self.finding.addr, written) == Owner::Cpu =>
            {
                self.judgement(Kind::MissingSyncForDevice, Blame::Driver, last.map(|one| one.writer), mapping)
            }
            None => self.lost(Kind::LostDmaWrite, Blame::Platform, last.map(|one| one.writer), mapping),
        }
    }

    fn lost_cpu_write(&self, writer: Option<Writer>) -> Judgement<'l, N> {
        let stored = writer.map_or(self.finding.observer.stamp, |writer| writer.stamp);
        let discarded = self.events().rfind(|event| event.kind == EventKind::Invalidate);
        let discarded = discarded.and_then(|event| event.by);
        if let Some(entry) = self.mapping(None, stored) {
            if !entry.mapping.is_shared() && entry.owner(self.finding.addr, stored) == Owner::Device {
                return self.judgement(Kind::OwnershipViolation, Blame::Driver, writer, Some(entry));
            }
            return self.lost(Kind::LostCpuWrite, Blame::Platform, discarded, Some(entry));
        }
        match self.neighbour() {
            Some(entry) => self.judgement(Kind::NeighbourLoss, Blame::Driver, discarded, Some(entry)),
            None => self.lost(Kind::LostCpuWrite, Blame::Driver, discarded, None),
        }
    }

    fn lost(
        &self,
        kind: Kind,
        blame: Blame,
        culprit: Option<Writer>,
        mapping: Option<&'l Entry<N>>,
    ) -> Judgement<'l, N> {
        let kind = match (kind, self.finding.verdict) {
            (Kind::LostDmaWrite | Kind::LostCpuWrite, Verdict::Latent) => Kind::LatentClobber,
            _ => kind,
        };
        self.judgement(kind, blame, culprit, mapping)
    }

    fn judgement(
        &self,
        kind: Kind,
        blame: Blame,
        culprit: Option<Writer>,
        mapping: Option<&'l Entry<N>>,
    ) -> Judgement<'l, N> {
        let uapi_cannot_sync =
            blame == Blame::Platform && mapping.is_some_and(|entry| self.could_not_be_handed_over(entry));
        Judgement { kind, verdict: self.finding.verdict, blame, uapi_cannot_sync, culprit, mapping }
    }

    /// Whether it is an application's memory that nothing has handed over between the write and the read.
    fn could_not_be_handed_over(&self, entry: &Entry<N>) -> bool {
        let handed_over = |to| {
            let last = entry.last_transfer(to, self.finding.addr, self.finding.observer.stamp);
            last.zip(self.writer()).is_some_and(|(at, writer)| writer.stamp <= at)
        };
        let pinned = entry.mapping.user_pinned || entry.mapping.attributes.require_coherent;
        pinned
            && !match self.finding.kind {
                RawKind::StaleDeviceRead => handed_over(Owner::Device),
                RawKind::StaleCpuRead => handed_over(Owner::Cpu),
                RawKind::LostWrite => false,
            }
    }

    fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.finding.line.timeline.iter()
    }

    /// What CPUs have stored in the line, as far as it is known.
    fn stores(&self) -> Vec<Stored> {
        let events = self.events().filter(|event| event.kind == EventKind::Store);
        let events = events.filter_map(|event| Some(Stored { writer: event.by?, bytes: event.bytes }));
        let written =
            self.finding.line.writers.iter().filter(|run| matches!(run.writer.agent, Agent::Cpu(_)));
        let written =
            written.map(|run| Stored { writer: run.writer, bytes: ByteMask::range(run.offset, run.len) });
        written.chain(events).collect()
    }

    /// Who wrote the bytes that are missing.
    fn writer(&self) -> Option<Writer> {
        let wanted = |event: &&Event| match self.finding.kind {
            RawKind::StaleDeviceRead => event.kind == EventKind::Store,
            RawKind::StaleCpuRead => event.kind == EventKind::BypassingWrite,
            RawKind::LostWrite => matches!(event.kind, EventKind::Store | EventKind::BypassingWrite),
        };
        let first = self.finding.bytes.bounds().map(|(first, _)| first);
        let covers = |event: &&Event| first.is_some_and(|first| event.bytes.contains(first));
        let known = self.finding.writer();
        known.or_else(|| {
            self.events().rfind(|event| wanted(event) && covers(event)).and_then(|event| event.by)
        })
    }

    /// The mapping of `device`, or of any, that has the finding's first byte, best one that was live at the time `at`.
    fn mapping(&self, device: Option<u32>, at: u64) -> Option<&'l Entry<N>> {
        let addr = self.finding.addr;
        let entries = self.ledger.live_at(addr, 1).into_iter().chain(self.ledger.past_at(addr, 1));
        let mut entries = entries.filter(|entry| device.is_none_or(|device| entry.mapping.device == device));
        let first = entries.next()?;
        if first.was_live(at) {
            return Some(first);
        }
        Some(entries.find(|entry| entry.was_live(at)).unwrap_or(first))
    }

    /// A mapping in the finding's line, the latest.
    fn neighbour(&self) -> Option<&'l Entry<N>> {
        let (addr, len) = (self.finding.line.addr, self.finding.line.ram.len() as u64);
        self.ledger.live_at(addr, len).into_iter().chain(self.ledger.past_at(addr, len)).next()
    }
}

/// A store to the finding's line.
#[derive(Clone, Copy)]
struct Stored {
    writer: Writer,
    bytes: ByteMask,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Attributes, Direction, Mapping, Transfer};
    use crate::{CacheModel, Config, Geometry, MemoryType, Policy, Snoop};

    const DEVICE: u32 = 7;
    const IP: u64 = 0xffff_ffff_8100_0000;

    /// A machine in which every step takes a tick.
    struct Machine {
        model: CacheModel,
        memory: Vec<u8>,
        ledger: Ledger,
        rules: Rules,
        now: u64,
    }

    impl Machine {
        fn new() -> Self {
            let config = Config::new(Geometry::new(64, 4, 2).unwrap(), Policy::Lru).unwrap();
            let model = CacheModel::new(config);
            Self { model, memory: vec![0; 8192], ledger: Ledger::default(), rules: Rules::default(), now: 0 }
        }

        fn tick(&mut self) -> u64 {
            self.now += 1;
            self.now
        }

        fn cpu(&mut self) -> Writer {
            let now = self.tick();
            Writer::cpu(0, IP + now, now)
        }

        fn store(&mut self, addr: u64, data: &[u8]) {
            let cpu = self.cpu();
            self.model.store(&mut self.memory[..], cpu, addr, data, MemoryType::WriteBack).unwrap();
        }

        fn load(&mut self, addr: u64, len: usize) {
            let cpu = self.cpu();
            let mut buf = vec![0; len];
            self.model.load(&mut self.memory[..], cpu, addr, &mut buf, MemoryType::WriteBack).unwrap();
        }

        fn dma_write(&mut self, addr: u64, data: &[u8], snoop: Snoop) {
            let device = Writer::device(DEVICE, self.tick());
            self.model.dma_write(&mut self.memory[..], device, addr, data, snoop).unwrap();
        }

        fn dma_read(&mut self, addr: u64, len: usize, snoop: Snoop) {
            let device = Writer::device(DEVICE, self.tick());
            self.model.dma_read(&mut self.memory[..], device, addr, &mut vec![0; len], snoop).unwrap();
        }

        fn evict(&mut self, addr: u64) {
            self.model.evict(&mut self.memory[..], self.now, addr).unwrap();
        }

        fn clean(&mut self, addr: u64, len: u64) {
            let cpu = self.cpu();
            self.model.clean(&mut self.memory[..], cpu, addr, len).unwrap();
        }

        fn invalidate(&mut self, addr: u64, len: u64) {
            let cpu = self.cpu();
            self.model.invalidate(&mut self.memory[..], cpu, addr, len).unwrap();
        }

        fn map(&mut self, addr: u64, len: u64, direction: Direction) {
            self.map_with(Mapping::new(DEVICE, addr, len, direction));
        }

        fn map_with(&mut self, mapping: Mapping) {
            let now = self.tick();
            self.ledger.map(mapping.addr, mapping, now).unwrap();
        }

        fn sync(&mut self, id: u64, to: Owner) {
            let now = self.tick();
            self.ledger.sync(id, to, None, now).unwrap();
        }

        fn unmap(&mut self, id: u64) {
            let now = self.tick();
            self.ledger.unmap(id, now).unwrap();
        }

        /// What the only finding since the last call means.
        fn judged(&mut self) -> Judgement<'_> {
            let findings = self.model.take_findings();
            assert_eq!(findings.len(), 1, "{findings:?}");
            judge(&findings[0], &self.ledger, self.rules)
        }

        /// The same with the time of the culprit's access and the mapping.
        fn found(&mut self) -> (Kind, Verdict, Blame, Option<u64>, Option<u64>) {
            let judged = self.judged();
            let culprit = judged.culprit.map(|culprit| culprit.stamp);
            assert!(!judged.uapi_cannot_sync);
            (judged.kind, judged.verdict, judged.blame, culprit, judged.mapping.map(|entry| entry.id))
        }

        /// The same of what the platform is to blame for: whether the user-space API had no call to help.
        fn found_shared(&mut self) -> (Kind, bool, Option<u64>) {
            let judged = self.judged();
            let mapping = judged.mapping.map(|entry| entry.id);
            assert_eq!((judged.verdict, judged.blame, mapping), (Manifest, Platform, Some(0x100)));
            (judged.kind, judged.uapi_cannot_sync, judged.culprit.map(|culprit| culprit.stamp))
        }

        fn nothing(&mut self) {
            assert_eq!(self.model.take_findings(), []);
        }
    }

    use Blame::{Driver, Platform};
    use Direction::{Bidirectional, Coherent, FromDevice, ToDevice};
    use Snoop::NoSnoop;
    use Verdict::{Latent, Manifest};

    #[test]
    fn a_device_reads_what_was_stored_before_the_memory_was_handed_over() {
        let mut machine = Machine::new();
        machine.store(0x100, &[1]);
        machine.map(0x100, 64, ToDevice);
        machine.dma_read(0x100, 8, NoSnoop);
        assert_eq!(machine.found(), (Kind::StaleDeviceRead, Manifest, Platform, Some(1), Some(0x100)));
        machine.evict(0x100);
        machine.dma_read(0x100, 8, NoSnoop);
        assert_eq!(machine.found(), (Kind::StaleDeviceRead, Latent, Platform, Some(1), Some(0x100)));
    }

    #[test]
    fn a_device_reads_what_was_stored_after() {
        let mut machine = Machine::new();
        machine.map(0x100, 64, ToDevice);
        machine.store(0x100, &[1]);
        machine.dma_read(0x100, 8, NoSnoop);
        assert_eq!(machine.found(), (Kind::MissingSyncForDevice, Manifest, Driver, Some(2), Some(0x100)));
        machine.sync(0x100, Owner::Device);
        machine.dma_read(0x100, 8, NoSnoop);
        assert_eq!(machine.found(), (Kind::StaleDeviceRead, Manifest, Platform, Some(2), Some(0x100)));
        machine.sync(0x100, Owner::Cpu);
        machine.store(0x101, &[2]);
        machine.evict(0x100);
        machine.dma_read(0x101, 1, NoSnoop);
        let late = machine.now - 1;
        assert_eq!(machine.found(), (Kind::MissingSyncForDevice, Latent, Driver, Some(late), Some(0x100)));
        machine.rules.syncs = false;
        machine.dma_read(0x101, 1, NoSnoop);
        assert_eq!(machine.found().0, Kind::StaleDeviceRead);
    }

    #[test]
    fn what_a_device_has_written_is_no_store_without_a_sync() {
        let mut machine = Machine::new();
        machine.store(0x100, &[1]);
        machine.map(0x100, 64, Bidirectional);
        machine.dma_write(0x100, &[2], NoSnoop);
        machine.dma_read(0x100, 1, NoSnoop);
        let (kind, verdict, blame, ..) = machine.found();
        assert_eq!(
            (kind, verdict, blame),
            (Kind::StaleDeviceRead, Latent, Platform),
            "it may be written back"
        );
    }

    #[test]
    fn a_cpu_reads_what_is_still_the_device_s() {
        for (returned, kind, blame) in [
            (None, Kind::MissingSyncForCpu, Driver),
            (Some(false), Kind::StaleCpuRead, Platform),
            (Some(true), Kind::StaleCpuRead, Platform),
        ] {
            let mut machine = Machine::new();
            machine.load(0x100, 8);
            machine.map(0x100, 64, FromDevice);
            machine.dma_write(0x100, &[1, 2], NoSnoop);
            match returned {
                None => {}
                Some(false) => machine.sync(0x100, Owner::Cpu),
                Some(true) => machine.unmap(0x100),
            }
            machine.load(0x100, 8);
            assert_eq!(machine.found(), (kind, Manifest, blame, Some(3), Some(0x100)));
            machine.evict(0x100);
            machine.load(0x100, 8);
            assert_eq!(machine.found(), (kind, Latent, blame, Some(3), Some(0x100)));
        }
    }

    #[test]
    fn what_both_use_at_once_is_nobody_s_to_hand_over() {
        let pinned = Mapping { user_pinned: true, ..Mapping::new(DEVICE, 0x100, 64, Bidirectional) };
        let required = Attributes { require_coherent: true, ..Attributes::default() };
        let required = Mapping { attributes: required, ..Mapping::new(DEVICE, 0x100, 64, Bidirectional) };
        let allocated = Mapping::new(DEVICE, 0x100, 64, Coherent);
        for (mapping, cannot_sync) in [(pinned, true), (required, true), (allocated, false)] {
            let mut machine = Machine::new();
            machine.load(0x100, 8);
            machine.map_with(mapping);
            machine.dma_write(0x100, &[1], NoSnoop);
            machine.load(0x100, 8);
            assert_eq!(machine.found_shared(), (Kind::StaleCpuRead, cannot_sync, Some(3)));
            machine.store(0x110, &[9]);
            machine.dma_read(0x110, 1, NoSnoop);
            assert_eq!(machine.found_shared(), (Kind::StaleDeviceRead, cannot_sync, Some(5)));
            machine.evict(0x100);
            machine.load(0x100, 1);
            assert_eq!(machine.found_shared(), (Kind::LostDmaWrite, cannot_sync, Some(5)));
        }
    }

    #[test]
    fn mapping_without_a_sync_hands_nothing_over() {
        let attributes = Attributes { skip_cpu_sync: true, ..Attributes::default() };
        let mapping = Mapping { attributes, ..Mapping::new(DEVICE, 0x100, 64, Bidirectional) };
        let mut machine = Machine::new();
        machine.store(0x100, &[9]);
        machine.map_with(mapping);
        machine.dma_read(0x100, 1, NoSnoop);
        assert_eq!(machine.found(), (Kind::MissingSyncForDevice, Manifest, Driver, Some(1), Some(0x100)));
        machine.dma_write(0x120, &[1], NoSnoop);
        machine.unmap(0x100);
        machine.load(0x120, 1);
        assert_eq!(machine.found(), (Kind::MissingSyncForCpu, Manifest, Driver, Some(4), Some(0x100)));
    }

    #[test]
    fn an_application_s_memory_is_handed_over_by_its_mapping_and_the_end_of_it() {
        let pinned = Mapping { user_pinned: true, ..Mapping::new(DEVICE, 0x100, 64, Bidirectional) };
        let mut machine = Machine::new();
        machine.store(0x100, &[9]);
        machine.map_with(pinned);
        machine.dma_read(0x100, 1, NoSnoop);
        assert_eq!(machine.found_shared(), (Kind::StaleDeviceRead, false, Some(1)));
        machine.load(0x110, 1);
        machine.dma_write(0x110, &[1], NoSnoop);
        let culprit = Some(machine.now);
        machine.unmap(0x100);
        machine.load(0x110, 1);
        assert_eq!(machine.found_shared(), (Kind::StaleCpuRead, false, culprit));
    }

    #[test]
    fn a_store_to_memory_that_is_the_device_s() {
        let mut machine = Machine::new();
        machine.load(0x100, 8);
        machine.map(0x100, 64, FromDevice);
        machine.dma_write(0x100, &[1], NoSnoop);
        machine.store(0x120, &[2]);
        let culprit = Some(machine.now);
        machine.evict(0x100);
        machine.unmap(0x100);
        machine.load(0x100, 1);
        assert_eq!(machine.found(), (Kind::OwnershipViolation, Manifest, Driver, culprit, Some(0x100)));
    }

    #[test]
    fn a_store_beside_the_mapping_in_its_line() {
        for (lucky, kind, verdict) in
            [(false, Kind::LostDmaWrite, Manifest), (true, Kind::LatentClobber, Latent)]
        {
            let mut machine = Machine::new();
            machine.map(0x100, 32, FromDevice);
            machine.store(0x120, &[2]);
            if lucky {
                machine.evict(0x100);
            }
            machine.dma_write(0x100, &[1], NoSnoop);
            machine.evict(0x100);
            machine.unmap(0x100);
            machine.invalidate(0x100, 1);
            machine.load(0x100, 1);
            assert_eq!(machine.found(), (kind, verdict, Driver, Some(2), Some(0x100)));
        }
    }

    #[test]
    fn a_line_that_was_dirty_when_it_was_handed_over() {
        let mut machine = Machine::new();
        machine.store(0x120, &[2]);
        machine.map(0x100, 64, FromDevice);
        machine.dma_write(0x100, &[1], NoSnoop);
        machine.evict(0x100);
        machine.unmap(0x100);
        machine.load(0x100, 1);
        assert_eq!(machine.found(), (Kind::LostDmaWrite, Manifest, Platform, Some(1), Some(0x100)));
    }

    #[test]
    fn a_device_writes_what_was_not_handed_over_again() {
        let run = |handed_over, syncs| {
            let mut machine = Machine::new();
            machine.rules.syncs = syncs;
            machine.map(0x100, 64, FromDevice);
            machine.sync(0x100, Owner::Cpu);
            machine.store(0x100, &[2]);
            let culprit = Some(machine.now);
            if handed_over {
                machine.sync(0x100, Owner::Device);
            }
            machine.dma_write(0x100, &[1], NoSnoop);
            machine.evict(0x100);
            machine.sync(0x100, Owner::Cpu);
            machine.load(0x100, 1);
            let (kind, verdict, blame, by, mapping) = machine.found();
            assert_eq!((verdict, by, mapping), (Manifest, culprit, Some(0x100)));
            (kind, blame)
        };
        assert_eq!(run(false, true), (Kind::MissingSyncForDevice, Driver));
        assert_eq!(run(true, true), (Kind::LostDmaWrite, Platform));
        assert_eq!(run(false, false), (Kind::LostDmaWrite, Platform), "syncs are not seen");
    }

    #[test]
    fn a_cpu_s_bytes_that_an_invalidation_discards() {
        // Beside a mapping.
        let mut machine = Machine::new();
        machine.map(0x100, 32, FromDevice);
        machine.store(0x120, &[2]);
        machine.invalidate(0x100, 32);
        let culprit = Some(machine.now);
        machine.load(0x120, 1);
        assert_eq!(machine.found(), (Kind::NeighbourLoss, Manifest, Driver, culprit, Some(0x100)));
        // In it, while it was the device's.
        machine.store(0x110, &[2]);
        let culprit = Some(machine.now);
        machine.invalidate(0x100, 32);
        machine.load(0x110, 1);
        assert_eq!(machine.found(), (Kind::OwnershipViolation, Manifest, Driver, culprit, Some(0x100)));
        // In it, before: the hand-over should have cleaned the line.
        machine.sync(0x100, Owner::Cpu);
        machine.store(0x118, &[2]);
        machine.sync(0x100, Owner::Device);
        machine.invalidate(0x100, 32);
        let culprit = Some(machine.now);
        machine.load(0x118, 1);
        assert_eq!(machine.found(), (Kind::LostCpuWrite, Manifest, Platform, culprit, Some(0x100)));
        // Nobody's mapping.
        machine.store(0x200, &[2]);
        machine.invalidate(0x200, 1);
        let culprit = Some(machine.now);
        machine.load(0x200, 1);
        assert_eq!(machine.found(), (Kind::LostCpuWrite, Manifest, Driver, culprit, None));
        machine.store(0x200, &[3]);
        machine.evict(0x200);
        machine.invalidate(0x200, 1);
        machine.nothing();
    }

    #[test]
    fn transactions_and_mappings_are_judged_by_the_ledger_alone() {
        let mut ledger = Ledger::<()>::default();
        ledger.map(1, Mapping::new(DEVICE, 0x100, 64, ToDevice), 1).unwrap();
        ledger.map(2, Mapping::new(DEVICE, 0x200, 64, ToDevice), 1).unwrap();
        ledger.unmap(2, 2).unwrap();
        for (transfer, addr, kind, mapping) in [
            (Transfer::Write, 0x100, Kind::AgainstDirection, Some(1)),
            (Transfer::Read, 0x200, Kind::UseAfterUnmap, Some(2)),
            (Transfer::Read, 0x300, Kind::OutOfMapping, None),
        ] {
            let rogue = ledger.rogue(DEVICE, transfer, addr, 4).unwrap();
            let judged = judge_rogue(&rogue, Writer::device(DEVICE, 3));
            let mapping = (judged.mapping.map(|entry| entry.id), mapping);
            assert_eq!(
                (judged.kind, judged.verdict, judged.blame, mapping.0),
                (kind, Manifest, Driver, mapping.1)
            );
        }
        let attributes = Attributes { require_coherent: true, ..Attributes::default() };
        ledger.map(3, Mapping { attributes, ..Mapping::new(DEVICE, 0x120, 8, Bidirectional) }, 4).unwrap();
        let misuse = ledger.misuse(3, 64);
        let entry = ledger.get(3).unwrap();
        let kinds: Vec<_> = misuse.into_iter().map(|one| judge_misuse(one, entry, None).kind).collect();
        assert_eq!(kinds, [Kind::RequireCoherentOnKernelMemory, Kind::MixedAttributes]);
    }

    #[test]
    fn what_is_bounced_and_has_to_be_coherent_is_the_platforms() {
        let mut ledger: Ledger = Ledger::default();
        let device = Writer::device(DEVICE, 5);
        for (id, user_pinned) in [(1, true), (2, false)] {
            let mapping = Mapping { user_pinned, ..Mapping::new(DEVICE, 0x1000, 0x40, Bidirectional) };
            ledger.map(id, mapping, 0).unwrap();
            let entry = ledger.get(id).unwrap();
            let written = judge_bounced(entry, Transfer::Write, device);
            let read = judge_bounced(entry, Transfer::Read, device);
            for judged in [&written, &read] {
                let is = (judged.kind, judged.blame, judged.uapi_cannot_sync);
                assert_eq!(is, (Kind::BouncedCoherentMemory, Platform, user_pinned));
            }
            assert_eq!((written.verdict, written.culprit), (Latent, Some(device)));
            assert_eq!((read.verdict, read.culprit), (Manifest, None), "whoever stored is not known");
        }
    }

    /// Syncs of the CPU's doing, as on a machine that is not coherent: nothing is found, snooped or not.
    #[test]
    fn a_correct_driver_raises_nothing() {
        for snoop in [Snoop::Snoop, NoSnoop] {
            let mut machine = Machine::new();
            machine.store(0x100, &[1; 64]);
            machine.clean(0x100, 64);
            machine.map(0x100, 64, Bidirectional);
            for value in 2..10 {
                machine.dma_read(0x100, 64, snoop);
                machine.dma_write(0x108, &[value; 8], snoop);
                machine.invalidate(0x100, 64);
                machine.sync(0x100, Owner::Cpu);
                machine.load(0x100, 64);
                machine.store(0x120, &[value; 4]);
                machine.clean(0x100, 64);
                machine.sync(0x100, Owner::Device);
            }
            machine.unmap(0x100);
            machine.nothing();
        }
    }

    #[test]
    fn names_are_those_of_the_files() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        for blame in Blame::ALL {
            assert_eq!(serde_json::to_value(blame).unwrap(), blame.name());
        }
    }
}
