//! From instruction bytes to operations: iced-x86 decodes, the families below choose what executes.

mod fetch;
pub(crate) mod operand;
mod unimplemented;

pub(crate) use fetch::decode_block;
pub(crate) use unimplemented::unimplemented;

use crate::block::Op;
use crate::fault::Fault;
use crate::mode::Mode;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::{EncodingKind, Instruction, Mnemonic};

/// What a family made of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lowered {
    /// Not of this family.
    No,
    /// The operation falls through to the next instruction; `limit = 0` in it still ends the block early.
    Straight,
    /// The operation is the last of its block and falls through (it may change the mode, the flags IF and TF, paging, or
    /// stop the vCPU).
    Last,
    /// The operation is the last of its block and sets `rip` itself in every case.
    Branch,
}

/// Chooses the operation for `instruction`. `op` comes with its memory operand, offset and length filled in.
pub(crate) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    if instruction.mnemonic() == Mnemonic::Vmmcall {
        op.run = crate::encryption::hypercall;
        return Lowered::Last;
    }
    if instruction.is_invalid() || !crate::cpuid::implements(instruction) {
        op.run = unimplemented;
        return Lowered::Last;
    }
    // VEX prefixes are not recognised in real and virtual-8086 mode (SDM volume 2, 2.3).
    if !mode.protected() && instruction.op_code().encoding() == EncodingKind::VEX {
        op.run = undefined;
        return Lowered::Last;
    }
    let families = [
        crate::exec::integer::lower::<W>,
        crate::exec::control::lower::<W>,
        crate::exec::string::lower::<W>,
        crate::exec::system::lower::<W>,
        crate::exec::sse::lower::<W>,
        crate::exec::x87::lower::<W>,
    ];
    for family in families {
        let lowered = family(instruction, mode, op);
        if lowered != Lowered::No {
            return lowered;
        }
    }
    op.run = unimplemented;
    Lowered::Last
}

/// #UD.
pub(crate) fn undefined<W: World>(_: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    Err(Fault::UD)
}

/// #GP for an instruction of more than 15 bytes.
fn too_long<W: World>(_: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    Err(Fault::GP0)
}

/// #NM.
pub(crate) fn not_available<W: World>(_: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    Err(Fault::NM)
}
