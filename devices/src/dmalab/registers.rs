//! The registers in BAR 0: 32 bits each, little-endian. Two neighbours can be accessed as 64 bits.

use crate::bus::AccessError;

/// "DLAB", in the order of bytes in memory.
pub const ID: u32 = u32::from_le_bytes(*b"DLAB");
/// Version of this interface.
pub const VERSION: u32 = 1;

/// [`Register::Control`]: the device works at the ring. Set, it begins at descriptor 0.
pub const CONTROL_ENABLE: u32 = 1 << 0;
/// [`Register::Control`]: back to the state after power-on, the device's memory included. Reads as 0.
pub const CONTROL_RESET: u32 = 1 << 1;

/// [`Register::Status`]: a submitted descriptor is not completed.
pub const STATUS_BUSY: u32 = 1 << 0;
/// [`Register::Status`]: the device has stopped; bits 15:8 say why ([`super::Fault`]). Disabling clears it.
pub const STATUS_FAULT: u32 = 1 << 1;

/// What a register is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// [`ID`].
    Id,
    /// [`VERSION`].
    Version,
    /// Bits 7:0: the largest [`Register::RingLog2`]; bits 15:8: the base-2 logarithm of the longest descriptor's length.
    Limits,
    /// What the device's configuration makes of the attributes that descriptors ask for
    /// ([`super::DmalabConfig::describe`]).
    Attributes,
    Control,
    Status,
    /// Base-2 logarithm of the number of descriptors in the ring.
    RingLog2,
    /// Bus address of the ring, a multiple of 64.
    RingLow,
    RingHigh,
    /// How many descriptors have been submitted since the device was enabled, modulo 2^32: writing it is the doorbell.
    Head,
    /// How many of them are completed.
    Tail,
}

struct Entry {
    offset: u64,
    register: Register,
}

const fn entry(offset: u64, register: Register) -> Entry {
    Entry { offset, register }
}

/// Every register, by offset.
const REGISTERS: &[Entry] = &[
    entry(0x00, Register::Id),
    entry(0x04, Register::Version),
    entry(0x08, Register::Limits),
    entry(0x0c, Register::Attributes),
    entry(0x10, Register::Control),
    entry(0x14, Register::Status),
    entry(0x18, Register::RingLog2),
    entry(0x20, Register::RingLow),
    entry(0x24, Register::RingHigh),
    entry(0x28, Register::Head),
    entry(0x2c, Register::Tail),
];

/// The registers that an access of `length` bytes at `offset` reaches, in order.
///
/// # Errors
/// [`AccessError`] if it reaches none, or only a part of one.
pub fn at(offset: u64, length: usize) -> Result<impl Iterator<Item = Register>, AccessError> {
    if !matches!(length, 4 | 8) {
        return Err(AccessError::BadSize);
    }
    if !offset.is_multiple_of(length as u64) {
        return Err(AccessError::Unaligned);
    }
    let find = |offset| REGISTERS.iter().find(|entry| entry.offset == offset).map(|entry| entry.register);
    let first = find(offset).ok_or(AccessError::NoRegister)?;
    let second = match length {
        4 => None,
        _ => Some(find(offset + 4).ok_or(AccessError::NoRegister)?),
    };
    Ok(std::iter::once(first).chain(second))
}
