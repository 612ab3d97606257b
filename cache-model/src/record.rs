//! One line's side state: which bytes are in doubt, and what a coherent machine would hold.

use serde::{Deserialize, Serialize};

use crate::config::WriteBack;
use crate::finding::{LineState, Path, Writer, Written};
use crate::mask::ByteMask;

/// The masks hold whether or not the line is resident: they say what some legal schedule could have done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// D: stored by a CPU since the last clean, so RAM may be older.
    stored: ByteMask,
    /// Bytes that may still be dirty in the cache: D, and what a write-through store has meanwhile brought to RAM.
    dirty: ByteMask,
    /// W: written past the cache since the last invalidate or flush, so the cache may be older.
    bypassed: ByteMask,
    /// Bytes that some legal schedule has destroyed: W bytes under a dirty line, D bytes at an invalidation.
    destroyed: ByteMask,
    /// Bytes whose coherent value is in `coherent`; any other byte's is the same in both views.
    known: ByteMask,
    coherent: Vec<u8>,
    /// For each byte, an index into `writers`.
    written_by: Vec<u8>,
    writers: Vec<Writer>,
}

impl Record {
    pub fn is_empty(&self) -> bool {
        [self.stored, self.dirty, self.bypassed, self.destroyed, self.known].iter().all(|m| m.is_empty())
    }

    /// The bytes that two legal schedules could show differently on this path.
    pub fn doubtful(&self, path: Path) -> ByteMask {
        self.destroyed.or(self.stale(path))
    }

    /// The bytes of which this path may show an old value while the newer exists.
    pub fn stale(&self, path: Path) -> ByteMask {
        match path {
            Path::Cache => self.bypassed,
            Path::Ram => self.stored,
        }
    }

    /// A byte's coherent value and writer, if the two views do not settle it.
    pub fn coherent(&self, offset: usize) -> Option<(u8, Writer)> {
        if !self.known.contains(offset) {
            return None;
        }
        let value = *self.coherent.get(offset)?;
        let writer = *self.writers.get(usize::from(*self.written_by.get(offset)?))?;
        Some((value, writer))
    }

    /// Adds what is recorded to a state that holds the line's views.
    pub fn describe(&self, state: &mut LineState) {
        state.stored = self.stored;
        state.bypassed = self.bypassed;
        state.destroyed = self.destroyed;
        for (offset, slot) in state.coherent.iter_mut().enumerate() {
            let Some((value, writer)) = self.coherent(offset) else { continue };
            *slot = value;
            match state.writers.last_mut() {
                Some(run) if run.writer == writer && run.offset + run.len == offset => run.len += 1,
                _ => state.writers.push(Written { offset, len: 1, writer }),
            }
        }
    }

    /// A CPU store that makes the line dirty.
    pub fn stored(&mut self, bytes: ByteMask, write_back: WriteBack) {
        self.overwritten(bytes);
        self.stored = self.stored.or(bytes);
        self.dirty = self.dirty.or(bytes);
        self.clobber(write_back);
    }

    /// A CPU store that also goes to RAM at once.
    pub fn stored_through(&mut self, bytes: ByteMask) {
        self.overwritten(bytes);
    }

    /// A write to RAM of which the cache hears nothing.
    pub fn bypassed(&mut self, bytes: ByteMask, write_back: WriteBack) {
        self.destroyed = self.destroyed.without(bytes);
        self.bypassed = self.bypassed.or(bytes);
        self.clobber(write_back);
    }

    /// A write that RAM and the CPUs see, for which the line was flushed.
    pub fn flushed_and_written(&mut self, bytes: ByteMask) {
        self.flushed();
        self.overwritten(bytes);
    }

    pub fn cleaned(&mut self) {
        self.stored = ByteMask::EMPTY;
        self.dirty = ByteMask::EMPTY;
    }

    pub fn flushed(&mut self) {
        self.cleaned();
        self.bypassed = ByteMask::EMPTY;
    }

    /// Whether D bytes had been written back before is the schedule's choice, so they are in doubt for good.
    pub fn invalidated(&mut self) {
        self.destroyed = self.destroyed.or(self.stored);
        self.flushed();
    }

    /// Remembers written bytes as coherent, at `offset` of a line of `line` bytes.
    pub fn learn(&mut self, line: usize, offset: usize, data: &[u8], writer: Writer) {
        self.coherent.resize(line, 0);
        self.written_by.resize(line, 0);
        let bytes = ByteMask::range(offset, data.len());
        self.known = self.known.without(bytes);
        let index = self.writer_index(writer);
        let slots = self.coherent.iter_mut().zip(&mut self.written_by).skip(offset);
        for ((value, by), new) in slots.zip(data) {
            *value = *new;
            *by = index;
        }
        self.known = self.known.or(bytes);
    }

    /// Forgets the coherent value of bytes that both views hold.
    pub fn settle(&mut self, cpu: &[u8], ram: &[u8]) {
        let mut known = ByteMask::EMPTY;
        for offset in self.known.iter() {
            let coherent = self.coherent.get(offset);
            if cpu.get(offset) != coherent || ram.get(offset) != coherent {
                known.insert(offset);
            }
        }
        self.known = known;
        if known.is_empty() {
            self.coherent = Vec::new();
            self.written_by = Vec::new();
            self.writers = Vec::new();
        }
    }

    pub fn has_coherent(&self) -> bool {
        !self.known.is_empty()
    }

    fn overwritten(&mut self, bytes: ByteMask) {
        self.stored = self.stored.without(bytes);
        self.bypassed = self.bypassed.without(bytes);
        self.destroyed = self.destroyed.without(bytes);
    }

    /// A write-back, possible at any time while the line may be dirty, destroys what was written past the cache.
    fn clobber(&mut self, write_back: WriteBack) {
        let hit = match write_back {
            WriteBack::Line if self.dirty.is_empty() => ByteMask::EMPTY,
            WriteBack::Line => self.bypassed,
            WriteBack::Bytes => self.bypassed.and(self.dirty),
        };
        self.destroyed = self.destroyed.or(hit);
    }

    /// An index for this writer; one that no known byte uses any more is taken over, so there are never more writers
    /// than bytes in a line.
    fn writer_index(&mut self, writer: Writer) -> u8 {
        let same = self.writers.iter().position(|known| *known == writer);
        let index = same.unwrap_or_else(|| {
            let used = |index: usize| {
                self.known
                    .iter()
                    .any(|at| self.written_by.get(at).is_some_and(|by| usize::from(*by) == index))
            };
            let free = (0..self.writers.len()).find(|&index| !used(index));
            free.unwrap_or(self.writers.len())
        });
        match self.writers.get_mut(index) {
            Some(slot) => *slot = writer,
            None => self.writers.push(writer),
        }
        u8::try_from(index).unwrap_or(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(offset: usize, len: usize) -> ByteMask {
        ByteMask::range(offset, len)
    }

    #[test]
    fn a_dirty_line_endangers_what_a_device_wrote() {
        let mut record = Record::default();
        record.bypassed(bytes(0, 4), WriteBack::Line);
        assert_eq!(record.doubtful(Path::Cache), bytes(0, 4));
        record.flushed();
        assert!(record.is_empty());
        record.stored(bytes(8, 1), WriteBack::Line);
        record.bypassed(bytes(0, 4), WriteBack::Line);
        record.flushed();
        assert_eq!(record.doubtful(Path::Ram), bytes(0, 4));
        record.bypassed(bytes(0, 4), WriteBack::Line);
        record.flushed();
        assert!(record.is_empty());
    }

    #[test]
    fn byte_enables_endanger_only_the_same_byte() {
        let mut record = Record::default();
        record.stored(bytes(2, 4), WriteBack::Bytes);
        record.bypassed(bytes(0, 4), WriteBack::Bytes);
        record.flushed();
        assert_eq!(record.doubtful(Path::Ram), bytes(2, 2));
    }

    #[test]
    fn a_write_through_store_leaves_the_byte_dirty() {
        let mut record = Record::default();
        record.stored(bytes(0, 4), WriteBack::Bytes);
        record.stored_through(bytes(0, 2));
        assert_eq!(record.doubtful(Path::Ram), bytes(2, 2));
        record.bypassed(bytes(0, 1), WriteBack::Bytes);
        assert_eq!(record.doubtful(Path::Ram), bytes(2, 2).or(bytes(0, 1)));
    }

    #[test]
    fn an_invalidation_leaves_stored_bytes_in_doubt() {
        let mut record = Record::default();
        record.stored(bytes(0, 2), WriteBack::Line);
        record.invalidated();
        assert_eq!(record.doubtful(Path::Cache), bytes(0, 2));
        assert_eq!(record.stale(Path::Cache), ByteMask::EMPTY);
        record.stored_through(bytes(0, 2));
        assert!(record.is_empty());
    }

    #[test]
    fn writers_are_bounded_by_the_line() {
        let mut record = Record::default();
        for stamp in 0..10_000_u64 {
            let writer = Writer::cpu(0, 0, stamp);
            record.learn(256, (stamp % 256) as usize, &[stamp as u8], writer);
        }
        assert!(record.writers.len() <= 256);
        let (value, writer) = record.coherent(15).unwrap();
        assert_eq!((value, writer.stamp), (15, 9_999 / 256 * 256 + 15));
        record.settle(&[1; 256], &[1; 256]);
        assert_eq!(record.coherent(1), None);
        assert!(record.coherent(2).is_some());
    }
}
