//! The 512 bytes that the FXSAVE and XSAVE images begin with (SDM volume 1, 10.5.1 and 13.4.1).

use super::float::mxcsr;
use crate::block::Op;
use crate::fault::Fault;
use crate::memory::access::is_canonical;
use crate::state::{Vcpu, X87};
use crate::world::World;

/// Size of the region in bytes, of which the last 96 are not touched.
pub(super) const SIZE: usize = 512;
/// Offset of MXCSR and of the mask of its bits that exist.
pub(super) const MXCSR: usize = 24;
/// Offset of ST0; the registers are 16 bytes apart.
pub(super) const ST: usize = 32;
/// Offset of XMM0.
pub(super) const XMM: usize = 160;

/// The region, in a buffer of one's own.
pub(super) type Region = [u8; SIZE];

const EMPTY: u16 = 3;

/// Number of vector registers in an image: eight are out of reach outside 64-bit mode.
pub(super) fn vector_count(cpu: &Vcpu) -> usize {
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

fn put(region: &mut Region, at: usize, bytes: &[u8]) {
    region[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The `len` bytes at `at`, zero-extended.
pub(super) fn get(region: &[u8], at: usize, len: usize) -> u128 {
    region[at..at + len].iter().rev().fold(0_u128, |value, byte| value << 8 | u128::from(*byte))
}

/// Writes the x87 state: all of the region before MXCSR, and from ST0 to XMM0. `wide`: the pointers have 64 bits and no
/// selectors.
pub(super) fn put_x87(region: &mut Region, x87: &X87, wide: bool) {
    put(region, 0, &x87.control.to_le_bytes());
    put(region, 2, &x87.status.to_le_bytes());
    let used = (0..8).filter(|i| x87.tags >> (i * 2) & 3 != EMPTY).fold(0_u8, |bits, i| bits | 1 << i);
    put(region, 4, &[used, 0]);
    put(region, 6, &x87.opcode.to_le_bytes());
    if wide {
        put(region, 8, &x87.instruction_pointer.to_le_bytes());
        put(region, 16, &x87.data_pointer.to_le_bytes());
    } else {
        put(region, 8, &(x87.instruction_pointer as u32).to_le_bytes());
        put(region, 12, &x87.instruction_selector.to_le_bytes());
        put(region, 16, &(x87.data_pointer as u32).to_le_bytes());
        put(region, 20, &x87.data_selector.to_le_bytes());
    }
    for i in 0..8 {
        put(region, ST + i * 16, &x87.regs[physical(x87, i)].to_le_bytes()[..10]);
    }
}

/// Reads what [`put_x87`] writes. Every content is a valid one.
pub(super) fn take_x87(region: &Region, x87: &mut X87, wide: bool) {
    x87.status = get(region, 2, 2) as u16;
    x87.set_control(get(region, 0, 2) as u16);
    x87.opcode = get(region, 6, 2) as u16 & 0x7ff;
    if wide {
        // The instruction pointer is kept canonical.
        x87.instruction_pointer = ((get(region, 8, 8) as i64) << 16 >> 16) as u64;
        x87.instruction_selector = 0;
        x87.data_pointer = get(region, 16, 8) as u64;
        x87.data_selector = 0;
    } else {
        x87.instruction_pointer = get(region, 8, 4) as u64;
        x87.instruction_selector = get(region, 12, 2) as u16;
        x87.data_pointer = get(region, 16, 4) as u64;
        x87.data_selector = get(region, 20, 2) as u16;
    }
    x87.tags = 0;
    for i in 0..8 {
        let number = physical(x87, i);
        let value = get(region, ST + i * 16, 10);
        x87.regs[number] = value;
        let tag = if region[4] >> number & 1 == 0 { EMPTY } else { tag(value) };
        x87.tags |= tag << (number * 2);
    }
}

/// Writes MXCSR and its mask.
pub(super) fn put_mxcsr(region: &mut Region, value: u32) {
    put(region, MXCSR, &value.to_le_bytes());
    put(region, MXCSR + 4, &mxcsr::VALID.to_le_bytes());
}

/// Reads MXCSR.
///
/// # Errors
/// #GP(0) if a reserved bit is set.
pub(super) fn take_mxcsr(region: &Region) -> Result<u32, Fault> {
    let value = get(region, MXCSR, 4) as u32;
    if value & !mxcsr::VALID != 0 { Err(Fault::GP0) } else { Ok(value) }
}

/// Writes the XMM registers within reach; returns the offset of their end.
pub(super) fn put_xmm(region: &mut Region, cpu: &Vcpu) -> usize {
    let count = vector_count(cpu);
    for (i, value) in cpu.xmm.iter().enumerate().take(count) {
        put(region, XMM + i * 16, &value.to_le_bytes());
    }
    XMM + count * 16
}

/// Reads the XMM registers within reach.
pub(super) fn take_xmm(region: &Region, cpu: &mut Vcpu) {
    for i in 0..vector_count(cpu) {
        cpu.xmm[i] = get(region, XMM + i * 16, 16);
    }
}

/// Linear addresses of the first and the last byte of an image of `size` bytes, aligned to `ALIGNMENT`, which may wrap
/// around the address size. Processors access the last first.
///
/// # Errors
/// #GP(0) for an image that is not aligned, and what segmentation raises.
pub(super) fn ends<W: World, const ALIGNMENT: u64>(
    cpu: &Vcpu,
    op: &Op<W>,
    size: usize,
    write: bool,
) -> Result<(u64, u64), Fault> {
    let first = cpu.address_sized(op, 1, write)?;
    if first & (ALIGNMENT - 1) != 0 {
        return Err(Fault::GP0);
    }
    if cpu.long_mode() && !is_canonical(first) {
        return Err(Fault::NON_CANONICAL);
    }
    let last = Op { disp: op.disp.wrapping_add(size as u64 - 1), ..op.clone() };
    Ok((first, cpu.address_sized(&last, 1, write)?))
}
