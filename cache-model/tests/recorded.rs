//! A recording of a model with an adversary replays without it: what the schedule did is in the trace.

mod support;

use cache_model::{CacheModel, Config, EventKind, Geometry, Policy, Schedule, replay};
use support::drive::{author, drive};
use support::ops::{Mix, Op, Random};

const LINE: u64 = 32;
const MEMORY: u64 = 2048;
const MIX: Mix = Mix { memory: MEMORY, room: MEMORY / 8, calm: false };

/// Operations within one line, which a recorder makes of all.
fn program(seed: u64) -> Vec<Op> {
    let mut random = Random(seed | 1);
    let whole = |addr: u64, len: u64| addr % LINE + len <= LINE;
    let ops = std::iter::repeat_with(|| Op::from_random(|| random.draw(), MIX));
    let ops = ops.filter(|op| match op {
        Op::Load { addr, len, .. } | Op::DmaRead { addr, len, .. } => whole(*addr, *len),
        Op::Clean { addr, len } | Op::Inval { addr, len } | Op::Flush { addr, len } => whole(*addr, *len),
        Op::Store { addr, data, .. } | Op::DmaWrite { addr, data, .. } => whole(*addr, data.len() as u64),
        Op::Wbinvd | Op::Invd | Op::Fence { .. } => true,
        Op::Fill { .. } | Op::Evict { .. } => false,
    });
    // An INVD that loses lines chooses for each of them.
    ops.filter(|op| !matches!(op, Op::Invd)).take(400).collect()
}

#[test]
fn what_a_schedule_did_replays_without_it() {
    let mut moves = [0; 3];
    for seed in 0..200 {
        let schedule = if seed % 2 == 0 { Schedule::Random } else { Schedule::Worst };
        let config = Config::new(Geometry::new(LINE, 2, 2).unwrap(), Policy::Lru).unwrap();
        let mut model = CacheModel::new(config.with_schedule(schedule));
        model.keep_moves();
        model.start_schedule(seed);
        let memory = &mut vec![0; MEMORY as usize][..];
        let mut trace = vec![format!("config line={LINE} sets=2 ways=2 mem={MEMORY}")];
        let mut found = Vec::new();
        for (op, stamp) in program(seed).iter().zip(1..) {
            drive(&mut model, memory, op, author(op, 0, stamp), false);
            for (kind, addr) in model.take_moves() {
                let (name, at) = match kind {
                    EventKind::Fill => ("fill", 0),
                    EventKind::Evict => ("evict", 1),
                    _ => ("writeback", 2),
                };
                moves[at] += 1;
                trace.push(format!("{name} {addr:#x}"));
            }
            trace.push(op.line());
            found.extend(
                model
                    .take_findings()
                    .into_iter()
                    .map(|finding| (finding.verdict, finding.addr, support::ops::hex(&finding.found))),
            );
        }
        let report = replay::run(&trace.join("\n")).unwrap();
        assert_eq!(report.stats, model.stats(), "seed {seed}");
        let replayed: Vec<_> = report
            .findings
            .into_iter()
            .map(|finding| (finding.verdict, finding.addr, finding.found))
            .collect();
        assert_eq!(replayed, found, "seed {seed}");
    }
    assert!(moves.iter().all(|&count| count > 100), "each kind of move was made: {moves:?}");
}
