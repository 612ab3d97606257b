//! The input device (virtio 1.2, 5.8): a keyboard or a tablet that plays a script.

mod script;

pub use script::{Script, ScriptError};

use super::buffer::Buffer;
use super::queue::QueueError;
use super::{DeviceType, Step};
use crate::bus::Nanos;
use crate::pci::Port;
use crate::state::{State, same};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_INPUT;
use virtio_bindings::virtio_input::{
    virtio_input_config_select_VIRTIO_INPUT_CFG_ABS_INFO as ABS_INFO,
    virtio_input_config_select_VIRTIO_INPUT_CFG_EV_BITS as EV_BITS,
    virtio_input_config_select_VIRTIO_INPUT_CFG_ID_DEVIDS as ID_DEVIDS,
    virtio_input_config_select_VIRTIO_INPUT_CFG_ID_NAME as ID_NAME,
    virtio_input_config_select_VIRTIO_INPUT_CFG_PROP_BITS as PROP_BITS,
};

/// Types and codes of events (Linux, input-event-codes.h).
const EV_SYN: u16 = 0x00;
const EV_KEY: u16 = 0x01;
const EV_ABS: u16 = 0x03;
const EV_LED: u16 = 0x11;
const EV_REP: u16 = 0x14;
const ABS_X: u16 = 0;
const ABS_Y: u16 = 1;
/// First code of a mouse's buttons.
const BTN_MOUSE: u16 = 0x110;
/// Largest position on an axis of the tablet.
const ABS_MAX: u32 = 0x7fff;

/// The bus type of devices that are not on a real one.
const BUS_VIRTUAL: u16 = 0x06;
const VENDOR: u16 = 0x1af4;

/// The queue on which events go to the driver. The other carries LED states to the device.
const EVENTS: u16 = 0;
/// Configuration space: select, subsel, size, 5 reserved bytes, and what is selected.
const SELECT: usize = 0;
const SUBSEL: usize = 1;
const PAYLOAD: usize = 128;
/// Bytes taken of a status buffer.
const STATUS_SIZE: u64 = 8;

/// What the driver is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub kind: u16,
    pub code: u16,
    pub value: u32,
}

impl Event {
    /// The end of what happens at once.
    const SYNC: Self = Self { kind: EV_SYN, code: 0, value: 0 };

    /// The structure of virtio 1.2, 5.8.6.
    fn to_bytes(self) -> [u8; 8] {
        let ([a, b], [c, d], [e, f, g, h]) =
            (self.kind.to_le_bytes(), self.code.to_le_bytes(), self.value.to_le_bytes());
        [a, b, c, d, e, f, g, h]
    }
}

/// What kind of input device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum InputKind {
    #[default]
    Keyboard,
    /// Absolute positions and three buttons.
    Tablet,
}

/// An input device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    kind: InputKind,
    script: Script,
    /// When the driver started the device: the script's times count from there.
    started: Option<Nanos>,
    /// Events delivered.
    delivered: usize,
    select: u8,
    subsel: u8,
}

impl Input {
    /// A device of `kind` that plays `script` once its driver is there.
    pub fn new(kind: InputKind, script: Script) -> Self {
        Self { kind, script, started: None, delivered: 0, select: 0, subsel: 0 }
    }

    /// The event to deliver next, and when.
    fn upcoming(&self) -> Option<(Nanos, Event)> {
        let (after, event) = self.script.events.get(self.delivered)?;
        Some((self.started?.saturating_add(*after), *event))
    }

    /// What the configuration space shows for what is selected.
    fn selected(&self) -> Vec<u8> {
        let words = |words: &[u16]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let (name, product) = match self.kind {
            InputKind::Keyboard => ("Staleline keyboard", 1),
            InputKind::Tablet => ("Staleline tablet", 2),
        };
        match (self.select.into(), self.subsel) {
            (ID_NAME, 0) => name.into(),
            (ID_DEVIDS, 0) => words(&[BUS_VIRTUAL, VENDOR, product, 1]),
            // INPUT_PROP_POINTER: the tablet moves a pointer.
            (PROP_BITS, 0) if self.kind == InputKind::Tablet => vec![1],
            (EV_BITS, kind) => self.event_bits(kind.into()),
            (ABS_INFO, axis) if self.kind == InputKind::Tablet && u16::from(axis) <= ABS_Y => {
                // Least and greatest value, fuzz, flat, resolution.
                [0, ABS_MAX, 0, 0, 0].iter().flat_map(|value: &u32| value.to_le_bytes()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Bitmap of the codes that events of type `kind` can have.
    fn event_bits(&self, kind: u16) -> Vec<u8> {
        match (self.kind, kind) {
            (kind, EV_KEY) => {
                let is_button = kind == InputKind::Tablet;
                bitmap(script::keys().map(|(_, code)| code).filter(|&code| (code >= BTN_MOUSE) == is_button))
            }
            (InputKind::Keyboard, EV_LED) => bitmap(0..3),
            (InputKind::Keyboard, EV_REP) => bitmap(0..2),
            (InputKind::Tablet, EV_ABS) => bitmap([ABS_X, ABS_Y].into_iter()),
            _ => Vec::new(),
        }
    }
}

fn bitmap(codes: impl Iterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for code in codes {
        let index = usize::from(code / 8);
        if bytes.len() <= index {
            bytes.resize(index + 1, 0);
        }
        if let Some(byte) = bytes.get_mut(index) {
            *byte |= 1 << (code % 8);
        }
    }
    bytes
}

/// The script is all saved: the file that it came from may have changed.
impl State for Input {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same(self.kind == saved.kind)
    }
}

impl DeviceType for Input {
    const NAME: &'static str = "virtio-input";
    const ID: u32 = VIRTIO_ID_INPUT;
    const CLASS: u32 = 0x09_80_00;

    fn queues(&self) -> u16 {
        2
    }

    fn config(&self) -> Vec<u8> {
        let mut payload = self.selected();
        payload.truncate(PAYLOAD);
        let mut bytes = vec![self.select, self.subsel, payload.len() as u8, 0, 0, 0, 0, 0];
        payload.resize(PAYLOAD, 0);
        bytes.append(&mut payload);
        bytes
    }

    fn write_config(&mut self, offset: usize, data: &[u8], _port: &mut dyn Port) {
        for (at, &byte) in (offset..).zip(data) {
            match at {
                SELECT => self.select = byte,
                SUBSEL => self.subsel = byte,
                _ => {}
            }
        }
    }

    fn start(&mut self, _features: u64, now: Nanos) {
        self.started = Some(now);
    }

    fn wants(&self, queue: u16, now: Nanos) -> bool {
        queue != EVENTS || self.upcoming().is_some_and(|(at, _)| at <= now)
    }

    fn next_event(&self) -> Option<(u16, Nanos)> {
        self.upcoming().map(|(at, _)| (EVENTS, at))
    }

    fn serve(&mut self, queue: u16, buffer: &mut Buffer, port: &mut dyn Port) -> Result<Step, QueueError> {
        let result = if queue == EVENTS {
            let event = self.upcoming().map_or(Event::SYNC, |(_, event)| event);
            buffer.write(port, &event.to_bytes()).map(|()| self.delivered += 1)
        } else {
            let mut status = vec![0; buffer.readable().min(STATUS_SIZE) as usize];
            buffer.read(port, &mut status)
        };
        if let Err(error) = result {
            log::debug!("{}: buffer not used: {error}", Self::NAME);
        }
        Ok(Step::Done)
    }

    fn reset(&mut self) {
        *self = Self::new(self.kind, std::mem::take(&mut self.script));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(kind: InputKind, select: u32, subsel: u16) -> Vec<u8> {
        let mut input = Input::new(kind, Script::default());
        (input.select, input.subsel) = (select as u8, subsel as u8);
        let config = input.config();
        assert_eq!(config.len(), 136);
        config[8..8 + usize::from(config[2])].to_vec()
    }

    #[test]
    fn configuration_shows_what_is_selected() {
        assert_eq!(selected(InputKind::Keyboard, ID_NAME, 0), b"Staleline keyboard");
        assert_eq!(selected(InputKind::Tablet, ID_DEVIDS, 0), [6, 0, 0xf4, 0x1a, 2, 0, 1, 0]);
        let keys = selected(InputKind::Keyboard, EV_BITS, EV_KEY);
        assert_eq!((keys.len(), keys[0], keys[3] & 0x40), (16, 0xfe, 0x40), "ESC to 6, and A");
        let buttons = selected(InputKind::Tablet, EV_BITS, EV_KEY);
        assert_eq!((buttons.len(), buttons[34]), (35, 7));
        assert_eq!(selected(InputKind::Tablet, EV_BITS, EV_ABS), [3]);
        assert_eq!(selected(InputKind::Tablet, ABS_INFO, ABS_Y)[4..8], [0xff, 0x7f, 0, 0]);
        assert!(selected(InputKind::Keyboard, ABS_INFO, ABS_Y).is_empty());
        assert!(selected(InputKind::Keyboard, 0xff, 0).is_empty());
    }
}
