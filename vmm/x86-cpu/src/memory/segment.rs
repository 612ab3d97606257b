//! From operands to linear addresses: segment bases, limits and types.

use super::Word;
use crate::block::{AddressKind, Op};
use crate::fault::Fault;
use crate::state::{Vcpu, reg, seg};
use crate::world::World;

impl Vcpu {
    /// Linear address of the memory operand of `op`, `T` wide, for a read.
    ///
    /// # Errors
    /// Segment limit or type violation (legacy modes): #GP(0), or #SS(0) for the stack segment.
    #[inline(always)]
    pub fn address<T: Word, W: World>(&self, op: &Op<W>) -> Result<u64, Fault> {
        self.address_sized(op, T::SIZE as u32, false)
    }

    /// Linear address of the memory operand of `op`, `T` wide, for a write.
    ///
    /// # Errors
    /// As [`Vcpu::address`].
    #[inline(always)]
    pub fn address_mut<T: Word, W: World>(&self, op: &Op<W>) -> Result<u64, Fault> {
        self.address_sized(op, T::SIZE as u32, true)
    }

    /// Linear address of a memory operand of `size` bytes.
    ///
    /// # Errors
    /// As [`Vcpu::address`].
    #[inline(always)]
    pub fn address_sized<W: World>(&self, op: &Op<W>, size: u32, write: bool) -> Result<u64, Fault> {
        if op.address == AddressKind::Flat64 {
            return Ok(self.sum(op).wrapping_add(self.gpr[op.seg_slot as usize & 31]));
        }
        self.address_general(op, size, write)
    }

    /// Base + index << scale + displacement, not truncated.
    #[inline(always)]
    fn sum<W: World>(&self, op: &Op<W>) -> u64 {
        self.gpr[op.base as usize & 31]
            .wrapping_add(self.gpr[op.index as usize & 31] << (op.scale & 3))
            .wrapping_add(op.disp)
    }

    /// The offset of the memory operand of `op` within its segment, truncated to the address size (LEA).
    #[inline(always)]
    #[must_use]
    pub fn effective_address<W: World>(&self, op: &Op<W>) -> u64 {
        match op.address {
            AddressKind::Flat64 => self.sum(op),
            AddressKind::Flat64Addr32 | AddressKind::Legacy32 => self.sum(op) & 0xffff_ffff,
            AddressKind::Legacy16 => self.sum(op) & 0xffff,
        }
    }

    #[inline(never)]
    fn address_general<W: World>(&self, op: &Op<W>, size: u32, write: bool) -> Result<u64, Fault> {
        let offset = self.effective_address(op);
        if op.address == AddressKind::Flat64Addr32 || op.address == AddressKind::Flat64 {
            return Ok(offset.wrapping_add(self.gpr[op.seg_slot as usize & 31]));
        }
        self.linear(usize::from(op.seg), offset, size, write)
    }

    /// Linear address of `size` bytes at `offset` of segment register `index`: base, limit and type in legacy modes,
    /// the FS and GS base alone in 64-bit mode (SDM volume 3, 5.3 and 5.5).
    ///
    /// # Errors
    /// #GP(0), or #SS(0) for the stack segment.
    pub fn linear(&self, index: usize, offset: u64, size: u32, write: bool) -> Result<u64, Fault> {
        let segment = &self.segs[index & 7];
        if self.mode.is_64() {
            let base = if index == seg::FS || index == seg::GS { segment.base } else { 0 };
            return Ok(base.wrapping_add(offset));
        }
        let fault = if index == seg::SS { Fault::SS0 } else { Fault::GP0 };
        if self.protected() {
            if !segment.usable() {
                return Err(if index == seg::SS { Fault::SS0 } else { Fault::GP0 });
            }
            let code = segment.attr & 8 != 0;
            let permitted =
                if write { !code && segment.attr & 2 != 0 } else { !code || segment.attr & 2 != 0 };
            if !permitted {
                return Err(Fault::GP0);
            }
        }
        let last = offset.wrapping_add(u64::from(size) - 1);
        let expand_down = segment.attr & 0xc == 4 && segment.attr & 0x10 != 0;
        let inside = if expand_down {
            let top = if segment.big() { 0xffff_ffff } else { 0xffff };
            offset > u64::from(segment.limit) && last <= top && last >= offset
        } else {
            last <= u64::from(segment.limit) && last >= offset
        };
        if !inside {
            return Err(fault);
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// The stack pointer, truncated to the stack's width.
    #[inline(always)]
    #[must_use]
    pub fn stack_pointer(&self) -> u64 {
        let rsp = self.gpr[reg::RSP];
        match self.mode.stack_bits() {
            64 => rsp,
            32 => rsp & 0xffff_ffff,
            _ => rsp & 0xffff,
        }
    }

    /// Replaces the stack pointer within the stack's width. (A 32-bit write clears the upper half.)
    #[inline(always)]
    pub fn set_stack_pointer(&mut self, value: u64) {
        let rsp = &mut self.gpr[reg::RSP];
        *rsp = match self.mode.stack_bits() {
            64 => value,
            32 => value & 0xffff_ffff,
            _ => *rsp & !0xffff | value & 0xffff,
        };
    }

    /// Pushes a word. RSP changes only if the store succeeds.
    ///
    /// # Errors
    /// #SS, #PF or #AC.
    #[inline(always)]
    pub fn push<T: Word, W: World>(&mut self, world: &mut W, value: T) -> Result<(), Fault> {
        if self.mode.is_64() {
            let sp = self.gpr[reg::RSP].wrapping_sub(T::SIZE as u64);
            self.store(world, sp, value).map_err(|fault| fault.resolve(true))?;
            self.gpr[reg::RSP] = sp;
            return Ok(());
        }
        let mask = if self.mode.stack_bits() == 32 { 0xffff_ffff } else { 0xffff };
        let sp = self.stack_pointer().wrapping_sub(T::SIZE as u64) & mask;
        let linear = self.linear(seg::SS, sp, T::SIZE as u32, true)?;
        self.store(world, linear, value)?;
        self.set_stack_pointer(sp);
        Ok(())
    }

    /// Pops a word. RSP changes only if the load succeeds.
    ///
    /// # Errors
    /// #SS, #PF or #AC.
    #[inline(always)]
    pub fn pop<T: Word, W: World>(&mut self, world: &mut W) -> Result<T, Fault> {
        let value = self.peek(world, 0)?;
        self.set_stack_pointer(self.stack_pointer().wrapping_add(T::SIZE as u64));
        Ok(value)
    }

    /// Loads the word `offset` bytes above the stack pointer.
    ///
    /// # Errors
    /// #SS, #PF or #AC.
    #[inline(always)]
    pub fn peek<T: Word, W: World>(&mut self, world: &mut W, offset: u64) -> Result<T, Fault> {
        if self.mode.is_64() {
            return self
                .load(world, self.gpr[reg::RSP].wrapping_add(offset))
                .map_err(|fault| fault.resolve(true));
        }
        let mask = if self.mode.stack_bits() == 32 { 0xffff_ffff } else { 0xffff };
        let sp = self.stack_pointer().wrapping_add(offset) & mask;
        let linear = self.linear(seg::SS, sp, T::SIZE as u32, false)?;
        self.load(world, linear)
    }
}
