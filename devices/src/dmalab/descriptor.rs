//! A descriptor: 64 bytes, little-endian, one to a cache line.
//!
//! | bytes | field |
//! |---|---|
//! | 0 | operation ([`Operation`]) |
//! | 1 | flags: bit 0 no-snoop, bit 1 relaxed ordering, bit 2 interrupt at completion |
//! | 2-3 | most bytes of one transaction, 0 for 256 |
//! | 4-7 | length in bytes, at most [`MAX_LENGTH`]; atomics have none |
//! | 8-11 | virtual nanoseconds from the fetch of the descriptor to its first transaction |
//! | 12-15 | virtual nanoseconds from its last transaction to its completion |
//! | 16-23 | source: bus address, or offset in the device's memory |
//! | 24-31 | destination: likewise |
//! | 32-39 | operand: pattern's seed, fill's 8 bytes, what is added or compared with |
//! | 40-47 | operand of a compare-and-swap: what is stored |
//! | 48-51 | written by the device: [`Status`] |
//! | 52-55 | written by the device: bytes moved |
//! | 56-63 | written by the device: the checksum, or the old value of an atomic |

use crate::dma::{AtomicOp, DmaAttrs};
use serde::{Deserialize, Serialize};

/// Bytes of a descriptor.
pub const SIZE: usize = 64;
/// Where the part begins that the device writes.
pub const COMPLETION: u64 = 48;
/// Bytes of it.
pub const COMPLETION_SIZE: usize = 16;
/// Longest transfer of one descriptor, in bytes.
pub const MAX_LENGTH: u32 = 1 << 20;
/// Bytes of one transaction where a descriptor does not say: a usual Max_Payload_Size.
const USUAL_TRANSACTION: u16 = 256;

const FLAG_NO_SNOOP: u8 = 1 << 0;
const FLAG_RELAXED: u8 = 1 << 1;
const FLAG_INTERRUPT: u8 = 1 << 2;

/// How a descriptor ended, as the device writes it; 0 is the driver's "not yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum Status {
    Done = 1,
    /// No such operation, flag or length.
    Invalid = 2,
    /// Memory did not answer; so many bytes had been moved.
    Dma = 3,
    /// The device's memory has no such bytes.
    OutOfRange = 4,
    /// An atomic's address is no multiple of 8.
    Unaligned = 5,
}

/// What a descriptor has the device do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// 0: nothing but a delay, and an interrupt if asked for.
    Nothing,
    /// 1: memory at the source to the device's memory at the destination.
    Read,
    /// 2: the device's memory at the source to memory at the destination.
    Write,
    /// 3: memory at the source to memory at the destination.
    Copy,
    /// 4: the operand's 8 bytes to memory at the destination, again and again.
    Fill,
    /// 5: the pattern ([`super::pattern`]) to memory at the destination.
    Pattern,
    /// 6: the checksum ([`super::Checksum`]) of memory at the source.
    Checksum,
    /// 7: adds the operand to the 8 bytes at the destination.
    FetchAdd,
    /// 8: stores the second operand at the destination where the first one is found there.
    CompareSwap,
}

/// A descriptor that has been fetched and understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    pub operation: Operation,
    /// Attributes asked for.
    pub attrs: DmaAttrs,
    pub interrupt: bool,
    /// Most bytes of one transaction, at least 1.
    pub transaction: u16,
    pub length: u32,
    /// Before the first transaction.
    pub delay: u32,
    /// After the last one.
    pub linger: u32,
    pub source: u64,
    pub destination: u64,
    pub operand: u64,
    pub swap: u64,
}

fn u64_at(bytes: &[u8; SIZE], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u64::from_le_bytes(*field))
}

impl Descriptor {
    /// Understands the bytes of a descriptor.
    ///
    /// # Errors
    /// What it is to be completed with, and whether it asks for an interrupt all the same.
    pub fn parse(bytes: &[u8; SIZE]) -> Result<Self, (Status, bool)> {
        let [code, flags, transaction_low, transaction_high, ..] = *bytes;
        let interrupt = flags & FLAG_INTERRUPT != 0;
        let invalid = (Status::Invalid, interrupt);
        let operation = match code {
            0 => Operation::Nothing,
            1 => Operation::Read,
            2 => Operation::Write,
            3 => Operation::Copy,
            4 => Operation::Fill,
            5 => Operation::Pattern,
            6 => Operation::Checksum,
            7 => Operation::FetchAdd,
            8 => Operation::CompareSwap,
            _ => return Err(invalid),
        };
        let given = u16::from_le_bytes([transaction_low, transaction_high]);
        let descriptor = Self {
            operation,
            attrs: DmaAttrs {
                no_snoop: flags & FLAG_NO_SNOOP != 0,
                relaxed_ordering: flags & FLAG_RELAXED != 0,
                ..DmaAttrs::default()
            },
            interrupt,
            transaction: if given == 0 { USUAL_TRANSACTION } else { given },
            length: (u64_at(bytes, 0) >> 32) as u32,
            delay: u64_at(bytes, 8) as u32,
            linger: (u64_at(bytes, 8) >> 32) as u32,
            source: u64_at(bytes, 16),
            destination: u64_at(bytes, 24),
            operand: u64_at(bytes, 32),
            swap: u64_at(bytes, 40),
        };
        if flags & !(FLAG_NO_SNOOP | FLAG_RELAXED | FLAG_INTERRUPT) != 0 || descriptor.length > MAX_LENGTH {
            return Err(invalid);
        }
        if descriptor.atomic().is_some() && !descriptor.destination.is_multiple_of(8) {
            return Err((Status::Unaligned, interrupt));
        }
        let inside = descriptor.local().is_none_or(|offset| {
            let end = offset.checked_add(descriptor.length.into());
            end.is_some_and(|end| end <= super::MEMORY_SIZE.into())
        });
        if inside { Ok(descriptor) } else { Err((Status::OutOfRange, interrupt)) }
    }

    /// The offset in the device's memory that it begins at, if it touches that.
    fn local(&self) -> Option<u64> {
        match self.operation {
            Operation::Read => Some(self.destination),
            Operation::Write => Some(self.source),
            _ => None,
        }
    }

    /// The atomic operation, if it is one.
    pub fn atomic(&self) -> Option<AtomicOp> {
        match self.operation {
            Operation::FetchAdd => Some(AtomicOp::FetchAdd(self.operand)),
            Operation::CompareSwap => Some(AtomicOp::CompareSwap { compare: self.operand, swap: self.swap }),
            _ => None,
        }
    }

    /// Bytes that are to be moved one after the other.
    pub fn stream(&self) -> u32 {
        if self.operation == Operation::Nothing || self.atomic().is_some() { 0 } else { self.length }
    }

    /// Whether a state can have it.
    pub fn is_in_range(&self) -> bool {
        self.length <= MAX_LENGTH && self.transaction != 0
    }
}

/// The bytes by which a descriptor is completed.
pub fn completion(status: Status, done: u32, result: u64) -> [u8; COMPLETION_SIZE] {
    let value = u128::from(status as u32) | u128::from(done) << 32 | u128::from(result) << 64;
    value.to_le_bytes()
}
