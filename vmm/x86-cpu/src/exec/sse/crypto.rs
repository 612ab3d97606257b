//! AES-NI, PCLMULQDQ and the SHA extensions (SDM volume 2). The AES rounds are those of the `aes` crate, which uses the
//! host's own instructions where it has them; the rest is plain Rust.

use super::moves::{pick, plain};
use super::operand::{M128, Source, Xmm};
use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;
use aes::Block;
use aes::hazmat;
use iced_x86::Code;

/// Applies a transformation of the AES state.
fn transform(value: u128, function: impl FnOnce(&mut Block)) -> u128 {
    let mut block = Block::from(value.to_le_bytes());
    function(&mut block);
    u128::from_le_bytes(block.into())
}

/// A round: ShiftRows, SubBytes, MixColumns, and the key added.
fn round(state: u128, key: u128) -> u128 {
    transform(state, |block| hazmat::cipher_round(block, &Block::from(key.to_le_bytes())))
}

/// A round of the equivalent inverse cipher.
fn inverse_round(state: u128, key: u128) -> u128 {
    transform(state, |block| hazmat::equiv_inv_cipher_round(block, &Block::from(key.to_le_bytes())))
}

fn mix_columns(state: u128) -> u128 {
    transform(state, hazmat::mix_columns)
}

fn inverse_mix_columns(state: u128) -> u128 {
    transform(state, hazmat::inv_mix_columns)
}

/// ShiftRows and SubBytes alone.
fn last_round(state: u128, key: u128) -> u128 {
    inverse_mix_columns(round(state, 0)) ^ key
}

/// Lane `index` of 32 bits.
fn lane(value: u128, index: u32) -> u32 {
    (value >> (index * 32)) as u32
}

/// Four lanes, from the lowest.
fn lanes(lanes: [u32; 4]) -> u128 {
    lanes.iter().rev().fold(0, |value, lane| value << 32 | u128::from(*lane))
}

/// The S-box on each byte of a word: with all columns alike, ShiftRows changes nothing.
fn substitute(word: u32) -> u32 {
    last_round(lanes([word; 4]), 0) as u32
}

fn key_assist(source: u128, constant: u8) -> u128 {
    let [low, high] = [lane(source, 1), lane(source, 3)].map(substitute);
    let rotated = |word: u32| word.rotate_right(8) ^ u32::from(constant);
    lanes([low, rotated(low), high, rotated(high)])
}

/// Product of polynomials over GF(2).
fn carryless_product(a: u64, mut b: u64) -> u128 {
    let mut product = 0;
    while b != 0 {
        product ^= u128::from(a) << b.trailing_zeros();
        b &= b - 1;
    }
    product
}

/// The quadword of `value` that bit `bit` of the immediate chooses.
fn half(value: u128, imm: u8, bit: u32) -> u64 {
    if imm >> bit & 1 == 0 { value as u64 } else { (value >> 64) as u64 }
}

fn choose(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ !x & z
}

fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ x & z ^ y & z
}

fn sha1_rounds(state: u128, words: u128, imm: u8) -> u128 {
    let (function, constant): (fn(u32, u32, u32) -> u32, u32) = match imm & 3 {
        0 => (choose, 0x5a82_7999),
        1 => (|x, y, z| x ^ y ^ z, 0x6ed9_eba1),
        2 => (majority, 0x8f1b_bcdc),
        _ => (|x, y, z| x ^ y ^ z, 0xca62_c1d6),
    };
    let [mut d, mut c, mut b, mut a] = [0, 1, 2, 3].map(|index| lane(state, index));
    // The first word has E added already.
    let mut e = 0_u32;
    for index in [3, 2, 1, 0] {
        let sum = function(b, c, d)
            .wrapping_add(a.rotate_left(5))
            .wrapping_add(lane(words, index))
            .wrapping_add(e)
            .wrapping_add(constant);
        (a, b, c, d, e) = (sum, a, b.rotate_left(30), c, d);
    }
    lanes([d, c, b, a])
}

fn sha1_next(state: u128, words: u128) -> u128 {
    let e = lane(words, 3).wrapping_add(lane(state, 3).rotate_left(30));
    lanes([lane(words, 0), lane(words, 1), lane(words, 2), e])
}

fn sha1_message2(d: u128, s: u128) -> u128 {
    let w16 = (lane(d, 3) ^ lane(s, 2)).rotate_left(1);
    let w17 = (lane(d, 2) ^ lane(s, 1)).rotate_left(1);
    let w18 = (lane(d, 1) ^ lane(s, 0)).rotate_left(1);
    let w19 = (lane(d, 0) ^ w16).rotate_left(1);
    lanes([w19, w18, w17, w16])
}

fn small_sigma0(x: u32) -> u32 {
    x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3
}

fn small_sigma1(x: u32) -> u32 {
    x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10
}

fn sha256_message1(d: u128, s: u128) -> u128 {
    let next = [lane(d, 1), lane(d, 2), lane(d, 3), lane(s, 0)];
    lanes(std::array::from_fn(|i| lane(d, i as u32).wrapping_add(small_sigma0(next[i]))))
}

fn sha256_message2(d: u128, s: u128) -> u128 {
    let w16 = lane(d, 0).wrapping_add(small_sigma1(lane(s, 2)));
    let w17 = lane(d, 1).wrapping_add(small_sigma1(lane(s, 3)));
    let w18 = lane(d, 2).wrapping_add(small_sigma1(w16));
    let w19 = lane(d, 3).wrapping_add(small_sigma1(w17));
    lanes([w16, w17, w18, w19])
}

/// Two rounds on C, D, G, H in `cdgh` and A, B, E, F in `abef`.
fn sha256_rounds(cdgh: u128, abef: u128, words: u128) -> u128 {
    let [mut f, mut e, mut b, mut a] = [0, 1, 2, 3].map(|index| lane(abef, index));
    let [mut h, mut g, mut d, mut c] = [0, 1, 2, 3].map(|index| lane(cdgh, index));
    for index in [0, 1] {
        let sigma1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let sigma0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let first = choose(e, f, g).wrapping_add(sigma1).wrapping_add(lane(words, index)).wrapping_add(h);
        let second = majority(a, b, c).wrapping_add(sigma0);
        (h, g, f, e) = (g, f, e, d.wrapping_add(first));
        (d, c, b, a) = (c, b, a, first.wrapping_add(second));
    }
    lanes([f, e, b, a])
}

plain! {
    Aesenc |d, s, _| round(d, s);
    Aesenclast |d, s, _| last_round(d, s);
    Aesdec |d, s, _| inverse_round(d, s);
    Aesdeclast |d, s, _| mix_columns(inverse_round(d, 0)) ^ s;
    Aesimc |_, s, _| inverse_mix_columns(s);
    Aeskeygenassist |_, s, i| key_assist(s, i);
    Pclmulqdq |d, s, i| carryless_product(half(d, i, 0), half(s, i, 4));
    Sha1rnds4 |d, s, i| sha1_rounds(d, s, i);
    Sha1nexte |d, s, _| sha1_next(d, s);
    Sha1msg1 |d, s, _| d ^ (d << 64 | s >> 64);
    Sha1msg2 |d, s, _| sha1_message2(d, s);
    Sha256msg1 |d, s, _| sha256_message1(d, s);
    Sha256msg2 |d, s, _| sha256_message2(d, s);
}

/// SHA256RNDS2, with the words in XMM0.
fn sha256rnds2<W: World, S: Source>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let src = S::get(cpu, world, op)?;
    let words = cpu.xmm[0];
    let dst = &mut cpu.xmm[usize::from(op.dst & 15)];
    *dst = sha256_rounds(*dst, src, words);
    Ok(())
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Aesenc_xmm_xmmm128 => pick::<W, Aesenc, M128>(memory),
        Code::Aesenclast_xmm_xmmm128 => pick::<W, Aesenclast, M128>(memory),
        Code::Aesdec_xmm_xmmm128 => pick::<W, Aesdec, M128>(memory),
        Code::Aesdeclast_xmm_xmmm128 => pick::<W, Aesdeclast, M128>(memory),
        Code::Aesimc_xmm_xmmm128 => pick::<W, Aesimc, M128>(memory),
        Code::Aeskeygenassist_xmm_xmmm128_imm8 => pick::<W, Aeskeygenassist, M128>(memory),
        Code::Pclmulqdq_xmm_xmmm128_imm8 => pick::<W, Pclmulqdq, M128>(memory),
        Code::Sha1rnds4_xmm_xmmm128_imm8 => pick::<W, Sha1rnds4, M128>(memory),
        Code::Sha1nexte_xmm_xmmm128 => pick::<W, Sha1nexte, M128>(memory),
        Code::Sha1msg1_xmm_xmmm128 => pick::<W, Sha1msg1, M128>(memory),
        Code::Sha1msg2_xmm_xmmm128 => pick::<W, Sha1msg2, M128>(memory),
        Code::Sha256msg1_xmm_xmmm128 => pick::<W, Sha256msg1, M128>(memory),
        Code::Sha256msg2_xmm_xmmm128 => pick::<W, Sha256msg2, M128>(memory),
        Code::Sha256rnds2_xmm_xmmm128 if memory => sha256rnds2::<W, M128>,
        Code::Sha256rnds2_xmm_xmmm128 => sha256rnds2::<W, Xmm>,
        _ => return None,
    };
    Some((Gate::Sse, run))
}
