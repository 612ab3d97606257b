//! What the VEX prefix changes (SDM volume 2, 2.3 and 2.4): a first source of its own, vectors of 256 bits, memory operands
//! of any alignment, and bits above the result that become zero.
//!
//! The operations are those of the legacy encodings, lane by lane of 128 bits. `Op::aux` says that an operation is encoded
//! so; for legacy ones it is 0.

use super::float;
use super::host::{Combine, Float, Lanes, pack, unpack};
use super::operand::Source;
use crate::block::Op;
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::{Instruction, OpKind};

/// In `Op::aux`: a VEX prefix. The low four bits number the first source.
const VEX: u8 = 1 << 7;
/// In `Op::aux`: vectors of 256 bits.
const WIDE: u8 = 1 << 6;

#[inline(always)]
pub(super) fn is_vex<W: World>(op: &Op<W>) -> bool {
    op.aux & VEX != 0
}

#[inline(always)]
pub(super) fn is_wide<W: World>(op: &Op<W>) -> bool {
    op.aux & WIDE != 0
}

/// Both lanes of register `number`.
#[inline(always)]
pub(super) fn register(cpu: &Vcpu, number: u8) -> [u128; 2] {
    let number = usize::from(number & 15);
    [cpu.xmm[number], cpu.ymm_high[number]]
}

/// Replaces register `number`.
#[inline(always)]
pub(super) fn put_register(cpu: &mut Vcpu, number: u8, value: [u128; 2]) {
    let number = usize::from(number & 15);
    [cpu.xmm[number], cpu.ymm_high[number]] = value;
}

/// Both lanes of the first source: with a legacy encoding the destination.
#[inline(always)]
pub(super) fn first<W: World>(cpu: &Vcpu, op: &Op<W>) -> [u128; 2] {
    register(cpu, if is_vex(op) { op.aux } else { op.dst })
}

/// First and second source, of either encoding.
#[inline(always)]
pub(super) fn operands<W: World, S: Source>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<[[u128; 2]; 2], Fault> {
    let src = if is_vex(op) { S::lanes(cpu, world, op)? } else { [S::get(cpu, world, op)?, 0] };
    Ok([first(cpu, op), src])
}

/// Writes a result of either encoding to the destination. The upper lane counts with VEX only.
#[inline(always)]
pub(super) fn finish<W: World>(cpu: &mut Vcpu, op: &Op<W>, value: [u128; 2]) {
    cpu.xmm[usize::from(op.dst & 15)] = value[0];
    if is_vex(op) {
        cpu.ymm_high[usize::from(op.dst & 15)] = if is_wide(op) { value[1] } else { 0 };
    }
}

/// `O` on the first source and `S`.
pub(super) fn combine<W: World, O: Combine, S: Source>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let src = S::lanes(cpu, world, op)?;
    let first = register(cpu, op.aux);
    let imm = op.imm as u8;
    let low = O::apply(first[0], src[0], imm);
    let upper = if is_wide(op) {
        let src = O::UPPER_FROM_LOW.map_or(src[1], |shift| src[0] >> shift);
        O::apply(first[1], src, imm >> O::UPPER_IMMEDIATE)
    } else {
        0
    };
    put_register(cpu, op.dst, [low, upper]);
    Ok(())
}

/// `F` on one or two lanes under the guest's MXCSR.
///
/// # Errors
/// As [`float::compute`].
#[inline(always)]
pub(super) fn compute<W: World, F>(
    cpu: &mut Vcpu,
    op: &Op<W>,
    first: [u128; 2],
    src: [u128; 2],
) -> Result<[u128; 2], Fault>
where
    F: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
{
    let lane = |i: usize| (pack(first[i]), pack(src[i]));
    if is_wide(op) {
        return Ok(float::compute_lanes::<F, 2>(cpu, [lane(0), lane(1)])?.map(unpack));
    }
    Ok([unpack(float::compute::<F>(cpu, pack(first[0]), pack(src[0]))?), 0])
}

/// `F` on the first source and `S`.
pub(super) fn arithmetic<W: World, F, S>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault>
where
    F: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    S: Source,
{
    let src = S::lanes(cpu, world, op)?;
    let first = register(cpu, op.aux);
    let out = compute::<W, F>(cpu, op, first, src)?;
    put_register(cpu, op.dst, out);
    Ok(())
}

/// Checks the alignment of a vector in memory.
///
/// # Errors
/// #GP(0), through the stack segment too.
fn aligned<W: World>(op: &Op<W>, linear: u64) -> Result<(), Fault> {
    let mask = if is_wide(op) { 31 } else { 15 };
    if linear & mask == 0 { Ok(()) } else { Err(Fault::GP0) }
}

/// Loads a vector of 16 or 32 bytes.
///
/// # Errors
/// What the access raises; #GP(0) if it is to be aligned and is not.
pub(super) fn load<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
    must_align: bool,
) -> Result<[u128; 2], Fault> {
    let linear = cpu.address_sized(op, if is_wide(op) { 32 } else { 16 }, false)?;
    if must_align {
        aligned(op, linear)?;
    }
    let low = cpu.load(world, linear)?;
    let upper = if is_wide(op) { cpu.load(world, linear.wrapping_add(16))? } else { 0 };
    Ok([low, upper])
}

/// Stores the 32 bytes of `src`; all or nothing.
///
/// # Errors
/// As [`load`].
pub(super) fn store_wide<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
    must_align: bool,
) -> Result<(), Fault> {
    let linear = cpu.address_sized(op, 32, true)?;
    if must_align {
        aligned(op, linear)?;
    }
    let [low, upper] = register(cpu, op.src);
    if linear & 0xfff > 4096 - 32 {
        cpu.check_write(world, linear, 32)?;
    }
    cpu.store(world, linear, low)?;
    cpu.store(world, linear.wrapping_add(16), upper)
}

/// Fills in the register operands and the immediate of an instruction with a VEX prefix. A fourth operand, a register, goes
/// to the immediate.
pub(super) fn fill<W: World>(instruction: &Instruction, op: &mut Op<W>) {
    let register = |operand: u32| {
        let exists = operand < instruction.op_count() && instruction.op_kind(operand) == OpKind::Register;
        exists.then(|| super::index(instruction.op_register(operand)))
    };
    op.dst = register(0).unwrap_or(0);
    let second = register(1);
    op.src = register(2).or(second).unwrap_or(0);
    op.aux = VEX | second.unwrap_or(0) & 15;
    if instruction.op_code().l() == 1 {
        op.aux |= WIDE;
    }
    op.imm = u64::from(register(3).unwrap_or(instruction.immediate8()));
}
