//! Guest RAM: a memfd, mapped in one or two regions.
//!
//! Pages come into being when the guest first touches them. Frames are found by arithmetic alone, since the software CPU
//! asks for one at every miss of its TLB.

use super::layout::{HIGH_RAM, PAGE, RAM_MAX, RAM_MIN, split_ram};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::Arc;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionCollectionError, GuestRegionMmap, MemoryRegionAddress, MmapRegion, VolatileSlice,
};

/// What a file's size on the host is counted in (stat(2), st_blocks).
const BLOCK: u64 = 512;

/// RAM cannot be provided.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    #[error("memory of {0} bytes is too little: the machine needs at least {RAM_MIN} bytes")]
    TooLittle(u64),
    #[error("memory of {0} bytes is more than the {RAM_MAX} bytes this machine can have")]
    TooMuch(u64),
    #[error("memory size of {0} bytes is not a multiple of {PAGE}")]
    Unaligned(u64),
    #[error("the host cannot provide {size} bytes of memory: {source}")]
    Host { size: u64, source: io::Error },
    #[error("guest RAM cannot be mapped: {0}")]
    Map(#[from] MmapRegionError),
    #[error("guest RAM cannot be laid out: {0}")]
    Layout(#[from] GuestRegionCollectionError),
    #[error("RAM that is itself a copy cannot be copied or saved")]
    Copy,
}

/// Memory that the guest wants is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no RAM at {address:#x} ({length} bytes)")]
pub struct NotRam {
    pub address: u64,
    pub length: u64,
}

/// Guest RAM.
#[derive(Debug, Clone)]
pub struct GuestRam {
    memory: GuestMemoryMmap,
    size: u64,
    /// What it is mapped from; `None` if writes do not reach that.
    file: Option<Arc<File>>,
    /// Host base and size of the region at 0, then of the one at [`HIGH_RAM`].
    low: Span,
    high: Span,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    host: NonNull<u8>,
    size: u64,
}

// SAFETY: the pointer is an address within a mapping that `memory` keeps alive for as long as the span exists; both live
// in one `GuestRam`. Nothing is read or written through it here.
unsafe impl Send for Span {}
// SAFETY: as above; a shared span only gives out the address.
unsafe impl Sync for Span {}

impl GuestRam {
    /// Maps `size` bytes of zeroed RAM.
    ///
    /// # Errors
    /// [`RamError`] if the size is out of bounds or the host refuses.
    pub fn new(size: u64) -> Result<Self, RamError> {
        match size {
            _ if size < RAM_MIN => return Err(RamError::TooLittle(size)),
            _ if size > RAM_MAX => return Err(RamError::TooMuch(size)),
            _ if !size.is_multiple_of(PAGE) => return Err(RamError::Unaligned(size)),
            _ => {}
        }
        let file = memfd::create(size).map_err(|source| RamError::Host { size, source })?;
        let file = Arc::new(file);
        let memory = Self::map(&file, size, libc::MAP_SHARED)?;
        Ok(Self::of(memory, size, Some(file)))
    }

    /// A copy of RAM as it is now. Pages are shared until the copy writes to them; this RAM must not be written any more,
    /// since the copy would see that in some pages.
    ///
    /// # Errors
    /// [`RamError::Copy`] if this is a copy, or what the host has against it.
    pub fn fork(&self) -> Result<Self, RamError> {
        let file = self.file.as_ref().ok_or(RamError::Copy)?;
        let memory = Self::map(file, self.size, libc::MAP_PRIVATE)?;
        Ok(Self::of(memory, self.size, None))
    }

    /// The file behind RAM, in which the part above [`HIGH_RAM`] follows that below at once.
    ///
    /// # Errors
    /// [`RamError::Copy`] if this is a copy.
    pub(super) fn file(&self) -> Result<&File, RamError> {
        self.file.as_deref().ok_or(RamError::Copy)
    }

    /// Maps the file behind RAM; `sharing` says whether writes reach it.
    fn map(file: &Arc<File>, size: u64, sharing: i32) -> Result<GuestMemoryMmap, RamError> {
        let (low_size, high_size) = split_ram(size);
        let map = |offset: u64, length: u64, base: u64| -> Result<GuestRegionMmap, RamError> {
            let length = usize::try_from(length).map_err(|_| RamError::TooMuch(size))?;
            let offset = FileOffset::from_arc(Arc::clone(file), offset);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let mapping = MmapRegion::build(Some(offset), length, access, sharing | libc::MAP_NORESERVE)?;
            GuestRegionMmap::new(mapping, GuestAddress(base)).ok_or(RamError::TooMuch(size))
        };
        let mut regions = vec![map(0, low_size, 0)?];
        if high_size != 0 {
            regions.push(map(low_size, high_size, HIGH_RAM)?);
        }
        Ok(GuestMemoryMmap::from_regions(regions)?)
    }

    fn of(memory: GuestMemoryMmap, size: u64, file: Option<Arc<File>>) -> Self {
        let span = |base: u64| {
            let region = memory.find_region(GuestAddress(base));
            region.map_or(Span { host: NonNull::dangling(), size: 0 }, |region| Span {
                host: NonNull::new(region.as_ptr()).unwrap_or(NonNull::dangling()),
                size: region.len(),
            })
        };
        let (low, high) = (span(0), span(HIGH_RAM));
        Self { low, high, memory, size, file }
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the host's memory behind it, at most: of a copy all.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let known = self.file.as_ref().and_then(|file| file.metadata().ok());
        known.map_or(self.size, |data| data.blocks().saturating_mul(BLOCK).min(self.size))
    }

    /// The first address beyond RAM below 3 GiB.
    #[must_use]
    pub fn low_end(&self) -> u64 {
        self.low.size
    }

    /// The first address beyond all RAM.
    #[must_use]
    pub fn end(&self) -> u64 {
        if self.high.size == 0 { self.low.size } else { HIGH_RAM + self.high.size }
    }

    /// Bytes of RAM above 4 GiB.
    #[must_use]
    pub fn high_size(&self) -> u64 {
        self.high.size
    }

    /// Host address of the frame of RAM at guest-physical `frame` (low 12 bits zero).
    #[inline]
    #[must_use]
    pub fn frame(&self, frame: u64) -> Option<NonNull<u8>> {
        let (span, offset) = if frame < self.low.size {
            (&self.low, frame)
        } else {
            let offset = frame.wrapping_sub(HIGH_RAM);
            if offset >= self.high.size {
                return None;
            }
            (&self.high, offset)
        };
        NonNull::new(span.host.as_ptr().wrapping_add(offset as usize))
    }

    /// Whether all of `length` bytes at `address` are RAM.
    #[must_use]
    pub fn contains(&self, address: u64, length: u64) -> bool {
        let fits = |base: u64, size: u64| {
            address.checked_sub(base).is_some_and(|offset| offset <= size && length <= size - offset)
        };
        fits(0, self.low.size) || fits(HIGH_RAM, self.high.size)
    }

    /// Copies RAM at `address` into `data`.
    ///
    /// # Errors
    /// [`NotRam`] unless all of it is RAM.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), NotRam> {
        if !data.is_empty() {
            self.slice(address, data.len())?.copy_to(data);
        }
        Ok(())
    }

    /// The `length` bytes of RAM at `address`.
    ///
    /// # Errors
    /// [`NotRam`] unless all of it is RAM.
    pub fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, NotRam> {
        if !self.contains(address, length as u64) {
            return Err(NotRam { address, length: length as u64 });
        }
        let mut data = vec![0; length];
        self.read(address, &mut data)?;
        Ok(data)
    }

    /// Copies `data` into RAM at `address`.
    ///
    /// # Errors
    /// [`NotRam`] unless all of it is RAM.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), NotRam> {
        if !data.is_empty() {
            self.slice(address, data.len())?.copy_from(data);
        }
        Ok(())
    }

    /// The `length` bytes at `address`, found by arithmetic as [`GuestRam::frame`] finds a frame.
    #[inline]
    fn slice(&self, address: u64, length: usize) -> Result<VolatileSlice<'_>, NotRam> {
        let not_ram = NotRam { address, length: length as u64 };
        let mut regions = self.memory.iter();
        let (region, offset) = match address.checked_sub(HIGH_RAM) {
            None => (regions.next(), address),
            Some(offset) => (regions.nth(1), offset),
        };
        region.ok_or(not_ram)?.get_slice(MemoryRegionAddress(offset), length).map_err(|_| not_ram)
    }

    /// The `vm-memory` view of RAM.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }
}

/// Creating the file behind RAM: the one system call of this module.
mod memfd {
    use super::File;
    use std::io;
    use std::os::fd::FromRawFd;

    /// An anonymous file of `size` bytes, all holes.
    pub(super) fn create(size: u64) -> io::Result<File> {
        // SAFETY: the name is a NUL-terminated string; the call has no other memory operand.
        let fd = unsafe { libc::memfd_create(c"staleline-ram".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` has just been opened and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(size)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{GIB, MIB};
    use super::*;

    #[test]
    fn frames_are_where_the_bytes_are() {
        let ram = GuestRam::new(5 * GIB).unwrap();
        for address in [0, 0x1000, 3 * GIB - PAGE, HIGH_RAM, HIGH_RAM + 2 * GIB - PAGE] {
            ram.write(address, &address.to_le_bytes()).unwrap();
            let frame = ram.frame(address).unwrap();
            // SAFETY: the frame belongs to `ram`, which is alive, and nobody writes it meanwhile.
            assert_eq!(unsafe { frame.cast::<u64>().read_unaligned() }, address);
        }
        for address in [3 * GIB, HIGH_RAM - PAGE, HIGH_RAM + 2 * GIB, !0xfff] {
            assert!(ram.frame(address).is_none(), "{address:#x}");
            assert_eq!(ram.read(address, &mut [0]), Err(NotRam { address, length: 1 }));
        }
        assert!(ram.contains(3 * GIB - 4, 4) && !ram.contains(3 * GIB - 4, 5));
        assert!(ram.contains(HIGH_RAM, 2 * GIB) && !ram.contains(HIGH_RAM, 2 * GIB + 1));
        assert!(!ram.contains(u64::MAX, 2) && !ram.contains(1, u64::MAX));
    }

    #[test]
    fn untouched_ram_is_not_resident() {
        let ram = GuestRam::new(64 * MIB).unwrap();
        ram.write(MIB, &[1; 3 * PAGE as usize]).unwrap();
        assert_eq!(ram.resident(), 3 * PAGE);
        assert_eq!(ram.fork().unwrap().resident(), 64 * MIB);
    }

    #[test]
    fn copies_begin_alike_and_go_their_own_ways() {
        let ram = GuestRam::new(5 * GIB).unwrap();
        for address in [0, HIGH_RAM + PAGE] {
            ram.write(address, b"template").unwrap();
        }
        let (first, second) = (ram.fork().unwrap(), ram.fork().unwrap());
        first.write(HIGH_RAM + PAGE, b"first").unwrap();
        second.write(0, b"second").unwrap();
        let read = |ram: &GuestRam, address| {
            let mut data = [0; 8];
            ram.read(address, &mut data).unwrap();
            data
        };
        assert_eq!([0, HIGH_RAM + PAGE].map(|at| read(&first, at)), [*b"template", *b"firstate"]);
        assert_eq!([0, HIGH_RAM + PAGE].map(|at| read(&second, at)), [*b"secondte", *b"template"]);
        assert_eq!([0, HIGH_RAM + PAGE].map(|at| read(&ram, at)), [*b"template"; 2]);
        assert_eq!((first.size(), first.low_end(), first.high_size()), (5 * GIB, 3 * GIB, 2 * GIB));
        assert!(matches!(first.fork(), Err(RamError::Copy)));
        drop(ram);
        assert_eq!(read(&first, 0), *b"template", "a copy outlives what it was made from");
    }

    #[test]
    fn sizes_are_checked() {
        assert!(matches!(GuestRam::new(MIB), Err(RamError::TooLittle(_))));
        assert!(matches!(GuestRam::new(RAM_MAX + PAGE), Err(RamError::TooMuch(_))));
        assert!(matches!(GuestRam::new(64 * MIB + 1), Err(RamError::Unaligned(_))));
    }
}
