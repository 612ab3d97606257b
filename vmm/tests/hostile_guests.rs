//! Guests that misbehave: whatever they do, the run ends with a status of its own and never with a panic.
//!
//! Each guest is a few instructions of 32-bit code in an ELF file with a PVH note.

mod common;

use common::{Ran, file, new_file, path, run, status_member};

/// Guest-physical address of the code.
const ENTRY: u32 = 0x20_0000;
/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u32 = 18;

/// An ELF file that loads `code` at [`ENTRY`] and is entered there by PVH.
fn pvh_elf(code: &[u8]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    let note_at = HEADER + 2 * PROGRAM_HEADER;
    let mut note = Vec::new();
    for word in [4, 4, PHYS32_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());
    let code_at = note_at + note.len() as u64;

    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend(2_u16.to_le_bytes());
    elf.extend(62_u16.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend(u64::from(ENTRY).to_le_bytes());
    elf.extend(HEADER.to_le_bytes());
    elf.extend(0_u64.to_le_bytes());
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable, writable and executable; PT_NOTE, readable.
    for (kind, flags, offset, address, size) in
        [(1_u32, 7_u32, code_at, u64::from(ENTRY), code.len() as u64), (4, 4, note_at, 0, note.len() as u64)]
    {
        elf.extend(kind.to_le_bytes());
        elf.extend(flags.to_le_bytes());
        for word in [offset, address, address, size, size, 4] {
            elf.extend(word.to_le_bytes());
        }
    }
    elf.extend(note);
    elf.extend(code);
    elf
}

struct Ended {
    ran: Ran,
    cause: String,
}

/// Runs `code` with `extra` options.
fn end(name: &str, code: &[u8], extra: &[&str]) -> Ended {
    let kernel = file(&pvh_elf(code));
    let (_folder, status) = new_file();
    let mut arguments =
        vec!["run", "--memory", "64M", "--kernel", path(kernel.path()), "--status", path(&status)];
    arguments.extend_from_slice(extra);
    let ran = run(&arguments);
    let cause = status_member(&status, "cause").as_str().unwrap_or_default().to_owned();
    assert!(!ran.stderr.contains("panicked"), "{name}: {}", ran.stderr);
    assert_ne!(cause, "", "{name}: no cause; {}", ran.stderr);
    Ended { ran, cause }
}

fn assert_timed_out(name: &str, ended: &Ended) {
    assert_eq!(ended.ran.status, 124, "{name} ended by {}", ended.cause);
}

#[test]
fn a_triple_fault_is_an_unexpected_stop() {
    // lidt [zero limit]; int3
    let ended = end("triple-fault", &[0x0f, 0x01, 0x1d, 0, 0, 0x30, 0, 0xcc], &["--timeout", "20"]);
    assert_eq!(ended.ran.status, 255, "{}", ended.cause);
}

#[test]
fn a_spin_with_interrupts_off_is_ended_by_the_timeout() {
    // cli; jmp $
    let ended = end("spin", &[0xfa, 0xeb, 0xfe], &["--timeout", "1"]);
    assert_timed_out("spin", &ended);
}

#[test]
fn a_spin_is_ended_by_the_virtual_deadline() {
    let ended = end("spin", &[0xfa, 0xeb, 0xfe], &["--deadline", "0.01", "--timeout", "20"]);
    assert_eq!(ended.ran.status, 124, "{}", ended.cause);
}

#[test]
fn a_halt_that_nothing_can_end_is_an_unexpected_stop() {
    // cli; hlt
    let ended = end("halt", &[0xfa, 0xf4], &["--timeout", "20"]);
    assert_eq!(ended.ran.status, 255, "{}", ended.cause);
}

#[test]
fn exceptions_without_end_are_ended_by_the_deadline() {
    let mut code = vec![
        0x0f, 0x01, 0x1d, 0x20, 0x00, 0x20, 0x00, // lidt [ENTRY + 0x20]
        0x0f, 0x0b, // here: ud2
    ];
    code.resize(0x20, 0x90);
    // Limit and base of the table at ENTRY + 0x40: gate 6 leads back to the ud2, on the same stack pointer each time.
    code.extend([0x7f, 0x00, 0x40, 0x00, 0x20, 0x00]);
    code.resize(0x40 + 6 * 8, 0);
    let handler = ENTRY + 7;
    code.extend((handler as u16).to_le_bytes());
    code.extend([0x10, 0x00, 0x00, 0x8e]);
    code.extend(((handler >> 16) as u16).to_le_bytes());
    // The stack runs down through RAM and then, from address 0, to where no RAM is: it never faults without paging.
    let ended = end("exceptions", &code, &["--deadline", "0.001", "--timeout", "300"]);
    assert_eq!(ended.ran.status, 124, "{}", ended.cause);
    assert!(ended.cause.contains("deadline"), "{}", ended.cause);
}

#[test]
fn a_repeated_store_over_everything_is_ended_by_the_timeout() {
    let code = [
        0xbf, 0x00, 0x10, 0x20, 0x00, // here: mov edi, ENTRY + 0x1000
        0xb9, 0xff, 0xff, 0xff, 0xff, // mov ecx, -1
        0xf3, 0xaa, // rep stosb
        0xeb, 0xf2, // jmp here
    ];
    let ended = end("rep-stos", &code, &["--timeout", "2", "--device", "mlx5"]);
    assert!(matches!(ended.ran.status, 124 | 255), "{}", ended.cause);
}

/// A loop that writes and reads pseudo-random addresses from 3 GiB up with every size; with `ports`, I/O ports too.
fn garbage(seed: u32, ports: bool) -> Vec<u8> {
    let mut code = vec![0xbb]; // mov ebx, seed
    code.extend(seed.to_le_bytes());
    code.extend([
        0x69, 0xdb, 0x6d, 0x4e, 0xc6, 0x41, // here: imul ebx, ebx, 1103515245
        0x81, 0xc3, 0x39, 0x30, 0x00, 0x00, // add ebx, 12345
        0x89, 0xd8, // mov eax, ebx
        0xc1, 0xe8, 0x02, // shr eax, 2
        0x0d, 0x00, 0x00, 0x00, 0xc0, // or eax, 0xc0000000
        0x89, 0x18, // mov [eax], ebx
        0x8b, 0x10, // mov edx, [eax]
        0x88, 0x18, // mov [eax], bl
        0x66, 0x8b, 0x10, // mov dx, [eax]
    ]);
    if ports {
        code.extend([
            0x89, 0xda, // mov edx, ebx
            0xc1, 0xea, 0x0e, // shr edx, 14
            0x81, 0xe2, 0xff, 0x0f, 0x00, 0x00, // and edx, 0xfff
            0xef, // out dx, eax
            0xed, // in eax, dx
            0xee, // out dx, al
            0x66, 0xed, // in ax, dx
        ]);
    }
    let back = 5_i32 - (code.len() as i32 + 2);
    code.extend([0xeb, back as u8]); // jmp here
    code
}

#[test]
fn garbage_at_every_memory_mapped_register_is_ended_by_the_timeout() {
    let devices = ["--timeout", "3", "--device", "mlx5", "--device", "mlx5,slot=2"];
    let ended = end("garbage", &garbage(12345, false), &devices);
    assert_timed_out("garbage", &ended);
}

#[test]
fn garbage_at_every_port_ends_like_any_run() {
    for seed in 1..=20 {
        let ended = end("garbage", &garbage(seed, true), &["--timeout", "1", "--device", "mlx5"]);
        // Some of it switches the machine off, resets it or asks for an exit status.
        let expected = ["timeout", "power-off", "reset", "debug-exit", "triple-fault"];
        assert!(expected.contains(&ended.cause.as_str()), "seed {seed}: {}", ended.cause);
    }
}

#[test]
fn an_endless_stream_to_the_console_is_not_kept_in_memory() {
    let code = [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, 0x41, // mov al, 'A'
        0xee, // here: out dx, al
        0xeb, 0xfd, // jmp here
    ];
    let ended = end("console", &code, &["--timeout", "2"]);
    assert_timed_out("console", &ended);
    assert!(ended.ran.stdout.bytes().filter(|byte| *byte == b'A').count() > 1000);
}
