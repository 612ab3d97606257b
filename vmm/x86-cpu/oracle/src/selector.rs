//! Selectors and far pointers: the descriptors of the host's kernel that user code may use, and those it may not.

use crate::generate::{Generator, RSP, TRAP};
use crate::state::{STACK, USER_CS32, USER_CS64, USER_DS};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

/// Null, kernel's, user's, missing and system descriptors, of the local table and beyond the end, with several privileges.
const SELECTORS: [u16; 17] =
    [0, 1, 3, 8, 0x10, 0x1b, 0x20, 0x23, 0x28, 0x2a, 0x2b, 0x30, 0x33, 0x40, 0x63, 0x7c, 0x83];

/// Bytes of each word that a far return pops.
fn stack_unit(instruction: &Instruction) -> usize {
    match instruction.code() {
        Code::Retfw | Code::Retfw_imm16 | Code::Iretw => 2,
        Code::Retfd | Code::Retfd_imm16 | Code::Iretd => 4,
        _ => 8,
    }
}

impl Generator {
    /// A selector, of code if `code` is set; more often than not one that can be used.
    pub fn selector(&mut self, code: bool) -> u16 {
        let usual = if code { [USER_CS32, USER_CS64] } else { [USER_DS, 0] };
        if self.rng.chance(60) { self.rng.pick(&usual) } else { self.rng.pick(&SELECTORS) }
    }

    /// Gives an instruction that uses selectors or far pointers some that mean something.
    pub fn adjust_selectors(&mut self, instruction: &Instruction) {
        let ip = self.state.rip;
        match instruction.mnemonic() {
            Mnemonic::Pop if instruction.op0_register().is_segment_register() => {
                let selector = self.selector(false);
                self.write(self.state.gpr[RSP], &selector.to_le_bytes());
            }
            Mnemonic::Mov if instruction.op0_register().is_segment_register() => {
                self.put_selector(instruction, 1);
            }
            Mnemonic::Lar | Mnemonic::Lsl => self.put_selector(instruction, 1),
            Mnemonic::Verr | Mnemonic::Verw => self.put_selector(instruction, 0),
            Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss => {
                let offset = self.rng.word();
                self.put_far_pointer(instruction, offset, false);
            }
            Mnemonic::Jmp | Mnemonic::Call => {
                let target = self.code_target(ip);
                self.put_far_pointer(instruction, target, true);
            }
            Mnemonic::Retf => {
                let target = self.code_target(ip);
                let selector = self.selector(true);
                self.write_stack(stack_unit(instruction), &[target, selector.into()]);
            }
            Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => {
                let target = self.code_target(ip);
                let (code, data) = (self.selector(true), self.selector(false));
                let flags = self.rng.word() & !TRAP;
                let stack = STACK.base + 0x800 + self.rng.below(0x800);
                self.write_stack(stack_unit(instruction), &[target, code.into(), flags, stack, data.into()]);
            }
            _ => {}
        }
    }

    /// Puts a selector into the register or memory operand `operand`.
    fn put_selector(&mut self, instruction: &Instruction, operand: u32) {
        let selector = self.selector(false);
        if instruction.op_kind(operand) == OpKind::Memory {
            self.write_operand(instruction, &selector.to_le_bytes());
            return;
        }
        let number = instruction.op_register(operand).full_register().number();
        if !self.is_pinned(number) {
            let high = self.state.gpr[number] & !0xffff;
            self.state.gpr[number] = high | u64::from(selector);
        }
    }

    /// Writes an offset and a selector to the memory operand.
    fn put_far_pointer(&mut self, instruction: &Instruction, offset: u64, code: bool) {
        let size = instruction.memory_size().size();
        let mut pointer = offset.to_le_bytes()[..size.saturating_sub(2).min(8)].to_vec();
        pointer.extend(self.selector(code).to_le_bytes());
        self.write_operand(instruction, &pointer);
    }

    /// Writes words of `unit` bytes where the stack pointer points.
    fn write_stack(&mut self, unit: usize, words: &[u64]) {
        let bytes: Vec<u8> =
            words.iter().flat_map(|word| word.to_le_bytes().into_iter().take(unit)).collect();
        self.write(self.state.gpr[RSP], &bytes);
    }
}
