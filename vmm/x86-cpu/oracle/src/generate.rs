//! Random instances of an instruction form: bytes, registers and memory chosen to meet its corners.

use crate::initial::random_state;
use crate::rng::Rng;
use crate::state::{CODE, DATA, State, Width, locate};
use crate::values::{Flavour, integer};
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, Mnemonic, OpCodeOperandKind as Kind, OpKind,
    Register,
};

pub use x86_cpu::reg::{RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};

/// Instructions, and the state to run them in.
#[derive(Debug, Clone)]
pub struct Case {
    pub width: Width,
    /// As decoded from `bytes`.
    pub instructions: Vec<Instruction>,
    /// Instructions to execute: not as many as there are, if some are executed more than once.
    pub count: u64,
    pub bytes: Vec<u8>,
    pub state: State,
    /// Memory written over the common image: address and content, all mapped.
    pub edits: Vec<(u64, Vec<u8>)>,
}

pub const DIRECTION: u64 = 1 << 10;
pub const ALIGNMENT: u64 = 1 << 18;
pub const TRAP: u64 = 1 << 8;

#[derive(Debug, Clone)]
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
        Self {
            rng,
            width,
            state,
            edits: Vec::new(),
            pinned: 1 << RSP,
            written: 0,
            settled: 0,
            faults: true,
            sequence: false,
        }
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
        let masked =
            matches!(code.mnemonic(), Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu);
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
        let count = instructions.len() as u64;
        Case { width, instructions, count, bytes, state, edits }
    }

    pub fn pin(&mut self, register: usize, value: u64) {
        // In a sequence an earlier instruction may depend on it, or change it.
        let settled = self.settled;
        if settled >> register & 1 != 0 {
            return;
        }
        self.state.gpr[register] = value;
        self.pinned |= 1 << register;
    }

    pub fn is_pinned(&self, register: usize) -> bool {
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
        let expected =
            if info.fwait() { decoded.len() == 2 } else { decoded.len() == 1 && decoded[0].code() == code };
        expected.then(|| (decoded[0], bytes))
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
            | Kind::ymm_or_mem
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
            Kind::r32_or_mem | Kind::r32_reg | Kind::r32_rm | Kind::r32_opcode | Kind::r32_vvvv => {
                register(self, instruction, Register::EAX, count);
            }
            Kind::r64_or_mem | Kind::r64_reg | Kind::r64_rm | Kind::r64_opcode | Kind::r64_vvvv => {
                register(self, instruction, Register::RAX, count);
            }
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => register(self, instruction, Register::MM0, 8),
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmm_is4 => {
                register(self, instruction, Register::XMM0, count)
            }
            Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 => {
                register(self, instruction, Register::YMM0, count)
            }
            Kind::mem_vsib32x => self.vector_memory(instruction, index, Register::XMM0, 4)?,
            Kind::mem_vsib64x => self.vector_memory(instruction, index, Register::XMM0, 8)?,
            Kind::mem_vsib32y => self.vector_memory(instruction, index, Register::YMM0, 4)?,
            Kind::mem_vsib64y => self.vector_memory(instruction, index, Register::YMM0, 8)?,
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
                let mut value = if kind == Kind::imm8_const_1 { 1 } else { integer(&self.rng, 8) as u8 };
                // The breakpoint of the tracer, and a system call of Linux.
                if instruction.mnemonic() == Mnemonic::Int && matches!(value, 3 | 0x80) {
                    value ^= 1;
                }
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
            Kind::seg_rSI => {
                self.string_operand(instruction, index, RSI, [OpKind::MemorySegRSI, OpKind::MemorySegESI])
            }
            Kind::es_rDI => {
                self.string_operand(instruction, index, RDI, [OpKind::MemoryESRDI, OpKind::MemoryESEDI])
            }
            Kind::seg_rDI => {
                self.string_operand(instruction, index, RDI, [OpKind::MemorySegRDI, OpKind::MemorySegEDI])
            }
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
            Kind::farbr2_2 | Kind::farbr4_2 => {
                let target = self.code_target(ip);
                let selector = self.selector(true);
                instruction.set_far_branch_selector(selector);
                if kind == Kind::farbr2_2 {
                    instruction.set_op_kind(index, OpKind::FarBranch16);
                    instruction.set_far_branch16(target as u16);
                } else {
                    instruction.set_op_kind(index, OpKind::FarBranch32);
                    instruction.set_far_branch32(target as u32);
                }
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
    pub fn code_target(&mut self, ip: u64) -> u64 {
        let target = CODE.base + self.rng.below(0x2000);
        if target.abs_diff(ip) < 256 { CODE.base } else { target }
    }
}

/// Decodes all of `bytes`.
pub fn decode(width: Width, bytes: &[u8], ip: u64) -> Vec<Instruction> {
    Decoder::with_ip(width.bits(), bytes, ip, DecoderOptions::NO_WBNOINVD).into_iter().collect()
}

/// The linear address of the memory operand of `instruction`, if it has one of the ModRM kind.
pub fn linear_address(instruction: &Instruction, state: &State) -> Option<u64> {
    address(instruction, state, state.fs_base, state.gs_base)
}

/// The address of the memory operand of `instruction` before a segment base is added, if it has one of the ModRM kind.
pub fn effective_address(instruction: &Instruction, state: &State) -> Option<u64> {
    address(instruction, state, 0, 0)
}

fn address(instruction: &Instruction, state: &State, fs_base: u64, gs_base: u64) -> Option<u64> {
    let operand = (0..instruction.op_count()).find(|i| instruction.op_kind(*i) == OpKind::Memory)?;
    instruction.try_virtual_address(operand, 0, |register, _, _| match register {
        Register::FS => Some(fs_base),
        Register::GS => Some(gs_base),
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
