//! Translation of iced's operands into the fields of an operation.

use crate::block::{AddressKind, Op};
use crate::mode::Mode;
use crate::state::{seg, slot};
use crate::world::World;
use iced_x86::{Instruction, OpKind, Register};

/// Index of a general register; high-byte registers have bit 5 set.
pub(crate) fn gpr(register: Register) -> u8 {
    let number = register.number() as u8;
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => (number & 3) | 0x20,
        // iced numbers the byte registers AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8L…
        _ if register.is_gpr8() && number >= 8 => number - 4,
        _ => number,
    }
}

/// Index of a segment register in encoding order.
pub(crate) fn segment(register: Register) -> u8 {
    register.number() as u8
}

/// Index of an XMM or MMX register, or of ST(i).
pub(crate) fn vector(register: Register) -> u8 {
    register.number() as u8
}

/// Fills the memory operand of `op` from `instruction`, whose block starts at linear address `block_start`.
pub(crate) fn fill_memory<W: World>(instruction: &Instruction, mode: Mode, block_start: u64, op: &mut Op<W>) {
    let base = instruction.memory_base();
    op.disp = instruction.memory_displacement64();
    if base == Register::RIP || base == Register::EIP {
        // iced gives the target itself; relative to the block's start it holds at every mapping of the page.
        op.disp = op.disp.wrapping_sub(block_start);
        op.base = slot::BLOCK;
    } else if base != Register::None {
        op.base = gpr(base);
    }
    let index = instruction.memory_index();
    if index != Register::None {
        op.index = gpr(index);
        op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    }
    op.seg = segment(effective_segment(instruction, mode));
    let address_bits = address_bits(instruction, mode);
    if mode.is_64() {
        op.seg_slot = match usize::from(op.seg) {
            seg::FS => slot::FS,
            seg::GS => slot::GS,
            _ => slot::ZERO,
        };
        op.address = if address_bits == 64 { AddressKind::Flat64 } else { AddressKind::Flat64Addr32 };
    } else {
        op.address = if address_bits == 16 { AddressKind::Legacy16 } else { AddressKind::Legacy32 };
    }
}

/// The segment of the memory operand. In 64-bit mode an override by CS, DS, ES or SS is as if it were not there, also for
/// the choice between #SS and #GP.
pub(crate) fn effective_segment(instruction: &Instruction, mode: Mode) -> Register {
    let overridden = instruction.segment_prefix();
    if !mode.is_64() || matches!(overridden, Register::None | Register::FS | Register::GS) {
        return instruction.memory_segment();
    }
    match instruction.memory_base() {
        Register::RSP | Register::RBP | Register::ESP | Register::EBP => Register::SS,
        _ => Register::DS,
    }
}

/// Whether the instruction has a memory operand of the ModRM or moffs kind.
pub(crate) fn has_memory(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory)
}

fn address_bits(instruction: &Instruction, mode: Mode) -> u32 {
    let from = |register: Register| (register.size() * 8) as u32;
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    if base != Register::None {
        from(base)
    } else if index != Register::None && !index.is_vector_register() {
        from(index)
    } else {
        match instruction.memory_displ_size() {
            2 => 16,
            4 if mode.is_64() => 32,
            8 => 64,
            _ => 32,
        }
    }
}
