//! Software interrupts, BOUND, undefined opcodes, HLT and the instructions that empty the caches.

use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::fault::Fault;
use crate::interrupt;
use crate::memory::MemoryType;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::{Activity, Vcpu};
use crate::world::{CacheOp, World};
use iced_x86::{Instruction, Mnemonic};

pub(crate) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    let (run, lowered): (crate::block::OpFn<W>, _) = match instruction.mnemonic() {
        Mnemonic::Int => {
            op.aux = instruction.immediate8();
            (software_interrupt, Lowered::Branch)
        }
        Mnemonic::Int3 => {
            op.aux = 3;
            (breakpoint, Lowered::Branch)
        }
        Mnemonic::Into => (overflow, Lowered::Branch),
        Mnemonic::Int1 => (debug_trap, Lowered::Branch),
        Mnemonic::Bound => {
            op.dst = gpr(instruction.op0_register());
            let run = if instruction.op0_register().size() == 2 { bound::<u16, W> } else { bound::<u32, W> };
            (run, Lowered::Straight)
        }
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => (crate::decode::undefined, Lowered::Last),
        Mnemonic::Hlt => (halt, Lowered::Last),
        Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => (write_back_caches, Lowered::Straight),
        Mnemonic::Invd => (invalidate_caches, Lowered::Straight),
        _ => return Lowered::No,
    };
    op.run = run;
    lowered
}

/// Delivers a software interrupt; the handler starts without a single-step trap of the INT itself.
fn deliver<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>, vector: u8) -> Result<(), Fault> {
    let next = cpu.block_ip(op.next_offset());
    interrupt::software(cpu, world, vector, next)?;
    cpu.trap_inhibit_at = cpu.now() + 1;
    Ok(())
}

fn software_interrupt<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    if cpu.virtual_8086() && cpu.iopl() != 3 {
        return Err(Fault::GP0);
    }
    deliver(cpu, world, op, op.aux)
}

fn breakpoint<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    deliver(cpu, world, op, op.aux)
}

fn overflow<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    if cpu.flags.of() {
        return deliver(cpu, world, op, 4);
    }
    cpu.rip = cpu.block_ip(op.next_offset());
    Ok(())
}

fn debug_trap<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let next = cpu.block_ip(op.next_offset());
    interrupt::debug_trap(cpu, world, next)?;
    cpu.trap_inhibit_at = cpu.now() + 1;
    Ok(())
}

fn bound<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let linear = cpu.address_sized(op, 2 * T::SIZE as u32, false)?;
    let lower = cpu.load::<T, W>(world, linear)?.sext() as i64;
    let upper = cpu.load::<T, W>(world, linear.wrapping_add(T::SIZE as u64))?.sext() as i64;
    let index = cpu.reg::<T>(op.dst).sext() as i64;
    if (lower..=upper).contains(&index) { Ok(()) } else { Err(Fault::BR) }
}

fn halt<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    cpu.activity = Activity::Halted;
    cpu.limit = 0;
    Ok(())
}

fn write_back_caches<W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    world.cache_op(&cpu.ram_access(MemoryType::WriteBack), CacheOp::FlushAll);
    cpu.heed(world);
    Ok(())
}

fn invalidate_caches<W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    world.cache_op(&cpu.ram_access(MemoryType::WriteBack), CacheOp::InvalidateAll);
    cpu.heed(world);
    Ok(())
}
