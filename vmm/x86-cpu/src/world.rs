//! The one trait through which the CPU sees memory, ports and interrupts.

use crate::code_pages::CodePages;
use crate::encryption::{Hypercall, hypercall_error};
use crate::memory::MemoryType;
use crate::probes::Probes;
use crate::state::Vcpu;
use std::ptr::NonNull;

/// A cache maintenance instruction, addressed physically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheOp {
    /// CLFLUSH: write back and invalidate the line.
    Flush(u64),
    /// CLFLUSHOPT: the same, complete at the next fence.
    FlushWeakly(u64),
    /// CLWB: write back the line, complete at the next fence.
    CleanWeakly(u64),
    /// WBINVD: write back and invalidate everything.
    FlushAll,
    /// INVD: invalidate everything without writing back.
    InvalidateAll,
    /// SFENCE, MFENCE, a locked or a serialising instruction: earlier weakly ordered flushes and stores complete.
    Fence,
    /// An access to uncached memory or a device, or an interrupt: earlier weakly ordered stores complete, flushes need not.
    Drain,
}

/// Translations that a vCPU drops because software has told it to (SDM volume 3, 4.10.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// All of them, of global pages as well.
    All,
    /// Those of the page at this linear address, which led to this frame if that is still known.
    Page { linear: u64, frame: Option<u64> },
}

/// Which accesses to RAM a world is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// None: there is nothing between the CPU and RAM.
    Nothing,
    /// Loads and stores in the pages that [`World::shows_page`] names.
    Pages,
    /// Every load and store, and instruction fetches by lines of so many bytes, a power of two from 16 to 256, of which those
    /// belong to one set whose numbers are alike modulo `sets`.
    Everything { line: u32, sets: u32 },
}

/// An access to RAM that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamAccess {
    /// Index of the vCPU.
    pub cpu: u32,
    /// The clock at the instruction: with the vCPU it names the instruction's execution.
    pub now: u64,
    /// Linear address of the instruction.
    pub ip: u64,
    /// What page attributes and ranges make of the memory.
    pub kind: MemoryType,
    /// The instruction gives the non-temporal hint (MOVNTI and its like, MASKMOVQ).
    pub streaming: bool,
    /// CR0.CD is set: nothing is filled, whatever the type.
    pub no_fill: bool,
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
    /// Host address of the 4 KiB frame of RAM at guest-physical `frame` (low 12 bits zero), if it is RAM.
    fn ram_frame(&mut self, frame: u64) -> Option<NonNull<u8>>;
    /// Reads 1-16 bytes of guest-physical memory that is not RAM. Within one page.
    fn read(&mut self, cpu: u32, now: u64, address: u64, data: &mut [u8]);
    /// Writes 1-16 bytes of guest-physical memory that is not RAM. Within one page.
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
    /// A cache maintenance instruction or fence; without [`World::shown`] only the instructions of that name are reported.
    fn cache_op(&mut self, _by: &RamAccess, _op: CacheOp) {}
    /// `cpu` has dropped translations; only with [`World::shown`]. What is left of global pages when others go is not told.
    fn translations_dropped(&mut self, _cpu: &Vcpu, _dropped: Dropped) {}
    /// What the world is shown of accesses to RAM: always the same.
    #[inline(always)]
    fn shown(&self) -> Shown {
        Shown::Nothing
    }
    /// Whether loads and stores in the page of RAM at `frame`, mapped as `kind`, are shown.
    fn shows_page(&mut self, _frame: u64, _kind: MemoryType) -> bool {
        false
    }
    /// Counts changes of [`World::shows_page`] from false to true.
    #[inline(always)]
    fn shown_generation(&self) -> u64 {
        0
    }
    /// A load by vCPU `cpu` that [`World::load`] need not see, since it hits in the cache and nothing is to be said about it:
    /// then it counts as seen, and the CPU reads RAM. Within one page.
    ///
    /// If this, or one of the four methods that follow, is true where everything is shown, the CPU may load and fetch from the
    /// same line without asking, and tells how often by [`World::count_hits`], until it accesses another line of the same set
    /// or [`World::hot_generation`] changes.
    #[inline(always)]
    fn load_hit(&mut self, _cpu: u32, _address: u64, _len: usize) -> bool {
        false
    }
    /// The same of a store.
    #[inline(always)]
    fn store_hit(&mut self, _cpu: u32, _now: u64, _ip: u64, _address: u64, _len: usize) -> bool {
        false
    }
    /// The same of a fetch.
    #[inline(always)]
    fn fetch_hit(&mut self, _cpu: u32, _address: u64) -> bool {
        false
    }
    /// The same of a load that [`World::load_hit`] is not true of: it may miss.
    fn load_miss(&mut self, _by: &RamAccess, _address: u64, _len: usize) -> bool {
        false
    }
    /// The same of a fetch that [`World::fetch_hit`] is not true of.
    fn fetch_miss(&mut self, _by: &RamAccess, _address: u64) -> bool {
        false
    }
    /// Changes when something other than this vCPU's accesses may have ended what [`World::load_hit`] allows.
    #[inline(always)]
    fn hot_generation(&self) -> u64 {
        0
    }
    /// So many loads and fetches have hit without asking; if some fetch has, since the world heard of a fetch last, the last
    /// one was from the line of `fetched`.
    fn count_hits(&mut self, _cpu: u32, _hits: u64, _fetched: Option<u64>) {}
    /// A load from RAM that is shown, up to 4096 bytes within one page.
    fn load(&mut self, _by: &RamAccess, _address: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    /// A store to RAM that is shown, up to 4096 bytes within one page. [`CodePages`] has heard of it.
    fn store(&mut self, _by: &RamAccess, _address: u64, _data: &[u8]) {}
    /// The first instruction fetch from a line after one from another line: `len` bytes of the instruction are in it.
    fn fetch(&mut self, _by: &RamAccess, _address: u64, _len: usize) {}
    /// Reads code, up to 4096 bytes of RAM within one page that are fetched past the cache, for decoding: no access.
    fn peek_uncached(&mut self, _address: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    /// Whether what was shown has led to something that the machine's owner is to look at before the next instruction.
    #[inline(always)]
    fn wants_attention(&self) -> bool {
        false
    }
    /// Next value of the deterministic random source behind RDRAND and RDSEED.
    fn random(&mut self) -> u64;
    /// A vCPU is about to access the frame of RAM at `frame` as private, or as shared, which makes RAM show what that view has
    /// there; only of vCPUs with [`Vcpu::sev`]. Returns whether that has changed what RAM shows: then translations of the
    /// frame that other vCPUs have are void, of which [`World::label_generation`] tells, and [`World::code_pages`] has heard.
    fn set_label(&mut self, _frame: u64, _private: bool) -> bool {
        false
    }
    /// Counts changes of what RAM shows.
    fn label_generation(&self) -> u64 {
        0
    }
    /// VMMCALL of a vCPU with [`Vcpu::sev`], at CPL 0; returns the answer.
    fn hypercall(&mut self, _cpu: u32, _now: u64, _call: Hypercall) -> u64 {
        hypercall_error::UNKNOWN
    }
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
