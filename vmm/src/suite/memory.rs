//! What RAM has to hold when a run has ended.

use crate::session::{Kept, MemoryRange};
use serde::{Deserialize, Deserializer, de};
use std::fmt::Write;

/// Bytes that a message shows from the first difference on.
const SHOWN: usize = 16;

/// Bytes at an address of the guest's physical memory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    pub address: u64,
    /// In hexadecimal in the file, blanks allowed between bytes.
    #[serde(deserialize_with = "bytes")]
    pub bytes: Vec<u8>,
}

impl Contents {
    pub(super) fn range(&self) -> MemoryRange {
        MemoryRange { address: self.address, length: self.bytes.len() }
    }

    /// The first address where this and `other` want different bytes.
    pub(super) fn contradicts(&self, other: &Self) -> Option<u64> {
        let from = self.address.max(other.address);
        let bytes = |of: &Self| of.bytes.get(usize::try_from(from - of.address).ok()?..).map(<[u8]>::to_vec);
        let (one, two) = (bytes(self)?, bytes(other)?);
        first_difference(&one, &two).map(|at| from + at as u64)
    }

    /// What is not as it should be in `kept`.
    pub(super) fn problem(&self, kept: &Kept) -> Option<String> {
        let found = match kept {
            Ok(found) => found,
            Err(error) => return Some(format!("memory cannot be compared: {error}")),
        };
        let at = first_difference(found, &self.bytes)?;
        let differ = found.iter().zip(&self.bytes).filter(|(found, wanted)| found != wanted).count();
        let (all, from) = (self.bytes.len(), self.address);
        Some(format!(
            "memory at {:#x} has {}, not {} ({differ} of the {all} bytes from {from:#x} on differ)",
            from + at as u64,
            shown(found, at),
            shown(&self.bytes, at)
        ))
    }
}

fn first_difference(one: &[u8], two: &[u8]) -> Option<usize> {
    one.iter().zip(two).position(|(one, two)| one != two)
}

/// Some of `bytes` from `at` on, in hexadecimal.
fn shown(bytes: &[u8], at: usize) -> String {
    let rest = bytes.get(at..).unwrap_or_default();
    let mut text = String::new();
    for byte in rest.iter().take(SHOWN) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}{byte:02x}", if text.is_empty() { "" } else { " " });
    }
    if rest.len() > SHOWN {
        text += " …";
    }
    text
}

fn bytes<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(input)?;
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|character| !character.is_whitespace())
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let pairs = digits.filter(|digits| !digits.is_empty()).map(|digits| {
        let (pairs, rest) = digits.as_chunks::<2>();
        rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
    });
    pairs
        .flatten()
        .ok_or_else(|| de::Error::custom("not bytes in hexadecimal, two digits each, as \"00 ff\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ram::NotRam;

    fn contents(address: u64, bytes: &str) -> Contents {
        toml::from_str(&format!("address = {address}\nbytes = '{bytes}'")).unwrap()
    }

    #[test]
    fn bytes_are_hexadecimal() {
        assert_eq!(contents(1, "00 fF7f").bytes, [0, 0xff, 0x7f]);
        for bad in ["bytes = ''", "bytes = '0'", "bytes = '0x00'", "bytes = 'ég'", "bytes = 5", ""] {
            assert!(toml::from_str::<Contents>(&format!("address = 0\n{bad}")).is_err(), "{bad}");
        }
        assert!(toml::from_str::<Contents>("address = -1\nbytes = '00'").is_err());
    }

    #[test]
    fn the_first_difference_is_shown_and_all_are_counted() {
        let wanted = contents(0x1000, "00 11 22 33");
        assert_eq!(wanted.problem(&Ok(vec![0, 0x11, 0x22, 0x33])), None);
        assert_eq!(
            wanted.problem(&Ok(vec![0, 0xff, 0x22, 0x34])).unwrap(),
            "memory at 0x1001 has ff 22 34, not 11 22 33 (2 of the 4 bytes from 0x1000 on differ)"
        );
        let long = contents(0, &"00".repeat(40)).problem(&Ok(vec![1; 40])).unwrap();
        assert!(long.contains("01 01 …, not 00 ") && long.contains("40 of the 40 bytes"), "{long}");
        let outside = wanted.problem(&Err(NotRam { address: 0x1000, length: 4 })).unwrap();
        assert_eq!(outside, "memory cannot be compared: no RAM at 0x1000 (4 bytes)");
    }

    #[test]
    fn overlaps_that_differ_are_contradictions() {
        let one = contents(0x1000, "00112233");
        assert_eq!(one.contradicts(&contents(0x1002, "2234ff")), Some(0x1003));
        assert_eq!(contents(0x1002, "2234ff").contradicts(&one), Some(0x1003));
        assert_eq!(one.contradicts(&contents(0x1002, "2233ff")), None);
        assert_eq!(one.contradicts(&contents(0x1004, "ff")), None);
        assert_eq!(one.contradicts(&contents(u64::MAX >> 1, "ff")), None);
    }
}
