//! Random accesses, random commands and hostile programs, from fixed seeds: the device never panics, touches nothing that
//! it must not, and the work of one access is bounded. `devices/fuzz` searches on from there.

use devices::mlx5::field::Field;
use devices::mlx5::layout::commands::{CONTEXT, OBJECT, PAGES, create_eq, header, qp, rmp};
use devices::mlx5::layout::contexts::{cqc, eqc, mkc, qpc, rmpc, wq, xrc_srqc};
use devices::mlx5::{LiveObjects, Mlx5Config, PortType};
use devices::pci::PciDevice;
use driver_model::mlx5_model::{Driver, EqParam, PAGE, RAM_BASE, RAM_SIZE, SLOTS, command};
use driver_model::mlx5_verbs::fuzz;

/// Memory transactions that one register access may cause: the blocks of one turn and one command more.
const MAX_TRANSACTIONS: usize = 20_000;

const OPCODES: &[u16] = &[
    0x100, 0x101, 0x102, 0x103, 0x104, 0x105, 0x107, 0x108, 0x109, 0x10a, 0x10b, 0x200, 0x201, 0x202, 0x203,
    0x301, 0x302, 0x303, 0x400, 0x401, 0x402, 0x403, 0x500, 0x501, 0x502, 0x503, 0x504, 0x505, 0x506, 0x507,
    0x50a, 0x50b, 0x50d, 0x50e, 0x705, 0x706, 0x707, 0x708, 0x754, 0x762, 0x764, 0x765, 0x800, 0x801, 0x802,
    0x803, 0x805, 0x80e, 0x80f, 0x816, 0x817, 0x90c, 0x90d, 0x90e, 0x90f,
];

/// Marsaglia's xorshift: the same numbers on every host.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Mostly small numbers and zeros, so that commands get past their first checks.
    fn byte(&mut self) -> u8 {
        match self.below(8) {
            0 => self.next() as u8,
            1 => 1,
            2 => 16,
            3 => 1 << self.below(8),
            _ => 0,
        }
    }

    fn address(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next(),
            1 => RAM_BASE + self.below(RAM_SIZE),
            _ => RAM_BASE + self.below(RAM_SIZE / PAGE) * PAGE,
        }
    }
}

fn random_access(driver: &mut Driver, random: &mut Random) {
    let len = random.pick(&[1, 2, 4, 8, 8, 4, 3, 16]);
    let offset = match random.below(5) {
        0 => random.below(0x4000),
        1 => random.below(0x20),
        2 => 16 * PAGE + random.below(4 * PAGE),
        3 => 16 * PAGE + random.below(4) * PAGE + random.pick(&[0x20, 0x24, 0x40, 0x48, 0x800, 0x900, 0xf04]),
        _ => random.below(4 << 20) + random.below(16),
    };
    let bar = if random.one_in(50) { 2 } else { 0 };
    let mut data: Vec<u8> = (0..len).map(|_| random.byte()).collect();
    // Refused accesses are as good as accepted ones here.
    let _ = if random.one_in(3) {
        driver.device.bar_read(bar, offset, &mut data, &mut driver.port)
    } else {
        driver.device.bar_write(bar, offset, &data, &mut driver.port)
    };
}

/// Creates that would succeed if the objects they name exist.
fn plausible_create(random: &mut Random) -> Vec<u8> {
    let mut small = |first| first + random.below(3);
    let mut input = command(0x301, 0, 280);
    let (opcode, base, fields): (u16, usize, Vec<(Field, u64)>) = match small(0) + 3 * (small(0) & 1) {
        0 => (0x301, CONTEXT, vec![(eqc::UAR_PAGE, small(16)), (eqc::LOG_EQ_SIZE, small(2))]),
        1 => (
            0x400,
            CONTEXT,
            vec![(cqc::UAR_PAGE, small(16)), (cqc::C_EQN, small(1)), (cqc::DBR_ADDR, RAM_BASE)],
        ),
        2 => (
            0x500,
            qp::QPC,
            vec![
                (qpc::PD, small(1)),
                (qpc::CQN_SND, small(1)),
                (qpc::CQN_RCV, small(1)),
                (qpc::UAR_PAGE, small(16)),
                (qpc::RQ_TYPE, small(0)),
                (qpc::SRQN, small(1)),
            ],
        ),
        3 => (
            0x200,
            CONTEXT,
            vec![(mkc::PD, small(1)), (mkc::ACCESS_MODE_1_0, small(0)), (mkc::LOG_PAGE_SIZE, small(11))],
        ),
        4 => (
            0x705,
            CONTEXT,
            vec![(xrc_srqc::PD, small(1)), (xrc_srqc::CQN, small(1)), (xrc_srqc::XRCD, small(1))],
        ),
        _ => (0x90c, rmp::RMPC + rmpc::WQ as usize, vec![(wq::PD, small(1))]),
    };
    header::OPCODE.set(&mut input, opcode.into());
    for (field, value) in fields {
        field.set(&mut input[base..], value);
    }
    let page = random.address();
    input[PAGES..].copy_from_slice(&page.to_be_bytes());
    if opcode == 0x301 {
        let events = random.next();
        create_eq::EVENT_WORD.within(create_eq::EVENTS).set(&mut input, events);
    }
    for _ in 0..random.below(3) {
        let at = 2 + random.below(input.len() as u64 - 2) as usize;
        input[at] = random.byte();
    }
    input
}

fn random_input(random: &mut Random) -> Vec<u8> {
    if random.one_in(3) {
        return plausible_create(random);
    }
    let opcode = match random.below(20) {
        0 => random.next() as u16,
        1..4 => random.pick(&[0x800, 0x802, 0x80e, 0x816]),
        _ => random.pick(OPCODES),
    };
    // What ends all objects' lives is rare, or there would be few of them.
    let opcode = if matches!(opcode, 0x103 | 0x105) && !random.one_in(20) { 0x80d } else { opcode };
    let in_len = match random.below(6) {
        0 => 16,
        1 => random.below(64),
        2 => 16 + random.below(8192),
        3 => 4112,
        _ => 272 + 8 * random.below(16),
    };
    let mut input = command(opcode, random.below(8) as u16, (in_len as usize).max(16));
    for byte in &mut input[8..] {
        *byte = random.byte();
    }
    if random.one_in(2) {
        OBJECT.set(&mut input, random.below(24));
    }
    input
}

fn random_command(driver: &mut Driver, random: &mut Random) {
    let input = random_input(random);
    let out_len = match random.below(3) {
        0 => 16,
        1 => random.below(9000),
        _ => 4112,
    };
    let slot = random.below(SLOTS.into()) as u32;
    driver.post(slot, &input, out_len as usize);
    let entry = driver.entry(slot);
    if random.one_in(4) {
        let at = entry + random.below(64);
        driver.port.bytes_mut(at, 1)[0] = random.byte();
    }
    if random.one_in(8) {
        let pointer = random.address().to_be_bytes();
        let at = entry + random.pick(&[8, 48]);
        driver.port.bytes_mut(at, 8).copy_from_slice(&pointer);
    }
    let slots = if random.one_in(10) { random.next() as u32 } else { 1 << slot };
    let _ = driver.device.bar_write(0, 0x18, &slots.to_be_bytes(), &mut driver.port);
}

fn hammer(seed: u64, port: PortType) {
    let mut random = Random(seed);
    let mut driver = Driver::new(Mlx5Config { port, ..Mlx5Config::default() });
    let mut peak = LiveObjects::default();
    for _ in 0..20_000 {
        let before = driver.port.transactions;
        match random.below(12) {
            0..4 => random_access(&mut driver, &mut random),
            4 if random.one_in(4) => driver.port.broken = !driver.port.broken,
            5 => drop(driver.deliver_event()),
            6 => {
                // The queue's address is put back, so that later commands arrive.
                driver.port.broken = false;
                driver.set_queue_address(RAM_BASE);
            }
            7 => {
                for (opcode, in_len) in [(0x104u16, 16), (0x102, 32)] {
                    driver.post(0, &command(opcode, 0, in_len), 16);
                    driver.ring(1);
                }
            }
            _ => random_command(&mut driver, &mut random),
        }
        let moved = driver.port.transactions - before;
        assert!(moved <= 4 * MAX_TRANSACTIONS, "seed {seed}: {moved} transactions");
        let live = driver.device.live_objects();
        assert!(live.total() < 8192);
        peak.uars = peak.uars.max(live.uars);
        peak.pds = peak.pds.max(live.pds);
        peak.mkeys = peak.mkeys.max(live.mkeys);
        peak.eqs = peak.eqs.max(live.eqs);
        peak.cqs = peak.cqs.max(live.cqs);
        peak.qps = peak.qps.max(live.qps);
        peak.srqs = peak.srqs.max(live.srqs);
        driver.port.interrupts.clear();
    }
    let kinds = [peak.uars, peak.pds, peak.mkeys, peak.eqs, peak.cqs, peak.qps, peak.srqs];
    assert!(kinds.iter().all(|count| *count > 1), "the fuzz gets past the first checks: {peak:?}");
    driver.device.reset();
    let mut driver = Driver::attach(driver.device);
    driver.bring_up();
    assert_eq!(OBJECT.get(&driver.succeed(&command(0x802, 0, 16), 16)), 16);
    driver.create_eq(280, EqParam { log_size: 6, vector: 0, uar: 16, mask: 1 << 0x0a });
}

#[test]
fn random_accesses_and_commands_never_panic() {
    for seed in 1..=8u64 {
        hammer(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), PortType::InfiniBand);
    }
    hammer(77, PortType::Ethernet);
}

#[test]
fn the_same_seed_gives_the_same_device() {
    let run = || {
        let mut random = Random(4711);
        let mut driver = Driver::new(Mlx5Config::default());
        driver.bring_up();
        for _ in 0..500 {
            random_command(&mut driver, &mut random);
            random_access(&mut driver, &mut random);
        }
        format!("{:?}", driver.device)
    };
    assert_eq!(run(), run());
}

#[test]
fn hostile_programs_stay_in_their_bounds() {
    for seed in 1..=400u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let input: Vec<u8> = (0..1500).map(|_| random.next() as u8).collect();
        fuzz::run(&input);
    }
}

#[test]
fn a_long_siege_does_not_make_the_device_grow() {
    let size = |input: &[u8]| format!("{:?}", fuzz::run(input).driver.device).len();
    let mut random = Random(5);
    let input: Vec<u8> = (0..200_000).map(|_| random.next() as u8).collect();
    let (first, last) = (size(&input[..2000]), size(&input));
    assert!(last < first + first / 2, "{first} characters describe the device at first, {last} in the end");
}

#[test]
fn seeds_of_the_fuzzer_are_harmless() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/mlx5");
    let mut played = 0;
    for entry in std::fs::read_dir(folder).expect("the seeds") {
        let path = entry.expect("a seed").path();
        fuzz::run(&std::fs::read(&path).expect("a readable seed"));
        played += 1;
    }
    assert!(played > 0, "no seeds in {folder}");
}
