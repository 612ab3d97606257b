//! Registers and memory that certain instructions give a meaning of their own.

use crate::compare::shifts;
use crate::generate::{
    ALIGNMENT, DIRECTION, Generator, RAX, RBP, RCX, RDI, RDX, RSI, RSP, TRAP, linear_address,
};
use crate::initial::{random_fpu, random_mxcsr, random_state};
use crate::state::{DATA, HEADER, READ_ONLY, STACK, Width, XSAVE_SIZE, locate};
use crate::values::Flavour;
use crate::vendor::{self, Vendor};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

impl Generator {
    pub fn string_operand(
        &mut self,
        instruction: &mut Instruction,
        index: u32,
        register: usize,
        kinds: [OpKind; 2],
    ) {
        let narrow = match index {
            // Both operands of one instruction have the same address size.
            0 => self.width == Width::Bits32 || self.rng.chance(20),
            _ => {
                matches!(
                    instruction.op0_kind(),
                    OpKind::MemoryESEDI | OpKind::MemorySegESI | OpKind::MemorySegEDI
                ) || self.width == Width::Bits32 && instruction.op0_kind() == OpKind::Register
            }
        };
        let masked = matches!(
            instruction.mnemonic(),
            Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu
        );
        let faults = self.faults;
        // Where both operands fault, which one is reported differs between processors.
        self.faults &= !masked && !self.is_pinned(if register == RSI { RDI } else { RSI });
        self.faults &= self.state.rflags & ALIGNMENT == 0 || instruction.op_count() == 1;
        let mut target = self.target(16, false);
        let faults = std::mem::replace(&mut self.faults, faults);
        let later = target.wrapping_add(300);
        if self.state.rflags & DIRECTION != 0
            && self.rng.chance(50)
            && (faults || locate(later, 16).is_some())
        {
            target = later;
        }
        if narrow && self.width == Width::Bits64 {
            target = target & 0xffff_ffff | self.rng.word() << 32;
        }
        self.pin(register, target);
        instruction.set_op_kind(index, kinds[usize::from(narrow)]);
    }

    pub fn repeat_count(&mut self, instruction: &Instruction) {
        let count = match self.rng.below(10) {
            0 => 0,
            1 => 1,
            2 => 4096 + self.rng.below(4096),
            3 => self.rng.word(),
            4 => 1 << 32 | self.rng.below(20),
            _ => self.rng.below(300),
        };
        self.pin(RCX, count);
        let compares = matches!(
            instruction.mnemonic(),
            Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq
        );
        let scans = matches!(
            instruction.mnemonic(),
            Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq
        );
        if compares || scans {
            // Long runs of equal elements, so that comparison does not end at once.
            let byte = if scans { self.state.gpr[RAX] as u8 } else { self.rng.word() as u8 };
            if scans {
                self.state.gpr[RAX] = u64::from_le_bytes([byte; 8]);
            }
            let run = vec![byte; 1 + self.rng.below(300) as usize];
            for register in [RSI, RDI] {
                self.write(self.state.gpr[register] & 0xffff_ffff, &run);
            }
        }
    }

    /// Registers with a meaning of their own, before operands are chosen.
    pub fn prepare(&mut self, code: Code) {
        let size = code.op_code().operand_size().max(8);
        match code.mnemonic() {
            mnemonic if shifts(mnemonic) => {
                let count = if self.rng.chance(70) { self.rng.below(70) } else { self.rng.word() & 0xff };
                self.pin(RCX, self.rng.word() << 8 | count);
            }
            Mnemonic::Div | Mnemonic::Idiv => {
                let high = match self.rng.below(4) {
                    0 => self.rng.word() & 3,
                    1 => self.state.gpr[RDX],
                    _ if code.mnemonic() == Mnemonic::Idiv => {
                        (self.state.gpr[RAX] as i64 >> (size - 1)) as u64
                    }
                    _ => 0,
                };
                self.pin(RDX, high);
                let low = self.state.gpr[RAX];
                self.pin(RAX, if self.rng.chance(50) { low & 0xff } else { low });
            }
            Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => {
                self.pin(RAX, self.state.gpr[RAX]);
                self.pin(RDX, self.state.gpr[RDX]);
            }
            Mnemonic::Loop
            | Mnemonic::Loope
            | Mnemonic::Loopne
            | Mnemonic::Jcxz
            | Mnemonic::Jecxz
            | Mnemonic::Jrcxz => {
                let count = self.rng.pick(&[0, 1, 2, 1 << 32, 1 << 32 | 1, u64::MAX, 1 << 16, 77]);
                self.pin(RCX, count);
            }
            Mnemonic::Enter | Mnemonic::Leave => {
                let frame = STACK.base + 0x400 + self.rng.below(0x1800);
                self.pin(RBP, if self.rng.chance(95) { frame } else { self.rng.word() });
            }
            Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestri64
            | Mnemonic::Pcmpestrm
            | Mnemonic::Pcmpestrm64
            | Mnemonic::Vpcmpestri
            | Mnemonic::Vpcmpestri64
            | Mnemonic::Vpcmpestrm
            | Mnemonic::Vpcmpestrm64 => {
                for register in [RAX, RDX] {
                    let length = self.rng.below(41).wrapping_sub(20);
                    let value = if self.rng.chance(75) { length } else { self.state.gpr[register] };
                    self.pin(register, value);
                }
            }
            Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xsaveopt
            | Mnemonic::Xsaveopt64
            | Mnemonic::Xsavec
            | Mnemonic::Xsavec64
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64 => {
                // Components that both sides have enabled.
                let components = self.rng.word() & x86_cpu::xcr0::SUPPORTED;
                self.pin(RAX, self.rng.word() << 32 | components);
                self.pin(RDX, self.rng.word() << 32);
            }
            _ => {}
        }
        let on_stack = code.op_code().op_kinds().is_empty()
            || matches!(code.mnemonic(), Mnemonic::Push | Mnemonic::Pop | Mnemonic::Call | Mnemonic::Ret);
        if on_stack && self.faults && self.rng.chance(6) {
            self.state.gpr[RSP] = self.rng.pick(&[
                STACK.base,
                STACK.base + 4,
                STACK.end(),
                STACK.end() - 4,
                // In 32-bit code it would wrap at 4 GiB, where a limit may or may not be seen.
                if self.width == Width::Bits64 { 0x8000_0000_0000 } else { DATA.end() },
                READ_ONLY.base + 64,
            ]);
        }
    }

    /// Registers and memory that give an instance its meaning, after operands are chosen.
    pub fn adjust(&mut self, instruction: &Instruction) {
        let ip = self.state.rip;
        let sp = self.state.gpr[RSP];
        match instruction.mnemonic() {
            Mnemonic::Cmpxchg if self.rng.chance(50) => {
                let size = match instruction.op1_register() {
                    register if register.is_gpr() => register.size(),
                    _ => 8,
                };
                let accumulator = self.state.gpr[RAX].to_le_bytes();
                if instruction.op0_kind() == OpKind::Memory {
                    self.write_operand(instruction, &accumulator[..size]);
                } else if !instruction.op0_register().is_gpr8() {
                    let register = instruction.op0_register().full_register().number();
                    if !self.is_pinned(register) {
                        self.state.gpr[register] = self.state.gpr[RAX];
                    }
                }
            }
            Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b if self.rng.chance(60) => {
                let size = instruction.memory_size().size() / 2;
                let mut expected = self.state.gpr[RAX].to_le_bytes()[..size].to_vec();
                expected.extend_from_slice(&self.state.gpr[RDX].to_le_bytes()[..size]);
                self.write_operand(instruction, &expected);
            }
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
                if instruction.op0_kind() == OpKind::Memory && instruction.op1_kind() == OpKind::Register =>
            {
                let register = instruction.op1_register().full_register().number();
                if !self.is_pinned(register) && self.rng.chance(85) {
                    let bit = self.rng.below(1 << 14).wrapping_sub(1 << 13);
                    self.state.gpr[register] = bit;
                }
            }
            Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => {
                let value = self.rng.word() & !TRAP;
                self.write(sp, &value.to_le_bytes());
            }
            Mnemonic::Ret => {
                let target = self.wild_code_target(ip);
                self.write(sp, &target.to_le_bytes());
            }
            Mnemonic::Jmp | Mnemonic::Call
                if instruction.is_jmp_near_indirect() && instruction.op0_kind() == OpKind::Memory
                    || instruction.is_call_near_indirect() && instruction.op0_kind() == OpKind::Memory =>
            {
                let target = self.wild_code_target(ip);
                self.write_operand(instruction, &target.to_le_bytes());
            }
            Mnemonic::Jmp | Mnemonic::Call if instruction.op0_kind() == OpKind::Register => {
                let register = instruction.op0_register().full_register().number();
                self.state.gpr[register] = self.wild_code_target(ip);
            }
            Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => {
                let register = instruction.op0_register().full_register().number();
                let value = self.rng.word();
                let shift = self.rng.pick(&[0, 17, 17, 17, 30]);
                self.state.gpr[register] =
                    if self.rng.chance(15) { (value as i64 >> 17) as u64 } else { value >> shift };
            }
            Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr if self.rng.chance(80) => {
                let value = random_mxcsr(&self.rng);
                self.write_operand(instruction, &value.to_le_bytes());
            }
            Mnemonic::Fxrstor | Mnemonic::Fxrstor64 if self.rng.chance(85) => {
                let other = random_state(&self.rng, self.width, Flavour::Single, false);
                self.write_operand(instruction, &other.to_fxsave());
            }
            Mnemonic::Xrstor | Mnemonic::Xrstor64 if self.rng.chance(85) => {
                let image = self.xsave_image();
                self.write_operand(instruction, &image);
            }
            Mnemonic::Fldenv | Mnemonic::Frstor if self.rng.chance(80) => {
                let fpu = random_fpu(&self.rng, false);
                let tags = self.rng.word() as u16;
                let mut environment = Vec::new();
                let narrow = matches!(instruction.memory_size().size(), 14 | 94);
                for word in [fpu.control, fpu.status, tags] {
                    environment.extend_from_slice(&word.to_le_bytes());
                    if !narrow {
                        environment.extend_from_slice(&[0, 0]);
                    }
                }
                self.write_operand(instruction, &environment);
            }
            _ => self.adjust_selectors(instruction),
        }
    }

    /// An image for XRSTOR, standard or compacted, seldom one with an invalid header.
    fn xsave_image(&mut self) -> Vec<u8> {
        let other = random_state(&self.rng, self.width, Flavour::Single, false);
        let mut image = vec![0; XSAVE_SIZE];
        other.put_xsave(&mut image);
        let supported = x86_cpu::xcr0::SUPPORTED;
        let mut header = [0_u64; 8];
        header[0] = self.rng.word() & supported;
        if self.rng.chance(50) {
            let layout = header[0] | self.rng.word() & supported;
            header[1] = 1 << 63 | layout;
        }
        if self.rng.chance(8) {
            // A bit that no processor has a component for.
            header[self.rng.below(8) as usize] |= 1 << (24 + self.rng.below(38));
        }
        for (to, word) in image[HEADER..].chunks_exact_mut(8).zip(header) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        image
    }

    /// A code address, seldom one that faults.
    pub fn wild_code_target(&mut self, ip: u64) -> u64 {
        let sp = self.state.gpr[RSP];
        let stack_mapped =
            (STACK.base + 8..STACK.end() - 8).contains(&sp) && self.state.rflags & ALIGNMENT == 0;
        match self.rng.below(20) {
            0 if self.faults => self.rng.pick(&[DATA.base, 8, 0x7fff_0000_0000]),
            // Processors of another vendor load the target first and fault there.
            1 if self.faults && vendor::host() == Vendor::Intel && stack_mapped => 0x8000_0000_0000,
            _ => self.code_target(ip),
        }
    }

    /// Writes `data` to the memory operand of `instruction`.
    pub fn write_operand(&mut self, instruction: &Instruction, data: &[u8]) {
        if let Some(address) = linear_address(instruction, &self.state) {
            self.write(address, data);
        }
    }
}
