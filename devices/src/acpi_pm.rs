//! ACPI fixed hardware: PM1a event and control registers and the power-management timer (ACPI 6.5, 4.8.3).
//!
//! The machine is always in ACPI mode (no SMI command port). The reset register is port 0xcf9
//! ([`crate::board_ports::ResetControl`]).

use crate::bus::{Access, AccessError, Nanos, Platform, PlatformDevice, PowerRequest};
use crate::state::{State, same};
use serde::{Deserialize, Serialize};

/// Bytes of the register block.
pub const BLOCK_LENGTH: u64 = 16;
/// Offset of PM1a_EVT_BLK: status and enable, 4 bytes.
pub const EVENT_OFFSET: u64 = 0;
/// Offset of PM1a_CNT_BLK, 2 bytes.
pub const CONTROL_OFFSET: u64 = 4;
/// Offset of PM_TMR_BLK, 4 bytes.
pub const TIMER_OFFSET: u64 = 8;
/// Sleep type of S5: what the DSDT's `_S5` object must name.
pub const SLEEP_TYPE_S5: u8 = 5;
/// Frequency of the timer, Hz.
pub const TIMER_HZ: u64 = 3_579_545;

const STATUS_TIMER: u16 = 1 << 0;
const STATUS_POWER_BUTTON: u16 = 1 << 8;
/// Timer, bus master, global lock, buttons, RTC, PCIe wake, wake.
const STATUS_CLEARABLE: u16 = 0xcf31;
/// Timer, global lock, buttons, RTC, PCIe wake.
const ENABLE_WRITABLE: u16 = 0x4721;

const CONTROL_SCI_ENABLE: u16 = 1 << 0;
const CONTROL_SLEEP_TYPE_SHIFT: u16 = 10;
const CONTROL_SLEEP_ENABLE: u16 = 1 << 13;
const CONTROL_WRITABLE: u16 = 0x1c06;

const EVENT_TIMER: u32 = 0;

/// Width of the timer, as the FADT's TMR_VAL_EXT says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimerWidth {
    Bits24,
    Bits32,
}

/// The register block; interrupts (SCI) on one GSI.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AcpiPm {
    sci: u32,
    width: TimerWidth,
    status: u16,
    enable: u16,
    control: u16,
    /// Count of top-bit changes at which the carry status was last looked at.
    carries_seen: u64,
}

impl AcpiPm {
    /// A block that interrupts on `sci` (GSI 9, level-triggered, by convention).
    #[must_use]
    pub fn new(sci: u32, width: TimerWidth) -> Self {
        Self { sci, width, status: 0, enable: 0, control: 0, carries_seen: 0 }
    }

    /// Somebody presses the power button: the guest is asked to shut down.
    pub fn press_power_button(&mut self, platform: &mut dyn Platform) {
        self.status |= STATUS_POWER_BUTTON;
        self.update(platform);
    }

    fn ticks(now: Nanos) -> u64 {
        // Fits: 2^64 ns are less than 2^56 ticks.
        (u128::from(now) * u128::from(TIMER_HZ) / 1_000_000_000) as u64
    }

    fn timer(&self, now: Nanos) -> u32 {
        let ticks = Self::ticks(now) as u32;
        match self.width {
            TimerWidth::Bits24 => ticks & 0xff_ffff,
            TimerWidth::Bits32 => ticks,
        }
    }

    /// log2 of the ticks between two changes of the timer's top bit.
    fn carry_shift(&self) -> u32 {
        match self.width {
            TimerWidth::Bits24 => 23,
            TimerWidth::Bits32 => 31,
        }
    }

    /// Brings the carry status up to date and the SCI line in step.
    fn update(&mut self, platform: &mut dyn Platform) {
        let carries = Self::ticks(platform.now()) >> self.carry_shift();
        if carries != self.carries_seen {
            self.carries_seen = carries;
            self.status |= STATUS_TIMER;
        }
        if self.enable & STATUS_TIMER != 0 && self.status & STATUS_TIMER == 0 {
            let next = u128::from(carries + 1) << self.carry_shift();
            let at = (next * 1_000_000_000).div_ceil(u128::from(TIMER_HZ));
            platform.schedule(u64::try_from(at).unwrap_or(u64::MAX), EVENT_TIMER);
        } else {
            platform.cancel(EVENT_TIMER);
        }
        platform.set_irq(self.sci, self.status & self.enable != 0);
    }

    fn write_control(&mut self, value: u16, platform: &mut dyn Platform) {
        self.control = value & CONTROL_WRITABLE;
        let sleep_type = (value >> CONTROL_SLEEP_TYPE_SHIFT) & 7;
        if value & CONTROL_SLEEP_ENABLE != 0 && sleep_type == u16::from(SLEEP_TYPE_S5) {
            platform.power(PowerRequest::Off);
        }
    }

    /// The block as bytes. Status, enable and control are read as they are after an update.
    fn image(&self, now: Nanos) -> [u8; BLOCK_LENGTH as usize] {
        let mut image = [0; BLOCK_LENGTH as usize];
        let registers = [self.status, self.enable, self.control | CONTROL_SCI_ENABLE, 0];
        for (slot, register) in image.chunks_exact_mut(2).zip(registers) {
            slot.copy_from_slice(&register.to_le_bytes());
        }
        for (slot, byte) in image.iter_mut().skip(TIMER_OFFSET as usize).zip(self.timer(now).to_le_bytes()) {
            *slot = byte;
        }
        image
    }
}

impl State for AcpiPm {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same((self.sci, self.width) == (saved.sci, saved.width))
    }
}

impl PlatformDevice for AcpiPm {
    fn read(&mut self, offset: u64, data: &mut [u8], platform: &mut dyn Platform) -> Access {
        if offset >= BLOCK_LENGTH {
            return Err(AccessError::NoRegister);
        }
        if offset < CONTROL_OFFSET {
            self.update(platform);
        }
        let image = self.image(platform.now());
        for (byte, index) in data.iter_mut().zip(offset as usize..) {
            *byte = image.get(index).copied().unwrap_or(0xff);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], platform: &mut dyn Platform) -> Access {
        if offset >= BLOCK_LENGTH {
            return Err(AccessError::NoRegister);
        }
        self.update(platform);
        let mut control = None;
        for (&byte, at) in data.iter().zip(offset..) {
            let (value, mask) = (u16::from(byte) << (at % 2 * 8), 0xff << (at % 2 * 8));
            match at {
                0 | 1 => self.status &= !(value & STATUS_CLEARABLE),
                2 | 3 => self.enable = (self.enable & !mask) | (value & ENABLE_WRITABLE),
                4 | 5 => control = Some((control.unwrap_or(self.control) & !mask) | value),
                _ => {}
            }
        }
        if let Some(control) = control {
            self.write_control(control, platform);
        }
        self.update(platform);
        Ok(())
    }

    fn event(&mut self, _token: u32, platform: &mut dyn Platform) {
        self.update(platform);
    }

    fn reset(&mut self) {
        *self = Self { carries_seen: self.carries_seen, ..Self::new(self.sci, self.width) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestPlatform;

    fn read16(pm: &mut AcpiPm, platform: &mut TestPlatform, offset: u64) -> u16 {
        let mut data = [0; 2];
        pm.read(offset, &mut data, platform).unwrap();
        u16::from_le_bytes(data)
    }

    fn write16(pm: &mut AcpiPm, platform: &mut TestPlatform, offset: u64, value: u16) {
        pm.write(offset, &value.to_le_bytes(), platform).unwrap();
    }

    #[test]
    fn sleeping_in_s5_powers_off() {
        let (mut pm, mut platform) = (AcpiPm::new(9, TimerWidth::Bits24), TestPlatform::default());
        assert_eq!(read16(&mut pm, &mut platform, 4), 1, "always in ACPI mode");
        write16(&mut pm, &mut platform, 4, 5 << 10);
        write16(&mut pm, &mut platform, 4, 3 << 10 | 1 << 13);
        assert!(platform.power.is_empty());
        write16(&mut pm, &mut platform, 4, 5 << 10 | 1 << 13);
        assert_eq!(platform.power, [PowerRequest::Off]);
        assert_eq!(read16(&mut pm, &mut platform, 4), 5 << 10 | 1, "SLP_EN reads zero");
    }

    #[test]
    fn the_timer_counts_virtual_time() {
        let (mut pm, mut platform) = (AcpiPm::new(9, TimerWidth::Bits24), TestPlatform::default());
        platform.now = 1_000_000_000;
        let mut data = [0; 4];
        pm.read(8, &mut data, &mut platform).unwrap();
        assert_eq!(u32::from_le_bytes(data), 3_579_545);
        platform.now = 5_000_000_000;
        pm.read(8, &mut data, &mut platform).unwrap();
        assert_eq!(u32::from_le_bytes(data), 5 * 3_579_545 - (1 << 24));
    }

    #[test]
    fn a_carry_interrupts_when_enabled() {
        let (mut pm, mut platform) = (AcpiPm::new(9, TimerWidth::Bits24), TestPlatform::default());
        write16(&mut pm, &mut platform, 2, 1);
        let at = platform.events[&EVENT_TIMER];
        assert_eq!(at, 2_343_484_438);
        platform.now = at - 1;
        pm.event(EVENT_TIMER, &mut platform);
        assert!(!platform.line(9));
        platform.now = at;
        pm.event(EVENT_TIMER, &mut platform);
        assert!(platform.line(9));
        assert_eq!(read16(&mut pm, &mut platform, 0), 1);
        write16(&mut pm, &mut platform, 0, 1);
        assert!(!platform.line(9));
        assert!(platform.events[&EVENT_TIMER] > at);
    }

    #[test]
    fn the_power_button_raises_the_sci() {
        let (mut pm, mut platform) = (AcpiPm::new(9, TimerWidth::Bits32), TestPlatform::default());
        pm.press_power_button(&mut platform);
        assert!(!platform.line(9));
        write16(&mut pm, &mut platform, 2, 1 << 8);
        assert!(platform.line(9));
        write16(&mut pm, &mut platform, 0, 1 << 8);
        assert!(!platform.line(9));
    }
}
