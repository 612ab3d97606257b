//! Shuffles, blends and sums controlled by an immediate or by XMM0.

use super::moves::{pick, plain};
use super::operand::{M32, M128, Source, Xmm};
use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

/// Lane `index` & 3 of 32 bits.
#[inline(always)]
fn dword(value: u128, index: u8) -> u64 {
    let half = if index & 2 == 0 { value as u64 } else { (value >> 64) as u64 };
    half >> (u32::from(index & 1) * 32) & 0xffff_ffff
}

/// Four lanes of 32 bits: two of `low` and two of `high`, chosen by two bits of `imm` each.
#[inline(always)]
fn shuffle_dwords(low: u128, high: u128, imm: u8) -> u128 {
    let lower = dword(low, imm) | dword(low, imm >> 2) << 32;
    let upper = dword(high, imm >> 4) | dword(high, imm >> 6) << 32;
    u128::from(lower) | u128::from(upper) << 64
}

/// Lane `index` & 1 of 64 bits.
#[inline(always)]
fn qword(value: u128, index: u8) -> u128 {
    value >> (u32::from(index & 1) * 64) & 0xffff_ffff_ffff_ffff
}

/// Four words of a quadword, chosen by two bits each (PSHUFW).
#[inline(always)]
pub(super) fn shuffle_words(value: u64, imm: u8) -> u64 {
    let word = |field: u32| (value >> (u32::from(imm >> (field * 2) & 3) * 16) & 0xffff) << (field * 16);
    word(0) | word(1) | word(2) | word(3)
}

/// Ones in the lanes of `bits` bits that `select` has a one for.
#[inline(always)]
fn lane_mask(select: u8, bits: u32) -> u128 {
    let lane = u128::MAX >> (128 - bits);
    (0..128 / bits).filter(|i| select >> i & 1 != 0).fold(0, |mask, i| mask | lane << (i * bits))
}

#[inline(always)]
fn blend(dst: u128, src: u128, mask: u128) -> u128 {
    dst & !mask | src & mask
}

/// `dst` and `src` concatenated and shifted right by `imm` bytes.
#[inline(always)]
fn align_right(dst: u128, src: u128, imm: u8) -> u128 {
    match u32::from(imm) {
        0 => src,
        n @ 1..16 => src >> (n * 8) | dst << (128 - n * 8),
        n @ 16..32 => dst >> ((n - 16) * 8),
        _ => 0,
    }
}

/// MPSADBW: sums of absolute differences of four bytes at eight offsets.
fn sums_of_differences(dst: u128, src: u128, imm: u8) -> u128 {
    let dst = dst >> (u32::from(imm >> 2 & 1) * 32);
    let block = (dword(src, imm) as u32).to_le_bytes();
    (0..8_u32).fold(0, |out, i| {
        let window = ((dst >> (i * 8)) as u32).to_le_bytes();
        let sum: u32 = window.iter().zip(block).map(|(a, b)| u32::from(a.abs_diff(b))).sum();
        out | u128::from(sum) << (i * 16)
    })
}

/// INSERTPS with the element to insert in the low lane of `element`.
#[inline(always)]
fn insert_single(dst: u128, element: u128, imm: u8) -> u128 {
    let shift = u32::from(imm >> 4 & 3) * 32;
    let merged = dst & !(0xffff_ffff << shift) | (element & 0xffff_ffff) << shift;
    merged & !lane_mask(imm & 15, 32)
}

plain! {
    Pshufd |_, s, i| shuffle_dwords(s, s, i);
    Pshuflw |_, s, i| s >> 64 << 64 | u128::from(shuffle_words(s as u64, i));
    Pshufhw |_, s, i| u128::from(s as u64) | u128::from(shuffle_words((s >> 64) as u64, i)) << 64;
    Shufps |d, s, i| shuffle_dwords(d, s, i);
    Shufpd upper_immediate 2 |d, s, i| qword(d, i) | qword(s, i >> 1) << 64;
    Palignr |d, s, i| align_right(d, s, i);
    Pblendw |d, s, i| blend(d, s, lane_mask(i, 16));
    Blendps upper_immediate 4 |d, s, i| blend(d, s, lane_mask(i & 15, 32));
    Blendpd upper_immediate 2 |d, s, i| blend(d, s, lane_mask(i & 3, 64));
    Mpsadbw upper_immediate 3 |d, s, i| sums_of_differences(d, s, i);
    /// INSERTPS from a register, whose element the immediate chooses.
    InsertpsLane |d, s, i| insert_single(d, u128::from(dword(s, i >> 6)), i);
    /// INSERTPS from memory.
    InsertpsMemory |d, s, i| insert_single(d, s, i);
}

/// Ones in the lanes of `bits` bits whose sign bit is set.
#[inline(always)]
pub(super) fn sign_mask(value: u128, bits: u32) -> u128 {
    // One bit at the bottom of each lane; times 2^bits - 1 it fills the lane.
    let lane = u128::MAX >> (128 - bits);
    (value >> (bits - 1) & (u128::MAX / lane)).wrapping_mul(lane)
}

/// Blends by the sign bits of the `BITS`-bit lanes of XMM0.
fn blend_variable<W: World, S: Source, const BITS: u32>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let src = S::get(cpu, world, op)?;
    let mask = sign_mask(cpu.xmm[0], BITS);
    let dst = &mut cpu.xmm[usize::from(op.dst & 15)];
    *dst = blend(*dst, src, mask);
    Ok(())
}

fn pick_variable<W: World, const BITS: u32>(memory: bool) -> OpFn<W> {
    if memory { blend_variable::<W, M128, BITS> } else { blend_variable::<W, Xmm, BITS> }
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Pshufd_xmm_xmmm128_imm8 => pick::<W, Pshufd, M128>(memory),
        Code::Pshuflw_xmm_xmmm128_imm8 => pick::<W, Pshuflw, M128>(memory),
        Code::Pshufhw_xmm_xmmm128_imm8 => pick::<W, Pshufhw, M128>(memory),
        Code::Shufps_xmm_xmmm128_imm8 => pick::<W, Shufps, M128>(memory),
        Code::Shufpd_xmm_xmmm128_imm8 => pick::<W, Shufpd, M128>(memory),
        Code::Palignr_xmm_xmmm128_imm8 => pick::<W, Palignr, M128>(memory),
        Code::Pblendw_xmm_xmmm128_imm8 => pick::<W, Pblendw, M128>(memory),
        Code::Blendps_xmm_xmmm128_imm8 => pick::<W, Blendps, M128>(memory),
        Code::Blendpd_xmm_xmmm128_imm8 => pick::<W, Blendpd, M128>(memory),
        Code::Mpsadbw_xmm_xmmm128_imm8 => pick::<W, Mpsadbw, M128>(memory),
        Code::Insertps_xmm_xmmm32_imm8 if memory => pick::<W, InsertpsMemory, M32>(true),
        Code::Insertps_xmm_xmmm32_imm8 => pick::<W, InsertpsLane, M32>(false),
        Code::Pblendvb_xmm_xmmm128 => pick_variable::<W, 8>(memory),
        Code::Blendvps_xmm_xmmm128 => pick_variable::<W, 32>(memory),
        Code::Blendvpd_xmm_xmmm128 => pick_variable::<W, 64>(memory),
        _ => return None,
    };
    Some((Gate::Sse, run))
}
