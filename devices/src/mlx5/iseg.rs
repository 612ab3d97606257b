//! The initialization segment at the start of BAR 0: a map of 32-bit big-endian registers.

use super::cmdq::{LOG_SIZE, LOG_STRIDE};
use super::{Mlx5, caps};
use crate::bus::Nanos;
use crate::pci::Port;
use serde::{Deserialize, Serialize};

/// Bytes of the segment; what lies between its registers reads as zero.
pub const SIZE: u64 = 0x4000;

/// A register of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    FirmwareRevision,
    InterfaceRevision,
    QueueAddressHigh,
    QueueAddressLow,
    Doorbell,
    Initializing,
    HealthFirmwareVersion,
    HealthHardwareId,
    HealthSyndrome,
    InternalTimerHigh,
    InternalTimerLow,
    HealthCounter,
}

const REGISTERS: &[(u64, Register)] = &[
    (0x0000, Register::FirmwareRevision),
    (0x0004, Register::InterfaceRevision),
    (0x0010, Register::QueueAddressHigh),
    (0x0014, Register::QueueAddressLow),
    (0x0018, Register::Doorbell),
    (0x01fc, Register::Initializing),
    (0x0230, Register::HealthFirmwareVersion),
    (0x0234, Register::HealthHardwareId),
    (0x023c, Register::HealthSyndrome),
    (0x1000, Register::InternalTimerHigh),
    (0x1004, Register::InternalTimerLow),
    (0x1010, Register::HealthCounter),
];

/// Firmware 16.35.2000, the generation of the device id.
const FIRMWARE_MAJOR: u32 = 16;
const FIRMWARE_MINOR: u32 = 35;
const FIRMWARE_SUBMINOR: u32 = 2000;
const COMMAND_INTERFACE_REVISION: u32 = 5;
const HARDWARE_ID: u32 = 0x020d;
/// Virtual time in which the health counter advances by one, as a power of two of nanoseconds: about a millisecond.
const HEALTH_PERIOD_SHIFT: u32 = 20;

/// What the driver wants of the function (`nic_interface`), written with the low half of the queue's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[repr(u8)]
pub enum NicInterface {
    /// The driver uses all of the device.
    #[default]
    Full = 0,
    /// The command interface is off.
    Disabled = 1,
}

/// Asked for by the driver to restart firmware; the interface is disabled afterwards.
const SOFTWARE_RESET: u32 = 7;

fn register_at(offset: u64) -> Option<Register> {
    REGISTERS.binary_search_by_key(&offset, |(at, _)| *at).ok().and_then(|i| REGISTERS.get(i)).map(|r| r.1)
}

/// Ticks of the free-running timer at virtual time `now`.
pub fn ticks(now: Nanos) -> u64 {
    const KHZ_PER_GHZ: u128 = 1_000_000;
    (u128::from(now) * u128::from(caps::DEVICE_FREQUENCY_KHZ) / KHZ_PER_GHZ) as u64
}

impl Mlx5 {
    /// Reads the aligned word at `offset`.
    pub(super) fn read_segment(&self, offset: u64, now: Nanos) -> u32 {
        let Some(register) = register_at(offset) else { return 0 };
        match register {
            Register::FirmwareRevision => FIRMWARE_MINOR << 16 | FIRMWARE_MAJOR,
            Register::InterfaceRevision => COMMAND_INTERFACE_REVISION << 16 | FIRMWARE_SUBMINOR,
            Register::QueueAddressHigh => (self.queue.address >> 32) as u32,
            Register::QueueAddressLow => {
                self.queue.address as u32 | (self.interface as u32) << 8 | LOG_SIZE << 4 | LOG_STRIDE
            }
            Register::Doorbell | Register::Initializing => 0,
            Register::HealthFirmwareVersion => {
                FIRMWARE_MAJOR << 24 | FIRMWARE_MINOR << 16 | FIRMWARE_SUBMINOR
            }
            Register::HealthHardwareId => HARDWARE_ID,
            Register::HealthSyndrome => u32::from(self.hca.health_syndrome) << 16,
            Register::InternalTimerHigh => (ticks(now) >> 32) as u32,
            Register::InternalTimerLow => ticks(now) as u32,
            Register::HealthCounter => (now >> HEALTH_PERIOD_SHIFT) as u32 & 0xff_ffff,
        }
    }

    /// Writes the bytes of the aligned word at `offset` that `mask` selects. Read-only registers stay as they are.
    pub(super) fn write_segment(&mut self, offset: u64, value: u32, mask: u32, port: &mut dyn Port) {
        const PAGE_MASK: u32 = !0xfff;
        match register_at(offset) {
            Some(Register::QueueAddressHigh) => {
                let high = merge((self.queue.address >> 32) as u32, value, mask);
                self.queue.address = u64::from(high) << 32 | self.queue.address & u64::from(u32::MAX);
            }
            Some(Register::QueueAddressLow) => {
                let low = merge(self.queue.address as u32, value, mask) & PAGE_MASK;
                self.queue.address = self.queue.address >> 32 << 32 | u64::from(low);
                if mask & 0x700 == 0x700 {
                    self.set_interface(value >> 8 & 7, port);
                }
            }
            Some(Register::Doorbell) => self.ring_commands(value & mask, port),
            _ => {}
        }
    }

    fn set_interface(&mut self, wanted: u32, port: &mut dyn Port) {
        match wanted {
            0 => self.interface = NicInterface::Full,
            1 | SOFTWARE_RESET => {
                self.interface = NicInterface::Disabled;
                self.stop(port);
            }
            _ => log::debug!("mlx5: interface state {wanted} is not supported"),
        }
    }
}

fn merge(old: u32, new: u32, mask: u32) -> u32 {
    old & !mask | new & mask
}

#[cfg(test)]
mod tests {
    use super::{REGISTERS, ticks};

    #[test]
    fn registers_are_sorted_for_the_search() {
        assert!(REGISTERS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn the_timer_runs_at_its_frequency() {
        assert_eq!(ticks(1_000_000_000), 156_250_000);
        assert_eq!(ticks(64), 10);
    }
}
