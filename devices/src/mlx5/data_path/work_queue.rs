//! Geometry and counters of a work queue: a ring of blocks in the driver's memory, and how far each side has come.

use crate::dma::{DmaAttrs, What};
use crate::mlx5::pages::PageList;
use crate::pci::Port;
use serde::{Deserialize, Serialize};

/// A ring of blocks. Counters run modulo 2 to the power of 16, of which the ring's size is a divisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkQueue {
    /// Byte of the buffer where the ring begins.
    base: u64,
    /// Blocks, as a power of two.
    log_size: u32,
    /// Bytes of a block, as a power of two.
    log_stride: u32,
    /// The next block that the device will use.
    pub head: u16,
    /// The block after the last that the driver has posted, as the device knows it.
    pub producer: u16,
}

/// The queue's memory is out of reach, or the driver says that it has posted more than the queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenQueue;

impl WorkQueue {
    /// An empty ring of 2^`log_size` (at most 2^15) blocks of 2^`log_stride` bytes.
    pub fn new(base: u64, log_size: u32, log_stride: u32) -> Self {
        Self { base, log_size: log_size.min(15), log_stride, head: 0, producer: 0 }
    }

    /// Bytes of a block.
    pub fn stride(&self) -> usize {
        1 << self.log_stride
    }

    /// Index of the last block.
    pub fn mask(&self) -> u16 {
        (1u16 << self.log_size) - 1
    }

    /// Blocks posted and not used.
    pub fn pending(&self) -> u16 {
        self.producer.wrapping_sub(self.head)
    }

    /// Bytes of the ring.
    pub fn len(&self) -> u64 {
        1 << (self.log_size + self.log_stride)
    }

    /// Takes over the driver's counter: the low half of the word at bus address `record`.
    ///
    /// # Errors
    /// [`BrokenQueue`]; the counter is as before.
    pub fn refresh(&mut self, record: u64, port: &mut dyn Port, attrs: DmaAttrs) -> Result<(), BrokenQueue> {
        let mut word = [0; 4];
        let attrs = attrs.to(attrs.purpose.but(What::DoorbellRecord));
        port.read(record, &mut word, attrs).map_err(|_| BrokenQueue)?;
        let producer = u32::from_be_bytes(word) as u16;
        if producer.wrapping_sub(self.head) > 1 << self.log_size {
            return Err(BrokenQueue);
        }
        self.producer = producer;
        Ok(())
    }

    /// Forgets everything posted.
    pub fn reset(&mut self) {
        (self.head, self.producer) = (0, 0);
    }

    /// Reads the block at counter `index` into `block`, which is no longer than a block. Returns whether memory
    /// answered.
    pub fn read(
        &self,
        pages: &PageList,
        index: u16,
        block: &mut [u8],
        port: &mut dyn Port,
        attrs: DmaAttrs,
    ) -> bool {
        let position = self.base + (u64::from(index & self.mask()) << self.log_stride);
        pages.read(position, block, port, attrs)
    }
}
