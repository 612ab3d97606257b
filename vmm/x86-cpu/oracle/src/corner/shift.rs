//! Shifts and rotates by every count that a mask or the operand's width makes special, with and without carry.

use super::{Visitor, forms, has_choice, instance, plain_state, visit_one};
use crate::compare::shifts;
use crate::generate::{RBX, RCX, RDX};
use crate::state::Width;

const COUNTS: [u64; 25] =
    [0, 1, 2, 7, 8, 9, 10, 15, 16, 17, 18, 24, 30, 31, 32, 33, 34, 63, 64, 65, 127, 128, 224, 254, 255];
const VALUES: [u64; 7] = [
    0,
    1,
    0x8080_8080_8080_8080,
    u64::MAX,
    0x5555_5555_5555_5555,
    0x7f7f_7fff_7fff_ff7f,
    0x0123_4567_89ab_cdef,
];
/// None, and CF, OF and AF.
const FLAGS: [u64; 2] = [0, 0x811];

pub(super) fn visit(width: Width, visitor: &mut Visitor<'_>) {
    for code in forms(width, |code| shifts(code.mnemonic())) {
        let by_immediate = code.op_code().op_kinds().contains(&iced_x86::OpCodeOperandKind::imm8);
        for memory in [false, true] {
            if memory && !has_choice(code) {
                continue;
            }
            for count in COUNTS {
                let immediate = if by_immediate { count } else { 1 };
                let Some(built) = instance(width, code, memory, immediate) else { continue };
                for value in VALUES {
                    for flags in FLAGS {
                        let mut state = plain_state(width);
                        state.rflags |= flags;
                        state.gpr[RBX] = value;
                        state.gpr[RDX] = value.rotate_left(23);
                        state.gpr[RCX] = state.gpr[RCX] & !0xff | count;
                        if width == Width::Bits32 {
                            state.gpr.iter_mut().for_each(|value| *value &= 0xffff_ffff);
                        }
                        visit_one(visitor, width, &built, state, &value.to_le_bytes());
                    }
                }
            }
        }
    }
}
