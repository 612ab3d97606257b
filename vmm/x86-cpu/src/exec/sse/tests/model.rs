//! The host's floating-point instructions against the rules of the SDM (volume 1, 4.8.4 and 11.5), computed with integers.
//! The interpreter executes them, so that comparing it with the host would not show where processors differ.

use super::super::host::*;

const IE: u32 = 1;
const DE: u32 = 2;
const ZE: u32 = 4;
const OE: u32 = 8;
const UE: u32 = 16;
const PE: u32 = 32;
const DAZ: u32 = 1 << 6;
const MASKS: u32 = 0x1f80;
const FTZ: u32 = 1 << 15;

/// An IEEE format: bits of the exponent, and of the fraction.
#[derive(Debug, Clone, Copy)]
struct Format {
    exponent: u32,
    fraction: u32,
}

const SINGLE: Format = Format { exponent: 8, fraction: 23 };
const DOUBLE: Format = Format { exponent: 11, fraction: 52 };

/// What an operand is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    /// `significand` × 2^`exponent`.
    Finite {
        negative: bool,
        significand: u128,
        exponent: i32,
        denormal: bool,
    },
    Infinity {
        negative: bool,
    },
    Quiet,
    Signalling,
}

impl Format {
    fn top(self) -> u64 {
        (1 << self.exponent) - 1
    }
    fn bias(self) -> i32 {
        (self.top() >> 1) as i32
    }
    fn sign(self) -> u64 {
        1 << (self.exponent + self.fraction)
    }
    fn quiet_bit(self) -> u64 {
        1 << (self.fraction - 1)
    }
    fn infinity(self) -> u64 {
        self.top() << self.fraction
    }
    fn default_nan(self) -> u64 {
        self.sign() | self.infinity() | self.quiet_bit()
    }
    fn signed(self, negative: bool, magnitude: u64) -> u64 {
        magnitude | if negative { self.sign() } else { 0 }
    }
    fn decode(self, bits: u64, mxcsr: u32) -> Value {
        let negative = bits & self.sign() != 0;
        let fraction = bits & ((1 << self.fraction) - 1);
        let field = bits >> self.fraction & self.top();
        let scale = 1 - self.bias() - self.fraction as i32;
        match field {
            0 if mxcsr & DAZ != 0 => {
                Value::Finite { negative, significand: 0, exponent: scale, denormal: false }
            }
            0 => Value::Finite {
                negative,
                significand: fraction.into(),
                exponent: scale,
                denormal: fraction != 0,
            },
            field if field == self.top() => match fraction {
                0 => Value::Infinity { negative },
                fraction if fraction & self.quiet_bit() == 0 => Value::Signalling,
                _ => Value::Quiet,
            },
            field => Value::Finite {
                negative,
                significand: (fraction | 1 << self.fraction).into(),
                exponent: scale + field as i32 - 1,
                denormal: false,
            },
        }
    }
    /// Rounds `significand` × 2^`exponent`, of which the lowest bit may stand for all that was lost.
    fn round(self, negative: bool, significand: u128, exponent: i32, mxcsr: u32) -> (u64, u32) {
        if significand == 0 {
            return (self.signed(negative, 0), 0);
        }
        let digits = self.fraction + 1;
        let length = 128 - significand.leading_zeros();
        let least = 1 - self.bias() - self.fraction as i32;
        let up = |rest: u128, half: u128, odd: bool| match mxcsr >> 13 & 3 {
            0 => rest > half || rest == half && odd,
            1 => negative,
            2 => !negative,
            _ => false,
        };
        // Rounds to multiples of 2^unit.
        let round_to = |unit: i32| -> (u128, bool) {
            let drop = unit - exponent;
            if drop <= 0 {
                return (significand << -drop, false);
            }
            let (kept, rest, half) = match drop as u32 {
                drop @ 0..=127 => {
                    (significand >> drop, significand & ((1 << drop) - 1), 1_u128 << (drop - 1))
                }
                128 => (0, significand, 1 << 127),
                _ => (0, 1, 2),
            };
            (kept + u128::from(rest != 0 && up(rest, half, kept & 1 != 0)), rest != 0)
        };
        let natural = exponent + length as i32 - digits as i32;
        // Tininess is judged after rounding, as if the exponent had no bounds.
        let (unbounded, inexact_unbounded) = round_to(natural);
        let carried = unbounded >> digits != 0;
        let tiny = natural + i32::from(carried) < least;
        if tiny {
            let (kept, inexact) = round_to(least);
            let flushed = mxcsr & FTZ != 0 && (inexact || inexact_unbounded || kept >> (digits - 1) == 0);
            if flushed {
                return (self.signed(negative, 0), UE | PE);
            }
            // Masked, underflow is signalled only for a result that is inexact as well.
            return (self.signed(negative, kept as u64), if inexact { UE | PE } else { 0 });
        }
        let field = natural + i32::from(carried) - least + 1;
        let kept = if carried { unbounded >> 1 } else { unbounded };
        if field >= self.top() as i32 {
            let to_infinity = match mxcsr >> 13 & 3 {
                0 => true,
                1 => negative,
                2 => !negative,
                _ => false,
            };
            let magnitude = if to_infinity { self.infinity() } else { self.infinity() - 1 };
            return (self.signed(negative, magnitude), OE | PE);
        }
        let magnitude = (field as u64) << self.fraction | kept as u64 & ((1 << self.fraction) - 1);
        (self.signed(negative, magnitude), if inexact_unbounded { PE } else { 0 })
    }
}

fn is_nan(value: Value) -> bool {
    matches!(value, Value::Quiet | Value::Signalling)
}

fn denormal(value: Value) -> u32 {
    if matches!(value, Value::Finite { denormal: true, .. }) { DE } else { 0 }
}

/// The result of an operation with a NaN: the first operand that is one, made quiet (SDM volume 1, table 4-7).
fn propagate(format: Format, a: u64, b: u64, mxcsr: u32) -> (u64, u32) {
    let (x, y) = (format.decode(a, mxcsr), format.decode(b, mxcsr));
    let flags = if x == Value::Signalling || y == Value::Signalling { IE } else { 0 };
    let chosen = if is_nan(x) { a } else { b };
    (chosen | format.quiet_bit(), flags)
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    SquareRoot,
    Minimum,
    Maximum,
}

/// Result and flags of `operation` on `a` and `b`; of a square root, of `b`.
fn compute(operation: Operation, format: Format, a: u64, b: u64, mxcsr: u32) -> (u64, u32) {
    let (x, y) = (format.decode(a, mxcsr), format.decode(b, mxcsr));
    let invalid = (format.default_nan(), IE);
    let zero = |value: Value| matches!(value, Value::Finite { significand: 0, .. });
    let infinite = |value: Value| matches!(value, Value::Infinity { .. });
    let negative = |value: Value| match value {
        Value::Finite { negative, .. } | Value::Infinity { negative } => negative,
        _ => false,
    };
    let denormals = denormal(x) | denormal(y);
    match operation {
        Operation::SquareRoot => match y {
            Value::Quiet | Value::Signalling => propagate(format, b, b, mxcsr),
            Value::Infinity { negative: false } => (b, 0),
            Value::Infinity { .. } => invalid,
            Value::Finite { significand: 0, negative, .. } => (format.signed(negative, 0), 0),
            Value::Finite { negative: true, .. } => invalid,
            Value::Finite { significand, exponent, .. } => {
                // An even exponent, and enough digits for the root to have more than the format.
                let shift = (significand.leading_zeros() & !1) as i32 - 2;
                let shift = if (exponent - shift) % 2 == 0 { shift } else { shift + 1 };
                let wide = significand << shift;
                let root = wide.isqrt();
                let lost = root * root != wide;
                let (bits, flags) =
                    format.round(false, root << 1 | u128::from(lost), (exponent - shift) / 2 - 1, mxcsr);
                (bits, flags | denormal(y))
            }
        },
        Operation::Minimum | Operation::Maximum => {
            if is_nan(x) || is_nan(y) {
                return (flush(format, b, mxcsr), IE);
            }
            let (x, y) = (real(x), real(y));
            let first = if matches!(operation, Operation::Minimum) { x < y } else { x > y };
            (flush(format, if first { a } else { b }, mxcsr), denormals)
        }
        _ if is_nan(x) || is_nan(y) => propagate(format, a, b, mxcsr),
        Operation::Add | Operation::Subtract => {
            let flip = matches!(operation, Operation::Subtract);
            let (sign_x, sign_y) = (negative(x), negative(y) != flip);
            match (x, y) {
                (Value::Infinity { .. }, Value::Infinity { .. }) if sign_x != sign_y => invalid,
                (Value::Infinity { .. }, _) => (format.signed(sign_x, format.infinity()), denormals),
                (_, Value::Infinity { .. }) => (format.signed(sign_y, format.infinity()), denormals),
                (
                    Value::Finite { significand: a, exponent: ea, .. },
                    Value::Finite { significand: b, exponent: eb, .. },
                ) => {
                    let (bits, flags) = sum(format, (sign_x, a, ea), (sign_y, b, eb), mxcsr);
                    (bits, flags | denormals)
                }
                _ => unreachable!("NaNs are dealt with"),
            }
        }
        Operation::Multiply | Operation::Divide => {
            let sign = negative(x) != negative(y);
            let divide = matches!(operation, Operation::Divide);
            if divide && (zero(x) && zero(y) || infinite(x) && infinite(y))
                || !divide && (zero(x) && infinite(y) || infinite(x) && zero(y))
            {
                return invalid;
            }
            if divide && infinite(y) {
                return (format.signed(sign, 0), denormals);
            }
            if infinite(x) || infinite(y) {
                return (format.signed(sign, format.infinity()), denormals);
            }
            if divide && zero(y) {
                // A division by zero is found before a denormal operand, which then is not reported.
                return (format.signed(sign, format.infinity()), ZE);
            }
            let (
                Value::Finite { significand: a, exponent: ea, .. },
                Value::Finite { significand: b, exponent: eb, .. },
            ) = (x, y)
            else {
                unreachable!("only numbers are left");
            };
            let (bits, flags) = if divide {
                let shift = a.leading_zeros().min(127) as i32 - 1;
                let (quotient, rest) = if a == 0 { (0, 0) } else { ((a << shift) / b, (a << shift) % b) };
                format.round(sign, quotient << 1 | u128::from(rest != 0), ea - eb - shift - 1, mxcsr)
            } else {
                format.round(sign, a * b, ea + eb, mxcsr)
            };
            (bits, flags | denormals)
        }
    }
}

/// A denormal that counts as zero is returned as one.
fn flush(format: Format, bits: u64, mxcsr: u32) -> u64 {
    let is_denormal = bits >> format.fraction & format.top() == 0;
    if mxcsr & DAZ != 0 && is_denormal { bits & format.sign() } else { bits }
}

type Term = (bool, u128, i32);

fn sum(format: Format, x: Term, y: Term, mxcsr: u32) -> (u64, u32) {
    let ((sign_a, a, ea), (sign_b, b, eb)) =
        if x.1 != 0 && (y.1 == 0 || x.2 >= y.2) { (x, y) } else { (y, x) };
    // The term with the larger exponent gets 64 more digits; what of the other lies below them counts as one bit.
    let (a, unit) = (a << 64, ea - 64);
    let drop = unit - eb;
    let b = match drop {
        _ if b == 0 => 0,
        ..=0 => b << -drop,
        1..=127 => b >> drop | u128::from(b & ((1 << drop) - 1) != 0),
        _ => 1,
    };
    let (negative, total) = if sign_a == sign_b {
        (sign_a, a + b)
    } else if a >= b {
        (sign_a, a - b)
    } else {
        (sign_b, b - a)
    };
    if total == 0 {
        // The sum of opposites is positive but when rounding down.
        let negative = if sign_a == sign_b { sign_a } else { mxcsr >> 13 & 3 == 1 };
        return (format.signed(negative, 0), 0);
    }
    format.round(negative, total, unit, mxcsr)
}

/// The value of what is not a NaN.
fn real(value: Value) -> f64 {
    match value {
        Value::Finite { negative, significand, exponent, .. } => {
            // Exact: at most 53 digits; the scale in two steps, as a denormal's is beyond one.
            let half = exponent / 2;
            let magnitude = significand as f64 * 2_f64.powi(half) * 2_f64.powi(exponent - half);
            if negative { -magnitude } else { magnitude }
        }
        Value::Infinity { negative: true } => f64::NEG_INFINITY,
        _ => f64::INFINITY,
    }
}

/// Conversion from one format to the other.
fn convert(from: Format, to: Format, a: u64, mxcsr: u32) -> (u64, u32) {
    let value = from.decode(a, mxcsr);
    match value {
        Value::Quiet | Value::Signalling => {
            let payload =
                u128::from(a & ((1 << from.fraction) - 1)) << 64 >> from.fraction << to.fraction >> 64;
            let magnitude = to.infinity() | to.quiet_bit() | payload as u64;
            (to.signed(a & from.sign() != 0, magnitude), if value == Value::Signalling { IE } else { 0 })
        }
        Value::Infinity { negative } => (to.signed(negative, to.infinity()), 0),
        Value::Finite { negative, significand, exponent, .. } => {
            let (bits, flags) = to.round(negative, significand, exponent, mxcsr);
            (bits, flags | denormal(value))
        }
    }
}

/// Conversion to an integer of `bits` bits: rounded as MXCSR says, or truncated. Denormals are no exception.
fn to_integer(from: Format, a: u64, bits: u32, truncate: bool, mxcsr: u32) -> (u64, u32) {
    let indefinite = (1 << (bits - 1), IE);
    let mode = if truncate { 3 } else { mxcsr >> 13 & 3 };
    let Value::Finite { negative, significand, exponent, .. } = from.decode(a, mxcsr) else {
        return indefinite;
    };
    if significand != 0 && exponent > 64 {
        return indefinite;
    }
    let (kept, rest, half) = match exponent {
        0.. => (significand << exponent, 0, 1),
        -127..0 => {
            let drop = -exponent as u32;
            (significand >> drop, significand & ((1 << drop) - 1), 1_u128 << (drop - 1))
        }
        _ => (0, u128::from(significand != 0), 2),
    };
    let up = match mode {
        0 => rest > half || rest == half && kept & 1 != 0,
        1 => negative && rest != 0,
        2 => !negative && rest != 0,
        _ => false,
    };
    let magnitude = kept + u128::from(up);
    let limit = (1_u128 << (bits - 1)) - u128::from(!negative);
    if magnitude > limit {
        return indefinite;
    }
    let value = if negative { (magnitude as u64).wrapping_neg() } else { magnitude as u64 };
    (value & u64::MAX >> (64 - bits), if rest != 0 { PE } else { 0 })
}

/// ZF, PF and CF of a comparison of which a quiet NaN is invalid if `signals`, and its flags.
fn order(format: Format, a: u64, b: u64, signals: bool, mxcsr: u32) -> (Order, u32) {
    let (x, y) = (format.decode(a, mxcsr), format.decode(b, mxcsr));
    if is_nan(x) || is_nan(y) {
        let invalid = signals || x == Value::Signalling || y == Value::Signalling;
        return (Order { zf: true, pf: true, cf: true }, if invalid { IE } else { 0 });
    }
    let flags = denormal(x) | denormal(y);
    let (x, y) = (real(x), real(y));
    (Order { zf: x == y, pf: false, cf: x < y }, flags)
}

fn values(format: Format) -> Vec<u64> {
    let Format { fraction, .. } = format;
    let number = |exponent: u64, low: u64| exponent << fraction | low;
    let (top, bias) = (format.top(), format.bias() as u64);
    let all = (1_u64 << fraction) - 1;
    let mut list = vec![
        0,
        number(0, 1),
        number(0, 3),
        number(0, all),
        number(0, all >> 1),
        number(1, 0),
        number(1, 1),
        number(2, all),
        number(u64::from(fraction), 5),
        number(bias / 2, all),
        number(bias - u64::from(fraction) - 1, 0),
        number(bias - 1, 0),
        number(bias - 1, all),
        number(bias, 0),
        number(bias, 1),
        number(bias, all),
        number(bias + 1, all / 3),
        number(bias + u64::from(fraction), 1),
        number(bias + bias / 2, all / 5),
        number(top - 1, 0),
        number(top - 1, all),
        number(top, 0),
        number(top, format.quiet_bit() | 3),
        number(top, 7),
    ];
    list.extend(list.clone().into_iter().map(|value| value | format.sign()));
    list
}

fn settings() -> impl Iterator<Item = u32> {
    (0..16)
        .map(|i| MASKS | (i & 3) << 13 | if i & 4 != 0 { DAZ } else { 0 } | if i & 8 != 0 { FTZ } else { 0 })
}

/// Compares what the host answers with the model on all pairs of values in all settings.
fn check<T: PartialEq + std::fmt::Debug>(
    name: &str,
    format: Format,
    host: impl Fn(u64, u64, &mut u32) -> T,
    model: impl Fn(u64, u64, u32) -> (T, u32),
) {
    for mxcsr in settings() {
        for a in values(format) {
            for b in values(format) {
                let mut after = mxcsr;
                let out = host(a, b, &mut after);
                let want = model(a, b, mxcsr);
                assert_eq!((out, after & 0x3f), want, "{name} of {a:#x} and {b:#x} with MXCSR {mxcsr:#x}");
            }
        }
    }
}

fn lanes(value: u64) -> Lanes {
    pack(value.into())
}

/// The lowest lane of `F`'s result.
fn lowest<F: Float<Left = Lanes, Right = Lanes, Out = Lanes>>(
    format: Format,
) -> impl Fn(u64, u64, &mut u32) -> u64 {
    let mask = u64::MAX >> (63 - format.exponent - format.fraction);
    move |a, b, mxcsr| unpack(F::run(lanes(a), lanes(b), mxcsr)) as u64 & mask
}

#[test]
fn host_arithmetic_is_as_the_manual_says() {
    use Operation::{Add, Divide, Maximum, Minimum, Multiply, SquareRoot, Subtract};
    macro_rules! check_all {
        ($($operation:ident: $single:ident $double:ident;)*) => {$(
            check(stringify!($single), SINGLE, lowest::<$single>(SINGLE), |a, b, mxcsr| {
                compute($operation, SINGLE, a, b, mxcsr)
            });
            check(stringify!($double), DOUBLE, lowest::<$double>(DOUBLE), |a, b, mxcsr| {
                compute($operation, DOUBLE, a, b, mxcsr)
            });
        )*};
    }
    check_all! {
        Add: Addss Addsd;
        Subtract: Subss Subsd;
        Multiply: Mulss Mulsd;
        Divide: Divss Divsd;
        SquareRoot: Sqrtss Sqrtsd;
        Minimum: Minss Minsd;
        Maximum: Maxss Maxsd;
    }
}

#[test]
fn host_conversions_are_as_the_manual_says() {
    check(
        "Cvtss2sd",
        SINGLE,
        |_, b, mxcsr| unpack(Cvtss2sd::run(lanes(0), lanes(b), mxcsr)) as u64,
        |_, b, mxcsr| convert(SINGLE, DOUBLE, b, mxcsr),
    );
    check("Cvtsd2ss", DOUBLE, lowest::<Cvtsd2ss>(SINGLE), |_, b, mxcsr| convert(DOUBLE, SINGLE, b, mxcsr));
    macro_rules! to_integers {
        ($($name:ident $format:ident $bits:literal $truncate:literal;)*) => {$(
            check(stringify!($name), $format, |_, b, mxcsr| $name::run((), lanes(b), mxcsr), |_, b, mxcsr| {
                to_integer($format, b, $bits, $truncate, mxcsr)
            });
        )*};
    }
    to_integers! {
        Cvtss2si32 SINGLE 32 false; Cvtss2si64 SINGLE 64 false;
        Cvtsd2si32 DOUBLE 32 false; Cvtsd2si64 DOUBLE 64 false;
        Cvttss2si32 SINGLE 32 true; Cvttss2si64 SINGLE 64 true;
        Cvttsd2si32 DOUBLE 32 true; Cvttsd2si64 DOUBLE 64 true;
    }
    for mxcsr in settings() {
        for value in [0, 1, -1, i64::MAX, i64::MIN, (1 << 53) + 1, -(1 << 53) - 3, 0x7fff_ffbf_ffff_ffff] {
            for (format, bits) in [(SINGLE, 32), (SINGLE, 64), (DOUBLE, 64)] {
                let mut after = mxcsr;
                let source = if bits == 32 { i64::from(value as i32) } else { value };
                let out = match (format.fraction, bits) {
                    (23, 32) => Cvtsi2ss32::run(lanes(0), source as u64, &mut after),
                    (23, _) => Cvtsi2ss64::run(lanes(0), source as u64, &mut after),
                    _ => Cvtsi2sd64::run(lanes(0), source as u64, &mut after),
                };
                let want = format.round(source < 0, source.unsigned_abs().into(), 0, mxcsr);
                assert_eq!((unpack(out) as u64, after & 0x3f), want, "{value:#x} with MXCSR {mxcsr:#x}");
            }
        }
    }
}

#[test]
fn host_comparisons_are_as_the_manual_says() {
    macro_rules! orders {
        ($($name:ident $format:ident $signals:literal;)*) => {$(
            check(stringify!($name), $format, |a, b, mxcsr| $name::run(lanes(a), lanes(b), mxcsr), |a, b, mxcsr| {
                order($format, a, b, $signals, mxcsr)
            });
        )*};
    }
    orders! { Comiss SINGLE true; Comisd DOUBLE true; Ucomiss SINGLE false; Ucomisd DOUBLE false; }
    // Equal, less and unordered; the other predicates are their complements and unions (SDM volume 2, CMPPD).
    macro_rules! predicates {
        ($($name:ident $format:ident $predicate:literal $signals:literal $holds:expr;)*) => {$(
            check(stringify!($name), $format, lowest::<$name<$predicate>>($format), |a, b, mxcsr| {
                let (order, flags) = order($format, a, b, $signals, mxcsr);
                let holds: fn(Order) -> bool = $holds;
                (if holds(order) { u64::MAX >> (63 - $format.exponent - $format.fraction) } else { 0 }, flags)
            });
        )*};
    }
    predicates! {
        Cmpss SINGLE 0 false |o| o.zf && !o.pf; Cmpsd DOUBLE 0 false |o| o.zf && !o.pf;
        Cmpss SINGLE 1 true |o| o.cf && !o.pf; Cmpsd DOUBLE 1 true |o| o.cf && !o.pf;
        Cmpss SINGLE 3 false |o| o.pf; Cmpsd DOUBLE 3 false |o| o.pf;
    }
}
