//! ORC tables: for each stretch of code, where the caller's stack pointer is and what lies there
//! (`arch/x86/include/asm/orc_types.h` of Linux). Their numbers have changed twice, and nothing in them says so: what most
//! entries are, ordinary calls found from the stack pointer, tells.

use super::memory::{GuestMemory, Unmapped};

/// Bytes of an entry, and of the place it is for.
const ENTRY: usize = 6;
const PLACE: usize = 4;
/// Most entries of a table: several times a large kernel's.
pub(super) const MAX_ENTRIES: usize = 4 << 20;
/// Entries that are looked at to see what the numbers mean.
const SAMPLE: usize = 4096;

/// What an address is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    Undefined,
    /// The caller's stack pointer.
    PreviousSp,
    Sp,
    Bp,
    /// The value that is stored at the stack pointer.
    AtSp,
    /// The value that is stored at an offset from RBP.
    AtBp,
    Ax,
    Dx,
    Di,
    R10,
    R13,
}

/// What lies where an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nobody knows.
    Undefined,
    /// Nothing: this is where the stack begins.
    End,
    /// The return address of a call.
    Call,
    /// All registers (struct pt_regs).
    Registers,
    /// What the processor pushes at an interrupt.
    Interrupt,
}

/// How to go on from a stretch of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: Kind,
    pub sp: Base,
    pub sp_offset: i64,
    pub bp: Base,
    pub bp_offset: i64,
    /// The address found belongs to an instruction that was interrupted, not to one after a call.
    pub signal: bool,
}

/// What the numbers in entries mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// To Linux 6.3: a bit for the end, and no value for what is undefined.
    EndBit,
    /// From Linux 6.4 on.
    Kinds,
    /// Linux 7.x: registers have new numbers.
    KindsRenumbered,
}

impl Format {
    /// The format in which most entries are calls whose caller's stack pointer is found from the present one.
    fn of(entries: &[u8]) -> Option<Self> {
        let count = entries.len() / ENTRY;
        let step = (count / SAMPLE).max(1);
        let flags = || {
            entries.chunks_exact(ENTRY).step_by(step).map(|entry| u16::from_le_bytes([entry[4], entry[5]]))
        };
        let ordinary = |format: &Self| {
            let usual = flags().filter(|&flags| {
                let (kind, sp) = format.meaning(flags);
                (kind, sp) == (Kind::Call, Base::Sp)
            });
            usual.count()
        };
        let formats = [Self::EndBit, Self::Kinds, Self::KindsRenumbered];
        let best = formats.into_iter().max_by_key(ordinary)?;
        // More than half, and no tie.
        (2 * ordinary(&best) > flags().count()).then_some(best)
    }

    fn base(self, number: u16) -> Base {
        use Base::{AtBp, AtSp, Ax, Bp, Di, Dx, PreviousSp, R10, R13, Sp, Undefined};
        let bases: &[Base] = match self {
            Self::EndBit | Self::Kinds => &[Undefined, PreviousSp, Dx, Di, Bp, Sp, R10, R13, AtBp, AtSp],
            Self::KindsRenumbered => &[Undefined, Ax, Dx, Sp, Bp, Di, R10, R13, PreviousSp, AtSp, AtBp],
        };
        bases.get(usize::from(number & 0xf)).copied().unwrap_or(Undefined)
    }

    /// What lies there, and what the caller's stack pointer is counted from.
    fn meaning(self, flags: u16) -> (Kind, Base) {
        let sp = self.base(flags);
        let kind = match (self, flags >> 8 & 7) {
            (Self::EndBit, end) if sp == Base::Undefined => {
                if end & 4 != 0 {
                    Kind::End
                } else {
                    Kind::Undefined
                }
            }
            (Self::EndBit, kind) => match kind & 3 {
                0 => Kind::Call,
                1 => Kind::Registers,
                2 => Kind::Interrupt,
                _ => Kind::Undefined,
            },
            (_, 1) => Kind::End,
            (_, 2) => Kind::Call,
            (_, 3) => Kind::Registers,
            (_, 4) => Kind::Interrupt,
            _ => Kind::Undefined,
        };
        (kind, sp)
    }

    fn entry(self, raw: &[u8]) -> Option<Entry> {
        let &[sp_low, sp_high, bp_low, bp_high, flags_low, flags_high] = raw.first_chunk()?;
        let flags = u16::from_le_bytes([flags_low, flags_high]);
        let (kind, sp) = self.meaning(flags);
        let signal = match self {
            Self::EndBit => matches!(kind, Kind::Registers | Kind::Interrupt),
            Self::Kinds | Self::KindsRenumbered => flags & 1 << 11 != 0,
        };
        Some(Entry {
            kind,
            sp,
            sp_offset: i16::from_le_bytes([sp_low, sp_high]).into(),
            bp: self.base(flags >> 4),
            bp_offset: i16::from_le_bytes([bp_low, bp_high]).into(),
            signal,
        })
    }
}

/// The table of the kernel or of a module.
#[derive(Debug)]
pub(super) struct OrcTable {
    /// Where the places were in the guest: each is relative to its own address.
    start: u64,
    places: Vec<i32>,
    entries: Vec<u8>,
    format: Format,
}

impl OrcTable {
    /// Reads `count` places at `places` and entries at `entries`. `None` if they are not mapped, too many, or make no sense.
    pub fn read(memory: &GuestMemory<'_>, places: u64, entries: u64, count: usize) -> Option<Self> {
        if count == 0 || count > MAX_ENTRIES {
            return None;
        }
        let read = || -> Result<_, Unmapped> {
            Ok((memory.bytes(places, PLACE * count)?, memory.bytes(entries, ENTRY * count)?))
        };
        let (raw, entries) = read().ok()?;
        let format = Format::of(&entries)?;
        let raw = raw.chunks_exact(PLACE);
        let values = raw.map(|raw| i32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]])).collect();
        Some(Self { start: places, places: values, entries, format })
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The entry for `address`: the last whose place is not after it.
    pub fn find(&self, address: u64) -> Option<Entry> {
        let place = |index: usize| {
            let at = self.start.wrapping_add((PLACE * index) as u64);
            at.wrapping_add_signed(self.places[index].into())
        };
        let (mut low, mut high) = (0, self.places.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if place(middle) <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let index = low.checked_sub(1)?;
        self.format.entry(self.entries.get(ENTRY * index..)?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::memory::tests::Synthetic;
    use super::*;

    /// Bytes of an entry in the format of Linux 6.4.
    pub fn raw(sp: u16, sp_offset: i16, bp: u16, bp_offset: i16, kind: u16) -> Vec<u8> {
        let flags = sp | bp << 4 | kind << 8;
        [sp_offset.to_le_bytes(), bp_offset.to_le_bytes(), flags.to_le_bytes()].concat()
    }

    const PLACES: u64 = 0xffff_ffff_8300_0000;
    const ENTRIES: u64 = 0xffff_ffff_8301_0000;

    fn table(functions: &[(u64, Vec<u8>)]) -> Option<OrcTable> {
        let mut guest = Synthetic::new();
        for (index, (place, entry)) in (0..).zip(functions) {
            let at = PLACES + 4 * index;
            guest.put(at, &(place.wrapping_sub(at) as i32).to_le_bytes());
            guest.put(ENTRIES + 6 * index, entry);
        }
        OrcTable::read(&guest.memory(), PLACES, ENTRIES, functions.len())
    }

    #[test]
    fn each_format_is_recognised_by_what_is_usual_in_it() {
        const CODE: u64 = 0xffff_ffff_8100_0000;
        for (sp, kind, previous_sp, format) in
            [(5, 0, 1, Format::EndBit), (5, 2, 1, Format::Kinds), (3, 2, 8, Format::KindsRenumbered)]
        {
            let usual = raw(sp, 16, previous_sp, -16, kind);
            let functions: Vec<_> = (0..8).map(|index| (CODE + 0x10 * index, usual.clone())).collect();
            let table = table(&functions).unwrap();
            assert_eq!(table.format, format);
            let expected = Entry {
                kind: Kind::Call,
                sp: Base::Sp,
                sp_offset: 16,
                bp: Base::PreviousSp,
                bp_offset: -16,
                signal: false,
            };
            assert_eq!(table.find(CODE + 0x7f), Some(expected));
            assert_eq!(table.find(CODE - 1), None);
        }
        assert!(table(&vec![(CODE, vec![0; 6]); 8]).is_none());
    }

    #[test]
    fn the_end_is_a_bit_before_6_4_and_a_kind_after() {
        let of =
            |format: Format, flags: u16| format.entry(&[&[0; 4][..], &flags.to_le_bytes()].concat()).unwrap();
        assert_eq!(of(Format::EndBit, 0x400).kind, Kind::End);
        assert_eq!(of(Format::EndBit, 0).kind, Kind::Undefined);
        assert_eq!(of(Format::EndBit, 0x105).kind, Kind::Registers);
        assert!(of(Format::EndBit, 0x205).signal);
        assert_eq!(of(Format::Kinds, 0x100).kind, Kind::End);
        assert_eq!(of(Format::Kinds, 0).kind, Kind::Undefined);
        let interrupt = of(Format::KindsRenumbered, 0xc00 | 3);
        assert_eq!((interrupt.kind, interrupt.sp, interrupt.signal), (Kind::Interrupt, Base::Sp, true));
    }

    #[test]
    fn of_several_entries_for_one_place_the_last_counts() {
        const CODE: u64 = 0xffff_ffff_8100_0000;
        let mut functions = vec![(CODE, raw(5, 8, 0, 0, 2)); 6];
        functions.push((CODE, raw(5, 24, 0, 0, 2)));
        assert_eq!(table(&functions).unwrap().find(CODE).unwrap().sp_offset, 24);
    }
}
