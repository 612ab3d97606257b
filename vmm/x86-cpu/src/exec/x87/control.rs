//! Control instructions: control and status word, exceptions, stack pointer and tags.

use super::exception::{BUSY, C1, ES, EXCEPTIONS, SF};
use super::{environment, pops, select_pops};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::{Vcpu, X87, reg};
use crate::world::World;
use iced_x86::Code;

/// Bits of the control word that exist; bit 6 is always set.
const CONTROL: u16 = 0x1f7f;
const CONTROL_SET: u16 = 0x40;

/// Chooses the operation for an instruction of this file.
pub(super) fn select<W: World>(code: Code, op: &mut Op<W>) -> Option<OpFn<W>> {
    let (pops, run): (u8, OpFn<W>) = match code {
        Code::Wait => (0, wait::<W>),
        Code::Fnop => (0, nop::<W>),
        Code::Fneni | Code::Fndisi | Code::Fnsetpm => (0, ignored::<W>),
        Code::Fninit => (0, initialize::<W>),
        Code::Fnclex => (0, clear_exceptions::<W>),
        Code::Fldcw_m2byte => (0, load_control::<W>),
        Code::Fnstcw_m2byte => (0, store_control::<W>),
        Code::Fnstsw_m2byte => (0, store_status::<W>),
        Code::Fnstsw_AX => (0, status_to_ax::<W>),
        Code::Fldenv_m14byte => (0, environment::load::<W, false, false>),
        Code::Fldenv_m28byte => (0, environment::load::<W, true, false>),
        Code::Frstor_m94byte => (0, environment::load::<W, false, true>),
        Code::Frstor_m108byte => (0, environment::load::<W, true, true>),
        Code::Fnstenv_m14byte => (0, environment::store::<W, false, false>),
        Code::Fnstenv_m28byte => (0, environment::store::<W, true, false>),
        Code::Fnsave_m94byte => (0, environment::store::<W, false, true>),
        Code::Fnsave_m108byte => (0, environment::store::<W, true, true>),
        Code::Fincstp => (0, rotate::<W, 1>),
        Code::Fdecstp => (0, rotate::<W, 7>),
        Code::Ffree_sti => (0, free::<W>),
        Code::Ffreep_sti => (1, free::<W>),
        _ => return None,
    };
    select_pops(op, pops);
    Some(run)
}

impl X87 {
    /// The initial configuration: what XRSTOR gives a component that is not in the image.
    pub(crate) fn initial() -> Self {
        Self { control: 0x37f, tags: 0xffff, ..Self::default() }
    }
    /// The state after FNINIT: the registers keep their bits.
    pub(crate) fn initialize(&mut self) {
        *self = Self { regs: self.regs, ..Self::initial() };
    }
    /// Loads the control word, as FLDCW does: reserved bits keep their fixed values, and an exception recorded earlier
    /// becomes pending or stops being so.
    pub(crate) fn set_control(&mut self, value: u16) {
        self.control = value & CONTROL | CONTROL_SET;
        self.update_summary();
    }
}

fn wait<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()
}

fn nop<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    cpu.finish_x87(op, 0, 0);
    Ok(())
}

/// FNENI, FNDISI and FNSETPM did something on the 8087 and 80287 only.
fn ignored<W: World>(_: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    Ok(())
}

fn initialize<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.x87.initialize();
    Ok(())
}

fn clear_exceptions<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.x87.status &= !(EXCEPTIONS | SF | ES | BUSY);
    Ok(())
}

fn load_control<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let linear = cpu.address::<u16, W>(op)?;
    let value = cpu.load(world, linear)?;
    cpu.x87.set_control(value);
    Ok(())
}

fn store_control<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let linear = cpu.address_mut::<u16, W>(op)?;
    cpu.store(world, linear, cpu.x87.control)
}

fn store_status<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let linear = cpu.address_mut::<u16, W>(op)?;
    cpu.store(world, linear, cpu.x87.status)
}

fn status_to_ax<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let rax = &mut cpu.gpr[reg::RAX];
    *rax = *rax & !0xffff | u64::from(cpu.x87.status);
    Ok(())
}

/// FINCSTP and FDECSTP: adds `N` to TOP.
fn rotate<W: World, const N: u16>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    cpu.finish_x87(op, 0, C1);
    let top = cpu.x87.top().wrapping_add(N);
    cpu.x87.set_top(top);
    Ok(())
}

/// FFREE and FFREEP.
fn free<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    cpu.finish_x87(op, 0, C1);
    cpu.x87.free(op.dst);
    cpu.x87.pop(pops(op));
    Ok(())
}
