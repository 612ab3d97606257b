//! Compiles the guest's init with the host's C compiler. It is freestanding, so no guest library is needed and
//! `work_archive` works for any initramfs, without an image cache.

use std::path::PathBuf;
use std::process::Command;

const FLAGS: [&str; 16] = [
    "-std=gnu11",
    "-O2",
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pie",
    "-no-pie",
    "-fno-asynchronous-unwind-tables",
    "-fno-tree-loop-distribute-patterns",
    "-fcf-protection=none",
    "-mgeneral-regs-only",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
    "-Wl,-z,norelro",
    "-Wl,-s",
];

fn main() {
    for source in ["staleline-init.c", "syscalls.h", "channel.h"] {
        println!("cargo::rerun-if-changed=programs/{source}");
    }
    println!("cargo::rerun-if-env-changed=CC");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("staleline-init");
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&cc).args(FLAGS).arg("-o").arg(&out).arg("programs/staleline-init.c").status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            println!(
                "cargo::error=compiling guest-images/programs/staleline-init.c with {cc:?} failed: {status}"
            );
        }
        Err(error) => {
            println!(
                "cargo::error=staleline needs a C compiler for its guest programs; running {cc:?} failed: {error}"
            );
        }
    }
}
