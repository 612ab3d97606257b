//! Alignment, mode gates, unmasked exceptions, and what else faults.

use super::{cpu, execute, lower};
use crate::decode::Lowered;
use crate::state::{Segment, cr0, cr4, reg, seg};
use crate::test_world::TestWorld;
use crate::{CacheOp, Fault};

const ADDPS: [u8; 3] = [0x0f, 0x58, 0xc1];
const MOVAPS_LOAD: [u8; 3] = [0x0f, 0x28, 0x06];
const MOVUPS_LOAD: [u8; 3] = [0x0f, 0x10, 0x06];
const MOVAPS_STORE: [u8; 3] = [0x0f, 0x29, 0x06];
const PXOR_LOAD: [u8; 4] = [0x66, 0x0f, 0xef, 0x06];
const PADDB_MM: [u8; 3] = [0x0f, 0xfc, 0xc1];
const FXSAVE: [u8; 3] = [0x0f, 0xae, 0x06];
const FXRSTOR: [u8; 3] = [0x0f, 0xae, 0x0e];
const LDMXCSR: [u8; 3] = [0x0f, 0xae, 0x16];
const MFENCE: [u8; 3] = [0x0f, 0xae, 0xf0];

#[test]
fn misaligned_operands_raise_general_protection() {
    let (mut cpu, mut world) = (cpu(), TestWorld::new(4));
    cpu.gpr[reg::RSI] = 0x1008;
    for code in [&MOVAPS_LOAD[..], &MOVAPS_STORE, &PXOR_LOAD, &FXSAVE, &FXRSTOR] {
        assert_eq!(execute(&mut cpu, &mut world, code), Err(Fault::GP0), "{code:x?}");
    }
    world.poke(0x1008, &[7; 16]);
    execute(&mut cpu, &mut world, &MOVUPS_LOAD).unwrap();
    assert_eq!(cpu.xmm[0], u128::from_le_bytes([7; 16]));
}

#[test]
fn control_registers_gate_the_families() {
    let outcome = |cr0_bits: u64, clear_osfxsr: bool, code: &[u8]| {
        let (mut cpu, mut world) = (cpu(), TestWorld::new(4));
        cpu.cr0 |= cr0_bits;
        if clear_osfxsr {
            cpu.cr4 &= !cr4::OSFXSR;
        }
        cpu.update_mode();
        cpu.gpr[reg::RSI] = 0x1000;
        execute(&mut cpu, &mut world, code)
    };
    for code in [&ADDPS[..], &MOVAPS_LOAD, &LDMXCSR] {
        assert_eq!(outcome(0, false, code), Ok(()));
        assert_eq!(outcome(cr0::EM, false, code), Err(Fault::UD));
        assert_eq!(outcome(0, true, code), Err(Fault::UD));
        assert_eq!(outcome(cr0::TS, false, code), Err(Fault::NM));
        assert_eq!(outcome(cr0::TS | cr0::EM, false, code), Err(Fault::UD));
    }
    for code in [&PADDB_MM[..], &FXSAVE] {
        assert_eq!(outcome(0, true, code), Ok(()));
        assert_eq!(outcome(cr0::EM, true, code), Err(Fault::UD));
        assert_eq!(outcome(cr0::TS, true, code), Err(Fault::NM));
    }
    assert_eq!(outcome(cr0::TS | cr0::EM, true, &MFENCE), Ok(()));
}

#[test]
fn mmx_reports_a_pending_x87_exception_first() {
    let (mut cpu, mut world) = (cpu(), TestWorld::new(4));
    cpu.x87.status = 0x3880;
    let before = cpu.x87.clone();
    assert_eq!(execute(&mut cpu, &mut world, &PADDB_MM), Err(Fault::MF));
    assert_eq!(cpu.x87, before);
}

#[test]
fn reserved_mxcsr_bits_fault_and_change_nothing() {
    let (mut cpu, mut world) = (cpu(), TestWorld::new(4));
    cpu.gpr[reg::RSI] = 0x1000;
    world.poke(0x1000, &0x1_1f80_u32.to_le_bytes());
    assert_eq!(execute(&mut cpu, &mut world, &LDMXCSR), Err(Fault::GP0));
    world.poke(0x1018, &0x1_0000_u32.to_le_bytes());
    cpu.xmm[0] = 5;
    assert_eq!(execute(&mut cpu, &mut world, &FXRSTOR), Err(Fault::GP0));
    assert_eq!((cpu.mxcsr, cpu.xmm[0]), (0x1f80, 5));
    world.poke(0x1000, &0xffbf_u32.to_le_bytes());
    execute(&mut cpu, &mut world, &LDMXCSR).unwrap();
    assert_eq!(cpu.mxcsr, 0xffbf);
}

fn singles(lanes: [f32; 4]) -> u128 {
    lanes.iter().rev().fold(0, |v, lane| v << 32 | u128::from(lane.to_bits()))
}

/// MXCSR, instruction, operands, and the flags that a Skylake-SP leaves as the fault is raised.
#[test]
fn unmasked_exceptions_set_the_flags_the_host_sets() {
    const MULPS: [u8; 3] = [0x0f, 0x59, 0xc1];
    const DIVPS: [u8; 3] = [0x0f, 0x5e, 0xc1];
    const HADDPS: [u8; 4] = [0xf2, 0x0f, 0x7c, 0xc1];
    const DPPS: [u8; 6] = [0x66, 0x0f, 0x3a, 0x40, 0xc1, 0xff];
    let signalling = f32::from_bits(0x7fa0_0000);
    let inf = f32::INFINITY;
    let half = [0.5; 4];
    let tiny_odd = f32::from_bits(0x0080_0001);
    let thirds = [3.0, 0.0, 3.0, 3.0];
    let with_nan = [1.0, 1.0, signalling, 1.0];
    let point_one = [1.1, 1.0, 1.0, 1.0];
    for (mxcsr, code, dst, src, flags) in [
        (0x1b80, &MULPS[..], [3e38, 1.0, 1.0, 1.0], [2.0; 4], 0x08),
        (0x1780, &MULPS, [tiny_odd, 1.0, 1.0, 1.0], half, 0x10),
        (0x1780, &MULPS, [f32::MIN_POSITIVE, 1.0, 1.0, 1.0], half, 0x10),
        (0x9780, &MULPS, [f32::MIN_POSITIVE, 1.0, 1.0, 1.0], half, 0x10),
        (0x0f80, &MULPS, [tiny_odd, 1.0, 1.0, 1.0], half, 0x30),
        (0x1e80, &MULPS, [1e-40, tiny_odd, 1.0, 1.0], half, 0x02),
        (0x0f80, &MULPS, [1e-40, tiny_odd, 1.0, 1.0], half, 0x32),
        (0x1d80, &DIVPS, [1.0; 4], thirds, 0x04),
        (0x0f80, &DIVPS, [1.0; 4], thirds, 0x24),
        (0x1d80, &DIVPS, with_nan, thirds, 0x05),
        (0x1f00, &DIVPS, with_nan, thirds, 0x05),
        (0x1b80, &DPPS, [1.1, 1.0, 3.4e38, 3.4e38], point_one, 0x28),
        (0x0f80, &DPPS, [1.1, 1.0, 3.4e38, 3.4e38], point_one, 0x20),
        (0x1f00, &DPPS, [1.1, 1.0, inf, -inf], point_one, 0x21),
        (0x1f00, &HADDPS, [1.1, 1e9, inf, -inf], point_one, 0x01),
    ] {
        for handled in [true, false] {
            let (mut cpu, mut world) = (cpu(), TestWorld::new(4));
            if !handled {
                cpu.cr4 &= !cr4::OSXMMEXCPT;
            }
            cpu.mxcsr = mxcsr;
            (cpu.xmm[0], cpu.xmm[1]) = (singles(dst), singles(src));
            let fault = if handled { Fault::XM } else { Fault::UD };
            assert_eq!(execute(&mut cpu, &mut world, code), Err(fault), "{mxcsr:#x} {code:x?}");
            assert_eq!(cpu.xmm[0], singles(dst));
            assert_eq!(cpu.mxcsr, mxcsr | flags, "{mxcsr:#x} {code:x?} {dst:?}");
        }
    }
}

#[test]
fn masked_moves_write_selected_bytes_only() {
    const MASKMOVDQU: [u8; 4] = [0x66, 0x0f, 0xf7, 0xc1];
    const MASKMOVQ: [u8; 3] = [0x0f, 0xf7, 0xc1];
    let (mut cpu, mut world) = (cpu(), TestWorld::new(4));
    cpu.gpr[reg::RDI] = 0x1ffd;
    cpu.xmm[0] = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
    cpu.xmm[1] = 0x80 << 8 | 0xff << 32;
    execute(&mut cpu, &mut world, &MASKMOVDQU).unwrap();
    assert_eq!(world.peek(0x1ffd, 6), [0, 1, 0, 0, 4, 0]);
    (cpu.x87.regs[0], cpu.x87.regs[1]) = (0x0706_0504_0302_0100, 0x80 << 56);
    execute(&mut cpu, &mut world, &MASKMOVQ).unwrap();
    assert_eq!(world.peek(0x1ffd, 8), [0, 1, 0, 0, 4, 0, 0, 7]);
}

#[test]
fn cache_operations_reach_the_world() {
    let (mut cpu, mut world) = (cpu(), TestWorld::new(4));
    cpu.gpr[reg::RSI] = 0x1234;
    execute(&mut cpu, &mut world, &[0x0f, 0xae, 0x3e]).unwrap();
    execute(&mut cpu, &mut world, &[0x66, 0x0f, 0xae, 0x3e]).unwrap();
    execute(&mut cpu, &mut world, &[0x66, 0x0f, 0xae, 0x36]).unwrap();
    execute(&mut cpu, &mut world, &[0x0f, 0xae, 0xf8]).unwrap();
    execute(&mut cpu, &mut world, &MFENCE).unwrap();
    execute(&mut cpu, &mut world, &[0x0f, 0xae, 0xe8]).unwrap();
    let address = 0x1234;
    assert_eq!(
        world.cache,
        [
            CacheOp::Flush(address),
            CacheOp::FlushWeakly(address),
            CacheOp::CleanWeakly(address),
            CacheOp::Fence,
            CacheOp::Fence
        ]
    );
    // A prefetch of a non-canonical address is nothing; a flush of one faults.
    cpu.gpr[reg::RSI] = 1 << 63;
    execute(&mut cpu, &mut world, &[0x0f, 0x18, 0x0e]).unwrap();
    let fault = execute(&mut cpu, &mut world, &[0x0f, 0xae, 0x3e]).unwrap_err();
    assert_eq!(fault.resolve(false), Fault::GP0);
}

#[test]
fn other_instructions_are_left_to_other_families() {
    for code in [&[0x90][..], &[0x01, 0xc8], &[0xd9, 0xe8]] {
        assert_eq!(lower(code, cpu().mode).1, Lowered::No);
    }
}

/// SDM volume 1, tables 10-2 and 10-3.
#[test]
fn fxsave_keeps_pointers_by_operand_size_and_leaves_the_tail() {
    let (mut cpu, mut world) = (cpu(), TestWorld::new(4));
    cpu.gpr[reg::RSI] = 0x1000;
    world.poke(0x1000, &[0xaa; 512]);
    cpu.x87.instruction_pointer = 0x1234_5678_9abc;
    cpu.x87.data_pointer = 0x0fed_cba9_8765;
    (cpu.x87.instruction_selector, cpu.x87.data_selector) = (0x33, 0x2b);
    cpu.x87.tags = 0xffff;
    execute(&mut cpu, &mut world, &FXSAVE).unwrap();
    assert_eq!(world.peek(0x1004, 2), [0, 0]);
    assert_eq!(world.peek(0x1008, 8), [0xbc, 0x9a, 0x78, 0x56, 0x33, 0, 0, 0]);
    assert_eq!(world.peek(0x1010, 8), [0x65, 0x87, 0xa9, 0xcb, 0x2b, 0, 0, 0]);
    assert_eq!(world.peek(0x11a0, 96), [0xaa; 96]);
    execute(&mut cpu, &mut world, &[0x48, 0x0f, 0xae, 0x06]).unwrap();
    assert_eq!(world.peek(0x1008, 8), 0x1234_5678_9abc_u64.to_le_bytes());
    assert_eq!(world.peek(0x1010, 8), 0x0fed_cba9_8765_u64.to_le_bytes());
    // Outside 64-bit mode only eight XMM registers are written.
    let mut legacy = super::cpu();
    legacy.efer = 0;
    let flat = Segment { selector: 8, base: 0, limit: u32::MAX, attr: 0xc09b };
    legacy.set_segment(seg::CS, flat);
    legacy.set_segment(seg::DS, Segment { attr: 0xc093, ..flat });
    legacy.update_mode();
    legacy.gpr[reg::RSI] = 0x2000;
    world.poke(0x2000, &[0xaa; 512]);
    execute(&mut legacy, &mut world, &FXSAVE).unwrap();
    assert_eq!(world.peek(0x2110, 32), [[0; 16], [0xaa; 16]].concat());
}
