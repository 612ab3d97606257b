//! A line in doubt: what is known of it beyond who stored its dirty bytes.
//!
//! Most lines have no record. A byte's coherent value is then the CPU's view of it, and it is in doubt only in RAM, where a
//! CPU has stored it (D, which [`crate::spill`] and the cache's slots keep).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::config::WriteBack;
use crate::finding::{Event, EventKind, Path, Writer};
use crate::mask::ByteMask;

/// The events of a line that are remembered.
const EVENTS: usize = 16;

/// The masks hold whether or not the line is resident: they say what some legal schedule could have done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which record this is, counted from the first.
    pub made: u64,
    /// W: written past the cache since the last invalidate or flush, so the cache may be older.
    pub bypassed: ByteMask,
    /// Bytes that some legal schedule has destroyed: W bytes under a dirty line, D bytes at an invalidation.
    pub destroyed: ByteMask,
    /// D bytes that a write-through store has meanwhile brought to RAM: dirty, yet in no doubt.
    pub through: ByteMask,
    /// Bytes whose coherent value is in `values`; any other byte's is the CPU's view.
    known: ByteMask,
    values: Vec<u8>,
    /// Bytes whose writer is here, not where D is kept.
    authored: ByteMask,
    /// For each byte, an index into `writers`.
    written_by: Vec<u8>,
    writers: Vec<Writer>,
    events: VecDeque<Event>,
}

impl Record {
    pub fn new(line: usize, made: u64) -> Self {
        Self { made, values: vec![0; line], written_by: vec![0; line], ..Self::default() }
    }

    /// True if the line is in no doubt any more.
    pub fn is_empty(&self) -> bool {
        [self.bypassed, self.destroyed, self.through, self.known].iter().all(|mask| mask.is_empty())
    }

    /// The bytes of which this path may show an old value while the newer exists, `stored` being D.
    pub fn stale(&self, path: Path, stored: ByteMask) -> ByteMask {
        match path {
            Path::Cache => self.bypassed,
            Path::Ram => stored.without(self.through),
        }
    }

    /// A byte's coherent value, if it is not (or may not be) the CPU's view.
    pub fn value(&self, offset: usize) -> Option<u8> {
        if self.known.contains(offset) { self.values.get(offset).copied() } else { None }
    }

    /// A byte's writer, if it is not among the authors of D.
    pub fn author(&self, offset: usize) -> Option<Writer> {
        if !self.authored.contains(offset) {
            return None;
        }
        self.writers.get(usize::from(*self.written_by.get(offset)?)).copied()
    }

    pub fn known(&self) -> ByteMask {
        self.known
    }

    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// Remembers an event, and of equal ones in a row the last. Where there is no room, fills and evictions go first: a schedule
    /// can make any number of them between what somebody has written and its being read.
    pub fn happened(&mut self, event: Event) {
        if let Some(last) = self.events.back_mut()
            && (last.kind, last.by, last.stamp) == (event.kind, event.by, event.stamp)
        {
            last.bytes = last.bytes.or(event.bytes);
            return;
        }
        if self.events.len() == EVENTS {
            let moves = |event: &Event| matches!(event.kind, EventKind::Fill | EventKind::Evict);
            let oldest = self.events.iter().position(moves).unwrap_or(0);
            self.events.remove(oldest);
        }
        self.events.push_back(event);
    }

    /// A CPU store to its cache: the CPU's view is the coherent one. `stored` is D, with these bytes.
    pub fn stored(&mut self, bytes: ByteMask, stored: ByteMask, write_back: WriteBack) {
        self.overwritten(bytes);
        self.through = self.through.without(bytes);
        self.clobber(stored, write_back);
    }

    /// A CPU store that also went to RAM at once.
    pub fn stored_through(&mut self, bytes: ByteMask, stored: ByteMask) {
        self.overwritten(bytes);
        self.through = self.through.or(bytes.and(stored));
    }

    /// A write to RAM of which the cache heard nothing.
    pub fn bypassed(&mut self, bytes: ByteMask, stored: ByteMask, write_back: WriteBack) {
        self.destroyed = self.destroyed.without(bytes);
        self.bypassed = self.bypassed.or(bytes);
        self.clobber(stored, write_back);
    }

    /// A write that RAM and the CPUs see, for which the line was flushed.
    pub fn flushed_and_written(&mut self, bytes: ByteMask) {
        self.flushed();
        self.overwritten(bytes);
    }

    pub fn cleaned(&mut self) {
        self.through = ByteMask::EMPTY;
    }

    pub fn flushed(&mut self) {
        self.cleaned();
        self.bypassed = ByteMask::EMPTY;
    }

    /// Whether D bytes had been written back before is the schedule's choice, so they are in doubt for good.
    pub fn invalidated(&mut self, stored: ByteMask) {
        self.destroyed = self.destroyed.or(stored.without(self.through));
        self.flushed();
    }

    /// Remembers a byte's coherent value.
    pub fn learn(&mut self, offset: usize, value: u8) {
        if let Some(slot) = self.values.get_mut(offset) {
            *slot = value;
            self.known.insert(offset);
        }
    }

    /// Remembers who wrote bytes.
    pub fn authored(&mut self, bytes: ByteMask, writer: Writer) {
        self.authored = self.authored.without(bytes);
        let index = self.writer_index(writer);
        for offset in bytes.iter() {
            if let Some(by) = self.written_by.get_mut(offset) {
                *by = index;
                self.authored.insert(offset);
            }
        }
    }

    /// Forgets the coherent value of bytes that both views hold.
    pub fn settle(&mut self, cpu: &[u8], ram: &[u8]) {
        let mut known = ByteMask::EMPTY;
        for offset in self.known.iter() {
            let value = self.values.get(offset);
            if cpu.get(offset) != value || ram.get(offset) != value {
                known.insert(offset);
            }
        }
        self.known = known;
        self.authored = self.authored.and(known.or(self.bypassed).or(self.destroyed));
    }

    fn overwritten(&mut self, bytes: ByteMask) {
        for mask in [&mut self.bypassed, &mut self.destroyed, &mut self.known, &mut self.authored] {
            *mask = mask.without(bytes);
        }
    }

    /// A write-back, possible at any time while the line may be dirty, destroys what was written past the cache.
    fn clobber(&mut self, stored: ByteMask, write_back: WriteBack) {
        let hit = match write_back {
            WriteBack::Line if stored.is_empty() => ByteMask::EMPTY,
            WriteBack::Line => self.bypassed,
            WriteBack::Bytes => self.bypassed.and(stored),
        };
        self.destroyed = self.destroyed.or(hit);
    }

    /// An index for this writer; one that no byte uses any more is taken over, so there are never more writers than bytes
    /// in a line.
    fn writer_index(&mut self, writer: Writer) -> u8 {
        let same = self.writers.iter().position(|known| *known == writer);
        let index = same.unwrap_or_else(|| {
            let mut used = ByteMask::EMPTY;
            for at in self.authored.iter() {
                used.insert(self.written_by.get(at).map_or(0, |by| usize::from(*by)));
            }
            let free = (0..self.writers.len()).find(|&index| !used.contains(index));
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

    const NONE: ByteMask = ByteMask::EMPTY;

    fn bytes(offset: usize, len: usize) -> ByteMask {
        ByteMask::range(offset, len)
    }

    fn doubtful(record: &Record, path: Path, stored: ByteMask) -> ByteMask {
        record.destroyed.or(record.stale(path, stored))
    }

    #[test]
    fn a_dirty_line_endangers_what_a_device_wrote() {
        let mut record = Record::new(64, 1);
        record.bypassed(bytes(0, 4), NONE, WriteBack::Line);
        assert_eq!(doubtful(&record, Path::Cache, NONE), bytes(0, 4));
        record.flushed();
        assert!(record.is_empty());
        record.stored(bytes(8, 1), bytes(8, 1), WriteBack::Line);
        record.bypassed(bytes(0, 4), bytes(8, 1), WriteBack::Line);
        record.flushed();
        assert_eq!(doubtful(&record, Path::Ram, NONE), bytes(0, 4));
        record.bypassed(bytes(0, 4), NONE, WriteBack::Line);
        record.flushed();
        assert!(record.is_empty());
    }

    #[test]
    fn byte_enables_endanger_only_the_same_byte() {
        let mut record = Record::new(64, 1);
        record.bypassed(bytes(0, 4), bytes(2, 4), WriteBack::Bytes);
        record.flushed();
        assert_eq!(doubtful(&record, Path::Ram, NONE), bytes(2, 2));
    }

    #[test]
    fn a_write_through_store_leaves_the_byte_dirty() {
        let stored = bytes(0, 4);
        let mut record = Record::new(64, 1);
        record.stored_through(bytes(0, 2), stored);
        assert_eq!(doubtful(&record, Path::Ram, stored), bytes(2, 2));
        record.bypassed(bytes(0, 1), stored, WriteBack::Bytes);
        assert_eq!(doubtful(&record, Path::Ram, stored), bytes(2, 2).or(bytes(0, 1)));
    }

    #[test]
    fn an_invalidation_leaves_stored_bytes_in_doubt() {
        let mut record = Record::new(64, 1);
        record.invalidated(bytes(0, 2));
        assert_eq!(doubtful(&record, Path::Cache, NONE), bytes(0, 2));
        assert_eq!(record.stale(Path::Cache, NONE), NONE);
        record.stored_through(bytes(0, 2), NONE);
        assert!(record.is_empty());
    }

    #[test]
    fn writers_are_bounded_by_the_line() {
        let mut record = Record::new(256, 1);
        for stamp in 0..10_000_u64 {
            let at = (stamp % 256) as usize;
            record.learn(at, stamp as u8);
            record.authored(bytes(at, 1), Writer::cpu(0, 0, stamp));
        }
        assert!(record.writers.len() <= 256);
        assert_eq!(record.value(15), Some(15));
        assert_eq!(record.author(15).map(|writer| writer.stamp), Some(9_999 / 256 * 256 + 15));
        record.settle(&[1; 256], &[1; 256]);
        assert_eq!((record.value(1), record.author(1)), (None, None));
        assert!(record.value(2).is_some());
    }

    #[test]
    fn the_last_events_are_kept() {
        let mut record = Record::new(64, 1);
        let event = |stamp| Event { kind: EventKind::Fill, by: None, stamp, bytes: NONE };
        (0..100).for_each(|stamp| record.happened(event(stamp / 2)));
        assert_eq!(
            record.events().map(|event| event.stamp).collect::<Vec<_>>(),
            (34..50).collect::<Vec<_>>()
        );
    }
}
