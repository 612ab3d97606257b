//! Tests of the execution loop: counts, budgets, links and self-modifying code.

use crate::flags::bits;
use crate::state::{Activity, Segment, Vcpu, efer, reg, seg};
use crate::test_world::TestWorld;
use crate::{CodeCache, Exit, SharedCode, run};
use std::sync::Arc;

pub(crate) const CODE: u64 = 0x4000;

/// A vCPU in 64-bit mode at CPL 0 with the first 2 MiB mapped onto themselves, about to execute `code`.
pub(crate) fn prepare(code: &[u8]) -> (Vcpu, TestWorld) {
    let mut world = TestWorld::new(512);
    world.poke(0x1000, &0x2003_u64.to_le_bytes());
    world.poke(0x2000, &0x3003_u64.to_le_bytes());
    world.poke(0x3000, &0x83_u64.to_le_bytes());
    world.poke(CODE, code);
    let mut cpu = Vcpu::new(0);
    cpu.cr3 = 0x1000;
    cpu.cr4 = crate::state::cr4::PAE;
    cpu.cr0 = 0x8000_0011;
    cpu.efer = efer::LME | efer::LMA;
    cpu.set_segment(seg::CS, Segment { selector: 8, base: 0, limit: u32::MAX, attr: 0xa09b });
    cpu.set_segment(seg::SS, Segment { selector: 16, base: 0, limit: u32::MAX, attr: 0xc093 });
    cpu.rip = CODE;
    cpu.gpr[reg::RSP] = 0x10000;
    (cpu, world)
}

/// As [`prepare`], with a code cache.
pub(crate) fn machine(code: &[u8]) -> (Vcpu, TestWorld, CodeCache<TestWorld>) {
    let (cpu, world) = prepare(code);
    (cpu, world, CodeCache::default())
}

/// Adds the numbers from RCX down to 1 into RAX, then stops at a loop on itself.
const SUM: [u8; 10] = [0x48, 0x01, 0xc8, 0x48, 0xff, 0xc9, 0x75, 0xf8, 0xeb, 0xfe];

#[test]
fn a_loop_computes_and_counts_exactly() {
    let (mut cpu, mut world, mut code) = machine(&SUM);
    cpu.gpr[reg::RCX] = 100;
    let (exit, clock) = run(&mut cpu, &mut world, &mut code, 0, 300);
    assert_eq!((exit, clock), (Exit::Deadline, 300));
    assert_eq!(cpu.gpr[reg::RAX], 5050);
    assert_eq!(cpu.rip, CODE + 8);
}

#[test]
fn the_clock_stops_at_any_instruction_with_the_same_state() {
    let (mut whole, mut world, mut code) = machine(&SUM);
    whole.gpr[reg::RCX] = 20;
    run(&mut whole, &mut world, &mut code, 0, 50);
    let (mut steps, mut world, mut code) = machine(&SUM);
    steps.gpr[reg::RCX] = 20;
    for clock in 0..50 {
        assert_eq!(run(&mut steps, &mut world, &mut code, clock, clock + 1), (Exit::Deadline, clock + 1));
    }
    assert_eq!(whole.gpr[..17], steps.gpr[..17]);
    assert_eq!((whole.rip, whole.rflags()), (steps.rip, steps.rflags()));
}

#[test]
fn a_halt_stops_before_code_that_is_known() {
    // jmp 3 ; 2: hlt ; 3: inc eax ; jmp 2
    let (mut cpu, mut world, mut code) = machine(&[0xeb, 0x01, 0xf4, 0xff, 0xc0, 0xeb, 0xfb]);
    assert_eq!(run(&mut cpu, &mut world, &mut code, 0, 100), (Exit::Halted, 4));
    assert_eq!((cpu.gpr[reg::RAX], cpu.rip), (1, CODE + 3));
}

#[test]
fn what_another_machine_has_decoded_is_used_for_the_same_bytes_only() {
    // mov eax, 1 ; jmp $ ; and what follows
    let one = [0xb8, 1, 0, 0, 0, 0xeb, 0xfe, 0x90];
    let two = [0xb8, 2, 0, 0, 0, 0xeb, 0xfe, 0x90];
    let other_end = [0xb8, 1, 0, 0, 0, 0xeb, 0xfe, 0xcc];
    let shared = Arc::new(SharedCode::default());
    for (bytes, expected) in [(one, 1), (two, 2), (one, 1), (other_end, 1), (two, 2)] {
        let (mut cpu, mut world) = prepare(&bytes);
        let mut code = CodeCache::sharing(Arc::clone(&shared));
        assert_eq!(run(&mut cpu, &mut world, &mut code, 0, 5), (Exit::Deadline, 5));
        assert_eq!((cpu.gpr[reg::RAX], cpu.rip, code.len()), (expected, CODE + 5, 2));
        code.reset();
        assert!(code.is_empty());
        cpu.rip = CODE;
        cpu.drop_caches();
        *crate::World::code_pages(&mut world) = crate::CodePages::default();
        assert_eq!(run(&mut cpu, &mut world, &mut code, 5, 6), (Exit::Deadline, 6));
    }
    for (last, expected) in [(0x01, 0x0102_0304), (0x7f, 0x7f02_0304)] {
        // What crosses into another page is decoded anew: mov eax, imm32, whose last byte is in the next page.
        let (mut cpu, mut world) = prepare(&[]);
        world.poke(CODE + 0xffc, &[0xb8, 0x04, 0x03, 0x02, last]);
        cpu.rip = CODE + 0xffc;
        let mut code = CodeCache::sharing(Arc::clone(&shared));
        run(&mut cpu, &mut world, &mut code, 0, 1);
        assert_eq!(cpu.gpr[reg::RAX], expected);
    }
}

#[test]
fn code_that_rewrites_the_next_instruction_executes_the_new_bytes() {
    // mov byte [rip + 1], 2 ; mov eax, 1 ; jmp $
    let (mut cpu, mut world, mut code) = machine(&[0xc6, 0x05, 1, 0, 0, 0, 2, 0xb8, 1, 0, 0, 0, 0xeb, 0xfe]);
    run(&mut cpu, &mut world, &mut code, 0, 3);
    assert_eq!(cpu.gpr[reg::RAX], 2);
}

#[test]
fn code_changed_from_outside_is_decoded_again() {
    let (mut cpu, mut world, mut code) = machine(&[0xb8, 1, 0, 0, 0, 0xeb, 0xf9]);
    run(&mut cpu, &mut world, &mut code, 0, 20);
    assert_eq!(cpu.gpr[reg::RAX], 1);
    world.poke(CODE + 1, &[7]);
    run(&mut cpu, &mut world, &mut code, 20, 40);
    assert_eq!(cpu.gpr[reg::RAX], 7);
}

#[test]
fn an_instruction_across_pages_follows_the_second_page() {
    let (mut cpu, mut world, mut code) = machine(&[]);
    world.poke(0x4ffe, &[0xb8, 1, 2, 3, 4, 0xeb, 0xf9]);
    cpu.rip = 0x4ffe;
    run(&mut cpu, &mut world, &mut code, 0, 4);
    assert_eq!(cpu.gpr[reg::RAX], 0x0403_0201);
    world.poke(0x5001, &[9]);
    run(&mut cpu, &mut world, &mut code, 4, 6);
    assert_eq!(cpu.gpr[reg::RAX], 0x0409_0201);
}

#[test]
fn a_repeated_move_retires_once_and_moves_everything() {
    // rep movsb ; jmp $
    let (mut cpu, mut world, mut code) = machine(&[0xf3, 0xa4, 0xeb, 0xfe]);
    let data: Vec<u8> = (0..100_000_u32).map(|i| (i * 7) as u8).collect();
    world.poke(0x20000, &data);
    cpu.gpr[reg::RSI] = 0x20000;
    cpu.gpr[reg::RDI] = 0x60005;
    cpu.gpr[reg::RCX] = 100_000;
    let mut clock = 0;
    while cpu.gpr[reg::RCX] != 0 {
        clock = run(&mut cpu, &mut world, &mut code, clock, 1).1;
    }
    assert_eq!(clock, 1);
    assert_eq!(world.peek(0x60005, 100_000), data);
    assert_eq!(cpu.system_flags & bits::DF, 0);
    assert_eq!(cpu.activity, Activity::Running);
}

#[test]
fn a_repeated_move_between_two_names_of_one_page_propagates_bytes() {
    // rep movsb ; jmp $
    let (mut cpu, mut world, mut code) = machine(&[0xf3, 0xa4, 0xeb, 0xfe]);
    // A table of 4 KiB pages for the second 2 MiB: its first page is the frame at 0x8000 again.
    world.poke(0x3008, &0x6003_u64.to_le_bytes());
    world.poke(0x6000, &0x8003_u64.to_le_bytes());
    world.poke(0x8000, b"ab");
    cpu.gpr[reg::RSI] = 0x8000;
    cpu.gpr[reg::RDI] = 0x20_0002;
    cpu.gpr[reg::RCX] = 100;
    run(&mut cpu, &mut world, &mut code, 0, 1);
    assert_eq!(cpu.gpr[reg::RCX], 0);
    assert_eq!(world.peek(0x8000, 102), b"ab".repeat(51));
}
