//! Random traces: the crate and a naive reference see the same bytes, count the same and find the same wrong reads.

mod support;

use cache_model::Verdict;
use cache_model::judge::Kind;
use cache_model::replay::{self, Report};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use support::ops::{Op, Random, hex};
use support::reference::{Counts, Policy, Reference, Shape, Wrong};

/// Runs both over the same operations, comparing all of memory after every `every`-th.
fn compare(shape: Shape, ops: &[Op], every: usize) -> Result<(), TestCaseError> {
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
    prop_assert_eq!(counts(&report), reference.counts);
    prop_assert_eq!(manifest(&report), wrong);
    prop_assert_eq!(report.overflow, 0);
    Ok(())
}

fn counts(report: &Report) -> Counts {
    let stats = report.stats;
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

fn manifest(report: &Report) -> Vec<(u64, Wrong)> {
    let manifest = report.findings.iter().filter(|finding| finding.verdict == Verdict::Manifest);
    let bytes = |text: &str| -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    let wrong = manifest.map(|finding| {
        let kind = match finding.kind {
            Kind::StaleCpuRead => "stale-cpu-read",
            Kind::StaleDeviceRead => "stale-device-read",
            Kind::LostDmaWrite | Kind::LostCpuWrite => "lost-write",
            other => other.name(),
        };
        let (expected, found) = (bytes(&finding.expected), bytes(&finding.found));
        (finding.line_no, Wrong { addr: finding.addr, expected, found, kind })
    });
    wrong.collect()
}

fn shapes() -> impl Strategy<Value = Shape> {
    let size = (4_u32..=8, prop::sample::select(vec![1_usize, 2, 3, 4, 8]), 0_u32..=3);
    let policy = prop::sample::select(vec![Policy::Lru, Policy::Fifo, Policy::Plru, Policy::Random]);
    (size, policy, any::<[bool; 3]>()).prop_map(
        |((line, sets, ways), policy, [through, allocate, whole_lines])| {
            let ways = if policy == Policy::Random { 1 } else { 1 << ways };
            Shape { line: 1 << line, sets, ways, policy, through, allocate, whole_lines }
        },
    )
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = (any::<u64>(), any::<bool>()).prop_map(|(seed, busy)| {
        let mut random = Random(seed | 1);
        Op::from_random(|| random.draw(), busy)
    });
    prop::collection::vec(op, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn short_traces(shape in shapes(), ops in ops()) {
        compare(shape, &ops, 5)?;
    }
}

/// Long runs reach states that short ones do not: full sets, old replacement state, many records.
#[test]
fn long_traces() {
    const OPS: usize = 6_000;
    let mut random = Random(0x5741_4c45);
    let mut total = 0;
    for policy in [Policy::Lru, Policy::Fifo, Policy::Plru, Policy::Random] {
        for bits in 0..16_usize {
            let [through, allocate, whole_lines, busy] = [0, 1, 2, 3].map(|bit| bits >> bit & 1 == 1);
            let (sets, ways) = [(4, 2), (1, 8), (3, 4), (2, 1)][bits % 4];
            let ways = if policy == Policy::Random { 1 } else { ways };
            let line = [64, 32, 128, 16][bits / 4];
            let shape = Shape { line, sets, ways, policy, through, allocate, whole_lines };
            let ops: Vec<Op> = (0..OPS).map(|_| Op::from_random(|| random.draw(), busy)).collect();
            if let Err(error) = compare(shape, &ops, 500) {
                panic!("{shape:?}: {error}");
            }
            total += ops.len();
        }
    }
    assert!(total > 300_000);
}
