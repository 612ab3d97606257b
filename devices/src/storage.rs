//! What a disk keeps its data in: the machine's, lent to the device for a call.

use std::fmt;
use std::io;

/// Bytes at fixed offsets that outlive the machine. Accesses past the end fail.
pub trait Storage: fmt::Debug + Send {
    /// Reads all of `data` at `offset`.
    ///
    /// # Errors
    /// The host's reason; what `data` holds then is unspecified.
    fn read(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// The host's reason; a part may have been written.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes `length` bytes at `offset` read as zero, giving the space back to the host if `deallocate` is set and the
    /// host can.
    ///
    /// # Errors
    /// The host's reason; a part may have been done.
    fn zero(&mut self, offset: u64, length: u64, deallocate: bool) -> io::Result<()>;
    /// Returns once what has been written would survive a loss of power of the host.
    ///
    /// # Errors
    /// The host's reason; how much would survive is unknown.
    fn flush(&mut self) -> io::Result<()>;
}
