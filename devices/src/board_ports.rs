//! Single-register ports of a PC board: resets, the POST code and the end of a test run.

use crate::bus::{Access, AccessError, Platform, PlatformDevice, PowerRequest};
use crate::state::State;
use serde::{Deserialize, Serialize};

/// Port 0x92, system control port A: bit 0 resets the machine, bit 1 gates A20, which is always open here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SystemControlA;

const A20_OPEN: u8 = 1 << 1;

impl State for SystemControlA {}

impl PlatformDevice for SystemControlA {
    fn read(&mut self, _offset: u64, data: &mut [u8], _platform: &mut dyn Platform) -> Access {
        let [byte] = data else { return Err(AccessError::BadSize) };
        *byte = A20_OPEN;
        Ok(())
    }

    fn write(&mut self, _offset: u64, data: &[u8], platform: &mut dyn Platform) -> Access {
        let [value] = data else { return Err(AccessError::BadSize) };
        if value & 1 != 0 {
            platform.power(PowerRequest::Reset);
        }
        Ok(())
    }

    fn reset(&mut self) {}
}

/// Port 0xcf9, the reset control register of Intel chipsets and the FADT's reset register (write 0x06).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ResetControl {
    value: u8,
}

impl ResetControl {
    /// What the FADT's RESET_VALUE must be: a hard reset.
    pub const ACPI_RESET_VALUE: u8 = 0x06;
    const WRITABLE: u8 = 0x0e;
    const RESET_CPU: u8 = 1 << 2;
}

impl State for ResetControl {}

impl PlatformDevice for ResetControl {
    fn read(&mut self, _offset: u64, data: &mut [u8], _platform: &mut dyn Platform) -> Access {
        let [byte] = data else { return Err(AccessError::BadSize) };
        *byte = self.value;
        Ok(())
    }

    fn write(&mut self, _offset: u64, data: &[u8], platform: &mut dyn Platform) -> Access {
        let [value] = data else { return Err(AccessError::BadSize) };
        let old = std::mem::replace(&mut self.value, value & Self::WRITABLE);
        // The reset happens on the edge of RST_CPU.
        if self.value & !old & Self::RESET_CPU != 0 {
            platform.power(PowerRequest::Reset);
        }
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Port 0x80: power-on self-test codes, and Linux's delay port.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PostCode {
    last: u8,
}

impl PostCode {
    /// The code written last.
    #[must_use]
    pub fn last(&self) -> u8 {
        self.last
    }
}

impl State for PostCode {}

impl PlatformDevice for PostCode {
    fn read(&mut self, _offset: u64, data: &mut [u8], _platform: &mut dyn Platform) -> Access {
        data.fill(0xff);
        if let Some(byte) = data.first_mut() {
            *byte = self.last;
        }
        Ok(())
    }

    fn write(&mut self, _offset: u64, data: &[u8], _platform: &mut dyn Platform) -> Access {
        if let Some(&code) = data.first() {
            self.last = code;
        }
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Port 0xf4 (isa-debug-exit): a write of 1, 2 or 4 bytes ends the run with that value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DebugExit;

impl State for DebugExit {}

impl PlatformDevice for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8], _platform: &mut dyn Platform) -> Access {
        data.fill(0);
        Ok(())
    }

    fn write(&mut self, _offset: u64, data: &[u8], platform: &mut dyn Platform) -> Access {
        let value = data.iter().take(4).rev().fold(0, |value, &byte| (value << 8) | u32::from(byte));
        platform.power(PowerRequest::DebugExit(value));
        Ok(())
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestPlatform;

    #[test]
    fn resets_are_requested_by_the_right_bits() {
        let mut platform = TestPlatform::default();
        let p = &mut platform;
        let mut control = ResetControl::default();
        control.write(0, &[0x02], p).unwrap();
        assert!(p.power.is_empty());
        control.write(0, &[0x06], p).unwrap();
        control.write(0, &[0x06], p).unwrap();
        assert_eq!(p.power, [PowerRequest::Reset], "only the edge resets");
        let mut byte = [0];
        control.read(0, &mut byte, p).unwrap();
        assert_eq!(byte, [0x06]);
        SystemControlA.read(0, &mut byte, p).unwrap();
        assert_eq!(byte, [2]);
        SystemControlA.write(0, &[2], p).unwrap();
        assert_eq!(p.power.len(), 1);
        SystemControlA.write(0, &[3], p).unwrap();
        assert_eq!(p.power.len(), 2);
        assert_eq!(SystemControlA.write(0, &[1, 1], p), Err(AccessError::BadSize));
    }

    #[test]
    fn debug_exit_carries_its_value_and_post_codes_read_back() {
        let mut platform = TestPlatform::default();
        DebugExit.write(0, &0x1234_5678_u32.to_le_bytes(), &mut platform).unwrap();
        assert_eq!(platform.power, [PowerRequest::DebugExit(0x1234_5678)]);
        let mut post = PostCode::default();
        post.write(0, &[0x42], &mut platform).unwrap();
        let mut word = [0; 2];
        post.read(0, &mut word, &mut platform).unwrap();
        assert_eq!((word, post.last()), ([0x42, 0xff], 0x42));
    }
}
