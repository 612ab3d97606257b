//! Virtio devices on PCI Express (OASIS virtio 1.2, "virtio" in references): modern only.
//!
//! `transport` is the PCI function that all of them share: capabilities, common configuration, interrupts, and when
//! queues are served. A device type (`blk`, `rng`, `console`, `input`) brings its features, its configuration space and
//! what it does with a buffer. `queue` and `buffer` reach guest memory through the function's DMA port only, with
//! virtio-queue's ring code on top of `port_memory`.
//!
//! Everything happens at virtual times that depend on the guest alone: a notification is looked at after
//! [`NOTIFY_LATENCY`], and buffers return after the time that their bytes take. Between two events a queue does a bounded
//! amount of work, however long the buffers are that a guest makes.

mod blk;
mod buffer;
mod common_config;
mod console;
pub mod input;
mod port_memory;
mod queue;
mod rng;
mod transport;

pub use blk::{Blk, BlkConfig, MAX_QUEUES, SECTOR_SIZE};
pub use console::{Console, INPUT_DELAY};
pub use input::{Input, InputKind};
pub use rng::Rng;
pub use transport::{NOTIFY_LATENCY, VirtioPci};

use crate::bus::Nanos;
use crate::dma::{DmaAttrs, Purpose};
use crate::pci::Port;
use crate::state::State;
use buffer::Buffer;
use queue::QueueError;
use std::fmt;

/// Attributes of every transaction, but for payload that is not snooped: snooped and strongly ordered.
const ATTRS: DmaAttrs = DmaAttrs { no_snoop: false, relaxed_ordering: false, purpose: Purpose::from_bits(0) };

/// How far a device has come with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is done with.
    Done,
    /// There is more to do: it wants to be asked again.
    More,
}

/// A bit of a feature set.
const fn feature(bit: u32) -> u64 {
    1 << bit
}

/// What makes a device of one type.
pub trait DeviceType: State + fmt::Debug + Clone + Send + 'static {
    /// Name for logs and reports.
    const NAME: &'static str;
    /// Device ID (virtio, 5).
    const ID: u32;
    /// PCI class code, 0xBBSSPP.
    const CLASS: u32;

    /// Number of queues.
    fn queues(&self) -> u16;

    /// Features of the type, bits 0-23 and 50 up.
    fn features(&self) -> u64 {
        0
    }

    /// Content of the device-specific configuration space.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The driver's write to the device-specific configuration space, inside of it.
    fn write_config(&mut self, _offset: usize, _data: &[u8], _port: &mut dyn Port) {}

    /// The driver has set DRIVER_OK with these features.
    fn start(&mut self, _features: u64, _now: Nanos) {}

    /// Whether the device would use a buffer of `queue` now; one that receives leaves buffers where they are until it
    /// has something for them.
    fn wants(&self, _queue: u16, _now: Nanos) -> bool {
        true
    }

    /// When [`Self::wants`] will say something else by itself: the queue to look at, and the time.
    fn next_event(&self) -> Option<(u16, Nanos)> {
        None
    }

    /// Works at a buffer of `queue`, moving at most some 64 KiB.
    ///
    /// # Errors
    /// [`QueueError`] if the driver has broken the rules so that the device needs a reset.
    fn serve(&mut self, queue: u16, buffer: &mut Buffer, port: &mut dyn Port) -> Result<Step, QueueError>;

    /// Forgets what was begun on `queue`.
    fn reset_queue(&mut self, _queue: u16) {}

    /// Chance has a new seed from here on.
    fn reseed(&mut self, _seed: u64) {}

    /// Back to the state after power-on, by the driver or the bus.
    fn reset(&mut self) {}
}
