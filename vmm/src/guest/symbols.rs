//! Symbols: names by address and addresses by name.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

/// Most symbols that a table holds: several times what a kernel with everything built in has.
pub(super) const MAX_SYMBOLS: usize = 2 << 20;
/// Most bytes of names in all.
const MAX_NAMES: usize = 128 << 20;
/// Longest name (KSYM_NAME_LEN is 512 in Linux).
pub(super) const MAX_NAME: usize = 512;
/// Farthest from a symbol that an address still belongs to it: there are gaps between a kernel's sections.
const MAX_OFFSET: u64 = 8 << 20;

/// What an address is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    pub name: &'a str,
    /// Bytes from the symbol's address.
    pub offset: u64,
    /// Bytes to the next symbol's address; 0 if there is none.
    pub size: u64,
    /// The module that it is of; `None`: the kernel itself.
    pub module: Option<&'a str>,
}

/// As the kernel prints it: `mlx5_ib_reg_user_mr+0x1c/0x640 [mlx5_ib]`.
impl fmt::Display for Symbol<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}+{:#x}/{:#x}", self.name, self.offset, self.size)?;
        self.module.map_or(Ok(()), |module| write!(out, " [{module}]"))
    }
}

/// A symbol in a table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    address: u64,
    name: u32,
    length: u16,
    /// The letter that nm(1) gives it.
    kind: u8,
}

/// Symbols, by address. Of several at one address the first stands for it.
#[derive(Debug, Clone, Default)]
pub(super) struct SymbolTable {
    names: String,
    entries: Vec<Entry>,
    /// Hashes of names with the entries' indices, by hash: made when the first name is asked for.
    by_name: OnceLock<Vec<(u32, u32)>>,
}

/// What names are sorted by where they are looked up.
pub(super) fn hash(name: &str) -> u32 {
    // Without keys: the same on every host.
    let mut hasher = std::hash::DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() as u32
}

impl SymbolTable {
    /// Adds a symbol. Returns whether there was room.
    pub fn push(&mut self, address: u64, kind: u8, name: impl Iterator<Item = char>) -> bool {
        let start = self.names.len();
        if self.entries.len() >= MAX_SYMBOLS || start >= MAX_NAMES {
            return false;
        }
        self.names.extend(name.take(MAX_NAME));
        let length = (self.names.len() - start) as u16;
        self.entries.push(Entry { address, name: start as u32, length, kind });
        true
    }

    /// Gives the symbols these addresses, in the order in which they were added, and sorts them.
    pub fn place(&mut self, addresses: &[u64]) {
        for (entry, &address) in self.entries.iter_mut().zip(addresses) {
            entry.address = address;
        }
        self.sort();
    }

    /// Which of the symbols, in the order in which they were added, are called `name`.
    pub fn positions(&self, name: &str) -> impl Iterator<Item = usize> {
        self.iter().enumerate().filter(move |(_, (_, _, other))| *other == name).map(|(index, _)| index)
    }

    /// Puts the symbols in the order of their addresses; those at one address stay as they are.
    pub fn sort(&mut self) {
        self.entries.sort_by_key(|entry| entry.address);
        self.by_name = OnceLock::new();
    }

    /// As [`SymbolTable::sort`], and at one address the one that `scripts/kallsyms.c` of Linux would put first: strong
    /// before weak, then with fewer underscores in front.
    pub fn sort_by_preference(&mut self) {
        let names = &self.names;
        self.entries.sort_by_cached_key(|entry| {
            let name = name_of(names, entry);
            let underscores = name.len() - name.trim_start_matches('_').len();
            (entry.address, matches!(entry.kind, b'w' | b'W' | b'v' | b'V'), underscores)
        });
        self.by_name = OnceLock::new();
    }

    /// Moves the symbols of the kernel's image by `slide`; what is below it, per-CPU offsets and constants, stays.
    pub fn relocate(&mut self, image: u64, slide: u64) {
        for entry in self.entries.iter_mut().filter(|entry| entry.address >= image) {
            entry.address = entry.address.wrapping_add(slide);
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all names together.
    pub fn name_bytes(&self) -> usize {
        self.names.len()
    }

    /// All symbols: address, kind and name.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u8, &str)> {
        self.entries.iter().map(|entry| (entry.address, entry.kind, name_of(&self.names, entry)))
    }

    /// Addresses of the symbols called `name`, ascending.
    pub fn addresses<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u64> + 'a {
        let index = self.by_name.get_or_init(|| {
            let hashes = self.iter().map(|(_, _, name)| hash(name));
            let mut index: Vec<_> = hashes.zip(0..).collect();
            index.sort_unstable();
            index
        });
        let wanted = hash(name);
        let start = index.partition_point(|&(hash, _)| hash < wanted);
        let alike = index[start..].iter().take_while(move |&&(hash, _)| hash == wanted);
        let entries = alike.filter_map(|&(_, entry)| self.entries.get(entry as usize));
        entries.filter(move |entry| name_of(&self.names, entry) == name).map(|entry| entry.address)
    }

    /// The address of the first symbol called `name`.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.addresses(name).next()
    }

    /// The symbol that `address` belongs to: its name, the offset in it and its size.
    pub fn resolve(&self, address: u64) -> Option<Symbol<'_>> {
        let after = self.entries.partition_point(|entry| entry.address <= address);
        let start = self.entries.get(after.checked_sub(1)?)?.address;
        let first = self.entries.partition_point(|entry| entry.address < start);
        let entry = self.entries.get(first)?;
        let offset = address - start;
        let size = self.entries.get(after).map_or(0, |next| next.address - start);
        (offset < MAX_OFFSET).then(|| Symbol {
            name: name_of(&self.names, entry),
            offset,
            size,
            module: None,
        })
    }

    /// Whether `address` belongs to code, as far as the symbol's kind says.
    pub fn is_code(&self, address: u64) -> bool {
        let after = self.entries.partition_point(|entry| entry.address <= address);
        let entry = after.checked_sub(1).and_then(|last| self.entries.get(last));
        entry.is_some_and(|entry| {
            matches!(entry.kind, b't' | b'T' | b'w' | b'W') && address - entry.address < MAX_OFFSET
        })
    }
}

fn name_of<'a>(names: &'a str, entry: &Entry) -> &'a str {
    let start = entry.name as usize;
    names.get(start..start + usize::from(entry.length)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(symbols: &[(u64, u8, &str)]) -> SymbolTable {
        let mut table = SymbolTable::default();
        for &(address, kind, name) in symbols {
            assert!(table.push(address, kind, name.chars()));
        }
        table
    }

    #[test]
    fn addresses_have_the_name_of_the_symbol_before() {
        let mut table = table(&[
            (0x2000, b'T', "second"),
            (0x1000, b'W', "weak"),
            (0x1000, b't', "__first"),
            (0x1000, b'T', "first"),
            (0x40, b'D', "current_task"),
        ]);
        table.sort_by_preference();
        assert_eq!(table.resolve(0x101c).unwrap().to_string(), "first+0x1c/0x1000");
        assert_eq!(table.resolve(0x2001).unwrap().to_string(), "second+0x1/0x0");
        assert_eq!(table.resolve(0x2000 + MAX_OFFSET), None);
        assert_eq!(table.resolve(0x3f), None);
        assert!(table.is_code(0x1fff) && !table.is_code(0x50) && !table.is_code(0));
        table.relocate(0x1000, 0x10_0000);
        assert_eq!(table.address("weak"), Some(0x10_1000));
        assert_eq!(table.address("current_task"), Some(0x40));
        assert_eq!(table.address("none"), None);
    }

    #[test]
    fn a_name_can_be_of_several_symbols() {
        let mut table = table(&[(3, b't', "modules_open"), (1, b't', "modules_open"), (2, b't', "other")]);
        table.sort();
        assert_eq!(table.addresses("modules_open").collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn names_are_cut() {
        let mut table = SymbolTable::default();
        assert!(table.push(0, b't', std::iter::repeat('a')));
        assert_eq!(table.iter().next().unwrap().2.len(), MAX_NAME);
    }

    #[test]
    fn modules_are_named() {
        let symbol =
            Symbol { name: "mlx5_ib_reg_user_mr", offset: 0x1c, size: 0x640, module: Some("mlx5_ib") };
        assert_eq!(symbol.to_string(), "mlx5_ib_reg_user_mr+0x1c/0x640 [mlx5_ib]");
    }
}
