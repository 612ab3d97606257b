//! The CPU's view of memory, which the embedder owns.

use thiserror::Error;

/// An access does not lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{len} bytes at {addr:#x} are outside memory")]
pub struct OutOfRange {
    /// Address of the first byte.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
}

/// Memory as the CPU sees it: for a resident line what the cache holds, for any other what RAM holds.
///
/// The model changes it not only for CPU stores but also when a line leaves the cache and RAM's bytes come to light;
/// an embedder that caches decoded instructions drops them in [`Memory::write`].
pub trait Memory {
    /// True if all of `addr .. addr + len` is memory. The model asks this of whole lines before any access.
    fn covers(&self, addr: u64, len: u64) -> bool;

    /// Reads `buf.len()` bytes.
    ///
    /// # Errors
    /// If the range is not memory.
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), OutOfRange>;

    /// Writes `data`.
    ///
    /// # Errors
    /// If the range is not memory; nothing is written then.
    fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), OutOfRange>;

    /// True if a CPU may bring in the line at `addr` speculatively: it has a cacheable translation that a CPU has used since it
    /// last dropped it. Only an adversarial schedule asks.
    fn may_speculate(&self, _addr: u64) -> bool {
        true
    }

    /// False if no cache can hold the line at `addr`, should the model's not: it has been flushed, and neither then nor since has
    /// there been a translation by which a CPU could have brought it in again. RAM can then be written past the caches.
    fn may_be_cached(&self, _addr: u64) -> bool {
        true
    }
}

/// Memory from address zero on.
impl Memory for [u8] {
    fn covers(&self, addr: u64, len: u64) -> bool {
        addr.checked_add(len).is_some_and(|end| end <= self.len() as u64)
    }

    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), OutOfRange> {
        let missing = OutOfRange { addr, len: buf.len() as u64 };
        let start = usize::try_from(addr).map_err(|_| missing)?;
        let end = start.checked_add(buf.len()).ok_or(missing)?;
        buf.copy_from_slice(self.get(start..end).ok_or(missing)?);
        Ok(())
    }

    fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), OutOfRange> {
        let missing = OutOfRange { addr, len: data.len() as u64 };
        let start = usize::try_from(addr).map_err(|_| missing)?;
        let end = start.checked_add(data.len()).ok_or(missing)?;
        self.get_mut(start..end).ok_or(missing)?.copy_from_slice(data);
        Ok(())
    }
}
