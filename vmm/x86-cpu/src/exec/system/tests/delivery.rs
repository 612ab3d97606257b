//! Exceptions and interrupts in long mode.

use super::machine::{
    DATA, HANDLERS, IDT, INNER_STACK, IST1, Machine, PRESENT, PROGRAM, STACK, TSS, USER, sel,
};
use super::program::assemble;
use crate::flags::bits;
use crate::run::Exit;
use crate::state::{Segment, reg, seg};

#[test]
fn exception_from_user_mode_switches_stacks() {
    let program = assemble!("mov rsp, 0x6ff8", "div cl", "hlt");
    let mut machine = Machine::user(program);
    let [rip, cs, flags, rsp, ss, _] = machine.run_into(0);
    assert_eq!(rip, PROGRAM + 7, "a fault returns to the instruction");
    assert_eq!((cs, ss, rsp), (sel::USER64.into(), sel::USER_DATA.into(), 0x6ff8));
    assert_ne!(flags & bits::RF, 0, "RF is set for faults");
    assert_eq!(machine.cpu.gpr[reg::RSP], INNER_STACK - 40);
    assert_eq!(machine.cpu.cpl, 0);
    assert_eq!(machine.cpu.segs[seg::SS], Segment::null(0));
    assert_eq!(machine.cpu.segs[seg::CS].selector, sel::CODE64);
}

#[test]
fn stack_is_aligned_without_privilege_change() {
    let mut machine = Machine::long(assemble!("mov rsp, 0x6ff3", "ud2"));
    let [rip, cs, _, rsp, ss, _] = machine.run_into(6);
    assert_eq!((rip, cs, rsp, ss), (PROGRAM + 7, sel::CODE64.into(), 0x6ff3, sel::DATA.into()));
    assert_eq!(machine.cpu.gpr[reg::RSP], 0x6ff0 - 40);
}

#[test]
fn software_interrupt_needs_the_gates_privilege() {
    let program = assemble!("int 0x80", "hlt");
    let mut machine = Machine::user(program);
    let [rip, _, flags, ..] = machine.run_into(0x80);
    assert_eq!(rip, PROGRAM + 2);
    assert_eq!(flags & bits::RF, 0);

    let mut machine = Machine::user(assemble!("int 0x81", "hlt"));
    let [code, rip, ..] = machine.run_into(13);
    assert_eq!((code, rip), (0x81 << 3 | 2, PROGRAM), "EXT is clear for INT n");
}

#[test]
fn iretq_round_trip_through_user_mode() {
    let program = assemble!(
        "push 0x23",
        "push 0x6000",
        "push 0x202",
        "push 0x2b",
        "lea rax, [rip + 22f]",
        "push rax",
        "iretq",
        "22:",
        "mov ecx, 0x1234",
        "int 0x80",
        "inc ecx",
        "int 0x81",
    );
    let mut machine = Machine::long(program);
    machine.handler(0x80, assemble!("inc ecx", "iretq"));
    let [code, ..] = machine.run_into(13);
    assert_eq!(code, 0x81 << 3 | 2);
    assert_eq!(machine.cpu.gpr[reg::RCX], 0x1236);
    assert_eq!(machine.cpu.gpr[reg::RSP], INNER_STACK - 48);
}

#[test]
fn double_fault_on_its_own_stack() {
    // The stack is not mapped: the page fault of the push cannot be delivered.
    let mut machine = Machine::long(assemble!("mov rsp, 0x500000", "push rax", "hlt"));
    let gate = machine.peek64(IDT + 8 * 16);
    machine.poke64(IDT + 8 * 16, gate | 1 << 32);
    let [code, rip, _, _, rsp, _] = machine.run_into(8);
    assert_eq!((code, rip, rsp), (0, PROGRAM + 7, 0x500000));
    assert_eq!(machine.cpu.gpr[reg::RSP], IST1 - 48);
    assert_eq!(machine.cpu.cr2, 0x4ffff8);
}

#[test]
fn triple_fault_shuts_down() {
    let mut machine = Machine::long(assemble!("mov rsp, 0x500000", "push rax", "hlt"));
    assert_eq!(machine.run_until(1000), Exit::Shutdown);
    assert_eq!(machine.clock, 1);

    let mut machine = Machine::long(assemble!("ud2"));
    machine.cpu.idtr.limit = 0;
    assert_eq!(machine.run_until(1000), Exit::Shutdown);
}

#[test]
fn gates_that_are_wrong_name_themselves() {
    for (change, vector, code) in [
        (1_u64 << 47, 11, 6 << 3 | 3),                // not present
        (2 << 40, 13, 6 << 3 | 3),                    // a call gate
        (0x18 << 16, 13, u64::from(sel::DATA) | 1),   // a data segment: 8 ^ 0x18 = 0x10
        (0x68 << 16, 11, u64::from(sel::ABSENT) | 1), // 8 ^ 0x68 = 0x60, data: a wrong type
        (0x1f8 << 16, 13, 0x1f0 | 1),                 // beyond the GDT
        (0x48 << 16, 13, u64::from(sel::CODE32) | 1), // a 32-bit code segment
    ] {
        let vector = if change == 0x68 << 16 { 13 } else { vector };
        let mut machine = Machine::long(assemble!("ud2"));
        let gate = machine.peek64(IDT + 6 * 16);
        machine.poke64(IDT + 6 * 16, gate ^ change);
        let [error, rip, ..] = machine.run_into(vector);
        assert_eq!((error, rip), (code, PROGRAM), "{change:#x}");
    }
}

#[test]
fn non_canonical_handler_and_stack() {
    let mut machine = Machine::long(assemble!("ud2"));
    machine.poke64(IDT + 6 * 16 + 8, 0x1_0000);
    let [error, ..] = machine.run_into(13);
    assert_eq!(error, 1);

    let mut machine = Machine::user(assemble!("ud2"));
    machine.poke64(TSS + 4, 1 << 47);
    // #SS(1) goes to the same stack, so that it becomes a double fault, on IST1.
    let gate = machine.peek64(IDT + 8 * 16);
    machine.poke64(IDT + 8 * 16, gate | 1 << 32);
    let [error, rip, ..] = machine.run_into(12 - 4);
    assert_eq!((error, rip), (0, PROGRAM));
}

#[test]
fn interrupt_waits_for_the_instruction_after_sti() {
    for step in [1, 2, 1000] {
        let program = assemble!("cli", "nop", "sti", "inc eax", "inc eax", "hlt");
        let mut machine = Machine::long(program);
        machine.world.interrupt = Some(0x40);
        let mut until = 0;
        while machine.cpu.rip < HANDLERS {
            until += step;
            machine.run_until(until);
        }
        machine.run();
        let top = machine.cpu.gpr[reg::RSP];
        assert_eq!(machine.peek64(top), PROGRAM + 5, "after one INC, in steps of {step}");
        assert_eq!(machine.clock, 5);
        assert_eq!(machine.cpu.system_flags & bits::IF, 0);
    }
}

#[test]
fn sti_hlt_wakes_without_losing_the_interrupt() {
    let mut machine = Machine::long(assemble!("sti", "hlt", "mov ebx, 1", "hlt"));
    machine.world.interrupt = Some(0x40);
    let [rip, ..] = machine.run_into(0x40);
    assert_eq!(rip, PROGRAM + 2, "the interrupt comes after HLT");
}

#[test]
fn popf_and_iret_take_a_waiting_interrupt_at_once() {
    let mut machine = Machine::long(assemble!("push 0x202", "popfq", "inc eax", "hlt"));
    machine.world.interrupt = Some(0x40);
    let [rip, ..] = machine.run_into(0x40);
    assert_eq!(rip, PROGRAM + 6);
}

#[test]
fn nmi_is_blocked_until_iret() {
    let program = assemble!("nop", "inc eax", "hlt");
    let mut machine = Machine::long(program);
    machine.handler(2, assemble!("inc ebx", "mov [rbx * 8 + 0x5000], rsp", "iretq"));
    machine.world.nmi = true;
    machine.run_until(2);
    machine.world.nmi = true;
    machine.run();
    assert_eq!((machine.cpu.gpr[reg::RAX], machine.cpu.gpr[reg::RBX]), (1, 2));
    assert_eq!(machine.peek64(DATA + 8), machine.peek64(DATA + 16), "the second did not nest");
    assert_eq!(machine.cpu.gpr[reg::RSP], STACK);
}

#[test]
fn push_on_a_read_only_inner_stack_is_a_page_fault_with_supervisor_rights() {
    let mut machine = Machine::user(assemble!("ud2"));
    machine.map(INNER_STACK - 0x1000, PRESENT | USER);
    let gate = machine.peek64(IDT + 14 * 16);
    machine.poke64(IDT + 14 * 16, gate | 1 << 32);
    let [error, rip, cs, ..] = machine.run_into(14);
    assert_eq!((error, rip, cs), (3, PROGRAM, sel::USER64.into()));
    assert_eq!(machine.cpu.cr2, INNER_STACK - 8);
}
