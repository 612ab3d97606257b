//! IRET (SDM volume 2, IRET; volume 3, 6.12 and 20.2).

use super::descriptor::rpl;
use super::task::Cause;
use crate::block::Op;
use crate::decode::Lowered;
use crate::fault::Fault;
use crate::flags::bits;
use crate::mode::Mode;
use crate::state::{Segment, Vcpu, seg};
use crate::world::World;
use iced_x86::{Code, Instruction};

pub(crate) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    op.aux = match instruction.code() {
        Code::Iretw => 2,
        Code::Iretd => 4,
        Code::Iretq => 8,
        _ => return Lowered::No,
    };
    op.seg = seg::SS as u8;
    op.run = interrupt_return;
    Lowered::Branch
}

fn interrupt_return<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    if cpu.virtual_8086() {
        if cpu.iopl() != 3 {
            return Err(Fault::GP0);
        }
        unblock_nmi(cpu);
        return real_return(cpu, world, op.aux);
    }
    unblock_nmi(cpu);
    let next = cpu.block_ip(op.next_offset());
    if cpu.protected() { protected_return(cpu, world, op.aux, next) } else { real_return(cpu, world, op.aux) }
}

/// IRET ends the blocking of NMIs, even if it faults (SDM volume 3, 6.7.1).
fn unblock_nmi(cpu: &mut Vcpu) {
    if cpu.nmi_blocked {
        cpu.nmi_blocked = false;
        cpu.recheck = true;
        cpu.limit = 0;
    }
}

/// The RFLAGS bits that an IRET of `size` bytes may change at privilege level `cpl`.
fn writable_flags(cpu: &Vcpu, size: u8, cpl: u8) -> u64 {
    let mut mask = bits::ARITHMETIC | bits::TF | bits::DF | bits::NT | bits::RF | bits::AC | bits::ID;
    if cpl <= cpu.iopl() {
        mask |= bits::IF;
    }
    if cpl == 0 {
        mask |= bits::IOPL | bits::VIF | bits::VIP;
    }
    if size == 2 { mask & 0xffff } else { mask }
}

fn put_flags<W: World>(cpu: &mut Vcpu, world: &mut W, mask: u64, value: u64) {
    cpu.set_rflags(cpu.rflags() & !mask | value & mask);
    cpu.interrupts_enabled(world);
}

/// Real mode, and virtual-8086 mode with IOPL 3.
fn real_return<W: World>(cpu: &mut Vcpu, world: &mut W, size: u8) -> Result<(), Fault> {
    let ip = cpu.peek_sized(world, size, 0)?;
    let selector = cpu.peek_sized(world, size, 1)? as u16;
    let flags = cpu.peek_sized(world, size, 2)?;
    if ip > u64::from(cpu.segs[seg::CS].limit) {
        return Err(Fault::GP0);
    }
    let mut mask = writable_flags(cpu, size, 0) & !(bits::VIF | bits::VIP);
    if cpu.virtual_8086() {
        mask &= !bits::IOPL;
    }
    cpu.set_stack_pointer(cpu.stack_pointer().wrapping_add(3 * u64::from(size)));
    cpu.enter_real_code(world, selector);
    cpu.rip = ip;
    put_flags(cpu, world, mask, flags);
    Ok(())
}

fn protected_return<W: World>(cpu: &mut Vcpu, world: &mut W, size: u8, next: u64) -> Result<(), Fault> {
    if cpu.system_flags & bits::NT != 0 {
        return return_to_task(cpu, world, next);
    }
    let ip = cpu.peek_sized(world, size, 0)?;
    let selector = cpu.peek_sized(world, size, 1)? as u16;
    let flags = cpu.peek_sized(world, size, 2)?;
    if flags & bits::VM != 0 && size == 4 && cpu.cpl == 0 && !cpu.long_mode() {
        return return_to_v86(cpu, world, ip, selector, flags);
    }
    let code = cpu.return_code_segment(world, selector)?;
    let level = rpl(selector);
    let mask = writable_flags(cpu, size, cpu.cpl);
    if level == cpu.cpl && !cpu.mode.is_64() {
        cpu.check_ip(&code, ip, 0)?;
        cpu.set_stack_pointer(cpu.stack_pointer().wrapping_add(3 * u64::from(size)));
        cpu.enter_code(world, code, level);
        cpu.rip = ip;
    } else {
        let pointer = cpu.peek_sized(world, size, 3)?;
        let stack = cpu.peek_sized(world, size, 4)? as u16;
        let stack = cpu.return_stack_segment(world, stack, &code, level)?;
        cpu.check_ip(&code, ip, 0)?;
        cpu.return_to(world, code, ip, stack, pointer);
    }
    put_flags(cpu, world, mask, flags);
    Ok(())
}

/// A return to the task that the link of this one's TSS names; long mode has no task switches.
fn return_to_task<W: World>(cpu: &mut Vcpu, world: &mut W, next: u64) -> Result<(), Fault> {
    if cpu.long_mode() {
        return Err(Fault::GP0);
    }
    let link = cpu.load_system::<u16, W>(world, cpu.tr.base)?;
    cpu.switch_task_by_instruction(world, link, Cause::Return, next)
}

/// From CPL 0 to virtual-8086 mode: nine words are popped.
fn return_to_v86<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    ip: u64,
    selector: u16,
    flags: u64,
) -> Result<(), Fault> {
    let pointer = cpu.peek_sized(world, 4, 3)?;
    let mut selectors = [0; 5];
    for (value, slot) in selectors.iter_mut().zip(4..) {
        *value = cpu.peek_sized(world, 4, slot)? as u16;
    }
    if ip > 0xffff {
        return Err(Fault::GP0);
    }
    cpu.set_rflags(flags);
    cpu.enter_code(world, Segment::virtual_8086(selector), 3);
    for (index, value) in [seg::SS, seg::ES, seg::DS, seg::FS, seg::GS].into_iter().zip(selectors) {
        cpu.set_segment(index, Segment::virtual_8086(value));
    }
    cpu.gpr[crate::state::reg::RSP] = pointer & 0xffff_ffff;
    cpu.rip = ip;
    cpu.interrupts_enabled(world);
    Ok(())
}
