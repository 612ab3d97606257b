//! The machine as its software vCPUs see it.

use super::Machine;
use super::guest::KnownGuest;
use crate::findings::Raw;
use crate::guest::{AddressSpace, GuestMemory, Registers};
use crate::memory::MemorySystem;
use std::ptr::NonNull;
use x86_cpu::encryption::{Hypercall, hypercall_error};
use x86_cpu::{CacheOp, CodePages, Dropped, MemoryType, Probes, RamAccess, Shown, Vcpu, World};

// SAFETY: `ram_frame` returns addresses within the mapping of `self.memory.ram`, which lives as long as the machine. The
// machine holds no Rust reference into that mapping: it reads and writes it through vm-memory's volatile accesses.
unsafe impl World for Machine {
    #[inline]
    fn ram_frame(&mut self, frame: u64) -> Option<NonNull<u8>> {
        self.memory.ram.frame(frame)
    }
    fn read(&mut self, cpu: u32, now: u64, address: u64, data: &mut [u8]) {
        self.mmio_read(cpu, now, address, data);
    }
    fn write(&mut self, cpu: u32, now: u64, address: u64, data: &[u8]) {
        self.mmio_write(cpu, now, address, data);
    }
    fn io_read(&mut self, _cpu: u32, now: u64, port: u16, size: u8) -> u32 {
        let mut bytes = [0; 4];
        if let Some(data) = bytes.get_mut(..usize::from(size)) {
            self.port_read(now, port, data);
        }
        u32::from_le_bytes(bytes)
    }
    fn io_write(&mut self, _cpu: u32, now: u64, port: u16, size: u8, value: u32) {
        if let Some(data) = value.to_le_bytes().get(..usize::from(size)) {
            self.port_write(now, port, data);
        }
    }
    fn read_msr(&mut self, cpu: u32, now: u64, index: u32) -> Option<u64> {
        self.apic_read_msr(cpu, now, index)
    }
    fn write_msr(&mut self, cpu: u32, now: u64, index: u32, value: u64) -> Option<()> {
        self.apic_write_msr(cpu, now, index, value)
    }
    fn task_priority(&mut self, cpu: u32) -> u8 {
        self.interrupts().apic(cpu as usize).map_or(0, |apic| apic.cr8())
    }
    fn set_task_priority(&mut self, cpu: u32, class: u8) {
        if let Some(apic) = self.interrupts_mut().apic_mut(cpu as usize) {
            apic.set_cr8(class);
        }
    }
    #[inline]
    fn interrupt_pending(&mut self, cpu: u32) -> bool {
        self.interrupts().interrupt_pending(cpu as usize)
    }
    fn acknowledge_interrupt(&mut self, cpu: u32, _now: u64) -> Option<u8> {
        let interrupts = self.interrupts_mut();
        interrupts.interrupt_pending(cpu as usize).then(|| interrupts.acknowledge(cpu as usize))
    }
    fn take_nmi(&mut self, cpu: u32) -> bool {
        self.interrupts_mut().apic_mut(cpu as usize).is_some_and(|apic| apic.take_nmi())
    }
    fn random(&mut self) -> u64 {
        self.random.next_u64()
    }
    fn code_pages(&mut self) -> &mut CodePages {
        &mut self.memory.code
    }
    #[inline]
    fn shown(&self) -> Shown {
        self.memory.cache.as_ref().map_or(Shown::Nothing, |cache| cache.shown())
    }
    fn shows_page(&mut self, frame: u64, kind: MemoryType) -> bool {
        self.memory.cache.as_ref().is_some_and(|cache| cache.shows_page(frame, kind))
    }
    #[inline]
    fn shown_generation(&self) -> u64 {
        self.memory.cache.as_ref().map_or(0, |cache| cache.shown_generation())
    }
    #[inline(always)]
    fn load_hit(&mut self, cpu: u32, address: u64, len: usize) -> bool {
        let Some(cache) = &mut self.memory.cache else { return false };
        cache.load_hit(cpu, address, len)
    }
    #[inline(always)]
    fn store_hit(&mut self, cpu: u32, now: u64, ip: u64, address: u64, len: usize) -> bool {
        let Some(cache) = &mut self.memory.cache else { return false };
        cache.store_hit(cpu, now, ip, address, len)
    }
    #[inline(always)]
    fn fetch_hit(&mut self, cpu: u32, address: u64) -> bool {
        let Some(cache) = &mut self.memory.cache else { return false };
        cache.fetch_hit(cpu, address)
    }
    fn load_miss(&mut self, by: &RamAccess, address: u64, len: usize) -> bool {
        self.memory.cache.as_mut().is_some_and(|cache| cache.load_miss(by, address, len))
    }
    fn fetch_miss(&mut self, by: &RamAccess, address: u64) -> bool {
        self.memory.cache.as_mut().is_some_and(|cache| cache.fetch_miss(by, address))
    }
    #[inline]
    fn hot_generation(&self) -> u64 {
        self.memory.cache.as_ref().map_or(0, |cache| cache.hot_generation())
    }
    fn count_hits(&mut self, cpu: u32, hits: u64, fetched: Option<u64>) {
        if let Some(cache) = &mut self.memory.cache {
            cache.count_hits(cpu, hits, fetched);
        }
    }
    fn load(&mut self, by: &RamAccess, address: u64, data: &mut [u8]) {
        self.memory.load(by, address, data);
    }
    fn store(&mut self, by: &RamAccess, address: u64, data: &[u8]) {
        self.memory.store(by, address, data);
    }
    fn fetch(&mut self, by: &RamAccess, address: u64, len: usize) {
        self.memory.fetch(by, address, len);
    }
    fn peek_uncached(&mut self, address: u64, data: &mut [u8]) {
        self.memory.peek_ram(address, data);
    }
    fn cache_op(&mut self, by: &RamAccess, op: CacheOp) {
        self.memory.maintain(by, op);
    }
    fn translations_dropped(&mut self, cpu: &Vcpu, dropped: Dropped) {
        let Some(cache) = &mut self.memory.cache else { return };
        let Dropped::Page { linear, frame } = dropped else {
            return cache.translations_dropped(cpu.id, None);
        };
        // What the page was, as far as that is known, and what it is now: the type may be all that has changed.
        let memory = GuestMemory::new(&self.memory.ram, AddressSpace::new(cpu.cr3, cpu.cr4));
        let now = if cpu.long_mode() { memory.translate(linear).ok() } else { None };
        let frames: Vec<_> = frame.into_iter().chain(now).collect();
        cache.translations_dropped(cpu.id, Some(&frames));
    }
    fn set_label(&mut self, frame: u64, private: bool) -> bool {
        let MemorySystem { ram, code, encryption: Some(encryption), .. } = &mut self.memory else {
            return false;
        };
        encryption.set_label(ram, code, frame, private)
    }
    #[inline]
    fn label_generation(&self) -> u64 {
        self.memory.encryption.as_ref().map_or(0, |encryption| encryption.generation())
    }
    fn hypercall(&mut self, _cpu: u32, _now: u64, call: Hypercall) -> u64 {
        let Some(encryption) = &mut self.memory.encryption else { return hypercall_error::UNKNOWN };
        encryption.hypercall(call)
    }
    fn wants_attention(&self) -> bool {
        self.memory.has_found()
    }
    fn probes(&mut self) -> Option<&mut Probes> {
        self.ledger.as_mut().map(|ledger| ledger.probes())
    }
    fn probe(&mut self, cpu: &Vcpu, now: u64) {
        if let (Some(ledger), KnownGuest::Found(guest)) = (&mut self.ledger, &mut self.guest) {
            ledger.probe(guest, &self.memory.ram, &Registers::from(cpu), now);
            if let Some(cache) = &mut self.memory.cache {
                for &(address, length) in ledger.entered() {
                    cache.enter(&self.memory.ram, address, length);
                }
            }
            for (misuse, entry) in ledger.take_misuses() {
                self.findings.observe(Raw::Misuse { misuse, entry });
            }
            self.share_memory();
        }
    }
}
