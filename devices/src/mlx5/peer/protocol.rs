//! Orders and answers: the messages between a guest program and the peer, 64 bytes each, little-endian.
//!
//! `guest-images/programs/rdma-peer.h` has the same as C structures.

use crate::bus::Nanos;
use serde::{Deserialize, Serialize};

/// Local identifier of the peer's port.
pub const LID: u16 = 2;
/// First queue pair number of the peer.
pub const FIRST_QPN: u32 = 0x100;
/// How many queue pair numbers the peer answers to.
pub const QPN_COUNT: u32 = 64;
/// Bytes of an order.
pub const ORDER_SIZE: usize = 64;
/// Bytes of an answer.
pub const ANSWER_SIZE: usize = 64;
/// Longest WRITE, READ or CHECK, in bytes.
pub const MAX_LENGTH: u64 = 1 << 20;
/// Most repetitions of one order.
pub const MAX_REPEAT: u32 = 1 << 20;
/// Longest delay, in nanoseconds: an hour.
pub const MAX_DELAY: Nanos = 3_600_000_000_000;
/// Orders that a connection may have outstanding; further ones meet "receiver not ready".
pub const MAX_ORDERS: usize = 16;

/// Byte offsets in an order.
pub mod order {
    /// What to do: see [`op`](super::op).
    pub const OP: usize = 0;
    /// Key of the guest's memory.
    pub const RKEY: usize = 4;
    /// Where in the key's address space.
    pub const ADDRESS: usize = 8;
    /// Bytes: 8 for atomic operations, 1 to [`MAX_LENGTH`](super::MAX_LENGTH) for the others.
    pub const LENGTH: usize = 16;
    /// Pattern seed (WRITE, CHECK), compared value (COMPARE_SWAP) or addend (FETCH_ADD).
    pub const OPERAND: usize = 24;
    /// Value to store (COMPARE_SWAP).
    pub const SWAP: usize = 32;
    /// Virtual nanoseconds before the first time, and between one time and the next.
    pub const DELAY: usize = 40;
    /// How many times, 1 to [`MAX_REPEAT`](super::MAX_REPEAT).
    pub const REPEAT: usize = 48;
    /// Must be 0.
    pub const RESERVED: usize = 52;
    /// Anything; the answer repeats it.
    pub const COOKIE: usize = 56;
}

/// Byte offsets in an answer.
pub mod answer {
    /// See [`Status`](super::Status).
    pub const STATUS: usize = 0;
    /// Repetitions carried out.
    pub const REPETITIONS: usize = 4;
    /// The last repetition's old value (atomic operations) or its first 8 bytes (READ, CHECK), zeros after the last byte.
    pub const OLD: usize = 8;
    /// The order's cookie.
    pub const COOKIE: usize = 16;
    /// Virtual time of the last repetition, in nanoseconds since the machine was switched on.
    pub const TIME: usize = 24;
    /// FNV-1a hash of what the last repetition read (READ, CHECK).
    pub const DIGEST: usize = 32;
    /// First byte that differs, counted from the order's address (MISMATCH).
    pub const OFFSET: usize = 40;
    /// Up to 8 bytes read from there on, and what they should be (MISMATCH).
    pub const FOUND: usize = 48;
    pub const EXPECTED: usize = 56;
}

/// What an order may ask for.
pub mod op {
    /// RDMA WRITE of the pattern.
    pub const WRITE: u32 = 1;
    /// RDMA READ; the answer tells what was read.
    pub const READ: u32 = 2;
    /// RDMA READ of what must be the pattern.
    pub const CHECK: u32 = 3;
    /// Atomic compare and swap.
    pub const COMPARE_SWAP: u32 = 4;
    /// Atomic fetch and add.
    pub const FETCH_ADD: u32 = 5;
}

/// How an order ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum Status {
    /// All repetitions have been carried out.
    Done = 0,
    /// CHECK: what was read is not the pattern. No further repetition follows.
    Mismatch = 1,
    /// The message is not an order's length.
    BadSize = 2,
    BadOperation = 3,
    BadLength = 4,
    BadRepeat = 5,
    BadDelay = 6,
    /// A field that must be 0 is not.
    BadReserved = 7,
}

/// What is done to the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    Write { seed: u64 },
    Read,
    Check { seed: u64 },
    CompareSwap { compare: u64, swap: u64 },
    FetchAdd { addend: u64 },
}

impl Operation {
    /// Whether it works on one 8-byte word.
    #[must_use]
    pub fn is_atomic(self) -> bool {
        matches!(self, Self::CompareSwap { .. } | Self::FetchAdd { .. })
    }

    /// Its name on the command line and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Read => "read",
            Self::Check { .. } => "check",
            Self::CompareSwap { .. } => "compare-swap",
            Self::FetchAdd { .. } => "fetch-add",
        }
    }
}

/// An order, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub operation: Operation,
    pub rkey: u32,
    pub address: u64,
    pub len: u64,
    pub delay: Nanos,
    pub repeat: u32,
    pub cookie: u64,
}

/// A message that is no order: what the answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    pub status: Status,
    pub cookie: u64,
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

impl Order {
    /// Reads and checks the message of a SEND.
    ///
    /// # Errors
    /// [`Malformed`] with the first rule that is broken.
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let cookie = le64(message, order::COOKIE);
        let refuse = |status| Err(Malformed { status, cookie });
        if message.len() != ORDER_SIZE {
            return refuse(Status::BadSize);
        }
        let (operand, swap) = (le64(message, order::OPERAND), le64(message, order::SWAP));
        let operation = match le32(message, order::OP) {
            op::WRITE => Operation::Write { seed: operand },
            op::READ => Operation::Read,
            op::CHECK => Operation::Check { seed: operand },
            op::COMPARE_SWAP => Operation::CompareSwap { compare: operand, swap },
            op::FETCH_ADD => Operation::FetchAdd { addend: operand },
            _ => return refuse(Status::BadOperation),
        };
        let len = le64(message, order::LENGTH);
        if !(1..=MAX_LENGTH).contains(&len) || operation.is_atomic() && len != 8 {
            return refuse(Status::BadLength);
        }
        let repeat = le32(message, order::REPEAT);
        if !(1..=MAX_REPEAT).contains(&repeat) {
            return refuse(Status::BadRepeat);
        }
        let delay = le64(message, order::DELAY);
        if delay > MAX_DELAY {
            return refuse(Status::BadDelay);
        }
        if le32(message, order::RESERVED) != 0 {
            return refuse(Status::BadReserved);
        }
        let (rkey, address) = (le32(message, order::RKEY), le64(message, order::ADDRESS));
        Ok(Self { operation, rkey, address, len, delay, repeat, cookie })
    }
}

/// Where a CHECK failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Difference {
    pub offset: u64,
    pub found: [u8; 8],
    pub expected: [u8; 8],
}

/// What the peer tells about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub status: Status,
    pub repetitions: u32,
    pub old: u64,
    pub cookie: u64,
    pub time: Nanos,
    pub digest: u64,
    pub difference: Difference,
}

impl Answer {
    /// The message as it is sent.
    #[must_use]
    pub fn encode(&self) -> [u8; ANSWER_SIZE] {
        let mut message = [0; ANSWER_SIZE];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = message.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(answer::STATUS, &(self.status as u32).to_le_bytes());
        put(answer::REPETITIONS, &self.repetitions.to_le_bytes());
        put(answer::OLD, &self.old.to_le_bytes());
        put(answer::COOKIE, &self.cookie.to_le_bytes());
        put(answer::TIME, &self.time.to_le_bytes());
        put(answer::DIGEST, &self.digest.to_le_bytes());
        put(answer::OFFSET, &self.difference.offset.to_le_bytes());
        put(answer::FOUND, &self.difference.found);
        put(answer::EXPECTED, &self.difference.expected);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> [u8; ORDER_SIZE] {
        let mut message = [0; ORDER_SIZE];
        message[order::OP] = op::COMPARE_SWAP as u8;
        message[order::RKEY..][..4].copy_from_slice(&0x1234_5678u32.to_le_bytes());
        message[order::ADDRESS..][..8].copy_from_slice(&0x7fff_0000_1000u64.to_le_bytes());
        message[order::LENGTH] = 8;
        message[order::OPERAND] = 1;
        message[order::SWAP] = 2;
        message[order::DELAY..][..8].copy_from_slice(&MAX_DELAY.to_le_bytes());
        message[order::REPEAT] = 3;
        message[order::COOKIE] = 0xaa;
        message
    }

    #[test]
    fn an_order_is_read() {
        let expected = Order {
            operation: Operation::CompareSwap { compare: 1, swap: 2 },
            rkey: 0x1234_5678,
            address: 0x7fff_0000_1000,
            len: 8,
            delay: MAX_DELAY,
            repeat: 3,
            cookie: 0xaa,
        };
        assert_eq!(Order::parse(&message()), Ok(expected));
    }

    #[test]
    fn what_is_wrong_with_an_order_has_a_status_of_its_own() {
        let refused = |change: &dyn Fn(&mut [u8; ORDER_SIZE])| {
            let mut message = message();
            change(&mut message);
            Order::parse(&message).map_err(|malformed| (malformed.status, malformed.cookie))
        };
        for (at, value, status) in [
            (order::OP, 0, Status::BadOperation),
            (order::OP, 6, Status::BadOperation),
            (order::LENGTH, 7, Status::BadLength),
            (order::LENGTH + 7, 1, Status::BadLength),
            (order::REPEAT, 0, Status::BadRepeat),
            (order::REPEAT + 3, 1, Status::BadRepeat),
            (order::DELAY + 7, 1, Status::BadDelay),
            (order::RESERVED + 3, 1, Status::BadReserved),
        ] {
            assert_eq!(refused(&|message| message[at] = value), Err((status, 0xaa)), "{at} {value}");
        }
        assert_eq!(
            refused(&|message| (message[order::OP], message[order::LENGTH]) = (1, 0)),
            Err((Status::BadLength, 0xaa))
        );
        let short = Order::parse(&message()[..ORDER_SIZE - 1]);
        assert_eq!(short, Err(Malformed { status: Status::BadSize, cookie: 0 }));
        assert_eq!(Order::parse(&[]).unwrap_err().status, Status::BadSize);
    }

    #[test]
    fn an_answer_is_written() {
        let difference = Difference { offset: 5, found: [6; 8], expected: [7; 8] };
        let answer = Answer {
            status: Status::Mismatch,
            repetitions: 2,
            old: 3,
            cookie: 4,
            time: 1 << 40,
            digest: u64::MAX,
            difference,
        };
        let words: Vec<_> =
            answer.encode().as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).collect();
        let sevens = u64::from_le_bytes([7; 8]);
        assert_eq!(words, [2 << 32 | 1, 3, 4, 1 << 40, u64::MAX, 5, u64::from_le_bytes([6; 8]), sevens]);
    }
}
