//! Accesses of CPUs and devices.

use serde::{Deserialize, Serialize};

use crate::coherence::WriteKind;
use crate::config::WritePolicy;
use crate::finding::{Agent, Path, Writer};
use crate::geometry::Span;
use crate::mask::ByteMask;
use crate::memory::{Memory, OutOfRange};
use crate::model::CacheModel;
use crate::pending::Wait;

/// The longest atomic operation of a device, in bytes (PCI Express: a 128-bit compare-and-swap).
pub const MAX_ATOMIC: usize = 16;

/// A memory type as x86 page attributes and MTRRs have them (Intel SDM volume 3, "Memory types"), plus the
/// non-temporal hint on write-back memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryType {
    /// Write-back.
    #[default]
    WriteBack,
    /// Write-through: loads are cached, stores go to RAM at once.
    WriteThrough,
    /// Write-protected: loads are cached, stores go past the cache and leave no copy in any.
    WriteProtected,
    /// Write-combining: past the cache; stores may wait for a fence.
    WriteCombining,
    /// Uncached.
    Uncached,
    /// A non-temporal access to write-back memory: a load is an ordinary one, a store flushes the line and goes to RAM.
    NonTemporal,
}

impl MemoryType {
    fn load_path(self) -> Path {
        match self {
            Self::WriteBack | Self::WriteThrough | Self::WriteProtected | Self::NonTemporal => Path::Cache,
            Self::WriteCombining | Self::Uncached => Path::Ram,
        }
    }
}

/// Does a DMA transaction look into the caches?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Snoop {
    /// Yes: it is coherent.
    Snoop,
    /// No: it sees and changes RAM only.
    NoSnoop,
}

impl Snoop {
    fn path(self) -> Path {
        match self {
            Self::Snoop => Path::Cache,
            Self::NoSnoop => Path::Ram,
        }
    }
}

impl CacheModel {
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
        self.check(memory, addr, buf.len() as u64)?;
        let path = kind.load_path();
        if path == Path::Cache && self.load_miss(who, addr, buf.len()) {
            return memory.read(addr, buf);
        }
        self.now = who.stamp;
        for (span, part) in self.parts_mut(addr, buf) {
            self.adversary_sees_read(memory, who, path, span)?;
            if path == Path::Cache {
                self.bring_for_load(memory, who, span.line)?;
            }
            self.observe(memory, who, path, span, part)?;
        }
        Ok(())
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
        self.now = who.stamp;
        let path = kind.load_path();
        for span in self.config.geometry().spans(addr, len as u64) {
            self.adversary_sees_read(memory, who, path, span)?;
            let cpu = if let Agent::Cpu(cpu) = who.agent { Some(cpu) } else { None };
            let again = cpu.is_some_and(|cpu| self.fetched.is(cpu, span.line));
            if path == Path::Cache && !again {
                self.bring_for_load(memory, who, span.line)?;
            }
            self.coherence.observed(&self.lines, memory, who, path, span)?;
            if let Some(cpu) = cpu {
                let sound = path == Path::Cache && !self.coherence.is_doubted(span.line);
                self.fetched.set(cpu, span.line, sound.then_some(self.coherence.doubts()));
            }
        }
        Ok(())
    }

    /// A CPU store of `data`. The load and the store of one locked operation are not split by a schedule if they share a
    /// stamp.
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
            (MemoryType::WriteCombining | MemoryType::Uncached, _) => WriteKind::Bypass,
            (MemoryType::WriteProtected | MemoryType::NonTemporal, _) => WriteKind::Flushing,
        };
        let waits = matches!(kind, MemoryType::WriteCombining | MemoryType::NonTemporal);
        self.check(memory, addr, data.len() as u64)?;
        if write == WriteKind::Back && self.store_quietly(memory, who, addr, data)? {
            return Ok(());
        }
        self.now = who.stamp;
        for (span, part) in self.parts(addr, data) {
            self.adversary_sees_write(memory, who, write, span)?;
            self.write(memory, who, write, span, part)?;
            if waits && let Agent::Cpu(cpu) = who.agent {
                let bytes = ByteMask::range(span.offset, span.len);
                self.coherence.sent(&mut self.lines, (cpu, Wait::Drain), span.line, bytes, who);
            }
        }
        Ok(())
    }

    /// Orders this CPU's write-combining and non-temporal stores and its weakly ordered flushes: their data are in RAM now.
    pub fn fence(&mut self, cpu: u32) {
        self.drain(cpu);
        self.coherence.arrived(&mut self.lines, cpu, Wait::Fence);
    }

    /// This CPU's write-combining and non-temporal stores are in RAM now; weakly ordered flushes may still be on their way.
    pub fn drain(&mut self, cpu: u32) {
        self.coherence.arrived(&mut self.lines, cpu, Wait::Drain);
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
        self.check(memory, addr, buf.len() as u64)?;
        self.now = who.stamp;
        for (span, part) in self.parts_mut(addr, buf) {
            self.adversary_sees_read(memory, who, snoop.path(), span)?;
            if snoop == Snoop::Snoop {
                let hit = self.lines.find(span.line).is_some();
                let stats = self.counters.of(Some(who.agent));
                *(if hit { &mut stats.load_hits } else { &mut stats.load_misses }) += 1;
            }
            self.observe(memory, who, snoop.path(), span, part)?;
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
        self.check(memory, addr, data.len() as u64)?;
        self.now = who.stamp;
        for (span, part) in self.parts(addr, data) {
            let write = match snoop {
                Snoop::Snoop => WriteKind::Flushing,
                Snoop::NoSnoop => WriteKind::Bypass,
            };
            if snoop == Snoop::Snoop {
                let hit = self.lines.find(span.line).is_some();
                let stats = self.counters.of(Some(who.agent));
                *(if hit { &mut stats.store_hits } else { &mut stats.store_misses }) += 1;
            }
            self.adversary_sees_write(memory, who, write, span)?;
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
        // The schedule has had its turn at this line in this access.
        self.dma_write(memory, who, addr, buf, snoop)
    }

    fn bring_for_load<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        line: u64,
    ) -> Result<(), OutOfRange> {
        let stats = self.counters.of(Some(who.agent));
        if let Some(slot) = self.lines.find_first(line) {
            stats.load_hits += 1;
            self.lines.touch(slot);
        } else {
            stats.load_misses += 1;
            self.place(memory, Some(who), line)?;
        }
        Ok(())
    }

    /// The slot in which a cacheable store finds its line, if any.
    fn bring_for_store<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        line: u64,
        allocate: bool,
    ) -> Result<Option<usize>, OutOfRange> {
        let stats = self.counters.of(Some(who.agent));
        if let Some(slot) = self.lines.find_first(line) {
            stats.store_hits += 1;
            self.lines.touch(slot);
            return Ok(Some(slot));
        }
        stats.store_misses += 1;
        if allocate {
            return self.place(memory, Some(who), line).map(Some);
        }
        let slot = self.lines.find_second(line);
        self.second_level_hits += u64::from(slot.is_some());
        Ok(slot)
    }

    fn observe<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        who: Writer,
        path: Path,
        span: Span,
        buf: &mut [u8],
    ) -> Result<(), OutOfRange> {
        match path {
            Path::Cache => memory.read(span.addr, buf)?,
            Path::Ram => self.lines.read_ram(memory, span, buf)?,
        }
        self.coherence.observed(&self.lines, memory, who, path, span)
    }

    fn write<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        writer: Writer,
        kind: WriteKind,
        span: Span,
        data: &[u8],
    ) -> Result<(), OutOfRange> {
        let base = self.config.geometry().base(span.line);
        let kind = match kind {
            // Nobody could hold an older copy: it is as after a flush.
            WriteKind::Bypass if self.lines.find(span.line).is_none() && !memory.may_be_cached(base) => {
                WriteKind::Flushing
            }
            kind => kind,
        };
        match kind {
            WriteKind::Back => {
                let slot = self.bring_for_store(memory, writer, span.line, self.config.allocates())?;
                if let Some(slot) = slot {
                    self.lines.diverge(memory, slot)?;
                    self.lines.dirtied(slot, span, writer);
                }
                memory.write(span.addr, data)?;
            }
            WriteKind::Through => {
                let slot = self.bring_for_store(memory, writer, span.line, false)?;
                if let Some(slot) = slot.filter(|&slot| self.lines.is_shadowed(slot)) {
                    self.lines.write_shadow(slot, span, data);
                }
                memory.write(span.addr, data)?;
            }
            WriteKind::Bypass => match self.lines.find(span.line) {
                None => memory.write(span.addr, data)?,
                Some(slot) => {
                    self.lines.diverge(memory, slot)?;
                    self.lines.write_shadow(slot, span, data);
                }
            },
            WriteKind::Flushing => {
                if let Some(slot) = self.lines.find(span.line) {
                    self.write_back(memory, Some(writer), slot)?;
                    self.lines.leave(memory, slot)?;
                }
                memory.write(span.addr, data)?;
            }
        }
        self.coherence.wrote(&mut self.lines, memory, span, data, kind, writer)
    }
}
