//! Hardware task switches (SDM volume 3, chapter 8).

use super::descriptor::{Descriptor, index_of, is_null, kind, rpl};
use crate::debug::{dr6, dr7};
use crate::fault::Fault;
use crate::flags::bits;
use crate::interrupt;
use crate::state::{Segment, Vcpu, cr0, cr4, seg};
use crate::world::World;

/// What switches tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Jump,
    Call,
    /// An exception or interrupt through a task gate. `ext` is the EXT bit of error codes on the way.
    Event {
        ext: u16,
        error_code: Option<u16>,
    },
    /// IRET with RFLAGS.NT.
    Return,
}

impl Cause {
    fn ext(self) -> u16 {
        if let Self::Event { ext, .. } = self { ext } else { 0 }
    }
    /// The new task is nested in the old one: it gets a link and NT.
    fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Event { .. })
    }
}

/// How a switch ended that got past its point of no return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Switched {
    Whole,
    /// The new task's state was loaded in part; the exception is the new task's.
    Faulted(Fault),
}

/// Offsets in a TSS of one width.
struct Layout {
    /// Bytes of a register.
    width: u32,
    cr3: Option<u32>,
    /// EIP, then EFLAGS, the general registers and the segment registers.
    ip: u32,
    segments: usize,
    ldt: u32,
    /// Smallest limit.
    limit: u32,
}

const TSS16: Layout = Layout { width: 2, cr3: None, ip: 14, segments: 4, ldt: 42, limit: 0x2b };
const TSS32: Layout = Layout { width: 4, cr3: Some(28), ip: 32, segments: 6, ldt: 96, limit: 0x67 };
/// Offset of the T flag in a 32-bit TSS.
const TRAP_FLAG: u64 = 100;
const BUSY: u8 = 2;

impl Layout {
    fn of(attr: u16) -> &'static Self {
        if attr & 8 != 0 { &TSS32 } else { &TSS16 }
    }
    fn general(&self, index: usize) -> u32 {
        self.ip + self.width * (2 + index as u32)
    }
    fn segment(&self, index: usize) -> u32 {
        self.general(8 + index)
    }
}

/// What a TSS holds of a task.
#[derive(Default)]
struct State {
    cr3: u32,
    ip: u32,
    flags: u32,
    general: [u32; 8],
    segments: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Vcpu {
    /// The descriptor of the TSS to switch to.
    ///
    /// # Errors
    /// #GP (for [`Cause::Return`] #TS) if `selector` names no TSS in the right state, #NP if it is not present.
    pub(crate) fn task_descriptor<W: World>(
        &mut self,
        world: &mut W,
        selector: u16,
        cause: Cause,
    ) -> Result<Descriptor, Fault> {
        let ext = cause.ext();
        let invalid =
            |code: u16| if cause == Cause::Return { Fault::ts(code) } else { Fault::gp(code | ext) };
        let code = index_of(selector);
        if selector & 4 != 0 || is_null(selector) {
            return Err(invalid(code));
        }
        let descriptor = self.descriptor(world, selector, invalid)?;
        let suits = match descriptor.kind() {
            kind::TSS16 | kind::TSS32 => cause != Cause::Return,
            kind::TSS16_BUSY | kind::TSS32_BUSY => cause == Cause::Return,
            _ => false,
        };
        if !descriptor.is_system() || !suits {
            return Err(invalid(code));
        }
        if !descriptor.present() {
            return Err(Fault::np(code | ext));
        }
        Ok(descriptor)
    }

    /// Switches to the task of `selector`. `next` and `flags` are the EIP and EFLAGS saved for the old one.
    ///
    /// # Errors
    /// What is found before anything has changed: #TS, #PF.
    pub(crate) fn switch_task<W: World>(
        &mut self,
        world: &mut W,
        selector: u16,
        descriptor: Descriptor,
        cause: Cause,
        next: u64,
        flags: u64,
    ) -> Result<Switched, Fault> {
        let ext = cause.ext();
        let (old, new) = (Layout::of(self.tr.attr), Layout::of(descriptor.attr()));
        if descriptor.limit() < new.limit {
            return Err(Fault::ts(index_of(selector) | ext));
        }
        if !self.tr.usable() || self.tr.limit < old.limit {
            return Err(Fault::ts(index_of(self.tr.selector) | ext));
        }
        // Everything that can fault on a page does so before anything is written.
        let (old_base, new_base) = (self.tr.base, descriptor.base());
        let saved = (old.segment(old.segments) - old.ip) as usize;
        self.check_system_write(world, old_base.wrapping_add(u64::from(old.ip)), saved)?;
        let old_access = self.gdtr.base.wrapping_add(u64::from(self.tr.selector & !7)).wrapping_add(5);
        let new_access = descriptor.address.wrapping_add(5);
        if !cause.nests() {
            self.check_system_write(world, old_access, 1)?;
        }
        if cause != Cause::Return {
            self.check_system_write(world, new_access, 1)?;
        }
        if cause.nests() {
            self.check_system_write(world, new_base, 2)?;
        }
        let state = self.read_task(world, new_base, new)?;

        if !cause.nests() {
            let access = self.load_system::<u8, W>(world, old_access)?;
            self.store_system(world, old_access, access & !BUSY)?;
        }
        let flags = if cause == Cause::Return { flags & !bits::NT } else { flags };
        self.save_task(world, old_base, old, next, flags)?;
        if cause.nests() {
            self.store_system(world, new_base, self.tr.selector)?;
        }
        if cause != Cause::Return {
            let access = self.load_system::<u8, W>(world, new_access)?;
            self.store_system(world, new_access, access | BUSY)?;
        }
        self.tr = descriptor.segment(selector);
        self.tr.attr |= u16::from(BUSY);
        Ok(match self.enter_task(world, &state, new, cause) {
            Ok(()) => Switched::Whole,
            Err(fault) => Switched::Faulted(fault),
        })
    }

    /// Switches tasks on behalf of an instruction at whose end `next` lies. An exception of the new task is raised there.
    ///
    /// # Errors
    /// As [`Vcpu::switch_task`].
    pub(super) fn switch_task_by_instruction<W: World>(
        &mut self,
        world: &mut W,
        selector: u16,
        cause: Cause,
        next: u64,
    ) -> Result<(), Fault> {
        let descriptor = self.task_descriptor(world, selector, cause)?;
        let flags = self.rflags();
        let switched = self.switch_task(world, selector, descriptor, cause, next, flags)?;
        // The trap flag of neither task traps here; the TSS has a flag of its own for that.
        self.trap_inhibit_at = self.now() + 1;
        if let Switched::Faulted(fault) = switched {
            interrupt::raise(self, world, fault);
        }
        self.interrupts_enabled(world);
        Ok(())
    }

    fn read_task_word<W: World>(
        &mut self,
        world: &mut W,
        base: u64,
        layout: &Layout,
        offset: u32,
    ) -> Result<u32, Fault> {
        let at = base.wrapping_add(u64::from(offset));
        if layout.width == 4 {
            self.load_system::<u32, W>(world, at)
        } else {
            Ok(u32::from(self.load_system::<u16, W>(world, at)?))
        }
    }

    fn read_task<W: World>(&mut self, world: &mut W, base: u64, layout: &Layout) -> Result<State, Fault> {
        let mut state = State {
            ip: self.read_task_word(world, base, layout, layout.ip)?,
            flags: self.read_task_word(world, base, layout, layout.ip + layout.width)?,
            ldt: self.read_task_word(world, base, layout, layout.ldt)? as u16,
            ..State::default()
        };
        // Without an upper half in a 16-bit TSS, that of the registers is set.
        let upper = if layout.width == 2 { 0xffff_0000 } else { 0 };
        for (index, value) in state.general.iter_mut().enumerate() {
            *value = self.read_task_word(world, base, layout, layout.general(index))? | upper;
        }
        for (index, value) in state.segments.iter_mut().enumerate().take(layout.segments) {
            *value = self.read_task_word(world, base, layout, layout.segment(index))? as u16;
        }
        if let Some(cr3) = layout.cr3 {
            state.cr3 = self.read_task_word(world, base, layout, cr3)?;
            state.trap = self.load_system::<u16, W>(world, base.wrapping_add(TRAP_FLAG))? & 1 != 0;
        }
        Ok(state)
    }

    /// Saves the dynamic fields of the running task.
    fn save_task<W: World>(
        &mut self,
        world: &mut W,
        base: u64,
        layout: &Layout,
        next: u64,
        flags: u64,
    ) -> Result<(), Fault> {
        let mut words = [0_u32; 16];
        words[0] = next as u32;
        words[1] = flags as u32;
        for index in 0..8 {
            words[2 + index] = self.gpr[index] as u32;
        }
        for index in 0..6 {
            words[10 + index] = u32::from(self.segs[index].selector);
        }
        let mut at = base.wrapping_add(u64::from(layout.ip));
        for (index, value) in words.into_iter().enumerate().take(10 + layout.segments) {
            if layout.width == 2 {
                self.store_system(world, at, value as u16)?;
            } else if index < 10 {
                self.store_system(world, at, value)?;
            } else {
                // The upper half of a selector's slot is reserved and stays.
                self.store_system(world, at, value as u16)?;
            }
            at = at.wrapping_add(u64::from(layout.width));
        }
        Ok(())
    }

    /// Loads the new task's state; from here on exceptions are its own.
    fn enter_task<W: World>(
        &mut self,
        world: &mut W,
        state: &State,
        layout: &Layout,
        cause: Cause,
    ) -> Result<(), Fault> {
        let ext = cause.ext();
        self.cr0 |= cr0::TS;
        self.dr[7] &= !dr7::LOCAL;
        self.update_breakpoints();
        for (register, value) in self.gpr.iter_mut().zip(state.general) {
            *register = u64::from(value);
        }
        let mut flags = u64::from(state.flags);
        if cause.nests() {
            flags |= bits::NT;
        }
        self.set_rflags(flags);
        self.rip = u64::from(state.ip);
        for (index, selector) in state.segments.into_iter().enumerate() {
            self.set_segment(index, Segment::null(selector));
        }
        self.ldtr = Segment::null(state.ldt);
        // Until CS is known, an exception must not trust the stack.
        self.cpl = 3;
        self.update_mode();
        self.new_epoch(world);
        if layout.cr3.is_some() && self.cr0 & cr0::PG != 0 {
            if self.cr4 & cr4::PAE != 0 {
                self.load_pdptes(world, u64::from(state.cr3))?;
            }
            self.cr3 = u64::from(state.cr3);
            self.drop_translations(world, true);
        }
        self.enter_task_segments(world, state, ext)?;
        self.check_ip(&self.segs[seg::CS], self.rip, 0)?;
        if let Cause::Event { error_code: Some(code), .. } = cause {
            self.push_sized(world, layout.width as u8, u64::from(code))?;
        }
        if state.trap {
            self.add_pending(dr6::BT);
        }
        Ok(())
    }

    fn enter_task_segments<W: World>(&mut self, world: &mut W, state: &State, ext: u16) -> Result<(), Fault> {
        let invalid = |code: u16| Fault::ts(code | ext);
        if !is_null(state.ldt) {
            let code = index_of(state.ldt);
            if state.ldt & 4 != 0 {
                return Err(invalid(code));
            }
            let found = self.descriptor(world, state.ldt, invalid)?;
            if !found.is_system() || found.kind() != kind::LDT || !found.present() {
                return Err(invalid(code));
            }
            self.ldtr = found.segment(state.ldt);
        }
        if self.virtual_8086() {
            for (index, selector) in state.segments.into_iter().enumerate() {
                self.set_segment(index, Segment::virtual_8086(selector));
            }
            return Ok(());
        }

        let selector = state.segments[seg::CS];
        let (code, level) = (index_of(selector), rpl(selector));
        if is_null(selector) {
            return Err(invalid(code));
        }
        let found = self.descriptor(world, selector, invalid)?;
        let allowed = found.is_code()
            && if found.is_conforming() { found.dpl() <= level } else { found.dpl() == level };
        if !allowed {
            return Err(invalid(code));
        }
        if !found.present() {
            return Err(Fault::np(code | ext));
        }
        let code_segment = self.mark_accessed(world, found)?.segment(selector);

        let selector = state.segments[seg::SS];
        let code = index_of(selector);
        if is_null(selector) {
            return Err(invalid(code));
        }
        let found = self.descriptor(world, selector, invalid)?;
        if rpl(selector) != level || found.dpl() != level || !found.is_writable_data() {
            return Err(invalid(code));
        }
        if !found.present() {
            return Err(Fault::ss(code | ext));
        }
        let stack_segment = self.mark_accessed(world, found)?.segment(selector);
        self.set_segment(seg::SS, stack_segment);
        self.enter_code(world, code_segment, level);

        for index in [seg::DS, seg::ES, seg::FS, seg::GS] {
            let selector = state.segments[index];
            if is_null(selector) {
                continue;
            }
            let code = index_of(selector);
            let found = self.descriptor(world, selector, invalid)?;
            let conforming = found.is_code() && found.is_conforming();
            let reached = conforming || found.dpl() >= level.max(rpl(selector));
            if !found.is_readable() || !reached {
                return Err(invalid(code));
            }
            if !found.present() {
                return Err(Fault::np(code | ext));
            }
            let segment = self.mark_accessed(world, found)?.segment(selector);
            self.set_segment(index, segment);
        }
        Ok(())
    }
}
