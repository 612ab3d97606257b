//! Moves, extensions, LEA, conditional moves and sets, flag moves, NOP.

use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::exec::condition::{by_condition, encoding, holds};
use crate::exec::register::operand_size;
use crate::fault::Fault;
use crate::flags::bits;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::{Vcpu, reg};
use crate::world::World;
use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind};

fn mov_reg_reg<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.set_reg(op.dst, cpu.reg::<T>(op.src));
    Ok(())
}

fn mov_reg_imm<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.set_reg(op.dst, T::low(op.imm));
    Ok(())
}

fn mov_reg_mem<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address::<T, W>(op)?;
    let value = cpu.load::<T, W>(world, address)?;
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn mov_mem_reg<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address_mut::<T, W>(op)?;
    cpu.store(world, address, cpu.reg::<T>(op.src))
}

fn mov_mem_imm<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address_mut::<T, W>(op)?;
    cpu.store(world, address, T::low(op.imm))
}

/// MOVBE from memory.
fn swap_reg_mem<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address::<T, W>(op)?;
    let value = cpu.load::<T, W>(world, address)?;
    cpu.set_reg(op.dst, T::low(value.zext().swap_bytes() >> (64 - T::BITS)));
    Ok(())
}

/// MOVBE to memory.
fn swap_mem_reg<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address_mut::<T, W>(op)?;
    let value = cpu.reg::<T>(op.src);
    cpu.store(world, address, T::low(value.zext().swap_bytes() >> (64 - T::BITS)))
}

fn bswap<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = cpu.reg::<T>(op.dst);
    // The 16-bit form is undefined (SDM volume 2); processors clear the register.
    let swapped = if T::BITS == 16 { 0 } else { value.zext().swap_bytes() >> (64 - T::BITS) };
    cpu.set_reg(op.dst, T::low(swapped));
    Ok(())
}

/// MOVZX, MOVSX and MOVSXD: `S` extended to `D`.
fn extend_reg<const SIGNED: bool, S: Int, D: Int, W: World>(
    cpu: &mut Vcpu,
    _: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let value = cpu.reg::<S>(op.src);
    cpu.set_reg(op.dst, D::low(if SIGNED { value.sext() } else { value.zext() }));
    Ok(())
}

fn extend_mem<const SIGNED: bool, S: Int, D: Int, W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let address = cpu.address::<S, W>(op)?;
    let value = cpu.load::<S, W>(world, address)?;
    cpu.set_reg(op.dst, D::low(if SIGNED { value.sext() } else { value.zext() }));
    Ok(())
}

fn lea<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.set_reg(op.dst, T::low(cpu.effective_address(op)));
    Ok(())
}

fn set_reg_if<const C: u8, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = u8::from(holds::<C>(&cpu.flags));
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn set_mem_if<const C: u8, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address_mut::<u8, W>(op)?;
    cpu.store(world, address, u8::from(holds::<C>(&cpu.flags)))
}

/// A register move under a condition. A 32-bit destination is zero-extended in either case.
fn mov_if<const C: u8, T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let chosen = if holds::<C>(&cpu.flags) { op.src } else { op.dst };
    cpu.set_reg(op.dst, cpu.reg::<T>(chosen));
    Ok(())
}

/// A load under a condition: it happens, and may fault, in either case.
fn load_if<const C: u8, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address::<T, W>(op)?;
    let value = cpu.load::<T, W>(world, address)?;
    let kept = cpu.reg::<T>(op.dst);
    cpu.set_reg(op.dst, if holds::<C>(&cpu.flags) { value } else { kept });
    Ok(())
}

/// CBW, CWDE, CDQE: the lower half of the accumulator sign-extended to `D`.
fn extend_accumulator<S: Int, D: Int, W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let value = cpu.reg::<S>(0).sext();
    cpu.set_reg(0, D::low(value));
    Ok(())
}

/// CWD, CDQ, CQO: the sign of the accumulator into rDX.
fn sign_to_dx<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let sign = (cpu.reg::<T>(0).sext() as i64 >> 63) as u64;
    cpu.set_reg(reg::RDX as u8, T::low(sign));
    Ok(())
}

fn lahf<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let flags = cpu.flags.to_bits() & 0xd5 | 2;
    cpu.set_reg(0x20, flags as u8);
    Ok(())
}

fn sahf<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let of = cpu.flags.to_bits() & bits::OF;
    let ah = u64::from(cpu.reg::<u8>(0x20));
    cpu.flags.set_bits(ah & 0xd5 | of);
    Ok(())
}

fn clc<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.flags.put_cf(false);
    Ok(())
}

fn stc<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.flags.put_cf(true);
    Ok(())
}

fn cmc<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.flags.put_cf(!cpu.flags.cf());
    Ok(())
}

fn cld<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.system_flags &= !bits::DF;
    Ok(())
}

fn std<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.system_flags |= bits::DF;
    Ok(())
}

fn nop<W: World>(_: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    Ok(())
}

/// PAUSE ends the vCPU's quantum.
fn pause<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.yielded = true;
    cpu.limit = 0;
    Ok(())
}

/// XLAT: AL from the table at rBX. The address is formed from the operand with AL as its index.
fn xlat<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let mut table = op.clone();
    table.disp = u64::from(cpu.reg::<u8>(0));
    let address = cpu.address::<u8, W>(&table)?;
    let value = cpu.load::<u8, W>(world, address)?;
    cpu.set_reg(0, value);
    Ok(())
}

fn mov<W: World>(instruction: &Instruction, op: &mut Op<W>) -> Lowered {
    let size = operand_size(instruction, 0);
    match (instruction.op0_kind(), instruction.op1_kind()) {
        (OpKind::Register, OpKind::Register) => {
            if !instruction.op0_register().is_gpr() || !instruction.op1_register().is_gpr() {
                return Lowered::No;
            }
            op.dst = gpr(instruction.op0_register());
            op.src = gpr(instruction.op1_register());
            op.run = by_size!(size, mov_reg_reg);
        }
        (OpKind::Register, OpKind::Memory) => {
            if !instruction.op0_register().is_gpr() {
                return Lowered::No;
            }
            op.dst = gpr(instruction.op0_register());
            op.run = by_size!(size, mov_reg_mem);
        }
        (OpKind::Register, _) => {
            op.dst = gpr(instruction.op0_register());
            op.imm = instruction.immediate(1);
            op.run = by_size!(size, mov_reg_imm);
        }
        (_, OpKind::Register) => {
            if !instruction.op1_register().is_gpr() {
                return Lowered::No;
            }
            op.src = gpr(instruction.op1_register());
            op.run = by_size!(operand_size(instruction, 1), mov_mem_reg);
        }
        _ => {
            op.imm = instruction.immediate(1);
            op.run = by_size!(size, mov_mem_imm);
        }
    }
    Lowered::Straight
}

fn extend<const SIGNED: bool, W: World>(instruction: &Instruction, op: &mut Op<W>) {
    op.dst = gpr(instruction.op0_register());
    let to = operand_size(instruction, 0);
    let from = operand_size(instruction, 1);
    op.run = if instruction.op1_kind() == OpKind::Register {
        op.src = gpr(instruction.op1_register());
        match (from, to) {
            (1, 2) => extend_reg::<SIGNED, u8, u16, W>,
            (1, 4) => extend_reg::<SIGNED, u8, u32, W>,
            (1, _) => extend_reg::<SIGNED, u8, u64, W>,
            (2, 2) => extend_reg::<SIGNED, u16, u16, W>,
            (2, 4) => extend_reg::<SIGNED, u16, u32, W>,
            (2, _) => extend_reg::<SIGNED, u16, u64, W>,
            (_, 2) => extend_reg::<SIGNED, u32, u16, W>,
            (_, 4) => extend_reg::<SIGNED, u32, u32, W>,
            _ => extend_reg::<SIGNED, u32, u64, W>,
        }
    } else {
        match (from, to) {
            (1, 2) => extend_mem::<SIGNED, u8, u16, W>,
            (1, 4) => extend_mem::<SIGNED, u8, u32, W>,
            (1, _) => extend_mem::<SIGNED, u8, u64, W>,
            (2, 2) => extend_mem::<SIGNED, u16, u16, W>,
            (2, 4) => extend_mem::<SIGNED, u16, u32, W>,
            (2, _) => extend_mem::<SIGNED, u16, u64, W>,
            (_, 2) => extend_mem::<SIGNED, u32, u16, W>,
            (_, 4) => extend_mem::<SIGNED, u32, u32, W>,
            _ => extend_mem::<SIGNED, u32, u64, W>,
        }
    };
}

fn conditional<W: World>(instruction: &Instruction, op: &mut Op<W>) -> Lowered {
    if instruction.condition_code() == ConditionCode::None {
        return Lowered::No;
    }
    let condition = encoding(instruction.condition_code());
    let register = instruction.op0_kind() == OpKind::Register;
    if instruction.op_count() == 1 && (register || instruction.op0_kind() == OpKind::Memory) {
        op.run = if register {
            op.dst = gpr(instruction.op0_register());
            by_condition!(condition, set_reg_if)
        } else {
            by_condition!(condition, set_mem_if)
        };
        return Lowered::Straight;
    }
    if instruction.op_count() != 2 || !register || !instruction.op0_register().is_gpr() {
        return Lowered::No;
    }
    op.dst = gpr(instruction.op0_register());
    let size = operand_size(instruction, 0);
    op.run = if instruction.op1_kind() == OpKind::Register {
        op.src = gpr(instruction.op1_register());
        match size {
            2 => by_condition!(condition, mov_if, u16),
            4 => by_condition!(condition, mov_if, u32),
            _ => by_condition!(condition, mov_if, u64),
        }
    } else {
        match size {
            2 => by_condition!(condition, load_if, u16),
            4 => by_condition!(condition, load_if, u32),
            _ => by_condition!(condition, load_if, u64),
        }
    };
    Lowered::Straight
}

pub(super) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    let size = operand_size(instruction, 0);
    op.run = match instruction.mnemonic() {
        Mnemonic::Mov => return mov(instruction, op),
        Mnemonic::Movzx => {
            extend::<false, W>(instruction, op);
            return Lowered::Straight;
        }
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            extend::<true, W>(instruction, op);
            return Lowered::Straight;
        }
        Mnemonic::Lea => {
            op.dst = gpr(instruction.op0_register());
            by_wide_size!(size, lea)
        }
        Mnemonic::Movbe if instruction.op0_kind() == OpKind::Register => {
            op.dst = gpr(instruction.op0_register());
            by_wide_size!(size, swap_reg_mem)
        }
        Mnemonic::Movbe => {
            op.src = gpr(instruction.op1_register());
            by_wide_size!(operand_size(instruction, 1), swap_mem_reg)
        }
        Mnemonic::Bswap => {
            op.dst = gpr(instruction.op0_register());
            by_wide_size!(size, bswap)
        }
        Mnemonic::Cbw => extend_accumulator::<u8, u16, W>,
        Mnemonic::Cwde => extend_accumulator::<u16, u32, W>,
        Mnemonic::Cdqe => extend_accumulator::<u32, u64, W>,
        Mnemonic::Cwd => sign_to_dx::<u16, W>,
        Mnemonic::Cdq => sign_to_dx::<u32, W>,
        Mnemonic::Cqo => sign_to_dx::<u64, W>,
        Mnemonic::Lahf => lahf,
        Mnemonic::Sahf => sahf,
        Mnemonic::Clc => clc,
        Mnemonic::Stc => stc,
        Mnemonic::Cmc => cmc,
        Mnemonic::Cld => cld,
        Mnemonic::Std => std,
        Mnemonic::Nop | Mnemonic::Endbr64 | Mnemonic::Endbr32 | Mnemonic::Reservednop => nop,
        Mnemonic::Pause => {
            op.run = pause;
            return Lowered::Last;
        }
        Mnemonic::Xlatb => {
            // iced gives the operand as rBX + AL.
            crate::decode::operand::fill_memory(instruction, mode, 0, op);
            op.index = crate::state::slot::ZERO;
            xlat
        }
        _ => return conditional(instruction, op),
    };
    Lowered::Straight
}
