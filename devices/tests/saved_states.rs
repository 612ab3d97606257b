//! A device of every kind in the middle of its work is saved and put into a fresh one, again and again: what comes of the work
//! is what comes of it undisturbed, and a state that was restored is saved as the same bytes.

use devices::mlx5::{Mlx5, Mlx5Config, PortType};
use devices::random::Random;
use devices::state::{Loader, SaveState, Saver, StateError};
use devices::virtio::input::Script;
use devices::virtio::{Blk, BlkConfig, Console, DeviceType, Input, InputKind, Rng, VirtioPci};
use driver_model::mlx5_verbs::fuzz;
use driver_model::mock_port::MockPort;
use driver_model::virtio_model::*;
use std::collections::BTreeSet;

fn saved(device: &impl SaveState) -> Vec<u8> {
    let mut saver = Saver::default();
    device.save(&mut saver).unwrap();
    saver.into_bytes()
}

fn restore(device: &mut impl SaveState, bytes: &[u8]) -> Result<(), StateError> {
    let mut from = Loader::new(bytes);
    device.restore(&mut from)?;
    from.finish()
}

/// Replaces a device by a `fresh` one in its state.
fn replace<T: SaveState>(device: &mut T, mut fresh: T) {
    let bytes = saved(device);
    restore(&mut fresh, &bytes).unwrap();
    assert!(saved(&fresh) == bytes, "another state was restored");
    *device = fresh;
}

#[test]
fn mlx5_goes_on_under_a_hostile_program() {
    let mut random = Random::new(11);
    let mut states = BTreeSet::new();
    for _ in 0..30 {
        let length = 4000;
        let input: Vec<u8> = (0..length).map(|_| random.next_u64() as u8).collect();
        let plain = fuzz::run(&input).driver;
        let disturbed = fuzz::run_with(&input, |verbs| {
            replace(&mut verbs.driver.device, Mlx5::new(Mlx5Config::default()));
            states.insert(saved(&verbs.driver.device));
        });
        let disturbed = disturbed.driver;
        assert!(saved(&plain.device) == saved(&disturbed.device));
        let seen =
            |port: &MockPort| (port.now, port.transactions, port.interrupts.clone(), port.events.clone());
        assert_eq!(seen(&plain.port), seen(&disturbed.port));
        assert!(plain.port.ram == disturbed.port.ram);
    }
    assert!(states.len() > 500, "only {} states: hardly anything has happened", states.len());
}

/// What is read need not have been saved by anybody.
#[test]
fn made_up_states_are_refused_or_are_states() {
    let mut random = Random::new(12);
    let input: Vec<u8> = (0..4000).map(|_| random.next_u64() as u8).collect();
    let whole = saved(&fuzz::run(&input).driver.device);
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.next_u64() % 3 {
            let at = random.next_u64() as usize % bytes.len();
            bytes[at] = random.next_u64() as u8;
        }
        let mut device = Mlx5::new(Mlx5Config::default());
        match restore(&mut device, &bytes) {
            Ok(()) => {
                // Numbers may have been written in more bytes than they need: only from here on it is the same.
                replace(&mut device, Mlx5::new(Mlx5Config::default()));
                taken += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 20 && taken > 100, "{refused} refused, {taken} taken");
}

/// What `work` makes of a virtio device that `make` makes, with and without being replaced after each of its steps.
fn virtio_goes_on<T: DeviceType>(
    make: impl Fn() -> VirtioPci<T>,
    work: impl Fn(&mut Driver<T>, &dyn Fn(&mut Driver<T>)),
) {
    let run = |between: &dyn Fn(&mut Driver<T>)| {
        let mut driver = Driver::attach(make());
        driver.port.disk.data = vec![0x5a; 1 << 20];
        driver.bring_up(!(1 << 33), 16);
        work(&mut driver, &|driver| {
            between(driver);
            while driver.run_one() {
                between(driver);
            }
        });
        (saved(&driver.device), driver.port)
    };
    let (plain_state, plain) = run(&|_| {});
    let (state, disturbed) = run(&|driver| replace(&mut driver.device, make()));
    assert!(plain_state == state && plain_state != saved(&make()));
    assert!(plain.ram == disturbed.ram && plain.disk.data == disturbed.disk.data);
    assert_eq!(
        (plain.now, plain.output, plain.interrupts),
        (disturbed.now, disturbed.output, disturbed.interrupts)
    );
}

#[test]
fn virtio_devices_go_on() {
    virtio_goes_on(
        || VirtioPci::new(Rng::new(5), true),
        |driver, run| {
            let page = driver.page();
            for size in [8, 100, 3] {
                driver.add(0, &[writable(page, size)]);
            }
            driver.notify(0);
            run(driver);
        },
    );
    virtio_goes_on(
        || VirtioPci::new(Console::new(b"typed beforehand".to_vec()), false),
        |driver, run| {
            let page = driver.page();
            driver.port.bytes_mut(page, 4096).fill(b'x');
            for _ in 0..4 {
                driver.add(0, &[writable(page + 2048, 5)]);
                driver.add(1, &[readable(page, 2000)]);
            }
            driver.notify(0);
            driver.notify(1);
            run(driver);
        },
    );
    virtio_goes_on(
        || VirtioPci::new(Input::new(InputKind::Keyboard, Script::keys("A+B+ENTER@1ms").unwrap()), true),
        |driver, run| {
            let page = driver.page();
            for index in 0..12 {
                driver.add(0, &[writable(page + index * 8, 8)]);
            }
            driver.notify(0);
            run(driver);
        },
    );
    let config = || BlkConfig { sectors: 2048, read_only: false, queues: 2, serial: "saved".into() };
    virtio_goes_on(
        || VirtioPci::new(Blk::new(config()), true),
        |driver, run| {
            let data = driver.page();
            for _ in 0..80 {
                driver.page();
            }
            let header = driver.page();
            // Long enough to be done in several turns.
            for (queue, kind, sector) in [(0, 1, 8), (1, 0, 100), (0, 0, 0)] {
                let at = header + kind * 16 + sector;
                driver.port.bytes_mut(at, 16).fill(0);
                driver.port.bytes_mut(at, 1)[0] = kind as u8;
                driver.port.bytes_mut(at + 8, 1)[0] = sector as u8;
                let part =
                    if kind == 1 { readable(data, 300_000 / 512 * 512) } else { writable(data, 1 << 17) };
                driver.add(queue, &[readable(at, 16), part, writable(header + 4000 + sector, 1)]);
                driver.notify(queue);
            }
            run(driver);
        },
    );
}

#[test]
fn a_state_is_not_put_into_another_device() {
    let mlx5 = |port| Mlx5::new(Mlx5Config { port, ..Mlx5Config::default() });
    let ethernet = saved(&mlx5(PortType::Ethernet));
    let error = restore(&mut mlx5(PortType::InfiniBand), &ethernet).unwrap_err();
    assert_eq!(error.to_string(), "Mlx5: it was saved of another device");
    let disk = |sectors| {
        let config = BlkConfig { sectors, read_only: true, queues: 1, serial: String::new() };
        VirtioPci::new(Blk::new(config), true)
    };
    let error = restore(&mut disk(7), &saved(&disk(8))).unwrap_err();
    assert!(error.to_string().contains("the disk has another size"), "{error}");
    // Cut anywhere it is none; what is left over is not passed over either.
    let whole = saved(&disk(8));
    for length in 0..whole.len() {
        assert!(restore(&mut disk(8), &whole[..length]).is_err(), "{length}");
    }
    let longer = [&whole[..], &[0]].concat();
    assert_eq!(restore(&mut disk(8), &longer), Err(StateError::LeftOver(1)));
}
