//! A recording of a model with an adversary replays without it: what the schedule did is in the trace.

mod support;

use cache_model::{
    CacheModel, Config, EventKind, Geometry, MemoryType, Policy, Schedule, Snoop, Writer, replay,
};
use support::ops::{Mix, Op, Random};

const LINE: u64 = 32;
const MEMORY: u64 = 2048;
const MIX: Mix = Mix { memory: MEMORY, room: MEMORY / 8, calm: false };

fn kind(name: &str) -> MemoryType {
    match name {
        "wb" => MemoryType::WriteBack,
        "wt" => MemoryType::WriteThrough,
        "wc" => MemoryType::WriteCombining,
        "uc" => MemoryType::Uncached,
        _ => MemoryType::NonTemporal,
    }
}

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

fn make(model: &mut CacheModel, memory: &mut [u8], op: &Op, stamp: u64) {
    let cpu = |cpu: u32| Writer::cpu(cpu, 0, stamp);
    let device = Writer::device(3, stamp);
    let snoop = |snoop: bool| if snoop { Snoop::Snoop } else { Snoop::NoSnoop };
    let room = |len: u64| vec![0; len as usize];
    match op {
        Op::Load { cpu: id, addr, len, kind: name } => {
            model.load(memory, cpu(*id), *addr, &mut room(*len), kind(name))
        }
        Op::Store { cpu: id, addr, data, kind: name } => {
            model.store(memory, cpu(*id), *addr, data, kind(name))
        }
        Op::Clean { addr, len } => model.clean(memory, cpu(0), *addr, *len),
        Op::Inval { addr, len } => model.invalidate(memory, cpu(0), *addr, *len),
        Op::Flush { addr, len } => model.flush(memory, cpu(0), *addr, *len),
        Op::Wbinvd => model.write_back_invalidate_all(memory, cpu(0)),
        Op::Invd => model.invalidate_all(memory, cpu(0)),
        Op::Fence { cpu } => {
            model.fence(*cpu);
            Ok(())
        }
        Op::Fill { addr } => model.fill(memory, stamp, *addr),
        Op::Evict { addr } => model.evict(memory, stamp, *addr),
        Op::DmaRead { addr, len, snoop: is } => {
            model.dma_read(memory, device, *addr, &mut room(*len), snoop(*is))
        }
        Op::DmaWrite { addr, data, snoop: is } => model.dma_write(memory, device, *addr, data, snoop(*is)),
    }
    .expect("the operation is in memory");
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
            make(&mut model, memory, op, stamp);
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
