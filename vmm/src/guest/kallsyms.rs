//! The symbols that a kernel carries in its own memory (`kernel/kallsyms.c` and `scripts/kallsyms.c` of Linux).
//!
//! Nothing says where they are: they are found by their shape and believed only if they agree with what is known from
//! elsewhere. Names are sequences of tokens. The table of tokens has the digits at their own places, one after the other; an
//! index gives the place of each token. The names stand before, with a marker for each 256th; the addresses stand before the
//! names or after the index, as distances from a base, by version:
//!
//! | Linux | order |
//! |---|---|
//! | to 6.4 | offsets, base, number, names, markers, (order of names,) tokens, index |
//! | 6.4 and later | number, names, markers, tokens, index, offsets, base, order of names |
//! | 7.x | number, names, markers, tokens, index, offsets that are each relative to their own place, order of names |

use super::memory::{GuestMemory, printable};
use super::symbols::{MAX_NAME, MAX_SYMBOLS, SymbolTable};
use super::{BANNER, IMAGE_END, SYSCALL_ENTRY, is_banner};

/// Tokens 0x30 to 0x39 stand for themselves.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
const FIRST_DIGIT: usize = 0x30;
const TOKENS: usize = 256;
/// Names between two markers.
const MARKED: usize = 256;
/// How much of the kernel's image is searched, from the system call entry on: code and read-only data of a large one.
const MAX_IMAGE: u64 = 192 << 20;
/// How much of it is searched at a time.
const PIECE: usize = 2 << 20;
/// Most places that are looked at more closely.
const MAX_CANDIDATES: usize = 64;
/// Markers of the smallest kernel: even one with hardly anything in it has some thousand symbols.
const MIN_MARKERS: usize = 4;
/// Most bytes of compressed names, and of what may stand between them and the tokens.
const MAX_NAMES: usize = 32 << 20;
const MAX_BETWEEN: usize = 3 * MAX_SYMBOLS;

/// The symbols of the kernel whose system call entry is at `entry`; `None` if it carries none that can be believed.
pub(super) fn find(memory: &GuestMemory<'_>, entry: u64) -> Option<SymbolTable> {
    let mut candidates = 0;
    let mut at = entry & !0xfff;
    let end = IMAGE_END.min(at.saturating_add(MAX_IMAGE));
    let mut piece = Vec::new();
    while at < end && candidates < MAX_CANDIDATES {
        let gap = memory.gap(at);
        if gap != 0 {
            piece.clear();
            at = at.saturating_add(gap);
            continue;
        }
        // What a piece ends with may be the beginning of the digits.
        let kept = piece.len().min(DIGITS.len() - 1);
        piece.drain(..piece.len() - kept);
        let start = at - kept as u64;
        let read = memory.mapped_bytes(at, PIECE.min((end - at) as usize));
        if read.is_empty() {
            at = at.saturating_add(0x1000);
            continue;
        }
        at += read.len() as u64;
        piece.extend(read);
        for found in memchr::memmem::find_iter(&piece, DIGITS).take(MAX_CANDIDATES) {
            candidates += 1;
            let tokens = Tokens::around(memory, start + found as u64);
            if let Some(table) = tokens.and_then(|tokens| tokens.symbols(memory, entry)) {
                return Some(table);
            }
        }
    }
    None
}

/// The table of tokens.
#[derive(Debug)]
struct Tokens {
    start: u64,
    /// Beyond the index.
    end: u64,
    text: Vec<u8>,
    /// Where in the text each begins.
    index: [u16; TOKENS],
}

impl Tokens {
    /// The table whose digits are at `digits`, if there is one.
    fn around(memory: &GuestMemory<'_>, digits: u64) -> Option<Self> {
        // A token is no longer than a name, and most are a few bytes long.
        let after = memory.mapped_bytes(digits, 1 << 16);
        let mut ends = after.iter().enumerate().filter(|&(_, &byte)| byte == 0).map(|(at, _)| at);
        let length = ends.nth(TOKENS - FIRST_DIGIT - 1)? + 1;
        // Labels are aligned to 8 bytes, from 6.19 on to 4.
        [4, 8].into_iter().find_map(|align| {
            let index_at = digits.checked_add(length as u64)?.next_multiple_of(align);
            let raw = memory.bytes(index_at, 2 * TOKENS).ok()?;
            let mut index = [0; TOKENS];
            for (value, raw) in index.iter_mut().zip(raw.chunks_exact(2)) {
                *value = u16::from_le_bytes([raw[0], raw[1]]);
            }
            let start = digits.checked_sub(index[FIRST_DIGIT].into())?;
            let text = memory.bytes(start, usize::from(index[FIRST_DIGIT]) + length).ok()?;
            let tokens = Self { start, end: index_at + 2 * TOKENS as u64, text, index };
            tokens.is_sound().then_some(tokens)
        })
    }

    /// Whether each token begins where the one before has ended.
    fn is_sound(&self) -> bool {
        let mut next = 0;
        self.index.iter().all(|&at| {
            let here = usize::from(at) == next;
            let length = self.text.get(next..).and_then(|rest| rest.iter().position(|&byte| byte == 0));
            next += length.unwrap_or(0) + 1;
            here && length.is_some()
        }) && next == self.text.len()
    }

    /// The text of a token.
    fn get(&self, token: u8) -> &[u8] {
        let start = usize::from(self.index[usize::from(token)]);
        let end = self.index.get(usize::from(token) + 1).map_or(self.text.len(), |&next| usize::from(next));
        self.text.get(start..end.saturating_sub(1)).unwrap_or_default()
    }

    /// The symbols that belong to these tokens.
    fn symbols(&self, memory: &GuestMemory<'_>, entry: u64) -> Option<SymbolTable> {
        let names = Names::before(memory, self.start)?;
        let mut table = SymbolTable::default();
        let mut rest = names.bytes.as_slice();
        let mut text = Vec::with_capacity(MAX_NAME);
        while table.len() < names.count {
            let (name, after) = split_name(rest)?;
            rest = after;
            text.clear();
            for &token in name {
                text.extend_from_slice(self.get(token));
                if text.len() > MAX_NAME {
                    return None;
                }
            }
            let (&kind, name) = text.split_first()?;
            if !table.push(0, kind, printable(name)) {
                return None;
            }
        }
        let entries: Vec<_> = table.positions(SYSCALL_ENTRY).collect();
        let banner = table.positions(BANNER).next();
        let addresses = Addresses::ALL.iter().find_map(|way| {
            let addresses = way.read(memory, &names, self.end)?;
            let agree = entries.iter().any(|&index| addresses.get(index) == Some(&entry))
                && banner.and_then(|index| addresses.get(index)).is_none_or(|&at| is_banner(memory, at));
            agree.then_some(addresses)
        })?;
        table.place(&addresses);
        Some(table)
    }
}

/// Takes a compressed name off the front: its length, of 7 bits or of 14 in two bytes, and its tokens.
fn split_name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (length, rest) = if first & 0x80 == 0 {
        (usize::from(first), rest)
    } else {
        let (&second, rest) = rest.split_first()?;
        (usize::from(first & 0x7f) | usize::from(second) << 7, rest)
    };
    if length == 0 {
        return None;
    }
    rest.split_at_checked(length)
}

/// The compressed names.
#[derive(Debug)]
struct Names {
    /// Where the number of names stands.
    count_at: u64,
    count: usize,
    bytes: Vec<u8>,
}

impl Names {
    /// The names before the tokens at `end`: after them their markers, and maybe three bytes a name.
    fn before(memory: &GuestMemory<'_>, end: u64) -> Option<Self> {
        // Most kernels' are a few megabytes.
        [4 << 20, 16 << 20, MAX_NAMES + MAX_BETWEEN].into_iter().find_map(|length| {
            let (start, before) = mapped_before(memory, end.saturating_sub(length as u64), end);
            Self::within(start, &before)
        })
    }

    /// The names in `before`, which is at `start` and ends where the tokens begin.
    fn within(start: u64, before: &[u8]) -> Option<Self> {
        // Markers begin with 0 and grow by what 256 names take: at least two bytes each.
        let grows = |from: usize, to: usize| {
            to.checked_sub(from).is_some_and(|step| (2 * MARKED..=MARKED * MAX_NAME).contains(&step))
        };
        let mut attempts = 0;
        let mut markers_at = before.len() & !3;
        let lowest = markers_at.saturating_sub(MAX_BETWEEN);
        while attempts < MAX_CANDIDATES {
            markers_at = markers_at.checked_sub(4).filter(|&at| at >= lowest)?;
            if word(before, markers_at) != Some(0) {
                continue;
            }
            let mut run = vec![0];
            let mut at = markers_at + 4;
            while let Some(next) = word(before, at).filter(|&next| grows(run[run.len() - 1], next)) {
                run.push(next);
                at += 4;
            }
            if run.len() < MIN_MARKERS {
                continue;
            }
            attempts += 1;
            if let Some((names_at, header, count)) = Self::fit(before, markers_at, &run) {
                let bytes = before.get(names_at..markers_at)?.to_owned();
                return Some(Self { count_at: start + (names_at - header) as u64, count, bytes });
            }
        }
        None
    }

    /// Where names begin that end at `markers_at` and agree with the markers, how far before that their number stands, and the
    /// number. The run of markers may be longer than they are: what follows may look like them.
    fn fit(before: &[u8], markers_at: usize, run: &[usize]) -> Option<(usize, usize, usize)> {
        let mut attempts = 0;
        for count in (1..=run.len()).rev().take(4) {
            // The names from the last marker on: 256 of them at most.
            let latest = markers_at.checked_sub(run[count - 1])? & !3;
            let earliest = latest.saturating_sub(MARKED * MAX_NAME).max(8);
            for names_at in (earliest..=latest).rev().step_by(4) {
                for header in [8, 4] {
                    let fits = |&number: &usize| number.div_ceil(MARKED) == count && number <= MAX_SYMBOLS;
                    let Some(number) = word(before, names_at - header).filter(fits) else { continue };
                    attempts += 1;
                    if Self::agree(&before[names_at..markers_at], &run[..count], number) {
                        return Some((names_at, header, number));
                    }
                    if attempts == MAX_CANDIDATES {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Whether `bytes` are `number` names, padding aside, with each 256th at its marker.
    fn agree(bytes: &[u8], markers: &[usize], number: usize) -> bool {
        let mut rest = bytes;
        for index in 0..number {
            if index % MARKED == 0 && markers.get(index / MARKED) != Some(&(bytes.len() - rest.len())) {
                return false;
            }
            let Some((_, after)) = split_name(rest) else { return false };
            rest = after;
        }
        rest.len() < 8 && rest.iter().all(|&byte| byte == 0)
    }
}

/// The 32-bit number at `at`.
fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*word) as usize)
}

/// What is mapped on end up to `end`, from `start` on at most.
fn mapped_before(memory: &GuestMemory<'_>, start: u64, end: u64) -> (u64, Vec<u8>) {
    let mut begin = end & !0xfff;
    while begin > start && memory.gap(begin - 0x1000) == 0 {
        begin -= 0x1000;
    }
    (begin, memory.mapped_bytes(begin, (end - begin) as usize))
}

/// How addresses are kept.
#[derive(Debug, Clone, Copy)]
enum Addresses {
    /// Before the names: distances from a base, those of absolute symbols positive and of the others complemented
    /// (CONFIG_KALLSYMS_ABSOLUTE_PERCPU).
    BeforeSigned,
    /// Before the names: unsigned distances from a base.
    BeforeUnsigned,
    /// As [`Addresses::BeforeSigned`], but after the tokens.
    AfterSigned,
    /// As [`Addresses::BeforeUnsigned`], but after the tokens.
    AfterUnsigned,
    /// After the tokens: each relative to its own place.
    AfterRelative,
}

impl Addresses {
    const ALL: [Self; 5] = [
        Self::BeforeSigned,
        Self::AfterSigned,
        Self::AfterRelative,
        Self::BeforeUnsigned,
        Self::AfterUnsigned,
    ];

    fn read(self, memory: &GuestMemory<'_>, names: &Names, tokens_end: u64) -> Option<Vec<u64>> {
        let length = 4 * names.count;
        let padded = length.next_multiple_of(8) as u64;
        let (offsets_at, base_at) = match self {
            Self::BeforeSigned | Self::BeforeUnsigned => {
                let base = names.count_at.checked_sub(8)?;
                (base.checked_sub(padded)?, base)
            }
            Self::AfterSigned | Self::AfterUnsigned => {
                let offsets = tokens_end.next_multiple_of(8);
                (offsets, offsets + padded)
            }
            Self::AfterRelative => (tokens_end.next_multiple_of(4), tokens_end),
        };
        let offsets = memory.bytes(offsets_at, length).ok()?;
        let base = memory.u64(base_at).ok()?;
        let offsets = offsets.chunks_exact(4).map(|raw| i32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]));
        let signed = |offset: i32| {
            if offset >= 0 {
                offset as u64
            } else {
                base.wrapping_sub(1).wrapping_sub(i64::from(offset) as u64)
            }
        };
        Some(match self {
            Self::BeforeSigned | Self::AfterSigned => offsets.map(signed).collect(),
            Self::BeforeUnsigned | Self::AfterUnsigned => {
                offsets.map(|offset| base.wrapping_add(u64::from(offset as u32))).collect()
            }
            Self::AfterRelative => {
                let places = (offsets_at..).step_by(4);
                offsets.zip(places).map(|(offset, place)| place.wrapping_add_signed(offset.into())).collect()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::Synthetic;
    use super::*;
    use proptest::prelude::*;

    const ENTRY: u64 = 0xffff_ffff_8100_0040;
    const TABLES: u64 = 0xffff_ffff_8120_0100;
    const SYMBOLS: usize = 1200;

    /// Tables as Linux 7.x has them, in which each byte is its own token.
    fn tables() -> Vec<u8> {
        let name = |index: usize| match index {
            0 => format!("T{SYSCALL_ENTRY}"),
            _ => format!("tfunction_{index}"),
        };
        let mut bytes = (SYMBOLS as u32).to_le_bytes().to_vec();
        let mut markers = Vec::new();
        for index in 0..SYMBOLS {
            if index % MARKED == 0 {
                markers.push((bytes.len() - 4) as u32);
            }
            let name = name(index);
            bytes.push(name.len() as u8);
            bytes.extend(name.as_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(markers.iter().flat_map(|marker| marker.to_le_bytes()));
        // Bytes of no name have tokens that are never used.
        let token = |byte: u8| if byte.is_ascii_graphic() { vec![byte, 0] } else { vec![b'z', b'z', 0] };
        let mut index = Vec::new();
        let mut text = Vec::new();
        for byte in 0..=255 {
            index.extend((text.len() as u16).to_le_bytes());
            text.extend(token(byte));
        }
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(index);
        for symbol in 0..SYMBOLS as u64 {
            let place = TABLES + bytes.len() as u64;
            bytes.extend(((ENTRY + 0x10 * symbol).wrapping_sub(place) as i32).to_le_bytes());
        }
        bytes
    }

    fn guest(tables: &[u8]) -> Synthetic {
        let mut guest = Synthetic::new();
        guest.put(ENTRY & !0xfff, &[0xcc; 64]);
        guest.put(TABLES, tables);
        guest
    }

    #[test]
    fn tables_are_found_and_believed_only_if_they_have_the_entry() {
        let guest = guest(&tables());
        let table = find(&guest.memory(), ENTRY).unwrap();
        assert_eq!(table.len(), SYMBOLS);
        assert_eq!(table.resolve(ENTRY + 0x10 * 700 + 4).unwrap().to_string(), "function_700+0x4/0x10");
        assert!(find(&guest.memory(), ENTRY + 0x10).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn wild_tables_are_survived(noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..16)) {
            let mut tables = tables();
            for (at, value) in noise {
                let at = at.index(tables.len());
                tables[at] = value;
            }
            if let Some(table) = find(&guest(&tables).memory(), ENTRY) {
                prop_assert_eq!(table.address(SYSCALL_ENTRY), Some(ENTRY));
            }
        }
    }
}
