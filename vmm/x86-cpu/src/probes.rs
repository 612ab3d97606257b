//! Probes: addresses at which a vCPU lets the world look at it before it goes on.
//!
//! Decoded blocks end before them, and those that begin at them are never entered by a link or lookup: an address that has
//! no probe costs nothing. What the guest sees, counts of instructions among it, is as without them.

use crate::block::{Block, Op};
use crate::world::World;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A probe that decoded blocks do not know of yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fresh {
    pub linear: u64,
    pub phys: Option<u64>,
}

/// A set of linear addresses. Those within instructions are never come to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Probes {
    /// Offsets in each linear page.
    pages: BTreeMap<u64, BTreeSet<u16>>,
    /// Of no account where nothing is decoded yet, as in a machine that was copied or restored.
    #[serde(skip)]
    fresh: Vec<Fresh>,
}

/// Number of the page, and offset in it.
const fn place(linear: u64) -> (u64, u16) {
    (linear >> 12, (linear & 0xfff) as u16)
}

impl Probes {
    /// Adds the linear address `linear`, which is at guest-physical `phys` if the page is mapped. Returns false if it is here
    /// already.
    pub fn insert(&mut self, linear: u64, phys: Option<u64>) -> bool {
        let (page, offset) = place(linear);
        let new = self.pages.entry(page).or_default().insert(offset);
        if new {
            self.fresh.push(Fresh { linear, phys });
        }
        new
    }

    /// Takes `linear` out. Returns whether it was there.
    pub fn remove(&mut self, linear: u64) -> bool {
        let (page, offset) = place(linear);
        let Some(offsets) = self.pages.get_mut(&page) else { return false };
        let was = offsets.remove(&offset);
        if offsets.is_empty() {
            self.pages.remove(&page);
        }
        was
    }

    /// Whether there is a probe at `linear`.
    #[must_use]
    pub fn contains(&self, linear: u64) -> bool {
        let (page, offset) = place(linear);
        self.pages.get(&page).is_some_and(|offsets| offsets.contains(&offset))
    }

    /// Index of the first of `ops`, the first at `linear` and all in one page, that has a probe before it; other than the
    /// first itself.
    pub(crate) fn within<W: World>(&self, ops: &[Op<W>], linear: u64) -> Option<usize> {
        let (page, start) = place(linear);
        let offsets = self.pages.get(&page)?;
        let after = ops.iter().enumerate().skip(1);
        after.map(|(index, op)| (index, op.offset())).find_map(|(index, offset)| {
            start.checked_add(offset).is_some_and(|at| offsets.contains(&at)).then_some(index)
        })
    }

    /// Whether a block that was decoded at some linear address is as it is decoded at `linear`.
    pub(crate) fn agree<W: World>(&self, block: &Block<W>, linear: u64) -> bool {
        block.probed == self.contains(linear) && self.within(&block.ops, linear).is_none()
    }

    pub(crate) fn take_fresh(&mut self) -> Vec<Fresh> {
        std::mem::take(&mut self.fresh)
    }
}
