//! The kernel's structures that DMA is described by, read from the guest's memory. Nothing in it is believed: pointers may lead
//! nowhere, and lists have no end.

use super::pinned::Marks;
use crate::guest::{Guest, GuestMemory};
use serde::{Deserialize, Serialize};

/// Where the kernel has its memory map and its linear map of memory unless it says otherwise
/// (Documentation/arch/x86/x86_64/mm.rst).
const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
/// Bytes of a `struct page`, and bytes of the page that it stands for.
pub(super) const PAGE_STRUCT: u64 = 64;
pub(super) const PAGE: u64 = 4096;
/// Flags in `scatterlist.page_link`: it is a pointer to more of the list; it is the last element.
const SG_CHAIN: u64 = 1;
const SG_END: u64 = 2;
/// Bytes of a `struct scatterlist` of x86-64 (CONFIG_NEED_SG_DMA_LENGTH).
const SG_SIZE: usize = 32;
/// Where the fields of an element of a scatter list are in all kernels, and the name of a device.
const PLACES: [(&str, u64); 6] = [
    ("scatterlist.page_link", 0),
    ("scatterlist.offset", 8),
    ("scatterlist.length", 12),
    ("scatterlist.dma_address", 16),
    ("scatterlist.dma_length", 24),
    ("device.kobj.name", 0),
];
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
    /// Where the device has it, if it is mapped. That of the n-th need not be where the memory of the n-th is: elements are merged.
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

/// Where the fields are that are read here, in bytes from the start of their structures; and where the memory map is.
#[derive(Debug, Clone, Copy)]
pub struct Structures {
    /// Address of the first `struct page`.
    pub(super) vmemmap: u64,
    /// What pages are pinned is not known without.
    pub(super) marks: Option<Marks>,
    device_parent: u64,
    table_list: u64,
    table_mapped: u64,
    pool_device: u64,
    pool_size: u64,
}

impl Structures {
    /// Those of the kernel `guest`.
    ///
    /// # Errors
    /// What is not known of them, or not as it is here.
    pub fn of(guest: &Guest, memory: &GuestMemory<'_>) -> Result<Self, String> {
        let offset = |field| guest.offset(field).map_err(|error| error.to_string());
        for (place, expected) in PLACES {
            if offset(place)? != expected {
                return Err(format!("{place} is not where all known kernels have it"));
            }
        }
        let vmemmap = guest.address("vmemmap_base").map_or(Ok(VMEMMAP), |base| memory.u64(base));
        Ok(Self {
            vmemmap: vmemmap.map_err(|error| error.to_string())?,
            marks: Marks::of(guest, memory)
                .inspect_err(|error| log::info!("ledger: which pages are pinned is not known: {error}"))
                .ok(),
            device_parent: offset("device.parent")?,
            table_list: offset("sg_table.sgl")?,
            table_mapped: offset("sg_table.nents")?,
            pool_device: offset("dma_pool.dev")?,
            pool_size: offset("dma_pool.size")?,
        })
    }
}

/// A kernel's memory and what is known of its structures.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    pub memory: GuestMemory<'a>,
    pub structures: Structures,
}

impl Kernel<'_> {
    fn pointer(&self, address: u64, offset: u64) -> Option<u64> {
        let pointer = self.memory.u64(address.checked_add(offset)?).ok()?;
        (pointer != 0).then_some(pointer)
    }

    fn number(&self, address: u64, offset: u64) -> Option<u32> {
        self.memory.u32(address.checked_add(offset)?).ok()
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
            let Some(parent) = self.pointer(at, self.structures.device_parent) else { break };
            function = self.device_name(parent).and_then(|name| requester(&name));
            at = parent;
        }
        Some(Device { name, requester: function.unwrap_or(NO_FUNCTION) })
    }

    /// Guest-physical address of the page that the `struct page` at `page` stands for.
    #[must_use]
    pub fn page(&self, page: u64) -> Option<u64> {
        let distance = page.checked_sub(self.structures.vmemmap)?;
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
            let [link, place, address, mapped] = std::array::from_fn(|word| {
                raw.as_chunks().0.get(word).map_or(0, |&word| u64::from_le_bytes(word))
            });
            let target = link & !(SG_CHAIN | SG_END);
            if link & SG_CHAIN != 0 {
                // A chain that leads to another leads nowhere.
                if std::mem::replace(&mut chained, true) {
                    break;
                }
                at = target;
                continue;
            }
            chained = false;
            let low = u64::from(u32::MAX);
            let Some(page) = self.page(target) else { break };
            segments.push(Segment {
                physical: page.saturating_add(place & low),
                address,
                mapped: mapped & low,
            });
            if link & SG_END != 0 {
                break;
            }
            at = at.wrapping_add(SG_SIZE as u64);
        }
        segments
    }

    /// The list of the `struct sg_table` at `table`, and to how many elements it is mapped.
    #[must_use]
    pub fn table(&self, table: u64) -> Option<(u64, usize)> {
        let list = self.pointer(table, self.structures.table_list)?;
        Some((list, self.number(table, self.structures.table_mapped)? as usize))
    }

    /// The device of the DMA pool at `pool` and the size of its blocks.
    #[must_use]
    pub fn pool(&self, pool: u64) -> Option<(Device, u64)> {
        let device = self.device(self.pointer(pool, self.structures.pool_device)?)?;
        let size = u64::from(self.number(pool, self.structures.pool_size)?);
        (1..=MAX_BLOCK).contains(&size).then_some((device, size))
    }

    /// Address in the `struct dma_iova_state` at `state`: its first field.
    #[must_use]
    pub fn iova(&self, state: u64) -> Option<u64> {
        self.memory.u64(state).ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::guest::memory::tests::Synthetic;

    const AT: u64 = 0xffff_8880_0010_0000;
    pub const STRUCTURES: Structures = Structures {
        vmemmap: VMEMMAP,
        marks: None,
        device_parent: 64,
        table_list: 0,
        table_mapped: 8,
        pool_device: 32,
        pool_size: 24,
    };

    fn kernel(guest: &Synthetic) -> Kernel<'_> {
        Kernel { memory: guest.memory(), structures: STRUCTURES }
    }

    fn put(guest: &mut Synthetic, at: u64, words: &[u64]) {
        for (at, word) in (at..).step_by(8).zip(words) {
            guest.put(at, &word.to_le_bytes());
        }
    }

    /// An element of page `page`, mapped to where it is.
    fn element(page: u64, flags: u64, length: u64) -> [u64; 4] {
        [(VMEMMAP + page * PAGE_STRUCT) | flags, 0x10 | (length << 32), page * PAGE + 0x10, length]
    }

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

    #[test]
    fn a_device_is_known_by_the_function_that_it_is_below() {
        let mut guest = Synthetic::new();
        let (virtio, function, orphan) = (AT, AT + 0x400, AT + 0x800);
        for (device, name, text, parent) in [
            (virtio, AT + 0x100, "virtio0", function),
            (function, AT + 0x500, "0000:01:00.0", 0),
            // Its own parent.
            (orphan, AT + 0x900, "orphan", orphan),
        ] {
            put(&mut guest, device, &[name]);
            put(&mut guest, device + 64, &[parent]);
            guest.put(name, text.as_bytes());
            guest.put(name + text.len() as u64, &[0]);
        }
        let device = |name: &str, requester| Some(Device { name: name.into(), requester });
        put(&mut guest, AT + 0xa00, &[0, 0, 0, 256, virtio]);
        let kernel = kernel(&guest);
        assert_eq!(kernel.device(virtio), device("virtio0", 0x100));
        assert_eq!(kernel.device(function), device("0000:01:00.0", 0x100));
        assert_eq!(kernel.device(orphan), device("orphan", NO_FUNCTION));
        assert_eq!((kernel.device(0), kernel.device(AT + 0x100)), (None, None));
        assert_eq!(kernel.pool(AT + 0xa00), device("virtio0", 0x100).map(|device| (device, 256)));
        assert_eq!(kernel.pool(AT), None);
    }

    #[test]
    fn scatter_lists_are_followed_over_chains_to_their_end() {
        let mut guest = Synthetic::new();
        put(&mut guest, AT, &element(5, 0, 0x1000));
        put(&mut guest, AT + 32, &[(AT + 0x200) | SG_CHAIN, 0, 0, 0]);
        put(&mut guest, AT + 0x200, &element(7, SG_END, 0x20));
        put(&mut guest, AT + 0x220, &element(9, 0, 0x20));
        let segment = |page: u64, mapped| {
            let address = page * PAGE + 0x10;
            Segment { physical: address, address, mapped }
        };
        assert_eq!(kernel(&guest).list(AT, 100), [segment(5, 0x1000), segment(7, 0x20)]);
        assert_eq!(kernel(&guest).list(AT, 1), [segment(5, 0x1000)]);
        // One that leads to itself, one that is no list, and one that ends with memory.
        put(&mut guest, AT + 0x300, &[(AT + 0x300) | SG_CHAIN, 0, 0, 0]);
        put(&mut guest, AT + 0x400, &[0x1234_5678, 0, 0, 0]);
        put(&mut guest, AT + 0xfe0, &element(11, 0, 8));
        assert_eq!(kernel(&guest).list(AT + 0x300, usize::MAX), []);
        assert_eq!(kernel(&guest).list(AT + 0x400, usize::MAX), []);
        assert_eq!(kernel(&guest).list(AT + 0xfe0, usize::MAX), [segment(11, 8)]);
        assert_eq!(kernel(&guest).list(1, usize::MAX), []);
    }
}
