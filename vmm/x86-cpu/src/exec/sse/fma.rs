//! FMA: products and sums rounded once; and F16C: conversions of half precision. Both are computed in integers, so that
//! results do not depend on the host.

use super::exact::{Class, Control, Double, Half, Single};
use super::float::{mxcsr, raise};
use super::operand::{M32, M64, M128, Part64, Source, Xmm};
use super::vex::{finish, first, is_wide, register};
use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::{Code, Mnemonic};

/// Width and number of the elements of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elements {
    Singles,
    Doubles,
    Single,
    Double,
}

/// Bits of [`Op::imm`]: the product is negated, the addend of elements with even and with odd numbers is.
const NEGATE_PRODUCT: u8 = 1;
const NEGATE_EVEN: u8 = 2;
const NEGATE_ODD: u8 = 4;
/// Bits 3-4 of [`Op::imm`]: the order of the operands in the name.
const ORDER_SHIFT: u8 = 3;

macro_rules! forms {
    ($($kind:expr => $($elements:ident: $m132:ident $m213:ident $m231:ident),*;)*) => {
        /// What an instruction does, as in [`Op::imm`], and on what elements.
        fn form(mnemonic: Mnemonic) -> Option<(u8, Elements)> {
            Some(match mnemonic {
                $($(
                    Mnemonic::$m132 => ($kind, Elements::$elements),
                    Mnemonic::$m213 => ($kind | 1 << ORDER_SHIFT, Elements::$elements),
                    Mnemonic::$m231 => ($kind | 2 << ORDER_SHIFT, Elements::$elements),
                )*)*
                _ => return None,
            })
        }
    };
}

forms! {
    0 =>
        Singles: Vfmadd132ps Vfmadd213ps Vfmadd231ps, Doubles: Vfmadd132pd Vfmadd213pd Vfmadd231pd,
        Single: Vfmadd132ss Vfmadd213ss Vfmadd231ss, Double: Vfmadd132sd Vfmadd213sd Vfmadd231sd;
    NEGATE_EVEN | NEGATE_ODD =>
        Singles: Vfmsub132ps Vfmsub213ps Vfmsub231ps, Doubles: Vfmsub132pd Vfmsub213pd Vfmsub231pd,
        Single: Vfmsub132ss Vfmsub213ss Vfmsub231ss, Double: Vfmsub132sd Vfmsub213sd Vfmsub231sd;
    NEGATE_PRODUCT =>
        Singles: Vfnmadd132ps Vfnmadd213ps Vfnmadd231ps, Doubles: Vfnmadd132pd Vfnmadd213pd Vfnmadd231pd,
        Single: Vfnmadd132ss Vfnmadd213ss Vfnmadd231ss, Double: Vfnmadd132sd Vfnmadd213sd Vfnmadd231sd;
    NEGATE_PRODUCT | NEGATE_EVEN | NEGATE_ODD =>
        Singles: Vfnmsub132ps Vfnmsub213ps Vfnmsub231ps, Doubles: Vfnmsub132pd Vfnmsub213pd Vfnmsub231pd,
        Single: Vfnmsub132ss Vfnmsub213ss Vfnmsub231ss, Double: Vfnmsub132sd Vfnmsub213sd Vfnmsub231sd;
    NEGATE_EVEN =>
        Singles: Vfmaddsub132ps Vfmaddsub213ps Vfmaddsub231ps,
        Doubles: Vfmaddsub132pd Vfmaddsub213pd Vfmaddsub231pd;
    NEGATE_ODD =>
        Singles: Vfmsubadd132ps Vfmsubadd213ps Vfmsubadd231ps,
        Doubles: Vfmsubadd132pd Vfmsubadd213pd Vfmsubadd231pd;
}

/// Multiplies and adds elements of `BITS` bits, all or with `SCALAR` the lowest.
fn fused<W: World, S: Source, const BITS: u32, const SCALAR: bool>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let third = S::lanes(cpu, world, op)?;
    let (dst, second) = (register(cpu, op.dst), first(cpu, op));
    let kind = op.imm as u8;
    let [a, b, c] = match kind >> ORDER_SHIFT {
        0 => [dst, third, second],
        1 => [second, dst, third],
        _ => [second, third, dst],
    };
    let control = Control::of(cpu.mxcsr);
    let count = if SCALAR { 1 } else { 128 / BITS };
    let mut flags = 0;
    let mut out = dst;
    for lane in 0..if is_wide(op) { 2 } else { 1 } {
        for i in 0..count {
            let shift = i * BITS;
            let mask = u64::MAX >> (64 - BITS);
            let element = |vector: [u128; 2]| (vector[lane] >> shift) as u64 & mask;
            let addend = if i % 2 == 0 { NEGATE_EVEN } else { NEGATE_ODD };
            let negate = [kind & NEGATE_PRODUCT != 0, kind & addend != 0];
            let operands = [element(a), element(b), element(c)];
            let (bits, raised) = if BITS == 32 {
                Single::fused(operands, negate, control)
            } else {
                Double::fused(operands, negate, control)
            };
            flags |= raised;
            out[lane] = out[lane] & !(u128::from(mask) << shift) | u128::from(bits) << shift;
        }
    }
    raise(cpu, flags)?;
    finish(cpu, op, out);
    Ok(())
}

/// A half as a single: always exact.
fn widen(half: u64) -> (u64, u32) {
    let exact = Control { rounding: 0, denormals_are_zero: false, flush_to_zero: false, unmasked: 0 };
    match Half::class(half, false) {
        Class::Nan => {
            let flags = if Half::is_signalling(half) { mxcsr::IE } else { 0 };
            (Single::nan(Half::payload(half)), flags)
        }
        Class::Infinity => (Single::infinity(Half::is_negative(half)), 0),
        Class::Finite(value) => Single::round(value, exact),
    }
}

/// A single as a half.
fn narrow(single: u64, control: Control) -> (u64, u32) {
    let denormal = !control.denormals_are_zero && Single::is_denormal(single);
    match Single::class(single, control.denormals_are_zero) {
        Class::Nan => {
            let flags = if Single::is_signalling(single) { mxcsr::IE } else { 0 };
            (Half::nan(Single::payload(single)), flags)
        }
        Class::Infinity => (Half::infinity(Single::is_negative(single)), 0),
        Class::Finite(value) => {
            let (bits, flags) = Half::round(value, control);
            (bits, flags | if denormal { mxcsr::DE } else { 0 })
        }
    }
}

/// VCVTPH2PS.
fn from_half<W: World, S: Source>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let src = S::lanes(cpu, world, op)?[0];
    let mut flags = 0;
    let mut lane = |start: u32| {
        (0..4).fold(0, |out, i| {
            let (bits, raised) = widen((src >> ((start + i) * 16)) as u64 & 0xffff);
            flags |= raised;
            out | u128::from(bits) << (i * 32)
        })
    };
    let out = [lane(0), if is_wide(op) { lane(4) } else { 0 }];
    raise(cpu, flags)?;
    finish(cpu, op, out);
    Ok(())
}

/// VCVTPS2PH. The immediate chooses the rounding; tiny results are not flushed.
fn to_half<W: World, const MEMORY: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let src = register(cpu, op.src);
    let count = if is_wide(op) { 8 } else { 4 };
    let imm = op.imm as u32;
    let mut control = Control { flush_to_zero: false, ..Control::of(cpu.mxcsr) };
    if imm & 4 == 0 {
        control.rounding = imm & 3;
    }
    let mut flags = 0;
    let out = (0..count).fold(0_u128, |out, i| {
        let single = (src[i / 4] >> (i % 4 * 32)) as u64 & 0xffff_ffff;
        let (bits, raised) = narrow(single, control);
        flags |= raised;
        out | u128::from(bits) << (i * 16)
    });
    if MEMORY {
        let linear = cpu.address_sized(op, count as u32 * 2, true)?;
        if !is_wide(op) {
            cpu.check_alignment::<u64>(linear)?;
        }
        cpu.check_write(world, linear, count * 2)?;
        raise(cpu, flags)?;
        return cpu.store_bytes(world, linear, &out.to_le_bytes()[..count * 2]);
    }
    raise(cpu, flags)?;
    super::vex::put_register(cpu, op.dst, [out, 0]);
    Ok(())
}

/// Says in the immediate what a fused operation is to do.
pub(super) fn fill<W: World>(code: Code, op: &mut Op<W>) {
    if let Some((kind, _)) = form(code.mnemonic()) {
        op.imm = u64::from(kind);
    }
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run: OpFn<W> = match (code, form(code.mnemonic())) {
        (_, Some((_, Elements::Singles))) if memory => fused::<W, M128, 32, false>,
        (_, Some((_, Elements::Singles))) => fused::<W, Xmm, 32, false>,
        (_, Some((_, Elements::Doubles))) if memory => fused::<W, M128, 64, false>,
        (_, Some((_, Elements::Doubles))) => fused::<W, Xmm, 64, false>,
        (_, Some((_, Elements::Single))) if memory => fused::<W, M32, 32, true>,
        (_, Some((_, Elements::Single))) => fused::<W, Xmm, 32, true>,
        (_, Some((_, Elements::Double))) if memory => fused::<W, M64, 64, true>,
        (_, Some((_, Elements::Double))) => fused::<W, Xmm, 64, true>,
        (Code::VEX_Vcvtph2ps_xmm_xmmm64 | Code::VEX_Vcvtph2ps_ymm_xmmm128, _) if memory => {
            from_half::<W, Part64>
        }
        (Code::VEX_Vcvtph2ps_xmm_xmmm64 | Code::VEX_Vcvtph2ps_ymm_xmmm128, _) => from_half::<W, Xmm>,
        (Code::VEX_Vcvtps2ph_xmmm64_xmm_imm8 | Code::VEX_Vcvtps2ph_xmmm128_ymm_imm8, _) if memory => {
            to_half::<W, true>
        }
        (Code::VEX_Vcvtps2ph_xmmm64_xmm_imm8 | Code::VEX_Vcvtps2ph_xmmm128_ymm_imm8, _) => {
            to_half::<W, false>
        }
        _ => return None,
    };
    Some((Gate::Avx, run))
}
