//! Faults: exceptions and other reasons for an instruction not to complete, packed into a register.

use std::fmt;
use std::num::NonZeroU32;

/// Why an instruction did not complete: an exception vector with its error code, or [`Fault::RESTART`].
///
/// Packed so that `Result<(), Fault>` travels in one register: bits 0-7 vector, bit 8 error code present, bit 9 always
/// set, bit 10 "not canonical", bit 11 restart, bits 16-31 error code. The address of a page fault is in
/// [`crate::Vcpu::fault_address`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fault(NonZeroU32);

const PRESENT: u32 = 1 << 9;
const HAS_CODE: u32 = 1 << 8;
const NON_CANONICAL: u32 = 1 << 10;
const RESTART: u32 = 1 << 11;

impl Fault {
    /// Divide error.
    pub const DE: Self = Self::plain(0);
    /// Debug.
    pub const DB: Self = Self::plain(1);
    /// Breakpoint.
    pub const BP: Self = Self::plain(3);
    /// Overflow.
    pub const OF: Self = Self::plain(4);
    /// BOUND range exceeded.
    pub const BR: Self = Self::plain(5);
    /// Invalid opcode.
    pub const UD: Self = Self::plain(6);
    /// Device not available.
    pub const NM: Self = Self::plain(7);
    /// Double fault (error code 0).
    pub const DF: Self = Self::coded(8, 0);
    /// General protection with error code 0.
    pub const GP0: Self = Self::coded(13, 0);
    /// Stack fault with error code 0.
    pub const SS0: Self = Self::coded(12, 0);
    /// x87 floating-point error.
    pub const MF: Self = Self::plain(16);
    /// Alignment check (error code 0).
    pub const AC: Self = Self::coded(17, 0);
    /// SIMD floating-point exception.
    pub const XM: Self = Self::plain(19);
    /// A memory operand was not canonical: #SS(0) through the stack segment, else #GP(0). Resolved before delivery.
    pub const NON_CANONICAL: Self = Self::raw(13 | HAS_CODE | NON_CANONICAL);
    /// Not an exception: an instruction of unbounded length (REP) made progress and is to be executed again.
    pub const RESTART: Self = Self::raw(RESTART);

    const fn raw(bits: u32) -> Self {
        match NonZeroU32::new(bits | PRESENT) {
            Some(value) => Self(value),
            None => unreachable!(),
        }
    }
    const fn plain(vector: u8) -> Self {
        Self::raw(vector as u32)
    }
    const fn coded(vector: u8, code: u16) -> Self {
        Self::raw(vector as u32 | HAS_CODE | (code as u32) << 16)
    }
    /// Invalid TSS.
    #[must_use]
    pub const fn ts(code: u16) -> Self {
        Self::coded(10, code)
    }
    /// Segment not present.
    #[must_use]
    pub const fn np(code: u16) -> Self {
        Self::coded(11, code)
    }
    /// Stack fault.
    #[must_use]
    pub const fn ss(code: u16) -> Self {
        Self::coded(12, code)
    }
    /// General protection.
    #[must_use]
    pub const fn gp(code: u16) -> Self {
        Self::coded(13, code)
    }
    /// Page fault; the address goes to [`crate::Vcpu::fault_address`].
    #[must_use]
    pub const fn pf(code: u16) -> Self {
        Self::coded(14, code)
    }
    /// Vector 0-31.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0.get() as u8
    }
    /// Error code, where the vector has one.
    #[must_use]
    pub const fn error_code(self) -> Option<u16> {
        if self.0.get() & HAS_CODE == 0 { None } else { Some((self.0.get() >> 16) as u16) }
    }
    /// Whether this is [`Fault::RESTART`].
    #[must_use]
    pub const fn is_restart(self) -> bool {
        self.0.get() & RESTART != 0
    }
    /// The exception to deliver, given whether the faulting operand went through the stack segment.
    #[must_use]
    pub const fn resolve(self, stack: bool) -> Self {
        if self.0.get() & NON_CANONICAL == 0 {
            self
        } else if stack {
            Self::SS0
        } else {
            Self::GP0
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error_code() {
            Some(code) => write!(f, "Fault({}, {code:#x})", self.vector()),
            None if self.is_restart() => write!(f, "Fault(restart)"),
            None => write!(f, "Fault({})", self.vector()),
        }
    }
}
