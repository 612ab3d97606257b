//! Symbols of a kernel from a file: its vmlinux, or its System.map.

use super::btf::Btf;
use super::build_id::BuildId;
use super::memory::printable;
use super::symbols::SymbolTable;
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind, SymbolSection};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

/// Longest line of a System.map.
const MAX_LINE: usize = 1 << 12;

/// The file has no symbols of a kernel.
#[derive(Debug, thiserror::Error)]
pub enum SymbolFileError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: std::io::Error },
    #[error("{}: {reason} (an uncompressed vmlinux with its symbol table is wanted, or its System.map)", file.display())]
    Unfit { file: PathBuf, reason: String },
}

/// A kernel's symbols as linked, before the kernel has moved itself.
#[derive(Debug, Clone)]
pub struct SymbolFile {
    path: PathBuf,
    pub(super) symbols: SymbolTable,
    pub(super) build_id: Option<BuildId>,
    pub(super) btf: Option<Btf>,
}

/// What is in a file.
#[derive(Debug, Default)]
struct Content {
    symbols: SymbolTable,
    build_id: Option<BuildId>,
    btf: Option<Btf>,
}

impl SymbolFile {
    /// Reads `path`, an ELF file or a System.map.
    ///
    /// # Errors
    /// [`SymbolFileError`] if it cannot be read or is neither.
    pub fn open(path: &Path) -> Result<Self, SymbolFileError> {
        let file = || path.to_owned();
        let io = |source| SymbolFileError::Io { file: file(), source };
        let unfit = |reason: String| SymbolFileError::Unfit { file: file(), reason };
        let mut content = File::open(path).map_err(io)?;
        let mut magic = Vec::new();
        content.by_ref().take(4).read_to_end(&mut magic).map_err(io)?;
        content.rewind().map_err(io)?;
        let Content { mut symbols, build_id, btf } = if magic == object::elf::ELFMAG {
            read_elf(content).map_err(unfit)?
        } else {
            Content { symbols: read_map(content).map_err(io)?.map_err(unfit)?, ..Content::default() }
        };
        if symbols.len() == 0 {
            return Err(unfit("it has no symbols".into()));
        }
        symbols.sort_by_preference();
        if symbols.address(super::SYSCALL_ENTRY).is_none() {
            return Err(unfit(format!("it is no x86-64 kernel's: it has no {}", super::SYSCALL_ENTRY)));
        }
        Ok(Self { path: path.to_owned(), symbols, build_id, btf })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What an ELF file has.
fn read_elf(content: File) -> Result<Content, String> {
    let cache = object::ReadCache::new(content);
    let elf = object::File::parse(&cache).map_err(|error| error.to_string())?;
    let notes = elf.sections().filter(|section| section.name().is_ok_and(|name| name.starts_with(".note")));
    let build_id = notes.filter_map(|section| section.data().ok()).find_map(BuildId::in_notes);
    let btf = elf.section_by_name(".BTF").and_then(|section| Btf::parse(section.data().ok()?));
    let mut symbols = SymbolTable::default();
    for symbol in elf.symbols() {
        let named = matches!(
            symbol.kind(),
            SymbolKind::Text | SymbolKind::Data | SymbolKind::Unknown | SymbolKind::Label
        );
        let Ok(name) = symbol.name_bytes() else { continue };
        // As scripts/kallsyms.c of Linux: names that the assembler makes are nobody's.
        if !named
            || symbol.is_undefined()
            || name.is_empty()
            || name.starts_with(b".L")
            || name.starts_with(b"$")
        {
            continue;
        }
        let code = match symbol.section() {
            SymbolSection::Section(index) => {
                elf.section_by_index(index).is_ok_and(|section| section.kind() == object::SectionKind::Text)
            }
            _ => false,
        };
        let kind = match (symbol.is_weak(), code) {
            (true, true) => b'W',
            (true, false) => b'V',
            (false, true) => b'T',
            (false, false) => b'D',
        };
        if !symbols.push(symbol.address(), kind, printable(name)) {
            return Err("it has more symbols than any kernel".into());
        }
    }
    Ok(Content { symbols, build_id, btf })
}

/// The symbols of a System.map: lines of address, kind and name (nm(1)).
fn read_map(content: File) -> std::io::Result<Result<SymbolTable, String>> {
    let mut table = SymbolTable::default();
    let mut reader = BufReader::new(content);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if reader.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let Some((address, kind, name)) = map_line(&line) else {
            return Ok(Err(format!("line {number} is not an address, a letter and a name")));
        };
        // The file that Debian installs with a kernel has this one line.
        if name.starts_with(b"The real System.map") {
            return Ok(Err(format!(
                "{}: leave --symbols out, the symbols are found in the guest's memory",
                printable(name).collect::<String>()
            )));
        }
        if !table.push(address, kind, printable(name)) {
            return Ok(Err("it has more symbols than any kernel".into()));
        }
    }
    Ok(Ok(table))
}

fn map_line(line: &[u8]) -> Option<(u64, u8, &[u8])> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (address, rest) = line.split_at_checked(16)?;
    let address = u64::from_str_radix(std::str::from_utf8(address).ok()?, 16).ok()?;
    match rest {
        [b' ', kind, b' ', name @ ..] if !name.is_empty() => Some((address, *kind, name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn open(content: &[u8]) -> Result<SymbolFile, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        SymbolFile::open(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_system_map_is_read() {
        let map =
            b"0000000000020980 D pcpu_hot\nffffffff81000000 T _text\nffffffff81600040 T entry_SYSCALL_64\n";
        let file = open(map).unwrap();
        assert_eq!(file.symbols.address("entry_SYSCALL_64"), Some(0xffff_ffff_8160_0040));
        assert_eq!(file.symbols.address("pcpu_hot"), Some(0x2_0980));
        assert_eq!(file.build_id, None);
    }

    #[test]
    fn what_is_no_symbol_file_is_refused_with_a_reason() {
        let stub = b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n";
        for (content, reason) in [
            (stub.as_slice(), "leave --symbols out"),
            (b"ffffffff81000000 T _text\n", "has no entry_SYSCALL_64"),
            (b"ffffffff81000000 T _text\nnonsense\n", "line 2 is not"),
            (b"", "no symbols"),
            (b"\x7fELF\x02\x01\x01", "vmlinux with its symbol table is wanted"),
        ] {
            let error = open(content).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let error = SymbolFile::open(Path::new("/nonexistent/System.map")).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
    }
}
