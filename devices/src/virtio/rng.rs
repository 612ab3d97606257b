//! The entropy device (virtio 1.2, 5.4): random bytes from a seed.

use super::buffer::Buffer;
use super::queue::QueueError;
use super::{DeviceType, Step};
use crate::pci::Port;
use crate::random::Random;
use crate::state::State;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

/// Bytes that a buffer gets at most; a device need not fill it.
const MOST: u64 = 4096;

/// A source of random bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rng {
    seed: u64,
    random: Random,
}

impl Rng {
    /// A source that `seed` alone decides.
    pub fn new(seed: u64) -> Self {
        Self { seed, random: Random::new(seed) }
    }
}

impl State for Rng {}

impl DeviceType for Rng {
    const NAME: &'static str = "virtio-rng";
    const ID: u32 = VIRTIO_ID_RNG;
    const CLASS: u32 = 0xff_00_00;

    fn queues(&self) -> u16 {
        1
    }

    fn serve(&mut self, _queue: u16, buffer: &mut Buffer, port: &mut dyn Port) -> Result<Step, QueueError> {
        let mut data = vec![0; buffer.writable().min(MOST) as usize];
        for chunk in data.chunks_mut(8) {
            chunk
                .copy_from_slice(self.random.next_u64().to_le_bytes().get(..chunk.len()).unwrap_or_default());
        }
        if let Err(error) = buffer.write(port, &data) {
            log::debug!("{}: request failed: {error}", Self::NAME);
        }
        Ok(Step::Done)
    }

    fn reseed(&mut self, seed: u64) {
        *self = Self::new(seed);
    }

    fn reset(&mut self) {
        *self = Self::new(self.seed);
    }
}
