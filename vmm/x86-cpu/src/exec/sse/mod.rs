//! MMX and SSE to SSE4.2, AVX, AVX2, FMA and F16C, with the cryptographic, cache and state instructions that came along.
//!
//! Integer and floating-point operations execute the host's own instruction (the host is x86-64-v2 at least): [`host`]
//! is the one place that does. What differs between vendors (RCPPS, RSQRTPS) or takes an immediate is plain Rust.

mod approximate;
mod avx;
mod cache;
mod compare;
mod convert;
mod counterparts;
mod crypto;
mod exact;
mod float;
mod fma;
mod gather;
mod host;
mod image;
mod integer;
mod lanes;
mod mmx;
mod moves;
mod operand;
mod shuffle;
mod state;
mod string;
#[cfg(test)]
mod tests;
mod unbounded;
mod vex;
pub(crate) mod xsave;

use crate::block::{Op, OpFn};
use crate::decode::operand::{gpr, has_memory, vector};
use crate::decode::{Lowered, not_available, undefined};
use crate::mode::Mode;
use crate::world::World;
use iced_x86::{Code, EncodingKind, Instruction, OpKind, Register};

/// What must hold for an instruction to execute (SDM volume 2, 2.4 and volume 3, 13.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// XMM registers or MXCSR: #UD unless CR4.OSFXSR is set and CR0.EM clear, #NM if CR0.TS.
    Sse,
    /// MMX registers or the FXSAVE image: #UD if CR0.EM, #NM if CR0.TS.
    Mmx,
    /// The XSAVE feature set: #UD unless CR4.OSXSAVE, #NM if CR0.TS.
    Xsave,
    /// XCR0: #UD unless CR4.OSXSAVE.
    Xcr,
    /// VEX-encoded vectors: #UD unless XCR0 enables AVX and CR4.OSXSAVE is set, #NM if CR0.TS.
    Avx,
    /// General registers and memory only.
    Open,
}

/// The operation chosen and its gate, or `None` if the instruction is of another subject.
type Choice<W> = Option<(Gate, OpFn<W>)>;

pub(crate) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    let memory = has_memory(instruction);
    let vex = instruction.op_code().encoding() == EncodingKind::VEX;
    let choice = if vex {
        let legacy = counterparts::counterpart(instruction.code());
        // The gate of the prefix replaces that of the legacy form.
        legacy
            .and_then(|code| choose(code, memory, 0))
            .map(|(_, run)| (Gate::Avx, run))
            .or_else(|| avx::lower(instruction.code(), memory))
            .or_else(|| gather::lower(instruction.code()))
            .or_else(|| fma::lower(instruction.code(), memory))
    } else {
        choose(instruction.code(), memory, instruction.immediate8())
    };
    let Some((gate, run)) = choice else {
        return Lowered::No;
    };
    let enabled = match gate {
        Gate::Sse => mode.sse(),
        Gate::Mmx => !mode.emulated(),
        Gate::Xsave | Gate::Xcr => mode.xsave(),
        Gate::Avx => mode.avx(),
        Gate::Open => true,
    };
    if !enabled {
        op.run = undefined;
        return Lowered::Last;
    }
    if !matches!(gate, Gate::Open | Gate::Xcr) && mode.task_switched() {
        op.run = not_available;
        return Lowered::Last;
    }
    op.run = run;
    if vex {
        vex::fill(instruction, op);
        fma::fill(instruction.code(), op);
        if instruction.memory_index().is_vector_register() {
            gather::fill(instruction, op);
        }
    } else {
        fill(instruction, op);
    }
    if matches!(instruction.op0_kind(), OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI) {
        moves::fill_masked(instruction, mode, op);
    }
    Lowered::Straight
}

/// The operation for a legacy form. `imm` is its immediate.
fn choose<W: World>(code: Code, memory: bool, imm: u8) -> Choice<W> {
    let subjects = [
        moves::lower::<W>,
        integer::lower::<W>,
        shuffle::lower::<W>,
        float::lower::<W>,
        convert::lower::<W>,
        lanes::lower::<W>,
        string::lower::<W>,
        crypto::lower::<W>,
        mmx::lower::<W>,
        state::lower::<W>,
        xsave::lower::<W>,
        cache::lower::<W>,
    ];
    subjects.iter().find_map(|subject| subject(code, memory)).or_else(|| compare::lower(code, memory, imm))
}

/// Fills in the registers and the immediate of a legacy form.
fn fill<W: World>(instruction: &Instruction, op: &mut Op<W>) {
    for operand in 0..instruction.op_count() {
        match instruction.op_kind(operand) {
            OpKind::Register if operand == 0 => op.dst = index(instruction.op0_register()),
            OpKind::Register if operand == 1 => op.src = index(instruction.op1_register()),
            OpKind::Immediate8 => op.imm = u64::from(instruction.immediate8()),
            _ => {}
        }
    }
}

fn index(register: Register) -> u8 {
    if register.is_gpr() { gpr(register) } else { vector(register) }
}
