//! A driver in Rust for the DMA exerciser: a ring, a doorbell, completions. No guest.
//!
//! Offsets of registers and of the descriptors' fields are written down here once more, so that a mistake in the device's own
//! is noticed.

pub use crate::mock_port::{MockPort, PAGE, RAM_BASE, RAM_SIZE};
use devices::dmalab::{Dmalab, DmalabConfig};
use devices::pci::PciDevice;

pub const CONTROL: u64 = 0x10;
pub const STATUS: u64 = 0x14;
pub const RING_LOG2: u64 = 0x18;
pub const RING: u64 = 0x20;
pub const HEAD: u64 = 0x28;
pub const TAIL: u64 = 0x2c;

pub const NO_SNOOP: u8 = 1;
pub const RELAXED: u8 = 2;
pub const INTERRUPT: u8 = 4;

/// The opcodes.
pub mod op {
    pub const NOTHING: u8 = 0;
    pub const READ: u8 = 1;
    pub const WRITE: u8 = 2;
    pub const COPY: u8 = 3;
    pub const FILL: u8 = 4;
    pub const PATTERN: u8 = 5;
    pub const CHECKSUM: u8 = 6;
    pub const FETCH_ADD: u8 = 7;
    pub const COMPARE_SWAP: u8 = 8;
}

/// What the driver writes of a descriptor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    pub operation: u8,
    pub flags: u8,
    pub transaction: u16,
    pub length: u32,
    pub delay: u32,
    pub linger: u32,
    pub source: u64,
    pub destination: u64,
    pub operand: u64,
    pub swap: u64,
}

impl Request {
    pub fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[0] = self.operation;
        bytes[1] = self.flags;
        bytes[2..4].copy_from_slice(&self.transaction.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        let delays = u64::from(self.delay) | u64::from(self.linger) << 32;
        let words = [delays, self.source, self.destination, self.operand, self.swap];
        for (place, word) in bytes[8..48].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// What the device writes of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    pub status: u32,
    pub done: u32,
    pub result: u64,
}

/// The driver: a device, memory around it, and a ring at the start of that memory.
#[derive(Debug, Clone)]
pub struct Driver {
    pub device: Dmalab,
    pub port: MockPort,
    log2: u32,
    head: u32,
}

impl Driver {
    /// A driver that has enabled the device with a ring of 2^`log2` descriptors.
    pub fn new(config: DmalabConfig, log2: u32) -> Self {
        let mut driver = Self { device: Dmalab::new(config), port: MockPort::default(), log2, head: 0 };
        driver.bring_up();
        driver
    }

    /// Enables the device, disabled before.
    pub fn bring_up(&mut self) {
        self.head = 0;
        self.write(CONTROL, 0);
        self.write(RING_LOG2, self.log2);
        self.write(RING, RAM_BASE as u32);
        self.write(RING + 4, (RAM_BASE >> 32) as u32);
        self.write(CONTROL, 1);
        assert_eq!((self.read(STATUS), self.read(HEAD), self.read(TAIL)), (0, 0, 0));
    }

    pub fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.device.bar_read(0, offset, &mut data, &mut self.port).unwrap();
        u32::from_le_bytes(data)
    }

    pub fn write(&mut self, offset: u64, value: u32) {
        self.device.bar_write(0, offset, &value.to_le_bytes(), &mut self.port).unwrap();
    }

    /// Bus address of descriptor number `number`.
    pub fn descriptor(&self, number: u32) -> u64 {
        RAM_BASE + u64::from(number % (1 << self.log2)) * 64
    }

    /// Puts a descriptor into the ring, without ringing; returns its number.
    pub fn push(&mut self, request: &Request) -> u32 {
        let at = self.descriptor(self.head);
        self.port.bytes_mut(at, 64).copy_from_slice(&request.bytes());
        self.head = self.head.wrapping_add(1);
        self.head.wrapping_sub(1)
    }

    pub fn ring(&mut self) {
        self.write(HEAD, self.head);
    }

    /// Lets the next pending event happen; whether there was one.
    pub fn run_one(&mut self) -> bool {
        let next = self.port.events.iter().min_by_key(|event| event.1).map(|(&token, &at)| (token, at));
        let Some((token, at)) = next else { return false };
        self.port.events.remove(&token);
        self.port.now = self.port.now.max(at);
        self.device.event(token, &mut self.port);
        true
    }

    /// Lets everything happen that is pending.
    pub fn run(&mut self) {
        while self.run_one() {}
    }

    pub fn completion(&self, number: u32) -> Completion {
        let bytes = self.port.bytes(self.descriptor(number) + 48, 16);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let result = u64::from_le_bytes(bytes[8..].try_into().unwrap());
        Completion { status: word(0), done: word(4), result }
    }

    /// Submits one descriptor and waits for it.
    pub fn execute(&mut self, request: &Request) -> Completion {
        let number = self.push(request);
        self.ring();
        self.run();
        self.completion(number)
    }
}
