//! Whether memory is an application's, pinned for a device by pin_user_pages(): by the same mark of its pages that the kernel
//! itself goes by, folio_maybe_dma_pinned() (include/linux/mm.h).

use super::kernel::{Kernel, PAGE, PAGE_STRUCT};
use crate::guest::{Guest, GuestMemory, LayoutError};

/// GUP_PIN_COUNTING_BIAS: a pin of a page alone counts as this many references.
const PIN: u32 = 1 << 10;
/// In the word that says of a page that it is a part of a larger one (PageTail()).
const IS_PART: u64 = 1;
/// A word from here on is no pointer to the first page, but a mask that leads to it: from 7.1 on, where the memory map of huge
/// pages is thinned out (compound_info_has_mask()). No memory map is so high.
const MASKS: u64 = 0xffff_ff00_0000_0000;

/// Where the marks are.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// In a `struct page`: the word with [`IS_PART`], whatever it is called.
    part_of: u64,
    references: u64,
    /// From the first `struct page` of several that are one.
    pins: u64,
    /// Guest-physical address of the page of zeroes, which is pinned without a mark.
    zeroes: Option<u64>,
}

impl Marks {
    /// Those of the kernel `guest`.
    ///
    /// # Errors
    /// What is not known of them.
    pub fn of(guest: &Guest, memory: &GuestMemory<'_>) -> Result<Self, LayoutError> {
        Ok(Self {
            part_of: guest.offset("folio.lru")?,
            references: guest.offset("folio._refcount")?,
            pins: guest.offset("folio._pincount")?,
            zeroes: guest.address("empty_zero_page").and_then(|page| memory.translate(page).ok()),
        })
    }
}

impl Kernel<'_> {
    /// Whether the memory at the guest-physical address `physical` is pinned; `None` if that is not known.
    #[must_use]
    pub fn is_pinned(&self, physical: u64) -> Option<bool> {
        let marks = self.structures.marks?;
        let number = physical / PAGE;
        if marks.zeroes.is_some_and(|zeroes| zeroes / PAGE == number) {
            return Some(true);
        }
        let page = self.structures.vmemmap.checked_add(number.checked_mul(PAGE_STRUCT)?)?;
        let first = |page: u64| {
            let word = self.memory.u64(page.checked_add(marks.part_of)?).ok()?;
            Some(match word & IS_PART {
                0 => page,
                _ if word >= MASKS => page & word,
                _ => word - IS_PART,
            })
        };
        let head = first(page)?;
        // The first of several is known by the next.
        let is_large = head != page || first(page.checked_add(PAGE_STRUCT)?) == Some(head);
        let count = |offset: u64| self.memory.u32(head.checked_add(offset)?).ok();
        Some(match is_large {
            true => count(marks.pins)?.cast_signed() > 0,
            false => count(marks.references)? >= PIN,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::tests::STRUCTURES;
    use super::*;
    use crate::guest::memory::tests::Synthetic;

    const MAP: u64 = 0xffff_ea00_0000_0000;
    const MARKS: Marks = Marks { part_of: 8, references: 52, pins: 92, zeroes: Some(0x7000) };

    fn pinned(guest: &Synthetic, page: u64, marks: Option<Marks>) -> Option<bool> {
        let mut structures = STRUCTURES;
        structures.marks = marks;
        Kernel { memory: guest.memory(), structures }.is_pinned(page * PAGE + 0x123)
    }

    fn set(guest: &mut Synthetic, page: u64, part_of: u64, references: u32) {
        guest.put(MAP + page * PAGE_STRUCT + 8, &part_of.to_le_bytes());
        guest.put(MAP + page * PAGE_STRUCT + 52, &references.to_le_bytes());
    }

    #[test]
    fn pages_of_their_own_are_told_by_their_references() {
        let mut guest = Synthetic::new();
        set(&mut guest, 1, 0, 1);
        set(&mut guest, 2, MAP, PIN - 1);
        set(&mut guest, 3, 0, PIN + 1);
        let found = [1, 2, 3].map(|page| pinned(&guest, page, Some(MARKS)));
        assert_eq!(found, [Some(false), Some(false), Some(true)]);
        assert_eq!(pinned(&guest, 7, Some(MARKS)), Some(true), "the page of zeroes");
        assert_eq!((pinned(&guest, 3, None), pinned(&guest, 1 << 40, Some(MARKS))), (None, None));
    }

    #[test]
    fn larger_ones_have_a_count_of_their_own() {
        let mask = (MAP | !(4 * PAGE_STRUCT - 1)) | MASKS | IS_PART;
        for link in [(MAP + 8 * PAGE_STRUCT) | IS_PART, mask] {
            let mut guest = Synthetic::new();
            // However many references there are.
            set(&mut guest, 8, 0, 2 * PIN);
            (9..12).for_each(|page| set(&mut guest, page, link, 0));
            let count = MAP + 8 * PAGE_STRUCT + MARKS.pins;
            for (pins, expected) in [(0_i32, false), (1, true), (-1, false)] {
                guest.put(count, &pins.to_le_bytes());
                let found = [8, 9, 11].map(|page| pinned(&guest, page, Some(MARKS)));
                assert_eq!(found, [Some(expected); 3], "{link:#x} {pins}");
            }
            assert_eq!(pinned(&guest, 12, Some(MARKS)), Some(false), "beyond it");
        }
    }
}
