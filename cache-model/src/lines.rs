//! The two-view state: residency, dirtiness and shadows of the lines in the cache.
//!
//! C is the CPU's view, the embedder's [`Memory`]. S, a line's *shadow*, is what RAM holds where that differs (or may
//! differ) from C; only a resident line has one, and it lives in the line's slot, a (level, set, way). RAM is S if present,
//! else C. No rule here depends on who may be wrong: that is `coherence`.

use serde::{Deserialize, Serialize};

use crate::authors::Authors;
use crate::config::{Config, WriteBack, WritePolicy};
use crate::finding::Writer;
use crate::geometry::{MAX_LINE, Span};
use crate::level::{Level, NONE};
use crate::mask::ByteMask;
use crate::memory::{Memory, OutOfRange};
use crate::run::Run;

/// The slot has a shadow.
const SHADOWED: u8 = 1;
/// Accesses may not go the quick way: the line has a record, or data that is not fenced.
const WATCHED: u8 = 2;
/// What was known of the line was forgotten while it was resident: who stored its dirty bytes proves nothing.
const BLIND: u8 = 4;

/// What a first-level set's last accessed line allows without looking further: [`NONE`] where nothing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Hot {
    load: u64,
    store: u64,
    slot: u32,
}

const COLD: Hot = Hot { load: NONE, store: NONE, slot: u32::MAX };

/// Every line of the cache.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lines {
    write_back: WriteBack,
    /// Stores to write-back memory make lines dirty.
    stores_stay: bool,
    size: usize,
    first: Level,
    second: Option<Level>,
    /// Slot of (level, set, way): the level's start + `set * ways + way`. Each has a line number,
    tags: Vec<u64>,
    flags: Vec<u8>,
    /// the bytes stored since the last write-back (the line is dirty if there are any),
    dirty: Vec<ByteMask>,
    /// whoever brought the line in,
    filled: Vec<Option<Writer>>,
    /// and a line of bytes, meaningful where the slot is shadowed.
    shadows: Vec<u8>,
    authors: Authors,
    hot: Vec<Hot>,
    /// Changes when a set's hot line allows less than before, but for an access of a CPU to another line of its set. It is
    /// for those who run on from here.
    #[serde(skip)]
    cooled: u64,
}

/// A line on its way from one slot to another.
#[derive(Debug)]
pub struct Carried {
    line: u64,
    flags: u8,
    dirty: ByteMask,
    filled: Option<Writer>,
    shadow: [u8; MAX_LINE],
    ids: [u32; MAX_LINE],
}

/// A copy of one line.
#[derive(Debug)]
pub struct LineBytes {
    bytes: [u8; MAX_LINE],
    len: usize,
}

impl LineBytes {
    fn new(len: usize) -> Self {
        Self { bytes: [0; MAX_LINE], len: len.min(MAX_LINE) }
    }

    /// The whole line.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl Lines {
    pub fn new(config: Config) -> Self {
        let geometry = config.geometry();
        let first = Level::new(geometry, config.policy(), 0);
        let second = config
            .second_level()
            .map(|(geometry, policy)| Level::new(geometry, policy, first.geometry.lines()));
        let slots = geometry.lines() + second.as_ref().map_or(0, |level| level.geometry.lines());
        Self {
            write_back: config.write_back(),
            stores_stay: config.write() == WritePolicy::Back,
            size: geometry.line(),
            first,
            second,
            tags: vec![NONE; slots],
            flags: vec![0; slots],
            dirty: vec![ByteMask::EMPTY; slots],
            filled: vec![None; slots],
            shadows: vec![0; slots * geometry.line()],
            authors: Authors::new(slots * geometry.line()),
            hot: vec![COLD; geometry.sets()],
            cooled: 0,
        }
    }

    /// The quick way for a load: true if it lies in one line, which is in the first level and not watched.
    #[inline(always)]
    pub fn quick_load(&mut self, addr: u64, len: usize) -> bool {
        if !self.is_whole(addr, len) {
            return false;
        }
        let line = self.first.geometry.line_of(addr);
        let set = self.first.geometry.set_of(line);
        match self.hot.get(set) {
            Some(hot) if hot.load == line => true,
            _ => self.reach(line, set) && self.hot.get(set).is_some_and(|hot| hot.load == line),
        }
    }

    /// The quick way for a store: true if it lies in one line, which is in the first level, not watched and has diverged.
    /// The bytes are then dirty, and the writer's.
    #[inline(always)]
    pub fn quick_store(&mut self, addr: u64, len: usize, writer: Writer) -> bool {
        let offset = self.offset(addr);
        if !self.is_whole(addr, len) || self.authors.is_full() {
            return false;
        }
        let line = self.first.geometry.line_of(addr);
        let set = self.first.geometry.set_of(line);
        let slot = match self.hot.get(set) {
            Some(hot) if hot.store == line => hot.slot as usize,
            _ => {
                if !self.reach(line, set) {
                    return false;
                }
                match self.hot.get(set) {
                    Some(hot) if hot.store == line => hot.slot as usize,
                    _ => return false,
                }
            }
        };
        if let Some(dirty) = self.dirty.get_mut(slot) {
            dirty.insert_range(offset, len);
        }
        self.authors.note(slot * self.size + offset, len, writer);
        true
    }

    /// True if the access lies in one line.
    #[inline(always)]
    pub fn is_whole(&self, addr: u64, len: usize) -> bool {
        len.wrapping_sub(1) < self.size - self.offset(addr)
    }

    #[inline(always)]
    fn offset(&self, addr: u64) -> usize {
        addr as usize & (self.size - 1)
    }

    /// Accesses a line of the first level, if it is there and not watched, so that it is its set's hot one.
    #[inline(never)]
    fn reach(&mut self, line: u64, set: usize) -> bool {
        let Some(slot) = self.find_first(line) else { return false };
        if self.flags(slot) & WATCHED != 0 {
            return false;
        }
        self.first.replacement.touched(set, slot - set * self.first.geometry.ways());
        self.warm(set, slot);
        true
    }

    /// A CPU access to a line of the first level.
    #[inline]
    pub fn touch(&mut self, slot: usize) {
        if slot < self.first.geometry.lines() {
            let (set, way) = self.first.place(slot);
            self.first.replacement.touched(set, way);
            self.warm(set, slot);
        }
    }

    #[inline]
    fn warm(&mut self, set: usize, slot: usize) {
        let (line, flags) = (self.line(slot), self.flags(slot));
        let load = if flags & WATCHED == 0 { line } else { NONE };
        let store = if flags & SHADOWED != 0 && self.stores_stay { load } else { NONE };
        if let Some(hot) = self.hot.get_mut(set) {
            *hot = Hot { load, store, slot: slot as u32 };
        }
    }

    /// A slot's line or flags have changed.
    fn changed(&mut self, slot: usize) {
        if slot < self.first.geometry.lines() {
            let (set, _) = self.first.place(slot);
            let Some(old) = self.hot.get(set).copied().filter(|hot| hot.slot as usize == slot) else {
                return;
            };
            self.warm(set, slot);
            let kept = |old: u64, new: u64| old == NONE || old == new;
            if !self.hot.get(set).is_some_and(|new| kept(old.load, new.load) && kept(old.store, new.store)) {
                self.cooled = self.cooled.wrapping_add(1);
            }
        }
    }

    /// See [`crate::CacheModel::hot_generation`].
    #[inline]
    pub fn cooled(&self) -> u64 {
        self.cooled
    }

    /// The slot of a line in any level.
    #[inline]
    pub fn find(&self, line: u64) -> Option<usize> {
        self.find_first(line).or_else(|| self.find_second(line))
    }

    #[inline]
    pub fn find_first(&self, line: u64) -> Option<usize> {
        self.first.find(&self.tags, line)
    }

    #[inline]
    pub fn find_second(&self, line: u64) -> Option<usize> {
        self.second.as_ref()?.find(&self.tags, line)
    }

    /// The line in a slot.
    #[inline]
    pub fn occupant(&self, slot: usize) -> Option<u64> {
        Some(self.line(slot)).filter(|line| *line != NONE)
    }

    /// The numbers of all resident lines, in slot order.
    pub fn resident(&self) -> Vec<u64> {
        self.tags.iter().copied().filter(|line| *line != NONE).collect()
    }

    /// True if a fill of this line would surely make no dirty line leave its level.
    pub fn has_harmless_room(&self, line: u64) -> bool {
        match self.first.next_room(&self.tags, line) {
            Some(slot) => self.dirty(slot).is_empty(),
            None => self.first.set(line).all(|slot| self.dirty(slot).is_empty()),
        }
    }

    /// Where a line that is absent from the first level goes: the lowest free slot of its set, or the policy's victim.
    pub fn room(&mut self, line: u64) -> usize {
        self.first.room(&self.tags, line)
    }

    /// As [`Lines::room`], in the second level.
    pub fn second_room(&mut self, line: u64) -> Option<usize> {
        self.second.as_mut().map(|level| level.room(&self.tags, line))
    }

    /// As [`Lines::room`], if nothing but who stored its bytes needs to be kept of a line that leaves for it.
    #[inline]
    pub fn quiet_room(&self, line: u64) -> Option<usize> {
        if self.second.is_some() {
            return None;
        }
        let slot = self.first.next_room(&self.tags, line)?;
        // What is shadowed is dirty, and RAM gets all of it, or its views differ.
        let dirty = !self.dirty(slot).is_empty() && self.write_back == WriteBack::Line;
        let quiet = if dirty { SHADOWED } else { 0 };
        (self.flags(slot) & !quiet == 0).then_some(slot)
    }

    /// Brings a line into an empty slot; C already holds RAM's bytes.
    #[inline]
    pub fn occupy(&mut self, slot: usize, line: u64, watched: bool, by: Option<Writer>) {
        self.set_slot(slot, line, if watched { WATCHED } else { 0 }, ByteMask::EMPTY, by);
        self.arrived(slot);
        if by.is_none() {
            self.cooled = self.cooled.wrapping_add(1);
        }
    }

    /// Takes a line out of its slot, to be put into another.
    pub fn take(&mut self, slot: usize) -> Carried {
        let mut carried = Carried {
            line: self.line(slot),
            flags: self.flags(slot),
            dirty: self.dirty(slot),
            filled: self.filled(slot),
            shadow: [0; MAX_LINE],
            ids: [0; MAX_LINE],
        };
        if carried.flags & SHADOWED != 0 {
            for (to, from) in carried.shadow.iter_mut().zip(self.shadow(slot)) {
                *to = *from;
            }
            for (to, from) in carried.ids.iter_mut().zip(self.authors.ids(slot * self.size, self.size)) {
                *to = *from;
            }
        }
        self.empty(slot);
        carried
    }

    /// Puts a line into an empty slot.
    pub fn put(&mut self, slot: usize, carried: &Carried) {
        let Carried { line, flags, dirty, filled, shadow, ids } = carried;
        let size = self.size;
        if flags & SHADOWED != 0 {
            self.shadow_mut(slot).copy_from_slice(shadow.get(..size).unwrap_or_default());
            self.authors.put(slot * size, ids.get(..size).unwrap_or_default());
        }
        self.set_slot(slot, *line, *flags, *dirty, *filled);
        self.arrived(slot);
    }

    #[inline]
    fn arrived(&mut self, slot: usize) {
        let level = self.level_of(slot);
        let (set, way) = level.place(slot);
        level.replacement.filled(set, way);
        if level.start == 0 {
            self.warm(set, slot);
        }
    }

    fn empty(&mut self, slot: usize) {
        self.set_slot(slot, NONE, 0, ByteMask::EMPTY, None);
        let level = self.level_of(slot);
        let (set, way) = level.place(slot);
        level.replacement.emptied(set, way);
        self.changed(slot);
    }

    #[inline]
    fn level_of(&mut self, slot: usize) -> &mut Level {
        match &mut self.second {
            Some(second) if slot >= second.start => second,
            _ => &mut self.first,
        }
    }

    #[inline]
    fn set_slot(&mut self, slot: usize, line: u64, flags: u8, dirty: ByteMask, filled: Option<Writer>) {
        let parts = (
            self.tags.get_mut(slot),
            self.flags.get_mut(slot),
            self.dirty.get_mut(slot),
            self.filled.get_mut(slot),
        );
        if let (Some(tag), Some(to_flags), Some(to_dirty), Some(by)) = parts {
            (*tag, *to_flags, *to_dirty, *by) = (line, flags, dirty, filled);
        }
    }

    /// A CPU stores to bytes of a resident line: they are dirty, and the writer's. The line has diverged.
    #[inline]
    pub fn dirtied(&mut self, slot: usize, span: Span, writer: Writer) {
        if self.authors.is_full() {
            self.compact_authors();
        }
        if let Some(dirty) = self.dirty.get_mut(slot) {
            dirty.insert_range(span.offset, span.len);
        }
        self.authors.note(slot * self.size + span.offset, span.len, writer);
    }

    fn compact_authors(&mut self) {
        let size = self.size;
        let dirty = self.dirty.iter().enumerate();
        let at = |slot: usize| move |(offset, len): (usize, usize)| (slot * size + offset, len);
        self.authors.compact(dirty.flat_map(|(slot, dirty)| dirty.parts().map(at(slot))));
    }

    /// Who stored a dirty byte of a resident line.
    pub fn author(&self, slot: usize, offset: usize) -> Option<Writer> {
        self.authors.of(slot * self.size + offset)
    }

    /// The runs of dirty bytes of a slot by one writer each, lowest first.
    pub fn runs(&self, slot: usize, into: &mut Vec<Run>) {
        self.authors.runs(slot * self.size, self.dirty(slot), into);
    }

    /// From now on this resident line's two views may differ.
    #[inline]
    pub fn diverge<M: Memory + ?Sized>(&mut self, memory: &M, slot: usize) -> Result<(), OutOfRange> {
        if self.flags(slot) & SHADOWED == 0 {
            let base = self.first.geometry.base(self.line(slot));
            memory.read(base, self.shadow_mut(slot))?;
            self.flag(slot, SHADOWED, true);
        }
        Ok(())
    }

    pub fn is_shadowed(&self, slot: usize) -> bool {
        self.flags(slot) & SHADOWED != 0
    }

    pub fn write_shadow(&mut self, slot: usize, span: Span, data: &[u8]) {
        for (to, from) in self.shadow_mut(slot).iter_mut().skip(span.offset).zip(data) {
            *to = *from;
        }
    }

    /// Reads RAM's bytes, disturbing nothing.
    pub fn read_ram<M: Memory + ?Sized>(
        &self,
        memory: &M,
        span: Span,
        buf: &mut [u8],
    ) -> Result<(), OutOfRange> {
        match self.find(span.line).filter(|&slot| self.is_shadowed(slot)) {
            None => memory.read(span.addr, buf),
            Some(slot) => {
                let shadow = self.shadow(slot).get(span.offset..).unwrap_or_default();
                for (to, from) in buf.iter_mut().zip(shadow) {
                    *to = *from;
                }
                Ok(())
            }
        }
    }

    /// Both views of a whole line: the CPU's and RAM's.
    pub fn views<M: Memory + ?Sized>(
        &self,
        memory: &M,
        line: u64,
    ) -> Result<(LineBytes, LineBytes), OutOfRange> {
        let (mut cpu, mut ram) = (LineBytes::new(self.size), LineBytes::new(self.size));
        let addr = self.first.geometry.base(line);
        memory.read(addr, cpu.as_mut_slice())?;
        self.read_ram(memory, Span { line, addr, offset: 0, len: self.size }, ram.as_mut_slice())?;
        Ok((cpu, ram))
    }

    /// Writes a dirty line back; it stays resident. False if it was clean.
    pub fn clean<M: Memory + ?Sized>(&mut self, memory: &M, slot: usize) -> Result<bool, OutOfRange> {
        let dirty = self.dirty(slot);
        if dirty.is_empty() {
            return Ok(false);
        }
        let mut shadowed = false;
        if self.write_back == WriteBack::Bytes && self.is_shadowed(slot) {
            let mut cpu = LineBytes::new(self.size);
            memory.read(self.first.geometry.base(self.line(slot)), cpu.as_mut_slice())?;
            let shadow = self.shadow_mut(slot);
            for offset in dirty.iter() {
                if let (Some(to), Some(from)) = (shadow.get_mut(offset), cpu.as_slice().get(offset)) {
                    *to = *from;
                }
            }
            shadowed = shadow != cpu.as_slice();
        }
        if let Some(dirty) = self.dirty.get_mut(slot) {
            *dirty = ByteMask::EMPTY;
        }
        self.flag(slot, SHADOWED, shadowed);
        Ok(true)
    }

    /// Empties a slot; dirty bytes are lost and RAM's come to light.
    pub fn leave<M: Memory + ?Sized>(&mut self, memory: &mut M, slot: usize) -> Result<(), OutOfRange> {
        if self.is_shadowed(slot) {
            let (cpu, ram) = self.views(memory, self.line(slot))?;
            if cpu.as_slice() != ram.as_slice() {
                memory.write(self.first.geometry.base(self.line(slot)), ram.as_slice())?;
            }
        }
        self.empty(slot);
        Ok(())
    }

    /// Says whether accesses may not go the quick way.
    pub fn set_watched(&mut self, slot: usize, watched: bool) {
        self.flag(slot, WATCHED, watched);
    }

    pub fn is_blind(&self, slot: usize) -> bool {
        self.flags(slot) & BLIND != 0
    }

    pub fn set_blind(&mut self, slot: usize, blind: bool) {
        self.flag(slot, BLIND, blind);
    }

    fn flag(&mut self, slot: usize, flag: u8, value: bool) {
        if let Some(flags) = self.flags.get_mut(slot) {
            *flags = if value { *flags | flag } else { *flags & !flag };
            self.changed(slot);
        }
    }

    #[inline]
    fn line(&self, slot: usize) -> u64 {
        self.tags.get(slot).copied().unwrap_or(NONE)
    }

    #[inline]
    fn flags(&self, slot: usize) -> u8 {
        self.flags.get(slot).copied().unwrap_or_default()
    }

    /// The bytes that a write-back would make RAM's.
    #[inline]
    pub fn dirty(&self, slot: usize) -> ByteMask {
        self.dirty.get(slot).copied().unwrap_or_default()
    }

    /// Whoever brought the line in; `None` for a schedule's choice.
    pub fn filled(&self, slot: usize) -> Option<Writer> {
        self.filled.get(slot).copied().flatten()
    }

    fn shadow(&self, slot: usize) -> &[u8] {
        self.shadows.get(slot * self.size..(slot + 1) * self.size).unwrap_or_default()
    }

    #[inline]
    fn shadow_mut(&mut self, slot: usize) -> &mut [u8] {
        self.shadows.get_mut(slot * self.size..(slot + 1) * self.size).unwrap_or_default()
    }
}
