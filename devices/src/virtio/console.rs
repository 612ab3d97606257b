//! The console device (virtio 1.2, 5.3): one port, hvc0 in Linux.

use super::buffer::Buffer;
use super::queue::QueueError;
use super::{DeviceType, Step, feature};
use crate::bus::Nanos;
use crate::pci::Port;
use crate::state::State;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

/// Feature bit: the emergency write register exists.
const F_EMERGENCY_WRITE: u32 = 2;
/// The register's place in the configuration space: columns, rows and the number of ports are before it.
const EMERGENCY_WRITE: usize = 8;
const CONFIG_SIZE: usize = 12;

const RECEIVE: u16 = 0;
/// Bytes moved in one step.
const CHUNK: u64 = 4096;
/// From the driver's start to the first input: Linux throws away what comes before it has set its port up.
pub const INPUT_DELAY: Nanos = 1_000_000_000;

/// A console. What the guest writes goes to the port's output; what it reads was given before it started, and what it has
/// read does not come again after a reset.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Console {
    input: Vec<u8>,
    /// How much of the input the guest has.
    given: usize,
    /// When input begins, once the driver is there.
    input_from: Option<Nanos>,
}

impl Console {
    /// A console on which `input` waits to be read.
    pub fn new(input: Vec<u8>) -> Self {
        Self { input, given: 0, input_from: None }
    }

    fn waiting(&self) -> &[u8] {
        self.input.get(self.given..).unwrap_or_default()
    }

    fn receive(&mut self, buffer: &mut Buffer, port: &mut dyn Port) {
        let length = buffer.writable().min(CHUNK) as usize;
        let data = self.waiting();
        let data = data.get(..length).unwrap_or(data);
        match buffer.write(port, data) {
            Ok(()) => self.given += data.len(),
            Err(error) => log::debug!("{}: input not delivered: {error}", Self::NAME),
        }
    }

    fn transmit(buffer: &mut Buffer, port: &mut dyn Port) -> Step {
        let mut data = vec![0; buffer.readable().min(CHUNK) as usize];
        match buffer.read(port, &mut data) {
            Ok(()) => port.output(&data),
            Err(error) => {
                log::debug!("{}: output lost: {error}", Self::NAME);
                return Step::Done;
            }
        }
        if buffer.readable() == 0 { Step::Done } else { Step::More }
    }
}

/// The input is all saved: the file that it came from may have changed.
impl State for Console {}

impl DeviceType for Console {
    const NAME: &'static str = "virtio-console";
    const ID: u32 = VIRTIO_ID_CONSOLE;
    const CLASS: u32 = 0x07_80_00;

    fn queues(&self) -> u16 {
        2
    }

    fn features(&self) -> u64 {
        feature(F_EMERGENCY_WRITE)
    }

    fn config(&self) -> Vec<u8> {
        vec![0; CONFIG_SIZE]
    }

    fn write_config(&mut self, offset: usize, data: &[u8], port: &mut dyn Port) {
        if let (EMERGENCY_WRITE, Some(&byte)) = (offset, data.first()) {
            port.output(&[byte]);
        }
    }

    fn start(&mut self, _features: u64, now: Nanos) {
        self.input_from = Some(now.saturating_add(INPUT_DELAY));
    }

    fn wants(&self, queue: u16, now: Nanos) -> bool {
        queue != RECEIVE || self.next_event().is_some_and(|(_, at)| at <= now)
    }

    fn next_event(&self) -> Option<(u16, Nanos)> {
        if self.waiting().is_empty() { None } else { self.input_from.map(|at| (RECEIVE, at)) }
    }

    fn serve(&mut self, queue: u16, buffer: &mut Buffer, port: &mut dyn Port) -> Result<Step, QueueError> {
        if queue == RECEIVE {
            self.receive(buffer, port);
            return Ok(Step::Done);
        }
        Ok(Self::transmit(buffer, port))
    }
}
