//! The DMA exerciser under a driver that keeps to its ABI: every operation, byte for byte, with its transactions.

use devices::dma::DmaAttrs;
use devices::dmalab::{Checksum, Dmalab, DmalabConfig, MEMORY_SIZE, NoSnoop, RelaxedOrdering, pattern};
use devices::pci::PciDevice;
use driver_model::dmalab_model::*;
use driver_model::mock_port::{Transaction, TransactionKind};

/// Where payload goes: a whole ring away from the start of memory.
const DATA: u64 = RAM_BASE + 0x1_0000;

fn driver() -> Driver {
    Driver::new(DmalabConfig::default(), 4)
}

fn done(length: u32) -> Completion {
    Completion { status: 1, done: length, result: 0 }
}

#[test]
fn registers_say_what_the_device_is() {
    let mut driver = driver();
    assert_eq!(driver.read(0).to_le_bytes(), *b"DLAB");
    assert_eq!((driver.read(4), driver.read(8), driver.read(0xc)), (1, 12 | 20 << 8, 0x11));
    let mut pair = [0; 8];
    driver.device.bar_read(0, RING, &mut pair, &mut driver.port).unwrap();
    assert_eq!(u64::from_le_bytes(pair), RAM_BASE);
    for (offset, length) in [(1, 4), (0, 2), (0x1c, 4), (0x30, 4), (4, 8), (0x18, 8), (0xffc, 4)] {
        let mut data = [0; 8];
        let result = driver.device.bar_read(0, offset, &mut data[..length], &mut driver.port);
        assert!(result.is_err(), "{offset:#x} {length}");
    }
}

#[test]
fn every_operation_moves_its_bytes() {
    let mut driver = driver();
    let length = 10_001;
    let bytes: Vec<u8> = (0..length).map(|index| pattern(7, index.into())).collect();

    let write =
        Request { operation: op::PATTERN, length, destination: DATA + 3, operand: 7, ..Request::default() };
    assert_eq!(driver.execute(&write), done(length));
    assert_eq!(driver.port.bytes(DATA + 3, length as usize), bytes);
    assert_eq!(driver.port.bytes(DATA, 3), [0; 3]);
    assert_eq!(driver.port.bytes(DATA + 3 + u64::from(length), 1), [0]);

    let copy = Request { operation: op::COPY, length, source: DATA + 3, destination: DATA + 0x8000, ..write };
    assert_eq!(driver.execute(&copy), done(length));
    assert_eq!(driver.port.bytes(DATA + 0x8000, length as usize), bytes);

    let read = Request { operation: op::READ, length, source: DATA + 3, destination: 40, ..write };
    assert_eq!(driver.execute(&read), done(length));
    let mut word = [0; 8];
    driver.device.bar_read(2, 40, &mut word, &mut driver.port).unwrap();
    assert_eq!(word, bytes[..8]);
    driver.device.bar_write(2, 40, &[1, 2], &mut driver.port).unwrap();
    let store = Request { operation: op::WRITE, length: 8, source: 40, destination: DATA, ..write };
    assert_eq!(driver.execute(&store), done(8));
    assert_eq!(driver.port.bytes(DATA, 2), [1, 2]);
    assert_eq!(driver.port.bytes(DATA + 2, 6), &bytes[2..8]);

    let checksum = Request { operation: op::CHECKSUM, length, source: DATA + 0x8000, ..write };
    let expected = Checksum::default().over(&bytes).0;
    assert_eq!(driver.execute(&checksum), Completion { result: expected, ..done(length) });

    let fill = Request {
        operation: op::FILL,
        length: 11,
        destination: DATA,
        operand: 0x0807_0605_0403_0201,
        transaction: 3,
        ..write
    };
    assert_eq!(driver.execute(&fill), done(11));
    assert_eq!(driver.port.bytes(DATA, 11), [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]);

    let add = Request { operation: op::FETCH_ADD, destination: DATA, operand: 1, ..Request::default() };
    assert_eq!(driver.execute(&add), Completion { result: 0x0807_0605_0403_0201, ..done(8) });
    let swap = Request { operation: op::COMPARE_SWAP, operand: 0x0807_0605_0403_0202, swap: 9, ..add };
    assert_eq!(driver.execute(&swap).result, 0x0807_0605_0403_0202);
    assert_eq!(driver.execute(&swap).result, 9, "no longer what it is compared with");
    assert_eq!(driver.execute(&Request::default()), done(0));
}

#[test]
fn a_descriptor_is_completed_after_its_payload_and_then_interrupts() {
    let mut driver = Driver::new(
        DmalabConfig { no_snoop: NoSnoop::Payload, relaxed_ordering: RelaxedOrdering::Payload },
        4,
    );
    driver.port.log = Some(Vec::new());
    let flags = INTERRUPT;
    let request = Request {
        operation: op::PATTERN,
        flags,
        length: 150,
        destination: DATA,
        transaction: 64,
        ..Request::default()
    };
    assert_eq!(driver.execute(&request), done(150));
    assert_eq!(driver.port.interrupts, [0]);
    let attrs = DmaAttrs { no_snoop: true, relaxed_ordering: true, ..DmaAttrs::default() };
    let write = |iova, len, attrs| Transaction { kind: TransactionKind::Write, iova, len, attrs };
    let fetch =
        Transaction { kind: TransactionKind::Read, iova: RAM_BASE, len: 64, attrs: DmaAttrs::default() };
    assert_eq!(
        driver.port.log.unwrap(),
        [
            fetch,
            write(DATA, 64, attrs),
            write(DATA + 64, 64, attrs),
            write(DATA + 128, 22, attrs),
            write(RAM_BASE + 48, 16, DmaAttrs::default()),
        ]
    );
}

#[test]
fn attributes_are_the_descriptors_unless_the_configuration_says_otherwise() {
    let seen = |no_snoop, relaxed_ordering, flags| {
        let mut driver = Driver::new(DmalabConfig { no_snoop, relaxed_ordering }, 0);
        driver.port.log = Some(Vec::new());
        driver.execute(&Request {
            operation: op::FILL,
            flags,
            length: 1,
            destination: DATA,
            ..Request::default()
        });
        let log = driver.port.log.unwrap();
        let [fetch, payload, completion] = &log[..] else { panic!("{log:?}") };
        assert_eq!(fetch.attrs, completion.attrs);
        assert!(!completion.attrs.relaxed_ordering);
        (payload.attrs.no_snoop, payload.attrs.relaxed_ordering, completion.attrs.no_snoop)
    };
    let (usual, kept) = (NoSnoop::Descriptor, RelaxedOrdering::Descriptor);
    assert_eq!(seen(usual, kept, 0), (false, false, false));
    assert_eq!(seen(usual, kept, NO_SNOOP), (true, false, false));
    assert_eq!(seen(usual, kept, RELAXED), (false, true, false));
    assert_eq!(seen(NoSnoop::Off, RelaxedOrdering::Off, NO_SNOOP | RELAXED), (false, false, false));
    assert_eq!(seen(NoSnoop::Payload, kept, 0), (true, false, false));
    assert_eq!(seen(NoSnoop::All, RelaxedOrdering::Payload, 0), (true, true, true));
}

#[test]
fn delays_are_kept_and_the_ring_goes_round() {
    let mut driver = Driver::new(DmalabConfig::default(), 1);
    for round in 0..5_u64 {
        let first = Request {
            operation: op::FILL,
            length: 1,
            delay: 4000,
            linger: 1000,
            destination: DATA,
            operand: round,
            ..Request::default()
        };
        let numbers = [driver.push(&first), driver.push(&Request { destination: DATA + 1, ..first })];
        let before = driver.port.now;
        driver.ring();
        assert_eq!(driver.read(STATUS), 1, "busy");
        assert_eq!(driver.port.bytes(DATA, 1)[0], round.saturating_sub(1) as u8);
        driver.run_one();
        driver.run_one();
        assert_eq!(driver.port.bytes(DATA, 1)[0], round as u8);
        assert_eq!(
            (driver.completion(numbers[0]).status, driver.read(TAIL)),
            (0, 2 * round as u32),
            "it lingers"
        );
        driver.run();
        assert_eq!(numbers.map(|number| driver.completion(number)), [done(1); 2]);
        assert_eq!(driver.port.bytes(DATA, 2), [round as u8; 2]);
        assert!((10_000..11_000).contains(&(driver.port.now - before)));
        assert_eq!((driver.read(STATUS), driver.read(TAIL)), (0, 2 * (round as u32 + 1)));
    }
    assert!(driver.port.interrupts.is_empty(), "nobody asked for one");
}

#[test]
fn what_cannot_be_done_is_said() {
    let mut driver = driver();
    let bad = |status, moved| Completion { status, done: moved, result: 0 };
    let usual = Request { operation: op::FILL, length: 8, destination: DATA, ..Request::default() };
    let cases = [
        (Request { operation: 9, ..usual }, bad(2, 0)),
        (Request { flags: 8, ..usual }, bad(2, 0)),
        (Request { length: (1 << 20) + 1, ..usual }, bad(2, 0)),
        (Request { destination: RAM_BASE + RAM_SIZE, ..usual }, bad(3, 0)),
        (Request { destination: RAM_BASE + RAM_SIZE - 256, length: 600, ..usual }, bad(3, 256)),
        (
            Request { operation: op::READ, source: DATA, destination: u64::from(MEMORY_SIZE) - 7, ..usual },
            bad(4, 0),
        ),
        (Request { operation: op::WRITE, source: u64::MAX, ..usual }, bad(4, 0)),
        (Request { operation: op::FETCH_ADD, destination: DATA + 4, ..usual }, bad(5, 0)),
    ];
    for (request, expected) in cases {
        assert_eq!(
            driver.execute(&Request { flags: request.flags | INTERRUPT, ..request }),
            expected,
            "{request:?}"
        );
        assert_eq!(std::mem::take(&mut driver.port.interrupts), [0], "{request:?}");
    }
    assert_eq!(driver.execute(&usual), done(8));
}

#[test]
fn a_ring_that_cannot_be_used_stops_the_device() {
    let fault = |act: &dyn Fn(&mut Driver)| {
        let mut driver = driver();
        act(&mut driver);
        driver.run();
        assert_eq!(driver.read(STATUS) & 3, 2);
        assert_eq!(driver.port.interrupts, [1]);
        let code = driver.read(STATUS) >> 8;
        driver.write(HEAD, 1);
        assert!(driver.port.events.is_empty(), "it has stopped");
        driver.bring_up();
        assert_eq!(driver.execute(&Request::default()), done(0));
        code
    };
    assert_eq!(fault(&|driver| driver.write(HEAD, 17)), 1);
    assert_eq!(fault(&|driver| driver.write(HEAD, u32::MAX)), 1);
    assert_eq!(
        fault(&|driver| {
            driver.write(CONTROL, 0);
            driver.write(RING + 4, 1);
            driver.write(CONTROL, 1);
            driver.write(HEAD, 1);
        }),
        2
    );
    let completion = fault(&|driver| {
        driver.push(&Request { delay: 1000, ..Request::default() });
        driver.ring();
        driver.run_one();
        driver.port.broken = true;
        driver.run();
        driver.port.broken = false;
    });
    assert_eq!(completion, 3);
}

#[test]
fn a_reset_leaves_nothing() {
    let mut driver = driver();
    let pristine = format!("{:?}", Dmalab::new(DmalabConfig::default()));
    driver.execute(&Request { operation: op::READ, length: 100, source: DATA, ..Request::default() });
    driver.device.bar_write(2, 0, &[9; 8], &mut driver.port).unwrap();
    driver.push(&Request { delay: 1000, ..Request::default() });
    driver.ring();
    driver.run_one();
    let mut other = driver.clone();
    driver.write(CONTROL, 2);
    assert!(driver.port.events.is_empty());
    assert_eq!(format!("{:?}", driver.device), pristine);
    other.device.reset();
    assert_eq!(format!("{:?}", other.device), pristine);
}
