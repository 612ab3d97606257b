//! Random rings, registers and notifications: nothing panics (overflow checks are on), nothing runs without end, and a
//! device that is reset afterwards works.

use devices::pci::PciDevice;
use devices::random::Random;
use devices::virtio::input::Script;
use devices::virtio::{Blk, BlkConfig, Console, DeviceType, Input, InputKind, Rng, VirtioPci};
use driver_model::virtio_model::*;

/// Transactions of an event at most: as many buffers as a turn begins, of as many descriptors as are followed.
const MOST_TRANSACTIONS_A_TURN: usize = 40_000;

fn below(random: &mut Random, limit: u64) -> u64 {
    (random.next_u64() >> 8) % limit
}

/// Addresses and lengths that break things, and some that do not.
fn address(random: &mut Random) -> u64 {
    match below(random, 8) {
        0 => random.next_u64(),
        1 => u64::MAX - below(random, 64),
        2 => 0,
        _ => RAM_BASE + below(random, 64 * PAGE),
    }
}

fn length(random: &mut Random) -> u32 {
    match below(random, 8) {
        0 => random.next_u64() as u32,
        1 => u32::MAX - below(random, 32) as u32,
        2 => 0,
        3 => below(random, 1 << 22) as u32,
        4 => 512 * below(random, 64) as u32,
        _ => 1 + below(random, 64) as u32,
    }
}

/// Fills what the driver believes to be rings, and 64 pages that may be anything, with plausible nonsense.
fn scramble<T: DeviceType>(driver: &mut Driver<T>, random: &mut Random) {
    for queue in 0..driver.queues.len() {
        let table = driver.queues[queue].descriptors;
        for index in 0..u64::from(driver.queues[queue].size) {
            // Mostly without the flag of an indirect table; mostly pointing into the ring.
            let (kinds, reach) = (below(random, 4), below(random, 8));
            let flags = below(random, if kinds == 0 { 8 } else { 4 }) as u16;
            let next = below(random, if reach == 0 { 65_536 } else { 10 }) as u16;
            let (address, length) = (address(random), length(random));
            driver.put_descriptor(table + index * 16, address, length, flags, next);
        }
        for _ in 0..below(random, 10) {
            driver.make_available(queue, below(random, 9) as u16);
        }
        driver.set_used_event(queue, random.next_u64() as u16);
        driver.set_no_interrupt(queue, below(random, 2) == 0);
    }
    // Headers of requests, indirect tables, ring indices: whatever is looked for there.
    for _ in 0..64 {
        let at = RAM_BASE + below(random, 64 * PAGE / 16) * 16;
        let value = [below(random, 16), below(random, 5000)];
        driver.port.bytes_mut(at, 8).copy_from_slice(&value[0].to_le_bytes());
        driver.port.bytes_mut(at + 8, 8).copy_from_slice(&value[1].to_le_bytes());
    }
}

fn poke<T: DeviceType>(driver: &mut Driver<T>, random: &mut Random) {
    let size = [1, 2, 4, 8, 3, 16, 0][below(random, 7) as usize];
    let offset = match below(random, 4) {
        0 => random.next_u64(),
        1 => below(random, 0x4000),
        2 => below(random, 0x40),
        _ => 0x2000 + below(random, 0x90),
    };
    let mut data = [0; 16];
    data[..8].copy_from_slice(&(random.next_u64() >> below(random, 64)).to_le_bytes());
    // Errors are values.
    let _ = driver.device.bar_read(below(random, 6) as u8, offset, &mut data[..size], &mut driver.port);
    let _ = driver.device.bar_write(0, offset, &data[..size], &mut driver.port);
}

fn torment<T: DeviceType>(device: VirtioPci<T>, seed: u64, works: impl Fn(&mut Driver<T>)) {
    let mut random = Random::new(seed);
    let mut driver = Driver::attach(device);
    driver.port.disk.data = vec![0; 1 << 20];
    for _ in 0..64 {
        driver.page();
    }
    for round in 0..1500 {
        // Memory is not without end: forget the pages of earlier rounds.
        if round % 64 == 0 {
            let (device, disk) = (driver.device.clone(), std::mem::take(&mut driver.port.disk));
            driver = Driver::attach(device);
            driver.port.disk = disk;
            for _ in 0..64 {
                driver.page();
            }
        }
        driver.write(STATUS, 1, 0);
        driver.port.events.clear();
        driver.bring_up(random.next_u64(), 8);
        driver.port.msix = below(&mut random, 2) == 0;
        for _ in 0..4 {
            scramble(&mut driver, &mut random);
            if below(&mut random, 4) == 0 {
                poke(&mut driver, &mut random);
            }
            for queue in 0..driver.queues.len() {
                driver.notify(queue);
            }
            for _ in 0..20 {
                let before = driver.port.transactions;
                if !driver.run_one() {
                    break;
                }
                let made = driver.port.transactions - before;
                assert!(made <= MOST_TRANSACTIONS_A_TURN, "{made} transactions at once");
            }
        }
        driver.write(STATUS, 1, 0);
        assert!(driver.port.events.is_empty(), "a reset leaves nothing pending");
        driver.bring_up(0, 8);
        works(&mut driver);
    }
}

#[test]
fn blk() {
    let config = BlkConfig { sectors: 2048, read_only: false, queues: 2, serial: String::new() };
    torment(VirtioPci::new(Blk::new(config), true), 1, |driver| {
        let page = driver.page();
        driver.port.bytes_mut(page, 16).fill(0);
        driver.add(1, &[readable(page, 16), writable(page + 512, 513)]);
        driver.notify(1);
        driver.run();
        assert_eq!(driver.collect(1), [(0, 513)]);
    });
}

#[test]
fn rng() {
    torment(VirtioPci::new(Rng::new(1), true), 2, |driver| {
        let page = driver.page();
        driver.add(0, &[writable(page, 16)]);
        driver.notify(0);
        driver.run();
        assert_eq!(driver.collect(0), [(0, 16)]);
    });
}

#[test]
fn console() {
    torment(VirtioPci::new(Console::new(vec![b'i'; 5000]), true), 3, |driver| {
        let page = driver.page();
        driver.add(1, &[readable(page, 16)]);
        driver.notify(1);
        driver.run();
        assert_eq!(driver.collect(1), [(0, 0)]);
        driver.port.output.clear();
    });
}

#[test]
fn input() {
    let script = Script::parse("10us key A\n20us key B\n1ms key C").unwrap();
    torment(VirtioPci::new(Input::new(InputKind::Tablet, script), true), 4, |driver| {
        let page = driver.page();
        driver.add(0, &[writable(page, 8)]);
        driver.notify(0);
        driver.run();
        assert_eq!(driver.collect(0), [(0, 8)]);
    });
}
