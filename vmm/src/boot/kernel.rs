//! A kernel file, whatever its format: what it needs, where it goes, how it is entered.

use super::bzimage::{self, BzImage};
use super::elf::Elf;
use super::unpack::UnpackError;
use super::{BootError, Entry, read_file};
use crate::memory::GuestRam;
use crate::memory::layout::FIRMWARE_END;
use linux_loader::loader::bootparam::setup_header;
use std::path::{Path, PathBuf};

/// Why a file cannot be booted. Reads after "kernel FILE: ".
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("it is cut off: {size} bytes, {needed} needed")]
    Truncated { needed: u64, size: u64 },
    #[error("it is not for x86-64: {0}")]
    NotX86(String),
    #[error("it is neither a bzImage nor an ELF file")]
    Unknown,
    #[error("it is {0}")]
    NotBootable(&'static str),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

/// Limits where there is no setup header: those of every 64-bit kernel since 2.6.
const DEFAULT_COMMAND_LINE_MAX: u32 = 2047;
const DEFAULT_INITRD_MAX: u32 = 0x7fff_ffff;

/// A kernel that has been read and understood.
#[derive(Debug)]
pub struct Kernel {
    path: PathBuf,
    header: Option<setup_header>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Elf {
        image: Vec<u8>,
        elf: Elf,
    },
    /// A bzImage that unpacks itself.
    Flat {
        image: Vec<u8>,
        address: u64,
        init_size: u64,
        entry: Entry,
    },
}

impl Kernel {
    /// Reads and unpacks the kernel at `path`.
    ///
    /// # Errors
    /// [`BootError`] with the file's name and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, BootError> {
        let file = read_file("kernel", path)?;
        Self::parse(path, file).map_err(|source| BootError::Kernel { path: path.to_owned(), source })
    }

    fn parse(path: &Path, file: Vec<u8>) -> Result<Self, KernelError> {
        let path = path.to_owned();
        if file.starts_with(b"\x7fELF") {
            let elf = Elf::parse(&file)?;
            return Ok(Self { path, header: None, body: Body::Elf { image: file, elf } });
        }
        if !bzimage::is_bzimage(&file) {
            return Err(match file.get(0x38..0x3c) {
                Some(b"ARM\x64") => KernelError::NotX86("an AArch64 Image".into()),
                Some(b"RSC\x05") => KernelError::NotX86("a RISC-V Image".into()),
                _ => KernelError::Unknown,
            });
        }
        let bzimage = BzImage::parse(&file)?;
        drop(file);
        let header = Some(bzimage.header);
        if let Some(image) = bzimage.unpack()? {
            let elf = Elf::parse(&image)?;
            return Ok(Self { path, header, body: Body::Elf { image, elf } });
        }
        log::info!("{}: no payload to unpack: the kernel unpacks itself", path.display());
        let address = bzimage.load_address();
        let init_size = bzimage.init_size();
        let entry = match bzimage.entry_64() {
            Some(offset) => Entry::Long(address.saturating_add(offset)),
            None => Entry::Protected(
                u32::try_from(address).map_err(|_| KernelError::NotBootable("loaded above 4 GiB"))?,
            ),
        };
        if address < FIRMWARE_END {
            return Err(KernelError::NotBootable("a bzImage that loads below 1 MiB"));
        }
        let body = Body::Flat { image: bzimage.into_protected_mode(), address, init_size, entry };
        Ok(Self { path, header, body })
    }

    /// Copies the kernel into RAM and returns the first address beyond what it needs.
    pub(super) fn load(&self, ram: &GuestRam) -> Result<u64, BootError> {
        let (end, loaded) = match &self.body {
            Body::Elf { image, elf } => {
                let end = elf.end();
                (end, if end <= ram.low_end() { elf.load(image, ram) } else { None })
            }
            Body::Flat { image, address, init_size, .. } => {
                let end = address.saturating_add(*init_size);
                let fits = ram.contains(*address, *init_size);
                (end, if fits { ram.write(*address, image).ok() } else { None })
            }
        };
        loaded.map(|()| end).ok_or_else(|| BootError::KernelTooLarge {
            path: self.path.clone(),
            needed: end,
            available: ram.low_end(),
        })
    }

    /// How the kernel is entered: by its PVH note if it is a bare ELF file with one, else by the 64-bit protocol.
    pub(super) fn entry(&self) -> Entry {
        match &self.body {
            Body::Elf { elf, .. } => match (elf.pvh_entry, &self.header) {
                (Some(address), None) => Entry::Pvh(address),
                _ => Entry::Long(elf.entry),
            },
            Body::Flat { entry, .. } => *entry,
        }
    }

    pub(super) fn setup_header(&self) -> Option<&setup_header> {
        self.header.as_ref()
    }

    /// Bytes of command line the kernel takes, without the terminator.
    pub(super) fn command_line_max(&self) -> u32 {
        self.header.map_or(DEFAULT_COMMAND_LINE_MAX, |header| header.cmdline_size)
    }

    /// Highest address an initrd may occupy.
    pub(super) fn initrd_max(&self) -> u64 {
        self.header.map_or(DEFAULT_INITRD_MAX, |header| header.initrd_addr_max).into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{bzimage, elf};
    use super::*;
    use crate::memory::layout::MIB;

    fn parse(file: Vec<u8>) -> Result<Kernel, KernelError> {
        Kernel::parse(Path::new("test"), file)
    }

    #[test]
    fn the_entry_follows_the_format() {
        let vmlinux = elf::tests::sample(16 * MIB, b"\xf4", Some(0x100_0040));
        assert_eq!(parse(vmlinux.clone()).unwrap().entry(), Entry::Pvh(0x100_0040));
        let plain = elf::tests::sample(16 * MIB, b"\xf4", None);
        assert_eq!(parse(plain).unwrap().entry(), Entry::Long(16 * MIB));
        let packed = bzimage::tests::sample(&bzimage::tests::gzip(&vmlinux));
        assert_eq!(parse(packed).unwrap().entry(), Entry::Long(16 * MIB));
        let flat = bzimage::tests::sample(b"BZh91AY");
        assert_eq!(parse(flat).unwrap().entry(), Entry::Long(16 * MIB + 0x200));
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        let error = |file: &[u8]| parse(file.to_vec()).unwrap_err().to_string();
        assert!(error(b"").contains("neither"));
        assert!(error(&[0; 4096]).contains("neither"));
        let mut arm = vec![0; 4096];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert!(error(&arm).contains("AArch64"));
        let damaged = bzimage::tests::sample(&bzimage::tests::gzip(&[7; 5000])[..20]);
        assert!(error(&damaged).contains("damaged"));
    }

    #[test]
    fn too_little_memory_is_an_error() {
        let ram = GuestRam::new(16 * MIB).unwrap();
        for file in
            [elf::tests::sample(16 * MIB, b"\xf4", None), bzimage::tests::sample(b"BZh91AY and the rest")]
        {
            let error = parse(file).unwrap().load(&ram).unwrap_err();
            assert!(error.to_string().starts_with("too little memory: kernel test"), "{error}");
        }
    }
}
