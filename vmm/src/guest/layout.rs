//! Where the fields of the kernel's structures are: as its BTF says, else from a table of kernels known to have none.

use super::btf::Btf;
use super::memory::GuestMemory;
use super::symbols::SymbolTable;
use std::collections::BTreeMap;
use std::fmt;

/// Series of Linux, structures, fields.
type Tables = BTreeMap<String, Structures>;
type Structures = BTreeMap<String, BTreeMap<String, u64>>;

/// The tables that come with this program.
const TABLES: &str = include_str!("layouts.toml");
/// The kernel's BTF begins and ends here.
const BTF: (&str, &str) = ("__start_BTF", "__stop_BTF");
/// Most bytes of BTF: several times a stock kernel's.
const MAX_BTF: u64 = 64 << 20;
/// The first task, called by [`FIRST_COMM`] from the start.
const FIRST_TASK: &str = "init_task";
const FIRST_COMM: &str = "swapper";

/// A structure of the guest's kernel is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error(
        "the layout of the structures of Linux {release} is not known: it has no BTF (CONFIG_DEBUG_INFO_BTF), and {reason}"
    )]
    Unknown { release: String, reason: &'static str },
    #[error("there is no {field} by {origin}")]
    Field { field: String, origin: LayoutOrigin },
}

/// How the layout of structures is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutOrigin {
    /// The BTF in the kernel's memory.
    Memory,
    /// The BTF in the file of symbols.
    File,
    /// The table for kernels of this series that were built here.
    Table(String),
}

impl fmt::Display for LayoutOrigin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => out.write_str("the kernel's BTF"),
            Self::File => out.write_str("the BTF in the file of symbols"),
            Self::Table(series) => write!(out, "the table for debug kernels of Linux {series}"),
        }
    }
}

/// The layout of one kernel's structures.
#[derive(Debug)]
pub(super) enum Layout {
    Btf(Btf, LayoutOrigin),
    Table { series: String, structures: Structures },
    Unknown(LayoutError),
}

impl Layout {
    /// The layout of the kernel with these symbols; `file` is the BTF in its file of symbols.
    pub fn find(memory: &GuestMemory<'_>, symbols: &SymbolTable, release: &str, file: Option<&Btf>) -> Self {
        if let Some(btf) = btf_in(memory, symbols) {
            return Self::Btf(btf, LayoutOrigin::Memory);
        }
        if let Some(btf) = file {
            return Self::Btf(btf.clone(), LayoutOrigin::File);
        }
        let unknown = |reason| Self::Unknown(LayoutError::Unknown { release: release.to_owned(), reason });
        let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
        let series = [numbers.next(), numbers.next()].map(Option::unwrap_or_default).join(".");
        let tables: Tables = toml::from_str(TABLES).unwrap_or_default();
        let Some(structures) = tables.into_iter().find(|(of, _)| *of == series).map(|(_, table)| table)
        else {
            return unknown("it is of no series for which there is a table");
        };
        let comm = structures.get("task_struct").and_then(|task| task.get("comm"));
        let first = symbols.address(FIRST_TASK).zip(comm).map(|(task, comm)| task.wrapping_add(*comm));
        let named =
            first.is_some_and(|comm| memory.string(comm, FIRST_COMM.len()).as_deref() == Ok(FIRST_COMM));
        if !named {
            return unknown(
                "its first task is not where the table for its series has it: it is configured otherwise",
            );
        }
        Self::Table { series, structures }
    }

    /// How the layout is known.
    pub fn origin(&self) -> Result<LayoutOrigin, &LayoutError> {
        match self {
            Self::Btf(_, origin) => Ok(origin.clone()),
            Self::Table { series, .. } => Ok(LayoutOrigin::Table(series.clone())),
            Self::Unknown(error) => Err(error),
        }
    }

    /// Bytes from the start of a structure to a field: `module.arch.num_orcs`.
    pub fn offset(&self, path: &str) -> Result<u64, LayoutError> {
        self.known(path, |layout| match layout {
            Self::Btf(btf, _) => btf.offset(path),
            Self::Table { structures, .. } => {
                let (structure, field) = path.split_once('.')?;
                structures.get(structure)?.get(field).copied()
            }
            Self::Unknown(_) => None,
        })
    }

    /// Bytes of a structure.
    pub fn size(&self, structure: &str) -> Result<u64, LayoutError> {
        self.known(structure, |layout| match layout {
            Self::Btf(btf, _) => btf.size(structure),
            Self::Table { structures, .. } => structures.get(structure)?.get("").copied(),
            Self::Unknown(_) => None,
        })
    }

    fn known(&self, field: &str, find: impl FnOnce(&Self) -> Option<u64>) -> Result<u64, LayoutError> {
        let origin = self.origin().map_err(Clone::clone)?;
        find(self).ok_or_else(|| LayoutError::Field { field: field.to_owned(), origin })
    }
}

/// The BTF that the kernel carries.
fn btf_in(memory: &GuestMemory<'_>, symbols: &SymbolTable) -> Option<Btf> {
    let start = symbols.address(BTF.0)?;
    let length = symbols.address(BTF.1)?.checked_sub(start).filter(|length| *length <= MAX_BTF)?;
    Btf::parse(&memory.bytes(start, length as usize).ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::Synthetic;
    use super::*;

    const TASK: u64 = 0xffff_ffff_8200_0000;

    fn find(comm: &[u8], release: &str) -> Layout {
        let mut guest = Synthetic::new();
        guest.put(TASK + 1448, comm);
        let mut symbols = SymbolTable::default();
        assert!(symbols.push(TASK, b'D', FIRST_TASK.chars()));
        symbols.sort();
        Layout::find(&guest.memory(), &symbols, release, None)
    }

    #[test]
    fn a_table_is_taken_if_the_first_task_is_where_it_says() {
        let layout = find(b"swapper/0\0", "6.12.117-staleline");
        assert_eq!(layout.origin(), Ok(LayoutOrigin::Table("6.12".into())));
        assert_eq!(layout.offset("task_struct.pid"), Ok(976));
        assert_eq!(layout.offset("module.arch.num_orcs"), Ok(824));
        assert_eq!(layout.size("scatterlist"), Ok(32));
        let error = layout.offset("task_struct.none").unwrap_err().to_string();
        assert_eq!(error, "there is no task_struct.none by the table for debug kernels of Linux 6.12");
        for (comm, release, reason) in [
            (&b"swap"[..], "6.12.117", "first task is not where"),
            (b"swapper/0", "6.11.1", "no series"),
            (b"swapper/0", "", "no series"),
        ] {
            let error = find(comm, release).size("page").unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn every_table_has_the_same_structures() {
        let tables: Tables = toml::from_str(TABLES).unwrap();
        assert_eq!(tables.keys().collect::<Vec<_>>(), ["6.1", "6.12", "7.2"]);
        for (series, structures) in tables {
            for name in ["module", "mod_kallsyms", "task_struct", "device", "scatterlist", "page"] {
                assert!(
                    structures.get(name).is_some_and(|fields| fields.contains_key("")),
                    "{series} {name}"
                );
            }
        }
    }
}
