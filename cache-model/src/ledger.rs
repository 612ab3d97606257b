//! Which memory a device may access: live DMA mappings and their directions, as Linux's DMA API has them.
//!
//! The ledger judges only devices whose driver uses the DMA API, that is, has mapped something. Whether the bytes of a
//! mapping were synced at the right moments is not judged here but by their values and masks in the model.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most mappings that may be live at once.
pub const MAX_MAPPINGS: usize = 1 << 20;

/// The direction of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// The device reads.
    ToDevice,
    /// The device writes.
    FromDevice,
    /// Both.
    Bidirectional,
    /// Both, at any time (dma_alloc_coherent).
    Coherent,
}

/// What a device does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transfer {
    /// It reads.
    Read,
    /// It writes.
    Write,
}

impl Direction {
    fn allows(self, transfer: Transfer) -> bool {
        match self {
            Self::ToDevice => transfer == Transfer::Read,
            Self::FromDevice => transfer == Transfer::Write,
            Self::Bidirectional | Self::Coherent => true,
        }
    }
}

/// A live mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The device it is for.
    pub device: u32,
    /// Address of the first byte.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// Who may do what.
    pub direction: Direction,
}

/// Why the ledger cannot follow an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// The identity is taken by a live mapping.
    #[error("mapping {0} exists already")]
    Exists(u64),
    /// No live mapping has this identity.
    #[error("there is no mapping {0}")]
    Unknown(u64),
    /// A partial sync is not wholly in its mapping.
    #[error("{len} bytes at offset {offset:#x} are outside mapping {id} of {size} bytes")]
    Outside {
        /// The mapping.
        id: u64,
        /// Its length in bytes.
        size: u64,
        /// Where the sync starts in it.
        offset: u64,
        /// The length of the sync in bytes.
        len: u64,
    },
    /// More than [`MAX_MAPPINGS`] are live.
    #[error("more than {MAX_MAPPINGS} live mappings")]
    Full,
}

/// All live mappings of all devices.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    mappings: BTreeMap<u64, Mapping>,
    /// Devices that have ever mapped anything.
    devices: BTreeSet<u32>,
}

impl Ledger {
    /// A device may access memory from now on.
    ///
    /// # Errors
    /// If the identity is taken or too many mappings are live.
    pub fn map(&mut self, id: u64, mapping: Mapping) -> Result<(), LedgerError> {
        if self.mappings.contains_key(&id) {
            return Err(LedgerError::Exists(id));
        }
        if self.mappings.len() >= MAX_MAPPINGS {
            return Err(LedgerError::Full);
        }
        self.mappings.insert(id, mapping);
        self.devices.insert(mapping.device);
        Ok(())
    }

    /// A mapping's sync, of all of it or of `(offset, length)`: the bytes that it concerns, as (address, length).
    ///
    /// # Errors
    /// If there is no such mapping or the range is not wholly in it.
    pub fn sync(&self, id: u64, part: Option<(u64, u64)>) -> Result<(u64, u64), LedgerError> {
        let mapping = self.mappings.get(&id).ok_or(LedgerError::Unknown(id))?;
        let Some((offset, len)) = part else { return Ok((mapping.addr, mapping.len)) };
        if offset.checked_add(len).is_none_or(|end| end > mapping.len) {
            return Err(LedgerError::Outside { id, size: mapping.len, offset, len });
        }
        Ok((mapping.addr.saturating_add(offset), len))
    }

    /// The device may no longer access the mapping's memory.
    ///
    /// # Errors
    /// If there is no such mapping.
    pub fn unmap(&mut self, id: u64) -> Result<Mapping, LedgerError> {
        self.mappings.remove(&id).ok_or(LedgerError::Unknown(id))
    }

    /// The first address of a DMA transaction that no live mapping of the device allows, if its driver uses the DMA API.
    #[must_use]
    pub fn rogue(&self, device: u32, transfer: Transfer, addr: u64, len: u64) -> Option<u64> {
        if !self.devices.contains(&device) {
            return None;
        }
        let end = addr.saturating_add(len);
        let mut at = addr;
        while at < end {
            let covering = self.mappings.values().filter(|mapping| {
                mapping.device == device && mapping.direction.allows(transfer) && mapping.addr <= at
            });
            let reach = covering.map(|mapping| mapping.addr.saturating_add(mapping.len)).max();
            match reach {
                Some(reach) if reach > at => at = reach,
                _ => return Some(at),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(addr: u64, len: u64, direction: Direction) -> Mapping {
        Mapping { device: 1, addr, len, direction }
    }

    #[test]
    fn transactions_need_a_mapping_and_its_direction() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.rogue(1, Transfer::Read, 0x100, 4), None);
        ledger.map(5, mapping(0x100, 0x10, Direction::ToDevice)).unwrap();
        ledger.map(6, mapping(0x110, 0x10, Direction::Bidirectional)).unwrap();
        assert_eq!(ledger.rogue(1, Transfer::Read, 0x108, 0x18), None);
        assert_eq!(ledger.rogue(1, Transfer::Read, 0x108, 0x19), Some(0x120));
        assert_eq!(ledger.rogue(1, Transfer::Write, 0x10f, 2), Some(0x10f));
        assert_eq!(ledger.rogue(1, Transfer::Write, 0x110, 2), None);
        assert_eq!(ledger.rogue(2, Transfer::Write, 0x800, 2), None);
        ledger.unmap(6).unwrap();
        assert_eq!(ledger.rogue(1, Transfer::Write, 0x110, 2), Some(0x110));
    }

    #[test]
    fn identities_and_ranges_are_checked() {
        let mut ledger = Ledger::default();
        ledger.map(5, mapping(0x100, 0x10, Direction::Coherent)).unwrap();
        assert_eq!(ledger.map(5, mapping(0, 1, Direction::Coherent)), Err(LedgerError::Exists(5)));
        assert_eq!(ledger.sync(5, None), Ok((0x100, 0x10)));
        assert_eq!(ledger.sync(5, Some((8, 8))), Ok((0x108, 8)));
        assert!(matches!(ledger.sync(5, Some((8, 9))), Err(LedgerError::Outside { .. })));
        assert!(matches!(ledger.sync(5, Some((u64::MAX, 9))), Err(LedgerError::Outside { .. })));
        assert_eq!(ledger.unmap(6), Err(LedgerError::Unknown(6)));
    }
}
