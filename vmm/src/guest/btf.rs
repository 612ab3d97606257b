//! The layout of a kernel's structures, as its BTF says (Documentation/bpf/btf.rst of Linux).
//!
//! The one crate that reads it is under a licence that does not fit here; what is needed is small.

use super::symbols::{MAX_NAME, hash};

const MAGIC: u16 = 0xeb9f;
/// Bytes of a header without layouts of kinds, and with.
const HEADER: usize = 24;
const HEADER_WITH_LAYOUTS: usize = 32;
/// Bytes of a type before what its kind adds.
const TYPE: usize = 12;
/// Bytes of a member of a structure.
const MEMBER: usize = 12;
/// Most types (BTF_MAX_TYPE).
const MAX_TYPES: usize = 1 << 20;
/// Most modifiers on end, and anonymous structures in one another.
const MAX_DEPTH: u32 = 16;
/// Most members that one question looks at: anonymous ones could contain themselves.
const MAX_MEMBERS: u32 = 1 << 16;

/// Kinds of types.
mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
    /// One more than the last known.
    pub const END: u32 = 20;
}

/// What a kind adds to a type: bytes once, and bytes for each of its elements.
fn addition(kind: u32) -> (usize, usize) {
    match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => (4, 0),
        kind::ARRAY => (12, 0),
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => (0, 12),
        kind::ENUM | kind::FUNC_PROTO => (0, 8),
        _ => (0, 0),
    }
}

/// The types of a kernel.
#[derive(Debug, Clone)]
pub(super) struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Where the types begin; the first has number 1.
    starts: Vec<u32>,
    /// Hashes of the names of structures and unions with their numbers, by hash.
    structures: Vec<(u32, u32)>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// A type.
#[derive(Debug, Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    /// Members' offsets have the sizes of bit fields in them.
    flag: bool,
    elements: u32,
    /// Its size, or the number of the type that it refers to.
    size_or_type: u32,
    start: usize,
}

/// A member of a structure.
#[derive(Debug, Clone, Copy)]
struct Member {
    name: u32,
    number: u32,
    /// Bits from the structure's start.
    bit: u32,
    /// Bits of a bit field, else 0.
    bits: u32,
}

impl Btf {
    /// Reads `bytes`; `None` if they are no BTF.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = |at: usize| word(bytes, at).map(|word| word as usize);
        let (magic, version) = (header(0)? & 0xffff, bytes.get(2)?);
        let length = header(4)?;
        if magic != usize::from(MAGIC) || *version != 1 || length < HEADER {
            return None;
        }
        let section = |offset: usize| {
            let start = length.checked_add(header(offset)?)?;
            bytes.get(start..start.checked_add(header(offset + 4)?)?)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let layouts = if length >= HEADER_WITH_LAYOUTS { section(24)? } else { &[] };
        let mut btf = Self {
            types: types.to_owned(),
            strings: strings.to_owned(),
            starts: Vec::with_capacity(types.len() / 32),
            structures: Vec::new(),
        };
        let mut at = 0;
        while at < types.len() {
            let found = btf.read(at)?;
            let (once, each) = if found.kind < kind::END {
                addition(found.kind)
            } else {
                // A kind from after this was written: newer kernels say how large theirs are.
                let layout = layouts.get(4 * found.kind as usize..)?;
                (usize::from(*layout.first()?), usize::from(*layout.get(1)?))
            };
            btf.starts.push(u32::try_from(at).ok()?);
            if btf.starts.len() > MAX_TYPES {
                return None;
            }
            if matches!(found.kind, kind::STRUCT | kind::UNION) && found.name != 0 {
                btf.structures.push((hash(btf.string(found.name)), btf.starts.len() as u32));
            }
            at = at.checked_add(TYPE + once)?.checked_add(each.checked_mul(found.elements as usize)?)?;
        }
        btf.structures.sort_unstable();
        (at == types.len()).then_some(btf)
    }

    fn read(&self, start: usize) -> Option<Type> {
        let information = word(&self.types, start + 4)?;
        Some(Type {
            name: word(&self.types, start)?,
            kind: information >> 24 & 0x7f,
            flag: information >> 31 != 0,
            elements: information & 0xff_ffff,
            size_or_type: word(&self.types, start + 8)?,
            start,
        })
    }

    /// The type with a number, behind names and qualifiers.
    fn get(&self, mut number: u32) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            let start = *self.starts.get((number as usize).checked_sub(1)?)?;
            let found = self.read(start as usize)?;
            match found.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    number = found.size_or_type;
                }
                _ => return Some(found),
            }
        }
        None
    }

    fn string(&self, at: u32) -> &str {
        let rest = self.strings.get(at as usize..).unwrap_or_default();
        let bytes = &rest[..rest.len().min(MAX_NAME)];
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(0);
        std::str::from_utf8(&bytes[..end]).unwrap_or_default()
    }

    /// The structure or union called `name`.
    fn structure(&self, name: &str) -> Option<Type> {
        let wanted = hash(name);
        let start = self.structures.partition_point(|&(hash, _)| hash < wanted);
        let alike = self.structures[start..].iter().take_while(|&&(hash, _)| hash == wanted);
        alike.filter_map(|&(_, number)| self.get(number)).find(|found| self.string(found.name) == name)
    }

    /// Bytes of the structure or union called `name`.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.structure(name).map(|found| found.size_or_type.into())
    }

    /// Bytes from the start of a structure to a field in it: `module.arch.num_orcs`. `None` if there is none, or it is a bit
    /// field.
    pub fn offset(&self, path: &str) -> Option<u64> {
        let mut parts = path.split('.');
        let mut inside = self.structure(parts.next()?)?;
        let mut offset = 0;
        let mut budget = MAX_MEMBERS;
        for part in parts {
            let (bit, number) = self.member(inside, part, MAX_DEPTH, &mut budget)?;
            offset += bit;
            // The last part may be anything, even what has no type that can be looked at.
            inside = self.get(number).unwrap_or(Type { kind: 0, elements: 0, ..inside });
        }
        offset.is_multiple_of(8).then_some(offset / 8)
    }

    /// Where the member called `name` is, in bits, and the number of its type; also in anonymous members.
    fn member(&self, of: Type, name: &str, depth: u32, budget: &mut u32) -> Option<(u64, u32)> {
        if name.is_empty() || !matches!(of.kind, kind::STRUCT | kind::UNION) {
            return None;
        }
        for index in 0..of.elements {
            *budget = budget.checked_sub(1)?;
            let member = self.nth_member(of, index)?;
            let found = self.string(member.name);
            if found == name {
                return (member.bits == 0).then_some((member.bit.into(), member.number));
            }
            if found.is_empty() && depth > 0 {
                let inner =
                    self.get(member.number).and_then(|inner| self.member(inner, name, depth - 1, budget));
                if let Some((bit, number)) = inner {
                    return Some((u64::from(member.bit) + bit, number));
                }
            }
        }
        None
    }

    fn nth_member(&self, of: Type, index: u32) -> Option<Member> {
        let at = of.start + TYPE + MEMBER * index as usize;
        let offset = word(&self.types, at + 8)?;
        let (bit, bits) = if of.flag { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
        Some(Member { name: word(&self.types, at)?, number: word(&self.types, at + 4)?, bit, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STRINGS: &[u8] = b"\0int\0list\0next\0prev\0module\0name\0state\0bit\0inner\0";

    fn name(text: &str) -> u32 {
        let wanted = [text.as_bytes(), b"\0"].concat();
        1 + STRINGS[1..].windows(wanted.len()).position(|window| window == wanted).unwrap() as u32
    }

    fn pack(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn image(types: &[u8], layouts: &[u8]) -> Vec<u8> {
        let (types_length, strings) = (types.len() as u32, STRINGS.len() as u32);
        let header = [
            0x0001_eb9f,
            32,
            0,
            types_length,
            types_length,
            strings,
            types_length + strings,
            layouts.len() as u32,
        ];
        [pack(&header), types.to_owned(), STRINGS.to_owned(), layouts.to_owned()].concat()
    }

    /// int; const int; struct list {next, prev}; struct (anonymous) {int state; int bit: 3}; struct module {list; anonymous; name}
    fn types() -> Vec<u8> {
        let structure = |elements: u32| kind::STRUCT << 24 | elements;
        pack(
            &[
                &[name("int"), kind::INT << 24, 4, 32][..],
                &[0, kind::CONST << 24, 1],
                &[name("list"), structure(2), 16, name("next"), 1, 0, name("prev"), 1, 64],
                &[0, structure(2) | 1 << 31, 8, name("state"), 2, 32, name("bit"), 1, 3 << 24 | 1],
                &[name("module"), structure(3), 40, name("inner"), 3, 64, 0, 4, 192, name("name"), 1, 256],
            ]
            .concat(),
        )
    }

    #[test]
    fn offsets_are_found_through_members_named_or_not() {
        let btf = Btf::parse(&image(&types(), &[])).unwrap();
        assert_eq!(btf.offset("module.inner"), Some(8));
        assert_eq!(btf.offset("module.inner.prev"), Some(16));
        assert_eq!(btf.offset("module.state"), Some(28));
        assert_eq!(btf.offset("module.name"), Some(32));
        assert_eq!((btf.size("module"), btf.size("list"), btf.size("int")), (Some(40), Some(16), None));
        for path in ["module.bit", "module.none", "module.name.next", "none.state", "", "module."] {
            assert_eq!(btf.offset(path), None, "{path}");
        }
    }

    #[test]
    fn kinds_from_the_future_are_skipped_by_their_layout() {
        let types = [pack(&[0, 21 << 24 | 2, 0, 7, 7, 7]), types()].concat();
        assert!(Btf::parse(&image(&types, &[])).is_none());
        let layouts = [[0; 4].repeat(21), vec![4, 4, 0, 0]].concat();
        assert_eq!(Btf::parse(&image(&types, &layouts)).unwrap().size("module"), Some(40));
    }

    #[test]
    fn structures_that_contain_themselves_end() {
        let mut members = vec![0, kind::STRUCT << 24 | 200, 8];
        members.extend([0, 1, 0].repeat(200));
        members[0] = name("module");
        let btf = Btf::parse(&image(&pack(&members), &[])).unwrap();
        assert_eq!(btf.offset("module.none"), None);
    }

    proptest! {
        #[test]
        fn wild_bytes_are_survived(noise in prop::collection::vec((0..400_usize, any::<u8>()), 0..24), cut in 0..400_usize) {
            let mut bytes = image(&types(), &[]);
            for (at, value) in noise {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            for bytes in [&bytes[..], &bytes[..cut.min(bytes.len())]] {
                if let Some(btf) = Btf::parse(bytes) {
                    let _ = (btf.offset("module.inner.prev"), btf.offset("module.none"), btf.size("list"));
                }
            }
        }
    }
}
