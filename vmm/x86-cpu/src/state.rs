//! The architectural state of one vCPU, and the caches that speed it up.

use crate::fault::Fault;
use crate::fetched::Fetched;
use crate::flags::{LazyFlags, bits};
use crate::memory::tlb::{Context, Tlb};
use crate::mode::Mode;
use serde::{Deserialize, Serialize};

/// Slots of [`Vcpu::gpr`] beyond the sixteen general registers. They let one addressing formula serve every operand.
pub mod slot {
    /// Always zero: an absent base, index or segment.
    pub const ZERO: u8 = 16;
    /// Linear address of the start of the running block (64-bit mode: base of RIP-relative operands).
    pub const BLOCK: u8 = 17;
    /// FS base.
    pub const FS: u8 = 18;
    /// GS base.
    pub const GS: u8 = 19;
}

/// Index of the general registers.
pub mod reg {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R10: usize = 10;
    pub const R11: usize = 11;
    pub const R13: usize = 13;
}

/// Index of the segment registers, in the order of their encoding.
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// CR0 bits.
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits.
pub mod cr4 {
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// XCR0 bits: the state components that the XSAVE feature set manages (SDM volume 1, 13.1).
pub mod xcr0 {
    pub const X87: u64 = 1 << 0;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    /// The components that exist.
    pub const SUPPORTED: u64 = X87 | SSE | AVX;

    /// Whether XCR0 can hold `value`: x87 is always enabled, AVX only with SSE (SDM volume 1, 13.3).
    #[must_use]
    pub const fn valid(value: u64) -> bool {
        value & !SUPPORTED == 0 && value & X87 != 0 && (value & AVX == 0 || value & SSE != 0)
    }
}

/// EFER bits.
pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub selector: u16,
    pub base: u64,
    /// Limit in bytes, inclusive, granularity applied.
    pub limit: u32,
    /// Descriptor bits 40-55 shifted down: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15. 0 is unusable.
    pub attr: u16,
}

impl Segment {
    /// A real-mode segment: base is 16 times the selector.
    #[must_use]
    pub const fn real(selector: u16, code: bool) -> Self {
        Self { selector, base: (selector as u64) << 4, limit: 0xffff, attr: if code { 0x9b } else { 0x93 } }
    }
    /// A segment of virtual-8086 mode.
    #[must_use]
    pub const fn virtual_8086(selector: u16) -> Self {
        Self { attr: 0xf3, ..Self::real(selector, false) }
    }
    /// A null, unusable segment.
    #[must_use]
    pub const fn null(selector: u16) -> Self {
        Self { selector, base: 0, limit: 0, attr: 0 }
    }
    /// Descriptor privilege level.
    #[must_use]
    pub const fn dpl(&self) -> u8 {
        (self.attr >> 5 & 3) as u8
    }
    /// D/B bit: 32-bit code or stack.
    #[must_use]
    pub const fn big(&self) -> bool {
        self.attr & 1 << 14 != 0
    }
    /// L bit: 64-bit code.
    #[must_use]
    pub const fn long(&self) -> bool {
        self.attr & 1 << 13 != 0
    }
    /// Whether the segment can be used in legacy modes.
    #[must_use]
    pub const fn usable(&self) -> bool {
        self.attr & 1 << 7 != 0
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRegister {
    pub base: u64,
    pub limit: u16,
}

/// x87 state. Registers are stored by physical number; `top` is in `status` bits 11-13.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct X87 {
    /// The 80-bit registers R0-R7 (physical), in the low 80 bits.
    pub regs: [u128; 8],
    pub control: u16,
    pub status: u16,
    /// Full tag word, two bits a register.
    pub tags: u16,
    pub opcode: u16,
    pub instruction_pointer: u64,
    pub instruction_selector: u16,
    pub data_pointer: u64,
    pub data_selector: u16,
}

impl Default for X87 {
    fn default() -> Self {
        Self {
            regs: [0; 8],
            control: 0x40,
            status: 0,
            tags: 0x5555,
            opcode: 0,
            instruction_pointer: 0,
            instruction_selector: 0,
            data_pointer: 0,
            data_selector: 0,
        }
    }
}

/// What the vCPU does between instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Executes instructions.
    Running,
    /// Waits for an interrupt after HLT.
    Halted,
    /// Waits for a start-up IPI.
    WaitForSipi,
    /// A triple fault, or a shutdown the guest asked for: only a reset helps.
    Shutdown,
}

/// One virtual CPU. Plain data: it can be cloned and serialised ([`Vcpu::complete`]), and its caches ([`Tlb`]) can be dropped
/// at any time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vcpu {
    /// RAX…R15 at 0-15, then the slots of [`slot`].
    pub gpr: [u64; 32],
    /// CF, PF, AF, ZF, SF, OF.
    pub flags: LazyFlags,
    /// The other bits of RFLAGS; the arithmetic ones are 0 here.
    pub system_flags: u64,
    /// Operations of the running block to execute at most; 0 ends the block after the current instruction.
    pub limit: u32,
    /// Index of the running operation in its block, and above 16 bits, where accesses to RAM are shown to the world, its offset
    /// there in bytes.
    pub op_index: u32,
    /// Instructions retired by all vCPUs when the running block was entered (the clock).
    pub block_clock: u64,
    /// Address of the next instruction, relative to CS. During a block: of the block's start, until a branch sets it.
    pub rip: u64,
    /// Current privilege level, 0-3.
    pub cpl: u8,
    /// Everything that decoding depends on.
    #[serde(skip)]
    pub mode: Mode,
    /// Index of this vCPU, also its APIC id.
    pub id: u32,
    /// Number of vCPUs of the machine, for CPUID's topology.
    pub count: u32,
    /// The vCPU is an SEV guest's: page tables have a C-bit ([`crate::encryption`]).
    pub sev: bool,
    /// Names the current translation context: block links and lookups from another one are void. Never repeats.
    #[serde(skip)]
    pub epoch: u64,
    pub segs: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableRegister,
    pub idtr: TableRegister,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    /// The four top entries of PAE paging, loaded with CR3.
    pub pdptes: [u64; 4],
    pub efer: u64,
    /// Extended control register 0: bits of [`xcr0`].
    pub xcr0: u64,
    pub dr: [u64; 8],
    /// What the debug registers amount to, and debug exceptions under way.
    pub debug: crate::debug::Debug,
    pub xmm: [u128; 16],
    /// Bits 128-255 of the YMM registers.
    pub ymm_high: [u128; 16],
    pub mxcsr: u32,
    pub x87: X87,
    pub msr: crate::msr::Msrs,
    /// Linear address of the last page fault raised, not yet in CR2.
    pub fault_address: u64,
    /// Clock at which interrupts are held off by STI, MOV SS or POP SS (the instruction after is executed first).
    pub inhibit_at: u64,
    /// Clock at which the single-step trap is held off too, by MOV SS, POP SS or an instruction that entered a handler.
    pub trap_inhibit_at: u64,
    /// NMIs are held off until the next IRET.
    pub nmi_blocked: bool,
    /// Something outside may have changed: look for interrupts before the next instruction.
    pub attention: bool,
    /// IF, NMI blocking or an interrupt shadow changed: look for interrupts before the next instruction.
    pub recheck: bool,
    /// PAUSE was executed: the quantum ends.
    pub yielded: bool,
    pub activity: Activity,
    /// Addresses of instructions that do not exist and were executed: each is reported once.
    pub(crate) reported: Vec<u64>,
    #[serde(skip)]
    pub tlb: Tlb,
    /// The running instruction's stores have the non-temporal hint.
    #[serde(skip)]
    pub(crate) streaming: bool,
    /// Stores or flushes may wait for a fence.
    #[serde(skip)]
    pub(crate) unfenced: bool,
    #[serde(skip)]
    pub(crate) fetched: Fetched,
}

impl Vcpu {
    /// A vCPU after power-on (SDM volume 3, table 10-1): real mode at F000:FFF0.
    #[must_use]
    pub fn new(id: u32) -> Self {
        let mut cpu = Self {
            gpr: [0; 32],
            flags: LazyFlags::default(),
            system_flags: 2,
            limit: 0,
            op_index: 0,
            block_clock: 0,
            rip: 0xfff0,
            cpl: 0,
            mode: Mode::default(),
            id,
            count: 1,
            sev: false,
            epoch: 0,
            segs: [Segment::real(0, false); 6],
            ldtr: Segment { selector: 0, base: 0, limit: 0xffff, attr: 0x82 },
            tr: Segment { selector: 0, base: 0, limit: 0xffff, attr: 0x8b },
            gdtr: TableRegister { base: 0, limit: 0xffff },
            idtr: TableRegister { base: 0, limit: 0xffff },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            pdptes: [0; 4],
            efer: 0,
            xcr0: xcr0::X87,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            debug: crate::debug::Debug::default(),
            xmm: [0; 16],
            ymm_high: [0; 16],
            mxcsr: 0x1f80,
            x87: X87::default(),
            msr: crate::msr::Msrs::default(),
            fault_address: 0,
            inhibit_at: u64::MAX,
            trap_inhibit_at: u64::MAX,
            nmi_blocked: false,
            attention: true,
            recheck: false,
            yielded: false,
            activity: Activity::Running,
            reported: Vec::new(),
            tlb: Tlb::default(),
            streaming: false,
            unfenced: true,
            fetched: Fetched::default(),
        };
        cpu.gpr[reg::RDX] = u64::from(crate::cpuid::SIGNATURE);
        cpu.segs[seg::CS] = Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attr: 0x9b };
        cpu.flags.set_bits(0);
        cpu.update_mode();
        cpu
    }

    /// INIT (SDM volume 3, table 10-1): as after power-on, but that the x87 and vector state, XCR0, MSRs, the caching
    /// bits of CR0 and what the machine gave this vCPU are kept.
    pub fn init(&mut self) {
        let new = Self::new(self.id);
        let caching = cr0::CD | cr0::NW;
        let old = std::mem::replace(self, new);
        self.count = old.count;
        self.sev = old.sev;
        self.cr0 = self.cr0 & !caching | old.cr0 & caching;
        self.xcr0 = old.xcr0;
        self.x87 = old.x87;
        self.xmm = old.xmm;
        self.ymm_high = old.ymm_high;
        self.mxcsr = old.mxcsr;
        self.msr = old.msr;
    }

    /// RFLAGS with the arithmetic flags in place.
    #[must_use]
    pub fn rflags(&self) -> u64 {
        self.system_flags | self.flags.to_bits() | 2
    }
    /// Sets all of RFLAGS; reserved bits are forced to their fixed values. Does not check privilege.
    pub fn set_rflags(&mut self, value: u64) {
        self.flags.set_bits(value);
        let kept = bits::TF
            | bits::IF
            | bits::DF
            | bits::IOPL
            | bits::NT
            | bits::RF
            | bits::VM
            | bits::AC
            | bits::VIF
            | bits::VIP
            | bits::ID;
        let changed = (self.system_flags ^ value) & kept;
        self.system_flags = value & kept | 2;
        if changed & (bits::IF | bits::TF | bits::RF) != 0 {
            self.look_again();
        }
        if changed & (bits::AC | bits::VM) != 0 {
            self.update_mode();
        }
    }
    /// The clock at the running instruction: instructions retired before it, by all vCPUs.
    #[inline(always)]
    #[must_use]
    pub fn now(&self) -> u64 {
        self.block_clock + u64::from(self.op_index as u16)
    }
    /// Linear address of the running instruction where accesses are shown to the world.
    #[inline(always)]
    #[must_use]
    pub fn instruction_address(&self) -> u64 {
        let address = self.linear_ip().wrapping_add(u64::from(self.op_index >> 16));
        if self.mode.is_64() { address } else { address & 0xffff_ffff }
    }
    /// Ends the block after the running instruction and has the engine look at interrupts, deadlines and requests.
    #[inline(always)]
    pub fn call_attention(&mut self) {
        self.limit = 0;
        self.attention = true;
    }
    /// Ends the block after the running instruction and looks for interrupts, without involving the machine: IF, TF, NMI
    /// blocking or an interrupt shadow has changed.
    #[inline(always)]
    pub fn look_again(&mut self) {
        self.limit = 0;
        self.recheck = true;
    }
    /// The linear address of the instruction `offset` bytes into the running block, relative to CS.
    #[inline(always)]
    #[must_use]
    pub fn block_ip(&self, offset: u16) -> u64 {
        self.mode.mask_ip(self.rip.wrapping_add(u64::from(offset)))
    }
    /// I/O privilege level.
    #[must_use]
    pub fn iopl(&self) -> u8 {
        (self.system_flags >> 12 & 3) as u8
    }
    /// Protected mode is on (CR0.PE) and the CPU is not in virtual-8086 mode.
    #[must_use]
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0 && self.system_flags & bits::VM == 0
    }
    /// Long mode is active (EFER.LMA), 64-bit or compatibility.
    #[must_use]
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }
    /// Sets a segment register and what hangs on it.
    pub fn set_segment(&mut self, index: usize, segment: Segment) {
        self.segs[index & 7] = segment;
        match index {
            seg::FS => self.gpr[slot::FS as usize] = segment.base,
            seg::GS => self.gpr[slot::GS as usize] = segment.base,
            seg::CS | seg::SS => self.update_mode(),
            _ => {}
        }
    }
    /// Sets the base of FS or GS.
    pub fn set_segment_base(&mut self, index: usize, base: u64) {
        let mut segment = self.segs[index];
        segment.base = base;
        self.set_segment(index, segment);
    }
    /// Recomputes [`Vcpu::mode`] after a change of CR0, CR4, EFER, CS, SS, CPL or RFLAGS.AC/VM.
    pub fn update_mode(&mut self) {
        self.mode = Mode::of(self);
        self.limit = 0;
        let smap = self.cr4 & cr4::SMAP != 0 && self.system_flags & bits::AC == 0;
        let aligned = self.cr0 & cr0::AM != 0 && self.system_flags & bits::AC != 0;
        self.tlb.set_context(match (self.cpl, smap, aligned) {
            (3, _, true) => Context::UserAligned,
            (3, _, false) => Context::User,
            (_, true, _) => Context::SupervisorSmap,
            _ => Context::Supervisor,
        });
    }
    /// Makes a vCPU that was deserialised ready to run: what follows from other state, and is not saved, is made again.
    /// [`Vcpu::drop_caches`] is part of it.
    ///
    /// # Errors
    /// What no vCPU can be.
    pub fn complete(&mut self) -> Result<(), &'static str> {
        if self.cpl > 3 {
            return Err("a privilege level is above 3");
        }
        if self.id >= self.count {
            return Err("a vCPU's number is beyond the last");
        }
        self.gpr[slot::ZERO as usize] = 0;
        for index in [seg::FS, seg::GS] {
            self.set_segment(index, self.segs[index]);
        }
        self.drop_caches();
        Ok(())
    }
    /// Raises a page fault at linear address `address`.
    pub fn page_fault(&mut self, address: u64, code: u16) -> Fault {
        self.fault_address = address;
        Fault::pf(code)
    }
}
