//! Lines come and go: demand, maintenance, and the cache's own choices.

use crate::finding::{Agent, EventKind, Writer};
use crate::mask::ByteMask;
use crate::memory::{Memory, OutOfRange};
use crate::model::CacheModel;
use crate::pending::Wait;

impl CacheModel {
    /// Cleans every line that the range touches (cvac, cbo.clean).
    ///
    /// # Errors
    /// If the range is not wholly in memory.
    pub fn clean<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        self.maintain(memory, who, addr, len, |model, memory, line| model.clean_line(memory, who, line))
    }

    /// Cleans every line that the range touches, weakly ordered (clwb): what is written back may not have reached RAM before
    /// `who`'s next [`CacheModel::fence`].
    ///
    /// # Errors
    /// If the range is not wholly in memory.
    pub fn clean_weakly<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        self.maintain(memory, who, addr, len, |model, memory, line| {
            model.weakly(who, line, |model| model.clean_line(memory, who, line))
        })
    }

    /// Invalidates every line that the range touches; dirty bytes are lost (ivac, cbo.inval).
    ///
    /// # Errors
    /// If the range is not wholly in memory.
    pub fn invalidate<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        self.maintain(memory, who, addr, len, |model, memory, line| {
            model.adversary_sees_invalidation(memory, line)?;
            model.drop_line(memory, who, line)
        })
    }

    /// Cleans and invalidates every line that the range touches (clflush, civac, cbo.flush).
    ///
    /// # Errors
    /// If the range is not wholly in memory.
    pub fn flush<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        self.maintain(memory, who, addr, len, |model, memory, line| {
            model.coherence.pending.flushed(line);
            model.flush_line(memory, who, line)
        })
    }

    /// Cleans and invalidates every line that the range touches, weakly ordered (clflushopt): what is written back may not have
    /// reached RAM before `who`'s next [`CacheModel::fence`]. The lines are gone at once.
    ///
    /// # Errors
    /// If the range is not wholly in memory.
    pub fn flush_weakly<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        self.maintain(memory, who, addr, len, |model, memory, line| {
            model.weakly(who, line, |model| model.flush_line(memory, who, line))
        })
    }

    /// Flushes the whole cache (wbinvd).
    ///
    /// # Errors
    /// If a resident line is no longer memory.
    pub fn write_back_invalidate_all<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
    ) -> Result<(), OutOfRange> {
        self.now = who.stamp;
        for line in self.lines.resident() {
            if let Some(slot) = self.lines.find(line) {
                self.write_back(memory, Some(who), slot)?;
                self.lines.leave(memory, slot)?;
            }
            self.coherence.happened(line, EventKind::Flush, Some(who), who.stamp);
        }
        self.coherence.all_flushed(&mut self.lines, memory)
    }

    /// Invalidates the whole cache; all dirty bytes are lost (invd).
    ///
    /// # Errors
    /// If a resident line is no longer memory.
    pub fn invalidate_all<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
    ) -> Result<(), OutOfRange> {
        self.now = who.stamp;
        let mut lines = self.lines.resident();
        lines.extend(self.coherence.concerned());
        lines.sort_unstable();
        lines.dedup();
        for line in lines {
            self.drop_line(memory, who, line)?;
            self.coherence.settle(&mut self.lines, memory, line)?;
        }
        Ok(())
    }

    /// Fills the line that holds `addr` at the time `stamp`, as speculation may at any time.
    ///
    /// # Errors
    /// If the line is not memory.
    pub fn fill<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        stamp: u64,
        addr: u64,
    ) -> Result<(), OutOfRange> {
        self.check(memory, addr, 1)?;
        self.now = stamp;
        self.speculate(memory, self.config.geometry().line_of(addr))
    }

    /// Evicts the line that holds `addr` at the time `stamp`, written back if dirty, as the cache may at any time.
    ///
    /// # Errors
    /// If the line is not memory.
    pub fn evict<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        stamp: u64,
        addr: u64,
    ) -> Result<(), OutOfRange> {
        self.check(memory, addr, 1)?;
        self.now = stamp;
        match self.lines.find(self.config.geometry().line_of(addr)) {
            Some(slot) => self.evict_slot(memory, None, slot),
            None => Ok(()),
        }
    }

    /// Writes the line that holds `addr` back at the time `stamp` if it is dirty, as the cache may at any time; it stays.
    ///
    /// # Errors
    /// If the line is not memory.
    pub fn write_back_line<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        stamp: u64,
        addr: u64,
    ) -> Result<(), OutOfRange> {
        self.check(memory, addr, 1)?;
        self.now = stamp;
        let line = self.config.geometry().line_of(addr);
        let Some(slot) = self.lines.find(line) else { return Ok(()) };
        self.write_back_early(memory, None, slot)?;
        self.coherence.settle(&mut self.lines, memory, line)
    }

    /// Brings an absent line in by the cache's own choice.
    pub(crate) fn speculate<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        line: u64,
    ) -> Result<(), OutOfRange> {
        if self.lines.find(line).is_none() {
            self.place(memory, None, line)?;
        }
        Ok(())
    }

    /// Brings a line that is absent from the first level into it, into the lowest invalid way or that of the policy's victim.
    pub(crate) fn place<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        by: Option<Writer>,
        line: u64,
    ) -> Result<usize, OutOfRange> {
        if let Some(by) = by.filter(|_| !self.coherence.is_watched(line))
            && let Some(slot) = self.place_quietly(by, line)
        {
            return Ok(slot);
        }
        let slot = self.lines.room(line);
        if let Some(from) = self.lines.find_second(line) {
            self.second_level_hits += 1;
            let carried = self.lines.take(from);
            self.make_way(memory, by, slot)?;
            self.lines.put(slot, &carried);
            return Ok(slot);
        }
        self.make_way(memory, by, slot)?;
        self.lines.occupy(slot, line, self.coherence.is_watched(line), by);
        self.counters.of(by.map(|by| by.agent)).fills += 1;
        self.coherence.happened(line, EventKind::Fill, by, self.now);
        Ok(slot)
    }

    /// Empties a slot of the first level: its line goes to the second, if there is one, where another may have to leave.
    fn make_way<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        by: Option<Writer>,
        slot: usize,
    ) -> Result<(), OutOfRange> {
        let Some(old) = self.lines.occupant(slot) else { return Ok(()) };
        let Some(to) = self.lines.second_room(old) else { return self.evict_slot(memory, by, slot) };
        if self.lines.occupant(to).is_some() {
            self.evict_slot(memory, by, to)?;
        }
        let carried = self.lines.take(slot);
        self.lines.put(to, &carried);
        Ok(())
    }

    /// A line leaves by the cache's own choice, for which an access may be the reason.
    pub(crate) fn evict_slot<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        by: Option<Writer>,
        slot: usize,
    ) -> Result<(), OutOfRange> {
        let Some(line) = self.lines.occupant(slot) else { return Ok(()) };
        self.counters.of(by.map(|by| by.agent)).evictions += 1;
        self.write_back_early(memory, by, slot)?;
        self.lines.leave(memory, slot)?;
        self.coherence.happened(line, EventKind::Evict, by, self.now);
        self.coherence.settle(&mut self.lines, memory, line)
    }

    /// A dirty line is written back by the cache's own choice: under another schedule it might not have been.
    pub(crate) fn write_back_early<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        by: Option<Writer>,
        slot: usize,
    ) -> Result<(), OutOfRange> {
        if !self.lines.dirty(slot).is_empty() {
            self.coherence.spill(&self.lines, slot, self.now);
            self.write_back(memory, by, slot)?;
        }
        Ok(())
    }

    /// A line is written back if it is dirty.
    pub(crate) fn write_back<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        by: Option<Writer>,
        slot: usize,
    ) -> Result<(), OutOfRange> {
        if self.lines.clean(memory, slot)? {
            self.counters.of(by.map(|by| by.agent)).writebacks += 1;
            if let Some(line) = self.lines.occupant(slot) {
                self.coherence.happened(line, EventKind::WriteBack, by, self.now);
            }
        }
        Ok(())
    }

    fn clean_line<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        line: u64,
    ) -> Result<(), OutOfRange> {
        if let Some(slot) = self.lines.find(line) {
            self.write_back(memory, Some(who), slot)?;
        }
        self.coherence.cleaned(&mut self.lines, line);
        self.coherence.happened(line, EventKind::Clean, Some(who), who.stamp);
        Ok(())
    }

    fn flush_line<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        line: u64,
    ) -> Result<(), OutOfRange> {
        if let Some(slot) = self.lines.find(line) {
            self.write_back(memory, Some(who), slot)?;
            self.lines.leave(memory, slot)?;
        }
        self.coherence.flushed(line);
        self.coherence.happened(line, EventKind::Flush, Some(who), who.stamp);
        Ok(())
    }

    /// Makes a line be written back. The bytes that nothing but that would have brought to RAM are on their way.
    fn weakly(
        &mut self,
        who: Writer,
        line: u64,
        written_back: impl FnOnce(&mut Self) -> Result<(), OutOfRange>,
    ) -> Result<(), OutOfRange> {
        let sent = self.coherence.writers(&self.lines, line, self.coherence.stored(&self.lines, line));
        written_back(self)?;
        if let Agent::Cpu(cpu) = who.agent {
            for run in sent {
                let bytes = ByteMask::range(run.offset, run.len);
                self.coherence.sent(&mut self.lines, (cpu, Wait::Fence), line, bytes, run.writer);
            }
        }
        Ok(())
    }

    fn drop_line<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        line: u64,
    ) -> Result<(), OutOfRange> {
        self.coherence.invalidating(&mut self.lines, memory, line)?;
        if let Some(slot) = self.lines.find(line) {
            self.lines.leave(memory, slot)?;
        }
        self.coherence.happened(line, EventKind::Invalidate, Some(who), who.stamp);
        Ok(())
    }

    fn maintain<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        len: u64,
        operation: impl Fn(&mut Self, &mut M, u64) -> Result<(), OutOfRange>,
    ) -> Result<(), OutOfRange> {
        self.check(memory, addr, len)?;
        self.now = who.stamp;
        for span in self.config.geometry().spans(addr, len) {
            operation(self, memory, span.line)?;
            self.coherence.settle(&mut self.lines, memory, span.line)?;
        }
        Ok(())
    }
}
