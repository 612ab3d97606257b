//! System instructions: privilege, segments, control registers, ports and what else talks to the machine.

mod control_registers;
mod debug_registers;
pub(crate) mod descriptor;
mod far;
mod flags;
mod identification;
mod iret;
mod port;
mod segment;
mod syscall;
mod tables;
pub(crate) mod task;
#[cfg(test)]
mod tests;
mod translations;
mod traps;

use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::fault::Fault;
use crate::mode::Mode;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::{Instruction, OpKind};

pub(crate) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    let families = [
        flags::lower::<W>,
        syscall::lower::<W>,
        control_registers::lower::<W>,
        debug_registers::lower::<W>,
        translations::lower::<W>,
        segment::lower::<W>,
        identification::lower::<W>,
        traps::lower::<W>,
        port::lower::<W>,
        far::lower::<W>,
        iret::lower::<W>,
        tables::lower::<W>,
    ];
    for family in families {
        let lowered = family(instruction, mode, op);
        if lowered != Lowered::No {
            return lowered;
        }
    }
    Lowered::No
}

/// In a register field of [`Op`]: the operand is in memory.
const MEMORY: u8 = 0x80;

/// The field for operand `index`: a general register, or [`MEMORY`].
fn operand(instruction: &Instruction, index: u32) -> u8 {
    match instruction.op_kind(index) {
        OpKind::Register => gpr(instruction.op_register(index)),
        _ => MEMORY,
    }
}

impl Vcpu {
    /// Raises #GP(0) unless the CPL is 0.
    fn require_supervisor(&self) -> Result<(), Fault> {
        if self.cpl == 0 { Ok(()) } else { Err(Fault::GP0) }
    }

    /// Raises #UD outside protected mode (real and virtual-8086 mode).
    fn require_protected(&self) -> Result<(), Fault> {
        if self.protected() { Ok(()) } else { Err(Fault::UD) }
    }

    /// After RFLAGS.IF may have been set: a waiting interrupt is to be taken.
    fn interrupts_enabled<W: World>(&mut self, world: &mut W) {
        if self.system_flags & crate::flags::bits::IF != 0 && world.interrupt_pending(self.id) {
            self.recheck = true;
            self.limit = 0;
        }
    }

    /// Reads a 16-bit operand: a register, or memory of which 16 bits are read.
    fn word_operand<W: World>(&mut self, world: &mut W, op: &Op<W>, field: u8) -> Result<u16, Fault> {
        if field == MEMORY {
            let linear = self.address::<u16, W>(op)?;
            self.load::<u16, W>(world, linear)
        } else {
            Ok(self.reg::<u16>(field))
        }
    }

    /// Writes a 16-bit value to an operand: to 16 bits of memory, or zero-extended to a register of `size` bytes.
    fn set_word_operand<W: World>(
        &mut self,
        world: &mut W,
        op: &Op<W>,
        field: u8,
        size: u8,
        value: u16,
    ) -> Result<(), Fault> {
        if field == MEMORY {
            let linear = self.address_mut::<u16, W>(op)?;
            return self.store(world, linear, value);
        }
        self.set_reg_sized(field, size, u64::from(value));
        Ok(())
    }

    /// Replaces a register of 2, 4 or 8 bytes.
    fn set_reg_sized(&mut self, field: u8, size: u8, value: u64) {
        match size {
            2 => self.set_reg::<u16>(field, value as u16),
            4 => self.set_reg::<u32>(field, value as u32),
            _ => self.set_reg::<u64>(field, value),
        }
    }

    /// Pushes a value of 2, 4 or 8 bytes.
    pub(crate) fn push_sized<W: World>(&mut self, world: &mut W, size: u8, value: u64) -> Result<(), Fault> {
        match size {
            2 => self.push(world, value as u16),
            4 => self.push(world, value as u32),
            _ => self.push(world, value),
        }
    }

    /// Loads the value of 2, 4 or 8 bytes that is `slot` such values above the stack pointer.
    fn peek_sized<W: World>(&mut self, world: &mut W, size: u8, slot: u64) -> Result<u64, Fault> {
        let offset = slot * u64::from(size);
        Ok(match size {
            2 => u64::from(self.peek::<u16, W>(world, offset)?),
            4 => u64::from(self.peek::<u32, W>(world, offset)?),
            _ => self.peek::<u64, W>(world, offset)?,
        })
    }
}
