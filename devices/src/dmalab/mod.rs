//! The DMA exerciser: a PCI function that does to memory exactly what descriptors say.
//!
//! It is the synthetic device of scenarios: what a driver does wrong with the DMA API, or a platform with caches, can be shown
//! with it in a few lines, with addresses, sizes, times and transaction attributes chosen by the guest. Its ABI, for
//! drivers:
//!
//! - BAR 0 holds the registers (`registers`), BAR 2 the device's own memory of [`MEMORY_SIZE`] bytes, which descriptors move
//!   data to and from and the CPU accesses with 1, 2, 4 or 8 bytes at their natural alignment.
//! - The driver keeps a ring of descriptors of 64 bytes (`descriptor`) in memory, tells the device where it is, enables it,
//!   and rings by writing how many descriptors it has ever submitted. The device works at them one after the other,
//!   each after its delay (`ring`).
//! - A descriptor is completed by one write of its last 16 bytes after all of its payload has been written, then by MSI-X vector
//!   [`VECTOR_COMPLETION`] if it asks for that. That write is snooped unless the device is configured to snoop nothing, and it
//!   never has relaxed ordering. A ring that the device cannot work at stops it with [`VECTOR_FAULT`].

mod config;
mod data;
mod descriptor;
mod registers;
mod ring;

pub use config::{DmalabConfig, NoSnoop, RelaxedOrdering};
pub use data::{Checksum, pattern};
pub use descriptor::Status;
pub use ring::Fault;

use crate::bus::{Access, AccessError};
use crate::pci::{BarInfo, FunctionInfo, PciDevice, Port};
use crate::state::{State, in_range, same};
use registers::Register;
use ring::Ring;
use serde::{Deserialize, Serialize};

/// Red Hat, whose IDs 1af4:10f0 to 1af4:10ff are set aside for experiments: "available for experimental usage without
/// registration" (QEMU, docs/specs/pci-ids). No driver claims one: the virtio drivers leave everything above 1af4:107f alone.
const VENDOR_ID: u16 = 0x1af4;
const DEVICE_ID: u16 = 0x10f5;
/// "Device does not fit in any defined classes" (PCI Code and ID Assignment, class FFh): no class driver looks at it.
const CLASS: u32 = 0xff_00_00;

/// BAR of the registers.
const BAR_REGISTERS: u8 = 0;
const REGISTERS_SIZE: u64 = 4096;
/// BAR of the device's memory.
const BAR_MEMORY: u8 = 2;
/// Bytes of the device's memory.
pub const MEMORY_SIZE: u32 = 64 << 10;

const VECTORS: u16 = 2;
/// MSI-X vector of completions.
pub const VECTOR_COMPLETION: u16 = 0;
/// MSI-X vector of faults.
pub const VECTOR_FAULT: u16 = 1;

/// The device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dmalab {
    config: DmalabConfig,
    ring: Ring,
    memory: Vec<u8>,
}

impl Dmalab {
    /// A device in the state after power-on.
    pub fn new(config: DmalabConfig) -> Self {
        Self { config, ring: Ring::default(), memory: vec![0; MEMORY_SIZE as usize] }
    }

    fn read_register(&self, register: Register) -> u32 {
        match register {
            Register::Id => registers::ID,
            Register::Version => registers::VERSION,
            Register::Limits => ring::MAX_LOG2 | (descriptor::MAX_LENGTH.ilog2() << 8),
            Register::Attributes => self.config.describe(),
            Register::Control => u32::from(self.ring.is_enabled()) * registers::CONTROL_ENABLE,
            Register::Status => self.ring.status(),
            Register::RingLog2 => self.ring.log2,
            Register::RingLow => self.ring.base as u32,
            Register::RingHigh => (self.ring.base >> 32) as u32,
            Register::Head => self.ring.head(),
            Register::Tail => self.ring.tail(),
        }
    }

    fn write_register(&mut self, register: Register, value: u32, port: &mut dyn Port) {
        match register {
            Register::Control if value & registers::CONTROL_RESET != 0 => {
                self.ring.disable(port);
                self.reset();
            }
            Register::Control if value & registers::CONTROL_ENABLE != 0 => self.ring.enable(),
            Register::Control => self.ring.disable(port),
            Register::Head => self.ring.submit(value, port),
            // Where the ring is stays fixed while the device works at it.
            _ if self.ring.is_enabled() => log::debug!("dmalab: {register:?} written while enabled: ignored"),
            Register::RingLog2 => self.ring.log2 = value.min(ring::MAX_LOG2),
            Register::RingLow => {
                let low = u64::from(value) & !(descriptor::SIZE as u64 - 1);
                self.ring.base = self.ring.base & !0xffff_ffff | low;
            }
            Register::RingHigh => {
                self.ring.base = self.ring.base & 0xffff_ffff | u64::from(value) << 32;
            }
            Register::Id | Register::Version | Register::Limits | Register::Attributes => {}
            Register::Status | Register::Tail => {}
        }
    }

    /// The part of the device's memory that an access touches.
    fn memory_at(&mut self, offset: u64, length: usize) -> Result<&mut [u8], AccessError> {
        if !offset.is_multiple_of(length.max(1) as u64) {
            return Err(AccessError::Unaligned);
        }
        let start = usize::try_from(offset).map_err(|_| AccessError::NoRegister)?;
        let end = start.checked_add(length).ok_or(AccessError::NoRegister)?;
        self.memory.get_mut(start..end).ok_or(AccessError::NoRegister)
    }
}

impl State for Dmalab {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same(self.config == saved.config)?;
        in_range(saved.memory.len() == self.memory.len() && saved.ring.is_in_range())
    }
}

impl PciDevice for Dmalab {
    fn name(&self) -> &'static str {
        "dmalab"
    }

    fn info(&self) -> FunctionInfo {
        let bar = |index, size| BarInfo { index, size, is_64bit: false, prefetchable: false };
        FunctionInfo {
            vendor_id: VENDOR_ID,
            device_id: DEVICE_ID,
            subsystem_vendor_id: VENDOR_ID,
            subsystem_id: DEVICE_ID,
            revision: 0,
            class: CLASS,
            bars: vec![bar(BAR_REGISTERS, REGISTERS_SIZE), bar(BAR_MEMORY, MEMORY_SIZE.into())],
            msix_vectors: VECTORS,
            interrupt_pin: false,
            vendor_capabilities: Vec::new(),
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8], _port: &mut dyn Port) -> Access {
        if bar == BAR_MEMORY {
            data.copy_from_slice(self.memory_at(offset, data.len())?);
            return Ok(());
        }
        for (register, word) in registers::at(offset, data.len())?.zip(data.chunks_exact_mut(4)) {
            word.copy_from_slice(&self.read_register(register).to_le_bytes());
        }
        Ok(())
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8], port: &mut dyn Port) -> Access {
        if bar == BAR_MEMORY {
            self.memory_at(offset, data.len())?.copy_from_slice(data);
            return Ok(());
        }
        for (register, word) in registers::at(offset, data.len())?.zip(data.chunks_exact(4)) {
            let value = word.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
            self.write_register(register, value, port);
        }
        Ok(())
    }

    fn event(&mut self, token: u32, port: &mut dyn Port) {
        if token == ring::EVENT_TURN {
            self.ring.turn(&self.config, &mut self.memory, port);
        }
    }

    fn reset(&mut self) {
        *self = Self::new(self.config);
    }
}
