//! Loads and stores at linear addresses.

use super::paging::Access;
use super::tlb::{
    Context, GLOBAL, HOST, INVALID, KIND_SHIFT, PAGE_MASK, PRIVATE, SHOWN, SIZE_SHIFT, SLOW, VIA_WORLD,
};
use super::{MemoryType, Word, host};
use crate::fault::Fault;
use crate::state::{Vcpu, cr0, cr4};
use crate::world::{Dropped, RamAccess, Shown, World};

/// One page's part of an access, translated.
#[derive(Clone, Copy)]
struct Target {
    phys: u64,
    /// Host address, if it is RAM.
    host: Option<u64>,
    /// How the world is shown the access, if it is and this is RAM.
    shown: Option<MemoryType>,
    private: bool,
    len: usize,
}

/// Whether a 48-bit linear address is canonical.
#[inline(always)]
#[must_use]
pub const fn is_canonical(linear: u64) -> bool {
    ((linear << 16) as i64 >> 16) as u64 == linear
}

impl Vcpu {
    /// Loads a word at linear address `linear` with the current privilege.
    ///
    /// # Errors
    /// #PF, #AC or a non-canonical address.
    #[inline(always)]
    pub fn load<T: Word, W: World>(&mut self, world: &mut W, linear: u64) -> Result<T, Fault> {
        let entry = self.tlb.entry(linear);
        if entry.read == linear.wrapping_add(T::SIZE as u64 - 1) & PAGE_MASK {
            // SAFETY: a clean tag means that `addend` leads into a frame from `ram_frame`, and both ends of the word
            // lie in that frame.
            return Ok(unsafe { host::read(linear.wrapping_add(entry.addend)) });
        }
        self.load_shown(world, linear)
    }

    /// Stores a word at linear address `linear` with the current privilege.
    ///
    /// # Errors
    /// As [`Vcpu::load`]. Nothing is written then.
    #[inline(always)]
    pub fn store<T: Word, W: World>(&mut self, world: &mut W, linear: u64, value: T) -> Result<(), Fault> {
        let entry = self.tlb.entry(linear);
        if entry.write == linear.wrapping_add(T::SIZE as u64 - 1) & PAGE_MASK {
            // SAFETY: as in `load`.
            unsafe { host::write(linear.wrapping_add(entry.addend), value) };
            return Ok(());
        }
        self.store_shown(world, linear, value)
    }

    /// Loads a word that the same instruction stores back: faults as a write does, so that the store cannot fault.
    ///
    /// # Errors
    /// As [`Vcpu::load`].
    #[inline(always)]
    pub fn load_for_store<T: Word, W: World>(&mut self, world: &mut W, linear: u64) -> Result<T, Fault> {
        let entry = self.tlb.entry(linear);
        let page = linear.wrapping_add(T::SIZE as u64 - 1) & PAGE_MASK;
        if entry.write == page {
            // SAFETY: as in `load`.
            return Ok(unsafe { host::read(linear.wrapping_add(entry.addend)) });
        }
        if entry.write != page | SHOWN {
            self.check_alignment::<T>(linear)?;
            self.check_write(world, linear, T::SIZE)?;
        }
        self.load_shown(world, linear)
    }

    /// Raises what a write of `len` bytes (at most 4096) at `linear` would raise, without writing.
    ///
    /// # Errors
    /// As [`Vcpu::store`].
    pub fn check_write<W: World>(&mut self, world: &mut W, linear: u64, len: usize) -> Result<(), Fault> {
        self.targets(world, linear, len, Access::Write, self.tlb.context).map(|_| ())
    }

    /// Loads `data.len()` bytes (at most 4096); all or nothing.
    ///
    /// # Errors
    /// As [`Vcpu::load`], without alignment check.
    pub fn load_bytes<W: World>(&mut self, world: &mut W, linear: u64, data: &mut [u8]) -> Result<(), Fault> {
        let targets = self.targets(world, linear, data.len(), Access::Read, self.tlb.context)?;
        if self.debug.data {
            self.watch_data(linear, data.len(), false);
        }
        self.read_targets(world, targets, data);
        Ok(())
    }

    /// Stores `data` (at most 4096 bytes); all or nothing.
    ///
    /// # Errors
    /// As [`Vcpu::store`], without alignment check.
    pub fn store_bytes<W: World>(&mut self, world: &mut W, linear: u64, data: &[u8]) -> Result<(), Fault> {
        let targets = self.targets(world, linear, data.len(), Access::Write, self.tlb.context)?;
        if self.debug.data {
            self.watch_data(linear, data.len(), true);
        }
        self.write_targets(world, targets, data);
        Ok(())
    }

    /// Loads a word from a system structure (descriptor table, TSS): supervisor privilege whatever the CPL.
    ///
    /// # Errors
    /// #PF or a non-canonical address.
    pub fn load_system<T: Word, W: World>(&mut self, world: &mut W, linear: u64) -> Result<T, Fault> {
        let mut data = [0; 16];
        let targets = self.targets(world, linear, T::SIZE, Access::Read, self.system_context())?;
        self.read_targets(world, targets, &mut data[..T::SIZE]);
        Ok(T::truncate(u128::from_le_bytes(data)))
    }

    /// Stores a word to a system structure: supervisor privilege whatever the CPL.
    ///
    /// # Errors
    /// #PF or a non-canonical address.
    pub fn store_system<T: Word, W: World>(
        &mut self,
        world: &mut W,
        linear: u64,
        value: T,
    ) -> Result<(), Fault> {
        let targets = self.targets(world, linear, T::SIZE, Access::Write, self.system_context())?;
        self.write_targets(world, targets, &value.extend().to_le_bytes()[..T::SIZE]);
        Ok(())
    }

    /// Raises what a system write would raise, without writing.
    ///
    /// # Errors
    /// As [`Vcpu::store_system`].
    pub fn check_system_write<W: World>(
        &mut self,
        world: &mut W,
        linear: u64,
        len: usize,
    ) -> Result<(), Fault> {
        self.targets(world, linear, len, Access::Write, self.system_context()).map(|_| ())
    }

    /// Guest-physical address of `linear` if it lies in RAM that bulk moves may touch.
    pub(crate) fn plain_ram<W: World>(
        &mut self,
        world: &mut W,
        linear: u64,
        write: bool,
    ) -> Result<Option<u64>, Fault> {
        let access = if write { Access::Write } else { Access::Read };
        let target = self.targets(world, linear, 1, access, self.tlb.context)?[0];
        let direct = target.host.is_some()
            && target.shown.is_none_or(MemoryType::hits)
            && self.tlb.context != Context::UserAligned
            && !self.debug.data;
        Ok(direct.then_some(target.phys))
    }

    /// Guest-physical address of `linear` for a read, as an instruction such as CLFLUSH needs it, and the type of the mapping as
    /// far as the world is shown accesses by it.
    ///
    /// # Errors
    /// As [`Vcpu::load`].
    pub fn physical_address<W: World>(
        &mut self,
        world: &mut W,
        linear: u64,
    ) -> Result<(u64, MemoryType), Fault> {
        let target = self.targets(world, linear, 1, Access::Read, self.tlb.context)?[0];
        Ok((target.phys, target.shown.unwrap_or(MemoryType::WriteBack)))
    }

    /// Drops translations as software has asked for: all, or all but those of global pages.
    pub(crate) fn drop_translations<W: World>(&mut self, world: &mut W, keep_global: bool) {
        self.tlb.flush(keep_global);
        if world.shown() != Shown::Nothing && !(keep_global && self.cr4 & cr4::PGE != 0) {
            world.translations_dropped(self, Dropped::All);
        }
        self.new_epoch(world);
    }

    /// Drops the translations of the page that holds `linear`, as software has asked for.
    pub(crate) fn drop_translation<W: World>(&mut self, world: &mut W, linear: u64) {
        if world.shown() != Shown::Nothing {
            let dropped = Dropped::Page { linear, frame: self.tlb.frame(linear) };
            world.translations_dropped(self, dropped);
        }
        if self.tlb.flush_page(linear) {
            self.new_epoch(world);
        }
    }

    /// Guest-physical address of an instruction fetch, and the memory's type.
    pub(crate) fn fetch_address<W: World>(
        &mut self,
        world: &mut W,
        linear: u64,
    ) -> Result<(u64, MemoryType), Fault> {
        let page = linear & PAGE_MASK;
        let user = self.cpl == 3;
        self.tlb.note_fetch(page);
        if let Some((phys, kind)) = self.tlb.fetch(page, user) {
            return Ok((phys | linear & !PAGE_MASK, kind));
        }
        if self.long_mode() && !is_canonical(linear) {
            return Err(Fault::GP0);
        }
        let context = if user { Context::User } else { Context::Supervisor };
        let walked = self.walk(world, linear, Access::Fetch, context)?;
        self.tlb.note_size(linear, walked.size_class);
        if self.tlb.put_fetch(page, user, walked.frame, walked.kind) {
            self.new_epoch(world);
        }
        Ok((walked.frame | linear & !PAGE_MASK, walked.kind))
    }

    /// Reads a word of guest-physical memory, naturally aligned, through entry `index` of PAT: an entry of a page table, which
    /// is private always.
    pub(crate) fn physical_load<T: Word, W: World>(&mut self, world: &mut W, address: u64, index: u64) -> T {
        let mut data = [0; 16];
        if self.sev {
            self.set_label(world, address, true);
        }
        let Some(frame) = world.ram_frame(address & PAGE_MASK) else {
            world.read(self.id, self.now(), address, &mut data[..T::SIZE]);
            self.heed_outside(world);
            return T::truncate(u128::from_le_bytes(data));
        };
        if let Some(kind) = self.shown_as(world, address, index)
            && !(kind.hits() && self.tlb.lines.physical_load(address))
        {
            if !(kind.hits() && self.hits(world, kind, address, T::SIZE)) {
                self.load_through(world, kind, address, &mut data[..T::SIZE]);
                return T::truncate(u128::from_le_bytes(data));
            }
            self.tlb.lines.install_physical(address);
        }
        // SAFETY: the frame is valid and an aligned word does not leave it.
        unsafe { host::read(frame.as_ptr() as u64 + (address & !PAGE_MASK)) }
    }

    /// Writes a word of guest-physical memory, naturally aligned, through entry `index` of PAT: an entry of a page table.
    pub(crate) fn physical_store<T: Word, W: World>(
        &mut self,
        world: &mut W,
        address: u64,
        value: T,
        index: u64,
    ) {
        if self.sev {
            self.set_label(world, address, true);
        }
        if world.code_pages().written(address, T::SIZE as u64) {
            self.limit = 0;
        }
        let bytes = value.extend().to_le_bytes();
        let Some(frame) = world.ram_frame(address & PAGE_MASK) else {
            world.write(self.id, self.now(), address, &bytes[..T::SIZE]);
            return self.heed_outside(world);
        };
        if let Some(kind) = self.shown_as(world, address, index) {
            let (now, ip) = (self.now(), self.instruction_address());
            if !(kind.hits() && world.store_hit(self.id, now, ip, address, T::SIZE)) {
                return self.store_through(world, kind, address, &bytes[..T::SIZE]);
            }
            self.tlb.lines.install_physical(address);
        }
        // SAFETY: the frame is valid and an aligned word does not leave it.
        unsafe { host::write(frame.as_ptr() as u64 + (address & !PAGE_MASK), value) };
    }

    /// How the world is shown an access to RAM at guest-physical `address` through entry `index` of PAT, if it is.
    fn shown_as<W: World>(&mut self, world: &mut W, address: u64, index: u64) -> Option<MemoryType> {
        if world.shown() == Shown::Nothing {
            return None;
        }
        let kind = self.memory_type(address, Some(index));
        world.shows_page(address & PAGE_MASK, kind).then_some(kind)
    }

    /// Whether the world need not see a load: its line is hot now.
    #[inline(always)]
    fn hits<W: World>(&self, world: &mut W, kind: MemoryType, address: u64, len: usize) -> bool {
        world.load_hit(self.id, address, len) || world.load_miss(&self.ram_access(kind), address, len)
    }

    /// Loads from RAM as the world has it.
    fn load_through<W: World>(&mut self, world: &mut W, kind: MemoryType, address: u64, data: &mut [u8]) {
        if kind == MemoryType::Uncacheable {
            self.drain(world);
        }
        world.load(&self.ram_access(kind), address, data);
        self.tlb.lines.displace(address, data.len());
        self.heed(world);
    }

    /// Stores to RAM as the world has it.
    fn store_through<W: World>(&mut self, world: &mut W, kind: MemoryType, address: u64, data: &[u8]) {
        if kind == MemoryType::Uncacheable {
            self.drain(world);
        }
        self.unfenced |= self.streaming || kind == MemoryType::WriteCombining;
        world.store(&self.ram_access(kind), address, data);
        self.tlb.lines.displace(address, data.len());
        self.heed(world);
    }

    /// The running instruction's access to memory of type `kind`.
    pub(crate) fn ram_access(&self, kind: MemoryType) -> RamAccess {
        RamAccess {
            cpu: self.id,
            now: self.now(),
            ip: self.instruction_address(),
            kind,
            streaming: self.streaming,
            no_fill: self.cr0 & cr0::CD != 0,
        }
    }

    /// An access was shown to the world: blocks may be stale, or somebody wants to look.
    pub(crate) fn heed<W: World>(&mut self, world: &mut W) {
        if world.code_pages().has_stale() {
            self.limit = 0;
        }
        if world.wants_attention() {
            self.call_attention();
        }
        self.heed_outside(world);
    }

    /// The world may have changed what is in its cache, as when a device's register was accessed.
    #[inline]
    pub(crate) fn heed_outside<W: World>(&mut self, world: &W) {
        self.tlb.lines.heed(world.hot_generation());
    }

    /// Reads guest-physical bytes within one page for the decoder.
    pub(crate) fn fetch_bytes<W: World>(
        &mut self,
        world: &mut W,
        address: u64,
        kind: MemoryType,
        data: &mut [u8],
    ) {
        if self.sev {
            self.set_label(world, address, true);
        }
        if let Some(frame) = world.ram_frame(address & PAGE_MASK) {
            if !kind.is_fetched_cached() {
                return world.peek_uncached(address, data);
            }
            debug_assert!((address & !PAGE_MASK) as usize + data.len() <= 4096);
            // SAFETY: the frame is valid and the range does not leave it.
            unsafe { host::read_bytes(frame.as_ptr() as u64 + (address & !PAGE_MASK), data) };
        } else {
            let now = self.now();
            for (address, chunk) in (address..).step_by(16).zip(data.chunks_mut(16)) {
                world.read(self.id, now, address, chunk);
            }
            self.heed_outside(world);
        }
    }

    fn system_context(&self) -> Context {
        if self.cr4 & cr4::SMAP != 0 { Context::SupervisorSmap } else { Context::Supervisor }
    }

    /// Loads a word from where the world is shown accesses: past it if it hits in the cache.
    #[inline(never)]
    fn load_shown<T: Word, W: World>(&mut self, world: &mut W, linear: u64) -> Result<T, Fault> {
        if let Some(addend) = self.tlb.lines.load(linear, T::SIZE, self.tlb.context) {
            // SAFETY: a tag of a hot line means that `addend` leads into a frame from `ram_frame`, and both ends of the word
            // lie in that line.
            return Ok(unsafe { host::read(linear.wrapping_add(addend)) });
        }
        self.load_asking(world, linear)
    }

    /// Loads a word where the world is shown accesses, but for hot lines.
    #[inline(never)]
    fn load_asking<T: Word, W: World>(&mut self, world: &mut W, linear: u64) -> Result<T, Fault> {
        let entry = *self.tlb.entry(linear);
        if entry.read != linear.wrapping_add(T::SIZE as u64 - 1) & PAGE_MASK | SHOWN {
            return self.load_slow(world, linear);
        }
        let (address, addend, kind) =
            (entry.phys & PAGE_MASK | linear & !PAGE_MASK, entry.addend, entry.kind());
        if self.hits(world, kind, address, T::SIZE) {
            self.tlb.lines.install(linear, &entry, self.tlb.context);
            // SAFETY: as in `load`: the tag is clean but for the bit that says to ask the world first.
            return Ok(unsafe { host::read(linear.wrapping_add(addend)) });
        }
        let mut data = [0; 16];
        self.load_through(world, kind, address, &mut data[..T::SIZE]);
        Ok(T::truncate(u128::from_le_bytes(data)))
    }

    /// Stores a word to where the world is shown accesses: past it if it hits in the cache.
    #[inline(never)]
    fn store_shown<T: Word, W: World>(&mut self, world: &mut W, linear: u64, value: T) -> Result<(), Fault> {
        if let Some((line, addend)) = self.tlb.lines.store(linear, T::SIZE, self.tlb.context)
            && !self.streaming
        {
            let address = line | linear & !PAGE_MASK;
            if world.store_hit(self.id, self.now(), self.instruction_address(), address, T::SIZE) {
                // SAFETY: as in `load_shown`.
                unsafe { host::write(linear.wrapping_add(addend), value) };
                return Ok(());
            }
        }
        self.store_asking(world, linear, value)
    }

    /// Stores a word where the world is shown accesses, but for hot lines.
    #[inline(never)]
    fn store_asking<T: Word, W: World>(&mut self, world: &mut W, linear: u64, value: T) -> Result<(), Fault> {
        let entry = *self.tlb.entry(linear);
        if entry.write != linear.wrapping_add(T::SIZE as u64 - 1) & PAGE_MASK | SHOWN {
            return self.store_slow(world, linear, value);
        }
        let (address, addend, kind) =
            (entry.phys & PAGE_MASK | linear & !PAGE_MASK, entry.addend, entry.kind());
        if !self.streaming
            && world.store_hit(self.id, self.now(), self.instruction_address(), address, T::SIZE)
        {
            self.tlb.lines.install(linear, &entry, self.tlb.context);
            // SAFETY: as in `load_asking`.
            unsafe { host::write(linear.wrapping_add(addend), value) };
            return Ok(());
        }
        self.store_through(world, kind, address, &value.extend().to_le_bytes()[..T::SIZE]);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn load_slow<T: Word, W: World>(&mut self, world: &mut W, linear: u64) -> Result<T, Fault> {
        self.check_alignment::<T>(linear)?;
        let mut data = [0; 16];
        let targets = self.targets(world, linear, T::SIZE, Access::Read, self.tlb.context)?;
        if self.debug.data {
            self.watch_data(linear, T::SIZE, false);
        }
        self.read_targets(world, targets, &mut data[..T::SIZE]);
        Ok(T::truncate(u128::from_le_bytes(data)))
    }

    #[cold]
    #[inline(never)]
    fn store_slow<T: Word, W: World>(&mut self, world: &mut W, linear: u64, value: T) -> Result<(), Fault> {
        self.check_alignment::<T>(linear)?;
        let targets = self.targets(world, linear, T::SIZE, Access::Write, self.tlb.context)?;
        if self.debug.data {
            self.watch_data(linear, T::SIZE, true);
        }
        self.write_targets(world, targets, &value.extend().to_le_bytes()[..T::SIZE]);
        Ok(())
    }

    /// #AC on a misaligned access at CPL 3 with CR0.AM and EFLAGS.AC (SDM volume 3, 6.15, interrupt 17). Operands of 16
    /// bytes are exempt: those that must be aligned raise #GP (SDM volume 2, 2.4).
    pub(crate) fn check_alignment<T: Word>(&self, linear: u64) -> Result<(), Fault> {
        if self.tlb.context == Context::UserAligned && T::SIZE <= 8 && linear & (T::SIZE as u64 - 1) != 0 {
            let canonical = !self.long_mode() || is_canonical(linear);
            return Err(if canonical { Fault::AC } else { Fault::NON_CANONICAL });
        }
        Ok(())
    }

    /// Translates an access of `len` bytes (at most 4096): one target, or two where it crosses a page.
    fn targets<W: World>(
        &mut self,
        world: &mut W,
        linear: u64,
        len: usize,
        access: Access,
        context: Context,
    ) -> Result<[Target; 2], Fault> {
        let mask = if self.long_mode() { u64::MAX } else { 0xffff_ffff };
        let linear = linear & mask;
        let first = len.min(4096 - (linear & 0xfff) as usize);
        // An access that leaves the canonical range does so before it faults on a page.
        if first < len && self.long_mode() && !is_canonical(linear.wrapping_add(first as u64)) {
            return Err(Fault::NON_CANONICAL);
        }
        let mut head = self.translate(world, linear, access, context)?;
        head.len = first;
        let mut tail = Target { phys: 0, host: None, shown: None, private: false, len: 0 };
        if first < len {
            tail = self.translate(world, linear.wrapping_add(first as u64) & mask, access, context)?;
            tail.len = len - first;
        }
        Ok([head, tail])
    }

    /// Translates one address through the TLB, walking and filling on a miss.
    fn translate<W: World>(
        &mut self,
        world: &mut W,
        linear: u64,
        access: Access,
        context: Context,
    ) -> Result<Target, Fault> {
        let page = linear & PAGE_MASK;
        let entry = self.tlb.entry_in(context, linear);
        let tag = if access == Access::Write { entry.write } else { entry.read };
        if tag & INVALID != 0 || (tag ^ page) & PAGE_MASK != 0 {
            if self.long_mode() && !is_canonical(linear) {
                return Err(Fault::NON_CANONICAL);
            }
            self.fill(world, linear, access, context)?;
        }
        let watched = self.debug.data && self.watches_page(page);
        let entry = self.tlb.entry_in(context, linear);
        // A page that was guarded because it held code, and does no longer, gets its fast path back.
        if access == Access::Write
            && entry.write & SLOW != 0
            && entry.phys & HOST != 0
            && (entry.phys & VIA_WORLD == 0 || entry.kind().hits())
            && context != Context::UserAligned
            && !watched
            && !world.code_pages().is_code_page(entry.phys)
        {
            entry.write &= !SLOW;
        }
        Ok(Target {
            phys: entry.phys & PAGE_MASK | linear & !PAGE_MASK,
            host: (entry.phys & HOST != 0).then(|| linear.wrapping_add(entry.addend)),
            shown: (entry.phys & VIA_WORLD != 0).then(|| entry.kind()),
            private: entry.phys & PRIVATE != 0,
            len: 0,
        })
    }

    fn fill<W: World>(
        &mut self,
        world: &mut W,
        linear: u64,
        access: Access,
        context: Context,
    ) -> Result<(), Fault> {
        let walked = self.walk(world, linear, access, context)?;
        if self.sev {
            self.set_label(world, walked.frame, walked.private);
        }
        let frame = world.ram_frame(walked.frame);
        let is_code = world.code_pages().is_code_page(walked.frame);
        let page = linear & PAGE_MASK;
        let watched = self.debug.data && self.watches_page(page);
        let slow = if frame.is_none() || context == Context::UserAligned || watched { SLOW } else { 0 };
        let shown =
            frame.is_some() && world.shown() != Shown::Nothing && world.shows_page(walked.frame, walked.kind);
        self.tlb.note_size(linear, walked.size_class);
        self.tlb.forget_lines(context, linear);
        let entry = self.tlb.entry_in(context, linear);
        entry.read = page | slow;
        entry.write = if walked.writable { page | slow | if is_code { SLOW } else { 0 } } else { INVALID };
        entry.phys = walked.frame
            | if walked.global { GLOBAL } else { 0 }
            | if walked.private { PRIVATE } else { 0 }
            | walked.size_class << SIZE_SHIFT
            | (walked.kind as u64) << KIND_SHIFT;
        entry.addend = 0;
        if let Some(frame) = frame {
            entry.addend = (frame.as_ptr() as u64).wrapping_sub(page);
            entry.phys |= HOST;
        }
        if shown {
            entry.show();
        }
        Ok(())
    }

    /// Has RAM show what `target` is of: translating what else the access needs may have changed that.
    fn label<W: World>(&mut self, world: &mut W, target: &Target) {
        if self.sev && target.host.is_some() {
            self.set_label(world, target.phys, target.private);
        }
    }

    fn read_targets<W: World>(&mut self, world: &mut W, targets: [Target; 2], data: &mut [u8]) {
        let mut rest = data;
        for target in targets {
            let (part, after) = rest.split_at_mut(target.len);
            rest = after;
            self.label(world, &target);
            match (target.host, target.shown) {
                // SAFETY: the TLB entry leads into a frame from `ram_frame`; a target does not leave its page.
                (Some(address), None) => unsafe { host::read_bytes(address, part) },
                (Some(_), Some(kind)) => self.load_through(world, kind, target.phys, part),
                (None, _) if target.len == 0 => {}
                (None, _) => {
                    self.drain(world);
                    for (at, chunk) in (target.phys..).step_by(16).zip(part.chunks_mut(16)) {
                        world.read(self.id, self.now(), at, chunk);
                    }
                    self.heed_outside(world);
                    self.call_attention();
                }
            }
        }
    }

    fn write_targets<W: World>(&mut self, world: &mut W, targets: [Target; 2], data: &[u8]) {
        let mut rest = data;
        for target in targets {
            let (part, after) = rest.split_at(target.len);
            rest = after;
            self.label(world, &target);
            if target.host.is_some() && world.code_pages().written(target.phys, part.len() as u64) {
                self.limit = 0;
            }
            match (target.host, target.shown) {
                // SAFETY: as in `read_targets`.
                (Some(address), None) => unsafe { host::write_bytes(address, part) },
                (Some(_), Some(kind)) => self.store_through(world, kind, target.phys, part),
                (None, _) if target.len == 0 => {}
                (None, _) => {
                    self.drain(world);
                    for (at, chunk) in (target.phys..).step_by(16).zip(part.chunks(16)) {
                        world.write(self.id, self.now(), at, chunk);
                    }
                    self.heed_outside(world);
                    self.call_attention();
                }
            }
        }
    }
}
