//! What CPUs have stored in lines that have left the cache: RAM holds it now, but by another schedule it might not yet.
//!
//! A table of sets, like a cache's: a line has one spot in one set, where it is found and renewed by touching little
//! memory. A set that is full forgets its oldest line, but one that has been renewed since its turn came goes on. A spot has
//! room for two runs of bytes; what a line has more is in a chain of blocks, of which there is a limited number.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::finding::Written;
use crate::geometry::MAX_LINE;
use crate::mask::ByteMask;
use crate::run::{RUN, Run};

/// The most lines there is room for, whatever is asked for.
const MOST: usize = 1 << 22;
/// Lines of a set, if there are as many; fewer than twice as many.
const WAYS: usize = 8;
/// Runs in a spot.
const INLINE: usize = 2;
/// Runs in a block.
const BLOCK: usize = 5;

/// D of one line outside the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spilled {
    /// When the line left, or was written back where it is.
    pub stamp: u64,
    /// Whose bytes they are, lowest first.
    pub writers: Vec<Written>,
}

/// The stamp, the number of runs and (above) the first block's, and the first runs.
type Entry = [u64; 2 + INLINE * RUN];
const STAMP: usize = 0;
const COUNT: usize = 1;
const FIRST_RUN: usize = 2;
const BLOCK_SHIFT: u32 = 32;

/// Runs, and the number of the next block in a chain or of unused ones.
type Block = [u64; BLOCK * RUN + 1];
const NEXT: usize = BLOCK * RUN;

/// What [`Spill::turns`] has above the bits of the lines that have been renewed: whose turn it is.
const TURN_SHIFT: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    set: usize,
    way: usize,
}

#[derive(Clone, Debug)]
pub struct Spill {
    lines: usize,
    /// A power of two.
    sets: usize,
    ways: usize,
    /// Set by set, the number of each spot's line plus one; 0 where there is none. No tables are made before a line comes.
    tags: Vec<u64>,
    /// Way by way, so that lines that follow one another are neighbours here too.
    entries: Vec<Entry>,
    turns: Vec<u32>,
    /// Blocks are numbered from 1; 0 is none.
    blocks: Vec<Block>,
    unused: u64,
    /// Counts the spots that have been asked to give up their blocks.
    hand: usize,
    forgotten: u64,
    /// An empty list that has room.
    list: Vec<Run>,
}

impl Spill {
    /// For at most `lines` lines, and for any `lines / 2` that follow one another.
    pub fn new(lines: usize) -> Self {
        let lines = lines.min(MOST);
        let sets = 1 << (lines / WAYS).max(1).ilog2();
        Self {
            lines,
            sets,
            ways: lines / sets,
            tags: Vec::new(),
            entries: Vec::new(),
            turns: Vec::new(),
            blocks: Vec::new(),
            unused: 0,
            hand: 0,
            forgotten: 0,
            list: Vec::new(),
        }
    }

    /// How many lines were forgotten for want of room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The stored bytes of a line.
    pub fn bytes(&self, line: u64) -> ByteMask {
        self.find(line).map_or(ByteMask::EMPTY, |spot| self.mask(spot))
    }

    pub fn get(&self, line: u64) -> Option<Spilled> {
        let spot = self.find(line)?;
        let writers = self.runs(spot).map(Run::written).collect();
        Some(Spilled { stamp: self.entry(spot)[STAMP], writers })
    }

    /// An empty list, for [`Spill::add`].
    pub fn list(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.list)
    }

    /// Keeps what was stored in a line, beside what is known of its other bytes. The runs, lowest first, are those of `bytes`.
    pub fn add(&mut self, line: u64, bytes: ByteMask, stamp: u64, mut runs: Vec<Run>) {
        if let Some(spot) = self.find(line) {
            if !self.mask(spot).without(bytes).is_empty() {
                self.add_older(spot, bytes, &mut runs);
            }
            if let Some(turn) = self.turns.get_mut(spot.set) {
                *turn |= 1 << spot.way;
            }
            self.fill(spot, stamp, &runs);
        } else if let Some(spot) = self.room(line) {
            self.settle(spot, line);
            self.fill(spot, stamp, &runs);
        }
        runs.clear();
        self.list = runs;
    }

    /// Adds a spot's runs of other bytes.
    fn add_older(&self, spot: Spot, bytes: ByteMask, runs: &mut Vec<Run>) {
        for old in self.runs(spot) {
            for (offset, len) in old.bytes().without(bytes).parts() {
                runs.push(old.with_range(offset, len));
            }
        }
        runs.sort_unstable_by_key(|run| run.offset());
        runs.dedup_by(|next, run| run.and(*next).map(|both| *run = both).is_some());
    }

    /// The line's bytes are in RAM under any schedule.
    pub fn remove(&mut self, line: u64) {
        if let Some(spot) = self.find(line) {
            self.empty(spot);
        }
    }

    pub fn clear(&mut self) {
        *self = Self { forgotten: self.forgotten, ..Self::new(self.lines) };
    }

    /// The lines with anything stored, lowest first.
    pub fn lines(&self) -> Vec<u64> {
        let mut lines: Vec<u64> = self.tags.iter().filter_map(|tag| tag.checked_sub(1)).collect();
        lines.sort_unstable();
        lines
    }

    /// The set of a line. As many lines as there are sets, from a multiple of that on, are all in different sets; and so are the
    /// first lines of as many such rows.
    #[inline]
    fn set_of(&self, line: u64) -> usize {
        let folded = line ^ (line >> self.sets.trailing_zeros());
        folded as usize & (self.sets - 1)
    }

    #[inline]
    fn find(&self, line: u64) -> Option<Spot> {
        let set = self.set_of(line);
        let first = set * self.ways;
        let mut found = usize::MAX;
        for (way, tag) in self.tags.get(first..first + self.ways)?.iter().enumerate() {
            found = if *tag == line + 1 { way } else { found };
        }
        (found != usize::MAX).then_some(Spot { set, way: found })
    }

    fn make_tables(&mut self) {
        if self.tags.is_empty() {
            self.tags = vec![0; self.sets * self.ways];
            self.entries = vec![Entry::default(); self.sets * self.ways];
            self.turns = vec![0; self.sets];
        }
    }

    /// A free spot for a line; another may be forgotten for it.
    fn room(&mut self, line: u64) -> Option<Spot> {
        self.make_tables();
        let set = self.set_of(line);
        let first = set * self.ways;
        let tags = self.tags.get(first..first + self.ways)?;
        if let Some(way) = tags.iter().position(|tag| *tag == 0) {
            return Some(Spot { set, way });
        }
        let ways = self.ways;
        let turn = self.turns.get_mut(set).filter(|_| ways > 0)?;
        let mut way = (*turn >> TURN_SHIFT) as usize % ways;
        while *turn >> way & 1 != 0 {
            *turn &= !(1 << way);
            way = (way + 1) % ways;
        }
        let next = ((way + 1) % ways) as u32;
        *turn = *turn & ((1 << TURN_SHIFT) - 1) | next << TURN_SHIFT;
        self.forget(Spot { set, way });
        Some(Spot { set, way })
    }

    fn settle(&mut self, spot: Spot, line: u64) {
        let tag = self.tag_index(spot);
        if let Some(tag) = self.tags.get_mut(tag) {
            *tag = line + 1;
        }
    }

    fn forget(&mut self, spot: Spot) {
        self.empty(spot);
        self.forgotten = self.forgotten.saturating_add(1);
    }

    fn empty(&mut self, spot: Spot) {
        let blocks = self.entry(spot)[COUNT] >> BLOCK_SHIFT;
        self.release(blocks);
        let (tag, entry) = (self.tag_index(spot), self.entry_index(spot));
        if let (Some(tag), Some(entry)) = (self.tags.get_mut(tag), self.entries.get_mut(entry)) {
            (*tag, entry[COUNT]) = (0, 0);
        }
        if let Some(turn) = self.turns.get_mut(spot.set) {
            *turn &= !(1 << spot.way);
        }
    }

    /// Puts a line's runs into its spot.
    #[inline]
    fn fill(&mut self, spot: Spot, stamp: u64, runs: &[Run]) {
        let (inline, more) = runs.split_at(runs.len().min(INLINE));
        let old = self.entry(spot)[COUNT] >> BLOCK_SHIFT;
        let chain = if old == 0 && more.is_empty() { 0 } else { self.chain(spot, old, more) };
        let at = self.entry_index(spot);
        let Some(entry) = self.entries.get_mut(at) else { return };
        (entry[STAMP], entry[COUNT]) = (stamp, runs.len() as u64 | chain << BLOCK_SHIFT);
        put(&mut entry[FIRST_RUN..], inline);
    }

    /// Puts runs into a chain of blocks, which takes the place of an old one.
    fn chain(&mut self, spot: Spot, old: u64, runs: &[Run]) -> u64 {
        self.release(old);
        let (mut first, mut last) = (0, 0);
        for part in runs.chunks(BLOCK) {
            let number = self.unused_block(spot);
            if let Some(block) = self.block_mut(number) {
                put(block, part);
                block[NEXT] = 0;
            }
            match self.block_mut(last) {
                Some(last) => last[NEXT] = number,
                None => first = number,
            }
            last = number;
        }
        first
    }

    /// A block for the line of a spot, for which others may be forgotten.
    fn unused_block(&mut self, spot: Spot) -> u64 {
        // More than one line can have, so that another has some when there are no more.
        let limit = self.lines.max(MAX_LINE);
        if self.unused == 0 && self.blocks.len() < limit {
            self.blocks.push(Block::default());
            return self.blocks.len() as u64;
        }
        for _ in 0..self.tags.len() {
            if self.unused != 0 {
                break;
            }
            let asked = Spot { set: self.hand / self.ways % self.sets, way: self.hand % self.ways };
            self.hand = (self.hand + 1) % self.tags.len();
            if asked != spot && self.entry(asked)[COUNT] >> BLOCK_SHIFT != 0 {
                self.forget(asked);
            }
        }
        let number = self.unused;
        self.unused = self.block_mut(number).map_or(0, |block| block[NEXT]);
        number
    }

    /// A chain of blocks is not used any more.
    fn release(&mut self, first: u64) {
        let (mut number, unused) = (first, self.unused);
        while let Some(block) = self.block_mut(number) {
            number = block[NEXT];
            if number == 0 {
                block[NEXT] = unused;
                self.unused = first;
            }
        }
    }

    fn block_mut(&mut self, number: u64) -> Option<&mut Block> {
        self.blocks.get_mut((number as usize).checked_sub(1)?)
    }

    #[inline]
    fn tag_index(&self, spot: Spot) -> usize {
        spot.set * self.ways + spot.way
    }

    #[inline]
    fn entry_index(&self, spot: Spot) -> usize {
        spot.way * self.sets + spot.set
    }

    #[inline]
    fn entry(&self, spot: Spot) -> &Entry {
        const NONE: &Entry = &[0; FIRST_RUN + INLINE * RUN];
        self.entries.get(self.entry_index(spot)).unwrap_or(NONE)
    }

    #[inline]
    fn runs(&self, spot: Spot) -> impl Iterator<Item = Run> {
        let entry = self.entry(spot);
        let mut words = &entry[FIRST_RUN..];
        let mut next = (entry[COUNT] >> BLOCK_SHIFT) as usize;
        (0..entry[COUNT] as u32).map_while(move |_| {
            if words.is_empty() {
                let block = self.blocks.get(next.checked_sub(1)?)?;
                (words, next) = (&block[..NEXT], block[NEXT] as usize);
            }
            let (run, rest) = words.split_first_chunk()?;
            words = rest;
            Some(Run::from_words(*run))
        })
    }

    #[inline]
    fn mask(&self, spot: Spot) -> ByteMask {
        let mut mask = ByteMask::EMPTY;
        for run in self.runs(spot) {
            mask.insert_range(run.offset(), run.len());
        }
        mask
    }
}

#[inline]
fn put(words: &mut [u64], runs: &[Run]) {
    for (to, run) in words.chunks_exact_mut(RUN).zip(runs) {
        to.copy_from_slice(&run.words());
    }
}

/// What is saved: the lines, and whose turn it is to be forgotten.
#[derive(Serialize, Deserialize)]
struct Saved {
    lines: usize,
    hand: usize,
    forgotten: u64,
    turns: Vec<u32>,
    spots: Vec<SavedSpot>,
}

#[derive(Serialize, Deserialize)]
struct SavedSpot {
    way: usize,
    line: u64,
    stamp: u64,
    runs: Vec<Run>,
}

impl Serialize for Spill {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let spot = |(index, tag): (usize, &u64)| {
            let line = tag.checked_sub(1)?;
            let spot = Spot { set: self.set_of(line), way: index % self.ways };
            let stamp = self.entry(spot)[STAMP];
            Some(SavedSpot { way: spot.way, line, stamp, runs: self.runs(spot).collect() })
        };
        let spots = self.tags.iter().enumerate().filter_map(spot).collect();
        let Self { lines, hand, forgotten, .. } = *self;
        Saved { lines, hand, forgotten, turns: self.turns.clone(), spots }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Spill {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Saved { lines, hand, forgotten, turns, spots } = Saved::deserialize(deserializer)?;
        let mut spill = Self { forgotten, ..Self::new(lines) };
        spill.hand = hand % (spill.sets * spill.ways).max(1);
        if !spots.is_empty() {
            spill.make_tables();
        }
        for (to, from) in spill.turns.iter_mut().zip(turns) {
            *to = from;
        }
        for SavedSpot { way, line, stamp, mut runs } in spots {
            if way < spill.ways && line < u64::MAX {
                let spot = Spot { set: spill.set_of(line), way };
                runs.truncate(MAX_LINE);
                spill.settle(spot, line);
                spill.fill(spot, stamp, &runs);
            }
        }
        Ok(spill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Writer;

    fn run(offset: usize, len: usize, stamp: u64) -> Run {
        Run::new(offset, len, Writer::cpu(3, 0xffff_ffff_8100_0000, stamp))
    }

    fn add(spill: &mut Spill, line: u64, stamp: u64, runs: &[Run]) {
        let bytes = runs.iter().fold(ByteMask::EMPTY, |bytes, run| bytes.or(run.bytes()));
        let mut list = spill.list();
        assert!(list.is_empty());
        list.extend(runs);
        spill.add(line, bytes, stamp, list);
    }

    fn written(runs: &[Run]) -> Vec<Written> {
        runs.iter().map(|run| run.written()).collect()
    }

    /// All that there is to see of it.
    fn seen(spill: &Spill) -> Vec<(u64, Option<Spilled>)> {
        spill.lines().into_iter().map(|line| (line, spill.get(line))).collect()
    }

    #[test]
    fn later_bytes_hide_earlier_ones() {
        let mut spill = Spill::new(10);
        add(&mut spill, 7, 1, &[run(0, 8, 1)]);
        add(&mut spill, 7, 2, &[run(4, 2, 2), run(200, 56, 2)]);
        let found = spill.get(7).expect("it was added");
        assert_eq!(spill.bytes(7), ByteMask::range(0, 8).or(ByteMask::range(200, 56)));
        let runs = [run(0, 4, 1), run(4, 2, 2), run(6, 2, 1), run(200, 56, 2)];
        assert_eq!(found, Spilled { stamp: 2, writers: written(&runs) });
        // What one writer has stored at several times is one run.
        add(&mut spill, 7, 3, &[run(2, 2, 2)]);
        let runs = [run(0, 2, 1), run(2, 4, 2), run(6, 2, 1), run(200, 56, 2)];
        assert_eq!(spill.get(7), Some(Spilled { stamp: 3, writers: written(&runs) }));
        spill.remove(7);
        assert_eq!((spill.get(7), spill.bytes(7)), (None, ByteMask::EMPTY));
    }

    #[test]
    fn the_oldest_line_goes() {
        let mut spill = Spill::new(4);
        // Line 1 is renewed.
        for line in [1, 2, 3, 4, 1, 5, 6] {
            add(&mut spill, line, line, &[run(0, 1, line)]);
        }
        assert_eq!(spill.lines(), [1, 4, 5, 6]);
        assert_eq!(spill.forgotten(), 2);
    }

    #[test]
    fn half_as_many_neighbours_as_lines_have_room() {
        for (lines, first) in
            [(2, 1), (31, 7), (64, 1000), (100, 12345), (256, 77), (5000, 999), (4096, 4095)]
        {
            let mut spill = Spill::new(lines);
            let neighbours = first..first + lines as u64 / 2;
            neighbours.clone().for_each(|line| add(&mut spill, line, line, &[run(0, 1, line)]));
            assert!(spill.lines().into_iter().eq(neighbours), "{lines}");
        }
        let mut nothing = Spill::new(0);
        add(&mut nothing, 1, 1, &[run(0, 1, 1)]);
        assert!(nothing.lines().is_empty());
    }

    #[test]
    fn blocks_are_used_again_and_bounded() {
        let mut spill = Spill::new(1000);
        let bytes = |line, len| (0..len).map(|at| run(at, 1, line * 1000 + at as u64)).collect::<Vec<_>>();
        add(&mut spill, 9999, 0, &bytes(9999, 256));
        for stamp in 0..10_000 {
            add(&mut spill, stamp % 20, stamp, &bytes(stamp, 1 + stamp as usize % 64));
        }
        assert!(spill.blocks.len() < 400);
        assert_eq!(spill.get(9999).map(|found| found.writers), Some(written(&bytes(9999, 256))));
        // The last store to line 19 was of 16 bytes; earlier ones were of more.
        let found = spill.get(19).expect("it was added").writers;
        assert_eq!(found.len(), 64);
        assert_eq!(found[..16], written(&bytes(9999, 16)));
        assert_eq!(spill.forgotten(), 0);
        // Lines that all have many give way to one another, and none is mixed up.
        (0..200).for_each(|line| add(&mut spill, line, line, &bytes(line, 64)));
        assert_eq!(spill.blocks.len(), 1000);
        assert!(spill.lines().len() < 80 && spill.forgotten() > 120);
        for (line, found) in seen(&spill).into_iter().filter(|(line, _)| *line < 200) {
            assert_eq!(found.map(|found| found.writers), Some(written(&bytes(line, 64))));
        }
    }

    #[test]
    fn what_is_saved_goes_on_as_it_was() {
        let mut spill = Spill::new(50);
        let some = |spill: &mut Spill, stamps: std::ops::Range<u64>| {
            for stamp in stamps {
                let line = stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57;
                let runs: Vec<_> = (0..stamp % 7 + 1).map(|at| run(at as usize * 9, 5, stamp)).collect();
                add(spill, line, stamp, &runs);
                if stamp % 5 == 0 {
                    spill.remove(line / 2);
                }
            }
        };
        some(&mut spill, 0..1000);
        let text = serde_json::to_string(&spill).expect("it is data");
        let mut restored: Spill = serde_json::from_str(&text).expect("it was written");
        assert_eq!(seen(&restored), seen(&spill));
        some(&mut spill, 1000..2000);
        some(&mut restored, 1000..2000);
        assert_eq!(seen(&restored), seen(&spill));
        assert_eq!(restored.forgotten(), spill.forgotten());
        spill.clear();
        assert!(seen(&spill).is_empty() && spill.forgotten() == restored.forgotten());
    }
}
