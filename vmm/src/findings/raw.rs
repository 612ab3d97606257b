//! What has been seen and is not reported yet: observations, as the model and the ledger make them in the middle of an access.

use crate::ledger::{Diverged, Note};
use cache_model::ledger::{Entry, Ledger, Misuse, RogueKind, Transfer};
use cache_model::{RogueAccess, Snoop, Writer};
use devices::dma::Purpose;
use serde::{Deserialize, Serialize};

/// Observations that may wait; more are counted.
pub const WAITING: usize = 1 << 10;

/// Bytes of the lines by which rogue transactions are told.
pub const LINE: u64 = crate::memory::layout::LINE;

/// An observation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Raw {
    /// Of the cache model.
    Seen(Box<cache_model::Finding>),
    /// A transaction that no mapping allows, and the mapping that it comes near.
    Rogue { access: SavedAccess, kind: RogueKind, entry: Option<Box<Entry<Note>>> },
    /// A transaction that the IOMMU did not let through, and the mapping that is nearest to it.
    Blocked { access: SavedAccess, entry: Option<Box<Entry<Note>>> },
    /// A transaction with the bounce buffer of memory that has to be coherent, where the two differ.
    Bounced { access: SavedAccess, diverged: Diverged, entry: Box<Entry<Note>> },
    /// A transaction with memory that an encrypted guest has not shared, the bytes that have arrived at its other end in place
    /// of those that were there or were sent, and the mapping that is nearest to it.
    Private { access: SavedAccess, instead_of: Vec<u8>, entry: Option<Box<Entry<Note>>> },
    /// A mapping that is wrong in itself.
    Misuse { misuse: Misuse, entry: Box<Entry<Note>> },
}

/// As [`RogueAccess`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedAccess {
    pub device: u32,
    pub transfer: Transfer,
    pub addr: u64,
    pub data: Vec<u8>,
    pub no_snoop: bool,
    pub purpose: Purpose,
    pub stamp: u64,
}

impl SavedAccess {
    /// Who it is by.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer { ip: self.purpose.to_bits(), ..Writer::device(self.device, self.stamp) }
    }
}

impl From<&SavedAccess> for RogueAccess {
    fn from(saved: &SavedAccess) -> Self {
        let &SavedAccess { device, transfer, addr, no_snoop, stamp, .. } = saved;
        let snoop = if no_snoop { Snoop::NoSnoop } else { Snoop::Snoop };
        Self { device, transfer, addr, data: saved.data.clone(), snoop, stamp }
    }
}

/// A device's transaction that is about to be made (a write), or has been (a read).
#[derive(Debug, Clone, Copy)]
pub struct Transaction<'a> {
    /// PCI requester ID.
    pub device: u32,
    pub transfer: Transfer,
    pub addr: u64,
    pub data: &'a [u8],
    pub no_snoop: bool,
    pub purpose: Purpose,
    /// Virtual time.
    pub now: u64,
}

impl Transaction<'_> {
    /// What is wrong with it by the mappings of its device.
    #[must_use]
    pub fn judge(&self, mappings: &Ledger<Note>) -> Option<Raw> {
        let rogue = mappings.rogue(self.device, self.transfer, self.addr, self.data.len() as u64)?;
        let access = self.from(rogue.addr)?;
        Some(Raw::Rogue { access, kind: rogue.kind, entry: rogue.mapping.cloned().map(Box::new) })
    }

    /// It was not let through, since its device may not reach `beyond`.
    #[must_use]
    pub fn blocked(&self, beyond: u64, mappings: Option<&Ledger<Note>>) -> Option<Raw> {
        let access = self.from(beyond)?;
        let nearest = mappings.and_then(|mappings| mappings.nearest(self.device, beyond, 1));
        Some(Raw::Blocked { access, entry: nearest.cloned().map(Box::new) })
    }

    /// It meets a bounce buffer, of the mapping `entry`, whose memory is other than it should be.
    #[must_use]
    pub fn bounced(&self, diverged: Diverged, entry: Entry<Note>) -> Option<Raw> {
        let access = self.from(self.addr.checked_add(diverged.offset as u64)?)?;
        Some(Raw::Bounced { access, diverged, entry: Box::new(entry) })
    }

    /// The part of it from `addr` to the end of the line.
    fn from(&self, addr: u64) -> Option<SavedAccess> {
        let start = usize::try_from(addr.checked_sub(self.addr)?).ok()?;
        let left = usize::try_from(LINE - addr % LINE).ok()?;
        let data = self.data.get(start..)?;
        Some(SavedAccess {
            device: self.device,
            transfer: self.transfer,
            addr,
            data: data.get(..left).unwrap_or(data).to_vec(),
            no_snoop: self.no_snoop,
            purpose: self.purpose,
            stamp: self.now,
        })
    }
}
