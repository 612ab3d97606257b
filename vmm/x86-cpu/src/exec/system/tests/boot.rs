//! The way from real mode to 64-bit mode, as a boot loader goes it.

use super::machine::{DATA, Machine, PROGRAM, sel};
use super::program::assemble;
use crate::state::{TableRegister, cr0, efer, reg, seg};

#[test]
fn real_to_protected_to_long_mode() {
    let program = assemble!(
        ".code16",
        "xor ax, ax",
        "mov ds, ax",
        "mov bx, 0x5000",
        "lgdt [bx]",
        "mov eax, cr0",
        "or al, 1",
        "mov cr0, eax",
        "ljmp 0x40, 0x1020",
        ".code32",
        ".org 0x20 + 88b",
        "mov ax, 0x10",
        "mov ds, ax",
        "mov es, ax",
        "mov ss, ax",
        "mov esp, 0x7000",
        "mov eax, cr4",
        "or eax, 0x20",
        "mov cr4, eax",
        "mov eax, 0x10000",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "or eax, 0x100",
        "wrmsr",
        "mov eax, cr0",
        "or eax, 0x80000000",
        "mov cr0, eax",
        "rdmsr",
        "mov ebx, eax",
        "ljmp 0x08, 0x1080",
        ".code64",
        ".org 0x80 + 88b",
        "mov rax, 0x123456789abcdef0",
        "mov [0x5100], rax",
        "mov cx, ss",
        "hlt",
    );
    let mut machine = Machine::real(program);
    let mut pointer = vec![111, 0];
    pointer.extend(0x8000_u32.to_le_bytes());
    machine.world.poke(DATA, &pointer);
    machine.run();
    let cpu = &machine.cpu;
    assert!(cpu.mode.is_64());
    assert_eq!(cpu.gdtr, TableRegister { base: 0x8000, limit: 111 });
    assert_eq!(cpu.segs[seg::CS].selector, sel::CODE64);
    assert_eq!(cpu.gpr[reg::RCX] as u16, sel::DATA);
    assert_eq!(cpu.gpr[reg::RBX], efer::LME | efer::LMA, "EFER.LMA follows CR0.PG");
    assert_ne!(cpu.cr0 & cr0::PG, 0);
    assert_eq!(cpu.rip, PROGRAM + program.len() as u64);
    assert_eq!(machine.peek64(DATA + 0x100), 0x1234_5678_9abc_def0);
}

#[test]
fn real_mode_interrupt_and_return() {
    let program = assemble!(
        ".code16",
        "stc",
        "int 0x21",
        "mov bx, 7",
        "hlt",
        ".org 0x100 + 88b",
        "mov bp, sp",
        "mov cx, [bp + 4]",
        "clc",
        "iret",
    );
    let mut machine = Machine::real(program);
    machine.world.poke(0x21 * 4, &[0x00, 0x01, 0x00, 0x01]);
    machine.run();
    assert_eq!(machine.cpu.gpr[reg::RBX], 7);
    assert_eq!(machine.cpu.gpr[reg::RCX] & 1, 1, "the pushed flags have CF");
    assert!(machine.cpu.flags.cf(), "IRET restores CF");
    assert_eq!(machine.cpu.gpr[reg::RSP], 0x7000);
    assert_eq!(machine.cpu.segs[seg::CS].selector, 0);
}

#[test]
fn blocks_are_not_confused_by_code_segments_with_other_bases() {
    // The same offset in two code segments: 1000:0100 and 1010:0100.
    let program = assemble!(
        ".code16",
        "lcall 0x110, 0x0",
        "lcall 0x120, 0x0",
        "lcall 0x110, 0x0",
        "hlt",
        ".org 0x100 + 88b",
        "inc cx",
        "retf",
        ".org 0x200 + 88b",
        "inc dx",
        "retf",
    );
    let mut machine = Machine::real(program);
    machine.cpu.gpr[reg::RDX] = 0;
    machine.world.poke(0x1100, &program[0x100..0x102]);
    machine.world.poke(0x1200, &program[0x200..0x202]);
    machine.run();
    assert_eq!((machine.cpu.gpr[reg::RCX], machine.cpu.gpr[reg::RDX]), (2, 1));
}
