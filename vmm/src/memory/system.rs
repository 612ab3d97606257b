//! RAM, and what lies between it, the vCPUs and devices.

use super::cache::{Cache, CacheConfig};
use super::{Encryption, GuestRam, dma};
use cache_model::{OutOfRange, Snoop, Writer};
use devices::bus::Nanos;
use devices::dma::{AtomicOp, DmaError, Purpose};
use std::fs::File;
use std::io;
use x86_cpu::{CacheOp, CodePages, RamAccess};

/// Requester of the platform's own DMA: no PCI function has this number.
pub const PLATFORM: u32 = u32::MAX;

/// Who makes a DMA transaction, when and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Requester ID of the function, or [`PLATFORM`].
    pub device: u32,
    /// Virtual time.
    pub at: Nanos,
    pub snoop: Snoop,
    pub purpose: Purpose,
}

impl Transaction {
    /// One of the platform.
    #[must_use]
    pub fn of_platform(at: Nanos) -> Self {
        Self { device: PLATFORM, at, snoop: Snoop::Snoop, purpose: Purpose::default() }
    }

    fn writer(self) -> Writer {
        Writer { ip: self.purpose.to_bits(), ..Writer::device(self.device, self.at) }
    }
}

/// RAM behind its cache, if it has one.
#[derive(Debug, Clone)]
pub struct MemorySystem {
    pub ram: GuestRam,
    pub code: CodePages,
    pub cache: Option<Box<Cache>>,
    /// Only of a machine without a cache.
    pub encryption: Option<Box<Encryption>>,
}

impl MemorySystem {
    /// RAM with nothing before it, or with this cache.
    #[must_use]
    pub fn new(ram: GuestRam, cache: Option<&CacheConfig>) -> Self {
        let cache = cache.map(|config| Box::new(Cache::new(config, ram.end())));
        Self { ram, code: CodePages::default(), cache, encryption: None }
    }

    /// A vCPU's load that is shown.
    pub fn load(&mut self, by: &RamAccess, address: u64, data: &mut [u8]) {
        let Self { ram, code, cache: Some(cache), .. } = self else { return data.fill(0xff) };
        Self::refused(cache.load((ram, code), by, address, data));
    }

    /// A vCPU's store that is shown.
    pub fn store(&mut self, by: &RamAccess, address: u64, data: &[u8]) {
        let Self { ram, code, cache: Some(cache), .. } = self else { return };
        Self::refused(cache.store((ram, code), by, address, data));
    }

    /// A vCPU's fetch that is shown.
    pub fn fetch(&mut self, by: &RamAccess, address: u64, length: usize) {
        let Self { ram, code, cache: Some(cache), .. } = self else { return };
        Self::refused(cache.fetch((ram, code), by, address, length));
    }

    /// A vCPU's cache maintenance or fence.
    pub fn maintain(&mut self, by: &RamAccess, op: CacheOp) {
        let Self { ram, code, cache: Some(cache), .. } = self else { return };
        // Maintenance of what is not RAM does nothing.
        Self::refused(cache.maintain((ram, code), by, op));
    }

    /// What RAM holds, past the cache; all-ones where there is none.
    pub fn peek_ram(&self, address: u64, data: &mut [u8]) {
        let read = match &self.cache {
            Some(cache) => cache.peek_ram(&self.ram, address, data).is_ok(),
            None => self.ram.read(address, data).is_ok(),
        };
        if !read {
            data.fill(0xff);
        }
    }

    /// Whether the cache's model has found something, or a device has accessed private pages, that nobody has taken.
    #[must_use]
    pub fn has_found(&self) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.model().has_findings())
            || self.encryption.as_ref().is_some_and(|encryption| encryption.has_accesses())
    }

    /// Has every operation from now on be written to `file`; only a machine with a cache that is shown everything has that.
    ///
    /// # Errors
    /// The host's reason.
    pub fn record(&mut self, file: File) -> io::Result<()> {
        let Self { ram, cache: Some(cache), .. } = self else { return Ok(()) };
        cache.record(file, ram)
    }

    /// Ends what [`MemorySystem::record`] has begun.
    ///
    /// # Errors
    /// What has kept the recording from being written.
    pub fn finish_recording(&mut self) -> io::Result<()> {
        let Self { ram, cache: Some(cache), .. } = self else { return Ok(()) };
        cache.finish_recording(ram)
    }

    /// vCPUs show only what is RAM; a line at its end may not be whole.
    fn refused(result: Result<(), OutOfRange>) {
        if let Err(error) = result {
            log::debug!("cache: {error}");
        }
    }

    /// A device reads `data.len()` bytes at `address`. On error all of `data` is all-ones.
    ///
    /// # Errors
    /// [`DmaError::Unmapped`] with the first address that is not RAM.
    pub fn dma_read(&mut self, by: Transaction, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        let Self { ram, code, cache: Some(cache), .. } = self else {
            return self.uncached_read(by, address, data);
        };
        cache.enter(ram, address, data.len() as u64);
        for (at, range) in dma::lines(address, data.len()) {
            let Some(part) = data.get_mut(range) else { break };
            if cache.dma_read((ram, code), by.writer(), at, part, by.snoop).is_err() {
                data.fill(0xff);
                return Err(DmaError::Unmapped(at));
            }
        }
        Ok(())
    }

    /// A device writes `data` at `address`; lines before the first that is not RAM have been written.
    ///
    /// # Errors
    /// [`DmaError::Unmapped`] with the first address that is not RAM.
    pub fn dma_write(&mut self, by: Transaction, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let Self { ram, code, cache: Some(cache), .. } = self else {
            return self.uncached_write(by, address, data);
        };
        cache.enter(ram, address, data.len() as u64);
        for (at, range) in dma::lines(address, data.len()) {
            let Some(part) = data.get(range) else { break };
            let written = cache.dma_write((ram, code), by.writer(), at, part, by.snoop);
            written.map_err(|_| DmaError::Unmapped(at))?;
        }
        Ok(())
    }

    /// An atomic operation of a device on the 8 aligned bytes at `address`; returns the old value.
    ///
    /// # Errors
    /// [`DmaError::Unmapped`] if that is not RAM, or not aligned.
    pub fn dma_atomic(&mut self, by: Transaction, address: u64, op: AtomicOp) -> Result<u64, DmaError> {
        let Self { ram, code, cache: Some(cache), .. } = self else {
            return self.uncached_atomic(by, address, op);
        };
        if !address.is_multiple_of(8) {
            return Err(DmaError::Unmapped(address));
        }
        cache.enter(ram, address, 8);
        let done = cache.dma_atomic((ram, code), by.writer(), address, op, by.snoop);
        done.map_err(|_| DmaError::Unmapped(address))
    }

    fn uncached_read(&mut self, by: Transaction, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        dma::read(&self.ram, address, data)?;
        if let Some(encryption) = &mut self.encryption {
            let inside = data.to_vec();
            let private = encryption.cross(address, data);
            encryption.observe(by, false, address, private, (data, &inside));
        }
        Ok(())
    }

    fn uncached_write(&mut self, by: Transaction, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let Some(encryption) = &mut self.encryption else {
            return dma::write(&self.ram, &mut self.code, address, data);
        };
        let mut inside = data.to_vec();
        let private = encryption.cross(address, &mut inside);
        dma::write(&self.ram, &mut self.code, address, &inside)?;
        encryption.observe(by, true, address, private, (data, &inside));
        Ok(())
    }

    fn uncached_atomic(&mut self, by: Transaction, address: u64, op: AtomicOp) -> Result<u64, DmaError> {
        if self.encryption.is_none() {
            return dma::atomic(&self.ram, &mut self.code, address, op);
        }
        if !address.is_multiple_of(8) {
            return Err(DmaError::Unmapped(address));
        }
        let mut word = [0; 8];
        self.uncached_read(by, address, &mut word)?;
        let old = u64::from_le_bytes(word);
        self.uncached_write(by, address, &op.apply(old).to_le_bytes())?;
        Ok(old)
    }
}
