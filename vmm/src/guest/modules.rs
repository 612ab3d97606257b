//! The modules that a kernel has loaded, with their symbols and ORC tables.

use super::layout::{Layout, LayoutError};
use super::memory::{GuestMemory, Unmapped, printable};
use super::orc::OrcTable;
use super::symbols::SymbolTable;
use std::ops::Range;
use std::sync::Arc;

/// The list of modules.
const LIST: &str = "modules";
/// The name of the module unloaded last: changes when one goes.
const UNLOADED: &str = "last_unloaded_module";
/// Most modules.
const MAX_MODULES: usize = 1024;
/// Longest name (MODULE_NAME_LEN is 56).
const MAX_NAME: usize = 64;
/// Kinds of a module's memory (MOD_MEM_NUM_TYPES).
const MEMORIES: u64 = 7;
/// Most symbols of all modules together, and bytes of their names.
const MAX_SYMBOLS: usize = 1 << 20;
const MAX_STRINGS: usize = 64 << 20;
/// Most entries of all modules' ORC tables together.
const MAX_ORCS: usize = super::orc::MAX_ENTRIES;
/// Bytes of an ELF symbol, and the type of functions (elf.h).
const ELF_SYMBOL: usize = 24;
const STT_FUNC: u8 = 2;
/// A module that is being set up and has nothing yet (MODULE_STATE_UNFORMED).
const UNFORMED: u32 = 3;

/// Where a kernel keeps its modules, and how they look.
#[derive(Debug)]
pub(super) struct ModuleLayout {
    list: u64,
    unloaded: Option<u64>,
    state: u64,
    link: u64,
    name: u64,
    /// Bases and sizes of memory.
    memories: Vec<(u64, u64)>,
    kallsyms: u64,
    symtab: u64,
    num_symtab: u64,
    strtab: u64,
    /// Number of ORC entries, their places, and they themselves; not of kernels without.
    orc: Option<[u64; 3]>,
}

impl ModuleLayout {
    /// As `layout` has it.
    ///
    /// # Errors
    /// [`LayoutError`] if it is not known. `Ok(None)` if the kernel has no modules at all.
    pub fn new(layout: &Layout, symbols: &SymbolTable) -> Result<Option<Self>, LayoutError> {
        let Some(list) = symbols.address(LIST) else { return Ok(None) };
        // To Linux 6.3 a module had two pieces of memory.
        let pieces = ["core", "init"].map(|piece| -> Result<_, LayoutError> {
            let field = |field: &str| layout.offset(&format!("module.{piece}_layout.{field}"));
            Ok((field("base")?, field("size")?))
        });
        let memories = match pieces {
            [Ok(core), Ok(init)] => vec![core, init],
            _ => {
                let first = layout.offset("module.mem")?;
                let (base, size) =
                    (layout.offset("module_memory.base")?, layout.offset("module_memory.size")?);
                let step = layout.size("module_memory")?;
                (0..MEMORIES).map(|index| first + index * step).map(|at| (at + base, at + size)).collect()
            }
        };
        let orc = ["num_orcs", "orc_unwind_ip", "orc_unwind"]
            .map(|field| layout.offset(&format!("module.arch.{field}")));
        Ok(Some(Self {
            list,
            unloaded: symbols.address(UNLOADED),
            state: layout.offset("module.state")?,
            link: layout.offset("module.list")?,
            name: layout.offset("module.name")?,
            memories,
            kallsyms: layout.offset("module.kallsyms")?,
            symtab: layout.offset("mod_kallsyms.symtab")?,
            num_symtab: layout.offset("mod_kallsyms.num_symtab")?,
            strtab: layout.offset("mod_kallsyms.strtab")?,
            orc: match orc {
                [Ok(count), Ok(places), Ok(entries)] => Some([count, places, entries]),
                _ => None,
            },
        }))
    }
}

/// What tells a module from one that was loaded in its place later, as far as its symbols go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    at: u64,
    name: String,
    memories: Vec<Range<u64>>,
}

/// A module.
#[derive(Debug)]
pub(super) struct Module {
    identity: Identity,
    pub symbols: SymbolTable,
    pub orc: Option<OrcTable>,
}

impl Module {
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    pub fn contains(&self, address: u64) -> bool {
        self.identity.memories.iter().any(|memory| memory.contains(&address))
    }
}

/// The modules as they were when last looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct Modules {
    loaded: Vec<Arc<Module>>,
    /// What was there then; `None` if it was only half there.
    seen: Option<Signature>,
}

/// Changes whenever a module comes or goes: new ones are put first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    first: u64,
    last: u64,
    unloaded: Vec<u8>,
}

/// What may still be read.
#[derive(Debug)]
struct Budget {
    symbols: usize,
    strings: usize,
    orcs: usize,
}

impl Budget {
    /// Accounts for a module that is held already.
    fn take(&mut self, module: &Module) {
        self.symbols = self.symbols.saturating_sub(module.symbols.len());
        self.strings = self.strings.saturating_sub(module.symbols.name_bytes());
        self.orcs = self.orcs.saturating_sub(module.orc.as_ref().map_or(0, OrcTable::len));
    }
}

impl Modules {
    pub fn iter(&self) -> impl Iterator<Item = &Module> {
        self.loaded.iter().map(Arc::as_ref)
    }

    /// The module whose memory has `address` in it.
    pub fn at(&self, address: u64) -> Option<&Module> {
        self.iter().find(|module| module.contains(address))
    }

    /// Looks at the list again if it has changed. What cannot be read of it is left out.
    pub fn refresh(&mut self, memory: &GuestMemory<'_>, layout: &ModuleLayout) {
        let signature = || -> Result<_, Unmapped> {
            let unloaded = layout.unloaded.map(|at| memory.mapped_bytes(at, MAX_NAME)).unwrap_or_default();
            Ok(Signature { first: memory.u64(layout.list)?, last: memory.u64(layout.list + 8)?, unloaded })
        };
        let signature = signature().ok();
        if signature.is_some() && signature == self.seen {
            return;
        }
        let mut complete = signature.is_some();
        let mut budget = Budget { symbols: MAX_SYMBOLS, strings: MAX_STRINGS, orcs: MAX_ORCS };
        let mut loaded = Vec::new();
        let mut previous = layout.list;
        while loaded.len() < MAX_MODULES {
            let Ok(next) = memory.u64(previous) else { break };
            if next == layout.list {
                break;
            }
            // The link back: a list that a module is being put into at this moment is taken as it is up to there.
            if memory.u64(next.wrapping_add(8)) != Ok(previous) {
                complete = false;
                break;
            }
            previous = next;
            let at = next.wrapping_sub(layout.link);
            match Identity::read(memory, layout, at) {
                Ok(Some(identity)) => {
                    let known = self.loaded.iter().find(|module| module.identity == identity);
                    let module = match known {
                        Some(known) => {
                            budget.take(known);
                            Some(Arc::clone(known))
                        }
                        None => Module::read(memory, layout, identity, &mut budget).ok().map(Arc::new),
                    };
                    complete &= module.is_some();
                    loaded.extend(module);
                }
                Ok(None) | Err(Unmapped(_)) => complete = false,
            }
        }
        self.loaded = loaded;
        self.seen = signature.filter(|_| complete);
    }
}

impl Identity {
    /// The module at `at`; `None` if it has nothing yet.
    fn read(memory: &GuestMemory<'_>, layout: &ModuleLayout, at: u64) -> Result<Option<Self>, Unmapped> {
        if memory.u32(at.wrapping_add(layout.state))? == UNFORMED {
            return Ok(None);
        }
        let mut memories = Vec::new();
        for &(base, size) in &layout.memories {
            let base = memory.u64(at.wrapping_add(base))?;
            let size = memory.u32(at.wrapping_add(size))?;
            if let Some(end) = base.checked_add(size.into()).filter(|_| base != 0 && size != 0) {
                memories.push(base..end);
            }
        }
        let name = memory.string(at.wrapping_add(layout.name), MAX_NAME)?;
        Ok((!memories.is_empty()).then_some(Self { at, name, memories }))
    }
}

impl Module {
    fn read(
        memory: &GuestMemory<'_>,
        layout: &ModuleLayout,
        identity: Identity,
        budget: &mut Budget,
    ) -> Result<Self, Unmapped> {
        let at = identity.at;
        let mut module = Self { identity, symbols: SymbolTable::default(), orc: None };
        let kallsyms = memory.u64(at.wrapping_add(layout.kallsyms))?;
        if kallsyms != 0 {
            module.read_symbols(memory, layout, kallsyms, budget)?;
        }
        if let Some([count, places, entries]) = layout.orc {
            let count = memory.u32(at.wrapping_add(count))? as usize;
            let places = memory.u64(at.wrapping_add(places))?;
            let entries = memory.u64(at.wrapping_add(entries))?;
            if count <= budget.orcs {
                budget.orcs -= count;
                module.orc = OrcTable::read(memory, places, entries, count);
            }
        }
        Ok(module)
    }

    fn read_symbols(
        &mut self,
        memory: &GuestMemory<'_>,
        layout: &ModuleLayout,
        kallsyms: u64,
        budget: &mut Budget,
    ) -> Result<(), Unmapped> {
        let symtab = memory.u64(kallsyms.wrapping_add(layout.symtab))?;
        let count = memory.u32(kallsyms.wrapping_add(layout.num_symtab))? as usize;
        let strtab = memory.u64(kallsyms.wrapping_add(layout.strtab))?;
        if count > budget.symbols {
            return Ok(());
        }
        budget.symbols -= count;
        let raw = memory.bytes(symtab, ELF_SYMBOL * count)?;
        let symbols = raw.chunks_exact(ELF_SYMBOL).filter_map(|raw| {
            let name = u32::from_le_bytes(*raw.first_chunk()?);
            let section = u16::from_le_bytes([raw[6], raw[7]]);
            let address = u64::from_le_bytes(*raw.get(8..)?.first_chunk()?);
            (section != 0).then_some((name as usize, raw[4] & 0xf, address))
        });
        let symbols: Vec<_> = symbols.filter(|&(_, _, address)| self.contains(address)).collect();
        let last = symbols.iter().map(|&(name, _, _)| name).max().unwrap_or(0);
        let length = last.saturating_add(super::symbols::MAX_NAME);
        if length > budget.strings {
            return Ok(());
        }
        let strings = memory.mapped_bytes(strtab, length);
        budget.strings -= strings.len();
        for (name, kind, address) in symbols {
            let Some(rest) = strings.get(name..) else { continue };
            let rest = &rest[..rest.len().min(super::symbols::MAX_NAME)];
            let name = rest.split(|&byte| byte == 0).next().unwrap_or_default();
            // As kernel/module/kallsyms.c of Linux: names that the assembler makes are nobody's.
            if name.is_empty() || name.starts_with(b".L") || name.starts_with(b"$") {
                continue;
            }
            let kind = if kind == STT_FUNC { b't' } else { b'd' };
            if !self.symbols.push(address, kind, printable(name)) {
                break;
            }
        }
        self.symbols.sort();
        Ok(())
    }
}
