//! The cache as its users see it: what it is made of, what it has found, and what it knows.

use serde::{Deserialize, Serialize};

use crate::coherence::{Coherence, Overflow};
use crate::config::Config;
use crate::fetched::Fetched;
use crate::finding::{Agent, EventKind, Finding, LineState};
use crate::geometry::Span;
use crate::lines::Lines;
use crate::memory::{Memory, OutOfRange};
use crate::schedule::Adversary;
use crate::stats::{Counters, Stats};

/// A modelled cache over an embedder's [`Memory`], which every method gets for the time of the call.
///
/// Every access says whose it is ([`crate::Writer`]): that is the provenance of written bytes, the observer of findings and
/// the account in the statistics. Accesses are split at line boundaries. An access that is not wholly in memory does
/// nothing and is an error.
///
/// With a second level ([`Config::with_second_level`]) a line is in one level or the other, never in both: the two are
/// exclusive, as in AMD's processors, so that a line has one slot and with it one shadow. A line that the first level drops
/// goes to the second; one that is found there comes back. For DMA and maintenance, resident in any level is resident.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CacheModel {
    pub(crate) config: Config,
    pub(crate) lines: Lines,
    pub(crate) coherence: Coherence,
    pub(crate) counters: Counters,
    pub(crate) fetched: Fetched,
    pub(crate) adversary: Adversary,
    pub(crate) second_level_hits: u64,
    /// The time of the present operation.
    pub(crate) now: u64,
}

impl CacheModel {
    /// A cache in which no line is resident: both views of memory are what the embedder's memory holds.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            lines: Lines::new(config),
            coherence: Coherence::new(config),
            counters: Counters::default(),
            fetched: Fetched::default(),
            adversary: Adversary::default(),
            second_level_hits: 0,
            now: 0,
        }
    }

    /// What is modelled.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// The adversarial schedule, if one is configured, acts from now on. The same seed makes the same choices.
    pub fn start_schedule(&mut self, seed: u64) {
        self.adversary.start(self.config.schedule(), seed);
    }

    /// Keeps what the schedule does from now on, for [`CacheModel::take_moves`].
    pub fn keep_moves(&mut self) {
        self.adversary.keep();
    }

    /// What the schedule has done since the last call: a write-back, eviction or fill of the line at an address. It acts
    /// before an access does.
    pub fn take_moves(&mut self) -> Vec<(EventKind, u64)> {
        self.adversary.take_kept()
    }

    /// Counters since the model was made: the CPUs' hits and misses, and everybody's fills, evictions and write-backs.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.sum()
    }

    /// Counters of each vCPU and device that has caused anything, CPUs first.
    #[must_use]
    pub fn stats_by_agent(&self) -> Vec<(Agent, Stats)> {
        self.counters.by_agent()
    }

    /// Loads and stores that missed the first level and found their line in the second.
    #[must_use]
    pub fn second_level_hits(&self) -> u64 {
        self.second_level_hits
    }

    /// What the limits made the model forget.
    #[must_use]
    pub fn overflow(&self) -> Overflow {
        self.coherence.overflow()
    }

    /// True if there are findings to take.
    #[must_use]
    pub fn has_findings(&self) -> bool {
        !self.coherence.findings.is_empty()
    }

    /// The findings since the last call, oldest first.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.coherence.findings)
    }

    /// Lines of which the model has not seen the past: they raise nothing until they are cleaned, flushed or stored to. For
    /// embedders that show it only a part of memory, and add to that. Lines of which something is known stay known.
    ///
    /// # Errors
    /// If the range is not wholly in memory.
    pub fn enter_unknown<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        self.check(memory, addr, len)?;
        for span in self.config.geometry().spans(addr, len) {
            let known = self.lines.find(span.line).is_some()
                || self.coherence.is_doubted(span.line)
                || !self.coherence.stored(&self.lines, span.line).is_empty();
            if !known {
                self.coherence.unknown.insert(span.line);
            }
        }
        Ok(())
    }

    /// Observations that were not judged because their line's past is unknown.
    #[must_use]
    pub fn unjudged(&self) -> u64 {
        self.coherence.unjudged
    }

    /// True if the line that holds `addr` is resident.
    #[must_use]
    pub fn is_resident(&self, addr: u64) -> bool {
        self.lines.find(self.config.geometry().line_of(addr)).is_some()
    }

    /// True if the line that holds `addr` is resident and dirty.
    #[must_use]
    pub fn is_dirty(&self, addr: u64) -> bool {
        let slot = self.lines.find(self.config.geometry().line_of(addr));
        slot.is_some_and(|slot| !self.lines.dirty(slot).is_empty())
    }

    /// All that is known of the line that holds `addr`, disturbing nothing.
    ///
    /// # Errors
    /// If the line is not memory.
    pub fn line_state<M: Memory + ?Sized>(&self, memory: &M, addr: u64) -> Result<LineState, OutOfRange> {
        self.check(memory, addr, 1)?;
        self.coherence.state(&self.lines, memory, self.config.geometry().line_of(addr))
    }

    /// Reads what RAM holds, disturbing nothing. (What the CPU would read is in the embedder's memory.)
    ///
    /// # Errors
    /// If the range is not wholly in memory.
    pub fn peek_ram<M: Memory + ?Sized>(
        &self,
        memory: &M,
        addr: u64,
        buf: &mut [u8],
    ) -> Result<(), OutOfRange> {
        self.check(memory, addr, buf.len() as u64)?;
        for (span, part) in self.parts_mut(addr, buf) {
            self.lines.read_ram(memory, span, part)?;
        }
        Ok(())
    }

    /// All lines that the range touches must be memory.
    pub(crate) fn check<M: Memory + ?Sized>(
        &self,
        memory: &M,
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        let outside = OutOfRange { addr, len };
        let Some(last) = len.checked_sub(1) else { return Ok(()) };
        let last = addr.checked_add(last).ok_or(outside)?;
        let geometry = self.config.geometry();
        let start = geometry.base(geometry.line_of(addr));
        let size = geometry.base(geometry.line_of(last)).saturating_sub(start);
        let size = size.saturating_add(geometry.line() as u64);
        if memory.covers(start, size) { Ok(()) } else { Err(outside) }
    }

    pub(crate) fn parts<'a>(
        &self,
        addr: u64,
        data: &'a [u8],
    ) -> impl Iterator<Item = (Span, &'a [u8])> + use<'a> {
        let mut rest = data;
        self.config.geometry().spans(addr, data.len() as u64).map_while(move |span| {
            let (part, tail) = rest.split_at_checked(span.len)?;
            rest = tail;
            Some((span, part))
        })
    }

    pub(crate) fn parts_mut<'a>(
        &self,
        addr: u64,
        buf: &'a mut [u8],
    ) -> impl Iterator<Item = (Span, &'a mut [u8])> + use<'a> {
        let spans = self.config.geometry().spans(addr, buf.len() as u64);
        let mut rest = buf;
        spans.map_while(move |span| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut_checked(span.len)?;
            rest = tail;
            Some((span, part))
        })
    }
}
