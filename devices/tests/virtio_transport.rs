//! What all virtio functions share: negotiation, interrupts, rings; and drivers that break the rules.

use devices::pci::{PciDevice, VendorCapability};
use devices::virtio::{Rng, VirtioPci};
use driver_model::virtio_model::*;

fn rng() -> VirtioPci<Rng> {
    VirtioPci::new(Rng::new(1), true)
}

/// A source with a queue of 8 and a page for its bytes.
fn driver(features: u64) -> (Driver<Rng>, u64) {
    let mut driver = Driver::new(rng(), features, 8);
    let page = driver.page();
    (driver, page)
}

fn registers_refuse(driver: &mut Driver<Rng>, offset: u64, size: usize) -> bool {
    let mut data = [0; 8];
    let read = driver.device.bar_read(0, offset, &mut data[..size], &mut driver.port);
    let written = driver.device.bar_write(0, offset, &data[..size], &mut driver.port);
    read.is_err() && written.is_err()
}

#[test]
fn the_function_describes_itself() {
    let info = rng().info();
    assert_eq!((info.vendor_id, info.device_id, info.revision), (0x1af4, 0x1044, 1));
    assert_eq!((info.msix_vectors, info.interrupt_pin), (2, true));
    let kinds: Vec<_> = info
        .vendor_capabilities
        .iter()
        .map(|capability| match capability {
            VendorCapability::ReadOnly(bytes) => (bytes[0], bytes[1], bytes.len()),
            VendorCapability::BarWindow(bytes) => (bytes[0], bytes[1], bytes.len() + 100),
        })
        .collect();
    // Common, notifications with their multiplier, ISR, and the window; a source has no configuration.
    assert_eq!(kinds, [(16, 1, 14), (20, 2, 18), (16, 3, 14), (20, 5, 118)]);
}

#[test]
fn features_are_agreed_on_or_refused() {
    let mut driver = Driver::attach(rng());
    let common = VERSION_1 | INDIRECT | EVENT_INDEX | RING_RESET;
    assert_eq!(driver.offered(), common | ACCESS_PLATFORM);
    assert_eq!(Driver::attach(VirtioPci::new(Rng::new(1), false)).offered(), common);
    driver.write(0, 4, 2);
    assert_eq!(driver.read(4, 4), 0, "there are no more than 64");
    for refused in [EVENT_INDEX, VERSION_1 | 1 << 34, VERSION_1 | 1] {
        driver.write(STATUS, 1, 0);
        driver.accept(refused);
        assert_eq!(driver.read(STATUS, 1), 3, "{refused:#x}");
        driver.write(STATUS, 1, 0xf);
        assert_eq!(driver.read(STATUS, 1) & DRIVER_OK, 0, "{refused:#x}");
    }
    driver.write(STATUS, 1, 0);
    driver.accept(VERSION_1);
    driver.accept(VERSION_1 | EVENT_INDEX);
    driver.write(8, 4, 0);
    assert_eq!((driver.read(STATUS, 1), driver.read(0xc, 4)), (0xb, 0), "agreed is agreed");
}

#[test]
fn registers_have_their_sizes_and_places() {
    let (mut driver, _) = driver(0);
    assert_eq!(driver.read(0x12, 2), 1);
    driver.write(QUEUE_SELECT, 2, 0);
    assert_eq!((driver.read(0x18, 2), driver.read(0x1c, 2), driver.read(0x1e, 2)), (8, 1, 0));
    assert_eq!(driver.read(0x20, 8), driver.queues[0].descriptors);
    driver.write(0x20, 8, 0x1230);
    assert_eq!(driver.read(0x20, 8), driver.queues[0].descriptors, "an enabled queue stays where it is");
    driver.write(QUEUE_SELECT, 2, 7);
    assert_eq!((driver.read(0x18, 2), driver.read(0x1a, 2)), (0, 0xffff), "no such queue");
    driver.write(0x10, 2, 1);
    assert_eq!(driver.read(0x10, 2), 1);
    driver.write(0x10, 2, 2);
    assert_eq!(driver.read(0x10, 2), 0xffff, "no such vector");
    for (offset, size) in [(0, 2), (0x14, 2), (0x3c, 2), (0x1001, 1), (0x2000, 1), (0x3004, 2)] {
        assert!(registers_refuse(&mut driver, offset, size), "{offset:#x}");
    }
}

#[test]
fn a_queue_has_a_size_that_is_a_power_of_two() {
    let mut driver = Driver::attach(rng());
    for (size, expected) in [(256, 256), (512, 256), (3, 256), (0, 256), (1, 1), (64, 64)] {
        driver.write(0x18, 2, size);
        assert_eq!(driver.read(0x18, 2), expected, "{size}");
    }
}

#[test]
fn nothing_is_done_before_the_driver_is_ready() {
    let mut driver = Driver::attach(rng());
    driver.write(STATUS, 1, 3);
    driver.accept(VERSION_1);
    driver.set_up_queue(0, 8);
    let page = driver.page();
    driver.add(0, &[writable(page, 8)]);
    driver.notify(0);
    assert_eq!((driver.run(), driver.port.transactions), (0, 0));
    driver.write(STATUS, 1, 0xf);
    driver.notify(0);
    driver.run();
    assert_eq!(driver.collect(0), [(0, 8)]);
}

#[test]
fn msix_interrupts_go_to_the_queue_s_vector() {
    let (mut driver, page) = driver(0);
    driver.add(0, &[writable(page, 8)]);
    driver.notify(0);
    driver.run();
    assert_eq!((driver.port.interrupts.clone(), driver.port.pin), (vec![1], false));
    assert_eq!(driver.read(ISR, 1), 0, "messages say it all");
    driver.write(0x1a, 2, 0xffff);
    driver.add(0, &[writable(page, 8)]);
    driver.notify(0);
    driver.run();
    assert_eq!(driver.port.interrupts, [1], "a queue without vector does not interrupt");
    assert_eq!(driver.collect(0).len(), 2);
}

#[test]
fn without_msix_the_pin_is_held_until_the_cause_is_read() {
    let (mut driver, page) = driver(0);
    driver.port.msix = false;
    driver.add(0, &[writable(page, 8)]);
    driver.notify(0);
    driver.run();
    assert!(driver.port.pin && driver.port.interrupts.is_empty());
    assert_eq!((driver.read(ISR, 1), driver.port.pin), (1, false));
    assert_eq!(driver.read(ISR, 1), 0);
    driver.set_no_interrupt(0, true);
    driver.add(0, &[writable(page, 8)]);
    driver.notify(0);
    driver.run();
    assert!(!driver.port.pin, "the driver does not want to know");
    driver.set_no_interrupt(0, false);
    driver.add(0, &[writable(page, 8)]);
    driver.notify(0);
    driver.run();
    assert!(driver.port.pin);
    driver.write(STATUS, 1, 0);
    assert!(!driver.port.pin, "a reset releases it");
    assert_eq!(driver.read(ISR, 1), 0);
}

#[test]
fn the_event_index_says_when_to_interrupt_and_when_to_notify() {
    let (mut driver, page) = driver(EVENT_INDEX);
    assert_eq!(driver.available_event(0), 0);
    driver.set_used_event(0, 2);
    for round in 1..=5 {
        driver.add(0, &[writable(page, 8)]);
        driver.notify(0);
        driver.run();
        assert_eq!(driver.available_event(0), round, "the next buffer is to be announced");
        assert_eq!(driver.port.interrupts.len(), usize::from(round >= 3), "only buffer 2 is asked for");
    }
    // Several at once go past the index.
    driver.set_used_event(0, 6);
    for _ in 0..3 {
        driver.add(0, &[writable(page, 8)]);
    }
    driver.notify(0);
    driver.run();
    assert_eq!(driver.port.interrupts.len(), 2);
    // The flag means nothing now.
    driver.set_no_interrupt(0, true);
    driver.set_used_event(0, 8);
    driver.add(0, &[writable(page, 8)]);
    driver.notify(0);
    driver.run();
    assert_eq!(driver.port.interrupts.len(), 3);
}

#[test]
fn indices_wrap_around() {
    for features in [0, EVENT_INDEX] {
        let (mut driver, page) = driver(features);
        for round in 0..70_000_u32 {
            if features != 0 {
                driver.set_used_event(0, round as u16);
            }
            let head = driver.add(0, &[writable(page, 4)]);
            driver.notify(0);
            driver.run();
            assert_eq!(driver.collect(0), [(head, 4)]);
        }
        assert_eq!(driver.port.interrupts.len(), 70_000);
    }
}

/// What makes a device stop until it is reset, and that it works again afterwards.
fn breaks(features: u64, spoil: impl FnOnce(&mut Driver<Rng>, u64)) {
    let (mut driver, page) = driver(features);
    spoil(&mut driver, page);
    driver.notify(0);
    driver.run();
    assert_eq!(driver.read(STATUS, 1) & NEEDS_RESET, NEEDS_RESET);
    assert_eq!(driver.port.interrupts.last(), Some(&0), "the driver is told by a configuration change");
    let transactions = driver.port.transactions;
    driver.notify(0);
    assert_eq!((driver.run(), driver.port.transactions), (0, transactions), "nothing more is done");
    driver.port.broken = false;
    driver.write(STATUS, 1, 0);
    driver.bring_up(features, 8);
    driver.add(0, &[writable(page, 16)]);
    driver.notify(0);
    driver.run();
    assert_eq!(driver.collect(0), [(0, 16)]);
}

#[test]
fn chains_that_loop_or_lead_away_break_the_device() {
    // Every descriptor of the ring, each pointing to the next, round and round.
    breaks(0, |driver, page| {
        let table = driver.queues[0].descriptors;
        for index in 0..8 {
            driver.put_descriptor(table + index * 16, page, 8, 3, (index as u16 + 1) % 8);
        }
        driver.make_available(0, 0);
    });
    breaks(0, |driver, page| {
        let table = driver.queues[0].descriptors;
        driver.put_descriptor(table, page, 8, 3, 8);
        driver.make_available(0, 0);
    });
    breaks(0, |driver, _| driver.make_available(0, 8));
    breaks(0, |driver, _| driver.make_available(0, 0xffff));
    // A device-readable descriptor behind a device-writable one.
    breaks(0, |driver, page| {
        driver.add(0, &[writable(page, 8), readable(page, 8)]);
    });
    // More than 2^32 bytes.
    breaks(0, |driver, page| {
        driver.add(0, &[writable(page, u32::MAX), writable(page, u32::MAX)]);
    });
}

#[test]
fn bad_indirect_tables_break_the_device() {
    for (length, flags, inner) in [(16, 4, 4), (0, 4, 2), (24, 4, 2), (0xfff0, 4, 3), (0xffff_fff0, 4, 2)] {
        breaks(INDIRECT, |driver, page| {
            let table = driver.page();
            // The table's one descriptor is indirect itself, or goes on for ever.
            for index in 0..256 {
                driver.put_descriptor(table + index * 16, page, 16, inner, 0);
            }
            let ring = driver.queues[0].descriptors;
            driver.put_descriptor(ring, table, length, flags, 0);
            driver.make_available(0, 0);
        });
    }
}

#[test]
fn rings_that_cannot_be_reached_break_the_device() {
    breaks(0, |driver, page| {
        driver.add(0, &[writable(page, 8)]);
        driver.port.broken = true;
    });
    breaks(EVENT_INDEX, |driver, _| {
        // The available index runs ahead of the queue.
        for _ in 0..9 {
            driver.make_available(0, 0);
        }
    });
    for (register, address) in
        [(0x20, 0x1008), (0x28, 1), (0x30, 2), (0x28, u64::MAX - 1), (0x30, u64::MAX - 3)]
    {
        let mut driver = Driver::attach(rng());
        driver.write(STATUS, 1, 3);
        driver.accept(VERSION_1);
        driver.write(0x28, 8, RAM_BASE);
        driver.write(register, 8, address);
        driver.write(0x1c, 2, 1);
        driver.write(STATUS, 1, 0xf);
        driver.notify(0);
        driver.run();
        assert_eq!(driver.read(STATUS, 1) & NEEDS_RESET, NEEDS_RESET, "{register:#x} {address:#x}");
    }
}

/// A buffer that memory does not answer for is the driver's loss; the device goes on.
#[test]
fn bad_buffers_are_returned_unused() {
    let (mut driver, page) = driver(0);
    driver.add(0, &[writable(16, 8)]);
    driver.add(0, &[readable(page, 8)]);
    driver.add(0, &[writable(page, 8)]);
    driver.notify(0);
    driver.run();
    assert_eq!(driver.collect(0), [(0, 0), (1, 0), (2, 8)]);
}
