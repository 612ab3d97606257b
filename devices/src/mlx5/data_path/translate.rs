//! From a memory key and an address to where the bytes lie on the bus. Every access is checked before memory is
//! touched: the key's existence, its protection domain, the right, and the bounds.

use crate::dma::What;
use crate::mlx5::hca::Hca;
use crate::mlx5::mkey::{AccessMode, MemoryKey};
use serde::{Deserialize, Serialize};

/// Keyed lists may name keys that are keyed lists again; so deep and no deeper.
const MAX_INDIRECTION: u32 = 4;

/// Access rights of an entry of a page list.
const PAGE_READ: u64 = 1 << 0;
const PAGE_WRITE: u64 = 1 << 1;

/// What is to be done with memory behind a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    LocalRead,
    LocalWrite,
    RemoteRead,
    RemoteWrite,
    RemoteAtomic,
}

impl Right {
    /// What is moved by it.
    pub fn moves(self) -> What {
        match self {
            Self::LocalRead => What::Sent,
            Self::LocalWrite => What::Received,
            Self::RemoteRead => What::RdmaRead,
            Self::RemoteWrite => What::RdmaWrite,
            Self::RemoteAtomic => What::RdmaAtomic,
        }
    }

    fn writes(self) -> bool {
        matches!(self, Self::LocalWrite | Self::RemoteWrite | Self::RemoteAtomic)
    }

    /// The right that a key needs which another key refers to.
    fn of_inner_key(self) -> Self {
        if self.writes() { Self::LocalWrite } else { Self::LocalRead }
    }
}

/// On whose behalf memory is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub qpn: u32,
    /// Its protection domain; none for the driver's queue pair that changes memory keys, which may use any key.
    pub pd: Option<u32>,
}

/// The key does not allow the access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyFault;

/// A run of bytes on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub bus: u64,
    pub len: u64,
    /// Writes may carry Relaxed Ordering.
    pub relaxed: bool,
}

impl MemoryKey {
    /// Whether the key gives `right`.
    pub fn grants(&self, right: Right) -> bool {
        match right {
            Right::LocalRead => self.access.local_read,
            Right::LocalWrite => self.access.local_write,
            Right::RemoteRead => self.access.remote_read,
            Right::RemoteWrite => self.access.remote_write,
            Right::RemoteAtomic => self.access.atomic,
        }
    }

    /// Bytes from the key's start to `address`, if `len` bytes there lie within the key.
    fn offset_of(&self, address: u64, len: u64) -> Result<u64, KeyFault> {
        let offset = address.checked_sub(self.start).ok_or(KeyFault)?;
        if u128::from(offset) + u128::from(len) > self.len {
            return Err(KeyFault);
        }
        Ok(offset)
    }

    /// The page that holds the byte `offset` bytes after the key's start.
    fn page(&self, offset: u64, writes: bool) -> Result<(u64, u64), KeyFault> {
        let page = 1u64 << self.page_shift;
        let position = (self.start & (page - 1)).checked_add(offset).ok_or(KeyFault)?;
        let index = usize::try_from(position >> self.page_shift).map_err(|_| KeyFault)?;
        let entry = *self.translations.get(index).ok_or(KeyFault)?;
        let needed = if writes { PAGE_WRITE } else { PAGE_READ };
        if self.page_access && entry & needed == 0 {
            return Err(KeyFault);
        }
        let within = position & (page - 1);
        let bus = (entry & !0xfff).checked_add(within).ok_or(KeyFault)?;
        Ok((bus, page - within))
    }

    /// The entry of a keyed list that holds the byte `offset` bytes after the key's start: key and address behind it,
    /// and how many bytes of the entry follow.
    fn keyed_entry(&self, offset: u64) -> Result<(u32, u64, u64), KeyFault> {
        let (index, within, left) = if self.mode == AccessMode::FixedKeyedList {
            let size = 1u64.checked_shl(self.page_shift).ok_or(KeyFault)?;
            let within = offset & (size - 1);
            (offset >> self.page_shift, within, size - within)
        } else {
            let index = self.ends.partition_point(|end| *end <= offset);
            let end = *self.ends.get(index).ok_or(KeyFault)?;
            let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
            (index as u64, offset - start, end - offset)
        };
        let (pairs, _) = self.translations.as_chunks::<2>();
        let entry = usize::try_from(index).ok().and_then(|index| pairs.get(index));
        let [count_and_key, address] = *entry.ok_or(KeyFault)?;
        Ok((count_and_key as u32, address.checked_add(within).ok_or(KeyFault)?, left))
    }
}

impl Hca {
    /// The memory key that work requests call `key`, if `holder` may use it at all.
    pub fn usable_key(&self, key: u32, holder: Holder) -> Result<&MemoryKey, KeyFault> {
        let mkey = self.mkeys.get(key >> 8).filter(|mkey| mkey.variant == key as u8 && !mkey.free);
        let mkey = mkey.ok_or(KeyFault)?;
        let wrong_domain = holder.pd.is_some_and(|pd| pd != mkey.pd);
        let wrong_queue = mkey.bound_to.is_some_and(|qpn| qpn != holder.qpn);
        if wrong_domain || wrong_queue { Err(KeyFault) } else { Ok(mkey) }
    }

    /// Checks that `holder` may access `len` bytes at `address` of `key`. Nothing is asked of a key for no bytes.
    pub fn check_key(
        &self,
        holder: Holder,
        key: u32,
        address: u64,
        len: u64,
        right: Right,
    ) -> Result<(), KeyFault> {
        if len == 0 {
            return Ok(());
        }
        let mkey = self.usable_key(key, holder)?;
        mkey.offset_of(address, len)?;
        if mkey.grants(right) { Ok(()) } else { Err(KeyFault) }
    }

    /// Where the first bytes of the `len` (at least 1) at `address` of `key` lie, and how many of them lie together.
    pub fn translate(
        &self,
        holder: Holder,
        key: u32,
        address: u64,
        len: u64,
        right: Right,
    ) -> Result<Piece, KeyFault> {
        let (mut key, mut address, mut len, mut right) = (key, address, len, right);
        let mut relaxed = true;
        for _ in 0..MAX_INDIRECTION {
            let mkey = self.usable_key(key, holder)?;
            if !mkey.grants(right) {
                return Err(KeyFault);
            }
            let offset = mkey.offset_of(address, len)?;
            relaxed &= mkey.relaxed_ordering_write;
            match mkey.mode {
                AccessMode::Physical => return Ok(Piece { bus: address, len, relaxed }),
                AccessMode::PageList => {
                    let (bus, left) = mkey.page(offset, right.writes())?;
                    return Ok(Piece { bus, len: len.min(left), relaxed });
                }
                AccessMode::KeyedList | AccessMode::FixedKeyedList => {
                    let (inner, at, left) = mkey.keyed_entry(offset)?;
                    (key, address, len) = (inner, at, len.min(left));
                    right = right.of_inner_key();
                }
            }
        }
        Err(KeyFault)
    }
}
