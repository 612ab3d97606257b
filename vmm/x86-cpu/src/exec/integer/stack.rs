//! PUSH, POP, PUSHA, POPA, ENTER, LEAVE.

use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::{gpr, segment};
use crate::fault::Fault;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::{Vcpu, reg, seg};
use crate::world::World;
use iced_x86::{Instruction, Mnemonic, OpKind};

const SP: u8 = reg::RSP as u8;
const BP: u8 = reg::RBP as u8;

fn push_reg<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.push(world, cpu.reg::<T>(op.dst))
}

fn push_imm<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.push(world, T::low(op.imm))
}

fn push_mem<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address::<T, W>(op)?;
    let value = cpu.load::<T, W>(world, address)?;
    cpu.push(world, value)
}

/// PUSH of a segment register: the selector, zero-extended.
fn push_segment<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let selector = cpu.segs[op.dst as usize & 7].selector;
    if T::BITS == 32 {
        // Only the low half of the slot is written (SDM volume 2, PUSH).
        let sp = cpu.stack_pointer().wrapping_sub(4);
        let mask = if cpu.mode.stack_bits() == 16 { 0xffff } else { 0xffff_ffff };
        let linear = cpu.linear(seg::SS, sp & mask, 4, true)?;
        cpu.store(world, linear, selector)?;
        cpu.set_stack_pointer(sp & mask);
        return Ok(());
    }
    cpu.push(world, T::low(u64::from(selector)))
}

fn pop_reg<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = cpu.pop::<T, W>(world)?;
    cpu.set_reg(op.dst, value);
    Ok(())
}

/// POP to memory: the address is formed with the stack pointer already incremented.
fn pop_mem<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let rsp = cpu.gpr[reg::RSP];
    let value = cpu.pop::<T, W>(world)?;
    let stored = cpu.address_mut::<T, W>(op).and_then(|address| cpu.store(world, address, value));
    if stored.is_err() {
        cpu.gpr[reg::RSP] = rsp;
    }
    stored
}

fn pusha<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let rsp = cpu.gpr[reg::RSP];
    for index in 0..8_u8 {
        let value = if index == SP { T::low(rsp) } else { cpu.reg::<T>(index) };
        if let Err(fault) = cpu.push(world, value) {
            cpu.gpr[reg::RSP] = rsp;
            return Err(fault);
        }
    }
    Ok(())
}

fn popa<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let mut values = [T::low(0); 8];
    for (slot, value) in values.iter_mut().enumerate() {
        *value = cpu.peek(world, (slot * T::SIZE) as u64)?;
    }
    for (slot, value) in values.into_iter().enumerate() {
        let index = 7 - slot as u8;
        if index != SP {
            cpu.set_reg(index, value);
        }
    }
    cpu.set_stack_pointer(cpu.stack_pointer().wrapping_add(8 * T::SIZE as u64));
    Ok(())
}

/// ENTER: `imm` bytes of locals, `aux` levels of nesting (SDM volume 2, ENTER).
fn enter<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let rsp = cpu.gpr[reg::RSP];
    let result = enter_frame::<T, W>(cpu, world, op);
    if result.is_err() {
        cpu.gpr[reg::RSP] = rsp;
    }
    result
}

fn enter_frame<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let level = op.aux & 31;
    let size = T::SIZE as u64;
    cpu.push(world, cpu.reg::<T>(BP))?;
    let frame = cpu.gpr[reg::RSP];
    let mask = match cpu.mode.stack_bits() {
        64 => u64::MAX,
        32 => 0xffff_ffff,
        _ => 0xffff,
    };
    if level > 0 {
        for outer in 1..u64::from(level) {
            let offset = cpu.gpr[reg::RBP].wrapping_sub(outer * size) & mask;
            let linear = cpu.linear(seg::SS, offset, T::SIZE as u32, false)?;
            let value = cpu.load::<T, W>(world, linear).map_err(|fault| fault.resolve(true))?;
            cpu.push(world, value)?;
        }
        cpu.push(world, T::low(frame))?;
    }
    let sp = cpu.stack_pointer().wrapping_sub(op.imm) & mask;
    // The frame's end must be writable, though nothing is stored there.
    let linear = cpu.linear(seg::SS, sp, T::SIZE as u32, true)?;
    cpu.load_for_store::<T, W>(world, linear).map_err(|fault| fault.resolve(true))?;
    cpu.set_reg(BP, T::low(frame));
    cpu.set_stack_pointer(sp);
    Ok(())
}

fn leave<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let rsp = cpu.gpr[reg::RSP];
    cpu.set_stack_pointer(cpu.gpr[reg::RBP]);
    match cpu.pop::<T, W>(world) {
        Ok(value) => {
            cpu.set_reg(BP, value);
            Ok(())
        }
        Err(fault) => {
            cpu.gpr[reg::RSP] = rsp;
            Err(fault)
        }
    }
}

/// Size of what a stack instruction moves, in bytes: iced says by how much the stack pointer changes.
fn slot_size(instruction: &Instruction, slots: i32) -> usize {
    (instruction.stack_pointer_increment() / slots).unsigned_abs() as usize
}

pub(super) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    match instruction.mnemonic() {
        Mnemonic::Push => {
            let size = slot_size(instruction, 1);
            match instruction.op0_kind() {
                OpKind::Register if instruction.op0_register().is_segment_register() => {
                    op.dst = segment(instruction.op0_register());
                    op.run = by_wide_size!(size, push_segment);
                }
                OpKind::Register => {
                    op.dst = gpr(instruction.op0_register());
                    op.run = by_wide_size!(size, push_reg);
                }
                OpKind::Memory => {
                    op.run = by_wide_size!(size, push_mem);
                    return Lowered::Straight;
                }
                _ => {
                    op.imm = instruction.immediate(0);
                    op.run = by_wide_size!(size, push_imm);
                }
            }
        }
        Mnemonic::Pop => {
            let size = slot_size(instruction, 1);
            match instruction.op0_kind() {
                OpKind::Register if instruction.op0_register().is_segment_register() => return Lowered::No,
                OpKind::Register => {
                    op.dst = gpr(instruction.op0_register());
                    op.run = by_wide_size!(size, pop_reg);
                }
                _ => {
                    op.run = by_wide_size!(size, pop_mem);
                    return Lowered::Straight;
                }
            }
        }
        Mnemonic::Pusha => op.run = pusha::<u16, W>,
        Mnemonic::Pushad => op.run = pusha::<u32, W>,
        Mnemonic::Popa => op.run = popa::<u16, W>,
        Mnemonic::Popad => op.run = popa::<u32, W>,
        Mnemonic::Enter => {
            op.imm = u64::from(instruction.immediate16());
            op.aux = instruction.immediate8_2nd();
            let size = match instruction.code() {
                iced_x86::Code::Enterw_imm16_imm8 => 2,
                iced_x86::Code::Enterd_imm16_imm8 => 4,
                _ => 8,
            };
            op.run = by_wide_size!(size, enter);
        }
        Mnemonic::Leave => {
            let size = match instruction.code() {
                iced_x86::Code::Leavew => 2,
                iced_x86::Code::Leaved => 4,
                _ => 8,
            };
            op.run = by_wide_size!(size, leave);
        }
        _ => return Lowered::No,
    }
    op.seg = seg::SS as u8;
    Lowered::Straight
}
