//! The cache as its users see it: CPU accesses, cache maintenance, DMA, and the schedule's fills and evictions.

use serde::{Deserialize, Serialize};

use crate::coherence::{Coherence, Overflow, WriteKind};
use crate::config::{Config, WritePolicy};
use crate::finding::{Agent, Finding, LineState, Path, Writer};
use crate::geometry::{MAX_LINE, Span};
use crate::lines::{LineBytes, Lines};
use crate::memory::{Memory, OutOfRange};
use crate::stats::{MAX_AGENTS, Stats};

/// A memory type as x86 page attributes and MTRRs have them (Intel SDM volume 3, "Memory types"), plus the
/// non-temporal hint on write-back memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryType {
    /// Write-back.
    #[default]
    WriteBack,
    /// Write-through: loads are cached, stores go to RAM at once.
    WriteThrough,
    /// Write-protected: loads are cached, stores go past the cache.
    WriteProtected,
    /// Write-combining: past the cache; stores may wait for a fence.
    WriteCombining,
    /// Uncached.
    Uncached,
    /// A non-temporal access to write-back memory: a load is an ordinary one, a store flushes the line and goes to RAM.
    NonTemporal,
}

/// Does a DMA transaction look into the caches?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Snoop {
    /// Yes: it is coherent.
    Snoop,
    /// No: it sees and changes RAM only.
    NoSnoop,
}

/// A modelled cache over an embedder's [`Memory`], which every method gets for the time of the call.
///
/// Every access says whose it is ([`Writer`]): that is the provenance of written bytes, the observer of findings and the
/// account in the statistics. Accesses are split at line boundaries. An access that is not wholly in memory does nothing and is an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CacheModel {
    config: Config,
    lines: Lines,
    coherence: Coherence,
    /// The line of each vCPU's last instruction fetch.
    fetched: Vec<Option<u64>>,
}

/// The longest atomic operation of a device, in bytes (PCI Express: a 128-bit compare-and-swap).
pub const MAX_ATOMIC: usize = 16;

impl MemoryType {
    fn load_path(self) -> Path {
        match self {
            Self::WriteBack | Self::WriteThrough | Self::WriteProtected | Self::NonTemporal => Path::Cache,
            Self::WriteCombining | Self::Uncached => Path::Ram,
        }
    }
}

impl CacheModel {
    /// A cache in which no line is resident: both views of memory are what the embedder's memory holds.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, lines: Lines::new(config), coherence: Coherence::new(config), fetched: Vec::new() }
    }

    /// What is modelled.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// The adversarial schedule, if one is configured, acts from now on. The same seed makes the same choices.
    pub fn start_schedule(&mut self, _seed: u64) {}

    /// Counters since the model was made: the CPUs' hits and misses, and everybody's fills, evictions and write-backs.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.lines.stats()
    }

    /// Counters of each vCPU and device that has caused anything, CPUs first.
    #[must_use]
    pub fn stats_by_agent(&self) -> Vec<(Agent, Stats)> {
        self.lines.counters().by_agent()
    }

    /// Loads and stores that missed the first level and found their line in the second.
    #[must_use]
    pub fn second_level_hits(&self) -> u64 {
        0
    }

    /// What the limits made the model forget.
    #[must_use]
    pub fn overflow(&self) -> Overflow {
        self.coherence.overflow()
    }

    /// True if there are findings to take.
    #[must_use]
    pub fn has_findings(&self) -> bool {
        self.coherence.has_findings()
    }

    /// The findings since the last call, oldest first.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        self.coherence.take_findings()
    }

    /// True if the line that holds `addr` is resident.
    #[must_use]
    pub fn is_resident(&self, addr: u64) -> bool {
        self.lines.is_resident(self.config.geometry().line_of(addr))
    }

    /// True if the line that holds `addr` is resident and dirty.
    #[must_use]
    pub fn is_dirty(&self, addr: u64) -> bool {
        self.lines.is_dirty(self.config.geometry().line_of(addr))
    }

    /// The quick way for a load of write-back memory: true if there is nothing to do but to read the CPU's view, because
    /// the line is resident and in no doubt. The hit is then counted. Else nothing has happened: use
    /// [`CacheModel::load`].
    #[inline]
    pub fn load_hit(&mut self, _cpu: u32, _addr: u64, _len: usize) -> bool {
        false
    }

    /// The quick way for a store to write-back memory: true if there is nothing to do but to write the CPU's view, because
    /// the line is resident, dirty and in no doubt. The hit is then counted, and the bytes are the writer's. Else nothing
    /// has happened: use [`CacheModel::store`].
    #[inline]
    pub fn store_hit(&mut self, _writer: Writer, _addr: u64, _len: usize) -> bool {
        false
    }

    /// The quick way for an instruction fetch: true if the line is the vCPU's last fetched one, or a load would hit it
    /// quickly. Else nothing has happened: use [`CacheModel::fetch`].
    #[inline]
    pub fn fetch_hit(&mut self, _cpu: u32, _addr: u64) -> bool {
        false
    }

    /// An instruction fetch of `len` bytes. It is an access to the cache where the line differs from the vCPU's last fetched
    /// one; the bytes are looked at in any case.
    ///
    /// # Errors
    /// If the access is not wholly in memory.
    pub fn fetch<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        len: usize,
        kind: MemoryType,
    ) -> Result<(), OutOfRange> {
        self.check(memory, addr, len as u64)?;
        let path = kind.load_path();
        for span in self.config.geometry().spans(addr, len as u64) {
            if path == Path::Cache && self.turns_to(who.agent, span.line) {
                self.lines.load(memory, who.agent, span.line)?;
            }
            let mut bytes = [0; MAX_LINE];
            let bytes = bytes.get_mut(..span.len).unwrap_or_default();
            self.read(memory, who, path, span, bytes)?;
        }
        Ok(())
    }

    /// Notes a vCPU's fetched line; true if it is another than its last one.
    fn turns_to(&mut self, agent: Agent, line: u64) -> bool {
        let Agent::Cpu(cpu) = agent else { return true };
        let index = cpu as usize;
        if index >= MAX_AGENTS {
            return true;
        }
        if index >= self.fetched.len() {
            self.fetched.resize(index + 1, None);
        }
        let last = self.fetched.get_mut(index).and_then(|last| last.replace(line));
        last != Some(line)
    }

    /// A CPU load of `buf.len()` bytes.
    ///
    /// # Errors
    /// If the access is not wholly in memory.
    pub fn load<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        buf: &mut [u8],
        kind: MemoryType,
    ) -> Result<(), OutOfRange> {
        let path = kind.load_path();
        self.check(memory, addr, buf.len() as u64)?;
        for (span, part) in self.parts_mut(addr, buf) {
            if path == Path::Cache {
                self.lines.load(memory, who.agent, span.line)?;
            }
            self.read(memory, who, path, span, part)?;
        }
        Ok(())
    }

    /// A CPU store of `data`.
    ///
    /// # Errors
    /// If the access is not wholly in memory.
    pub fn store<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        data: &[u8],
        kind: MemoryType,
    ) -> Result<(), OutOfRange> {
        let write = match (kind, self.config.write()) {
            (MemoryType::WriteBack, WritePolicy::Back) => WriteKind::Back,
            (MemoryType::WriteBack, WritePolicy::Through) | (MemoryType::WriteThrough, _) => {
                WriteKind::Through
            }
            (MemoryType::WriteProtected | MemoryType::WriteCombining | MemoryType::Uncached, _) => {
                WriteKind::Bypass
            }
            (MemoryType::NonTemporal, _) => WriteKind::Flushing,
        };
        let waits = matches!(kind, MemoryType::WriteCombining | MemoryType::NonTemporal);
        self.check(memory, addr, data.len() as u64)?;
        for (span, part) in self.parts(addr, data) {
            self.write(memory, who, write, span, part)?;
            if waits && let Agent::Cpu(cpu) = who.agent {
                self.coherence.unfenced(cpu, span);
            }
        }
        Ok(())
    }

    /// Orders this CPU's write-combining and non-temporal stores: they are in RAM now.
    pub fn fence(&mut self, cpu: u32) {
        self.coherence.fenced(cpu);
    }

    /// Cleans every line that the range touches (clwb, cvac, cbo.clean).
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
        self.maintain(memory, who, addr, len, |model, memory, line| {
            model.lines.clean(memory, Some(who.agent), line)?;
            model.coherence.cleaned(line);
            Ok(())
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
            model.lines.invalidate(memory, line)?;
            model.coherence.invalidated(line);
            Ok(())
        })
    }

    /// Cleans and invalidates every line that the range touches (clflush, clflushopt, civac, cbo.flush).
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
            model.lines.flush(memory, Some(who.agent), line)?;
            model.coherence.flushed(line);
            Ok(())
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
        for line in self.lines.resident() {
            self.lines.flush(memory, Some(who.agent), line)?;
            self.settle(memory, line)?;
        }
        self.coherence.all_flushed();
        Ok(())
    }

    /// Invalidates the whole cache; all dirty bytes are lost (invd).
    ///
    /// # Errors
    /// If a resident line is no longer memory.
    pub fn invalidate_all<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        _who: Writer,
    ) -> Result<(), OutOfRange> {
        for line in self.lines.resident() {
            self.lines.invalidate(memory, line)?;
            self.settle(memory, line)?;
        }
        self.coherence.all_invalidated();
        Ok(())
    }

    /// Fills the line that holds `addr`, as speculation may at any time.
    ///
    /// # Errors
    /// If the line is not memory.
    pub fn fill<M: Memory + ?Sized>(&mut self, memory: &mut M, addr: u64) -> Result<(), OutOfRange> {
        self.check(memory, addr, 1)?;
        self.lines.fill(memory, None, self.config.geometry().line_of(addr))
    }

    /// Evicts the line that holds `addr`, written back if dirty, as the cache may at any time.
    ///
    /// # Errors
    /// If the line is not memory.
    pub fn evict<M: Memory + ?Sized>(&mut self, memory: &mut M, addr: u64) -> Result<(), OutOfRange> {
        self.check(memory, addr, 1)?;
        let line = self.config.geometry().line_of(addr);
        self.lines.evict(memory, None, line)?;
        self.settle(memory, line)
    }

    /// A device's read of `buf.len()` bytes.
    ///
    /// # Errors
    /// If the access is not wholly in memory.
    pub fn dma_read<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        buf: &mut [u8],
        snoop: Snoop,
    ) -> Result<(), OutOfRange> {
        let path = match snoop {
            Snoop::Snoop => Path::Cache,
            Snoop::NoSnoop => Path::Ram,
        };
        self.check(memory, addr, buf.len() as u64)?;
        for (span, part) in self.parts_mut(addr, buf) {
            self.read(memory, who, path, span, part)?;
        }
        Ok(())
    }

    /// A device's write of `data`.
    ///
    /// # Errors
    /// If the access is not wholly in memory.
    pub fn dma_write<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        data: &[u8],
        snoop: Snoop,
    ) -> Result<(), OutOfRange> {
        let write = match snoop {
            Snoop::Snoop => WriteKind::Flushing,
            Snoop::NoSnoop => WriteKind::Bypass,
        };
        self.check(memory, addr, data.len() as u64)?;
        for (span, part) in self.parts(addr, data) {
            self.write(memory, who, write, span, part)?;
        }
        Ok(())
    }

    /// A device's atomic operation on up to [`MAX_ATOMIC`] bytes of one line: `change` gets what the device reads and leaves
    /// there what it writes. No schedule acts in between.
    ///
    /// # Errors
    /// If the access is not wholly in memory, is longer, or crosses a line.
    pub fn dma_atomic<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        len: usize,
        snoop: Snoop,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<(), OutOfRange> {
        let mut bytes = [0; MAX_ATOMIC];
        let outside = OutOfRange { addr, len: len as u64 };
        let buf = bytes.get_mut(..len).ok_or(outside)?;
        if self.config.geometry().spans(addr, len as u64).count() != 1 {
            return Err(outside);
        }
        self.dma_read(memory, who, addr, buf, snoop)?;
        change(buf);
        self.dma_write(memory, who, addr, buf, snoop)
    }

    /// Lines of which the model has not seen the past: they raise nothing until they are cleaned, flushed or stored to. For
    /// embedders that show it only a part of memory, and add to that.
    ///
    /// # Errors
    /// If the range is not wholly in memory.
    pub fn enter_unknown<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        self.check(memory, addr, len)
    }

    /// Observations that were not judged because their line's past is unknown.
    #[must_use]
    pub fn unjudged(&self) -> u64 {
        0
    }

    /// All that is known of the line that holds `addr`, disturbing nothing.
    ///
    /// # Errors
    /// If the line is not memory.
    pub fn line_state<M: Memory + ?Sized>(&self, memory: &M, addr: u64) -> Result<LineState, OutOfRange> {
        self.check(memory, addr, 1)?;
        let line = self.config.geometry().line_of(addr);
        let (cpu, ram) = self.lines.views(memory, line)?;
        Ok(self.state(line, &cpu, &ram))
    }

    fn state(&self, line: u64, cpu: &LineBytes, ram: &LineBytes) -> LineState {
        let mut state = LineState {
            addr: self.config.geometry().base(line),
            cpu: cpu.as_slice().to_vec(),
            ram: ram.as_slice().to_vec(),
            coherent: cpu.as_slice().to_vec(),
            resident: self.lines.is_resident(line),
            dirty: self.lines.dirty(line),
            ..LineState::default()
        };
        self.coherence.describe(line, &mut state);
        state
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
    fn check<M: Memory + ?Sized>(&self, memory: &M, addr: u64, len: u64) -> Result<(), OutOfRange> {
        let outside = OutOfRange { addr, len };
        let Some(last) = len.checked_sub(1) else { return Ok(()) };
        let last = addr.checked_add(last).ok_or(outside)?;
        let geometry = self.config.geometry();
        let start = geometry.base(geometry.line_of(addr));
        let size = geometry.base(geometry.line_of(last)).saturating_sub(start);
        let size = size.saturating_add(geometry.line() as u64);
        if memory.covers(start, size) { Ok(()) } else { Err(outside) }
    }

    fn parts<'a>(&self, addr: u64, data: &'a [u8]) -> impl Iterator<Item = (Span, &'a [u8])> + use<'a> {
        let mut rest = data;
        self.config.geometry().spans(addr, data.len() as u64).map_while(move |span| {
            let (part, tail) = rest.split_at_checked(span.len)?;
            rest = tail;
            Some((span, part))
        })
    }

    fn parts_mut<'a>(
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

    fn read<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        observer: Writer,
        path: Path,
        span: Span,
        buf: &mut [u8],
    ) -> Result<(), OutOfRange> {
        match path {
            Path::Cache => memory.read(span.addr, buf)?,
            Path::Ram => self.lines.read_ram(memory, span, buf)?,
        }
        if self.coherence.is_tracked(span.line) {
            let (cpu, ram) = self.lines.views(memory, span.line)?;
            let state = self.state(span.line, &cpu, &ram);
            self.coherence.observed(observer, path, span, buf, state);
        }
        Ok(())
    }

    fn write<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        writer: Writer,
        kind: WriteKind,
        span: Span,
        data: &[u8],
    ) -> Result<(), OutOfRange> {
        match kind {
            WriteKind::Back => self.lines.store_back(memory, writer.agent, span, data)?,
            WriteKind::Through => self.lines.store_through(memory, writer.agent, span, data)?,
            WriteKind::Bypass => self.lines.write_ram(memory, span, data)?,
            WriteKind::Flushing => self.lines.write_both(memory, writer.agent, span, data)?,
        }
        self.coherence.wrote(span, data, kind, writer);
        self.settle(memory, span.line)
    }

    fn maintain<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        _who: Writer,
        addr: u64,
        len: u64,
        operation: impl Fn(&mut Self, &mut M, u64) -> Result<(), OutOfRange>,
    ) -> Result<(), OutOfRange> {
        self.check(memory, addr, len)?;
        for span in self.config.geometry().spans(addr, len) {
            operation(self, memory, span.line)?;
            self.settle(memory, span.line)?;
        }
        Ok(())
    }

    fn settle<M: Memory + ?Sized>(&mut self, memory: &M, line: u64) -> Result<(), OutOfRange> {
        if self.coherence.is_unsettled(line) {
            let (cpu, ram) = self.lines.views(memory, line)?;
            self.coherence.settle(line, &cpu, &ram);
        }
        Ok(())
    }
}
