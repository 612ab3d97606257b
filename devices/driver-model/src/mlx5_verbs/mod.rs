//! A verbs provider in Rust over the driver model: protection domain, completion queues, queue pairs, shared receive
//! queues and memory keys, with work requests laid out as rdma-core's mlx5 provider does. No guest.
//!
//! Positions in work requests, completions and events are written down here from the interface's description (Linux
//! `include/linux/mlx5/{qp.h,cq.h,device.h}`, 6.12), not taken from the device's code, so that each checks the other.
mod buffer;
mod cq;
pub mod fuzz;
mod key;
mod pair;
mod request;
mod srq;

pub use buffer::{Buffer, PageLayout};
pub use cq::{Cq, Cqe, opcode, syndrome};
pub use key::{Klm, access};
pub use pair::{Connection, Pair, PairSpec, ReceiveQueue, qp_state, transport};
pub use request::{AddressVector, SendRequest, Sge, op};
pub use srq::{Srq, SrqKind};

use crate::mlx5_model::{Driver, EqParam, PAGE, be32, command};
use devices::mlx5::Mlx5Config;
use devices::mlx5::field::Field;
use devices::mlx5::layout::commands::{CONTEXT, OBJECT};

/// The LID of the function's port.
pub const LID: u16 = 1;
/// Vector of the asynchronous event queue.
pub const ASYNC_VECTOR: u16 = 0;
/// Vector of the completion event queue.
pub const COMPLETION_VECTOR: u16 = 1;

/// Types of event queue entries.
pub mod event {
    pub const COMPLETION: u8 = 0x00;
    pub const COMMUNICATION_ESTABLISHED: u8 = 0x02;
    pub const CQ_ERROR: u8 = 0x04;
    pub const WQ_CATASTROPHIC: u8 = 0x05;
    pub const WQ_INVALID_REQUEST: u8 = 0x10;
    pub const WQ_ACCESS: u8 = 0x11;
    pub const SRQ_CATASTROPHIC: u8 = 0x12;
    pub const SRQ_LAST_WQE: u8 = 0x13;
    pub const SRQ_LIMIT: u8 = 0x14;
}

/// What of an asynchronous event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AsyncEvent {
    pub kind: u8,
    /// Number of the object that the event is about.
    pub number: u32,
}

/// An open device: its driver, one UAR, one protection domain, an event queue of each kind.
#[derive(Debug, Clone)]
pub struct Verbs {
    pub driver: Driver,
    pub uar: u32,
    pub pd: u32,
    pub completion_eq: u32,
    pub async_eq: u32,
    /// Of the queues that are created next.
    pub page_layout: PageLayout,
    next_user_index: u32,
}

/// Virtual nanoseconds that [`Verbs::settle`] lets pass at most.
const SETTLE_TIME: u64 = 2_000_000_000;
/// Events in that time: a device that asks for more never comes to rest.
const SETTLE_EVENTS: usize = 400_000;

impl Verbs {
    pub fn open() -> Self {
        Self::open_with(Mlx5Config::default())
    }

    /// Brings a new device up as the driver does, up to a protection domain.
    pub fn open_with(config: Mlx5Config) -> Self {
        Self::attach(Driver::new(config))
    }

    /// Brings up the device of `driver`, which is in the state after power-on.
    pub fn attach(mut driver: Driver) -> Self {
        driver.succeed(&command(0x104, 0, 16), 12);
        negotiate_atomics(&mut driver);
        driver.succeed(&command(0x102, 0, 32), 16);
        let uar = OBJECT.get32(&driver.succeed(&command(0x802, 0, 16), 16));
        let events = [2, 4, 5, 0x10, 0x11, 0x12, 0x13, 0x14].iter().fold(0, |mask, kind| mask | 1u64 << kind);
        let mut eq = |vector, mask| driver.create_eq(280, EqParam { log_size: 6, vector, uar, mask });
        let (async_eq, completion_eq) = (eq(ASYNC_VECTOR, events), eq(COMPLETION_VECTOR, 0));
        let pd = OBJECT.get32(&driver.succeed(&command(0x800, 0, 16), 16));
        driver.port.interrupts.clear();
        let page_layout = PageLayout::PLAIN;
        Self { driver, uar, pd, completion_eq, async_eq, page_layout, next_user_index: 0x1000 }
    }

    /// Another protection domain, or an XRC domain (`0x80e`).
    pub fn allocate_object(&mut self, opcode: u16) -> u32 {
        OBJECT.get32(&self.driver.succeed(&command(opcode, 0, 16), 16))
    }

    /// Queries an object by its number.
    pub fn query(&mut self, opcode: u16, number: u32) -> Vec<u8> {
        let mut input = command(opcode, 0, 16);
        OBJECT.set(&mut input, number.into());
        self.driver.succeed(&input, 4096 + CONTEXT)
    }

    /// A command on one object that must succeed.
    pub fn on_object(&mut self, opcode: u16, number: u32) {
        let mut input = command(opcode, 0, 16);
        OBJECT.set(&mut input, number.into());
        self.driver.succeed(&input, 16);
    }

    /// Lets virtual time pass until the device has nothing more to do.
    pub fn settle(&mut self) {
        self.run_for(SETTLE_TIME);
    }

    /// Lets `nanos` of virtual time pass, or less if the device has nothing to do.
    pub fn run_for(&mut self, nanos: u64) {
        let end = self.driver.port.now + nanos;
        for _ in 0..SETTLE_EVENTS {
            match self.driver.port.events.values().min() {
                Some(&at) if at <= end => self.driver.deliver_event(),
                _ => return,
            };
        }
        panic!("the device does not come to rest");
    }

    /// Memory of `len` bytes, on pages of its own, zero.
    pub fn memory(&mut self, len: u64) -> u64 {
        self.driver.allocate(len.max(1).div_ceil(PAGE))
    }

    pub fn fill(&mut self, at: u64, data: &[u8]) {
        self.driver.port.bytes_mut(at, data.len()).copy_from_slice(data);
    }

    pub fn bytes(&self, at: u64, len: usize) -> &[u8] {
        self.driver.port.bytes(at, len)
    }

    /// Asynchronous events that have arrived since the last call.
    pub fn async_events(&mut self) -> Vec<AsyncEvent> {
        let mut events = Vec::new();
        while let Some(entry) = self.driver.next_event(self.async_eq) {
            let kind = entry[1];
            let number = match kind {
                event::CQ_ERROR => be32(&entry[32..]),
                _ => be32(&entry[56..]),
            };
            events.push(AsyncEvent { kind, number: number & 0xff_ffff });
        }
        self.driver.arm(self.async_eq);
        events
    }

    /// Numbers of the completion queues whose events have arrived since the last call.
    pub fn completion_events(&mut self) -> Vec<u32> {
        let mut numbers = Vec::new();
        while let Some(entry) = self.driver.next_event(self.completion_eq) {
            assert_eq!(entry[1], event::COMPLETION, "type of an event");
            numbers.push(be32(&entry[56..]) & 0xff_ffff);
        }
        self.driver.arm(self.completion_eq);
        numbers
    }

    fn user_index(&mut self) -> u32 {
        self.next_user_index += 1;
        self.next_user_index
    }
}

/// Asks for atomics in the byte order of the host, if the device has them, as the driver does before INIT_HCA.
fn negotiate_atomics(driver: &mut Driver) {
    const MODE: Field = Field::at(0x40, 2);
    const HOST_BYTE_ORDER_SUPPORTED: Field = Field::at(0x46, 1);
    const ATOMIC_CAPABILITIES: u16 = 3;
    let offered = driver.succeed(&command(0x100, ATOMIC_CAPABILITIES << 1, 16), 4096 + CONTEXT);
    if HOST_BYTE_ORDER_SUPPORTED.is_set(&offered[CONTEXT..]) {
        let mut input = command(0x109, ATOMIC_CAPABILITIES << 1, 4096 + CONTEXT);
        input[CONTEXT..].copy_from_slice(&offered[CONTEXT..]);
        MODE.set(&mut input[CONTEXT..], 1);
        driver.succeed(&input, 16);
    }
}

/// Bytes that differ for each `seed` and offset.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 56) as u8
        })
        .collect()
}
