//! Memory of a queue: contiguous for the program, scattered for the device.

use super::Verbs;
use crate::mlx5_model::PAGE;

/// How the memory of queues is cut into pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLayout {
    /// Bytes of a page, as a power of two, at least 12.
    pub shift: u32,
    /// Where in the first page the queue begins, in 64ths of a page.
    pub offset: u32,
}

impl PageLayout {
    pub const PLAIN: Self = Self { shift: PAGE.trailing_zeros(), offset: 0 };

    fn page(self) -> u64 {
        1 << self.shift
    }

    fn start(self) -> u64 {
        u64::from(self.offset) * self.page() / 64
    }

    /// The page size as contexts have it, from 4096 bytes on.
    pub fn log_page_size(self) -> u64 {
        u64::from(self.shift - PAGE.trailing_zeros())
    }
}

/// Pages in an order of their own, so that the device has to follow the list that it is given.
#[derive(Debug, Clone)]
pub struct Buffer {
    pub pages: Vec<u64>,
    pub layout: PageLayout,
}

impl Buffer {
    /// Zeroed pages for `len` bytes: from high to low, with a page between each two that belongs to nobody.
    pub fn new(verbs: &mut Verbs, len: u64) -> Self {
        let layout = verbs.page_layout;
        let page = layout.page();
        let count = (layout.start() + len.max(1)).div_ceil(page);
        // One more, since a large page begins where its size divides the address.
        let first = verbs.driver.allocate((2 * count + 1) * page / PAGE).next_multiple_of(page);
        Self { pages: (0..count).rev().map(|number| first + 2 * number * page).collect(), layout }
    }

    /// Bus address of byte `offset`.
    pub fn locate(&self, offset: u64) -> u64 {
        let position = self.layout.start() + offset;
        self.pages[(position >> self.layout.shift) as usize] + position % self.layout.page()
    }

    /// Stores `data` at `offset`.
    pub fn store(&self, verbs: &mut Verbs, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            verbs.driver.port.bytes_mut(self.locate(at), 1)[0] = *byte;
        }
    }

    /// Loads `len` bytes from `offset`.
    pub fn load(&self, verbs: &Verbs, offset: u64, len: usize) -> Vec<u8> {
        (offset..offset + len as u64).map(|at| verbs.bytes(self.locate(at), 1)[0]).collect()
    }

    /// Writes the page list into a command.
    pub fn list(&self, entries: &mut [u8]) {
        for (entry, page) in entries.chunks_exact_mut(8).zip(&self.pages) {
            entry.copy_from_slice(&page.to_be_bytes());
        }
    }
}
