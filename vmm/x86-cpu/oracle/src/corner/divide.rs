//! Quotients just within and just beyond their limits, remainders next to the divisor, and divisors of 0.

use super::{Visitor, forms, has_choice, instance, plain_state, visit_one};
use crate::generate::{RAX, RBX, RDX};
use crate::state::Width;
use iced_x86::{Code, Mnemonic};

/// Bits of the divisor.
fn divisor_bits(code: Code) -> Option<u32> {
    Some(match code {
        Code::Div_rm8 | Code::Idiv_rm8 => 8,
        Code::Div_rm16 | Code::Idiv_rm16 => 16,
        Code::Div_rm32 | Code::Idiv_rm32 => 32,
        Code::Div_rm64 | Code::Idiv_rm64 => 64,
        _ => return None,
    })
}

/// Dividends, of twice `bits`, whose quotient by `divisor` lies at a limit or next to it.
fn unsigned_dividends(bits: u32, divisor: u128) -> Vec<u128> {
    let limit = 1_u128 << bits;
    let mut dividends = vec![0, 1, limit - 1, u128::MAX >> (128 - 2 * bits)];
    for quotient in [0, 1, limit / 2, limit - 1, limit] {
        let product = quotient.wrapping_mul(divisor);
        for rest in [0, 1, divisor.wrapping_sub(1)] {
            dividends.push(product.wrapping_add(rest));
        }
        dividends.push(product.wrapping_sub(1));
    }
    dividends
}

fn signed_dividends(bits: u32, divisor: i128) -> Vec<u128> {
    let half = 1_i128 << (bits - 1);
    let mut dividends = vec![0, 1, -1, half, -half, i128::MIN >> (128 - 2 * bits)];
    for quotient in [0, 1, -1, half - 1, half, -half, -half - 1] {
        let product = quotient.wrapping_mul(divisor);
        let rest = divisor.wrapping_abs().wrapping_sub(1);
        for rest in [0, 1, -1, rest, -rest] {
            dividends.push(product.wrapping_add(rest));
        }
    }
    dividends.into_iter().map(|dividend| dividend as u128).collect()
}

pub(super) fn visit(width: Width, visitor: &mut Visitor<'_>) {
    for code in forms(width, |code| divisor_bits(code).is_some()) {
        let Some(bits) = divisor_bits(code) else { continue };
        let mask = u128::MAX >> (128 - bits);
        let half = 1_u128 << (bits - 1);
        let divisors = [0, 1, 2, 3, 7, 10, half - 1, half, half + 1, mask - 2, mask - 1, mask];
        for (memory, divisor) in [false, true].into_iter().flat_map(|memory| divisors.map(|d| (memory, d))) {
            if memory && !has_choice(code) {
                continue;
            }
            let Some(built) = instance(width, code, memory, 0) else { continue };
            let dividends = if code.mnemonic() == Mnemonic::Idiv {
                signed_dividends(bits, (divisor << (128 - bits)) as i128 >> (128 - bits))
            } else {
                unsigned_dividends(bits, divisor)
            };
            for dividend in dividends {
                let mut state = plain_state(width);
                state.gpr[RBX] = divisor as u64;
                if bits == 8 {
                    state.gpr[RAX] = state.gpr[RAX] & !0xffff | dividend as u64 & 0xffff;
                } else {
                    let keep = !(mask as u64);
                    state.gpr[RAX] = state.gpr[RAX] & keep | dividend as u64 & mask as u64;
                    state.gpr[RDX] = state.gpr[RDX] & keep | (dividend >> bits) as u64 & mask as u64;
                }
                visit_one(visitor, width, &built, state, &(divisor as u64).to_le_bytes());
            }
        }
    }
}
