//! The IOMMU: between a PCI function's requests and memory, it lets through what the function may reach and nothing else.
//!
//! It does not translate: an I/O virtual address is the guest-physical one. What it does is keep a function from memory, as the
//! platforms of confidential virtual machines do, and as missing address lines do. A request that it does not let through is an
//! unsupported request (PCI Express Base Specification, 2.3.1): a read of it returns all-ones, a write is dropped.

mod shared;

pub use shared::{Allocation, Shared};

use crate::dma::DmaError;
use crate::pci::Bdf;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Guest-physical addresses from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    pub start: u64,
    pub end: u64,
}

impl Span {
    /// `len` bytes from `start` on; those past the last address are not in it.
    #[must_use]
    pub const fn new(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    #[must_use]
    pub const fn contains(self, addr: u64) -> bool {
        self.start <= addr && addr < self.end
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// What functions may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// What the guest shares with them.
    Bounce(Shared),
    /// These addresses, as functions with few address lines can.
    Window(Span),
}

impl Policy {
    /// The first address of the `len` bytes at `addr` that `from` may not reach.
    fn first_beyond(&mut self, from: Bdf, addr: u64, len: u64) -> Option<u64> {
        let Some(end) = addr.checked_add(len) else { return Some(addr) };
        let mut at = addr;
        while at < end {
            let reach = match self {
                Self::Bounce(shared) => shared.reach(from, at),
                Self::Window(window) => window.contains(at).then_some(window.end),
            };
            match reach {
                Some(next) => at = next,
                None => return Some(at),
            }
        }
        None
    }
}

/// What a function wants of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Read,
    Write,
    Atomic,
}

/// Requests of a function that were not let through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    pub reads: u64,
    pub writes: u64,
    pub atomics: u64,
    /// What they asked for altogether.
    pub bytes: u64,
}

/// The IOMMU of all functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iommu {
    policy: Policy,
    /// By function.
    blocked: BTreeMap<u16, Blocked>,
}

impl Iommu {
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, blocked: BTreeMap::new() }
    }

    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the guest shares with functions, if that is what decides.
    pub fn shared_mut(&mut self) -> Option<&mut Shared> {
        match &mut self.policy {
            Policy::Bounce(shared) => Some(shared),
            Policy::Window(_) => None,
        }
    }

    /// Lets a request of `from` for the `len` bytes at `addr` through, whole or not at all.
    ///
    /// # Errors
    /// [`DmaError::Blocked`] with the first address that `from` may not reach; it has been counted.
    pub fn check(&mut self, from: Bdf, request: Request, addr: u64, len: u64) -> Result<(), DmaError> {
        let Some(beyond) = self.policy.first_beyond(from, addr, len) else { return Ok(()) };
        let blocked = self.blocked.entry(from.to_bits()).or_default();
        match request {
            Request::Read => blocked.reads += 1,
            Request::Write => blocked.writes += 1,
            Request::Atomic => blocked.atomics += 1,
        }
        blocked.bytes = blocked.bytes.saturating_add(len);
        Err(DmaError::Blocked(beyond))
    }

    /// What was not let through, by function.
    pub fn blocked(&self) -> impl Iterator<Item = (Bdf, Blocked)> {
        self.blocked.iter().map(|(&from, &blocked)| (Bdf::from_bits(from), blocked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: Bdf = Bdf::new(8, 0, 0);

    #[test]
    fn a_window_ends_where_it_ends() {
        let mut iommu = Iommu::new(Policy::Window(Span::new(0x1000, 0x1000)));
        assert_eq!(iommu.check(NIC, Request::Read, 0x1000, 0x1000), Ok(()));
        assert_eq!(iommu.check(NIC, Request::Read, 0x5000, 0), Ok(()), "nothing is asked for");
        for (request, addr, len, beyond) in [
            (Request::Read, 0x1fff, 2, 0x2000),
            (Request::Write, 0xfff, 2, 0xfff),
            (Request::Atomic, 0x2000, 8, 0x2000),
            (Request::Write, u64::MAX, 2, u64::MAX),
        ] {
            assert_eq!(iommu.check(NIC, request, addr, len), Err(DmaError::Blocked(beyond)));
        }
        let blocked = Blocked { reads: 1, writes: 2, atomics: 1, bytes: 14 };
        assert_eq!(iommu.blocked().collect::<Vec<_>>(), [(NIC, blocked)]);
    }

    #[test]
    fn a_request_may_span_what_is_shared_in_several_ways() {
        let mut iommu = Iommu::new(Policy::Bounce(Shared::default()));
        assert!(iommu.check(NIC, Request::Read, 0x1000, 8).is_err(), "nothing is shared at first");
        let shared = iommu.shared_mut().unwrap();
        shared.add_pool(Span::new(0x1000, 0x1000));
        shared.allocate(1, Allocation { function: NIC, span: Span::new(0x2000, 0x10) });
        assert_eq!(iommu.check(NIC, Request::Write, 0x1ff0, 0x20), Ok(()));
        assert_eq!(
            iommu.check(NIC, Request::Write, 0x1ff0, 0x1011),
            Err(DmaError::Blocked(0x3000)),
            "whole pages are shared, and no more"
        );
        iommu.shared_mut().unwrap().free(1);
        assert_eq!(iommu.check(NIC, Request::Write, 0x1ff0, 0x20), Err(DmaError::Blocked(0x2000)));
    }
}
