//! What a guest shares with its devices, all the rest of its memory being its own.

use super::Span;
use crate::pci::Bdf;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Memory is shared by pages of this size.
const PAGE: u64 = 4096;

/// Memory that is allocated for one function to use at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    pub function: Bdf,
    pub span: Span,
}

/// The shared memory: bounce buffers, that every function may reach, and allocations, each its function's.
///
/// Whoever tells of allocations bounds their number.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Shared {
    pools: Vec<Span>,
    /// By identity, as whoever told of them has it.
    allocations: BTreeMap<u64, Allocation>,
    /// What each function may reach of the allocations: in order, with room between them. Made when it is needed.
    #[serde(skip)]
    reach: Option<BTreeMap<Bdf, Vec<Span>>>,
}

/// Two that share the same; what was made of it does not matter.
impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.pools == other.pools && self.allocations == other.allocations
    }
}

impl Eq for Shared {}

impl Shared {
    /// Adds bounce buffers.
    pub fn add_pool(&mut self, pool: Span) {
        if !self.pools.contains(&pool) {
            self.pools.push(pool);
        }
    }

    /// The bounce buffers.
    #[must_use]
    pub fn pools(&self) -> &[Span] {
        &self.pools
    }

    /// Shares the pages of an allocation with its function. One of the same identity ends.
    pub fn allocate(&mut self, id: u64, allocation: Allocation) {
        self.allocations.insert(id, allocation);
        self.reach = None;
    }

    /// An allocation ends; pages that no other of the function is in are not shared any more.
    pub fn free(&mut self, id: u64) {
        if self.allocations.remove(&id).is_some() {
            self.reach = None;
        }
    }

    /// The end of the memory around `addr` that `from` may reach; none if it may not reach that.
    pub(super) fn reach(&mut self, from: Bdf, addr: u64) -> Option<u64> {
        if let Some(pool) = self.pools.iter().find(|pool| pool.contains(addr)) {
            return Some(pool.end);
        }
        let allocations = &self.allocations;
        let reach = self.reach.get_or_insert_with(|| by_function(allocations));
        let spans = reach.get(&from)?;
        let after = spans.partition_point(|span| span.start <= addr);
        spans.get(after.checked_sub(1)?).filter(|span| span.contains(addr)).map(|span| span.end)
    }
}

/// The pages of each function's allocations.
fn by_function(allocations: &BTreeMap<u64, Allocation>) -> BTreeMap<Bdf, Vec<Span>> {
    let mut reach: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for &Allocation { function, span } in allocations.values().filter(|one| !one.span.is_empty()) {
        let start = span.start - span.start % PAGE;
        let end = span.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        reach.entry(function).or_default().push(Span { start, end });
    }
    for spans in reach.values_mut() {
        spans.sort_unstable();
        spans.dedup_by(|next, before| {
            let touches = next.start <= before.end;
            if touches {
                before.end = before.end.max(next.end);
            }
            touches
        });
    }
    reach
}
