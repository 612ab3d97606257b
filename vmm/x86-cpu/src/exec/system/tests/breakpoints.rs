//! Breakpoints on instructions, data and ports.

use super::machine::{DATA, Machine, PROGRAM};
use super::program::assemble;
use crate::flags::bits;
use crate::state::{cr4, reg};

/// Enables breakpoint 0 on `kind` (DR7.R/W) with length code `len` at `address`.
fn watch(machine: &mut Machine, address: u64, kind: u64, len: u64) {
    machine.cpu.dr[0] = address;
    machine.cpu.dr[7] = 0x400 | 2 | kind << 16 | len << 18;
    machine.cpu.update_breakpoints();
}

#[test]
fn an_instruction_breakpoint_comes_before_the_instruction() {
    let mut machine = Machine::long(assemble!("inc eax", "inc eax", "inc eax", "hlt"));
    watch(&mut machine, PROGRAM + 2, 0, 0);
    let [rip, _, flags, ..] = machine.run_into(1);
    assert_eq!((rip, flags & bits::RF), (PROGRAM + 2, 0));
    assert_eq!(machine.cpu.gpr[reg::RAX], 1);
    assert_eq!(machine.cpu.dr[6] & 0xf00f, 1);
}

#[test]
fn the_resume_flag_passes_one_breakpoint() {
    let mut machine = Machine::long(assemble!("2: inc eax", "jmp 2b"));
    watch(&mut machine, PROGRAM, 0, 0);
    // The handler counts, and returns with RF set.
    machine.handler(1, assemble!("inc ebx", "cmp ebx, 3", "je 2f", "or [rsp+18], ebp", "iretq", "2: hlt"));
    machine.cpu.gpr[reg::RBP] = 1;
    machine.run();
    assert_eq!(machine.cpu.gpr[reg::RAX], 2);
}

#[test]
fn a_data_breakpoint_comes_after_the_access_it_overlaps() {
    for (address, kind, len, hit) in [
        (DATA, 1, 0, true),
        (DATA + 7, 1, 0, true),
        (DATA + 8, 1, 0, false),
        (DATA + 3, 3, 1, true),
        // Bits below the length do not count.
        (DATA + 8 + 5, 3, 2, false),
        (DATA + 5, 3, 2, true),
    ] {
        let mut machine = Machine::long(assemble!("mov rdi, 0x5000", "mov [rdi], rax", "nop", "hlt"));
        watch(&mut machine, address, kind, len);
        if hit {
            assert_eq!(machine.run_into(1)[0], PROGRAM + 7 + 3);
            assert_eq!(machine.cpu.dr[6] & 0xf00f, 1);
        } else {
            machine.run();
            assert_eq!(machine.cpu.rip, PROGRAM + 7 + 3 + 2, "{address:#x}");
        }
    }
}

#[test]
fn a_write_breakpoint_ignores_reads_and_a_read_breakpoint_does_not() {
    for (kind, hit) in [(1, false), (3, true)] {
        let mut machine = Machine::long(assemble!("mov rdi, 0x5000", "mov rax, [rdi]", "hlt"));
        watch(&mut machine, DATA, kind, 3);
        machine.run();
        assert_eq!(machine.cpu.rip != PROGRAM + 7 + 3 + 1, hit);
    }
}

#[test]
fn repeated_instructions_trap_between_iterations() {
    let mut machine = Machine::long(assemble!("mov rdi, 0x5000", "mov ecx, 8", "rep stosb", "hlt"));
    watch(&mut machine, DATA + 2, 1, 0);
    let [rip, _, flags, ..] = machine.run_into(1);
    assert_eq!(rip, PROGRAM + 7 + 5);
    assert_ne!(flags & bits::RF, 0);
    assert_eq!(machine.cpu.gpr[reg::RCX], 5);
}

#[test]
fn port_breakpoints_need_debug_extensions() {
    for (extensions, hit) in [(0, false), (cr4::DE, true)] {
        let mut machine = Machine::long(assemble!("out 0x81, eax", "hlt"));
        machine.cpu.cr4 |= extensions;
        watch(&mut machine, 0x84, 2, 0);
        machine.run();
        assert_eq!(machine.cpu.rip != PROGRAM + 3, hit);
    }
}
