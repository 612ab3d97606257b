//! What a fully coherent machine would hold, and which bytes could be something else under another schedule.
//!
//! Of most lines nothing needs to be kept but who stored their dirty bytes, which the slots know while the line is resident
//! and [`Spill`] after that. Lines of which more is known have a [`Record`]; they are in doubt.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::finding::{Event, EventKind, Finding, Writer, Written};
use crate::geometry::Span;
use crate::line_map::LineMap;
use crate::lines::Lines;
use crate::mask::ByteMask;
use crate::memory::{Memory, OutOfRange};
use crate::pending::{Pending, Wait};
use crate::record::Record;
use crate::run::Run;
use crate::spill::Spill;
use crate::unknown::Unknown;

/// How many things were counted, not kept, because a limit was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overflow {
    /// Lines in doubt that were forgotten: until they have left the cache they raise nothing.
    pub records: u64,
    /// Lines outside the cache of which it was forgotten that CPUs had stored to them: that raises nothing any more.
    pub spilled: u64,
    /// Unfenced writes that were taken as complete.
    pub pending: u64,
    /// Lines that entered as unknown and were taken as known.
    pub unknown: u64,
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
    pub(crate) config: Config,
    pub(crate) records: LineMap<Record>,
    /// Lines by the time their record was made, and that time.
    order: VecDeque<(u64, u64)>,
    made: u64,
    pub(crate) spill: Spill,
    pub(crate) pending: Pending,
    pub(crate) unknown: Unknown,
    pub(crate) findings: Vec<Finding>,
    pub(crate) overflow: Overflow,
    pub(crate) unjudged: u64,
}

impl Coherence {
    pub fn new(config: Config) -> Self {
        let limits = config.limits();
        Self {
            config,
            records: LineMap::default(),
            order: VecDeque::new(),
            made: 0,
            spill: Spill::new(limits.spilled),
            pending: Pending::default(),
            unknown: Unknown::new(limits.unknown),
            findings: Vec::new(),
            overflow: Overflow::default(),
            unjudged: 0,
        }
    }

    pub fn overflow(&self) -> Overflow {
        Overflow { spilled: self.spill.forgotten(), unknown: self.unknown.refused(), ..self.overflow }
    }

    /// Changes whenever a line comes to be in doubt.
    #[inline]
    pub fn doubts(&self) -> u64 {
        self.made
    }

    #[inline]
    pub fn is_doubted(&self, line: u64) -> bool {
        self.records.contains(line)
    }

    /// True if every access to a line is to be seen.
    #[inline]
    pub fn is_watched(&self, line: u64) -> bool {
        self.is_doubted(line) || self.pending.contains(line)
    }

    /// A line may have come to be watched, or not to be any more.
    fn watch(&self, lines: &mut Lines, line: u64) {
        if let Some(slot) = lines.find(line) {
            lines.set_watched(slot, self.is_watched(line));
        }
    }

    /// These bytes may be on their way from a CPU to RAM for as long as they wait for this.
    pub fn sent(
        &mut self,
        lines: &mut Lines,
        waits: (u32, Wait),
        line: u64,
        bytes: ByteMask,
        writer: Writer,
    ) {
        if !self.pending.add(waits, line, bytes, writer, self.config.limits().pending) {
            self.overflow.pending = self.overflow.pending.saturating_add(1);
        }
        self.watch(lines, line);
    }

    /// What a CPU has sent on its way, and what waits for this, is in RAM.
    pub fn arrived(&mut self, lines: &mut Lines, cpu: u32, wait: Wait) {
        for line in self.pending.complete(cpu, wait) {
            self.watch(lines, line);
        }
    }

    /// The lines of which anything is known beside what the slots hold.
    pub fn concerned(&self) -> Vec<u64> {
        let mut lines = self.spill.lines();
        lines.extend(self.records.lines());
        lines
    }

    /// D: the bytes of a line that a CPU has stored since the last clean, resident or not.
    pub fn stored(&self, lines: &Lines, line: u64) -> ByteMask {
        let slot = lines.find(line).filter(|&slot| !lines.is_blind(slot));
        slot.map_or(ByteMask::EMPTY, |slot| lines.dirty(slot)).or(self.spill.bytes(line))
    }

    /// Takes note of a write that has happened.
    pub fn wrote<M: Memory + ?Sized>(
        &mut self,
        lines: &mut Lines,
        memory: &M,
        span: Span,
        data: &[u8],
        kind: WriteKind,
        writer: Writer,
    ) -> Result<(), OutOfRange> {
        let bytes = ByteMask::range(span.offset, span.len);
        let write_back = self.config.write_back();
        let event = |kind| Event { kind, by: Some(writer), stamp: writer.stamp, bytes };
        if kind != WriteKind::Bypass {
            self.unknown.forget(span.line);
        }
        if self.pending.contains(span.line) {
            self.pending.overwritten(span.line, bytes);
            self.watch(lines, span.line);
        }
        match kind {
            WriteKind::Back => {
                // Where the store has found or brought its line, the slot knows.
                if !self.config.allocates() && lines.find(span.line).is_none() {
                    let mut runs = self.spill.list();
                    runs.push(Run::new(span.offset, span.len, writer));
                    self.spill.add(span.line, bytes, writer.stamp, runs);
                }
                if self.is_doubted(span.line) {
                    let stored = self.stored(lines, span.line);
                    self.update(span.line, |record| {
                        record.stored(bytes, stored, write_back);
                        record.happened(event(EventKind::Store));
                    });
                }
            }
            WriteKind::Through => {
                let stored = self.stored(lines, span.line);
                if !stored.and(bytes).is_empty() {
                    self.doubt(lines, span.line);
                }
                self.update(span.line, |record| {
                    record.stored_through(bytes, stored);
                    record.happened(event(EventKind::CoherentWrite));
                });
            }
            WriteKind::Bypass => {
                let stored = self.stored(lines, span.line);
                self.doubt(lines, span.line);
                self.update(span.line, |record| {
                    record.bypassed(bytes, stored, write_back);
                    for (offset, value) in (span.offset..).zip(data) {
                        record.learn(offset, *value);
                    }
                    record.authored(bytes, writer);
                    record.happened(event(EventKind::BypassingWrite));
                });
            }
            WriteKind::Flushing => {
                self.spill.remove(span.line);
                self.update(span.line, |record| {
                    record.flushed_and_written(bytes);
                    record.happened(event(EventKind::CoherentWrite));
                });
            }
        }
        self.settle(lines, memory, span.line)
    }

    /// A dirty line is about to be written back by the cache's own choice, at this time: D outlives that.
    pub fn spill(&mut self, lines: &Lines, slot: usize, stamp: u64) {
        if let Some(line) = lines.occupant(slot).filter(|_| !lines.is_blind(slot)) {
            self.spill_line(lines, slot, line, lines.dirty(slot), stamp);
        }
    }

    /// As [`Coherence::spill`], for a slot of which all is known.
    pub fn spill_line(&mut self, lines: &Lines, slot: usize, line: u64, dirty: ByteMask, stamp: u64) {
        let mut runs = self.spill.list();
        lines.runs(slot, &mut runs);
        self.spill.add(line, dirty, stamp, runs);
    }

    /// Maintenance has cleaned a line.
    pub fn cleaned(&mut self, lines: &mut Lines, line: u64) {
        self.unknown.forget(line);
        self.spill.remove(line);
        if let Some(slot) = lines.find(line) {
            lines.set_blind(slot, false);
        }
        self.update(line, Record::cleaned);
    }

    /// Maintenance has flushed a line.
    pub fn flushed(&mut self, line: u64) {
        self.unknown.forget(line);
        self.spill.remove(line);
        self.update(line, Record::flushed);
    }

    /// Maintenance is about to drop a line and its dirty bytes.
    pub fn invalidating<M: Memory + ?Sized>(
        &mut self,
        lines: &mut Lines,
        memory: &M,
        line: u64,
    ) -> Result<(), OutOfRange> {
        let stored = self.stored(lines, line);
        if !stored.is_empty() {
            let writers = self.writers(lines, line, stored);
            let (cpu, ram) = lines.views(memory, line)?;
            self.doubt(lines, line);
            self.update(line, |record| {
                let unknown = stored.without(record.known());
                for offset in unknown.iter() {
                    match (cpu.as_slice().get(offset), ram.as_slice().get(offset)) {
                        (Some(value), Some(other)) if value != other => record.learn(offset, *value),
                        _ => {}
                    }
                }
                for run in writers {
                    record.authored(ByteMask::range(run.offset, run.len), run.writer);
                }
            });
        }
        self.update(line, |record| record.invalidated(stored));
        self.spill.remove(line);
        Ok(())
    }

    /// Every line has been flushed.
    pub fn all_flushed<M: Memory + ?Sized>(
        &mut self,
        lines: &mut Lines,
        memory: &M,
    ) -> Result<(), OutOfRange> {
        self.unknown.clear();
        self.spill.clear();
        for line in self.records.lines() {
            self.update(line, Record::flushed);
            self.settle(lines, memory, line)?;
        }
        Ok(())
    }

    /// Adds to the history of a line, if it is in doubt.
    pub fn happened(&mut self, line: u64, kind: EventKind, by: Option<Writer>, stamp: u64) {
        let bytes = ByteMask::range(0, self.config.geometry().line());
        self.update(line, |record| record.happened(Event { kind, by, stamp, bytes }));
    }

    /// Forgets what both views of a line agree on, and whether it was in doubt if it is not any more.
    pub fn settle<M: Memory + ?Sized>(
        &mut self,
        lines: &mut Lines,
        memory: &M,
        line: u64,
    ) -> Result<(), OutOfRange> {
        let Some(record) = self.records.get_mut(line) else { return Ok(()) };
        let (cpu, ram) = lines.views(memory, line)?;
        record.settle(cpu.as_slice(), ram.as_slice());
        if record.is_empty() {
            self.records.remove(line);
            self.watch(lines, line);
        }
        Ok(())
    }

    /// Who wrote which of these bytes of a line, as far as that is known.
    pub fn writers(&self, lines: &Lines, line: u64, bytes: ByteMask) -> Vec<Written> {
        let record = self.records.get(line);
        let slot = lines.find(line).filter(|&slot| !lines.is_blind(slot));
        let spilled = self.spill.get(line);
        runs(bytes, |offset| {
            let dirty = slot.filter(|&slot| lines.dirty(slot).contains(offset));
            let holds = |run: &&Written| (run.offset..run.offset + run.len).contains(&offset);
            record
                .and_then(|record| record.author(offset))
                .or_else(|| lines.author(dirty?, offset))
                .or_else(|| spilled.as_ref()?.writers.iter().find(holds).map(|run| run.writer))
                .or_else(|| self.pending.author(line, offset))
        })
    }

    fn update(&mut self, line: u64, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.get_mut(line) {
            change(record);
        }
    }

    /// Makes a record of a line, if it has none. The oldest gives way.
    fn doubt(&mut self, lines: &mut Lines, line: u64) {
        if self.records.contains(line) {
            return;
        }
        let limit = self.config.limits().records.max(1);
        while self.records.len() >= limit {
            let Some((oldest, made)) = self.order.pop_front() else { break };
            if self.records.get(oldest).is_some_and(|record| record.made == made) {
                self.forget(lines, oldest);
            }
        }
        // Records that are gone leave their place in the order behind.
        if self.order.len() >= limit * 2 {
            let records = &self.records;
            self.order.retain(|&(line, made)| records.get(line).is_some_and(|record| record.made == made));
        }
        self.made += 1;
        let mut record = Record::new(self.config.geometry().line(), self.made);
        let past = self.timeline(lines, line, self.stored(lines, line));
        past.into_iter().for_each(|event| record.happened(event));
        self.records.insert(line, record);
        self.order.push_back((line, self.made));
        self.watch(lines, line);
    }

    /// Nothing that is not known of a line may make it look wrong.
    fn forget(&mut self, lines: &mut Lines, line: u64) {
        self.records.remove(line);
        self.spill.remove(line);
        self.watch(lines, line);
        if let Some(slot) = lines.find(line) {
            lines.set_blind(slot, true);
        }
        self.overflow.records = self.overflow.records.saturating_add(1);
    }
}

/// Runs of bytes by one writer, lowest first; bytes without one are left out.
fn runs(bytes: ByteMask, author: impl Fn(usize) -> Option<Writer>) -> Vec<Written> {
    let mut runs: Vec<Written> = Vec::new();
    for offset in bytes.iter() {
        let Some(writer) = author(offset) else { continue };
        match runs.last_mut() {
            Some(run) if run.writer == writer && run.offset + run.len == offset => run.len += 1,
            _ => runs.push(Written { offset, len: 1, writer }),
        }
    }
    runs
}
