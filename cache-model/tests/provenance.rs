//! Whose the bytes are, by the quick way and the slow one, with one level or two, and in a model that was saved.

mod support;

use cache_model::{
    Agent, ByteMask, CacheModel, Config, Finding, Geometry, MemoryType, Policy, Snoop, WriteBack, Writer,
};
use support::drive::{author, drive};
use support::ops::{Mix, Op, Random};

const MEMORY: u64 = 2048;

/// A model, its memory, and whether its CPUs try the quick way.
struct Machine {
    model: CacheModel,
    memory: Vec<u8>,
    quick: bool,
    taken: u64,
}

impl Machine {
    fn new(config: Config, quick: bool) -> Self {
        Self { model: CacheModel::new(config), memory: vec![0; MEMORY as usize], quick, taken: 0 }
    }

    fn run(&mut self, op: &Op, who: Writer) -> Vec<Finding> {
        self.taken += u64::from(drive(&mut self.model, &mut self.memory, op, who, self.quick));
        self.model.take_findings()
    }
}

/// The last writer of every byte.
fn note(authors: &mut [Option<Writer>], op: &Op, writer: Writer) {
    let (Op::Store { addr, data, .. } | Op::DmaWrite { addr, data, .. }) = op else { return };
    authors[*addr as usize..][..data.len()].fill(Some(writer));
}

/// Every byte that a finding is about has the right writer, and no byte has a wrong one.
fn check(finding: &Finding, authors: &[Option<Writer>]) {
    let line = &finding.line;
    let mut covered = ByteMask::EMPTY;
    for run in &line.writers {
        covered = covered.or(ByteMask::range(run.offset, run.len));
        for at in run.offset..run.offset + run.len {
            assert_eq!(authors[line.addr as usize + at], Some(run.writer), "{at} of {finding:#?}");
        }
    }
    assert!(finding.bytes.without(covered).is_empty(), "{finding:#?}");
    assert!(line.timeline.iter().zip(line.timeline.iter().skip(1)).all(|(a, b)| a.stamp <= b.stamp));
    let culprit = finding.writer().expect("somebody wrote it");
    assert!(line.timeline.iter().any(|event| event.by == Some(culprit)) || line.timeline.len() >= 16);
    assert_eq!(finding.addr, line.addr + finding.bytes.bounds().expect("some byte").0 as u64);
}

fn configs() -> Vec<Config> {
    let mut configs = Vec::new();
    for (line, sets, ways) in [(64, 4, 2), (16, 3, 4), (256, 2, 1), (128, 1, 8)] {
        let first = Geometry::new(line, sets, ways).expect("a valid shape");
        let second = Geometry::new(line, sets * 2, 4).expect("a valid shape");
        for policy in [Policy::Lru, Policy::Fifo, Policy::TreePlru, Policy::Random { seed: 3 }] {
            for write_back in [WriteBack::Line, WriteBack::Bytes] {
                let config = Config::new(first, policy).expect("a valid policy").with_write_back(write_back);
                configs.push(config);
                configs.push(config.with_allocate(false));
                configs.push(config.with_second_level(second, Policy::Lru).expect("it fits"));
            }
        }
    }
    configs
}

#[test]
fn findings_name_the_last_writers() {
    let mut random = Random(0xa07);
    let (mut found, mut taken) = (0, 0);
    for config in configs() {
        let mut slow = Machine::new(config, false);
        let mut quick = Machine::new(config, true);
        let mut authors = vec![None; MEMORY as usize];
        let calm = random.draw().is_multiple_of(2);
        let room = if random.draw().is_multiple_of(2) { MEMORY } else { MEMORY / 8 };
        for stamp in 0..3_000 {
            let op = Op::from_random(|| random.draw(), Mix { memory: MEMORY, room, calm });
            let mut who = author(&op, 0xffff_0000 + random.draw() % 64, stamp);
            if let Agent::Device(device) = &mut who.agent {
                *device = (random.draw() % 2) as u32 + 0x800;
            }
            let findings = slow.run(&op, who);
            findings.iter().for_each(|finding| check(finding, &authors));
            found += findings.len();
            assert_eq!(quick.run(&op, who), findings, "{op:?}");
            note(&mut authors, &op, who);
            if stamp % 1_000 == 0 {
                let text = serde_json::to_string(&quick.model).expect("it is data");
                quick.model = serde_json::from_str(&text).expect("it was written");
            }
        }
        assert_eq!(slow.model.stats_by_agent(), quick.model.stats_by_agent());
        assert_eq!(slow.memory, quick.memory);
        assert!(slow.model.overflow().is_empty());
        let saved = |machine: &Machine| {
            serde_json::to_value(machine.model.line_state(&machine.memory[..], 0).expect("memory"))
        };
        assert_eq!(saved(&slow).expect("data"), saved(&quick).expect("data"));
        taken += quick.taken;
    }
    assert!(found > 10_000 && taken > 5_000, "{found} {taken}");
}

/// Long enough for the log of stores to be compacted, many times.
#[test]
fn writers_survive_many_stores() {
    let geometry = Geometry::new(64, 64, 8).expect("a valid shape");
    let mut machine = Machine::new(Config::new(geometry, Policy::Lru).expect("a valid policy"), true);
    let mut authors = vec![None; MEMORY as usize];
    let mut random = Random(77);
    for stamp in 0..200_000 {
        let addr = random.draw() % (MEMORY - 8);
        let op =
            Op::Store { cpu: 0, addr, data: vec![stamp as u8; 1 + (random.draw() % 8) as usize], kind: "wb" };
        let cpu = Writer::cpu(0, addr, stamp);
        machine.run(&op, cpu);
        note(&mut authors, &op, cpu);
    }
    let read = Op::DmaRead { addr: 0, len: MEMORY, snoop: false };
    let findings = machine.run(&read, Writer::device(1, 200_000));
    assert_eq!(findings.len() as u64, MEMORY / 64);
    findings.iter().for_each(|finding| check(finding, &authors));
}

/// Fetching on within a line is no access; fetching bytes that a device has changed is seen whatever was fetched before.
#[test]
fn fetches_are_accesses_when_the_line_changes() {
    fetch_from_changing_lines(false);
    fetch_from_changing_lines(true);
}

fn fetch_from_changing_lines(quick: bool) {
    let geometry = Geometry::new(64, 4, 2).expect("a valid shape");
    let mut model = CacheModel::new(Config::new(geometry, Policy::Lru).expect("a valid policy"));
    let mut bytes = vec![0; 1024];
    let memory = &mut bytes[..];
    let cpu = Writer::cpu(0, 0x40, 1);
    let mut fetch = |model: &mut CacheModel, addr, len| {
        if !(model.fetch_hit(0, addr) || quick && model.fetch_miss(cpu, addr)) {
            model.fetch(memory, cpu, addr, len, MemoryType::WriteBack).expect("in memory");
        }
        (model.stats().load_hits, model.stats().load_misses, model.take_findings().len())
    };
    assert_eq!(fetch(&mut model, 0x40, 4), (0, 1, 0));
    assert_eq!(fetch(&mut model, 0x44, 4), (0, 1, 0));
    assert_eq!(fetch(&mut model, 0x80, 2), (0, 2, 0));
    assert_eq!(fetch(&mut model, 0x40, 4), (1, 2, 0));
    assert_eq!(fetch(&mut model, 0x80, 4), (2, 2, 0));
    let mut other = vec![0; 1024];
    model.dma_write(&mut other[..], Writer::device(1, 2), 0x90, &[0x90], Snoop::NoSnoop).expect("in memory");
    assert_eq!(fetch(&mut model, 0x84, 4), (2, 2, 0));
    assert_eq!(fetch(&mut model, 0x8e, 4), (2, 2, 1));
    model.flush(&mut other[..], cpu, 0x80, 1).expect("in memory");
    assert_eq!(fetch(&mut model, 0x90, 4), (2, 2, 0));
    assert_eq!(fetch(&mut model, 0x40, 4), (3, 2, 0));
    assert_eq!(fetch(&mut model, 0x80, 4), (3, 3, 0));
}

/// Lines of which the model has not seen the past raise nothing until they are known, and that is counted.
#[test]
fn unknown_lines_are_not_judged() {
    let geometry = Geometry::new(64, 4, 2).expect("a valid shape");
    let mut model = CacheModel::new(Config::new(geometry, Policy::Lru).expect("a valid policy"));
    let mut bytes = vec![0; 1024];
    let memory = &mut bytes[..];
    let (cpu, device) = (Writer::cpu(0, 0, 1), Writer::device(1, 2));
    // A line that is known already stays so.
    model.store(memory, cpu, 0x100, &[1], MemoryType::WriteBack).expect("in memory");
    model.enter_unknown(memory, 0, 1024).expect("in memory");
    model.dma_read(memory, device, 0x100, &mut [0], Snoop::NoSnoop).expect("in memory");
    assert_eq!((model.take_findings().len(), model.unjudged()), (1, 0));

    let mut stale = |model: &mut CacheModel| {
        model.dma_write(memory, device, 0, &[2], Snoop::NoSnoop).expect("in memory");
        model.load(memory, cpu, 0, &mut [0], MemoryType::WriteBack).expect("in memory");
        (model.take_findings().len(), model.unjudged())
    };
    assert_eq!(stale(&mut model), (0, 1));
    let mut other = vec![0; 1024];
    model.flush(&mut other[..], cpu, 0, 1).expect("in memory");
    assert_eq!(stale(&mut model), (1, 1));
}

/// A line that leaves the first level is still resident: no-snoop DMA bypasses it there as well.
#[test]
fn resident_in_any_level_is_resident() {
    let first = Geometry::new(64, 1, 1).expect("a valid shape");
    let second = Geometry::new(64, 1, 2).expect("a valid shape");
    let config = Config::new(first, Policy::Lru).expect("a valid policy");
    let mut model = CacheModel::new(config.with_second_level(second, Policy::Fifo).expect("it fits"));
    let mut bytes = vec![0; 1024];
    let memory = &mut bytes[..];
    let mut store = |model: &mut CacheModel, line: u64| {
        let who = Writer::cpu(0, 0, line + 1);
        model.store(memory, who, line * 64, &[line as u8 + 1], MemoryType::WriteBack).expect("in memory");
        let mut ram = [0];
        model.peek_ram(memory, 0, &mut ram).expect("in memory");
        ram[0]
    };
    assert_eq!([0, 1, 2].map(|line| store(&mut model, line)), [0, 0, 0]);
    assert!(model.is_dirty(0) && model.is_dirty(64) && model.is_dirty(128));
    // The fourth line pushes the first out of the second level.
    assert_eq!(store(&mut model, 3), 1);
    assert!(!model.is_resident(0));
    assert_eq!((model.stats().fills, model.stats().evictions, model.second_level_hits()), (4, 1, 0));
    assert_eq!(store(&mut model, 1), 1);
    assert_eq!((model.stats().fills, model.stats().evictions, model.second_level_hits()), (4, 1, 1));
}
