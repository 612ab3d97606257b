//! The two-view state: residency, dirtiness and shadows of the lines in the cache.
//!
//! C is the CPU's view, the embedder's [`Memory`]. S, a line's *shadow*, is what RAM holds where that differs (or may
//! differ) from C; only a resident line has one, and it lives in the line's (set, way) slot. RAM is S if present, else C.
//! No rule here depends on who may be wrong: that is `coherence`.

use serde::{Deserialize, Serialize};

use crate::config::{Config, WriteBack};
use crate::finding::Agent;
use crate::geometry::{MAX_LINE, Span};
use crate::mask::ByteMask;
use crate::memory::{Memory, OutOfRange};
use crate::policy::Replacement;
use crate::stats::{Counters, Stats};

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Slot {
    /// The resident line's number.
    line: Option<u64>,
    /// The bytes stored since the last write-back; the line is dirty if there are any.
    dirty: ByteMask,
    shadowed: bool,
}

/// Every line of the cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lines {
    config: Config,
    /// Slot of (set, way): `set * ways + way`.
    slots: Vec<Slot>,
    /// A line of bytes for each slot; meaningful where the slot is shadowed.
    shadows: Vec<u8>,
    replacement: Replacement,
    counters: Counters,
}

/// A copy of one line.
#[derive(Debug)]
pub struct LineBytes {
    bytes: [u8; MAX_LINE],
    len: usize,
}

impl LineBytes {
    fn new(len: usize) -> Self {
        Self { bytes: [0; MAX_LINE], len: len.min(MAX_LINE) }
    }

    /// The whole line.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl Lines {
    pub fn new(config: Config) -> Self {
        let geometry = config.geometry();
        Self {
            config,
            slots: vec![Slot::default(); geometry.lines()],
            shadows: vec![0; geometry.lines() * geometry.line()],
            replacement: Replacement::new(config.policy(), geometry),
            counters: Counters::default(),
        }
    }

    pub fn stats(&self) -> Stats {
        self.counters.sum()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn dirty(&self, line: u64) -> ByteMask {
        self.find(line).map_or(ByteMask::EMPTY, |slot| self.slot(slot).dirty)
    }

    pub fn is_resident(&self, line: u64) -> bool {
        self.find(line).is_some()
    }

    pub fn is_dirty(&self, line: u64) -> bool {
        self.find(line).is_some_and(|slot| !self.slot(slot).dirty.is_empty())
    }

    /// The numbers of all resident lines, in slot order.
    pub fn resident(&self) -> Vec<u64> {
        self.slots.iter().filter_map(|slot| slot.line).collect()
    }

    /// A cacheable load's effect on residency; its bytes are then those of C.
    pub fn load<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        agent: Agent,
        line: u64,
    ) -> Result<(), OutOfRange> {
        if self.hit(line).is_some() {
            self.counters.of(Some(agent)).load_hits += 1;
        } else {
            self.counters.of(Some(agent)).load_misses += 1;
            self.place(memory, Some(agent), line)?;
        }
        Ok(())
    }

    /// A write-back store.
    pub fn store_back<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        agent: Agent,
        span: Span,
        data: &[u8],
    ) -> Result<(), OutOfRange> {
        let slot = match self.count_store(agent, span.line) {
            None if self.config.allocates() => Some(self.place(memory, Some(agent), span.line)?),
            found => found,
        };
        if let Some(slot) = slot {
            self.diverge(memory, span.line, slot)?;
            let written = ByteMask::range(span.offset, span.len);
            self.change(slot, |state| state.dirty = state.dirty.or(written));
        }
        memory.write(span.addr, data)
    }

    /// A write-through store: it never allocates.
    pub fn store_through<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        agent: Agent,
        span: Span,
        data: &[u8],
    ) -> Result<(), OutOfRange> {
        if let Some(slot) = self.count_store(agent, span.line)
            && self.slot(slot).shadowed
        {
            self.write_shadow(slot, span, data);
        }
        memory.write(span.addr, data)
    }

    /// A write that RAM sees and the cache does not: UC and WC stores, no-snoop DMA.
    pub fn write_ram<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        span: Span,
        data: &[u8],
    ) -> Result<(), OutOfRange> {
        let Some(slot) = self.find(span.line) else { return memory.write(span.addr, data) };
        self.diverge(memory, span.line, slot)?;
        self.write_shadow(slot, span, data);
        Ok(())
    }

    /// A write that both see, leaving the line absent: snooped DMA, non-temporal stores.
    pub fn write_both<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        agent: Agent,
        span: Span,
        data: &[u8],
    ) -> Result<(), OutOfRange> {
        self.flush(memory, Some(agent), span.line)?;
        memory.write(span.addr, data)
    }

    /// Reads RAM's bytes, disturbing nothing.
    pub fn read_ram<M: Memory + ?Sized>(
        &self,
        memory: &M,
        span: Span,
        buf: &mut [u8],
    ) -> Result<(), OutOfRange> {
        match self.find(span.line).filter(|&slot| self.slot(slot).shadowed) {
            None => memory.read(span.addr, buf),
            Some(slot) => {
                let shadow = self.shadow(slot).get(span.offset..).unwrap_or_default();
                for (to, from) in buf.iter_mut().zip(shadow) {
                    *to = *from;
                }
                Ok(())
            }
        }
    }

    /// Both views of a whole line: the CPU's and RAM's.
    pub fn views<M: Memory + ?Sized>(
        &self,
        memory: &M,
        line: u64,
    ) -> Result<(LineBytes, LineBytes), OutOfRange> {
        let geometry = self.config.geometry();
        let (mut cpu, mut ram) = (LineBytes::new(geometry.line()), LineBytes::new(geometry.line()));
        let addr = geometry.base(line);
        memory.read(addr, cpu.as_mut_slice())?;
        self.read_ram(memory, Span { line, addr, offset: 0, len: geometry.line() }, ram.as_mut_slice())?;
        Ok((cpu, ram))
    }

    /// Brings a line in as a speculative access would; nothing happens if it is resident.
    pub fn fill<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        agent: Option<Agent>,
        line: u64,
    ) -> Result<(), OutOfRange> {
        if !self.is_resident(line) {
            self.place(memory, agent, line)?;
        }
        Ok(())
    }

    /// Writes a dirty line back; it stays resident.
    pub fn clean<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        agent: Option<Agent>,
        line: u64,
    ) -> Result<(), OutOfRange> {
        let Some(slot) = self.find(line) else { return Ok(()) };
        let dirty = self.slot(slot).dirty;
        if dirty.is_empty() {
            return Ok(());
        }
        let mut shadowed = false;
        if self.config.write_back() == WriteBack::Bytes && self.slot(slot).shadowed {
            let (cpu, _) = self.views(memory, line)?;
            let shadow = self.shadow_mut(slot);
            for ((offset, to), from) in shadow.iter_mut().enumerate().zip(cpu.as_slice()) {
                if dirty.contains(offset) {
                    *to = *from;
                }
            }
            shadowed = shadow != cpu.as_slice();
        }
        self.change(slot, |state| {
            state.dirty = ByteMask::EMPTY;
            state.shadowed = shadowed;
        });
        self.counters.of(agent).writebacks += 1;
        Ok(())
    }

    /// Drops a line; dirty bytes are lost and RAM's come to light.
    pub fn invalidate<M: Memory + ?Sized>(&mut self, memory: &mut M, line: u64) -> Result<(), OutOfRange> {
        let Some(slot) = self.find(line) else { return Ok(()) };
        if self.slot(slot).shadowed {
            let (cpu, ram) = self.views(memory, line)?;
            if cpu.as_slice() != ram.as_slice() {
                memory.write(self.config.geometry().base(line), ram.as_slice())?;
            }
        }
        self.change(slot, |state| *state = Slot::default());
        Ok(())
    }

    /// Writes a dirty line back and drops it.
    pub fn flush<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        agent: Option<Agent>,
        line: u64,
    ) -> Result<(), OutOfRange> {
        self.clean(memory, agent, line)?;
        self.invalidate(memory, line)
    }

    /// As [`Lines::flush`], by the cache's own choice.
    pub fn evict<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        agent: Option<Agent>,
        line: u64,
    ) -> Result<(), OutOfRange> {
        if self.is_resident(line) {
            self.counters.of(agent).evictions += 1;
            self.flush(memory, agent, line)?;
        }
        Ok(())
    }

    fn find(&self, line: u64) -> Option<usize> {
        let geometry = self.config.geometry();
        let first = geometry.set_of(line) * geometry.ways();
        let mut ways = self.slots.iter().skip(first).take(geometry.ways());
        ways.position(|slot| slot.line == Some(line)).map(|way| first + way)
    }

    /// Finds a line for a CPU access, which the replacement policy hears of.
    fn hit(&mut self, line: u64) -> Option<usize> {
        let slot = self.find(line)?;
        let ways = self.config.geometry().ways();
        self.replacement.touched(slot / ways, slot % ways);
        Some(slot)
    }

    fn count_store(&mut self, agent: Agent, line: u64) -> Option<usize> {
        let slot = self.hit(line);
        if slot.is_some() {
            self.counters.of(Some(agent)).store_hits += 1;
        } else {
            self.counters.of(Some(agent)).store_misses += 1;
        }
        slot
    }

    /// Makes an absent line resident in the lowest invalid way, or in the policy's victim. C already holds RAM's bytes.
    fn place<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        agent: Option<Agent>,
        line: u64,
    ) -> Result<usize, OutOfRange> {
        let geometry = self.config.geometry();
        let set = geometry.set_of(line);
        let first = set * geometry.ways();
        let free = self.slots.iter().skip(first).take(geometry.ways()).position(|slot| slot.line.is_none());
        let way = match free {
            Some(way) => way,
            None => {
                let way = self.replacement.victim(set);
                if let Some(old) = self.slot(first + way).line {
                    self.evict(memory, agent, old)?;
                }
                way
            }
        };
        self.change(first + way, |state| state.line = Some(line));
        self.replacement.filled(set, way);
        self.counters.of(agent).fills += 1;
        Ok(first + way)
    }

    /// From now on this resident line's two views may differ.
    fn diverge<M: Memory + ?Sized>(&mut self, memory: &M, line: u64, slot: usize) -> Result<(), OutOfRange> {
        if !self.slot(slot).shadowed {
            let base = self.config.geometry().base(line);
            memory.read(base, self.shadow_mut(slot))?;
            self.change(slot, |state| state.shadowed = true);
        }
        Ok(())
    }

    fn write_shadow(&mut self, slot: usize, span: Span, data: &[u8]) {
        for (to, from) in self.shadow_mut(slot).iter_mut().skip(span.offset).zip(data) {
            *to = *from;
        }
    }

    fn slot(&self, slot: usize) -> Slot {
        self.slots.get(slot).copied().unwrap_or_default()
    }

    fn change(&mut self, slot: usize, change: impl FnOnce(&mut Slot)) {
        if let Some(state) = self.slots.get_mut(slot) {
            change(state);
        }
    }

    fn shadow(&self, slot: usize) -> &[u8] {
        let size = self.config.geometry().line();
        self.shadows.get(slot * size..(slot + 1) * size).unwrap_or_default()
    }

    fn shadow_mut(&mut self, slot: usize) -> &mut [u8] {
        let size = self.config.geometry().line();
        self.shadows.get_mut(slot * size..(slot + 1) * size).unwrap_or_default()
    }
}
