//! The adversary: a schedule of write-backs, evictions and speculative fills that a real cache could have had.
//!
//! It is lazy. A cache may move any line at any time, but only what somebody could tell matters: so the choice is made
//! when a line in doubt, or about to be, is accessed. Untouched lines stay as geometry and replacement have them.
//!
//! - Before RAM is read past the cache, or the cache's view of a line in doubt is read: has the line been written back
//!   meanwhile? Has it left?
//! - Before RAM is written past the cache: has the line been brought in, if speculation may? Written back? Has it left?
//! - Before a store to a line in doubt, and before an invalidation: the same.
//!
//! `random` takes any of these with the same chance. `worst` takes what makes this observer see a wrong byte, if anything
//! does; before RAM is written it keeps the line in the cache, or brings it in where that makes no dirty line leave, since
//! what the cache then holds is old. It is greedy, so there are wrong reads that it does not reach and another schedule
//! would:
//!
//! - An invalidation of a line that is dirty and that a device has written loses either the CPU's bytes or, if the line is
//!   written back just before, the device's. Which of them somebody will read is not known yet: the seed decides.
//! - A line that geometry has evicted is in RAM, whatever would have happened in a larger cache.
//! - Write-combining and non-temporal data, and what weakly ordered flushes write back, are in RAM at once.

use serde::{Deserialize, Serialize};

use crate::coherence::WriteKind;
use crate::config::{Schedule, WriteBack};
use crate::finding::{Agent, EventKind, Path, Writer};
use crate::geometry::Span;
use crate::mask::ByteMask;
use crate::memory::{Memory, OutOfRange};
use crate::model::CacheModel;
use crate::policy::split_mix;

/// What the cache may do with a line, seen from the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Nothing,
    WriteBack,
    Leave,
    Fill,
}

/// The state of a schedule.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Adversary {
    schedule: Schedule,
    random: u64,
    /// The line and access of the last choice: nothing more happens to it within one instruction.
    last: Option<(u64, Agent, u64)>,
    /// What has happened, for who wants to know it.
    kept: Option<Vec<(EventKind, u64)>>,
}

impl Adversary {
    pub fn start(&mut self, schedule: Schedule, seed: u64) {
        *self = Self { schedule, random: seed, last: None, kept: self.kept.take() };
    }

    fn is_idle(&self) -> bool {
        self.schedule == Schedule::None
    }

    /// False if this access has had its choice at the line.
    fn turns_to(&mut self, line: u64, who: Writer) -> bool {
        let turn = Some((line, who.agent, who.stamp));
        std::mem::replace(&mut self.last, turn) != turn
    }

    /// Keeps what happens from now on.
    pub fn keep(&mut self) {
        self.kept.get_or_insert_default();
    }

    pub fn take_kept(&mut self) -> Vec<(EventKind, u64)> {
        self.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn choose(&mut self, moves: &[Move]) -> Move {
        let index = split_mix(&mut self.random) % moves.len().max(1) as u64;
        moves.get(index as usize).copied().unwrap_or(Move::Nothing)
    }
}

impl CacheModel {
    /// A read is about to happen.
    pub(crate) fn adversary_sees_read<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        path: Path,
        span: Span,
    ) -> Result<(), OutOfRange> {
        if self.adversary.is_idle()
            || !self.coherence.could_raise(&self.lines, span.line, path)
            || !self.adversary.turns_to(span.line, who)
        {
            return Ok(());
        }
        let moves = self.moves(span.line);
        let chosen = match self.adversary.schedule {
            Schedule::Worst => {
                let seen = ByteMask::range(span.offset, span.len);
                let mut chosen = Move::Nothing;
                for &candidate in moves {
                    if self.shows_wrong(memory, who.agent, path, span.line, seen, candidate)? {
                        chosen = candidate;
                        break;
                    }
                }
                chosen
            }
            _ => self.adversary.choose(moves),
        };
        self.make(memory, span.line, chosen)
    }

    /// A write is about to happen.
    pub(crate) fn adversary_sees_write<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        kind: WriteKind,
        span: Span,
    ) -> Result<(), OutOfRange> {
        if self.adversary.is_idle() || kind == WriteKind::Flushing {
            return Ok(());
        }
        let bypasses = kind == WriteKind::Bypass;
        if !(bypasses || self.coherence.is_doubted(span.line)) || !self.adversary.turns_to(span.line, who) {
            return Ok(());
        }
        let absent = self.lines.find(span.line).is_none();
        let may_fill = absent && bypasses && memory.may_speculate(self.config.geometry().base(span.line));
        let chosen = match (self.adversary.schedule, may_fill) {
            (Schedule::Worst, true) if self.lines.has_harmless_room(span.line) => Move::Fill,
            (Schedule::Worst, _) => Move::Nothing,
            (_, true) => self.adversary.choose(&[Move::Nothing, Move::Fill]),
            (_, false) => {
                let moves = self.moves(span.line);
                self.adversary.choose(moves)
            }
        };
        self.make(memory, span.line, chosen)
    }

    /// A line is about to be dropped, dirty bytes and all.
    pub(crate) fn adversary_sees_invalidation<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        line: u64,
    ) -> Result<(), OutOfRange> {
        let bypassed = self.coherence.records.get(line).is_some_and(|record| !record.bypassed.is_empty());
        let chooses = match self.adversary.schedule {
            Schedule::None => false,
            Schedule::Random => true,
            Schedule::Worst => bypassed,
        };
        if chooses && self.lines.find(line).is_some_and(|slot| !self.lines.dirty(slot).is_empty()) {
            let chosen = self.adversary.choose(&[Move::Nothing, Move::WriteBack]);
            self.make(memory, line, chosen)?;
        }
        Ok(())
    }

    /// What may happen to a line that nobody asks for.
    fn moves(&self, line: u64) -> &'static [Move] {
        match self.lines.find(line) {
            None => &[Move::Nothing],
            Some(slot) if self.lines.dirty(slot).is_empty() => &[Move::Nothing, Move::Leave],
            Some(_) => &[Move::Nothing, Move::WriteBack, Move::Leave],
        }
    }

    fn make<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        line: u64,
        chosen: Move,
    ) -> Result<(), OutOfRange> {
        let slot = self.lines.find(line);
        let event = match (chosen, slot) {
            (Move::WriteBack, Some(_)) => Some(EventKind::WriteBack),
            (Move::Leave, Some(_)) => Some(EventKind::Evict),
            (Move::Fill, None) => Some(EventKind::Fill),
            _ => None,
        };
        if let (Some(event), Some(kept)) = (event, &mut self.adversary.kept) {
            kept.push((event, self.config.geometry().base(line)));
        }
        match (chosen, slot) {
            (Move::WriteBack, Some(slot)) => {
                self.write_back_early(memory, None, slot)?;
                self.coherence.settle(&mut self.lines, memory, line)
            }
            (Move::Leave, Some(slot)) => self.evict_slot(memory, None, slot),
            (Move::Fill, None) => self.speculate(memory, line),
            _ => Ok(()),
        }
    }

    /// Would this observer get a wrong byte if the line had moved so?
    fn shows_wrong<M: Memory + ?Sized>(
        &self,
        memory: &M,
        agent: Agent,
        path: Path,
        line: u64,
        seen: ByteMask,
        candidate: Move,
    ) -> Result<bool, OutOfRange> {
        let slot = match (candidate, self.lines.find(line)) {
            (Move::WriteBack | Move::Leave, Some(slot)) => slot,
            _ => {
                let sight = self.coherence.sight(&self.lines, memory, (agent, path), line, seen)?;
                return Ok(!sight.wrong.is_empty());
            }
        };
        let (cpu, ram) = self.lines.views(memory, line)?;
        let record = self.coherence.records.get(line);
        let dirty = self.lines.dirty(slot);
        let whole = self.config.write_back() == WriteBack::Line && !dirty.is_empty();
        let written = |offset: usize| whole || dirty.contains(offset);
        let wrong = seen.iter().any(|offset| {
            let (cpu, ram) = (cpu.as_slice().get(offset), ram.as_slice().get(offset));
            let ram = if written(offset) { cpu } else { ram };
            let got = if path == Path::Ram || candidate == Move::Leave { ram } else { cpu };
            let coherent = record.and_then(|record| record.value(offset)).or(cpu.copied());
            got.copied() != coherent
        });
        Ok(wrong)
    }
}
