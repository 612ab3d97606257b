//! CPUID, time stamp, model-specific registers and random numbers.

use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::fault::Fault;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::msr::index;
use crate::state::{Vcpu, cr4, reg};
use crate::world::World;
use iced_x86::{Instruction, Mnemonic};

pub(crate) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    op.run = match instruction.mnemonic() {
        Mnemonic::Cpuid => cpuid,
        Mnemonic::Rdtsc => read_time_stamp,
        Mnemonic::Rdtscp => read_time_stamp_and_aux,
        Mnemonic::Rdpid => {
            op.dst = gpr(instruction.op0_register());
            read_processor_id
        }
        // There are no performance counters: every index is invalid.
        Mnemonic::Rdpmc => read_performance_counter,
        Mnemonic::Rdmsr => read_msr,
        Mnemonic::Wrmsr => {
            op.run = write_msr;
            return Lowered::Last;
        }
        Mnemonic::Rdrand | Mnemonic::Rdseed => {
            op.dst = gpr(instruction.op0_register());
            by_wide_size!(instruction.op0_register().size(), random)
        }
        _ => return Lowered::No,
    };
    Lowered::Straight
}

impl Vcpu {
    /// EDX:EAX.
    fn put_pair(&mut self, value: u64) {
        self.gpr[reg::RAX] = value & 0xffff_ffff;
        self.gpr[reg::RDX] = value >> 32;
    }

    fn require_time_stamp(&self) -> Result<(), Fault> {
        if self.cr4 & cr4::TSD != 0 && self.cpl != 0 { Err(Fault::GP0) } else { Ok(()) }
    }
}

/// Enable bit of IA32_APIC_BASE.
const APIC_ENABLE: u64 = 1 << 11;
/// CPUID leaf 1, EDX: there is a local APIC.
const CPUID_APIC: u32 = 1 << 9;

fn cpuid<W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let leaf = cpu.gpr[reg::RAX] as u32;
    let mut answer = Vcpu::cpuid(cpu, leaf, cpu.gpr[reg::RCX] as u32);
    // A local APIC that IA32_APIC_BASE disables is not there (SDM volume 3A, 11.4.3).
    let apic_base = if leaf == 1 { world.read_msr(cpu.id, cpu.now(), index::APIC_BASE) } else { None };
    if apic_base.is_some_and(|base| base & APIC_ENABLE == 0) {
        answer[3] &= !CPUID_APIC;
    }
    for (index, value) in [reg::RAX, reg::RBX, reg::RCX, reg::RDX].into_iter().zip(answer) {
        cpu.gpr[index] = u64::from(value);
    }
    Ok(())
}

fn read_time_stamp<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.require_time_stamp()?;
    cpu.put_pair(cpu.time_stamp());
    Ok(())
}

fn read_time_stamp_and_aux<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.require_time_stamp()?;
    cpu.put_pair(cpu.time_stamp());
    cpu.gpr[reg::RCX] = u64::from(cpu.msr.tsc_aux);
    Ok(())
}

fn read_processor_id<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.set_reg::<u64>(op.dst, u64::from(cpu.msr.tsc_aux));
    Ok(())
}

fn read_performance_counter<W: World>(_: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    Err(Fault::GP0)
}

fn read_msr<W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    let value = cpu.read_msr(world, cpu.gpr[reg::RCX] as u32)?;
    cpu.put_pair(value);
    Ok(())
}

fn write_msr<W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    let value = cpu.gpr[reg::RDX] << 32 | cpu.gpr[reg::RAX] & 0xffff_ffff;
    cpu.write_msr(world, cpu.gpr[reg::RCX] as u32, value)
}

/// RDRAND and RDSEED: always succeed (CF set, the other flags clear).
fn random<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = world.random();
    cpu.set_reg(op.dst, T::low(value));
    cpu.flags.set_bits(crate::flags::bits::CF);
    Ok(())
}
