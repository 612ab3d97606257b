//! The shortest trace that shows a finding: made from the line's state and what led to it, not from a recording.
//!
//! It has the bytes in question and nothing else: a memory of the line alone (or with its neighbour), the mapping cut to
//! that, and the accesses in their order. [`crate::replay`] raises the finding at its last line; a trace that does not is
//! not given out.

use crate::access::{MemoryType, Snoop};
use crate::config::Config;
use crate::finding::{Agent, EventKind, Finding, Kind as RawKind, Path, Verdict, Writer};
use crate::geometry::Geometry;
use crate::judge::{Judgement, Kind};
use crate::ledger::{Direction, Entry, Handover, Owner, Transfer};
use crate::mask::ByteMask;
use crate::policy::Policy;
use crate::replay;
use crate::trace::{self, Op};

/// A DMA transaction that no mapping allows, from its first such byte to the end of the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RogueAccess {
    /// The device.
    pub device: u32,
    /// What it does.
    pub transfer: Transfer,
    /// Address of the first byte that it may not access.
    pub addr: u64,
    /// What it moves from there on, up to the end of the line.
    pub data: Vec<u8>,
    /// How.
    pub snoop: Snoop,
    /// When.
    pub stamp: u64,
}

/// The identity of the mapping in a trace.
const ID: u64 = 1;

/// How much of the mapping's life a trace has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The last hand-overs of the first byte in question.
    Last,
    /// All that is known of.
    All,
    /// No mapping at all.
    None,
}

/// The trace of what the model saw in a cache like `config`; none if it cannot be shown by itself.
#[must_use]
pub fn minimal_trace<N>(finding: &Finding, judged: &Judgement<'_, N>, config: Config) -> Option<String> {
    let base = finding.line.addr;
    let size = config.geometry().line();
    let expected = Shown {
        kind: judged.kind,
        verdict: finding.verdict,
        addr: finding.addr,
        expected: trace::hex(&finding.expected),
        found: trace::hex(&finding.found),
    };
    [Life::Last, Life::All, Life::None].into_iter().find_map(|life| {
        let mut steps = Steps::new(config, base, size as u64)?;
        if let Some(entry) = judged.mapping.filter(|_| life != Life::None) {
            let shared = entry.mapping.is_shared();
            let direction = if shared { Direction::Coherent } else { entry.mapping.direction };
            steps.mapping(entry, direction, finding.addr, finding.observer.stamp, life);
        }
        steps.finding(finding, judged.culprit);
        steps.shows(&expected)
    })
}

/// The trace of a transaction that no mapping allows.
#[must_use]
pub fn minimal_rogue_trace<N>(
    access: &RogueAccess,
    judged: &Judgement<'_, N>,
    config: Config,
) -> Option<String> {
    let size = config.geometry().line() as u64;
    let line = access.addr - access.addr % size;
    // With the line before it, in which the mapping may end.
    let base = line.saturating_sub(size);
    let mut steps = Steps::new(config, base, line.checked_sub(base)?.checked_add(size)?)?;
    let mapped = judged.mapping.is_some_and(|entry| {
        steps.mapping(entry, entry.mapping.direction, access.addr, access.stamp, Life::Last);
        steps.is_mapped
    });
    if !mapped {
        // Somewhere else: it makes the device one that uses the DMA API.
        let elsewhere = if access.addr > base { base } else { base.checked_add(size)?.checked_sub(1)? };
        let direction = Direction::ToDevice;
        steps.add(0, &Op::Map { id: ID, device: access.device, addr: elsewhere, len: 1, direction });
    }
    let RogueAccess { device, addr, snoop, .. } = *access;
    match access.transfer {
        Transfer::Write => steps.add(access.stamp, &Op::DmaWrite { device, addr, data: &access.data, snoop }),
        Transfer::Read => {
            steps.first_bytes(device, addr, &access.data);
            steps.add(access.stamp, &Op::DmaRead { device, addr, len: access.data.len() as u64, snoop });
        }
    }
    steps.shows(&Shown {
        kind: judged.kind,
        verdict: Verdict::Manifest,
        addr,
        expected: String::new(),
        found: trace::hex(&access.data),
    })
}

/// What a replay has to find.
struct Shown {
    kind: Kind,
    verdict: Verdict,
    addr: u64,
    expected: String,
    found: String,
}

/// The lines of a trace, by time.
struct Steps {
    config: String,
    base: u64,
    end: u64,
    lines: Vec<(u64, String)>,
    is_mapped: bool,
}

impl Steps {
    /// A cache of one line, over `size` bytes of memory at `base`.
    fn new(like: Config, base: u64, size: u64) -> Option<Self> {
        let geometry = Geometry::new(like.geometry().line() as u64, 1, 1).ok()?;
        let config = Config::new(geometry, Policy::Lru).ok()?;
        let config = config.with_write_back(like.write_back()).with_write(like.write());
        let machine = trace::Machine { config, base, memory: size, seed: 0 };
        let config = Op::Config(Box::new(machine)).to_string();
        let end = base.checked_add(size)?;
        Some(Self { config, base, end, lines: Vec::new(), is_mapped: false })
    }

    fn add(&mut self, at: u64, op: &Op<'_>) {
        self.lines.push((at, op.to_string()));
    }

    /// What is in memory at the beginning; written by a device that is not `device`.
    fn first_bytes(&mut self, device: u32, addr: u64, data: &[u8]) {
        if data.iter().any(|&byte| byte != 0) {
            let device = u32::from(device == 0);
            self.add(0, &Op::DmaWrite { device, addr, data, snoop: Snoop::Snoop });
        }
    }

    /// The mapping as far as it is in this memory, up to the time `now`.
    fn mapping<N>(&mut self, entry: &Entry<N>, direction: Direction, byte: u64, now: u64, life: Life) {
        let mapping = &entry.mapping;
        let (start, end) = (mapping.addr.max(self.base), mapping.end().min(self.end));
        if start >= end {
            return;
        }
        self.is_mapped = true;
        let map = Op::Map { id: ID, device: mapping.device, addr: start, len: end - start, direction };
        self.add(entry.mapped_at, &map);
        let covers = |sync: &&Handover| (sync.addr..sync.addr.saturating_add(sync.len)).contains(&byte);
        let happened = || entry.syncs().iter().filter(|sync| sync.at <= now);
        let last = |to| happened().filter(covers).rfind(|sync| sync.to == to);
        let syncs: Vec<&Handover> = match life {
            Life::All => happened().collect(),
            _ => [Owner::Cpu, Owner::Device].into_iter().filter_map(last).collect(),
        };
        for sync in syncs {
            let (first, last) = (sync.addr.max(start), sync.addr.saturating_add(sync.len).min(end));
            let part = last.checked_sub(first).filter(|&len| len > 0).map(|len| (first - start, len));
            if part.is_none() {
                continue;
            }
            let part = part.filter(|_| (first, last) != (start, end));
            match sync.to {
                Owner::Cpu => self.add(sync.at, &Op::SyncForCpu { id: ID, part }),
                Owner::Device => self.add(sync.at, &Op::SyncForDevice { id: ID, part }),
            }
        }
        if let Some(at) = entry.unmapped_at.filter(|&at| at <= now) {
            self.add(at, &Op::Unmap { id: ID });
        }
    }

    /// What made the bytes wrong, and the access that saw it.
    fn finding(&mut self, finding: &Finding, culprit: Option<Writer>) {
        let line = &finding.line;
        let writer = finding.writer();
        let now = finding.observer.stamp;
        let written = writer.map_or(now, |writer| writer.stamp);
        let device_of = |writer: Option<Writer>| match writer.map(|writer| writer.agent) {
            Some(Agent::Device(device)) => Some(device),
            _ => None,
        };
        let device = device_of(writer).or(device_of(Some(finding.observer)));
        let before = match finding.path {
            Path::Cache => &line.cpu,
            Path::Ram => &line.ram,
        };
        self.first_bytes(device.unwrap_or_default(), line.addr, before);
        let fill = Op::Fill { addr: line.addr };
        match (finding.kind, device_of(writer)) {
            (RawKind::LostWrite, Some(_)) => {
                let store = culprit.and_then(|culprit| dirtying(finding, culprit));
                let (store, stored) = store.unwrap_or_else(|| {
                    // The device's own bytes do: it writes them after that.
                    let (first, _) = finding.bytes.bounds().unwrap_or_default();
                    (ByteMask::range(first, 1), written)
                });
                self.add(stored.min(written), &fill);
                self.store(stored, culprit, store, line.addr, &line.cpu);
                self.past_the_cache(written, writer, finding);
                self.add(now, &Op::Evict { addr: line.addr });
            }
            (RawKind::LostWrite, None) => {
                self.write_expected(written, writer, finding, MemoryType::WriteBack);
                let discarded = culprit.filter(|culprit| Some(*culprit) != writer).map_or(now, |by| by.stamp);
                self.add(discarded, &Op::Invalidate { addr: line.addr, len: 1 });
            }
            (_, _) if finding.path == Path::Cache => {
                self.add(written, &fill);
                self.past_the_cache(written, writer, finding);
            }
            _ => self.write_expected(written, writer, finding, MemoryType::WriteBack),
        }
        let (addr, len) = (finding.addr, finding.found.len() as u64);
        let seen = match (finding.observer.agent, finding.path) {
            (Agent::Cpu(cpu), Path::Cache) => Op::Load { cpu, addr, len, kind: MemoryType::WriteBack },
            (Agent::Cpu(cpu), Path::Ram) => Op::Load { cpu, addr, len, kind: MemoryType::Uncached },
            (Agent::Device(device), Path::Cache) => Op::DmaRead { device, addr, len, snoop: Snoop::Snoop },
            (Agent::Device(device), Path::Ram) => Op::DmaRead { device, addr, len, snoop: Snoop::NoSnoop },
        };
        self.add(now, &seen);
    }

    /// The expected bytes come to RAM and not to the cache.
    fn past_the_cache(&mut self, at: u64, writer: Option<Writer>, finding: &Finding) {
        match writer.map(|writer| writer.agent) {
            Some(Agent::Device(device)) => {
                for (addr, data) in runs(finding.bytes, finding.line.addr, &expected_line(finding)) {
                    self.add(at, &Op::DmaWrite { device, addr, data: &data, snoop: Snoop::NoSnoop });
                }
            }
            _ => self.write_expected(at, writer, finding, MemoryType::Uncached),
        }
    }

    /// A CPU stores the expected bytes.
    fn write_expected(&mut self, at: u64, writer: Option<Writer>, finding: &Finding, kind: MemoryType) {
        let cpu = cpu_of(writer);
        for (addr, data) in runs(finding.bytes, finding.line.addr, &expected_line(finding)) {
            self.add(at, &Op::Store { cpu, addr, data: &data, kind });
        }
    }

    /// A CPU stores `bytes` of the line at `base`.
    fn store(&mut self, at: u64, by: Option<Writer>, bytes: ByteMask, base: u64, line: &[u8]) {
        let cpu = cpu_of(by);
        for (addr, data) in runs(bytes, base, line) {
            self.add(at, &Op::Store { cpu, addr, data: &data, kind: MemoryType::WriteBack });
        }
    }

    /// The trace, if its last line raises what it should.
    fn shows(mut self, wanted: &Shown) -> Option<String> {
        self.lines.sort_by_key(|&(at, _)| at);
        let mut text = format!("{}\n", self.config);
        for (_, line) in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        let report = replay::run(&text).ok()?;
        let last = report.findings.last()?;
        let same = last.line_no == self.lines.len() as u64 + 1
            && (last.kind, last.verdict, last.addr) == (wanted.kind, wanted.verdict, wanted.addr)
            && (&last.expected, &last.found) == (&wanted.expected, &wanted.found);
        same.then_some(text)
    }
}

fn cpu_of(writer: Option<Writer>) -> u32 {
    match writer.map(|writer| writer.agent) {
        Some(Agent::Cpu(cpu)) => cpu,
        _ => 0,
    }
}

/// The store by which `culprit` made the line dirty, apart from the bytes in question: which bytes, and when.
fn dirtying(finding: &Finding, culprit: Writer) -> Option<(ByteMask, u64)> {
    let stores = finding.line.timeline.iter().filter(|event| event.kind == EventKind::Store);
    let stores = stores.filter(|event| event.by == Some(culprit)).map(|event| event.bytes);
    let written = finding.line.writers.iter().filter(|run| run.writer == culprit);
    let written = written.map(|run| ByteMask::range(run.offset, run.len));
    let bytes =
        stores.chain(written).map(|bytes| bytes.without(finding.bytes)).find(|bytes| !bytes.is_empty())?;
    Some((bytes, culprit.stamp))
}

/// A whole line with the expected bytes where they belong.
fn expected_line(finding: &Finding) -> Vec<u8> {
    let mut line = finding.line.coherent.clone();
    let (first, _) = finding.bytes.bounds().unwrap_or_default();
    for (to, from) in line.iter_mut().skip(first).zip(&finding.expected) {
        *to = *from;
    }
    line
}

/// The runs of bytes in `mask` of a line at `base`: address and data.
fn runs(mask: ByteMask, base: u64, line: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for (offset, byte) in mask.iter().filter_map(|offset| Some((offset, *line.get(offset)?))) {
        let addr = base.saturating_add(offset as u64);
        match runs.last_mut() {
            Some((start, data)) if *start + data.len() as u64 == addr => data.push(byte),
            _ => runs.push((addr, vec![byte])),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Writer;
    use crate::judge::{Rules, judge, judge_rogue};
    use crate::ledger::{Ledger, Mapping};
    use crate::model::CacheModel;
    use std::collections::BTreeSet;

    const LINE: u64 = 64;
    const MEMORY: u64 = 1 << 14;

    struct Random(u64);

    impl Random {
        fn draw(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    /// Random accesses to a few lines and mappings, in a small cache: for each manifest finding its kind, and whether it
    /// has a trace.
    fn random_run(seed: u64, config: Config) -> Vec<(Kind, bool)> {
        let mut random = Random(seed);
        let (mut model, mut ledger) = (CacheModel::new(config), Ledger::<()>::default());
        let mut memory = vec![0; MEMORY as usize];
        let memory = &mut memory[..];
        let mut live: Vec<u64> = Vec::new();
        let mut found = Vec::new();
        for now in 1..1_500 {
            let addr = 0x1000 + random.draw(4) * 0x400 + random.draw(2) * LINE + random.draw(LINE - 8);
            let len = 1 + random.draw(8);
            let data: Vec<u8> = (0..len).map(|_| random.draw(256) as u8).collect();
            let (cpu, device) = (Writer::cpu(0, now, now), Writer::device(5, now));
            let mut buf = vec![0; len as usize];
            let snoop = if random.draw(4) == 0 { Snoop::Snoop } else { Snoop::NoSnoop };
            let access = |transfer, data: &[u8], ledger: &Ledger<()>| {
                let rogue = ledger.rogue(5, transfer, addr, data.len() as u64)?;
                let start = (rogue.addr - addr) as usize;
                let left = (LINE - rogue.addr % LINE) as usize;
                let data = data[start..].iter().copied().take(left).collect();
                let access = RogueAccess { device: 5, transfer, addr: rogue.addr, data, snoop, stamp: now };
                let judged = judge_rogue(&rogue, device);
                let trace = minimal_rogue_trace(&access, &judged, config);
                Some((judged.kind, trace.is_some()))
            };
            match random.draw(16) {
                0..3 => model.store(memory, cpu, addr, &data, MemoryType::WriteBack).unwrap(),
                3..6 => model.load(memory, cpu, addr, &mut buf, MemoryType::WriteBack).unwrap(),
                6 => model.load(memory, cpu, addr, &mut buf, MemoryType::Uncached).unwrap(),
                7 => model.store(memory, cpu, addr, &data, MemoryType::Uncached).unwrap(),
                8 => model.evict(memory, cpu.stamp, addr).unwrap(),
                9 => model.invalidate(memory, cpu, addr, 1).unwrap(),
                10 => model.clean(memory, cpu, addr, 1).unwrap(),
                11 => {
                    model.dma_read(memory, device, addr, &mut buf, snoop).unwrap();
                    found.extend(access(Transfer::Read, &buf, &ledger));
                }
                12 => {
                    found.extend(access(Transfer::Write, &data, &ledger));
                    model.dma_write(memory, device, addr, &data, snoop).unwrap();
                }
                13 => {
                    let direction = [Direction::ToDevice, Direction::FromDevice, Direction::Bidirectional];
                    let direction = direction[random.draw(3) as usize];
                    let mut mapping = Mapping::new(5, addr - random.draw(0x100), 0x100, direction);
                    mapping.user_pinned = random.draw(4) == 0;
                    ledger.map(now, mapping, now).unwrap();
                    live.push(now);
                }
                14 if !live.is_empty() => {
                    let id = live[random.draw(live.len() as u64) as usize];
                    let to = [Owner::Cpu, Owner::Device][random.draw(2) as usize];
                    let part = (random.draw(2) == 0).then(|| (random.draw(0x80), 0x80));
                    ledger.sync(id, to, part, now).unwrap();
                }
                15 if live.len() > 3 => {
                    let id = live.swap_remove(random.draw(live.len() as u64) as usize);
                    ledger.unmap(id, now).unwrap();
                }
                _ => {}
            }
            for finding in model.take_findings() {
                let judged = judge(&finding, &ledger, Rules::default());
                if finding.verdict == Verdict::Manifest {
                    found.push((judged.kind, minimal_trace(&finding, &judged, config).is_some()));
                }
            }
        }
        found
    }

    /// Every kind has a trace that shows the same when it is replayed; [`Steps::shows`] has seen to that.
    #[test]
    fn every_manifest_kind_has_a_trace() {
        let config = Config::new(Geometry::new(LINE, 4, 1).unwrap(), Policy::Lru).unwrap();
        let (mut kinds, mut shown, mut all) = (BTreeSet::new(), 0, 0);
        let mut missing = std::collections::BTreeMap::new();
        for seed in 0..60 {
            for (kind, has_trace) in random_run(seed, config) {
                all += 1;
                shown += usize::from(has_trace);
                if has_trace {
                    kinds.insert(kind);
                } else {
                    *missing.entry(kind).or_insert(0) += 1;
                }
            }
        }
        let latent = [Kind::LatentClobber, Kind::RequireCoherentOnKernelMemory, Kind::MixedAttributes];
        // What lies before the caches is in no trace.
        let before = [Kind::BlockedDma, Kind::BouncedCoherentMemory, Kind::PrivateDma];
        let is_shown = |kind: &Kind| !latent.contains(kind) && !before.contains(kind);
        let expected: BTreeSet<Kind> = Kind::ALL.into_iter().filter(is_shown).collect();
        assert_eq!(kinds, expected, "{missing:?}");
        assert!(all > 2_000 && shown * 100 >= all * 99, "{shown} of {all}; without: {missing:?}");
    }
}
