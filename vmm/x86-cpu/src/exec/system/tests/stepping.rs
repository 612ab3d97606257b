//! Single-stepping and debug registers.

use super::machine::{Machine, PROGRAM};
use super::program::assemble;
use crate::flags::bits;
use crate::state::{cr4, reg};

/// DR6.BS.
const STEP: u64 = 1 << 14;

#[test]
fn trap_comes_after_the_instruction_that_follows_popf() {
    let mut machine = Machine::long(assemble!("push 0x102", "popfq", "inc eax", "inc eax", "hlt"));
    let [rip, _, flags, ..] = machine.run_into(1);
    assert_eq!(rip, PROGRAM + 6 + 2);
    assert_ne!(flags & bits::TF, 0);
    assert_eq!(machine.cpu.system_flags & bits::TF, 0);
    assert_ne!(machine.cpu.dr[6] & STEP, 0);
    assert_eq!(machine.cpu.gpr[reg::RAX], 1);
}

#[test]
fn loading_ss_holds_the_trap_off() {
    let mut machine = Machine::long(assemble!(
        "mov cx, ss",
        "push 0x102",
        "popfq",
        "mov ss, cx",
        "inc eax",
        "inc eax",
        "hlt"
    ));
    let [rip, ..] = machine.run_into(1);
    assert_eq!(rip, PROGRAM + 3 + 6 + 2 + 2);
    assert_eq!(machine.cpu.gpr[reg::RAX], 1);
}

#[test]
fn software_interrupt_ends_stepping() {
    let mut machine = Machine::long(assemble!("push 0x102", "popfq", "int 0x80"));
    let [_, _, flags, ..] = machine.run_into(0x80);
    assert_ne!(flags & bits::TF, 0);
}

#[test]
fn a_fault_while_stepping_is_only_the_fault() {
    let mut machine = Machine::long(assemble!("push 0x102", "popfq", "ud2"));
    assert_eq!(machine.run_into(6)[0], PROGRAM + 6);
    assert_eq!(machine.cpu.dr[6] & STEP, 0);
}

#[test]
fn int1_is_a_trap_without_privilege() {
    let mut machine = Machine::user(assemble!(".byte 0xf1", "nop"));
    assert_eq!(machine.run_into(1)[0], PROGRAM + 1);
}

#[test]
fn general_detect_guards_debug_registers() {
    let mut machine =
        Machine::long(assemble!("mov eax, 0x2000", "mov dr7, rax", "mov rbx, dr7", "mov rcx, dr0", "hlt"));
    assert_eq!(machine.run_into(1)[0], PROGRAM + 5 + 3);
    assert_ne!(machine.cpu.dr[6] & 1 << 13, 0);
    assert_eq!(machine.cpu.dr[7] & 1 << 13, 0);
}

#[test]
fn debug_registers_alias_and_keep_fixed_bits() {
    let program = assemble!("mov rax, -1", "shr rax, 32", "mov dr6, rax", "mov rbx, dr4", "hlt");
    let mut machine = Machine::long(program);
    machine.run();
    assert_eq!(machine.cpu.gpr[reg::RBX], 0xffff_efff);
    let mut machine = Machine::long(program);
    machine.cpu.cr4 |= cr4::DE;
    machine.run_into(6);
    let mut machine = Machine::long(assemble!("mov rax, -1", "mov dr7, rax"));
    assert_eq!(machine.run_into(13)[0], 0);
}
