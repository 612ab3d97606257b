//! FXSAVE, FXRSTOR, LDMXCSR and STMXCSR.

use super::float::mxcsr;
use super::operand::aligned;
use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::memory::access::is_canonical;
use crate::state::{Vcpu, X87};
use crate::world::World;
use iced_x86::{Code, Instruction};

/// Size of the FXSAVE image, of which the last 96 bytes are not touched.
const IMAGE: usize = 512;
/// Offset of ST0; the registers are 16 bytes apart.
const ST: usize = 32;
/// Offset of XMM0.
const XMM: usize = 160;
/// Control word bits that can be set; bit 6 always is.
const CONTROL: u16 = 0x1f7f;
const CONTROL_SET: u16 = 0x40;
/// Status word: error summary and busy, which follow from the exceptions and their masks.
const SUMMARY: u16 = 0x8080;
const STATUS_EXCEPTIONS: u16 = 0x3f;
const EMPTY: u16 = 3;

/// Number of XMM registers in the image: eight are out of reach outside 64-bit mode.
fn xmm_count(cpu: &Vcpu) -> usize {
    if cpu.mode.is_64() { 16 } else { 8 }
}

/// Physical number of ST(`i`).
fn physical(x87: &X87, i: usize) -> usize {
    (usize::from(x87.status >> 11) + i) & 7
}

/// The tag that describes `value` in a register that is not empty.
fn tag(value: u128) -> u16 {
    let exponent = value >> 64 & 0x7fff;
    let significand = value as u64;
    match exponent {
        0 if significand == 0 => 1,
        0 | 0x7fff => 2,
        _ if significand >> 63 == 0 => 2,
        _ => 0,
    }
}

/// Linear addresses of the first and the last byte of the image, which may wrap around the address size. Processors access
/// the last first.
fn image_ends<W: World>(cpu: &Vcpu, op: &Op<W>, write: bool) -> Result<(u64, u64), Fault> {
    let first = aligned(cpu.address_sized(op, 1, write)?)?;
    if cpu.long_mode() && !is_canonical(first) {
        return Err(Fault::NON_CANONICAL);
    }
    let last = Op { disp: op.disp.wrapping_add(IMAGE as u64 - 1), ..op.clone() };
    Ok((first, cpu.address_sized(&last, 1, write)?))
}

/// FXSAVE, with `WIDE` FXSAVE64 (SDM volume 1, 10.5.1).
fn fxsave<W: World, const WIDE: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let (linear, last) = image_ends(cpu, op, true)?;
    let xmm_count = xmm_count(cpu);
    let mut image = [0; XMM + 16 * 16];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let x87 = &cpu.x87;
    put(0, &x87.control.to_le_bytes());
    put(2, &x87.status.to_le_bytes());
    let used = (0..8).filter(|i| x87.tags >> (i * 2) & 3 != EMPTY).fold(0_u8, |bits, i| bits | 1 << i);
    put(4, &[used, 0]);
    put(6, &x87.opcode.to_le_bytes());
    if WIDE {
        put(8, &x87.instruction_pointer.to_le_bytes());
        put(16, &x87.data_pointer.to_le_bytes());
    } else {
        put(8, &(x87.instruction_pointer as u32).to_le_bytes());
        put(12, &x87.instruction_selector.to_le_bytes());
        put(16, &(x87.data_pointer as u32).to_le_bytes());
        put(20, &x87.data_selector.to_le_bytes());
    }
    put(24, &cpu.mxcsr.to_le_bytes());
    put(28, &mxcsr::VALID.to_le_bytes());
    for i in 0..8 {
        put(ST + i * 16, &x87.regs[physical(x87, i)].to_le_bytes()[..10]);
    }
    for (i, value) in cpu.xmm.iter().enumerate().take(xmm_count) {
        put(XMM + i * 16, &value.to_le_bytes());
    }
    cpu.check_write(world, last, 1)?;
    cpu.store_bytes(world, linear, &image[..XMM + xmm_count * 16])
}

/// FXRSTOR, with `WIDE` FXRSTOR64.
fn fxrstor<W: World, const WIDE: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let (linear, last) = image_ends(cpu, op, false)?;
    cpu.physical_address(world, last)?;
    let mut image = [0; IMAGE];
    cpu.load_bytes(world, linear, &mut image)?;
    let get = |at: usize, len: usize| {
        image[at..at + len].iter().rev().fold(0_u128, |value, byte| value << 8 | u128::from(*byte))
    };
    let mxcsr = get(24, 4) as u32;
    if mxcsr & !mxcsr::VALID != 0 {
        return Err(Fault::GP0);
    }
    cpu.mxcsr = mxcsr;
    let x87 = &mut cpu.x87;
    x87.control = get(0, 2) as u16 & CONTROL | CONTROL_SET;
    let pending = get(2, 2) as u16 & !x87.control & STATUS_EXCEPTIONS != 0;
    x87.status = get(2, 2) as u16 & !SUMMARY | if pending { SUMMARY } else { 0 };
    x87.opcode = get(6, 2) as u16 & 0x7ff;
    if WIDE {
        // The instruction pointer is kept canonical.
        x87.instruction_pointer = ((get(8, 8) as i64) << 16 >> 16) as u64;
        x87.instruction_selector = 0;
        x87.data_pointer = get(16, 8) as u64;
        x87.data_selector = 0;
    } else {
        x87.instruction_pointer = get(8, 4) as u64;
        x87.instruction_selector = get(12, 2) as u16;
        x87.data_pointer = get(16, 4) as u64;
        x87.data_selector = get(20, 2) as u16;
    }
    x87.tags = 0;
    for i in 0..8 {
        let number = physical(x87, i);
        let value = get(ST + i * 16, 10);
        x87.regs[number] = value;
        let tag = if image[4] >> number & 1 == 0 { EMPTY } else { tag(value) };
        x87.tags |= tag << (number * 2);
    }
    for i in 0..xmm_count(cpu) {
        cpu.xmm[i] = get(XMM + i * 16, 16);
    }
    Ok(())
}

fn ldmxcsr<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let linear = cpu.address::<u32, W>(op)?;
    let value: u32 = cpu.load(world, linear)?;
    if value & !mxcsr::VALID != 0 {
        return Err(Fault::GP0);
    }
    cpu.mxcsr = value;
    Ok(())
}

fn stmxcsr<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let linear = cpu.address_mut::<u32, W>(op)?;
    cpu.store(world, linear, cpu.mxcsr)
}

pub(super) fn lower<W: World>(instruction: &Instruction, _: bool) -> Choice<W> {
    let choice: (Gate, OpFn<W>) = match instruction.code() {
        Code::Fxsave_m512byte => (Gate::Mmx, fxsave::<W, false>),
        Code::Fxsave64_m512byte => (Gate::Mmx, fxsave::<W, true>),
        Code::Fxrstor_m512byte => (Gate::Mmx, fxrstor::<W, false>),
        Code::Fxrstor64_m512byte => (Gate::Mmx, fxrstor::<W, true>),
        Code::Ldmxcsr_m32 => (Gate::Sse, ldmxcsr),
        Code::Stmxcsr_m32 => (Gate::Sse, stmxcsr),
        _ => return None,
    };
    Some(choice)
}
