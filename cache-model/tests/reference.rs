//! Random operations: the crate and a naive reference see the same bytes, count the same, find the same wrong and doubtful
//! reads, and know the same of their lines.

mod support;

use cache_model::judge::Kind;
use cache_model::replay::{self, Report};
use cache_model::trace::{Op as TraceOp, Parser};
use cache_model::{ByteMask, CacheModel, Finding, LineState, Stats, Verdict, Writer};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use support::drive::{author, drive};
use support::ops::{Mix, Op, Random, hex};
use support::reference::{Counts, Policy, Reference, Shape, Wrong};

/// Memory of the traces in which lines meet often.
const SMALL: u64 = 2048;

/// Runs both over the same operations as a trace, comparing all of memory after every `every`-th.
fn compare_replay(shape: Shape, ops: &[Op], every: usize) -> Result<(), TestCaseError> {
    let mut reference = Reference::new(shape);
    let mut trace = vec![shape.config()];
    let mut wrong: Vec<(u64, Wrong)> = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        trace.push(op.line());
        let line_no = trace.len() as u64;
        wrong.extend(reference.run(op).into_iter().map(|wrong| (line_no, wrong)));
        if index % every == 0 {
            trace.push(format!("expect cpu 0 {}", hex(&reference.cpu())));
            trace.push(format!("expect ram 0 {}", hex(&reference.ram)));
        }
    }
    let report = replay::run(&trace.join("\n")).expect("the trace is well-formed");
    if let Some(failure) = report.failed.first() {
        let at = failure.line_no as usize;
        let since: Vec<_> = trace[..at].iter().filter(|line| !line.starts_with("expect")).collect();
        return Err(TestCaseError::fail(format!(
            "{} differs after {} operations, the last {:?}",
            failure.view,
            since.len(),
            since.last()
        )));
    }
    prop_assert_eq!(&report.ram, &hex(&Sha256::digest(&reference.ram)));
    prop_assert_eq!(&report.cpu, &hex(&Sha256::digest(reference.cpu())));
    prop_assert_eq!(counts(report.stats), reference.counts);
    prop_assert_eq!(reported(&report), wrong);
    prop_assert_eq!(report.overflow, 0);
    Ok(())
}

fn counts(stats: Stats) -> Counts {
    Counts {
        load_hits: stats.load_hits,
        load_misses: stats.load_misses,
        store_hits: stats.store_hits,
        store_misses: stats.store_misses,
        fills: stats.fills,
        evictions: stats.evictions,
        writebacks: stats.writebacks,
    }
}

fn reported(report: &Report) -> Vec<(u64, Wrong)> {
    let bytes = |text: &str| -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    let wrong = report.findings.iter().map(|finding| {
        let kind = match finding.kind {
            Kind::LostDmaWrite | Kind::LostCpuWrite | Kind::LatentClobber => "lost-write",
            other => other.name(),
        };
        let latent = finding.verdict == Verdict::Latent;
        let (expected, found) = (bytes(&finding.expected), bytes(&finding.found));
        (finding.line_no, Wrong { latent, addr: finding.addr, expected, found, kind })
    });
    wrong.collect()
}

/// The crate as an embedder drives it, beside the reference.
struct Pair {
    shape: Shape,
    reference: Reference,
    model: CacheModel,
    memory: Vec<u8>,
    /// Each operation's author, by its number.
    authors: Vec<Writer>,
    findings: usize,
}

impl Pair {
    fn new(shape: Shape) -> Self {
        let config = shape.config();
        let config = match Parser::default().next(&mut config.as_bytes()) {
            Ok(Some(TraceOp::Config(machine))) => machine.config,
            other => panic!("{config}: {other:?}"),
        };
        Self {
            shape,
            reference: Reference::new(shape),
            model: CacheModel::new(config),
            memory: vec![0; shape.memory as usize],
            authors: vec![Writer::cpu(0, 0, 0)],
            findings: 0,
        }
    }

    /// Runs an operation on both and compares what they find.
    fn run(&mut self, op: &Op) {
        let number = self.authors.len() as u64;
        let who = author(op, number * 4, number);
        self.authors.push(who);
        drive(&mut self.model, &mut self.memory, op, who, true);
        let wrong = self.reference.run(op);
        let findings = self.model.take_findings();
        assert_eq!(findings.iter().map(raw).collect::<Vec<_>>(), wrong, "operation {number}: {op:?}");
        for finding in &findings {
            assert_eq!(finding.observer, who);
            self.compare_past(&finding.line);
            let writer = finding.writer().expect("somebody wrote it");
            assert!(
                self.authors_of(finding.addr).contains(&writer),
                "operation {number}: {op:?}: {finding:?}"
            );
        }
        self.findings += findings.len();
    }

    /// Who may be named for a byte: the author of its coherent value, or of a store that may still wait for a fence.
    fn authors_of(&self, addr: u64) -> Vec<Writer> {
        let Reference { written_by, doubts, .. } = &self.reference;
        let numbers = doubts.waiting(addr as usize).into_iter().chain(written_by[addr as usize]);
        numbers.map(|number| self.authors[number as usize]).collect()
    }

    /// What the crate knows of a line's past, whether or not it is resident.
    fn compare_past(&self, line: &LineState) {
        let base = line.addr as usize;
        let range = base..base + self.shape.line;
        let Reference { coherent, doubts, .. } = &self.reference;
        assert_eq!(line.coherent, coherent[range.clone()]);
        assert_eq!(line.stored, mask(&doubts.stored[range.clone()]), "D of {base:#x}");
        assert_eq!(line.bypassed, mask(&doubts.bypassed[range.clone()]), "W of {base:#x}");
        assert_eq!(line.destroyed, mask(&doubts.lost[range.clone()]), "what may be lost of {base:#x}");
        let in_doubt = line.stored.or(line.bypassed).or(line.destroyed);
        let mut known = ByteMask::EMPTY;
        for run in &line.writers {
            let bytes = ByteMask::range(run.offset, run.len);
            for offset in bytes.and(in_doubt).iter() {
                let authors = self.authors_of((base + offset) as u64);
                let at = base + offset;
                assert!(authors.contains(&run.writer), "{:?} did not write {at:#x}: {authors:?}", run.writer);
            }
            known = known.or(bytes);
        }
        assert!(in_doubt.without(known).is_empty(), "all bytes in doubt have a writer: {line:?}");
    }

    /// All that the crate knows of a line.
    fn compare_line(&mut self, line: &LineState) {
        self.compare_past(line);
        let base = line.addr as usize;
        let dirty = self.reference.dirty(base);
        assert_eq!(line.resident, dirty.is_some());
        assert_eq!(line.dirty, mask(&dirty.unwrap_or_default()));
    }

    /// Both views of all of memory, all lines, and the counters.
    fn compare_all(&mut self) {
        let mut ram = vec![0; self.memory.len()];
        self.model.peek_ram(&self.memory[..], 0, &mut ram).expect("it is memory");
        assert!(ram == self.reference.ram, "RAM differs");
        assert!(self.memory == self.reference.cpu(), "the CPU's view differs");
        for addr in (0..self.shape.memory).step_by(self.shape.line) {
            let line = self.model.line_state(&self.memory[..], addr).expect("it is memory");
            self.compare_line(&line);
        }
        assert_eq!(counts(self.model.stats()), self.reference.counts);
        assert!(self.model.overflow().is_empty());
    }
}

/// A finding of the model by itself, without mappings.
fn raw(finding: &Finding) -> Wrong {
    let kind = match finding.kind {
        cache_model::Kind::StaleCpuRead => "stale-cpu-read",
        cache_model::Kind::StaleDeviceRead => "stale-device-read",
        cache_model::Kind::LostWrite => "lost-write",
    };
    Wrong {
        latent: finding.verdict == Verdict::Latent,
        addr: finding.addr,
        expected: finding.expected.clone(),
        found: finding.found.clone(),
        kind,
    }
}

fn mask(bytes: &[bool]) -> ByteMask {
    let mut mask = ByteMask::EMPTY;
    bytes.iter().enumerate().filter(|(_, set)| **set).for_each(|(at, _)| mask.insert(at));
    mask
}

fn shapes() -> impl Strategy<Value = Shape> {
    let policy = || prop::sample::select(vec![Policy::Lru, Policy::Fifo, Policy::Plru, Policy::Random]);
    let size = || (prop::sample::select(vec![1_usize, 2, 3, 4, 8]), 0_u32..=3, policy());
    let level =
        |(sets, ways, policy)| (sets, if policy == Policy::Random { 1 } else { 1_usize << ways }, policy);
    (4_u32..=8, size(), prop::option::weighted(0.3, size()), any::<[bool; 3]>()).prop_map(
        move |(line, first, second, [through, allocate, whole_lines])| {
            let (sets, ways, policy) = level(first);
            let (line, second) = (1 << line, second.map(level));
            Shape { memory: SMALL, line, sets, ways, policy, second, through, allocate, whole_lines }
        },
    )
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = (any::<u64>(), any::<bool>()).prop_map(|(seed, busy)| {
        let mut random = Random(seed | 1);
        Op::from_random(
            || random.draw(),
            Mix { memory: SMALL, room: if busy { SMALL / 8 } else { SMALL }, calm: false },
        )
    });
    prop::collection::vec(op, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn short_traces(shape in shapes(), ops in ops()) {
        compare_replay(shape, &ops, 5)?;
        let mut pair = Pair::new(shape);
        ops.iter().for_each(|op| {
            pair.run(op);
            pair.compare_all();
        });
    }
}

/// All combinations of policy, line, write policy, allocation and write-back, each with another size, one and two levels.
fn every_shape(memory: u64) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for policy in [Policy::Lru, Policy::Fifo, Policy::Plru, Policy::Random] {
        for (at, line) in [16, 32, 64, 128, 256].into_iter().enumerate() {
            for bits in 0..8_usize {
                let [through, allocate, whole_lines] = [0, 1, 2].map(|bit| bits >> bit & 1 == 1);
                let (sets, ways) = [(4, 2), (1, 8), (3, 4), (2, 1), (5, 2)][(bits + at) % 5];
                let one = |policy, ways| if policy == Policy::Random { 1 } else { ways };
                let second_policy = [Policy::Fifo, Policy::Lru, Policy::Plru][bits % 3];
                let second = (bits % 3 == at % 3).then_some((sets * 2, 4, second_policy));
                let ways = one(policy, ways);
                shapes.push(Shape {
                    memory,
                    line,
                    sets,
                    ways,
                    policy,
                    second,
                    through,
                    allocate,
                    whole_lines,
                });
            }
        }
    }
    shapes
}

/// Long runs reach states that short ones do not: full sets, old replacement state, many writers.
#[test]
fn long_traces() {
    let mut random = Random(0x5741_4c45);
    for (index, shape) in every_shape(SMALL).into_iter().enumerate() {
        let room = if index % 2 == 0 { SMALL } else { SMALL / 8 };
        let mix = Mix { memory: SMALL, room, calm: index % 3 == 2 };
        let ops: Vec<Op> = (0..1_500).map(|_| Op::from_random(|| random.draw(), mix)).collect();
        if let Err(error) = compare_replay(shape, &ops, 250) {
            panic!("{shape:?}: {error}");
        }
    }
}

/// Millions of operations where lines meet all the time.
#[test]
fn crowded_lines() {
    const OPS: usize = 12_000;
    let shapes = every_shape(SMALL);
    let (mut total, mut found) = (0, 0);
    for (index, shape) in shapes.into_iter().enumerate() {
        let mut random = Random(0xc0de + index as u64);
        let room = if index % 2 == 0 { SMALL } else { SMALL / 8 };
        let mix = Mix { memory: SMALL, room, calm: index % 3 == 2 };
        let mut pair = Pair::new(shape);
        for at in 1..=OPS {
            pair.run(&Op::from_random(|| random.draw(), mix));
            if at % 500 == 0 {
                pair.compare_all();
            }
        }
        total += OPS;
        found += pair.findings;
    }
    assert!(total > 1_900_000 && found > 100_000, "{total} operations, {found} findings");
}

/// A cache and a memory of ordinary size.
#[test]
fn large_caches() {
    const OPS: usize = 250_000;
    const LARGE: u64 = 1 << 19;
    for (index, policy) in [Policy::Lru, Policy::Fifo, Policy::Plru, Policy::Lru].into_iter().enumerate() {
        let second = (index == 3).then_some((256, 8, Policy::Lru));
        let (line, sets, ways) = [(64, 64, 8), (32, 128, 4), (128, 32, 8), (64, 64, 4)][index];
        let (through, allocate, whole_lines) = (false, true, index % 2 == 0);
        let shape = Shape { memory: LARGE, line, sets, ways, policy, second, through, allocate, whole_lines };
        let mut random = Random(0x1a26e + index as u64);
        let mut pair = Pair::new(shape);
        for at in 1..=OPS {
            let room = if at % 4 == 0 { LARGE } else { LARGE / 16 };
            pair.run(&Op::from_random(|| random.draw(), Mix { memory: LARGE, room, calm: true }));
            if at % 50_000 == 0 {
                pair.compare_all();
            }
        }
        assert!(pair.findings > 100, "{}", pair.findings);
        assert!(pair.reference.counts.evictions > 10_000);
    }
}
