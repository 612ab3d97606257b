//! Ports: privilege, the I/O bitmap, string forms.

use super::machine::{DATA, Machine, PROGRAM, TSS};
use super::program::assemble;
use crate::flags::bits;
use crate::run::{Exit, run};
use crate::state::reg;

#[test]
fn io_bitmap_decides_below_iopl() {
    let read = assemble!("mov edx, 0x3fd", "in eax, dx", "mov ebx, 5", "int 0x80");
    for (allowed, map, limit) in [
        (false, 0x1000_u16, 0xfff),
        (true, 0x68, 0xfff),
        // The ports lie in two bytes of the map; the second is beyond the limit.
        (false, 0x68, 0x68 + 0x7f),
        (true, 0x68, 0x68 + 0x80),
    ] {
        let mut machine = Machine::user(read);
        machine.world.poke(TSS + 0x66, &map.to_le_bytes());
        machine.cpu.tr.limit = limit;
        if allowed {
            machine.run_into(0x80);
            assert_eq!(machine.cpu.gpr[reg::RAX], u64::from(0x3fd_u32.wrapping_mul(0x0101_0101)));
        } else {
            assert_eq!(machine.run_into(13)[..2], [0, PROGRAM + 5], "{map:#x} {limit:#x}");
        }
    }
    // One of the four ports is denied.
    let mut machine = Machine::user(read);
    machine.world.poke(TSS + 0x66, &0x68_u16.to_le_bytes());
    machine.world.poke(TSS + 0x68 + 0x80, &[1]);
    machine.run_into(13);
    // IOPL 3 needs no bitmap.
    let mut machine = Machine::user(read);
    machine.cpu.set_rflags(bits::IOPL);
    machine.run_into(0x80);
}

#[test]
fn output_reaches_the_world() {
    let program =
        assemble!("mov eax, 0x12345678", "mov dx, 0x500", "out dx, eax", "out dx, ax", "out 0x80, al", "hlt");
    let mut machine = Machine::long(program);
    machine.run();
    assert_eq!(machine.world.io, [(0x500, 4, 0x1234_5678), (0x500, 2, 0x5678), (0x80, 1, 0x78)]);
}

#[test]
fn string_forms_move_the_indices() {
    let program = assemble!("cld", "mov edx, 0x77", "rep insb", "std", "mov ecx, 2", "rep outsw", "hlt");
    let mut machine = Machine::long(program);
    machine.cpu.gpr[reg::RDI] = DATA;
    machine.cpu.gpr[reg::RSI] = DATA;
    machine.cpu.gpr[reg::RCX] = 3;
    machine.run();
    assert_eq!(machine.world.peek(DATA, 4), [0x77, 0x77, 0x77, 0]);
    assert_eq!(machine.cpu.gpr[reg::RDI], DATA + 3);
    assert_eq!(machine.cpu.gpr[reg::RSI], DATA - 4);
    assert_eq!(machine.world.io, [(0x77, 2, 0x7777), (0x77, 2, 0)]);
}

#[test]
fn long_repetition_restarts_and_retires_once() {
    let mut machine = Machine::long(assemble!("rep outsb", "hlt"));
    machine.cpu.gpr[reg::RSI] = DATA;
    machine.cpu.gpr[reg::RCX] = 10_000;
    let (exit, clock) = run(&mut machine.cpu, &mut machine.world, &mut machine.code, 0, 1000);
    assert_eq!((exit, clock), (Exit::Attention, 0));
    assert_eq!(machine.cpu.gpr[reg::RCX], 10_000 - 4096);
    assert_eq!(machine.cpu.rip, PROGRAM);
    machine.run();
    assert_eq!(machine.world.io.len(), 10_000);
    assert_eq!(machine.clock, 2);
}

#[test]
fn string_input_faults_before_it_reads_the_port() {
    let mut machine = Machine::long(assemble!("rep insb", "hlt"));
    machine.cpu.gpr[reg::RDI] = 0x40000 - 2;
    machine.cpu.gpr[reg::RCX] = 4;
    machine.map(0x40000, 0);
    let [error, rip, ..] = machine.run_into(14);
    assert_eq!((error, rip, machine.cpu.cr2), (2, PROGRAM, 0x40000));
    assert_eq!((machine.cpu.gpr[reg::RCX], machine.cpu.gpr[reg::RDI]), (2, 0x40000));
}
