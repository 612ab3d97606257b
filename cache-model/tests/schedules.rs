//! Latent findings need no luck: whatever the cache fills and evicts, the same accesses are found wrong or doubtful.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use cache_model::{Verdict, replay};
use proptest::prelude::*;
use support::ops::{Mix, Op, Random};

const LINE: u64 = 32;
const MEMORY: u64 = 2048;
/// Lines meet.
const MIX: Mix = Mix { memory: MEMORY, room: MEMORY / 8, calm: false };

/// Runs the operations in a cache of this size with random fills and evictions between them; returns the (operation,
/// line) pairs that raised a finding, and how many of them were manifest.
fn raised(ops: &[Op], config: &str, sets: u64, schedule: Option<u64>) -> (BTreeSet<(usize, u64)>, usize) {
    let mut random = Random(schedule.unwrap_or(0) | 1);
    let mut trace = vec![format!("config line={LINE} sets={sets} ways=2 {config} mem={MEMORY}")];
    let mut operation_at = vec![None];
    for (index, op) in ops.iter().enumerate() {
        while schedule.is_some() && !random.draw().is_multiple_of(3) {
            let addr = random.draw() % MEMORY;
            let addr = if random.draw().is_multiple_of(2) { addr / 8 } else { addr };
            trace.push(format!("{} {addr}", if random.draw().is_multiple_of(2) { "fill" } else { "evict" }));
            operation_at.push(None);
        }
        trace.push(op.line());
        operation_at.push(Some(index));
    }
    let report = replay::run(&trace.join("\n")).expect("the trace is well-formed");
    let place = |line_no: u64| operation_at[line_no as usize - 1].expect("only accesses raise findings");
    let manifest = report.findings.iter().filter(|finding| finding.verdict == Verdict::Manifest);
    let manifest = manifest.count();
    (report.findings.iter().map(|finding| (place(finding.line_no), finding.addr / LINE)).collect(), manifest)
}

fn program(seed: u64, len: usize) -> Vec<Op> {
    let mut random = Random(seed | 1);
    let ops = std::iter::repeat_with(|| Op::from_random(|| random.draw(), MIX));
    ops.filter(|op| !op.is_schedule()).take(len).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn findings_do_not_depend_on_the_schedule(
        seed: u64,
        len in 1_usize..60,
        schedules: [u64; 4],
        write in prop::sample::select(vec!["back", "through"]),
        writeback in prop::sample::select(vec!["line", "bytes"]),
        alloc in prop::sample::select(vec!["yes", "no"]),
    ) {
        let ops = program(seed, len);
        let config = format!("write={write} writeback={writeback} alloc={alloc}");
        let (expected, _) = raised(&ops, &config, 64, None);
        for (schedule, sets) in schedules.into_iter().zip([1, 2, 4, 64]) {
            let (found, _) = raised(&ops, &config, sets, Some(schedule));
            prop_assert_eq!(&found, &expected);
        }
    }
}

/// The property above would hold of a model that finds nothing, or only ever doubts.
#[test]
fn schedules_make_latent_findings_manifest() {
    let ops = program(11, 400);
    let counts: Vec<usize> = (0..20).map(|schedule| raised(&ops, "", 4, Some(schedule * 2 + 1)).1).collect();
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    assert!(counts.iter().collect::<BTreeSet<_>>().len() > 1, "{counts:?}");
}

/// Latent is no vague suspicion either: for each such finding there is a schedule that makes it manifest.
#[test]
fn latent_findings_have_a_schedule() {
    let mut latent = 0;
    for (seed, config) in (0..150).flat_map(|seed| ["writeback=line", "writeback=bytes"].map(|c| (seed, c))) {
        let ops = cacheable(seed + 1, 6);
        let (doubtful, _) = raised(&ops, config, 64, None);
        let mut proven = BTreeSet::new();
        for schedule in 1..400 {
            proven.extend(wrong(&ops, config, schedule));
            if proven == doubtful {
                break;
            }
        }
        assert_eq!(proven, doubtful, "{config} {ops:#?}");
        latent += doubtful.len();
    }
    assert!(latent > 100, "{latent}");
}

/// Write-back accesses, maintenance and DMA to three lines; no value is ever written twice.
fn cacheable(seed: u64, len: usize) -> Vec<Op> {
    let mut random = Random(seed);
    let mut value = 0;
    let mut op = || {
        let addr = random.draw() % (2 * LINE);
        let len = 1 + random.draw() % 4;
        let snoop = random.draw().is_multiple_of(8);
        let mut data = || {
            value += 1;
            vec![value; len as usize]
        };
        match random.draw() % 8 {
            0 => Op::Load { cpu: 0, addr, len: LINE, kind: "wb" },
            1 | 2 => Op::Store { cpu: 0, addr, data: data(), kind: "wb" },
            3 => Op::Clean { addr, len },
            4 => Op::Inval { addr, len },
            5 => Op::DmaRead { addr, len: LINE, snoop },
            6 => Op::DmaWrite { addr, data: data(), snoop },
            _ => [Op::Flush { addr, len }, Op::Wbinvd, Op::Invd][(len % 3) as usize].clone(),
        }
    };
    let mut ops: Vec<Op> = (0..len).map(|_| op()).collect();
    ops.push(Op::Load { cpu: 0, addr: 0, len: 3 * LINE, kind: "wb" });
    ops.push(Op::DmaRead { addr: 0, len: 3 * LINE, snoop: false });
    ops
}

/// The (operation, line) pairs that are manifest under one schedule of these three lines.
fn wrong(ops: &[Op], config: &str, schedule: u64) -> BTreeSet<(usize, u64)> {
    let mut random = Random(schedule);
    let mut trace = vec![format!("config line={LINE} sets=64 ways=2 {config} mem={MEMORY}")];
    let mut operation_at = BTreeMap::new();
    for (index, op) in ops.iter().enumerate() {
        for line in [0, LINE, 2 * LINE] {
            let choice = random.draw() % 4;
            trace.extend((choice % 2 == 1).then(|| format!("evict {line}")));
            trace.extend((choice > 1).then(|| format!("fill {line}")));
        }
        trace.push(op.line());
        operation_at.insert(trace.len() as u64, index);
    }
    let report = replay::run(&trace.join("\n")).expect("the trace is well-formed");
    let manifest = report.findings.iter().filter(|finding| finding.verdict == Verdict::Manifest);
    manifest.map(|finding| (operation_at[&finding.line_no], finding.addr / LINE)).collect()
}

/// A driver that follows the DMA API on line-aligned buffers: nothing is found, under any schedule.
#[test]
fn correct_drivers_raise_nothing() {
    let mut random = Random(99);
    let mut trace = vec![format!("config line={LINE} sets=4 ways=2 mem={MEMORY}")];
    let mut checked = 0;
    for _ in 0..4_000 {
        let addr = random.draw() % (MEMORY / 128) * 128;
        let at = addr + random.draw() % 100;
        let steps = match random.draw() % 5 {
            // Map to the device: clean; it reads.
            0 => vec![
                format!("store 0 {at} 010203"),
                format!("clean {addr} 128"),
                format!("dma-read 1 {at} 20 nosnoop"),
                format!("inval {addr} 128"),
                format!("load 0 {addr} 128"),
            ],
            // Map from the device: clean; it writes a part; unmap: invalidate.
            1 => vec![
                format!("store 0 {addr} 0506"),
                format!("clean {addr} 128"),
                format!("dma-write 1 {at} 0708090a nosnoop"),
                format!("inval {addr} 128"),
                format!("load 0 {addr} 128"),
            ],
            // Coherent memory on a machine without snooping: uncached.
            2 => vec![
                format!("flush {addr} 128"),
                format!("store 0 {at} 0b0c uc"),
                format!("dma-read 1 {addr} 128 nosnoop"),
                format!("dma-write 1 {at} 0d nosnoop"),
                format!("load 0 {addr} 128 uc"),
                format!("store 0 {at} 0e nt"),
                "fence 0".to_owned(),
                format!("dma-read 1 {addr} 128 nosnoop"),
                format!("inval {addr} 128"),
            ],
            // The whole cache at once.
            3 => vec![
                format!("store 0 {at} 1516"),
                "wbinvd".to_owned(),
                format!("dma-read 1 {at} 20 nosnoop"),
                format!("dma-write 1 {at} 1718 nosnoop"),
                "wbinvd".to_owned(),
                format!("load 0 {addr} 128"),
            ],
            // A device that snoops needs nothing.
            _ => vec![
                format!("store 0 {at} 0f10"),
                format!("dma-read 2 {addr} 128 snoop"),
                format!("dma-write 2 {at} 11121314 snoop"),
                format!("load 0 {addr} 128"),
            ],
        };
        for step in steps {
            for _ in 0..random.draw() % 3 {
                trace.push(format!("fill {}", addr + random.draw() % 128));
                trace.push(format!("evict {}", random.draw() % MEMORY));
            }
            trace.push(step);
            checked += 1;
        }
    }
    let report = replay::run(&trace.join("\n")).expect("the trace is well-formed");
    assert_eq!(report.findings, []);
    assert!(checked > 16_000 && report.stats.writebacks > 1_000);
}
