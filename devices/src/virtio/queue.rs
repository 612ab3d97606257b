//! A split virtqueue (virtio 1.2, 2.7), walked by virtio-queue through the function's DMA port.

use super::buffer::{Buffer, Segment};
use super::port_memory::{PortMemory, staging_size};
use crate::dma::DmaError;
use crate::pci::Port;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// Descriptors that a queue can have.
pub(super) const MAX_SIZE: u16 = 256;
/// Longest chain of descriptors that is followed: with an indirect table it may be longer than the queue.
pub(super) const MAX_CHAIN: usize = 258;
/// No interrupt vector (virtio 1.2, 4.1.4.3).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// What the driver has done to make a queue unusable until the device is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The ring itself cannot be reached.
    #[error("the ring cannot be reached: {0}")]
    Dma(#[from] DmaError),
    #[error("the available index is impossible")]
    BadIndex,
    #[error("descriptor chain {0} is empty, endless, too long or leads out of its table")]
    BadChain(u16),
    #[error("descriptor chain {0} has a device-readable descriptor behind a device-writable one")]
    BadOrder(u16),
    #[error("the parts of the ring are not at their alignment")]
    Misaligned,
    #[error("buffer {0} has no room for the request's status")]
    NoStatus(u16),
}

/// The fields of [`QueueState`], for serde.
#[derive(Serialize, Deserialize)]
#[serde(remote = "QueueState")]
struct RingState {
    max_size: u16,
    next_avail: u16,
    next_used: u16,
    event_idx_enabled: bool,
    size: u16,
    ready: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

/// A queue: plain data. The ring code of virtio-queue is made from it for each use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct VirtQueue {
    #[serde(with = "RingState")]
    pub state: QueueState,
    /// MSI-X vector, or [`NO_VECTOR`].
    pub vector: u16,
    /// The buffer being worked at.
    pub current: Option<Buffer>,
    /// Heads of buffers that are done with, and the bytes written to each: returned when their time has come.
    pub finished: Vec<(u16, u32)>,
    /// An event for this queue is pending.
    pub scheduled: bool,
}

impl Default for VirtQueue {
    fn default() -> Self {
        let state = QueueState { max_size: MAX_SIZE, size: MAX_SIZE, ..QueueState::default() };
        Self { state, vector: NO_VECTOR, current: None, finished: Vec::new(), scheduled: false }
    }
}

impl VirtQueue {
    /// Whether a queue can have come to this state.
    pub fn is_in_range(&self) -> bool {
        self.state.max_size == MAX_SIZE
            && self.finished.len() <= MAX_BATCH
            && self.current.as_ref().is_none_or(Buffer::is_in_range)
    }

    /// Runs `work` on the ring. `accesses` is the most transactions it makes, of 16 bytes at most each.
    fn with_ring<T, const STAGING: usize>(
        &mut self,
        port: &mut dyn Port,
        work: impl FnOnce(&mut Queue, &PortMemory<'_>) -> Result<T, virtio_queue::Error>,
    ) -> Result<T, QueueError> {
        let mut queue = Queue::try_from(self.state).map_err(|_| QueueError::BadIndex)?;
        let mut staging = [0; STAGING];
        let memory = PortMemory::new(port, &mut staging);
        let result = work(&mut queue, &memory);
        memory.finish()?;
        self.state = queue.state();
        result.map_err(|_| QueueError::BadIndex)
    }

    /// Takes the next available buffer, with a copy of its descriptors. With `no_snoop` what is moved to and from it asks for
    /// PCIe No Snoop; the ring never does.
    ///
    /// # Errors
    /// [`QueueError`] if there is none because the driver broke the rules.
    pub fn take(&mut self, port: &mut dyn Port, no_snoop: bool) -> Result<Option<Buffer>, QueueError> {
        const ACCESSES: usize = MAX_CHAIN + 8;
        self.with_ring::<_, { staging_size(ACCESSES) }>(port, |queue, memory| {
            let Some(mut chain) = queue.iter(memory)?.next() else { return Ok(None) };
            let head = chain.head_index();
            let (mut readable, mut writable) = (Vec::new(), Vec::new());
            loop {
                // The chain's iterator ends as silently at a fault as at the end: the last descriptor tells.
                let Some(descriptor) = chain.next() else { return Ok(Some(Err(QueueError::BadChain(head)))) };
                let segment = Segment { address: descriptor.addr().0, length: descriptor.len() };
                if descriptor.is_write_only() {
                    writable.push(segment);
                } else if writable.is_empty() {
                    readable.push(segment);
                } else {
                    return Ok(Some(Err(QueueError::BadOrder(head))));
                }
                if !descriptor.has_next() {
                    return Ok(Some(Ok(Buffer::new(head, readable, writable, no_snoop))));
                }
                if readable.len() + writable.len() >= MAX_CHAIN {
                    return Ok(Some(Err(QueueError::BadChain(head))));
                }
            }
        })?
        .transpose()
    }

    /// Gives the finished buffers back to the driver; returns whether it wants an interrupt for that.
    ///
    /// # Errors
    /// [`QueueError`] if the ring cannot be reached.
    pub fn return_finished(&mut self, port: &mut dyn Port) -> Result<bool, QueueError> {
        let finished = std::mem::take(&mut self.finished);
        if finished.is_empty() {
            return Ok(false);
        }
        self.with_ring::<_, { staging_size(2 * MAX_BATCH + 2) }>(port, |queue, memory| {
            for &(head, length) in &finished {
                queue.add_used(memory, head, length)?;
            }
            // virtio-queue does not look at the flag that stands for the event index where that is not negotiated.
            if !queue.event_idx_enabled() {
                let flags: u16 = memory
                    .load(GuestAddress(queue.avail_ring()), Ordering::Relaxed)
                    .map_err(virtio_queue::Error::GuestMemory)?;
                return Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0);
            }
            queue.needs_notification(memory)
        })
    }

    /// Asks the driver to notify of the next buffer; returns whether there is one already.
    ///
    /// # Errors
    /// [`QueueError`] if the ring cannot be reached.
    pub fn enable_notification(&mut self, port: &mut dyn Port) -> Result<bool, QueueError> {
        self.with_ring::<_, { staging_size(4) }>(port, |queue, memory| queue.enable_notification(memory))
    }
}

/// Most buffers that are finished at a time.
pub(super) const MAX_BATCH: usize = 64;
