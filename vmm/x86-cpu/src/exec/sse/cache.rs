//! Cache control: flushes and fences, which the world may observe, and prefetches, which do nothing.

use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::{CacheOp, World};
use iced_x86::{Code, Mnemonic};

/// Maintains the line of the operand, which is checked as a load of a byte is.
fn maintain<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
    maintenance: fn(u64) -> CacheOp,
) -> Result<(), Fault> {
    let linear = cpu.address::<u8, W>(op)?;
    let (address, kind) = cpu.physical_address(world, linear)?;
    world.cache_op(&cpu.ram_access(kind), maintenance(address));
    cpu.heed(world);
    Ok(())
}

fn flush<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    maintain(cpu, world, op, CacheOp::Flush)
}

fn flush_weakly<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.unfenced = true;
    maintain(cpu, world, op, CacheOp::FlushWeakly)
}

fn clean_weakly<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.unfenced = true;
    maintain(cpu, world, op, CacheOp::CleanWeakly)
}

/// SFENCE and MFENCE.
fn fence<W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.fence(world);
    Ok(())
}

/// LFENCE and prefetches: loads are in order, and a prefetch is a hint that never faults.
fn nothing<W: World>(_: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    Ok(())
}

pub(super) fn lower<W: World>(code: Code, _: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Clflush_m8 => flush,
        Code::Clflushopt_m8 => flush_weakly,
        Code::Clwb_m8 => clean_weakly,
        Code::Prefetchreserved3_m8
        | Code::Prefetchreserved4_m8
        | Code::Prefetchreserved5_m8
        | Code::Prefetchreserved6_m8
        | Code::Prefetchreserved7_m8 => nothing,
        code => match code.mnemonic() {
            Mnemonic::Sfence | Mnemonic::Mfence => fence,
            Mnemonic::Lfence
            | Mnemonic::Prefetch
            | Mnemonic::Prefetchw
            | Mnemonic::Prefetchwt1
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Prefetchit0
            | Mnemonic::Prefetchit1
            | Mnemonic::Cldemote => nothing,
            _ => return None,
        },
    };
    Some((Gate::Open, run))
}
