//! Packed decimal integers: eighteen digits, least significant first, and a sign in bit 79 (SDM volume 1, 4.7).

use super::format;

/// Stored for an invalid operand.
pub(super) const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;

const DIGITS: u32 = 18;

/// The value of a packed decimal, exact. Digits above nine, which the manual leaves undefined, count with their weight.
pub(super) fn to_extended(bits: u128) -> u128 {
    let magnitude = (0..DIGITS).rev().fold(0_i64, |sum, digit| sum * 10 + (bits >> (4 * digit) & 15) as i64);
    format::from_integer(magnitude) | bits & format::SIGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_and_signed() {
        assert_eq!(to_extended(0x12_3456), format::from_integer(123_456));
        assert_eq!(to_extended(format::SIGN | 0x99), format::from_integer(-99));
        assert_eq!(to_extended(format::SIGN), format::SIGN);
        let nines = (0..DIGITS).fold(0_u128, |bits, _| bits << 4 | 9);
        assert_eq!(to_extended(nines), format::from_integer(999_999_999_999_999_999));
        let highest = (1 << (4 * DIGITS)) - 1;
        assert_eq!(to_extended(highest), format::from_integer(1_666_666_666_666_666_665));
    }
}
