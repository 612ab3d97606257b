//! What VEX adds to the rules: gates, upper halves, alignment, masks and gathers that go on after a fault. (What the
//! operations compute is compared with the host.)

use super::{cpu, execute};
use crate::Fault;
use crate::decode::lower;
use crate::state::{Vcpu, cr0, cr4, reg, xcr0};
use crate::test_world::TestWorld;
use crate::{Mode, Op};
use iced_x86::{Decoder, DecoderOptions};

const VADDPS_YMM: [u8; 4] = [0xc5, 0xec, 0x58, 0xcb]; // ymm1, ymm2, ymm3
const VADDPS_XMM: [u8; 4] = [0xc5, 0xe8, 0x58, 0xcb];
const VMOVAPS_LOAD: [u8; 4] = [0xc5, 0xfc, 0x28, 0x06]; // ymm0, [rsi]
const VMOVAPS_STORE: [u8; 4] = [0xc5, 0xfc, 0x29, 0x06];
const VMOVUPS_STORE: [u8; 4] = [0xc5, 0xfc, 0x11, 0x06];
const VPXOR_LOAD: [u8; 4] = [0xc5, 0xed, 0xef, 0x06]; // ymm0, ymm2, [rsi]
const VZEROUPPER: [u8; 3] = [0xc5, 0xf8, 0x77];
const VZEROALL: [u8; 3] = [0xc5, 0xfc, 0x77];
const VLDMXCSR: [u8; 4] = [0xc5, 0xf8, 0xae, 0x16];

fn enabled() -> Vcpu {
    let mut cpu = cpu();
    cpu.cr4 |= cr4::OSXSAVE;
    cpu.xcr0 = xcr0::SUPPORTED;
    cpu.update_mode();
    cpu.gpr[reg::RSI] = 0x1000;
    cpu
}

#[test]
fn xcr0_and_cr4_gate_vectors_with_a_vex_prefix() {
    let mut world = TestWorld::new(4);
    let mut outcome = |change: fn(&mut Vcpu), code: &[u8]| {
        let mut cpu = enabled();
        change(&mut cpu);
        cpu.update_mode();
        execute(&mut cpu, &mut world, code)
    };
    for code in [&VADDPS_YMM[..], &VADDPS_XMM, &VMOVAPS_LOAD, &VZEROUPPER] {
        assert_eq!(outcome(|_| (), code), Ok(()), "{code:x?}");
        assert_eq!(outcome(|cpu| cpu.cr4 &= !cr4::OSXSAVE, code), Err(Fault::UD));
        assert_eq!(outcome(|cpu| cpu.xcr0 = xcr0::X87 | xcr0::SSE, code), Err(Fault::UD));
        assert_eq!(outcome(|cpu| cpu.cr0 |= cr0::TS, code), Err(Fault::NM));
        // Neither CR0.EM nor CR4.OSFXSR counts.
        assert_eq!(outcome(|cpu| cpu.cr0 |= cr0::EM, code), Ok(()));
        assert_eq!(outcome(|cpu| cpu.cr4 &= !cr4::OSFXSR, code), Ok(()));
    }
    assert_eq!(outcome(|cpu| cpu.cr4 &= !cr4::OSXSAVE, &VLDMXCSR), Err(Fault::UD));
}

/// In real and virtual-8086 mode C4 and C5 with a register are no VEX prefix (SDM volume 2, 2.3.5).
#[test]
fn vex_is_undefined_outside_protected_mode() {
    let mut world = TestWorld::new(4);
    let andn = [0xc4, 0xe2, 0x70, 0xf2, 0xc2];
    for code in [&andn[..], &VADDPS_XMM, &VZEROUPPER] {
        let mut cpu = Vcpu::new(0);
        cpu.cr4 |= cr4::OSXSAVE;
        cpu.xcr0 = xcr0::SUPPORTED;
        cpu.update_mode();
        assert_eq!(cpu.mode, Mode::of(&cpu));
        let instruction = Decoder::new(16, code, DecoderOptions::NONE).decode();
        let mut op = Op::new(crate::decode::not_available, 0, code.len() as u8);
        lower(&instruction, cpu.mode, &mut op);
        assert_eq!((op.run)(&mut cpu, &mut world, &op), Err(Fault::UD), "{code:x?}");
    }
}

#[test]
fn narrow_results_clear_the_upper_half_and_legacy_ones_keep_it() {
    let (mut cpu, mut world) = (enabled(), TestWorld::new(4));
    cpu.ymm_high = [7; 16];
    execute(&mut cpu, &mut world, &[0x0f, 0x58, 0xcb]).unwrap();
    assert_eq!(cpu.ymm_high[1], 7);
    execute(&mut cpu, &mut world, &VADDPS_XMM).unwrap();
    assert_eq!((cpu.ymm_high[1], cpu.ymm_high[2]), (0, 7));
    cpu.xmm = [5; 16];
    execute(&mut cpu, &mut world, &VZEROUPPER).unwrap();
    assert_eq!((cpu.xmm, cpu.ymm_high), ([5; 16], [0; 16]));
    execute(&mut cpu, &mut world, &VZEROALL).unwrap();
    assert_eq!(cpu.xmm, [0; 16]);
}

#[test]
fn only_aligned_moves_need_alignment() {
    let mut world = TestWorld::new(4);
    for (code, at, expected) in [
        (&VMOVAPS_LOAD[..], 0x1010, Err(Fault::GP0)),
        (&VMOVAPS_STORE, 0x1010, Err(Fault::GP0)),
        (&VMOVAPS_STORE, 0x1020, Ok(())),
        (&VMOVUPS_STORE, 0x1ff1, Ok(())),
        (&VPXOR_LOAD, 0x1ff1, Ok(())),
    ] {
        let mut cpu = enabled();
        cpu.gpr[reg::RSI] = at;
        assert_eq!(execute(&mut cpu, &mut world, code), expected, "{code:x?} {at:#x}");
    }
    let mut cpu = enabled();
    cpu.gpr[reg::RSI] = 0x2ff9;
    (cpu.xmm[0], cpu.ymm_high[0]) = (u128::MAX, 3);
    execute(&mut cpu, &mut world, &VMOVUPS_STORE).unwrap();
    assert_eq!(world.peek(0x2ff8, 19), [&[0][..], &[0xff; 16], &[3, 0]].concat());
}

#[test]
fn elements_that_a_mask_leaves_out_are_not_accessed() {
    let (mut cpu, mut world) = (enabled(), TestWorld::new(4));
    // vpmaskmovd ymm0, ymm2, [rsi] and vpmaskmovd [rsi], ymm2, ymm0.
    let (load, store) = ([0xc4, 0xe2, 0x6d, 0x8c, 0x06], [0xc4, 0xe2, 0x6d, 0x8e, 0x06]);
    // Not canonical.
    cpu.gpr[reg::RSI] = 1 << 47;
    cpu.xmm[0] = 9;
    execute(&mut cpu, &mut world, &store).unwrap();
    execute(&mut cpu, &mut world, &load).unwrap();
    assert_eq!(cpu.xmm[0], 0);
    cpu.ymm_high[2] = 1 << 63;
    assert_eq!(execute(&mut cpu, &mut world, &load).unwrap_err().resolve(false), Fault::GP0);
    cpu.gpr[reg::RSI] = 0x1000;
    world.poke(0x1014, &[0x11, 0x22, 0x33, 0x44]);
    execute(&mut cpu, &mut world, &load).unwrap();
    assert_eq!((cpu.xmm[0], cpu.ymm_high[0]), (0, 0x4433_2211 << 32));
}

#[test]
fn a_gather_keeps_what_it_had_when_it_faults() {
    let (mut cpu, mut world) = (enabled(), TestWorld::new(4));
    // vpgatherqq ymm0, [rsi + ymm1], ymm2
    let gather = [0xc4, 0xe2, 0xed, 0x91, 0x04, 0x0e];
    for (at, value) in [(0x1000, 0x11_u64), (0x1008, 0x22)] {
        world.poke(at, &value.to_le_bytes());
    }
    (cpu.xmm[0], cpu.ymm_high[0]) = (u128::MAX, u128::MAX);
    cpu.xmm[1] = 8 << 64;
    cpu.ymm_high[1] = 1 << 62;
    (cpu.xmm[2], cpu.ymm_high[2]) = (1 << 127 | 1 << 63, 1 << 63);
    assert_eq!(execute(&mut cpu, &mut world, &gather).unwrap_err().resolve(false), Fault::GP0);
    assert_eq!((cpu.xmm[0], cpu.xmm[2]), (0x22 << 64 | 0x11, 0));
    assert_eq!((cpu.ymm_high[0], cpu.ymm_high[2]), (u128::MAX, 1 << 63));
    // The element that faulted is corrected; those done are not loaded again.
    cpu.ymm_high[1] = 8;
    world.poke(0x1000, &[0xff]);
    execute(&mut cpu, &mut world, &gather).unwrap();
    assert_eq!((cpu.xmm[0], cpu.ymm_high[0]), (0x22 << 64 | 0x11, u128::MAX << 64 | 0x22));
    assert_eq!((cpu.xmm[2], cpu.ymm_high[2]), (0, 0));
}

/// Operands whose product needs all of its bits (IEEE 754-2019, 5.4.1, fusedMultiplyAdd).
#[test]
fn fused_operations_round_once() {
    let (mut cpu, mut world) = (enabled(), TestWorld::new(4));
    // vfmadd213sd xmm0, xmm1, xmm2: xmm0 = xmm1 * xmm0 + xmm2
    let fused = [0xc4, 0xe2, 0xf1, 0xa9, 0xc2];
    let mut run = |mxcsr: u32, a: f64, b: f64, c: f64| {
        cpu.mxcsr = mxcsr;
        [cpu.xmm[0], cpu.xmm[1], cpu.xmm[2]] = [a, b, c].map(|value| u128::from(value.to_bits()));
        execute(&mut cpu, &mut world, &fused).unwrap();
        (f64::from_bits(cpu.xmm[0] as u64), cpu.mxcsr & 0x3f)
    };
    let ulp = f64::EPSILON;
    // (1 + u)(1 - u) - 1 = -u^2, which two roundings lose.
    assert_eq!(run(0x1f80, 1.0 + ulp, 1.0 - ulp, -1.0), (-ulp * ulp, 0));
    assert_eq!(run(0x1f80, f64::MAX, 2.0, f64::NEG_INFINITY), (f64::NEG_INFINITY, 0));
    assert_eq!(run(0x1f80, f64::MAX, 2.0, -f64::MAX), (f64::MAX, 0));
    assert_eq!(run(0x1f80, f64::MAX, 2.0, 0.0), (f64::INFINITY, 0x28));
    assert_eq!(run(0x7f80, f64::MAX, 2.0, 0.0), (f64::MAX, 0x28), "to zero");
    assert_eq!(run(0x1f80, 5e-324, 0.5, 0.0), (0.0, 0x32), "half of the least denormal");
    assert_eq!(run(0x5f80, 5e-324, 0.5, 0.0), (5e-324, 0x32), "upwards");
    assert_eq!(run(0x1f80, 2.0, 3.0, -6.0).0.to_bits(), 0);
    assert_eq!(run(0x3f80, 2.0, 3.0, -6.0).0.to_bits(), 1 << 63, "downwards");
    let (nan, flags) = run(0x1f80, f64::INFINITY, 0.0, 1.0);
    assert!(nan.is_nan() && flags == 1);
}
