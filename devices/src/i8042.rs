//! The part of a keyboard controller that a machine without keyboard needs: the reset command.
//!
//! Status reads as "output full, input empty, nothing ever drained": Linux's probe gives up after emptying sixteen
//! bytes ("No controller found"), and its wait before the reset command ends at once.

use crate::bus::{Access, AccessError, Platform, PlatformDevice, PowerRequest};
use crate::state::State;
use serde::{Deserialize, Serialize};

/// All ones but bit 1, "input buffer full".
const STATUS: u8 = 0xfd;
/// Offsets from port 0x60.
const OFFSET_DATA: u64 = 0;
const OFFSET_COMMAND: u64 = 4;

/// Ports 0x60 and 0x64. Register it at 0x60 (offset 0) and 0x64 (offset 4).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct I8042;

impl State for I8042 {}

impl PlatformDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8], _platform: &mut dyn Platform) -> Access {
        let [byte] = data else { return Err(AccessError::BadSize) };
        *byte = match offset {
            OFFSET_DATA => 0xff,
            OFFSET_COMMAND => STATUS,
            _ => return Err(AccessError::NoRegister),
        };
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], platform: &mut dyn Platform) -> Access {
        let &[value] = data else { return Err(AccessError::BadSize) };
        match offset {
            OFFSET_DATA => {}
            // Commands 0xf0-0xff pulse the output lines whose bits are clear; line 0 is the reset.
            OFFSET_COMMAND if value & 0xf1 == 0xf0 => platform.power(PowerRequest::Reset),
            OFFSET_COMMAND => {}
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestPlatform;

    #[test]
    fn only_the_pulse_of_line_0_resets() {
        let mut platform = TestPlatform::default();
        for command in [0xaa, 0x20, 0xd1, 0xff, 0x60] {
            I8042.write(4, &[command], &mut platform).unwrap();
        }
        I8042.write(0, &[0xfe], &mut platform).unwrap();
        assert!(platform.power.is_empty());
        I8042.write(4, &[0xfe], &mut platform).unwrap();
        assert_eq!(platform.power, [PowerRequest::Reset]);
    }

    #[test]
    fn the_probe_finds_nothing() {
        let mut platform = TestPlatform::default();
        let mut byte = [0];
        for _ in 0..20 {
            I8042.read(4, &mut byte, &mut platform).unwrap();
            assert_eq!(byte[0] & 3, 1, "output full, input empty");
            I8042.read(0, &mut byte, &mut platform).unwrap();
        }
        assert_eq!(I8042.read(2, &mut byte, &mut platform), Err(AccessError::NoRegister));
    }
}
