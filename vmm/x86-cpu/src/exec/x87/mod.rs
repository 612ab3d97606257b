//! The x87 FPU (SDM volume 1, chapter 8).
//!
//! The stack, tags, exceptions and control state are plain Rust; basic arithmetic on values runs on the host's x87
//! (`host`), which is exact on every vendor's processor; what differs between vendors (the transcendental functions and the
//! number of steps of a partial remainder) is computed here.

mod arithmetic;
mod bcd;
mod compare;
mod control;
mod elementary;
mod environment;
mod exception;
mod format;
mod host;
mod load_store;
mod opcode;
mod remainder;
mod stack;
#[cfg(test)]
mod tests;
mod transcendental;
mod wide;

use crate::block::Op;
use crate::decode::{Lowered, not_available, operand};
use crate::fault::Fault;
use crate::memory::tlb::Context;
use crate::mode::Mode;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::{Code, Instruction};

/// In `Op::aux`: the instruction has a memory operand, to which the data pointer is to point.
const MEMORY: u8 = 1 << 7;
/// In `Op::aux`: how many values are popped.
const POPS_SHIFT: u8 = 5;

fn pops<W: World>(op: &Op<W>) -> u8 {
    op.aux >> POPS_SHIFT & 3
}

fn select_pops<W: World>(op: &mut Op<W>, pops: u8) {
    op.aux |= pops << POPS_SHIFT;
}

/// A result, with the exceptions and condition codes that come with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Computed {
    value: u128,
    status: u16,
}

impl Computed {
    /// The response to an empty operand.
    const UNDERFLOW: Self = Self { value: format::INDEFINITE, status: exception::UNDERFLOW };
    /// The response to an invalid operand.
    const INVALID: Self = Self { value: format::INDEFINITE, status: exception::IE };

    const fn exact(value: u128) -> Self {
        Self { value, status: 0 }
    }
}

/// Raises #AC for an operand of other than a power of two of bytes: 8-byte alignment for 80-bit ones, that of its fields for
/// an environment (SDM volume 3, table 7-7).
fn check_alignment(cpu: &Vcpu, linear: u64, bytes: u64) -> Result<(), Fault> {
    let checked = cpu.tlb.context == Context::UserAligned;
    if checked && linear & (bytes - 1) != 0 { Err(Fault::AC) } else { Ok(()) }
}

/// Chooses the operation for an x87 instruction. `Op` fields: `dst` and `src` number stack registers, `imm` is the opcode
/// as FNSTENV stores it, `aux` holds [`MEMORY`], the number of pops and the arithmetic operation.
pub(crate) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    let code = instruction.code();
    op.aux = if operand::has_memory(instruction) { MEMORY } else { 0 };
    let mut registers = (0..instruction.op_count())
        .map(|i| instruction.op_register(i))
        .filter(|register| register.is_st())
        .map(operand::vector);
    op.dst = registers.next().unwrap_or(0);
    op.src = registers.next().unwrap_or(op.dst);
    let Some(run) = arithmetic::select::<W>(code, op)
        .or_else(|| compare::select(code, op))
        .or_else(|| load_store::select(code, op))
        .or_else(|| control::select(code, op))
        .or_else(|| remainder::select(code))
        .or_else(|| transcendental::select(code))
    else {
        return Lowered::No;
    };
    op.imm = u64::from(opcode::of(instruction));
    let unavailable =
        if code == Code::Wait { mode.wait_traps() } else { mode.emulated() || mode.task_switched() };
    op.run = if unavailable { not_available::<W> } else { run };
    Lowered::Straight
}
