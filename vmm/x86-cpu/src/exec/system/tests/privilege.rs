//! Privilege transitions and what each level may do, in long mode.

use super::machine::{DATA, HANDLERS, INNER_STACK, Machine, PROGRAM, STACK, sel};
use super::program::assemble;
use crate::flags::bits;
use crate::state::{cr4, reg, seg};

fn with_star(machine: &mut Machine) {
    machine.cpu.msr.star = u64::from(sel::CODE64) << 32 | u64::from(sel::USER32 & !3) << 48;
    machine.cpu.msr.lstar = HANDLERS;
    machine.cpu.msr.fmask = bits::IF | bits::TF | bits::DF;
}

#[test]
fn syscall_and_sysret() {
    let program = assemble!("std", "mov eax, 7", "syscall", "mov ebx, 9", "int 0x80");
    let mut machine = Machine::user(program);
    with_star(&mut machine);
    machine.cpu.set_rflags(bits::IF | bits::CF);
    machine.handler(0, assemble!("inc eax", "mov si, cs", "mov di, ss", "pushfq", "pop rbp", "sysretq"));
    let [rip, cs, flags, rsp, ss, _] = machine.run_into(0x80);
    let gpr = &machine.cpu.gpr;
    assert_eq!((gpr[reg::RAX], gpr[reg::RBX]), (8, 9));
    assert_eq!((gpr[reg::RSI], gpr[reg::RDI]), (sel::CODE64.into(), sel::DATA.into()));
    assert_eq!(gpr[reg::RCX], PROGRAM + 1 + 5 + 2);
    assert_eq!(gpr[reg::R11], bits::IF | bits::CF | bits::DF | 2);
    assert_eq!(gpr[reg::RBP] & (bits::IF | bits::DF), 0);
    assert_eq!((cs, ss, rsp), (sel::USER64.into(), sel::USER_DATA.into(), STACK));
    assert_eq!(flags & (bits::IF | bits::DF | bits::CF), bits::IF | bits::DF | bits::CF);
    assert_eq!(rip, PROGRAM + program.len() as u64);
}

#[test]
fn sysret_refuses_a_non_canonical_return_at_cpl0() {
    let mut machine = Machine::long(assemble!("mov rcx, 0x800000000000", "sysretq"));
    with_star(&mut machine);
    let [error, rip, cs, ..] = machine.run_into(13);
    assert_eq!((error, rip, cs), (0, PROGRAM + 10, sel::CODE64.into()));
}

#[test]
fn sysret_to_compatibility_mode_where_syscall_is_undefined() {
    let program = assemble!("mov ecx, 0x1100", "mov r11d, 2", "sysret");
    let mut machine = Machine::long(program);
    with_star(&mut machine);
    machine.world.poke(0x1100, assemble!(".code32", "dec eax", "syscall"));
    let [rip, cs, ..] = machine.run_into(6);
    assert_eq!((rip, cs), (0x1101, sel::USER32.into()), "0x48 is DEC EAX, not REX.W");
    assert_eq!(machine.cpu.gpr[reg::RAX], 0xffff_ffff);
}

#[test]
fn sysenter_and_sysexit() {
    let program = assemble!("sysenter", "nop", "int 0x80");
    let mut machine = Machine::user(program);
    machine.cpu.msr.sysenter_cs = sel::CODE64.into();
    machine.cpu.msr.sysenter_eip = HANDLERS + 0xf00;
    machine.cpu.msr.sysenter_esp = INNER_STACK;
    machine.handler(0xf0, assemble!("mov rbx, rsp", "mov edx, 0x1002", "mov ecx, 0x6000", "rex64 sysexit"));
    let [rip, cs, _, rsp, ss, _] = machine.run_into(0x80);
    assert_eq!(machine.cpu.gpr[reg::RBX], INNER_STACK);
    assert_eq!((rip, rsp), (PROGRAM + 5, 0x6000));
    assert_eq!((cs, ss), ((u64::from(sel::CODE64) + 32) | 3, (u64::from(sel::CODE64) + 40) | 3));

    let mut machine = Machine::user(program);
    assert_eq!(machine.run_into(13)[..2], [0, PROGRAM], "SYSENTER_CS is null");
}

#[test]
fn swapgs_and_bases() {
    let program = assemble!(
        "mov eax, 0x5000",
        "wrgsbase rax",
        "swapgs",
        "rdgsbase rbx",
        "mov rcx, gs:[8]",
        "mov edx, 0x10",
        "mov fs, edx",
        "mov edx, 0",
        "mov fs, edx",
        "rdfsbase rsi",
        "hlt",
    );
    let mut machine = Machine::long(program);
    machine.cpu.cr4 |= cr4::FSGSBASE;
    machine.cpu.msr.kernel_gs_base = DATA + 0x100;
    machine.poke64(DATA + 0x108, 0x55);
    machine.cpu.set_segment_base(seg::FS, 0x1234);
    machine.run();
    assert_eq!(machine.cpu.msr.kernel_gs_base, DATA);
    assert_eq!((machine.cpu.gpr[reg::RBX], machine.cpu.gpr[reg::RCX]), (DATA + 0x100, 0x55));
    assert_eq!(machine.cpu.gpr[reg::RSI], 0, "a null selector clears the base");

    let mut machine = Machine::long(assemble!("rdgsbase rbx"));
    machine.run_into(6);
    let mut machine = Machine::long(assemble!("mov rax, 0x8000000000000000", "wrfsbase rax"));
    machine.cpu.cr4 |= cr4::FSGSBASE;
    assert_eq!(machine.run_into(13)[0], 0);
}

#[test]
fn user_mode_is_refused() {
    for program in [
        assemble!("hlt"),
        assemble!("cli"),
        assemble!("sti"),
        assemble!("in al, 0x60"),
        assemble!("mov rax, cr0"),
        assemble!("mov cr3, rax"),
        assemble!("mov rax, dr0"),
        assemble!("clts"),
        assemble!("lgdt [0x5000]"),
        assemble!("lidt [0x5000]"),
        assemble!("ltr ax"),
        assemble!("lldt ax"),
        assemble!("lmsw ax"),
        assemble!("rdmsr"),
        assemble!("wrmsr"),
        assemble!("invlpg [0x5000]"),
        assemble!("wbinvd"),
        assemble!("invd"),
        assemble!("swapgs"),
        assemble!("sysretq"),
        assemble!("rdpmc"),
        assemble!("sgdt [0x5000]"),
        assemble!("sidt [0x5000]"),
        assemble!("sldt ax"),
        assemble!("str ax"),
        assemble!("smsw ax"),
        assemble!("rdtsc"),
        assemble!("rdtscp"),
    ] {
        let mut machine = Machine::user(program);
        machine.cpu.cr4 |= cr4::UMIP | cr4::TSD;
        assert_eq!(machine.run_into(13)[..2], [0, PROGRAM], "{program:x?}");
    }
    for program in
        [assemble!("stac"), assemble!("clac"), assemble!("monitor"), assemble!("vmcall"), assemble!("rsm")]
    {
        Machine::user(program).run_into(6);
    }
}

#[test]
fn segment_loads_are_checked() {
    for (selector, vector, code) in [
        (0x10_u16, 13, 0x10),
        (0x60 | 3, 11, 0x60),
        (0x1000, 13, 0x1000),
        (0x30, 13, 0x30),
        (0x0c, 13, 0x0c),
        (0x08, 13, 0x08),
    ] {
        let mut machine = Machine::user(assemble!("mov ds, eax"));
        machine.cpu.gpr[reg::RAX] = selector.into();
        // Descriptor 0x60 as user data that is not present.
        machine.poke64(0x8060, 0x00cf_7300_0000_ffff);
        assert_eq!(machine.run_into(vector)[..2], [code, PROGRAM], "{selector:#x}");
    }
    let mut machine = Machine::user(assemble!("xor eax, eax", "mov ss, eax"));
    assert_eq!(machine.run_into(13)[0], 0, "SS may not be null at CPL 3");
    let mut machine = Machine::long(assemble!("xor eax, eax", "mov ss, eax", "push rax", "hlt"));
    machine.run();
}

#[test]
fn a_segment_load_sets_the_accessed_bit() {
    let mut machine = Machine::long(assemble!("mov eax, 0x10", "mov es, eax", "hlt"));
    machine.poke64(0x8010, 0x00cf_9200_0000_ffff);
    machine.run();
    assert_eq!(machine.peek64(0x8010), 0x00cf_9300_0000_ffff);
}

#[test]
fn far_jumps_between_64_bit_and_compatibility_mode() {
    let program = assemble!(
        "mov dword ptr [0x5000], 0x1020",
        "mov word ptr [0x5004], 0x40",
        "jmp fword ptr [0x5000]",
        ".code32",
        ".org 0x20 + 88b",
        "mov eax, -1",
        "inc eax",
        "dec eax",
        "ljmp 0x08, 0x1040",
        ".code64",
        ".org 0x40 + 88b",
        "mov ebx, eax",
        "push 0x08",
        "lea rax, [rip + 44f]",
        "push rax",
        "retfq",
        "ud2",
        "44:",
        "hlt",
    );
    let mut machine = Machine::long(program);
    machine.run();
    assert!(machine.cpu.mode.is_64());
    assert_eq!(machine.cpu.gpr[reg::RBX], 0xffff_ffff);
    assert_eq!(machine.cpu.gpr[reg::RSP], STACK);
}

#[test]
fn call_gate_enters_the_kernel() {
    let program = assemble!("mov word ptr [0x5004], 0x4b", "call fword ptr [0x5000]");
    let mut machine = Machine::user(program);
    let [rip, cs, rsp, ss, ..] = machine.run_into(0x90);
    assert_eq!((rip, cs), (PROGRAM + program.len() as u64, sel::USER64.into()));
    assert_eq!((rsp, ss), (STACK, sel::USER_DATA.into()));
    assert_eq!(machine.cpu.gpr[reg::RSP], INNER_STACK - 32);
    assert_eq!(machine.cpu.cpl, 0);

    let mut machine = Machine::user(assemble!("mov word ptr [0x5004], 0x4b", "jmp fword ptr [0x5000]"));
    assert_eq!(machine.run_into(13)[0], sel::CODE64.into(), "a jump may not change the level");
}

#[test]
fn iretq_checks_what_it_returns_to() {
    for (cs, ss, rip, code) in [
        (0_u64, 0x23_u64, 0_u64, 0_u64),
        (0x2b, 0, 0, 0),
        (0x2b, 0x20, 0, 0x20),
        (0x28, 0x23, 0, 0x28),
        (0x13, 0x23, 0, 0x10),
        (0x2b, 0x23, 1 << 47, 0),
    ] {
        let mut machine = Machine::long(assemble!("iretq"));
        let frame = [rip, cs, 2, 0x6000, ss];
        for (slot, value) in frame.into_iter().enumerate() {
            machine.poke64(STACK - 0x100 + slot as u64 * 8, value);
        }
        machine.cpu.gpr[reg::RSP] = STACK - 0x100;
        let [error, at, ..] = machine.run_into(13);
        assert_eq!((error, at), (code, PROGRAM), "{cs:#x} {ss:#x} {rip:#x}");
    }
}

#[test]
fn user_cannot_raise_iopl_or_if() {
    let program = assemble!("push 0x3202", "popfq", "pushfq", "pop rax", "int 0x80");
    let mut machine = Machine::user(program);
    machine.run_into(0x80);
    assert_eq!(machine.cpu.gpr[reg::RAX] & (bits::IF | bits::IOPL), 0);
}

#[test]
fn selector_examination() {
    let program = assemble!(
        "mov ecx, 0x2b",
        "lar eax, ecx",
        "setz bl",
        "lsl edx, ecx",
        "mov ecx, 0x10",
        "verr cx",
        "setz bh",
        "mov ecx, 0x23",
        "verw cx",
        "setz sil",
        "mov ecx, 0x2000",
        "lar edi, ecx",
        "setz dil",
        "int 0x80",
    );
    let mut machine = Machine::user(program);
    machine.run_into(0x80);
    let gpr = &machine.cpu.gpr;
    assert_eq!(gpr[reg::RAX], 0x00a0_fb00);
    assert_eq!(gpr[reg::RDX], 0xffff_ffff);
    assert_eq!(gpr[reg::RBX] & 0xffff, 1, "kernel data is not readable at CPL 3");
    assert_eq!(gpr[reg::RSI] & 0xff, 1);
    assert_eq!(gpr[reg::RDI] & 0xff, 0);
}

#[test]
fn ltr_marks_the_task_busy() {
    let mut machine = Machine::long(assemble!("mov eax, 0x30", "ltr ax", "str ebx", "ltr ax"));
    assert_eq!(machine.run_into(13)[0], sel::TSS.into(), "a busy task cannot be loaded");
    assert_eq!(machine.cpu.gpr[reg::RBX], sel::TSS.into());
    assert_eq!(machine.cpu.tr.attr & 15, 11);
    assert_eq!(machine.cpu.tr.base, 0xa000);
}
