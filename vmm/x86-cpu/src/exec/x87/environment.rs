//! The environment (14 or 28 bytes) and the whole state (94 or 108 bytes) in memory (SDM volume 1, 8.1.10 and 8.1.11).

use super::exception::EXCEPTIONS;
use super::{check_alignment, format};
use crate::block::Op;
use crate::fault::Fault;
use crate::mode::Mode;
use crate::state::{Vcpu, X87};
use crate::world::World;

/// Bytes of the registers: eight of ten.
const REGISTERS: usize = 80;
const MAX_SIZE: usize = 28 + REGISTERS;

const fn environment_size(wide: bool) -> usize {
    if wide { 28 } else { 14 }
}

/// The seven fields of an environment, in order, 32-bit form; the 16-bit form has their low halves.
fn fields(x87: &X87, protected: bool, wide: bool) -> [u32; 7] {
    let (ip, dp) = (x87.instruction_pointer as u32, x87.data_pointer as u32);
    let opcode = u32::from(x87.opcode & 0x7ff);
    let high = |value: u16| if wide { 0xffff_0000 | u32::from(value) } else { u32::from(value) };
    let words = [high(x87.control), high(x87.status), high(x87.full_tags())];
    let pointers = match (protected, wide) {
        (true, _) => {
            let selector = u32::from(x87.instruction_selector) | if wide { opcode << 16 } else { 0 };
            [ip, selector, dp, high(x87.data_selector)]
        }
        (false, true) => {
            [0xffff_0000 | ip & 0xffff, ip >> 16 << 12 | opcode, 0xffff_0000 | dp & 0xffff, dp >> 16 << 12]
        }
        (false, false) => [ip & 0xffff, (ip >> 4 & 0xf000) | opcode, dp & 0xffff, dp >> 4 & 0xf000],
    };
    [words[0], words[1], words[2], pointers[0], pointers[1], pointers[2], pointers[3]]
}

/// Sets everything but the registers from the fields of an environment.
fn set_fields(x87: &mut X87, fields: [u32; 7], protected: bool, wide: bool) {
    let [control, status, tags, ip, selector, dp, data_selector] = fields;
    x87.status = status as u16;
    x87.tags = tags as u16;
    let (ip, dp, opcode) = match (protected, wide) {
        (true, true) => (ip, dp, selector >> 16),
        (true, false) => (ip, dp, 0),
        (false, true) => {
            (ip & 0xffff | selector >> 12 << 16, dp & 0xffff | data_selector >> 12 << 16, selector)
        }
        (false, false) => (ip | (selector & 0xf000) << 4, dp | (data_selector & 0xf000) << 4, selector),
    };
    x87.instruction_pointer = u64::from(ip);
    x87.data_pointer = u64::from(dp);
    x87.opcode = opcode as u16 & 0x7ff;
    // Deprecated: see `exception`.
    x87.instruction_selector = 0;
    x87.data_selector = 0;
    x87.set_control(control as u16);
}

fn encode(x87: &X87, mode: Mode, wide: bool, bytes: &mut [u8; MAX_SIZE]) {
    let fields = fields(x87, mode.protected(), wide);
    if wide {
        for (field, to) in fields.iter().zip(bytes.chunks_exact_mut(4)) {
            to.copy_from_slice(&field.to_le_bytes());
        }
    } else {
        for (field, to) in fields.iter().zip(bytes.chunks_exact_mut(2)) {
            to.copy_from_slice(&(*field as u16).to_le_bytes());
        }
    }
    let registers = &mut bytes[environment_size(wide)..];
    for (i, to) in (0_u8..8).zip(registers.chunks_exact_mut(10)) {
        to.copy_from_slice(&x87.bits(i).to_le_bytes()[..10]);
    }
}

/// FNSTENV and FNSAVE: the first then masks all exceptions, the second initialises the x87.
pub(super) fn store<W: World, const WIDE: bool, const REGS: bool>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let size = environment_size(WIDE) + if REGS { REGISTERS } else { 0 };
    let linear = cpu.address_sized(op, size as u32, true)?;
    check_alignment(cpu, linear, environment_size(WIDE) as u64 / 7)?;
    let mut bytes = [0; MAX_SIZE];
    encode(&cpu.x87, cpu.mode, WIDE, &mut bytes);
    cpu.store_bytes(world, linear, &bytes[..size])?;
    if REGS {
        cpu.x87.initialize();
    } else {
        cpu.x87.control |= EXCEPTIONS;
        cpu.x87.update_summary();
    }
    Ok(())
}

/// FLDENV and FRSTOR.
pub(super) fn load<W: World, const WIDE: bool, const REGS: bool>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    cpu.check_x87()?;
    let environment = environment_size(WIDE);
    let size = environment + if REGS { REGISTERS } else { 0 };
    let linear = cpu.address_sized(op, size as u32, false)?;
    check_alignment(cpu, linear, environment as u64 / 7)?;
    let mut bytes = [0; MAX_SIZE];
    cpu.load_bytes(world, linear, &mut bytes[..size])?;
    let mut fields = [0; 7];
    for (field, from) in fields.iter_mut().zip(bytes.chunks_exact(environment / 7)) {
        *field = from.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
    }
    set_fields(&mut cpu.x87, fields, cpu.mode.protected(), WIDE);
    if REGS {
        for (i, from) in (0_u8..8).zip(bytes[environment..].chunks_exact(10)) {
            let register = cpu.x87.physical(i);
            let value = from.iter().rev().fold(0, |value, byte| value << 8 | u128::from(*byte));
            cpu.x87.regs[register] = value & format::BITS;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> X87 {
        let mut x87 = X87 { tags: 0xffff, ..X87::default() };
        x87.set_control(0x1f7f);
        x87.push(format::ONE);
        x87.push(format::ZERO);
        x87.instruction_pointer = 0x1234_5678;
        x87.data_pointer = 0x9abc_def0;
        x87.opcode = 0x5a5;
        x87
    }

    /// What each form keeps of a 32-bit pointer and of the opcode.
    #[test]
    fn every_form_comes_back() {
        for (protected, wide, pointer_mask, opcode) in [
            (true, true, 0xffff_ffff, 0x5a5),
            (true, false, 0xffff, 0),
            (false, true, 0xffff_ffff, 0x5a5),
            (false, false, 0xf_ffff, 0x5a5),
        ] {
            let x87 = sample();
            let mut stored = fields(&x87, protected, wide);
            if !wide {
                stored = stored.map(|field| field & 0xffff);
            }
            let mut back = X87::default();
            set_fields(&mut back, stored, protected, wide);
            assert_eq!((back.control, back.status), (x87.control, x87.status));
            assert_eq!(back.tags, x87.full_tags());
            assert_eq!(back.instruction_pointer, x87.instruction_pointer & pointer_mask);
            assert_eq!(back.data_pointer, x87.data_pointer & pointer_mask);
            assert_eq!(back.opcode, opcode, "protected {protected} wide {wide}");
        }
    }

    /// SDM volume 1, figures 8-9 and 8-12.
    #[test]
    fn fields_are_where_the_manual_has_them() {
        let x87 = sample();
        assert_eq!(
            fields(&x87, true, true),
            [0xffff_1f7f, 0xffff_3000, 0xffff_1fff, 0x1234_5678, 0x05a5_0000, 0x9abc_def0, 0xffff_0000]
        );
        assert_eq!(fields(&x87, false, true)[3..], [0xffff_5678, 0x0123_45a5, 0xffff_def0, 0x09ab_c000]);
        assert_eq!(fields(&x87, false, false)[3..], [0x5678, 0x45a5, 0xdef0, 0xc000]);
    }
}
