//! Guest memory as virtio-queue wants it, made of the transactions of a function's DMA port.
//!
//! virtio-queue is generic over vm-memory's [`GuestMemory`], whose one primitive hands out slices of host memory. A
//! device here has none to hand out: what it reads is copied by the port into a staging buffer first, and what it writes
//! goes from the staging buffer to the port when the slices have been used. So every access of the ring code is one
//! transaction, with its attributes, behind bus-master enable, IOMMU and cache model like any other.

use super::ATTRS;
use crate::dma::DmaError;
use crate::pci::Port;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::iter::FusedIterator;
use vm_memory::guest_memory::{GuestMemorySliceIterator, Result};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryError, GuestMemoryMmap, Permissions, VolatileSlice};

/// Staging buffers start at multiples of this, as atomic accesses require.
const ALIGNMENT: usize = 16;

/// Bytes of staging that `accesses` accesses of at most 16 bytes need.
pub(super) const fn staging_size(accesses: usize) -> usize {
    (accesses + 1) * ALIGNMENT
}

/// A port lent for a few accesses. A transaction that fails reads as all-ones, as on the bus, and is remembered: whoever
/// lends the memory asks [`Self::finish`] afterwards.
pub(super) struct PortMemory<'p> {
    port: RefCell<&'p mut dyn Port>,
    /// What is left of the staging buffer.
    staging: Cell<&'p mut [u8]>,
    failure: Cell<Option<DmaError>>,
}

impl fmt::Debug for PortMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortMemory").field("failure", &self.failure.get()).finish_non_exhaustive()
    }
}

impl<'p> PortMemory<'p> {
    /// `staging` has room for all accesses that will be made ([`staging_size`]); one more is refused.
    pub fn new(port: &'p mut dyn Port, staging: &'p mut [u8]) -> Self {
        let skip = staging.as_ptr().align_offset(ALIGNMENT).min(staging.len());
        let staging = staging.split_at_mut(skip).1;
        Self { port: RefCell::new(port), staging: Cell::new(staging), failure: Cell::new(None) }
    }

    /// The first transaction that has failed.
    ///
    /// # Errors
    /// Its [`DmaError`].
    pub fn finish(&self) -> std::result::Result<(), DmaError> {
        self.failure.get().map_or(Ok(()), Err)
    }

    fn note(&self, result: std::result::Result<(), DmaError>) {
        if let (Err(error), None) = (result, self.failure.get()) {
            self.failure.set(Some(error));
        }
    }

    /// Takes `count` bytes of staging.
    fn stage(&self, count: usize) -> Option<&'p mut [u8]> {
        let left = self.staging.take();
        let Some(used) = count.checked_next_multiple_of(ALIGNMENT).filter(|&used| used <= left.len()) else {
            self.staging.set(left);
            return None;
        };
        let (taken, rest) = left.split_at_mut(used);
        self.staging.set(rest);
        taken.get_mut(..count)
    }
}

impl<'p> GuestMemory for PortMemory<'p> {
    /// There is none underneath: [`GuestMemory::physical_memory`] says so.
    type PhysicalMemory = GuestMemoryMmap;
    type Bitmap = ();

    /// Only a transaction tells whether an address answers.
    fn check_range(&self, addr: GuestAddress, count: usize, _access: Permissions) -> bool {
        addr.0.checked_add(count as u64).is_some()
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, ()>> {
        let buffer = self.stage(count).ok_or(GuestMemoryError::InvalidGuestAddress(addr))?;
        if access != Permissions::Write {
            let result = self.port.borrow_mut().read(addr.0, buffer, ATTRS);
            self.note(result);
        }
        let slice = VolatileSlice::from(buffer);
        let write_back = access.has_write().then_some((addr.0, slice));
        Ok(StagedSlices { memory: self, slice: (count != 0).then_some(slice), write_back })
    }
}

/// The one slice of an access. What was written to it goes to the port when this is dropped.
struct StagedSlices<'a, 'p> {
    memory: &'a PortMemory<'p>,
    slice: Option<VolatileSlice<'a>>,
    write_back: Option<(u64, VolatileSlice<'a>)>,
}

impl<'a> Iterator for StagedSlices<'a, '_> {
    type Item = Result<VolatileSlice<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.slice.take().map(Ok)
    }
}

impl FusedIterator for StagedSlices<'_, '_> {}

impl<'a> GuestMemorySliceIterator<'a, ()> for StagedSlices<'a, '_> {}

impl Drop for StagedSlices<'_, '_> {
    fn drop(&mut self) {
        if let Some((address, slice)) = self.write_back.take() {
            let mut data = vec![0; slice.len()];
            slice.copy_to(&mut data);
            let result = self.memory.port.borrow_mut().write(address, &data, ATTRS);
            self.memory.note(result);
        }
    }
}
