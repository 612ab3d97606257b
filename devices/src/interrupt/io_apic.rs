//! The IO-APIC: 24 inputs, version 0x20 (82093AA data sheet; the EOI register as in the ICH data sheets).

use super::{DeliveryMode, Destination, Message};
use serde::{Deserialize, Serialize};

/// Number of inputs.
pub const PINS: u32 = 24;

const VERSION: u32 = 0x20;
const ENTRY_WRITABLE: u64 = 0xff00_0000_0001_afff;
const ENTRY_REMOTE_IRR: u64 = 1 << 14;
const ENTRY_LEVEL: u64 = 1 << 15;
const ENTRY_MASKED: u64 = 1 << 16;

/// Offsets in the memory window.
const WINDOW_SELECT: u64 = 0x00;
const WINDOW_DATA: u64 = 0x10;
const WINDOW_EOI: u64 = 0x40;

/// Indices behind the select register.
const INDEX_ID: u8 = 0;
const INDEX_VERSION: u8 = 1;
const INDEX_ARBITRATION: u8 = 2;
const INDEX_TABLE: u8 = 0x10;

/// Inputs, redirection table and the messages they give rise to.
///
/// Input lines carry logical assertion: the polarity bit of an entry is stored and reads back, and a board whose
/// firmware tables agree with it needs no inversion here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IoApic {
    select: u8,
    id: u8,
    entries: [u64; PINS as usize],
    /// Asserted inputs.
    lines: u32,
    /// Inputs with a message to send: an edge that came unmasked, or a level not yet accepted.
    requests: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { select: 0, id: 0, entries: [ENTRY_MASKED; PINS as usize], lines: 0, requests: 0 }
    }
}

impl IoApic {
    /// Power-on reset. Lines keep the level their devices drive.
    pub fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::default() };
    }

    /// Drives input `pin`; pins that do not exist are ignored. Call [`Self::next_message`] afterwards.
    pub fn set_line(&mut self, pin: u32, high: bool) {
        let Some(&entry) = self.entries.get(pin as usize) else { return };
        let bit = 1 << pin;
        let rising = high && self.lines & bit == 0;
        self.lines = if high { self.lines | bit } else { self.lines & !bit };
        if entry & ENTRY_LEVEL == 0 {
            // An edge on a masked input is lost (82093AA, 3.2.4, bit 16).
            if rising && entry & ENTRY_MASKED == 0 {
                self.requests |= bit;
            }
        } else {
            self.refresh_level(pin);
        }
    }

    /// Level of input `pin`.
    #[must_use]
    pub fn line(&self, pin: u32) -> bool {
        pin < PINS && self.lines & (1 << pin) != 0
    }

    /// Takes the next message to route, with the pin it came from. A level-triggered pin then waits for its EOI.
    pub fn next_message(&mut self) -> Option<(u32, Message)> {
        while self.requests != 0 {
            let pin = self.requests.trailing_zeros();
            self.requests &= self.requests - 1;
            let Some(entry) = self.entries.get_mut(pin as usize) else { continue };
            let Some(mode) = DeliveryMode::from_bits((*entry >> 8) as u32) else { continue };
            // Only vectored modes have an EOI to wait for.
            let level = *entry & ENTRY_LEVEL != 0
                && matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
            if level {
                *entry |= ENTRY_REMOTE_IRR;
            }
            let destination = Destination::from_8bit((*entry >> 56) as u8, *entry & (1 << 11) != 0);
            return Some((pin, Message { destination, mode, vector: *entry as u8, level }));
        }
        None
    }

    /// No local APIC took the message of `pin`: it does not wait for an EOI that will never come.
    pub fn rejected(&mut self, pin: u32) {
        if let Some(entry) = self.entries.get_mut(pin as usize) {
            *entry &= !ENTRY_REMOTE_IRR;
        }
    }

    /// A local APIC broadcast the end of level-triggered interrupt `vector`. Inputs still asserted ask again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..PINS {
            let Some(entry) = self.entries.get_mut(pin as usize) else { continue };
            if *entry & ENTRY_LEVEL != 0 && *entry & ENTRY_REMOTE_IRR != 0 && *entry as u8 == vector {
                *entry &= !ENTRY_REMOTE_IRR;
                self.refresh_level(pin);
            }
        }
    }

    /// Reads the memory window; only aligned 32-bit accesses (and narrower ones to the select register) have a
    /// meaning, everything else reads zero.
    pub fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            WINDOW_SELECT => u32::from(self.select),
            WINDOW_DATA => self.read_index(),
            _ => 0,
        };
        let bytes = value.to_le_bytes();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get(index).copied().unwrap_or(0);
        }
    }

    /// Writes the memory window. Call [`Self::next_message`] afterwards.
    pub fn mmio_write(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        for (byte, &value) in bytes.iter_mut().zip(data) {
            *byte = value;
        }
        let value = u32::from_le_bytes(bytes);
        match offset {
            WINDOW_SELECT => self.select = value as u8,
            WINDOW_DATA if data.len() >= 4 => self.write_index(value),
            WINDOW_EOI => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }

    fn selected_entry(&self) -> Option<(u32, bool)> {
        let index = u32::from(self.select.checked_sub(INDEX_TABLE)?);
        (index / 2 < PINS).then_some((index / 2, index % 2 == 1))
    }

    fn read_index(&self) -> u32 {
        match self.select {
            INDEX_ID | INDEX_ARBITRATION => u32::from(self.id) << 24,
            INDEX_VERSION => VERSION | ((PINS - 1) << 16),
            _ => match self.selected_entry() {
                Some((pin, high)) => {
                    let entry = self.entries.get(pin as usize).copied().unwrap_or(0);
                    (if high { entry >> 32 } else { entry }) as u32
                }
                None => 0,
            },
        }
    }

    fn write_index(&mut self, value: u32) {
        if self.select == INDEX_ID {
            self.id = (value >> 24) as u8 & 0xf;
            return;
        }
        let Some((pin, high)) = self.selected_entry() else { return };
        let Some(entry) = self.entries.get_mut(pin as usize) else { return };
        let written = if high {
            (*entry & 0xffff_ffff) | (u64::from(value) << 32)
        } else {
            (*entry & !0xffff_ffff) | u64::from(value)
        };
        *entry = (*entry & ENTRY_REMOTE_IRR) | (written & ENTRY_WRITABLE);
        if *entry & ENTRY_LEVEL == 0 {
            // Switching to edge forgets the level interrupt; drivers without an EOI register rely on it.
            *entry &= !ENTRY_REMOTE_IRR;
            if *entry & ENTRY_MASKED != 0 {
                self.requests &= !(1 << pin);
            }
        } else {
            self.refresh_level(pin);
        }
    }

    fn refresh_level(&mut self, pin: u32) {
        let entry = self.entries.get(pin as usize).copied().unwrap_or(ENTRY_MASKED);
        let bit = 1 << pin;
        let asks = self.lines & bit != 0 && entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR) == 0;
        self.requests = if asks { self.requests | bit } else { self.requests & !bit };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(apic: &mut IoApic, index: u8, value: u32) {
        apic.mmio_write(0, &[index]);
        apic.mmio_write(0x10, &value.to_le_bytes());
    }

    fn read(apic: &mut IoApic, index: u8) -> u32 {
        let mut data = [0; 4];
        apic.mmio_write(0, &u32::from(index).to_le_bytes());
        apic.mmio_read(0x10, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn identity() {
        let mut apic = IoApic::default();
        assert_eq!(read(&mut apic, 1), 0x0017_0020);
        write(&mut apic, 0, 0x0500_0000);
        assert_eq!(read(&mut apic, 0), 0x0500_0000);
        assert_eq!(read(&mut apic, 0x10 + 46), 1 << 16);
        assert_eq!(read(&mut apic, 0x10 + 48), 0, "beyond the last entry");
    }

    #[test]
    fn an_edge_sends_once() {
        let mut apic = IoApic::default();
        write(&mut apic, 0x11, 0x0200_0000);
        apic.set_line(0, true);
        apic.set_line(0, false);
        assert_eq!(apic.next_message(), None, "masked edges are lost");
        write(&mut apic, 0x10, 0x31);
        assert_eq!(apic.next_message(), None);
        apic.set_line(0, true);
        apic.set_line(0, true);
        let (pin, message) = apic.next_message().unwrap();
        assert_eq!(
            (pin, message),
            (
                0,
                Message {
                    destination: Destination::Physical(2),
                    mode: DeliveryMode::Fixed,
                    vector: 0x31,
                    level: false
                }
            )
        );
        assert_eq!(apic.next_message(), None);
    }

    #[test]
    fn a_level_repeats_after_eoi_while_asserted() {
        let mut apic = IoApic::default();
        write(&mut apic, 0x10 + 20, 0xa000 | 0x41);
        apic.set_line(10, true);
        assert!(apic.next_message().unwrap().1.level);
        assert_eq!(read(&mut apic, 0x10 + 20), 0xe041, "remote IRR and polarity read back");
        apic.set_line(10, true);
        assert_eq!(apic.next_message(), None, "waits for the EOI");
        apic.end_of_interrupt(0x40);
        assert_eq!(apic.next_message(), None, "another vector");
        apic.end_of_interrupt(0x41);
        assert!(apic.next_message().is_some());
        apic.set_line(10, false);
        apic.mmio_write(0x40, &0x41u32.to_le_bytes());
        assert_eq!(apic.next_message(), None);
        assert_eq!(read(&mut apic, 0x10 + 20), 0xa041);
    }

    #[test]
    fn unmasking_an_asserted_level_sends() {
        let mut apic = IoApic::default();
        write(&mut apic, 0x10, 0x1_8000 | 0x50);
        apic.set_line(0, true);
        assert_eq!(apic.next_message(), None);
        write(&mut apic, 0x10, 0x8000 | 0x50);
        assert_eq!(apic.next_message().unwrap().1.vector, 0x50);
        apic.rejected(0);
        assert_eq!(read(&mut apic, 0x10), 0x8050);
    }

    #[test]
    fn switching_to_edge_clears_remote_irr() {
        let mut apic = IoApic::default();
        write(&mut apic, 0x10, 0x8050);
        apic.set_line(0, true);
        assert!(apic.next_message().is_some());
        write(&mut apic, 0x10, 0x1_0050);
        write(&mut apic, 0x10, 0x8050);
        assert!(apic.next_message().is_some(), "the level is seen again");
    }
}
