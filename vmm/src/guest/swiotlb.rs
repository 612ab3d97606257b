//! Where the kernel has its bounce buffers (kernel/dma/swiotlb.c of Linux): as its structure says, and as it has said itself.

use super::{Guest, LayoutError, Unmapped};
use crate::memory::GuestRam;
use serde::Serialize;
use std::fmt;

/// The structure of the buffers that all devices use.
const MEMORY: &str = "io_tlb_default_mem";
/// Its fields from Linux 6.6 on, where a pool is a structure of its own, and before.
const POOL: [&str; 2] = ["io_tlb_mem.defpool", "io_tlb_mem"];
/// What later kernels than 6.1 count with CONFIG_DEBUG_FS; before, and without, areas are summed up.
const USED: &str = "io_tlb_mem.total_used";
const HIGH_WATER: &str = "io_tlb_mem.used_hiwater";
const AREA: &str = "io_tlb_area";
const AREA_USED: &str = "io_tlb_area.used";
/// Most areas: one for each vCPU, rounded up to a power of two.
const MAX_AREAS: u32 = 1 << 12;
/// Only with CONFIG_SWIOTLB_DYNAMIC.
const DYNAMIC: &str = "io_tlb_mem.pools";
/// The kernel's log: a pointer to its text, and how many bytes that has.
const LOG: (&str, &str) = ("log_buf", "log_buf_len");
/// Bytes of a slot (IO_TLB_SIZE).
pub const SLOT: u64 = 2048;
/// Most bytes of it that are looked at: CONFIG_LOG_BUF_SHIFT is 25 at most.
const MAX_LOG: usize = 1 << 25;
/// What the kernel says of the buffers.
const LINE: &[u8] = b"software IO TLB: mapped [mem ";

/// The bounce buffers, in guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwiotlbPool {
    pub start: u64,
    /// After the last byte.
    pub end: u64,
}

/// How full the bounce buffers are by the kernel's own count, which it shows in debugfs as swiotlb/io_tlb_used and
/// io_tlb_used_hiwater. Slots of 2 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SwiotlbUsage {
    /// All that there are.
    pub slots: u64,
    pub used: u64,
    /// Most that were in use at a time; only later kernels than 6.1, with CONFIG_DEBUG_FS, count that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_water: Option<u64>,
}

/// The bounce buffers are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwiotlbError {
    #[error(
        "the kernel has no symbol {0} (it needs CONFIG_SWIOTLB, CONFIG_KALLSYMS and CONFIG_KALLSYMS_ALL)"
    )]
    Symbol(&'static str),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Memory(#[from] Unmapped),
    #[error("the kernel's bounce buffers come and go (CONFIG_SWIOTLB_DYNAMIC), which is not followed")]
    Dynamic,
    #[error("{MEMORY} says that the bounce buffers are {0}, which is not what {1} slots take, or no memory")]
    Impossible(SwiotlbPool, u64),
    #[error(
        "{MEMORY} says that the bounce buffers are {structure}, and the kernel's log that they are {said}"
    )]
    Disagreement { structure: SwiotlbPool, said: SwiotlbPool },
}

impl fmt::Display for SwiotlbPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[mem {:#x}-{:#x}]", self.start, self.end)
    }
}

impl Guest {
    /// The bounce buffers that devices share; none before the kernel has them.
    ///
    /// # Errors
    /// [`SwiotlbError`] if they cannot be known for certain.
    pub fn swiotlb(&self, ram: &GuestRam) -> Result<Option<SwiotlbPool>, SwiotlbError> {
        let memory = self.memory(ram);
        let symbol = |name| self.address(name).ok_or(SwiotlbError::Symbol(name));
        let number = |name| Ok::<_, SwiotlbError>(memory.u64(self.swiotlb_field(name)?)?);
        let slots = number("nslabs")?;
        if slots == 0 {
            return Ok(None);
        }
        let structure = SwiotlbPool { start: number("start")?, end: number("end")? };
        let length = structure.end.checked_sub(structure.start);
        let possible = length.filter(|&length| slots.checked_mul(SLOT) == Some(length));
        if !possible.is_some_and(|length| ram.contains(structure.start, length)) {
            return Err(SwiotlbError::Impossible(structure, slots));
        }
        let (log, length) = (memory.u64(symbol(LOG.0)?)?, memory.u32(symbol(LOG.1)?)?);
        let text = memory.mapped_bytes(log, (length as usize).min(MAX_LOG));
        match said(&text) {
            Some(said) if said != structure => Err(SwiotlbError::Disagreement { structure, said }),
            Some(_) => Ok(Some(structure)),
            None => {
                // Where memory alone would not need them it says nothing, although they are forced, without iommu=soft.
                log::info!("bounce buffers {structure}: the kernel has not said where they are");
                Ok(Some(structure))
            }
        }
    }

    /// How full the bounce buffers are that devices share, as the kernel itself counts.
    ///
    /// # Errors
    /// [`SwiotlbError`] if its structures are not known.
    pub fn swiotlb_usage(&self, ram: &GuestRam) -> Result<SwiotlbUsage, SwiotlbError> {
        let memory = self.memory(ram);
        let base = self.swiotlb_field("nslabs")?;
        let slots = memory.u64(base)?;
        let counter = |field| {
            let (memory_at, offset) = (self.address(MEMORY)?, self.offset(field).ok()?);
            memory.u64(memory_at.wrapping_add(offset)).ok()
        };
        let used = match counter(USED) {
            Some(used) => used,
            None => {
                let areas = memory.u64(self.swiotlb_field("areas")?)?;
                let count = memory.u32(self.swiotlb_field("nareas")?)?;
                let (size, used) = (self.size_of(AREA)?, self.offset(AREA_USED)?);
                let area = |index: u32| memory.u64(areas.wrapping_add(u64::from(index) * size + used));
                let all: Result<Vec<_>, _> = (0..count.min(MAX_AREAS)).map(area).collect();
                all?.into_iter().fold(0, u64::saturating_add)
            }
        };
        Ok(SwiotlbUsage { slots, used, high_water: counter(HIGH_WATER) })
    }

    /// Where `field` of the pool that devices share is.
    fn swiotlb_field(&self, field: &str) -> Result<u64, SwiotlbError> {
        let base = self.address(MEMORY).ok_or(SwiotlbError::Symbol(MEMORY))?;
        if self.offset(DYNAMIC).is_ok() {
            return Err(SwiotlbError::Dynamic);
        }
        let offset = |pool: &str| self.offset(&format!("{pool}.{field}"));
        let [new, old] = POOL;
        Ok(base.wrapping_add(offset(new).or_else(|_| offset(old))?))
    }
}

/// What the kernel has said last: `[mem 0x000000005bf00000-0x000000005ff00000] (64MB)`, the end being after the last byte.
fn said(log: &[u8]) -> Option<SwiotlbPool> {
    let at = log.windows(LINE.len()).rposition(|window| window == LINE)?;
    let rest = log.get(at + LINE.len()..)?;
    let rest = rest.get(..rest.iter().position(|&byte| byte == b']')?)?;
    let (start, end) = std::str::from_utf8(rest).ok()?.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    Some(SwiotlbPool { start: number(start)?, end: number(end)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let log =
            b"\0\0PCI-DMA: Using software bounce buffering for IO (SWIOTLB)\0software IO TLB: mapped [mem \
                    0x000000001bf00000-0x000000001ff00000] (64MB)\0\xff";
        assert_eq!(said(log), Some(SwiotlbPool { start: 0x1bf0_0000, end: 0x1ff0_0000 }));
        for other in [
            &b"software IO TLB: area num 1."[..],
            b"software IO TLB: mapped [mem 0x1000-0x2000",
            b"software IO TLB: mapped [mem 0x1000]",
            b"software IO TLB: mapped [mem 1000-0x2000]",
            b"software IO TLB: mapped [mem 0xfffffffffffffffff-0x2000]",
            b"",
        ] {
            assert_eq!(said(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
