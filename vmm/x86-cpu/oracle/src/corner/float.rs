//! SSE arithmetic, comparisons and conversions on all pairs of special values, in every rounding mode, with and without
//! denormals as zero and flush to zero, with exceptions masked, all unmasked, and each one alone unmasked.

use super::{Visitor, forms, has_choice, instance, plain_state, visit_one};
use crate::generate::RDX;
use crate::state::Width;
use iced_x86::{Code, CpuidFeature, MemorySize, OpCodeOperandKind as Kind};

/// Beginnings of the mnemonics.
const FAMILIES: [&str; 15] = [
    "Add", "Cmp", "Comis", "Cvt", "Div", "Dpp", "Hadd", "Hsub", "Max", "Min", "Mul", "Round", "Sqrt", "Sub",
    "Ucomis",
];
const MASKS: u32 = 0x1f80;
const DAZ: u32 = 1 << 6;
const FTZ: u32 = 1 << 15;
const FLUSHING: [u32; 4] = [0, DAZ, FTZ, DAZ | FTZ];
/// Predicates, rounding modes and lane masks.
const IMMEDIATES: [u64; 20] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0xff, 0xf1, 0x31, 0x72];

/// Values of an IEEE format in which rules change: signed zeros, denormals and the numbers next to them, ones, ties, the
/// largest numbers, infinities, quiet and signalling NaNs with payloads.
fn ieee(exponent_bits: u32, fraction_bits: u32) -> Vec<u64> {
    let sign = 1_u64 << (exponent_bits + fraction_bits);
    let top = (1_u64 << exponent_bits) - 1;
    let bias = top >> 1;
    let fraction = (1_u64 << fraction_bits) - 1;
    let quiet = 1_u64 << (fraction_bits - 1);
    let number = |exponent: u64, fraction: u64| exponent << fraction_bits | fraction;
    vec![
        0,
        sign,
        number(0, 1),
        sign | number(0, fraction),
        number(1, 0),
        number(1, 1),
        number(bias - 1, 0),
        sign | number(bias, 0),
        number(bias, 1),
        number(bias + 1, quiet >> 1),
        sign | number(bias + u64::from(fraction_bits), 1),
        number(bias / 2, fraction),
        number(top - 1, fraction),
        sign | number(top - 1, 0),
        number(top, 0),
        sign | number(top, 0),
        number(top, quiet | 5),
        sign | number(top, quiet),
        number(top, 9),
        sign | number(top, quiet - 1),
    ]
}

/// Values next to the limits of integers, for conversions to them, in doubles or singles.
fn near_integers(double: bool) -> Vec<u64> {
    let limits = [31, 32, 63, 64].map(|power| 2_f64.powi(power));
    let mut values =
        vec![0.5, -0.5, 1.5, 2.5, -2.5, 0.999_999, 2_147_483_647.5, -2_147_483_648.5, -2_147_483_649.0];
    for limit in limits {
        values.extend([
            limit,
            -limit,
            limit * (1.0 - f64::EPSILON),
            -limit * (1.0 + f64::EPSILON),
            limit - 1.0,
        ]);
    }
    let bits = |value: f64| if double { value.to_bits() } else { u64::from((value as f32).to_bits()) };
    values.into_iter().map(bits).collect()
}

/// Integers whose conversion is exact, rounds, or rounds to the next power of two.
const INTEGERS: [u64; 16] = [
    0,
    1,
    u64::MAX,
    0x0100_0001_0100_0001,
    0x0100_0002_0100_0003,
    0x7fff_ffff_7fff_ffff,
    0x8000_0000_8000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0x7fff_ffbf_7fff_ffc0,
    0x8000_0000_0000_0001,
    0x0020_0000_0000_0001,
    0x0020_0000_0000_0003,
    0xffdf_ffff_ffff_ffff,
    0x7fff_ffff_ffff_fdff,
    0x7fff_ffff_ffff_fe00,
];

fn is_arithmetic(code: Code) -> bool {
    let name = format!("{:?}", code.mnemonic());
    let vector = code
        .op_code()
        .op_kinds()
        .iter()
        .any(|kind| matches!(kind, Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::mm_or_mem));
    vector
        && FAMILIES.iter().any(|family| name.starts_with(family))
        && !code.cpuid_features().contains(&CpuidFeature::MMX)
}

/// Width in bits of the elements of `code`'s operands, and whether they are integers.
fn elements(code: Code) -> (u32, bool) {
    match code.op_code().memory_size().element_type() {
        MemorySize::Float32 => (32, false),
        MemorySize::Float64 => (64, false),
        other => (other.size() as u32 * 8, true),
    }
}

/// One value in all lanes of `bits` bits.
fn everywhere(value: u64, bits: u32) -> u128 {
    let value = u128::from(value);
    if bits == 32 {
        (value & 0xffff_ffff) * 0x0000_0001_0000_0001_0000_0001_0000_0001
    } else {
        value << 64 | value
    }
}

/// Six settings of MXCSR for the pair `number`; over all pairs every combination occurs.
fn settings(number: usize) -> [u32; 6] {
    let rounding = |mode: usize| (mode as u32 & 3) << 13;
    let flushing = |at: usize| FLUSHING[at % 4];
    let alone = MASKS & !(0x80 << (number % 6));
    [
        MASKS | rounding(0) | flushing(number),
        MASKS | rounding(1) | flushing(number + 1),
        MASKS | rounding(2) | flushing(number + 2),
        MASKS | rounding(3) | flushing(number + 3),
        rounding(number / 4) | flushing(number),
        alone | rounding(number) | flushing(number / 2),
    ]
}

/// Only in 64-bit mode: compatibility mode computes no differently.
pub(super) fn visit(width: Width, visitor: &mut Visitor<'_>) {
    if width == Width::Bits32 {
        return;
    }
    for code in forms(width, is_arithmetic) {
        let (bits, integers) = elements(code);
        let left = if bits == 32 { ieee(8, 23) } else { ieee(11, 52) };
        let converts = format!("{:?}", code.mnemonic()).starts_with("Cvt");
        let mut right = if integers { INTEGERS.to_vec() } else { left.clone() };
        if converts && !integers {
            right.extend(near_integers(bits == 64));
        }
        let takes_immediate = code.op_code().op_kinds().contains(&Kind::imm8);
        // What is converted alone decides; the other values only stay behind.
        let left = if converts { &left[6..8] } else { &left[..] };
        let mut number = 0;
        for a in left {
            for b in &right {
                for (i, mxcsr) in settings(number).into_iter().enumerate() {
                    let immediate =
                        if takes_immediate { IMMEDIATES[(number * 7 + i) % IMMEDIATES.len()] } else { 0 };
                    let memory = (number + i) % 4 == 0 && has_choice(code);
                    let Some(built) = instance(width, code, memory, immediate) else { continue };
                    let mut state = plain_state(width);
                    state.mxcsr = mxcsr;
                    let operand = everywhere(*b, bits);
                    state.xmm[1] = everywhere(*a, bits);
                    state.xmm[2] = operand;
                    state.gpr[RDX] = *b;
                    state.fpu.st = std::array::from_fn(|_| 0xffff << 64 | u128::from(operand as u64));
                    visit_one(visitor, width, &built, state, &operand.to_le_bytes());
                }
                number += 1;
            }
        }
    }
}
