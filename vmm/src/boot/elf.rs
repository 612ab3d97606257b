//! ELF kernels: loadable segments and the PVH entry note (System V ABI, chapter 5; xen/include/public/elfnote.h).

use super::KernelError;
use crate::memory::GuestRam;
use crate::memory::layout::FIRMWARE_END;
use std::ops::Range;

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: physical address of the 32-bit PVH entry.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// What is known of an ELF kernel after a look at its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    segments: Vec<Segment>,
    pub entry: u64,
    pub pvh_entry: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    file: Range<usize>,
    address: u64,
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

fn u64_at(data: &[u8], offset: usize) -> Option<u64> {
    bytes(data, offset).map(u64::from_le_bytes)
}

impl Elf {
    /// Reads the headers of the ELF file `image`.
    pub(super) fn parse(image: &[u8]) -> Result<Self, KernelError> {
        if image.len() < HEADER_SIZE {
            return Err(KernelError::Truncated { needed: HEADER_SIZE as u64, size: image.len() as u64 });
        }
        if image.get(4) != Some(&CLASS_64) || image.get(5) != Some(&LITTLE_ENDIAN) {
            return Err(KernelError::NotX86("an ELF file that is not 64-bit little-endian".into()));
        }
        let machine = u16_at(image, 18).unwrap_or_default();
        if machine != MACHINE_X86_64 {
            return Err(KernelError::NotX86(format!("an ELF file for {}", machine_name(machine))));
        }
        let entry = u64_at(image, 24).unwrap_or_default();
        let table = u64_at(image, 32).unwrap_or_default();
        let entry_size = usize::from(u16_at(image, 54).unwrap_or_default());
        let count = usize::from(u16_at(image, 56).unwrap_or_default());
        if count == 0 || entry_size < PROGRAM_HEADER_SIZE {
            return Err(KernelError::NotBootable("an ELF file without program headers"));
        }
        let mut elf = Self { segments: Vec::new(), entry, pvh_entry: None };
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
        let needed = at.saturating_add(PROGRAM_HEADER_SIZE as u64);
        let header = usize::try_from(at)
            .ok()
            .and_then(|at| bytes::<PROGRAM_HEADER_SIZE>(image, at))
            .ok_or(KernelError::Truncated { needed, size })?;
        let field = |offset| u64_at(&header, offset).unwrap_or_default();
        let (offset, physical, file_size, memory_size) = (field(8), field(24), field(32), field(40));
        let kind = u32_at(&header, 0).unwrap_or_default();
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
        if memory_size < file_size || physical.checked_add(memory_size).is_none() {
            return Err(KernelError::NotBootable("an ELF file with a segment of impossible size"));
        }
        if physical < FIRMWARE_END {
            return Err(KernelError::NotBootable("an ELF file that loads below 1 MiB"));
        }
        self.segments.push(Segment { file, address: physical, size: memory_size });
        Ok(())
    }

    /// The first address beyond all segments.
    pub(super) fn end(&self) -> u64 {
        self.segments.iter().map(|segment| segment.address.saturating_add(segment.size)).max().unwrap_or(0)
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
        3 => "i386 (a 32-bit kernel)".into(),
        8 => "MIPS".into(),
        20 | 21 => "PowerPC".into(),
        22 => "S/390".into(),
        40 => "32-bit Arm".into(),
        183 => "AArch64".into(),
        243 => "RISC-V".into(),
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
        let mut note = Vec::new();
        note.extend_from_slice(&[5, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
        note.extend_from_slice(b"GNU1\0\0\0\0\x01\x02\0\0");
        if let Some(entry) = pvh {
            note.extend_from_slice(&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
            note.extend_from_slice(b"Xen\0");
            note.extend_from_slice(&entry.to_le_bytes());
        }
        let notes_at = HEADER_SIZE + 2 * PROGRAM_HEADER_SIZE;
        let code_at = notes_at + note.len();
        let mut file = vec![0; notes_at];
        file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        file[16..20].copy_from_slice(&[2, 0, 62, 0]);
        file[24..32].copy_from_slice(&address.to_le_bytes());
        file[32..40].copy_from_slice(&(HEADER_SIZE as u64).to_le_bytes());
        file[54..58].copy_from_slice(&[56, 0, 2, 0]);
        let mut header = |index: usize, kind: u32, offset: usize, physical: u64, size: usize, memory: u64| {
            let at = HEADER_SIZE + index * PROGRAM_HEADER_SIZE;
            file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            for (field, value) in
                [(8, offset as u64), (16, physical), (24, physical), (32, size as u64), (40, memory)]
            {
                file[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
            }
        };
        header(0, SEGMENT_NOTE, notes_at, 0, note.len(), note.len() as u64);
        header(1, SEGMENT_LOAD, code_at, address, code.len(), code.len() as u64 + 4096);
        file.extend_from_slice(&note);
        file.extend_from_slice(code);
        file
    }

    #[test]
    fn segments_and_the_note_are_found() {
        let file = sample(16 * MIB, b"\xf4code", Some(0x100_0200));
        let elf = Elf::parse(&file).unwrap();
        assert_eq!((elf.entry, elf.pvh_entry, elf.end()), (16 * MIB, Some(0x100_0200), 16 * MIB + 5 + 4096));
        let ram = GuestRam::new(32 * MIB).unwrap();
        elf.load(&file, &ram).unwrap();
        let mut code = [0; 5];
        ram.read(16 * MIB, &mut code).unwrap();
        assert_eq!(&code, b"\xf4code");
        assert_eq!(Elf::parse(&sample(16 * MIB, b"", None)).unwrap().pvh_entry, None);
        assert!(elf.load(&file, &GuestRam::new(16 * MIB).unwrap()).is_none());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let file = sample(16 * MIB, b"\xf4code", Some(0x100_0200));
        for length in 0..file.len() {
            assert!(Elf::parse(&file[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn garbage_in_any_field_is_survived() {
        let file = sample(16 * MIB, b"\xf4code", Some(0x100_0200));
        let ram = GuestRam::new(32 * MIB).unwrap();
        for at in 4..file.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = file.clone();
                bad[at] = value;
                if let Ok(elf) = Elf::parse(&bad) {
                    let _ = elf.load(&bad, &ram);
                }
            }
        }
        let mut wide = file.clone();
        wide[HEADER_SIZE + PROGRAM_HEADER_SIZE + 24..][..8].fill(0xff);
        assert!(matches!(Elf::parse(&wide), Err(KernelError::NotBootable(_))));
    }

    #[test]
    fn other_machines_are_named() {
        let mut file = sample(16 * MIB, b"", None);
        file[18] = 183;
        assert!(Elf::parse(&file).unwrap_err().to_string().contains("AArch64"));
        file[4] = 1;
        assert!(Elf::parse(&file).unwrap_err().to_string().contains("64-bit"));
    }
}
