//! The 11-bit opcode that FNSTENV stores: the low bits of the first opcode byte and the ModRM byte (SDM volume 1,
//! 8.1.9). The decoder does not hand out the ModRM byte, so it is put together again.

use iced_x86::{Instruction, OpKind, Register};

/// The opcode of an x87 instruction. A memory operand that was encoded with a SIB byte it did not need is taken to have
/// been encoded without.
pub(super) fn of(instruction: &Instruction) -> u16 {
    let info = instruction.op_code();
    let opcode = info.op_code() as u16;
    if info.op_code_len() == 2 {
        let register = (0..instruction.op_count())
            .filter(|i| instruction.op_kind(*i) == OpKind::Register)
            .map(|i| instruction.op_register(i))
            .filter(|register| register.is_st() && *register != Register::ST0)
            .map(|register| register.number() as u16)
            .next();
        // Opcodes with a register operand end in 0 or 8 and have the register's number added.
        return (opcode | register.unwrap_or(0)) & 0x7ff;
    }
    let extension = u16::try_from(info.group_index()).unwrap_or(0);
    (opcode & 7) << 8 | mod_rm(instruction) | extension << 3
}

/// Mod and R/M fields of a memory operand.
fn mod_rm(instruction: &Instruction) -> u16 {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let displacement = instruction.memory_displ_size();
    let with_16 = base.is_gpr16() || index.is_gpr16() || (base == Register::None && displacement == 2);
    let absolute = if with_16 { 6 } else { 5 };
    let number = |register: Register| register.number() as u16 & 7;
    if base == Register::None && index == Register::None {
        let needs_sib = instruction.code_size() == iced_x86::CodeSize::Code64;
        return if needs_sib { 4 } else { absolute };
    }
    if base == Register::RIP || base == Register::EIP {
        return absolute;
    }
    let rm = if with_16 {
        match (base, index) {
            (Register::BX, Register::SI) => 0,
            (Register::BX, Register::DI) => 1,
            (Register::BP, Register::SI) => 2,
            (Register::BP, Register::DI) => 3,
            (Register::SI, _) => 4,
            (Register::DI, _) => 5,
            (Register::BP, _) => 6,
            _ => 7,
        }
    } else if index != Register::None || number(base) == 4 {
        4
    } else {
        number(base)
    };
    let mode = match displacement {
        _ if base == Register::None => 0,
        0 => 0,
        1 => 1,
        _ => 2,
    };
    mode << 6 | rm
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn the_opcode_is_the_encoding() {
        let cases: &[(u32, &[u8])] = &[
            (32, &[0xd8, 0xc3]),
            (32, &[0xdc, 0xc3]),
            (32, &[0xde, 0xd9]),
            (32, &[0xd9, 0xe8]),
            (32, &[0xd8, 0xf8]),
            (32, &[0xdd, 0x02]),
            (32, &[0xdb, 0x6d, 0x10]),
            (32, &[0xdc, 0xb0, 0, 1, 0, 0]),
            (32, &[0xd9, 0x04, 0x24]),
            (32, &[0xd9, 0x44, 0x8b, 0x20]),
            (32, &[0xd9, 0x1c, 0x8d, 0, 1, 0, 0]),
            (32, &[0xda, 0x05, 0, 1, 0, 0]),
            (16, &[0xd9, 0x06, 0, 1]),
            (16, &[0xd9, 0x42, 1]),
            (16, &[0xd9, 0x1f]),
            (64, &[0xd9, 0x05, 0, 1, 0, 0]),
            (64, &[0x41, 0xd9, 0x45, 0]),
            (64, &[0x41, 0xdf, 0x2c, 0x24]),
        ];
        for (bits, bytes) in cases {
            let instruction = Decoder::new(*bits, bytes, DecoderOptions::NONE).decode();
            let at = bytes.iter().position(|byte| byte & 0xf8 == 0xd8).unwrap();
            let expected = u16::from(bytes[at] & 7) << 8 | u16::from(bytes[at + 1]);
            assert_eq!(of(&instruction), expected, "{instruction} {bytes:x?}");
        }
    }
}
