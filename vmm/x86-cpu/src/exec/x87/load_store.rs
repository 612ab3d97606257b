//! Loads, stores and moves between registers.

use super::exception::{BEFORE, C1, IE, OE, OVERFLOW, UE, UNDERFLOW};
use super::{Computed, bcd, check_alignment, format, host, pops, select_pops};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::memory::Word;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

/// Chooses the operation for an instruction of this file.
pub(super) fn select<W: World>(code: Code, op: &mut Op<W>) -> Option<OpFn<W>> {
    let (pops, run): (u8, OpFn<W>) = match code {
        Code::Fld_m32fp => (0, load::<W, Single>),
        Code::Fld_m64fp => (0, load::<W, Double>),
        Code::Fld_m80fp => (0, load_bytes::<W, false>),
        Code::Fbld_m80bcd => (0, load_bytes::<W, true>),
        Code::Fild_m16int => (0, load::<W, Int16>),
        Code::Fild_m32int => (0, load::<W, Int32>),
        Code::Fild_m64int => (0, load::<W, Int64>),
        Code::Fst_m32fp => (0, store::<W, Single>),
        Code::Fstp_m32fp => (1, store::<W, Single>),
        Code::Fst_m64fp => (0, store::<W, Double>),
        Code::Fstp_m64fp => (1, store::<W, Double>),
        Code::Fstp_m80fp => (1, store_bytes::<W, false>),
        Code::Fbstp_m80bcd => (1, store_bytes::<W, true>),
        Code::Fist_m16int => (0, store::<W, Int16>),
        Code::Fistp_m16int => (1, store::<W, Int16>),
        Code::Fist_m32int => (0, store::<W, Int32>),
        Code::Fistp_m32int => (1, store::<W, Int32>),
        Code::Fistp_m64int => (1, store::<W, Int64>),
        Code::Fisttp_m16int => (1, store::<W, Truncated<Int16>>),
        Code::Fisttp_m32int => (1, store::<W, Truncated<Int32>>),
        Code::Fisttp_m64int => (1, store::<W, Truncated<Int64>>),
        Code::Fld_sti => (0, load_register::<W>),
        Code::Fst_sti => (0, store_register::<W>),
        Code::Fstp_sti | Code::Fstp_sti_DFD0 | Code::Fstp_sti_DFD8 => (1, store_register::<W>),
        Code::Fstpnce_sti => (1, store_unchecked::<W>),
        Code::Fxch_st0_sti | Code::Fxch_st0_sti_DDC8 | Code::Fxch_st0_sti_DFC8 => (0, exchange::<W>),
        Code::Fld1 => (0, load_constant::<W, 0>),
        Code::Fldl2t => (0, load_constant::<W, 1>),
        Code::Fldl2e => (0, load_constant::<W, 2>),
        Code::Fldpi => (0, load_constant::<W, 3>),
        Code::Fldlg2 => (0, load_constant::<W, 4>),
        Code::Fldln2 => (0, load_constant::<W, 5>),
        Code::Fldz => (0, load_constant::<W, 6>),
        _ => return None,
    };
    select_pops(op, pops);
    Some(run)
}

/// A memory format of at most 64 bits.
trait Format {
    type Bits: Word;
    /// Stored for an invalid operand.
    const INDEFINITE: u64;
    /// Widens a value of this format.
    fn widen(control: u16, bits: u64) -> Computed;
    /// Narrows a value to this format.
    fn narrow(control: u16, value: u128) -> Computed;
}

struct Single;
struct Double;
struct Int16;
struct Int32;
struct Int64;
/// An integer format, converted to by truncation.
struct Truncated<T>(T);

impl Format for Single {
    type Bits = u32;
    const INDEFINITE: u64 = 0xffc0_0000;
    fn widen(control: u16, bits: u64) -> Computed {
        host::load_single(control, bits as u32)
    }
    fn narrow(control: u16, value: u128) -> Computed {
        host::to_single(control, value)
    }
}

impl Format for Double {
    type Bits = u64;
    const INDEFINITE: u64 = 0xfff8_0000_0000_0000;
    fn widen(control: u16, bits: u64) -> Computed {
        host::load_double(control, bits)
    }
    fn narrow(control: u16, value: u128) -> Computed {
        host::to_double(control, value)
    }
}

macro_rules! integer {
    ($name:ident, $bits:ty, $signed:ty, $narrow:ident, $truncate:ident) => {
        impl Format for $name {
            type Bits = $bits;
            const INDEFINITE: u64 = 1 << (<$bits>::BITS - 1);
            fn widen(_: u16, bits: u64) -> Computed {
                Computed { value: format::from_integer(i64::from(bits as $signed)), status: 0 }
            }
            fn narrow(control: u16, value: u128) -> Computed {
                host::$narrow(control, value)
            }
        }
        impl Format for Truncated<$name> {
            type Bits = $bits;
            const INDEFINITE: u64 = $name::INDEFINITE;
            fn widen(control: u16, bits: u64) -> Computed {
                $name::widen(control, bits)
            }
            fn narrow(control: u16, value: u128) -> Computed {
                host::$truncate(control, value)
            }
        }
    };
}
integer!(Int16, u16, i16, to_i16, truncate_i16);
integer!(Int32, u32, i32, to_i32, truncate_i32);
integer!(Int64, u64, i64, to_i64, truncate_i64);

/// Ends an instruction that pushes. A denormal operand of a load is pushed even if that exception is unmasked.
fn push<W: World>(cpu: &mut Vcpu, op: &Op<W>, computed: Computed) {
    let computed = if cpu.x87.empty(7) || computed == Computed::UNDERFLOW {
        computed
    } else {
        Computed { value: format::INDEFINITE, status: OVERFLOW }
    };
    cpu.finish_x87(op, computed.status, C1);
    if cpu.x87.unmasked(computed.status) & IE == 0 {
        cpu.x87.push(computed.value);
    }
}

fn load<W: World, F: Format>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let linear = cpu.address::<F::Bits, W>(op)?;
    let bits = cpu.load::<F::Bits, W>(world, linear)?.extend() as u64;
    let computed = F::widen(cpu.x87.control, bits);
    push(cpu, op, computed);
    Ok(())
}

/// FLD m80fp and FBLD.
fn load_bytes<W: World, const DECIMAL: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let linear = cpu.address_sized(op, 10, false)?;
    check_alignment(cpu, linear, 8)?;
    let mut bytes = [0; 16];
    cpu.load_bytes(world, linear, &mut bytes[..10])?;
    let bits = u128::from_le_bytes(bytes);
    let value = if DECIMAL { bcd::to_extended(bits) } else { bits };
    push(cpu, op, Computed { value, status: 0 });
    Ok(())
}

/// Whether an instruction that raised `raised` stores to memory: not with an unmasked exception other than precision.
fn stores(cpu: &Vcpu, raised: u16) -> bool {
    cpu.x87.unmasked(raised) & (BEFORE | OE | UE) == 0
}

fn store<W: World, F: Format>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let control = cpu.x87.control;
    let indefinite = Computed { value: u128::from(F::INDEFINITE), status: UNDERFLOW };
    let computed = cpu.x87.get(0).map_or(indefinite, |value| F::narrow(control, value));
    let stored = stores(cpu, computed.status);
    if stored {
        let linear = cpu.address_mut::<F::Bits, W>(op)?;
        cpu.store(world, linear, F::Bits::truncate(computed.value))?;
    }
    if cpu.finish_x87(op, computed.status, C1) && stored {
        cpu.x87.pop(pops(op));
    }
    Ok(())
}

/// FSTP m80fp and FBSTP.
fn store_bytes<W: World, const DECIMAL: bool>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    cpu.check_x87()?;
    let control = cpu.x87.control;
    let computed = match cpu.x87.get(0) {
        Some(value) if DECIMAL => host::to_decimal(control, value),
        Some(value) => Computed { value, status: 0 },
        None => {
            let value = if DECIMAL { bcd::INDEFINITE } else { format::INDEFINITE };
            Computed { value, status: UNDERFLOW }
        }
    };
    let stored = stores(cpu, computed.status);
    if stored {
        let linear = cpu.address_sized(op, 10, true)?;
        check_alignment(cpu, linear, 8)?;
        cpu.store_bytes(world, linear, &computed.value.to_le_bytes()[..10])?;
    }
    if cpu.finish_x87(op, computed.status, C1) && stored {
        cpu.x87.pop(pops(op));
    }
    Ok(())
}

fn load_register<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let computed = cpu.x87.get(op.src).map_or(Computed::UNDERFLOW, |value| Computed { value, status: 0 });
    push(cpu, op, computed);
    Ok(())
}

/// FST and FSTP to a register.
fn store_register<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let computed = cpu.x87.get(0).map_or(Computed::UNDERFLOW, |value| Computed { value, status: 0 });
    if cpu.finish_x87(op, computed.status, C1) {
        cpu.x87.put(op.dst, computed.value);
        cpu.x87.pop(pops(op));
    }
    Ok(())
}

/// The undocumented FSTPNCE: as FSTP, but an empty ST(0) is only popped.
fn store_unchecked<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    cpu.finish_x87(op, 0, C1);
    if let Some(value) = cpu.x87.get(0) {
        cpu.x87.put(op.dst, value);
    }
    cpu.x87.pop(pops(op));
    Ok(())
}

fn exchange<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let (a, b) = (cpu.x87.get(0), cpu.x87.get(op.src));
    let raised = if a.is_some() && b.is_some() { 0 } else { UNDERFLOW };
    if cpu.finish_x87(op, raised, C1) {
        cpu.x87.put(0, b.unwrap_or(format::INDEFINITE));
        cpu.x87.put(op.src, a.unwrap_or(format::INDEFINITE));
    }
    Ok(())
}

/// Biased exponent, significand rounded down, and whether the nearest is the next one up: 1, log2(10), log2(e), pi,
/// log10(2), ln(2), 0 (SDM volume 2, FLD1).
const CONSTANTS: [(u16, u64, bool); 7] = [
    (0x3fff, format::INTEGER, false),
    (0x4000, 0xd49a_784b_cd1b_8afe, false),
    (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
    (0x4000, 0xc90f_daa2_2168_c234, true),
    (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
    (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
    (0, 0, false),
];

fn load_constant<W: World, const N: usize>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.check_x87()?;
    let (exponent, down, nearest_is_up) = CONSTANTS[N];
    let exact = down & !format::INTEGER == 0;
    let up = match cpu.x87.control >> 10 & 3 {
        0 => nearest_is_up,
        2 => !exact,
        _ => false,
    };
    let value = format::pack(false, exponent, down + u64::from(up));
    push(cpu, op, Computed { value, status: 0 });
    Ok(())
}
