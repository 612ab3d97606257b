//! The escape key of an interactive console: Ctrl-A x leaves, Ctrl-A Ctrl-A sends one Ctrl-A.

const CTRL_A: u8 = 1;

/// Filters typed bytes.
#[derive(Debug, Default)]
pub(super) struct Escape {
    /// The last byte was the escape key.
    armed: bool,
}

impl Escape {
    /// Appends to `guest` what of `typed` is for the guest; returns true if the user wants to leave.
    pub(super) fn filter(&mut self, typed: &[u8], guest: &mut Vec<u8>) -> bool {
        for &byte in typed {
            match (std::mem::take(&mut self.armed), byte) {
                (false, CTRL_A) => self.armed = true,
                (true, b'x' | b'X') => return true,
                (true, CTRL_A) => guest.push(CTRL_A),
                (true, other) => guest.extend([CTRL_A, other]),
                (false, other) => guest.push(other),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let (mut escape, mut guest) = (Escape::default(), Vec::new());
        let left = parts.iter().any(|part| escape.filter(part, &mut guest));
        (guest, left)
    }

    #[test]
    fn keys_go_to_the_guest_but_the_escape() {
        assert_eq!(filter(&[b"ls\r"]), (b"ls\r".to_vec(), false));
        assert_eq!(filter(&[b"a\x01", b"xb"]), (b"a".to_vec(), true));
        assert_eq!(filter(&[b"\x01\x01x"]), (b"\x01x".to_vec(), false));
        assert_eq!(filter(&[b"\x01k"]), (b"\x01k".to_vec(), false));
        assert_eq!(filter(&[b"\x01X"]), (vec![], true));
    }
}
