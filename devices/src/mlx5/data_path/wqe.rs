//! Work queue entries of send queues: what they ask for. Positions are those of the Linux kernel's
//! `include/linux/mlx5/qp.h` (6.12).

use super::completion::Syndrome;
use super::datagram::AddressVector;
use crate::dma::AtomicOp;
use crate::mlx5::field::{be32, be64};
use serde::{Deserialize, Serialize};

/// Unit of an entry's size.
const UNIT: usize = 16;
/// A basic block of a send queue, as a power of two.
pub const BLOCK_SHIFT: u32 = 6;
pub const BLOCK: usize = 1 << BLOCK_SHIFT;
/// Longest entry: the size field has 6 bits and counts units.
pub const MAX_BLOCKS: usize = 16;
/// Marks a data segment whose data follows it.
const INLINE: u32 = 1 << 31;

/// The control segment, which begins every entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub opcode: u8,
    pub qpn: u32,
    /// Size of the whole entry in units of 16 bytes.
    pub units: usize,
    /// The receiver's completion is solicited.
    pub solicited: bool,
    /// A completion is wanted when all goes well.
    pub signalled: bool,
    /// Immediate data, a key to invalidate, or the key that a UMR changes.
    pub immediate: u32,
}

impl Control {
    pub fn parse(block: &[u8]) -> Self {
        const SOLICITED: u8 = 1 << 1;
        const COMPLETION_SHIFT: u8 = 2;
        const COMPLETION_ALWAYS: u8 = 2;
        let qpn_and_size = be32(block, 4);
        let flags = block.get(11).copied().unwrap_or(0);
        Self {
            opcode: be32(block, 0) as u8,
            qpn: qpn_and_size >> 8,
            units: (qpn_and_size & 0x3f) as usize,
            solicited: flags & SOLICITED != 0,
            signalled: flags >> COMPLETION_SHIFT & 3 >= COMPLETION_ALWAYS,
            immediate: be32(block, 12),
        }
    }

    /// Blocks that the entry takes; one if it says none.
    pub fn blocks(&self) -> u16 {
        (self.units * UNIT).div_ceil(BLOCK).max(1) as u16
    }

    /// Bytes of the entry.
    pub fn len(&self) -> usize {
        self.units * UNIT
    }
}

/// A range of memory behind a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub key: u32,
    pub address: u64,
    pub len: u32,
}

impl Segment {
    pub const SIZE: usize = 16;

    /// A data segment that is not inline.
    pub fn parse(bytes: &[u8]) -> Self {
        Self { len: be32(bytes, 0) & !INLINE, key: be32(bytes, 4), address: be64(bytes, 8) }
    }
}

/// Memory of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Remote {
    pub address: u64,
    pub key: u32,
}

/// The bytes that a request sends, or where those it fetches go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    Inline(Vec<u8>),
    Segments(Vec<Segment>),
}

impl Data {
    /// Bytes in all.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Segments(segments) => segments.iter().map(|segment| u64::from(segment.len)).sum(),
        }
    }
}

/// What comes with a message beside its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Immediate {
    Data(u32),
    /// The receiver frees this key of its own.
    Invalidate(u32),
}

/// What is asked of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    Send,
    Write,
    Read,
    Atomic(AtomicOp),
}

/// A message to another queue pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub operation: Operation,
    pub immediate: Option<Immediate>,
    pub remote: Remote,
    /// The shared receive queue that an XRC message names.
    pub srqn: Option<u32>,
    /// The destination of a datagram.
    pub vector: Option<AddressVector>,
    pub data: Data,
}

/// What an entry asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    Nothing,
    Message(Message),
    /// A change of a memory key; the segments behind the control segment.
    ChangeKey(Vec<u8>),
}

/// What the transport of the queue has in its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// An XRC segment follows the control segment.
    pub xrc: bool,
    /// An address vector follows the control segment.
    pub datagram: bool,
    /// RDMA READ and atomic operations are possible.
    pub reads: bool,
    /// RDMA WRITE is possible.
    pub writes: bool,
}

mod opcode {
    pub const NOP: u8 = 0x00;
    pub const SEND_INVALIDATE: u8 = 0x01;
    pub const WRITE: u8 = 0x08;
    pub const WRITE_IMMEDIATE: u8 = 0x09;
    pub const SEND: u8 = 0x0a;
    pub const SEND_IMMEDIATE: u8 = 0x0b;
    pub const READ: u8 = 0x10;
    pub const COMPARE_SWAP: u8 = 0x11;
    pub const FETCH_ADD: u8 = 0x12;
    pub const UMR: u8 = 0x25;
}

/// Takes segments off the rest of an entry.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Syndrome> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Syndrome::LocalOperation)?;
        self.0 = rest;
        Ok(taken)
    }

    fn remote(&mut self) -> Result<Remote, Syndrome> {
        let segment = self.take(UNIT)?;
        Ok(Remote { address: be64(segment, 0), key: be32(segment, 8) })
    }

    /// The data segments up to the end of the entry: pointers, or inline data, or both.
    fn data(mut self) -> Result<Data, Syndrome> {
        let mut segments = Vec::new();
        let mut inline: Option<Vec<u8>> = None;
        while !self.0.is_empty() {
            let head = be32(self.0, 0);
            if head & INLINE == 0 {
                segments.push(Segment::parse(self.take(Segment::SIZE)?));
                continue;
            }
            // Inline data follows its four-byte head, padded to the next unit.
            let len = (head & !INLINE) as usize;
            let padded = len.saturating_add(4).next_multiple_of(UNIT);
            let bytes = self.take(padded.min(self.0.len()))?.get(4..).unwrap_or_default();
            let bytes = bytes.get(..len).ok_or(Syndrome::LocalOperation)?;
            inline.get_or_insert_default().extend_from_slice(bytes);
        }
        match inline {
            None => Ok(Data::Segments(segments)),
            Some(bytes) if segments.is_empty() => Ok(Data::Inline(bytes)),
            // An empty inline segment is how some drivers encode a pointer to nothing.
            Some(bytes) if bytes.is_empty() => Ok(Data::Segments(segments)),
            Some(_) => Err(Syndrome::LocalOperation),
        }
    }
}

/// Understands the entry `bytes`, which `control` begins.
///
/// # Errors
/// The syndrome of the completion: a local operation error for what makes no sense.
pub fn parse(control: &Control, bytes: &[u8], layout: Layout) -> Result<Work, Syndrome> {
    let mut rest = Rest(bytes.get(UNIT..control.len()).ok_or(Syndrome::LocalOperation)?);
    match control.opcode {
        opcode::NOP => return Ok(Work::Nothing),
        opcode::UMR => return Ok(Work::ChangeKey(rest.0.to_vec())),
        _ => {}
    }
    let srqn = if layout.xrc { Some(be32(rest.take(UNIT)?, 0) & 0xff_ffff) } else { None };
    let vector = if layout.datagram { Some(rest.address_vector()?) } else { None };
    let immediate_data = Some(Immediate::Data(control.immediate));
    let (operation, immediate) = match control.opcode {
        opcode::SEND => (Operation::Send, None),
        opcode::SEND_IMMEDIATE => (Operation::Send, immediate_data),
        opcode::SEND_INVALIDATE if layout.reads => {
            (Operation::Send, Some(Immediate::Invalidate(control.immediate)))
        }
        opcode::WRITE if layout.writes => (Operation::Write, None),
        opcode::WRITE_IMMEDIATE if layout.writes => (Operation::Write, immediate_data),
        opcode::READ if layout.reads => (Operation::Read, None),
        opcode::COMPARE_SWAP | opcode::FETCH_ADD if layout.reads => {
            (Operation::Atomic(AtomicOp::FetchAdd(0)), None)
        }
        _ => return Err(Syndrome::LocalOperation),
    };
    let mut message = Message {
        operation,
        immediate,
        remote: Remote::default(),
        srqn,
        vector,
        data: Data::Inline(Vec::new()),
    };
    if operation != Operation::Send {
        message.remote = rest.remote()?;
    }
    if matches!(operation, Operation::Atomic(_)) {
        let operands = rest.take(UNIT)?;
        let (swap_or_add, compare) = (be64(operands, 0), be64(operands, 8));
        message.operation = Operation::Atomic(match control.opcode {
            opcode::COMPARE_SWAP => AtomicOp::CompareSwap { compare, swap: swap_or_add },
            _ => AtomicOp::FetchAdd(swap_or_add),
        });
    }
    message.data = rest.data()?;
    match (&message.operation, &message.data) {
        (Operation::Read | Operation::Atomic(_), Data::Inline(_)) => Err(Syndrome::LocalOperation),
        _ => Ok(Work::Message(message)),
    }
}

impl Rest<'_> {
    /// The compact address vector has 16 bytes, the extended one 48.
    fn address_vector(&mut self) -> Result<AddressVector, Syndrome> {
        const EXTENDED: u32 = 1 << 31;
        let len = if be32(self.0, 8) & EXTENDED != 0 { 48 } else { 16 };
        Ok(AddressVector::parse(self.take(len)?))
    }
}
