//! The page walk: 4-level, PAE and 32-bit paging (SDM volume 3, chapter 4).

use super::MemoryType;
use super::tlb::Context;
use crate::encryption::C_BIT;
use crate::fault::Fault;
use crate::state::{Vcpu, cr0, cr4, efer};
use crate::world::{Shown, World};

/// What an access wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// Result of a walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walked {
    /// Guest-physical address of the 4 KiB frame.
    pub frame: u64,
    /// Writes may go ahead without another walk: the page is writable in this context and its dirty bit set.
    pub writable: bool,
    pub global: bool,
    /// The access is to the private view of the frame; false where there is but one ([`Vcpu::sev`]).
    pub private: bool,
    /// 0 for 4 KiB, 1 for 2 or 4 MiB, 2 for 1 GiB.
    pub size_class: u64,
    /// [`MemoryType::WriteBack`] where nobody wants to know.
    pub kind: MemoryType,
}

/// Width of guest-physical addresses, as CPUID 8000_0008H says.
pub const PHYSICAL_BITS: u32 = 46;

mod pte {
    pub const P: u64 = 1 << 0;
    pub const RW: u64 = 1 << 1;
    pub const US: u64 = 1 << 2;
    pub const PWT: u64 = 1 << 3;
    pub const PCD: u64 = 1 << 4;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    /// In entries that map 4 KiB pages, and in those that map larger ones.
    pub const PAT: u64 = 1 << 7;
    pub const PAT_LARGE: u64 = 1 << 12;
    pub const G: u64 = 1 << 8;
    pub const NX: u64 = 1 << 63;
}

/// Page-fault error code bits (SDM volume 3, 4.7).
mod code {
    pub const P: u16 = 1;
    pub const W: u16 = 2;
    pub const U: u16 = 4;
    pub const RSVD: u16 = 8;
    pub const I: u16 = 16;
}

/// Shape of one paging mode.
struct Format {
    levels: u32,
    /// Bits of index at each level.
    index_bits: u32,
    entry_size: u64,
}

/// What PWT and PCD of an entry select of PAT.
const fn cache_index(entry: u64) -> u64 {
    (entry & (pte::PWT | pte::PCD)) >> pte::PWT.trailing_zeros()
}

impl Vcpu {
    /// Translates linear address `linear`, setting accessed and dirty bits.
    pub(super) fn walk<W: World>(
        &mut self,
        world: &mut W,
        linear: u64,
        access: Access,
        context: Context,
    ) -> Result<Walked, Fault> {
        if self.cr0 & cr0::PG == 0 {
            let frame = linear & 0xffff_f000;
            let kind = self.leaf_type(world, frame, None);
            return Ok(Walked {
                frame,
                writable: true,
                global: false,
                size_class: 0,
                kind,
                private: self.sev,
            });
        }
        let long = self.efer & efer::LMA != 0;
        let pae = self.cr4 & cr4::PAE != 0;
        let format = if long {
            Format { levels: 4, index_bits: 9, entry_size: 8 }
        } else if pae {
            Format { levels: 3, index_bits: 9, entry_size: 8 }
        } else {
            Format { levels: 2, index_bits: 10, entry_size: 4 }
        };
        let nxe = self.efer & efer::NXE != 0 && (long || pae);
        let user = matches!(context, Context::User | Context::UserAligned);
        let mut error = 0;
        if access == Access::Write {
            error |= code::W;
        }
        if user {
            error |= code::U;
        }
        if access == Access::Fetch && (nxe || self.cr4 & cr4::SMEP != 0) {
            error |= code::I;
        }

        let mut reserved = 0;
        if format.entry_size == 8 {
            reserved |= ((1 << 52) - 1) & !((1_u64 << PHYSICAL_BITS) - 1);
            if !nxe {
                reserved |= pte::NX;
            }
            if !long {
                reserved |= 0x7ff << 52;
            }
            if self.sev {
                reserved &= !C_BIT;
            }
        }
        let mut table = if long {
            self.cr3 & ((1 << PHYSICAL_BITS) - 1) & !0xfff
        } else if pae {
            self.cr3 & 0xffff_ffe0
        } else {
            self.cr3 & 0xffff_f000
        };
        // PWT and PCD of what leads to the table (SDM volume 3, 4.9.2); with PCIDs, CR3 has none.
        let mut leads = if self.cr4 & cr4::PCIDE == 0 { self.cr3 } else { 0 };
        let (mut rw, mut us, mut nx) = (true, true, false);
        let mut level = format.levels;
        loop {
            level -= 1;
            let shift = 12 + level * format.index_bits;
            let index = linear >> shift & ((1 << format.index_bits) - 1);
            if !long && pae && level == 2 {
                // The four top entries of PAE paging have neither permissions nor A and D bits, and were checked when
                // they were loaded.
                let entry = self.pdptes[(linear >> 30 & 3) as usize];
                if entry & pte::P == 0 {
                    return Err(self.page_fault(linear, error));
                }
                table = entry & ((1 << PHYSICAL_BITS) - 1) & !0xfff;
                leads = entry;
                continue;
            }
            let address = table + index * format.entry_size;
            let mut entry = self.read_entry(world, address, format.entry_size, leads);
            if entry & pte::P == 0 {
                return Err(self.page_fault(linear, error));
            }
            let mut bad = entry & reserved != 0;
            let large =
                level > 0 && entry & pte::PS != 0 && (format.entry_size == 8 || self.cr4 & cr4::PSE != 0);
            if level == 3 && entry & pte::PS != 0 {
                bad = true;
            }
            if large && level <= 2 {
                // Bit 12 is PAT; the bits between it and the page's size are reserved (PSE-36 uses 13-20 of 32-bit entries).
                let low = if format.entry_size == 8 { ((1_u64 << shift) - 1) & !0x1fff } else { 1 << 21 };
                bad |= entry & low != 0;
            }
            if bad {
                return Err(self.page_fault(linear, error | code::P | code::RSVD));
            }
            rw &= entry & pte::RW != 0;
            us &= entry & pte::US != 0;
            nx |= nxe && entry & pte::NX != 0;
            if level > 0 && !large {
                if entry & pte::A == 0 {
                    self.write_entry(world, address, entry | pte::A, format.entry_size, leads);
                }
                table = if format.entry_size == 8 {
                    entry & ((1 << PHYSICAL_BITS) - 1) & !0xfff
                } else {
                    entry & 0xffff_f000
                };
                leads = entry;
                continue;
            }

            let writable = rw || (!user && self.cr0 & cr0::WP == 0);
            let allowed = match access {
                Access::Read => us || !user,
                Access::Write => (us || !user) && writable,
                Access::Fetch if user => us && !nx,
                Access::Fetch => !nx && (!us || self.cr4 & cr4::SMEP == 0),
            } && !(us && context == Context::SupervisorSmap && access != Access::Fetch);
            if !allowed {
                return Err(self.page_fault(linear, error | code::P));
            }
            let wanted = entry | pte::A | if access == Access::Write { pte::D } else { 0 };
            if wanted != entry {
                self.write_entry(world, address, wanted, format.entry_size, leads);
                entry = wanted;
            }
            let base = if format.entry_size == 4 && large {
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
            } else {
                entry & ((1 << PHYSICAL_BITS) - 1) & !((1_u64 << shift) - 1)
            };
            let base = if format.entry_size == 4 && !large { entry & 0xffff_f000 } else { base };
            let frame = base | linear & ((1_u64 << shift) - 1) & !0xfff;
            let pat = if large { pte::PAT_LARGE } else { pte::PAT };
            let index = cache_index(entry) | if entry & pat != 0 { 4 } else { 0 };
            return Ok(Walked {
                frame,
                writable: writable && entry & pte::D != 0,
                global: entry & pte::G != 0 && self.cr4 & cr4::PGE != 0,
                // Only in long mode and with PAE can a page be shared, and code is private whatever its entry says (APM
                // volume 2, 15.34.5).
                private: self.sev
                    && (access == Access::Fetch || format.entry_size == 4 || entry & C_BIT != 0),
                size_class: u64::from(level),
                kind: self.leaf_type(world, frame, Some(index)),
            });
        }
    }

    fn read_entry<W: World>(&mut self, world: &mut W, address: u64, size: u64, leads: u64) -> u64 {
        let index = cache_index(leads);
        if size == 8 {
            self.physical_load::<u64, W>(world, address, index)
        } else {
            u64::from(self.physical_load::<u32, W>(world, address, index))
        }
    }

    fn write_entry<W: World>(&mut self, world: &mut W, address: u64, value: u64, size: u64, leads: u64) {
        let index = cache_index(leads);
        if size == 8 {
            self.physical_store::<u64, W>(world, address, value, index);
        } else {
            self.physical_store::<u32, W>(world, address, value as u32, index);
        }
    }

    fn leaf_type<W: World>(&mut self, world: &W, frame: u64, index: Option<u64>) -> MemoryType {
        match world.shown() {
            Shown::Nothing => MemoryType::WriteBack,
            Shown::Pages | Shown::Everything { .. } => self.memory_type(frame, index),
        }
    }

    /// The type of guest-physical memory mapped with entry `index` of PAT; without paging MTRRs alone decide.
    pub(super) fn memory_type(&mut self, address: u64, index: Option<u64>) -> MemoryType {
        if !self.tlb.range.0.contains(&address) {
            self.tlb.range = self.msr.mtrr.region(address);
        }
        let page = index.map_or(MemoryType::WriteBack as u64, |index| self.msr.pat >> (8 * index) & 7);
        let kind = MemoryType::effective(self.tlb.range.1, page);
        if self.cr0 & cr0::CD != 0 { kind.without_fills() } else { kind }
    }
}
