//! Bytes that both sides can compute: a pattern to write, a checksum of what was read.

/// Byte `index` of the pattern with seed `seed`: in words of 8 bytes, little-endian, each the product of its number and the
/// seed with an odd constant, its halves folded. Neighbouring seeds have no byte in common for long.
#[must_use]
pub fn pattern(seed: u64, index: u64) -> u8 {
    let word = seed.wrapping_add(index / 8).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let folded = word ^ word >> 32;
    (folded >> (index % 8 * 8)) as u8
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo), of bytes given piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum(pub u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    /// Takes more bytes.
    #[must_use]
    pub fn over(self, bytes: &[u8]) -> Self {
        let step = |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        Self(bytes.iter().fold(self.0, step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(Checksum::default().over(b"a").0, 0xaf63_dc4c_8601_ec8c);
        assert_eq!(Checksum::default().over(b"foo").over(b"bar").0, 0x8594_4171_f739_67e8);
    }

    #[test]
    fn patterns_differ_everywhere() {
        let differing = (0..4096).filter(|&index| pattern(1, index) != pattern(2, index)).count();
        assert!(differing > 4000, "{differing}");
        assert!((0..4096).filter(|&index| pattern(7, index) != pattern(7, index + 64)).count() > 4000);
    }
}
