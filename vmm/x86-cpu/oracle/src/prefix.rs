//! Forms with prefixes added that do not belong to them: ignored ones, repeated ones, and LOCK where it is not allowed.

use crate::compare::Undefined;
use crate::forms;
use crate::generate::{ALIGNMENT, Case, decode, linear_address, single};
use crate::rng::Rng;
use crate::state::Width;
use crate::vendor;
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind};

/// Prefixes other than REX.
pub(crate) const LEGACY: [u8; 12] = [0xf0, 0xf0, 0xf2, 0xf3, 0x66, 0x67, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];
const PADDING: [u8; 8] = [0xcc; 8];

/// An instance of `code` with one or two more prefixes, if what it then is can be compared.
pub fn generate(rng: &Rng, width: Width, code: Code) -> Option<(Case, Undefined)> {
    let mut case = single(rng, width, code)?;
    // Two exceptions at once would be a matter of order.
    case.state.rflags &= !ALIGNMENT;
    let ip = case.state.rip;
    let mut bytes = Vec::new();
    for _ in 0..=rng.below(2) {
        let rex = width == Width::Bits64 && rng.chance(25);
        bytes.push(if rex { 0x40 | rng.below(16) as u8 } else { rng.pick(&LEGACY) });
    }
    bytes.extend(&case.bytes);
    let original = bytes.len();
    bytes.extend(PADDING);
    let instruction = *decode(width, &bytes, ip).first()?;
    // An instruction that is too long raises #GP, if the host knows how long one that does not exist would be.
    if instruction.is_invalid()
        && original > 15
        && bytes.iter().any(|byte| matches!(byte, 0x66 | 0xf2 | 0xf3))
    {
        return None;
    }
    if instruction.is_invalid() && vendor::ignores_lock(code.mnemonic()) {
        return None;
    }
    // What does not decode is given whole: the host may look at all of it.
    bytes.truncate(if instruction.is_invalid() { original } else { instruction.len() });
    if !instruction.is_invalid() && (!comparable(&instruction, width) || may_fault_twice(&instruction)) {
        return None;
    }
    let undefined = if instruction.is_invalid() {
        Undefined::default()
    } else {
        if splits_a_lock(&instruction, &case) {
            return None;
        }
        Undefined::after(&instruction, &case.state)
    };
    // The bytes are the last edit, after operands.
    case.edits.pop();
    case.edits.push((ip, bytes.clone()));
    case.bytes = bytes;
    case.instructions = vec![instruction];
    case.count = 1;
    Some((case, undefined))
}

/// Whether an instance of `instruction` in a random state can be compared.
pub(crate) fn comparable(instruction: &Instruction, width: Width) -> bool {
    let code = instruction.code();
    // Some processors store in two parts what has both prefixes of an operand size.
    let halved = instruction.mnemonic() == Mnemonic::Movbe;
    !halved
        && instruction.flow_control() == FlowControl::Next
        && x86_cpu::advertises(code)
        && forms::exclusion(code, width).is_none()
        && !forms::only_faults(code)
}

/// Whether a prefix may move both operands to where each faults, or that of a store whose mask is 0.
fn may_fault_twice(instruction: &Instruction) -> bool {
    let kinds = || (0..instruction.op_count()).map(|i| instruction.op_kind(i));
    let source = |kind| matches!(kind, OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI);
    let destination = |kind| matches!(kind, OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI);
    kinds().any(source) && kinds().any(destination) || is_masked_store(instruction)
}

/// Whether the bytes of a register decide which bytes are stored.
pub(crate) fn is_masked_store(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu)
}

/// A locked operand across two cache lines: some host kernels slow it down or refuse it.
pub(crate) fn splits_a_lock(instruction: &Instruction, case: &Case) -> bool {
    let size = instruction.memory_size().size() as u64;
    let atomic = instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg;
    atomic
        && instruction.op0_kind() == OpKind::Memory
        && linear_address(instruction, &case.state).is_some_and(|address| address % 64 + size > 64)
}
