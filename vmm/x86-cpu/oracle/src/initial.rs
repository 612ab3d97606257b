//! Random states to start from.

use crate::generate::{ALIGNMENT, DIRECTION, RSP};
use crate::rng::Rng;
use crate::state::{CODE, Fpu, STACK, State, Width, selectors};
use crate::values::{Flavour, extended, integer};

/// The flags that may be set at the start of a case: all arithmetic ones, and IF as user code always has it.
const ARITHMETIC: u64 = 0x8d5;
const INTERRUPTS: u64 = 0x202;

pub fn random_mxcsr(rng: &Rng) -> u32 {
    if rng.chance(25) {
        return 0x1f80;
    }
    let masks = if rng.chance(70) { 0x1f80 } else { rng.word() as u32 & 0x1f80 };
    let rounding = rng.word() as u32 & 0x6000;
    let flush = if rng.chance(25) { rng.word() as u32 & 0x8040 } else { 0 };
    let flags = if rng.chance(25) { rng.word() as u32 & 0x3f } else { 0 };
    masks | rounding | flush | flags
}

pub fn random_fpu(rng: &Rng, mmx: bool) -> Fpu {
    let mut masks = if rng.chance(70) { 0x3f } else { rng.word() as u16 & 0x3f };
    let precision = rng.pick(&[0x300, 0x300, 0x300, 0x200, 0]);
    let rounding = rng.word() as u16 & 0xc00;
    // An exception pending is the case of a few only: it would keep every other instruction from running.
    let mut flags = if rng.chance(30) { rng.word() as u16 & masks } else { 0 };
    if rng.chance(4) {
        masks = rng.word() as u16 & 0x3f;
        flags = rng.word() as u16 & 0x3f;
    }
    let pending = if flags & !masks != 0 { 0x8080 } else { 0 };
    let stack_fault = if flags & 1 != 0 && rng.chance(30) { 0x40 } else { 0 };
    let conditions = rng.word() as u16 & 0x4700;
    let top = (rng.below(8) as u16) << 11;
    let tags = match rng.below(10) {
        0..6 => 0xff,
        6 => 0,
        _ => rng.word() as u8,
    };
    let st = std::array::from_fn(|_| {
        if mmx && rng.chance(80) {
            let flavour = Flavour::any(rng);
            let mut data = [0; 8];
            flavour.fill(rng, &mut data);
            0xffff << 64 | u128::from(u64::from_le_bytes(data))
        } else {
            extended(rng)
        }
    });
    Fpu {
        control: 0x40 | masks | precision | rounding,
        status: flags | pending | stack_fault | conditions | top,
        tags,
        st,
    }
}

pub fn random_state(rng: &Rng, width: Width, flavour: Flavour, mmx: bool) -> State {
    let gpr = std::array::from_fn(|_| {
        let bits = rng.pick(&[8, 16, 32, 64]);
        let high = if bits < 64 && rng.chance(60) { rng.word() << bits } else { 0 };
        integer(rng, bits) | high
    });
    let vector = |_| {
        let flavour = if rng.chance(70) { flavour } else { Flavour::any(rng) };
        let mut data = [0; 16];
        flavour.fill(rng, &mut data);
        u128::from_le_bytes(data)
    };
    let xmm = std::array::from_fn(vector);
    let mut rflags = INTERRUPTS | rng.word() & ARITHMETIC;
    rflags |= if rng.chance(20) { DIRECTION } else { 0 };
    rflags |= if rng.chance(4) { ALIGNMENT } else { 0 };
    let bases = match width {
        Width::Bits64 => [0, 0x1000, 0x2000_0000, 0x1_0000_0000, 0x7ffe_0000_0000],
        Width::Bits32 => [0; 5],
    };
    let mut state = State {
        gpr,
        rip: CODE.base + 0x800 + rng.below(0x400),
        rflags,
        fs_base: rng.pick(&bases),
        gs_base: rng.pick(&bases),
        selectors: selectors(width),
        xmm,
        ymm_high: std::array::from_fn(vector),
        mxcsr: random_mxcsr(rng),
        fpu: random_fpu(rng, mmx),
    };
    state.gpr[RSP] =
        STACK.base + 0x800 + rng.below(0x1000) / 8 * 8 + if rng.chance(10) { rng.below(8) } else { 0 };
    state
}
