//! Drivers of a device that does not snoop, under a hundred seeds of each adversary: one that flushes right is never found
//! wanting, and one that leaves out a flush always is. Then real bugs, each cut down to its accesses; the same ones that the
//! guest driver of the DMA exerciser has.

use cache_model::{
    Agent, CacheModel, Config, Finding, Geometry, Kind, MemoryType, Policy, Schedule, Snoop, Verdict, Writer,
};

const MEMORY: usize = 64 << 10;
const LENGTH: u64 = 256;
const SENT: u64 = 0x4000;
const RECEIVED: u64 = 0x8000;
const SEEDS: u64 = 100;
const DEVICE: Agent = Agent::Device(8);
const CPU: Agent = Agent::Cpu(0);

/// A machine with one CPU and a device.
struct Machine {
    cache: CacheModel,
    memory: Vec<u8>,
    now: u64,
}

impl Machine {
    fn new(schedule: Schedule, seed: u64) -> Self {
        let config = Config::new(Geometry::new(64, 16, 4).unwrap(), Policy::Lru).unwrap();
        let mut cache = CacheModel::new(config.with_schedule(schedule));
        cache.start_schedule(seed);
        Self { cache, memory: vec![0; MEMORY], now: 0 }
    }

    fn who(&mut self, agent: Agent) -> Writer {
        self.now += 1;
        Writer { agent, ip: 0x1000 + self.now, stamp: self.now }
    }

    fn store(&mut self, addr: u64, length: u64, value: u8) {
        for addr in addr..addr + length {
            let who = self.who(CPU);
            self.cache.store(&mut self.memory[..], who, addr, &[value], MemoryType::WriteBack).unwrap();
        }
    }

    fn load(&mut self, addr: u64, length: u64) {
        for addr in addr..addr + length {
            let who = self.who(CPU);
            self.cache.load(&mut self.memory[..], who, addr, &mut [0], MemoryType::WriteBack).unwrap();
        }
    }

    fn flush(&mut self, addr: u64, length: u64) {
        let who = self.who(CPU);
        self.cache.flush(&mut self.memory[..], who, addr, length).unwrap();
    }

    fn device_write(&mut self, addr: u64, length: u64, value: u8) {
        let data = vec![value; length as usize];
        let who = self.who(DEVICE);
        self.cache.dma_write(&mut self.memory[..], who, addr, &data, Snoop::NoSnoop).unwrap();
    }

    fn device_read(&mut self, addr: u64, length: u64) {
        let mut data = vec![0; length as usize];
        let who = self.who(DEVICE);
        self.cache.dma_read(&mut self.memory[..], who, addr, &mut data, Snoop::NoSnoop).unwrap();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Missing {
    Nothing,
    BeforeTransmit,
    BeforeReceive,
    AfterReceive,
}

/// A device sends back what it is sent; the CPU writes both buffers in each round.
fn echo(machine: &mut Machine, missing: Missing) {
    for round in 1..5 {
        machine.store(SENT, LENGTH, round);
        if missing != Missing::BeforeTransmit {
            machine.flush(SENT, LENGTH);
        }
        machine.store(RECEIVED, LENGTH, 0xff);
        if missing != Missing::BeforeReceive {
            machine.flush(RECEIVED, LENGTH);
        }
        machine.device_read(SENT, LENGTH);
        machine.device_write(RECEIVED, LENGTH, round);
        if missing != Missing::AfterReceive {
            machine.flush(RECEIVED, LENGTH);
        }
        machine.load(RECEIVED, LENGTH);
    }
}

/// What is found of `driver`, for each adversary and seed.
fn findings(driver: impl Fn(&mut Machine)) -> Vec<(Schedule, Vec<Finding>)> {
    let schedules = [Schedule::None, Schedule::Random, Schedule::Worst];
    let runs = schedules.into_iter().flat_map(|schedule| (0..SEEDS).map(move |seed| (schedule, seed)));
    runs.map(|(schedule, seed)| {
        let mut machine = Machine::new(schedule, seed);
        driver(&mut machine);
        (schedule, machine.cache.take_findings())
    })
    .collect()
}

#[test]
fn a_driver_that_flushes_is_never_found_wanting() {
    for (schedule, found) in findings(|machine| echo(machine, Missing::Nothing)) {
        assert!(found.is_empty(), "{schedule:?}: {found:?}");
    }
}

#[test]
fn a_missing_flush_is_always_found() {
    let cases = [
        (Missing::BeforeTransmit, Kind::StaleDeviceRead),
        (Missing::BeforeReceive, Kind::LostWrite),
        (Missing::AfterReceive, Kind::StaleCpuRead),
    ];
    for (missing, kind) in cases {
        let mut manifest = [0, 0];
        for (schedule, found) in findings(|machine| echo(machine, missing)) {
            assert!(found.iter().any(|finding| finding.kind == kind), "{kind:?}, {schedule:?}: {found:?}");
            let wrong = found.iter().any(|finding| finding.verdict == Verdict::Manifest);
            manifest[0] += usize::from(schedule == Schedule::Random && wrong);
            manifest[1] += usize::from(schedule == Schedule::Worst && wrong);
        }
        assert!(manifest[0] > 50, "{kind:?}: {} of {SEEDS} random seeds", manifest[0]);
        assert_eq!(manifest[1], SEEDS as usize, "{kind:?}: the worst schedule makes it happen");
    }
}

/// Whatever the schedule does each is found, and under the worst one bytes are wrong.
#[test]
fn real_bugs_are_found_under_every_seed() {
    type Driver = fn(&mut Machine);
    let bugs: [(&str, Driver); 7] = [
        ("2: two buffers in a line", |machine| {
            machine.flush(SENT, 8);
            machine.device_write(SENT, 8, 1);
            machine.flush(SENT, 8);
            machine.store(SENT, 8, 0);
            machine.device_write(SENT + 8, 8, 2);
            machine.flush(SENT + 8, 8);
            machine.load(SENT + 8, 8);
        }),
        ("20, 21: the CPU writes beside what is mapped", |machine| {
            machine.flush(SENT, 16);
            machine.store(SENT + 16, 16, 1);
            machine.device_write(SENT, 16, 2);
            machine.flush(SENT, 16);
            machine.load(SENT, 16);
        }),
        ("23: CPU and device write one descriptor", |machine| {
            machine.flush(SENT, 16);
            machine.store(SENT + 8, 4, 1);
            machine.device_write(SENT, 4, 2);
            machine.flush(SENT, 16);
            machine.load(SENT, 4);
        }),
        ("24: no invalidation before a header is read", |machine| {
            machine.flush(SENT, 16);
            machine.load(SENT, 1);
            machine.device_write(SENT, 16, 2);
            machine.load(SENT, 16);
        }),
        ("25: invalidated before the transfer only", |machine| {
            machine.flush(SENT, LENGTH);
            machine.device_write(SENT, LENGTH, 2);
            machine.load(SENT, LENGTH);
        }),
        ("27: received into dirty lines", |machine| {
            machine.store(SENT, LENGTH, 1);
            machine.device_write(SENT, LENGTH, 2);
            machine.flush(SENT, LENGTH);
            machine.load(SENT, LENGTH);
        }),
        ("31: samples are not written back", |machine| {
            machine.store(SENT, LENGTH, 1);
            machine.device_read(SENT, LENGTH);
        }),
    ];
    for (name, driver) in bugs {
        for (schedule, found) in findings(driver) {
            assert!(!found.is_empty(), "{name}: {schedule:?}");
            let wrong = found.iter().any(|finding| finding.verdict == Verdict::Manifest);
            assert!(wrong || schedule != Schedule::Worst, "{name}: {found:?}");
        }
    }
}

/// 29: an invalidation takes in a neighbour, which the CPU has just written. No schedule decides that.
#[test]
fn an_invalidation_of_a_neighbour_is_found() {
    let mut machine = Machine::new(Schedule::None, 0);
    machine.flush(SENT, 96);
    machine.device_write(SENT, 96, 1);
    let who = machine.who(CPU);
    machine.cache.write_back_invalidate_all(&mut machine.memory[..], who).unwrap();
    machine.store(SENT + 96, 8, 2);
    let who = machine.who(CPU);
    machine.cache.invalidate_all(&mut machine.memory[..], who).unwrap();
    machine.flush(SENT, 96);
    machine.load(SENT, 96);
    assert_eq!(machine.cache.take_findings(), []);
    machine.load(SENT + 96, 8);
    let found = machine.cache.take_findings();
    assert!(
        found.iter().all(|finding| (finding.kind, finding.verdict) == (Kind::LostWrite, Verdict::Manifest))
    );
    assert_eq!(found.len(), 8, "one for each byte that is read");
}
