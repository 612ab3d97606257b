//! The digits of numbers and data in a trace.

/// The number that `text` begins with, and the number of its digits; `None` if there is none or it is too large.
#[inline]
pub fn decimal(text: &[u8]) -> Option<(u64, usize)> {
    let mut value: u64 = 0;
    let mut len = 0;
    while let Some(&byte @ b'0'..=b'9') = text.get(len) {
        len += 1;
        value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    (len > 0).then_some((value, len))
}

/// As [`decimal`].
#[inline]
pub fn hexadecimal(text: &[u8]) -> Option<(u64, usize)> {
    if let Some((value, rest)) = address(text) {
        return Some((value, text.len() - rest.len()));
    }
    let mut value: u64 = 0;
    let mut len = 0;
    while let Some(digit) = text.get(len).map(|&byte| digit(byte)).filter(|&digit| digit != NO_DIGIT) {
        len += 1;
        if value >> 60 != 0 {
            return None;
        }
        value = value << 4 | u64::from(digit);
    }
    (len > 0).then_some((value, len))
}

/// The hexadecimal number that `text` begins with, and what follows it, if it has at most fifteen digits and some text does
/// follow. Eight of them are read together.
#[inline]
pub fn address(text: &[u8]) -> Option<(u64, &[u8])> {
    let (eight, rest) = text.split_first_chunk()?;
    let eight = u64::from_le_bytes(*eight);
    if let Some((value, len)) = up_to_seven(eight) {
        return Some((value, text.get(len..).filter(|_| len > 0)?));
    }
    let high = u64::from(value(eight)?);
    let (low, len) = up_to_seven(u64::from_le_bytes(*rest.first_chunk()?))?;
    Some((high << (len * 4) | low, rest.get(len..)?))
}

/// Reads pairs of hexadecimal digits into the buffer, and gives what follows them.
#[inline]
pub fn pairs<'t>(text: &'t [u8], buffer: &mut Vec<u8>) -> &'t [u8] {
    buffer.clear();
    let mut rest = text;
    while let Some((eight, next)) = rest.split_first_chunk()
        && let eight = u64::from_le_bytes(*eight)
        && low_bytes(eight) == 0
        && let Some(value) = value(eight)
    {
        buffer.extend_from_slice(&value.to_be_bytes());
        rest = next;
    }
    while let [high, low, next @ ..] = rest
        && let (high, low) = (digit(*high), digit(*low))
        && (high | low) & NO_DIGIT == 0
    {
        buffer.push(high << 4 | low);
        rest = next;
    }
    rest
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Has the top bit of the lowest byte that is below `0`; above it, the bits mean nothing.
#[inline]
fn low_bytes(bytes: u64) -> u64 {
    bytes.wrapping_sub(ONES * 0x30) & !bytes & ONES << 7
}

/// The hexadecimal number that these bytes, the first lowest, begin with, or 0 of no digits, if it ends among them at a byte
/// below `0` and nothing else is between. How long an address is would be hard to predict.
#[inline]
fn up_to_seven(bytes: u64) -> Option<(u64, usize)> {
    let len = low_bytes(bytes).trailing_zeros() / 8;
    // Zeros in front make it eight digits.
    let digits = value(bytes.unbounded_shl(64 - len * 8))?;
    (len < 8).then_some((u64::from(digits), len as usize))
}

/// The number that these bytes are, the first and most significant lowest, if all are hexadecimal digits or zero. None but
/// zeros are below `0`.
#[inline]
fn value(text: u64) -> Option<u32> {
    let low = text & (ONES * 0xf);
    let letter = text >> 6 & ONES;
    let digits = low + letter * 9;
    let letter = letter << 4;
    let bad = text & ONES << 7                      // no ASCII
        | (low + ONES * 6) & !letter & ONES << 4    // : to ?
        | digits & ONES << 4                        // g to o
        | text & letter                             // p and on
        | !(low + ONES * 0xf) & letter; // @ and the grave accent
    if bad != 0 {
        return None;
    }
    // Pairs of digits, then of bytes, then of words move together.
    let mut value = digits.swap_bytes();
    value = (value | value >> 4) & 0x00ff_00ff_00ff_00ff;
    value = (value | value >> 8) & 0x0000_ffff_0000_ffff;
    Some((value | value >> 16) as u32)
}

/// What [`digit`] gives for anything else; no digit has a bit in common with it.
const NO_DIGIT: u8 = 0xf0;

/// The value of a hex digit.
#[inline]
fn digit(byte: u8) -> u8 {
    const VALUES: [u8; 256] = {
        let mut values = [NO_DIGIT; 256];
        let mut digit = 0;
        while digit < 16 {
            values[b"0123456789abcdef"[digit] as usize] = digit as u8;
            values[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
            digit += 1;
        }
        values
    };
    VALUES[usize::from(byte)]
}
