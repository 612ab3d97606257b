//! Memory of a queue: contiguous for the program, scattered for the device.

use super::Verbs;
use super::mlx5_model::PAGE;

/// Pages in an order of their own, so that the device has to follow the list that it is given.
#[derive(Debug, Clone)]
pub struct Buffer {
    pub pages: Vec<u64>,
    pub len: u64,
}

impl Buffer {
    /// Zeroed pages for `len` bytes: from high to low, with a page between each two that belongs to nobody.
    pub fn new(verbs: &mut Verbs, len: u64) -> Self {
        let count = len.max(1).div_ceil(PAGE);
        let first = verbs.driver.allocate(2 * count);
        Self { pages: (0..count).rev().map(|page| first + 2 * page * PAGE).collect(), len }
    }

    /// Bus address of byte `offset`.
    pub fn locate(&self, offset: u64) -> u64 {
        self.pages[(offset / PAGE) as usize] + offset % PAGE
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
