//! A cache the obvious way: RAM is one array, every resident line has its own copy of its bytes, and a third array holds
//! what a coherent machine would. It shares nothing with the crate it is a reference for.

use std::collections::HashMap;
use std::ops::Range;

use super::ops::{MEMORY, Op};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    Lru,
    Fifo,
    Plru,
    /// Only with one way, where the victim is certain.
    Random,
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub line: usize,
    pub sets: usize,
    pub ways: usize,
    pub policy: Policy,
    pub through: bool,
    pub allocate: bool,
    pub whole_lines: bool,
}

impl Shape {
    pub fn config(&self) -> String {
        let Shape { line, sets, ways, .. } = self;
        let policy = match self.policy {
            Policy::Lru => "lru",
            Policy::Fifo => "fifo",
            Policy::Plru => "plru",
            Policy::Random => "random",
        };
        let write = if self.through { "through" } else { "back" };
        let alloc = if self.allocate { "yes" } else { "no" };
        let writeback = if self.whole_lines { "line" } else { "bytes" };
        format!(
            "config line={line} sets={sets} ways={ways} policy={policy} write={write} alloc={alloc} \
             writeback={writeback} mem={MEMORY}"
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

/// Somebody got wrong bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
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
    coherent: Vec<u8>,
    sets: Vec<Set>,
    pub counts: Counts,
}

impl Reference {
    pub fn new(shape: Shape) -> Self {
        let set = Set { ways: vec![None; shape.ways], ..Set::default() };
        Self {
            shape,
            ram: vec![0; MEMORY as usize],
            coherent: vec![0; MEMORY as usize],
            sets: vec![set; shape.sets],
            counts: Counts::default(),
        }
    }

    /// All of memory as the CPU sees it.
    pub fn cpu(&self) -> Vec<u8> {
        let mut view = self.ram.clone();
        for copy in self.sets.iter().flat_map(|set| set.ways.iter().flatten()) {
            view[copy.tag * self.shape.line..][..self.shape.line].copy_from_slice(&copy.bytes);
        }
        view
    }

    pub fn run(&mut self, op: &Op) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        match op {
            Op::Load { addr, len, kind } => {
                for part in self.split(*addr, *len) {
                    let cached = !matches!(*kind, "uc" | "wc");
                    if cached {
                        if let Some(way) = self.lookup(part.start) {
                            self.counts.load_hits += 1;
                            self.used(part.start, way);
                        } else {
                            self.counts.load_misses += 1;
                            self.bring_in(part.start);
                        }
                    }
                    wrong.extend(self.look(part, cached, "cpu"));
                }
            }
            Op::DmaRead { addr, len, snoop } => {
                for part in self.split(*addr, *len) {
                    wrong.extend(self.look(part, *snoop, "device"));
                }
            }
            Op::Store { addr, data, kind } => {
                for (part, data) in self.split_data(*addr, data) {
                    match *kind {
                        "uc" | "wc" => self.ram[part.clone()].copy_from_slice(data),
                        "nt" => self.write_everywhere(part.clone(), data),
                        kind => self.store(part.clone(), data, kind == "wt" || self.shape.through),
                    }
                    self.coherent[part].copy_from_slice(data);
                }
            }
            Op::DmaWrite { addr, data, snoop } => {
                for (part, data) in self.split_data(*addr, data) {
                    if *snoop {
                        self.write_everywhere(part.clone(), data);
                    } else {
                        self.ram[part.clone()].copy_from_slice(data);
                    }
                    self.coherent[part].copy_from_slice(data);
                }
            }
            Op::Clean { addr, len } => {
                self.split(*addr, *len).into_iter().for_each(|p| self.write_back(p.start))
            }
            Op::Inval { addr, len } => {
                self.split(*addr, *len).into_iter().for_each(|p| self.discard(p.start))
            }
            Op::Flush { addr, len } => {
                for part in self.split(*addr, *len) {
                    self.write_back(part.start);
                    self.discard(part.start);
                }
            }
            Op::Wbinvd => (0..MEMORY as usize).step_by(self.shape.line).for_each(|at| {
                self.write_back(at);
                self.discard(at);
            }),
            Op::Invd => (0..MEMORY as usize).step_by(self.shape.line).for_each(|at| self.discard(at)),
            Op::Fence => {}
            Op::Fill { addr } => {
                if self.lookup(*addr as usize).is_none() {
                    self.bring_in(*addr as usize);
                }
            }
            Op::Evict { addr } => {
                if self.lookup(*addr as usize).is_some() {
                    self.counts.evictions += 1;
                    self.write_back(*addr as usize);
                    self.discard(*addr as usize);
                }
            }
        }
        wrong
    }

    fn store(&mut self, part: Range<usize>, data: &[u8], through: bool) {
        let mut found = self.lookup(part.start);
        if let Some(way) = found {
            self.counts.store_hits += 1;
            self.used(part.start, way);
        } else {
            self.counts.store_misses += 1;
            if self.shape.allocate && !through {
                self.bring_in(part.start);
                found = self.lookup(part.start);
            }
        }
        if through || found.is_none() {
            self.ram[part.clone()].copy_from_slice(data);
        }
        if let Some(way) = found {
            let offset = part.start % self.shape.line;
            let copy = self.copy(part.start, way);
            copy.bytes[offset..][..data.len()].copy_from_slice(data);
            if !through {
                copy.dirty[offset..][..data.len()].fill(true);
            }
        }
    }

    fn write_everywhere(&mut self, part: Range<usize>, data: &[u8]) {
        self.write_back(part.start);
        self.discard(part.start);
        self.ram[part].copy_from_slice(data);
    }

    /// What an observer of `part` gets, compared with what a coherent machine would have given it.
    fn look(&self, part: Range<usize>, cached: bool, who: &'static str) -> Option<Wrong> {
        let (base, line) = (part.start / self.shape.line * self.shape.line, self.shape.line);
        let ram = &self.ram[base..][..line];
        let ways = self.sets[base / line % self.shape.sets].ways.iter().flatten();
        let cpu =
            ways.filter(|copy| copy.tag == base / line).map(|copy| &copy.bytes[..]).next().unwrap_or(ram);
        let (seen, other) = if cached { (cpu, ram) } else { (ram, cpu) };
        let coherent = &self.coherent[base..][..line];
        let part = part.start - base..part.end - base;
        let wrong: Vec<usize> = part.filter(|&at| seen[at] != coherent[at]).collect();
        let span = *wrong.first()?..=*wrong.last()?;
        let kind = match (wrong.iter().all(|&at| other[at] == coherent[at]), who) {
            (false, _) => "lost-write",
            (true, "cpu") => "stale-cpu-read",
            (true, _) => "stale-device-read",
        };
        let expected = coherent[span.clone()].to_vec();
        Some(Wrong { addr: (base + wrong[0]) as u64, expected, found: seen[span].to_vec(), kind })
    }

    fn set(&mut self, addr: usize) -> &mut Set {
        let index = addr / self.shape.line % self.shape.sets;
        &mut self.sets[index]
    }

    fn copy(&mut self, addr: usize, way: usize) -> &mut Copy {
        self.set(addr).ways[way].as_mut().expect("the caller looked it up")
    }

    fn lookup(&mut self, addr: usize) -> Option<usize> {
        let tag = addr / self.shape.line;
        self.set(addr).ways.iter().position(|way| way.as_ref().is_some_and(|copy| copy.tag == tag))
    }

    fn write_back(&mut self, addr: usize) {
        let Some(way) = self.lookup(addr) else { return };
        let (line, whole) = (self.shape.line, self.shape.whole_lines);
        let copy = self.copy(addr, way).clone();
        if copy.dirty.contains(&true) {
            self.counts.writebacks += 1;
            for at in (0..line).filter(|&at| whole || copy.dirty[at]) {
                self.ram[copy.tag * line + at] = copy.bytes[at];
            }
            self.copy(addr, way).dirty.fill(false);
        }
    }

    fn discard(&mut self, addr: usize) {
        if let Some(way) = self.lookup(addr) {
            self.set(addr).ways[way] = None;
        }
    }

    fn bring_in(&mut self, addr: usize) {
        let line = self.shape.line;
        let way = match self.set(addr).ways.iter().position(Option::is_none) {
            Some(way) => way,
            None => {
                let way = self.oldest(addr);
                let old = self.copy(addr, way).tag * line;
                self.counts.evictions += 1;
                self.write_back(old);
                self.discard(old);
                way
            }
        };
        let tag = addr / line;
        let bytes = self.ram[tag * line..][..line].to_vec();
        self.set(addr).ways[way] = Some(Copy { tag, bytes, dirty: vec![false; line] });
        self.counts.fills += 1;
        if self.shape.policy == Policy::Fifo {
            self.make_newest(addr, way);
        }
        self.used(addr, way);
    }

    fn make_newest(&mut self, addr: usize, way: usize) {
        let order = &mut self.set(addr).order;
        order.retain(|&other| other != way);
        order.push(way);
    }

    fn used(&mut self, addr: usize, way: usize) {
        match self.shape.policy {
            Policy::Lru => self.make_newest(addr, way),
            Policy::Plru => {
                let ways = self.shape.ways;
                let set = self.set(addr);
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

    fn oldest(&mut self, addr: usize) -> usize {
        let (policy, ways) = (self.shape.policy, self.shape.ways);
        let set = self.set(addr);
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
