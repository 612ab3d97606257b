//! Fast system calls (SDM volume 3, 5.8.7 and 5.8.8) and SWAPGS.

use crate::block::Op;
use crate::debug::dr6;
use crate::decode::{Lowered, undefined};
use crate::fault::Fault;
use crate::flags::bits;
use crate::memory::access::is_canonical;
use crate::mode::Mode;
use crate::state::{Segment, Vcpu, efer, reg, seg};
use crate::world::World;
use iced_x86::{Code, Instruction};

/// Hidden parts of the flat segments that these instructions load without reading a descriptor.
const CODE64: u16 = 0xa09b;
const CODE32: u16 = 0xc09b;
const DATA: u16 = 0xc093;
const DPL3: u16 = 3 << 5;
/// RFLAGS bits that SYSRET loads: all but RF, VM and reserved ones.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;

pub(crate) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    op.run = match instruction.code() {
        // Intel has SYSCALL and SYSRET in 64-bit mode only.
        Code::Syscall | Code::Sysretd | Code::Sysretq if !mode.is_64() => undefined,
        Code::Syscall => system_call,
        Code::Sysretd => system_return::<false, W>,
        Code::Sysretq => system_return::<true, W>,
        Code::Sysenter => system_enter,
        Code::Sysexitd => system_exit::<false, W>,
        Code::Sysexitq => system_exit::<true, W>,
        Code::Swapgs => {
            op.run = swap_gs;
            return Lowered::Straight;
        }
        _ => return Lowered::No,
    };
    Lowered::Branch
}

const fn flat(selector: u16, attr: u16) -> Segment {
    Segment { selector, base: 0, limit: 0xffff_ffff, attr }
}

impl Vcpu {
    fn enter_flat<W: World>(&mut self, world: &mut W, code: Segment, stack: u16, cpl: u8) {
        let attr = if cpl == 3 { DATA | DPL3 } else { DATA };
        self.segs[seg::SS] = flat(stack, attr);
        self.enter_code(world, code, cpl);
    }
}

fn system_call<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    if cpu.efer & efer::SCE == 0 {
        return Err(Fault::UD);
    }
    let selector = (cpu.msr.star >> 32) as u16 & !3;
    let flags = cpu.rflags();
    cpu.gpr[reg::RCX] = cpu.block_ip(op.next_offset());
    cpu.gpr[reg::R11] = flags;
    cpu.set_rflags(flags & !(cpu.msr.fmask | bits::RF));
    cpu.enter_flat(world, flat(selector, CODE64), selector.wrapping_add(8), 0);
    cpu.rip = cpu.msr.lstar;
    // A trap flag that FMASK clears does not fire.
    cpu.trap_inhibit_at = if cpu.system_flags & bits::TF == 0 { cpu.now() + 1 } else { u64::MAX };
    Ok(())
}

fn system_return<const LONG: bool, W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    if cpu.efer & efer::SCE == 0 {
        return Err(Fault::UD);
    }
    cpu.require_supervisor()?;
    let target = if LONG { cpu.gpr[reg::RCX] } else { cpu.gpr[reg::RCX] & 0xffff_ffff };
    if !is_canonical(target) {
        return Err(Fault::GP0);
    }
    let base = (cpu.msr.star >> 48) as u16;
    let code =
        if LONG { flat(base.wrapping_add(16) | 3, CODE64 | DPL3) } else { flat(base | 3, CODE32 | DPL3) };
    cpu.set_rflags(cpu.gpr[reg::R11] & SYSRET_FLAGS);
    cpu.enter_flat(world, code, base.wrapping_add(8) | 3, 3);
    cpu.rip = target;
    // Unlike IRET, it is the trap flag that SYSRET leaves which decides on a trap after it.
    cpu.trap_inhibit_at = cpu.now() + 1;
    if cpu.single_steps() {
        cpu.add_pending(dr6::BS);
    }
    cpu.interrupts_enabled(world);
    Ok(())
}

fn system_enter<W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let selector = cpu.msr.sysenter_cs as u16 & !3;
    // Virtual-8086 mode may enter, real mode may not.
    if cpu.cr0 & crate::state::cr0::PE == 0 || selector == 0 {
        return Err(Fault::GP0);
    }
    let long = cpu.long_mode();
    cpu.set_rflags(cpu.rflags() & !(bits::VM | bits::IF | bits::RF));
    let code = flat(selector, if long { CODE64 } else { CODE32 });
    cpu.enter_flat(world, code, selector.wrapping_add(8), 0);
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.gpr[reg::RSP] = cpu.msr.sysenter_esp & mask;
    cpu.rip = cpu.msr.sysenter_eip & mask;
    Ok(())
}

fn system_exit<const LONG: bool, W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let base = cpu.msr.sysenter_cs as u16 & !3;
    if !cpu.protected() || base == 0 || cpu.cpl != 0 {
        return Err(Fault::GP0);
    }
    let mask = if LONG { u64::MAX } else { 0xffff_ffff };
    let (target, stack) = (cpu.gpr[reg::RDX] & mask, cpu.gpr[reg::RCX] & mask);
    if !is_canonical(target) || !is_canonical(stack) {
        return Err(Fault::GP0);
    }
    let (offset, attr) = if LONG { (32, CODE64) } else { (16, CODE32) };
    let selector = base.wrapping_add(offset) | 3;
    cpu.enter_flat(world, flat(selector, attr | DPL3), selector.wrapping_add(8), 3);
    cpu.gpr[reg::RSP] = stack;
    cpu.rip = target;
    Ok(())
}

fn swap_gs<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    if !cpu.mode.is_64() {
        return Err(Fault::UD);
    }
    cpu.require_supervisor()?;
    let base = std::mem::replace(&mut cpu.msr.kernel_gs_base, cpu.segs[seg::GS].base);
    cpu.set_segment_base(seg::GS, base);
    Ok(())
}
