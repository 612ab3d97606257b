//! ELF kernels of both classes: loadable segments and the PVH entry note (System V ABI, chapters 4 and 5;
//! xen/include/public/elfnote.h).

use super::KernelError;
use crate::memory::GuestRam;
use std::ops::Range;

const LITTLE_ENDIAN: u8 = 1;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
/// Bytes that identify the file and its class.
const IDENTIFICATION: usize = 16;
/// Offset of `e_machine` in both classes.
const MACHINE_AT: usize = 18;
/// Offset of `e_entry` in both classes.
const ENTRY_AT: usize = 24;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: physical address of the 32-bit PVH entry.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// Where the fields of one class are.
#[derive(Debug, PartialEq, Eq)]
struct Class {
    /// Bytes of an address or offset.
    word: usize,
    machine: u16,
    header_size: usize,
    /// `e_phoff`, `e_phentsize`, `e_phnum`.
    table: usize,
    entry_size: usize,
    count: usize,
    program_header_size: usize,
    /// `p_offset`, `p_vaddr`, `p_paddr`, `p_filesz`, `p_memsz`.
    segment: [usize; 5],
}

const CLASS_32: Class = Class {
    word: 4,
    machine: 3,
    header_size: 52,
    table: 28,
    entry_size: 42,
    count: 44,
    program_header_size: 32,
    segment: [4, 8, 12, 16, 20],
};
const CLASS_64: Class = Class {
    word: 8,
    machine: 62,
    header_size: 64,
    table: 32,
    entry_size: 54,
    count: 56,
    program_header_size: 56,
    segment: [8, 16, 24, 32, 40],
};

impl Class {
    /// The address or offset at `offset`; 0 beyond the end, which callers have excluded.
    fn word(&self, data: &[u8], offset: usize) -> u64 {
        match self.word {
            4 => u32_at(data, offset).unwrap_or_default().into(),
            _ => bytes(data, offset).map_or(0, u64::from_le_bytes),
        }
    }
}

/// What is known of an ELF kernel after a look at its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    class: &'static Class,
    segments: Vec<Segment>,
    /// `e_entry` as it is in the file.
    pub entry: u64,
    pub pvh_entry: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    file: Range<usize>,
    /// Physical address.
    address: u64,
    virtual_address: u64,
    size: u64,
}

/// The bytes at `offset`, as many as the array asked for.
fn bytes<const N: usize>(data: &[u8], offset: usize) -> Option<[u8; N]> {
    data.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

fn u16_at(data: &[u8], offset: usize) -> Option<u16> {
    bytes(data, offset).map(u16::from_le_bytes)
}

fn u32_at(data: &[u8], offset: usize) -> Option<u32> {
    bytes(data, offset).map(u32::from_le_bytes)
}

/// Whether `file` is an ELF file at all.
pub(super) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

impl Elf {
    /// Reads the headers of the ELF file `image`.
    pub(super) fn parse(image: &[u8]) -> Result<Self, KernelError> {
        let truncated =
            |needed: usize| KernelError::Truncated { needed: needed as u64, size: image.len() as u64 };
        if image.len() < IDENTIFICATION {
            return Err(truncated(IDENTIFICATION));
        }
        let class = match (image.get(4), image.get(5)) {
            (Some(1), Some(&LITTLE_ENDIAN)) => &CLASS_32,
            (Some(2), Some(&LITTLE_ENDIAN)) => &CLASS_64,
            _ => return Err(KernelError::NotX86("an ELF file that is not little-endian".into())),
        };
        if image.len() < class.header_size {
            return Err(truncated(class.header_size));
        }
        let machine = u16_at(image, MACHINE_AT).unwrap_or_default();
        if machine != class.machine {
            return Err(KernelError::NotX86(format!("an ELF file for {}", machine_name(machine))));
        }
        let entry = class.word(image, ENTRY_AT);
        let table = class.word(image, class.table);
        let entry_size = usize::from(u16_at(image, class.entry_size).unwrap_or_default());
        let count = usize::from(u16_at(image, class.count).unwrap_or_default());
        if count == 0 || entry_size < class.program_header_size {
            return Err(KernelError::NotBootable("an ELF file without program headers"));
        }
        let mut elf = Self { class, segments: Vec::new(), entry, pvh_entry: None };
        for index in 0..count {
            let at = (index * entry_size) as u64;
            let at =
                table.checked_add(at).ok_or(KernelError::NotBootable("an ELF file with wild headers"))?;
            elf.add_header(image, at)?;
        }
        if elf.segments.is_empty() {
            return Err(KernelError::NotBootable("an ELF file with nothing to load"));
        }
        Ok(elf)
    }

    fn add_header(&mut self, image: &[u8], at: u64) -> Result<(), KernelError> {
        let size = image.len() as u64;
        let needed = at.saturating_add(self.class.program_header_size as u64);
        let header = match (usize::try_from(at), usize::try_from(needed)) {
            (Ok(at), Ok(end)) => image.get(at..end),
            _ => None,
        }
        .ok_or(KernelError::Truncated { needed, size })?;
        let [offset, virtual_address, address, file_size, memory_size] =
            self.class.segment.map(|field| self.class.word(header, field));
        let kind = u32_at(header, 0).unwrap_or_default();
        if kind != SEGMENT_LOAD && kind != SEGMENT_NOTE {
            return Ok(());
        }
        let end = offset.saturating_add(file_size);
        let file = match (usize::try_from(offset), usize::try_from(end)) {
            (Ok(start), Ok(end)) if end <= image.len() => start..end,
            _ => return Err(KernelError::Truncated { needed: end, size }),
        };
        if kind == SEGMENT_NOTE {
            self.pvh_entry = self.pvh_entry.or(pvh_entry(image.get(file).unwrap_or_default()));
            return Ok(());
        }
        if memory_size == 0 {
            return Ok(());
        }
        if memory_size < file_size || address.checked_add(memory_size).is_none() {
            return Err(KernelError::NotBootable("an ELF file with a segment of impossible size"));
        }
        self.segments.push(Segment { file, address, virtual_address, size: memory_size });
        Ok(())
    }

    /// Whether the file is of the 64-bit class.
    pub(super) fn is_64_bit(&self) -> bool {
        self.class == &CLASS_64
    }

    /// The physical addresses of each segment.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.segments.iter().map(|segment| segment.address..segment.address.saturating_add(segment.size))
    }

    /// The first address beyond all segments.
    pub(super) fn end(&self) -> u64 {
        self.ranges().map(|range| range.end).max().unwrap_or(0)
    }

    /// The physical address of the entry, which `e_entry` names by its virtual one.
    pub(super) fn physical_entry(&self) -> u64 {
        let inside = |segment: &&Segment| self.entry.wrapping_sub(segment.virtual_address) < segment.size;
        self.segments.iter().find(inside).map_or(self.entry, |segment| {
            self.entry.wrapping_sub(segment.virtual_address).wrapping_add(segment.address)
        })
    }

    /// Copies the segments of `image` to RAM; `None` unless all of them are in low RAM.
    pub(super) fn load(&self, image: &[u8], ram: &GuestRam) -> Option<()> {
        for segment in &self.segments {
            if !ram.contains(segment.address, segment.size) {
                return None;
            }
            ram.write(segment.address, image.get(segment.file.clone())?).ok()?;
        }
        Some(())
    }
}

/// Looks for the PVH entry among the notes of one segment.
fn pvh_entry(mut notes: &[u8]) -> Option<u32> {
    loop {
        let name_size = u32_at(notes, 0)? as usize;
        let desc_size = u32_at(notes, 4)? as usize;
        let kind = u32_at(notes, 8)?;
        let desc_at = 12_usize.checked_add(name_size.checked_next_multiple_of(4)?)?;
        let next = desc_at.checked_add(desc_size.checked_next_multiple_of(4)?)?;
        if kind == NOTE_PHYS32_ENTRY && name_size == 4 && notes.get(12..16)? == b"Xen\0" && desc_size >= 4 {
            return u32_at(notes, desc_at);
        }
        notes = notes.get(next..)?;
    }
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "i386 in a 64-bit file".into(),
        8 => "MIPS".into(),
        20 | 21 => "PowerPC".into(),
        22 => "S/390".into(),
        40 => "32-bit Arm".into(),
        183 => "AArch64".into(),
        243 => "RISC-V".into(),
        62 => "x86-64 in a 32-bit file".into(),
        258 => "LoongArch".into(),
        other => format!("machine {other}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::memory::layout::MIB;

    /// An ELF kernel with one loaded segment at `address` and, if wanted, a PVH note.
    pub(in crate::boot) fn sample(address: u64, code: &[u8], pvh: Option<u32>) -> Vec<u8> {
        sample_of(&CLASS_64, address, code, pvh)
    }

    /// The same of the 32-bit class.
    pub(in crate::boot) fn sample_32(address: u64, code: &[u8], pvh: Option<u32>) -> Vec<u8> {
        sample_of(&CLASS_32, address, code, pvh)
    }

    fn sample_of(class: &Class, address: u64, code: &[u8], pvh: Option<u32>) -> Vec<u8> {
        let mut note = Vec::new();
        note.extend_from_slice(&[5, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
        note.extend_from_slice(b"GNU1\0\0\0\0\x01\x02\0\0");
        if let Some(entry) = pvh {
            note.extend_from_slice(&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
            note.extend_from_slice(b"Xen\0");
            note.extend_from_slice(&entry.to_le_bytes());
        }
        let notes_at = class.header_size + 2 * class.program_header_size;
        let code_at = notes_at + note.len();
        let mut file = vec![0; notes_at];
        let mut put = |at: usize, value: u64, size: usize| {
            file[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        };
        put(0, u64::from_le_bytes([0x7f, b'E', b'L', b'F', (class.word / 4) as u8, 1, 1, 0]), 8);
        put(16, 2, 2);
        put(MACHINE_AT, class.machine.into(), 2);
        put(ENTRY_AT, address, class.word);
        put(class.table, class.header_size as u64, class.word);
        put(class.entry_size, class.program_header_size as u64, 2);
        put(class.count, 2, 2);
        let mut header = |index: usize, kind: u32, values: [u64; 5]| {
            let at = class.header_size + index * class.program_header_size;
            put(at, kind.into(), 4);
            for (field, value) in class.segment.into_iter().zip(values) {
                put(at + field, value, class.word);
            }
        };
        let (note_size, code_size) = (note.len() as u64, code.len() as u64);
        header(0, SEGMENT_NOTE, [notes_at as u64, 0, 0, note_size, note_size]);
        header(1, SEGMENT_LOAD, [code_at as u64, address, address, code_size, code_size + 4096]);
        file.extend_from_slice(&note);
        file.extend_from_slice(code);
        file
    }

    #[test]
    fn segments_and_the_note_are_found() {
        for class in [&CLASS_32, &CLASS_64] {
            let file = sample_of(class, 16 * MIB, b"\xf4code", Some(0x100_0200));
            let elf = Elf::parse(&file).unwrap();
            assert_eq!(
                (elf.entry, elf.pvh_entry, elf.end()),
                (16 * MIB, Some(0x100_0200), 16 * MIB + 5 + 4096)
            );
            let ram = GuestRam::new(32 * MIB).unwrap();
            elf.load(&file, &ram).unwrap();
            let mut code = [0; 5];
            ram.read(16 * MIB, &mut code).unwrap();
            assert_eq!(&code, b"\xf4code");
            assert_eq!(Elf::parse(&sample_of(class, 16 * MIB, b"", None)).unwrap().pvh_entry, None);
            assert!(elf.load(&file, &GuestRam::new(16 * MIB).unwrap()).is_none());
        }
    }

    #[test]
    fn a_virtual_entry_is_translated() {
        let mut file = sample(16 * MIB, b"\xf4code", None);
        let high = 0xffff_ffff_8000_0000_u64;
        file[ENTRY_AT..ENTRY_AT + 8].copy_from_slice(&(high + 3).to_le_bytes());
        assert_eq!(Elf::parse(&file).unwrap().physical_entry(), high + 3, "in no segment");
        let virtual_address = CLASS_64.header_size + CLASS_64.program_header_size + CLASS_64.segment[1];
        file[virtual_address..virtual_address + 8].copy_from_slice(&high.to_le_bytes());
        assert_eq!(Elf::parse(&file).unwrap().physical_entry(), 16 * MIB + 3);
    }

    #[test]
    fn every_truncation_is_an_error() {
        for class in [&CLASS_32, &CLASS_64] {
            let file = sample_of(class, 16 * MIB, b"\xf4code", Some(0x100_0200));
            for length in 0..file.len() {
                assert!(Elf::parse(&file[..length]).is_err(), "{length} bytes");
            }
        }
    }

    #[test]
    fn garbage_in_any_field_is_survived() {
        let ram = GuestRam::new(32 * MIB).unwrap();
        for class in [&CLASS_32, &CLASS_64] {
            let file = sample_of(class, 16 * MIB, b"\xf4code", Some(0x100_0200));
            for at in 4..file.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bad = file.clone();
                    bad[at] = value;
                    if let Ok(elf) = Elf::parse(&bad) {
                        let _ = (elf.load(&bad, &ram), elf.physical_entry());
                    }
                }
            }
        }
        let mut wide = sample(16 * MIB, b"\xf4code", None);
        let address = CLASS_64.header_size + CLASS_64.program_header_size + CLASS_64.segment[2];
        wide[address..address + 8].fill(0xff);
        assert!(matches!(Elf::parse(&wide), Err(KernelError::NotBootable(_))));
    }

    #[test]
    fn other_machines_are_named() {
        let mut file = sample(16 * MIB, b"", None);
        file[MACHINE_AT] = 183;
        assert!(Elf::parse(&file).unwrap_err().to_string().contains("AArch64"));
        file[5] = 2;
        assert!(Elf::parse(&file).unwrap_err().to_string().contains("little-endian"));
    }
}
