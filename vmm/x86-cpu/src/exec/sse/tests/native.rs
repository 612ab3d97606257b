//! Every form on the host and here, from the same random state.

use super::{cpu, execute, forms};
use crate::flags::bits;
use crate::state::{Vcpu, reg};
use crate::test_world::{TestWorld, host_is_intel};
use iced_x86::{Code, Encoder, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register};

const IMAGE: usize = 512;
/// Guest-physical addresses of the memory operand and of the FXSAVE image.
const MEMORY: u64 = 0x1000;
const FX: u64 = 0x2000;
const ARITHMETIC: u64 = bits::ARITHMETIC;

/// What an instruction starts from and leaves. Offsets are known to [`Page::assemble`].
#[repr(C, align(64))]
#[derive(Clone, PartialEq)]
struct State {
    /// RAX, RCX, RDX, RBX.
    gpr: [u64; 4],
    flags: u64,
    _reserved: [u64; 3],
    fx: [u8; IMAGE],
    memory: [u8; 64],
}

/// Executable memory for one instruction at a time.
struct Page(*mut u8);

impl Page {
    fn new() -> Self {
        // SAFETY: a new private mapping.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        Self(page.cast())
    }

    /// Surrounds `instruction` with code that loads and stores a [`State`] at RDI; RSI is its memory.
    fn assemble(&mut self, instruction: &[u8]) {
        let before: &[&[u8]] = &[
            &[0x53],                                     // push rbx
            &[0x48, 0x8d, 0xb7, 0x40, 0x02, 0x00, 0x00], // lea rsi, [rdi+0x240]
            &[0x48, 0x0f, 0xae, 0x4f, 0x40],             // fxrstor64 [rdi+0x40]
            &[0x48, 0x8b, 0x07],                         // mov rax, [rdi]
            &[0x48, 0x8b, 0x4f, 0x08],                   // mov rcx, [rdi+8]
            &[0x48, 0x8b, 0x57, 0x10],                   // mov rdx, [rdi+16]
            &[0x48, 0x8b, 0x5f, 0x18],                   // mov rbx, [rdi+24]
            &[0xff, 0x77, 0x20, 0x9d],                   // push [rdi+32]; popfq
        ];
        let after: &[&[u8]] = &[
            &[0x9c, 0x8f, 0x47, 0x20],       // pushfq; pop [rdi+32]
            &[0x48, 0x89, 0x07],             // mov [rdi], rax
            &[0x48, 0x89, 0x4f, 0x08],       // mov [rdi+8], rcx
            &[0x48, 0x89, 0x57, 0x10],       // mov [rdi+16], rdx
            &[0x48, 0x89, 0x5f, 0x18],       // mov [rdi+24], rbx
            &[0x48, 0x0f, 0xae, 0x47, 0x40], // fxsave64 [rdi+0x40]
            &[0xdb, 0xe3],                   // fninit
            &[0x68, 0x80, 0x1f, 0x00, 0x00], // push 0x1f80
            &[0x0f, 0xae, 0x14, 0x24],       // ldmxcsr [rsp]
            &[0x58, 0x5b, 0xc3],             // pop rax; pop rbx; ret
        ];
        let code = [before.concat(), instruction.to_vec(), after.concat()].concat();
        // SAFETY: the page is writable and larger than the code.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.0, code.len()) };
    }

    fn run(&self, state: &mut State) {
        // SAFETY: `assemble` left a function that keeps to the C calling convention and touches only `state`.
        unsafe {
            let function: extern "C" fn(*mut State) = std::mem::transmute(self.0);
            function(state);
        }
    }
}

/// A generator of operands (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 32) as usize % bound
    }
    fn single(&mut self) -> u32 {
        const SPECIAL: [u32; 16] = [
            0,
            1,
            0x7f_ffff,
            0x80_0000,
            0x80_0001,
            0x3f80_0000,
            0x3f80_0001,
            0x4f00_0000,
            0x4eff_ffff,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fc0_0000,
            0x7fc0_1234,
            0x3f00_0000,
            0x4b00_0001,
        ];
        match self.below(4) {
            0 => self.next() as u32,
            1 => ((self.next() % 2000) as f32 / 8.0 - 125.0).to_bits(),
            _ => SPECIAL[self.below(16)] | (self.next() as u32 & 1) << 31,
        }
    }
    fn double(&mut self) -> u64 {
        const SPECIAL: [u64; 16] = [
            0,
            1,
            0xf_ffff_ffff_ffff,
            0x10_0000_0000_0000,
            0x10_0000_0000_0001,
            0x3ff0_0000_0000_0000,
            0x3ff0_0000_0000_0001,
            0x41e0_0000_0000_0000,
            0x43e0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x7ff8_0000_0000_0000,
            0x7ff8_0000_0000_1234,
            0x3810_0000_0000_0000,
            0x47ef_ffff_f000_0000,
        ];
        match self.below(4) {
            0 => self.next(),
            1 => ((self.next() % 2000) as f64 / 8.0 - 125.0).to_bits(),
            _ => SPECIAL[self.below(16)] | self.next() << 63,
        }
    }
    fn vector(&mut self) -> u128 {
        let mut lanes = |next: &mut dyn FnMut(&mut Self) -> u64, width: usize| {
            (0..128).step_by(width).fold(0, |v, shift| v | u128::from(next(self)) << shift)
        };
        match lanes(&mut |r| r.next() >> 62, 64) & 3 {
            0 => lanes(&mut Self::next, 64),
            1 => lanes(&mut |r| u64::from(r.single()), 32),
            2 => lanes(&mut Self::double, 64),
            _ => {
                // Text with a null here and there.
                let alphabet = self.below(6) + 2;
                (0..16).fold(0, |v, i| v | (self.below(alphabet) as u128) << (i * 8))
            }
        }
    }
    fn state(&mut self, initial: &[u8; IMAGE]) -> State {
        let mut state = State {
            gpr: [0; 4].map(|_| self.next() >> (self.below(9) * 7)),
            flags: self.next() & ARITHMETIC | 2,
            _reserved: [0; 3],
            fx: *initial,
            memory: [0; 64],
        };
        let tops = (self.next() & 7) << 11;
        state.fx[2..4].copy_from_slice(&(tops as u16).to_le_bytes());
        state.fx[4] = self.next() as u8;
        let mxcsr =
            0x1f80 | (self.next() & 0xe040) as u32 & [0, 0xffff][self.below(2)] | self.next() as u32 & 0x3f;
        state.fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        for st in 0..8 {
            let value = self.vector();
            state.fx[32 + st * 16..][..10].copy_from_slice(&value.to_le_bytes()[..10]);
        }
        for xmm in 0..16 {
            let value = self.vector();
            state.fx[160 + xmm * 16..][..16].copy_from_slice(&value.to_le_bytes());
        }
        for at in 0..4 {
            let value = self.vector();
            state.memory[at * 16..][..16].copy_from_slice(&value.to_le_bytes());
        }
        state
    }
}

const GPRS: [usize; 4] = [reg::RAX, reg::RCX, reg::RDX, reg::RBX];

/// Executes `instruction` here. FXRSTOR64 and FXSAVE64 carry the state in and out.
fn interpret(cpu: &mut Vcpu, world: &mut TestWorld, instruction: &[u8], state: &State) -> State {
    world.poke(FX, &state.fx);
    world.poke(MEMORY, &state.memory);
    for (value, register) in state.gpr.iter().zip(GPRS) {
        cpu.gpr[register] = *value;
    }
    cpu.gpr[reg::RDI] = FX;
    cpu.gpr[reg::RSI] = MEMORY;
    cpu.flags.set_bits(state.flags);
    execute(cpu, world, &[0x48, 0x0f, 0xae, 0x0f]).unwrap();
    execute(cpu, world, instruction).unwrap();
    execute(cpu, world, &[0x48, 0x0f, 0xae, 0x07]).unwrap();
    State {
        gpr: GPRS.map(|register| cpu.gpr[register]),
        flags: cpu.flags.to_bits(),
        _reserved: [0; 3],
        fx: world.peek(FX, IMAGE).try_into().unwrap(),
        memory: world.peek(MEMORY, 64).try_into().unwrap(),
    }
}

/// An instruction of form `code`, with a memory operand or without; `None` if the form has no such operand.
fn encode(code: Code, memory: bool, imm: u8, random: &mut Random) -> Option<Vec<u8>> {
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let mut has_memory = false;
    let gprs = |random: &mut Random, names: [Register; 3]| names[random.below(3)];
    for (at, kind) in code.op_code().op_kinds().iter().enumerate() {
        let at = at as u32;
        let name = format!("{kind:?}");
        let register = if name.starts_with("xmm") {
            [Register::XMM0, Register::XMM1, Register::XMM2, Register::XMM9][random.below(4)]
        } else if name.starts_with("mm") {
            [Register::MM0, Register::MM1, Register::MM7][random.below(3)]
        } else if name.starts_with("r64") {
            gprs(random, [Register::RAX, Register::RCX, Register::RDX])
        } else if name.starts_with("r32") {
            gprs(random, [Register::EAX, Register::ECX, Register::EDX])
        } else if name.starts_with("r16") {
            gprs(random, [Register::AX, Register::CX, Register::DX])
        } else if name.starts_with("r8") {
            gprs(random, [Register::AL, Register::CL, Register::DL])
        } else if *kind == OpCodeOperandKind::imm8 {
            instruction.set_op_kind(at, OpKind::Immediate8);
            instruction.set_immediate8(imm);
            continue;
        } else {
            assert_eq!(*kind, OpCodeOperandKind::mem, "{code:?}");
            Register::None
        };
        if name.contains("mem") {
            if memory {
                has_memory = true;
                instruction.set_op_kind(at, OpKind::Memory);
                instruction.set_memory_base(Register::RSI);
                continue;
            }
            if register == Register::None {
                return None;
            }
        }
        instruction.set_op_register(at, register);
    }
    if has_memory != memory {
        return None;
    }
    let mut encoder = Encoder::new(64);
    encoder.encode(&instruction, 0).unwrap();
    Some(encoder.take_buffer())
}

/// Forms that the harness cannot run, or whose results are the processor's own affair.
/// (Of two NaNs in a dot product, vendors return different ones.)
fn excluded(code: Code) -> bool {
    matches!(
        code.mnemonic(),
        Mnemonic::Fxsave
            | Mnemonic::Fxsave64
            | Mnemonic::Fxrstor
            | Mnemonic::Fxrstor64
            | Mnemonic::Ldmxcsr
            | Mnemonic::Maskmovq
            | Mnemonic::Maskmovdqu
            | Mnemonic::Rcpps
            | Mnemonic::Rcpss
            | Mnemonic::Rsqrtps
            | Mnemonic::Rsqrtss
            | Mnemonic::Clwb
            | Mnemonic::Clflushopt
    ) || !host_is_intel() && matches!(code.mnemonic(), Mnemonic::Dpps | Mnemonic::Dppd)
}

#[test]
fn every_form_does_what_the_host_does() {
    let mut page = Page::new();
    let mut random = Random(0x1234_5678_9abc_def1);
    let (mut cpu, mut world) = (cpu(), TestWorld::new(4));
    // FXSAVE of a clean state: control word, MXCSR mask.
    let mut initial = [0; IMAGE];
    initial[0] = 0x7f;
    initial[1] = 3;
    initial[28] = 0xff;
    initial[29] = 0xff;
    let mut tested = 0;
    for code in forms().filter(|code| !excluded(*code)) {
        let strings = format!("{code:?}").starts_with("Pcmp") && format!("{code:?}").contains("str");
        let has_imm = code.op_code().op_kinds().contains(&OpCodeOperandKind::imm8);
        for memory in [false, true] {
            for trial in 0..if has_imm { 256 } else { 20 } {
                let imm = trial as u8;
                let Some(bytes) = encode(code, memory, imm, &mut random) else { continue };
                page.assemble(&bytes);
                for _ in 0..if strings { 16 } else { 4 } {
                    let mut before = random.state(&initial);
                    if strings && random.below(2) == 0 {
                        before.gpr = before.gpr.map(|value| value % 20);
                    }
                    let mut host = before.clone();
                    page.run(&mut host);
                    host.flags &= ARITHMETIC;
                    let ours = interpret(&mut cpu, &mut world, &bytes, &before);
                    compare(code, &bytes, &before, &host, &ours);
                }
                tested += 1;
            }
        }
    }
    assert!(tested > 15_000, "{tested}");
}

fn compare(code: Code, bytes: &[u8], before: &State, host: &State, ours: &State) {
    let context = format!("{code:?} {bytes:02x?}");
    assert_eq!(host.flags, ours.flags, "{context}: flags");
    assert_eq!(host.gpr, ours.gpr, "{context}: registers, from {:x?}", before.gpr);
    assert_eq!(host.memory, ours.memory, "{context}: memory");
    for at in (0..416).step_by(16) {
        // Which bits MXCSR has differs between vendors.
        let compared = |at: usize| !(28..32).contains(&at);
        let byte = |state: &State, at: usize| if compared(at) { state.fx[at] } else { 0 };
        let part = |state: &State| u128::from_le_bytes(std::array::from_fn(|i| byte(state, at + i)));
        assert!(
            part(host) == part(ours),
            "{context}: FXSAVE image at {at}: host {:032x}, here {:032x}, before {:032x}; XMM0 {:x?} XMM1 {:x?} XMM2 {:x?} \
             memory {:x?}, MXCSR {:x?}",
            part(host),
            part(ours),
            part(before),
            &before.fx[160..176],
            &before.fx[176..192],
            &before.fx[192..208],
            &before.memory[..16],
            &before.fx[24..28],
        );
    }
}
