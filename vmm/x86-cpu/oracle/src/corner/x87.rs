//! x87 arithmetic, comparisons, conversions and stores on special values, in every precision and rounding mode, with
//! exceptions masked, all unmasked, and each one alone unmasked.

use super::{Visitor, forms, instance, plain_state, visit_one};
use crate::state::Width;
use iced_x86::{Code, CpuidFeature, MemorySize, Mnemonic};

const INTEGER: u64 = 1 << 63;
const SIGN: u128 = 1 << 79;
const MASKS: u16 = 0x3f;
const PRECISIONS: [u16; 3] = [0x300, 0x200, 0];

fn extended(exponent: u16, significand: u64) -> u128 {
    u128::from(exponent) << 64 | u128::from(significand)
}

fn values() -> Vec<u128> {
    vec![
        0,
        SIGN,
        extended(0, 1),
        SIGN | extended(0, INTEGER - 1),
        // A pseudo-denormal.
        extended(0, INTEGER | 3),
        extended(1, INTEGER),
        SIGN | extended(1, INTEGER | 1),
        SIGN | extended(0x3fff, INTEGER),
        extended(0x3fff, INTEGER | 1),
        // Ties of the narrower precisions.
        extended(0x3ffe, INTEGER | 0x80_0000_0000 | 0x400),
        extended(0x4000, INTEGER >> 1 | INTEGER),
        SIGN | extended(0x401d, u64::MAX - 1),
        extended(0x403e, INTEGER | 1),
        SIGN | extended(0x403d, u64::MAX),
        // About the limits of single and double.
        extended(0x3fff + 128, u64::MAX),
        SIGN | extended(0x3fff - 1023, INTEGER | 0x7ff),
        extended(0x7ffe, u64::MAX),
        extended(0x7fff, INTEGER),
        SIGN | extended(0x7fff, INTEGER),
        extended(0x7fff, INTEGER | 1 << 62 | 5),
        SIGN | extended(0x7fff, INTEGER | 9),
        // An unnormal.
        extended(0x4000, 1 << 62),
    ]
}

/// What operands in memory may be.
fn operands(size: MemorySize) -> Vec<u128> {
    let narrow = |values: &[u64]| values.iter().map(|value| u128::from(*value)).collect::<Vec<_>>();
    match size {
        MemorySize::Float32 => narrow(&[
            0,
            0x8000_0000,
            1,
            0x807f_ffff,
            0x0080_0000,
            0x3f80_0000,
            0xbf80_0001,
            0x7f7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0005,
            0x7f80_0009,
        ]),
        MemorySize::Float64 => narrow(&[
            0,
            1 << 63,
            1,
            0x800f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x3ff0_0000_0000_0000,
            0xbff0_0000_0000_0001,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0x7ff8_0000_0000_0005,
            0x7ff0_0000_0000_0009,
        ]),
        MemorySize::Float80 => values(),
        MemorySize::Bcd => vec![
            0,
            SIGN,
            0x0099_9999_9999_9999_9999,
            SIGN | 0x0012_3456_7890_1234_5678,
            1,
            // Digits above 9, whose value is not defined, are left out.
        ],
        MemorySize::Int16 | MemorySize::Int32 | MemorySize::Int64 => {
            let bits = size.size() as u32 * 8;
            let top = 1_u64 << (bits - 1);
            narrow(&[0, 1, u64::MAX, top, top - 1, top + 1, 0x55])
        }
        _ => vec![0],
    }
}

fn takes_part(code: Code) -> bool {
    let x87 = code
        .cpuid_features()
        .iter()
        .any(|feature| matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387));
    let arithmetic = matches!(
        code.mnemonic(),
        Mnemonic::Fabs
            | Mnemonic::Fadd
            | Mnemonic::Faddp
            | Mnemonic::Fbld
            | Mnemonic::Fbstp
            | Mnemonic::Fchs
            | Mnemonic::Fcom
            | Mnemonic::Fcomi
            | Mnemonic::Fcomip
            | Mnemonic::Fcomp
            | Mnemonic::Fcompp
            | Mnemonic::Fdiv
            | Mnemonic::Fdivp
            | Mnemonic::Fdivr
            | Mnemonic::Fdivrp
            | Mnemonic::Fiadd
            | Mnemonic::Ficom
            | Mnemonic::Ficomp
            | Mnemonic::Fidiv
            | Mnemonic::Fidivr
            | Mnemonic::Fild
            | Mnemonic::Fimul
            | Mnemonic::Fist
            | Mnemonic::Fistp
            | Mnemonic::Fisttp
            | Mnemonic::Fisub
            | Mnemonic::Fisubr
            | Mnemonic::Fld
            | Mnemonic::Fmul
            | Mnemonic::Fmulp
            | Mnemonic::Fprem
            | Mnemonic::Fprem1
            | Mnemonic::Frndint
            | Mnemonic::Fscale
            | Mnemonic::Fsqrt
            | Mnemonic::Fst
            | Mnemonic::Fstp
            | Mnemonic::Fsub
            | Mnemonic::Fsubp
            | Mnemonic::Fsubr
            | Mnemonic::Fsubrp
            | Mnemonic::Ftst
            | Mnemonic::Fucom
            | Mnemonic::Fucomi
            | Mnemonic::Fucomip
            | Mnemonic::Fucomp
            | Mnemonic::Fucompp
            | Mnemonic::Fxam
            | Mnemonic::Fxtract
    );
    x87 && arithmetic
}

/// Whether only ST(0) is looked at.
fn has_one_operand(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Fabs
            | Mnemonic::Fbstp
            | Mnemonic::Fchs
            | Mnemonic::Fist
            | Mnemonic::Fistp
            | Mnemonic::Fisttp
            | Mnemonic::Frndint
            | Mnemonic::Fsqrt
            | Mnemonic::Fst
            | Mnemonic::Fstp
            | Mnemonic::Ftst
            | Mnemonic::Fxam
            | Mnemonic::Fxtract
    )
}

/// Six control words for the pair `number`; over all pairs every combination of precision and rounding occurs.
fn settings(number: usize) -> [u16; 6] {
    let rounding = |mode: usize| (mode as u16 & 3) << 10;
    let precision = |at: usize| PRECISIONS[at % 3];
    let alone = MASKS & !(1 << (number % 6));
    [
        MASKS | rounding(0) | precision(number),
        MASKS | rounding(1) | precision(number + 1),
        MASKS | rounding(2) | precision(number + 2),
        MASKS | rounding(3) | precision(number),
        rounding(number / 3) | precision(number),
        alone | rounding(number) | precision(number / 2),
    ]
}

/// Only in 64-bit mode: compatibility mode computes no differently.
pub(super) fn visit(width: Width, visitor: &mut Visitor<'_>) {
    if width == Width::Bits32 {
        return;
    }
    let values = values();
    for code in forms(width, takes_part) {
        let Some(built) = instance(width, code, true, 0) else { continue };
        let size = code.op_code().memory_size();
        let in_memory = size != MemorySize::Unknown;
        let others = match (has_one_operand(code.mnemonic()), in_memory) {
            // Often enough for every setting.
            (true, _) => vec![values[7]; 6],
            (false, true) => operands(size),
            (false, false) => values.clone(),
        };
        let mut number = 0;
        for a in &values {
            for b in &others {
                for control in settings(number) {
                    let mut state = plain_state(width);
                    state.fpu.control = 0x40 | control;
                    state.fpu.st[0] = *a;
                    state.fpu.st[1] = *b;
                    if matches!(code.mnemonic(), Mnemonic::Fld | Mnemonic::Fild | Mnemonic::Fbld) {
                        // Room for what is pushed.
                        state.fpu.tags = 0x7f;
                    }
                    visit_one(visitor, width, &built, state, &b.to_le_bytes());
                }
                number += 1;
            }
        }
    }
}
