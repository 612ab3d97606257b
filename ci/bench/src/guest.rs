//! What all machines boot: Debian's 6.1 cloud kernel and the benchmark's program.

use anyhow::{Context, Result, ensure};
use guest_images::progress::for_stderr;
use guest_images::{Image, Store, append_archive, file_archive};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const IMAGE: &str = "debian-cloud-6.1";
/// MiB of RAM.
pub(crate) const MEMORY: u32 = 512;
/// Where the program lies in the guest.
const PROGRAM: &str = "bench/workload";
/// Where the guest's PID 1 lies: no peer could tell staleline's what to run.
const INIT: &str = "bench/init";
/// The workload that is the boot itself.
pub(crate) const BOOT: &str = "boot";

/// Floating point without fused operations: the same results with every compiler and on every machine.
const FLAGS: [&str; 7] = ["-std=gnu11", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"];

/// A kernel, an initramfs that runs one workload, and a folder for what a machine needs besides.
#[derive(Debug)]
pub(crate) struct Guest {
    pub image: Image,
    pub initrd: PathBuf,
    pub cmdline: String,
    pub folder: TempDir,
    boot: bool,
}

impl Guest {
    /// Builds the image and the program, if need be.
    pub(crate) fn prepare(workload: &str) -> Result<Self> {
        let image = Store::open(None)?.ensure(IMAGE, &*for_stderr())?;
        let folder = tempfile::tempdir()?;
        let program = compile(folder.path())?;
        let mut archive = fs::read(&image.initrd)?;
        append_archive(&mut archive, &file_archive(PROGRAM, 0o755, &program));
        append_archive(&mut archive, &file_archive(INIT, 0o755, init(workload).as_bytes()));
        let initrd = folder.path().join("initrd");
        fs::write(&initrd, archive)?;
        let cmdline = format!("{} rdinit=/{INIT}", image.cmdline);
        Ok(Self { image, initrd, cmdline, folder, boot: workload == BOOT })
    }

    /// The workload is over when the machine has powered off, not when the program says so.
    pub(crate) fn ends_itself(&self) -> bool {
        self.boot
    }

    /// The file of staleline's `--status`.
    pub(crate) fn status(&self) -> PathBuf {
        self.folder.path().join("status.json")
    }

    /// Instructions that staleline has retired, if it came to its end.
    pub(crate) fn instructions(&self) -> Option<f64> {
        let text = fs::read_to_string(self.status()).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()?["instructions"].as_f64()
    }
}

/// PID 1: loads the image's modules, as staleline's own does, runs the workload and switches the machine off.
fn init(workload: &str) -> String {
    format!(
        "#!/bin/sh
        mount -t proc proc /proc
        mount -t sysfs sysfs /sys
        mount -t devtmpfs devtmpfs /dev
        mount -t tmpfs tmpfs /tmp
        while read -r module; do insmod $module; done < /staleline/modules
        /{PROGRAM} {workload}
        exec poweroff -f
        "
    )
}

fn compile(folder: &Path) -> Result<Vec<u8>> {
    let output = folder.join("workload");
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let source = source("workload.c");
    let mut command = Command::new(cc);
    command.args(FLAGS).arg("-o").arg(&output).arg(source).arg("-lm");
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "the workload does not compile: install gcc and libc6-dev");
    Ok(fs::read(output)?)
}

/// A source file of a program of ours.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}
