//! Bit tests, scans and counts.

use crate::block::{Op, OpFn};
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::exec::register::operand_size;
use crate::fault::Fault;
use crate::flags::bits;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// What a bit test does to the bit.
trait Change: 'static {
    const WRITES: bool;
    fn apply(value: u64, bit: u64) -> u64;
}

macro_rules! change {
    ($name:ident, $writes:expr, |$value:ident, $bit:ident| $body:expr) => {
        struct $name;
        impl Change for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply($value: u64, $bit: u64) -> u64 {
                $body
            }
        }
    };
}
change!(Keep, false, |value, _bit| value);
change!(Set, true, |value, bit| value | bit);
change!(Reset, true, |value, bit| value & !bit);
change!(Complement, true, |value, bit| value ^ bit);

/// Bit test of a register; the offset is register `src`, or `imm` if `aux` is set, modulo the operand size.
fn test_reg<C: Change, T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let offset = if op.aux != 0 { op.imm } else { cpu.reg::<T>(op.src).zext() } & u64::from(T::BITS - 1);
    let value = cpu.reg::<T>(op.dst).zext();
    cpu.flags.put_cf(value >> offset & 1 != 0);
    if C::WRITES {
        cpu.set_reg(op.dst, T::low(C::apply(value, 1 << offset)));
    }
    Ok(())
}

/// Bit test of memory. A register offset is signed and reaches beyond the operand.
fn test_mem<C: Change, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let (offset, away) = if op.aux != 0 {
        (op.imm & u64::from(T::BITS - 1), 0)
    } else {
        let signed = cpu.reg::<T>(op.src).sext() as i64;
        let words = signed >> T::BITS.trailing_zeros();
        (signed as u64 & u64::from(T::BITS - 1), words.wrapping_mul(T::SIZE as i64) as u64)
    };
    let mut place = op.clone();
    place.disp = place.disp.wrapping_add(away);
    if !C::WRITES {
        let address = cpu.address::<T, W>(&place)?;
        let value = cpu.load::<T, W>(world, address)?.zext();
        cpu.flags.put_cf(value >> offset & 1 != 0);
        return Ok(());
    }
    let address = cpu.address_mut::<T, W>(&place)?;
    let value = cpu.load_for_store::<T, W>(world, address)?.zext();
    cpu.store(world, address, T::low(C::apply(value, 1 << offset)))?;
    cpu.flags.put_cf(value >> offset & 1 != 0);
    Ok(())
}

fn choose<C: Change, W: World>(instruction: &Instruction, op: &mut Op<W>) -> OpFn<W> {
    let size = operand_size(instruction, 0);
    if instruction.op1_kind() == OpKind::Register {
        op.src = gpr(instruction.op1_register());
        op.aux = 0;
    } else {
        op.imm = instruction.immediate(1);
        op.aux = 1;
    }
    if instruction.op0_kind() == OpKind::Register {
        op.dst = gpr(instruction.op0_register());
        by_wide_size!(size, test_reg, C)
    } else {
        by_wide_size!(size, test_mem, C)
    }
}

/// A scan or count of the source into the destination.
trait Scan: 'static {
    /// The value for the destination, or `None` to leave it, with the flags set.
    fn apply<T: Int>(cpu: &mut Vcpu, source: T) -> Option<u64>;
}

/// BSF and BSR: ZF says the source is 0, and then the destination stays (as processors do; documented as undefined).
struct Bsf;
impl Scan for Bsf {
    fn apply<T: Int>(cpu: &mut Vcpu, source: T) -> Option<u64> {
        cpu.flags.put_zf(source.zext() == 0);
        (source.zext() != 0).then(|| u64::from(source.zext().trailing_zeros()))
    }
}

struct Bsr;
impl Scan for Bsr {
    fn apply<T: Int>(cpu: &mut Vcpu, source: T) -> Option<u64> {
        cpu.flags.put_zf(source.zext() == 0);
        (source.zext() != 0).then(|| u64::from(63 - source.zext().leading_zeros()))
    }
}

/// TZCNT and LZCNT: CF says the source is 0, ZF the result.
fn count_flags(cpu: &mut Vcpu, empty: bool, result: u64) {
    cpu.flags.put_zf(result == 0);
    cpu.flags.put_cf(empty);
}

struct Tzcnt;
impl Scan for Tzcnt {
    fn apply<T: Int>(cpu: &mut Vcpu, source: T) -> Option<u64> {
        let count = u64::from(source.zext().trailing_zeros().min(T::BITS));
        count_flags(cpu, source.zext() == 0, count);
        Some(count)
    }
}

struct Lzcnt;
impl Scan for Lzcnt {
    fn apply<T: Int>(cpu: &mut Vcpu, source: T) -> Option<u64> {
        let count = u64::from(source.zext().leading_zeros() - (64 - T::BITS));
        count_flags(cpu, source.zext() == 0, count);
        Some(count)
    }
}

struct Popcnt;
impl Scan for Popcnt {
    fn apply<T: Int>(cpu: &mut Vcpu, source: T) -> Option<u64> {
        cpu.flags.set_bits(if source.zext() == 0 { bits::ZF } else { 0 });
        Some(u64::from(source.zext().count_ones()))
    }
}

fn scan<S: Scan, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let source = if op.aux != 0 {
        let address = cpu.address::<T, W>(op)?;
        cpu.load::<T, W>(world, address)?
    } else {
        cpu.reg::<T>(op.src)
    };
    if let Some(value) = S::apply(cpu, source) {
        cpu.set_reg(op.dst, T::low(value));
    }
    Ok(())
}

fn choose_scan<S: Scan, W: World>(instruction: &Instruction, op: &mut Op<W>) -> OpFn<W> {
    op.dst = gpr(instruction.op0_register());
    op.aux = u8::from(instruction.op1_kind() != OpKind::Register);
    if op.aux == 0 {
        op.src = gpr(instruction.op1_register());
    }
    by_wide_size!(operand_size(instruction, 0), scan, S)
}

pub(super) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    op.run = match instruction.mnemonic() {
        Mnemonic::Bt => choose::<Keep, W>(instruction, op),
        Mnemonic::Bts => choose::<Set, W>(instruction, op),
        Mnemonic::Btr => choose::<Reset, W>(instruction, op),
        Mnemonic::Btc => choose::<Complement, W>(instruction, op),
        Mnemonic::Bsf => choose_scan::<Bsf, W>(instruction, op),
        Mnemonic::Bsr => choose_scan::<Bsr, W>(instruction, op),
        Mnemonic::Tzcnt => choose_scan::<Tzcnt, W>(instruction, op),
        Mnemonic::Lzcnt => choose_scan::<Lzcnt, W>(instruction, op),
        Mnemonic::Popcnt => choose_scan::<Popcnt, W>(instruction, op),
        _ => return Lowered::No,
    };
    Lowered::Straight
}
