//! Loading and storing segment registers, and the bases of FS and GS.

use super::descriptor::{index_of, is_null, rpl};
use super::{MEMORY, operand};
use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::{gpr, segment};
use crate::fault::Fault;
use crate::memory::Word;
use crate::memory::access::is_canonical;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::{Segment, Vcpu, cr4, seg};
use crate::world::World;
use iced_x86::{Code, Instruction, Mnemonic, Register};

pub(crate) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    match instruction.code() {
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
            op.dst = operand(instruction, 0);
            op.src = segment(instruction.op1_register());
            op.aux = if op.dst == MEMORY { 2 } else { instruction.op0_register().size() as u8 };
            op.run = store_segment;
            return Lowered::Straight;
        }
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            op.dst = segment(instruction.op0_register());
            op.src = operand(instruction, 1);
            op.run = move_to_segment;
            return Lowered::Last;
        }
        _ => {}
    }
    match instruction.mnemonic() {
        Mnemonic::Pop if instruction.op0_register().is_segment_register() => {
            op.dst = segment(instruction.op0_register());
            op.seg = seg::SS as u8;
            op.aux = stack_size(instruction);
            op.run = pop_segment;
            Lowered::Last
        }
        Mnemonic::Les => far_pointer(instruction, op, seg::ES),
        Mnemonic::Lds => far_pointer(instruction, op, seg::DS),
        Mnemonic::Lss => far_pointer(instruction, op, seg::SS),
        Mnemonic::Lfs => far_pointer(instruction, op, seg::FS),
        Mnemonic::Lgs => far_pointer(instruction, op, seg::GS),
        Mnemonic::Rdfsbase => base_access(instruction, mode, op, seg::FS, false),
        Mnemonic::Rdgsbase => base_access(instruction, mode, op, seg::GS, false),
        Mnemonic::Wrfsbase => base_access(instruction, mode, op, seg::FS, true),
        Mnemonic::Wrgsbase => base_access(instruction, mode, op, seg::GS, true),
        _ => Lowered::No,
    }
}

/// Bytes that PUSH or POP of a segment register moves.
fn stack_size(instruction: &Instruction) -> u8 {
    match instruction.code() {
        Code::Pushq_FS | Code::Pushq_GS | Code::Popq_FS | Code::Popq_GS => 8,
        Code::Pushw_ES
        | Code::Pushw_CS
        | Code::Pushw_SS
        | Code::Pushw_DS
        | Code::Pushw_FS
        | Code::Pushw_GS
        | Code::Popw_ES
        | Code::Popw_SS
        | Code::Popw_DS
        | Code::Popw_FS
        | Code::Popw_GS => 2,
        _ => 4,
    }
}

fn far_pointer<W: World>(instruction: &Instruction, op: &mut Op<W>, index: usize) -> Lowered {
    let register: Register = instruction.op0_register();
    op.dst = gpr(register);
    op.aux = index as u8;
    op.run = match register.size() {
        2 => load_far_pointer::<u16, W>,
        4 => load_far_pointer::<u32, W>,
        _ => load_far_pointer::<u64, W>,
    };
    Lowered::Last
}

fn base_access<W: World>(
    instruction: &Instruction,
    mode: Mode,
    op: &mut Op<W>,
    index: usize,
    write: bool,
) -> Lowered {
    if !mode.is_64() {
        op.run = crate::decode::undefined;
        return Lowered::Last;
    }
    op.dst = gpr(instruction.op0_register());
    op.aux = index as u8;
    op.run = match (write, instruction.op0_register().size()) {
        (false, 4) => read_base::<u32, W>,
        (false, _) => read_base::<u64, W>,
        (true, 4) => write_base::<u32, W>,
        (true, _) => write_base::<u64, W>,
    };
    Lowered::Straight
}

impl Vcpu {
    /// Loads segment register `index` (not CS) with `selector`, with the checks of the mode (SDM volume 2, MOV).
    ///
    /// # Errors
    /// #GP, #NP or #SS with the selector; #PF on the descriptor table.
    pub(crate) fn load_segment<W: World>(
        &mut self,
        world: &mut W,
        index: usize,
        selector: u16,
    ) -> Result<(), Fault> {
        let segment = if self.protected() {
            self.checked_segment(world, index, selector)?
        } else {
            self.real_segment(index, selector)
        };
        self.set_segment(index, segment);
        Ok(())
    }

    /// A segment as real mode loads it: the limit of protected mode survives.
    fn real_segment(&self, index: usize, selector: u16) -> Segment {
        let old = self.segs[index & 7];
        if self.virtual_8086() {
            Segment::virtual_8086(selector)
        } else if old.usable() {
            Segment { selector, base: u64::from(selector) << 4, ..old }
        } else {
            Segment::real(selector, false)
        }
    }

    fn checked_segment<W: World>(
        &mut self,
        world: &mut W,
        index: usize,
        selector: u16,
    ) -> Result<Segment, Fault> {
        let stack = index == seg::SS;
        let code = index_of(selector);
        if is_null(selector) {
            let allowed = !stack || (self.mode.is_64() && self.cpl != 3 && rpl(selector) == self.cpl);
            return if allowed { Ok(Segment::null(selector)) } else { Err(Fault::GP0) };
        }
        let descriptor = self.descriptor(world, selector, Fault::gp)?;
        let (requested, level) = (rpl(selector), descriptor.dpl());
        let allowed = if stack {
            requested == self.cpl && level == self.cpl && descriptor.is_writable_data()
        } else {
            let conforming = descriptor.is_code() && descriptor.is_conforming();
            descriptor.is_readable() && (conforming || (requested <= level && self.cpl <= level))
        };
        if !allowed {
            return Err(Fault::gp(code));
        }
        if !descriptor.present() {
            return Err(if stack { Fault::ss(code) } else { Fault::np(code) });
        }
        Ok(self.mark_accessed(world, descriptor)?.segment(selector))
    }

    /// After a load of SS: interrupts and traps wait for one instruction more.
    fn shadow_stack_load(&mut self, index: usize) {
        if index == seg::SS {
            self.inhibit_at = self.now() + 1;
            self.trap_inhibit_at = self.now() + 1;
        }
    }
}

fn store_segment<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let selector = cpu.segs[usize::from(op.src & 7)].selector;
    cpu.set_word_operand(world, op, op.dst, op.aux, selector)
}

fn move_to_segment<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let selector = cpu.word_operand(world, op, op.src)?;
    let index = usize::from(op.dst & 7);
    cpu.load_segment(world, index, selector)?;
    cpu.shadow_stack_load(index);
    Ok(())
}

fn pop_segment<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let selector = cpu.peek::<u16, W>(world, 0)?;
    let index = usize::from(op.dst & 7);
    let next = cpu.stack_pointer().wrapping_add(u64::from(op.aux));
    // The width of the stack is that of the old SS.
    let before = cpu.mode;
    cpu.load_segment(world, index, selector)?;
    let after = std::mem::replace(&mut cpu.mode, before);
    cpu.set_stack_pointer(next);
    cpu.mode = after;
    cpu.shadow_stack_load(index);
    Ok(())
}

fn load_far_pointer<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let linear = cpu.address_sized(op, T::SIZE as u32 + 2, false)?;
    let offset = cpu.load::<T, W>(world, linear)?;
    let selector = cpu.load::<u16, W>(world, linear.wrapping_add(<T as Word>::SIZE as u64))?;
    cpu.load_segment(world, usize::from(op.aux), selector)?;
    cpu.set_reg(op.dst, offset);
    Ok(())
}

fn read_base<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    if cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(Fault::UD);
    }
    let base = cpu.segs[usize::from(op.aux & 7)].base;
    cpu.set_reg(op.dst, T::low(base));
    Ok(())
}

fn write_base<T: Int, W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    if cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(Fault::UD);
    }
    let base = cpu.reg::<T>(op.dst).zext();
    if !is_canonical(base) {
        return Err(Fault::GP0);
    }
    cpu.set_segment_base(usize::from(op.aux), base);
    Ok(())
}
