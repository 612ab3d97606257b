//! Decoded operations and the blocks they form.

use crate::fault::Fault;
use crate::memory::MemoryType;
use crate::memory::paging::PHYSICAL_BITS;
use crate::mode::Mode;
use crate::state::{Vcpu, slot};
use crate::world::World;
use std::fmt;
use std::sync::Arc;

/// Executes one decoded operation.
///
/// # Errors
/// The fault the instruction raised; nothing of it has then been retired.
pub type OpFn<W> = fn(&mut Vcpu, &mut W, &Op<W>) -> Result<(), Fault>;

/// How the effective address of an operand is formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// 64-bit mode, 64-bit addressing: base + index << scale + displacement + segment slot.
    Flat64,
    /// 64-bit mode with a 32-bit address size: the sum is truncated before the segment base is added.
    Flat64Addr32,
    /// Legacy modes, 32-bit addressing: truncated, then segment limit and type are checked.
    Legacy32,
    /// Legacy modes, 16-bit addressing.
    Legacy16,
}

/// One decoded instruction. `run` interprets the operand fields; their meaning is fixed by the decoder that chose it.
pub struct Op<W: World> {
    pub run: OpFn<W>,
    /// Immediate, sign-extended to 64 bits; branch target relative to the block's start; port number.
    pub imm: u64,
    /// Displacement; for RIP-relative operands relative to the start of the block.
    pub disp: u64,
    /// First register operand. Byte registers: bit 5 set means bits 8-15 of register `& 31`.
    pub dst: u8,
    /// Second register operand, as `dst`.
    pub src: u8,
    /// Third operand, condition code or other small datum.
    pub aux: u8,
    /// Base register slot.
    pub base: u8,
    /// Index register slot.
    pub index: u8,
    /// Shift of the index register, 0-3.
    pub scale: u8,
    /// Slot of the segment base in 64-bit mode (zero, FS or GS).
    pub seg_slot: u8,
    /// Segment register of the memory operand (for stack operations SS), for legacy checks and #SS.
    pub seg: u8,
    pub address: AddressKind,
    /// Length of the instruction in bytes.
    pub len: u8,
    /// Its number in the block and, above 16 bits, the instruction's offset there in bytes.
    pub(crate) place: u32,
    /// What is to happen before it where a world is shown accesses: bits of [`crate::fetched::mark`].
    pub(crate) marks: u8,
    /// How many operations of its block, this one included, come before the next with marks, where a world is shown accesses.
    pub(crate) stretch: u8,
}

impl<W: World> Clone for Op<W> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<W: World> fmt::Debug for Op<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Op").field("offset", &self.offset()).field("len", &self.len).finish_non_exhaustive()
    }
}

impl<W: World> Op<W> {
    /// An operation with no operands.
    pub fn new(run: OpFn<W>, offset: u16, len: u8) -> Self {
        Self {
            run,
            imm: 0,
            disp: 0,
            dst: 0,
            src: 0,
            aux: 0,
            base: slot::ZERO,
            index: slot::ZERO,
            scale: 0,
            seg_slot: slot::ZERO,
            seg: crate::state::seg::DS as u8,
            address: AddressKind::Flat64,
            len,
            place: u32::from(offset) << 16,
            marks: 0,
            stretch: 1,
        }
    }
    /// Offset of the instruction in its block, bytes.
    #[inline(always)]
    #[must_use]
    pub fn offset(&self) -> u16 {
        (self.place >> 16) as u16
    }
    /// Offset of the next instruction in the block.
    #[inline(always)]
    #[must_use]
    pub fn next_offset(&self) -> u16 {
        self.offset() + u16::from(self.len)
    }
}

/// Where a block went last: valid only in the epoch it was recorded in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub epoch: u64,
    pub rip: u64,
    pub block: u32,
}

impl Link {
    pub(crate) const NONE: Self = Self { epoch: u64::MAX, rip: 0, block: 0 };
}

/// What names a block: code that is fetched past the cache may differ from what is in it.
pub(crate) const fn key(phys: u64, kind: MemoryType, mode: Mode) -> (u64, Mode) {
    (phys | (kind as u64) << PHYSICAL_BITS, mode)
}

/// A run of instructions in one guest-physical page, entered at its start only.
#[derive(Debug)]
pub(crate) struct Block<W: World> {
    /// Other machines may run the same.
    pub ops: Arc<[Op<W>]>,
    /// Guest-physical address of the first byte.
    pub phys: u64,
    pub mode: Mode,
    /// Length in bytes.
    pub len: u16,
    /// The last operation sets RIP itself.
    pub branches: bool,
    /// Type of the memory that it is fetched from.
    pub kind: MemoryType,
    /// Guest-physical address of the second page, for a block of one instruction that crosses pages.
    pub crosses: Option<u64>,
    /// What it is known by before its first operation whether the world is to see the fetch; [`crate::fetched::first_line`].
    pub first_line: u64,
    /// Successors seen last.
    pub links: [Link; 2],
    pub valid: bool,
    /// A probe is at the start: never entered by a link or lookup.
    pub probed: bool,
    /// It is fetched past the cache, from memory that changes when the cache writes back: decoded anew whenever it is entered.
    pub refetched: bool,
}

impl<W: World> Block<W> {
    /// Whether it may be entered by a link or lookup.
    pub(crate) const fn is_followed(&self) -> bool {
        !self.probed && !self.refetched
    }
    /// What names it.
    pub(crate) const fn key(&self) -> (u64, Mode) {
        key(self.phys, self.kind, self.mode)
    }
    /// Makes nothing of the block, which others may still lead to: it does nothing, and what follows is found anew.
    pub(crate) fn empty(&mut self) {
        self.valid = false;
        self.ops = Arc::default();
        (self.len, self.branches) = (0, false);
    }
}
