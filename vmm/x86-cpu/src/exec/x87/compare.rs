//! Comparisons, examination and conditional moves.

use super::arithmetic::Operand;
use super::exception::{C0, C1, C2, C3, CODES, SF, UNDERFLOW};
use super::format::{self, Class};
use super::host::{self, Source};
use super::{pops, select_pops};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::flags::bits;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

/// Chooses the operation for an instruction of this file.
pub(super) fn select<W: World>(code: Code, op: &mut Op<W>) -> Option<OpFn<W>> {
    let (pops, run): (u8, OpFn<W>) = match code {
        Code::Fcom_st0_sti | Code::Fcom_st0_sti_DCD0 => (0, registers::<W, false>),
        Code::Fcomp_st0_sti | Code::Fcomp_st0_sti_DCD8 | Code::Fcomp_st0_sti_DED0 => {
            (1, registers::<W, false>)
        }
        Code::Fcompp => (2, registers::<W, false>),
        Code::Fucom_st0_sti => (0, registers::<W, true>),
        Code::Fucomp_st0_sti => (1, registers::<W, true>),
        Code::Fucompp => (2, registers::<W, true>),
        Code::Fcomi_st0_sti => (0, to_flags::<W, false>),
        Code::Fcomip_st0_sti => (1, to_flags::<W, false>),
        Code::Fucomi_st0_sti => (0, to_flags::<W, true>),
        Code::Fucomip_st0_sti => (1, to_flags::<W, true>),
        Code::Fcom_m32fp => (0, memory::<W, f32>),
        Code::Fcomp_m32fp => (1, memory::<W, f32>),
        Code::Fcom_m64fp => (0, memory::<W, f64>),
        Code::Fcomp_m64fp => (1, memory::<W, f64>),
        Code::Ficom_m16int => (0, memory::<W, i16>),
        Code::Ficomp_m16int => (1, memory::<W, i16>),
        Code::Ficom_m32int => (0, memory::<W, i32>),
        Code::Ficomp_m32int => (1, memory::<W, i32>),
        Code::Ftst => (0, test::<W>),
        Code::Fxam => (0, examine::<W>),
        Code::Fcmovb_st0_sti => (0, conditional_move::<W, { bits::CF }, true>),
        Code::Fcmove_st0_sti => (0, conditional_move::<W, { bits::ZF }, true>),
        Code::Fcmovbe_st0_sti => (0, conditional_move::<W, { bits::CF | bits::ZF }, true>),
        Code::Fcmovu_st0_sti => (0, conditional_move::<W, { bits::PF }, true>),
        Code::Fcmovnb_st0_sti => (0, conditional_move::<W, { bits::CF }, false>),
        Code::Fcmovne_st0_sti => (0, conditional_move::<W, { bits::ZF }, false>),
        Code::Fcmovnbe_st0_sti => (0, conditional_move::<W, { bits::CF | bits::ZF }, false>),
        Code::Fcmovnu_st0_sti => (0, conditional_move::<W, { bits::PF }, false>),
        _ => return None,
    };
    if matches!(code, Code::Fcompp | Code::Fucompp) {
        op.src = 1;
    }
    select_pops(op, pops);
    Some(run)
}

/// What a comparison raises and sets; an empty register compares as unordered.
fn compare(control: u16, unordered: bool, a: Option<u128>, b: Option<Source>) -> u16 {
    match (a, b) {
        (Some(a), Some(Source::Extended(b))) if unordered => host::compare_unordered(control, a, b).status,
        (Some(a), Some(b)) => host::compare(control, a, b).status,
        _ => UNDERFLOW | C0 | C2 | C3,
    }
}

fn registers<W: World, const UNORDERED: bool>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let source = cpu.x87.get(op.src).map(Source::Extended);
    finish(cpu, op, UNORDERED, source)
}

fn memory<W: World, T: Operand>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let source = T::load(cpu, world, op)?;
    finish(cpu, op, false, Some(source))
}

/// FTST: compares with zero.
fn test<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    finish(cpu, op, false, Some(Source::Extended(format::ZERO)))
}

fn finish<W: World>(
    cpu: &mut Vcpu,
    op: &Op<W>,
    unordered: bool,
    source: Option<Source>,
) -> Result<(), Fault> {
    let raised = compare(cpu.x87.control, unordered, cpu.x87.get(0), source);
    if cpu.finish_x87(op, raised, CODES) {
        cpu.x87.pop(pops(op));
    }
    Ok(())
}

/// FCOMI and FCMOVcc leave C1 alone but for a stack fault.
fn stack_fault(raised: u16) -> u16 {
    if raised & SF != 0 { C1 } else { 0 }
}

fn to_flags<W: World, const UNORDERED: bool>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let source = cpu.x87.get(op.src).map(Source::Extended);
    let raised = compare(cpu.x87.control, UNORDERED, cpu.x87.get(0), source);
    let flag = |code, flag| if raised & code != 0 { flag } else { 0 };
    cpu.flags.set_bits(flag(C0, bits::CF) | flag(C2, bits::PF) | flag(C3, bits::ZF));
    if cpu.finish_x87(op, raised, stack_fault(raised)) {
        cpu.x87.pop(pops(op));
    }
    Ok(())
}

/// FXAM: classifies ST(0), empty or not (SDM volume 2, FXAM, table 3-42).
fn examine<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let value = cpu.x87.bits(0);
    let mut codes = if cpu.x87.empty(0) {
        C3 | C0
    } else {
        match format::class(value) {
            Class::Unsupported => 0,
            Class::QuietNan | Class::SignallingNan => C0,
            Class::Normal => C2,
            Class::Infinity => C2 | C0,
            Class::Zero => C3,
            Class::Denormal => C3 | C2,
        }
    };
    if format::negative(value) {
        codes |= C1;
    }
    cpu.finish_x87(op, codes, CODES);
    Ok(())
}

/// FCMOVcc: moves if any of `FLAGS` is set (`WANTED`), or if none is.
fn conditional_move<W: World, const FLAGS: u64, const WANTED: bool>(
    cpu: &mut Vcpu,
    _: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    cpu.check_x87()?;
    let moves = (cpu.flags.to_bits() & FLAGS != 0) == WANTED;
    let (raised, value) = match (cpu.x87.get(0), cpu.x87.get(op.src)) {
        (Some(_), Some(source)) if moves => (0, source),
        (Some(kept), Some(_)) => (0, kept),
        _ => (UNDERFLOW, format::INDEFINITE),
    };
    if cpu.finish_x87(op, raised, stack_fault(raised)) {
        cpu.x87.put(0, value);
    }
    Ok(())
}
