//! The initial RAM file system: placed as high as the kernel allows, pieces appended to one another.

use super::BootError;
use super::multiboot::Module;
use crate::memory::GuestRam;
use crate::memory::layout::PAGE;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A piece of the initial RAM file system.
#[derive(Debug, Clone)]
pub enum InitrdPart {
    /// A file of the host.
    File(PathBuf),
    /// An archive made by this program.
    Bytes(Vec<u8>),
}

/// Where the initrd is: address and size, both 0 without one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Initrd {
    pub address: u64,
    pub size: u64,
}

const COPY_CHUNK: usize = 1 << 20;
/// Archives that follow another start at a multiple of this (Documentation/driver-api/early-userspace/buffer-format.rst).
const ALIGNMENT: u64 = 4;

impl InitrdPart {
    fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Bytes(_) => Path::new("(appended archive)"),
        }
    }

    fn error(&self, source: std::io::Error) -> BootError {
        BootError::Read { what: "initrd", path: self.path().to_owned(), source }
    }
}

/// A part opened for reading.
struct Source<'a> {
    part: &'a InitrdPart,
    reader: Box<dyn Read + 'a>,
    size: u64,
}

impl<'a> Source<'a> {
    fn open(part: &'a InitrdPart, ram: &GuestRam) -> Result<Self, BootError> {
        let (reader, size): (Box<dyn Read + '_>, u64) = match part {
            InitrdPart::Bytes(bytes) => (Box::new(&bytes[..]), bytes.len() as u64),
            InitrdPart::File(path) => {
                let file = File::open(path).map_err(|source| part.error(source))?;
                let metadata = file.metadata().map_err(|source| part.error(source))?;
                if metadata.is_file() {
                    (Box::new(file), metadata.len())
                } else {
                    // A pipe or device has no size until it has been read; a directory fails here.
                    let mut bytes = Vec::new();
                    let limit = ram.size().saturating_add(1);
                    file.take(limit).read_to_end(&mut bytes).map_err(|source| part.error(source))?;
                    let size = bytes.len() as u64;
                    (Box::new(std::io::Cursor::new(bytes)), size)
                }
            }
        };
        Ok(Self { part, reader, size })
    }

    fn copy(mut self, ram: &GuestRam, address: u64) -> Result<(), BootError> {
        let mut buffer = vec![0; COPY_CHUNK];
        let mut done = 0;
        while done < self.size {
            let want = buffer.len().min(usize::try_from(self.size - done).unwrap_or(usize::MAX));
            let read = self
                .reader
                .read(buffer.get_mut(..want).unwrap_or_default())
                .map_err(|source| self.part.error(source))?;
            if read == 0 {
                return Err(self.part.error(std::io::ErrorKind::UnexpectedEof.into()));
            }
            ram.write(address + done, buffer.get(..read).unwrap_or_default())?;
            done += read as u64;
        }
        Ok(())
    }
}

/// Copies `parts` to the highest page-aligned place below `to`, which must not reach below `from`.
pub(super) fn load(ram: &GuestRam, parts: &[InitrdPart], from: u64, to: u64) -> Result<Initrd, BootError> {
    let mut sources = Vec::new();
    let mut total = 0_u64;
    for part in parts {
        let source = Source::open(part, ram)?;
        let offset = total.next_multiple_of(ALIGNMENT);
        total = offset
            .checked_add(source.size)
            .filter(|&total| total <= to)
            .ok_or_else(|| too_large(part, source.size, from, to))?;
        sources.push((source, offset));
    }
    let Some(last) = parts.last().filter(|_| total != 0) else { return Ok(Initrd::default()) };
    let address = (to - total) & !(PAGE - 1);
    if address < from {
        let largest = sources.iter().max_by_key(|(source, _)| source.size);
        return Err(too_large(largest.map_or(last, |(source, _)| source.part), total, from, to));
    }
    for (source, offset) in sources {
        source.copy(ram, address + offset)?;
    }
    Ok(Initrd { address, size: total })
}

/// Copies each of `parts` to a place of its own: the first page at or after `from` that is free, below `to`.
pub(super) fn load_modules(
    ram: &GuestRam,
    parts: &[InitrdPart],
    from: u64,
    to: u64,
) -> Result<Vec<Module>, BootError> {
    let mut modules = Vec::new();
    let mut address = from;
    for part in parts {
        let source = Source::open(part, ram)?;
        let size = source.size;
        let end = address.checked_add(size).filter(|&end| end <= to);
        let end = end.ok_or_else(|| too_large(part, size, address, to))?;
        source.copy(ram, address)?;
        modules.push(Module {
            place: Initrd { address, size },
            string: part.path().to_string_lossy().into_owned(),
        });
        address = end.next_multiple_of(PAGE);
    }
    Ok(modules)
}

fn too_large(part: &InitrdPart, size: u64, from: u64, to: u64) -> BootError {
    BootError::InitrdTooLarge { path: part.path().to_owned(), size, from, to }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::layout::MIB;
    use std::io::Write;

    #[test]
    fn pieces_are_appended_at_the_top() {
        let ram = GuestRam::new(16 * MIB).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1; 5001]).unwrap();
        let parts = [InitrdPart::File(file.path().to_owned()), InitrdPart::Bytes(vec![2; 10])];
        let initrd = load(&ram, &parts, MIB, 16 * MIB).unwrap();
        assert_eq!(initrd, Initrd { address: 16 * MIB - 8192, size: 5014 });
        let mut data = [9; 14];
        ram.read(initrd.address + 5000, &mut data).unwrap();
        assert_eq!(data, [1, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(load(&ram, &[], MIB, 16 * MIB).unwrap(), Initrd::default());
    }

    #[test]
    fn modules_follow_one_another_at_pages() {
        let ram = GuestRam::new(16 * MIB).unwrap();
        let parts = [InitrdPart::Bytes(vec![1; 5001]), InitrdPart::Bytes(vec![2; 10])];
        let modules = load_modules(&ram, &parts, MIB, 16 * MIB).unwrap();
        let places: Vec<_> = modules.iter().map(|module| (module.place.address, module.place.size)).collect();
        assert_eq!(places, [(MIB, 5001), (MIB + 8192, 10)]);
        let mut data = [9; 2];
        ram.read(MIB + 8192 + 9, &mut data).unwrap();
        assert_eq!(data, [2, 0]);
        assert!(load_modules(&ram, &parts, MIB, MIB + 8192).is_err());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let ram = GuestRam::new(16 * MIB).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![1; 2 * MIB as usize]).unwrap();
        let parts = [InitrdPart::File(file.path().to_owned())];
        for (from, to) in [(15 * MIB, 16 * MIB), (0, MIB)] {
            let error = load(&ram, &parts, from, to).unwrap_err().to_string();
            assert!(error.contains(&file.path().display().to_string()), "{error}");
        }
        let missing = load(&ram, &[InitrdPart::File("/nonexistent/initrd".into())], 0, MIB).unwrap_err();
        assert_eq!(missing.to_string(), "initrd /nonexistent/initrd: No such file or directory (os error 2)");
        let directory = load(&ram, &[InitrdPart::File("/".into())], 0, MIB).unwrap_err();
        assert!(directory.to_string().starts_with("initrd /: Is a directory"), "{directory}");
    }
}
