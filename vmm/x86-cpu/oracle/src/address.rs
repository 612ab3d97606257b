//! Memory operands: where they lie, and which registers and displacements lead there.

use crate::generate::{Generator, RSP};
use crate::state::{CODE, DATA, FENCE, READ_ONLY, STACK, Width, XSAVE_SIZE};
use crate::values::Flavour;
use iced_x86::{Instruction, MemorySize, OpCodeOperandKind as Kind, OpKind, Register};

/// Size of a memory operand in bytes.
pub fn operand_bytes(size: MemorySize) -> usize {
    match size {
        MemorySize::Xsave | MemorySize::Xsave64 => XSAVE_SIZE,
        _ => size.size(),
    }
}

impl Generator {
    /// An address for `size` bytes, mostly mapped.
    pub fn target(&mut self, size: usize, locked: bool) -> u64 {
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
            80..82 => READ_ONLY.base + rng.below(4096 - size),
            82..84 => FENCE.end() - rng.below(size + 1),
            84..88 => CODE.base + rng.below(4096),
            88..91 => DATA.base - 1 - rng.below(size),
            91..94 => {
                rng.pick(&[0, 8, 0x7fff_ffff_f000, 0xffff_8000_0000_0000 | 0x10_0000, DATA.end() + 4096])
            }
            // In 32-bit code these would end at 4 GiB, where a limit may or may not be seen (SDM volume 3, 5.3).
            94..97 if self.width == Width::Bits64 => {
                rng.pick(&[0x8000_0000_0000, 0xffff_7fff_ffff_fff0, 1 << 62, 0x0100_0000_2000_0000])
            }
            _ => DATA.base + rng.below(4096),
        };
        if locked || rng.chance(60) { address / align * align } else { address }
    }

    /// Chooses a memory operand and the registers that lead to it.
    pub fn memory(
        &mut self,
        instruction: &mut Instruction,
        index: u32,
        kind: Kind,
        ip: u64,
        locked: bool,
    ) -> Option<()> {
        let memory_size = instruction.code().op_code().memory_size();
        let size = operand_bytes(memory_size);
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

    /// Chooses a memory operand of several elements, whose vector of indices has elements of `size` bytes.
    pub fn vector_memory(
        &mut self,
        instruction: &mut Instruction,
        index: u32,
        first: Register,
        size: usize,
    ) -> Option<()> {
        let wide = self.width == Width::Bits64;
        let vector = self.rng.below(if wide { 16 } else { 8 }) as usize;
        let base = self.free_register()?;
        let target = self.target(8, false);
        self.fill_around(target, 64, Flavour::Int(8));
        for lane in [&mut self.state.xmm[vector], &mut self.state.ymm_high[vector]] {
            let mut bytes = lane.to_le_bytes();
            for element in bytes.chunks_exact_mut(size) {
                let near = self.rng.below(24).wrapping_sub(8);
                let far = self.faults && self.rng.chance(4);
                let value = if far { self.rng.word() } else { near };
                element.copy_from_slice(&value.to_le_bytes()[..size]);
            }
            *lane = u128::from_le_bytes(bytes);
        }
        let displacement = self.displacement();
        self.set_address_register(base, target.wrapping_sub(displacement), !wide);
        instruction.set_op_kind(index, OpKind::Memory);
        instruction.set_memory_base(if wide { Register::RAX } else { Register::EAX } + base as u32);
        instruction.set_memory_index(first + vector as u32);
        instruction.set_memory_index_scale(1 << self.rng.below(4));
        self.set_displacement(instruction, displacement, !wide);
        Some(())
    }

    pub fn fill_around(&mut self, target: u64, size: usize, flavour: Flavour) {
        let mut data = vec![0; size.clamp(1, XSAVE_SIZE) + 16];
        flavour.fill(&self.rng, &mut data);
        self.write(target, &data);
    }

    /// A register that no other operand depends on.
    pub fn free_register(&self) -> Option<usize> {
        let count = if self.width == Width::Bits64 { 16 } else { 8 };
        let start = self.rng.below(count) as usize;
        (start..start + count as usize).map(|i| i % count as usize).find(|i| !self.is_pinned(*i))
    }

    pub fn set_address_register(&mut self, register: usize, value: u64, narrow: bool) {
        let high = if narrow { self.rng.word() << 32 } else { 0 };
        self.pin(register, if narrow { value & 0xffff_ffff | high } else { value });
    }

    pub fn displacement(&mut self) -> u64 {
        match self.rng.below(4) {
            0 => 0,
            1 | 2 => self.rng.below(256).wrapping_sub(128),
            _ => i64::from(self.rng.word() as i32) as u64,
        }
    }

    pub fn set_displacement(&mut self, instruction: &mut Instruction, displacement: u64, narrow: bool) {
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
