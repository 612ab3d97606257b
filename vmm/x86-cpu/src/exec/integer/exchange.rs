//! XCHG, XADD, CMPXCHG, CMPXCHG8B and CMPXCHG16B. With all vCPUs on one thread, every instruction is atomic.

use super::alu::{add, sub};
use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::exec::register::operand_size;
use crate::fault::Fault;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::{Vcpu, reg};
use crate::world::World;
use iced_x86::{Instruction, Mnemonic, OpKind};

fn xchg_reg<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let (a, b) = (cpu.reg::<T>(op.dst), cpu.reg::<T>(op.src));
    cpu.set_reg(op.dst, b);
    cpu.set_reg(op.src, a);
    Ok(())
}

fn xchg_mem<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address_mut::<T, W>(op)?;
    let old = cpu.load_for_store::<T, W>(world, address)?;
    cpu.store(world, address, cpu.reg::<T>(op.src))?;
    cpu.set_reg(op.src, old);
    Ok(())
}

fn xadd_reg<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let (a, b) = (cpu.reg::<T>(op.dst), cpu.reg::<T>(op.src));
    let sum = add(&mut cpu.flags, a, b, false);
    cpu.set_reg(op.src, a);
    cpu.set_reg(op.dst, sum);
    Ok(())
}

fn xadd_mem<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address_mut::<T, W>(op)?;
    let old = cpu.load_for_store::<T, W>(world, address)?;
    let mut flags = cpu.flags;
    let sum = add(&mut flags, old, cpu.reg::<T>(op.src), false);
    cpu.store(world, address, sum)?;
    cpu.flags = flags;
    cpu.set_reg(op.src, old);
    Ok(())
}

fn cmpxchg_reg<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let accumulator = cpu.reg::<T>(reg::RAX as u8);
    let old = cpu.reg::<T>(op.dst);
    sub(&mut cpu.flags, accumulator, old, false);
    if accumulator == old {
        cpu.set_reg(op.dst, cpu.reg::<T>(op.src));
    } else {
        cpu.set_reg(reg::RAX as u8, old);
    }
    Ok(())
}

fn cmpxchg_mem<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address_mut::<T, W>(op)?;
    let old = cpu.load_for_store::<T, W>(world, address)?;
    let accumulator = cpu.reg::<T>(reg::RAX as u8);
    let equal = accumulator == old;
    // The destination is written in either case (SDM volume 2, CMPXCHG).
    cpu.store(world, address, if equal { cpu.reg::<T>(op.src) } else { old })?;
    sub(&mut cpu.flags, accumulator, old, false);
    if !equal {
        cpu.set_reg(reg::RAX as u8, old);
    }
    Ok(())
}

fn cmpxchg8b<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address_mut::<u64, W>(op)?;
    let old = cpu.load_for_store::<u64, W>(world, address)?;
    let join = |cpu: &Vcpu, high: usize, low: usize| cpu.gpr[high] << 32 | cpu.gpr[low] & 0xffff_ffff;
    let equal = old == join(cpu, reg::RDX, reg::RAX);
    let new = if equal { join(cpu, reg::RCX, reg::RBX) } else { old };
    cpu.store(world, address, new)?;
    if !equal {
        cpu.gpr[reg::RAX] = old & 0xffff_ffff;
        cpu.gpr[reg::RDX] = old >> 32;
    }
    cpu.flags.put_zf(equal);
    Ok(())
}

fn cmpxchg16b<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address_mut::<u128, W>(op)?;
    if address & 15 != 0 {
        return Err(Fault::GP0);
    }
    let old = cpu.load_for_store::<u128, W>(world, address)?;
    let join =
        |cpu: &Vcpu, high: usize, low: usize| u128::from(cpu.gpr[high]) << 64 | u128::from(cpu.gpr[low]);
    let equal = old == join(cpu, reg::RDX, reg::RAX);
    let new = if equal { join(cpu, reg::RCX, reg::RBX) } else { old };
    cpu.store(world, address, new)?;
    if !equal {
        cpu.gpr[reg::RAX] = old as u64;
        cpu.gpr[reg::RDX] = (old >> 64) as u64;
    }
    cpu.flags.put_zf(equal);
    Ok(())
}

pub(super) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    let size = operand_size(instruction, 0);
    let register = instruction.op0_kind() == OpKind::Register;
    if register {
        op.dst = gpr(instruction.op0_register());
    }
    if instruction.op1_kind() == OpKind::Register {
        op.src = gpr(instruction.op1_register());
    }
    op.run = match instruction.mnemonic() {
        Mnemonic::Xchg if register && instruction.op1_kind() == OpKind::Memory => {
            op.src = op.dst;
            by_size!(size, xchg_mem)
        }
        Mnemonic::Xchg if register => by_size!(size, xchg_reg),
        Mnemonic::Xchg => by_size!(size, xchg_mem),
        Mnemonic::Xadd if register => by_size!(size, xadd_reg),
        Mnemonic::Xadd => by_size!(size, xadd_mem),
        Mnemonic::Cmpxchg if register => by_size!(size, cmpxchg_reg),
        Mnemonic::Cmpxchg => by_size!(size, cmpxchg_mem),
        Mnemonic::Cmpxchg8b => cmpxchg8b,
        Mnemonic::Cmpxchg16b => cmpxchg16b,
        _ => return Lowered::No,
    };
    Lowered::Straight
}
