//! The one trait through which the CPU sees memory, ports and interrupts.

use crate::code_pages::CodePages;
use crate::probes::Probes;
use crate::state::Vcpu;
use std::ptr::NonNull;

/// A cache maintenance instruction, addressed physically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheOp {
    /// CLFLUSH or CLFLUSHOPT: write back and invalidate the line.
    Flush(u64),
    /// CLWB: write back the line.
    Clean(u64),
    /// WBINVD: write back and invalidate everything.
    FlushAll,
    /// INVD: invalidate everything without writing back.
    InvalidateAll,
    /// SFENCE, MFENCE or a serialising instruction: earlier weakly ordered flushes and stores complete.
    Fence,
}

/// What the machine shows to its vCPUs.
///
/// `cpu` is the index of the calling vCPU, `now` on the accessors is the count of instructions retired (the clock) at
/// the calling instruction. A call may change interrupts and deadlines: the CPU leaves its run loop afterwards.
///
/// # Safety
/// A pointer returned by [`World::ram_frame`] must be valid for reads and writes of 4096 bytes for as long as the world
/// exists, and no Rust reference to that memory may be live while a vCPU runs.
pub unsafe trait World: Sized {
    /// Whether every access is to be shown to [`World::read`] and [`World::write`] (the memory hook): RAM is then never
    /// touched through a host pointer. A constant, so that an unhooked machine pays nothing.
    const HOOKED: bool;

    /// Host address of the 4 KiB frame of RAM at guest-physical `frame` (low 12 bits zero), if it is RAM.
    fn ram_frame(&mut self, frame: u64) -> Option<NonNull<u8>>;
    /// Reads 1-16 bytes of guest-physical memory that is not RAM, or of any memory when hooked. Within one page.
    fn read(&mut self, cpu: u32, now: u64, address: u64, data: &mut [u8]);
    /// Writes 1-16 bytes of guest-physical memory that is not RAM, or of any memory when hooked. Within one page.
    fn write(&mut self, cpu: u32, now: u64, address: u64, data: &[u8]);
    /// Reads 1, 2 or 4 bytes from an I/O port.
    fn io_read(&mut self, cpu: u32, now: u64, port: u16, size: u8) -> u32;
    /// Writes 1, 2 or 4 bytes to an I/O port.
    fn io_write(&mut self, cpu: u32, now: u64, port: u16, size: u8, value: u32);
    /// A model-specific register that is not the CPU's own (local APIC, x2APIC); `None` raises #GP(0).
    fn read_msr(&mut self, cpu: u32, now: u64, index: u32) -> Option<u64>;
    /// Writes a model-specific register that is not the CPU's own; `None` raises #GP(0).
    fn write_msr(&mut self, cpu: u32, now: u64, index: u32, value: u64) -> Option<()>;
    /// Task priority class (CR8), 0-15.
    fn task_priority(&mut self, cpu: u32) -> u8;
    /// Sets the task priority class (CR8).
    fn set_task_priority(&mut self, cpu: u32, class: u8);
    /// Whether a maskable interrupt waits for this vCPU.
    fn interrupt_pending(&mut self, cpu: u32) -> bool;
    /// Takes the waiting interrupt and returns its vector; `None` if it has gone.
    fn acknowledge_interrupt(&mut self, cpu: u32, now: u64) -> Option<u8>;
    /// Takes a waiting non-maskable interrupt.
    fn take_nmi(&mut self, cpu: u32) -> bool;
    /// A cache maintenance instruction or fence.
    fn cache_op(&mut self, _cpu: u32, _now: u64, _op: CacheOp) {}
    /// Next value of the deterministic random source behind RDRAND and RDSEED.
    fn random(&mut self) -> u64;
    /// The pages that hold decoded code. Anything that changes RAM, other than a vCPU's own store, reports it here.
    fn code_pages(&mut self) -> &mut CodePages;
    /// Where a vCPU is to call [`World::probe`], if anywhere.
    fn probes(&mut self) -> Option<&mut Probes> {
        None
    }
    /// `cpu` is about to execute the instruction at an address in [`World::probes`]. Called again if that raises a fault and
    /// is executed again. What is done here must not change what the guest sees; it may add and remove probes.
    fn probe(&mut self, _cpu: &Vcpu, _now: u64) {}
}
