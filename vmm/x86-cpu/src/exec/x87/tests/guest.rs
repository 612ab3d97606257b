//! Runs one x87 instruction in the interpreter from a given state: 32-bit protected mode, flat, without paging, where the
//! encodings and the memory formats are the same as the host's in 64-bit mode.

use super::native::{IMAGE, MEMORY, State};
use crate::block::Op;
use crate::decode::{Lowered, lower, operand};
use crate::fault::Fault;
use crate::state::{Segment, Vcpu, cr0, reg};
use crate::test_world::TestWorld;
use iced_x86::{Decoder, DecoderOptions};

/// Address of the instruction.
pub(super) const CODE: u32 = 0x1000;
/// Address of the memory operand.
pub(super) const DATA: u32 = 0x2000;
const SAVED: u64 = 0x3000;

pub(super) struct Guest {
    pub cpu: Vcpu,
    pub world: TestWorld,
    op: Op<TestWorld>,
    save: Op<TestWorld>,
}

/// The operation for `bytes`, if they are an instruction of the x87.
pub(super) fn decode(cpu: &Vcpu, bytes: &[u8]) -> Option<Op<TestWorld>> {
    let instruction = Decoder::with_ip(32, bytes, u64::from(CODE), DecoderOptions::NONE).decode();
    if instruction.is_invalid() || instruction.len() != bytes.len() {
        return None;
    }
    let mut op = Op::new(crate::decode::undefined::<TestWorld>, 0, bytes.len() as u8);
    if operand::has_memory(&instruction) {
        operand::fill_memory(&instruction, cpu.mode, u64::from(CODE), &mut op);
    }
    assert_eq!(lower(&instruction, cpu.mode, &mut op), Lowered::Straight, "{instruction}");
    Some(op)
}

impl Guest {
    /// Prepares to run `instruction`, whose memory operand, if any, is \[edx\].
    pub(super) fn new(instruction: &[u8]) -> Option<Self> {
        let mut cpu = Vcpu::new(0);
        cpu.cr0 = cr0::PE | cr0::NE | cr0::ET;
        cpu.segs = [Segment { selector: 8, base: 0, limit: u32::MAX, attr: 0xc093 }; 6];
        cpu.segs[crate::state::seg::CS].attr = 0xc09b;
        cpu.update_mode();
        cpu.rip = u64::from(CODE);
        let op = decode(&cpu, instruction)?;
        // fnsave [0x3000]
        let save = decode(&cpu, &[0xdd, 0x35, 0, 0x30, 0, 0])?;
        Some(Self { cpu, world: TestWorld::new(8), op, save })
    }
    /// Sets the x87 from an FNSAVE image, without executing anything.
    fn load(&mut self, image: &[u8; IMAGE]) {
        let half = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let x87 = &mut self.cpu.x87;
        (x87.control, x87.status, x87.tags) = (half(0), half(4), half(8));
        x87.instruction_pointer = u64::from(half(12)) | u64::from(half(14)) << 16;
        x87.opcode = half(18);
        x87.data_pointer = u64::from(half(20)) | u64::from(half(22)) << 16;
        for (i, bytes) in image[28..].chunks(10).enumerate() {
            let mut value = [0; 16];
            value[..10].copy_from_slice(bytes);
            x87.regs[(usize::from(x87.status >> 11) + i) & 7] = u128::from_le_bytes(value);
        }
    }
    /// Runs the instruction from `state`.
    pub(super) fn run(&mut self, state: &State) -> Result<State, Fault> {
        self.load(&state.image);
        self.world.poke(u64::from(DATA), &state.memory);
        self.cpu.gpr[reg::RAX] = state.rax;
        self.cpu.gpr[reg::RDX] = u64::from(DATA);
        self.cpu.set_rflags(state.rflags);
        (self.op.run)(&mut self.cpu, &mut self.world, &self.op)?;
        (self.save.run)(&mut self.cpu, &mut self.world, &self.save)?;
        let mut after = state.clone();
        after.image.copy_from_slice(&self.world.peek(SAVED, IMAGE));
        after.memory.copy_from_slice(&self.world.peek(u64::from(DATA), MEMORY));
        after.rax = self.cpu.gpr[reg::RAX];
        after.rflags = self.cpu.rflags();
        Ok(after)
    }
}
