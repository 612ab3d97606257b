//! MUL, IMUL, DIV, IDIV.

use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::exec::register::operand_size;
use crate::fault::Fault;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::{Vcpu, reg};
use crate::world::World;
use iced_x86::{Instruction, Mnemonic, OpKind};

const AH: u8 = 0x20;
const AL: u8 = 0;
const DX: u8 = reg::RDX as u8;

/// The explicit source operand: memory if `op.aux` is set, else register `op.src`.
#[inline(always)]
fn source<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<T, Fault> {
    if op.aux == 0 {
        return Ok(cpu.reg(op.src));
    }
    let address = cpu.address::<T, W>(op)?;
    cpu.load(world, address)
}

/// Writes a double-width product: AX for bytes, else rDX:rAX.
#[inline(always)]
fn put_double<T: Int>(cpu: &mut Vcpu, low: T, high: T) {
    cpu.set_reg(AL, low);
    cpu.set_reg(if T::BITS == 8 { AH } else { DX }, high);
}

fn mul<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = source::<T, W>(cpu, world, op)?;
    let product = u128::from(cpu.reg::<T>(AL).zext()) * u128::from(value.zext());
    let (low, high) = (T::low(product as u64), T::low((product >> T::BITS) as u64));
    put_double(cpu, low, high);
    let overflow = high.zext() != 0;
    cpu.flags.set_with(low.sext(), overflow, overflow, false);
    Ok(())
}

/// The full product of two signed operands, and whether it exceeds the operand size.
#[inline(always)]
fn signed_product<T: Int>(a: T, b: T) -> (i128, bool) {
    let product = i128::from(a.sext() as i64) * i128::from(b.sext() as i64);
    (product, product != i128::from(T::low(product as u64).sext() as i64))
}

fn imul<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = source::<T, W>(cpu, world, op)?;
    let (product, overflow) = signed_product(cpu.reg::<T>(AL), value);
    let low = T::low(product as u64);
    put_double(cpu, low, T::low((product >> T::BITS) as u64));
    cpu.flags.set_with(low.sext(), overflow, overflow, false);
    Ok(())
}

fn imul_to_reg<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = source::<T, W>(cpu, world, op)?;
    let (product, overflow) = signed_product(cpu.reg::<T>(op.dst), value);
    let low = T::low(product as u64);
    cpu.set_reg(op.dst, low);
    cpu.flags.set_with(low.sext(), overflow, overflow, false);
    Ok(())
}

fn imul_by_imm<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = source::<T, W>(cpu, world, op)?;
    let (product, overflow) = signed_product(value, T::low(op.imm));
    let low = T::low(product as u64);
    cpu.set_reg(op.dst, low);
    cpu.flags.set_with(low.sext(), overflow, overflow, false);
    Ok(())
}

#[inline(always)]
fn dividend<T: Int>(cpu: &Vcpu) -> u128 {
    let high = cpu.reg::<T>(if T::BITS == 8 { AH } else { DX }).zext();
    u128::from(high) << T::BITS | u128::from(cpu.reg::<T>(AL).zext())
}

fn div<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let divisor = source::<T, W>(cpu, world, op)?.zext();
    if divisor == 0 {
        return Err(Fault::DE);
    }
    let dividend = dividend::<T>(cpu);
    let (quotient, remainder) = if let Ok(small) = u64::try_from(dividend) {
        (u128::from(small / divisor), small % divisor)
    } else {
        (dividend / u128::from(divisor), (dividend % u128::from(divisor)) as u64)
    };
    if quotient >> T::BITS != 0 {
        return Err(Fault::DE);
    }
    put_double(cpu, T::low(quotient as u64), T::low(remainder));
    Ok(())
}

fn idiv<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let divisor = i128::from(source::<T, W>(cpu, world, op)?.sext() as i64);
    if divisor == 0 {
        return Err(Fault::DE);
    }
    let shift = 128 - 2 * T::BITS;
    let dividend = (dividend::<T>(cpu) << shift) as i128 >> shift;
    // The most negative dividend over -1 does not fit even 128 bits.
    let (Some(quotient), Some(remainder)) = (dividend.checked_div(divisor), dividend.checked_rem(divisor))
    else {
        return Err(Fault::DE);
    };
    let low = T::low(quotient as u64);
    if i128::from(low.sext() as i64) != quotient {
        return Err(Fault::DE);
    }
    put_double(cpu, low, T::low(remainder as u64));
    Ok(())
}

pub(super) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    let mnemonic = instruction.mnemonic();
    if !matches!(mnemonic, Mnemonic::Mul | Mnemonic::Imul | Mnemonic::Div | Mnemonic::Idiv) {
        return Lowered::No;
    }
    let size = operand_size(instruction, 0);
    let operands = instruction.op_count();
    let explicit = if operands == 1 { 0 } else { 1 };
    op.aux = u8::from(instruction.op_kind(explicit) == OpKind::Memory);
    if op.aux == 0 {
        op.src = gpr(instruction.op_register(explicit));
    }
    if operands > 1 {
        op.dst = gpr(instruction.op0_register());
    }
    op.run = match (mnemonic, operands) {
        (Mnemonic::Mul, _) => by_size!(size, mul),
        (Mnemonic::Div, _) => by_size!(size, div),
        (Mnemonic::Idiv, _) => by_size!(size, idiv),
        (_, 1) => by_size!(size, imul),
        (_, 2) => by_wide_size!(size, imul_to_reg),
        _ => {
            op.imm = instruction.immediate(2);
            by_wide_size!(size, imul_by_imm)
        }
    };
    Lowered::Straight
}
