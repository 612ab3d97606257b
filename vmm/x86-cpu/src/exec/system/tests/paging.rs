//! Page faults as the handler sees them, and what makes translations void.

use super::machine::{DATA, INNER_STACK, Machine, NO_EXECUTE, PRESENT, PROGRAM, USER, WRITABLE};
use super::program::assemble;
use crate::state::{cr4, reg};

#[test]
fn error_codes_and_cr2() {
    let read: &[u8] = assemble!("mov rax, [0x40008]");
    let write: &[u8] = assemble!("mov [0x40008], rax");
    let call: &[u8] = assemble!("mov rax, 0x40008", "call rax");
    let cases = [
        (read, 0, 4),
        (write, 0, 6),
        (call, 0, 0x14),
        (read, PRESENT | WRITABLE, 5),
        (write, PRESENT | USER, 7),
        (call, PRESENT | WRITABLE | USER | NO_EXECUTE, 0x15),
        (read, PRESENT | USER | 1 << 50, 0xd),
    ];
    for (program, bits, expected) in cases {
        let mut machine = Machine::user(program);
        machine.map(0x40000, bits);
        let [error, rip, ..] = machine.run_into(14);
        assert_eq!(error, expected, "page bits {bits:#x}");
        assert_eq!(machine.cpu.cr2, 0x40008);
        assert_eq!(rip, if program == call { 0x40008 } else { PROGRAM });
    }
}

#[test]
fn supervisor_is_held_by_wp_smep_and_smap() {
    let write = assemble!("mov [0x40008], rax", "hlt");
    let mut machine = Machine::long(write);
    machine.map(0x40000, PRESENT);
    assert_eq!(machine.run_into(14)[0], 3);

    let call = assemble!("mov rax, 0x40008", "call rax");
    let mut machine = Machine::long(call);
    machine.cpu.cr4 |= cr4::SMEP;
    machine.map(PROGRAM, PRESENT | WRITABLE);
    machine.map(0x40000, PRESENT | USER);
    assert_eq!(machine.run_into(14)[0], 0x11);

    let access = assemble!("stac", "mov rax, [0x40008]", "clac", "mov rax, [0x40008]");
    let mut machine = Machine::long(access);
    machine.cpu.cr4 |= cr4::SMAP;
    machine.cpu.update_mode();
    machine.cpu.gpr[reg::RSP] = INNER_STACK;
    machine.map(0x40000, PRESENT | USER);
    let [error, rip, ..] = machine.run_into(14);
    assert_eq!((error, rip), (1, PROGRAM + 3 + 8 + 3));
}

#[test]
fn invlpg_and_cr3_drop_translations() {
    // Page 0x40000 is read, then its entry is changed to lead to 0x41000.
    let program = assemble!(
        "mov rax, [0x40000]",
        "mov rbx, 0x41003",
        "mov [0x13200], rbx",
        "mov rcx, [0x40000]",
        "invlpg [0x40000]",
        "mov rdx, [0x40000]",
        "mov rbx, 0x42003",
        "mov [0x13200], rbx",
        "mov rsi, cr3",
        "mov cr3, rsi",
        "mov rdi, [0x40000]",
        "hlt",
    );
    let mut machine = Machine::long(program);
    for (page, value) in [(0x40000, 1), (0x41000, 2), (0x42000, 3)] {
        machine.poke64(page, value);
    }
    machine.run();
    let gpr = &machine.cpu.gpr;
    assert_eq!([gpr[reg::RAX], gpr[reg::RCX], gpr[reg::RDX], gpr[reg::RDI]], [1, 1, 2, 3]);
}

#[test]
fn control_registers_refuse_reserved_bits() {
    for (load, value) in [
        (assemble!("mov cr0, rax"), 0x1_8001_0033_u64),
        (assemble!("mov cr0, rax"), 0x0001_0033),
        (assemble!("mov cr0, rax"), 0x8000_0032),
        (assemble!("mov cr0, rax"), 0xa001_0033),
        (assemble!("mov cr3, rax"), 1 << 46),
        (assemble!("mov cr4, rax"), 0),
        (assemble!("mov cr4, rax"), 0x20 | 1 << 12),
        (assemble!("mov cr4, rax"), 0x20 | 1 << 19),
        (assemble!("mov cr8, rax"), 16),
    ] {
        let mut machine = Machine::long(load);
        machine.cpu.gpr[reg::RAX] = value;
        let before = (machine.cpu.cr0, machine.cpu.cr3, machine.cpu.cr4);
        assert_eq!(machine.run_into(13)[..2], [0, PROGRAM], "{value:#x}");
        assert_eq!((machine.cpu.cr0, machine.cpu.cr3, machine.cpu.cr4), before);
    }
}

#[test]
fn task_priority_is_the_worlds() {
    let mut machine = Machine::long(assemble!("mov eax, 9", "mov cr8, rax", "mov rbx, cr8", "hlt"));
    machine.run();
    assert_eq!((machine.world.task_priority, machine.cpu.gpr[reg::RBX]), (9, 9));
}

#[test]
fn accessed_and_dirty_bits_follow_accesses() {
    let mut machine = Machine::long(assemble!("mov rax, [0x40000]", "mov [0x41000], rax", "hlt"));
    machine.run();
    assert_eq!(machine.peek64(0x13000 + 0x40 * 8) & 0x60, 0x20);
    assert_eq!(machine.peek64(0x13000 + 0x41 * 8) & 0x60, 0x60);
    assert_eq!(machine.peek64(0x13000 + (DATA >> 12) * 8) & 0x60, 0);
}

#[test]
fn invlpg_reaches_code_and_every_part_of_a_large_page() {
    // Code on page 0x40000 is called, remapped to 0x41000 and called again.
    let program = assemble!(
        "mov rax, 0x40000",
        "call rax",
        "mov qword ptr [0x13200], 0x41003",
        "call rax",
        "invlpg [0x40000]",
        "call rax",
        "hlt",
    );
    let mut machine = Machine::long(program);
    machine.world.poke(0x40000, assemble!("inc ecx", "ret"));
    machine.world.poke(0x41000, assemble!("inc edx", "ret"));
    machine.cpu.gpr[reg::RDX] = 0;
    machine.run();
    assert_eq!((machine.cpu.gpr[reg::RCX], machine.cpu.gpr[reg::RDX]), (2, 1));

    // A 2 MiB page at 2 MiB maps to 0; two parts of it are read, and one INVLPG after it was unmapped ends both.
    let program = assemble!(
        "mov eax, [0x241000]",
        "mov eax, [0x242000]",
        "mov qword ptr [0x12008], 0",
        "invlpg [0x241000]",
        "mov eax, [0x242000]",
    );
    let mut machine = Machine::long(program);
    machine.poke64(0x12008, 0x83);
    machine.world.poke(0x42000, &[7]);
    assert_eq!(machine.run_into(14)[0], 0);
    assert_eq!((machine.cpu.cr2, machine.cpu.gpr[reg::RAX]), (0x242000, 7));
}
