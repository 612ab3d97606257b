//! Instructions that read and write the system flags: PUSHF, POPF, CLI, STI, CLAC, STAC.

use crate::block::Op;
use crate::decode::Lowered;
use crate::fault::Fault;
use crate::flags::bits;
use crate::mode::Mode;
use crate::state::{Vcpu, cr0, seg};
use crate::world::World;
use iced_x86::{Code, Instruction};

pub(crate) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    let (run, lowered): (crate::block::OpFn<W>, _) = match instruction.code() {
        Code::Pushfw => (push_flags::<2, W>, Lowered::Straight),
        Code::Pushfd => (push_flags::<4, W>, Lowered::Straight),
        Code::Pushfq => (push_flags::<8, W>, Lowered::Straight),
        Code::Popfw => (pop_flags::<2, W>, Lowered::Last),
        Code::Popfd => (pop_flags::<4, W>, Lowered::Last),
        Code::Popfq => (pop_flags::<8, W>, Lowered::Last),
        Code::Cli => (clear_interrupt, Lowered::Straight),
        Code::Sti => (set_interrupt, Lowered::Straight),
        Code::Clac => (alignment_check::<false, W>, Lowered::Straight),
        Code::Stac => (alignment_check::<true, W>, Lowered::Straight),
        _ => return Lowered::No,
    };
    op.seg = seg::SS as u8;
    op.run = run;
    lowered
}

impl Vcpu {
    /// Whether IF and IOPL-sensitive instructions may be executed: #GP(0) otherwise.
    fn require_iopl(&self) -> Result<(), Fault> {
        let allowed = self.cr0 & cr0::PE == 0 || self.cpl <= self.iopl();
        if allowed { Ok(()) } else { Err(Fault::GP0) }
    }
}

fn push_flags<const SIZE: u8, W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    if cpu.virtual_8086() {
        cpu.require_iopl()?;
    }
    cpu.push_sized(world, SIZE, cpu.rflags() & !(bits::RF | bits::VM))
}

fn pop_flags<const SIZE: u8, W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    if cpu.virtual_8086() {
        cpu.require_iopl()?;
    }
    let mut mask = bits::ARITHMETIC | bits::TF | bits::DF | bits::NT | bits::AC | bits::ID;
    if cpu.cpl <= cpu.iopl() {
        mask |= bits::IF;
    }
    if cpu.cpl == 0 {
        mask |= bits::IOPL;
    }
    if SIZE == 2 {
        mask &= 0xffff;
    }
    let value = cpu.peek_sized(world, SIZE, 0)?;
    cpu.set_stack_pointer(cpu.stack_pointer().wrapping_add(u64::from(SIZE)));
    cpu.set_rflags(cpu.rflags() & !(mask | bits::RF) | value & mask);
    cpu.interrupts_enabled(world);
    Ok(())
}

fn clear_interrupt<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.require_iopl()?;
    cpu.system_flags &= !bits::IF;
    Ok(())
}

/// STI: an interrupt is taken after the next instruction at the earliest.
fn set_interrupt<W: World>(cpu: &mut Vcpu, world: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.require_iopl()?;
    if cpu.system_flags & bits::IF == 0 {
        cpu.system_flags |= bits::IF;
        cpu.inhibit_at = cpu.now() + 1;
        cpu.interrupts_enabled(world);
    }
    Ok(())
}

fn alignment_check<const SET: bool, W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    if cpu.cpl != 0 || cpu.virtual_8086() {
        return Err(Fault::UD);
    }
    if (cpu.system_flags & bits::AC != 0) != SET {
        cpu.system_flags ^= bits::AC;
        let limit = cpu.limit;
        cpu.update_mode();
        // Only the data context has changed, not what decoding depends on: the block goes on.
        cpu.limit = limit;
    }
    Ok(())
}
