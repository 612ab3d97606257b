//! Index and count registers of the string instructions: rSI, rDI and rCX, as wide as the address size.

use crate::state::Vcpu;
use iced_x86::{Instruction, OpKind};

/// Address size in bytes of a string instruction; 0 for an instruction without a string operand.
pub(crate) fn address_size(instruction: &Instruction) -> u8 {
    (0..instruction.op_count())
        .map(|index| match instruction.op_kind(index) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => 2,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => 4,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => 8,
            _ => 0,
        })
        .max()
        .unwrap_or(0)
}

impl Vcpu {
    /// The low `size` bytes of a register.
    #[inline(always)]
    pub(crate) fn index_register(&self, register: usize, size: u8) -> u64 {
        let value = self.gpr[register & 15];
        match size {
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        }
    }

    /// Adds to the low `size` bytes of a register; a 32-bit result clears the upper half.
    #[inline(always)]
    pub(crate) fn move_index(&mut self, register: usize, size: u8, by: u64) {
        let value = &mut self.gpr[register & 15];
        let moved = value.wrapping_add(by);
        *value = match size {
            2 => *value & !0xffff | moved & 0xffff,
            4 => moved & 0xffff_ffff,
            _ => moved,
        };
    }

    /// By how much an index register moves for an element of `size` bytes, in the direction of DF.
    #[inline(always)]
    pub(crate) fn index_step(&self, size: usize) -> u64 {
        let backwards = self.system_flags & crate::flags::bits::DF != 0;
        if backwards { (size as u64).wrapping_neg() } else { size as u64 }
    }
}
