//! A world for tests: RAM from address 0, ports that record, no interrupts unless asked for.

use crate::state::{Vcpu, reg};
use crate::{CacheOp, CodePages, Probes, RamAccess, World};
use std::cell::UnsafeCell;
use std::ptr::NonNull;

/// Whether the host's processor is of the vendor that the vCPU presents, where tests compare what vendors do apart.
pub fn host_is_intel() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    (leaf.ebx, leaf.edx, leaf.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e)
}

#[repr(C, align(4096))]
struct Frame(UnsafeCell<[u8; 4096]>);

/// RAM and the little a CPU test needs around it.
pub struct TestWorld {
    frames: Box<[Frame]>,
    pages: CodePages,
    /// Vector of a maskable interrupt that waits.
    pub interrupt: Option<u8>,
    /// A non-maskable interrupt waits.
    pub nmi: bool,
    /// Port writes: port, size, value.
    pub io: Vec<(u16, u8, u32)>,
    /// Accesses outside RAM: address, written value (or `None` for a read).
    pub mmio: Vec<(u64, Option<Vec<u8>>)>,
    /// Cache operations and fences.
    pub cache: Vec<CacheOp>,
    pub task_priority: u8,
    /// Probes, if there can be any.
    pub probes: Option<Probes>,
    /// At each probe: clock, instruction pointer, stack pointer.
    pub probed: Vec<(u64, u64, u64)>,
    /// Each probe at this address adds one at the return address.
    pub follow: Option<u64>,
    random: u64,
}

impl TestWorld {
    /// A world with `pages` pages of zeroed RAM.
    pub fn new(pages: usize) -> Self {
        Self {
            frames: (0..pages).map(|_| Frame(UnsafeCell::new([0; 4096]))).collect(),
            pages: CodePages::default(),
            interrupt: None,
            nmi: false,
            io: Vec::new(),
            mmio: Vec::new(),
            cache: Vec::new(),
            task_priority: 0,
            probes: None,
            probed: Vec::new(),
            follow: None,
            random: 0,
        }
    }
    /// Writes RAM from outside the CPU.
    pub fn poke(&mut self, address: u64, data: &[u8]) {
        self.pages.written(address, data.len() as u64);
        for (at, byte) in (address as usize..).zip(data) {
            self.frames[at / 4096].0.get_mut()[at % 4096] = *byte;
        }
    }
    /// Reads RAM from outside the CPU.
    pub fn peek(&mut self, address: u64, len: usize) -> Vec<u8> {
        (address as usize..address as usize + len)
            .map(|at| self.frames[at / 4096].0.get_mut()[at % 4096])
            .collect()
    }
}

// SAFETY: the frames live as long as the world, are 4096 bytes each, and are borrowed only while no vCPU runs.
unsafe impl World for TestWorld {
    fn ram_frame(&mut self, frame: u64) -> Option<NonNull<u8>> {
        let frame = self.frames.get((frame >> 12) as usize)?;
        NonNull::new(frame.0.get().cast())
    }
    fn read(&mut self, _: u32, _: u64, address: u64, data: &mut [u8]) {
        self.mmio.push((address, None));
        data.fill(0xff);
    }
    fn write(&mut self, _: u32, _: u64, address: u64, data: &[u8]) {
        self.mmio.push((address, Some(data.to_vec())));
    }
    fn io_read(&mut self, _: u32, _: u64, port: u16, size: u8) -> u32 {
        u32::from(port).wrapping_mul(0x0101_0101) & u32::MAX >> (32 - 8 * u32::from(size))
    }
    fn io_write(&mut self, _: u32, _: u64, port: u16, size: u8, value: u32) {
        self.io.push((port, size, value));
    }
    fn read_msr(&mut self, _: u32, _: u64, _: u32) -> Option<u64> {
        None
    }
    fn write_msr(&mut self, _: u32, _: u64, _: u32, _: u64) -> Option<()> {
        None
    }
    fn task_priority(&mut self, _: u32) -> u8 {
        self.task_priority
    }
    fn set_task_priority(&mut self, _: u32, class: u8) {
        self.task_priority = class;
    }
    fn interrupt_pending(&mut self, _: u32) -> bool {
        self.interrupt.is_some()
    }
    fn acknowledge_interrupt(&mut self, _: u32, _: u64) -> Option<u8> {
        self.interrupt.take()
    }
    fn take_nmi(&mut self, _: u32) -> bool {
        std::mem::take(&mut self.nmi)
    }
    fn cache_op(&mut self, _: &RamAccess, op: CacheOp) {
        self.cache.push(op);
    }
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random
    }
    fn code_pages(&mut self) -> &mut CodePages {
        &mut self.pages
    }
    fn probes(&mut self) -> Option<&mut Probes> {
        self.probes.as_mut()
    }
    fn probe(&mut self, cpu: &Vcpu, now: u64) {
        let stack = cpu.gpr[reg::RSP];
        self.probed.push((now, cpu.rip, stack));
        if self.follow == Some(cpu.rip) {
            let bytes = self.peek(stack, 8).try_into().map(u64::from_le_bytes);
            if let (Ok(back), Some(probes)) = (bytes, &mut self.probes) {
                probes.insert(back, Some(back));
            }
        }
    }
}
