//! What other schedules of write-backs, evictions and fills could have done to each byte, one flag a byte of memory.

use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Debug)]
pub struct Doubts {
    line: usize,
    whole_lines: bool,
    /// D: a CPU has stored it since the last clean, and RAM may not have it.
    pub stored: Vec<bool>,
    /// A CPU has stored it since the last clean, and the cache may still be about to write it back.
    dirty: Vec<bool>,
    /// W: it was written past the cache since the last invalidation or flush.
    pub bypassed: Vec<bool>,
    /// Its newest value may be nowhere any more.
    pub lost: Vec<bool>,
    /// What may wait in a CPU's write-combining buffers: bytes, and the numbers of the stores.
    unfenced: BTreeMap<u32, BTreeMap<usize, u64>>,
}

impl Doubts {
    pub fn new(memory: usize, line: usize, whole_lines: bool) -> Self {
        let none = vec![false; memory];
        Self {
            line,
            whole_lines,
            stored: none.clone(),
            dirty: none.clone(),
            bypassed: none.clone(),
            lost: none,
            unfenced: BTreeMap::new(),
        }
    }

    fn line_of(&self, at: usize) -> Range<usize> {
        let start = at / self.line * self.line;
        start..start + self.line
    }

    pub fn stored_back(&mut self, part: Range<usize>) {
        let line = self.line_of(part.start);
        self.overwritten(&part);
        for at in part {
            (self.stored[at], self.dirty[at]) = (true, true);
            (self.bypassed[at], self.lost[at]) = (false, false);
        }
        self.clobber(line);
    }

    pub fn stored_through(&mut self, part: Range<usize>) {
        self.overwritten(&part);
        for at in part {
            (self.stored[at], self.bypassed[at], self.lost[at]) = (false, false, false);
        }
    }

    pub fn bypassed(&mut self, part: Range<usize>) {
        let line = self.line_of(part.start);
        self.overwritten(&part);
        for at in part {
            (self.bypassed[at], self.lost[at]) = (true, false);
        }
        self.clobber(line);
    }

    /// The line was flushed for it.
    pub fn written_everywhere(&mut self, part: Range<usize>) {
        self.flushed(part.start);
        self.overwritten(&part);
        self.lost[part].fill(false);
    }

    /// What waited of these bytes is not the newest any more.
    fn overwritten(&mut self, part: &Range<usize>) {
        self.unfenced.values_mut().for_each(|bytes| bytes.retain(|at, _| !part.contains(at)));
    }

    /// A write-back may come at any time, whole or of dirty bytes.
    fn clobber(&mut self, line: Range<usize>) {
        let any_dirty = self.dirty[line.clone()].contains(&true);
        for at in line {
            if self.bypassed[at] && if self.whole_lines { any_dirty } else { self.dirty[at] } {
                self.lost[at] = true;
            }
        }
    }

    pub fn cleaned(&mut self, at: usize) {
        let line = self.line_of(at);
        self.stored[line.clone()].fill(false);
        self.dirty[line].fill(false);
    }

    pub fn flushed(&mut self, at: usize) {
        self.cleaned(at);
        let line = self.line_of(at);
        self.bypassed[line].fill(false);
    }

    /// Whether stored bytes had been written back before is up to the schedule.
    pub fn invalidated(&mut self, at: usize) {
        for at in self.line_of(at) {
            self.lost[at] |= self.stored[at];
        }
        self.flushed(at);
    }

    pub fn waits(&mut self, cpu: u32, part: Range<usize>, number: u64) {
        self.unfenced.entry(cpu).or_default().extend(part.map(|at| (at, number)));
    }

    pub fn fence(&mut self, cpu: u32) {
        self.unfenced.remove(&cpu);
    }

    /// The stores of a byte that may still wait.
    pub fn waiting(&self, at: usize) -> Vec<u64> {
        self.unfenced.values().filter_map(|bytes| bytes.get(&at).copied()).collect()
    }

    /// The bytes that an observer could have got otherwise, and whether a newer value of one of them exists for sure.
    pub fn doubtful(&self, part: Range<usize>, cached: bool, device: bool) -> (Vec<usize>, bool) {
        let waits = |at: &usize| self.unfenced.values().any(|bytes| bytes.contains_key(at));
        let stale = |at: &usize| match cached {
            true => self.bypassed[*at],
            false => self.stored[*at] || device && waits(at),
        };
        (part.clone().filter(|at| stale(at) || self.lost[*at]).collect(), part.clone().any(|at| stale(&at)))
    }
}
