//! Everything between power-on and the kernel's first instruction: this VMM is the firmware and the boot loader.

pub mod acpi;
mod bzimage;
pub mod cmdline;
pub mod e820;
mod elf;
mod entry;
pub mod firmware;
mod initrd;
mod kernel;
mod multiboot;
mod pvh;
mod unpack;
mod zero_page;

pub use entry::{CpuState, Entry};
pub use initrd::InitrdPart;
pub use kernel::{Kernel, KernelError};

use crate::machine::Confidential;
use crate::memory::GuestRam;
use crate::memory::layout::{FIRMWARE_END, PAGE};
use crate::memory::ram::NotRam;
use std::io;
use std::path::{Path, PathBuf};

/// Where the boot code leaves its structures: conventional memory that the kernel takes over once it has read them.
mod place {
    use crate::memory::layout::{CONVENTIONAL_END, FIRMWARE_END};
    use std::ops::Range;

    /// Global descriptor table.
    pub const GDT: u64 = 0x500;
    /// PVH start info, its memory map and module list.
    pub const PVH_START_INFO: u64 = 0x6000;
    /// The zero page (`struct boot_params`).
    pub const ZERO_PAGE: u64 = 0x7000;
    /// Identity page tables of the first 4 GiB: six pages.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// Multiboot information, its memory map, module list and strings.
    pub const MULTIBOOT_INFO: u64 = 0x1_0000;
    /// Bytes that the multiboot information may have.
    pub const MULTIBOOT_INFO_SIZE: u64 = 0x1_0000;
    /// Command line.
    pub const COMMAND_LINE: u64 = 0x2_0000;
    /// Bytes that the command line may have with its terminator.
    pub const COMMAND_LINE_SIZE: u64 = 0x1_0000;
    /// What a kernel that loads below 1 MiB must keep clear of: descriptor table, information, command line, firmware.
    pub const IN_USE: [Range<u64>; 4] = [
        GDT..GDT + 0x100,
        MULTIBOOT_INFO..MULTIBOOT_INFO + MULTIBOOT_INFO_SIZE,
        COMMAND_LINE..COMMAND_LINE + COMMAND_LINE_SIZE,
        CONVENTIONAL_END..FIRMWARE_END,
    ];
}

/// The guest cannot be booted. Each message names the file and the reason.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("{what} {}: {source}", path.display())]
    Read { what: &'static str, path: PathBuf, source: io::Error },
    #[error("kernel {}: {source}", path.display())]
    Kernel { path: PathBuf, source: KernelError },
    #[error(
        "too little memory: kernel {} needs RAM up to {needed:#x}, the machine's ends at {available:#x}",
        path.display()
    )]
    KernelTooLarge { path: PathBuf, needed: u64, available: u64 },
    #[error("initrd {}: {size} bytes do not fit between the kernel's end ({from:#x}) and {to:#x}", path.display())]
    InitrdTooLarge { path: PathBuf, size: u64, from: u64, to: u64 },
    #[error(
        "the modules' names take more room than the boot information has: give fewer --initrd, or shorter paths"
    )]
    ModuleStrings,
    #[error(transparent)]
    CommandLine(#[from] cmdline::CommandLineError),
    #[error("boot structures do not fit into RAM: {0}")]
    Ram(#[from] NotRam),
}

/// What is to be booted.
#[derive(Debug)]
pub struct Boot<'a> {
    pub kernel: &'a Kernel,
    /// Pieces that make up the initial RAM file system, in order; to a multiboot kernel each is a module.
    pub initrd: &'a [InitrdPart],
    pub command_line: &'a str,
    pub cpus: u32,
    /// Memory encryption that the guest is shown.
    pub confidential: Option<Confidential>,
}

/// Loads kernel, initrd, command line and firmware tables, and returns the state in which the bootstrap processor starts.
///
/// # Errors
/// [`BootError`] names the file and the reason.
pub fn load(ram: &GuestRam, boot: &Boot<'_>) -> Result<CpuState, BootError> {
    let kernel = boot.kernel;
    let command_line = kernel.command_line(boot.command_line);
    cmdline::check(&command_line, kernel.command_line_max())?;
    acpi::write(ram, boot.cpus)?;

    let kernel_end = kernel.load(ram)?;
    let top = ram.low_end().min(kernel.initrd_max().saturating_add(1));
    let free = kernel_end.next_multiple_of(PAGE);

    let mut line = command_line.as_bytes().to_vec();
    line.push(0);
    ram.write(place::COMMAND_LINE, &line)?;

    let map = e820::map(ram, boot.confidential);
    let initrd = || initrd::load(ram, boot.initrd, free, top);
    let state = match kernel.entry() {
        Entry::Multiboot(address) => {
            // Modules follow the kernel, as kernels expect that know only the end of the last one.
            let modules = initrd::load_modules(ram, boot.initrd, free.max(FIRMWARE_END), top)?;
            multiboot::write(ram, &multiboot::Info { map: &map, modules: &modules })?;
            entry::protected_mode(ram, address, entry::ProtectedProtocol::Multiboot)?
        }
        Entry::Pvh(address) => {
            pvh::write(ram, &map, initrd()?)?;
            entry::protected_mode(ram, address, entry::ProtectedProtocol::Pvh)?
        }
        Entry::Long(address) => {
            zero_page::write(ram, kernel.setup_header(), &map, initrd()?, &command_line)?;
            entry::long_mode(ram, address, boot.confidential)?
        }
        Entry::Protected(address) => {
            zero_page::write(ram, kernel.setup_header(), &map, initrd()?, &command_line)?;
            entry::protected_mode(ram, address, entry::ProtectedProtocol::Linux)?
        }
    };
    Ok(state)
}

/// Reads a whole file; the error names it.
fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, BootError> {
    std::fs::read(path).map_err(|source| BootError::Read { what, path: path.to_owned(), source })
}
