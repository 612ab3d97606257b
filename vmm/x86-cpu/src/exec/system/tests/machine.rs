//! A small machine for guest programs: page tables, descriptor tables, a stub for every vector.

use crate::run::{CodeCache, Exit, run};
use crate::state::{Segment, TableRegister, Vcpu, cr0, cr4, efer, reg, seg};
use crate::test_world::TestWorld;

/// Where programs are placed and start.
pub const PROGRAM: u64 = 0x1000;
/// Scratch memory for programs, user-accessible like the program.
pub const DATA: u64 = 0x5000;
pub const GDT: u64 = 0x8000;
pub const IDT: u64 = 0x9000;
pub const TSS: u64 = 0xa000;
const PML4: u64 = 0x10000;
const PAGE_TABLE: u64 = 0x13000;
/// One HLT every 16 bytes: the handler of vector V is at `HANDLERS + 16 * V`.
pub const HANDLERS: u64 = 0x20000;
/// Stack of the program.
pub const STACK: u64 = 0x7000;
/// RSP0.
pub const INNER_STACK: u64 = 0x30000;
/// IST1.
pub const IST1: u64 = 0x38000;
const PAGES: usize = 256;

/// Page-table bits.
pub const PRESENT: u64 = 1;
pub const WRITABLE: u64 = 2;
pub const USER: u64 = 4;
pub const NO_EXECUTE: u64 = 1 << 63;

/// Selectors of the GDT.
pub mod sel {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    /// SYSRET's base: user code32, data, code64.
    pub const USER32: u16 = 0x18 | 3;
    pub const USER_DATA: u16 = 0x20 | 3;
    pub const USER64: u16 = 0x28 | 3;
    pub const TSS: u16 = 0x30;
    pub const CODE32: u16 = 0x40;
    /// Data, not present.
    pub const ABSENT: u16 = 0x60;
}

const fn gate(offset: u64, selector: u16, dpl: u64, kind: u64) -> u64 {
    offset & 0xffff
        | (selector as u64) << 16
        | kind << 40
        | dpl << 45
        | 1 << 47
        | (offset >> 16 & 0xffff) << 48
}

fn gdt(long: bool) -> [u64; 14] {
    let tss_kind = 9;
    [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x0000_8000_0000_0fff | tss_kind << 40 | TSS << 16,
        0,
        0x00cf_9b00_0000_ffff,
        // 0x48: a call gate with DPL 3 to the stub of vector 0x90 (16 bytes).
        gate(HANDLERS + 0x900, if long { sel::CODE64 } else { sel::CODE32 }, 3, 12),
        0,
        // 0x58: 16-bit code.
        0x0000_9b00_0000_ffff,
        0x00cf_1300_0000_ffff,
        // 0x68: a 32-bit call gate with DPL 3 and two parameters to the stub of vector 0x91.
        gate(HANDLERS + 0x910, sel::CODE32, 3, 12) | 2 << 32,
    ]
}

pub struct Machine {
    pub cpu: Vcpu,
    pub world: TestWorld,
    pub code: CodeCache<TestWorld>,
    pub clock: u64,
}

impl Machine {
    /// RAM with tables, stubs and `program`; the vCPU as after power-on.
    fn new(program: &[u8], long: bool) -> Self {
        let mut world = TestWorld::new(PAGES);
        let mut cpu = Vcpu::new(0);
        cpu.rip = PROGRAM;
        world.poke(PROGRAM, program);
        for (slot, descriptor) in gdt(long).into_iter().enumerate() {
            world.poke(GDT + slot as u64 * 8, &descriptor.to_le_bytes());
        }
        for vector in 0..256_u64 {
            let handler = HANDLERS + vector * 16;
            world.poke(handler, &[0xf4]);
            let dpl = if vector == 0x80 { 3 } else { 0 };
            if long {
                world.poke(IDT + vector * 16, &gate(handler, sel::CODE64, dpl, 14).to_le_bytes());
            } else {
                world.poke(IDT + vector * 8, &gate(handler, sel::CODE32, dpl, 14).to_le_bytes());
            }
        }
        if long {
            world.poke(TSS + 4, &INNER_STACK.to_le_bytes());
            world.poke(TSS + 36, &IST1.to_le_bytes());
        } else {
            world.poke(TSS + 4, &(INNER_STACK as u32).to_le_bytes());
            world.poke(TSS + 8, &sel::DATA.to_le_bytes());
        }
        // The I/O bitmap lies beyond the TSS limit.
        world.poke(TSS + 0x66, &0x1000_u16.to_le_bytes());
        let mut machine = Self { cpu, world, code: CodeCache::default(), clock: 0 };
        machine.poke64(PML4, 0x11000 | PRESENT | WRITABLE | USER);
        machine.poke64(0x11000, 0x12000 | PRESENT | WRITABLE | USER);
        machine.poke64(0x12000, PAGE_TABLE | PRESENT | WRITABLE | USER);
        for page in 0..PAGES as u64 {
            let user = if page < 8 { USER } else { 0 };
            machine.map(page << 12, PRESENT | WRITABLE | user);
        }
        machine
    }

    /// Real mode, CS and all other bases 0.
    pub fn real(program: &[u8]) -> Self {
        let mut machine = Self::new(program, true);
        let cpu = &mut machine.cpu;
        cpu.set_segment(seg::CS, Segment::real(0, true));
        cpu.gpr[reg::RSP] = STACK;
        machine
    }

    /// 32-bit protected mode at CPL 0, without paging.
    pub fn protected(program: &[u8]) -> Self {
        let mut machine = Self::new(program, false);
        let cpu = &mut machine.cpu;
        cpu.cr0 = cr0::PE | cr0::ET | cr0::NE;
        cpu.gdtr = TableRegister { base: GDT, limit: 14 * 8 - 1 };
        cpu.idtr = TableRegister { base: IDT, limit: 0x7ff };
        cpu.tr = Segment { selector: sel::TSS, base: TSS, limit: 0xfff, attr: 0x8b };
        let data = Segment { selector: sel::DATA, base: 0, limit: u32::MAX, attr: 0xc093 };
        for index in [seg::DS, seg::ES, seg::SS] {
            cpu.set_segment(index, data);
        }
        cpu.set_segment(seg::CS, Segment { selector: sel::CODE32, attr: 0xc09b, ..data });
        cpu.gpr[reg::RSP] = STACK;
        machine
    }

    /// 64-bit mode at CPL 0, memory mapped to itself by 4 KiB pages, SYSCALL enabled.
    pub fn long(program: &[u8]) -> Self {
        let mut machine = Self::new(program, true);
        let cpu = &mut machine.cpu;
        cpu.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::PG | cr0::WP;
        cpu.cr3 = PML4;
        cpu.cr4 = cr4::PAE;
        cpu.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        cpu.gdtr = TableRegister { base: GDT, limit: 14 * 8 - 1 };
        cpu.idtr = TableRegister { base: IDT, limit: 0xfff };
        cpu.tr = Segment { selector: sel::TSS, base: TSS, limit: 0xfff, attr: 0x8b };
        let flat = Segment { selector: sel::CODE64, base: 0, limit: u32::MAX, attr: 0xa09b };
        cpu.set_segment(seg::CS, flat);
        let data = Segment { selector: sel::DATA, attr: 0xc093, ..flat };
        for index in [seg::DS, seg::ES, seg::SS, seg::FS, seg::GS] {
            cpu.set_segment(index, data);
        }
        cpu.gpr[reg::RSP] = STACK;
        machine
    }

    /// 64-bit mode at CPL 3.
    pub fn user(program: &[u8]) -> Self {
        let mut machine = Self::long(program);
        let cpu = &mut machine.cpu;
        cpu.cpl = 3;
        let flat = Segment { selector: sel::USER64, base: 0, limit: u32::MAX, attr: 0xa0fb };
        cpu.set_segment(seg::CS, flat);
        let data = Segment { selector: sel::USER_DATA, attr: 0xc0f3, ..flat };
        for index in [seg::DS, seg::ES, seg::SS, seg::FS, seg::GS] {
            cpu.set_segment(index, data);
        }
        machine
    }

    /// Maps page `linear` to itself.
    pub fn map(&mut self, linear: u64, bits: u64) {
        self.poke64(PAGE_TABLE + (linear >> 12) * 8, linear | bits);
    }

    pub fn poke64(&mut self, address: u64, value: u64) {
        self.world.poke(address, &value.to_le_bytes());
    }

    pub fn peek64(&mut self, address: u64) -> u64 {
        u64::from_le_bytes(self.world.peek(address, 8).try_into().unwrap())
    }

    /// Replaces the handler of `vector`.
    pub fn handler(&mut self, vector: u8, program: &[u8]) {
        assert!(program.len() <= 16);
        self.world.poke(HANDLERS + u64::from(vector) * 16, program);
    }

    /// Runs until HLT with interrupts off, shutdown or the clock `until`.
    pub fn run_until(&mut self, until: u64) -> Exit {
        loop {
            let (exit, clock) = run(&mut self.cpu, &mut self.world, &mut self.code, self.clock, until);
            self.clock = clock;
            if !matches!(exit, Exit::Attention | Exit::Yield) {
                return exit;
            }
        }
    }

    /// Runs until HLT; panics if that does not come.
    pub fn run(&mut self) {
        let exit = self.run_until(100_000);
        assert_eq!(exit, Exit::Halted, "at {:#x}", self.cpu.rip);
    }

    /// Runs into the stub of `vector`; returns the stack frame from the top of the stack: for vectors with an error
    /// code that first, then RIP, CS, RFLAGS, RSP, SS.
    pub fn run_into(&mut self, vector: u8) -> [u64; 6] {
        self.run();
        let top = self.cpu.gpr[reg::RSP];
        let (rip, word) = (self.cpu.rip, self.peek64(top));
        assert_eq!(
            rip,
            HANDLERS + u64::from(vector) * 16 + 1,
            "expected vector {vector}, top of stack {word:#x}"
        );
        std::array::from_fn(|slot| self.peek64(top + slot as u64 * 8))
    }
}
