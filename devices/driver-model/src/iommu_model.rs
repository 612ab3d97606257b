//! A guest that shares memory and takes it back while its devices ask for all of it, and the IOMMU told by brute force.
//!
//! The guest is made of bytes, for the fuzzer and for tests: each is read as a list of actions. The model keeps, for every page,
//! who may reach it, and answers byte by byte.

use devices::dma::DmaError;
use devices::iommu::{Allocation, Iommu, Policy, Request, Shared, Span};
use devices::pci::Bdf;
use std::collections::BTreeMap;

/// Bytes of a page, and the pages of memory that guests play with.
pub const PAGE: u64 = 4096;
pub const PAGES: u64 = 32;
/// Most actions of a guest.
const MAX_ACTIONS: usize = 512;
/// Identities of allocations: few, so that they are used again.
const IDS: u8 = 8;

/// Something a guest or a device of it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The guest has bounce buffers here.
    Pool(Span),
    Allocate {
        id: u64,
        allocation: Allocation,
    },
    Free {
        id: u64,
    },
    /// `value` is what a write, or an atomic operation, brings.
    Request {
        from: Bdf,
        request: Request,
        addr: u64,
        len: u64,
        value: u8,
    },
}

/// The actions that `data` is read as.
#[must_use]
pub fn actions(data: &[u8]) -> Vec<Action> {
    let (actions, _) = data.as_chunks();
    actions.iter().take(MAX_ACTIONS).map(action).collect()
}

fn action(&[kind, who, page, offset, pages, bytes, value, _]: &[u8; 8]) -> Action {
    let from = Bdf::new(who % 3, 0, 0);
    let start = u64::from(page) % PAGES * PAGE;
    let len = u64::from(pages) % 4 * PAGE + u64::from(bytes) * 16;
    // Near the start of a page, near its end, or where addresses end.
    let addr = match offset {
        0..=99 => start + u64::from(offset),
        100..=249 => start + PAGE - u64::from(offset - 99),
        _ => u64::MAX - u64::from(page),
    };
    let id = u64::from(who % IDS);
    match kind % 8 {
        0 => Action::Pool(Span::new(start, u64::from(pages % 3) * PAGE)),
        1 | 2 => {
            Action::Allocate { id, allocation: Allocation { function: from, span: Span::new(addr, len) } }
        }
        3 => Action::Free { id },
        4 => Action::Request { from, request: Request::Atomic, addr: addr & !7, len: 8, value },
        5 => Action::Request { from, request: Request::Read, addr, len, value },
        _ => Action::Request { from, request: Request::Write, addr, len, value },
    }
}

/// Who may reach what, by brute force.
#[derive(Debug, Default)]
pub struct Model {
    pools: Vec<Span>,
    allocations: BTreeMap<u64, Allocation>,
}

impl Model {
    /// What the guest does to it.
    pub fn act(&mut self, action: Action) {
        match action {
            Action::Pool(pool) => self.pools.push(pool),
            Action::Allocate { id, allocation } => {
                self.allocations.insert(id, allocation);
            }
            Action::Free { id } => {
                self.allocations.remove(&id);
            }
            Action::Request { .. } => {}
        }
    }

    /// Whether `from` may reach this byte: it is in a bounce buffer, or in the page of a byte of an allocation of its own.
    #[must_use]
    pub fn reaches(&self, from: Bdf, addr: u64) -> bool {
        let page = addr / PAGE;
        self.pools.iter().any(|pool| pool.contains(addr))
            || self.allocations.values().any(|&Allocation { function, span }| {
                let last = span.end.checked_sub(1).filter(|&last| last >= span.start);
                function == from && last.is_some_and(|last| (span.start / PAGE..=last / PAGE).contains(&page))
            })
    }

    /// The first of the bytes that `from` may not reach. Only page by page can it change.
    #[must_use]
    pub fn first_beyond(&self, from: Bdf, addr: u64, len: u64) -> Option<u64> {
        let Some(end) = addr.checked_add(len) else { return Some(addr) };
        let next = |at: &u64| (at / PAGE + 1).checked_mul(PAGE);
        let mut places = std::iter::successors(Some(addr), next).take_while(|&at| at < end);
        places.find(|&at| !self.reaches(from, at))
    }
}

/// Tells an IOMMU what the guest does.
pub fn tell(iommu: &mut Iommu, action: Action) {
    let Some(shared) = iommu.shared_mut() else { return };
    match action {
        Action::Pool(pool) => shared.add_pool(pool),
        Action::Allocate { id, allocation } => shared.allocate(id, allocation),
        Action::Free { id } => shared.free(id),
        Action::Request { .. } => {}
    }
}

/// Plays the guest that `data` is read as.
///
/// # Panics
/// Where the IOMMU lets through what the model does not, or the other way round.
pub fn run(data: &[u8]) {
    let mut iommu = Iommu::new(Policy::Bounce(Shared::default()));
    let mut model = Model::default();
    let mut refused = 0;
    for action in actions(data) {
        tell(&mut iommu, action);
        model.act(action);
        if let Action::Request { from, request, addr, len, .. } = action {
            let beyond = model.first_beyond(from, addr, len);
            let checked = iommu.check(from, request, addr, len);
            assert_eq!(checked, beyond.map_or(Ok(()), |beyond| Err(DmaError::Blocked(beyond))), "{action:?}");
            refused += u64::from(beyond.is_some());
        }
    }
    let counted: u64 =
        iommu.blocked().map(|(_, blocked)| blocked.reads + blocked.writes + blocked.atomics).sum();
    assert_eq!(counted, refused);
}
