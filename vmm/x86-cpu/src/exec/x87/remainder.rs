//! FPREM and FPREM1: exact partial remainders. How far one step reduces a large quotient is left to the implementation
//! (SDM volume 2, FPREM): here always by the same amount, whatever the host.

use super::exception::{C0, C1, C2, C3, CODES, DE, UE};
use super::format::{self, Class};
use super::wide::Wide;
use super::{Computed, host};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

/// Chooses the operation for an instruction of this file.
pub(super) fn select<W: World>(code: Code) -> Option<OpFn<W>> {
    Some(match code {
        Code::Fprem => run::<W, false>,
        Code::Fprem1 => run::<W, true>,
        _ => return None,
    })
}

fn run<W: World, const NEAREST: bool>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let control = cpu.x87.control;
    let (computed, codes) = match (cpu.x87.get(0), cpu.x87.get(1)) {
        (Some(a), Some(b)) => match special(control, a, b) {
            Some(answer) => (answer, C1 | C2),
            None => (remainder::<NEAREST>(control, a, b), CODES),
        },
        _ => (Computed::UNDERFLOW, C1 | C2),
    };
    if cpu.finish_x87(op, computed.status, codes) {
        cpu.x87.put(0, computed.value);
    }
    Ok(())
}

/// The answer to operands that end the operation before it begins; C0 and C3 then keep their values.
fn special(control: u16, a: u128, b: u128) -> Option<Computed> {
    use Class::{Denormal, Infinity, QuietNan, SignallingNan, Unsupported, Zero};
    match (format::class(a), format::class(b)) {
        // An addition answers NaNs and unsupported operands in the same way.
        (QuietNan | SignallingNan | Unsupported, _) | (_, QuietNan | SignallingNan | Unsupported) => {
            Some(host::add(control, a, b))
        }
        (Infinity, _) | (_, Zero) => Some(Computed::INVALID),
        (Denormal, _) | (_, Denormal) if control & DE == 0 => Some(Computed { value: a, status: DE }),
        _ => None,
    }
}

/// The partial remainder of a finite `a` and a `b` that is neither zero nor NaN.
fn remainder<const NEAREST: bool>(control: u16, a: u128, b: u128) -> Computed {
    let denormal = |value| if format::class(value) == Class::Denormal { DE } else { 0 };
    let denormal = denormal(a) | denormal(b);
    if format::class(b) == Class::Infinity {
        // The dividend itself; tiny or not, it raises no underflow.
        let same = Wide::from_extended(a).round(control | UE);
        return Computed { value: same.value, status: denormal };
    }
    if format::class(a) == Class::Zero {
        return Computed { value: a, status: denormal };
    }
    let (result, codes) = partial::<NEAREST>(Wide::from_extended(a), Wide::from_extended(b));
    let rounded = result.round(control);
    Computed { value: rounded.value, status: rounded.status & !C1 | denormal | codes }
}

/// The remainder of numbers with 64-bit mantissas, and the condition codes: C2 if it is partial, else the low bits of the
/// quotient in C1, C3 and C0.
fn partial<const NEAREST: bool>(a: Wide, b: Wide) -> (Wide, u16) {
    let (high_a, high_b) = (a.mantissa() >> 64, b.mantissa() >> 64);
    let distance = a.exponent() - b.exponent();
    if distance < -1 || (distance < 0 && !NEAREST) {
        return (a, 0);
    }
    if distance >= 64 {
        let step = 32 + distance % 32;
        let rest = (high_a << step) % high_b;
        // Bit 63 of the remainder weighs 2^exponent.
        let exponent = b.exponent() + distance - step;
        return (Wide::normalize(a.is_negative(), exponent + 192, 0, rest), C2);
    }
    // In units of half the last place of b.
    let (scaled_a, scaled_b) = (high_a << (distance + 1), high_b << 1);
    let (mut quotient, mut rest) = (scaled_a / scaled_b, scaled_a % scaled_b);
    let mut negative = a.is_negative();
    if NEAREST && (rest > high_b || (rest == high_b && quotient & 1 != 0)) {
        quotient += 1;
        rest = scaled_b - rest;
        negative = !negative;
    }
    let codes = [(1, C1), (2, C3), (4, C0)]
        .into_iter()
        .fold(0, |codes, (bit, code)| if quotient & bit == 0 { codes } else { codes | code });
    if rest == 0 {
        return (Wide::ZERO.with_sign(a.is_negative()), codes);
    }
    (Wide::normalize(negative, b.exponent() + 191, 0, rest), codes)
}
