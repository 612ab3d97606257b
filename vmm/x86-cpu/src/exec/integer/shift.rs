//! Shifts and rotates.

use crate::block::{Op, OpFn};
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::exec::register::operand_size;
use crate::fault::Fault;
use crate::flags::LazyFlags;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::{Vcpu, reg};
use crate::world::World;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// A shift by a count that is not 0. Where flags are undefined, they are those of current Intel processors.
trait Shift: 'static {
    fn apply<T: Int>(flags: &mut LazyFlags, value: T, count: u32) -> T;
}

fn top<T: Int>(value: T) -> bool {
    value.zext() >> (T::BITS - 1) & 1 != 0
}

struct Shl;
impl Shift for Shl {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let wide = u128::from(value.zext()) << count;
        let result = T::low(wide as u64);
        let carry = wide >> T::BITS & 1 != 0;
        flags.set_with(result.sext(), carry, top(result) != carry, false);
        result
    }
}

struct Shr;
impl Shift for Shr {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let result = T::low(value.zext() >> count);
        let carry = value.zext() >> (count - 1) & 1 != 0;
        flags.set_with(result.sext(), carry, count == 1 && top(value), false);
        result
    }
}

struct Sar;
impl Shift for Sar {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let signed = value.sext() as i64;
        let result = T::low((signed >> count) as u64);
        let carry = signed >> (count - 1) & 1 != 0;
        flags.set_with(result.sext(), carry, false, false);
        result
    }
}

struct Rol;
impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let turn = count % T::BITS;
        let wide = u128::from(value.zext());
        let result = T::low((wide << turn | wide >> (T::BITS - turn)) as u64);
        let carry = result.zext() & 1 != 0;
        flags.put_cf_of(carry, top(result) != carry);
        result
    }
}

struct Ror;
impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let turn = count % T::BITS;
        let wide = u128::from(value.zext());
        let result = T::low((wide >> turn | wide << (T::BITS - turn)) as u64);
        let second = result.zext() >> (T::BITS - 2) & 1 != 0;
        flags.put_cf_of(top(result), top(result) != second);
        result
    }
}

struct Rcl;
impl Shift for Rcl {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let turn = count % (T::BITS + 1);
        if turn == 0 {
            // CF stays; OF still follows from the unchanged bits.
            let carry = flags.cf();
            flags.put_cf_of(carry, top(value) != carry);
            return value;
        }
        let wide = u128::from(flags.cf()) << T::BITS | u128::from(value.zext());
        let turned = wide << turn | wide >> (T::BITS + 1 - turn);
        let result = T::low(turned as u64);
        let carry = turned >> T::BITS & 1 != 0;
        flags.put_cf_of(carry, top(result) != carry);
        result
    }
}

struct Rcr;
impl Shift for Rcr {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut LazyFlags, value: T, count: u32) -> T {
        let turn = count % (T::BITS + 1);
        if turn == 0 {
            let carry = flags.cf();
            let second = value.zext() >> (T::BITS - 2) & 1 != 0;
            flags.put_cf_of(carry, top(value) != second);
            return value;
        }
        let wide = u128::from(flags.cf()) << T::BITS | u128::from(value.zext());
        let turned = wide >> turn | wide << (T::BITS + 1 - turn);
        let result = T::low(turned as u64);
        let carry = turned >> T::BITS & 1 != 0;
        let second = result.zext() >> (T::BITS - 2) & 1 != 0;
        flags.put_cf_of(carry, top(result) != second);
        result
    }
}

/// The count as the processor masks it: 6 bits for 64-bit operands, else 5.
#[inline(always)]
fn masked<T: Int>(count: u64) -> u32 {
    (count & if T::BITS == 64 { 63 } else { 31 }) as u32
}

#[inline(always)]
fn shift_reg<S: Shift, T: Int, W: World>(cpu: &mut Vcpu, op: &Op<W>, count: u64) {
    let count = masked::<T>(count);
    let value = cpu.reg::<T>(op.dst);
    // A count of 0 changes no flag, but a 32-bit destination is still zero-extended.
    let result = if count == 0 { value } else { S::apply(&mut cpu.flags, value, count) };
    cpu.set_reg(op.dst, result);
}

#[inline(always)]
fn shift_mem<S: Shift, T: Int, W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
    count: u64,
) -> Result<(), Fault> {
    let count = masked::<T>(count);
    let address = cpu.address_mut::<T, W>(op)?;
    let value = cpu.load_for_store::<T, W>(world, address)?;
    let mut flags = cpu.flags;
    let result = if count == 0 { value } else { S::apply(&mut flags, value, count) };
    cpu.store(world, address, result)?;
    cpu.flags = flags;
    Ok(())
}

fn reg_imm<S: Shift, T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    shift_reg::<S, T, W>(cpu, op, op.imm);
    Ok(())
}

fn reg_cl<S: Shift, T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let count = cpu.gpr[reg::RCX];
    shift_reg::<S, T, W>(cpu, op, count);
    Ok(())
}

fn mem_imm<S: Shift, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    shift_mem::<S, T, W>(cpu, world, op, op.imm)
}

fn mem_cl<S: Shift, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let count = cpu.gpr[reg::RCX];
    shift_mem::<S, T, W>(cpu, world, op, count)
}

fn choose<S: Shift, W: World>(instruction: &Instruction, op: &mut Op<W>) -> OpFn<W> {
    let size = operand_size(instruction, 0);
    let by_cl = instruction.op1_kind() == OpKind::Register && instruction.op1_register() == Register::CL;
    if !by_cl {
        op.imm = instruction.immediate(1);
    }
    if instruction.op0_kind() == OpKind::Register {
        op.dst = gpr(instruction.op0_register());
        if by_cl { by_size!(size, reg_cl, S) } else { by_size!(size, reg_imm, S) }
    } else if by_cl {
        by_size!(size, mem_cl, S)
    } else {
        by_size!(size, mem_imm, S)
    }
}

/// SHLD and SHRD on values; `count` is masked and not 0. Counts beyond the operand size, possible with 16 bits, are
/// undefined; here the source follows the destination round and round, as on Intel processors.
#[inline(always)]
fn double<const LEFT: bool, T: Int>(flags: &mut LazyFlags, value: T, fill: T, count: u32) -> T {
    let (v, f) = (u128::from(value.zext()), u128::from(fill.zext()));
    let bits = T::BITS;
    let (result, carry) = if LEFT {
        // For 16 bits: value, fill, value.
        let chain = if bits == 16 { v << 32 | f << 16 | v } else { v << bits | f };
        let width = if bits == 16 { 48 } else { 2 * bits };
        let out = chain >> (width - bits - count.min(width - bits));
        (out, chain >> (width - count) & 1 != 0)
    } else {
        let chain = if bits == 16 { v << 32 | f << 16 | v } else { f << bits | v };
        (chain >> count, chain >> (count - 1) & 1 != 0)
    };
    let result = T::low(result as u64);
    flags.set_with(result.sext(), carry, top(result) != top(value), false);
    result
}

/// SHLD and SHRD. `aux` bit 0: the destination is memory; bit 1: the count is CL.
fn shift_double<const LEFT: bool, T: Int, W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let count = masked::<T>(if op.aux & 2 != 0 { cpu.gpr[reg::RCX] } else { op.imm });
    let fill = cpu.reg::<T>(op.src);
    if op.aux & 1 == 0 {
        let value = cpu.reg::<T>(op.dst);
        let result = if count == 0 { value } else { double::<LEFT, T>(&mut cpu.flags, value, fill, count) };
        cpu.set_reg(op.dst, result);
        return Ok(());
    }
    let address = cpu.address_mut::<T, W>(op)?;
    let value = cpu.load_for_store::<T, W>(world, address)?;
    let mut flags = cpu.flags;
    let result = if count == 0 { value } else { double::<LEFT, T>(&mut flags, value, fill, count) };
    cpu.store(world, address, result)?;
    cpu.flags = flags;
    Ok(())
}

pub(super) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    op.run = match instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => choose::<Shl, W>(instruction, op),
        Mnemonic::Shr => choose::<Shr, W>(instruction, op),
        Mnemonic::Sar => choose::<Sar, W>(instruction, op),
        Mnemonic::Rol => choose::<Rol, W>(instruction, op),
        Mnemonic::Ror => choose::<Ror, W>(instruction, op),
        Mnemonic::Rcl => choose::<Rcl, W>(instruction, op),
        Mnemonic::Rcr => choose::<Rcr, W>(instruction, op),
        mnemonic @ (Mnemonic::Shld | Mnemonic::Shrd) => {
            op.src = gpr(instruction.op1_register());
            op.aux = 0;
            if instruction.op0_kind() == OpKind::Register {
                op.dst = gpr(instruction.op0_register());
            } else {
                op.aux |= 1;
            }
            if instruction.op2_kind() == OpKind::Register {
                op.aux |= 2;
            } else {
                op.imm = instruction.immediate(2);
            }
            match (mnemonic == Mnemonic::Shld, operand_size(instruction, 0)) {
                (true, 2) => shift_double::<true, u16, W>,
                (true, 4) => shift_double::<true, u32, W>,
                (true, _) => shift_double::<true, u64, W>,
                (false, 2) => shift_double::<false, u16, W>,
                (false, 4) => shift_double::<false, u32, W>,
                (false, _) => shift_double::<false, u64, W>,
            }
        }
        _ => return Lowered::No,
    };
    Lowered::Straight
}
