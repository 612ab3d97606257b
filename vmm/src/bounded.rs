//! A buffer for a guest's output.

use std::io::{self, Write};

/// Keeps what is written, up to a limit: a guest cannot make it grow for ever.
#[derive(Debug, Default)]
pub(crate) struct Bounded {
    pub bytes: Vec<u8>,
    /// More was written than is kept.
    pub overflowed: bool,
}

impl Bounded {
    /// Bytes kept.
    pub const LIMIT: usize = 16 << 20;
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = Self::LIMIT.saturating_sub(self.bytes.len());
        self.overflowed |= bytes.len() > room;
        self.bytes.extend(bytes.iter().take(room));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
