//! Far jumps, calls and returns, direct and through call gates (SDM volume 3, 5.8; volume 2, JMP, CALL, RET).

use super::descriptor::{Descriptor, index_of, is_null, kind, rpl};
use super::task::Cause;
use crate::block::Op;
use crate::decode::Lowered;
use crate::fault::Fault;
use crate::mode::Mode;
use crate::state::{Segment, Vcpu, reg, seg};
use crate::world::World;
use iced_x86::{Code, Instruction};

pub(crate) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    // `aux` is the operand size in bytes.
    let (run, size): (crate::block::OpFn<W>, u8) = match instruction.code() {
        Code::Jmp_ptr1616 => (direct::<false, W>, 2),
        Code::Jmp_ptr1632 => (direct::<false, W>, 4),
        Code::Call_ptr1616 => (direct::<true, W>, 2),
        Code::Call_ptr1632 => (direct::<true, W>, 4),
        Code::Jmp_m1616 => (indirect::<false, W>, 2),
        Code::Jmp_m1632 => (indirect::<false, W>, 4),
        Code::Jmp_m1664 => (indirect::<false, W>, 8),
        Code::Call_m1616 => (indirect::<true, W>, 2),
        Code::Call_m1632 => (indirect::<true, W>, 4),
        Code::Call_m1664 => (indirect::<true, W>, 8),
        Code::Retfw | Code::Retfw_imm16 => (return_far, 2),
        Code::Retfd | Code::Retfd_imm16 => (return_far, 4),
        Code::Retfq | Code::Retfq_imm16 => (return_far, 8),
        _ => return Lowered::No,
    };
    (op.run, op.aux) = (run, size);
    match instruction.code() {
        Code::Jmp_ptr1616 | Code::Call_ptr1616 => {
            op.imm =
                u64::from(instruction.far_branch_selector()) << 32 | u64::from(instruction.far_branch16());
        }
        Code::Jmp_ptr1632 | Code::Call_ptr1632 => {
            op.imm =
                u64::from(instruction.far_branch_selector()) << 32 | u64::from(instruction.far_branch32());
        }
        Code::Retfw | Code::Retfd | Code::Retfq => op.seg = seg::SS as u8,
        Code::Retfw_imm16 | Code::Retfd_imm16 | Code::Retfq_imm16 => {
            op.seg = seg::SS as u8;
            op.imm = u64::from(instruction.immediate16());
        }
        _ => {}
    }
    Lowered::Branch
}

/// A far jump or call on its way.
#[derive(Clone, Copy)]
struct Transfer {
    selector: u16,
    offset: u64,
    /// Operand size in bytes: of the return address that a call pushes.
    size: u8,
    call: bool,
    /// Address of the next instruction.
    next: u64,
}

fn direct<const CALL: bool, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let selector = (op.imm >> 32) as u16;
    transfer(cpu, world, op, selector, op.imm & 0xffff_ffff, CALL)
}

fn indirect<const CALL: bool, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let linear = cpu.address_sized(op, u32::from(op.aux) + 2, false)?;
    let offset = match op.aux {
        2 => u64::from(cpu.load::<u16, W>(world, linear)?),
        4 => u64::from(cpu.load::<u32, W>(world, linear)?),
        _ => cpu.load::<u64, W>(world, linear)?,
    };
    let selector = cpu.load::<u16, W>(world, linear.wrapping_add(u64::from(op.aux)))?;
    transfer(cpu, world, op, selector, offset, CALL)
}

fn transfer<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
    selector: u16,
    offset: u64,
    call: bool,
) -> Result<(), Fault> {
    let next = cpu.block_ip(op.next_offset());
    let transfer = Transfer { selector, offset, size: op.aux, call, next };
    if !cpu.protected() {
        return real(cpu, world, transfer);
    }
    if is_null(selector) {
        return Err(Fault::GP0);
    }
    let descriptor = cpu.descriptor(world, selector, Fault::gp)?;
    if descriptor.is_code() {
        let segment = cpu.direct_code_segment(world, selector, descriptor)?;
        cpu.check_ip(&segment, offset, 0)?;
        return enter_same_level(cpu, world, transfer, segment);
    }
    let long = cpu.long_mode();
    match descriptor.kind() {
        kind::CALL_GATE32 if descriptor.is_system() => gate(cpu, world, transfer, descriptor),
        kind::CALL_GATE16 if descriptor.is_system() && !long => gate(cpu, world, transfer, descriptor),
        kind::TSS16 | kind::TSS32 | kind::TASK_GATE if descriptor.is_system() && !long => {
            task(cpu, world, transfer, descriptor)
        }
        _ => Err(Fault::gp(index_of(selector))),
    }
}

/// To another task, by its TSS or through a task gate.
fn task<W: World>(cpu: &mut Vcpu, world: &mut W, transfer: Transfer, found: Descriptor) -> Result<(), Fault> {
    let code = index_of(transfer.selector);
    if found.dpl() < cpu.cpl || found.dpl() < rpl(transfer.selector) {
        return Err(Fault::gp(code));
    }
    let mut selector = transfer.selector;
    if found.kind() == kind::TASK_GATE {
        if !found.present() {
            return Err(Fault::np(code));
        }
        selector = (found.raw >> 16) as u16;
    }
    let cause = if transfer.call { Cause::Call } else { Cause::Jump };
    cpu.switch_task_by_instruction(world, selector, cause, transfer.next)
}

/// Real and virtual-8086 mode.
fn real<W: World>(cpu: &mut Vcpu, world: &mut W, transfer: Transfer) -> Result<(), Fault> {
    if transfer.offset > u64::from(cpu.segs[seg::CS].limit) {
        return Err(Fault::GP0);
    }
    if transfer.call {
        push_return(cpu, world, transfer)?;
    }
    cpu.enter_real_code(world, transfer.selector);
    cpu.rip = transfer.offset;
    Ok(())
}

/// Pushes CS and the return address.
fn push_return<W: World>(cpu: &mut Vcpu, world: &mut W, transfer: Transfer) -> Result<(), Fault> {
    let selector = u64::from(cpu.segs[seg::CS].selector);
    cpu.attempt(|cpu| {
        cpu.push_sized(world, transfer.size, selector)?;
        cpu.push_sized(world, transfer.size, transfer.next)
    })
    .map_err(|fault| fault.resolve(true))
}

fn enter_same_level<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    transfer: Transfer,
    segment: Segment,
) -> Result<(), Fault> {
    if transfer.call {
        push_return(cpu, world, transfer)?;
    }
    cpu.enter_code(world, segment, cpu.cpl);
    cpu.rip = transfer.offset;
    Ok(())
}

/// Through a call gate, to the same or (calls only) an inner level.
fn gate<W: World>(cpu: &mut Vcpu, world: &mut W, transfer: Transfer, gate: Descriptor) -> Result<(), Fault> {
    let long = cpu.long_mode();
    let gate_code = index_of(transfer.selector);
    if gate.dpl() < cpu.cpl || gate.dpl() < rpl(transfer.selector) {
        return Err(Fault::gp(gate_code));
    }
    let high = if long { cpu.descriptor_high(world, transfer.selector, gate)? } else { 0 };
    if high >> 40 & 0x1f != 0 {
        return Err(Fault::gp(gate_code));
    }
    if !gate.present() {
        return Err(Fault::np(gate_code));
    }
    let size = match (long, gate.kind()) {
        (true, _) => 8,
        (false, kind::CALL_GATE32) => 4,
        (false, _) => 2,
    };
    let upper = if size == 2 { 0 } else { gate.raw >> 32 & 0xffff_0000 };
    let offset = gate.raw & 0xffff | upper | high << 32;
    let selector = (gate.raw >> 16) as u16;
    if is_null(selector) {
        return Err(Fault::GP0);
    }
    let code = index_of(selector);
    let target = cpu.descriptor(world, selector, Fault::gp)?;
    if !target.is_code() || target.dpl() > cpu.cpl || (long && (!target.long() || target.big())) {
        return Err(Fault::gp(code));
    }
    let inward = !target.is_conforming() && target.dpl() < cpu.cpl;
    if inward && !transfer.call {
        return Err(Fault::gp(code));
    }
    if !target.present() {
        return Err(Fault::np(code));
    }
    let target = cpu.mark_accessed(world, target)?;
    let cpl = if inward { target.dpl() } else { cpu.cpl };
    let segment = target.segment(code | u16::from(cpl));
    cpu.check_ip(&segment, offset, 0)?;
    let transfer = Transfer { offset, size, ..transfer };
    if inward {
        call_inward(cpu, world, transfer, segment, cpl, (gate.raw >> 32) as u8 & 31)
    } else {
        enter_same_level(cpu, world, transfer, segment)
    }
}

/// A call to an inner level: switches stacks and copies `parameters` words.
fn call_inward<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    transfer: Transfer,
    segment: Segment,
    cpl: u8,
    parameters: u8,
) -> Result<(), Fault> {
    let long = cpu.long_mode();
    let (stack, pointer) = if long {
        (Segment::null(u16::from(cpl)), cpu.long_stack(world, u32::from(cpl), 0)?)
    } else {
        let inner = cpu.inner_stack(world, cpl, 0)?;
        (inner.segment, inner.pointer)
    };
    let parameters = if long { 0 } else { usize::from(parameters) };
    let mut copied = [0; 31];
    for (slot, value) in copied.iter_mut().enumerate().take(parameters) {
        *value = cpu.peek_sized(world, transfer.size, slot as u64)?;
    }
    let old_stack = [u64::from(cpu.segs[seg::SS].selector), cpu.gpr[reg::RSP]];
    let old_code = [u64::from(cpu.segs[seg::CS].selector), transfer.next];
    cpu.attempt(|cpu| {
        cpu.segs[seg::SS] = stack;
        cpu.enter_code(world, segment, cpl);
        cpu.set_stack_pointer(pointer);
        let parameters = copied.iter().take(parameters).rev().copied();
        for value in old_stack.into_iter().chain(parameters).chain(old_code) {
            // A fault of the new stack names it.
            cpu.push_sized(world, transfer.size, value).map_err(|fault| match fault.resolve(true) {
                Fault::SS0 => Fault::ss(index_of(stack.selector)),
                other => other,
            })?;
        }
        Ok(())
    })?;
    cpu.rip = transfer.offset;
    Ok(())
}

impl Vcpu {
    /// Checks the code segment that RET or IRET returns to (SDM volume 2, RET). Its RPL is the new privilege level.
    pub(super) fn return_code_segment<W: World>(
        &mut self,
        world: &mut W,
        selector: u16,
    ) -> Result<Segment, Fault> {
        if is_null(selector) {
            return Err(Fault::GP0);
        }
        let code = index_of(selector);
        let descriptor = self.descriptor(world, selector, Fault::gp)?;
        let level = rpl(selector);
        let allowed = descriptor.is_code()
            && level >= self.cpl
            && if descriptor.is_conforming() { descriptor.dpl() <= level } else { descriptor.dpl() == level }
            && !(self.long_mode() && descriptor.long() && descriptor.big());
        if !allowed {
            return Err(Fault::gp(code));
        }
        if !descriptor.present() {
            return Err(Fault::np(code));
        }
        Ok(self.mark_accessed(world, descriptor)?.segment(selector))
    }

    /// Checks the stack segment that a return to privilege level `level` in code segment `code` loads.
    pub(super) fn return_stack_segment<W: World>(
        &mut self,
        world: &mut W,
        selector: u16,
        code: &Segment,
        level: u8,
    ) -> Result<Segment, Fault> {
        if is_null(selector) {
            let allowed = self.long_mode() && code.long() && level != 3 && rpl(selector) == level;
            return if allowed { Ok(Segment::null(selector)) } else { Err(Fault::GP0) };
        }
        let error = index_of(selector);
        let descriptor = self.descriptor(world, selector, Fault::gp)?;
        if rpl(selector) != level || descriptor.dpl() != level || !descriptor.is_writable_data() {
            return Err(Fault::gp(error));
        }
        if !descriptor.present() {
            return Err(Fault::ss(error));
        }
        Ok(self.mark_accessed(world, descriptor)?.segment(selector))
    }

    /// Enters `code` with stack `stack`:`pointer`, after a return that changes stacks.
    pub(super) fn return_to<W: World>(
        &mut self,
        world: &mut W,
        code: Segment,
        ip: u64,
        stack: Segment,
        pointer: u64,
    ) {
        let level = rpl(code.selector);
        let outward = level > self.cpl;
        self.segs[seg::SS] = stack;
        self.enter_code(world, code, level);
        self.set_stack_pointer(pointer);
        if outward {
            self.drop_inner_segments();
        }
        self.rip = ip;
    }
}

fn return_far<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let size = op.aux;
    let ip = cpu.peek_sized(world, size, 0)?;
    let selector = cpu.peek_sized(world, size, 1)? as u16;
    let released = u64::from(size) * 2 + op.imm;
    if !cpu.protected() {
        if ip > u64::from(cpu.segs[seg::CS].limit) {
            return Err(Fault::GP0);
        }
        cpu.set_stack_pointer(cpu.stack_pointer().wrapping_add(released));
        cpu.enter_real_code(world, selector);
        cpu.rip = ip;
        return Ok(());
    }
    let code = cpu.return_code_segment(world, selector)?;
    let level = rpl(selector);
    if level == cpu.cpl {
        cpu.check_ip(&code, ip, 0)?;
        let pointer = cpu.stack_pointer().wrapping_add(released);
        cpu.set_stack_pointer(pointer);
        cpu.enter_code(world, code, level);
        cpu.rip = ip;
        return Ok(());
    }
    let (pointer, stack) = outer_stack(cpu, world, size, released)?;
    let stack = cpu.return_stack_segment(world, stack as u16, &code, level)?;
    cpu.check_ip(&code, ip, 0)?;
    cpu.return_to(world, code, ip, stack, pointer.wrapping_add(op.imm));
    Ok(())
}

/// The stack pointer and selector that lie `offset` bytes up the stack.
fn outer_stack<W: World>(cpu: &mut Vcpu, world: &mut W, size: u8, offset: u64) -> Result<(u64, u64), Fault> {
    let next = offset + u64::from(size);
    Ok(match size {
        2 => (u64::from(cpu.peek::<u16, W>(world, offset)?), u64::from(cpu.peek::<u16, W>(world, next)?)),
        4 => (u64::from(cpu.peek::<u32, W>(world, offset)?), u64::from(cpu.peek::<u32, W>(world, next)?)),
        _ => (cpu.peek::<u64, W>(world, offset)?, cpu.peek::<u64, W>(world, next)?),
    })
}
