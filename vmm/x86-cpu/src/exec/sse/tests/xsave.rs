//! XCR0, the XSAVE images, and what of them faults.

use super::{cpu, execute};
use crate::state::{Vcpu, X87, cr0, cr4, reg, xcr0};
use crate::test_world::TestWorld;
use crate::{Fault, Mode};

const XGETBV: [u8; 3] = [0x0f, 0x01, 0xd0];
const XSETBV: [u8; 3] = [0x0f, 0x01, 0xd1];
const XSAVE: [u8; 3] = [0x0f, 0xae, 0x26];
const XRSTOR: [u8; 3] = [0x0f, 0xae, 0x2e];
const XSAVEOPT: [u8; 3] = [0x0f, 0xae, 0x36];
const XSAVEC: [u8; 3] = [0x0f, 0xc7, 0x26];
const ALL: [[u8; 3]; 6] = [XGETBV, XSETBV, XSAVE, XRSTOR, XSAVEOPT, XSAVEC];
const IMAGE: u64 = 0x1000;

/// A vCPU with all components enabled and an image at RSI.
fn enabled() -> Vcpu {
    let mut cpu = cpu();
    cpu.cr4 |= cr4::OSXSAVE;
    cpu.xcr0 = xcr0::SUPPORTED;
    cpu.update_mode();
    cpu.gpr[reg::RSI] = IMAGE;
    cpu.gpr[reg::RAX] = u64::MAX;
    cpu.gpr[reg::RDX] = u64::MAX;
    cpu
}

fn word(world: &mut TestWorld, at: u64) -> u64 {
    u64::from_le_bytes(world.peek(IMAGE + at, 8).try_into().unwrap())
}

#[test]
fn control_registers_gate_the_feature_set() {
    let mut world = TestWorld::new(4);
    for code in ALL {
        let mut off = enabled();
        off.cr4 &= !cr4::OSXSAVE;
        off.update_mode();
        assert_eq!(execute(&mut off, &mut world, &code), Err(Fault::UD), "{code:x?}");
    }
    for code in [XSAVE, XRSTOR, XSAVEOPT, XSAVEC] {
        let mut switched = enabled();
        switched.cr0 |= cr0::TS;
        switched.update_mode();
        assert_eq!(execute(&mut switched, &mut world, &code), Err(Fault::NM), "{code:x?}");
        let mut emulated = enabled();
        emulated.cr0 |= cr0::EM;
        emulated.update_mode();
        assert_eq!(execute(&mut emulated, &mut world, &code), Ok(()), "{code:x?}");
        let mut misaligned = enabled();
        misaligned.gpr[reg::RSI] = IMAGE + 32;
        assert_eq!(execute(&mut misaligned, &mut world, &code), Err(Fault::GP0), "{code:x?}");
    }
}

#[test]
fn xcr0_takes_valid_values_only() {
    let mut world = TestWorld::new(4);
    let set = |world: &mut TestWorld, cpl: u8, index: u64, value: u64| {
        let mut cpu = enabled();
        cpu.cpl = cpl;
        (cpu.gpr[reg::RCX], cpu.gpr[reg::RAX], cpu.gpr[reg::RDX]) = (index, value & 0xffff_ffff, value >> 32);
        execute(&mut cpu, world, &XSETBV).map(|()| cpu.xcr0)
    };
    assert_eq!(set(&mut world, 0, 0, 1), Ok(1));
    assert_eq!(set(&mut world, 0, 1 << 32, 3), Ok(3));
    for (cpl, index, value) in
        [(3, 0, 3), (0, 1, 3), (0, 0, 0), (0, 0, 2), (0, 0, 5), (0, 0, 0x203), (0, 0, 1 << 62 | 3)]
    {
        assert_eq!(set(&mut world, cpl, index, value), Err(Fault::GP0), "{cpl} {index} {value:#x}");
    }
}

#[test]
fn xgetbv_tells_what_is_enabled_and_in_use() {
    let (mut cpu, mut world) = (enabled(), TestWorld::new(4));
    cpu.x87 = X87::initial();
    let mut get = |cpu: &mut Vcpu, index| {
        cpu.gpr[reg::RCX] = index;
        execute(cpu, &mut world, &XGETBV).map(|()| cpu.gpr[reg::RDX] << 32 | cpu.gpr[reg::RAX])
    };
    assert_eq!(get(&mut cpu, 0), Ok(xcr0::SUPPORTED));
    assert_eq!(get(&mut cpu, 1), Ok(0));
    cpu.xmm[15] = 1;
    assert_eq!(get(&mut cpu, 1), Ok(xcr0::SSE));
    cpu.x87.control = 0x27f;
    assert_eq!(get(&mut cpu, 1), Ok(xcr0::SSE | xcr0::X87));
    assert_eq!(get(&mut cpu, 2), Err(Fault::GP0));
}

#[test]
fn state_in_its_initial_configuration_is_left_out_and_comes_back() {
    let mut world = TestWorld::new(4);
    for (code, compacted) in [(XSAVEOPT, false), (XSAVEC, true)] {
        let mut cpu = enabled();
        cpu.x87 = X87::initial();
        cpu.xmm[3] = 0x55;
        world.poke(IMAGE, &[0xaa; 512]);
        world.poke(IMAGE + 512, &[0; 64]);
        execute(&mut cpu, &mut world, &code).unwrap();
        assert_eq!(world.peek(IMAGE, 24), [0xaa; 24], "the x87 is not written");
        assert_eq!(world.peek(IMAGE + 160 + 48, 1), [0x55]);
        assert_eq!(word(&mut world, 512), xcr0::SSE);
        assert_eq!(word(&mut world, 520), if compacted { 1 << 63 | xcr0::SUPPORTED } else { 0 });
        let mut other = enabled();
        other.x87.control = 0x40;
        other.xmm[3] = 1;
        execute(&mut other, &mut world, &XRSTOR).unwrap();
        assert_eq!((other.x87, other.xmm[3]), (X87::initial(), 0x55));
    }
}

#[test]
fn the_compacted_form_initialises_mxcsr_with_sse() {
    let (mut cpu, mut world) = (enabled(), TestWorld::new(4));
    world.poke(IMAGE + 520, &(1_u64 << 63 | 3).to_le_bytes());
    (cpu.mxcsr, cpu.xmm[0]) = (0x9fc0, 7);
    cpu.gpr[reg::RAX] = xcr0::X87;
    execute(&mut cpu, &mut world, &XRSTOR).unwrap();
    assert_eq!((cpu.mxcsr, cpu.xmm[0]), (0x9fc0, 7), "not requested");
    cpu.gpr[reg::RAX] = xcr0::SSE;
    execute(&mut cpu, &mut world, &XRSTOR).unwrap();
    assert_eq!((cpu.mxcsr, cpu.xmm[0]), (0x1f80, 0));
    // With SSE in its initial configuration but for MXCSR, XSAVEC saves it.
    cpu.mxcsr = 0x1f00;
    execute(&mut cpu, &mut world, &XSAVEC).unwrap();
    assert_eq!(word(&mut world, 512) & xcr0::SSE, xcr0::SSE);
    assert_eq!(world.peek(IMAGE + 24, 2), [0, 0x1f]);
}

#[test]
fn invalid_headers_and_reserved_mxcsr_bits_fault_and_change_nothing() {
    let mut world = TestWorld::new(4);
    // Offset in the header, and value.
    for (compacted, at, value) in [
        (false, 0, 1_u64 << 9),
        (false, 8, 1),
        (false, 16, 1),
        (true, 0, 1 << 9),
        (true, 8, 1 << 63 | 1 << 9),
        (true, 16, 1),
        (true, 56, 1 << 63),
        // XSTATE_BV with a component that XCOMP_BV does not have.
        (true, 8, 1 << 63 | 1),
    ] {
        let mut cpu = enabled();
        world.poke(IMAGE + 512, &[0; 64]);
        world.poke(IMAGE + 512, &[3]);
        if compacted {
            world.poke(IMAGE + 520, &(1_u64 << 63 | 3).to_le_bytes());
        }
        let old = word(&mut world, 512 + at);
        world.poke(IMAGE + 512 + at, &(if at == 0 { old | value } else { value }).to_le_bytes());
        cpu.xmm[1] = 9;
        assert_eq!(execute(&mut cpu, &mut world, &XRSTOR), Err(Fault::GP0), "{compacted} {at} {value:#x}");
        assert_eq!(cpu.xmm[1], 9);
    }
    world.poke(IMAGE + 512, &[0; 64]);
    world.poke(IMAGE + 24, &0x1_0000_u32.to_le_bytes());
    let mut cpu = enabled();
    assert_eq!(execute(&mut cpu, &mut world, &XRSTOR), Err(Fault::GP0));
    cpu.gpr[reg::RAX] = xcr0::X87;
    assert_eq!(execute(&mut cpu, &mut world, &XRSTOR), Ok(()), "MXCSR is not loaded");
    // In the header's last 40 bytes the standard form ignores what it finds.
    world.poke(IMAGE + 512 + 24, &[0xff; 40]);
    assert_eq!(execute(&mut cpu, &mut world, &XRSTOR), Ok(()));
}

#[test]
fn init_keeps_the_state_that_reset_clears() {
    let mut cpu = enabled();
    (cpu.xmm[2], cpu.mxcsr, cpu.count) = (5, 0x1fa0, 4);
    cpu.init();
    assert_eq!((cpu.xcr0, cpu.xmm[2], cpu.mxcsr, cpu.count), (xcr0::SUPPORTED, 5, 0x1fa0, 4));
    assert_eq!((cpu.cr4, cpu.mode), (0, Mode::of(&Vcpu::new(0))));
    assert_eq!(Vcpu::new(0).xcr0, xcr0::X87);
}

#[test]
fn cpuid_describes_the_images() {
    let mut cpu = enabled();
    assert_eq!(cpu.cpuid(1, 0)[2] >> 26 & 3, 3);
    let [components, size, max, high] = cpu.cpuid(0xd, 0);
    assert_eq!((u64::from(components), high, size), (xcr0::SUPPORTED, 0, max));
    assert_eq!(cpu.cpuid(0xd, 1)[0], 7);
    cpu.xcr0 = xcr0::X87;
    assert_eq!(cpu.cpuid(0xd, 0)[1], 576);
    cpu.cr4 = 0;
    assert_eq!(cpu.cpuid(1, 0)[2] >> 26 & 3, 1);
}
