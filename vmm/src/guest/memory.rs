//! Guest memory by linear address, read without leaving a trace: no accessed or dirty bit is set, no line of the cache model
//! is touched. What is read is the CPU's view.

use crate::memory::GuestRam;
use x86_cpu::encryption::C_BIT;

/// Bytes of the smallest page.
const PAGE: u64 = 1 << 12;
/// Bits of an entry of a page table (SDM volume 3A, table 5-15 and others).
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Bits 51:12 of an entry: what it points to, but for the bit that makes memory private to an encrypted guest, which is above
/// all addresses of the machine.
const FRAME: u64 = ((1 << 52) - 1) & !(PAGE - 1) & !C_BIT;
/// CR3 without what is not an address.
const ROOT: u64 = FRAME;

/// A linear address that leads to no RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing is mapped at {0:#x} in the guest")]
pub struct Unmapped(pub u64);

/// Where translation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressSpace {
    /// Physical address of the top table.
    root: u64,
    /// Levels of tables: 4, or 5 with CR4.LA57.
    levels: u32,
}

impl AddressSpace {
    /// What `cr3` and `cr4` select.
    #[must_use]
    pub fn new(cr3: u64, cr4: u64) -> Self {
        Self { root: cr3 & ROOT, levels: if cr4 & x86_cpu::cr4::LA57 != 0 { 5 } else { 4 } }
    }

    /// The one of the same shape whose top table is at physical address `root`.
    #[must_use]
    pub fn with_root(self, root: u64) -> Self {
        Self { root: root & ROOT, ..self }
    }
}

/// RAM, as one address space sees it.
#[derive(Debug, Clone, Copy)]
pub struct GuestMemory<'a> {
    ram: &'a GuestRam,
    space: AddressSpace,
}

/// Where a linear address leads, and how far it goes on like that.
#[derive(Debug, Clone, Copy)]
struct Span {
    physical: u64,
    /// Bytes to the end of the page.
    length: u64,
}

impl<'a> GuestMemory<'a> {
    /// `ram` as `space` sees it.
    #[must_use]
    pub fn new(ram: &'a GuestRam, space: AddressSpace) -> Self {
        Self { ram, space }
    }

    /// Where it begins to translate.
    #[must_use]
    pub fn space(&self) -> AddressSpace {
        self.space
    }

    /// The physical address of `address`.
    ///
    /// # Errors
    /// [`Unmapped`] if there is none.
    pub fn translate(&self, address: u64) -> Result<u64, Unmapped> {
        self.span(address).map(|span| span.physical).map_err(|_| Unmapped(address))
    }

    /// Walks the tables. The error is how many bytes from `address` on there is nothing.
    fn span(&self, address: u64) -> Result<Span, u64> {
        let bits = 12 + 9 * self.space.levels;
        let sign = (address as i64) >> (bits - 1);
        if sign != 0 && sign != -1 {
            return Err(PAGE - address % PAGE);
        }
        let mut table = self.space.root;
        for level in (0..self.space.levels).rev() {
            let shift = 12 + 9 * level;
            let size = 1 << shift;
            let offset = address & (size - 1);
            let mut entry = [0; 8];
            let index = address >> shift & 0x1ff;
            self.ram.read(table + 8 * index, &mut entry).map_err(|_| size - offset)?;
            let entry = u64::from_le_bytes(entry);
            if entry & PRESENT == 0 {
                return Err(size - offset);
            }
            if level == 0 || level <= 2 && entry & LARGE != 0 {
                return Ok(Span { physical: (entry & FRAME & !(size - 1)) + offset, length: size - offset });
            }
            table = entry & FRAME;
        }
        Err(PAGE)
    }

    /// Bytes from `address` on at which nothing is mapped, by the level at which the tables say so; 0 if something is.
    #[must_use]
    pub fn gap(&self, address: u64) -> u64 {
        self.span(address).err().unwrap_or(0)
    }

    /// Copies what is at `address` into `data`.
    ///
    /// # Errors
    /// [`Unmapped`] with the first address at which nothing is mapped; what lies before has been copied.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Unmapped> {
        let mut rest = data;
        let mut at = address;
        while !rest.is_empty() {
            let span = self.span(at).map_err(|_| Unmapped(at))?;
            let length = usize::try_from(span.length).unwrap_or(usize::MAX).min(rest.len());
            let (piece, after) = rest.split_at_mut(length);
            self.ram.read(span.physical, piece).map_err(|_| Unmapped(at))?;
            rest = after;
            at = at.wrapping_add(length as u64);
        }
        Ok(())
    }

    /// The `length` bytes at `address`.
    ///
    /// # Errors
    /// [`Unmapped`] unless all of them are mapped; nothing is allocated for more than that.
    pub fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, Unmapped> {
        const PIECE: usize = 1 << 20;
        let mut data = Vec::new();
        while data.len() < length {
            let (start, piece) = (data.len(), PIECE.min(length - data.len()));
            let at = address.wrapping_add(start as u64);
            self.span(at).map_err(|_| Unmapped(at))?;
            data.resize(start + piece, 0);
            self.read(at, &mut data[start..])?;
        }
        Ok(data)
    }

    /// As many bytes at `address` as are mapped on end, `limit` at most.
    #[must_use]
    pub fn mapped_bytes(&self, address: u64, limit: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < limit {
            let at = address.wrapping_add(data.len() as u64);
            let Ok(span) = self.span(at) else { break };
            let start = data.len();
            let length = usize::try_from(span.length).unwrap_or(usize::MAX).min(limit - start);
            // A page that lies beyond RAM must cost nothing.
            if !self.ram.contains(span.physical, length as u64) {
                break;
            }
            data.resize(start + length, 0);
            if self.ram.read(span.physical, &mut data[start..]).is_err() {
                data.truncate(start);
                break;
            }
        }
        data
    }

    fn array<const N: usize>(&self, address: u64) -> Result<[u8; N], Unmapped> {
        let mut data = [0; N];
        self.read(address, &mut data)?;
        Ok(data)
    }

    /// The 64-bit number at `address`.
    ///
    /// # Errors
    /// [`Unmapped`].
    pub fn u64(&self, address: u64) -> Result<u64, Unmapped> {
        self.array(address).map(u64::from_le_bytes)
    }

    /// The 32-bit number at `address`.
    ///
    /// # Errors
    /// [`Unmapped`].
    pub fn u32(&self, address: u64) -> Result<u32, Unmapped> {
        self.array(address).map(u32::from_le_bytes)
    }

    /// The NUL-terminated string at `address`, without the NUL, cut after `limit` bytes. What is not printable ASCII becomes
    /// `?`: a guest's strings go to terminals and reports.
    ///
    /// # Errors
    /// [`Unmapped`] if memory ends before the string does.
    pub fn string(&self, address: u64, limit: usize) -> Result<String, Unmapped> {
        let bytes = self.mapped_bytes(address, limit);
        let end = bytes.iter().position(|&byte| byte == 0);
        if end.is_none() && bytes.len() < limit {
            return Err(Unmapped(address.wrapping_add(bytes.len() as u64)));
        }
        Ok(printable(&bytes[..end.unwrap_or(bytes.len())]).collect())
    }
}

/// The bytes as characters, `?` for what is not printable ASCII.
pub(super) fn printable(bytes: &[u8]) -> impl Iterator<Item = char> + '_ {
    bytes.iter().map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory::layout::MIB;
    use proptest::prelude::*;

    /// RAM of 16 MiB in which kernel addresses can be mapped page by page.
    #[derive(Debug)]
    pub(crate) struct Synthetic {
        pub ram: GuestRam,
        next: u64,
    }

    const ROOT_AT: u64 = 0x1000;

    impl Synthetic {
        pub fn new() -> Self {
            Self { ram: GuestRam::new(16 * MIB).unwrap(), next: ROOT_AT + PAGE }
        }

        fn word(&self, at: u64) -> u64 {
            let mut bytes = [0; 8];
            self.ram.read(at, &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        }

        fn frame(&mut self) -> u64 {
            self.next += PAGE;
            self.next - PAGE
        }

        /// The physical page behind `address`, mapped now if it was not.
        fn page(&mut self, address: u64) -> u64 {
            let mut table = ROOT_AT;
            for shift in [39, 30, 21, 12] {
                let at = table + 8 * (address >> shift & 0x1ff);
                if self.word(at) == 0 {
                    let frame = self.frame();
                    self.ram.write(at, &(frame | 3).to_le_bytes()).unwrap();
                }
                table = self.word(at) & FRAME;
            }
            table
        }

        /// Puts `data` at linear address `address`.
        pub fn put(&mut self, address: u64, data: &[u8]) {
            for (at, byte) in (address..).zip(data) {
                let page = self.page(at);
                self.ram.write(page + at % PAGE, &[*byte]).unwrap();
            }
        }

        pub fn space() -> AddressSpace {
            AddressSpace::new(ROOT_AT, 0)
        }

        pub fn memory(&self) -> GuestMemory<'_> {
            GuestMemory::new(&self.ram, Self::space())
        }
    }

    const AT: u64 = 0xffff_ffff_8100_0000;

    #[test]
    fn pages_of_all_sizes_are_found() {
        let mut guest = Synthetic::new();
        guest.put(AT + 0xffc, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(guest.memory().u64(AT + 0xffc), Ok(0x0807_0605_0403_0201));
        assert_eq!(guest.memory().bytes(AT + 0x1ffc, 8), Err(Unmapped(AT + 0x2000)));
        assert_eq!(guest.memory().mapped_bytes(AT + 0x1ffc, 8).len(), 4);
        // A 2 MiB page at physical 8 MiB, in the next directory entry; bit 12 of it is PAT.
        let directory = {
            let top = guest.word(ROOT_AT + 8 * 511) & FRAME;
            guest.word(top + 8 * 510) & FRAME
        };
        guest.ram.write(directory + 8 * 9, &((8 * MIB) | 0x1000 | LARGE | PRESENT).to_le_bytes()).unwrap();
        guest.ram.write(8 * MIB + 0x1234, b"there").unwrap();
        assert_eq!(guest.memory().bytes(AT + 0x20_1234, 5).as_deref(), Ok(b"there".as_slice()));
        assert_eq!(guest.memory().gap(AT + 0x20_0000), 0);
        assert_eq!(guest.memory().gap(AT + 0x40_1000), 0x1f_f000);
    }

    #[test]
    fn strings_end_at_nul_limit_or_nowhere() {
        let mut guest = Synthetic::new();
        guest.put(AT + 0xff8, b"mlx5\x1b[m\0");
        assert_eq!(guest.memory().string(AT + 0xff8, 64).as_deref(), Ok("mlx5?[m"));
        assert_eq!(guest.memory().string(AT + 0xff8, 3).as_deref(), Ok("mlx"));
        guest.put(AT + 0x1ffc, b"open");
        assert_eq!(guest.memory().string(AT + 0x1ffc, 64), Err(Unmapped(AT + 0x2000)));
    }

    #[test]
    fn nothing_is_written() {
        let mut guest = Synthetic::new();
        guest.put(AT, &[7; 64]);
        let before = guest.ram.bytes(0, 16 * MIB as usize).unwrap();
        guest.memory().bytes(AT, 64).unwrap();
        guest.memory().string(AT, 64).unwrap();
        assert!(guest.ram.bytes(0, 16 * MIB as usize).unwrap() == before);
    }

    proptest! {
        #[test]
        fn wild_tables_and_addresses_are_survived(
            words in prop::collection::vec(any::<u64>(), 64),
            address: u64,
            cr3: u64,
            cr4: u64,
        ) {
            let ram = GuestRam::new(16 * MIB).unwrap();
            for (index, word) in words.iter().enumerate() {
                // Tables that lead into one another.
                ram.write(8 * (index as u64 * 37 % 512), &(word & 0xff_ffff | 1).to_le_bytes()).unwrap();
            }
            for cr3 in [cr3, 0] {
                let memory = GuestMemory::new(&ram, AddressSpace::new(cr3, cr4));
                let read = memory.mapped_bytes(address, 0x3000);
                prop_assert_eq!(memory.bytes(address, read.len()).map(|bytes| bytes.len()), Ok(read.len()));
                let _ = memory.string(address, 256);
            }
        }
    }
}
