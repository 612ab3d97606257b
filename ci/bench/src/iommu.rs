//! What confining devices to bounce buffers costs: the boot of a stock kernel that bounces all DMA, and blocks of 4 KiB read from a
//! virtio disk, with the IOMMU and without in turn. The guest does the same in both.

use crate::process::measure;
use crate::table::Figure;
use anyhow::{Result, ensure};
use guest_images::Store;
use guest_images::progress::for_stderr;
use std::fs::File;
use std::path::Path;
use std::process::Command;

const IMAGE: &str = "debian-cloud-6.12";
/// What `--iommu bounce` adds to the kernel's command line.
const BOUNCING: &str = "swiotlb=force iommu=soft";
/// What a boot with it may take, and a block, times those without.
const BOOT_TARGET: f64 = 1.1;
const BLOCK_TARGET: f64 = 2.0;
const BLOCKS: u32 = 16_000;
/// Bytes of the disk: those blocks.
const DISK: u64 = 64 << 20;

/// Measures boots to user space, and reads of blocks from there on.
pub(crate) fn run(staleline: &Path, rounds: u32) -> Result<Vec<Figure>> {
    // What is built is built before anything is measured.
    let image = Store::open(None)?.ensure(IMAGE, &*for_stderr())?;
    let plain = image.cmdline;
    let bouncing = format!("{plain} {BOUNCING}");
    let figure = |what: &str, unit| Figure::new(format!("{IMAGE} {what}"), unit);
    let with_target = |what, target| {
        let mut figure = figure(what, "");
        figure.target = Some(target);
        figure
    };
    let mut boots = [
        figure("boot, no bounce buffers", "s"),
        figure("boot, --iommu off", "s"),
        figure("boot, --iommu bounce", "s"),
    ];
    let mut boot_ratio = with_target("boot, --iommu bounce: times off", BOOT_TARGET);
    let mut blocks = [figure("4 KiB read, --iommu off", "µs"), figure("4 KiB read, --iommu bounce", "µs")];
    let mut block_ratio = with_target("4 KiB read, --iommu bounce: times off", BLOCK_TARGET);
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    File::create(&disk)?.set_len(DISK)?;
    let saved = |iommu: &str| folder.path().join(iommu);
    for round in 1..=rounds {
        eprintln!("iommu: round {round} of {rounds}");
        let seconds = |cmdline, iommu| boot(staleline, cmdline, iommu, &disk, &saved(iommu));
        let unbounced = seconds(&plain, "off")?;
        let [off, on] = [seconds(&bouncing, "off")?, seconds(&bouncing, "bounce")?];
        for (figure, value) in boots.iter_mut().zip([unbounced, off, on]) {
            figure.values.push(value);
        }
        boot_ratio.values.push(on / off);
        let [each_off, each_on] =
            [read_blocks(staleline, &saved("off"))?, read_blocks(staleline, &saved("bounce"))?];
        for (figure, value) in blocks.iter_mut().zip([each_off, each_on]) {
            figure.values.push(value);
        }
        block_ratio.values.push(each_on / each_off);
    }
    Ok(boots.into_iter().chain([boot_ratio]).chain(blocks).chain([block_ratio]).collect())
}

/// Seconds of a boot up to user space, where the machine is saved.
fn boot(staleline: &Path, cmdline: &str, iommu: &str, disk: &Path, saved: &Path) -> Result<f64> {
    let disk = format!("blk,path={},readonly=on", disk.display());
    let mut command = Command::new(staleline);
    command.args(["run", "--engine", "soft", "--kernel", IMAGE, "--cmdline", cmdline, "--iommu", iommu]);
    command.args(["--device", "mlx5", "--device", &disk, "--save"]).arg(saved);
    seconds(command)
}

/// Microseconds of reading a block past the page cache, in a machine that was saved.
fn read_blocks(staleline: &Path, saved: &Path) -> Result<f64> {
    let mut command = Command::new(staleline);
    command.args(["run", "--restore"]).arg(saved).args(["--", "dd", "if=/dev/vda", "of=/dev/null"]);
    command.args(["bs=4k", "iflag=direct", &format!("count={BLOCKS}")]);
    Ok(seconds(command)? * 1e6 / f64::from(BLOCKS))
}

fn seconds(mut command: Command) -> Result<f64> {
    let measured = measure(&mut command)?;
    ensure!(measured.success, "it fails: {command:?}");
    Ok(measured.wall.as_secs_f64())
}
