//! The cache as its users see it: CPU accesses, cache maintenance, DMA, and the schedule's fills and evictions.

use serde::{Deserialize, Serialize};

use crate::coherence::{Coherence, Overflow, WriteKind};
use crate::config::{Config, WritePolicy};
use crate::finding::{Agent, Finding, Writer};
use crate::geometry::Span;
use crate::lines::{Lines, Stats};
use crate::memory::{Memory, OutOfRange};
use crate::record::Path;

/// A memory type as x86 page attributes and MTRRs have them (Intel SDM volume 3, "Memory types"), plus the
/// non-temporal hint on write-back memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryType {
    /// Write-back.
    #[default]
    WriteBack,
    /// Write-through: loads are cached, stores go to RAM at once.
    WriteThrough,
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
/// Accesses are split at line boundaries. An access that is not wholly in memory does nothing and is an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CacheModel {
    config: Config,
    lines: Lines,
    coherence: Coherence,
    stamp: u64,
}

impl CacheModel {
    /// A cache in which no line is resident: both views of memory are what the embedder's memory holds.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, lines: Lines::new(config), coherence: Coherence::new(config), stamp: 0 }
    }

    /// What is modelled.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// Sets the time, in a unit of the embedder's choice, that findings and writers carry from now on.
    pub fn set_stamp(&mut self, stamp: u64) {
        self.stamp = stamp;
    }

    /// Counters since the model was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.lines.stats()
    }

    /// What the limits made the model forget.
    #[must_use]
    pub fn overflow(&self) -> Overflow {
        self.coherence.overflow()
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

    /// A CPU load of `buf.len()` bytes.
    ///
    /// # Errors
    /// If the access is not wholly in memory.
    pub fn load<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        cpu: u32,
        addr: u64,
        buf: &mut [u8],
        kind: MemoryType,
    ) -> Result<(), OutOfRange> {
        let path = match kind {
            MemoryType::WriteBack | MemoryType::WriteThrough | MemoryType::NonTemporal => Path::Cache,
            MemoryType::WriteCombining | MemoryType::Uncached => Path::Ram,
        };
        self.check(memory, addr, buf.len() as u64)?;
        for (span, part) in self.parts_mut(addr, buf) {
            if path == Path::Cache {
                self.lines.load(memory, span.line)?;
            }
            self.read(memory, Agent::Cpu(cpu), path, span, part)?;
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
        cpu: u32,
        addr: u64,
        data: &[u8],
        kind: MemoryType,
    ) -> Result<(), OutOfRange> {
        let write = match (kind, self.config.write()) {
            (MemoryType::WriteBack, WritePolicy::Back) => WriteKind::Back,
            (MemoryType::WriteBack, WritePolicy::Through) | (MemoryType::WriteThrough, _) => {
                WriteKind::Through
            }
            (MemoryType::WriteCombining | MemoryType::Uncached, _) => WriteKind::Bypass,
            (MemoryType::NonTemporal, _) => WriteKind::Flushing,
        };
        let waits = matches!(kind, MemoryType::WriteCombining | MemoryType::NonTemporal);
        self.check(memory, addr, data.len() as u64)?;
        for (span, part) in self.parts(addr, data) {
            self.write(memory, Agent::Cpu(cpu), write, span, part)?;
            if waits {
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
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        self.maintain(memory, addr, len, |model, memory, line| {
            model.lines.clean(memory, line)?;
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
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        self.maintain(memory, addr, len, |model, memory, line| {
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
        addr: u64,
        len: u64,
    ) -> Result<(), OutOfRange> {
        self.maintain(memory, addr, len, |model, memory, line| {
            model.lines.flush(memory, line)?;
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
    ) -> Result<(), OutOfRange> {
        for line in self.lines.resident() {
            self.lines.flush(memory, line)?;
            self.settle(memory, line)?;
        }
        self.coherence.all_flushed();
        Ok(())
    }

    /// Invalidates the whole cache; all dirty bytes are lost (invd).
    ///
    /// # Errors
    /// If a resident line is no longer memory.
    pub fn invalidate_all<M: Memory + ?Sized>(&mut self, memory: &mut M) -> Result<(), OutOfRange> {
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
        self.lines.fill(memory, self.config.geometry().line_of(addr))
    }

    /// Evicts the line that holds `addr`, written back if dirty, as the cache may at any time.
    ///
    /// # Errors
    /// If the line is not memory.
    pub fn evict<M: Memory + ?Sized>(&mut self, memory: &mut M, addr: u64) -> Result<(), OutOfRange> {
        self.check(memory, addr, 1)?;
        let line = self.config.geometry().line_of(addr);
        self.lines.evict(memory, line)?;
        self.settle(memory, line)
    }

    /// A device's read of `buf.len()` bytes.
    ///
    /// # Errors
    /// If the access is not wholly in memory.
    pub fn dma_read<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        device: u32,
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
            self.read(memory, Agent::Device(device), path, span, part)?;
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
        device: u32,
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
            self.write(memory, Agent::Device(device), write, span, part)?;
        }
        Ok(())
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
        observer: Agent,
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
            self.coherence.observed((observer, self.stamp), path, span, buf, (&cpu, &ram));
        }
        Ok(())
    }

    fn write<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        agent: Agent,
        kind: WriteKind,
        span: Span,
        data: &[u8],
    ) -> Result<(), OutOfRange> {
        match kind {
            WriteKind::Back => self.lines.store_back(memory, span, data)?,
            WriteKind::Through => self.lines.store_through(memory, span, data)?,
            WriteKind::Bypass => self.lines.write_ram(memory, span, data)?,
            WriteKind::Flushing => self.lines.write_both(memory, span, data)?,
        }
        self.coherence.wrote(span, data, kind, Writer { agent, stamp: self.stamp });
        self.settle(memory, span.line)
    }

    fn maintain<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
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
