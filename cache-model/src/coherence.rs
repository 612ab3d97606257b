//! What a fully coherent machine would hold, who may see something else, and the findings that come of it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::finding::{Agent, Finding, Kind, LineState, Path, Verdict, Writer};
use crate::geometry::Span;
use crate::lines::LineBytes;
use crate::mask::ByteMask;
use crate::pending::Pending;
use crate::record::Record;

/// How many things were counted, not kept, because a limit was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overflow {
    /// Writes to lines for which there was no record left: they raise nothing.
    pub records: u64,
    /// Unfenced writes that were taken as complete.
    pub pending: u64,
    /// Findings that nobody took in time.
    pub findings: u64,
}

impl Overflow {
    /// True if nothing was dropped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a write reaches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// A CPU store to its cache.
    Back,
    /// A CPU store to its cache and RAM.
    Through,
    /// A write to RAM past the cache.
    Bypass,
    /// A write for which the line was flushed.
    Flushing,
}

/// Side state of all lines that need any.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Coherence {
    config: Config,
    records: BTreeMap<u64, Record>,
    pending: Pending,
    findings: Vec<Finding>,
    overflow: Overflow,
}

impl Coherence {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            records: BTreeMap::new(),
            pending: Pending::default(),
            findings: Vec::new(),
            overflow: Overflow::default(),
        }
    }

    pub fn has_findings(&self) -> bool {
        !self.findings.is_empty()
    }

    /// Adds what is known of a line to a state that holds its views.
    pub fn describe(&self, line: u64, state: &mut LineState) {
        if let Some(record) = self.records.get(&line) {
            record.describe(state);
        }
    }

    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    pub fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// A write of `data` to `span`, done already.
    pub fn wrote(&mut self, span: Span, data: &[u8], kind: WriteKind, writer: Writer) {
        let write_back = self.config.write_back();
        let bytes = ByteMask::range(span.offset, span.len);
        let full = self.records.len() >= self.config.limits().records;
        let record = match self.records.entry(span.line) {
            Entry::Occupied(record) => record.into_mut(),
            Entry::Vacant(place) if !full => place.insert(Record::default()),
            Entry::Vacant(_) => {
                self.overflow.records = self.overflow.records.saturating_add(1);
                return;
            }
        };
        record.learn(self.config.geometry().line(), span.offset, data, writer);
        match kind {
            WriteKind::Back => record.stored(bytes, write_back),
            WriteKind::Through => record.stored_through(bytes),
            WriteKind::Bypass => record.bypassed(bytes, write_back),
            WriteKind::Flushing => record.flushed_and_written(bytes),
        }
    }

    /// The CPU may keep these bytes in a write-combining buffer until its next fence.
    pub fn unfenced(&mut self, cpu: u32, span: Span) {
        let bytes = ByteMask::range(span.offset, span.len);
        if !self.pending.add(cpu, span.line, bytes, self.config.limits().pending) {
            self.overflow.pending = self.overflow.pending.saturating_add(1);
        }
    }

    pub fn fenced(&mut self, cpu: u32) {
        self.pending.fence(cpu);
    }

    pub fn cleaned(&mut self, line: u64) {
        self.update(line, Record::cleaned);
    }

    pub fn flushed(&mut self, line: u64) {
        self.update(line, Record::flushed);
    }

    pub fn invalidated(&mut self, line: u64) {
        self.update(line, Record::invalidated);
    }

    pub fn all_flushed(&mut self) {
        self.records.values_mut().for_each(Record::flushed);
        self.records.retain(|_, record| !record.is_empty());
    }

    pub fn all_invalidated(&mut self) {
        self.records.values_mut().for_each(Record::invalidated);
        self.records.retain(|_, record| !record.is_empty());
    }

    /// True if the coherent value of some byte of this line is recorded, so that [`Coherence::settle`] could forget it.
    pub fn is_unsettled(&self, line: u64) -> bool {
        self.records.get(&line).is_some_and(Record::has_coherent)
    }

    /// Forgets what both views of a line, given whole, agree on.
    pub fn settle(&mut self, line: u64, cpu: &LineBytes, ram: &LineBytes) {
        self.update(line, |record| record.settle(cpu.as_slice(), ram.as_slice()));
    }

    /// True if an observation of this line could raise anything.
    pub fn is_tracked(&self, line: u64) -> bool {
        self.records.contains_key(&line) || !self.pending.is_empty()
    }

    /// An access got `got` from `span` of a line in this state.
    pub fn observed(&mut self, observer: Writer, path: Path, span: Span, got: &[u8], line: LineState) {
        let record = self.records.get(&span.line);
        let coherent = |offset| record.and_then(|record| record.coherent(offset));
        let got_at = |offset: usize| got.get(offset.wrapping_sub(span.offset)).copied();
        let seen = ByteMask::range(span.offset, span.len);

        let mut wrong = ByteMask::EMPTY;
        for offset in span.offset..span.offset.saturating_add(span.len) {
            if coherent(offset).is_some_and(|(value, _)| Some(value) != got_at(offset)) {
                wrong.insert(offset);
            }
        }
        let unfenced = match (path, observer.agent) {
            (Path::Ram, Agent::Device(_)) => self.pending.bytes(span.line),
            _ => ByteMask::EMPTY,
        };
        let stale = record.map_or(unfenced, |record| record.stale(path).or(unfenced)).and(seen);
        let doubtful = record.map_or(unfenced, |record| record.doubtful(path).or(unfenced)).and(seen);

        let (verdict, bytes, elsewhere) = if wrong.is_empty() {
            (Verdict::Latent, doubtful, !stale.is_empty())
        } else {
            let other = match path {
                Path::Cache => line.ram.as_slice(),
                Path::Ram => line.cpu.as_slice(),
            };
            let exists =
                |offset: usize| coherent(offset).map(|(value, _)| value) == other.get(offset).copied();
            (Verdict::Manifest, wrong, wrong.iter().all(exists))
        };
        let Some((first, last)) = bytes.bounds() else { return };
        if self.findings.len() >= self.config.limits().findings {
            self.overflow.findings = self.overflow.findings.saturating_add(1);
            return;
        }
        let kind = match (elsewhere, observer.agent) {
            (true, Agent::Cpu(_)) => Kind::StaleCpuRead,
            (true, Agent::Device(_)) => Kind::StaleDeviceRead,
            (false, _) => Kind::LostWrite,
        };
        let found: Vec<u8> = (first..=last).filter_map(got_at).collect();
        let expected = (first..=last).zip(&found);
        let expected = expected.map(|(at, got)| coherent(at).map_or(*got, |(value, _)| value)).collect();
        let finding = Finding {
            observer,
            path,
            kind,
            verdict,
            addr: line.addr.saturating_add(first as u64),
            bytes,
            expected,
            found,
            accessed: seen,
            line,
        };
        self.findings.push(finding);
    }

    fn update(&mut self, line: u64, change: impl FnOnce(&mut Record)) {
        if let Entry::Occupied(mut record) = self.records.entry(line) {
            change(record.get_mut());
            if record.get().is_empty() {
                record.remove();
            }
        }
    }
}
