//! Boot of a stock kernel to user space and power-off, in staleline and in QEMU TCG.

use crate::process::{Measured, measure, median};
use anyhow::{Context, Result, ensure};
use guest_images::progress::for_stderr;
use guest_images::{Image, Store, append_archive, command_archive};
use std::fs;
use std::path::Path;
use std::process::Command;

const IMAGE: &str = "debian-cloud-6.1";
const MEMORY: &str = "512M";

pub(crate) fn run(staleline: &Path, rounds: usize) -> Result<()> {
    let image = Store::open(None)?.ensure(IMAGE, &*for_stderr())?;
    let folder = tempfile::tempdir()?;
    let initrd = folder.path().join("initrd");
    let status = folder.path().join("status.json");
    let mut archive = fs::read(&image.initrd)?;
    append_archive(&mut archive, &command_archive(&["true".into()]));
    fs::write(&initrd, archive)?;
    let cmdline = format!("{} rdinit=/staleline/init", image.cmdline);
    let qemu_present = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();

    println!("boot of {} to user space and power-off, {MEMORY}, 1 vCPU", image.manifest.kernel_release);
    let (mut walls, mut rates, mut ratios, mut peaks) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let ours = measure(&mut soft(staleline, &image, &initrd, &cmdline, &status))?;
        ensure!(
            ours.success,
            "staleline failed; run it by hand: {:?}",
            soft(staleline, &image, &initrd, &cmdline, &status)
        );
        walls.push(ours.wall.as_secs_f64());
        peaks.push(ours.peak_kib as f64 / 1024.0);
        rates.push(instructions(&status)? / ours.wall.as_secs_f64() / 1e6);
        if qemu_present {
            let theirs: Measured = measure(&mut qemu(&image, &initrd, &cmdline))?;
            ensure!(theirs.success, "QEMU failed");
            ratios.push(ours.wall.as_secs_f64() / theirs.wall.as_secs_f64());
        }
    }
    println!(
        "  staleline     {:7.2} s   {:6.1} MIPS   {:6.1} M instructions   peak {:.0} MiB",
        median(&walls),
        median(&rates),
        instructions(&status)? / 1e6,
        median(&peaks)
    );
    if ratios.is_empty() {
        println!("  QEMU TCG      not installed, no ratio");
    } else {
        println!("  times QEMU TCG {:6.2} (median of {rounds}; each ratio from one round)", median(&ratios));
    }
    Ok(())
}

/// Staleline on the image, ended by the guest's power-off.
fn soft(staleline: &Path, image: &Image, initrd: &Path, cmdline: &str, status: &Path) -> Command {
    let mut command = Command::new(staleline);
    command
        .args(["run", "--engine", "soft", "--memory", MEMORY, "--timeout", "300", "--kernel"])
        .arg(&image.kernel);
    command.arg("--initrd").arg(initrd).args(["--cmdline", cmdline]).arg("--status").arg(status);
    command
}

fn qemu(image: &Image, initrd: &Path, cmdline: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-cpu", "max", "-m", MEMORY, "-display", "none", "-no-reboot"]);
    command.args(["-serial", "stdio", "-serial", "null", "-kernel"]).arg(&image.kernel);
    command.arg("-initrd").arg(initrd).args(["-append", cmdline]);
    command
}

/// Instructions retired, from a status file.
fn instructions(status: &Path) -> Result<f64> {
    let text = fs::read_to_string(status)?;
    let status: serde_json::Value = serde_json::from_str(&text)?;
    status["instructions"].as_f64().context("the status file has no `instructions`")
}
