//! No device reaches memory that the guest does not share, by any way: random guests, told by brute force.

use super::attachment::Attachments;
use super::board::{Board, PciHost, Watch};
use crate::findings::Findings;
use crate::memory::layout::MIB;
use crate::memory::{CacheSpec, GuestRam, MemorySystem};
use devices::dma::{AtomicOp, DmaAttrs, DmaError};
use devices::iommu::{Iommu, Policy, Request, Shared};
use devices::pci::Host;
use driver_model::iommu_model::{Action, Model, PAGE, PAGES, actions, tell};
use proptest::collection::vec;
use proptest::prelude::*;

/// Requests begin within [`PAGES`] and end a few later.
const SIZE: usize = ((PAGES + 8) * PAGE) as usize;

/// What is in memory at first: no two lines alike, and no byte all-ones.
fn secret(addr: u64) -> u8 {
    (addr ^ addr >> 6 ^ addr >> 12) as u8 & 0x7f
}

/// Memory as the guest left it, the board in which writes may wait, and what memory has to hold.
struct Lab {
    memory: MemorySystem,
    board: Board,
    iommu: Iommu,
    model: Model,
    expected: Vec<u8>,
}

impl Lab {
    fn new(cache: &str) -> Self {
        let expected: Vec<u8> = (0..SIZE as u64).map(secret).collect();
        let cache: CacheSpec = cache.parse().unwrap();
        let memory = MemorySystem::new(GuestRam::new(8 * MIB).unwrap(), cache.config());
        memory.ram.write(0, &expected).unwrap();
        let mut board = Board::new(1);
        board.posted.start(7);
        let iommu = Iommu::new(Policy::Bounce(Shared::default()));
        Self { memory, board, iommu, model: Model::default(), expected }
    }

    fn with_host<T>(&mut self, then: impl FnOnce(&mut PciHost<'_>) -> T) -> T {
        let watch = Watch { ledger: None, findings: &mut Findings::default() };
        let (memory, board, iommu) = (&mut self.memory, &mut self.board, Some(&mut self.iommu));
        then(&mut PciHost { memory, board, attachments: &mut Attachments::default(), iommu, watch })
    }

    /// The bytes of memory that a request is for, if it is let through and there is such memory.
    fn allowed(&self, action: Action) -> Option<std::ops::Range<usize>> {
        let Action::Request { from, addr, len, .. } = action else { return None };
        let beyond = self.model.first_beyond(from, addr, len);
        let start = usize::try_from(addr).ok()?;
        beyond.is_none().then(|| start..start + len as usize).filter(|range| range.end <= SIZE)
    }

    /// A request, by every way in which there is such a request.
    fn request(&mut self, action: Action, relaxed_ordering: bool) {
        let Action::Request { from, request, addr, len, value } = action else { return };
        let attrs = DmaAttrs { relaxed_ordering, ..DmaAttrs::default() };
        let allowed = self.allowed(action);
        let beyond = self.model.first_beyond(from, addr, len);
        let blocked = beyond.map(DmaError::Blocked);
        match request {
            Request::Read => {
                let mut data = vec![0; len as usize];
                let read = self.with_host(|host| host.dma_read(from, addr, &mut data, attrs));
                match allowed {
                    Some(range) => assert_eq!((read, &*data), (Ok(()), &self.expected[range])),
                    None => assert!(data.iter().all(|&byte| byte == 0xff), "{action:?} was told something"),
                }
                if let Some(blocked) = blocked {
                    assert_eq!(read, Err(blocked));
                }
            }
            Request::Write => {
                let data = vec![value; len as usize];
                let written = self.with_host(|host| {
                    let written = host.dma_write(from, addr, &data, attrs);
                    host.dma_flush(from);
                    written
                });
                if let Some(range) = allowed {
                    assert_eq!(written, Ok(()));
                    self.expected[range].fill(value);
                } else if let Some(blocked) = blocked {
                    assert_eq!(written, Err(blocked));
                }
            }
            Request::Atomic => {
                let op = AtomicOp::FetchAdd(u64::from(value));
                let old = self.with_host(|host| host.dma_atomic(from, addr, op, attrs));
                match allowed {
                    Some(range) => {
                        let word: [u8; 8] = self.expected[range.clone()].try_into().unwrap();
                        let word = u64::from_le_bytes(word);
                        assert_eq!(old, Ok(word));
                        self.expected[range].copy_from_slice(&op.apply(word).to_le_bytes());
                    }
                    None => assert!(old.is_err()),
                }
                // Interrupt messages that are none are writes, too.
                let message = Action::Request { from, request: Request::Write, addr, len: 4, value };
                self.with_host(|host| host.deliver_msi(from, addr, u32::from(value)));
                if let Some(range) = self.allowed(message) {
                    self.expected[range].copy_from_slice(&u32::from(value).to_le_bytes());
                }
            }
        }
    }

    fn act(&mut self, action: Action, relaxed_ordering: bool) {
        tell(&mut self.iommu, action);
        self.model.act(action);
        self.request(action, relaxed_ordering);
    }

    /// Memory is what it has to be, byte for byte.
    fn check(&mut self) {
        let mut found = vec![0; SIZE];
        self.memory.ram.read(0, &mut found).unwrap();
        let wrong = found.iter().zip(&self.expected).position(|(found, expected)| found != expected);
        assert_eq!(wrong, None, "first wrong byte");
    }
}

fn play(data: &[u8], cache: &str) {
    let mut lab = Lab::new(cache);
    for (action, order) in actions(data).into_iter().zip(0..) {
        lab.act(action, order % 3 == 0);
    }
    lab.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn devices_read_and_write_what_is_shared_and_nothing_else(data in vec(any::<u8>(), 0..1024)) {
        play(&data, "off");
    }

    #[test]
    fn nor_behind_a_cache(data in vec(any::<u8>(), 0..512)) {
        play(&data, "tiny");
    }
}
