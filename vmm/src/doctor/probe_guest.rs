//! The guest of the KVM probe: one page each of tables and code, and the trials it is put to.
//!
//! 64-bit mode at CPL 0 with an identity mapping, as a kernel runs (Intel SDM vol. 3, 4.5 and 6.14). A trial is a few
//! instructions, ended by HLT; whether they did right is seen in memory and registers afterwards.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

/// Bytes of guest memory: what the one large page maps.
pub(super) const MEMORY: usize = 2 << 20;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
/// One HLT for each exception vector, so that RIP tells which came.
const STUBS: u64 = 0x7000;
const BREAKPOINT_HANDLER: u64 = 0x7800;
const CODE: u64 = 0x8000;
const STACK_TOP: u64 = 0xa000;
/// RDI in every trial.
const DATA: u64 = 0xb000;
/// RSI in every trial: an XSAVE area, 64-byte aligned (SDM vol. 1, 13.4).
const AREA: u64 = 0xc000;

const VECTORS: u64 = 32;
const BREAKPOINT: u64 = 3;
const HLT: u8 = 0xf4;

const CODE_SELECTOR: u16 = 0x08;
const DATA_SELECTOR: u16 = 0x10;
const TSS_SELECTOR: u16 = 0x18;

/// CR4.OSXSAVE.
const OSXSAVE: u64 = 1 << 18;
/// XCR0 and the state-component bitmap of the XSAVE trials: x87 and SSE.
pub(super) const X87_AND_SSE: u64 = 0b11;
/// MXCSR after reset.
const MXCSR_RESET: u32 = 0x1f80;

/// An instruction's mnemonic and encoding. Memory operands are [RDI] or, in an XSAVE area, [RSI]; others RAX and XMM0.
#[derive(Debug)]
pub(super) struct Instruction(pub &'static str, &'static [u8]);

#[derive(Debug)]
pub(super) struct Trial {
    pub name: &'static str,
    /// Runs only where CPUID offers XSAVE.
    pub needs_xsave: bool,
    pub code: &'static [Instruction],
    /// RAX, RBX, RCX, RDX.
    registers: [u64; 4],
    /// At RDI.
    data: [u64; 2],
    /// RAX, RDX.
    registers_after: [u64; 2],
    data_after: [u64; 2],
}

const fn floats(low: f32, high: f32) -> u64 {
    low.to_bits() as u64 | (high.to_bits() as u64) << 32
}

const PATTERN: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

/// What Linux needs at CPL 0 before it is far. The first is what every KVM can do.
pub(super) const TRIALS: &[Trial] = &[
    Trial {
        name: "64-bit kernel code",
        needs_xsave: false,
        code: &[Instruction("mov", &[0x48, 0x89, 0x07]), Instruction("out", &[0xe6, 0x80])],
        registers: [PATTERN[0], 0, 0, 0],
        data: [0, 0],
        registers_after: [PATTERN[0], 0],
        data_after: [PATTERN[0], 0],
    },
    // The first succeeds, the second finds what the first stored, differs, and loads it.
    Trial {
        name: "cmpxchg16b",
        needs_xsave: false,
        code: &[
            Instruction("lock cmpxchg16b", &[0xf0, 0x48, 0x0f, 0xc7, 0x0f]),
            Instruction("cmpxchg16b", &[0x48, 0x0f, 0xc7, 0x0f]),
        ],
        registers: [1, PATTERN[0], PATTERN[1], 2],
        data: [1, 2],
        registers_after: PATTERN,
        data_after: PATTERN,
    },
    Trial {
        name: "int3",
        needs_xsave: false,
        code: &[Instruction("int3", &[0xcc])],
        registers: [0; 4],
        data: [41, 0],
        registers_after: [0, 0],
        data_after: [42, 0],
    },
    Trial {
        name: "addps",
        needs_xsave: false,
        code: &[
            Instruction("movups", &[0x0f, 0x10, 0x07]),
            Instruction("addps", &[0x0f, 0x58, 0x07]),
            Instruction("movups", &[0x0f, 0x11, 0x07]),
        ],
        registers: [0; 4],
        data: [floats(1.0, 2.5), floats(-3.0, 4.0)],
        registers_after: [0, 0],
        data_after: [floats(2.0, 5.0), floats(-6.0, 8.0)],
    },
    Trial {
        name: "xsave",
        needs_xsave: true,
        code: &[
            Instruction("xsave", &[0x0f, 0xae, 0x26]),
            // MXCSR lies at offset 24 of the area.
            Instruction("mov", &[0x8b, 0x46, 0x18]),
        ],
        registers: [X87_AND_SSE, 0, 0, 0],
        data: [0, 0],
        registers_after: [MXCSR_RESET as u64, 0],
        data_after: [0, 0],
    },
    // The area that `prepare` leaves has PATTERN for XMM0.
    Trial {
        name: "xrstor",
        needs_xsave: true,
        code: &[Instruction("xrstor", &[0x0f, 0xae, 0x2e]), Instruction("movups", &[0x0f, 0x11, 0x07])],
        registers: [X87_AND_SSE, 0, 0, 0],
        data: [0, 0],
        registers_after: [X87_AND_SSE, 0],
        data_after: PATTERN,
    },
];

impl Trial {
    /// Puts code, data and a fresh XSAVE area into guest memory.
    pub fn prepare(&self, memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
        let mut at = CODE;
        for Instruction(_, bytes) in self.code {
            memory.write_slice(bytes, GuestAddress(at))?;
            at = at.saturating_add(bytes.len() as u64);
        }
        memory.write_obj(HLT, GuestAddress(at))?;
        write_words(memory, DATA, &self.data)?;
        // SDM vol. 1, 13.4: FCW at 0, MXCSR at 24, XMM0 at 160, XSTATE_BV at 512.
        memory.write_slice(&[0; 1024], GuestAddress(AREA))?;
        if self.name == "xrstor" {
            memory.write_obj(0x37f_u16, GuestAddress(AREA))?;
            memory.write_obj(MXCSR_RESET, GuestAddress(AREA + 24))?;
            write_words(memory, AREA + 160, &PATTERN)?;
            memory.write_obj(X87_AND_SSE, GuestAddress(AREA + 512))?;
        }
        Ok(())
    }

    /// Registers to begin with.
    pub fn registers(&self) -> kvm_regs {
        let [rax, rbx, rcx, rdx] = self.registers;
        // Bit 1 of RFLAGS is always set; interrupts are off.
        kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rdi: DATA,
            rsi: AREA,
            rsp: STACK_TOP,
            rip: CODE,
            rflags: 2,
            ..Default::default()
        }
    }

    /// The instruction at `rip`.
    pub fn instruction_at(&self, rip: u64) -> Option<&'static str> {
        let mut at = CODE;
        self.code.iter().find_map(|Instruction(text, bytes)| {
            let start = at;
            at = at.saturating_add(bytes.len() as u64);
            (start..at).contains(&rip).then_some(*text)
        })
    }

    /// Whether a HLT that left `registers` is the one after the last instruction.
    fn is_end(&self, rip: u64) -> bool {
        let length: u64 = self.code.iter().map(|Instruction(_, bytes)| bytes.len() as u64).sum();
        rip == CODE + length + 1
    }

    /// What came out, once the guest has halted.
    pub fn judge(&self, memory: &GuestMemoryMmap, registers: &kvm_regs) -> Result<Outcome, GuestMemoryError> {
        let rip = registers.rip;
        if self.is_end(rip) {
            let mut data = [0; 2];
            for (word, at) in data.iter_mut().zip([DATA, DATA + 8]) {
                *word = memory.read_obj(GuestAddress(at))?;
            }
            let right = data == self.data_after && [registers.rax, registers.rdx] == self.registers_after;
            return Ok(if right { Outcome::Right } else { Outcome::Wrong });
        }
        match rip.checked_sub(STUBS + 1) {
            Some(vector) if vector < VECTORS => {
                let with_error_code = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
                let frame = registers.rsp.saturating_add(if with_error_code { 8 } else { 0 });
                let rip = memory.read_obj(GuestAddress(frame))?;
                Ok(Outcome::Exception { vector, rip })
            }
            _ => Ok(Outcome::Astray),
        }
    }
}

/// Where the guest halted.
#[derive(Debug)]
pub(super) enum Outcome {
    Right,
    /// At the end, with other results than a processor has.
    Wrong,
    Exception {
        vector: u64,
        rip: u64,
    },
    Astray,
}

fn write_words(memory: &GuestMemoryMmap, at: u64, words: &[u64]) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write_slice(&bytes, GuestAddress(at))
}

/// Page tables, GDT, IDT and handlers.
pub(super) fn write_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    write_words(memory, PML4, &[PDPT | PRESENT_WRITABLE])?;
    write_words(memory, PDPT, &[PAGE_DIRECTORY | PRESENT_WRITABLE])?;
    write_words(memory, PAGE_DIRECTORY, &[PRESENT_WRITABLE | LARGE])?;

    // Null, 64-bit code, data, busy 64-bit TSS of 0x68 bytes (SDM vol. 3, 3.4.5 and 7.2.3).
    let tss = [0x0000_8b00_0000_0067 | TSS << 16, 0];
    write_words(memory, GDT, &[0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, tss[0], tss[1]])?;

    for vector in 0..VECTORS {
        let handler = if vector == BREAKPOINT { BREAKPOINT_HANDLER } else { STUBS + vector };
        // A present 64-bit interrupt gate, DPL 0, no IST (SDM vol. 3, 6.14.1); all handlers lie below 64 KiB.
        let gate = handler | u64::from(CODE_SELECTOR) << 16 | 0x8e << 40;
        write_words(memory, IDT + vector * 16, &[gate, 0])?;
        memory.write_obj(HLT, GuestAddress(STUBS + vector))?;
    }
    // inc qword [rdi]; iretq
    memory.write_slice(&[0x48, 0xff, 0x07, 0x48, 0xcf], GuestAddress(BREAKPOINT_HANDLER))
}

/// 64-bit mode at CPL 0, on top of what a fresh vCPU has.
pub(super) fn system_registers(fresh: &kvm_sregs, xsave: bool) -> kvm_sregs {
    let code = kvm_segment {
        limit: 0xffff_ffff,
        selector: CODE_SELECTOR,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: DATA_SELECTOR, type_: 3, l: 0, db: 1, ..code };
    let tr = kvm_segment {
        base: TSS,
        limit: 0x67,
        selector: TSS_SELECTOR,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    let table = |base, limit| kvm_dtable { base, limit, ..Default::default() };
    kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr,
        gdt: table(GDT, 5 * 8 - 1),
        idt: table(IDT, 32 * 16 - 1),
        // PG, WP, NE, ET, MP, PE.
        cr0: 0x8001_0033,
        cr3: PML4,
        // OSXMMEXCPT, OSFXSR, PAE.
        cr4: 0x620 | if xsave { OSXSAVE } else { 0 },
        // LMA, LME.
        efer: 0x500,
        ..*fresh
    }
}
