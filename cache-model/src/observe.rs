//! An observation of memory, judged: did the observer get what a coherent machine would have given it, and would it have
//! under any schedule?

use crate::coherence::Coherence;
use crate::finding::{Agent, Event, EventKind, Finding, Kind, LineState, Path, Verdict, Writer};
use crate::geometry::Span;
use crate::lines::Lines;
use crate::mask::ByteMask;
use crate::memory::{Memory, OutOfRange};
use crate::record::Record;

/// What an observer sees of a line, compared with what a coherent machine would show.
#[derive(Debug)]
pub struct Sight {
    /// Bytes that the observer does not get right.
    pub wrong: ByteMask,
    /// Bytes that it would not get right under some schedule.
    pub doubtful: ByteMask,
    /// The doubtful bytes whose newest value exists somewhere.
    stale: ByteMask,
}

impl Coherence {
    /// True if looking at the line this way could raise anything.
    pub fn could_raise(&self, lines: &Lines, line: u64, path: Path) -> bool {
        self.is_doubted(line)
            || (path == Path::Ram
                && !(self.stored(lines, line).is_empty() && self.pending.bytes(line).is_empty()))
    }

    /// What there is to see of `seen` bytes of a line.
    pub fn sight<M: Memory + ?Sized>(
        &self,
        lines: &Lines,
        memory: &M,
        (agent, path): (Agent, Path),
        line: u64,
        seen: ByteMask,
    ) -> Result<Sight, OutOfRange> {
        let record = self.records.get(line);
        let stored = self.stored(lines, line);
        let unfenced = match (path, agent) {
            (Path::Ram, Agent::Device(_)) => self.pending.bytes(line),
            _ => ByteMask::EMPTY,
        };
        let stale = match (record, path) {
            (Some(record), _) => record.stale(path, stored),
            (None, Path::Ram) => stored,
            (None, Path::Cache) => ByteMask::EMPTY,
        };
        let stale = stale.or(unfenced).and(seen);
        let destroyed = record.map_or(ByteMask::EMPTY, |record| record.destroyed);

        // A byte can be wrong only if its coherent value is kept, or if it is newer in the cache than in RAM.
        let known = record.map_or(ByteMask::EMPTY, Record::known);
        let newer = if path == Path::Ram { stored } else { ByteMask::EMPTY };
        let suspects = known.or(newer).and(seen);
        let mut wrong = ByteMask::EMPTY;
        if !suspects.is_empty() {
            let (cpu, ram) = lines.views(memory, line)?;
            let got = match path {
                Path::Cache => cpu.as_slice(),
                Path::Ram => ram.as_slice(),
            };
            for offset in suspects.iter() {
                let value = record.and_then(|record| record.value(offset));
                if value.or(cpu.as_slice().get(offset).copied()) != got.get(offset).copied() {
                    wrong.insert(offset);
                }
            }
        }
        Ok(Sight { wrong, doubtful: stale.or(destroyed.and(seen)), stale })
    }

    /// Judges an access to `span`, for which nothing has changed yet.
    pub fn observed<M: Memory + ?Sized>(
        &mut self,
        lines: &Lines,
        memory: &M,
        observer: Writer,
        path: Path,
        span: Span,
    ) -> Result<(), OutOfRange> {
        if !self.could_raise(lines, span.line, path) {
            return Ok(());
        }
        let seen = ByteMask::range(span.offset, span.len);
        let sight = self.sight(lines, memory, (observer.agent, path), span.line, seen)?;
        let (verdict, bytes) = if sight.wrong.is_empty() {
            (Verdict::Latent, sight.doubtful)
        } else {
            (Verdict::Manifest, sight.wrong)
        };
        let Some((first, last)) = bytes.bounds() else { return Ok(()) };
        if self.unknown.contains(span.line) {
            self.unjudged = self.unjudged.saturating_add(1);
            return Ok(());
        }
        if self.findings.len() >= self.config.limits().findings {
            self.overflow.findings = self.overflow.findings.saturating_add(1);
            return Ok(());
        }
        let line = self.state(lines, memory, span.line)?;
        let (got, other) = match path {
            Path::Cache => (&line.cpu, &line.ram),
            Path::Ram => (&line.ram, &line.cpu),
        };
        let elsewhere = match verdict {
            Verdict::Manifest => bytes.iter().all(|offset| other.get(offset) == line.coherent.get(offset)),
            Verdict::Latent => !sight.stale.is_empty(),
        };
        let kind = match (elsewhere, observer.agent) {
            (true, Agent::Cpu(_)) => Kind::StaleCpuRead,
            (true, Agent::Device(_)) => Kind::StaleDeviceRead,
            (false, _) => Kind::LostWrite,
        };
        let part = |view: &[u8]| view.get(first..=last).unwrap_or_default().to_vec();
        let (expected, found) = (part(&line.coherent), part(got));
        self.findings.push(Finding {
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
        });
        Ok(())
    }

    /// All that is known of a line.
    pub fn state<M: Memory + ?Sized>(
        &self,
        lines: &Lines,
        memory: &M,
        line: u64,
    ) -> Result<LineState, OutOfRange> {
        let (cpu, ram) = lines.views(memory, line)?;
        let record = self.records.get(line);
        let mask = |mask: fn(&Record) -> ByteMask| record.map_or(ByteMask::EMPTY, mask);
        let stored = self.stored(lines, line).without(mask(|record| record.through));
        let (bypassed, destroyed) = (mask(|record| record.bypassed), mask(|record| record.destroyed));
        let mut coherent = cpu.as_slice().to_vec();
        for (offset, byte) in coherent.iter_mut().enumerate() {
            *byte = record.and_then(|record| record.value(offset)).unwrap_or(*byte);
        }
        let doubted = stored.or(bypassed).or(destroyed).or(mask(Record::known));
        let slot = lines.find(line);
        Ok(LineState {
            addr: self.config.geometry().base(line),
            cpu: cpu.as_slice().to_vec(),
            ram: ram.as_slice().to_vec(),
            coherent,
            resident: slot.is_some(),
            dirty: slot.map_or(ByteMask::EMPTY, |slot| lines.dirty(slot)),
            stored,
            bypassed,
            destroyed,
            writers: self.writers(lines, line, doubted.or(self.pending.bytes(line))),
            timeline: self.timeline(lines, line, stored),
        })
    }

    /// The events of a line: those of its record, the last store of each D byte, unfenced stores, its last write-back and
    /// fill.
    pub fn timeline(&self, lines: &Lines, line: u64, stored: ByteMask) -> Vec<Event> {
        let whole = ByteMask::range(0, self.config.geometry().line());
        let mut events: Vec<Event> =
            self.records.get(line).map_or_else(Vec::new, |record| record.events().copied().collect());
        let written_back_at = |stamp: u64| {
            let mut known = events.iter();
            known.any(|event| event.kind == EventKind::WriteBack && event.stamp == stamp)
        };
        let spilled = self.spill.get(line).filter(|spilled| !written_back_at(spilled.stamp));
        let mut add = |event: Event| {
            let same = |other: &&mut Event| {
                (other.kind, other.by, other.stamp) == (event.kind, event.by, event.stamp)
            };
            match events.iter_mut().find(same) {
                Some(other) => other.bytes = other.bytes.or(event.bytes),
                None => events.push(event),
            }
        };
        for run in self.writers(lines, line, stored) {
            if matches!(run.writer.agent, Agent::Cpu(_)) {
                let bytes = ByteMask::range(run.offset, run.len);
                let by = Some(run.writer);
                add(Event { kind: EventKind::Store, by, stamp: run.writer.stamp, bytes });
            }
        }
        for (bytes, writer) in self.pending.parts(line) {
            let (kind, by) = (EventKind::CoherentWrite, Some(*writer));
            add(Event { kind, by, stamp: writer.stamp, bytes: *bytes });
        }
        if let Some(spilled) = spilled {
            add(Event { kind: EventKind::WriteBack, by: None, stamp: spilled.stamp, bytes: whole });
        }
        if let Some(by) = lines.find(line).and_then(|slot| lines.filled(slot)) {
            add(Event { kind: EventKind::Fill, by: Some(by), stamp: by.stamp, bytes: whole });
        }
        events.sort_by_key(|event| event.stamp);
        events
    }
}
