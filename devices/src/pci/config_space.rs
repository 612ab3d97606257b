//! Configuration space as a table of registers with write masks.

use crate::state::{Loader, SaveState, Saver, StateError};

/// Bytes of the PCI-compatible region. The extended region of every function here is empty and reads zero.
pub(super) const SIZE: usize = 256;

/// One register, or a group of fields within one: where it is, its reset value and which bits a guest can change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Register {
    pub offset: u16,
    /// Bytes: 1, 2 or 4.
    pub width: u16,
    pub reset: u32,
    /// Bits that take what is written.
    pub writable: u32,
    /// Bits that writing 1 clears.
    pub write_one_clears: u32,
}

impl Register {
    /// A read-only register.
    pub const fn ro(offset: u16, width: u16, value: u32) -> Self {
        Self { offset, width, reset: value, writable: 0, write_one_clears: 0 }
    }

    /// A register of which the `writable` bits take what is written.
    pub const fn rw(offset: u16, width: u16, reset: u32, writable: u32) -> Self {
        Self { offset, width, reset, writable, write_one_clears: 0 }
    }

    /// A status register: writing 1 to a bit of `clears` clears it.
    pub const fn rw1c(offset: u16, width: u16, reset: u32, clears: u32) -> Self {
        Self { offset, width, reset, writable: 0, write_one_clears: clears }
    }
}

/// The registers of one function.
#[derive(Debug, Clone)]
pub(super) struct ConfigSpace {
    value: [u8; SIZE],
    reset: [u8; SIZE],
    writable: [u8; SIZE],
    write_one_clears: [u8; SIZE],
}

fn put(bytes: &mut [u8; SIZE], register: &Register, value: u32) {
    let slots = bytes.iter_mut().skip(usize::from(register.offset)).take(usize::from(register.width));
    for (slot, byte) in slots.zip(value.to_le_bytes()) {
        *slot = byte;
    }
}

impl ConfigSpace {
    /// Everything outside `registers` is read-only zero.
    pub fn new(registers: &[Register]) -> Self {
        let mut space =
            Self { value: [0; SIZE], reset: [0; SIZE], writable: [0; SIZE], write_one_clears: [0; SIZE] };
        for register in registers {
            put(&mut space.reset, register, register.reset);
            put(&mut space.writable, register, register.writable);
            put(&mut space.write_one_clears, register, register.write_one_clears);
        }
        space.value = space.reset;
        space
    }

    pub fn reset(&mut self) {
        self.value = self.reset;
    }

    /// A guest's read of any size and alignment.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (byte, index) in data.iter_mut().zip(usize::from(offset)..) {
            *byte = self.value.get(index).copied().unwrap_or(0);
        }
    }

    /// A guest's write of any size and alignment.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (&byte, index) in data.iter().zip(usize::from(offset)..) {
            let (Some(value), Some(&writable), Some(&clears)) =
                (self.value.get_mut(index), self.writable.get(index), self.write_one_clears.get(index))
            else {
                return;
            };
            *value = ((*value & !writable) | (byte & writable)) & !(byte & clears);
        }
    }

    pub fn u8(&self, offset: u16) -> u8 {
        self.value.get(usize::from(offset)).copied().unwrap_or(0)
    }

    pub fn u16(&self, offset: u16) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    pub fn u32(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The device's own change of a 16-bit register, whatever a guest may write there.
    pub fn set_u16(&mut self, offset: u16, value: u16) {
        put(&mut self.value, &Register::ro(offset, 2, 0), u32::from(value));
    }

    /// The device's own change of a 32-bit register.
    pub fn set_u32(&mut self, offset: u16, value: u32) {
        put(&mut self.value, &Register::ro(offset, 4, 0), value);
    }

    /// Firmware's write of a 32-bit register, under the guest's masks.
    pub fn write_u32(&mut self, offset: u16, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    /// Firmware's write of a 16-bit register, under the guest's masks.
    pub fn write_u16(&mut self, offset: u16, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }
}

/// The masks are the function's own and not saved.
impl SaveState for ConfigSpace {
    fn save(&self, to: &mut Saver) -> Result<(), StateError> {
        to.put(&self.value.to_vec())
    }
    fn restore(&mut self, from: &mut Loader<'_>) -> Result<(), StateError> {
        let value = from.take::<Vec<u8>>()?;
        let unfit = |_| StateError::unfit("configuration space", "it has another size");
        self.value = value.try_into().map_err(unfit)?;
        Ok(())
    }
}

/// Offsets and bits of the configuration header (PCI, 6.1; PCI-to-PCI Bridge, 3.2).
pub(super) mod header {
    pub const VENDOR_ID: u16 = 0x00;
    pub const DEVICE_ID: u16 = 0x02;
    pub const COMMAND: u16 = 0x04;
    pub const STATUS: u16 = 0x06;
    pub const REVISION: u16 = 0x08;
    pub const CLASS: u16 = 0x09;
    pub const CACHE_LINE: u16 = 0x0c;
    pub const HEADER_TYPE: u16 = 0x0e;
    pub const BAR0: u16 = 0x10;
    pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
    pub const SUBSYSTEM_ID: u16 = 0x2e;
    pub const CAPABILITIES: u16 = 0x34;
    pub const INTERRUPT_LINE: u16 = 0x3c;
    pub const INTERRUPT_PIN: u16 = 0x3d;

    pub const PRIMARY_BUS: u16 = 0x18;
    pub const SECONDARY_BUS: u16 = 0x19;
    pub const SUBORDINATE_BUS: u16 = 0x1a;
    pub const IO_BASE: u16 = 0x1c;
    pub const SECONDARY_STATUS: u16 = 0x1e;
    pub const MEMORY_BASE: u16 = 0x20;
    pub const MEMORY_LIMIT: u16 = 0x22;
    pub const PREFETCH_BASE: u16 = 0x24;
    pub const PREFETCH_LIMIT: u16 = 0x26;
    pub const PREFETCH_BASE_UPPER: u16 = 0x28;
    pub const PREFETCH_LIMIT_UPPER: u16 = 0x2c;
    pub const BRIDGE_CONTROL: u16 = 0x3e;

    pub const COMMAND_MEMORY: u16 = 1 << 1;
    pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
    pub const COMMAND_INTERRUPT_DISABLE: u16 = 1 << 10;
    pub const STATUS_INTERRUPT: u16 = 1 << 3;
    pub const STATUS_CAPABILITIES: u32 = 1 << 4;
    /// Error bits of the status register, write one to clear.
    pub const STATUS_ERRORS: u32 = 0xf900;
    pub const BRIDGE_CONTROL_BUS_RESET: u16 = 1 << 6;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_apply_byte_by_byte() {
        let mut space = ConfigSpace::new(&[
            Register::ro(0, 2, 0x1234),
            Register::rw(4, 2, 0x0003, 0x0547),
            Register::rw1c(6, 2, 0xf010, 0xf900),
        ]);
        space.write(0, &[0xff; 4]);
        assert_eq!(space.u32(0), 0x1234);
        space.write(4, &0x9000_ffffu32.to_le_bytes());
        assert_eq!(space.u32(4), 0x6010_0547);
        space.write(5, &[0]);
        assert_eq!(space.u16(4), 0x0047, "one byte of a register");
        space.write(254, &[0xff; 8]);
        let mut data = [0xff; 8];
        space.read(254, &mut data);
        assert_eq!(data, [0; 8], "reads and writes past the end find nothing");
        space.reset();
        assert_eq!(space.u32(4), 0xf010_0003);
    }
}
