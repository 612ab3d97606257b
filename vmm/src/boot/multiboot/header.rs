//! The header in the kernel file (Multiboot 0.6.96, 3.1).

use super::super::KernelError;
use std::ops::Range;

const HEADER_MAGIC: u32 = 0x1bad_b002;
/// The header lies within this many bytes of the file, at a multiple of four.
const SEARCHED: usize = 8192;
/// Bytes that every header has: magic, flags, checksum.
const LEAST: usize = 12;

/// The kernel wants a table of video modes.
const VIDEO_MODE: u32 = 1 << 2;
/// What a boot loader must do or refuse to load the kernel.
const REQUIREMENTS: u32 = 0xffff;
/// Modules at page boundaries, memory information, video modes: the first two are always given.
const KNOWN_REQUIREMENTS: u32 = 0b111;
/// The header says where the file goes, which replaces the ELF header's word (the "a.out kludge").
const ADDRESSES: u32 = 1 << 16;

/// A header that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::boot) struct Header {
    /// `header_addr`, `load_addr`, `load_end_addr`, `bss_end_addr`, `entry_addr`.
    addresses: Option<[u32; 5]>,
    /// Offset of the header in the file.
    at: usize,
}

/// What part of the file goes where, by a header with addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::boot) struct Image {
    pub file: Range<usize>,
    pub address: u32,
    /// Bytes of RAM, of which the file fills the first.
    pub size: u32,
    pub entry: u32,
}

/// Looks for a header; `None` if `file` is no multiboot kernel.
///
/// # Errors
/// [`KernelError`] if there is one that asks for what this boot loader does not do, or is cut off.
pub(in crate::boot) fn find(file: &[u8]) -> Result<Option<Header>, KernelError> {
    let searched = file.get(..SEARCHED).unwrap_or(file);
    let word = |at: usize| file.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
    let found = (0..searched.len().saturating_sub(LEAST - 1)).step_by(4).find_map(|at| {
        let (magic, flags, checksum) = (word(at)?, word(at + 4)?, word(at + 8)?);
        let sum = magic.wrapping_add(flags).wrapping_add(checksum);
        (magic == HEADER_MAGIC && sum == 0).then_some((at, flags))
    });
    let Some((at, flags)) = found else { return Ok(None) };
    let unknown = flags & REQUIREMENTS & !KNOWN_REQUIREMENTS;
    if unknown != 0 {
        return Err(KernelError::MultibootFlags(unknown));
    }
    if flags & VIDEO_MODE != 0 {
        log::warn!(
            "the multiboot header asks for a video mode: the machine has no display, the kernel gets none"
        );
    }
    let addresses = if flags & ADDRESSES != 0 {
        let mut addresses = [0; 5];
        for (field, offset) in addresses.iter_mut().zip((at + LEAST..).step_by(4)) {
            let needed = offset as u64 + 4;
            *field = word(offset).ok_or(KernelError::Truncated { needed, size: file.len() as u64 })?;
        }
        Some(addresses)
    } else {
        None
    };
    Ok(Some(Header { addresses, at }))
}

impl Header {
    /// What the header's addresses say of a file of `length` bytes; `None` if it has none.
    ///
    /// # Errors
    /// [`KernelError::MultibootAddresses`] if they contradict one another or the file.
    pub(in crate::boot) fn image(&self, length: usize) -> Result<Option<Image>, KernelError> {
        let Some([header, load, load_end, bss_end, entry]) = self.addresses else { return Ok(None) };
        let wrong = KernelError::MultibootAddresses;
        let before = header.checked_sub(load).ok_or(wrong("header_addr is below load_addr"))?;
        let start = self
            .at
            .checked_sub(before as usize)
            .ok_or(wrong("load_addr lies before the beginning of the file"))?;
        let end = match load_end {
            // The whole rest of the file.
            0 => length,
            _ => load_end
                .checked_sub(load)
                .and_then(|size| start.checked_add(size as usize))
                .ok_or(wrong("load_end_addr is below load_addr"))?,
        };
        if end > length {
            return Err(KernelError::Truncated { needed: end as u64, size: length as u64 });
        }
        let loaded = u32::try_from(end - start).map_err(|_| wrong("the file is larger than 4 GiB"))?;
        let size = match bss_end {
            0 => loaded,
            _ => bss_end
                .checked_sub(load)
                .filter(|&size| size >= loaded)
                .ok_or(wrong("bss_end_addr is below the loaded part's end"))?,
        };
        load.checked_add(size).ok_or(wrong("the image reaches beyond 4 GiB"))?;
        Ok(Some(Image { file: start..end, address: load, size, entry }))
    }
}

#[cfg(test)]
pub(in crate::boot) mod tests {
    use super::*;

    /// The bytes of a header with these flags and, if wanted, addresses.
    pub(in crate::boot) fn header(flags: u32, addresses: &[u32]) -> Vec<u8> {
        let checksum = 0_u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(flags);
        [HEADER_MAGIC, flags, checksum].iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
    }

    fn file(at: usize, flags: u32, addresses: &[u32], length: usize) -> Vec<u8> {
        let mut file = vec![0x90; length];
        let header = header(flags, addresses);
        file[at..at + header.len()].copy_from_slice(&header);
        file
    }

    fn image(file: &[u8]) -> Result<Option<Image>, KernelError> {
        find(file).unwrap().unwrap().image(file.len())
    }

    #[test]
    fn headers_are_found_where_they_may_be() {
        for at in [0, 4, 4096, SEARCHED - LEAST] {
            assert_eq!(find(&file(at, 3, &[], 9000)).unwrap().unwrap().at, at);
        }
        for at in [2, SEARCHED - LEAST + 4, SEARCHED] {
            assert!(find(&file(at, 3, &[], 9000)).unwrap().is_none(), "{at}");
        }
        let mut bad = file(64, 3, &[], 9000);
        bad[64 + 8] ^= 1;
        assert!(find(&bad).unwrap().is_none(), "wrong checksum");
        assert!(find(&[]).unwrap().is_none());
        assert!(find(&file(0, 3, &[], 12)[..11]).unwrap().is_none());
        assert!(find(&file(0, 3, &[], 12)).unwrap().is_some());
    }

    #[test]
    fn unknown_requirements_are_refused_and_options_ignored() {
        let error = find(&file(0, 1 << 4, &[], 100)).unwrap_err().to_string();
        assert!(error.contains("0x10"), "{error}");
        assert!(find(&file(0, 1 << 20 | 7, &[], 100)).unwrap().is_some());
    }

    #[test]
    fn addresses_say_what_goes_where() {
        let base = 0x10_0000;
        let whole = file(0x40, ADDRESSES, &[base + 0x40, base, 0, 0, base + 0x80], 0x1000);
        let expected = Image { file: 0..0x1000, address: base, size: 0x1000, entry: base + 0x80 };
        assert_eq!(image(&whole).unwrap().unwrap(), expected);
        let part =
            file(0x440, ADDRESSES, &[base + 0x40, base, base + 0x200, base + 0x3000, base + 0x80], 0x1000);
        let expected = Image { file: 0x400..0x600, address: base, size: 0x3000, entry: base + 0x80 };
        assert_eq!(image(&part).unwrap().unwrap(), expected);
        assert!(image(&file(0, 3, &[], 100)).unwrap().is_none());
    }

    #[test]
    fn contradictions_are_named() {
        let base = 0x10_0000;
        for (addresses, reason) in [
            ([base - 4, base, 0, 0, base], "header_addr"),
            ([base + 0x44, base, 0, 0, base], "beginning of the file"),
            ([base + 0x40, base, base - 1, 0, base], "load_end_addr"),
            ([base + 0x40, base, base + 0x1001, 0, base], "cut off"),
            ([base + 0x40, base, 0, base + 0xfff, base], "bss_end_addr"),
            ([0xffff_f040, 0xffff_f000, 0, 0, base], "beyond 4 GiB"),
        ] {
            let error = image(&file(0x40, ADDRESSES, &addresses, 0x1000)).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        for length in 12..32 {
            assert!(find(&file(0, ADDRESSES, &[base; 5], 100)[..length]).is_err(), "{length} bytes");
        }
    }
}
