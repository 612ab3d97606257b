//! PCI Express: the contract of an endpoint function, and the root complex it is attached to.
//!
//! References: PCI Express Base Specification 5.0 ("PCIe"); PCI Local Bus Specification 3.0 ("PCI"); PCI-to-PCI
//! Bridge Architecture Specification 1.2; PCI Bus Power Management Interface Specification 1.2.

mod capabilities;
mod config_space;
mod endpoint;
mod firmware;
mod msix;
mod port;
mod root_complex;
mod root_port;

pub use endpoint::AttachError;
pub use firmware::{AssignError, ResourceWindows};
pub use root_complex::{ROOT_PORTS, RootComplex};

use crate::bus::{Access, Nanos};
use crate::dma::{AtomicOp, DmaAttrs, DmaError};
use crate::state::SaveState;
use crate::storage::Storage;
use serde::{Deserialize, Serialize};
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
    /// The function has the interrupt pin INTA.
    pub interrupt_pin: bool,
    /// Vendor-specific capabilities, in the order in which they are listed.
    pub vendor_capabilities: Vec<VendorCapability>,
}

/// A vendor-specific capability (PCI, appendix H): its bytes from the length byte on, which is the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VendorCapability {
    /// Nothing of it can be written.
    ReadOnly(Vec<u8>),
    /// A window through which configuration accesses reach the BARs of the function (virtio 1.2, 4.1.4.9). From the
    /// capability's start: BAR at 4, offset at 8, length at 12, 4 bytes of data at 16.
    BarWindow(Vec<u8>),
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
    /// Whether the driver has enabled MSI-X: the interrupt pin is silent then.
    fn msix_enabled(&self) -> bool;
    /// Asserts or releases the interrupt pin. Interrupt Disable, MSI-X and lines shared with others are seen to behind it.
    fn set_interrupt_pin(&mut self, asserted: bool);
    /// Makes all earlier writes of this function visible.
    fn flush(&mut self);
    /// Asks for [`PciDevice::event`] with `token` at virtual time `at`, replacing a pending one of that token.
    fn schedule(&mut self, at: Nanos, token: u32);
    /// Withdraws a pending event.
    fn cancel(&mut self, token: u32);
    /// What the function stores its data in, if it has been given something.
    fn storage(&mut self) -> Option<&mut dyn Storage>;
    /// Passes `bytes` on to where the function's output goes.
    fn output(&mut self, bytes: &[u8]);
}

/// The device's own logic behind its BARs. Configuration space, MSI-X and capabilities belong to the PCI layer.
pub trait PciDevice: ClonePciDevice + SaveState + fmt::Debug + Send {
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
    /// Chance has a new seed from here on.
    fn reseed(&mut self, _seed: u64) {}
    /// Function-level or bus reset: back to the state after power-on. Pending events have been withdrawn.
    fn reset(&mut self);
}

/// Cloning behind the trait object, for every device that is [`Clone`]: a machine is cloned with its devices.
pub trait ClonePciDevice {
    /// A copy of the device in its present state.
    fn clone_box(&self) -> Box<dyn PciDevice>;
}

impl<T: PciDevice + Clone + 'static> ClonePciDevice for T {
    fn clone_box(&self) -> Box<dyn PciDevice> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn PciDevice> {
    fn clone(&self) -> Self {
        (**self).clone_box()
    }
}

/// Number of a root port and of the function behind it: 1-8. Unlike a bus number it is nothing a guest can change,
/// so events are addressed by it.
pub type Slot = u8;

/// Bus, device and function number: the address of a configuration space and the requester ID of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bdf(u16);

impl Bdf {
    /// Device numbers have 5 bits and function numbers 3; excess bits are dropped.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self(((bus as u16) << 8) | (((device & 0x1f) as u16) << 3) | (function & 7) as u16)
    }

    /// From a requester ID.
    #[must_use]
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The requester ID.
    #[must_use]
    pub fn to_bits(self) -> u16 {
        self.0
    }

    #[must_use]
    pub fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[must_use]
    pub fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    #[must_use]
    pub fn function(self) -> u8 {
        self.0 as u8 & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0000:{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}

/// What the root complex needs of the machine. Bus-master enable, Device Control and MSI-X masking have been applied
/// to what arrives here; the IOMMU and the memory system come behind it.
pub trait Host {
    /// Current virtual time.
    fn now(&self) -> Nanos;
    /// A memory read by the function with requester ID `from`. On error the content of `buf` is unspecified.
    ///
    /// # Errors
    /// [`DmaError`]; earlier lines have been read.
    fn dma_read(&mut self, from: Bdf, iova: u64, buf: &mut [u8], attrs: DmaAttrs) -> Result<(), DmaError>;
    /// A memory write.
    ///
    /// # Errors
    /// [`DmaError`]; earlier lines have been written.
    fn dma_write(&mut self, from: Bdf, iova: u64, data: &[u8], attrs: DmaAttrs) -> Result<(), DmaError>;
    /// An atomic operation on 8 bytes; returns the old value.
    ///
    /// # Errors
    /// [`DmaError`] if memory cannot be reached.
    fn dma_atomic(&mut self, from: Bdf, iova: u64, op: AtomicOp, attrs: DmaAttrs) -> Result<u64, DmaError>;
    /// Makes all earlier writes of `from` visible.
    fn dma_flush(&mut self, from: Bdf);
    /// Drives the interrupt pin INTA of the function in `slot`, as it leaves the root port.
    fn set_interrupt_pin(&mut self, slot: Slot, asserted: bool);
    /// A message-signalled interrupt: the write of `data` at `address`, which need not be an interrupt address.
    fn deliver_msi(&mut self, from: Bdf, address: u64, data: u32);
    /// Asks for [`RootComplex::event`] with `slot` and `token` at `at`, replacing a pending one of the same token.
    fn schedule(&mut self, slot: Slot, token: u32, at: Nanos);
    /// Withdraws a pending event.
    fn cancel(&mut self, slot: Slot, token: u32);
    /// Withdraws all pending events of a function that is being reset.
    fn cancel_all(&mut self, slot: Slot);
    /// What the function in `slot` stores its data in.
    fn storage(&mut self, slot: Slot) -> Option<&mut dyn Storage>;
    /// Passes on output of the function in `slot`.
    fn output(&mut self, slot: Slot, bytes: &[u8]);
}
