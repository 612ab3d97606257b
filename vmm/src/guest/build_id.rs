//! Build-ids: what a linker has put into an image to tell it from all others.

use std::fmt;

/// The name of a note of the GNU tools, with its NUL.
const GNU: &[u8] = b"GNU\0";
/// NT_GNU_BUILD_ID (elf.h).
const NT_GNU_BUILD_ID: u32 = 3;
/// Longest build-id: 20 bytes are usual, and most that Linux itself takes.
const MAX: usize = 64;

/// A build-id, printed in hex as file(1) does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// The build-id among `notes`: a section of ELF notes, 4-byte aligned.
    pub(super) fn in_notes(notes: &[u8]) -> Option<Self> {
        let mut rest = notes;
        while let Some((header, after)) = rest.split_first_chunk::<12>() {
            let word =
                |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let padded = |length: u32| (length as usize).next_multiple_of(4);
            let (name, description) = (word(0), word(4));
            let content = after.get(padded(name)..)?;
            let value = content.get(..description as usize)?;
            if word(8) == NT_GNU_BUILD_ID && after.get(..name as usize) == Some(GNU) {
                return (1..=MAX).contains(&value.len()).then(|| Self(value.to_owned()));
            }
            rest = content.get(padded(description)..)?;
        }
        None
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, value.len() as u32, kind] {
            note.extend(word.to_le_bytes());
        }
        for part in [name, value] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let notes =
            [note(b"Xen\0", 6, b"linux\0"), note(b"GNU\0", 1, &[0; 16]), note(GNU, 3, &[0xab, 1, 0xff])]
                .concat();
        assert_eq!(BuildId::in_notes(&notes).unwrap().to_string(), "ab01ff");
        assert_eq!(BuildId::in_notes(&notes[..notes.len() - 4]), None);
        assert_eq!(BuildId::in_notes(&note(GNU, 3, &[])), None);
    }

    proptest! {
        #[test]
        fn wild_notes_are_survived(notes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = BuildId::in_notes(&notes);
        }

        #[test]
        fn wild_lengths_are_survived(name in 0..40_u32, length: u32, rest in prop::collection::vec(any::<u8>(), 0..64)) {
            let header = [name, length, 3].map(u32::to_le_bytes).concat();
            let _ = BuildId::in_notes(&[header, rest].concat());
        }
    }
}
