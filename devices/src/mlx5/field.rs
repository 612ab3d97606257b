//! Bit fields of the firmware interface: big-endian, numbered from the most significant bit of byte 0.

/// Position of a field inside a structure of the firmware interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    bit: u32,
    width: u32,
}

impl Field {
    /// A field of `width` bits (at most 64) that begins `bit` bits after the structure's start.
    pub const fn at(bit: u32, width: u32) -> Self {
        assert!(width >= 1 && width <= 64, "a field has 1 to 64 bits");
        Self { bit, width }
    }

    /// The same field of a structure embedded at byte `base` of a larger one.
    pub const fn within(self, base: u32) -> Self {
        Self { bit: self.bit + base * 8, width: self.width }
    }

    fn span(self) -> (usize, usize, u32) {
        let first = (self.bit / 8) as usize;
        let last = ((self.bit + self.width - 1) / 8) as usize;
        let below = 7 - (self.bit + self.width - 1) % 8;
        (first, last, below)
    }

    fn mask(self) -> u128 {
        (1 << self.width) - 1
    }

    /// The field's value in `data`. Bytes that `data` does not have read as zero.
    pub fn get(self, data: &[u8]) -> u64 {
        let (first, last, below) = self.span();
        let mut raw = 0u128;
        for index in first..=last {
            raw = raw << 8 | u128::from(data.get(index).copied().unwrap_or(0));
        }
        ((raw >> below) & self.mask()) as u64
    }

    /// The value as 32 bits, for fields no wider than that; a wider field is cut.
    pub fn get32(self, data: &[u8]) -> u32 {
        self.get(data) as u32
    }

    /// Whether any bit of the field is set.
    pub fn is_set(self, data: &[u8]) -> bool {
        self.get(data) != 0
    }

    /// Stores the low bits of `value`. Bytes that `data` does not have are left out.
    pub fn set(self, data: &mut [u8], value: u64) {
        let (first, last, below) = self.span();
        let mut bits = (u128::from(value) & self.mask()) << below;
        let mut mask = self.mask() << below;
        for index in (first..=last).rev() {
            if let Some(byte) = data.get_mut(index) {
                *byte = *byte & !(mask as u8) | bits as u8;
            }
            bits >>= 8;
            mask >>= 8;
        }
    }

    /// Copies the field from one structure to another of the same layout.
    pub fn copy(self, from: &[u8], to: &mut [u8]) {
        self.set(to, self.get(from));
    }
}

/// The big-endian half-word at byte `at`; zero where `bytes` ends before.
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u16::from_be_bytes(*chunk))
}

/// The big-endian word at byte `at`; zero where `bytes` ends before.
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_be_bytes(*chunk))
}

/// The big-endian double word at byte `at`; zero where `bytes` ends before.
pub fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_be_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::Field;

    #[test]
    fn a_field_inside_a_byte_leaves_its_neighbours() {
        let mut data = [0xff, 0xff];
        Field::at(3, 2).set(&mut data, 0);
        assert_eq!(data, [0b1110_0111, 0xff]);
        assert_eq!(Field::at(3, 2).get(&data), 0);
        assert_eq!(Field::at(0, 3).get(&data), 7);
    }

    #[test]
    fn a_field_across_bytes_is_big_endian() {
        let mut data = [0u8; 12];
        Field::at(20, 12).set(&mut data, 0xabc);
        assert_eq!(data[2..4], [0x0a, 0xbc]);
        let wide = Field::at(28, 64);
        wide.set(&mut data, 0x0123_4567_89ab_cdef);
        assert_eq!(wide.get(&data), 0x0123_4567_89ab_cdef);
        assert_eq!(Field::at(20, 8).get(&data), 0xab);
    }

    #[test]
    fn a_field_beyond_the_data_reads_zero_and_drops_writes() {
        let mut data = [0xffu8; 2];
        let field = Field::at(8, 16);
        assert_eq!(field.get(&data), 0xff00);
        field.set(&mut data, 0x1234);
        assert_eq!(data, [0xff, 0x12]);
    }

    #[test]
    fn within_moves_a_field_by_whole_bytes() {
        assert_eq!(Field::at(4, 4).within(2), Field::at(20, 4));
    }
}
