//! The kernel's structures that DMA is described by, read from the guest's memory. Nothing in it is believed: pointers may lead
//! nowhere, and lists have no end.

use super::functions::{self, Version};
use crate::guest::{Guest, GuestMemory, Registers};
use serde::{Deserialize, Serialize};

/// Where the kernel has its memory map and its linear map of memory unless it says otherwise
/// (Documentation/arch/x86/x86_64/mm.rst).
const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
/// Bytes of a `struct page`, and bytes of the page that it stands for.
const PAGE_STRUCT: u64 = 64;
const PAGE: u64 = 4096;
/// Flags in `scatterlist.page_link`: it is a pointer to more of the list; it is the last element.
const SG_CHAIN: u64 = 1;
const SG_END: u64 = 2;
/// Bytes of a `struct scatterlist` of x86-64 (CONFIG_NEED_SG_DMA_LENGTH).
const SG_SIZE: usize = 32;
/// Longest name of a device that is kept.
const MAX_NAME: usize = 64;
/// How far up from a device a PCI function is looked for.
const MAX_PARENTS: usize = 8;
/// Largest block of a DMA pool that is believed, bytes.
const MAX_BLOCK: u64 = 1 << 20;

/// Device that is no PCI function, nor below one.
pub const NO_FUNCTION: u32 = u32::MAX;

/// A device of the guest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// As dev_name() gives it.
    pub name: String,
    /// PCI requester ID of the function, or [`NO_FUNCTION`].
    pub requester: u32,
}

/// One element of a scatter list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub physical: u64,
    /// Bytes there.
    pub length: u64,
    /// Where the device has it, if it is mapped.
    pub address: u64,
    /// Bytes there.
    pub mapped: u64,
}

/// The requester ID in `name`, a PCI function's in the first domain: `0000:08:00.0`.
fn requester(name: &str) -> Option<u32> {
    let hex = |text: &str, digits: usize| {
        let valid = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    let (domain, rest) = name.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let (slot, function) = (hex(slot, 2)?, hex(function, 1)?);
    (hex(domain, 4)? == 0 && slot < 32 && function < 8).then_some(hex(bus, 2)? << 8 | slot << 3 | function)
}

/// A kernel of a known version, in its guest's memory.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    pub guest: &'a Guest,
    pub memory: GuestMemory<'a>,
    pub version: Version,
}

impl Kernel<'_> {
    /// Offset of `structure.field`.
    fn offset(&self, field: &str) -> Option<u64> {
        functions::offset(self.version, field)
    }

    fn pointer(&self, address: u64, field: &str) -> Option<u64> {
        let pointer = self.memory.u64(address.checked_add(self.offset(field)?)?).ok()?;
        (pointer != 0).then_some(pointer)
    }

    /// The name of the device at `address`: the first field of a `struct device` is its kobject, whose first is the name.
    fn device_name(&self, address: u64) -> Option<String> {
        let name = self.memory.u64(address).ok()?;
        self.memory.string(name, MAX_NAME).ok().filter(|name| !name.is_empty())
    }

    /// The device at `address`, with the PCI function that it is or belongs to.
    #[must_use]
    pub fn device(&self, address: u64) -> Option<Device> {
        let name = self.device_name(address)?;
        let mut function = requester(&name);
        let mut at = address;
        for _ in 0..MAX_PARENTS {
            if function.is_some() {
                break;
            }
            let Some(parent) = self.pointer(at, "device.parent") else { break };
            function = self.device_name(parent).and_then(|name| requester(&name));
            at = parent;
        }
        Some(Device { name, requester: function.unwrap_or(NO_FUNCTION) })
    }

    /// Guest-physical address of the page that the `struct page` at `page` stands for.
    #[must_use]
    pub fn page(&self, page: u64) -> Option<u64> {
        let base =
            self.guest.address("vmemmap_base").map_or(Some(VMEMMAP), |base| self.memory.u64(base).ok())?;
        let distance = page.checked_sub(base)?;
        (distance % PAGE_STRUCT == 0).then(|| (distance / PAGE_STRUCT).checked_mul(PAGE)).flatten()
    }

    /// The first `count` elements of the scatter list at `list`, as far as it goes.
    #[must_use]
    pub fn list(&self, list: u64, count: usize) -> Vec<Segment> {
        let mut segments = Vec::new();
        let (mut at, mut chained) = (list, false);
        while segments.len() < count {
            let mut raw = [0; SG_SIZE];
            if self.memory.read(at, &mut raw).is_err() {
                break;
            }
            let word = |at: usize| {
                raw.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
            };
            let link = word(0);
            if link & SG_CHAIN != 0 {
                // One that leads to another of its kind leads nowhere.
                if std::mem::replace(&mut chained, true) {
                    break;
                }
                at = link & !(SG_CHAIN | SG_END);
                continue;
            }
            chained = false;
            let low = u64::from(u32::MAX);
            let Some(page) = self.page(link & !(SG_CHAIN | SG_END)) else { break };
            segments.push(Segment {
                physical: page.saturating_add(word(8) & low),
                length: word(8) >> 32,
                address: word(16),
                mapped: word(24) & low,
            });
            if link & SG_END != 0 {
                break;
            }
            at = at.wrapping_add(SG_SIZE as u64);
        }
        segments
    }

    /// The list of the `struct sg_table` at `table`, and how many of its elements are mapped and there.
    #[must_use]
    pub fn table(&self, table: u64) -> Option<(u64, u32, u32)> {
        let list = self.pointer(table, "sg_table.sgl")?;
        let count = |field| self.memory.u32(table.checked_add(self.offset(field)?)?).ok();
        Some((list, count("sg_table.nents")?, count("sg_table.orig_nents")?))
    }

    /// The device of the DMA pool at `pool` and the size of its blocks.
    #[must_use]
    pub fn pool(&self, pool: u64) -> Option<(Device, u64)> {
        let device = self.device(self.pointer(pool, "dma_pool.dev")?)?;
        let size = self.memory.u32(pool.checked_add(self.offset("dma_pool.size")?)?).ok()?;
        let size = u64::from(size);
        (1..=MAX_BLOCK).contains(&size).then_some((device, size))
    }

    /// Return addresses from where `registers` are, the innermost first.
    #[must_use]
    pub fn trace(&self, registers: &Registers) -> Vec<u64> {
        vec![registers.rip]
    }

    /// Address in the `struct dma_iova_state` at `state`.
    #[must_use]
    pub fn iova(&self, state: u64) -> Option<u64> {
        self.memory.u64(state).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_functions_are_told_by_their_names() {
        assert_eq!(requester("0000:08:00.0"), Some(0x800));
        assert_eq!(requester("0000:1f:1f.7"), Some(0x1fff));
        for name in [
            "0001:08:00.0",
            "0000:08:20.0",
            "0000:08:00.8",
            "0000:8:00.0",
            "virtio0",
            "serial8250",
            "+000:08:00.0",
        ] {
            assert_eq!(requester(name), None, "{name}");
        }
    }
}
