//! The part of a vCPU's state that decoding depends on, packed into the key of decoded blocks.

use crate::flags::bits;
use crate::state::{Vcpu, cr0, cr4, seg, xcr0};

/// Size of code: the default operand and address size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeSize {
    Bits16,
    Bits32,
    Bits64,
}

/// Bits 0-1 code size (0: 16, 1: 32, 2: 64), 2 stack is 32-bit, 3 user (CPL 3), 4 FP and SIMD raise #NM (CR0.TS), 5 x87
/// raises #NM (CR0.EM), 6 SSE enabled (CR4.OSFXSR and not CR0.EM), 7 protected, 8 virtual-8086, 9 WAIT raises #NM and
/// 10 XSAVE enabled (CR4.OSXSAVE) and 11 AVX enabled (CR4.OSXSAVE
/// and XCR0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mode(pub u16);

impl Mode {
    const STACK32: u16 = 1 << 2;
    const USER: u16 = 1 << 3;
    const TASK_SWITCHED: u16 = 1 << 4;
    const EMULATED: u16 = 1 << 5;
    const SSE: u16 = 1 << 6;
    const PROTECTED: u16 = 1 << 7;
    const V86: u16 = 1 << 8;
    const WAIT_TRAPS: u16 = 1 << 9;
    const XSAVE: u16 = 1 << 10;
    const AVX: u16 = 1 << 11;

    /// The mode that the state of `cpu` amounts to.
    #[must_use]
    pub fn of(cpu: &Vcpu) -> Self {
        let cs = &cpu.segs[seg::CS];
        let mut mode = if cpu.long_mode() && cs.long() {
            2
        } else if cs.big() {
            1
        } else {
            0
        };
        let mut put = |bit, on| {
            if on {
                mode |= bit;
            }
        };
        let v86 = cpu.system_flags & bits::VM != 0;
        put(Self::STACK32, cpu.segs[seg::SS].big());
        put(Self::USER, cpu.cpl == 3);
        put(Self::TASK_SWITCHED, cpu.cr0 & cr0::TS != 0);
        put(Self::EMULATED, cpu.cr0 & cr0::EM != 0);
        put(Self::SSE, cpu.cr4 & cr4::OSFXSR != 0 && cpu.cr0 & cr0::EM == 0);
        put(Self::PROTECTED, cpu.cr0 & cr0::PE != 0 && !v86);
        put(Self::V86, v86);
        let xsave = cpu.cr4 & cr4::OSXSAVE != 0;
        let avx = xcr0::SSE | xcr0::AVX;
        put(Self::XSAVE, xsave);
        put(Self::AVX, xsave && cpu.xcr0 & avx == avx);
        put(Self::WAIT_TRAPS, cpu.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS);
        Self(mode)
    }
    /// Code size.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> CodeSize {
        match self.0 & 3 {
            0 => CodeSize::Bits16,
            1 => CodeSize::Bits32,
            _ => CodeSize::Bits64,
        }
    }
    /// 64-bit mode.
    #[inline(always)]
    #[must_use]
    pub const fn is_64(self) -> bool {
        self.0 & 2 != 0
    }
    /// Width of the stack pointer in bits.
    #[must_use]
    pub const fn stack_bits(self) -> u32 {
        if self.is_64() {
            64
        } else if self.0 & Self::STACK32 != 0 {
            32
        } else {
            16
        }
    }
    /// CPL is 3.
    #[must_use]
    pub const fn user(self) -> bool {
        self.0 & Self::USER != 0
    }
    /// CR0.TS: x87, MMX and SSE instructions raise #NM.
    #[must_use]
    pub const fn task_switched(self) -> bool {
        self.0 & Self::TASK_SWITCHED != 0
    }
    /// CR0.EM: x87 instructions raise #NM, MMX and SSE #UD.
    #[must_use]
    pub const fn emulated(self) -> bool {
        self.0 & Self::EMULATED != 0
    }
    /// SSE instructions are enabled (CR4.OSFXSR set, CR0.EM clear).
    #[must_use]
    pub const fn sse(self) -> bool {
        self.0 & Self::SSE != 0
    }
    /// Protected mode, not virtual-8086.
    #[must_use]
    pub const fn protected(self) -> bool {
        self.0 & Self::PROTECTED != 0
    }
    /// Virtual-8086 mode.
    #[must_use]
    pub const fn v86(self) -> bool {
        self.0 & Self::V86 != 0
    }
    /// WAIT raises #NM (CR0.MP and CR0.TS).
    #[must_use]
    pub const fn wait_traps(self) -> bool {
        self.0 & Self::WAIT_TRAPS != 0
    }
    /// The XSAVE feature set is enabled (CR4.OSXSAVE).
    #[must_use]
    pub const fn xsave(self) -> bool {
        self.0 & Self::XSAVE != 0
    }
    /// VEX-encoded vector instructions are enabled (CR4.OSXSAVE, and XCR0 enables SSE and AVX).
    #[must_use]
    pub const fn avx(self) -> bool {
        self.0 & Self::AVX != 0
    }
    /// Truncates an instruction pointer to the code size. (16-bit code may run above 64 KiB only by a 32-bit jump.)
    #[inline(always)]
    #[must_use]
    pub const fn mask_ip(self, ip: u64) -> u64 {
        if self.is_64() { ip } else { ip & 0xffff_ffff }
    }
}
