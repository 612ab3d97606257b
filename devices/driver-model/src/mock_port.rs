//! Memory, interrupts and a disk around one device: the port of its function without a machine.
use devices::bus::Nanos;
use devices::dma::{AtomicOp, DmaAttrs, DmaError};
use devices::pci::Port;
use devices::storage::Storage;
use std::collections::BTreeMap;
use std::io;

pub const PAGE: u64 = 4096;
/// Where memory begins: nothing answers below it.
pub const RAM_BASE: u64 = 0x10_0000;
pub const RAM_SIZE: u64 = 24 << 20;

/// A transaction as the device has asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    pub kind: TransactionKind,
    pub iova: u64,
    pub len: usize,
    pub attrs: DmaAttrs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionKind {
    Read,
    Write,
    Atomic,
}

/// Memory and interrupts around the device.
#[derive(Debug, Clone)]
pub struct MockPort {
    pub ram: Vec<u8>,
    pub now: Nanos,
    /// Vectors signalled and not yet looked at.
    pub interrupts: Vec<u16>,
    pub events: BTreeMap<u32, Nanos>,
    /// Transactions so far.
    pub transactions: usize,
    /// Each of them, where somebody wants to know.
    pub log: Option<Vec<Transaction>>,
    /// Every transaction fails.
    pub broken: bool,
    pub msix: bool,
    /// Level of the interrupt pin.
    pub pin: bool,
    pub disk: MockDisk,
    /// What the device has put out.
    pub output: Vec<u8>,
}

impl Default for MockPort {
    fn default() -> Self {
        Self {
            ram: vec![0; RAM_SIZE as usize],
            now: 0,
            interrupts: Vec::new(),
            events: BTreeMap::new(),
            transactions: 0,
            log: None,
            broken: false,
            msix: true,
            pin: false,
            disk: MockDisk::default(),
            output: Vec::new(),
        }
    }
}

impl MockPort {
    fn range(
        &mut self,
        kind: TransactionKind,
        iova: u64,
        len: usize,
        attrs: DmaAttrs,
    ) -> Result<std::ops::Range<usize>, DmaError> {
        self.transactions += 1;
        if let Some(log) = &mut self.log {
            log.push(Transaction { kind, iova, len, attrs });
        }
        if self.broken {
            return Err(DmaError::BusMasterDisabled);
        }
        let start = iova.checked_sub(RAM_BASE).ok_or(DmaError::Unmapped(iova))?;
        let end = start.checked_add(len as u64).filter(|end| *end <= RAM_SIZE);
        Ok(start as usize..end.ok_or(DmaError::Unmapped(iova))? as usize)
    }

    pub fn bytes(&self, at: u64, len: usize) -> &[u8] {
        &self.ram[(at - RAM_BASE) as usize..][..len]
    }

    pub fn bytes_mut(&mut self, at: u64, len: usize) -> &mut [u8] {
        &mut self.ram[(at - RAM_BASE) as usize..][..len]
    }
}

impl Port for MockPort {
    fn now(&self) -> Nanos {
        self.now
    }

    fn read(&mut self, iova: u64, buf: &mut [u8], attrs: DmaAttrs) -> Result<(), DmaError> {
        buf.fill(0xff);
        let range = self.range(TransactionKind::Read, iova, buf.len(), attrs)?;
        buf.copy_from_slice(&self.ram[range]);
        Ok(())
    }

    fn write(&mut self, iova: u64, data: &[u8], attrs: DmaAttrs) -> Result<(), DmaError> {
        let range = self.range(TransactionKind::Write, iova, data.len(), attrs)?;
        self.ram[range].copy_from_slice(data);
        Ok(())
    }

    fn atomic(&mut self, iova: u64, op: AtomicOp, attrs: DmaAttrs) -> Result<u64, DmaError> {
        assert!(iova.is_multiple_of(8), "an atomic is aligned");
        let range = self.range(TransactionKind::Atomic, iova, 8, attrs)?;
        let place = &mut self.ram[range];
        let old = u64::from_le_bytes((&*place).try_into().unwrap());
        let new = match op {
            AtomicOp::CompareSwap { compare, swap } if old == compare => swap,
            AtomicOp::CompareSwap { .. } => old,
            AtomicOp::FetchAdd(add) => old.wrapping_add(add),
        };
        place.copy_from_slice(&new.to_le_bytes());
        Ok(old)
    }

    fn msi(&mut self, vector: u16) {
        self.interrupts.push(vector);
    }

    fn msix_enabled(&self) -> bool {
        self.msix
    }

    fn set_interrupt_pin(&mut self, asserted: bool) {
        self.pin = asserted;
    }

    fn flush(&mut self) {}

    fn schedule(&mut self, at: Nanos, token: u32) {
        self.events.insert(token, at);
    }

    fn cancel(&mut self, token: u32) {
        self.events.remove(&token);
    }

    fn storage(&mut self) -> Option<&mut dyn Storage> {
        Some(&mut self.disk)
    }

    fn output(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }
}

/// A disk in memory that counts what is asked of it.
#[derive(Debug, Clone, Default)]
pub struct MockDisk {
    pub data: Vec<u8>,
    pub flushes: usize,
    /// Bytes given back to the host.
    pub deallocated: u64,
    /// Every access fails.
    pub broken: bool,
}

impl MockDisk {
    fn range(&mut self, offset: u64, length: usize) -> io::Result<&mut [u8]> {
        let range = offset as usize..offset as usize + length;
        match self.data.get_mut(range) {
            Some(range) if !self.broken => Ok(range),
            _ => Err(io::Error::other("broken")),
        }
    }
}

impl Storage for MockDisk {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        data.copy_from_slice(self.range(offset, data.len())?);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.range(offset, data.len())?.copy_from_slice(data);
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64, deallocate: bool) -> io::Result<()> {
        self.range(offset, length as usize)?.fill(0);
        self.deallocated += if deallocate { length } else { 0 };
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        if self.broken { Err(io::Error::other("broken")) } else { Ok(()) }
    }
}
