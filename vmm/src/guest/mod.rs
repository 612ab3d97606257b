//! What a running x86-64 Linux guest says of itself, read from its memory without disturbing anything: its symbols, the
//! layout of its structures, its stacks and tasks.
//!
//! A guest is hostile: all that is read is checked, every table and list has an end, and nothing here changes the guest.

mod build_id;
mod file;
mod kallsyms;
pub mod memory;
mod registers;
mod symbols;

pub use build_id::BuildId;
pub use file::{SymbolFile, SymbolFileError};
pub use memory::{AddressSpace, GuestMemory, Unmapped};
pub use registers::Registers;
pub use symbols::Symbol;

use crate::memory::GuestRam;
use std::path::PathBuf;
use std::sync::Arc;
use symbols::SymbolTable;

/// Where SYSCALL enters the kernel: what IA32_LSTAR holds.
const SYSCALL_ENTRY: &str = "entry_SYSCALL_64";
/// What the kernel says first at boot: `Linux version 6.12.1 (…`.
const BANNER: &str = "linux_banner";
const BANNER_START: &str = "Linux version ";
/// The kernel's own top page table.
const TOP_TABLE: &str = "init_top_pgt";
/// The kernel's notes begin and end here.
const NOTES: (&str, &str) = ("__start_notes", "__stop_notes");
/// Most bytes of them that are looked at.
const MAX_NOTES: u64 = 1 << 16;
/// Linear addresses of the kernel's image (Documentation/arch/x86/x86_64/mm.rst of Linux).
const IMAGE_START: u64 = 0xffff_ffff_8000_0000;
const IMAGE_END: u64 = 0xffff_ffff_c000_0000;
/// What a kernel moves itself by is a multiple of this (CONFIG_PHYSICAL_ALIGN is no less on x86-64).
const SLIDE_STEP: u64 = 2 << 20;

/// The guest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error("the guest's kernel has not set its system call entry (IA32_LSTAR) yet, or is no 64-bit Linux")]
    NotYet,
    #[error(
        "no symbols are found in the guest's memory: its kernel is no Linux from 6.1 on, or has no CONFIG_KALLSYMS (give its vmlinux or System.map with --symbols)"
    )]
    NoSymbols,
    #[error("{}: its build-id is {file_id}, that of the running kernel is {running}: these are symbols of another kernel", file.display())]
    BuildId { file: PathBuf, file_id: BuildId, running: BuildId },
    #[error("{}: these are symbols of another kernel than the one that runs: {reason}", file.display())]
    Mismatch { file: PathBuf, reason: String },
}

/// A Linux kernel that runs. Cheap to clone; a copy of the machine can go on with a clone, and a machine that was saved
/// has everything in its memory to [`Guest::discover`] it again, so it is no part of saved machines.
#[derive(Debug, Clone)]
pub struct Guest {
    kernel: Arc<Kernel>,
}

/// What does not change while the kernel runs.
#[derive(Debug)]
struct Kernel {
    symbols: SymbolTable,
    /// Translates the kernel's addresses whatever runs.
    space: AddressSpace,
    release: String,
    build_id: Option<BuildId>,
}

/// Whether what the kernel says first is at `address`.
fn is_banner(memory: &GuestMemory<'_>, address: u64) -> bool {
    memory.string(address, BANNER_START.len()).as_deref() == Ok(BANNER_START)
}

/// The build-id in the kernel's notes.
fn running_build_id(memory: &GuestMemory<'_>, symbols: &SymbolTable) -> Option<BuildId> {
    let start = symbols.address(NOTES.0)?;
    let length = symbols.address(NOTES.1)?.checked_sub(start)?.min(MAX_NOTES);
    BuildId::in_notes(&memory.mapped_bytes(start, length as usize))
}

impl Guest {
    /// Finds the kernel: its symbols are those of `file`, if there is one, else those that it carries in its memory. To be
    /// called when IA32_LSTAR has been set, or at any time later, with the registers of any vCPU.
    ///
    /// # Errors
    /// [`GuestError`] if the kernel has not come so far, has no symbols, or `file` is of another.
    pub fn discover(
        ram: &GuestRam,
        registers: &Registers,
        file: Option<&SymbolFile>,
    ) -> Result<Self, GuestError> {
        let entry = registers.lstar;
        if !(IMAGE_START..IMAGE_END).contains(&entry) {
            return Err(GuestError::NotYet);
        }
        let memory = GuestMemory::new(ram, registers.space);
        let carried = kallsyms::find(&memory, entry);
        let symbols = match file {
            Some(file) => of_file(file, &memory, entry, carried.as_ref())?,
            None => carried.ok_or(GuestError::NoSymbols)?,
        };
        let top = symbols.address(TOP_TABLE).and_then(|table| memory.translate(table).ok());
        let space = top.map_or(registers.space, |top| registers.space.with_root(top));
        let banner = symbols.address(BANNER).and_then(|banner| memory.string(banner, 256).ok());
        let release = banner.as_deref().and_then(|banner| banner.strip_prefix(BANNER_START));
        let release = release.and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned();
        let build_id = running_build_id(&memory, &symbols);
        Ok(Self { kernel: Arc::new(Kernel { symbols, space, release, build_id }) })
    }

    /// The kernel's memory in `ram`.
    #[must_use]
    pub fn memory<'a>(&self, ram: &'a GuestRam) -> GuestMemory<'a> {
        GuestMemory::new(ram, self.kernel.space)
    }

    /// The release of the kernel, as uname -r says; empty if it does not say.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.kernel.release
    }

    /// The build-id of the running kernel, if it has one and says where.
    #[must_use]
    pub fn build_id(&self) -> Option<&BuildId> {
        self.kernel.build_id.as_ref()
    }

    /// The address of the first symbol called `name`.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.kernel.symbols.address(name)
    }

    /// The addresses of all symbols called `name`, ascending: static functions in several files may share a name.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Vec<u64> {
        self.kernel.symbols.addresses(name).collect()
    }

    /// The symbol that `address` belongs to.
    #[must_use]
    pub fn resolve(&self, address: u64) -> Option<Symbol<'_>> {
        self.kernel.symbols.resolve(address)
    }
}

/// The symbols of `file`, moved to where the kernel runs.
fn of_file(
    file: &SymbolFile,
    memory: &GuestMemory<'_>,
    entry: u64,
    carried: Option<&SymbolTable>,
) -> Result<SymbolTable, GuestError> {
    let mismatch = |reason: String| GuestError::Mismatch { file: file.path().to_owned(), reason };
    let linked = file.symbols.address(SYSCALL_ENTRY).unwrap_or_default();
    let slide = entry.wrapping_sub(linked);
    let mut symbols = file.symbols.clone();
    symbols.relocate(IMAGE_START, slide);
    let running = carried.and_then(|carried| running_build_id(memory, carried));
    let running = running.or_else(|| running_build_id(memory, &symbols));
    if let (Some(file_id), Some(running)) = (&file.build_id, &running)
        && file_id != running
    {
        return Err(GuestError::BuildId {
            file: file.path().to_owned(),
            file_id: file_id.clone(),
            running: running.clone(),
        });
    }
    if !slide.is_multiple_of(SLIDE_STEP) {
        return Err(mismatch(format!(
            "{SYSCALL_ENTRY} is at {entry:#x} in the guest, at {linked:#x} in the file"
        )));
    }
    match symbols.address(BANNER) {
        Some(banner) if is_banner(memory, banner) => {}
        Some(banner) => return Err(mismatch(format!("no kernel's banner is at {banner:#x}, its {BANNER}"))),
        None => return Err(mismatch(format!("it has no {BANNER} to check"))),
    }
    // A System.map has no build-id: all symbols that the kernel carries must be where the file has them.
    if file.build_id.is_none()
        && let Some(carried) = carried
    {
        let differs = |(address, kind, name): &(u64, u8, &str)| {
            matches!(kind, b'T' | b'D' | b'R') && !symbols.addresses(name).any(|other| other == *address)
        };
        if let Some((address, _, name)) = carried.iter().find(differs) {
            return Err(mismatch(format!("{name} is at {address:#x} in the guest, but not in the file")));
        }
    }
    Ok(symbols)
}
