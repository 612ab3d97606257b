//! What confining devices to bounce buffers costs: the boot of a stock kernel that bounces all DMA, and blocks of 4 KiB read from a
//! virtio disk, with the IOMMU and without in turn. The guest does the same in both.

use crate::process::measure;
use crate::table::Figure;
use anyhow::{Result, ensure};
use guest_images::Store;
use guest_images::progress::for_stderr;
use std::path::Path;
use std::process::Command;

const IMAGE: &str = "debian-cloud-6.12";
/// What `--iommu bounce` adds to the kernel's command line.
const BOUNCING: &str = "swiotlb=force iommu=soft";
/// What a boot with it may take, and a block, times those without.
const BOOT_TARGET: f64 = 1.1;
const BLOCK_TARGET: f64 = 2.0;
const BLOCKS: u32 = 16_000;

/// Measures boots to user space and a command that does nothing, and ones that read blocks.
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
    for round in 1..=rounds {
        eprintln!("iommu: round {round} of {rounds}");
        let seconds = |cmdline, iommu, blocks| run_guest(staleline, cmdline, iommu, blocks);
        let unbounced = seconds(&plain, "off", 0)?;
        let [off, on] = [seconds(&bouncing, "off", 0)?, seconds(&bouncing, "bounce", 0)?];
        for (figure, value) in boots.iter_mut().zip([unbounced, off, on]) {
            figure.values.push(value);
        }
        boot_ratio.values.push(on / off);
        let each = |whole: f64, boot: f64| (whole - boot) * 1e6 / f64::from(BLOCKS);
        let each_off = each(seconds(&bouncing, "off", BLOCKS)?, off);
        let each_on = each(seconds(&bouncing, "bounce", BLOCKS)?, on);
        for (figure, value) in blocks.iter_mut().zip([each_off, each_on]) {
            figure.values.push(value);
        }
        block_ratio.values.push(each_on / each_off);
    }
    Ok(boots.into_iter().chain([boot_ratio]).chain(blocks).chain([block_ratio]).collect())
}

/// Seconds of a boot, and of reading so many blocks past the page cache.
fn run_guest(staleline: &Path, cmdline: &str, iommu: &str, blocks: u32) -> Result<f64> {
    let mut command = Command::new(staleline);
    command.args(["run", "--engine", "soft", "--kernel", IMAGE, "--cmdline", cmdline, "--iommu", iommu]);
    command.args(["--device", "mlx5", "--device", "blk,size=64M", "--", "dd", "if=/dev/vda", "of=/dev/null"]);
    command.args(["bs=4k", "iflag=direct", &format!("count={blocks}")]);
    let measured = measure(&mut command)?;
    ensure!(measured.success, "it fails: {command:?}");
    Ok(measured.wall.as_secs_f64())
}
