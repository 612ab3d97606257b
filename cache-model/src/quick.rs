//! The quick ways of CPUs' accesses to write-back memory of which nothing is in doubt: nothing but where lines are, whose
//! the stored bytes are and the counters change. They decline what they cannot do, and then nothing has happened.

use crate::finding::{Agent, Writer};
use crate::geometry::Span;
use crate::memory::{Memory, OutOfRange};
use crate::model::CacheModel;

impl CacheModel {
    /// The quick way for a load of write-back memory: true if there is nothing to do but to read the CPU's view, because
    /// the line is resident in the first level and in no doubt. The hit is then counted. Else nothing has happened: try
    /// [`CacheModel::load_miss`], or use [`CacheModel::load`].
    ///
    /// If it is true, of this or of [`CacheModel::store_hit`] or [`CacheModel::fetch_hit`], the line is *hot* as well: more loads of
    /// it and fetches from it would be quick hits, too, and may be done without asking, if [`CacheModel::count_hits`] is told of
    /// them later. It ends with the next access to another line of its set, and when [`CacheModel::hot_generation`] changes.
    #[inline(always)]
    pub fn load_hit(&mut self, cpu: u32, addr: u64, len: usize) -> bool {
        let Some(stats) = self.counters.of_cpu(cpu) else { return false };
        let hit = self.lines.quick_load(addr, len);
        stats.load_hits += u64::from(hit);
        hit
    }

    /// The quick way for a load that [`CacheModel::load_hit`] has declined: true if there is nothing to do but to read the
    /// CPU's view, because neither the line, which has to be memory, is in doubt nor the one that makes room for it. Else
    /// nothing has happened: use [`CacheModel::load`].
    pub fn load_miss(&mut self, who: Writer, addr: u64, len: usize) -> bool {
        let line = self.config.geometry().line_of(addr);
        if !self.lines.is_whole(addr, len) || self.coherence.is_watched(line) {
            return false;
        }
        if let Some(slot) = self.lines.find_first(line) {
            self.lines.touch(slot);
            self.counters.of(Some(who.agent)).load_hits += 1;
            return true;
        }
        self.now = who.stamp;
        let placed = self.place_quietly(who, line).is_some();
        self.counters.of(Some(who.agent)).load_misses += u64::from(placed);
        placed
    }

    /// The quick way for a store to write-back memory: true if there is nothing to do but to write the CPU's view, because
    /// the line is resident in the first level, has been stored to before and is in no doubt. The hit is then counted, and
    /// the bytes are dirty and the writer's. Else nothing has happened: use [`CacheModel::store`].
    #[inline(always)]
    pub fn store_hit(&mut self, writer: Writer, addr: u64, len: usize) -> bool {
        let Agent::Cpu(cpu) = writer.agent else { return false };
        let Some(stats) = self.counters.of_cpu(cpu) else { return false };
        let hit = self.lines.quick_store(addr, len, writer);
        stats.store_hits += u64::from(hit);
        hit
    }

    /// The quick way for an instruction fetch from one line of write-back memory: true if the line is the vCPU's last fetched
    /// one, or a load would hit it quickly. Else nothing has happened: try [`CacheModel::fetch_miss`], or use
    /// [`CacheModel::fetch`].
    #[inline(always)]
    pub fn fetch_hit(&mut self, cpu: u32, addr: u64) -> bool {
        let line = self.config.geometry().line_of(addr);
        let doubts = self.coherence.doubts();
        if self.fetched.is_sound(cpu, line, doubts) {
            return true;
        }
        if self.fetched.is(cpu, line) || !self.load_hit(cpu, addr, 1) {
            return false;
        }
        self.fetched.set(cpu, line, Some(doubts));
        true
    }

    /// The quick way for a fetch from one line that [`CacheModel::fetch_hit`] has declined, as [`CacheModel::load_miss`] is for
    /// loads.
    pub fn fetch_miss(&mut self, who: Writer, addr: u64) -> bool {
        let Agent::Cpu(cpu) = who.agent else { return false };
        let line = self.config.geometry().line_of(addr);
        if self.fetched.is(cpu, line) || !self.load_miss(who, addr, 1) {
            return false;
        }
        self.fetched.set(cpu, line, Some(self.coherence.doubts()));
        true
    }

    /// Changes when a hot line may be so no more, but for an access to another line of its set.
    #[inline]
    #[must_use]
    pub fn hot_generation(&self) -> u64 {
        self.lines.cooled()
    }

    /// A CPU has loaded and fetched from hot lines so many times without asking; `fetched` is an address in the line it
    /// fetched from last, if it has fetched so since anybody was told of a fetch.
    pub fn count_hits(&mut self, cpu: u32, hits: u64, fetched: Option<u64>) {
        self.counters.of(Some(Agent::Cpu(cpu))).load_hits += hits;
        if let Some(address) = fetched {
            self.fetched.set(cpu, self.config.geometry().line_of(address), None);
        }
    }

    /// Makes a store that goes to the cache, if neither its line is in doubt nor the one that makes room for it. Else nothing has
    /// happened.
    pub(crate) fn store_quietly<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        who: Writer,
        addr: u64,
        data: &[u8],
    ) -> Result<bool, OutOfRange> {
        let geometry = self.config.geometry();
        let line = geometry.line_of(addr);
        if !self.lines.is_whole(addr, data.len())
            || !self.config.allocates()
            || self.coherence.is_watched(line)
        {
            return Ok(false);
        }
        let slot = if let Some(slot) = self.lines.find_first(line) {
            self.lines.touch(slot);
            self.counters.of(Some(who.agent)).store_hits += 1;
            slot
        } else {
            self.now = who.stamp;
            let Some(slot) = self.place_quietly(who, line) else { return Ok(false) };
            self.counters.of(Some(who.agent)).store_misses += 1;
            slot
        };
        self.lines.diverge(memory, slot)?;
        let offset = (addr - geometry.base(line)) as usize;
        self.lines.dirtied(slot, Span { line, addr, offset, len: data.len() }, who);
        memory.write(addr, data)?;
        self.coherence.unknown.forget(line);
        Ok(true)
    }

    /// Brings a line in that is in no doubt and absent from the first level, if what makes room for it is in none either and
    /// leaves without a trace in memory.
    #[inline]
    pub(crate) fn place_quietly(&mut self, by: Writer, line: u64) -> Option<usize> {
        let slot = self.lines.quiet_room(line)?;
        let stats = self.counters.of(Some(by.agent));
        stats.fills += 1;
        if let Some(old) = self.lines.occupant(slot) {
            let dirty = self.lines.dirty(slot);
            stats.evictions += 1;
            if !dirty.is_empty() {
                stats.writebacks += 1;
                self.coherence.spill_line(&self.lines, slot, old, dirty, self.now);
            }
        }
        self.lines.occupy(slot, line, false, Some(by));
        Some(slot)
    }
}
