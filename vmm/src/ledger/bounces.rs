//! Bounce buffers (SWIOTLB): what is copied through them, for which device and which mapping, and how far they fill their pool.

use crate::guest::SWIOTLB_SLOT as SLOT;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

/// Most live buffers that are followed: twice what a pool of 256 MiB has room for.
const MAX_LIVE: usize = 1 << 18;
/// Most calls of the DMA API at a time whose buffers are not laid to a mapping yet.
const MAX_OPEN: usize = 1 << 10;
/// Most mappings and devices that are told apart.
const MAX_SITES: usize = 1 << 13;
/// The first requests for which there was no room that are kept; all are counted.
const MAX_FAILURES: usize = 64;

/// What has gone through bounce buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounced {
    /// Buffers that were got.
    pub maps: u64,
    /// Those for which there was no room.
    pub failed: u64,
    /// Bytes copied from memory to buffers: at mapping, and by syncs for the device.
    pub to_device: u64,
    /// Bytes copied back: by syncs for the CPU, and at unmapping.
    pub from_device: u64,
    /// Slots of all buffers that were got, of 2 KiB each.
    pub slots: u64,
    /// Slots in use.
    pub used: u64,
    /// Most slots that were in use at a time.
    pub high_water: u64,
}

impl Bounced {
    fn take(&mut self, slots: u64, bytes: u64) {
        self.maps += 1;
        self.slots = self.slots.saturating_add(slots);
        self.used = self.used.saturating_add(slots);
        self.high_water = self.high_water.max(self.used);
        self.to_device = self.to_device.saturating_add(bytes);
    }

    fn copy(&mut self, copy: Copy, bytes: u64) {
        let sum = match copy {
            Copy::ToDevice => &mut self.to_device,
            Copy::FromDevice => &mut self.from_device,
        };
        *sum = sum.saturating_add(bytes);
    }

    fn release(&mut self, slots: u64) {
        self.used = self.used.saturating_sub(slots);
    }
}

/// What came after.
impl AddAssign for Bounced {
    fn add_assign(&mut self, more: Self) {
        let Self { maps, failed, to_device, from_device, slots, used, high_water } = more;
        self.maps = self.maps.saturating_add(maps);
        self.failed = self.failed.saturating_add(failed);
        self.to_device = self.to_device.saturating_add(to_device);
        self.from_device = self.from_device.saturating_add(from_device);
        self.slots = self.slots.saturating_add(slots);
        self.high_water = self.high_water.max(self.used.saturating_add(high_water));
        self.used = self.used.saturating_add(used);
    }
}

/// Which way bytes are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    ToDevice,
    FromDevice,
}

/// Whose buffer it is: the device and the backtrace of its mapping, by their numbers in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Site {
    pub device: u32,
    pub trace: Option<u32>,
}

/// A request for a buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// Name of the device, by its number in the ledger.
    pub device: u32,
    /// Guest-physical address of the memory.
    pub original: u64,
    /// Bytes that are mapped.
    pub size: u64,
    /// Bytes that the buffer has at least, and of which its length is a multiple.
    pub allocated: u64,
    pub multiple: u64,
    /// The outermost call of the DMA API that it was made for.
    pub within: u64,
    pub at: u64,
}

/// A live buffer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Buffer {
    pub original: u64,
    pub size: u64,
    slots: u64,
    device: u32,
    owner: Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Owner {
    /// A call that has not returned.
    Call(u64),
    Site(Site),
}

/// What a call that has not returned has got.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Open {
    bounced: Bounced,
    live: BTreeSet<u64>,
}

/// A request for which there was no room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub device: u32,
    pub size: u64,
    pub at: u64,
    /// Slots in use then.
    pub used: u64,
}

/// All bounce buffers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Bounces {
    /// By the address that the device has.
    live: BTreeMap<u64, Buffer>,
    open: BTreeMap<u64, Open>,
    all: Bounced,
    devices: BTreeMap<u32, Bounced>,
    sites: BTreeMap<Site, Bounced>,
    failures: Vec<Failure>,
    /// Largest request for which there was no room, bytes.
    largest_failure: u64,
}

impl Bounces {
    /// A buffer at `address` was got for `request`.
    pub fn got(&mut self, request: Request, address: u64) {
        // One that was never released is no more.
        self.release(address, None);
        if self.live.len() >= MAX_LIVE {
            return;
        }
        let Request { device, original, size, within, .. } = request;
        let offset = address % SLOT;
        let length = request.allocated.saturating_add(offset);
        let length = length.checked_next_multiple_of(request.multiple.max(1)).unwrap_or(length);
        let slots = length.div_ceil(SLOT);
        self.all.take(slots, size);
        Self::of_device(&mut self.devices, device).take(slots, size);
        let open = self.open_call(within);
        open.bounced.take(slots, size);
        open.live.insert(address);
        self.live.insert(address, Buffer { original, size, slots, device, owner: Owner::Call(within) });
    }

    /// There was no room for `request`.
    pub fn failed(&mut self, request: Request) {
        let Request { device, size, at, within, .. } = request;
        self.all.failed += 1;
        Self::of_device(&mut self.devices, device).failed += 1;
        self.open_call(within).bounced.failed += 1;
        self.largest_failure = self.largest_failure.max(size);
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(Failure { device, size, at, used: self.all.used });
        }
    }

    /// Bytes at `address` are copied, as far as they are in a buffer.
    pub fn copied(&mut self, address: u64, size: u64, copy: Copy) {
        let Some((start, buffer)) = self.live.range(..=address).next_back() else { return };
        let left = start.saturating_add(buffer.size).saturating_sub(address);
        let (bytes, device, owner) = (size.min(left), buffer.device, buffer.owner);
        for bounced in self.concerned(device, owner) {
            bounced.copy(copy, bytes);
        }
    }

    /// The buffer at `address` is given back; first so many bytes of it are copied back.
    pub fn release(&mut self, address: u64, copied: Option<u64>) {
        if let Some(bytes) = copied {
            self.copied(address, bytes, Copy::FromDevice);
        }
        let Some(Buffer { slots, device, owner, .. }) = self.live.remove(&address) else { return };
        for bounced in self.concerned(device, owner) {
            bounced.release(slots);
        }
        if let Owner::Call(call) = owner
            && let Some(open) = self.open.get_mut(&call)
        {
            open.live.remove(&address);
        }
    }

    /// Whether something is not laid to a mapping yet that the call `within` has got, or not got.
    pub fn is_open(&self, within: u64) -> bool {
        self.open.contains_key(&within)
    }

    /// The call `within` has returned: what it has got, or not got, is `site`'s.
    pub fn settle(&mut self, within: u64, site: Site) {
        let Some(open) = self.open.remove(&within) else { return };
        for address in &open.live {
            if let Some(buffer) = self.live.get_mut(address) {
                buffer.owner = Owner::Site(site);
            }
        }
        *Self::of_site(&mut self.sites, site) += open.bounced;
    }

    /// The live buffer that begins at `address`.
    pub fn at(&self, address: u64) -> Option<&Buffer> {
        self.live.get(&address)
    }

    pub fn all(&self) -> Bounced {
        self.all
    }

    /// By the number of their names.
    pub fn devices(&self) -> impl Iterator<Item = (u32, Bounced)> {
        self.devices.iter().map(|(&device, &bounced)| (device, bounced))
    }

    pub fn sites(&self) -> impl Iterator<Item = (Site, Bounced)> {
        self.sites.iter().map(|(&site, &bounced)| (site, bounced))
    }

    /// The first requests for which there was no room.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    pub fn largest_failure(&self) -> u64 {
        self.largest_failure
    }

    fn open_call(&mut self, within: u64) -> &mut Open {
        if self.open.len() >= MAX_OPEN && !self.open.contains_key(&within) {
            self.open.pop_first();
        }
        self.open.entry(within).or_default()
    }

    /// Everything that a buffer counts for.
    fn concerned(&mut self, device: u32, owner: Owner) -> impl Iterator<Item = &mut Bounced> {
        let of_owner = match owner {
            Owner::Call(call) => self.open.get_mut(&call).map(|open| &mut open.bounced),
            Owner::Site(site) => Some(Self::of_site(&mut self.sites, site)),
        };
        [&mut self.all, Self::of_device(&mut self.devices, device)].into_iter().chain(of_owner)
    }

    /// Beyond what is told apart, those of an unknown one.
    fn of_device(devices: &mut BTreeMap<u32, Bounced>, device: u32) -> &mut Bounced {
        let full = devices.len() >= MAX_SITES && !devices.contains_key(&device);
        devices.entry(if full { u32::MAX } else { device }).or_default()
    }

    fn of_site(sites: &mut BTreeMap<Site, Bounced>, site: Site) -> &mut Bounced {
        let full = sites.len() >= MAX_SITES && !sites.contains_key(&site);
        let site = if full { Site { trace: None, ..site } } else { site };
        sites.entry(site).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: u64 = 0x1bf0_0000;
    const NIC: Site = Site { device: 1, trace: Some(7) };

    fn request(size: u64, within: u64) -> Request {
        Request { device: 1, original: 0x5000, size, allocated: size, multiple: 1, within, at: 9 }
    }

    fn bounced(bounces: &Bounces, site: Site) -> Bounced {
        bounces.sites().find(|(other, _)| *other == site).map(|(_, bounced)| bounced).unwrap()
    }

    #[test]
    fn bytes_and_slots_are_counted_for_device_and_mapping() {
        let mut bounces = Bounces::default();
        bounces.got(request(4096, 1), POOL);
        // Within its slot, so that it takes one more.
        bounces.got(request(4096, 1), POOL + 0x2000 + 0x40);
        assert!(bounces.is_open(1) && bounces.sites().next().is_none());
        bounces.settle(1, NIC);
        let both =
            Bounced { maps: 2, to_device: 8192, slots: 5, used: 5, high_water: 5, ..Bounced::default() };
        assert_eq!((bounces.all(), bounced(&bounces, NIC)), (both, both));
        bounces.copied(POOL + 0x800, 0x100, Copy::FromDevice);
        // No more than there is, and nothing where there is none.
        bounces.copied(POOL + 0xf00, 0x1000, Copy::ToDevice);
        bounces.copied(POOL + 0x1000, 0x1000, Copy::ToDevice);
        bounces.copied(POOL - 1, 0x1000, Copy::ToDevice);
        bounces.release(POOL, Some(4096));
        let after = Bounced { to_device: 8192 + 0x100, from_device: 0x100 + 4096, used: 3, ..both };
        assert_eq!((bounces.all(), bounced(&bounces, NIC)), (after, after));
        assert_eq!(bounces.devices().collect::<Vec<_>>(), [(1, after)]);
        bounces.release(POOL, Some(4096));
        assert_eq!(bounces.all(), after, "there is no such buffer");
        assert_eq!(bounces.at(POOL + 0x2040).map(|buffer| buffer.original), Some(0x5000));
    }

    #[test]
    fn what_a_call_gives_up_again_is_its_mappings_all_the_same() {
        let mut bounces = Bounces::default();
        bounces.got(request(2048, 5), POOL);
        bounces.settle(5, NIC);
        // A list of which the second element finds no room.
        bounces.got(request(2048, 6), POOL + 0x800);
        bounces.failed(request(0x40000, 6));
        bounces.release(POOL + 0x800, None);
        bounces.settle(6, NIC);
        let expected =
            Bounced { maps: 2, failed: 1, to_device: 4096, from_device: 0, slots: 2, used: 1, high_water: 2 };
        assert_eq!((bounces.all(), bounced(&bounces, NIC)), (expected, expected));
        assert_eq!(bounces.failures(), [Failure { device: 1, size: 0x40000, at: 9, used: 2 }]);
        assert_eq!(bounces.largest_failure(), 0x40000);
    }

    #[test]
    fn alignment_takes_slots() {
        let mut bounces = Bounces::default();
        let aligned = Request { allocated: 0x200, multiple: 0x1000, ..request(0x200, 1) };
        bounces.got(aligned, POOL);
        assert_eq!(bounces.all().slots, 2);
        bounces.got(Request { allocated: u64::MAX, multiple: u64::MAX, ..aligned }, POOL + 0x1000);
        bounces.got(Request { multiple: 0, ..aligned }, POOL + 0x2000);
        assert_eq!(bounces.all().maps, 3);
    }

    #[test]
    fn everything_has_an_end() {
        let mut bounces = Bounces::default();
        for number in 0..MAX_SITES as u64 + 10 {
            let device = number as u32;
            bounces.got(Request { device, ..request(1, number) }, POOL + number * SLOT);
            bounces.settle(number, Site { device, trace: Some(device) });
            bounces.failed(request(1, u64::MAX - number));
        }
        assert!(bounces.devices.len() <= MAX_SITES + 1 && bounces.open.len() <= MAX_OPEN);
        assert!(bounces.sites.len() <= 2 * MAX_SITES && bounces.failures.len() == MAX_FAILURES);
        assert_eq!(bounces.all().maps, MAX_SITES as u64 + 10);
    }
}
