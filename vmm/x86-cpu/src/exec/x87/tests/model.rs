//! The host's x87 arithmetic against the rules of the SDM (volume 1, 4.9 and 8.5), computed with integers. The interpreter
//! executes it, so that comparing it with the host would not show where processors differ.

use super::super::Computed;
use super::super::exception::{C1, DE, EXCEPTIONS, OE, UE, ZE};
use super::super::format::{self, BIAS, Class, INTEGER, SIGN};
use super::super::host::{Arithmetic, Source, arithmetic, scale};
use super::super::wide::Wide;

fn values() -> Vec<u128> {
    let bias = BIAS as u16;
    let mut list = vec![
        0,
        1,
        3,
        u128::from(INTEGER - 1),
        u128::from(INTEGER >> 5),
        format::pack(false, 1, INTEGER),
        format::pack(false, 1, INTEGER | 1),
        format::pack(false, 2, u64::MAX),
        format::pack(false, 40, INTEGER | 5),
        format::pack(false, bias / 2, u64::MAX),
        format::pack(false, bias - 64, INTEGER),
        format::pack(false, bias - 1, u64::MAX),
        format::pack(false, bias, INTEGER),
        format::pack(false, bias, INTEGER | 1),
        format::pack(false, bias + 1, 0xaaaa_aaaa_aaaa_aaab),
        format::pack(false, bias + 63, INTEGER | 0x801),
        format::pack(false, bias + bias / 2, 0xcccc_cccc_cccc_cccd),
        format::pack(false, 0x7ffe, INTEGER),
        format::pack(false, 0x7ffe, u64::MAX),
    ];
    list.extend(list.clone().into_iter().map(|value| value | SIGN));
    list
}

/// What the manual says of `operation` on numbers, other than 0 by 0.
fn compute(operation: Arithmetic, control: u16, a: u128, b: u128) -> Computed {
    let denormal = |value| if format::class(value) == Class::Denormal { DE } else { 0 };
    let denormals = denormal(a) | denormal(b);
    let (x, y) = (Wide::from_extended(a), Wide::from_extended(b));
    let negative = x.is_negative() != y.is_negative();
    let exact = match operation {
        Arithmetic::Multiply => x.multiply(y).with_sign(negative),
        Arithmetic::Divide if y.is_zero() => {
            // Found before a denormal operand, which then is not reported.
            let sign = if negative { SIGN } else { 0 };
            return Computed { value: format::INFINITY | sign, status: ZE };
        }
        Arithmetic::Divide => x.divide(y).with_sign(negative),
        _ => {
            let y = if operation == Arithmetic::Add { y } else { y.negate() };
            let sum = x.add(y);
            // The sum of opposites is positive but when rounding down.
            let opposite = x.is_negative() != y.is_negative();
            match (sum.is_zero(), opposite) {
                (true, true) => sum.with_sign(control >> 10 & 3 == 1),
                (true, false) => sum.with_sign(x.is_negative()),
                _ => sum,
            }
        }
    };
    let rounded = exact.round(control);
    Computed { value: rounded.value, status: rounded.status | denormals }
}

#[test]
fn host_arithmetic_is_as_the_manual_says() {
    for operation in [Arithmetic::Add, Arithmetic::Subtract, Arithmetic::Multiply, Arithmetic::Divide] {
        for control in (0..4).flat_map(|mode| [0x37f, 0x37f & !(OE | UE)].map(|masks| masks | mode << 10)) {
            for a in values() {
                for b in values() {
                    if operation == Arithmetic::Divide && a & !SIGN == 0 && b & !SIGN == 0 {
                        continue;
                    }
                    let host = arithmetic(operation, control, a, Source::Extended(b));
                    let host = Computed { status: host.status & (EXCEPTIONS | C1), ..host };
                    let want = compute(operation, control, a, b);
                    assert_eq!(
                        host, want,
                        "{operation:?} of {a:#x} and {b:#x} with control word {control:#x}"
                    );
                }
            }
        }
    }
}

/// The integer part of `value`, if its magnitude is below 2^16, else a power of the same sign that leaves every range.
fn integer_part(value: u128) -> i32 {
    let shift = 63 - (i32::from(format::exponent(value)) - BIAS);
    let magnitude = match shift {
        ..48 => 0x1_0000,
        48..64 => (format::significand(value) >> shift) as i32,
        _ => 0,
    };
    if format::negative(value) { -magnitude } else { magnitude }
}

#[test]
fn host_scaling_is_as_the_manual_says() {
    let integers = [2, 64, 16_382, 16_383, 16_445, 16_446, 24_576, 32_767].map(|value| {
        let shift = i32::leading_zeros(value) + 32;
        format::pack(false, (BIAS + 63 - shift as i32) as u16, (value as u64) << shift)
    });
    let powers: Vec<u128> =
        values().into_iter().chain(integers.into_iter().flat_map(|value| [value, value | SIGN])).collect();
    for control in [0x37f, 0x77f, 0xb7f, 0xf7f] {
        for a in values() {
            for b in &powers {
                let host = scale(control, a, *b);
                let denormal = |value| if format::class(value) == Class::Denormal { DE } else { 0 };
                let scaled = Wide::from_extended(a).shift(integer_part(*b)).round(control);
                let want =
                    Computed { value: scaled.value, status: scaled.status | denormal(a) | denormal(*b) };
                let host = Computed { status: host.status & (EXCEPTIONS | C1), ..host };
                assert_eq!(host, want, "FSCALE of {a:#x} by {b:#x} with control word {control:#x}");
            }
        }
    }
}
