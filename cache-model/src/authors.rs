//! Who stored each dirty byte of the cache: a log of stores, and for each byte an index into it.
//!
//! A store appends to the log and writes as many indices as it has bytes. When the log is full, what no dirty byte refers
//! to is dropped from it. Bytes that are not dirty have no meaningful index.

use serde::{Deserialize, Serialize};

use crate::finding::Writer;
use crate::mask::ByteMask;
use crate::run::Run;

/// The shortest log that is worth dropping anything from.
const SHORTEST: usize = 1 << 14;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Authors {
    /// For each byte of every slot.
    ids: Vec<u32>,
    log: Vec<Writer>,
    limit: usize,
}

impl Authors {
    /// For a cache of `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        Self { ids: vec![0; bytes], log: Vec::new(), limit: SHORTEST }
    }

    /// True if [`Authors::compact`] is due before the next [`Authors::note`].
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.log.len() >= self.limit
    }

    /// The `len` bytes at `at`, counted over all slots, are this writer's.
    #[inline(always)]
    pub fn note(&mut self, at: usize, len: usize, writer: Writer) {
        if self.log.last() != Some(&writer) {
            self.log.push(writer);
        }
        // Whoever notes keeps the log far below 2^32 entries.
        let id = (self.log.len() - 1) as u32;
        // Constant lengths become single moves.
        match self.ids.get_mut(at..) {
            Some([a, b, c, d, e, f, g, h, ..]) if len == 8 => {
                for byte in [a, b, c, d, e, f, g, h] {
                    *byte = id;
                }
            }
            Some([a, b, c, d, ..]) if len == 4 => {
                for byte in [a, b, c, d] {
                    *byte = id;
                }
            }
            Some([a, ..]) if len == 1 => *a = id,
            Some(rest) => rest.iter_mut().take(len).for_each(|byte| *byte = id),
            None => {}
        }
    }

    /// Who stored a dirty byte.
    pub fn of(&self, at: usize) -> Option<Writer> {
        self.log.get(*self.ids.get(at)? as usize).copied()
    }

    /// The runs of bytes by one writer each, lowest first, of the line that starts at `at`.
    pub fn runs(&self, at: usize, bytes: ByteMask, into: &mut Vec<Run>) {
        let ids = self.ids.get(at..).unwrap_or_default();
        for (first, len) in bytes.parts() {
            let (mut offset, end) = (first, first + len);
            while let Some(rest @ [id, ..]) = ids.get(offset..end) {
                let len = same(rest, *id);
                if let Some(&writer) = self.log.get(*id as usize) {
                    let run = Run::new(offset, len, writer);
                    // A part may go on in the next, and what a writer has stored twice has two indices.
                    match into.last_mut().and_then(|last| Some((last.and(run)?, last))) {
                        Some((both, last)) => *last = both,
                        None => into.push(run),
                    }
                }
                offset += len;
            }
        }
    }

    /// The indices of a slot's bytes, to be put back elsewhere.
    pub fn ids(&self, at: usize, len: usize) -> &[u32] {
        self.ids.get(at..at + len).unwrap_or_default()
    }

    pub fn put(&mut self, at: usize, ids: &[u32]) {
        if let Some(slots) = self.ids.get_mut(at..at + ids.len()) {
            slots.copy_from_slice(ids);
        }
    }

    /// Keeps only the writers of the given runs of bytes, each of a position and a length.
    pub fn compact(&mut self, dirty: impl Iterator<Item = (usize, usize)>) {
        const NEW: u32 = u32::MAX;
        let mut moved = vec![NEW; self.log.len()];
        let mut kept = Vec::with_capacity(self.limit);
        for (at, len) in dirty {
            // Neighbours mostly have one writer.
            let mut last = (NEW, NEW);
            for id in self.ids.get_mut(at..at + len).unwrap_or_default() {
                if *id != last.0 {
                    let (Some(to), Some(writer)) = (moved.get_mut(*id as usize), self.log.get(*id as usize))
                    else {
                        continue;
                    };
                    if *to == NEW {
                        *to = kept.len() as u32;
                        kept.push(*writer);
                    }
                    last = (*id, *to);
                }
                *id = last.1;
            }
        }
        self.limit = SHORTEST.max(kept.len() * 4);
        self.log = kept;
    }
}

/// How many of the first indices are this one.
#[inline]
fn same(ids: &[u32], id: u32) -> usize {
    // Most stores are of aligned words of 8 bytes or many.
    let words = ids.chunks_exact(8);
    let words = words.take_while(|word| word.iter().fold(0, |other, next| other | (next ^ id)) == 0).count();
    let rest = ids.get(words * 8..).unwrap_or_default();
    words * 8 + rest.iter().take_while(|next| **next == id).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_writers_when_the_log_is_compacted() {
        let mut authors = Authors::new(64);
        let mut expected = [0; 64];
        let mut stamp = 0;
        let mut compactions = 0;
        for round in 0..20_000_usize {
            let len = [8, 1, 4, 3, 16][round % 5];
            let at = (round * 7) % (64 - len);
            stamp += 1;
            if authors.is_full() {
                authors.compact([(0, 30), (30, 30)].into_iter());
                compactions += 1;
            }
            authors.note(at, len, Writer::cpu(0, 7, stamp));
            expected[at..at + len].fill(stamp);
        }
        assert!(compactions > 0 && authors.log.len() < SHORTEST);
        for (at, &stamp) in expected[..60].iter().enumerate() {
            assert_eq!(authors.of(at), Some(Writer::cpu(0, 7, stamp)), "{at}");
        }
    }

    #[test]
    fn one_instruction_takes_one_entry() {
        let mut authors = Authors::new(64);
        (0..8).for_each(|at| authors.note(at * 8, 8, Writer::cpu(1, 2, 3)));
        assert_eq!(authors.log.len(), 1);
    }
}
