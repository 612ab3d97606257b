//! MSI-X table and pending bits (PCI 3.0, 6.8.2).

use crate::bus::{Access, AccessError};
use crate::state::{State, same};
use serde::{Deserialize, Serialize};

/// Most vectors a function can have.
pub(super) const MAX_VECTORS: u16 = 2048;

const ENTRY_SIZE: u64 = 16;
const ENTRY_MASKED: u32 = 1;

/// Table and pending bits, each in one half of a BAR of their own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Msix {
    /// Address low, address high, data, vector control.
    table: Vec<[u32; 4]>,
    pending: Vec<u64>,
    enabled: bool,
    function_masked: bool,
}

impl State for Msix {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same((self.table.len(), self.pending.len()) == (saved.table.len(), saved.pending.len()))
    }
}

impl Msix {
    pub fn new(vectors: u16) -> Self {
        let vectors = usize::from(vectors);
        Self {
            table: vec![[0, 0, 0, ENTRY_MASKED]; vectors],
            pending: vec![0; vectors.div_ceil(64)],
            enabled: false,
            function_masked: false,
        }
    }

    /// Where the pending bits are: the middle of the BAR.
    pub fn pba_offset(vectors: u16) -> u32 {
        (u32::from(vectors) * ENTRY_SIZE as u32).next_power_of_two().max(0x800)
    }

    pub fn bar_size(vectors: u16) -> u64 {
        u64::from(Self::pba_offset(vectors)) * 2
    }

    pub fn reset(&mut self) {
        *self = Self::new(self.table.len() as u16);
    }

    /// Follows Message Control.
    pub fn set_control(&mut self, enabled: bool, function_masked: bool) {
        self.enabled = enabled;
        self.function_masked = function_masked;
    }

    /// MSI-X Enable is set.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn message(&self, vector: usize) -> Option<(u64, u32)> {
        let &[low, high, data, control] = self.table.get(vector)?;
        let masked = self.function_masked || control & ENTRY_MASKED != 0;
        (!masked).then_some((u64::from(low) | (u64::from(high) << 32), data))
    }

    /// Signals `vector`: the message to send now, or `None` if it is pending, or dropped because MSI-X is disabled
    /// or there is no such vector. `may_send` is false while the function may not master the bus.
    pub fn raise(&mut self, vector: u16, may_send: bool) -> Option<(u64, u32)> {
        let vector = usize::from(vector);
        if !self.enabled || vector >= self.table.len() {
            return None;
        }
        let message = if may_send { self.message(vector) } else { None };
        if message.is_none()
            && let Some(word) = self.pending.get_mut(vector / 64)
        {
            *word |= 1 << (vector % 64);
        }
        message
    }

    /// Takes a pending message that is masked no longer.
    pub fn take_unmasked(&mut self) -> Option<(u64, u32)> {
        if !self.enabled || self.function_masked {
            return None;
        }
        for index in 0..self.pending.len() {
            let mut left = self.pending.get(index).copied().unwrap_or(0);
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                if let Some(message) = self.message(index * 64 + bit as usize) {
                    if let Some(word) = self.pending.get_mut(index) {
                        *word &= !(1 << bit);
                    }
                    return Some(message);
                }
            }
        }
        None
    }

    /// Reads the BAR: aligned accesses of 4 or 8 bytes (PCI, 6.8.2).
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Access {
        check(offset, data.len())?;
        for (chunk, at) in data.chunks_exact_mut(4).zip((offset..).step_by(4)) {
            chunk.copy_from_slice(&self.read_dword(at).to_le_bytes());
        }
        Ok(())
    }

    /// Writes the BAR: aligned accesses of 4 or 8 bytes. Pending bits are read-only.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Access {
        check(offset, data.len())?;
        for (chunk, at) in data.chunks_exact(4).zip((offset..).step_by(4)) {
            let value = chunk.iter().rev().fold(0, |value, &byte| (value << 8) | u32::from(byte));
            let (entry, field) = ((at / ENTRY_SIZE) as usize, (at % ENTRY_SIZE / 4) as usize);
            if let Some(slot) = self.table.get_mut(entry).and_then(|entry| entry.get_mut(field)) {
                *slot = match field {
                    0 => value & !3,
                    3 => value & ENTRY_MASKED,
                    _ => value,
                };
            }
        }
        Ok(())
    }

    fn read_dword(&self, offset: u64) -> u32 {
        let pba = u64::from(Self::pba_offset(self.table.len() as u16));
        match offset.checked_sub(pba) {
            None => {
                let (entry, field) = ((offset / ENTRY_SIZE) as usize, (offset % ENTRY_SIZE / 4) as usize);
                self.table.get(entry).and_then(|entry| entry.get(field)).copied().unwrap_or(0)
            }
            Some(offset) => {
                let word = self.pending.get((offset / 8) as usize).copied().unwrap_or(0);
                (word >> (offset % 8 * 8)) as u32
            }
        }
    }
}

fn check(offset: u64, size: usize) -> Access {
    match size {
        4 | 8 if offset.is_multiple_of(size as u64) => Ok(()),
        4 | 8 => Err(AccessError::Unaligned),
        _ => Err(AccessError::BadSize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(msix: &Msix, offset: u64) -> u32 {
        let mut data = [0; 4];
        msix.read(offset, &mut data).unwrap();
        u32::from_le_bytes(data)
    }

    #[test]
    fn masked_vectors_wait_and_are_sent_once() {
        let mut msix = Msix::new(70);
        assert_eq!(msix.raise(65, true), None, "disabled");
        msix.set_control(true, false);
        msix.write(65 * 16, &0xfee0_1003_u64.to_le_bytes()).unwrap();
        msix.write(65 * 16 + 8, &0x41u32.to_le_bytes()).unwrap();
        assert_eq!(msix.raise(65, true), None, "masked after reset");
        assert_eq!(read(&msix, 0x800 + 8), 1 << 1);
        assert_eq!(msix.take_unmasked(), None);
        msix.write(65 * 16 + 12, &[0; 4]).unwrap();
        assert_eq!(msix.take_unmasked(), Some((0xfee0_1000, 0x41)));
        assert_eq!(msix.take_unmasked(), None);
        assert_eq!(msix.raise(65, true), Some((0xfee0_1000, 0x41)));
        msix.set_control(true, true);
        assert_eq!(msix.raise(65, true), None);
        msix.set_control(true, false);
        assert_eq!(msix.raise(65, false), None, "may not send");
        assert_eq!(msix.take_unmasked(), Some((0xfee0_1000, 0x41)));
        assert_eq!(msix.raise(70, true), None, "no such vector");
    }

    #[test]
    fn accesses_are_checked() {
        let mut msix = Msix::new(1);
        assert_eq!(msix.read(1, &mut [0; 2]), Err(AccessError::BadSize));
        assert_eq!(msix.write(4, &[0; 8]), Err(AccessError::Unaligned));
        msix.write(0x800, &[0xff; 8]).unwrap();
        assert_eq!(read(&msix, 0x800), 0, "pending bits are read-only");
        msix.write(16, &[0xff; 8]).unwrap();
        assert_eq!(read(&msix, 16), 0, "past the table");
        assert_eq!(Msix::bar_size(2048), 65_536);
    }
}
