//! Single elements between XMM registers, general registers and memory: PINSRx, PEXTRx, EXTRACTPS; and CRC32.

use super::host::{crc32_u8, crc32_u16, crc32_u32, crc32_u64};
use super::moves::{combine, plain};
use super::operand::{Gpr32, Gpr64, M8, M16, M32, M64, Source};
use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::memory::Word;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

/// `dst` with the `T`-wide element `index` replaced by the low bits of `element`.
#[inline(always)]
fn insert<T: Word>(dst: u128, element: u128, index: u8) -> u128 {
    let shift = u32::from(index) % (128 / T::BITS) * T::BITS;
    dst & !(u128::MAX >> (128 - T::BITS) << shift) | T::truncate(element).extend() << shift
}

/// The `T`-wide element `index` of `src`.
#[inline(always)]
fn extract<T: Word>(src: u128, index: u8) -> T {
    T::truncate(src >> (u32::from(index) % (128 / T::BITS) * T::BITS))
}

plain! {
    Pinsrb |d, s, i| insert::<u8>(d, s, i);
    Pinsrw |d, s, i| insert::<u16>(d, s, i);
    Pinsrd |d, s, i| insert::<u32>(d, s, i);
    Pinsrq |d, s, i| insert::<u64>(d, s, i);
}

fn extract_to_gpr<W: World, T: Word>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let element: T = extract(cpu.xmm[usize::from(op.src & 15)], op.imm as u8);
    cpu.gpr[usize::from(op.dst & 15)] = element.extend() as u64;
    Ok(())
}

fn extract_to_memory<W: World, T: Word>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let element: T = extract(cpu.xmm[usize::from(op.src & 15)], op.imm as u8);
    let linear = cpu.address_mut::<T, W>(op)?;
    cpu.store(world, linear, element)
}

fn pick_extract<W: World, T: Word>(memory: bool) -> OpFn<W> {
    if memory { extract_to_memory::<W, T> } else { extract_to_gpr::<W, T> }
}

fn pick_insert<W: World, O: super::host::Combine, R: Source, M: Source>(memory: bool) -> OpFn<W> {
    if memory { combine::<W, O, M> } else { combine::<W, O, R> }
}

/// The byte register `op.src`, high bytes included.
enum Gpr8 {}

impl Source for Gpr8 {
    fn get<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        let shift = if op.src & 0x20 != 0 { 8 } else { 0 };
        Ok(u128::from((cpu.gpr[usize::from(op.src & 15)] >> shift) as u8))
    }
}

/// A word that CRC32 takes in.
trait Checked: Word {
    fn crc32(self, crc: u32) -> u32;
}

impl Checked for u8 {
    fn crc32(self, crc: u32) -> u32 {
        crc32_u8(crc, self)
    }
}
impl Checked for u16 {
    fn crc32(self, crc: u32) -> u32 {
        crc32_u16(crc, self)
    }
}
impl Checked for u32 {
    fn crc32(self, crc: u32) -> u32 {
        crc32_u32(crc, self)
    }
}
impl Checked for u64 {
    fn crc32(self, crc: u32) -> u32 {
        crc32_u64(crc, self)
    }
}

fn crc32<W: World, T: Checked, S: Source>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = T::truncate(S::get(cpu, world, op)?);
    let crc = &mut cpu.gpr[usize::from(op.dst & 15)];
    *crc = u64::from(value.crc32(*crc as u32));
    Ok(())
}

fn pick_crc32<W: World, T: Checked, R: Source, M: Source>(memory: bool) -> OpFn<W> {
    if memory { crc32::<W, T, M> } else { crc32::<W, T, R> }
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Pinsrb_xmm_r32m8_imm8 | Code::Pinsrb_xmm_r64m8_imm8 => {
            pick_insert::<W, Pinsrb, Gpr32, M8>(memory)
        }
        Code::Pinsrw_xmm_r32m16_imm8 | Code::Pinsrw_xmm_r64m16_imm8 => {
            pick_insert::<W, Pinsrw, Gpr32, M16>(memory)
        }
        Code::Pinsrd_xmm_rm32_imm8 => pick_insert::<W, Pinsrd, Gpr32, M32>(memory),
        Code::Pinsrq_xmm_rm64_imm8 => pick_insert::<W, Pinsrq, Gpr64, M64>(memory),
        Code::Pextrb_r32m8_xmm_imm8 | Code::Pextrb_r64m8_xmm_imm8 => pick_extract::<W, u8>(memory),
        Code::Pextrw_r32m16_xmm_imm8
        | Code::Pextrw_r64m16_xmm_imm8
        | Code::Pextrw_r32_xmm_imm8
        | Code::Pextrw_r64_xmm_imm8 => pick_extract::<W, u16>(memory),
        Code::Pextrd_rm32_xmm_imm8 | Code::Extractps_rm32_xmm_imm8 | Code::Extractps_r64m32_xmm_imm8 => {
            pick_extract::<W, u32>(memory)
        }
        Code::Pextrq_rm64_xmm_imm8 => pick_extract::<W, u64>(memory),
        Code::Crc32_r32_rm8 | Code::Crc32_r64_rm8 => {
            return Some((Gate::Open, pick_crc32::<W, u8, Gpr8, M8>(memory)));
        }
        Code::Crc32_r32_rm16 => return Some((Gate::Open, pick_crc32::<W, u16, Gpr32, M16>(memory))),
        Code::Crc32_r32_rm32 => return Some((Gate::Open, pick_crc32::<W, u32, Gpr32, M32>(memory))),
        Code::Crc32_r64_rm64 => return Some((Gate::Open, pick_crc32::<W, u64, Gpr64, M64>(memory))),
        _ => return None,
    };
    Some((Gate::Sse, run))
}
