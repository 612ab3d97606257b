//! The user-visible state of a CPU and the memory it runs in, as both sides of the comparison see them.

use std::ops::Range;

pub const PAGE: usize = 4096;

/// A range of mapped user memory; everything around it is unmapped.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    pub base: u64,
    pub pages: usize,
    pub write: bool,
    pub execute: bool,
    /// First page in the memory image.
    pub first: usize,
}

impl Region {
    pub const fn end(&self) -> u64 {
        self.base + (self.pages * PAGE) as u64
    }
}

pub const CODE: Region = Region { base: 0x1000_0000, pages: 2, write: false, execute: true, first: 0 };
pub const DATA: Region = Region { base: 0x2000_0000, pages: 2, write: true, execute: false, first: 2 };
pub const READ_ONLY: Region = Region { base: 0x2100_0000, pages: 1, write: false, execute: false, first: 4 };
pub const STACK: Region = Region { base: 0x3000_0000, pages: 2, write: true, execute: false, first: 5 };
/// Writable up to [`WALL`].
pub const FENCE: Region = Region { base: 0x2200_0000, pages: 1, write: true, execute: false, first: 7 };
/// Follows [`FENCE`], and can only be read.
pub const WALL: Region = Region { base: FENCE.end(), pages: 1, write: false, execute: false, first: 8 };
/// Code that may change itself.
pub const PATCH: Region = Region { base: 0x2300_0000, pages: 1, write: true, execute: true, first: 9 };
/// By address.
pub const REGIONS: [Region; 7] = [CODE, DATA, READ_ONLY, FENCE, WALL, PATCH, STACK];
/// Pages of all regions.
pub const PAGES: usize = 10;

/// Where `len` bytes at `address` lie in the memory image, if they are mapped.
pub fn locate(address: u64, len: usize) -> Option<Range<usize>> {
    REGIONS.iter().find_map(|region| {
        let inside = address >= region.base && address.checked_add(len as u64)? <= region.end();
        inside.then(|| {
            let start = region.first * PAGE + (address - region.base) as usize;
            start..start + len
        })
    })
}

/// The address of offset `at` of the memory image.
pub fn address_of(at: usize) -> u64 {
    REGIONS
        .iter()
        .find(|region| at / PAGE >= region.first && at / PAGE < region.first + region.pages)
        .map_or(0, |region| region.base + (at - region.first * PAGE) as u64)
}

/// x87 state in the form of FXSAVE: registers relative to the top of the stack, one tag bit each by physical number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fpu {
    pub control: u16,
    pub status: u16,
    /// Bit n set: physical register n is not empty.
    pub tags: u8,
    /// ST(0)-ST(7), low 80 bits.
    pub st: [u128; 8],
}

impl Fpu {
    pub fn top(&self) -> usize {
        usize::from(self.status >> 11 & 7)
    }
    /// Physical register `number`, 0-7.
    pub fn physical(&self, number: usize) -> u128 {
        self.st[(number + 8 - self.top()) & 7]
    }
}

/// Width of the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Compatibility mode with 32-bit code.
    Bits32,
    Bits64,
}

impl Width {
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }
}

/// Selectors as Linux gives them to a program of a width: ES, CS, SS, DS, FS, GS.
pub const fn selectors(width: Width) -> [u16; 6] {
    match width {
        Width::Bits64 => [0, USER_CS64, USER_DS, 0, 0, 0],
        Width::Bits32 => [USER_DS, USER_CS32, USER_DS, USER_DS, 0, 0],
    }
}

pub const USER_CS32: u16 = 0x23;
pub const USER_DS: u16 = 0x2b;
pub const USER_CS64: u16 = 0x33;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
    pub xmm: [u128; 16],
    /// Bits 128-255 of the YMM registers.
    pub ymm_high: [u128; 16],
    pub mxcsr: u32,
    pub fpu: Fpu,
}

const TAG: usize = 4;
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;

impl State {
    /// The FXSAVE image (SDM volume 1, 10.5.1; 64-bit format) of the vector and x87 state.
    pub fn to_fxsave(&self) -> [u8; 512] {
        let mut image = [0; 512];
        image[..2].copy_from_slice(&self.fpu.control.to_le_bytes());
        image[2..4].copy_from_slice(&self.fpu.status.to_le_bytes());
        image[TAG] = self.fpu.tags;
        image[MXCSR..MXCSR + 4].copy_from_slice(&self.mxcsr.to_le_bytes());
        image[MXCSR + 4..MXCSR + 8].copy_from_slice(&0xffff_u32.to_le_bytes());
        for (slot, value) in image[ST..XMM].chunks_exact_mut(16).zip(self.fpu.st) {
            slot[..10].copy_from_slice(&value.to_le_bytes()[..10]);
        }
        for (slot, value) in image[XMM..XMM + 256].chunks_exact_mut(16).zip(self.xmm) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        image
    }

    /// Writes vector and x87 state over a standard XSAVE image (SDM volume 1, 13.4).
    pub fn put_xsave(&self, image: &mut [u8]) {
        image[..512].copy_from_slice(&self.to_fxsave());
        image[HEADER] |= 3;
        // A processor without AVX has a smaller image.
        if image.len() >= XSAVE_SIZE {
            image[HEADER] |= 4;
            for (slot, value) in image[YMM..XSAVE_SIZE].chunks_exact_mut(16).zip(self.ymm_high) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Takes vector and x87 state from a standard XSAVE image.
    pub fn take_xsave(&mut self, image: &[u8]) {
        let mut legacy = [0; 512];
        legacy.copy_from_slice(&image[..512]);
        self.set_fxsave(&legacy);
        let upper = image.get(YMM..XSAVE_SIZE).unwrap_or_default();
        for (slot, value) in upper.chunks_exact(16).zip(&mut self.ymm_high) {
            *value = slot.iter().rev().fold(0, |value, byte| value << 8 | u128::from(*byte));
        }
    }

    /// Takes vector and x87 state from an FXSAVE image.
    fn set_fxsave(&mut self, image: &[u8; 512]) {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let wide = |at: usize, len: usize| {
            let mut bytes = [0; 16];
            bytes[..len].copy_from_slice(&image[at..at + len]);
            u128::from_le_bytes(bytes)
        };
        self.fpu.control = word(0);
        self.fpu.status = word(2);
        self.fpu.tags = image[TAG];
        self.mxcsr = u32::from(word(MXCSR)) | u32::from(word(MXCSR + 2)) << 16;
        self.fpu.st = std::array::from_fn(|i| wide(ST + i * 16, 10));
        self.xmm = std::array::from_fn(|i| wide(XMM + i * 16, 16));
    }
}

/// Size in bytes of the XSAVE images in use: the FXSAVE image, the header, and the upper halves of the YMM registers.
pub const XSAVE_SIZE: usize = YMM + 256;
/// Offset of the header in an XSAVE image.
pub const HEADER: usize = 512;
/// Offset of the upper halves of the YMM registers in a standard XSAVE image.
const YMM: usize = HEADER + 64;

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All instructions were executed.
    Completed,
    /// An exception, with the address of a page fault.
    Fault { vector: u8, address: Option<u64> },
}
