//! BMI1 and BMI2: bit manipulation with three operands, VEX-encoded (SDM volume 2).

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
use iced_x86::{Instruction, Mnemonic, OpKind};

/// In a register field of [`Op`]: the operand is in memory.
const MEMORY: u8 = 0x80;
/// In a register field of [`Op`]: the operand is the immediate.
const IMMEDIATE: u8 = 0x40;

/// An operation on two sources, in the order of the operands. Where flags are undefined, they are those of a logical result.
trait Combine: 'static {
    fn apply<T: Int>(flags: &mut LazyFlags, first: T, second: T) -> T;
}

macro_rules! combine {
    ($($name:ident |$flags:pat_param, $first:ident, $second:ident| $body:expr;)*) => {$(
        struct $name;
        impl Combine for $name {
            #[inline(always)]
            fn apply<T: Int>($flags: &mut LazyFlags, $first: T, $second: T) -> T {
                $body
            }
        }
    )*};
}

/// The count of a shift, modulo the operand size.
fn count<T: Int>(value: T) -> u32 {
    value.zext() as u32 & (T::BITS - 1)
}

/// Ones in the low `count` bits.
fn low_ones(count: u32) -> u64 {
    1_u64.checked_shl(count).map_or(u64::MAX, |bit| bit - 1)
}

fn put<T: Int>(flags: &mut LazyFlags, result: u64, carry: bool) -> T {
    let result = T::low(result);
    flags.set_with(result.sext(), carry, false, false);
    result
}

combine! {
    Andn |flags, a, b| put(flags, !a.zext() & b.zext(), false);
    Bextr |flags, a, b| {
        let (start, length) = (b.zext() as u8, (b.zext() >> 8) as u8);
        let shifted = a.zext().checked_shr(start.into()).unwrap_or(0);
        put(flags, shifted & low_ones(length.into()), false)
    };
    Bzhi |flags, a, b| {
        let index = u32::from(b.zext() as u8);
        put(flags, a.zext() & low_ones(index), index >= T::BITS)
    };
    // The first source is the destination, which is not read.
    Blsi |flags, _a, b| put(flags, b.zext() & b.zext().wrapping_neg(), b.zext() != 0);
    Blsmsk |flags, _a, b| put(flags, b.zext() ^ b.zext().wrapping_sub(1), b.zext() == 0);
    Blsr |flags, _a, b| put(flags, b.zext() & b.zext().wrapping_sub(1), b.zext() == 0);
    Pdep |_, a, b| T::low(deposit(a.zext(), b.zext()));
    Pext |_, a, b| T::low(extract(a.zext(), b.zext()));
    Rorx |_, a, b| {
        let value = u128::from(a.zext());
        T::low(((value << T::BITS | value) >> count(b)) as u64)
    };
    Sarx |_, a, b| T::low((a.sext() as i64 >> count(b)) as u64);
    Shlx |_, a, b| T::low(a.zext() << count(b));
    Shrx |_, a, b| T::low(a.zext() >> count(b));
}

/// The low bits of `source`, one to each bit set in `mask`.
fn deposit(mut source: u64, mut mask: u64) -> u64 {
    let mut result = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        result |= if source & 1 != 0 { lowest } else { 0 };
        source >>= 1;
        mask ^= lowest;
    }
    result
}

/// The bits of `source` where `mask` has ones, side by side.
fn extract(source: u64, mut mask: u64) -> u64 {
    let mut result = 0;
    let mut place = 1_u64;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        result |= if source & lowest != 0 { place } else { 0 };
        place <<= 1;
        mask ^= lowest;
    }
    result
}

#[inline(always)]
fn source<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>, field: u8) -> Result<T, Fault> {
    match field {
        MEMORY => {
            let address = cpu.address::<T, W>(op)?;
            cpu.load(world, address)
        }
        IMMEDIATE => Ok(T::low(op.imm)),
        _ => Ok(cpu.reg(field)),
    }
}

fn run<C: Combine, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let first = source::<T, W>(cpu, world, op, op.src)?;
    let second = source::<T, W>(cpu, world, op, op.aux)?;
    let result = C::apply(&mut cpu.flags, first, second);
    cpu.set_reg(op.dst, result);
    Ok(())
}

/// MULX: `dst` and `src` from rDX and the operand; the upper half wins if they are the same register.
fn multiply<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = source::<T, W>(cpu, world, op, op.aux)?;
    let product = u128::from(cpu.reg::<T>(reg::RDX as u8).zext()) * u128::from(value.zext());
    cpu.set_reg(op.src, T::low(product as u64));
    cpu.set_reg(op.dst, T::low((product >> T::BITS) as u64));
    Ok(())
}

fn pick<C: Combine, W: World>(size: usize) -> OpFn<W> {
    if size == 4 { run::<C, u32, W> } else { run::<C, u64, W> }
}

fn field(instruction: &Instruction, operand: u32) -> u8 {
    match instruction.op_kind(operand) {
        OpKind::Register => gpr(instruction.op_register(operand)),
        OpKind::Memory => MEMORY,
        _ => IMMEDIATE,
    }
}

pub(super) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    let size = operand_size(instruction, 0);
    let run: OpFn<W> = match instruction.mnemonic() {
        Mnemonic::Andn => pick::<Andn, W>(size),
        Mnemonic::Bextr => pick::<Bextr, W>(size),
        Mnemonic::Bzhi => pick::<Bzhi, W>(size),
        Mnemonic::Blsi => pick::<Blsi, W>(size),
        Mnemonic::Blsmsk => pick::<Blsmsk, W>(size),
        Mnemonic::Blsr => pick::<Blsr, W>(size),
        Mnemonic::Pdep => pick::<Pdep, W>(size),
        Mnemonic::Pext => pick::<Pext, W>(size),
        Mnemonic::Rorx => pick::<Rorx, W>(size),
        Mnemonic::Sarx => pick::<Sarx, W>(size),
        Mnemonic::Shlx => pick::<Shlx, W>(size),
        Mnemonic::Shrx => pick::<Shrx, W>(size),
        Mnemonic::Mulx if size == 4 => multiply::<u32, W>,
        Mnemonic::Mulx => multiply::<u64, W>,
        _ => return Lowered::No,
    };
    op.run = run;
    op.dst = gpr(instruction.op0_register());
    if instruction.op_count() == 3 {
        op.src = field(instruction, 1);
        op.aux = field(instruction, 2);
        op.imm = u64::from(instruction.immediate8());
    } else {
        op.src = op.dst;
        op.aux = field(instruction, 1);
    }
    Lowered::Straight
}
