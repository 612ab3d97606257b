//! The firmware configuration device of QEMU machines (QEMU docs/specs/fw_cfg.rst), by which firmware, test kernels and
//! Linux's `qemu_fw_cfg` learn RAM size, processor counts and more: selector port 0x510, data port 0x511, DMA ports
//! 0x514-0x51b.

use crate::bus::{Access, AccessError};
use crate::dma::DmaError;
use crate::state::{State, same};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Offset of the 16-bit selector (port 0x510).
pub const OFFSET_SELECTOR: u64 = 0;
/// Offset of the 8-bit data register (port 0x511).
pub const OFFSET_DATA: u64 = 1;
/// Offset of the 64-bit, big-endian DMA address register (port 0x514).
pub const OFFSET_DMA: u64 = 4;
/// Ports that the device answers at, from the selector on.
pub const LENGTH: u64 = 12;

/// Keys of the items.
mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NOGRAPHIC: u16 = 0x04;
    pub const NB_CPUS: u16 = 0x05;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const FILE_DIR: u16 = 0x19;
    pub const FILE_FIRST: u16 = 0x20;
    /// Architecture's own: the 8254 is at IO-APIC input 2.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Bit 14 of a selector asks for write access, which items do not have.
const SELECT_WRITE: u16 = 1 << 14;
/// Traditional interface and DMA.
const FEATURES: u32 = 0b11;
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
/// Bytes of a file's name in the directory, with its terminator.
const FILE_NAME: usize = 56;

const DMA_ERROR: u32 = 1 << 0;
const DMA_READ: u32 = 1 << 1;
const DMA_SKIP: u32 = 1 << 2;
const DMA_SELECT: u32 = 1 << 3;
const DMA_WRITE: u32 = 1 << 4;
/// Bytes beyond which a transfer is refused: items are small, and the rest would be zeros.
const DMA_MAX: u32 = 16 << 20;
const DMA_CHUNK: usize = 4096;

/// What the machine tells of itself.
#[derive(Debug, Clone, Default)]
pub struct FwCfgConfig {
    /// Bytes of RAM.
    pub memory: u64,
    pub cpus: u16,
    pub max_cpus: u16,
    /// Named items; a name has at most 55 bytes.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Guest memory as the device's DMA reaches it.
pub trait Memory {
    /// Reads bytes at a guest-physical address.
    ///
    /// # Errors
    /// [`DmaError`] if that is not all RAM.
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), DmaError>;
    /// Writes bytes at a guest-physical address.
    ///
    /// # Errors
    /// [`DmaError`] if that is not all RAM.
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), DmaError>;
}

/// The device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    selected: u16,
    offset: usize,
    dma_address: u64,
}

impl State for FwCfg {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same(self.items == saved.items)
    }
}

impl FwCfg {
    /// A device with the items that follow from `config`.
    #[must_use]
    pub fn new(config: &FwCfgConfig) -> Self {
        let mut directory = (config.files.len() as u32).to_be_bytes().to_vec();
        let mut items = BTreeMap::from([
            (key::SIGNATURE, b"QEMU".to_vec()),
            (key::ID, FEATURES.to_le_bytes().to_vec()),
            (key::UUID, vec![0; 16]),
            (key::RAM_SIZE, config.memory.to_le_bytes().to_vec()),
            (key::NOGRAPHIC, 1_u16.to_le_bytes().to_vec()),
            (key::NB_CPUS, config.cpus.to_le_bytes().to_vec()),
            (key::BOOT_MENU, 0_u16.to_le_bytes().to_vec()),
            (key::MAX_CPUS, config.max_cpus.to_le_bytes().to_vec()),
            (key::IRQ0_OVERRIDE, vec![1]),
        ]);
        for ((name, data), key) in config.files.iter().zip(key::FILE_FIRST..) {
            directory.extend_from_slice(&(data.len() as u32).to_be_bytes());
            directory.extend_from_slice(&key.to_be_bytes());
            directory.extend_from_slice(&[0; 2]);
            let mut field = [0; FILE_NAME];
            for (byte, &letter) in field.iter_mut().take(FILE_NAME - 1).zip(name.as_bytes()) {
                *byte = letter;
            }
            directory.extend_from_slice(&field);
            items.insert(key, data.clone());
        }
        items.insert(key::FILE_DIR, directory);
        Self { items, selected: 0, offset: 0, dma_address: 0 }
    }

    /// The state after power-on; the items stay.
    pub fn reset(&mut self) {
        (self.selected, self.offset, self.dma_address) = (0, 0, 0);
    }

    fn select(&mut self, key: u16) {
        (self.selected, self.offset) = (key & !SELECT_WRITE, 0);
    }

    /// The next bytes of the selected item; zeros beyond its end.
    fn next(&mut self, data: &mut [u8]) {
        let item = self.items.get(&self.selected).map_or(&[][..], Vec::as_slice);
        let rest = item.get(self.offset..).unwrap_or_default();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = rest.get(index).copied().unwrap_or(0);
        }
        self.offset = self.offset.saturating_add(data.len());
    }

    /// Reads `data.len()` bytes at `offset` from the selector port.
    ///
    /// # Errors
    /// [`AccessError`] for anything but a byte of data or a part of the DMA register.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) -> Access {
        match offset {
            OFFSET_DATA if data.len() == 1 => self.next(data),
            OFFSET_SELECTOR | OFFSET_DATA => return Err(AccessError::BadSize),
            OFFSET_DMA..LENGTH => {
                let start = (offset - OFFSET_DMA) as usize;
                let end = start + data.len();
                data.copy_from_slice(DMA_SIGNATURE.get(start..end).ok_or(AccessError::Unaligned)?);
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    /// Writes `data` at `offset` from the selector port. Returns the address of a transfer's description if the write
    /// starts one: [`Self::transfer`] is to be called with it.
    ///
    /// # Errors
    /// [`AccessError`] for a selector that is not 16 bits wide, or a DMA address not written in halves.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<Option<u64>, AccessError> {
        match offset {
            OFFSET_SELECTOR => {
                let bytes = data.try_into().map_err(|_| AccessError::BadSize)?;
                self.select(u16::from_le_bytes(bytes));
            }
            // Items are read-only: as on QEMU since 2.4, what is written here is lost.
            OFFSET_DATA => {}
            OFFSET_DMA | 8 => {
                let bytes = data.try_into().map_err(|_| AccessError::BadSize)?;
                let half = u64::from(u32::from_be_bytes(bytes));
                if offset == OFFSET_DMA {
                    self.dma_address = half << 32;
                } else {
                    return Ok(Some(std::mem::take(&mut self.dma_address) | half));
                }
            }
            _ => return Err(AccessError::NoRegister),
        }
        Ok(None)
    }

    /// Carries out the transfer described at `address`: control, length and address, big-endian. The outcome is written
    /// over control; a description that is not in RAM is ignored.
    pub fn transfer(&mut self, address: u64, memory: &mut dyn Memory) {
        let mut bytes = [0; 16];
        if memory.read(address, &mut bytes).is_err() {
            return;
        }
        let value = u128::from_be_bytes(bytes);
        let (control, length, target) = ((value >> 96) as u32, (value >> 64) as u32, value as u64);
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let done = if control & DMA_READ != 0 {
            self.copy(target, length, memory)
        } else if control & DMA_WRITE != 0 {
            false
        } else {
            if control & DMA_SKIP != 0 {
                self.offset = self.offset.saturating_add(length as usize);
            }
            true
        };
        let outcome = if done { 0 } else { DMA_ERROR };
        if memory.write(address, &outcome.to_be_bytes()).is_err() {
            log::debug!("fw_cfg: the outcome of a transfer at {address:#x} is lost");
        }
    }

    fn copy(&mut self, target: u64, length: u32, memory: &mut dyn Memory) -> bool {
        if length > DMA_MAX {
            return false;
        }
        let mut buffer = [0; DMA_CHUNK];
        let mut done = 0;
        while done < length as usize {
            let size = DMA_CHUNK.min(length as usize - done);
            let Some(part) = buffer.get_mut(..size) else { return false };
            self.next(part);
            if memory.write(target.wrapping_add(done as u64), part).is_err() {
                return false;
            }
            done += size;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ram(Vec<u8>);

    impl Memory for Ram {
        fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
            let start = address as usize;
            let part = start.checked_add(data.len()).and_then(|end| self.0.get(start..end));
            data.copy_from_slice(part.ok_or(DmaError::Unmapped(address))?);
            Ok(())
        }
        fn write(&mut self, address: u64, data: &[u8]) -> Result<(), DmaError> {
            let start = address as usize;
            let part = start.checked_add(data.len()).and_then(|end| self.0.get_mut(start..end));
            part.ok_or(DmaError::Unmapped(address))?.copy_from_slice(data);
            Ok(())
        }
    }

    fn device() -> FwCfg {
        let files = vec![("etc/e820".to_owned(), vec![7; 20]), ("opt/x".to_owned(), b"text".to_vec())];
        FwCfg::new(&FwCfgConfig { memory: 512 << 20, cpus: 3, max_cpus: 8, files })
    }

    fn item(device: &mut FwCfg, key: u16, length: usize) -> Vec<u8> {
        device.write(OFFSET_SELECTOR, &key.to_le_bytes()).unwrap();
        (0..length)
            .map(|_| {
                let mut byte = [0xcc];
                device.read(OFFSET_DATA, &mut byte).unwrap();
                byte[0]
            })
            .collect()
    }

    #[test]
    fn items_are_read_byte_by_byte_and_end_in_zeros() {
        let mut device = device();
        assert_eq!(item(&mut device, 0, 6), b"QEMU\0\0");
        assert_eq!(item(&mut device, 1, 4), [3, 0, 0, 0]);
        assert_eq!(item(&mut device, 3, 8), (512_u64 << 20).to_le_bytes());
        assert_eq!((item(&mut device, 5, 2), item(&mut device, 0x0f, 2)), (vec![3, 0], vec![8, 0]));
        assert_eq!(item(&mut device, 0x4000, 4), b"QEMU", "the write bit names the same item");
        assert_eq!(item(&mut device, 0x1234, 2), [0, 0], "no such item");
        assert_eq!(device.write(OFFSET_SELECTOR, &[0]), Err(AccessError::BadSize));
        assert_eq!(device.read(OFFSET_SELECTOR, &mut [0; 2]), Err(AccessError::BadSize));
        device.write(OFFSET_DATA, &[9]).unwrap();
        assert_eq!(item(&mut device, 0, 4), b"QEMU");
    }

    #[test]
    fn the_directory_names_the_files() {
        let mut device = device();
        let directory = item(&mut device, 0x19, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..12], [0, 0, 0, 20, 0, 0x20, 0, 0]);
        assert_eq!(&directory[12..21], b"etc/e820\0");
        assert_eq!(directory[68..76], [0, 0, 0, 4, 0, 0x21, 0, 0]);
        assert_eq!(item(&mut device, 0x21, 5), b"text\0");
    }

    #[test]
    fn transfers_read_skip_and_refuse() {
        let mut device = device();
        let mut signature = [0; 4];
        device.read(OFFSET_DMA, &mut signature).unwrap();
        assert_eq!(&signature, b"QEMU");
        let mut ram = Ram(vec![0xcc; 0x3000]);
        let mut run = |device: &mut FwCfg, control: u32, length: u32, address: u64| {
            ram.0[0x100..0x104].copy_from_slice(&control.to_be_bytes());
            ram.0[0x104..0x108].copy_from_slice(&length.to_be_bytes());
            ram.0[0x108..0x110].copy_from_slice(&address.to_be_bytes());
            assert_eq!(device.write(OFFSET_DMA, &[0; 4]), Ok(None));
            let start = device.write(8, &0x100_u32.to_be_bytes()).unwrap().unwrap();
            device.transfer(start, &mut ram);
            (u32::from_be_bytes(ram.0[0x100..0x104].try_into().unwrap()), ram.0[0x200..0x206].to_vec())
        };
        let (outcome, data) = run(&mut device, 0x21 << 16 | DMA_SELECT | DMA_READ, 6, 0x200);
        assert_eq!((outcome, &data[..]), (0, &b"text\0\0"[..]));
        assert_eq!(run(&mut device, 0x21 << 16 | DMA_SELECT | DMA_SKIP, 2, 0).0, 0);
        assert_eq!(&run(&mut device, DMA_READ, 2, 0x200).1[..2], b"xt");
        assert_eq!(run(&mut device, DMA_WRITE, 2, 0x200).0, DMA_ERROR, "items are read-only");
        assert_eq!(run(&mut device, DMA_READ, 0x2000, 0x2000).0, DMA_ERROR, "beyond RAM");
        assert_eq!(run(&mut device, DMA_READ, u32::MAX, 0x200).0, DMA_ERROR, "too long");
        assert_eq!(run(&mut device, DMA_READ, 8, u64::MAX - 3).0, DMA_ERROR, "wraps");
        device.transfer(u64::MAX, &mut ram);
    }

    #[test]
    fn garbage_is_survived() {
        let mut device = device();
        let mut ram = Ram(vec![0; 0x1000]);
        let mut state = 1_u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (offset, size) = (state >> 33 & 0xf, 1 << (state >> 40 & 3));
            let bytes = state.to_le_bytes();
            if state >> 50 & 1 == 0 {
                let _ = device.read(offset, &mut [0; 8][..size]);
            } else if let Ok(Some(_)) = device.write(offset, &bytes[..size]) {
                ram.0[0x10..0x18].copy_from_slice(&bytes);
                device.transfer(state >> 20 & 0x1fff, &mut ram);
            }
        }
    }
}
