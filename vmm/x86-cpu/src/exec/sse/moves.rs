//! Moves between XMM registers, general registers and memory.

use super::host::{
    Combine, Movddup, Movhlps, Movlhps, Movsd, Movshdup, Movsldup, Movss, pack, pmovmskb, put,
};
use super::operand::{Aligned, Gpr32, Gpr64, M32, M64, M128, M128U, Source, Xmm, aligned};
use super::vex;
use super::{Choice, Gate};
use crate::block::{AddressKind, Op, OpFn};
use crate::decode::operand::segment;
use crate::fault::Fault;
use crate::memory::Word;
use crate::mode::Mode;
use crate::state::{Vcpu, reg, seg, slot};
use crate::world::World;
use iced_x86::{Code, Instruction, OpKind};

const LOW64: u128 = 0xffff_ffff_ffff_ffff;

macro_rules! plain {
    ($(
        $(#[$doc:meta])*
        $name:ident $(upper_immediate $upper:literal)? $(upper_from_low $low:literal)?
        |$d:pat_param, $s:pat_param, $i:pat_param| $body:expr;
    )*) => {$(
        $(#[$doc])*
        pub(super) enum $name {}
        impl $crate::exec::sse::host::Combine for $name {
            $(const UPPER_IMMEDIATE: u32 = $upper;)?
            $(const UPPER_FROM_LOW: Option<u32> = Some($low);)?
            #[inline(always)]
            fn apply($d: u128, $s: u128, $i: u8) -> u128 {
                $body
            }
        }
    )*};
}
pub(super) use plain;

plain! {
    /// The source.
    Second |_, s, _| s;
    /// The low half of the source, zero-extended.
    SecondLow |_, s, _| s & LOW64;
}

/// `xmm[dst] = O(xmm[dst], source)`.
#[inline(always)]
pub(super) fn combine<W: World, O: Combine, S: Source>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    if vex::is_vex(op) {
        return vex::combine::<W, O, S>(cpu, world, op);
    }
    let src = S::get(cpu, world, op)?;
    let dst = &mut cpu.xmm[usize::from(op.dst & 15)];
    put(dst, pack(O::apply(*dst, src, op.imm as u8)));
    Ok(())
}

/// [`combine`] with an XMM register, or memory of kind `M`.
pub(super) fn pick<W: World, O: Combine, M: Source>(memory: bool) -> OpFn<W> {
    if memory { combine::<W, O, M> } else { combine::<W, O, Xmm> }
}

/// Stores `src` of 16 bytes, aligned, or 32 with VEX.
fn store_aligned<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    if vex::is_wide(op) {
        return vex::store_wide(cpu, world, op, true);
    }
    let linear = aligned(cpu.address_mut::<u128, W>(op)?)?;
    cpu.store(world, linear, cpu.xmm[usize::from(op.src & 15)])
}

/// Stores `src` of 16 bytes, or 32 with VEX.
fn store_unaligned<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    if vex::is_wide(op) {
        return vex::store_wide(cpu, world, op, false);
    }
    store_part::<W, u128, 0>(cpu, world, op)
}

/// Stores the part of the register that is `T` wide and starts at bit `SHIFT`.
fn store_part<W: World, T: Word, const SHIFT: u32>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let linear = cpu.address_mut::<T, W>(op)?;
    cpu.store(world, linear, T::truncate(cpu.xmm[usize::from(op.src & 15)] >> SHIFT))
}

/// `gpr[dst]`, zero-extended, from the low bits of `xmm[src]`.
fn to_gpr<W: World, T: Word>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = T::truncate(cpu.xmm[usize::from(op.src & 15)]);
    cpu.gpr[usize::from(op.dst & 15)] = value.extend() as u64;
    Ok(())
}

/// MOVNTI.
fn stream_gpr<W: World, T: Word>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let linear = cpu.address_mut::<T, W>(op)?;
    let value = T::truncate(u128::from(cpu.gpr[usize::from(op.src & 15)]));
    cpu.streaming(world, |cpu, world| cpu.store(world, linear, value))
}

/// MOVNTPS and the like.
pub(super) fn stream_aligned<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.streaming(world, |cpu, world| store_aligned(cpu, world, op))
}

fn move_byte_mask<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.gpr[usize::from(op.dst & 15)] = u64::from(pmovmskb(cpu.xmm[usize::from(op.src & 15)]));
    Ok(())
}

fn move_mask_ps<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = cpu.xmm[usize::from(op.src & 15)];
    let bit = |lane: u32| (value >> (lane * 32 + 31)) as u64 & 1;
    cpu.gpr[usize::from(op.dst & 15)] = bit(0) | bit(1) << 1 | bit(2) << 2 | bit(3) << 3;
    Ok(())
}

fn move_mask_pd<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = cpu.xmm[usize::from(op.src & 15)];
    cpu.gpr[usize::from(op.dst & 15)] = (value >> 63) as u64 & 1 | ((value >> 127) as u64) << 1;
    Ok(())
}

/// MASKMOVDQU.
fn mask_move<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let mask = pmovmskb(cpu.xmm[usize::from(op.src & 15)]);
    let data = cpu.xmm[usize::from(op.dst & 15)].to_le_bytes();
    cpu.streaming(world, |cpu, world| store_masked(cpu, world, op, mask, &data))
}

/// Stores the bytes of `data` whose bit in `mask` is set at the operand that [`fill_masked`] described; all or nothing.
/// Bytes not selected are not accessed.
pub(super) fn store_masked<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
    mask: u32,
    data: &[u8],
) -> Result<(), Fault> {
    let linear = cpu.address_sized(op, data.len() as u32, true)?;
    let selected = |at: usize| mask >> at & 1 != 0;
    for at in (0..data.len()).filter(|at| selected(*at)) {
        cpu.check_write(world, linear.wrapping_add(at as u64), 1)?;
    }
    for (at, byte) in data.iter().enumerate().filter(|(at, _)| selected(*at)) {
        cpu.store(world, linear.wrapping_add(at as u64), *byte)?;
    }
    Ok(())
}

/// Fills in the implicit memory operand of MASKMOVQ and MASKMOVDQU: DS:rDI, or another segment by prefix.
pub(super) fn fill_masked<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) {
    op.base = reg::RDI as u8;
    op.seg = segment(instruction.memory_segment());
    // The implicit operand comes first and shifts the registers.
    let [data, mask] = [instruction.op1_register(), instruction.op2_register()];
    op.dst = super::index(data);
    op.src = super::index(mask);
    let kind = instruction.op0_kind();
    if mode.is_64() {
        op.seg_slot = match usize::from(op.seg) {
            seg::FS => slot::FS,
            seg::GS => slot::GS,
            _ => slot::ZERO,
        };
        op.address =
            if kind == OpKind::MemorySegRDI { AddressKind::Flat64 } else { AddressKind::Flat64Addr32 };
    } else {
        op.address = if kind == OpKind::MemorySegDI { AddressKind::Legacy16 } else { AddressKind::Legacy32 };
    }
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    let copy = combine::<W, Second, Xmm> as OpFn<W>;
    let run: OpFn<W> = match code {
        Code::Movaps_xmm_xmmm128 | Code::Movapd_xmm_xmmm128 | Code::Movdqa_xmm_xmmm128 => {
            pick::<W, Second, Aligned>(memory)
        }
        Code::Movups_xmm_xmmm128 | Code::Movupd_xmm_xmmm128 | Code::Movdqu_xmm_xmmm128 => {
            pick::<W, Second, M128U>(memory)
        }
        Code::Lddqu_xmm_m128 => combine::<W, Second, M128U>,
        Code::Movntdqa_xmm_m128 => combine::<W, Second, Aligned>,
        Code::Movaps_xmmm128_xmm | Code::Movapd_xmmm128_xmm | Code::Movdqa_xmmm128_xmm => {
            if memory {
                store_aligned
            } else {
                copy
            }
        }
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => {
            if memory {
                store_unaligned
            } else {
                copy
            }
        }
        Code::Movntps_m128_xmm | Code::Movntpd_m128_xmm | Code::Movntdq_m128_xmm => stream_aligned,
        Code::Movss_xmm_xmmm32 if memory => combine::<W, Second, M32>,
        Code::Movsd_xmm_xmmm64 if memory => combine::<W, Second, M64>,
        Code::Movss_xmmm32_xmm if memory => store_part::<W, u32, 0>,
        Code::Movsd_xmmm64_xmm if memory => store_part::<W, u64, 0>,
        Code::Movss_xmm_xmmm32 | Code::Movss_xmmm32_xmm => combine::<W, Movss, Xmm>,
        Code::Movsd_xmm_xmmm64 | Code::Movsd_xmmm64_xmm => combine::<W, Movsd, Xmm>,
        Code::Movq_xmm_xmmm64 => pick::<W, SecondLow, M64>(memory),
        Code::Movq_xmmm64_xmm if memory => store_part::<W, u64, 0>,
        Code::Movq_xmmm64_xmm => combine::<W, SecondLow, Xmm>,
        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => combine::<W, Movsd, M64>,
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => combine::<W, Movlhps, M64>,
        Code::Movlps_m64_xmm | Code::Movlpd_m64_xmm => store_part::<W, u64, 0>,
        Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm => store_part::<W, u64, 64>,
        Code::Movhlps_xmm_xmm => combine::<W, Movhlps, Xmm>,
        Code::Movlhps_xmm_xmm => combine::<W, Movlhps, Xmm>,
        Code::Movsldup_xmm_xmmm128 => pick::<W, Movsldup, M128>(memory),
        Code::Movshdup_xmm_xmmm128 => pick::<W, Movshdup, M128>(memory),
        Code::Movddup_xmm_xmmm64 => pick::<W, Movddup, M64>(memory),
        Code::Movd_xmm_rm32 if memory => combine::<W, Second, M32>,
        Code::Movq_xmm_rm64 if memory => combine::<W, Second, M64>,
        Code::Movd_xmm_rm32 => combine::<W, Second, Gpr32>,
        Code::Movq_xmm_rm64 => combine::<W, Second, Gpr64>,
        Code::Movd_rm32_xmm if memory => store_part::<W, u32, 0>,
        Code::Movq_rm64_xmm if memory => store_part::<W, u64, 0>,
        Code::Movd_rm32_xmm => to_gpr::<W, u32>,
        Code::Movq_rm64_xmm => to_gpr::<W, u64>,
        Code::Pmovmskb_r32_xmm | Code::Pmovmskb_r64_xmm => move_byte_mask,
        Code::Movmskps_r32_xmm | Code::Movmskps_r64_xmm => move_mask_ps,
        Code::Movmskpd_r32_xmm | Code::Movmskpd_r64_xmm => move_mask_pd,
        Code::Maskmovdqu_rDI_xmm_xmm => mask_move,
        Code::Movnti_m32_r32 => return Some((Gate::Open, stream_gpr::<W, u32>)),
        Code::Movnti_m64_r64 => return Some((Gate::Open, stream_gpr::<W, u64>)),
        _ => return None,
    };
    Some((Gate::Sse, run))
}
