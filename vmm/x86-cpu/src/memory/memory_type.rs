//! Memory types: what PAT, MTRRs and CR0.CD make of a page (SDM volume 3, 12.5.2, 12.11 and 12.12).

use super::paging::PHYSICAL_BITS;
use crate::msr::Mtrrs;
use std::ops::Range;

/// How accesses to a page use the caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryType {
    /// UC: past the caches, in order.
    Uncacheable = 0,
    /// WC: past the caches; stores wait to be combined.
    WriteCombining = 1,
    /// Write-back memory while CR0.CD forbids fills: hits use the cache, misses do not (SDM volume 3, table 12-5).
    NoFill = 2,
    /// WT: loads are cached, stores go to memory at once.
    WriteThrough = 4,
    /// WP: loads are cached, stores go past the caches and invalidate.
    WriteProtected = 5,
    /// WB.
    WriteBack = 6,
}

impl MemoryType {
    /// The type that bits 0-2 of `bits` encode in an MTRR, in PAT and in a TLB entry; PAT's UC- (7) is for [`Self::effective`]
    /// to know.
    pub(crate) const fn of(bits: u64) -> Self {
        match bits & 7 {
            1 => Self::WriteCombining,
            2 => Self::NoFill,
            4 => Self::WriteThrough,
            5 => Self::WriteProtected,
            6 => Self::WriteBack,
            _ => Self::Uncacheable,
        }
    }

    /// Whether a hit in the cache is all that an access needs.
    pub(crate) const fn hits(self) -> bool {
        matches!(self, Self::WriteBack | Self::NoFill)
    }

    /// Whether instructions are fetched through the cache.
    pub(crate) const fn is_fetched_cached(self) -> bool {
        !matches!(self, Self::Uncacheable | Self::WriteCombining)
    }

    /// What MTRR type `range` and the PAT entry `page` amount to (SDM volume 3, table 12-7).
    pub(crate) const fn effective(range: Self, page: u64) -> Self {
        const UC_MINUS: u64 = 7;
        use MemoryType::{Uncacheable, WriteBack, WriteCombining, WriteProtected, WriteThrough};
        match (range, page & 7) {
            (_, 1) => WriteCombining,
            (WriteCombining | WriteProtected, UC_MINUS) => WriteCombining,
            (WriteCombining, 6) => WriteCombining,
            (WriteThrough | WriteBack | WriteProtected, 4) => WriteThrough,
            (WriteThrough, 6) => WriteThrough,
            (WriteThrough | WriteBack | WriteProtected, 5) => WriteProtected,
            (WriteProtected, 6) => WriteProtected,
            (WriteBack, 6) => WriteBack,
            _ => Uncacheable,
        }
    }

    /// The type with CR0.CD set.
    pub(crate) const fn without_fills(self) -> Self {
        match self {
            Self::WriteBack | Self::NoFill => Self::NoFill,
            Self::WriteCombining => Self::WriteCombining,
            _ => Self::Uncacheable,
        }
    }
}

/// IA32_MTRR_DEF_TYPE: MTRRs are enabled; fixed ranges are.
const ENABLE: u64 = 1 << 11;
const FIXED_ENABLE: u64 = 1 << 10;
/// IA32_MTRR_PHYSMASKn: the range is valid.
const VALID: u64 = 1 << 11;
/// Below are fixed ranges.
const FIXED_END: u64 = 1 << 20;

impl Mtrrs {
    /// The type of the page at guest-physical `address`, and addresses around it that have the same.
    pub(crate) fn region(&self, address: u64) -> (Range<u64>, MemoryType) {
        let page = address & !0xfff;
        if self.default_type & ENABLE == 0 {
            return (0..1 << PHYSICAL_BITS, MemoryType::Uncacheable);
        }
        if page < FIXED_END && self.default_type & FIXED_ENABLE != 0 {
            return (page..page + 0x1000, MemoryType::of(self.fixed_type(page)));
        }
        let mut around = FIXED_END..1 << PHYSICAL_BITS;
        if page < FIXED_END {
            around = page..page + 0x1000;
        }
        let mut found = None;
        for [base, mask] in self.variable {
            if mask & VALID == 0 {
                continue;
            }
            let (mask, kind) = (mask & ((1 << PHYSICAL_BITS) - 1) & !0xfff, MemoryType::of(base));
            let base = base & mask;
            let size = 1 << mask.trailing_zeros().min(PHYSICAL_BITS);
            if page & mask == base {
                found = Some(found.map_or(kind, |other| Self::overlap(other, kind)));
                around.start = around.start.max(page & !(size - 1));
                around.end = around.end.min((page & !(size - 1)) + size);
            } else if (mask | (size - 1)) + 1 == 1 << PHYSICAL_BITS {
                // One range without holes.
                if base > page {
                    around.end = around.end.min(base);
                } else {
                    around.start = around.start.max(base + size);
                }
            } else {
                around = page..page + 0x1000;
            }
        }
        (around, found.unwrap_or(MemoryType::of(self.default_type)))
    }

    /// The type where two ranges overlap (SDM volume 3, 12.11.4.1): UC wins, then WT over WB; of others, which are undefined,
    /// the stricter.
    fn overlap(a: MemoryType, b: MemoryType) -> MemoryType {
        if (a as u8) < b as u8 { a } else { b }
    }

    fn fixed_type(&self, page: u64) -> u64 {
        let (register, step) = match page {
            0..0x8_0000 => (0, page >> 16),
            0x8_0000..0xc_0000 => (1 + (page - 0x8_0000) / 0x2_0000, page >> 14),
            _ => (3 + (page - 0xc_0000) / 0x8000, page >> 12),
        };
        self.fixed[register as usize] >> (8 * (step & 7)) & 7
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryType::*;
    use super::*;

    /// SDM volume 3, table 12-7, by MTRR type and, in a row, PAT entries UC, UC-, WC, WT, WB, WP.
    #[test]
    fn page_and_range_types_combine_as_the_table_says() {
        for (range, row) in [
            (Uncacheable, [Uncacheable, Uncacheable, WriteCombining, Uncacheable, Uncacheable, Uncacheable]),
            (
                WriteCombining,
                [Uncacheable, WriteCombining, WriteCombining, Uncacheable, WriteCombining, Uncacheable],
            ),
            (
                WriteThrough,
                [Uncacheable, Uncacheable, WriteCombining, WriteThrough, WriteThrough, WriteProtected],
            ),
            (WriteBack, [Uncacheable, Uncacheable, WriteCombining, WriteThrough, WriteBack, WriteProtected]),
            (
                WriteProtected,
                [Uncacheable, WriteCombining, WriteCombining, WriteThrough, WriteProtected, WriteProtected],
            ),
        ] {
            let got = [0, 7, 1, 4, 6, 5].map(|page| MemoryType::effective(range, page));
            assert_eq!(got, row, "{range:?}");
        }
    }

    #[test]
    fn ranges_have_their_order_and_the_regions_found_are_uniform() {
        let mut mtrr = Mtrrs::default();
        let mask = |size: u64| ((1 << PHYSICAL_BITS) - 1) & !(size - 1) | VALID;
        mtrr.variable[0] = [0x1000_0000 | 4, mask(0x1000_0000)];
        mtrr.variable[1] = [0x1800_0000, mask(0x10_0000)];
        mtrr.variable[2] = [0x4000_0000 | 1, mask(0x4000_0000)];
        let kind = |address| mtrr.region(address).1;
        for (address, expected) in [
            (0x9_f000, WriteBack),
            (0xa_0000, Uncacheable),
            (0xb_ffff, Uncacheable),
            (0xc_0000, WriteBack),
            (0x0fff_f000, WriteBack),
            (0x1000_0000, WriteThrough),
            (0x1800_0000, Uncacheable),
            (0x1810_0000, WriteThrough),
            (0x2000_0000, WriteBack),
            (0x7fff_ffff, WriteCombining),
            (0x8000_0000, WriteBack),
        ] {
            assert_eq!(kind(address), expected, "{address:#x}");
            let (around, _) = mtrr.region(address);
            assert!(around.contains(&address));
            for at in [around.start, around.start.midpoint(around.end) & !0xfff, around.end - 0x1000] {
                assert_eq!(kind(at), expected, "{address:#x} is like {at:#x}");
            }
        }
        mtrr.default_type &= !FIXED_ENABLE;
        assert_eq!(mtrr.region(0xa_0000).1, WriteBack);
        mtrr.default_type &= !ENABLE;
        assert_eq!(mtrr.region(0x5000).1, Uncacheable);
    }

    #[test]
    fn without_fills_hits_are_left() {
        assert_eq!(WriteBack.without_fills(), NoFill);
        assert_eq!(WriteThrough.without_fills(), Uncacheable);
        assert!(NoFill.hits() && !WriteThrough.hits());
    }
}
