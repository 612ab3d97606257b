//! The interpreter, arranged as Linux arranges a CPU: long mode, privilege 3, the same pages at the same addresses.
//!
//! Every exception is delivered through an IDT whose handlers are HLT, so that vector, error code, CR2 and the saved
//! registers are seen exactly as a kernel would see them.

use crate::native::user_descriptors;
use crate::state::{Outcome, PAGE, PAGES, REGIONS, State, Width, locate};
use crate::world::Ram;
use std::fmt;
use x86_cpu::{
    Activity, CodeCache, Exit, Segment, TableRegister, Vcpu, cr0, cr4, efer, run, seg, slot, xcr0,
};

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const NO_EXECUTE: u64 = 1 << 63;

/// Frames 0-2: upper tables of the user half; then one page table a region, of which adjacent ones use the first; then the
/// tables of the kernel half.
const PML4: u64 = 0;
const USER_PDPT: u64 = 0x1000;
const USER_PD: u64 = 0x2000;
const USER_TABLES: u64 = 0x3000;
const KERNEL_PDPT: u64 = USER_TABLES + 0x1000 * REGIONS.len() as u64;
const KERNEL_PD: u64 = KERNEL_PDPT + 0x1000;
const KERNEL_TABLE: u64 = KERNEL_PD + 0x1000;
/// Descriptor tables, TSS and handlers; the page after it is the stack of the handlers.
const SYSTEM: u64 = KERNEL_TABLE + 0x1000;
const FIRST_USER_FRAME: usize = (SYSTEM >> 12) as usize + 2;
const KERNEL_BASE: u64 = 0xffff_8000_0000_0000;
const GDT: u64 = 0;
const TSS: u64 = 0x100;
const IDT: u64 = 0x200;
const HANDLERS: u64 = 0x600;
const STACK_TOP: u64 = 0x2000;
const VECTORS: u64 = 32;
const KERNEL_CS: u64 = 0x10;
const TSS_SELECTOR: u16 = 0x40;
/// What the kernel itself uses, where Linux has it: 64-bit code and data. All else is as on the host.
const KERNEL_DESCRIPTORS: [(u64, u64); 2] = [(2, 0x00af_9b00_0000_ffff), (3, 0x00cf_9300_0000_ffff)];
const HLT: u8 = 0xf4;
/// Times the interpreter may come back within one case: string instructions do so to let devices act.
const MAX_ENTRIES: u32 = 1000;

fn has_error_code(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

pub struct Interpreter {
    cpu: Box<Vcpu>,
    ram: Ram,
    code: CodeCache<Ram>,
}

impl fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interpreter").field("rip", &self.cpu.rip).finish_non_exhaustive()
    }
}

impl Interpreter {
    pub fn new() -> Self {
        let mut ram = Ram::new(FIRST_USER_FRAME + PAGES);
        fill_page_tables(&mut ram);
        fill_system_page(&mut ram);
        let mut cpu = Box::new(Vcpu::new(0));
        cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::FSGSBASE | cr4::OSXSAVE;
        cpu.xcr0 = xcr0::SUPPORTED;
        cpu.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        cpu.cr3 = PML4;
        cpu.gdtr = TableRegister { base: KERNEL_BASE + GDT, limit: 0x7f };
        cpu.idtr = TableRegister { base: KERNEL_BASE + IDT, limit: (VECTORS * 16 - 1) as u16 };
        cpu.ldtr = Segment::null(0);
        cpu.tr = Segment { selector: TSS_SELECTOR, base: KERNEL_BASE + TSS, limit: 0x67, attr: 0x8b };
        Self { cpu, ram, code: CodeCache::default() }
    }

    /// Executes `count` instructions from `state` with memory `image`. Returns how it ended and the state then.
    ///
    /// # Errors
    /// A description, if the interpreter neither executed them nor delivered an exception.
    pub fn run(
        &mut self,
        width: Width,
        state: &State,
        image: &[u8],
        count: u64,
    ) -> Result<(Outcome, State), String> {
        for (page, content) in image.chunks_exact(PAGE).enumerate() {
            self.ram.frame_mut(FIRST_USER_FRAME + page).copy_from_slice(content);
        }
        self.put_state(width, state);
        let mut now = 0;
        for _ in 0..MAX_ENTRIES {
            let (exit, clock) = run(&mut self.cpu, &mut self.ram, &mut self.code, now, count);
            now = clock;
            match exit {
                // A trap was delivered by the last instruction: on to its handler's HLT.
                Exit::Deadline if self.cpu.cpl == 0 => {
                    run(&mut self.cpu, &mut self.ram, &mut self.code, now, now + 1);
                    return self.take_exception(state);
                }
                Exit::Deadline => {
                    let mut after = self.take_state(state);
                    after.rip = self.cpu.rip;
                    return Ok((Outcome::Completed, after));
                }
                Exit::Halted => return self.take_exception(state),
                Exit::Attention | Exit::Yield => {}
                Exit::WaitForSipi | Exit::Shutdown => return Err(format!("{exit:?}")),
            }
        }
        Err(format!("no progress at {:#x}, clock {now}", self.cpu.rip))
    }

    /// Content of the user pages.
    pub fn image(&mut self, page: usize) -> &[u8; PAGE] {
        self.ram.frame(FIRST_USER_FRAME + page)
    }

    fn put_state(&mut self, width: Width, state: &State) {
        let cpu = &mut *self.cpu;
        cpu.gpr[..16].copy_from_slice(&state.gpr);
        cpu.rip = state.rip;
        cpu.cpl = 3;
        cpu.activity = Activity::Running;
        cpu.attention = true;
        cpu.inhibit_at = u64::MAX;
        cpu.cr2 = 0;
        cpu.set_rflags(state.rflags);
        let data = Segment { selector: 0x2b, base: 0, limit: u32::MAX, attr: 0xc0f3 };
        let (code, other) = match width {
            Width::Bits64 => {
                (Segment { selector: 0x33, base: 0, limit: u32::MAX, attr: 0xa0fb }, Segment::null(0))
            }
            Width::Bits32 => (Segment { selector: 0x23, base: 0, limit: u32::MAX, attr: 0xc0fb }, data),
        };
        cpu.set_segment(seg::CS, code);
        cpu.set_segment(seg::SS, data);
        cpu.set_segment(seg::DS, other);
        cpu.set_segment(seg::ES, other);
        cpu.set_segment(seg::FS, Segment { base: state.fs_base, ..Segment::null(0) });
        cpu.set_segment(seg::GS, Segment { base: state.gs_base, ..Segment::null(0) });
        cpu.update_mode();
        cpu.xmm = state.xmm;
        cpu.ymm_high = state.ymm_high;
        cpu.mxcsr = state.mxcsr;
        let fpu = &state.fpu;
        cpu.x87.control = fpu.control;
        cpu.x87.status = fpu.status;
        cpu.x87.tags = 0;
        for register in 0..8 {
            let value = fpu.physical(register);
            cpu.x87.regs[register] = value;
            let tag = if fpu.tags >> register & 1 == 0 { 3 } else { class(value) };
            cpu.x87.tags |= tag << (2 * register);
        }
    }

    fn take_state(&self, before: &State) -> State {
        let cpu = &self.cpu;
        let mut after = before.clone();
        after.gpr.copy_from_slice(&cpu.gpr[..16]);
        after.rflags = cpu.rflags();
        after.selectors = cpu.segs.map(|segment| segment.selector);
        after.fs_base = cpu.gpr[slot::FS as usize];
        after.gs_base = cpu.gpr[slot::GS as usize];
        after.xmm = cpu.xmm;
        after.ymm_high = cpu.ymm_high;
        after.mxcsr = cpu.mxcsr;
        after.fpu.control = cpu.x87.control;
        after.fpu.status = cpu.x87.status;
        let top = after.fpu.top();
        after.fpu.st = std::array::from_fn(|i| cpu.x87.regs[(i + top) & 7]);
        after.fpu.tags = (0..8).fold(0, |tags, i| tags | u8::from(cpu.x87.tags >> (2 * i) & 3 != 3) << i);
        after
    }

    /// Reads the exception frame of the handler that halted.
    fn take_exception(&mut self, before: &State) -> Result<(Outcome, State), String> {
        let handler = self.cpu.rip.wrapping_sub(1 + KERNEL_BASE + HANDLERS);
        if handler >= VECTORS || self.cpu.cpl != 0 {
            return Err(format!("halted at {:#x}, privilege {}", self.cpu.rip, self.cpu.cpl));
        }
        let mut after = self.take_state(before);
        let mut word = |below_top: u64| self.ram.get(SYSTEM + STACK_TOP - below_top);
        after.rip = word(0x28);
        after.rflags = word(0x18);
        after.selectors[seg::CS] = word(0x20) as u16;
        after.selectors[seg::SS] = word(8) as u16;
        after.gpr[4] = word(0x10);
        let expected = STACK_TOP - if has_error_code(handler) { 0x30 } else { 0x28 };
        if self.cpu.gpr[4] != KERNEL_BASE + expected {
            return Err(format!("exception {handler} leaves RSP {:#x}", self.cpu.gpr[4]));
        }
        let address = (handler == 14).then_some(self.cpu.cr2);
        if let Some(address) = address {
            check_page_fault_code(address, word(0x30))?;
        }
        Ok((Outcome::Fault { vector: handler as u8, address }, after))
    }
}

/// Checks the error code of a page fault on data at user privilege (SDM volume 3, 4.7), which signals do not show.
fn check_page_fault_code(address: u64, code: u64) -> Result<(), String> {
    const PROTECTION: u64 = 1;
    const USER_MODE: u64 = 1 << 2;
    // Mapped user pages can all be read: what faults there is a write. What is not mapped may be either.
    let supervisor = (KERNEL_BASE..KERNEL_BASE + 2 * PAGE as u64).contains(&address);
    let expected = match (locate(address, 1).is_some(), supervisor) {
        (true, _) => code == PROTECTION | WRITE | USER_MODE,
        (_, true) => code & !WRITE == PROTECTION | USER_MODE,
        _ => code & !WRITE == USER_MODE,
    };
    if expected { Ok(()) } else { Err(format!("page fault at {address:#x} with error code {code:#x}")) }
}

/// Tag of a register that is not empty (SDM volume 1, 8.1.7): 0 valid, 1 zero, 2 special.
fn class(value: u128) -> u16 {
    let exponent = value >> 64 & 0x7fff;
    let integer = value >> 63 & 1;
    if exponent == 0 && value as u64 == 0 {
        1
    } else if exponent == 0x7fff || integer == 0 || exponent == 0 {
        2
    } else {
        0
    }
}

fn fill_page_tables(ram: &mut Ram) {
    let table = PRESENT | WRITE | USER;
    ram.put(PML4, USER_PDPT | table);
    ram.put(USER_PDPT, USER_PD | table);
    for (number, region) in (0_u64..).zip(REGIONS) {
        let directory_entry = USER_PD + (region.base >> 21 & 511) * 8;
        if ram.get(directory_entry) == 0 {
            ram.put(directory_entry, (USER_TABLES + (number << 12)) | table);
        }
        let page_table = ram.get(directory_entry) & !0xfff;
        for page in 0..region.pages as u64 {
            let frame = (FIRST_USER_FRAME + region.first) as u64 + page;
            let mut entry = frame << 12 | PRESENT | USER;
            entry |= if region.write { WRITE } else { 0 };
            entry |= if region.execute { 0 } else { NO_EXECUTE };
            ram.put(page_table + ((region.base >> 12 & 511) + page) * 8, entry);
        }
    }
    ram.put(PML4 + 256 * 8, KERNEL_PDPT | PRESENT | WRITE);
    ram.put(KERNEL_PDPT, KERNEL_PD | PRESENT | WRITE);
    ram.put(KERNEL_PD, KERNEL_TABLE | PRESENT | WRITE);
    ram.put(KERNEL_TABLE, SYSTEM | PRESENT | WRITE);
    ram.put(KERNEL_TABLE + 8, (SYSTEM + 0x1000) | PRESENT | WRITE | NO_EXECUTE);
}

fn fill_system_page(ram: &mut Ram) {
    for (number, descriptor) in (0_u64..).zip(user_descriptors()) {
        ram.put(SYSTEM + GDT + number * 8, descriptor.unwrap_or(0));
    }
    for (number, descriptor) in KERNEL_DESCRIPTORS {
        ram.put(SYSTEM + GDT + number * 8, descriptor);
    }
    let tss = KERNEL_BASE + TSS;
    ram.put(
        SYSTEM + GDT + u64::from(TSS_SELECTOR),
        0x67 | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56,
    );
    ram.put(SYSTEM + GDT + u64::from(TSS_SELECTOR) + 8, tss >> 32);
    // RSP0 lies 4 bytes into the TSS.
    let stack = KERNEL_BASE + STACK_TOP;
    ram.put(SYSTEM + TSS, stack << 32);
    ram.put(SYSTEM + TSS + 8, stack >> 32);
    // The I/O permission bitmap lies beyond the limit: no port is permitted.
    ram.put(SYSTEM + TSS + 0x60, 0x68 << 48);
    for vector in 0..VECTORS {
        let handler = KERNEL_BASE + HANDLERS + vector;
        // Linux lets user code raise #BP and #OF.
        let privilege = if matches!(vector, 3 | 4) { 3 << 45 } else { 0 };
        let gate =
            handler & 0xffff | KERNEL_CS << 16 | 0x8e00 << 32 | privilege | (handler >> 16 & 0xffff) << 48;
        ram.put(SYSTEM + IDT + vector * 16, gate);
        ram.put(SYSTEM + IDT + vector * 16 + 8, handler >> 32);
    }
    let handlers = HANDLERS as usize..(HANDLERS + VECTORS) as usize;
    ram.frame_mut((SYSTEM >> 12) as usize)[handlers].fill(HLT);
}
