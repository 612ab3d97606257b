//! Delivery of exceptions and interrupts (SDM volume 3, chapter 6).

use crate::debug::dr7;
use crate::exec::system::descriptor::{Descriptor, index_of, is_null, kind};
use crate::exec::system::task::{Cause, Switched};
use crate::fault::Fault;
use crate::flags::bits;
use crate::state::{Activity, Segment, Vcpu, cr0, reg, seg};
use crate::world::World;

/// Exceptions raised by the delivery of others, after which the CPU shuts down. (A misaligned user stack makes the
/// delivery of #AC raise #AC for ever.)
const MAX_NESTED: u32 = 16;

const DEBUG: u8 = 1;
const PAGE_FAULT: u8 = 14;
const DOUBLE_FAULT: u8 = 8;

/// Where an event came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Exception,
    External,
    /// INT n, INT3 and INTO: the gate's DPL is checked.
    Software,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    vector: u8,
    error_code: Option<u16>,
    source: Source,
}

impl Event {
    fn exception(fault: Fault) -> Self {
        Self { vector: fault.vector(), error_code: fault.error_code(), source: Source::Exception }
    }
    /// The EXT bit of error codes that delivering this event raises.
    fn ext(self) -> u16 {
        u16::from(self.source != Source::Software)
    }
    /// Error code that names the gate.
    fn gate_code(self) -> u16 {
        u16::from(self.vector) << 3 | 2 | self.ext()
    }
    /// RFLAGS as pushed: RF is set for faults, so that an instruction breakpoint does not fire again; for others it is as
    /// the run loop left it (SDM volume 3, 18.3.1.1).
    fn flags_image(self, cpu: &Vcpu) -> u64 {
        let is_fault =
            self.source == Source::Exception && !matches!(self.vector, DEBUG | 3 | 4 | DOUBLE_FAULT);
        cpu.rflags() | if is_fault { bits::RF } else { 0 }
    }
}

/// Classes of exceptions (SDM volume 3, table 6-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(event: Event) -> Class {
    match (event.source, event.vector) {
        (Source::External | Source::Software, _) => Class::Benign,
        (_, 0 | 10..=13) => Class::Contributory,
        (_, PAGE_FAULT) => Class::PageFault,
        (_, DOUBLE_FAULT) => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What to deliver after `second` was raised by the delivery of `first`; `None` shuts the CPU down (table 6-5).
fn combine(first: Event, second: Fault) -> Option<Event> {
    let event = Event::exception(second);
    let severe = matches!(class(event), Class::Contributory | Class::PageFault);
    match class(first) {
        Class::DoubleFault if severe => None,
        Class::Contributory if class(event) == Class::Contributory => Some(Event::exception(Fault::DF)),
        Class::PageFault if severe => Some(Event::exception(Fault::DF)),
        _ => Some(event),
    }
}

/// Delivers `fault` at the current RIP; a fault on the way becomes a double fault, then a shutdown.
pub(crate) fn raise<W: World>(cpu: &mut Vcpu, world: &mut W, fault: Fault) {
    if fault.vector() == PAGE_FAULT {
        cpu.cr2 = cpu.fault_address;
    }
    deliver_or_nest(cpu, world, Event::exception(fault));
}

/// Delivers external interrupt or NMI `vector`.
pub(crate) fn external<W: World>(cpu: &mut Vcpu, world: &mut W, vector: u8) {
    cpu.drain(world);
    deliver_or_nest(cpu, world, Event { vector, error_code: None, source: Source::External });
}

/// Delivers software interrupt `vector`, which returns to `next`.
///
/// # Errors
/// The exception that the delivery raised, to be delivered at the instruction itself.
pub(crate) fn software<W: World>(cpu: &mut Vcpu, world: &mut W, vector: u8, next: u64) -> Result<(), Fault> {
    deliver(cpu, world, Event { vector, error_code: None, source: Source::Software }, next)
}

/// Delivers the debug trap of INT1, which returns to `next` and is not subject to the gate's DPL.
///
/// # Errors
/// As [`software`].
pub(crate) fn debug_trap<W: World>(cpu: &mut Vcpu, world: &mut W, next: u64) -> Result<(), Fault> {
    deliver(cpu, world, Event::exception(Fault::DB), next)?;
    // Debug traps that waited behind a load of SS are reported with it.
    cpu.dr[6] |= std::mem::take(&mut cpu.debug.pending);
    Ok(())
}

fn deliver_or_nest<W: World>(cpu: &mut Vcpu, world: &mut W, first: Event) {
    let mut event = Some(first);
    for _ in 0..MAX_NESTED {
        let Some(current) = event else { break };
        let Err(fault) = deliver(cpu, world, current, cpu.rip) else { return };
        if fault.vector() == PAGE_FAULT {
            cpu.cr2 = cpu.fault_address;
        }
        event = combine(current, fault);
    }
    log::warn!(
        "vCPU {}: triple fault delivering vector {} at {:#x}:{:#x}, shut down",
        cpu.id,
        first.vector,
        cpu.segs[seg::CS].selector,
        cpu.rip
    );
    cpu.activity = Activity::Shutdown;
}

/// Delivers `event`; on success RIP is in the handler, on error nothing has changed.
fn deliver<W: World>(cpu: &mut Vcpu, world: &mut W, event: Event, next: u64) -> Result<(), Fault> {
    let delivered = if cpu.cr0 & cr0::PE == 0 {
        real(cpu, world, event, next)
    } else if cpu.long_mode() {
        long(cpu, world, event, next)
    } else {
        protected(cpu, world, event, next)
    };
    delivered.map_err(|fault| fault.resolve(true))?;
    cpu.inhibit_at = u64::MAX;
    cpu.trap_inhibit_at = u64::MAX;
    if cpu.activity == Activity::Halted {
        cpu.activity = Activity::Running;
    }
    if event.vector == DEBUG && event.source == Source::Exception {
        cpu.dr[7] &= !dr7::GD;
        cpu.msr.debug_ctl = 0;
    }
    Ok(())
}

/// Real mode: the interrupt vector table.
fn real<W: World>(cpu: &mut Vcpu, world: &mut W, event: Event, next: u64) -> Result<(), Fault> {
    let offset = u16::from(event.vector) * 4;
    if offset + 3 > cpu.idtr.limit {
        return Err(Fault::GP0);
    }
    let entry = cpu.load_system::<u32, W>(world, cpu.idtr.base.wrapping_add(u64::from(offset)))?;
    let flags = event.flags_image(cpu);
    cpu.attempt(|cpu| {
        cpu.push(world, flags as u16)?;
        cpu.push(world, cpu.segs[seg::CS].selector)?;
        cpu.push(world, next as u16)
    })?;
    cpu.enter_real_code(world, (entry >> 16) as u16);
    cpu.rip = u64::from(entry & 0xffff);
    clear_flags(cpu, bits::IF | bits::TF | bits::AC | bits::RF);
    Ok(())
}

fn clear_flags(cpu: &mut Vcpu, flags: u64) {
    cpu.system_flags &= !flags;
    cpu.update_mode();
}

/// A gate's target.
struct Target {
    descriptor: Descriptor,
    selector: u16,
    offset: u64,
    /// Privilege level of the handler.
    cpl: u8,
}

/// Checks the gate's own fields, common to all modes.
fn check_gate(cpu: &Vcpu, event: Event, gate: Descriptor) -> Result<(), Fault> {
    if event.source == Source::Software && gate.dpl() < cpu.cpl {
        return Err(Fault::gp(event.gate_code()));
    }
    if !gate.present() {
        return Err(Fault::np(event.gate_code()));
    }
    Ok(())
}

/// Reads and checks the handler's code segment.
fn target<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    event: Event,
    gate: u64,
    offset: u64,
) -> Result<Target, Fault> {
    let ext = event.ext();
    let selector = (gate >> 16) as u16;
    if is_null(selector) {
        return Err(Fault::gp(ext));
    }
    let code = index_of(selector) | ext;
    let descriptor = cpu.descriptor(world, selector, |code| Fault::gp(code | ext))?;
    if !descriptor.is_code() || descriptor.dpl() > cpu.cpl {
        return Err(Fault::gp(code));
    }
    if cpu.long_mode() && (!descriptor.long() || descriptor.big()) {
        return Err(Fault::gp(code));
    }
    if !descriptor.present() {
        return Err(Fault::np(code));
    }
    let descriptor = cpu.mark_accessed(world, descriptor)?;
    let cpl = if descriptor.is_conforming() { cpu.cpl } else { descriptor.dpl() };
    Ok(Target { descriptor, selector, offset, cpl })
}

/// Long mode: 64-bit IDT, interrupt stack table.
fn long<W: World>(cpu: &mut Vcpu, world: &mut W, event: Event, next: u64) -> Result<(), Fault> {
    let ext = event.ext();
    let offset = u16::from(event.vector) * 16;
    if offset + 15 > cpu.idtr.limit {
        return Err(Fault::gp(event.gate_code()));
    }
    let address = cpu.idtr.base.wrapping_add(u64::from(offset));
    let not_canonical = |fault: Fault| fault.resolve(false);
    let low = cpu.load_system::<u64, W>(world, address).map_err(not_canonical)?;
    let high = cpu.load_system::<u64, W>(world, address.wrapping_add(8)).map_err(not_canonical)?;
    let gate = Descriptor { raw: low, address };
    if !gate.is_system() || !matches!(gate.kind(), kind::INTERRUPT_GATE32 | kind::TRAP_GATE32) {
        return Err(Fault::gp(event.gate_code()));
    }
    check_gate(cpu, event, gate)?;
    let offset = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
    let target = target(cpu, world, event, low, offset)?;
    let ist = (low >> 32) as u32 & 7;
    let stack = if ist != 0 {
        cpu.long_stack(world, ist + 3, ext)?
    } else if target.cpl < cpu.cpl {
        cpu.long_stack(world, u32::from(target.cpl), ext)?
    } else {
        cpu.gpr[reg::RSP]
    };
    let segment = target.descriptor.segment(index_of(target.selector) | u16::from(target.cpl));
    cpu.check_ip(&segment, target.offset, ext)?;

    let flags = event.flags_image(cpu);
    let (cs, ss, rsp) = (cpu.segs[seg::CS].selector, cpu.segs[seg::SS].selector, cpu.gpr[reg::RSP]);
    cpu.attempt(|cpu| {
        if target.cpl < cpu.cpl {
            cpu.segs[seg::SS] = Segment::null(u16::from(target.cpl));
        }
        cpu.enter_code(world, segment, target.cpl);
        cpu.gpr[reg::RSP] = stack & !15;
        let frame = [u64::from(ss), rsp, flags, u64::from(cs), next];
        for value in frame.into_iter().chain(event.error_code.map(u64::from)) {
            cpu.push(world, value).map_err(|fault| stack_fault(fault, ext))?;
        }
        Ok(())
    })?;
    cpu.rip = target.offset;
    leave_interrupted(cpu, gate);
    Ok(())
}

/// A fault of the handler's stack, with the error code given: the selector of a new stack, and the EXT bit.
fn stack_fault(fault: Fault, code: u16) -> Fault {
    if fault == Fault::SS0 { Fault::ss(code) } else { fault }
}

/// Clears the flags that a gate clears.
fn leave_interrupted(cpu: &mut Vcpu, gate: Descriptor) {
    let interrupt = matches!(gate.kind(), kind::INTERRUPT_GATE16 | kind::INTERRUPT_GATE32);
    clear_flags(cpu, bits::TF | bits::NT | bits::RF | bits::VM | if interrupt { bits::IF } else { 0 });
}

/// Through a task gate: the handler is a task of its own.
fn task<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    event: Event,
    gate: Descriptor,
    next: u64,
) -> Result<(), Fault> {
    check_gate(cpu, event, gate)?;
    let cause = Cause::Event { ext: event.ext(), error_code: event.error_code };
    let selector = (gate.raw >> 16) as u16;
    let descriptor = cpu.task_descriptor(world, selector, cause)?;
    let flags = event.flags_image(cpu);
    match cpu.switch_task(world, selector, descriptor, cause, next, flags)? {
        Switched::Whole => Ok(()),
        // The instruction has been left: its own exception it cannot be any more.
        Switched::Faulted(fault) if event.source == Source::Software => {
            raise(cpu, world, fault);
            Ok(())
        }
        Switched::Faulted(fault) => Err(fault),
    }
}

/// Protected and virtual-8086 mode: gates of 16 and 32 bits, and task gates.
fn protected<W: World>(cpu: &mut Vcpu, world: &mut W, event: Event, next: u64) -> Result<(), Fault> {
    let ext = event.ext();
    let offset = u16::from(event.vector) * 8;
    if offset + 7 > cpu.idtr.limit {
        return Err(Fault::gp(event.gate_code()));
    }
    let address = cpu.idtr.base.wrapping_add(u64::from(offset));
    let gate = Descriptor { raw: cpu.load_system::<u64, W>(world, address)?, address };
    let size: u8 = match (gate.is_system(), gate.kind()) {
        (true, kind::INTERRUPT_GATE16 | kind::TRAP_GATE16) => 2,
        (true, kind::INTERRUPT_GATE32 | kind::TRAP_GATE32) => 4,
        (true, kind::TASK_GATE) => return task(cpu, world, event, gate, next),
        _ => return Err(Fault::gp(event.gate_code())),
    };
    check_gate(cpu, event, gate)?;
    let high = if size == 4 { gate.raw >> 32 & 0xffff_0000 } else { 0 };
    let target = target(cpu, world, event, gate.raw, gate.raw & 0xffff | high)?;
    let from_v86 = cpu.virtual_8086();
    if from_v86 && target.cpl != 0 {
        return Err(Fault::gp(index_of(target.selector) | ext));
    }
    let inner = if target.cpl < cpu.cpl { Some(cpu.inner_stack(world, target.cpl, ext)?) } else { None };
    let segment = target.descriptor.segment(index_of(target.selector) | u16::from(target.cpl));
    cpu.check_ip(&segment, target.offset, ext)?;

    let flags = event.flags_image(cpu);
    let old = cpu.segs;
    let selector = |index: usize| u64::from(old[index].selector);
    let pointer = cpu.gpr[reg::RSP];
    let mut frame = [0; 9];
    let mut len = 0;
    let mut put = |value: u64| {
        frame[len] = value;
        len += 1;
    };
    if from_v86 {
        [seg::GS, seg::FS, seg::DS, seg::ES].into_iter().for_each(|index| put(selector(index)));
    }
    if inner.is_some() {
        put(selector(seg::SS));
        put(pointer);
    }
    [flags, selector(seg::CS), next].into_iter().for_each(put);

    cpu.attempt(|cpu| {
        cpu.system_flags &= !bits::VM;
        if let Some(inner) = inner {
            cpu.segs[seg::SS] = inner.segment;
        }
        cpu.enter_code(world, segment, target.cpl);
        if let Some(inner) = inner {
            cpu.set_stack_pointer(inner.pointer);
        }
        for value in frame[..len].iter().copied().chain(event.error_code.map(u64::from)) {
            let code = inner.map_or(0, |inner| index_of(inner.segment.selector)) | ext;
            cpu.push_sized(world, size, value).map_err(|fault| stack_fault(fault, code))?;
        }
        Ok(())
    })?;
    if from_v86 {
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            cpu.set_segment(index, Segment::null(0));
        }
    }
    cpu.rip = target.offset;
    leave_interrupted(cpu, gate);
    Ok(())
}
