//! What bare-metal test kernels expect beside the debug exit port (QEMU's `pc-testdev`): ports that keep what is written,
//! ports that drive the interrupt inputs, and a block of memory that is not RAM.

use crate::bus::{Access, AccessError, Platform, PlatformDevice};
use crate::state::{State, same};
use serde::{Deserialize, Serialize};

/// Offset of the four data ports (0xe0-0xe3).
pub const OFFSET_DATA: u64 = 0;
/// Offset of the ports by which a guest asks for a page to be unmapped and mapped (0xe4-0xe7): nothing to do here.
pub const OFFSET_FLUSH: u64 = 4;
/// Offset of the data ports seen as bytes (0xe8-0xeb).
pub const OFFSET_BYTES: u64 = 8;
/// Offset of the ports that drive the interrupt inputs (0x2000-0x2017).
pub const OFFSET_LINES: u64 = 0x10;
/// Interrupt inputs.
pub const LINES: u64 = 24;
/// Offset of the memory.
pub const OFFSET_MEMORY: u64 = 0x1_0000;
/// Bytes of the memory.
pub const MEMORY: u64 = 0x1_0000;

/// ISA interrupt 0 is the input of the 8254.
const TIMER_GSI: u32 = 2;

/// The device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestDevice {
    data: [u8; 4],
    memory: Vec<u8>,
}

impl Default for TestDevice {
    fn default() -> Self {
        Self { data: [0; 4], memory: vec![0; MEMORY as usize] }
    }
}

impl TestDevice {
    /// The bytes that an access touches, or none if it reaches beyond its block.
    fn bytes(&mut self, offset: u64, length: usize) -> Option<&mut [u8]> {
        let (block, start) = match offset {
            OFFSET_DATA..OFFSET_FLUSH => (&mut self.data[..], offset),
            OFFSET_BYTES..OFFSET_LINES => (&mut self.data[..], offset - OFFSET_BYTES),
            OFFSET_MEMORY.. => (&mut self.memory[..], offset - OFFSET_MEMORY),
            _ => return None,
        };
        let start = usize::try_from(start).ok()?;
        block.get_mut(start..start.checked_add(length)?)
    }
}

impl State for TestDevice {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same(self.memory.len() == saved.memory.len())
    }
}

impl PlatformDevice for TestDevice {
    fn read(&mut self, offset: u64, data: &mut [u8], _platform: &mut dyn Platform) -> Access {
        match self.bytes(offset, data.len()) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0),
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], platform: &mut dyn Platform) -> Access {
        if let Some(line) = offset.checked_sub(OFFSET_LINES).filter(|&line| line < LINES) {
            let [value] = data else { return Err(AccessError::BadSize) };
            let gsi = if line == 0 { TIMER_GSI } else { line as u32 };
            platform.set_irq(gsi, *value != 0);
        } else if let Some(bytes) = self.bytes(offset, data.len()) {
            bytes.copy_from_slice(data);
        }
        Ok(())
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestPlatform;

    #[test]
    fn data_is_kept_and_lines_are_driven() {
        let mut platform = TestPlatform::default();
        let p = &mut platform;
        let mut device = TestDevice::default();
        let mut word = [0; 4];
        device.write(OFFSET_DATA, &[1, 2, 3, 4], p).unwrap();
        device.write(OFFSET_DATA + 2, &[9], p).unwrap();
        device.read(OFFSET_BYTES, &mut word, p).unwrap();
        assert_eq!(word, [1, 2, 9, 4]);
        device.read(OFFSET_DATA + 2, &mut word, p).unwrap();
        assert_eq!(word, [0; 4], "beyond the ports");
        device.write(OFFSET_FLUSH, &[1; 4], p).unwrap();
        device.write(OFFSET_MEMORY + MEMORY - 4, &[5, 6, 7, 8], p).unwrap();
        device.write(OFFSET_MEMORY + MEMORY - 2, &[0; 4], p).unwrap();
        device.read(OFFSET_MEMORY + MEMORY - 4, &mut word, p).unwrap();
        assert_eq!(word, [5, 6, 7, 8]);
        device.write(OFFSET_LINES + 14, &[1], p).unwrap();
        device.write(OFFSET_LINES, &[1], p).unwrap();
        assert!(p.line(14) && p.line(TIMER_GSI));
        device.write(OFFSET_LINES + 14, &[0], p).unwrap();
        assert!(!p.line(14));
        assert_eq!(device.write(OFFSET_LINES, &[1; 2], p), Err(AccessError::BadSize));
    }
}
