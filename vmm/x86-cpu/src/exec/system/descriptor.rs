//! Segment and gate descriptors: reading them from the GDT and LDT, and entering the segments they describe
//! (SDM volume 3, 3.4.5, 5.8 and 8.2).

use crate::fault::Fault;
use crate::flags::bits;
use crate::memory::access::is_canonical;
use crate::state::{Segment, Vcpu, reg, seg};
use crate::world::World;

/// Types of system descriptors.
pub(crate) mod kind {
    pub const TSS16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE16: u8 = 6;
    pub const TRAP_GATE16: u8 = 7;
    pub const TSS32: u8 = 9;
    pub const TSS32_BUSY: u8 = 11;
    pub const CALL_GATE32: u8 = 12;
    pub const INTERRUPT_GATE32: u8 = 14;
    pub const TRAP_GATE32: u8 = 15;
}

/// The index and table bits of a selector, as error codes have them.
pub(crate) const fn index_of(selector: u16) -> u16 {
    selector & !3
}

/// Whether `selector` is null.
pub(crate) const fn is_null(selector: u16) -> bool {
    index_of(selector) == 0
}

/// Requested privilege level.
pub(crate) const fn rpl(selector: u16) -> u8 {
    selector as u8 & 3
}

/// A descriptor of 8 bytes, or the first half of one of 16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    pub raw: u64,
    /// Linear address it was read from.
    pub address: u64,
}

impl Descriptor {
    pub(crate) const fn attr(self) -> u16 {
        (self.raw >> 40) as u16 & 0xf0ff
    }
    /// Bits 0-31 of the base.
    pub(crate) const fn base(self) -> u64 {
        self.raw >> 16 & 0xff_ffff | self.raw >> 32 & 0xff00_0000
    }
    /// Limit in bytes, inclusive.
    pub(crate) const fn limit(self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.raw >> 55 & 1 != 0 { limit << 12 | 0xfff } else { limit }
    }
    /// Type field, bits 40-43.
    pub(crate) const fn kind(self) -> u8 {
        (self.raw >> 40) as u8 & 15
    }
    pub(crate) const fn is_system(self) -> bool {
        self.raw >> 44 & 1 == 0
    }
    pub(crate) const fn is_code(self) -> bool {
        !self.is_system() && self.kind() & 8 != 0
    }
    pub(crate) const fn is_conforming(self) -> bool {
        self.kind() & 4 != 0
    }
    pub(crate) const fn is_writable_data(self) -> bool {
        !self.is_system() && self.kind() & 0xa == 2
    }
    /// Data, or readable code.
    pub(crate) const fn is_readable(self) -> bool {
        !self.is_system() && (self.kind() & 8 == 0 || self.kind() & 2 != 0)
    }
    pub(crate) const fn dpl(self) -> u8 {
        (self.raw >> 45) as u8 & 3
    }
    pub(crate) const fn present(self) -> bool {
        self.raw >> 47 & 1 != 0
    }
    /// L bit.
    pub(crate) const fn long(self) -> bool {
        self.raw >> 53 & 1 != 0
    }
    /// D/B bit.
    pub(crate) const fn big(self) -> bool {
        self.raw >> 54 & 1 != 0
    }
    pub(crate) fn segment(self, selector: u16) -> Segment {
        Segment { selector, base: self.base(), limit: self.limit(), attr: self.attr() }
    }
}

/// What a failed transfer of control or stack switch must leave as it was.
struct Snapshot {
    cs: Segment,
    ss: Segment,
    cpl: u8,
    rsp: u64,
    system_flags: u64,
}

/// A stack of an inner privilege level, as the TSS gives it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InnerStack {
    pub segment: Segment,
    pub pointer: u64,
}

impl Vcpu {
    /// Reads the descriptor that `selector` (not null) names; `fault` makes the exception for one beyond its table.
    pub(crate) fn descriptor<W: World>(
        &mut self,
        world: &mut W,
        selector: u16,
        fault: impl Fn(u16) -> Fault,
    ) -> Result<Descriptor, Fault> {
        let (base, limit) = if selector & 4 == 0 {
            (self.gdtr.base, u32::from(self.gdtr.limit))
        } else if self.ldtr.usable() {
            (self.ldtr.base, self.ldtr.limit)
        } else {
            return Err(fault(index_of(selector)));
        };
        let offset = u32::from(selector & !7);
        if offset + 7 > limit {
            return Err(fault(index_of(selector)));
        }
        let address = base.wrapping_add(u64::from(offset));
        let raw = self.load_system::<u64, W>(world, address).map_err(|fault| fault.resolve(false))?;
        Ok(Descriptor { raw, address })
    }

    /// The upper half of a 16-byte system descriptor (long mode).
    pub(crate) fn descriptor_high<W: World>(
        &mut self,
        world: &mut W,
        selector: u16,
        low: Descriptor,
    ) -> Result<u64, Fault> {
        let limit = if selector & 4 == 0 { u32::from(self.gdtr.limit) } else { self.ldtr.limit };
        if u32::from(selector & !7) + 15 > limit {
            return Err(Fault::gp(index_of(selector)));
        }
        let high = low.address.wrapping_add(8);
        self.load_system::<u64, W>(world, high).map_err(|fault| fault.resolve(false))
    }

    /// Sets the accessed bit of a segment descriptor in memory, and returns it so.
    pub(crate) fn mark_accessed<W: World>(
        &mut self,
        world: &mut W,
        descriptor: Descriptor,
    ) -> Result<Descriptor, Fault> {
        const ACCESSED: u64 = 1 << 40;
        if descriptor.raw & ACCESSED != 0 {
            return Ok(descriptor);
        }
        let raw = descriptor.raw | ACCESSED;
        let access_byte = descriptor.address.wrapping_add(5);
        self.store_system(world, access_byte, (raw >> 40) as u8).map_err(|fault| fault.resolve(false))?;
        Ok(Descriptor { raw, ..descriptor })
    }

    /// Checks the code segment of a direct far jump or call (SDM volume 3, 5.8.1).
    pub(crate) fn direct_code_segment<W: World>(
        &mut self,
        world: &mut W,
        selector: u16,
        descriptor: Descriptor,
    ) -> Result<Segment, Fault> {
        let code = index_of(selector);
        let allowed = if descriptor.is_conforming() {
            descriptor.dpl() <= self.cpl
        } else {
            rpl(selector) <= self.cpl && descriptor.dpl() == self.cpl
        };
        if !allowed {
            return Err(Fault::gp(code));
        }
        if !descriptor.present() {
            return Err(Fault::np(code));
        }
        if self.long_mode() && descriptor.long() && descriptor.big() {
            return Err(Fault::gp(code));
        }
        Ok(self.mark_accessed(world, descriptor)?.segment(code | u16::from(self.cpl)))
    }

    /// Raises #GP(`code`) unless `ip` lies in code segment `segment`.
    pub(crate) fn check_ip(&self, segment: &Segment, ip: u64, code: u16) -> Result<(), Fault> {
        let inside = if self.long_mode() && segment.long() {
            is_canonical(ip)
        } else {
            ip <= u64::from(segment.limit)
        };
        if inside { Ok(()) } else { Err(Fault::gp(code)) }
    }

    /// Loads CS with its hidden part and changes to privilege level `cpl`.
    pub(crate) fn enter_code<W: World>(&mut self, world: &mut W, segment: Segment, cpl: u8) {
        let old = self.segs[seg::CS];
        self.segs[seg::CS] = segment;
        self.cpl = cpl;
        self.update_mode();
        let flat = self.long_mode() && old.long() && segment.long();
        if !flat && (old.base != segment.base || old.limit != segment.limit) {
            // Blocks are looked up by the offset in CS.
            self.new_epoch(world);
        }
    }

    /// Runs `change`, and puts CS, SS, RSP, CPL and the system flags back if it fails.
    pub(crate) fn attempt<R>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        let before = Snapshot {
            cs: self.segs[seg::CS],
            ss: self.segs[seg::SS],
            cpl: self.cpl,
            rsp: self.gpr[reg::RSP],
            system_flags: self.system_flags,
        };
        let result = change(self);
        if result.is_err() {
            self.segs[seg::CS] = before.cs;
            self.segs[seg::SS] = before.ss;
            self.cpl = before.cpl;
            self.gpr[reg::RSP] = before.rsp;
            self.system_flags = before.system_flags;
            self.update_mode();
        }
        result
    }

    /// The stack for privilege level `level` from a legacy TSS, its segment checked (SDM volume 3, 6.12.1 and 5.8.5).
    /// `ext` is 1 while an event is delivered that is not a software interrupt.
    pub(crate) fn inner_stack<W: World>(
        &mut self,
        world: &mut W,
        level: u8,
        ext: u16,
    ) -> Result<InnerStack, Fault> {
        let wide = self.tr.attr & 15 == u16::from(kind::TSS32_BUSY);
        let size = if wide { 4 } else { 2 };
        let offset = size + u32::from(level) * size * 2;
        let tss = Fault::ts(index_of(self.tr.selector) | ext);
        if !self.tr.usable() || offset + size * 2 - 1 > self.tr.limit {
            return Err(tss);
        }
        let at = self.tr.base.wrapping_add(u64::from(offset));
        let (pointer, selector) = if wide {
            let pointer = self.load_system::<u32, W>(world, at)?;
            (pointer, self.load_system::<u16, W>(world, at.wrapping_add(4))?)
        } else {
            let pointer = self.load_system::<u16, W>(world, at)?;
            (u32::from(pointer), self.load_system::<u16, W>(world, at.wrapping_add(2))?)
        };
        if is_null(selector) {
            return Err(Fault::ts(ext));
        }
        let code = index_of(selector) | ext;
        let descriptor = self.descriptor(world, selector, |code| Fault::ts(code | ext))?;
        if rpl(selector) != level || descriptor.dpl() != level || !descriptor.is_writable_data() {
            return Err(Fault::ts(code));
        }
        if !descriptor.present() {
            return Err(Fault::ss(code));
        }
        let segment = self.mark_accessed(world, descriptor)?.segment(selector);
        Ok(InnerStack { segment, pointer: u64::from(pointer) })
    }

    /// Stack pointer number `slot` (RSP0-2 at 0-2, IST1-7 at 4-10) from a 64-bit TSS.
    pub(crate) fn long_stack<W: World>(&mut self, world: &mut W, slot: u32, ext: u16) -> Result<u64, Fault> {
        let offset = 4 + slot * 8;
        if !self.tr.usable() || offset + 7 > self.tr.limit {
            return Err(Fault::ts(index_of(self.tr.selector) | ext));
        }
        let at = self.tr.base.wrapping_add(u64::from(offset));
        let pointer = self.load_system::<u64, W>(world, at).map_err(|fault| fault.resolve(false))?;
        if is_canonical(pointer) { Ok(pointer) } else { Err(Fault::ss(ext)) }
    }

    /// After a return to an outer level: data segments that it may not use become null (SDM volume 3, 5.8.6).
    pub(crate) fn drop_inner_segments(&mut self) {
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let segment = self.segs[index];
            let conforming = segment.attr & 0xc == 0xc;
            if segment.usable() && !conforming && segment.dpl() < self.cpl {
                self.set_segment(index, Segment { selector: 0, attr: 0, ..segment });
            }
        }
    }

    /// Loads a code segment as real and virtual-8086 mode do.
    pub(crate) fn enter_real_code<W: World>(&mut self, world: &mut W, selector: u16) {
        let segment = Segment { selector, base: u64::from(selector) << 4, ..self.segs[seg::CS] };
        self.enter_code(world, segment, self.cpl);
    }

    /// Whether virtual-8086 mode is on.
    pub(crate) fn virtual_8086(&self) -> bool {
        self.system_flags & bits::VM != 0
    }
}
