//! Arithmetic other than the transcendental functions: the four operations, square root, rounding, scaling, sign
//! manipulation and the separation of exponent and significand.

use super::exception::{C1, DE, IE, UNDERFLOW, ZE};
use super::format::{self, Class};
use super::host::{self, Arithmetic, Source};
use super::{Computed, MEMORY, pops, select_pops};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

const OPERATION: u8 = 7;

fn operation<W: World>(op: &Op<W>) -> Arithmetic {
    match op.aux & OPERATION {
        0 => Arithmetic::Add,
        1 => Arithmetic::Multiply,
        4 => Arithmetic::Subtract,
        5 => Arithmetic::SubtractReversed,
        6 => Arithmetic::Divide,
        _ => Arithmetic::DivideReversed,
    }
}

/// Chooses the operation for an instruction of this file.
pub(super) fn select<W: World>(code: Code, op: &mut Op<W>) -> Option<OpFn<W>> {
    use Arithmetic::{Add, Divide, DivideReversed, Multiply, Subtract, SubtractReversed};
    let (operation, pops, run): (_, _, OpFn<W>) = match code {
        Code::Fadd_st0_sti | Code::Fadd_sti_st0 => (Add, 0, registers::<W>),
        Code::Fmul_st0_sti | Code::Fmul_sti_st0 => (Multiply, 0, registers::<W>),
        Code::Fsub_st0_sti | Code::Fsub_sti_st0 => (Subtract, 0, registers::<W>),
        Code::Fsubr_st0_sti | Code::Fsubr_sti_st0 => (SubtractReversed, 0, registers::<W>),
        Code::Fdiv_st0_sti | Code::Fdiv_sti_st0 => (Divide, 0, registers::<W>),
        Code::Fdivr_st0_sti | Code::Fdivr_sti_st0 => (DivideReversed, 0, registers::<W>),
        Code::Faddp_sti_st0 => (Add, 1, registers::<W>),
        Code::Fmulp_sti_st0 => (Multiply, 1, registers::<W>),
        Code::Fsubp_sti_st0 => (Subtract, 1, registers::<W>),
        Code::Fsubrp_sti_st0 => (SubtractReversed, 1, registers::<W>),
        Code::Fdivp_sti_st0 => (Divide, 1, registers::<W>),
        Code::Fdivrp_sti_st0 => (DivideReversed, 1, registers::<W>),
        Code::Fadd_m32fp => (Add, 0, memory::<W, f32>),
        Code::Fmul_m32fp => (Multiply, 0, memory::<W, f32>),
        Code::Fsub_m32fp => (Subtract, 0, memory::<W, f32>),
        Code::Fsubr_m32fp => (SubtractReversed, 0, memory::<W, f32>),
        Code::Fdiv_m32fp => (Divide, 0, memory::<W, f32>),
        Code::Fdivr_m32fp => (DivideReversed, 0, memory::<W, f32>),
        Code::Fadd_m64fp => (Add, 0, memory::<W, f64>),
        Code::Fmul_m64fp => (Multiply, 0, memory::<W, f64>),
        Code::Fsub_m64fp => (Subtract, 0, memory::<W, f64>),
        Code::Fsubr_m64fp => (SubtractReversed, 0, memory::<W, f64>),
        Code::Fdiv_m64fp => (Divide, 0, memory::<W, f64>),
        Code::Fdivr_m64fp => (DivideReversed, 0, memory::<W, f64>),
        Code::Fiadd_m16int => (Add, 0, memory::<W, i16>),
        Code::Fimul_m16int => (Multiply, 0, memory::<W, i16>),
        Code::Fisub_m16int => (Subtract, 0, memory::<W, i16>),
        Code::Fisubr_m16int => (SubtractReversed, 0, memory::<W, i16>),
        Code::Fidiv_m16int => (Divide, 0, memory::<W, i16>),
        Code::Fidivr_m16int => (DivideReversed, 0, memory::<W, i16>),
        Code::Fiadd_m32int => (Add, 0, memory::<W, i32>),
        Code::Fimul_m32int => (Multiply, 0, memory::<W, i32>),
        Code::Fisub_m32int => (Subtract, 0, memory::<W, i32>),
        Code::Fisubr_m32int => (SubtractReversed, 0, memory::<W, i32>),
        Code::Fidiv_m32int => (Divide, 0, memory::<W, i32>),
        Code::Fidivr_m32int => (DivideReversed, 0, memory::<W, i32>),
        Code::Fsqrt => return Some(square_root::<W>),
        Code::Frndint => return Some(round::<W>),
        Code::Fscale => return Some(scale::<W>),
        Code::Fabs => return Some(absolute::<W>),
        Code::Fchs => return Some(negate::<W>),
        Code::Fxtract => return Some(extract::<W>),
        _ => return None,
    };
    op.aux |= operation as u8;
    select_pops(op, pops);
    Some(run)
}

/// A memory operand of an arithmetic instruction or comparison.
pub(super) trait Operand {
    /// Loads the operand of `op`.
    fn load<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<Source, Fault>;
}

impl Operand for f32 {
    fn load<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<Source, Fault> {
        let linear = cpu.address::<u32, W>(op)?;
        Ok(Source::Single(cpu.load(world, linear)?))
    }
}

impl Operand for f64 {
    fn load<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<Source, Fault> {
        let linear = cpu.address::<u64, W>(op)?;
        Ok(Source::Double(cpu.load(world, linear)?))
    }
}

impl Operand for i16 {
    fn load<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<Source, Fault> {
        let linear = cpu.address::<u16, W>(op)?;
        let value = cpu.load::<u16, W>(world, linear)?.cast_signed();
        Ok(Source::Extended(format::from_integer(i64::from(value))))
    }
}

impl Operand for i32 {
    fn load<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<Source, Fault> {
        let linear = cpu.address::<u32, W>(op)?;
        let value = cpu.load::<u32, W>(world, linear)?.cast_signed();
        Ok(Source::Extended(format::from_integer(i64::from(value))))
    }
}

fn registers<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let control = cpu.x87.control;
    let computed = match (cpu.x87.get(op.dst), cpu.x87.get(op.src)) {
        (Some(a), Some(b)) => host::arithmetic(operation(op), control, a, Source::Extended(b)),
        _ => Computed::UNDERFLOW,
    };
    if cpu.finish_x87(op, computed.status, C1) {
        cpu.x87.put(op.dst, computed.value);
        cpu.x87.pop(pops(op));
    }
    Ok(())
}

fn memory<W: World, T: Operand>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    debug_assert!(op.aux & MEMORY != 0);
    cpu.check_x87()?;
    let source = T::load(cpu, world, op)?;
    unary(cpu, op, |control, value| host::arithmetic(operation(op), control, value, source))
}

/// Replaces ST(0) by what `compute` makes of it and of the control word.
fn unary<W: World>(
    cpu: &mut Vcpu,
    op: &Op<W>,
    compute: impl FnOnce(u16, u128) -> Computed,
) -> Result<(), Fault> {
    let control = cpu.x87.control;
    let computed = cpu.x87.get(0).map_or(Computed::UNDERFLOW, |value| compute(control, value));
    if cpu.finish_x87(op, computed.status, C1) {
        cpu.x87.put(0, computed.value);
    }
    Ok(())
}

fn square_root<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    unary(cpu, op, host::square_root)
}

fn round<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    unary(cpu, op, host::round)
}

fn absolute<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    unary(cpu, op, |_, value| Computed { value: value & format::MAGNITUDE, status: 0 })
}

fn negate<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    unary(cpu, op, |_, value| Computed { value: value ^ format::SIGN, status: 0 })
}

fn scale<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let exponent = cpu.x87.get(1);
    unary(cpu, op, |control, value| {
        exponent.map_or(Computed::UNDERFLOW, |exponent| host::scale(control, value, exponent))
    })
}

/// FXTRACT: replaces ST(0) by its exponent and pushes its significand.
fn extract<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let (exponent, significand, raised) = match cpu.x87.get(0) {
        None => (format::INDEFINITE, format::INDEFINITE, UNDERFLOW),
        Some(_) if !cpu.x87.empty(7) => (format::INDEFINITE, format::INDEFINITE, super::exception::OVERFLOW),
        Some(value) => separate(value),
    };
    if cpu.finish_x87(op, raised, C1) {
        cpu.x87.put(0, exponent);
        cpu.x87.push(significand);
    }
    Ok(())
}

/// Exponent and significand of a value, both as values, and the exceptions raised.
fn separate(value: u128) -> (u128, u128, u16) {
    let negative = format::negative(value);
    let significand = format::significand(value);
    let parts = |shift: u32| {
        let exponent = i32::from(format::exponent(value).max(1)) - format::BIAS - shift as i32;
        let significand = format::pack(negative, 0x3fff, significand << shift);
        (format::from_integer(i64::from(exponent)), significand)
    };
    match format::class(value) {
        Class::Zero => (format::INFINITY | format::SIGN, value, ZE),
        Class::Infinity => (format::INFINITY, value, 0),
        Class::QuietNan => (value, value, 0),
        Class::SignallingNan => {
            let quiet = value | u128::from(format::QUIET);
            (quiet, quiet, IE)
        }
        Class::Unsupported => (format::INDEFINITE, format::INDEFINITE, IE),
        Class::Normal => {
            let (exponent, significand) = parts(0);
            (exponent, significand, 0)
        }
        Class::Denormal => {
            let (exponent, significand) = parts(significand.leading_zeros());
            (exponent, significand, DE)
        }
    }
}
