//! Instructions of AVX and AVX2 that no legacy encoding has, and those whose vectors of 256 bits are not two of 128.

use super::float::compute_lanes;
use super::host::{
    Cmppd, Cmpps, Cmpsd, Cmpss, Cvtpd2dq, Cvtpd2ps, Cvtps2pd, Cvttpd2dq, Float, Lanes, Movddup, pack, unpack,
};
use super::moves::{combine, pick, plain};
use super::operand::{Fixed128, M8, M16, M32, M64, M128, Part64, Source, Xmm};
use super::shuffle::{Blendps, Pshufd, sign_mask};
use super::vex::{finish, first, is_wide, put_register, register};
use super::{Choice, Gate, float::mxcsr};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::flags::bits;
use crate::memory::Word;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

const LOW64: u128 = 0xffff_ffff_ffff_ffff;

/// `value` in all lanes of its width.
#[inline(always)]
fn repeat<T: Word>(value: u128) -> u128 {
    // One in each lane.
    let ones = u128::MAX / (u128::MAX >> (128 - T::BITS));
    T::truncate(value).extend().wrapping_mul(ones)
}

/// Applies a function to each pair of lanes of 32 bits.
#[inline(always)]
fn each32(a: u128, b: u128, function: impl Fn(u32, u32) -> u32) -> u128 {
    (0..4).fold(0, |out, i| {
        out | u128::from(function((a >> (i * 32)) as u32, (b >> (i * 32)) as u32)) << (i * 32)
    })
}

/// Applies a function to each pair of lanes of 64 bits.
#[inline(always)]
fn each64(a: u128, b: u128, function: impl Fn(u64, u64) -> u64) -> u128 {
    u128::from(function(a as u64, b as u64)) | u128::from(function((a >> 64) as u64, (b >> 64) as u64)) << 64
}

/// Element `index` of `bits` bits of a vector.
#[inline(always)]
pub(super) fn element(vector: [u128; 2], index: u32, bits: u32) -> u64 {
    let at = index * bits;
    (vector[(at / 128) as usize & 1] >> (at % 128)) as u64 & u64::MAX >> (64 - bits)
}

plain! {
    Broadcast8 upper_from_low 0 |_, s, _| repeat::<u8>(s);
    Broadcast16 upper_from_low 0 |_, s, _| repeat::<u16>(s);
    Broadcast32 upper_from_low 0 |_, s, _| repeat::<u32>(s);
    Broadcast64 upper_from_low 0 |_, s, _| repeat::<u64>(s);
    Broadcast128 upper_from_low 0 |_, s, _| s;
    /// VPERMILPS by an immediate.
    PermuteSingles |_, s, i| Pshufd::apply(0, s, i);
    /// VPERMILPD by an immediate.
    PermuteDoubles upper_immediate 2 |_, s, i| {
        let half = |bit: u8| s >> (u32::from(i >> bit & 1) * 64) & LOW64;
        half(0) | half(1) << 64
    };
    /// VPERMILPS by a vector.
    SelectSingles |d, s, _| each32(s, 0, |control, _| (d >> ((control & 3) * 32)) as u32);
    /// VPERMILPD by a vector.
    SelectDoubles |d, s, _| each64(s, 0, |control, _| (d >> ((control >> 1 & 1) * 64)) as u64);
    ShiftLeft32 |d, s, _| each32(d, s, |value, count| value.checked_shl(count).unwrap_or(0));
    ShiftLeft64 |d, s, _| each64(d, s, |value, count| if count < 64 { value << count } else { 0 });
    ShiftRight32 |d, s, _| each32(d, s, |value, count| value.checked_shr(count).unwrap_or(0));
    ShiftRight64 |d, s, _| each64(d, s, |value, count| if count < 64 { value >> count } else { 0 });
    ShiftSigned32 |d, s, _| each32(d, s, |value, count| (value as i32 >> count.min(31)) as u32);
}

/// An operation that moves data between lanes of 128 bits.
trait Cross {
    fn apply(first: [u128; 2], src: [u128; 2], imm: u8) -> [u128; 2];
}

macro_rules! cross {
    ($($(#[$doc:meta])* $name:ident |$first:pat_param, $src:pat_param, $imm:pat_param| $body:expr;)*) => {$(
        $(#[$doc])*
        enum $name {}
        impl Cross for $name {
            fn apply($first: [u128; 2], $src: [u128; 2], $imm: u8) -> [u128; 2] {
                $body
            }
        }
    )*};
}

/// A vector of eight elements of 32 bits, each chosen by a function of its index.
fn gather32(choose: impl Fn(u32) -> u64) -> [u128; 2] {
    [0, 4].map(|start| (0..4).fold(0, |lane, i| lane | u128::from(choose(start + i)) << (i * 32)))
}

cross! {
    /// VINSERTF128 and VINSERTI128.
    Insert128 |first, src, imm| if imm & 1 == 0 { [src[0], first[1]] } else { [first[0], src[0]] };
    /// VPERM2F128 and VPERM2I128.
    Permute128 |first, src, imm| {
        let choices = [first[0], first[1], src[0], src[1]];
        let half = |control: u8| if control & 8 != 0 { 0 } else { choices[usize::from(control & 3)] };
        [half(imm), half(imm >> 4)]
    };
    /// VPERMQ and VPERMPD.
    Permute64 |_, src, imm| {
        let chosen = |field: u32| u128::from(element(src, u32::from(imm >> (field * 2) & 3), 64));
        [chosen(0) | chosen(1) << 64, chosen(2) | chosen(3) << 64]
    };
    /// VPERMD and VPERMPS: the first source chooses.
    Permute32 |first, src, _| gather32(|i| element(src, element(first, i, 32) as u32 & 7, 32));
}

fn cross<W: World, O: Cross, S: Source>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let src = S::lanes(cpu, world, op)?;
    put_register(cpu, op.dst, O::apply(first(cpu, op), src, op.imm as u8));
    Ok(())
}

fn pick_cross<W: World, O: Cross, M: Source>(memory: bool) -> OpFn<W> {
    if memory { cross::<W, O, M> } else { cross::<W, O, Xmm> }
}

/// VEXTRACTF128 and VEXTRACTI128.
fn extract<W: World, const MEMORY: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = register(cpu, op.src)[usize::from(op.imm as u8 & 1)];
    if MEMORY {
        let linear = cpu.address_mut::<u128, W>(op)?;
        return cpu.store(world, linear, value);
    }
    put_register(cpu, op.dst, [value, 0]);
    Ok(())
}

/// VBLENDVPS, VBLENDVPD and VPBLENDVB: by the sign bits of the `T`-wide elements of the register in the immediate.
fn blend_variable<W: World, T: Word, S: Source>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let src = S::lanes(cpu, world, op)?;
    let mask = register(cpu, op.imm as u8).map(|lane| sign_mask(lane, T::BITS));
    let first = first(cpu, op);
    let blended = [0, 1].map(|i| first[i] & !mask[i] | src[i] & mask[i]);
    finish(cpu, op, blended);
    Ok(())
}

fn pick_blend<W: World, T: Word>(memory: bool) -> OpFn<W> {
    if memory { blend_variable::<W, T, M128> } else { blend_variable::<W, T, Xmm> }
}

/// VPTEST, VTESTPS and VTESTPD: ZF if no bit of `MASK` is common, CF if the source has none outside the first.
fn test<W: World, const MASK: u64, S: Source>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let src = S::lanes(cpu, world, op)?;
    let dst = register(cpu, op.dst);
    let lanes = if is_wide(op) { 2 } else { 1 };
    let mask = u128::from(MASK) << 64 | u128::from(MASK);
    let none = |bits: [u128; 2]| bits.iter().take(lanes).all(|lane| lane & mask == 0);
    let zf = if none([src[0] & dst[0], src[1] & dst[1]]) { bits::ZF } else { 0 };
    let cf = if none([src[0] & !dst[0], src[1] & !dst[1]]) { bits::CF } else { 0 };
    cpu.flags.set_bits(zf | cf);
    Ok(())
}

const SIGNS32: u64 = 0x8000_0000_8000_0000;
const SIGNS64: u64 = 1 << 63;

fn pick_test<W: World, const MASK: u64>(memory: bool) -> OpFn<W> {
    if memory { test::<W, MASK, M128> } else { test::<W, MASK, Xmm> }
}

/// VPMOVMSKB, VMOVMSKPS and VMOVMSKPD of 256 bits: the sign bits of the `T`-wide elements.
fn move_mask<W: World, T: Word>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = register(cpu, op.src);
    let signs =
        (0..256 / T::BITS).fold(0, |mask, i| mask | (element(value, i, T::BITS) >> (T::BITS - 1)) << i);
    cpu.gpr[usize::from(op.dst & 15)] = signs;
    Ok(())
}

/// VCVTPS2PD of 256 bits.
fn widen<W: World, S: Source>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let src = S::lanes(cpu, world, op)?[0];
    let operands = [src, src >> 64].map(|half| (pack(0), pack(half)));
    let out = compute_lanes::<Cvtps2pd, 2>(cpu, operands)?.map(unpack);
    put_register(cpu, op.dst, out);
    Ok(())
}

/// VCVTPD2PS and its kin of 256 bits: two results of 64 bits each.
fn narrow<W: World, F, S>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault>
where
    F: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    S: Source,
{
    let operands = S::lanes(cpu, world, op)?.map(|lane| (pack(0), pack(lane)));
    let [low, upper] = compute_lanes::<F, 2>(cpu, operands)?.map(unpack);
    put_register(cpu, op.dst, [low & LOW64 | upper << 64, 0]);
    Ok(())
}

fn pick_narrow<W: World, F>(memory: bool) -> OpFn<W>
where
    F: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
{
    if memory { narrow::<W, F, M128> } else { narrow::<W, F, Xmm> }
}

/// Which relations satisfy the predicates 0-15 of VCMPxx (SDM volume 2, table 3-1): bit 0 less, 1 equal, 2 greater, 3
/// unordered. The upper sixteen differ in signalling only.
const RELATIONS: [u8; 16] = [2, 1, 3, 8, 13, 14, 12, 7, 10, 9, 11, 0, 5, 6, 4, 15];
/// The predicates of which a quiet NaN is an invalid operand.
const SIGNALLING: u32 = 0x9999_6666;

/// A comparison with one of 32 predicates. `Less` is predicate 1, which signals, `Equal` 0 and `Unordered` 3 of the legacy
/// instruction on elements of `BITS` bits, `SCALAR` if there is one element.
fn compare<W: World, Less, Equal, Unordered, S, const SCALAR: u32>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault>
where
    Less: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    Equal: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    Unordered: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    S: Source,
{
    let src = S::lanes(cpu, world, op)?;
    let first = first(cpu, op);
    let predicate = op.imm as u32 & 31;
    // For its exceptions.
    if SIGNALLING >> predicate & 1 != 0 {
        super::vex::compute::<W, Less>(cpu, op, first, src)?;
    } else {
        super::vex::compute::<W, Unordered>(cpu, op, first, src)?;
    }
    let relations = RELATIONS[predicate as usize & 15];
    let mut quiet = cpu.mxcsr | mxcsr::MASKS;
    let mut lane = |i: usize| {
        let (a, b) = (pack(first[i]), pack(src[i]));
        let less = unpack(Less::run(a, b, &mut quiet));
        let equal = unpack(Equal::run(a, b, &mut quiet));
        let unordered = unpack(Unordered::run(a, b, &mut quiet));
        let all = [less, equal, !(less | equal | unordered), unordered];
        let chosen = (0..4).filter(|bit| relations >> bit & 1 != 0).fold(0, |mask, bit| mask | all[bit]);
        let kept = u128::MAX.checked_shl(SCALAR).unwrap_or(0);
        if SCALAR == 0 { chosen } else { chosen & !kept | first[i] & kept }
    };
    let out = [lane(0), lane(1)];
    finish(cpu, op, out);
    Ok(())
}

macro_rules! compare {
    ($memory:expr, $name:ident, $source:ty, $scalar:literal) => {
        if $memory {
            compare::<W, $name<1>, $name<0>, $name<3>, $source, $scalar>
        } else {
            compare::<W, $name<1>, $name<0>, $name<3>, Xmm, $scalar>
        }
    };
}

/// Linear address of element `index` of the memory operand, and whether its bit is set in the mask `mask`.
fn selected<W: World, T: Word>(
    cpu: &Vcpu,
    op: &Op<W>,
    mask: [u128; 2],
    index: u32,
    write: bool,
) -> Result<Option<u64>, Fault> {
    if element(mask, index, T::BITS) >> (T::BITS - 1) == 0 {
        return Ok(None);
    }
    let disp = op.disp.wrapping_add(u64::from(index) * T::SIZE as u64);
    cpu.address_sized(&Op { disp, ..op.clone() }, T::SIZE as u32, write).map(Some)
}

/// VMASKMOVPS, VPMASKMOVD and the like from memory: elements not selected are not accessed and become zero.
/// No element is checked for alignment.
fn load_masked<W: World, T: Word>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let mask = first(cpu, op);
    let mut out = [0; 2];
    for i in 0..count::<W, T>(op) {
        if let Some(linear) = selected::<W, T>(cpu, op, mask, i, false)? {
            let mut bytes = [0; 16];
            cpu.load_bytes(world, linear, &mut bytes[..T::SIZE])?;
            let at = i * T::BITS;
            out[(at / 128) as usize & 1] |= u128::from_le_bytes(bytes) << (at % 128);
        }
    }
    finish(cpu, op, out);
    Ok(())
}

/// The same to memory; all or nothing.
fn store_masked<W: World, T: Word>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let mask = first(cpu, op);
    let value = register(cpu, op.src);
    for i in 0..count::<W, T>(op) {
        if let Some(linear) = selected::<W, T>(cpu, op, mask, i, true)? {
            cpu.check_write(world, linear, T::SIZE)?;
        }
    }
    for i in 0..count::<W, T>(op) {
        if let Some(linear) = selected::<W, T>(cpu, op, mask, i, true)? {
            cpu.store_bytes(world, linear, &element(value, i, T::BITS).to_le_bytes()[..T::SIZE])?;
        }
    }
    Ok(())
}

/// Number of `T`-wide elements of a vector.
fn count<W: World, T: Word>(op: &Op<W>) -> u32 {
    if is_wide(op) { 256 / T::BITS } else { 128 / T::BITS }
}

/// VZEROUPPER, with `ALL` VZEROALL.
fn zero<W: World, const ALL: bool>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let count = super::image::vector_count(cpu);
    cpu.ymm_high[..count].fill(0);
    if ALL {
        cpu.xmm[..count].fill(0);
    }
    Ok(())
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::VEX_Vzeroupper => zero::<W, false>,
        Code::VEX_Vzeroall => zero::<W, true>,
        Code::VEX_Vpbroadcastb_xmm_xmmm8 | Code::VEX_Vpbroadcastb_ymm_xmmm8 => {
            pick::<W, Broadcast8, M8>(memory)
        }
        Code::VEX_Vpbroadcastw_xmm_xmmm16 | Code::VEX_Vpbroadcastw_ymm_xmmm16 => {
            pick::<W, Broadcast16, M16>(memory)
        }
        Code::VEX_Vpbroadcastd_xmm_xmmm32
        | Code::VEX_Vpbroadcastd_ymm_xmmm32
        | Code::VEX_Vbroadcastss_xmm_m32
        | Code::VEX_Vbroadcastss_ymm_m32
        | Code::VEX_Vbroadcastss_xmm_xmm
        | Code::VEX_Vbroadcastss_ymm_xmm => pick::<W, Broadcast32, M32>(memory),
        Code::VEX_Vpbroadcastq_xmm_xmmm64
        | Code::VEX_Vpbroadcastq_ymm_xmmm64
        | Code::VEX_Vbroadcastsd_ymm_m64
        | Code::VEX_Vbroadcastsd_ymm_xmm => pick::<W, Broadcast64, M64>(memory),
        Code::VEX_Vbroadcastf128_ymm_m128 | Code::VEX_Vbroadcasti128_ymm_m128 => {
            combine::<W, Broadcast128, Fixed128>
        }
        Code::VEX_Vmovddup_ymm_ymmm256 => pick::<W, Movddup, M128>(memory),
        Code::VEX_Vpermilps_xmm_xmmm128_imm8 | Code::VEX_Vpermilps_ymm_ymmm256_imm8 => {
            pick::<W, PermuteSingles, M128>(memory)
        }
        Code::VEX_Vpermilpd_xmm_xmmm128_imm8 | Code::VEX_Vpermilpd_ymm_ymmm256_imm8 => {
            pick::<W, PermuteDoubles, M128>(memory)
        }
        Code::VEX_Vpermilps_xmm_xmm_xmmm128 | Code::VEX_Vpermilps_ymm_ymm_ymmm256 => {
            pick::<W, SelectSingles, M128>(memory)
        }
        Code::VEX_Vpermilpd_xmm_xmm_xmmm128 | Code::VEX_Vpermilpd_ymm_ymm_ymmm256 => {
            pick::<W, SelectDoubles, M128>(memory)
        }
        Code::VEX_Vpblendd_xmm_xmm_xmmm128_imm8 | Code::VEX_Vpblendd_ymm_ymm_ymmm256_imm8 => {
            pick::<W, Blendps, M128>(memory)
        }
        Code::VEX_Vpsllvd_xmm_xmm_xmmm128 | Code::VEX_Vpsllvd_ymm_ymm_ymmm256 => {
            pick::<W, ShiftLeft32, M128>(memory)
        }
        Code::VEX_Vpsllvq_xmm_xmm_xmmm128 | Code::VEX_Vpsllvq_ymm_ymm_ymmm256 => {
            pick::<W, ShiftLeft64, M128>(memory)
        }
        Code::VEX_Vpsrlvd_xmm_xmm_xmmm128 | Code::VEX_Vpsrlvd_ymm_ymm_ymmm256 => {
            pick::<W, ShiftRight32, M128>(memory)
        }
        Code::VEX_Vpsrlvq_xmm_xmm_xmmm128 | Code::VEX_Vpsrlvq_ymm_ymm_ymmm256 => {
            pick::<W, ShiftRight64, M128>(memory)
        }
        Code::VEX_Vpsravd_xmm_xmm_xmmm128 | Code::VEX_Vpsravd_ymm_ymm_ymmm256 => {
            pick::<W, ShiftSigned32, M128>(memory)
        }
        Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8 | Code::VEX_Vinserti128_ymm_ymm_xmmm128_imm8 => {
            pick_cross::<W, Insert128, Fixed128>(memory)
        }
        Code::VEX_Vextractf128_xmmm128_ymm_imm8 | Code::VEX_Vextracti128_xmmm128_ymm_imm8 => {
            if memory {
                extract::<W, true>
            } else {
                extract::<W, false>
            }
        }
        Code::VEX_Vperm2f128_ymm_ymm_ymmm256_imm8 | Code::VEX_Vperm2i128_ymm_ymm_ymmm256_imm8 => {
            pick_cross::<W, Permute128, M128>(memory)
        }
        Code::VEX_Vpermq_ymm_ymmm256_imm8 | Code::VEX_Vpermpd_ymm_ymmm256_imm8 => {
            pick_cross::<W, Permute64, M128>(memory)
        }
        Code::VEX_Vpermd_ymm_ymm_ymmm256 | Code::VEX_Vpermps_ymm_ymm_ymmm256 => {
            pick_cross::<W, Permute32, M128>(memory)
        }
        Code::VEX_Vblendvps_xmm_xmm_xmmm128_xmm | Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm => {
            pick_blend::<W, u32>(memory)
        }
        Code::VEX_Vblendvpd_xmm_xmm_xmmm128_xmm | Code::VEX_Vblendvpd_ymm_ymm_ymmm256_ymm => {
            pick_blend::<W, u64>(memory)
        }
        Code::VEX_Vpblendvb_xmm_xmm_xmmm128_xmm | Code::VEX_Vpblendvb_ymm_ymm_ymmm256_ymm => {
            pick_blend::<W, u8>(memory)
        }
        Code::VEX_Vptest_xmm_xmmm128 | Code::VEX_Vptest_ymm_ymmm256 => pick_test::<W, { u64::MAX }>(memory),
        Code::VEX_Vtestps_xmm_xmmm128 | Code::VEX_Vtestps_ymm_ymmm256 => pick_test::<W, SIGNS32>(memory),
        Code::VEX_Vtestpd_xmm_xmmm128 | Code::VEX_Vtestpd_ymm_ymmm256 => pick_test::<W, SIGNS64>(memory),
        Code::VEX_Vpmovmskb_r32_ymm | Code::VEX_Vpmovmskb_r64_ymm => move_mask::<W, u8>,
        Code::VEX_Vmovmskps_r32_ymm | Code::VEX_Vmovmskps_r64_ymm => move_mask::<W, u32>,
        Code::VEX_Vmovmskpd_r32_ymm | Code::VEX_Vmovmskpd_r64_ymm => move_mask::<W, u64>,
        Code::VEX_Vcvtps2pd_ymm_xmmm128 if memory => widen::<W, Part64>,
        Code::VEX_Vcvtps2pd_ymm_xmmm128 => widen::<W, Xmm>,
        Code::VEX_Vcvtpd2ps_xmm_ymmm256 => pick_narrow::<W, Cvtpd2ps>(memory),
        Code::VEX_Vcvtpd2dq_xmm_ymmm256 => pick_narrow::<W, Cvtpd2dq>(memory),
        Code::VEX_Vcvttpd2dq_xmm_ymmm256 => pick_narrow::<W, Cvttpd2dq>(memory),
        Code::VEX_Vcmpps_xmm_xmm_xmmm128_imm8 | Code::VEX_Vcmpps_ymm_ymm_ymmm256_imm8 => {
            compare!(memory, Cmpps, M128, 0)
        }
        Code::VEX_Vcmppd_xmm_xmm_xmmm128_imm8 | Code::VEX_Vcmppd_ymm_ymm_ymmm256_imm8 => {
            compare!(memory, Cmppd, M128, 0)
        }
        Code::VEX_Vcmpss_xmm_xmm_xmmm32_imm8 => compare!(memory, Cmpss, M32, 32),
        Code::VEX_Vcmpsd_xmm_xmm_xmmm64_imm8 => compare!(memory, Cmpsd, M64, 64),
        Code::VEX_Vmaskmovps_xmm_xmm_m128
        | Code::VEX_Vmaskmovps_ymm_ymm_m256
        | Code::VEX_Vpmaskmovd_xmm_xmm_m128
        | Code::VEX_Vpmaskmovd_ymm_ymm_m256 => load_masked::<W, u32>,
        Code::VEX_Vmaskmovpd_xmm_xmm_m128
        | Code::VEX_Vmaskmovpd_ymm_ymm_m256
        | Code::VEX_Vpmaskmovq_xmm_xmm_m128
        | Code::VEX_Vpmaskmovq_ymm_ymm_m256 => load_masked::<W, u64>,
        Code::VEX_Vmaskmovps_m128_xmm_xmm
        | Code::VEX_Vmaskmovps_m256_ymm_ymm
        | Code::VEX_Vpmaskmovd_m128_xmm_xmm
        | Code::VEX_Vpmaskmovd_m256_ymm_ymm => store_masked::<W, u32>,
        Code::VEX_Vmaskmovpd_m128_xmm_xmm
        | Code::VEX_Vmaskmovpd_m256_ymm_ymm
        | Code::VEX_Vpmaskmovq_m128_xmm_xmm
        | Code::VEX_Vpmaskmovq_m256_ymm_ymm => store_masked::<W, u64>,
        _ => return None,
    };
    Some((Gate::Avx, run))
}
