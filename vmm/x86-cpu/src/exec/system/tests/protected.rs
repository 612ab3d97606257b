//! 32-bit protected mode and virtual-8086 mode.

use super::machine::{HANDLERS, INNER_STACK, Machine, PROGRAM, STACK, sel};
use super::program::assemble;
use crate::flags::bits;
use crate::state::{reg, seg};

fn words(machine: &mut Machine, count: usize) -> Vec<u32> {
    let top = machine.cpu.gpr[reg::RSP];
    let bytes = machine.world.peek(top, count * 4);
    bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn run_into(machine: &mut Machine, vector: u64) {
    machine.run();
    let top = words(machine, 4);
    assert_eq!(machine.cpu.rip, HANDLERS + vector * 16 + 1, "{top:x?}");
}

/// IRETD to CPL 3 at label 22.
const TO_USER: usize = 0x20;

fn user(program: &[u8]) -> Machine {
    let enter = assemble!(
        ".code32",
        "push 0x23",
        "push 0x6000",
        "push 0x2",
        "push 0x1b",
        "push 0x1020",
        "iretd",
        ".org 0x20 + 88b",
    );
    assert_eq!(enter.len(), TO_USER);
    Machine::protected(&[enter, program].concat())
}

#[test]
fn interrupt_from_user_mode_and_back() {
    let mut machine = user(assemble!(".code32", "mov eax, 1", "int 0x80", "inc eax", "int 0x81"));
    machine.handler(0x80, assemble!(".code32", "inc eax", "iretd"));
    run_into(&mut machine, 13);
    assert_eq!(machine.cpu.gpr[reg::RAX], 3);
    let at = PROGRAM as u32 + TO_USER as u32 + 8;
    let frame = words(&mut machine, 6);
    assert_eq!(frame[..3], [0x81 << 3 | 2, at, sel::USER32.into()]);
    assert_eq!(frame[4..], [0x6000, sel::USER_DATA.into()]);
    assert_eq!(machine.cpu.segs[seg::SS].selector, sel::DATA);
    assert_eq!(machine.cpu.gpr[reg::RSP], INNER_STACK - 24);
    assert_eq!(machine.cpu.segs[seg::DS].selector, 0, "kernel data was dropped on the way out");
}

#[test]
fn call_gate_copies_parameters_and_returns() {
    let program =
        assemble!(".code32", "push 0x11", "push 0x22", "lcall 0x6b, 0x0", "mov ebx, esp", "int 0x80");
    let mut machine = user(program);
    machine.handler(0x91, assemble!(".code32", "mov ecx, [esp + 8]", "mov edx, [esp + 12]", "retf 8"));
    run_into(&mut machine, 0x80);
    assert_eq!((machine.cpu.gpr[reg::RCX], machine.cpu.gpr[reg::RDX]), (0x22, 0x11));
    assert_eq!(machine.cpu.gpr[reg::RBX], 0x6000, "the return releases the parameters of both stacks");
}

#[test]
fn segment_limits_and_types_hold() {
    for (program, vector) in [
        (assemble!(".code32", "mov eax, cs:[0x1000]", "mov cs:[0x1000], eax"), 13),
        (assemble!(".code32", "xor eax, eax", "mov ds, eax", "mov eax, [0x1000]"), 13),
        (assemble!(".code32", "mov eax, 0x58", "mov ds, eax", "mov eax, [0xfffe]"), 13),
        (assemble!(".code32", "mov eax, 0x60", "mov ss, eax"), 12),
        (assemble!(".code32", "mov eax, 0x60", "mov es, eax"), 11),
        // A task without a code segment.
        (assemble!(".code32", "ljmp 0x30, 0"), 10),
        (assemble!(".code32", "ljmp 0x58, 0x10000"), 13),
        (assemble!(".code32", "mov ebx, 0x5000", "bound eax, [ebx]"), 5),
        (assemble!(".code32", "mov al, 0x7f", "add al, 1", "into"), 4),
    ] {
        let mut machine = Machine::protected(program);
        machine.world.poke(0x5000, &[1, 0, 0, 0, 2, 0, 0, 0]);
        machine.cpu.gpr[reg::RAX] = 0;
        run_into(&mut machine, vector);
    }
}

#[test]
fn virtual_8086_mode_and_its_monitor() {
    // IRETD with VM set: GS FS DS ES SS ESP EFLAGS CS EIP.
    let program = assemble!(
        ".code32",
        "push 0",
        "push 0",
        "push 0x500",
        "push 0",
        "push 0x600",
        "push 0x100",
        "push 0x20002",
        "push 0x110",
        "push 0",
        "iretd",
        ".org 0x100 + 88b",
        ".code16",
        "mov ax, [0x10]",
        "push ax",
        "cli",
    );
    let mut machine = Machine::protected(program);
    machine.world.poke(0x5010, &[0x34, 0x12]);
    run_into(&mut machine, 13);
    assert_eq!(machine.cpu.gpr[reg::RAX], 0x1234);
    assert_eq!(machine.world.peek(0x6000 + 0xfe, 2), [0x34, 0x12]);
    let frame = words(&mut machine, 10);
    assert_eq!(frame[..3], [0, 4, 0x110], "CLI needs IOPL 3");
    assert_ne!(u64::from(frame[3]) & bits::VM, 0);
    assert_eq!(frame[4..], [0xfe, 0x600, 0, 0x500, 0, 0], "ESP SS ES DS FS GS");
    assert_eq!(machine.cpu.system_flags & bits::VM, 0);
    assert_eq!(machine.cpu.segs[seg::DS].selector, 0);
    assert_eq!(machine.cpu.cpl, 0);
}

#[test]
fn arpl_raises_the_requested_level() {
    let program = assemble!(".code32", "mov eax, 0x10", "mov ebx, 3", "arpl ax, bx", "setz cl", "hlt");
    let mut machine = Machine::protected(program);
    machine.run();
    assert_eq!(machine.cpu.gpr[reg::RAX], 0x13);
    assert_eq!(machine.cpu.gpr[reg::RCX] & 0xff, 1);
}

#[test]
fn lmsw_cannot_clear_pe() {
    let mut machine = Machine::protected(assemble!(".code32", "mov eax, 0xa", "lmsw ax", "smsw ebx", "hlt"));
    machine.run();
    assert_eq!(machine.cpu.gpr[reg::RBX] & 0xf, 0xb);
    assert_eq!(machine.cpu.gpr[reg::RSP], STACK);
}

#[test]
fn a_block_does_not_outlive_its_segments_limit() {
    // The same code through CODE32 (4 GiB) and through a descriptor whose limit ends inside it.
    let program = assemble!(
        ".code32",
        "call 22f",
        "ljmp 0x58, 0x1010",
        ".org 0x10 + 88b",
        "22:",
        "inc eax",
        "inc eax",
        "ret"
    );
    let mut machine = Machine::protected(program);
    machine.world.poke(0x8058, &0x0040_9b00_0000_1010_u64.to_le_bytes());
    machine.cpu.gpr[reg::RAX] = 0;
    run_into(&mut machine, 13);
    assert_eq!(machine.cpu.gpr[reg::RAX], 3);
    assert_eq!(words(&mut machine, 3), [0, 0x1011, 0x58]);
}
