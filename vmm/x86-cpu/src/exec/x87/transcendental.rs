//! The transcendental instructions. Processors differ in the last places of their results; these are computed by
//! `elementary`, with its error bound, and are the same on every host. Unlike the processors', the reduction of large
//! arguments uses as many digits of π as it needs. As on Intel's processors every result that was computed counts as
//! inexact, even where it happens to be exact, such as the logarithm of a power of two.

use super::exception::{C1, C2, DE, IE, OVERFLOW, PE, UE, ZE};
use super::format::{self, Class};
use super::wide::Wide;
use super::{Computed, elementary, host};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

/// Chooses the operation for an instruction of this file.
pub(super) fn select<W: World>(code: Code) -> Option<OpFn<W>> {
    Some(match code {
        Code::F2xm1 => run_exponential::<W>,
        Code::Fyl2x => run_logarithm::<W>,
        Code::Fyl2xp1 => run_logarithm_plus_1::<W>,
        Code::Fpatan => run_arc_tangent::<W>,
        Code::Fsin => run_sine::<W>,
        Code::Fcos => run_cosine::<W>,
        Code::Fsincos => run_sine_and_cosine::<W>,
        Code::Fptan => run_tangent::<W>,
        _ => return None,
    })
}

/// What the operands decide before any computation.
enum Operands {
    /// A NaN, an unsupported pattern or an invalid operand: the answer is known.
    Answer(Computed),
    /// Compute; a denormal operand is to be reported.
    Compute { denormal: u16 },
}

/// Quiets a NaN and answers unsupported patterns; `b` may be the same as `a`.
fn examine(control: u16, a: u128, b: u128) -> Operands {
    use Class::{Denormal, QuietNan, SignallingNan, Unsupported};
    match (format::class(a), format::class(b)) {
        (QuietNan | SignallingNan | Unsupported, _) | (_, QuietNan | SignallingNan | Unsupported) => {
            // An addition chooses among NaNs by the same rules.
            Operands::Answer(host::add(control, a, b))
        }
        (Denormal, _) | (_, Denormal) => Operands::Compute { denormal: DE },
        _ => Operands::Compute { denormal: 0 },
    }
}

/// Whether the magnitude of a trigonometric argument is 2^63 or more.
fn too_large(value: u128) -> bool {
    format::exponent(value) >= 0x3fff + 63
}

/// Computes on one operand that is not a NaN, reporting it if denormal.
fn unary(control: u16, value: u128, compute: impl FnOnce(u16, u128) -> Computed) -> Computed {
    match examine(control, value, value) {
        Operands::Answer(answer) => answer,
        Operands::Compute { denormal } => {
            let computed = compute(control, value);
            Computed { status: computed.status | denormal, ..computed }
        }
    }
}

/// Rounds a result that counts as inexact.
fn round(value: Wide, control: u16) -> Computed {
    inexact(value.round(control))
}

fn inexact(computed: Computed) -> Computed {
    let tiny = format::class(computed.value) == Class::Denormal;
    Computed { status: computed.status | PE | if tiny { UE } else { 0 }, ..computed }
}

fn sine(control: u16, value: u128) -> Computed {
    match format::class(value) {
        Class::Infinity => Computed::INVALID,
        Class::Zero => Computed::exact(value),
        _ => round(elementary::sine(Wide::from_extended(value)), control),
    }
}

fn cosine(control: u16, value: u128) -> Computed {
    match format::class(value) {
        Class::Infinity => Computed::INVALID,
        Class::Zero => Computed::exact(format::ONE),
        _ => round(elementary::cosine(Wide::from_extended(value)), control),
    }
}

fn tangent(control: u16, value: u128) -> Computed {
    match format::class(value) {
        Class::Infinity => Computed::INVALID,
        Class::Zero => Computed::exact(value),
        _ => round(elementary::tangent(Wide::from_extended(value)), control),
    }
}

/// 2^x − 1. Beyond ±1 the result is undefined: the operand, as Intel processors have it.
fn exponential(control: u16, value: u128) -> Computed {
    let negative = format::negative(value);
    let wide = Wide::from_extended(value);
    match format::class(value) {
        Class::Infinity if negative => Computed::exact(format::ONE | format::SIGN),
        Class::Infinity | Class::Zero => Computed::exact(value),
        _ if wide.magnitude() == Wide::ONE && negative => {
            inexact(Computed::exact(format::pack(true, 0x3ffe, format::INTEGER)))
        }
        _ if !wide.magnitude().smaller(Wide::ONE) => inexact(Computed::exact(value)),
        _ => round(elementary::exp2_minus_1(wide), control),
    }
}

/// y × log2(x).
fn logarithm(control: u16, y: u128, x: u128) -> Computed {
    let flip = if format::negative(y) { format::SIGN } else { 0 };
    let wide = Wide::from_extended(x);
    let below_one = wide.smaller(Wide::ONE);
    match (format::class(y), format::class(x)) {
        (Class::Zero, Class::Zero | Class::Infinity) => Computed::INVALID,
        (Class::Infinity, Class::Zero) => Computed::exact(format::INFINITY | (flip ^ format::SIGN)),
        (_, Class::Zero) => Computed { value: format::INFINITY | (flip ^ format::SIGN), status: ZE },
        _ if format::negative(x) => Computed::INVALID,
        (_, Class::Infinity) => Computed::exact(format::INFINITY | flip),
        (Class::Infinity, _) if wide == Wide::ONE => Computed::INVALID,
        (Class::Infinity, _) => {
            Computed::exact(format::INFINITY | if below_one { flip ^ format::SIGN } else { flip })
        }
        (Class::Zero, _) if below_one => Computed::exact(y ^ format::SIGN),
        (Class::Zero, _) => Computed::exact(y),
        _ if wide == Wide::ONE => Computed::exact(flip),
        _ => round(elementary::log2(wide).multiply(Wide::from_extended(y)), control),
    }
}

/// y × log2(1 + x). Defined for x from −(1 − √½) to √2 − 1; computed for every x above −1. At and below, finite operands
/// give x back, as Intel processors do.
fn logarithm_plus_1(control: u16, y: u128, x: u128) -> Computed {
    let sign = (y ^ x) & format::SIGN;
    let wide = Wide::from_extended(x);
    match (format::class(y), format::class(x)) {
        (Class::Zero, Class::Infinity) | (Class::Infinity, Class::Zero) => Computed::INVALID,
        (_, Class::Infinity) if format::negative(x) => Computed::INVALID,
        (Class::Infinity, _) | (_, Class::Infinity) => Computed::exact(format::INFINITY | sign),
        (Class::Zero, _) | (_, Class::Zero) => Computed::exact(sign),
        _ if wide.is_negative() && !wide.magnitude().smaller(Wide::ONE) => inexact(Computed::exact(x)),
        _ => round(elementary::log2_1_plus(wide).multiply(Wide::from_extended(y)), control),
    }
}

/// The angle of the point (x, y) (SDM volume 2, FPATAN, table 3-30).
fn arc_tangent(control: u16, y: u128, x: u128) -> Computed {
    let sign = y & format::SIGN;
    // On the axes and at infinity the point may be replaced by a nearer one in the same direction.
    let direction = |value: u128, other: u128| match (format::class(value), format::class(other)) {
        (Class::Infinity, _) => format::ONE | value & format::SIGN,
        (_, Class::Infinity) => value & format::SIGN,
        _ => value,
    };
    let (height, width) = (direction(y, x), direction(x, y));
    match (format::class(height), format::class(width)) {
        (Class::Zero, _) if !format::negative(width) => Computed::exact(sign),
        (Class::Zero, _) => round(Wide::PI.with_sign(sign != 0), control),
        (_, Class::Zero) => round(Wide::PI.shift(-1).with_sign(sign != 0), control),
        _ => round(elementary::angle(Wide::from_extended(height), Wide::from_extended(width)), control),
    }
}

/// Replaces ST(0).
fn run_unary<W: World>(
    cpu: &mut Vcpu,
    op: &Op<W>,
    compute: impl FnOnce(u16, u128) -> Computed,
) -> Result<(), Fault> {
    cpu.check_x87()?;
    let control = cpu.x87.control;
    let computed = cpu.x87.get(0).map_or(Computed::UNDERFLOW, |value| unary(control, value, compute));
    if cpu.finish_x87(op, computed.status, C1) {
        cpu.x87.put(0, computed.value);
    }
    Ok(())
}

fn run_exponential<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    run_unary(cpu, op, exponential)
}

/// Replaces ST(1) by a function of it and ST(0), and pops.
fn run_binary<W: World>(
    cpu: &mut Vcpu,
    op: &Op<W>,
    compute: impl FnOnce(u16, u128, u128) -> Computed,
) -> Result<(), Fault> {
    cpu.check_x87()?;
    let control = cpu.x87.control;
    let computed = match (cpu.x87.get(1), cpu.x87.get(0)) {
        (Some(y), Some(x)) => match examine(control, y, x) {
            Operands::Answer(answer) => answer,
            Operands::Compute { denormal } => {
                let computed = compute(control, y, x);
                // An invalid operation or a division by zero is found first.
                let denormal = if computed.status & (IE | ZE) == 0 { denormal } else { 0 };
                Computed { status: computed.status | denormal, ..computed }
            }
        },
        _ => Computed::UNDERFLOW,
    };
    if cpu.finish_x87(op, computed.status, C1) {
        cpu.x87.put(1, computed.value);
        cpu.x87.pop(1);
    }
    Ok(())
}

fn run_logarithm<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    run_binary(cpu, op, logarithm)
}

fn run_logarithm_plus_1<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    run_binary(cpu, op, logarithm_plus_1)
}

fn run_arc_tangent<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    run_binary(cpu, op, arc_tangent)
}

/// Reports an argument beyond ±2^63 by C2 and leaves it; returns whether it did.
fn refuse_large<W: World>(cpu: &mut Vcpu, op: &Op<W>) -> bool {
    let large = cpu.x87.get(0).is_some_and(|value| format::class(value) == Class::Normal && too_large(value));
    if large {
        cpu.finish_x87(op, C2, C1 | C2);
    }
    large
}

/// FSIN and FCOS.
fn run_trigonometric<W: World>(
    cpu: &mut Vcpu,
    op: &Op<W>,
    compute: impl FnOnce(u16, u128) -> Computed,
) -> Result<(), Fault> {
    cpu.check_x87()?;
    if refuse_large(cpu, op) {
        return Ok(());
    }
    let control = cpu.x87.control;
    let computed = cpu.x87.get(0).map_or(Computed::UNDERFLOW, |value| unary(control, value, compute));
    if cpu.finish_x87(op, computed.status, C1 | C2) {
        cpu.x87.put(0, computed.value);
    }
    Ok(())
}

fn run_sine<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    run_trigonometric(cpu, op, sine)
}

fn run_cosine<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    run_trigonometric(cpu, op, cosine)
}

/// FSINCOS and FPTAN: replaces ST(0) by the first result and pushes the second. An invalid operand gives its answer twice.
fn run_pair<W: World>(
    cpu: &mut Vcpu,
    op: &Op<W>,
    compute: impl FnOnce(u16, u128) -> (Computed, Computed),
) -> Result<(), Fault> {
    cpu.check_x87()?;
    let control = cpu.x87.control;
    let twice = |answer| (answer, answer);
    let (first, second) = match cpu.x87.get(0) {
        None => twice(Computed::UNDERFLOW),
        Some(_) if !cpu.x87.empty(7) => twice(Computed { value: format::INDEFINITE, status: OVERFLOW }),
        Some(_) if refuse_large(cpu, op) => return Ok(()),
        Some(value) => match examine(control, value, value) {
            Operands::Answer(answer) => twice(answer),
            Operands::Compute { denormal } => {
                let (first, second) = compute(control, value);
                (Computed { status: first.status | denormal, ..first }, second)
            }
        },
    };
    let exceptions = first.status | second.status & !C1;
    if cpu.finish_x87(op, exceptions, C1 | C2) {
        cpu.x87.put(0, first.value);
        cpu.x87.push(second.value);
    }
    Ok(())
}

fn run_sine_and_cosine<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    run_pair(cpu, op, |control, value| (sine(control, value), cosine(control, value)))
}

fn run_tangent<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    run_pair(cpu, op, |control, value| {
        let tangent = tangent(control, value);
        let second = if tangent.status & IE == 0 { Computed::exact(format::ONE) } else { tangent };
        (tangent, second)
    })
}
