//! PCI Express: the contract of an endpoint function.

use crate::bus::{Access, Nanos};
use crate::dma::{AtomicOp, DmaAttrs, DmaError};
use std::fmt;

/// Identity and resources of a function, fixed at construction; the PCI layer builds its configuration space,
/// MSI-X table and capabilities from it.
#[derive(Debug, Clone)]
pub struct FunctionInfo {
    pub vendor_id: u16,
    pub device_id: u16,
    pub subsystem_vendor_id: u16,
    pub subsystem_id: u16,
    pub revision: u8,
    /// Base class, sub-class and programming interface: 0xBBSSPP.
    pub class: u32,
    /// The BARs the device implements; the MSI-X table and PBA get a BAR of their own when `msix_vectors` > 0.
    pub bars: Vec<BarInfo>,
    /// Number of MSI-X vectors, 0 for none.
    pub msix_vectors: u16,
}

/// One base address register.
#[derive(Debug, Clone, Copy)]
pub struct BarInfo {
    /// Register index 0-5; a 64-bit BAR also takes the next one.
    pub index: u8,
    /// Size in bytes, a power of two, at least 16.
    pub size: u64,
    pub is_64bit: bool,
    pub prefetchable: bool,
}

/// What a PCI function sees of the machine: a port bound to it, lent for one call. Bus-master enable, the No Snoop
/// and Relaxed Ordering enables of Device Control, MSI-X masking and the IOMMU are applied behind it.
pub trait Port {
    /// Current virtual time.
    fn now(&self) -> Nanos;
    /// Reads `buf.len()` bytes at `iova`. On error the content of `buf` is all-ones.
    ///
    /// # Errors
    /// The first [`DmaError`] met; earlier lines have been read.
    fn read(&mut self, iova: u64, buf: &mut [u8], attrs: DmaAttrs) -> Result<(), DmaError>;
    /// Writes `data` at `iova`; line by line, each atomically.
    ///
    /// # Errors
    /// The first [`DmaError`] met; earlier lines have been written.
    fn write(&mut self, iova: u64, data: &[u8], attrs: DmaAttrs) -> Result<(), DmaError>;
    /// An atomic operation on the 8 bytes at `iova`; returns the old value.
    ///
    /// # Errors
    /// [`DmaError`] if memory cannot be reached.
    fn atomic(&mut self, iova: u64, op: AtomicOp, attrs: DmaAttrs) -> Result<u64, DmaError>;
    /// Signals MSI-X vector `vector`. A masked vector becomes pending; one that does not exist is ignored.
    fn msi(&mut self, vector: u16);
    /// Makes all earlier writes of this function visible.
    fn flush(&mut self);
    /// Asks for [`PciDevice::event`] with `token` at virtual time `at`, replacing a pending one of that token.
    fn schedule(&mut self, at: Nanos, token: u32);
    /// Withdraws a pending event.
    fn cancel(&mut self, token: u32);
}

/// The device's own logic behind its BARs. Configuration space, MSI-X and capabilities belong to the PCI layer.
pub trait PciDevice: fmt::Debug + Send {
    /// Name for logs and reports, such as `mlx5`.
    fn name(&self) -> &'static str;
    /// Identity and resources.
    fn info(&self) -> FunctionInfo;
    /// Reads 1, 2, 4 or 8 bytes at `offset` of BAR `bar`.
    ///
    /// # Errors
    /// [`crate::bus::AccessError`]; the guest then reads all-ones.
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8], port: &mut dyn Port) -> Access;
    /// Writes 1, 2, 4 or 8 bytes at `offset` of BAR `bar`.
    ///
    /// # Errors
    /// [`crate::bus::AccessError`]; the write is dropped.
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8], port: &mut dyn Port) -> Access;
    /// A time asked for by [`Port::schedule`] has come.
    fn event(&mut self, _token: u32, _port: &mut dyn Port) {}
    /// Function-level or bus reset: back to the state after power-on. Pending events have been withdrawn.
    fn reset(&mut self);
}
