//! What stands between those who access memory and RAM: the memory hook, with two users, the cache's model, which makes each
//! operation, and the recorder, which writes it down.

use cache_model::{CacheModel, Memory, MemoryType, OutOfRange, Snoop, Writer};
use std::ops::Range;

/// One operation on memory. What is read goes to `data`.
#[derive(Debug)]
pub enum Operation<'a> {
    Load {
        address: u64,
        data: &'a mut [u8],
        kind: MemoryType,
    },
    Store {
        address: u64,
        data: &'a [u8],
        kind: MemoryType,
    },
    Fetch {
        address: u64,
        length: usize,
        kind: MemoryType,
    },
    DmaRead {
        address: u64,
        data: &'a mut [u8],
        snoop: Snoop,
    },
    DmaWrite {
        address: u64,
        data: &'a [u8],
        snoop: Snoop,
    },
    /// Writes back and invalidates the line that holds the address.
    Flush(u64),
    /// The same, weakly ordered: complete at the next fence.
    FlushWeakly(u64),
    /// Writes back the line that holds the address, weakly ordered.
    CleanWeakly(u64),
    FlushAll,
    InvalidateAll,
    Fence(u32),
    /// Weakly ordered stores complete, flushes need not.
    Drain(u32),
}

impl Operation<'_> {
    /// Address and length of what it reads or writes; an operation on lines or the whole cache has none.
    #[must_use]
    pub fn range(&self) -> Option<(u64, usize)> {
        match self {
            Self::Load { address, data, .. } | Self::DmaRead { address, data, .. } => {
                Some((*address, data.len()))
            }
            Self::Store { address, data, .. } | Self::DmaWrite { address, data, .. } => {
                Some((*address, data.len()))
            }
            Self::Fetch { address, length, .. } => Some((*address, *length)),
            Self::Flush(_)
            | Self::FlushWeakly(_)
            | Self::CleanWeakly(_)
            | Self::FlushAll
            | Self::InvalidateAll
            | Self::Fence(_)
            | Self::Drain(_) => None,
        }
    }

    /// The part of it from `at` on that has these of its bytes; all of one that has no [`Operation::range`].
    pub fn part(&mut self, at: u64, bytes: Range<usize>) -> Operation<'_> {
        match self {
            Self::Load { data, kind, .. } => {
                Operation::Load { address: at, data: data.get_mut(bytes).unwrap_or_default(), kind: *kind }
            }
            Self::Store { data, kind, .. } => {
                Operation::Store { address: at, data: data.get(bytes).unwrap_or_default(), kind: *kind }
            }
            Self::Fetch { kind, .. } => Operation::Fetch { address: at, length: bytes.len(), kind: *kind },
            Self::DmaRead { data, snoop, .. } => Operation::DmaRead {
                address: at,
                data: data.get_mut(bytes).unwrap_or_default(),
                snoop: *snoop,
            },
            Self::DmaWrite { data, snoop, .. } => {
                Operation::DmaWrite { address: at, data: data.get(bytes).unwrap_or_default(), snoop: *snoop }
            }
            Self::Flush(address) => Operation::Flush(*address),
            Self::FlushWeakly(address) => Operation::FlushWeakly(*address),
            Self::CleanWeakly(address) => Operation::CleanWeakly(*address),
            Self::FlushAll => Operation::FlushAll,
            Self::InvalidateAll => Operation::InvalidateAll,
            Self::Fence(cpu) => Operation::Fence(*cpu),
            Self::Drain(cpu) => Operation::Drain(*cpu),
        }
    }
}

/// Is shown every operation on memory, in order.
pub trait MemoryHook {
    /// `by` does `operation`.
    ///
    /// # Errors
    /// If a line of it is not RAM: then nothing has happened.
    fn operate<M: Memory>(
        &mut self,
        memory: &mut M,
        by: Writer,
        operation: &mut Operation<'_>,
    ) -> Result<(), OutOfRange>;
}

impl MemoryHook for CacheModel {
    #[inline]
    fn operate<M: Memory>(
        &mut self,
        memory: &mut M,
        by: Writer,
        operation: &mut Operation<'_>,
    ) -> Result<(), OutOfRange> {
        match operation {
            Operation::Load { address, data, kind } => self.load(memory, by, *address, data, *kind),
            Operation::Store { address, data, kind } => self.store(memory, by, *address, data, *kind),
            Operation::Fetch { address, length, kind } => self.fetch(memory, by, *address, *length, *kind),
            Operation::DmaRead { address, data, snoop } => self.dma_read(memory, by, *address, data, *snoop),
            Operation::DmaWrite { address, data, snoop } => {
                self.dma_write(memory, by, *address, data, *snoop)
            }
            Operation::Flush(address) => self.flush(memory, by, *address, 1),
            Operation::FlushWeakly(address) => self.flush_weakly(memory, by, *address, 1),
            Operation::CleanWeakly(address) => self.clean_weakly(memory, by, *address, 1),
            Operation::FlushAll => self.write_back_invalidate_all(memory, by),
            Operation::InvalidateAll => self.invalidate_all(memory, by),
            Operation::Fence(cpu) => {
                self.fence(*cpu);
                Ok(())
            }
            Operation::Drain(cpu) => {
                self.drain(*cpu);
                Ok(())
            }
        }
    }
}
