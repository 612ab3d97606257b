//! General registers as operands.

use crate::memory::word::Int;
use crate::state::Vcpu;
use iced_x86::{Instruction, OpKind};

impl Vcpu {
    /// Value of register operand `index` (bit 5: bits 8-15 of the register).
    #[inline(always)]
    #[must_use]
    pub(crate) fn reg<T: Int>(&self, index: u8) -> T {
        let value = self.gpr[index as usize & 31];
        if T::BITS == 8 { T::low(value >> (index >> 5 << 3)) } else { T::low(value) }
    }

    /// Replaces register operand `index`: a 32-bit write clears the upper half, narrower ones leave the rest.
    #[inline(always)]
    pub(crate) fn set_reg<T: Int>(&mut self, index: u8, value: T) {
        let register = &mut self.gpr[index as usize & 31];
        match T::BITS {
            8 => {
                let shift = index >> 5 << 3;
                *register = *register & !(0xff << shift) | value.zext() << shift;
            }
            16 => *register = *register & !0xffff | value.zext(),
            _ => *register = value.zext(),
        }
    }
}

/// Size in bytes of operand `index`, a register or memory.
pub(crate) fn operand_size(instruction: &Instruction, index: u32) -> usize {
    match instruction.op_kind(index) {
        OpKind::Register => instruction.op_register(index).size(),
        _ => instruction.memory_size().size(),
    }
}
