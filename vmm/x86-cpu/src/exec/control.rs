//! Near jumps, calls, returns and loops.

use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::exec::condition::{by_condition, encoding, holds};
use crate::fault::Fault;
use crate::memory::access::is_canonical;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::{Vcpu, reg, seg};
use crate::world::World;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

/// Checks a branch target: canonical in 64-bit mode, within the CS limit elsewhere.
#[inline(always)]
fn check_target(cpu: &Vcpu, target: u64) -> Result<(), Fault> {
    let valid =
        if cpu.mode.is_64() { is_canonical(target) } else { target <= u64::from(cpu.segs[seg::CS].limit) };
    if valid { Ok(()) } else { Err(Fault::GP0) }
}

/// Target of a relative branch: `imm` is relative to the block's start, `disp` masks the result.
#[inline(always)]
fn relative<W: World>(cpu: &Vcpu, op: &Op<W>) -> Result<u64, Fault> {
    let target = cpu.rip.wrapping_add(op.imm) & op.disp;
    check_target(cpu, target)?;
    Ok(target)
}

/// The instruction after `op`, relative to CS.
#[inline(always)]
fn next<W: World>(cpu: &Vcpu, op: &Op<W>) -> u64 {
    cpu.block_ip(op.next_offset())
}

fn jmp<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.rip = relative(cpu, op)?;
    Ok(())
}

fn jcc<const C: u8, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.rip = if holds::<C>(&cpu.flags) { relative(cpu, op)? } else { next(cpu, op) };
    Ok(())
}

fn call<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let target = relative(cpu, op)?;
    cpu.push(world, T::low(next(cpu, op)))?;
    cpu.rip = target;
    Ok(())
}

/// The operand of an indirect branch: memory if `aux` is set.
#[inline(always)]
fn indirect<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u64, Fault> {
    let target = if op.aux != 0 {
        let address = cpu.address::<T, W>(op)?;
        cpu.load::<T, W>(world, address)?.zext()
    } else {
        cpu.reg::<T>(op.dst).zext()
    };
    check_target(cpu, target)?;
    Ok(target)
}

fn jmp_indirect<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.rip = indirect::<T, W>(cpu, world, op)?;
    Ok(())
}

fn call_indirect<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let target = indirect::<T, W>(cpu, world, op)?;
    cpu.push(world, T::low(next(cpu, op)))?;
    cpu.rip = target;
    Ok(())
}

/// RET, releasing `imm` bytes of arguments.
fn ret<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let target = cpu.peek::<T, W>(world, 0)?.zext();
    check_target(cpu, target)?;
    cpu.set_stack_pointer(cpu.stack_pointer().wrapping_add(T::SIZE as u64).wrapping_add(op.imm));
    cpu.rip = target;
    Ok(())
}

/// LOOP (`KIND` 0), LOOPE (1) and LOOPNE (2) with a counter of `T`.
fn loop_while<const KIND: u8, T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let count = T::low(cpu.reg::<T>(reg::RCX as u8).zext().wrapping_sub(1));
    let taken = count.zext() != 0
        && match KIND {
            1 => cpu.flags.zf(),
            2 => !cpu.flags.zf(),
            _ => true,
        };
    let target = if taken { relative(cpu, op)? } else { next(cpu, op) };
    cpu.set_reg(reg::RCX as u8, count);
    cpu.rip = target;
    Ok(())
}

fn jump_if_zero<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let zero = cpu.reg::<T>(reg::RCX as u8).zext() == 0;
    cpu.rip = if zero { relative(cpu, op)? } else { next(cpu, op) };
    Ok(())
}

/// Size of the counter of a loop or JrCXZ instruction, bytes: its address size.
fn counter_size(code: Code) -> u32 {
    code.op_code().address_size() / 8
}

macro_rules! by_counter {
    ($code:expr, $function:ident $(, $kind:tt)*) => {
        match counter_size($code) {
            8 => $function::<$($kind,)* u64, W>,
            4 => $function::<$($kind,)* u32, W>,
            _ => $function::<$($kind,)* u16, W>,
        }
    };
}

pub(crate) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    let near = match instruction.op0_kind() {
        OpKind::NearBranch16 => Some(0xffff),
        OpKind::NearBranch32 => Some(0xffff_ffff),
        OpKind::NearBranch64 => Some(u64::MAX),
        _ => None,
    };
    let code = instruction.code();
    let mnemonic = instruction.mnemonic();
    if instruction.op_count() == 1
        && let Some(mask) = near
    {
        // iced gives the target; the operation keeps it relative to the instruction and thereby to the block.
        let from_next = instruction.near_branch_target().wrapping_sub(instruction.next_ip());
        op.imm = from_next.wrapping_add(u64::from(op.next_offset()));
        op.disp = mask;
        op.seg = seg::SS as u8;
        op.run = match mnemonic {
            Mnemonic::Jmp => jmp,
            Mnemonic::Call => match mask {
                0xffff => call::<u16, W>,
                0xffff_ffff => call::<u32, W>,
                _ => call::<u64, W>,
            },
            Mnemonic::Loop => by_counter!(code, loop_while, 0),
            Mnemonic::Loope => by_counter!(code, loop_while, 1),
            Mnemonic::Loopne => by_counter!(code, loop_while, 2),
            Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => by_counter!(code, jump_if_zero),
            _ => by_condition!(encoding(instruction.condition_code()), jcc),
        };
        return Lowered::Branch;
    }
    match code {
        Code::Retnw | Code::Retnw_imm16 => op.run = ret::<u16, W>,
        Code::Retnd | Code::Retnd_imm16 => op.run = ret::<u32, W>,
        Code::Retnq | Code::Retnq_imm16 => op.run = ret::<u64, W>,
        Code::Jmp_rm16 => op.run = jmp_indirect::<u16, W>,
        Code::Jmp_rm32 => op.run = jmp_indirect::<u32, W>,
        Code::Jmp_rm64 => op.run = jmp_indirect::<u64, W>,
        Code::Call_rm16 => op.run = call_indirect::<u16, W>,
        Code::Call_rm32 => op.run = call_indirect::<u32, W>,
        Code::Call_rm64 => op.run = call_indirect::<u64, W>,
        _ => return Lowered::No,
    }
    if mnemonic == Mnemonic::Ret {
        op.seg = seg::SS as u8;
        if instruction.op_count() == 1 {
            op.imm = u64::from(instruction.immediate16());
        }
    } else if instruction.op0_kind() == OpKind::Memory {
        op.aux = 1;
    } else {
        op.dst = gpr(instruction.op0_register());
    }
    Lowered::Branch
}
