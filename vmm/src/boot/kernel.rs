//! A kernel file, whatever its format: what it needs, where it goes, how it is entered.

use super::bzimage::{self, BzImage};
use super::elf::{self, Elf};
use super::unpack::UnpackError;
use super::{BootError, Entry, cmdline, multiboot, place, read_file};
use crate::memory::GuestRam;
use crate::memory::layout::FIRMWARE_END;
use linux_loader::loader::bootparam::setup_header;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a file cannot be booted. Reads after "kernel FILE: ".
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("it is cut off: {size} bytes, {needed} needed")]
    Truncated { needed: u64, size: u64 },
    #[error("it is not for x86-64: {0}")]
    NotX86(String),
    #[error("it is neither a bzImage nor an ELF file, and has no multiboot header in its first 8192 bytes")]
    Unknown,
    #[error("its multiboot header requires what this boot loader does not know (flags {0:#x})")]
    MultibootFlags(u32),
    #[error("the addresses in its multiboot header are wrong: {0}")]
    MultibootAddresses(&'static str),
    #[error(
        "it is a 32-bit ELF file without a multiboot header in its first 8192 bytes and without a PVH note"
    )]
    No32BitEntry,
    #[error("it loads at {0:#x}, where the boot information lies")]
    Occupied(u64),
    #[error("it is {0}")]
    NotBootable(&'static str),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

/// Limits where there is no setup header: those of every 64-bit kernel since 2.6.
const DEFAULT_COMMAND_LINE_MAX: u32 = 2047;
const DEFAULT_INITRD_MAX: u32 = 0x7fff_ffff;

/// Linux is never loaded below 1 MiB.
fn check_above_firmware(elf: &Elf) -> Result<(), KernelError> {
    if elf.ranges().any(|range| range.start < FIRMWARE_END) {
        return Err(KernelError::NotBootable("an ELF file that loads below 1 MiB"));
    }
    Ok(())
}

/// A kernel that has been read and understood.
#[derive(Debug)]
pub struct Kernel {
    path: PathBuf,
    header: Option<setup_header>,
    entry: Entry,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Elf {
        image: Vec<u8>,
        elf: Elf,
    },
    /// Loaded as it is: a bzImage that unpacks itself, a multiboot kernel with addresses.
    Flat {
        image: Vec<u8>,
        address: u64,
        init_size: u64,
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
        let is_bzimage = bzimage::is_bzimage(&file);
        if let Some(header) = if is_bzimage { None } else { multiboot::find(&file)? } {
            return Self::parse_multiboot(path, file, header);
        }
        if elf::is_elf(&file) {
            let elf = Elf::parse(&file)?;
            let entry = match elf.pvh_entry {
                Some(address) => Entry::Pvh(address),
                None if elf.is_64_bit() => Entry::Long(elf.entry),
                None => return Err(KernelError::No32BitEntry),
            };
            check_above_firmware(&elf)?;
            return Ok(Self { path, header: None, entry, body: Body::Elf { image: file, elf } });
        }
        if !is_bzimage {
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
            // A 32-bit kernel is linked for a virtual address and relocated by its own decompressor.
            if elf.is_64_bit() {
                check_above_firmware(&elf)?;
                return Ok(Self {
                    path,
                    header,
                    entry: Entry::Long(elf.entry),
                    body: Body::Elf { image, elf },
                });
            }
        }
        log::info!("{}: no 64-bit payload that could be unpacked: the kernel unpacks itself", path.display());
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
        let body = Body::Flat { image: bzimage.into_protected_mode(), address, init_size };
        Ok(Self { path, header, entry, body })
    }

    /// A multiboot kernel. The addresses in its header, if there are any, count more than an ELF header's.
    fn parse_multiboot(
        path: PathBuf,
        mut file: Vec<u8>,
        header: multiboot::Header,
    ) -> Result<Self, KernelError> {
        let (entry, body) = if let Some(image) = header.image(file.len())? {
            file.truncate(image.file.end);
            file.drain(..image.file.start);
            let body =
                Body::Flat { image: file, address: image.address.into(), init_size: image.size.into() };
            (image.entry, body)
        } else if elf::is_elf(&file) {
            let elf = Elf::parse(&file)?;
            let entry = u32::try_from(elf.physical_entry())
                .map_err(|_| KernelError::NotBootable("a multiboot kernel whose entry is above 4 GiB"))?;
            (entry, Body::Elf { image: file, elf })
        } else {
            return Err(KernelError::NotBootable(
                "a multiboot kernel that is no ELF file and gives no addresses",
            ));
        };
        let kernel = Self { path, header: None, entry: Entry::Multiboot(entry), body };
        match place::IN_USE.iter().find(|used| kernel.loads_into(used)) {
            Some(used) => Err(KernelError::Occupied(used.start)),
            None => Ok(kernel),
        }
    }

    /// Whether the kernel is loaded into this range of physical addresses.
    fn loads_into(&self, used: &Range<u64>) -> bool {
        let overlaps = |range: Range<u64>| range.start < used.end && used.start < range.end;
        match &self.body {
            Body::Elf { elf, .. } => elf.ranges().any(overlaps),
            Body::Flat { address, init_size, .. } => overlaps(*address..address.saturating_add(*init_size)),
        }
    }

    /// Copies the kernel into RAM and returns the first address beyond what it needs.
    pub(super) fn load(&self, ram: &GuestRam) -> Result<u64, BootError> {
        let (end, loaded) = match &self.body {
            Body::Elf { image, elf } => {
                let end = elf.end();
                (end, if end <= ram.low_end() { elf.load(image, ram) } else { None })
            }
            Body::Flat { image, address, init_size } => {
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

    /// How the kernel is entered: by multiboot if it has such a header; a bare ELF file by its PVH note if it has one;
    /// else by the Linux protocol.
    pub(super) fn entry(&self) -> Entry {
        self.entry
    }

    /// Whether the kernel is booted by multiboot: it is not Linux then.
    #[must_use]
    pub fn is_multiboot(&self) -> bool {
        matches!(self.entry, Entry::Multiboot(_))
    }

    /// The command line if none is given: Linux is told of its console, other kernels nothing.
    #[must_use]
    pub fn default_command_line(&self) -> &'static str {
        if self.is_multiboot() { "" } else { cmdline::DEFAULT }
    }

    /// The command line as the kernel gets it: by multiboot the file's name comes first, as boot loaders do it and test
    /// kernels expect (it is their `argv[0]`).
    pub(super) fn command_line(&self, given: &str) -> String {
        let name = self.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        match self.entry {
            Entry::Multiboot(_) if given.is_empty() => name.into_owned(),
            Entry::Multiboot(_) => format!("{name} {given}"),
            _ => given.to_owned(),
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
    use proptest::collection::vec;
    use proptest::prelude::*;

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
        let small = elf::tests::sample_32(16 * MIB, b"\xf4", Some(0x100_0040));
        assert_eq!(parse(small).unwrap().entry(), Entry::Pvh(0x100_0040));
        let old = bzimage::tests::sample(&bzimage::tests::gzip(&elf::tests::sample_32(MIB, b"", None)));
        assert_eq!(parse(old).unwrap().entry(), Entry::Long(16 * MIB + 0x200), "its own decompressor's");
        let flat = bzimage::tests::sample(bzimage::tests::OWN_FORMAT);
        assert_eq!(parse(flat).unwrap().entry(), Entry::Long(16 * MIB + 0x200));
    }

    #[test]
    fn multiboot_kernels_of_every_kind_are_recognised() {
        let code = multiboot::header(3, &[]);
        for (file, entry) in [
            (elf::tests::sample_32(MIB, &code, None), 0x10_0000),
            (elf::tests::sample(MIB, &code, None), 0x10_0000),
            (elf::tests::sample_32(0x8_0000, &code, None), 0x8_0000),
            (elf::tests::sample(MIB, &code, Some(0x10_0040)), 0x10_0000),
        ] {
            let kernel = parse(file).unwrap();
            assert_eq!(kernel.entry(), Entry::Multiboot(entry));
            assert!(kernel.is_multiboot());
            assert_eq!(kernel.default_command_line(), "");
        }
        let addresses = [0x10_0000, 0x10_0000, 0, 0x10_1000, 0x10_0020];
        let mut flat = multiboot::header(1 << 16, &addresses);
        flat.extend_from_slice(b"code");
        let kernel = parse(flat).unwrap();
        assert_eq!(kernel.entry(), Entry::Multiboot(0x10_0020));
        let ram = GuestRam::new(16 * MIB).unwrap();
        assert_eq!(kernel.load(&ram).unwrap(), MIB + 0x1000);
        let mut code = [0; 5];
        ram.read(MIB + 32, &mut code).unwrap();
        assert_eq!(&code, b"code\0");
        assert_eq!(kernel.command_line("a=1 b"), "test a=1 b");
        assert_eq!(kernel.command_line(""), "test");
    }

    #[test]
    fn what_multiboot_kernels_lack_is_named() {
        let error = |file: Vec<u8>| parse(file).unwrap_err().to_string();
        let code = multiboot::header(3, &[]);
        let over = elf::tests::sample_32(0x2_1000, &code, None);
        assert!(error(over).contains("0x20000, where the boot information lies"));
        assert!(error(code).contains("no ELF file and gives no addresses"));
        assert!(error(multiboot::header(1 << 3, &[])).contains("0x8"));
        let high = elf::tests::sample(5 << 30, &multiboot::header(3, &[]), None);
        assert!(error(high).contains("above 4 GiB"));
        assert!(error(elf::tests::sample_32(MIB, b"", None)).contains("without a multiboot header"));
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
            [elf::tests::sample(16 * MIB, b"\xf4", None), bzimage::tests::sample(bzimage::tests::OWN_FORMAT)]
        {
            let error = parse(file).unwrap().load(&ram).unwrap_err();
            assert!(error.to_string().starts_with("too little memory: kernel test"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn hostile_multiboot_headers_are_survived(
            flags in any::<u32>(),
            addresses in any::<[u32; 5]>(),
            near in any::<[u8; 5]>(),
            rest in vec(any::<u8>(), 0..200),
        ) {
            // Addresses anywhere, and addresses that nearly fit together.
            let ram = GuestRam::new(16 * MIB).unwrap();
            let close = near.map(|offset| 0x20_0000 + u32::from(offset));
            for (flags, addresses) in [(flags | 1 << 16, addresses), (1 << 16, close)] {
                let mut file = multiboot::header(flags, &addresses);
                file.extend_from_slice(&rest);
                if let Ok(kernel) = parse(file) {
                    prop_assert!(kernel.is_multiboot());
                    let _ = kernel.load(&ram);
                }
            }
        }

        #[test]
        fn damaged_multiboot_files_are_survived(
            changes in vec((0_usize..200, any::<u8>()), 1..8),
            length in 0_usize..300,
        ) {
            let ram = GuestRam::new(16 * MIB).unwrap();
            for sample in [elf::tests::sample_32, elf::tests::sample] {
                let mut file = sample(MIB, &multiboot::header(3, &[]), None);
                for &(at, value) in &changes {
                    if let Some(byte) = file.get_mut(at) {
                        *byte = value;
                    }
                }
                file.truncate(length);
                if let Ok(kernel) = parse(file) {
                    let _ = kernel.load(&ram);
                }
            }
        }
    }
}
