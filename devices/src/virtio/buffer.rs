//! A buffer that the driver has made available: what the device may read, then what it may write.

use super::ATTRS;
use crate::dma::{DmaAttrs, DmaError};
use crate::pci::Port;
use serde::{Deserialize, Serialize};

/// Part of a buffer, contiguous in I/O virtual addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub address: u64,
    pub length: u32,
}

/// An access to a buffer did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BufferError {
    #[error("the buffer ends too early")]
    TooShort,
    #[error(transparent)]
    Dma(#[from] DmaError),
}

/// Segments, and how far they have been used.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cursor {
    segments: Vec<Segment>,
    /// Bytes in all segments.
    total: u64,
    /// Segment, and bytes of it, at which the next access begins.
    index: usize,
    offset: u32,
    /// Bytes before that.
    done: u64,
}

impl Cursor {
    fn new(segments: Vec<Segment>) -> Self {
        let total = segments.iter().map(|segment| u64::from(segment.length)).sum();
        Self { segments, total, index: 0, offset: 0, done: 0 }
    }

    fn is_in_range(&self) -> bool {
        self.total == Self::new(self.segments.clone()).total && self.done <= self.total
    }

    /// Address and length of the next piece of at most `wanted` bytes, and steps over it.
    fn advance(&mut self, wanted: usize) -> Option<(u64, usize)> {
        loop {
            let segment = self.segments.get(self.index)?;
            let left = segment.length.saturating_sub(self.offset);
            if left == 0 {
                (self.index, self.offset) = (self.index + 1, 0);
                continue;
            }
            let length = left.min(u32::try_from(wanted).unwrap_or(u32::MAX));
            let address = segment.address.wrapping_add(u64::from(self.offset));
            self.offset += length;
            self.done += u64::from(length);
            return Some((address, length as usize));
        }
    }
}

/// A buffer with the device's position in it. Its descriptors were copied when it was taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Buffer {
    head: u16,
    readable: Cursor,
    writable: Cursor,
    /// Bytes written from the start without a gap.
    written: u64,
    /// Bytes read and written.
    moved: u64,
    /// Its transactions ask for PCIe No Snoop.
    no_snoop: bool,
}

impl Buffer {
    pub(super) fn new(head: u16, readable: Vec<Segment>, writable: Vec<Segment>, no_snoop: bool) -> Self {
        let (readable, writable) = (Cursor::new(readable), Cursor::new(writable));
        Self { head, readable, writable, written: 0, moved: 0, no_snoop }
    }

    fn attrs(&self) -> DmaAttrs {
        DmaAttrs { no_snoop: self.no_snoop, ..ATTRS }
    }

    /// Whether the positions lie within the segments.
    pub(super) fn is_in_range(&self) -> bool {
        [&self.readable, &self.writable].into_iter().all(Cursor::is_in_range)
    }

    /// The index by which the driver knows the buffer.
    pub(super) fn head(&self) -> u16 {
        self.head
    }

    /// Bytes still to be read.
    pub(super) fn readable(&self) -> u64 {
        self.readable.total - self.readable.done
    }

    /// Bytes that can still be written.
    pub(super) fn writable(&self) -> u64 {
        self.writable.total - self.writable.done
    }

    /// Bytes read and written so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Bytes written from the start on, as the driver is told.
    pub(super) fn written(&self) -> u32 {
        u32::try_from(self.written).unwrap_or(u32::MAX)
    }

    /// Reads the next `data.len()` bytes.
    ///
    /// # Errors
    /// [`BufferError`] if there are not so many, or memory does not answer.
    pub(super) fn read(&mut self, port: &mut dyn Port, data: &mut [u8]) -> Result<(), BufferError> {
        if (data.len() as u64) > self.readable() {
            return Err(BufferError::TooShort);
        }
        let mut left = data;
        while !left.is_empty() {
            let (address, length) = self.readable.advance(left.len()).ok_or(BufferError::TooShort)?;
            let (part, rest) = left.split_at_mut(length);
            port.read(address, part, self.attrs())?;
            self.moved += length as u64;
            left = rest;
        }
        Ok(())
    }

    /// Writes the next `data.len()` bytes.
    ///
    /// # Errors
    /// [`BufferError`] if there is no room for them, or memory does not answer.
    pub(super) fn write(&mut self, port: &mut dyn Port, data: &[u8]) -> Result<(), BufferError> {
        if (data.len() as u64) > self.writable() {
            return Err(BufferError::TooShort);
        }
        let mut left = data;
        while !left.is_empty() {
            let (address, length) = self.writable.advance(left.len()).ok_or(BufferError::TooShort)?;
            let (part, rest) = left.split_at(length);
            port.write(address, part, self.attrs())?;
            self.written += length as u64;
            self.moved += length as u64;
            left = rest;
        }
        Ok(())
    }

    /// Writes the last byte of the buffer and ends it, whatever is before.
    ///
    /// # Errors
    /// [`BufferError`] if there is none, or memory does not answer.
    pub(super) fn write_last(&mut self, port: &mut dyn Port, byte: u8) -> Result<(), BufferError> {
        let last = self.writable.segments.iter().rev().find(|segment| segment.length != 0);
        let last = last.ok_or(BufferError::TooShort)?;
        port.write(last.address.wrapping_add(u64::from(last.length - 1)), &[byte], self.attrs())?;
        self.moved += 1;
        if self.written + 1 == self.writable.total {
            self.written += 1;
        }
        self.writable.done = self.writable.total;
        self.writable.index = self.writable.segments.len();
        Ok(())
    }
}
