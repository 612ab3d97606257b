//! What CPUs have stored in lines that have left the cache: RAM holds it now, but by another schedule it might not yet.
//!
//! A queue of entries, the oldest first, and the place of each line's. A line that is stored to again and leaves again has
//! its entry renewed where it is, or gets a new one if that is too small. When room is needed, entries that no line points
//! to are dropped, then the oldest; one that has been renewed since it came to the front goes to the back instead.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::finding::{Agent, Writer, Written};
use crate::geometry::MAX_LINE;
use crate::line_map::LineMap;
use crate::mask::ByteMask;

/// Words of the queue for each line that may be kept, on average: five runs of bytes by different writers.
const WORDS_A_LINE: usize = 20;
/// Line, layout and stamp, which the mask and the runs follow.
const HEAD: usize = 3;
const RUN: usize = 3;
/// In the word of the layout: the entry's words, how many of its runs are used, and whether it has been renewed.
const LEN: u64 = 0xffff_ffff;
const RUNS_SHIFT: u32 = 32;
const RUNS: u64 = 0xffff;
const RENEWED: u64 = 1 << 63;

/// D of one line outside the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spilled {
    /// The stored bytes.
    pub bytes: ByteMask,
    /// When the line left, or was written back where it is.
    pub stamp: u64,
    /// Whose they are, lowest first.
    pub writers: Vec<Written>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spill {
    /// An entry: line, layout, stamp, mask, runs.
    words: VecDeque<u64>,
    /// How many words have ever left the queue: the place of its front.
    front: u64,
    places: LineMap<u64>,
    /// Words of entries that a line points to.
    live: usize,
    lines: usize,
    mask_words: usize,
    forgotten: u64,
}

impl Spill {
    /// For at most `lines` lines of `line` bytes each.
    pub fn new(lines: usize, line: usize) -> Self {
        Self {
            words: VecDeque::new(),
            front: 0,
            places: LineMap::default(),
            live: 0,
            lines,
            mask_words: line.div_ceil(64),
            forgotten: 0,
        }
    }

    /// How many lines were forgotten for want of room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub fn bytes(&self, line: u64) -> ByteMask {
        self.place(line).map_or(ByteMask::EMPTY, |at| self.mask(at))
    }

    pub fn get(&self, line: u64) -> Option<Spilled> {
        let at = self.place(line)?;
        let runs = self.word(at + 1) >> RUNS_SHIFT & RUNS;
        let first = at + HEAD + self.mask_words;
        let writers = (0..runs as usize).map(|run| self.run(first + run * RUN)).collect();
        Some(Spilled { bytes: self.mask(at), stamp: self.word(at + 2), writers })
    }

    /// Keeps what was stored in a line, beside what is known of its other bytes.
    pub fn add(&mut self, line: u64, bytes: ByteMask, stamp: u64, writers: &[Written]) {
        let Some(at) = self.place(line) else { return self.push(line, bytes, stamp, writers) };
        let known = self.mask(at);
        if known.without(bytes).is_empty() {
            return self.renew(line, at, bytes, stamp, writers);
        }
        let mut merged = writers.to_vec();
        for run in self.get(line).map(|old| old.writers).unwrap_or_default() {
            let rest = ByteMask::range(run.offset, run.len).without(bytes);
            merged.extend(rest.runs().map(|(offset, len)| Written { offset, len, ..run }));
        }
        merged.sort_unstable_by_key(|run| run.offset);
        self.renew(line, at, bytes.or(known), stamp, &merged);
    }

    fn renew(&mut self, line: u64, at: usize, bytes: ByteMask, stamp: u64, writers: &[Written]) {
        let len = self.len_at(at);
        if HEAD + self.mask_words + writers.len() * RUN > len {
            self.remove(line);
            return self.push(line, bytes, stamp, writers);
        }
        let layout = RENEWED | layout(len, writers.len());
        let mask = bytes.words().into_iter().take(self.mask_words);
        let words = [layout, stamp].into_iter().chain(mask).chain(writers.iter().flat_map(run_words));
        for (to, from) in self.words.range_mut(at + 1..at + len).zip(words) {
            *to = from;
        }
    }

    fn push(&mut self, line: u64, bytes: ByteMask, stamp: u64, writers: &[Written]) {
        if self.lines == 0 {
            return;
        }
        // Some room to grow in.
        let len = HEAD + self.mask_words + writers.len().next_multiple_of(2) * RUN;
        self.make_room(len);
        let place = self.front + self.words.len() as u64;
        self.places.insert(line, place);
        self.live += len;
        self.words.extend([line, layout(len, writers.len()), stamp]);
        self.words.extend(bytes.words().into_iter().take(self.mask_words));
        writers.iter().for_each(|run| self.words.extend(run_words(run)));
        self.words.resize((place - self.front) as usize + len, 0);
    }

    /// The line's bytes are in RAM under any schedule.
    pub fn remove(&mut self, line: u64) {
        if let Some(place) = self.places.remove(line) {
            self.live = self.live.saturating_sub(self.len_at(place.saturating_sub(self.front) as usize));
        }
    }

    pub fn clear(&mut self) {
        self.words.clear();
        self.front = 0;
        self.places.clear();
        self.live = 0;
    }

    /// The lines with anything stored, lowest first.
    pub fn lines(&self) -> Vec<u64> {
        self.places.lines()
    }

    fn make_room(&mut self, len: usize) {
        let capacity = self.lines.saturating_mul(WORDS_A_LINE).max(HEAD + MAX_LINE * RUN + 4);
        if self.words.len() + len > capacity && self.live + len <= capacity / 2 {
            self.compact();
        }
        while !self.words.is_empty()
            && (self.words.len() + len > capacity || self.places.len() >= self.lines.max(1))
        {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        let (line, len) = (self.word(0), self.len_at(0).min(self.words.len()));
        let lives = self.places.get(line) == Some(&self.front);
        if lives && self.word(1) & RENEWED != 0 {
            let place = self.front + self.words.len() as u64;
            self.places.insert(line, place);
            if let Some(layout) = self.words.get_mut(1) {
                *layout &= !RENEWED;
            }
            self.words.rotate_left(len);
        } else {
            if lives {
                self.remove(line);
                self.forgotten = self.forgotten.saturating_add(1);
            }
            self.words.drain(..len);
        }
        self.front += len as u64;
    }

    /// Drops the entries that no line points to.
    fn compact(&mut self) {
        let mut kept = VecDeque::with_capacity(self.words.len());
        let mut at = 0;
        while at < self.words.len() {
            let (line, len) = (self.word(at), self.len_at(at));
            if let Some(place) = self.places.get_mut(line)
                && *place == self.front + at as u64
            {
                *place = kept.len() as u64;
                kept.extend(self.words.range(at..at + len));
            }
            at += len;
        }
        self.words = kept;
        self.front = 0;
    }

    fn place(&self, line: u64) -> Option<usize> {
        self.places.get(line).map(|place| place.saturating_sub(self.front) as usize)
    }

    fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or_default()
    }

    /// The words of the entry at `at`; never none, so that a walk ends.
    fn len_at(&self, at: usize) -> usize {
        (self.word(at + 1) & LEN).max(1) as usize
    }

    fn mask(&self, at: usize) -> ByteMask {
        let mut words = [0; 4];
        for (index, word) in words.iter_mut().enumerate().take(self.mask_words) {
            *word = self.word(at + HEAD + index);
        }
        ByteMask::from_words(words)
    }

    fn run(&self, at: usize) -> Written {
        let place = self.word(at);
        let number = (place >> 32) as u32;
        let agent = if place >> 31 & 1 == 0 { Agent::Cpu(number) } else { Agent::Device(number) };
        let writer = Writer { agent, ip: self.word(at + 1), stamp: self.word(at + 2) };
        Written { offset: (place & 0xfff) as usize, len: (place >> 12 & 0xfff) as usize, writer }
    }
}

fn layout(len: usize, runs: usize) -> u64 {
    len as u64 | (runs as u64) << RUNS_SHIFT
}

fn run_words(run: &Written) -> [u64; RUN] {
    let (kind, number) = match run.writer.agent {
        Agent::Cpu(cpu) => (0, cpu),
        Agent::Device(device) => (1, device),
    };
    let place = run.offset as u64 | (run.len as u64) << 12 | kind << 31 | u64::from(number) << 32;
    [place, run.writer.ip, run.writer.stamp]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(offset: usize, len: usize, stamp: u64) -> Written {
        Written { offset, len, writer: Writer::cpu(3, 0xffff_ffff_8100_0000, stamp) }
    }

    #[test]
    fn later_bytes_hide_earlier_ones() {
        let mut spill = Spill::new(10, 256);
        spill.add(7, ByteMask::range(0, 8), 1, &[run(0, 8, 1)]);
        spill.add(7, ByteMask::range(4, 2).or(ByteMask::range(200, 56)), 2, &[run(4, 2, 2), run(200, 56, 2)]);
        let found = spill.get(7).expect("it was added");
        assert_eq!(found.bytes, ByteMask::range(0, 8).or(ByteMask::range(200, 56)));
        assert_eq!(found.writers, [run(0, 4, 1), run(4, 2, 2), run(6, 2, 1), run(200, 56, 2)]);
        assert_eq!(found.stamp, 2);
        spill.remove(7);
        assert_eq!((spill.get(7), spill.live), (None, 0));
    }

    #[test]
    fn the_oldest_line_goes() {
        let mut spill = Spill::new(4, 64);
        // Line 1 is renewed.
        for line in [1, 2, 3, 4, 1, 5, 6] {
            spill.add(line, ByteMask::range(0, 1), line, &[run(0, 1, line)]);
        }
        assert_eq!(spill.lines(), [1, 4, 5, 6]);
        assert_eq!(spill.forgotten(), 2);
    }

    #[test]
    fn its_size_is_bounded_and_live_lines_survive_dead_entries() {
        let mut spill = Spill::new(100, 64);
        spill.add(1000, ByteMask::range(0, 64), 0, &[run(0, 64, 0)]);
        for stamp in 0..10_000 {
            spill.add(stamp % 20, ByteMask::range(0, 2), stamp, &[run(0, 1, stamp), run(1, 1, stamp)]);
        }
        assert!(spill.words.len() <= 100 * WORDS_A_LINE);
        assert_eq!(spill.lines().len(), 21);
        assert_eq!(spill.get(1000).map(|found| found.stamp), Some(0));
        assert_eq!(spill.get(19).map(|found| found.writers), Some(vec![run(0, 1, 9999), run(1, 1, 9999)]));
        assert_eq!(spill.forgotten(), 0);
        // Lines that all live, with many runs each, give way in their order.
        let bytes = |line| (0..64).map(|at| run(at, 1, line)).collect::<Vec<_>>();
        (0..100).for_each(|line| spill.add(line, ByteMask::range(0, 64), line, &bytes(line)));
        assert!(spill.words.len() <= 100 * WORDS_A_LINE);
        assert_eq!(spill.get(99).map(|found| found.writers), Some(bytes(99)));
        assert!(spill.forgotten() > 80);
    }
}
