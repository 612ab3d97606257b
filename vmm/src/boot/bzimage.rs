//! bzImage files (Linux Documentation/arch/x86/boot.rst).

use super::KernelError;
use super::unpack::Format;
use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

/// Offset of the setup header in the file and in the zero page.
const HEADER_AT: usize = 0x1f1;
const SECTOR: usize = 512;
/// `XLF_KERNEL_64`: there is a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// The first protocol version with `payload_offset`.
const VERSION_PAYLOAD: u16 = 0x208;
/// The first protocol version with `init_size` and `pref_address`.
const VERSION_INIT_SIZE: u16 = 0x20a;

/// A bzImage taken apart.
#[derive(Debug)]
pub(super) struct BzImage {
    pub header: setup_header,
    /// What comes after the real-mode part.
    protected_mode: Vec<u8>,
    payload: Option<std::ops::Range<usize>>,
}

/// Whether `file` looks like a bzImage at all.
pub(super) fn is_bzimage(file: &[u8]) -> bool {
    file.get(0x202..0x206) == Some(b"HdrS")
}

impl BzImage {
    pub(super) fn parse(file: &[u8]) -> Result<Self, KernelError> {
        let size = file.len() as u64;
        let header_size = size_of::<setup_header>();
        let bytes = file
            .get(HEADER_AT..HEADER_AT + header_size)
            .ok_or(KernelError::Truncated { needed: (HEADER_AT + header_size) as u64, size })?;
        let mut header = setup_header::default();
        header.as_mut_slice().copy_from_slice(bytes);
        // The header's length is in the jump over it; fields beyond belong to code.
        let length = 0x202 + usize::from(header.jump >> 8) - HEADER_AT;
        if let Some(beyond) = header.as_mut_slice().get_mut(length..) {
            beyond.fill(0);
        }
        if header.boot_flag != 0xaa55 {
            return Err(KernelError::NotBootable("a bzImage with a bad boot flag"));
        }
        if header.version < VERSION_INIT_SIZE {
            return Err(KernelError::NotBootable("a bzImage older than boot protocol 2.10 (Linux 2.6.31)"));
        }
        let setup_sectors = if header.setup_sects == 0 { 4 } else { usize::from(header.setup_sects) };
        let start = (setup_sectors + 1) * SECTOR;
        let needed = start as u64 + u64::from(header.syssize) * 16;
        // The last 16-byte paragraph may be short.
        if size + 15 < needed {
            return Err(KernelError::Truncated { needed, size });
        }
        let protected_mode = file.get(start..).unwrap_or_default().to_vec();
        let payload = (header.version >= VERSION_PAYLOAD && header.payload_length != 0).then(|| {
            let start = header.payload_offset as usize;
            start..start.saturating_add(header.payload_length as usize)
        });
        if let Some(range) = &payload
            && range.end > protected_mode.len()
        {
            return Err(KernelError::Truncated { needed: (start + range.end) as u64, size });
        }
        Ok(Self { header, protected_mode, payload })
    }

    /// The kernel proper, unpacked; `None` if the payload is in a format only the kernel's own decompressor knows.
    pub(super) fn unpack(&self) -> Result<Option<Vec<u8>>, KernelError> {
        let Some(payload) = self.payload.clone().and_then(|range| self.protected_mode.get(range)) else {
            return Ok(None);
        };
        let Some(format) = Format::of(payload) else { return Ok(None) };
        log::debug!("kernel payload: {format:?}, {} bytes", payload.len());
        let image = format.unpack(payload)?;
        Ok(image.starts_with(b"\x7fELF").then_some(image))
    }

    /// The part to load as it is, for a kernel that unpacks itself.
    pub(super) fn into_protected_mode(self) -> Vec<u8> {
        self.protected_mode
    }

    /// Where the kernel that unpacks itself wants to be loaded.
    pub(super) fn load_address(&self) -> u64 {
        match self.header.pref_address {
            0 => u64::from(self.header.code32_start),
            address => address,
        }
    }

    /// Bytes of RAM from the load address that the kernel needs before it knows the memory map.
    pub(super) fn init_size(&self) -> u64 {
        u64::from(self.header.init_size).max(self.protected_mode.len() as u64)
    }

    /// The 64-bit entry, relative to the load address, if there is one.
    pub(super) fn entry_64(&self) -> Option<u64> {
        (self.header.xloadflags & XLF_KERNEL_64 != 0).then_some(ENTRY_64)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    /// A bzImage whose payload is `payload`.
    pub(in crate::boot) fn sample(payload: &[u8]) -> Vec<u8> {
        let payload_offset = 0x300;
        let mut header = setup_header {
            setup_sects: 1,
            boot_flag: 0xaa55,
            jump: 0x6aeb,
            version: 0x20f,
            initrd_addr_max: 0x7fff_ffff,
            cmdline_size: 2047,
            xloadflags: XLF_KERNEL_64,
            payload_offset,
            payload_length: payload.len() as u32,
            pref_address: 0x100_0000,
            init_size: 0x10_0000,
            ..setup_header::default()
        };
        header.header = u32::from_le_bytes(*b"HdrS");
        let mut protected_mode = vec![0x90; payload_offset as usize];
        protected_mode.extend_from_slice(payload);
        protected_mode.resize(protected_mode.len().next_multiple_of(16), 0);
        header.syssize = (protected_mode.len() / 16) as u32;
        let mut file = vec![0; 2 * SECTOR];
        file[HEADER_AT..HEADER_AT + size_of::<setup_header>()].copy_from_slice(header.as_slice());
        file.extend_from_slice(&protected_mode);
        file
    }

    /// A payload that only the kernel itself can unpack.
    pub(in crate::boot) const OWN_FORMAT: &[u8] = b"\x89LZO and more";

    pub(in crate::boot) fn gzip(data: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(data).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn the_payload_is_unpacked() {
        let image = BzImage::parse(&sample(&gzip(b"\x7fELF and more"))).unwrap();
        assert_eq!(image.unpack().unwrap().unwrap(), b"\x7fELF and more");
        assert_eq!((image.load_address(), image.entry_64()), (0x100_0000, Some(0x200)));
        let own = BzImage::parse(&sample(OWN_FORMAT)).unwrap();
        assert!(own.unpack().unwrap().is_none());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let file = sample(&gzip(b"\x7fELF and more"));
        for length in 0..file.len() - 15 {
            assert!(BzImage::parse(&file[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn garbage_in_the_header_is_survived() {
        let file = sample(&gzip(b"\x7fELF and more"));
        for at in HEADER_AT..HEADER_AT + size_of::<setup_header>() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = file.clone();
                bad[at] = value;
                if let Ok(image) = BzImage::parse(&bad) {
                    let _ = image.unpack();
                }
            }
        }
    }
}
