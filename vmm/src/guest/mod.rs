//! What a running x86-64 Linux guest says of itself, read from its memory without disturbing anything: its symbols, the
//! layout of its structures, its stacks and tasks.
//!
//! A guest is hostile: all that is read is checked, every table and list has an end, and nothing here changes the guest.

mod btf;
mod build_id;
mod file;
mod kallsyms;
mod layout;
pub mod memory;
mod modules;
mod orc;
mod registers;
mod swiotlb;
mod symbols;
mod task;
mod unwind;

pub use build_id::BuildId;
pub use file::{SymbolFile, SymbolFileError};
pub use layout::{LayoutError, LayoutOrigin};
pub use memory::{AddressSpace, GuestMemory, Unmapped};
pub use registers::Registers;
pub use swiotlb::{SLOT as SWIOTLB_SLOT, SwiotlbError, SwiotlbPool, SwiotlbUsage};
pub use symbols::Symbol;
pub use task::Task;
pub use unwind::{Frame, How, MAX_DEPTH};

use crate::memory::GuestRam;
use layout::Layout;
use modules::{ModuleLayout, Modules};
use orc::OrcTable;
use std::path::PathBuf;
use std::sync::Arc;
use symbols::SymbolTable;
use task::TaskLayout;

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
/// The kernel's ORC tables: the places begin and end here, and the entries begin.
const ORC: (&str, &str, &str) = ("__start_orc_unwind_ip", "__stop_orc_unwind_ip", "__start_orc_unwind");
/// Functions that call others: with CONFIG_FRAME_POINTER they make a frame first.
const WITH_FRAMES: [&str; 2] = ["vfs_read", "vfs_write"];
/// Where a new task begins, from Linux 6.6 on and before.
const TASK_START: [&str; 2] = ["ret_from_fork_asm", "ret_from_fork"];
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
    modules: Modules,
}

/// What does not change while the kernel runs.
#[derive(Debug)]
struct Kernel {
    symbols: SymbolTable,
    /// Translates the kernel's addresses whatever runs.
    space: AddressSpace,
    release: String,
    build_id: Option<BuildId>,
    layout: Layout,
    orc: Option<OrcTable>,
    frame_pointers: bool,
    task_start: Option<u64>,
    /// `None` if the kernel has no modules, or its structures are not known.
    modules: Option<ModuleLayout>,
    task: Option<TaskLayout>,
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
        let layout = Layout::find(&memory, &symbols, &release, file.and_then(|file| file.btf.as_ref()));
        let orc = orc_of(&memory, &symbols);
        let frames = |name: &str| symbols.address(name).is_some_and(|at| unwind::makes_frame(&memory, at));
        let kernel = Kernel {
            build_id: running_build_id(&memory, &symbols),
            frame_pointers: orc.is_none() && WITH_FRAMES.into_iter().all(frames),
            task_start: TASK_START.into_iter().find_map(|name| symbols.address(name)),
            modules: ModuleLayout::new(&layout, &symbols).ok().flatten(),
            task: TaskLayout::new(&layout, &symbols),
            symbols,
            space,
            release,
            layout,
            orc,
        };
        let mut guest = Self { kernel: Arc::new(kernel), modules: Modules::default() };
        guest.refresh(ram);
        Ok(guest)
    }

    /// Looks whether modules have come or gone, which is soon told. [`Guest::backtrace`] does it, too.
    pub fn refresh(&mut self, ram: &GuestRam) {
        if let Some(layout) = &self.kernel.modules {
            self.modules.refresh(&GuestMemory::new(ram, self.kernel.space), layout);
        }
    }

    /// How the layout of the kernel's structures is known.
    ///
    /// # Errors
    /// [`LayoutError`] if it is not.
    pub fn layout_origin(&self) -> Result<LayoutOrigin, LayoutError> {
        self.kernel.layout.origin().map_err(Clone::clone)
    }

    /// Bytes from the start of a structure to a field in it: `device.kobj.name`. A path leads through structures and unions
    /// that are members, with a name or without, not through pointers.
    ///
    /// # Errors
    /// [`LayoutError`] if the layout is not known, or there is no such field.
    pub fn offset(&self, path: &str) -> Result<u64, LayoutError> {
        self.kernel.layout.offset(path)
    }

    /// Bytes of a structure.
    ///
    /// # Errors
    /// [`LayoutError`] if the layout is not known, or there is no such structure.
    pub fn size_of(&self, structure: &str) -> Result<u64, LayoutError> {
        self.kernel.layout.size(structure)
    }

    /// The frames of the vCPU with these registers, innermost first, `depth` (and [`MAX_DEPTH`]) at most: the current
    /// instruction, its callers, those of what an interrupt or exception has stopped, and at last where the kernel was
    /// entered from user space.
    pub fn backtrace(&mut self, ram: &GuestRam, registers: &Registers, depth: usize) -> Vec<Frame> {
        self.refresh(ram);
        unwind::backtrace(self, &self.memory(ram), registers, depth)
    }

    /// The symbol that a frame is in.
    #[must_use]
    pub fn resolve_frame(&self, frame: &Frame) -> Option<Symbol<'_>> {
        if frame.user {
            return None;
        }
        let before = u64::from(frame.call);
        let symbol = self.resolve(frame.address.wrapping_sub(before))?;
        Some(Symbol { offset: symbol.offset + before, ..symbol })
    }

    /// A frame in words, as the kernel prints it: `? ` before what is but a guess.
    #[must_use]
    pub fn describe(&self, frame: &Frame) -> String {
        let guess = if frame.how == How::Guess { "? " } else { "" };
        match self.resolve_frame(frame) {
            Some(symbol) => format!("{guess}{symbol}"),
            None if frame.user => format!("user {:#x}", frame.address),
            None => format!("{guess}{:#x}", frame.address),
        }
    }

    /// The task that runs on the vCPU with these registers; `None` if the kernel is not up yet, or its structures are not
    /// known.
    #[must_use]
    pub fn task(&self, ram: &GuestRam, registers: &Registers) -> Option<Task> {
        self.kernel.task.as_ref()?.current(&self.memory(ram), registers)
    }

    /// Whether backtraces are by ORC tables or frame pointers, not guessed.
    #[must_use]
    pub fn can_unwind(&self) -> bool {
        self.kernel.orc.is_some() || self.kernel.frame_pointers
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

    /// The address of the first symbol called `name`, in the kernel or else in a module.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.tables().find_map(|(symbols, _)| symbols.address(name))
    }

    /// The addresses of all symbols called `name`: static functions in several files may share a name.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Vec<u64> {
        self.tables().flat_map(|(symbols, _)| symbols.addresses(name).collect::<Vec<_>>()).collect()
    }

    /// The symbol that `address` belongs to.
    #[must_use]
    pub fn resolve(&self, address: u64) -> Option<Symbol<'_>> {
        match self.modules.at(address) {
            Some(module) => Some(Symbol { module: Some(module.name()), ..module.symbols.resolve(address)? }),
            None => self.kernel.symbols.resolve(address),
        }
    }

    /// Names of the modules that are loaded, the newest first.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(modules::Module::name)
    }

    /// All tables of symbols, with the ORC table that goes with them.
    fn tables(&self) -> impl Iterator<Item = (&SymbolTable, Option<&OrcTable>)> {
        let modules = self.modules.iter().map(|module| (&module.symbols, module.orc.as_ref()));
        std::iter::once((&self.kernel.symbols, self.kernel.orc.as_ref())).chain(modules)
    }

    /// The tables for an address.
    fn tables_at(&self, address: u64) -> (&SymbolTable, Option<&OrcTable>) {
        let module = self.modules.at(address).map(|module| (&module.symbols, module.orc.as_ref()));
        module.unwrap_or((&self.kernel.symbols, self.kernel.orc.as_ref()))
    }
}

impl unwind::Code for Guest {
    fn orc(&self, address: u64) -> Option<orc::Entry> {
        self.tables_at(address).1?.find(address)
    }

    fn is_code(&self, address: u64) -> bool {
        self.tables_at(address).0.is_code(address)
    }

    fn function(&self, address: u64) -> Option<u64> {
        self.resolve(address).map(|symbol| address - symbol.offset)
    }

    fn begins_task(&self, address: u64) -> bool {
        self.kernel.task_start == Some(address)
    }

    fn has_frame_pointers(&self) -> bool {
        self.kernel.frame_pointers
    }
}

/// The kernel's own ORC table.
fn orc_of(memory: &GuestMemory<'_>, symbols: &SymbolTable) -> Option<OrcTable> {
    let (start, stop) = (symbols.address(ORC.0)?, symbols.address(ORC.1)?);
    OrcTable::read(memory, start, symbols.address(ORC.2)?, (stop.checked_sub(start)? / 4) as usize)
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
