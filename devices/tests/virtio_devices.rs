//! Entropy, console and input devices by a driver model.

use devices::virtio::input::Script;
use devices::virtio::{Console, INPUT_DELAY, Input, InputKind, Rng, VirtioPci};
use driver_model::mock_port::Transaction;
use driver_model::virtio_model::*;

const SECOND: u64 = 1_000_000_000;

fn random_bytes(seed: u64, sizes: &[u32]) -> Vec<u8> {
    let mut driver = Driver::new(VirtioPci::new(Rng::new(seed), true), 0, 8);
    let page = driver.page();
    let mut bytes = Vec::new();
    for &size in sizes {
        let head = driver.add(0, &[writable(page, size)]);
        driver.notify(0);
        driver.run();
        let [(used, length)] = driver.collect(0)[..] else { panic!("one buffer") };
        assert_eq!(used, head);
        bytes.extend(driver.port.bytes(page, length as usize));
    }
    bytes
}

#[test]
fn the_seed_decides_random_bytes() {
    let bytes = random_bytes(1, &[16, 24]);
    assert_eq!(bytes, random_bytes(1, &[40]), "however they are asked for in eights");
    assert_ne!(bytes, random_bytes(2, &[40]));
    assert_eq!(random_bytes(1, &[3, u32::MAX]).len(), 3 + 4096, "a buffer need not be filled");
    let set: std::collections::BTreeSet<_> = random_bytes(5, &[4096]).into_iter().collect();
    assert_eq!(set.len(), 256);
}

#[test]
fn a_reset_source_begins_again() {
    let mut driver = Driver::new(VirtioPci::new(Rng::new(3), true), 0, 8);
    let page = driver.page();
    let mut round = || {
        driver.add(0, &[writable(page, 8)]);
        driver.notify(0);
        driver.run();
        let bytes = driver.port.bytes(page, 8).to_vec();
        driver.write(STATUS, 1, 0);
        driver.bring_up(0, 8);
        bytes
    };
    assert_eq!(round(), round());
}

#[test]
fn the_console_passes_on_what_the_guest_writes() {
    let mut driver = Driver::new(VirtioPci::new(Console::new(Vec::new()), true), 0, 8);
    let page = driver.page();
    driver.port.bytes_mut(page, 11).copy_from_slice(b"hello world");
    driver.add(1, &[readable(page, 6), readable(page + 6, 5)]);
    driver.add(1, &[readable(page + 4, 1)]);
    driver.notify(1);
    driver.run();
    assert_eq!(driver.port.output, b"hello worldo");
    assert_eq!(driver.collect(1), [(0, 0), (2, 0)]);
    driver.port.output.clear();
    driver.write(CONFIG + 8, 4, u64::from(b'!'));
    assert_eq!(driver.port.output, b"!", "the emergency register needs no queue");
}

#[test]
fn long_output_arrives_whole() {
    let mut driver = Driver::new(VirtioPci::new(Console::new(Vec::new()), true), 0, 8);
    let page = driver.page();
    for _ in 0..80 {
        driver.page();
    }
    let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at / 3) as u8).collect();
    driver.port.bytes_mut(page, bytes.len()).copy_from_slice(&bytes);
    driver.add(1, &[readable(page, bytes.len() as u32)]);
    driver.notify(1);
    driver.run();
    assert!(driver.port.output == bytes);
    assert_eq!(driver.collect(1), [(0, 0)]);
}

#[test]
fn console_input_waits_for_buffers() {
    let input = b"input of eighteen!".to_vec();
    let mut driver = Driver::new(VirtioPci::new(Console::new(input), true), 0, 8);
    let page = driver.page();
    for index in 0..3 {
        driver.add(0, &[writable(page + index * 16, 10)]);
    }
    driver.notify(0);
    assert!(driver.run_one());
    assert!(driver.collect(0).is_empty());
    driver.run();
    assert!(driver.port.now >= INPUT_DELAY);
    assert_eq!(driver.collect(0), [(0, 10), (1, 8)], "the third waits for more");
    assert_eq!(driver.port.bytes(page, 10), b"input of e");
    assert_eq!(driver.port.bytes(page + 16, 8), b"ighteen!");
    driver.notify(0);
    driver.run();
    assert!(driver.collect(0).is_empty());
}

fn input(script: &str) -> Driver<Input> {
    let script = Script::parse(script).unwrap();
    Driver::new(VirtioPci::new(Input::new(InputKind::Keyboard, script), true), 0, 8)
}

/// Offers buffers for `count` events.
fn offer(driver: &mut Driver<Input>, page: u64, count: u64) {
    for index in 0..count {
        driver.add(0, &[writable(page + index * 8, 8)]);
    }
    driver.notify(0);
}

fn events(driver: &Driver<Input>, page: u64, count: usize) -> Vec<(u16, u16, u32)> {
    let bytes = driver.port.bytes(page, count * 8);
    let event = |event: &[u8]| {
        let short = |at: usize| u16::from_le_bytes([event[at], event[at + 1]]);
        (short(0), short(2), u32::from_le_bytes(event[4..].try_into().unwrap()))
    };
    bytes.chunks(8).map(event).collect()
}

#[test]
fn events_happen_at_their_time_after_the_driver_s_start() {
    let mut driver = input("1s key A\n3s key B down");
    let page = driver.page();
    offer(&mut driver, page, 8);
    assert!(driver.run_one(), "the notification finds nothing to do");
    assert!(driver.collect(0).is_empty());
    while driver.collect(0).is_empty() {
        assert!(driver.run_one());
    }
    assert!((SECOND..SECOND + 1_000_000).contains(&driver.port.now), "{}", driver.port.now);
    driver.run();
    assert!((3 * SECOND..3 * SECOND + 1_000_000).contains(&driver.port.now), "{}", driver.port.now);
    let expected = [(1, 30, 1), (0, 0, 0), (1, 30, 0), (0, 0, 0), (1, 48, 1), (0, 0, 0)];
    assert_eq!(events(&driver, page, 6), expected);
    assert_eq!(driver.collect(0).len(), 2);
}

#[test]
fn events_wait_for_buffers_without_keeping_the_machine_busy() {
    let mut driver = input("1s key A\n2s key B");
    let page = driver.page();
    let waited = driver.run();
    assert!(waited < 8, "{waited} events for nothing");
    driver.port.now = 10 * SECOND;
    offer(&mut driver, page, 3);
    driver.run();
    assert_eq!(events(&driver, page, 3), [(1, 30, 1), (0, 0, 0), (1, 30, 0)]);
    offer(&mut driver, page, 5);
    driver.run();
    assert_eq!(events(&driver, page, 5), [(0, 0, 0), (1, 48, 1), (0, 0, 0), (1, 48, 0), (0, 0, 0)]);
    assert_eq!(driver.run(), 0);
}

#[test]
fn a_reset_plays_the_script_again() {
    let mut driver = input("1s key A");
    for _ in 0..2 {
        let page = driver.page();
        offer(&mut driver, page, 4);
        driver.run();
        assert_eq!(events(&driver, page, 4)[0], (1, 30, 1));
        driver.write(STATUS, 1, 0);
        driver.bring_up(0, 8);
    }
}

#[test]
fn led_states_are_taken() {
    let mut driver = input("");
    let page = driver.page();
    driver.add(1, &[readable(page, 8)]);
    driver.notify(1);
    driver.run();
    assert_eq!(driver.collect(1), [(0, 0)]);
}

#[test]
fn configuration_is_selected_and_read() {
    let mut driver = input("");
    driver.write(CONFIG, 1, 1);
    driver.write(CONFIG + 1, 1, 0);
    assert_eq!(driver.read(CONFIG + 2, 1), 18);
    assert_eq!(driver.read(CONFIG + 8, 8), u64::from_le_bytes(*b"Stalelin"));
    driver.write(CONFIG, 2, 0x0411);
    assert_eq!(driver.read(CONFIG + 2, 1), 0, "no EV_MSC");
}

/// Which transactions of a console asked for No Snoop: those of a buffer read and one written, and those of the rings.
fn console_traffic(console: VirtioPci<Console>) -> (Vec<bool>, Vec<bool>) {
    let mut driver = Driver::new(console, 0, 8);
    let page = driver.page();
    driver.port.log = Some(Vec::new());
    // As after a reset by the driver: the option is the function's, not its state.
    driver.write(STATUS, 1, 0);
    driver.bring_up(0, 8);
    driver.add(0, &[writable(page, 8)]);
    driver.add(1, &[readable(page + 8, 8)]);
    driver.notify(0);
    driver.notify(1);
    driver.run();
    let log = driver.port.log.take().unwrap();
    let (payload, rings): (Vec<_>, Vec<_>) =
        log.iter().partition(|done| (page..page + 16).contains(&done.iova));
    let asked = |of: Vec<&Transaction>| of.iter().map(|done| done.attrs.no_snoop).collect();
    (asked(payload), asked(rings))
}

#[test]
fn payload_need_not_be_snooped_but_rings_are() {
    let console = || VirtioPci::new(Console::new(b"typed".to_vec()), true);
    for (function, expected) in [(console(), false), (console().without_snooping_payload(), true)] {
        let (payload, rings) = console_traffic(function);
        assert_eq!(payload, [expected; 2]);
        assert!(rings.len() >= 4 && !rings.contains(&true), "{rings:?}");
    }
}
