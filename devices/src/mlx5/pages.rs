//! Page lists: where the buffer of a queue lies.

use super::status::Failure;
use crate::dma::DmaAttrs;
use crate::pci::Port;
use serde::{Deserialize, Serialize};

/// Smallest page the device translates.
pub const ADAPTER_PAGE_SHIFT: u32 = 12;

/// Pages of a queue's buffer, copied from the command that created the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageList {
    shift: u32,
    offset: u64,
    pages: Vec<u64>,
}

/// How a context describes its buffer.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// Page size: 2 to the power of this plus [`ADAPTER_PAGE_SHIFT`].
    pub log_page_size: u32,
    /// Where the buffer begins in its first page, in 64ths of a page.
    pub page_offset: u32,
    /// Bytes that the queue uses.
    pub len: u64,
}

impl PageList {
    /// Takes the pages that `buffer` needs from `list` (big-endian addresses); further entries are left out.
    ///
    /// # Errors
    /// BAD_PARAM if the page size is out of range or the list too short.
    pub fn parse(buffer: Buffer, list: &[u8]) -> Result<Self, Failure> {
        let shift = buffer.log_page_size.saturating_add(ADAPTER_PAGE_SHIFT);
        if shift > 43 {
            return Err(Failure::parameter("page size out of range"));
        }
        let page = 1u64 << shift;
        let offset = u64::from(buffer.page_offset) * (page / 64);
        if offset >= page {
            return Err(Failure::parameter("buffer begins after its first page"));
        }
        let needed = offset.saturating_add(buffer.len).div_ceil(page);
        let (entries, _) = list.as_chunks::<8>();
        if (entries.len() as u64) < needed {
            return Err(Failure::parameter("page list too short for the queue"));
        }
        let low_bits = (1u64 << ADAPTER_PAGE_SHIFT) - 1;
        let pages =
            entries.iter().take(needed as usize).map(|e| u64::from_be_bytes(*e) & !low_bits).collect();
        Ok(Self { shift, offset, pages })
    }

    /// Bus address of the buffer's byte `position`, unless that lies behind the last page.
    pub fn locate(&self, position: u64) -> Option<u64> {
        let at = self.offset.checked_add(position)?;
        let page = self.pages.get(usize::try_from(at >> self.shift).ok()?)?;
        page.checked_add(at & ((1 << self.shift) - 1))
    }

    /// Reads `data.len()` bytes at byte `position` of the buffer. Returns whether all were there; memory did not answer
    /// or the buffer is shorter otherwise.
    pub fn read(&self, position: u64, data: &mut [u8], port: &mut dyn Port, attrs: DmaAttrs) -> bool {
        let mut rest = data;
        let mut at = position;
        while !rest.is_empty() {
            let Some(bus) = self.locate(at) else { return false };
            let room = (1u64 << self.shift) - (self.offset.wrapping_add(at) & ((1 << self.shift) - 1));
            let (part, left) = rest.split_at_mut(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            if port.read(bus, part, attrs).is_err() {
                return false;
            }
            at += part.len() as u64;
            rest = left;
        }
        true
    }

    /// Writes the list as a query answers it, as far as `out` reaches.
    pub fn store(&self, out: &mut [u8]) {
        let (entries, _) = out.as_chunks_mut::<8>();
        for (entry, page) in entries.iter_mut().zip(&self.pages) {
            *entry = page.to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Buffer, PageList};

    fn list(pages: &[u64]) -> Vec<u8> {
        pages.iter().flat_map(|p| p.to_be_bytes()).collect()
    }

    #[test]
    fn positions_are_found_across_pages() {
        let buffer = Buffer { log_page_size: 0, page_offset: 32, len: 4096 };
        let pages = PageList::parse(buffer, &list(&[0x10003, 0x30000, 0x50000])).unwrap();
        assert_eq!(pages.locate(0), Some(0x10800));
        assert_eq!(pages.locate(0x7ff), Some(0x10fff));
        assert_eq!(pages.locate(0x800), Some(0x30000));
        assert_eq!(pages.locate(0x1800), None, "the third page is not needed");
        assert_eq!(pages.locate(u64::MAX), None);
    }

    #[test]
    fn a_short_list_or_a_huge_page_is_refused() {
        let buffer = Buffer { log_page_size: 0, page_offset: 0, len: 8193 };
        assert!(PageList::parse(buffer, &list(&[0x1000, 0x2000])).is_err());
        assert!(PageList::parse(Buffer { log_page_size: 32, ..buffer }, &list(&[0; 4])).is_err());
        assert!(PageList::parse(Buffer { page_offset: 64, ..buffer }, &list(&[0; 4])).is_err());
    }
}
