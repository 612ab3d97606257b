//! Bochs on a Linux kernel without firmware or boot loader of others: a ROM of ours copies kernel, initramfs and boot
//! parameters from a disk image and enters the kernel by the 32-bit boot protocol (`programs/bochs-rom.S`; boot.rst).

use crate::guest::{Guest, MEMORY, source};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where things go in guest memory. The first three are the ROM's, too.
const ZERO_PAGE: u32 = 0x9_0000;
const KERNEL: u32 = 0x100_0000;
const ROM_TABLE: usize = 0xff00;
const COMMAND_LINE: u32 = 0x2_0000;
const INITRD: u32 = 0x1000_0000;

const ROM_SIZE: usize = 0x1_0000;
const SECTOR: usize = 512;
/// Disk geometry: heads and sectors a track.
const HEADS: usize = 16;
const TRACK: usize = 63;

/// Offsets in the kernel's setup header and the zero page, which begin alike (boot.rst, zero-page.rst).
mod offset {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const HEADER_END: usize = 0x201;
    pub const HEADER_BASE: usize = 0x202;
    pub const LOADER: usize = 0x210;
    pub const CODE32_START: usize = 0x214;
    pub const INITRD: usize = 0x218;
    pub const COMMAND_LINE: usize = 0x228;
    pub const MAP_ENTRIES: usize = 0x1e8;
    pub const MAP: usize = 0x2d0;
}
/// `type_of_loader` of a loader without a number.
const UNKNOWN_LOADER: u8 = 0xff;
const RAM: u32 = 1;

/// Writes ROM, disk and configuration into the guest's folder and returns the command.
pub(crate) fn command(guest: &Guest) -> Result<Command> {
    let folder = guest.folder.path();
    let (disk, table) = disk(guest)?;
    fs::write(folder.join("disk"), &disk)?;
    // What an earlier round's Bochs, which has been ended, has left.
    let lock = folder.join("disk.lock");
    if lock.exists() {
        fs::remove_file(lock)?;
    }
    fs::write(folder.join("rom"), rom(folder, &table)?)?;
    fs::write(folder.join("vga"), video_rom())?;
    let cylinders = disk.len() / (HEADS * TRACK * SECTOR);
    let at = |name: &str| folder.join(name).display().to_string();
    let configuration = format!(
        "display_library: rfb, options=\"timeout=0\"\n\
         cpu: count=1, ips=50000000, reset_on_triple_fault=0\n\
         memory: guest={MEMORY}, host={MEMORY}\n\
         romimage: file={}, address=0xffff0000\n\
         vgaromimage: file={}\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=disk, path={}, mode=flat, cylinders={cylinders}, heads={HEADS}, spt={TRACK}\n\
         com1: enabled=1, mode=file, dev=/dev/stdout\n\
         com2: enabled=1, mode=null\n\
         clock: sync=none\n\
         sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
         log: {}\n\
         panic: action=fatal\n",
        at("rom"),
        at("vga"),
        at("disk"),
        at("log"),
    );
    fs::write(folder.join("bochsrc"), configuration)?;
    let mut command = Command::new("bochs");
    command.arg("-q").arg("-f").arg(folder.join("bochsrc"));
    if has_debugger()? {
        fs::write(folder.join("continue"), "c\n")?;
        command.arg("-rc").arg(folder.join("continue"));
    }
    Ok(command)
}

/// A Bochs built with its debugger stops before the first instruction and asks.
fn has_debugger() -> Result<bool> {
    let output = Command::new("bochs").arg("--help").output().context("bochs")?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).contains("-rc "))
}

/// A part of the disk that the ROM copies.
struct Piece {
    sector: usize,
    sectors: usize,
    address: u32,
}

/// The disk, and what the ROM is to copy from it.
fn disk(guest: &Guest) -> Result<(Vec<u8>, Vec<Piece>)> {
    let kernel = fs::read(&guest.image.kernel)?;
    let initrd = fs::read(&guest.initrd)?;
    let zero_page = zero_page(&kernel, initrd.len())?;
    let setup_sectors = match kernel.get(offset::SETUP_SECTS) {
        None | Some(0) => 4,
        Some(&sectors) => usize::from(sectors),
    };
    let code = kernel.get((setup_sectors + 1) * SECTOR..).context("the kernel is cut off")?;
    let mut line = guest.cmdline.clone().into_bytes();
    line.push(0);
    let (mut disk, mut pieces) = (vec![0; SECTOR], Vec::new());
    let contents: [(&[u8], u32); 4] =
        [(&zero_page, ZERO_PAGE), (&line, COMMAND_LINE), (code, KERNEL), (&initrd, INITRD)];
    for (bytes, address) in contents {
        let (sector, sectors) = (disk.len() / SECTOR, bytes.len().div_ceil(SECTOR));
        pieces.push(Piece { sector, sectors, address });
        disk.extend_from_slice(bytes);
        disk.resize((sector + sectors) * SECTOR, 0);
    }
    disk.resize(disk.len().next_multiple_of(HEADS * TRACK * SECTOR), 0);
    Ok((disk, pieces))
}

/// The boot parameters: the kernel's own header, and what a loader fills in.
fn zero_page(kernel: &[u8], initrd_size: usize) -> Result<Vec<u8>> {
    let mut page = vec![0; 4096];
    let end = offset::HEADER_BASE + usize::from(*kernel.get(offset::HEADER_END).context("no bzImage")?);
    let header = kernel.get(offset::SETUP_SECTS..end).context("no bzImage")?;
    page[offset::SETUP_SECTS..end].copy_from_slice(header);
    page[offset::LOADER] = UNKNOWN_LOADER;
    let mut put = |at: usize, value: u32| page[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(offset::CODE32_START, KERNEL);
    put(offset::INITRD, INITRD);
    put(offset::INITRD + 4, u32::try_from(initrd_size)?);
    put(offset::COMMAND_LINE, COMMAND_LINE);
    // Conventional memory, and what lies above 1 MiB: base, size and type, as two, two and one double words.
    let map = [(0, 0x9_fc00), (0x10_0000, (MEMORY << 20) - 0x10_0000)];
    for (index, (base, size)) in map.into_iter().enumerate() {
        let at = offset::MAP + 20 * index;
        for (position, value) in [base, 0, size, 0, RAM].into_iter().enumerate() {
            put(at + 4 * position, value);
        }
    }
    page[offset::MAP_ENTRIES] = 2;
    Ok(page)
}

/// The ROM with its table of what to copy.
fn rom(folder: &Path, pieces: &[Piece]) -> Result<Vec<u8>> {
    let (object, flat) = (folder.join("rom.o"), folder.join("rom.flat"));
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    run(Command::new(cc).arg("-c").arg("-o").arg(&object).arg(source("bochs-rom.S")))?;
    run(Command::new("objcopy").args(["-O", "binary", "-j", ".rom"]).arg(&object).arg(&flat))?;
    let mut rom = fs::read(flat)?;
    ensure!(rom.len() == ROM_SIZE, "the ROM has {} bytes", rom.len());
    let words = pieces.iter().flat_map(|piece| [piece.sector as u32, piece.sectors as u32, piece.address]);
    for (slot, word) in rom[ROM_TABLE..].chunks_exact_mut(4).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    Ok(rom)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// The smallest option ROM, which returns at once: Bochs wants one for its VGA.
fn video_rom() -> Vec<u8> {
    let mut rom = vec![0; SECTOR];
    rom[..4].copy_from_slice(&[0x55, 0xaa, 1, 0xcb]);
    let sum = rom.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    rom[SECTOR - 1] = sum.wrapping_neg();
    rom
}
