//! Two-operand arithmetic and logic, INC, DEC, NEG, NOT, ADCX and ADOX.

use crate::block::{Op, OpFn};
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::exec::register::operand_size;
use crate::fault::Fault;
use crate::flags::LazyFlags;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// A two-operand operation that sets flags.
trait Binary: 'static {
    /// Whether the destination is written (CMP and TEST do not).
    const WRITES: bool = true;
    fn apply<T: Int>(flags: &mut LazyFlags, a: T, b: T) -> T;
}

/// Adds with a carry in, setting flags.
#[inline(always)]
pub(super) fn add<T: Int>(flags: &mut LazyFlags, a: T, b: T, carry: bool) -> T {
    let (x, y) = (a.zext(), b.zext());
    let result = T::low(x.wrapping_add(y).wrapping_add(u64::from(carry)));
    let carries = x & y | (x | y) & !result.zext();
    flags.set_carries(result.sext(), carries, T::BITS);
    result
}

/// Subtracts with a borrow in, setting flags.
#[inline(always)]
pub(crate) fn sub<T: Int>(flags: &mut LazyFlags, a: T, b: T, borrow: bool) -> T {
    let (x, y) = (a.zext(), b.zext());
    let result = T::low(x.wrapping_sub(y).wrapping_sub(u64::from(borrow)));
    let borrows = !x & y | (!x | y) & result.zext();
    flags.set_carries(result.sext(), borrows, T::BITS);
    result
}

#[inline(always)]
fn logic<T: Int>(flags: &mut LazyFlags, result: u64) -> T {
    let result = T::low(result);
    flags.set_logic(result.sext());
    result
}

macro_rules! binary {
    ($name:ident, $writes:expr, |$flags:ident, $a:ident, $b:ident| $body:expr) => {
        struct $name;
        impl Binary for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<T: Int>($flags: &mut LazyFlags, $a: T, $b: T) -> T {
                $body
            }
        }
    };
}
binary!(Add, true, |flags, a, b| add(flags, a, b, false));
binary!(Sub, true, |flags, a, b| sub(flags, a, b, false));
binary!(Cmp, false, |flags, a, b| sub(flags, a, b, false));
binary!(And, true, |flags, a, b| logic(flags, a.zext() & b.zext()));
binary!(Test, false, |flags, a, b| logic(flags, a.zext() & b.zext()));
binary!(Or, true, |flags, a, b| logic(flags, a.zext() | b.zext()));
binary!(Xor, true, |flags, a, b| logic(flags, a.zext() ^ b.zext()));
binary!(Adc, true, |flags, a, b| {
    let carry = flags.cf();
    add(flags, a, b, carry)
});
binary!(Sbb, true, |flags, a, b| {
    let borrow = flags.cf();
    sub(flags, a, b, borrow)
});

fn reg_reg<B: Binary, T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let (a, b) = (cpu.reg::<T>(op.dst), cpu.reg::<T>(op.src));
    let result = B::apply(&mut cpu.flags, a, b);
    if B::WRITES {
        cpu.set_reg(op.dst, result);
    }
    Ok(())
}

fn reg_imm<B: Binary, T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let old = cpu.reg::<T>(op.dst);
    let result = B::apply(&mut cpu.flags, old, T::low(op.imm));
    if B::WRITES {
        cpu.set_reg(op.dst, result);
    }
    Ok(())
}

fn reg_mem<B: Binary, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address::<T, W>(op)?;
    let value = cpu.load::<T, W>(world, address)?;
    let old = cpu.reg::<T>(op.dst);
    let result = B::apply(&mut cpu.flags, old, value);
    if B::WRITES {
        cpu.set_reg(op.dst, result);
    }
    Ok(())
}

#[inline(always)]
fn memory<B: Binary, T: Int, W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
    value: T,
) -> Result<(), Fault> {
    if !B::WRITES {
        let address = cpu.address::<T, W>(op)?;
        let old = cpu.load::<T, W>(world, address)?;
        B::apply(&mut cpu.flags, old, value);
        return Ok(());
    }
    let address = cpu.address_mut::<T, W>(op)?;
    let old = cpu.load_for_store::<T, W>(world, address)?;
    let mut flags = cpu.flags;
    let result = B::apply(&mut flags, old, value);
    cpu.store(world, address, result)?;
    cpu.flags = flags;
    Ok(())
}

fn mem_reg<B: Binary, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = cpu.reg::<T>(op.src);
    memory::<B, T, W>(cpu, world, op, value)
}

fn mem_imm<B: Binary, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    memory::<B, T, W>(cpu, world, op, T::low(op.imm))
}

/// A register XORed with itself: the usual way to clear it.
fn clear<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.set_reg(op.dst, T::low(0));
    cpu.flags.set_logic(0);
    Ok(())
}

/// A register tested against itself.
fn test_self<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = cpu.reg::<T>(op.dst).sext();
    cpu.flags.set_logic(value);
    Ok(())
}

fn choose<B: Binary, W: World>(instruction: &Instruction, op: &mut Op<W>) -> OpFn<W> {
    let size = operand_size(instruction, 0);
    match (instruction.op_kind(0), instruction.op_kind(1)) {
        (OpKind::Register, OpKind::Register) => {
            op.dst = gpr(instruction.op0_register());
            op.src = gpr(instruction.op1_register());
            by_size!(size, reg_reg, B)
        }
        (OpKind::Register, OpKind::Memory) => {
            op.dst = gpr(instruction.op0_register());
            by_size!(size, reg_mem, B)
        }
        (OpKind::Register, _) => {
            op.dst = gpr(instruction.op0_register());
            op.imm = instruction.immediate(1);
            by_size!(size, reg_imm, B)
        }
        (_, OpKind::Register) => {
            op.src = gpr(instruction.op1_register());
            by_size!(size, mem_reg, B)
        }
        _ => {
            op.imm = instruction.immediate(1);
            by_size!(size, mem_imm, B)
        }
    }
}

/// A one-operand operation.
trait Unary: 'static {
    fn apply<T: Int>(flags: &mut LazyFlags, a: T) -> T;
}

struct Inc;
impl Unary for Inc {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut LazyFlags, a: T) -> T {
        let carry = flags.cf();
        let result = add(flags, a, T::low(1), false);
        flags.put_cf(carry);
        result
    }
}

struct Dec;
impl Unary for Dec {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut LazyFlags, a: T) -> T {
        let carry = flags.cf();
        let result = sub(flags, a, T::low(1), false);
        flags.put_cf(carry);
        result
    }
}

struct Neg;
impl Unary for Neg {
    #[inline(always)]
    fn apply<T: Int>(flags: &mut LazyFlags, a: T) -> T {
        sub(flags, T::low(0), a, false)
    }
}

struct Not;
impl Unary for Not {
    #[inline(always)]
    fn apply<T: Int>(_: &mut LazyFlags, a: T) -> T {
        T::low(!a.zext())
    }
}

fn unary_reg<U: Unary, T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let old = cpu.reg::<T>(op.dst);
    let result = U::apply(&mut cpu.flags, old);
    cpu.set_reg(op.dst, result);
    Ok(())
}

fn unary_mem<U: Unary, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address = cpu.address_mut::<T, W>(op)?;
    let old = cpu.load_for_store::<T, W>(world, address)?;
    let mut flags = cpu.flags;
    let result = U::apply(&mut flags, old);
    cpu.store(world, address, result)?;
    cpu.flags = flags;
    Ok(())
}

fn choose_unary<U: Unary, W: World>(instruction: &Instruction, op: &mut Op<W>) -> OpFn<W> {
    let size = operand_size(instruction, 0);
    if instruction.op0_kind() == OpKind::Register {
        op.dst = gpr(instruction.op0_register());
        by_size!(size, unary_reg, U)
    } else {
        by_size!(size, unary_mem, U)
    }
}

/// ADCX and ADOX: addition through CF or OF alone.
fn add_one_flag<const OVERFLOW: bool, T: Int, W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let source = if op.aux != 0 {
        let address = cpu.address::<T, W>(op)?;
        cpu.load::<T, W>(world, address)?
    } else {
        cpu.reg::<T>(op.src)
    };
    let carry = if OVERFLOW { cpu.flags.of() } else { cpu.flags.cf() };
    let sum = u128::from(cpu.reg::<T>(op.dst).zext()) + u128::from(source.zext()) + u128::from(carry);
    cpu.set_reg(op.dst, T::low(sum as u64));
    let carry = sum >> T::BITS != 0;
    if OVERFLOW {
        cpu.flags.put_cf_of(cpu.flags.cf(), carry);
    } else {
        cpu.flags.put_cf(carry);
    }
    Ok(())
}

pub(super) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    let same = instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_register() == instruction.op1_register();
    let size = operand_size(instruction, 0);
    op.run = match instruction.mnemonic() {
        Mnemonic::Add => choose::<Add, W>(instruction, op),
        Mnemonic::Or => choose::<Or, W>(instruction, op),
        Mnemonic::Adc => choose::<Adc, W>(instruction, op),
        Mnemonic::Sbb => choose::<Sbb, W>(instruction, op),
        Mnemonic::And => choose::<And, W>(instruction, op),
        Mnemonic::Sub => choose::<Sub, W>(instruction, op),
        Mnemonic::Xor if same => {
            op.dst = gpr(instruction.op0_register());
            by_size!(size, clear)
        }
        Mnemonic::Xor => choose::<Xor, W>(instruction, op),
        Mnemonic::Cmp => choose::<Cmp, W>(instruction, op),
        Mnemonic::Test if same => {
            op.dst = gpr(instruction.op0_register());
            by_size!(size, test_self)
        }
        Mnemonic::Test => choose::<Test, W>(instruction, op),
        Mnemonic::Inc => choose_unary::<Inc, W>(instruction, op),
        Mnemonic::Dec => choose_unary::<Dec, W>(instruction, op),
        Mnemonic::Neg => choose_unary::<Neg, W>(instruction, op),
        Mnemonic::Not => choose_unary::<Not, W>(instruction, op),
        mnemonic @ (Mnemonic::Adcx | Mnemonic::Adox) => {
            op.dst = gpr(instruction.op0_register());
            op.aux = u8::from(instruction.op1_kind() == OpKind::Memory);
            if op.aux == 0 {
                op.src = gpr(instruction.op1_register());
            }
            match (mnemonic == Mnemonic::Adox, size) {
                (false, 4) => add_one_flag::<false, u32, W>,
                (false, _) => add_one_flag::<false, u64, W>,
                (true, 4) => add_one_flag::<true, u32, W>,
                (true, _) => add_one_flag::<true, u64, W>,
            }
        }
        _ => return Lowered::No,
    };
    Lowered::Straight
}
