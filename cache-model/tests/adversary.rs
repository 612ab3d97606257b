//! Adversarial schedules are legal: whatever they make somebody read, some order of write-backs, evictions and fills does.
//! And they are adversaries: `worst` makes a read wrong wherever such an order exists.
//!
//! The orders are enumerated by a machine of one line with nothing taken from the crate.

mod support;

use std::collections::BTreeSet;

use cache_model::{
    CacheModel, Config, Geometry, MemoryType, Policy, Schedule, Snoop, Stats, Verdict, WriteBack, Writer,
};
use support::ops::Random;

/// The bytes in use of the line.
const USED: usize = 4;
type Bytes = [u8; USED];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Store(MemoryType, usize, usize, u8),
    Load(MemoryType, usize, usize),
    Clean,
    Invalidate,
    Flush,
    DmaWrite(Snoop, usize, usize, u8),
    DmaRead(Snoop, usize, usize),
}

impl Op {
    fn is_read(self) -> bool {
        matches!(self, Op::Load(..) | Op::DmaRead(..))
    }
}

/// One line of memory, and perhaps of cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    ram: Bytes,
    /// Bytes, and which of them are dirty.
    cache: Option<(Bytes, [bool; USED])>,
}

impl State {
    fn write_back(mut self, mode: WriteBack) -> Self {
        if let Some((bytes, dirty)) = &mut self.cache {
            let any = dirty.contains(&true);
            for at in 0..USED {
                if dirty[at] || (any && mode == WriteBack::Line) {
                    self.ram[at] = bytes[at];
                }
            }
            *dirty = [false; USED];
        }
        self
    }

    fn gone(self) -> Self {
        Self { cache: None, ..self }
    }

    fn filled(self) -> Self {
        Self { cache: self.cache.or(Some((self.ram, [false; USED]))), ..self }
    }

    /// Everything that a cache may do of itself, any number of times.
    fn moves(self, mode: WriteBack, speculates: bool) -> Vec<Self> {
        let written = self.write_back(mode);
        let gone = written.gone();
        let mut all = vec![self, written, gone];
        if speculates {
            all.extend([self.filled(), gone.filled()]);
        }
        all
    }

    /// What happens, and what is read.
    fn run(mut self, op: Op, mode: WriteBack) -> (Self, Vec<u8>) {
        let mut read = Vec::new();
        match op {
            Op::Store(MemoryType::WriteBack, at, len, value) => {
                self = self.filled();
                if let Some((bytes, dirty)) = &mut self.cache {
                    bytes[at..at + len].fill(value);
                    dirty[at..at + len].fill(true);
                }
            }
            Op::Store(MemoryType::WriteThrough, at, len, value) => {
                self.ram[at..at + len].fill(value);
                if let Some((bytes, _)) = &mut self.cache {
                    bytes[at..at + len].fill(value);
                }
            }
            Op::Store(MemoryType::NonTemporal, at, len, value)
            | Op::DmaWrite(Snoop::Snoop, at, len, value) => {
                self = self.write_back(mode).gone();
                self.ram[at..at + len].fill(value);
            }
            Op::Store(_, at, len, value) | Op::DmaWrite(Snoop::NoSnoop, at, len, value) => {
                self.ram[at..at + len].fill(value);
            }
            Op::Load(MemoryType::WriteBack, at, len) => {
                self = self.filled();
                read = self.cache.map_or(self.ram, |(bytes, _)| bytes)[at..at + len].to_vec();
            }
            Op::DmaRead(Snoop::Snoop, at, len) => {
                read = self.cache.map_or(self.ram, |(bytes, _)| bytes)[at..at + len].to_vec();
            }
            Op::Load(_, at, len) | Op::DmaRead(Snoop::NoSnoop, at, len) => {
                read = self.ram[at..at + len].to_vec();
            }
            Op::Clean => self = self.write_back(mode),
            Op::Invalidate => self = self.gone(),
            Op::Flush => self = self.write_back(mode).gone(),
        }
        (self, read)
    }
}

/// All that the reads of a program can give, one after the other, under any schedule.
fn outcomes(program: &[Op], mode: WriteBack, speculates: bool) -> BTreeSet<Vec<Vec<u8>>> {
    let start = State { ram: [0; USED], cache: None };
    let mut reached: BTreeSet<(State, Vec<Vec<u8>>)> = [(start, Vec::new())].into();
    for &op in program {
        let mut next = BTreeSet::new();
        for (state, reads) in reached {
            for moved in state.moves(mode, speculates) {
                let (state, read) = moved.run(op, mode);
                let mut reads = reads.clone();
                reads.extend(op.is_read().then_some(read));
                next.insert((state, reads));
            }
        }
        reached = next;
    }
    reached.into_iter().map(|(_, reads)| reads).collect()
}

/// What a coherent machine gives.
fn coherent(program: &[Op]) -> Vec<Vec<u8>> {
    let mut memory = [0; USED];
    let mut reads = Vec::new();
    for &op in program {
        match op {
            Op::Store(_, at, len, value) | Op::DmaWrite(_, at, len, value) => {
                memory[at..at + len].fill(value)
            }
            Op::Load(_, at, len) | Op::DmaRead(_, at, len) => reads.push(memory[at..at + len].to_vec()),
            Op::Clean | Op::Invalidate | Op::Flush => {}
        }
    }
    reads
}

/// Memory of which a CPU may, or may not, speculate.
struct Memory(Vec<u8>, bool);

impl cache_model::Memory for Memory {
    fn covers(&self, addr: u64, len: u64) -> bool {
        self.0.as_slice().covers(addr, len)
    }
    fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), cache_model::OutOfRange> {
        self.0.as_slice().read(addr, buf)
    }
    fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), cache_model::OutOfRange> {
        self.0.as_mut_slice().write(addr, data)
    }
    fn may_speculate(&self, _addr: u64) -> bool {
        self.1
    }
}

/// The reads under a schedule, and how many of them the model found manifestly wrong.
fn play(
    program: &[Op],
    mode: WriteBack,
    speculates: bool,
    schedule: Schedule,
    seed: u64,
) -> (Vec<Vec<u8>>, usize) {
    const LINE: u64 = 0x40;
    let geometry = Geometry::new(16, 4, 2).expect("a valid shape");
    let config = Config::new(geometry, Policy::Lru).expect("a valid policy");
    let mut cache = CacheModel::new(config.with_write_back(mode).with_schedule(schedule));
    let mut memory = Memory(vec![0; 256], speculates);
    cache.start_schedule(seed);
    let mut reads = Vec::new();
    for (stamp, &op) in (0..).zip(program) {
        let (cpu, device) = (Writer::cpu(0, 0, stamp), Writer::device(1, stamp));
        let mut buf = [0; USED];
        match op {
            Op::Store(kind, at, len, value) => {
                cache.store(&mut memory, cpu, LINE + at as u64, &vec![value; len], kind)
            }
            Op::Load(kind, at, len) => {
                let done = cache.load(&mut memory, cpu, LINE + at as u64, &mut buf[..len], kind);
                reads.push(buf[..len].to_vec());
                done
            }
            Op::Clean => cache.clean(&mut memory, cpu, LINE, 1),
            Op::Invalidate => cache.invalidate(&mut memory, cpu, LINE, 1),
            Op::Flush => cache.flush(&mut memory, cpu, LINE, 1),
            Op::DmaWrite(snoop, at, len, value) => {
                cache.dma_write(&mut memory, device, LINE + at as u64, &vec![value; len], snoop)
            }
            Op::DmaRead(snoop, at, len) => {
                let done = cache.dma_read(&mut memory, device, LINE + at as u64, &mut buf[..len], snoop);
                reads.push(buf[..len].to_vec());
                done
            }
        }
        .expect("in memory");
    }
    let findings = cache.take_findings();
    let manifest = findings.iter().filter(|finding| finding.verdict == Verdict::Manifest).count();
    (reads, manifest)
}

/// Values are never written twice, so a wrong byte shows.
fn op(random: &mut Random, value: u8, reads: bool) -> Op {
    let at = (random.draw() % USED as u64) as usize;
    let len = 1 + (random.draw() as usize) % (USED - at);
    let snoop = if random.draw().is_multiple_of(4) { Snoop::Snoop } else { Snoop::NoSnoop };
    let kind = match random.draw() % 8 {
        0 => MemoryType::Uncached,
        1 => MemoryType::WriteThrough,
        2 => MemoryType::NonTemporal,
        _ => MemoryType::WriteBack,
    };
    match random.draw() % if reads { 10 } else { 7 } {
        0 | 1 => Op::Store(kind, at, len, value),
        2 => Op::Clean,
        3 => Op::Invalidate,
        4 => Op::Flush,
        5 | 6 => Op::DmaWrite(snoop, at, len, value),
        7 => Op::DmaRead(snoop, at, len),
        _ if kind == MemoryType::Uncached => Op::Load(kind, at, len),
        _ => Op::Load(MemoryType::WriteBack, at, len),
    }
}

fn modes() -> [(WriteBack, bool); 4] {
    [(WriteBack::Line, true), (WriteBack::Bytes, true), (WriteBack::Line, false), (WriteBack::Bytes, false)]
}

#[test]
fn schedules_are_legal() {
    let mut random = Random(0x1e6a1);
    let (mut distinct, mut wrong) = (0, 0);
    for round in 0..2_000 {
        let (mode, speculates) = modes()[round % 4];
        let len = 3 + random.draw() % 8;
        let program: Vec<Op> = (1..=len).map(|value| op(&mut random, value as u8, true)).collect();
        let possible = outcomes(&program, mode, speculates);
        let right = coherent(&program);
        let mut seen = BTreeSet::new();
        for (schedule, seeds) in [(Schedule::Random, 24), (Schedule::Worst, 4)] {
            for seed in 0..seeds {
                let (reads, manifest) = play(&program, mode, speculates, schedule, seed);
                assert!(possible.contains(&reads), "{schedule:?} {seed}: {reads:?} of {program:?} {mode:?}");
                assert_eq!(manifest, reads.iter().zip(&right).filter(|(a, b)| a != b).count(), "{program:?}");
                assert_eq!((reads.clone(), manifest), play(&program, mode, speculates, schedule, seed));
                wrong += manifest;
                seen.insert(reads);
            }
        }
        distinct += seen.len() - 1;
    }
    assert!(distinct > 500 && wrong > 5_000, "{distinct} {wrong}");
}

/// True if the greedy adversary has to guess: an invalidation of a dirty line that was written past the cache loses
/// either side's bytes.
fn guesses(program: &[Op]) -> bool {
    let (mut stored, mut bypassed) = (false, false);
    for op in program {
        match op {
            Op::Store(MemoryType::WriteBack, ..) => stored = true,
            Op::Store(MemoryType::Uncached, ..) | Op::DmaWrite(Snoop::NoSnoop, ..) => bypassed = true,
            Op::Store(MemoryType::NonTemporal, ..) | Op::DmaWrite(..) | Op::Flush => {
                (stored, bypassed) = (false, false);
            }
            Op::Clean => stored = false,
            Op::Invalidate if stored && bypassed => return true,
            Op::Invalidate => (stored, bypassed) = (false, false),
            _ => {}
        }
    }
    false
}

#[test]
fn worst_finds_what_can_go_wrong() {
    let mut random = Random(0xbad);
    let (mut certain, mut guessed, mut sound) = (0, 0, 0);
    for round in 0..6_000 {
        let (mode, speculates) = modes()[round % 4];
        let len = 1 + random.draw() % 7;
        let mut program: Vec<Op> = (1..=len).map(|value| op(&mut random, value as u8, false)).collect();
        program.push(match random.draw() % 3 {
            0 => Op::Load(MemoryType::WriteBack, 0, USED),
            1 => Op::Load(MemoryType::Uncached, 0, USED),
            _ => Op::DmaRead(Snoop::NoSnoop, 0, USED),
        });
        let right = coherent(&program);
        let can_go_wrong = outcomes(&program, mode, speculates).iter().any(|reads| *reads != right);
        let seeds = if guesses(&program) { 32 } else { 1 };
        let goes_wrong = (0..seeds).any(|seed| play(&program, mode, speculates, Schedule::Worst, seed).1 > 0);
        assert_eq!(goes_wrong, can_go_wrong, "{program:?} {mode:?} speculates: {speculates}");
        match (can_go_wrong, seeds) {
            (false, _) => sound += 1,
            (true, 1) => certain += 1,
            _ => guessed += 1,
        }
    }
    assert!(certain > 1_000 && guessed > 100 && sound > 1_000, "{certain} {guessed} {sound}");
}

/// The load and the store of one instruction, and a device's atomic operation, are never split.
#[test]
fn atomics_are_whole() {
    let geometry = Geometry::new(16, 4, 2).expect("a valid shape");
    let config = Config::new(geometry, Policy::Lru).expect("a valid policy");
    for seed in 0..200 {
        let mut cache = CacheModel::new(config.with_schedule(Schedule::Random));
        let mut memory = vec![0; 256];
        let memory = memory.as_mut_slice();
        cache.start_schedule(seed);
        for round in 0..40_u8 {
            let stamp = u64::from(round);
            let (cpu, device) = (Writer::cpu(0, 0, stamp), Writer::device(1, stamp));
            let mut byte = [0];
            if round % 2 == 0 {
                cache.load(memory, cpu, 0x40, &mut byte, MemoryType::WriteBack).expect("in memory");
                let before = cache.stats();
                byte[0] += 1;
                cache.store(memory, cpu, 0x40, &byte, MemoryType::WriteBack).expect("in memory");
                let stats = cache.stats();
                assert_eq!(Stats { store_hits: stats.store_hits, ..before }, stats);
            } else {
                let before = cache.stats();
                let add = |bytes: &mut [u8]| {
                    byte.copy_from_slice(bytes);
                    bytes[0] += 1;
                };
                cache.dma_atomic(memory, device, 0x40, 1, Snoop::NoSnoop, add).expect("in memory");
                let mut ram = [0];
                cache.peek_ram(memory, 0x40, &mut ram).expect("in memory");
                assert_eq!(ram[0], byte[0] + 1);
                // The read has had its choice, and what it chose was no fill.
                assert_eq!(cache.stats().fills, before.fills);
            }
        }
    }
}
