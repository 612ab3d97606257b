//! Multiboot kernels on the command line: modules, kernels without an ELF header, what is refused.

mod common;

use common::{Ran, file, path, run};
use guest_images::bare_metal::BareMetalKernel;

const MAGIC: u32 = 0x1bad_b002;

/// A flat kernel with addresses in its header, at 2 MiB: `code` follows the header.
fn flat(flags: u32, code: &[u8]) -> tempfile::NamedTempFile {
    let base = 0x20_0000;
    let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    let header = [MAGIC, flags, checksum, base, base, 0, 0, base + 32];
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend_from_slice(code);
    file(&bytes)
}

fn run_flat(flags: u32, code: &[u8], options: &[&str]) -> Ran {
    let kernel = flat(flags, code);
    let mut arguments = vec!["run", "--kernel", path(kernel.path()), "--memory", "16M", "--deadline", "1"];
    arguments.extend_from_slice(options);
    run(&arguments)
}

#[test]
fn modules_are_where_the_list_says() {
    let folder = tempfile::tempdir().unwrap();
    let kernels = BareMetalKernel::all().unwrap();
    let kernel = kernels.iter().find(|kernel| kernel.name == "multiboot").unwrap();
    let kernel = kernel.build(folder.path()).unwrap();
    let (first, second) = (file(b"first module"), file(&[b'x'; 5000]));
    let ran = run(&[
        "run",
        "--kernel",
        path(&kernel),
        "--memory",
        "64M",
        "--cmdline",
        "a=1 b",
        "--initrd",
        path(first.path()),
        "--initrd",
        path(second.path()),
    ]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let expected = [
        format!("module 0: {}: 12 bytes: first module", path(first.path())),
        format!("module 1: {}: 5000 bytes: xxxxxxxxxxxxxxxx", path(second.path())),
    ];
    for line in ["2 modules".to_owned()].iter().chain(&expected) {
        assert!(ran.stdout.lines().any(|printed| printed == line), "{line}: {ran:?}");
    }
}

#[test]
fn the_state_at_the_entry_is_the_specifications() {
    let code = [
        0x3d, 0x02, 0xb0, 0xad, 0x2b, // cmp eax, 0x2badb002
        0x75, 0x1c, // jne fail
        0xf6, 0x03, 0x41, // test byte [ebx], memory and map
        0x74, 0x17, // jz fail
        0x0f, 0x20, 0xc0, // mov eax, cr0
        0x25, 0x01, 0x00, 0x00, 0x80, // and eax, PG | PE
        0x48, // dec eax
        0x75, 0x0c, // jne fail
        0xbc, 0x00, 0x00, 0x30, 0x00, // mov esp, 0x300000
        0x9c, // pushf
        0x58, // pop eax
        0xf6, 0xc4, 0x02, // test ah, IF
        0x74, 0x04, // jz pass
        0xb0, 0x01, // fail: mov al, 1
        0xeb, 0x02, // jmp end
        0xb0, 0x15, // pass: mov al, 21
        0xe6, 0xf4, // end: out 0xf4, al
        0xf4, // hlt
    ];
    let ran = run_flat(1 << 16, &code, &[]);
    assert_eq!(ran.status, 43, "{ran:?}");
}

#[test]
fn what_cannot_be_booted_says_why() {
    for (flags, options, reason) in [
        (1 << 16 | 1 << 5, &[][..], "flags 0x20"),
        (0, &[], "gives no addresses"),
        (1 << 16, &["--", "true"], "runs no command"),
        (1 << 16, &["--save", "/nonexistent/x"], "no ready mark"),
        (1 << 16, &["--initrd", "/nonexistent"], "/nonexistent: No such file"),
    ] {
        let ran = run_flat(flags, &[0xf4], options);
        assert_eq!(ran.status, 125, "{ran:?}");
        assert!(ran.stderr.contains(reason) && ran.stderr.lines().count() == 1, "{reason}: {ran:?}");
    }
}
