//! MMX: 64-bit integer SIMD in the significands of the x87 registers.
//!
//! An MMX instruction executes as its XMM counterpart on zero-extended operands. Each also resets the x87 stack: TOP becomes
//! 0 and all registers valid (SDM volume 1, 9.5.1). Stores and conversions do so even if they then fault, as Intel's processors.

use super::float::compute;
use super::host::*;
use super::integer::{And, AndNot, Or, Xor};
use super::lanes::Pinsrw;
use super::moves::{Second, plain, store_masked};
use super::operand::{Gpr32, Gpr64, Immediate, M16, M32, M64, M128, Mm, Source, Xmm};
use super::shuffle::shuffle_words;
use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::memory::Word;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;
use std::marker::PhantomData;

const TOP: u16 = 7 << 11;
/// Sign and exponent of a register that MMX wrote.
const EXPONENT: u128 = 0xffff << 64;
const LOW64: u128 = 0xffff_ffff_ffff_ffff;

/// The transition from x87 to MMX.
fn enter(cpu: &mut Vcpu) {
    cpu.x87.status &= !TOP;
    cpu.x87.tags = 0;
}

fn read(cpu: &Vcpu, register: u8) -> u64 {
    cpu.x87.regs[usize::from(register & 7)] as u64
}

fn write(cpu: &mut Vcpu, register: u8, value: u64) {
    cpu.x87.regs[usize::from(register & 7)] = EXPONENT | u128::from(value);
}

/// `O` on an operand made of both: for packs and horizontal operations, whose XMM form keeps the operands apart.
enum Joined<O> {
    #[expect(dead_code, reason = "the type is never made; this binds its parameter")]
    Never(PhantomData<O>),
}

impl<O: Combine> Combine for Joined<O> {
    fn apply(dst: u128, src: u128, imm: u8) -> u128 {
        let both = dst & LOW64 | src << 64;
        O::apply(both, both, imm)
    }
}

/// The upper half of what `O` gives.
enum UpperHalf<O> {
    #[expect(dead_code, reason = "the type is never made; this binds its parameter")]
    Never(PhantomData<O>),
}

impl<O: Combine> Combine for UpperHalf<O> {
    fn apply(dst: u128, src: u128, imm: u8) -> u128 {
        O::apply(dst, src, imm) >> 64
    }
}

plain! {
    Pshufb64 |d, s, i| Pshufb::apply(d, s & 0x8787_8787_8787_8787, i);
    Pshufw |_, s, i| u128::from(shuffle_words(s as u64, i));
    Palignr64 |d, s, i| (d << 64 | s & LOW64).checked_shr(u32::from(i) * 8).unwrap_or(0);
    Pinsrw64 |d, s, i| Pinsrw::apply(d, s, i & 3);
}

/// `mm[dst] = O(mm[dst], source)`.
fn combine<W: World, O: Combine, S: Source>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let src = S::get(cpu, world, op)?;
    let dst = u128::from(read(cpu, op.dst));
    enter(cpu);
    write(cpu, op.dst, O::apply(dst, src, op.imm as u8) as u64);
    Ok(())
}

/// [`combine`] with an MMX register, or memory of kind `M`.
fn pick<W: World, O: Combine, M: Source>(memory: bool) -> OpFn<W> {
    if memory { combine::<W, O, M> } else { combine::<W, O, Mm> }
}

/// MOVD and MOVQ to memory.
fn store<W: World, T: Word>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    enter(cpu);
    let linear = cpu.address_mut::<T, W>(op)?;
    cpu.store(world, linear, T::truncate(u128::from(read(cpu, op.src))))
}

/// MOVNTQ.
fn stream<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.streaming(world, |cpu, world| store::<W, u64>(cpu, world, op))
}

/// `gpr[dst] = function(mm[src])`.
fn to_gpr<W: World>(cpu: &mut Vcpu, op: &Op<W>, function: impl Fn(u64) -> u64) -> Result<(), Fault> {
    cpu.check_x87()?;
    cpu.gpr[usize::from(op.dst & 15)] = function(read(cpu, op.src));
    enter(cpu);
    Ok(())
}

fn movd_to_gpr<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    to_gpr(cpu, op, |value| value & 0xffff_ffff)
}

fn movq_to_gpr<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    to_gpr(cpu, op, |value| value)
}

fn move_byte_mask<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    to_gpr(cpu, op, |value| u64::from(pmovmskb(u128::from(value))))
}

fn extract_word<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    to_gpr(cpu, op, |value| value >> ((op.imm as u32 & 3) * 16) & 0xffff)
}

/// MASKMOVQ.
fn mask_move<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    enter(cpu);
    let mask = pmovmskb(u128::from(read(cpu, op.src)));
    let data = read(cpu, op.dst).to_le_bytes();
    cpu.streaming(world, |cpu, world| store_masked(cpu, world, op, mask, &data))
}

/// MOVQ2DQ.
fn to_xmm<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    cpu.xmm[usize::from(op.dst & 15)] = u128::from(read(cpu, op.src));
    enter(cpu);
    Ok(())
}

fn emms<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    enter(cpu);
    cpu.x87.tags = 0xffff;
    Ok(())
}

/// CVTPI2PS: two singles in the low half.
fn cvtpi2ps<W: World, const MEMORY: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let src = from_packed::<W, MEMORY>(cpu, world, op)?;
    let index = usize::from(op.dst & 15);
    let converted = unpack(compute::<Cvtdq2ps>(cpu, pack(0), pack(src))?);
    cpu.xmm[index] = cpu.xmm[index] & !LOW64 | converted & LOW64;
    Ok(())
}

/// CVTPI2PD, always exact.
fn cvtpi2pd<W: World, const MEMORY: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let src = from_packed::<W, MEMORY>(cpu, world, op)?;
    cpu.xmm[usize::from(op.dst & 15)] = Cvtdq2pd::apply(0, src, 0);
    Ok(())
}

/// The source of CVTPI2PS and CVTPI2PD, of which only the register form counts as MMX.
fn from_packed<W: World, const MEMORY: bool>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<u128, Fault> {
    if MEMORY {
        return M64::get(cpu, world, op);
    }
    cpu.check_x87()?;
    enter(cpu);
    Mm::get(cpu, world, op)
}

/// CVTPS2PI and its kin: two integers in `mm[dst]`.
fn to_packed<W: World, F, S>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault>
where
    F: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    S: Source,
{
    cpu.check_x87()?;
    enter(cpu);
    let src = S::get(cpu, world, op)?;
    let converted = unpack(compute::<F>(cpu, pack(0), pack(src))?);
    write(cpu, op.dst, converted as u64);
    Ok(())
}

/// Two singles: the low half of an XMM register.
enum XmmLow {}

impl Source for XmmLow {
    fn get<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        Ok(Xmm::get(cpu, world, op)? & LOW64)
    }
}

fn pick_to_packed<W: World, F, R: Source, M: Source>(memory: bool) -> OpFn<W>
where
    F: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
{
    if memory { to_packed::<W, F, M> } else { to_packed::<W, F, R> }
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    lower_integer(code, memory).or_else(|| lower_other(code, memory))
}

/// Arithmetic on MMX registers.
fn lower_integer<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Pand_mm_mmm64 => pick::<W, And, M64>(memory),
        Code::Pandn_mm_mmm64 => pick::<W, AndNot, M64>(memory),
        Code::Por_mm_mmm64 => pick::<W, Or, M64>(memory),
        Code::Pxor_mm_mmm64 => pick::<W, Xor, M64>(memory),
        Code::Paddb_mm_mmm64 => pick::<W, Paddb, M64>(memory),
        Code::Paddw_mm_mmm64 => pick::<W, Paddw, M64>(memory),
        Code::Paddd_mm_mmm64 => pick::<W, Paddd, M64>(memory),
        Code::Paddq_mm_mmm64 => pick::<W, Paddq, M64>(memory),
        Code::Psubb_mm_mmm64 => pick::<W, Psubb, M64>(memory),
        Code::Psubw_mm_mmm64 => pick::<W, Psubw, M64>(memory),
        Code::Psubd_mm_mmm64 => pick::<W, Psubd, M64>(memory),
        Code::Psubq_mm_mmm64 => pick::<W, Psubq, M64>(memory),
        Code::Paddsb_mm_mmm64 => pick::<W, Paddsb, M64>(memory),
        Code::Paddsw_mm_mmm64 => pick::<W, Paddsw, M64>(memory),
        Code::Paddusb_mm_mmm64 => pick::<W, Paddusb, M64>(memory),
        Code::Paddusw_mm_mmm64 => pick::<W, Paddusw, M64>(memory),
        Code::Psubsb_mm_mmm64 => pick::<W, Psubsb, M64>(memory),
        Code::Psubsw_mm_mmm64 => pick::<W, Psubsw, M64>(memory),
        Code::Psubusb_mm_mmm64 => pick::<W, Psubusb, M64>(memory),
        Code::Psubusw_mm_mmm64 => pick::<W, Psubusw, M64>(memory),
        Code::Pminub_mm_mmm64 => pick::<W, Pminub, M64>(memory),
        Code::Pminsw_mm_mmm64 => pick::<W, Pminsw, M64>(memory),
        Code::Pmaxub_mm_mmm64 => pick::<W, Pmaxub, M64>(memory),
        Code::Pmaxsw_mm_mmm64 => pick::<W, Pmaxsw, M64>(memory),
        Code::Pavgb_mm_mmm64 => pick::<W, Pavgb, M64>(memory),
        Code::Pavgw_mm_mmm64 => pick::<W, Pavgw, M64>(memory),
        Code::Psadbw_mm_mmm64 => pick::<W, Psadbw, M64>(memory),
        Code::Pmulhuw_mm_mmm64 => pick::<W, Pmulhuw, M64>(memory),
        Code::Pmulhw_mm_mmm64 => pick::<W, Pmulhw, M64>(memory),
        Code::Pmullw_mm_mmm64 => pick::<W, Pmullw, M64>(memory),
        Code::Pmuludq_mm_mmm64 => pick::<W, Pmuludq, M64>(memory),
        Code::Pmaddwd_mm_mmm64 => pick::<W, Pmaddwd, M64>(memory),
        Code::Pmaddubsw_mm_mmm64 => pick::<W, Pmaddubsw, M64>(memory),
        Code::Pmulhrsw_mm_mmm64 => pick::<W, Pmulhrsw, M64>(memory),
        Code::Pcmpeqb_mm_mmm64 => pick::<W, Pcmpeqb, M64>(memory),
        Code::Pcmpeqw_mm_mmm64 => pick::<W, Pcmpeqw, M64>(memory),
        Code::Pcmpeqd_mm_mmm64 => pick::<W, Pcmpeqd, M64>(memory),
        Code::Pcmpgtb_mm_mmm64 => pick::<W, Pcmpgtb, M64>(memory),
        Code::Pcmpgtw_mm_mmm64 => pick::<W, Pcmpgtw, M64>(memory),
        Code::Pcmpgtd_mm_mmm64 => pick::<W, Pcmpgtd, M64>(memory),
        Code::Psignb_mm_mmm64 => pick::<W, Psignb, M64>(memory),
        Code::Psignw_mm_mmm64 => pick::<W, Psignw, M64>(memory),
        Code::Psignd_mm_mmm64 => pick::<W, Psignd, M64>(memory),
        Code::Pabsb_mm_mmm64 => pick::<W, Pabsb, M64>(memory),
        Code::Pabsw_mm_mmm64 => pick::<W, Pabsw, M64>(memory),
        Code::Pabsd_mm_mmm64 => pick::<W, Pabsd, M64>(memory),
        Code::Psrlw_mm_mmm64 => pick::<W, Psrlw, M64>(memory),
        Code::Psrld_mm_mmm64 => pick::<W, Psrld, M64>(memory),
        Code::Psrlq_mm_mmm64 => pick::<W, Psrlq, M64>(memory),
        Code::Psraw_mm_mmm64 => pick::<W, Psraw, M64>(memory),
        Code::Psrad_mm_mmm64 => pick::<W, Psrad, M64>(memory),
        Code::Psllw_mm_mmm64 => pick::<W, Psllw, M64>(memory),
        Code::Pslld_mm_mmm64 => pick::<W, Pslld, M64>(memory),
        Code::Psllq_mm_mmm64 => pick::<W, Psllq, M64>(memory),
        Code::Packsswb_mm_mmm64 => pick::<W, Joined<Packsswb>, M64>(memory),
        Code::Packssdw_mm_mmm64 => pick::<W, Joined<Packssdw>, M64>(memory),
        Code::Packuswb_mm_mmm64 => pick::<W, Joined<Packuswb>, M64>(memory),
        Code::Phaddw_mm_mmm64 => pick::<W, Joined<Phaddw>, M64>(memory),
        Code::Phaddd_mm_mmm64 => pick::<W, Joined<Phaddd>, M64>(memory),
        Code::Phaddsw_mm_mmm64 => pick::<W, Joined<Phaddsw>, M64>(memory),
        Code::Phsubw_mm_mmm64 => pick::<W, Joined<Phsubw>, M64>(memory),
        Code::Phsubd_mm_mmm64 => pick::<W, Joined<Phsubd>, M64>(memory),
        Code::Phsubsw_mm_mmm64 => pick::<W, Joined<Phsubsw>, M64>(memory),
        Code::Punpcklbw_mm_mmm32 => pick::<W, Punpcklbw, M32>(memory),
        Code::Punpckhbw_mm_mmm64 => pick::<W, UpperHalf<Punpcklbw>, M64>(memory),
        Code::Punpcklwd_mm_mmm32 => pick::<W, Punpcklwd, M32>(memory),
        Code::Punpckhwd_mm_mmm64 => pick::<W, UpperHalf<Punpcklwd>, M64>(memory),
        Code::Punpckldq_mm_mmm32 => pick::<W, Punpckldq, M32>(memory),
        Code::Punpckhdq_mm_mmm64 => pick::<W, UpperHalf<Punpckldq>, M64>(memory),
        Code::Psrlw_mm_imm8 => combine::<W, Psrlw, Immediate>,
        Code::Psrld_mm_imm8 => combine::<W, Psrld, Immediate>,
        Code::Psrlq_mm_imm8 => combine::<W, Psrlq, Immediate>,
        Code::Psraw_mm_imm8 => combine::<W, Psraw, Immediate>,
        Code::Psrad_mm_imm8 => combine::<W, Psrad, Immediate>,
        Code::Psllw_mm_imm8 => combine::<W, Psllw, Immediate>,
        Code::Pslld_mm_imm8 => combine::<W, Pslld, Immediate>,
        Code::Psllq_mm_imm8 => combine::<W, Psllq, Immediate>,
        Code::Pshufb_mm_mmm64 => pick::<W, Pshufb64, M64>(memory),
        Code::Pshufw_mm_mmm64_imm8 => pick::<W, Pshufw, M64>(memory),
        Code::Palignr_mm_mmm64_imm8 => pick::<W, Palignr64, M64>(memory),
        _ => return None,
    };
    Some((Gate::Mmx, run))
}

/// Moves and conversions.
fn lower_other<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Movd_mm_rm32 if memory => combine::<W, Second, M32>,
        Code::Movd_mm_rm32 => combine::<W, Second, Gpr32>,
        Code::Movq_mm_rm64 if memory => combine::<W, Second, M64>,
        Code::Movq_mm_rm64 => combine::<W, Second, Gpr64>,
        Code::Movq_mm_mmm64 => pick::<W, Second, M64>(memory),
        Code::Movq_mmm64_mm if memory => store::<W, u64>,
        Code::Movq_mmm64_mm => combine::<W, Second, Mm>,
        Code::Movntq_m64_mm => stream,
        Code::Movd_rm32_mm if memory => store::<W, u32>,
        Code::Movd_rm32_mm => movd_to_gpr,
        Code::Movq_rm64_mm if memory => store::<W, u64>,
        Code::Movq_rm64_mm => movq_to_gpr,
        Code::Pmovmskb_r32_mm | Code::Pmovmskb_r64_mm => move_byte_mask,
        Code::Pextrw_r32_mm_imm8 | Code::Pextrw_r64_mm_imm8 => extract_word,
        Code::Pinsrw_mm_r32m16_imm8 | Code::Pinsrw_mm_r64m16_imm8 => {
            if memory {
                combine::<W, Pinsrw64, M16>
            } else {
                combine::<W, Pinsrw64, Gpr32>
            }
        }
        Code::Maskmovq_rDI_mm_mm => mask_move,
        Code::Emms => emms,
        code => {
            let run: OpFn<W> = match code {
                Code::Movq2dq_xmm_mm => to_xmm,
                Code::Movdq2q_mm_xmm => combine::<W, Second, Xmm>,
                Code::Cvtpi2ps_xmm_mmm64 if memory => cvtpi2ps::<W, true>,
                Code::Cvtpi2ps_xmm_mmm64 => cvtpi2ps::<W, false>,
                Code::Cvtpi2pd_xmm_mmm64 if memory => cvtpi2pd::<W, true>,
                Code::Cvtpi2pd_xmm_mmm64 => cvtpi2pd::<W, false>,
                Code::Cvtps2pi_mm_xmmm64 => pick_to_packed::<W, Cvtps2dq, XmmLow, M64>(memory),
                Code::Cvttps2pi_mm_xmmm64 => pick_to_packed::<W, Cvttps2dq, XmmLow, M64>(memory),
                Code::Cvtpd2pi_mm_xmmm128 => pick_to_packed::<W, Cvtpd2dq, Xmm, M128>(memory),
                Code::Cvttpd2pi_mm_xmmm128 => pick_to_packed::<W, Cvttpd2dq, Xmm, M128>(memory),
                _ => return None,
            };
            return Some((Gate::Sse, run));
        }
    };
    Some((Gate::Mmx, run))
}
