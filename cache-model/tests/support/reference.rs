//! A cache the obvious way: RAM is one array, every resident line has its own copy of its bytes, a third array holds what a
//! coherent machine would, and a fourth who wrote that. It shares nothing with the crate it is a reference for.

use std::collections::HashMap;
use std::ops::Range;

use super::doubts::Doubts;
use super::ops::Op;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    Lru,
    Fifo,
    Plru,
    /// Only with one way, where the victim is certain.
    Random,
}

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Policy::Lru => "lru",
            Policy::Fifo => "fifo",
            Policy::Plru => "plru",
            Policy::Random => "random",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub memory: u64,
    pub line: usize,
    pub sets: usize,
    pub ways: usize,
    pub policy: Policy,
    /// Sets, ways and policy of a second level, which holds what the first has dropped and nothing that is in the first.
    pub second: Option<(usize, usize, Policy)>,
    pub through: bool,
    pub allocate: bool,
    pub whole_lines: bool,
}

impl Shape {
    pub fn config(&self) -> String {
        let Shape { memory, line, sets, ways, .. } = self;
        let policy = self.policy.name();
        let write = if self.through { "through" } else { "back" };
        let alloc = if self.allocate { "yes" } else { "no" };
        let writeback = if self.whole_lines { "line" } else { "bytes" };
        let second = self.second.map_or_else(String::new, |(sets, ways, policy)| {
            format!(" sets2={sets} ways2={ways} policy2={}", policy.name())
        });
        format!(
            "config line={line} sets={sets} ways={ways} policy={policy} write={write} alloc={alloc} \
             writeback={writeback} mem={memory}{second}"
        )
    }
}

#[derive(Clone)]
struct Copy {
    tag: usize,
    bytes: Vec<u8>,
    dirty: Vec<bool>,
}

#[derive(Clone, Default)]
struct Set {
    ways: Vec<Option<Copy>>,
    /// Ways by last use (LRU) or fill (FIFO), oldest first.
    order: Vec<usize>,
    /// For each subtree of ways: is its upper half the older one?
    upper_is_older: HashMap<(usize, usize), bool>,
}

struct Level {
    ways: usize,
    policy: Policy,
    sets: Vec<Set>,
}

/// Somebody got wrong bytes, or could have.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    pub latent: bool,
    pub addr: u64,
    pub expected: Vec<u8>,
    pub found: Vec<u8>,
    pub kind: &'static str,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub load_hits: u64,
    pub load_misses: u64,
    pub store_hits: u64,
    pub store_misses: u64,
    pub fills: u64,
    pub evictions: u64,
    pub writebacks: u64,
}

pub struct Reference {
    shape: Shape,
    pub ram: Vec<u8>,
    pub coherent: Vec<u8>,
    /// The number of the operation that wrote a byte last.
    pub written_by: Vec<Option<u64>>,
    pub doubts: Doubts,
    levels: Vec<Level>,
    pub counts: Counts,
    operations: u64,
}

/// A line's place: level, way.
type Place = (usize, usize);

impl Reference {
    pub fn new(shape: Shape) -> Self {
        let memory = shape.memory as usize;
        let level = |sets: usize, ways: usize, policy| {
            let set = Set { ways: vec![None; ways], ..Set::default() };
            Level { ways, policy, sets: vec![set; sets] }
        };
        let mut levels = vec![level(shape.sets, shape.ways, shape.policy)];
        levels.extend(shape.second.map(|(sets, ways, policy)| level(sets, ways, policy)));
        Self {
            shape,
            ram: vec![0; memory],
            coherent: vec![0; memory],
            written_by: vec![None; memory],
            doubts: Doubts::new(memory, shape.line, shape.whole_lines),
            levels,
            counts: Counts::default(),
            operations: 0,
        }
    }

    /// All of memory as the CPU sees it.
    pub fn cpu(&self) -> Vec<u8> {
        let mut view = self.ram.clone();
        let sets = self.levels.iter().flat_map(|level| &level.sets);
        for copy in sets.flat_map(|set| set.ways.iter().flatten()) {
            view[copy.tag * self.shape.line..][..self.shape.line].copy_from_slice(&copy.bytes);
        }
        view
    }

    /// The dirty bytes of the line that holds `addr`, if it is resident.
    pub fn dirty(&mut self, addr: usize) -> Option<Vec<bool>> {
        self.lookup(addr).map(|place| self.copy(addr, place).dirty.clone())
    }

    /// Runs an operation; operations are numbered from 1.
    pub fn run(&mut self, op: &Op) -> Vec<Wrong> {
        self.operations += 1;
        let mut wrong = Vec::new();
        match op {
            Op::Load { addr, len, kind, .. } => {
                for part in self.split(*addr, *len) {
                    let cached = !matches!(*kind, "uc" | "wc");
                    if cached {
                        self.count_access(part.start, |counts, hit| {
                            *(if hit { &mut counts.load_hits } else { &mut counts.load_misses }) += 1;
                        });
                        self.bring_in(part.start);
                    }
                    wrong.extend(self.look(part, cached, "cpu"));
                }
            }
            Op::DmaRead { addr, len, snoop } => {
                for part in self.split(*addr, *len) {
                    wrong.extend(self.look(part, *snoop, "device"));
                }
            }
            Op::Store { cpu, addr, data, kind } => {
                for (part, data) in self.split_data(*addr, data) {
                    match *kind {
                        "uc" | "wc" => self.write_past(part.clone(), data),
                        "nt" => self.write_everywhere(part.clone(), data),
                        kind => self.store(part.clone(), data, kind == "wt" || self.shape.through),
                    }
                    if matches!(*kind, "nt" | "wc") {
                        self.doubts.waits(*cpu, part.clone(), self.operations);
                    }
                    self.learn(part, data);
                }
            }
            Op::DmaWrite { addr, data, snoop } => {
                for (part, data) in self.split_data(*addr, data) {
                    if *snoop {
                        self.write_everywhere(part.clone(), data);
                    } else {
                        self.write_past(part.clone(), data);
                    }
                    self.learn(part, data);
                }
            }
            Op::Clean { addr, len } => {
                for part in self.split(*addr, *len) {
                    self.write_back(part.start);
                    self.doubts.cleaned(part.start);
                }
            }
            Op::Inval { addr, len } => {
                for part in self.split(*addr, *len) {
                    self.discard(part.start);
                    self.doubts.invalidated(part.start);
                }
            }
            Op::Flush { addr, len } => {
                for part in self.split(*addr, *len) {
                    self.write_back(part.start);
                    self.discard(part.start);
                    self.doubts.flushed(part.start);
                }
            }
            Op::Wbinvd => (0..self.ram.len()).step_by(self.shape.line).for_each(|at| {
                self.write_back(at);
                self.discard(at);
                self.doubts.flushed(at);
            }),
            Op::Invd => (0..self.ram.len()).step_by(self.shape.line).for_each(|at| {
                self.discard(at);
                self.doubts.invalidated(at);
            }),
            Op::Fence { cpu } => self.doubts.fence(*cpu),
            Op::Fill { addr } => {
                if self.lookup(*addr as usize).is_none() {
                    self.bring_in(*addr as usize);
                }
            }
            Op::Evict { addr } => self.evict(*addr as usize),
        }
        wrong
    }

    fn learn(&mut self, part: Range<usize>, data: &[u8]) {
        self.written_by[part.clone()].fill(Some(self.operations));
        self.coherent[part].copy_from_slice(data);
    }

    /// A CPU's cacheable access hits the first level or misses it.
    fn count_access(&mut self, addr: usize, count: impl Fn(&mut Counts, bool)) {
        let place = self.lookup(addr).filter(|(level, _)| *level == 0);
        count(&mut self.counts, place.is_some());
        if let Some(place) = place {
            self.used(addr, place);
        }
    }

    fn store(&mut self, part: Range<usize>, data: &[u8], through: bool) {
        self.count_access(part.start, |counts, hit| {
            *(if hit { &mut counts.store_hits } else { &mut counts.store_misses }) += 1;
        });
        if self.shape.allocate && !through {
            self.bring_in(part.start);
        }
        let found = self.lookup(part.start);
        if through || found.is_none() {
            self.ram[part.clone()].copy_from_slice(data);
        }
        if let Some(place) = found {
            let offset = part.start % self.shape.line;
            let copy = self.copy(part.start, place);
            copy.bytes[offset..][..data.len()].copy_from_slice(data);
            if !through {
                copy.dirty[offset..][..data.len()].fill(true);
            }
        }
        if through { self.doubts.stored_through(part) } else { self.doubts.stored_back(part) }
    }

    fn write_past(&mut self, part: Range<usize>, data: &[u8]) {
        self.ram[part.clone()].copy_from_slice(data);
        self.doubts.bypassed(part);
    }

    fn write_everywhere(&mut self, part: Range<usize>, data: &[u8]) {
        self.write_back(part.start);
        self.discard(part.start);
        self.ram[part.clone()].copy_from_slice(data);
        self.doubts.written_everywhere(part);
    }

    /// What an observer of `part` gets, compared with what a coherent machine would have given it.
    fn look(&mut self, part: Range<usize>, cached: bool, who: &'static str) -> Option<Wrong> {
        let (base, size) = (part.start / self.shape.line * self.shape.line, self.shape.line);
        let ram = self.ram[base..][..size].to_vec();
        let cpu = match self.lookup(base) {
            Some(place) => self.copy(base, place).bytes.clone(),
            None => ram.clone(),
        };
        let (seen, other) = if cached { (cpu, ram) } else { (ram, cpu) };
        let coherent = &self.coherent[base..][..size];
        let mut bytes: Vec<usize> =
            part.clone().filter(|at| seen[at - base] != coherent[at - base]).collect();
        let latent = bytes.is_empty();
        let exists;
        if latent {
            (bytes, exists) = self.doubts.doubtful(part, cached, who == "device");
        } else {
            exists = bytes.iter().all(|at| other[at - base] == coherent[at - base]);
        }
        let (first, last) = (*bytes.first()?, *bytes.last()?);
        let kind = match (exists, who) {
            (false, _) => "lost-write",
            (true, "cpu") => "stale-cpu-read",
            (true, _) => "stale-device-read",
        };
        let expected = coherent[first - base..=last - base].to_vec();
        let found = seen[first - base..=last - base].to_vec();
        Some(Wrong { latent, addr: first as u64, expected, found, kind })
    }

    fn set(&mut self, addr: usize, level: usize) -> &mut Set {
        let sets = &mut self.levels[level].sets;
        let index = addr / self.shape.line % sets.len();
        &mut sets[index]
    }

    fn copy(&mut self, addr: usize, (level, way): Place) -> &mut Copy {
        self.set(addr, level).ways[way].as_mut().expect("the caller looked it up")
    }

    fn lookup(&mut self, addr: usize) -> Option<Place> {
        let tag = addr / self.shape.line;
        (0..self.levels.len()).find_map(|level| {
            let mut ways = self.set(addr, level).ways.iter();
            Some((level, ways.position(|way| way.as_ref().is_some_and(|copy| copy.tag == tag))?))
        })
    }

    fn write_back(&mut self, addr: usize) {
        let Some(place) = self.lookup(addr) else { return };
        let (line, whole) = (self.shape.line, self.shape.whole_lines);
        let copy = self.copy(addr, place).clone();
        if copy.dirty.contains(&true) {
            self.counts.writebacks += 1;
            for at in (0..line).filter(|&at| whole || copy.dirty[at]) {
                self.ram[copy.tag * line + at] = copy.bytes[at];
            }
            self.copy(addr, place).dirty.fill(false);
        }
    }

    fn discard(&mut self, addr: usize) {
        if let Some((level, way)) = self.lookup(addr) {
            self.set(addr, level).ways[way] = None;
        }
    }

    fn evict(&mut self, addr: usize) {
        if self.lookup(addr).is_some() {
            self.counts.evictions += 1;
            self.write_back(addr);
            self.discard(addr);
        }
    }

    /// Makes a line resident in the first level, from the second or from RAM.
    fn bring_in(&mut self, addr: usize) {
        let line = self.shape.line;
        let from = self.lookup(addr);
        if matches!(from, Some((0, _))) {
            return;
        }
        let copy = match from {
            Some((level, way)) => self.set(addr, level).ways[way].take().expect("it was looked up"),
            None => {
                self.counts.fills += 1;
                let bytes = self.ram[addr / line * line..][..line].to_vec();
                Copy { tag: addr / line, bytes, dirty: vec![false; line] }
            }
        };
        self.put(0, copy);
    }

    /// Puts a line into a level. The line that makes way goes to the next level, or leaves.
    fn put(&mut self, level: usize, copy: Copy) {
        let addr = copy.tag * self.shape.line;
        let free = self.set(addr, level).ways.iter().position(Option::is_none);
        let way = free.unwrap_or_else(|| self.oldest(addr, level));
        if let Some(old) = self.set(addr, level).ways[way].clone() {
            if level + 1 < self.levels.len() {
                self.set(addr, level).ways[way] = None;
                self.put(level + 1, old);
            } else {
                self.evict(old.tag * self.shape.line);
            }
        }
        self.set(addr, level).ways[way] = Some(copy);
        if self.levels[level].policy == Policy::Fifo {
            self.make_newest(addr, (level, way));
        }
        self.used(addr, (level, way));
    }

    fn make_newest(&mut self, addr: usize, (level, way): Place) {
        let order = &mut self.set(addr, level).order;
        order.retain(|&other| other != way);
        order.push(way);
    }

    fn used(&mut self, addr: usize, (level, way): Place) {
        match self.levels[level].policy {
            Policy::Lru => self.make_newest(addr, (level, way)),
            Policy::Plru => {
                let ways = self.levels[level].ways;
                let set = self.set(addr, level);
                let (mut low, mut high) = (0, ways);
                while high - low > 1 {
                    let middle = (low + high) / 2;
                    set.upper_is_older.insert((low, high), way < middle);
                    if way < middle {
                        high = middle;
                    } else {
                        low = middle;
                    }
                }
            }
            Policy::Fifo | Policy::Random => {}
        }
    }

    fn oldest(&mut self, addr: usize, level: usize) -> usize {
        let Level { policy, ways, .. } = self.levels[level];
        let set = self.set(addr, level);
        match policy {
            Policy::Lru | Policy::Fifo => set.order[0],
            Policy::Plru => {
                let (mut low, mut high) = (0, ways);
                while high - low > 1 {
                    let middle = (low + high) / 2;
                    if set.upper_is_older.get(&(low, high)) == Some(&true) {
                        low = middle;
                    } else {
                        high = middle;
                    }
                }
                low
            }
            Policy::Random => 0,
        }
    }

    fn split(&self, addr: u64, len: u64) -> Vec<Range<usize>> {
        let (mut at, end) = (addr as usize, (addr + len) as usize);
        let mut parts = Vec::new();
        while at < end {
            let next = ((at / self.shape.line + 1) * self.shape.line).min(end);
            parts.push(at..next);
            at = next;
        }
        parts
    }

    fn split_data<'a>(&self, addr: u64, data: &'a [u8]) -> Vec<(Range<usize>, &'a [u8])> {
        let parts = self.split(addr, data.len() as u64);
        let slice =
            |part: Range<usize>| (part.clone(), &data[part.start - addr as usize..part.end - addr as usize]);
        parts.into_iter().map(slice).collect()
    }
}
