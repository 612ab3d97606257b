//! Random instances of an instruction form: bytes, registers and memory chosen to meet its corners.

use super::rng::Rng;
use super::state::{CODE, DATA, Fpu, READ_ONLY, STACK, State, Width, locate};
use super::values::{Flavour, extended, integer};
use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, Instruction, Mnemonic, OpCodeOperandKind as Kind, OpKind,
    Register,
};

pub const RAX: usize = 0;
pub const RCX: usize = 1;
pub const RDX: usize = 2;
pub const RBX: usize = 3;
pub const RSP: usize = 4;
pub const RBP: usize = 5;
pub const RSI: usize = 6;
pub const RDI: usize = 7;

/// Instructions, and the state to run them in.
#[derive(Debug, Clone)]
pub struct Case {
    pub width: Width,
    /// As decoded from `bytes`.
    pub instructions: Vec<Instruction>,
    pub bytes: Vec<u8>,
    pub state: State,
    /// Memory written over the common image: address and content, all mapped.
    pub edits: Vec<(u64, Vec<u8>)>,
}

/// The flags that may be set at the start of a case: all arithmetic ones, and IF as user code always has it.
const ARITHMETIC: u64 = 0x8d5;
const INTERRUPTS: u64 = 0x202;
pub const DIRECTION: u64 = 1 << 10;
pub const ALIGNMENT: u64 = 1 << 18;
const TRAP: u64 = 1 << 8;

#[derive(Clone)]
pub struct Generator {
    pub rng: Rng,
    pub width: Width,
    pub state: State,
    pub edits: Vec<(u64, Vec<u8>)>,
    /// Registers whose values an operand depends on.
    pub pinned: u16,
    /// Registers that an earlier instruction of a sequence changes.
    pub written: u16,
    /// Registers that were pinned or written when the instance being built was begun.
    settled: u16,
    /// Whether operands may fault.
    pub faults: bool,
    /// Whether other instructions of the same case depend on the state.
    pub sequence: bool,
}

impl Generator {
    pub fn new(rng: Rng, width: Width) -> Self {
        let state = random_state(&rng, width, Flavour::Int(8), false);
        Self { rng, width, state, edits: Vec::new(), pinned: 1 << RSP, written: 0, settled: 0, faults: true, sequence: false }
    }

    /// Draws a state for `code`.
    pub fn draw_state(&mut self, code: Code) {
        let flavour = Flavour::of(code.op_code().memory_size());
        let mmx = code.op_code().op_kinds().iter().any(|kind| matches!(kind, Kind::mm_or_mem | Kind::mm_reg));
        self.state = random_state(&self.rng, self.width, flavour, mmx);
        if self.state.fpu.status & 0x80 != 0 {
            // Two exceptions of which the host reports only that it was one of them.
            self.state.mxcsr |= 0x1f80;
        }
        let limit = match code.mnemonic() {
            Mnemonic::F2xm1 => 1,
            Mnemonic::Fyl2xp1 => 3,
            _ => 0,
        };
        if limit != 0 && self.rng.chance(75) {
            // An argument for which the function is defined.
            let exponent = 0x3fff - limit - self.rng.below(70);
            let sign = self.rng.below(2) << 15;
            self.state.fpu.st[0] = u128::from(sign | exponent) << 64 | u128::from(self.rng.word() | 1 << 63);
        }
        // Whether the alignment of larger operands is checked is left to the implementation (SDM volume 2, FXSAVE).
        let masked = matches!(code.mnemonic(), Mnemonic::Maskmovq | Mnemonic::Maskmovdqu);
        if code.op_code().memory_size().size() > 8 || masked {
            self.state.rflags &= !ALIGNMENT;
        }
    }

    pub fn finish(self, instructions: Vec<Instruction>, bytes: Vec<u8>) -> Case {
        let Self { width, mut state, mut edits, .. } = self;
        if width == Width::Bits32 {
            for value in &mut state.gpr {
                *value &= 0xffff_ffff;
            }
        }
        edits.push((state.rip, bytes.clone()));
        Case { width, instructions, bytes, state, edits }
    }

    fn pin(&mut self, register: usize, value: u64) {
        // In a sequence an earlier instruction may depend on it, or change it.
        let settled = self.settled;
        if settled >> register & 1 != 0 {
            return;
        }
        self.state.gpr[register] = value;
        self.pinned |= 1 << register;
    }

    fn is_pinned(&self, register: usize) -> bool {
        (self.pinned | self.written) >> register & 1 != 0
    }

    pub fn write(&mut self, address: u64, data: &[u8]) {
        let writable = locate(address, data.len()).is_some() && !(CODE.base..CODE.end()).contains(&address);
        if writable {
            self.edits.push((address, data.to_vec()));
        }
    }

    /// Builds one instance of `code` at `ip`, or nothing if the choice made cannot be encoded.
    pub fn instance(&mut self, code: Code, ip: u64) -> Option<(Instruction, Vec<u8>)> {
        let info = code.op_code();
        self.settled = self.pinned & !(1 << RSP) | self.written;
        self.prepare(code);
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let wants_lock = info.can_use_lock_prefix() && self.rng.chance(30);
        let locked = wants_lock || code.mnemonic() == Mnemonic::Xchg;
        for (index, kind) in (0_u32..).zip(info.op_kinds()) {
            self.operand(&mut instruction, index, *kind, ip, locked)?;
        }
        if wants_lock && instruction.op0_kind() == OpKind::Memory {
            instruction.set_has_lock_prefix(true);
        }
        if info.can_use_rep_prefix() && self.rng.chance(60) {
            instruction.set_has_rep_prefix(true);
            self.repeat_count(&instruction);
        } else if info.can_use_repne_prefix() && self.rng.chance(60) {
            instruction.set_has_repne_prefix(true);
            self.repeat_count(&instruction);
        }
        self.adjust(&instruction);
        let mut encoder = Encoder::new(self.width.bits());
        encoder.encode(&instruction, ip).ok()?;
        let bytes = encoder.take_buffer();
        let decoded = decode(self.width, &bytes, ip);
        // A form that begins with WAIT is two instructions.
        let expected = if info.fwait() { decoded.len() == 2 } else { decoded.len() == 1 && decoded[0].code() == code };
        expected.then(|| (decoded[0], bytes))
    }

    /// An address for `size` bytes, mostly mapped.
    fn target(&mut self, size: usize, locked: bool) -> u64 {
        let rng = &self.rng;
        let size = size.max(1) as u64;
        let natural = size.next_power_of_two().min(64);
        // A locked access across cache lines is slowed down, or refused, by some host kernels.
        let align = if locked { natural.max(16) } else { natural };
        let kind = if self.faults { rng.below(100) } else { rng.below(75) };
        let address = match kind {
            0..55 => DATA.base + rng.below(DATA.pages as u64 * 4096 - size),
            55..63 => DATA.base + 4096 - rng.below(size + 1),
            63..75 => STACK.base + rng.below(STACK.pages as u64 * 4096 - size),
            75..80 => DATA.end() - rng.below(size + 1),
            80..84 => READ_ONLY.base + rng.below(4096 - size),
            84..88 => CODE.base + rng.below(4096),
            88..91 => DATA.base - 1 - rng.below(size),
            91..94 => rng.pick(&[0, 8, 0x7fff_ffff_f000, 0xffff_8000_0000_0000 | 0x10_0000, DATA.end() + 4096]),
            // In 32-bit code these would end at 4 GiB, where a limit may or may not be seen (SDM volume 3, 5.3).
            94..97 if self.width == Width::Bits64 => rng.pick(&[0x8000_0000_0000, 0xffff_7fff_ffff_fff0, 1 << 62, 0x0100_0000_2000_0000]),
            _ => DATA.base + rng.below(4096),
        };
        if locked || rng.chance(60) { address / align * align } else { address }
    }

    fn operand(
        &mut self,
        instruction: &mut Instruction,
        index: u32,
        kind: Kind,
        ip: u64,
        locked: bool,
    ) -> Option<()> {
        let register = |this: &mut Self, instruction: &mut Instruction, first: Register, count: u64| {
            instruction.set_op_kind(index, OpKind::Register);
            instruction.set_op_register(index, first + this.rng.below(count) as u32);
        };
        let fixed = |instruction: &mut Instruction, register: Register| {
            instruction.set_op_kind(index, OpKind::Register);
            instruction.set_op_register(index, register);
        };
        let wide = self.width == Width::Bits64;
        let count = if wide { 16 } else { 8 };
        let use_memory = self.rng.chance(55);
        match kind {
            Kind::mem | Kind::mem_offs => self.memory(instruction, index, kind, ip, locked)?,
            Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::mm_or_mem
            | Kind::xmm_or_mem
                if use_memory =>
            {
                self.memory(instruction, index, kind, ip, locked)?;
            }
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => {
                register(self, instruction, Register::AL, if wide { 20 } else { 8 });
            }
            Kind::r16_or_mem | Kind::r16_reg | Kind::r16_rm | Kind::r16_opcode => {
                register(self, instruction, Register::AX, count);
            }
            Kind::r32_or_mem | Kind::r32_reg | Kind::r32_rm | Kind::r32_opcode => {
                register(self, instruction, Register::EAX, count);
            }
            Kind::r64_or_mem | Kind::r64_reg | Kind::r64_rm | Kind::r64_opcode => {
                register(self, instruction, Register::RAX, count);
            }
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => register(self, instruction, Register::MM0, 8),
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm => register(self, instruction, Register::XMM0, count),
            Kind::seg_reg => register(self, instruction, Register::ES, 6),
            Kind::cr_reg => {
                let list = [Register::CR0, Register::CR2, Register::CR3, Register::CR4];
                fixed(instruction, self.rng.pick(&list));
            }
            Kind::dr_reg => register(self, instruction, Register::DR0, 8),
            Kind::es => fixed(instruction, Register::ES),
            Kind::cs => fixed(instruction, Register::CS),
            Kind::ss => fixed(instruction, Register::SS),
            Kind::ds => fixed(instruction, Register::DS),
            Kind::fs => fixed(instruction, Register::FS),
            Kind::gs => fixed(instruction, Register::GS),
            Kind::al => fixed(instruction, Register::AL),
            Kind::cl => fixed(instruction, Register::CL),
            Kind::ax => fixed(instruction, Register::AX),
            Kind::dx => fixed(instruction, Register::DX),
            Kind::eax => fixed(instruction, Register::EAX),
            Kind::rax => fixed(instruction, Register::RAX),
            Kind::st0 => fixed(instruction, Register::ST0),
            Kind::sti_opcode => register(self, instruction, Register::ST0, 8),
            Kind::imm8 | Kind::imm8_const_1 | Kind::imm8sex16 | Kind::imm8sex32 | Kind::imm8sex64 => {
                let value = if kind == Kind::imm8_const_1 { 1 } else { integer(&self.rng, 8) as u8 };
                self.immediate8(instruction, index, kind, value);
            }
            Kind::imm16 => {
                instruction.set_op_kind(index, OpKind::Immediate16);
                instruction.set_immediate16(integer(&self.rng, 16) as u16);
            }
            Kind::imm32 => {
                instruction.set_op_kind(index, OpKind::Immediate32);
                instruction.set_immediate32(integer(&self.rng, 32) as u32);
            }
            Kind::imm32sex64 => {
                instruction.set_op_kind(index, OpKind::Immediate32to64);
                instruction.set_immediate32to64(i64::from(integer(&self.rng, 32) as i32));
            }
            Kind::imm64 => {
                instruction.set_op_kind(index, OpKind::Immediate64);
                instruction.set_immediate64(integer(&self.rng, 64));
            }
            Kind::seg_rSI => self.string_operand(instruction, index, RSI, [
                OpKind::MemorySegRSI,
                OpKind::MemorySegESI,
            ]),
            Kind::es_rDI => self.string_operand(instruction, index, RDI, [
                OpKind::MemoryESRDI,
                OpKind::MemoryESEDI,
            ]),
            Kind::seg_rDI => self.string_operand(instruction, index, RDI, [
                OpKind::MemorySegRDI,
                OpKind::MemorySegEDI,
            ]),
            Kind::seg_rBX_al => {
                let target = self.target(1, false);
                let narrow = !wide || self.rng.chance(15);
                let al = self.state.gpr[RAX] & 0xff;
                self.pin(RAX, self.state.gpr[RAX]);
                self.pin(RBX, target.wrapping_sub(al));
                instruction.set_op_kind(index, OpKind::Memory);
                instruction.set_memory_base(if narrow { Register::EBX } else { Register::RBX });
                instruction.set_memory_index(Register::AL);
            }
            Kind::br64_1 | Kind::br32_1 | Kind::br64_4 | Kind::br32_4 | Kind::br16_1 | Kind::br16_2 => {
                self.branch(instruction, index, kind, ip);
            }
            other => panic!("no way to choose an operand of kind {other:?}: teach the generator"),
        }
        Some(())
    }

    fn immediate8(&mut self, instruction: &mut Instruction, index: u32, kind: Kind, value: u8) {
        let op_kind = match kind {
            Kind::imm8sex16 => OpKind::Immediate8to16,
            Kind::imm8sex32 => OpKind::Immediate8to32,
            Kind::imm8sex64 => OpKind::Immediate8to64,
            _ if index > 0 && instruction.op_kind(index - 1) == OpKind::Immediate16 => OpKind::Immediate8_2nd,
            _ => OpKind::Immediate8,
        };
        instruction.set_op_kind(index, op_kind);
        match op_kind {
            OpKind::Immediate8to16 => instruction.set_immediate8to16(i16::from(value as i8)),
            OpKind::Immediate8to32 => instruction.set_immediate8to32(i32::from(value as i8)),
            OpKind::Immediate8to64 => instruction.set_immediate8to64(i64::from(value as i8)),
            // The nesting level of ENTER.
            OpKind::Immediate8_2nd => instruction.set_immediate8_2nd(if value & 1 == 0 { 0 } else { value }),
            _ => instruction.set_immediate8(value),
        }
    }

    /// A branch target where an INT3 waits, or nothing is mapped.
    fn branch(&mut self, instruction: &mut Instruction, index: u32, kind: Kind, ip: u64) {
        let near = 20 + self.rng.below(80);
        // Never back into a sequence: it would not come to an end.
        let short = if self.sequence || self.rng.chance(50) { ip + near } else { ip - near };
        let long = if self.rng.chance(90) { self.code_target(ip) } else { DATA.base };
        match kind {
            Kind::br64_1 | Kind::br64_4 => {
                instruction.set_op_kind(index, OpKind::NearBranch64);
                instruction.set_near_branch64(if kind == Kind::br64_1 { short } else { long });
            }
            Kind::br32_1 | Kind::br32_4 => {
                instruction.set_op_kind(index, OpKind::NearBranch32);
                instruction.set_near_branch32(if kind == Kind::br32_1 { short } else { long } as u32);
            }
            _ => {
                instruction.set_op_kind(index, OpKind::NearBranch16);
                instruction.set_near_branch16(if kind == Kind::br16_1 { short } else { long } as u16);
            }
        }
    }

    /// An address in the code region that is not within the instruction at `ip`.
    fn code_target(&mut self, ip: u64) -> u64 {
        let target = CODE.base + self.rng.below(0x2000);
        if target.abs_diff(ip) < 256 { CODE.base } else { target }
    }

    fn string_operand(&mut self, instruction: &mut Instruction, index: u32, register: usize, kinds: [OpKind; 2]) {
        let narrow = match index {
            // Both operands of one instruction have the same address size.
            0 => self.width == Width::Bits32 || self.rng.chance(20),
            _ => matches!(
                instruction.op0_kind(),
                OpKind::MemoryESEDI | OpKind::MemorySegESI | OpKind::MemorySegEDI
            ) || self.width == Width::Bits32 && instruction.op0_kind() == OpKind::Register,
        };
        let masked = matches!(instruction.mnemonic(), Mnemonic::Maskmovq | Mnemonic::Maskmovdqu);
        let faults = self.faults;
        // Where both operands fault, which one is reported differs between processors.
        self.faults &= !masked && !self.is_pinned(if register == RSI { RDI } else { RSI });
        self.faults &= self.state.rflags & ALIGNMENT == 0 || instruction.op_count() == 1;
        let mut target = self.target(16, false);
        self.faults = faults;
        if self.state.rflags & DIRECTION != 0 && !masked && self.rng.chance(50) {
            target = target.wrapping_add(300);
        }
        if narrow && self.width == Width::Bits64 {
            target = target & 0xffff_ffff | self.rng.word() << 32;
        }
        self.pin(register, target);
        instruction.set_op_kind(index, kinds[usize::from(narrow)]);
    }

    fn repeat_count(&mut self, instruction: &Instruction) {
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
    fn prepare(&mut self, code: Code) {
        let size = code.op_code().operand_size().max(8);
        match code.mnemonic() {
            Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shld
            | Mnemonic::Shrd => {
                let count = if self.rng.chance(70) { self.rng.below(70) } else { self.rng.word() & 0xff };
                self.pin(RCX, self.rng.word() << 8 | count);
            }
            Mnemonic::Div | Mnemonic::Idiv => {
                let high = match self.rng.below(4) {
                    0 => self.rng.word() & 3,
                    1 => self.state.gpr[RDX],
                    _ if code.mnemonic() == Mnemonic::Idiv => (self.state.gpr[RAX] as i64 >> (size - 1)) as u64,
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
            | Mnemonic::Pcmpestrm64 => {
                for register in [RAX, RDX] {
                    let length = self.rng.below(41).wrapping_sub(20);
                    let value = if self.rng.chance(75) { length } else { self.state.gpr[register] };
                    self.pin(register, value);
                }
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
                0x8000_0000_0000,
                READ_ONLY.base + 64,
            ]);
        }
    }

    /// Registers and memory that give an instance its meaning, after operands are chosen.
    fn adjust(&mut self, instruction: &Instruction) {
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
            Mnemonic::Jmp | Mnemonic::Call if instruction.op0_kind() == OpKind::Memory => {
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
                self.state.gpr[register] = if self.rng.chance(15) { (value as i64 >> 17) as u64 } else { value >> shift };
            }
            Mnemonic::Ldmxcsr if self.rng.chance(80) => {
                let value = random_mxcsr(&self.rng);
                self.write_operand(instruction, &value.to_le_bytes());
            }
            Mnemonic::Fxrstor | Mnemonic::Fxrstor64 if self.rng.chance(85) => {
                let other = random_state(&self.rng, self.width, Flavour::Single, false);
                self.write_operand(instruction, &other.to_fxsave());
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
            _ => {}
        }
    }

    /// A code address, seldom one that faults.
    fn wild_code_target(&mut self, ip: u64) -> u64 {
        let sp = self.state.gpr[RSP];
        let stack_mapped = (STACK.base + 8..STACK.end() - 8).contains(&sp) && self.state.rflags & ALIGNMENT == 0;
        match self.rng.below(20) {
            0 if self.faults => self.rng.pick(&[DATA.base, 8, 0x7fff_0000_0000]),
            // Processors of another vendor load the target first and fault there.
            1 if self.faults && host_is_intel() && stack_mapped => 0x8000_0000_0000,
            _ => self.code_target(ip),
        }
    }

    /// Writes `data` to the memory operand of `instruction`.
    fn write_operand(&mut self, instruction: &Instruction, data: &[u8]) {
        if let Some(address) = linear_address(instruction, &self.state) {
            self.write(address, data);
        }
    }

    /// Chooses a memory operand and the registers that lead to it.
    fn memory(
        &mut self,
        instruction: &mut Instruction,
        index: u32,
        kind: Kind,
        ip: u64,
        locked: bool,
    ) -> Option<()> {
        let memory_size = instruction.code().op_code().memory_size();
        let size = memory_size.size();
        let target = self.target(size, locked);
        self.fill_around(target, size, Flavour::of(memory_size));
        instruction.set_op_kind(index, OpKind::Memory);
        let wide = self.width == Width::Bits64;
        let narrow = !wide || self.rng.chance(12);
        let mut want = target;
        if wide && self.rng.chance(12) {
            let (segment, base) = if self.rng.chance(50) {
                (Register::FS, self.state.fs_base)
            } else {
                (Register::GS, self.state.gs_base)
            };
            instruction.set_segment_prefix(segment);
            want = want.wrapping_sub(base);
        }
        if narrow {
            want &= 0xffff_ffff;
        }
        let long_displacement = if narrow { 4 } else { 8 };
        let first = if narrow { Register::EAX } else { Register::RAX };
        let fits = |value: u64| if narrow { true } else { i64::from(value as i32) as u64 == value };
        let absolute = |instruction: &mut Instruction, size: u32| {
            instruction.set_memory_displacement64(want);
            instruction.set_memory_displ_size(size);
        };
        if kind == Kind::mem_offs {
            absolute(instruction, long_displacement);
            return Some(());
        }
        match self.rng.below(100) {
            0..8 if wide && want.abs_diff(ip) < 0x7fff_0000 => {
                instruction.set_memory_base(if narrow { Register::EIP } else { Register::RIP });
                absolute(instruction, long_displacement);
            }
            8..14 if fits(want) => absolute(instruction, long_displacement),
            14..20 => {
                // Relative to the stack pointer, which keeps its value but for alignment.
                let sp = self.state.gpr[RSP];
                let displacement = self.rng.below(256).wrapping_sub(128);
                instruction.set_segment_prefix(Register::None);
                instruction.set_memory_base(first + RSP as u32);
                self.set_displacement(instruction, displacement, narrow);
                let address = sp.wrapping_add(displacement);
                let aligned = (self.rng.chance(60) || locked) && !self.sequence;
                if aligned {
                    // Moves the stack pointer to an aligned operand.
                    let natural = size.max(1).next_power_of_two().clamp(1, 64) as u64;
                    let off = address % natural;
                    self.state.gpr[RSP] = sp.wrapping_sub(off);
                }
                let address = self.state.gpr[RSP].wrapping_add(displacement);
                self.fill_around(address, size, Flavour::of(memory_size));
            }
            20..50 => {
                let base = self.free_register()?;
                let displacement = self.displacement();
                self.set_address_register(base, want.wrapping_sub(displacement), narrow);
                instruction.set_memory_base(first + base as u32);
                self.set_displacement(instruction, displacement, narrow);
            }
            50..88 => {
                let base = self.free_register()?;
                let scale = self.rng.below(4);
                let displacement = self.displacement();
                let index_value = match self.rng.below(3) {
                    0 => self.rng.below(16),
                    1 => self.rng.below(16).wrapping_neg(),
                    _ => self.rng.word(),
                };
                // The base first, so that the index is another register.
                self.pinned |= 1 << base;
                let index = self.free_register()?;
                self.set_address_register(index, index_value, narrow);
                let base_value = want.wrapping_sub(index_value << scale).wrapping_sub(displacement);
                self.set_address_register(base, base_value, narrow);
                instruction.set_memory_base(first + base as u32);
                instruction.set_memory_index(first + index as u32);
                instruction.set_memory_index_scale(1 << scale);
                self.set_displacement(instruction, displacement, narrow);
            }
            _ => {
                let index = self.free_register()?;
                let scale = self.rng.below(4);
                let index_value = (want >> scale).wrapping_sub(self.rng.below(1000));
                let displacement = want.wrapping_sub(index_value << scale);
                let displacement = if narrow { i64::from(displacement as i32) as u64 } else { displacement };
                if i64::from(displacement as i32) as u64 != displacement {
                    return None;
                }
                self.set_address_register(index, index_value, narrow);
                instruction.set_memory_index(first + index as u32);
                instruction.set_memory_index_scale(1 << scale);
                instruction.set_memory_displacement64(displacement);
                instruction.set_memory_displ_size(long_displacement);
            }
        }
        Some(())
    }

    fn fill_around(&mut self, target: u64, size: usize, flavour: Flavour) {
        let mut data = vec![0; size.clamp(1, 512) + 16];
        flavour.fill(&self.rng, &mut data);
        self.write(target, &data);
    }

    /// A register that no other operand depends on.
    fn free_register(&self) -> Option<usize> {
        let count = if self.width == Width::Bits64 { 16 } else { 8 };
        let start = self.rng.below(count) as usize;
        (start..start + count as usize).map(|i| i % count as usize).find(|i| !self.is_pinned(*i))
    }

    fn set_address_register(&mut self, register: usize, value: u64, narrow: bool) {
        let high = if narrow { self.rng.word() << 32 } else { 0 };
        self.pin(register, if narrow { value & 0xffff_ffff | high } else { value });
    }

    fn displacement(&mut self) -> u64 {
        match self.rng.below(4) {
            0 => 0,
            1 | 2 => self.rng.below(256).wrapping_sub(128),
            _ => i64::from(self.rng.word() as i32) as u64,
        }
    }

    fn set_displacement(&mut self, instruction: &mut Instruction, displacement: u64, narrow: bool) {
        let long = if narrow { 4 } else { 8 };
        let fits = i64::from(displacement as i8) as u64 == displacement;
        let size = match displacement {
            0 if self.rng.chance(70) => 0,
            _ if fits && self.rng.chance(90) => 1,
            _ => long,
        };
        instruction.set_memory_displacement64(if narrow { displacement & 0xffff_ffff } else { displacement });
        instruction.set_memory_displ_size(size);
    }
}

/// Decodes all of `bytes`.
pub fn decode(width: Width, bytes: &[u8], ip: u64) -> Vec<Instruction> {
    let options = DecoderOptions::NO_MPFX_0FBC | DecoderOptions::NO_WBNOINVD;
    Decoder::with_ip(width.bits(), bytes, ip, options).into_iter().collect()
}

/// The linear address of the memory operand of `instruction`, if it has one of the ModRM kind.
pub fn linear_address(instruction: &Instruction, state: &State) -> Option<u64> {
    let operand = (0..instruction.op_count()).find(|i| instruction.op_kind(*i) == OpKind::Memory)?;
    instruction.try_virtual_address(operand, 0, |register, _, _| match register {
        Register::FS => Some(state.fs_base),
        Register::GS => Some(state.gs_base),
        _ if register.is_segment_register() => Some(0),
        _ => {
            let value = state.gpr.get(register.full_register().number())?;
            Some(match register.size() {
                1 => value & 0xff,
                4 => value & 0xffff_ffff,
                _ => *value,
            })
        }
    })
}

/// Whether the host's processor is of the vendor that the interpreter presents.
pub fn host_is_intel() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    (leaf.ebx, leaf.edx, leaf.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e)
}

fn random_mxcsr(rng: &Rng) -> u32 {
    if rng.chance(25) {
        return 0x1f80;
    }
    let masks = if rng.chance(70) { 0x1f80 } else { rng.word() as u32 & 0x1f80 };
    let rounding = rng.word() as u32 & 0x6000;
    let flush = if rng.chance(25) { rng.word() as u32 & 0x8040 } else { 0 };
    let flags = if rng.chance(25) { rng.word() as u32 & 0x3f } else { 0 };
    masks | rounding | flush | flags
}

fn random_fpu(rng: &Rng, mmx: bool) -> Fpu {
    let mut masks = if rng.chance(70) { 0x3f } else { rng.word() as u16 & 0x3f };
    let precision = rng.pick(&[0x300, 0x300, 0x300, 0x200, 0]);
    let rounding = rng.word() as u16 & 0xc00;
    // An exception pending is the case of a few only: it would keep every other instruction from running.
    let mut flags = if rng.chance(30) { rng.word() as u16 & masks } else { 0 };
    if rng.chance(4) {
        masks = rng.word() as u16 & 0x3f;
        flags = rng.word() as u16 & 0x3f;
    }
    let pending = if flags & !masks != 0 { 0x8080 } else { 0 };
    let stack_fault = if flags & 1 != 0 && rng.chance(30) { 0x40 } else { 0 };
    let conditions = rng.word() as u16 & 0x4700;
    let top = (rng.below(8) as u16) << 11;
    let tags = match rng.below(10) {
        0..6 => 0xff,
        6 => 0,
        _ => rng.word() as u8,
    };
    let st = std::array::from_fn(|_| {
        if mmx && rng.chance(80) {
            let flavour = Flavour::any(rng);
            let mut data = [0; 8];
            flavour.fill(rng, &mut data);
            0xffff << 64 | u128::from(u64::from_le_bytes(data))
        } else {
            extended(rng)
        }
    });
    Fpu {
        control: 0x40 | masks | precision | rounding,
        status: flags | pending | stack_fault | conditions | top,
        tags,
        st,
    }
}

fn random_state(rng: &Rng, width: Width, flavour: Flavour, mmx: bool) -> State {
    let gpr = std::array::from_fn(|_| {
        let bits = rng.pick(&[8, 16, 32, 64]);
        let high = if bits < 64 && rng.chance(60) { rng.word() << bits } else { 0 };
        integer(rng, bits) | high
    });
    let xmm = std::array::from_fn(|_| {
        let flavour = if rng.chance(70) { flavour } else { Flavour::any(rng) };
        let mut data = [0; 16];
        flavour.fill(rng, &mut data);
        u128::from_le_bytes(data)
    });
    let mut rflags = INTERRUPTS | rng.word() & ARITHMETIC;
    rflags |= if rng.chance(20) { DIRECTION } else { 0 };
    rflags |= if rng.chance(4) { ALIGNMENT } else { 0 };
    let bases = match width {
        Width::Bits64 => [0, 0x1000, 0x2000_0000, 0x1_0000_0000, 0x7ffe_0000_0000],
        Width::Bits32 => [0; 5],
    };
    let mut state = State {
        gpr,
        rip: CODE.base + 0x800 + rng.below(0x400),
        rflags,
        fs_base: rng.pick(&bases),
        gs_base: rng.pick(&bases),
        xmm,
        mxcsr: random_mxcsr(rng),
        fpu: random_fpu(rng, mmx),
    };
    state.gpr[RSP] = STACK.base + 0x800 + rng.below(0x1000) / 8 * 8 + if rng.chance(10) { rng.below(8) } else { 0 };
    state
}

/// An instance of `code` in a state of its own, or nothing if none of a few tries could be encoded.
pub fn single(rng: &Rng, width: Width, code: Code) -> Option<Case> {
    for attempt in 0..20 {
        let mut rng = rng.clone();
        for _ in 0..attempt {
            rng = Rng::new(rng.word());
        }
        let mut generator = Generator::new(rng, width);
        generator.draw_state(code);
        let ip = match generator.rng.below(40) {
            0 => CODE.base + 0x1000 - 1 - generator.rng.below(5),
            _ => generator.state.rip,
        };
        generator.state.rip = ip;
        if let Some((_, bytes)) = generator.instance(code, ip) {
            // At the very end of the code: the next instruction cannot be fetched.
            let instructions = decode(width, &bytes, ip);
            return Some(generator.finish(instructions, bytes));
        }
    }
    None
}

/// The extension a form belongs to, for the report.
pub fn extension(code: Code) -> String {
    let features: Vec<String> = code
        .cpuid_features()
        .iter()
        .map(|feature| match feature {
            CpuidFeature::INTEL8086
            | CpuidFeature::INTEL186
            | CpuidFeature::INTEL286
            | CpuidFeature::INTEL386
            | CpuidFeature::INTEL486 => "base".to_owned(),
            CpuidFeature::X64 => "base, 64-bit".to_owned(),
            CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 => "x87".to_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    features.join("+")
}
