//! Rings, registers and descriptors of a guest that means harm: nothing panics (overflow checks are on), an event does a bounded
//! amount of work, and a device that is reset afterwards works.

use devices::dmalab::{Dmalab, DmalabConfig, NoSnoop, RelaxedOrdering};
use devices::pci::PciDevice;
use devices::state::{Loader, SaveState, Saver};
use driver_model::dmalab_model::*;
use proptest::prelude::*;

/// Transactions of an event at most: of a turn, each of a copy twice, the fetch and the completion.
const MOST_TRANSACTIONS: usize = 2 * 512 + 2;

#[derive(Debug, Clone)]
enum Act {
    Register {
        offset: u64,
        value: u64,
        size: usize,
    },
    Memory {
        offset: u64,
        value: u64,
        size: usize,
    },
    Descriptor {
        slot: u32,
        request: Request,
    },
    Doorbell(u32),
    Events(usize),
    Broken(bool),
    /// The device is saved and put into a fresh one.
    Save,
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..0x4000_u64).prop_map(|at| RAM_BASE + at),
        2 => 0..0x1_0010_u64,
        1 => (0..0x200_u64).prop_map(|at| RAM_BASE + RAM_SIZE - at),
        1 => any::<u64>(),
        1 => (0..64_u64).prop_map(|at| u64::MAX - at),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let length = prop_oneof![3 => 0..600_u32, 1 => any::<u32>(), 1 => 0..0x11_0000_u32];
    let transaction = prop_oneof![2 => Just(0_u16), 1 => 1..9_u16, 1 => any::<u16>()];
    let delay = || prop_oneof![4 => Just(0_u32), 2 => 0..10_000_u32, 1 => any::<u32>()];
    let delays = (delay(), delay());
    (0..10_u8, 0..9_u8, transaction, length, delays, address(), address(), any::<[u64; 2]>()).prop_map(
        |(operation, flags, transaction, length, (delay, linger), source, destination, [operand, swap])| {
            Request {
                operation,
                flags,
                transaction,
                length,
                delay,
                linger,
                source,
                destination,
                operand,
                swap,
            }
        },
    )
}

fn act() -> impl Strategy<Value = Act> {
    let size = prop_oneof![4 => Just(4_usize), 1 => Just(8_usize), 1 => 0..9_usize];
    let value = prop_oneof![any::<u64>(), 0..20_u64, address()];
    prop_oneof![
        2 => (0..0x40_u64, value, size.clone()).prop_map(|(offset, value, size)| Act::Register { offset, value, size }),
        1 => (any::<u64>(), any::<u64>(), size.clone()).prop_map(|(offset, value, size)| Act::Register { offset, value, size }),
        1 => (0..0x1_0010_u64, any::<u64>(), size).prop_map(|(offset, value, size)| Act::Memory { offset, value, size }),
        6 => (0..16_u32, request()).prop_map(|(slot, request)| Act::Descriptor { slot, request }),
        4 => (0..20_u32).prop_map(Act::Doorbell),
        6 => (0..40_usize).prop_map(Act::Events),
        1 => any::<bool>().prop_map(Act::Broken),
        1 => Just(Act::Save),
    ]
}

fn config() -> impl Strategy<Value = DmalabConfig> {
    use NoSnoop as N;
    use RelaxedOrdering as R;
    (
        prop::sample::select(vec![N::Off, N::Descriptor, N::Payload, N::All]),
        prop::sample::select(vec![R::Off, R::Descriptor, R::Payload]),
    )
        .prop_map(|(no_snoop, relaxed_ordering)| DmalabConfig { no_snoop, relaxed_ordering })
}

fn save_and_restore(driver: &mut Driver, config: DmalabConfig) {
    let mut saver = Saver::default();
    driver.device.save(&mut saver).unwrap();
    let bytes = saver.into_bytes();
    let mut from = Loader::new(&bytes);
    let mut fresh = Dmalab::new(config);
    fresh.restore(&mut from).unwrap();
    from.finish().unwrap();
    assert_eq!(format!("{fresh:?}"), format!("{:?}", driver.device));
    driver.device = fresh;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_a_guest_does_breaks_the_device(config in config(), acts in prop::collection::vec(act(), 1..80)) {
        let mut driver = Driver::new(config, 4);
        for act in acts {
            match act {
                // Errors are values.
                Act::Register { offset, value, size } => {
                    let _ = driver.device.bar_write(0, offset, &value.to_le_bytes()[..size], &mut driver.port);
                    let _ = driver.device.bar_read(0, offset, &mut [0; 8][..size], &mut driver.port);
                }
                Act::Memory { offset, value, size } => {
                    let _ = driver.device.bar_write(2, offset, &value.to_le_bytes()[..size], &mut driver.port);
                    let _ = driver.device.bar_read(2, offset, &mut [0; 8][..size], &mut driver.port);
                }
                Act::Descriptor { slot, request } => {
                    let at = driver.descriptor(slot);
                    driver.port.bytes_mut(at, 64).copy_from_slice(&request.bytes());
                }
                Act::Doorbell(ahead) => {
                    let tail = driver.read(TAIL);
                    driver.write(HEAD, tail.wrapping_add(ahead));
                }
                Act::Events(count) => {
                    for _ in 0..count {
                        let before = driver.port.transactions;
                        if !driver.run_one() {
                            break;
                        }
                        prop_assert!(driver.port.transactions - before <= MOST_TRANSACTIONS);
                        prop_assert!(driver.port.events.len() <= 1);
                    }
                }
                Act::Broken(broken) => driver.port.broken = broken,
                Act::Save => save_and_restore(&mut driver, config),
            }
        }
        driver.port.broken = false;
        driver.write(CONTROL, 2);
        prop_assert!(driver.port.events.is_empty(), "a reset leaves nothing pending");
        driver.bring_up();
        prop_assert_eq!(driver.execute(&Request::default()).status, 1);
    }
}
