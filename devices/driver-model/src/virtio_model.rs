//! A driver in Rust for virtio functions: registers, split rings, indirect tables. No guest.
//!
//! Offsets of registers and of the rings' fields are written down here once more, so that a mistake in the device's own
//! is noticed.

pub use crate::mock_port::{MockPort, PAGE, RAM_BASE};
use devices::pci::PciDevice;
use devices::virtio::{DeviceType, VirtioPci};

pub const VERSION_1: u64 = 1 << 32;
pub const ACCESS_PLATFORM: u64 = 1 << 33;
pub const RING_RESET: u64 = 1 << 40;
pub const INDIRECT: u64 = 1 << 28;
pub const EVENT_INDEX: u64 = 1 << 29;

pub const STATUS: u64 = 0x14;
pub const QUEUE_SELECT: u64 = 0x16;
pub const ISR: u64 = 0x1000;
pub const CONFIG: u64 = 0x2000;
pub const NOTIFY: u64 = 0x3000;

pub const DRIVER_OK: u64 = 4;
pub const FEATURES_OK: u64 = 8;
pub const NEEDS_RESET: u64 = 0x40;

/// A piece of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub address: u64,
    pub length: u32,
    pub writable: bool,
}

/// What the device may read.
pub fn readable(address: u64, length: u32) -> Piece {
    Piece { address, length, writable: false }
}

/// What the device may write.
pub fn writable(address: u64, length: u32) -> Piece {
    Piece { address, length, writable: true }
}

/// One queue as the driver sees it.
#[derive(Debug, Clone)]
pub struct DriverQueue {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub next_descriptor: u16,
    pub available_index: u16,
    pub used_index: u16,
}

/// The driver: a function, memory around it, and what a driver remembers.
#[derive(Debug, Clone)]
pub struct Driver<T> {
    pub device: VirtioPci<T>,
    pub port: MockPort,
    pub queues: Vec<DriverQueue>,
    next_page: u64,
}

impl<T: DeviceType> Driver<T> {
    /// A driver that has not touched the device yet.
    pub fn attach(device: VirtioPci<T>) -> Self {
        Self { device, port: MockPort::default(), queues: Vec::new(), next_page: RAM_BASE }
    }

    /// A driver that has brought the device up with those of `features` that it offers, and queues of `size`.
    pub fn new(device: VirtioPci<T>, features: u64, size: u16) -> Self {
        let mut driver = Self::attach(device);
        driver.bring_up(features, size);
        driver
    }

    pub fn bring_up(&mut self, features: u64, size: u16) {
        self.write(STATUS, 1, 0);
        self.write(STATUS, 1, 3);
        let accepted = self.offered() & (features | VERSION_1);
        self.accept(accepted);
        assert_eq!(self.read(STATUS, 1) & FEATURES_OK, FEATURES_OK);
        self.write(0x10, 2, 0);
        self.queues.clear();
        for index in 0..self.read(0x12, 2) {
            self.set_up_queue(index as u16, size);
        }
        self.write(STATUS, 1, 0xf);
    }

    pub fn set_up_queue(&mut self, index: u16, size: u16) {
        let queue = DriverQueue {
            size,
            descriptors: self.page(),
            available: self.page(),
            used: self.page(),
            next_descriptor: 0,
            available_index: 0,
            used_index: 0,
        };
        self.write(QUEUE_SELECT, 2, index.into());
        self.write(0x18, 2, size.into());
        self.write(0x1a, 2, u64::from(index) + 1);
        for (register, value) in [(0x20, queue.descriptors), (0x28, queue.available), (0x30, queue.used)] {
            self.write(register, 4, value & 0xffff_ffff);
            self.write(register + 4, 4, value >> 32);
        }
        self.write(0x1c, 2, 1);
        let at = usize::from(index);
        if at == self.queues.len() { self.queues.push(queue) } else { self.queues[at] = queue }
    }

    /// A fresh page of memory.
    pub fn page(&mut self) -> u64 {
        self.next_page += PAGE;
        self.next_page - PAGE
    }

    pub fn read(&mut self, offset: u64, size: usize) -> u64 {
        let mut data = [0; 8];
        self.device.bar_read(0, offset, &mut data[..size], &mut self.port).expect("a register");
        u64::from_le_bytes(data)
    }

    pub fn write(&mut self, offset: u64, size: usize, value: u64) {
        let data = value.to_le_bytes();
        self.device.bar_write(0, offset, &data[..size], &mut self.port).expect("a register");
    }

    pub fn offered(&mut self) -> u64 {
        self.write(0, 4, 0);
        let low = self.read(4, 4);
        self.write(0, 4, 1);
        low | self.read(4, 4) << 32
    }

    pub fn accept(&mut self, features: u64) {
        for half in 0..2 {
            self.write(8, 4, half);
            self.write(0xc, 4, features >> (half * 32) & 0xffff_ffff);
        }
        self.write(STATUS, 1, 0xb);
    }

    fn put(&mut self, at: u64, data: &[u8]) {
        self.port.bytes_mut(at, data.len()).copy_from_slice(data);
    }

    fn get16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.port.bytes(at, 2).try_into().unwrap())
    }

    fn descriptor(&mut self, at: u64, piece: &Piece, next: Option<u16>) {
        let flags = u16::from(next.is_some()) | u16::from(piece.writable) << 1;
        self.put_descriptor(at, piece.address, piece.length, flags, next.unwrap_or(0));
    }

    pub fn put_descriptor(&mut self, at: u64, address: u64, length: u32, flags: u16, next: u16) {
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &length.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// Makes a buffer available without telling the device; returns its head.
    pub fn add(&mut self, queue: usize, pieces: &[Piece]) -> u16 {
        let (table, size) = (self.queues[queue].descriptors, self.queues[queue].size);
        let head = self.queues[queue].next_descriptor;
        for (index, piece) in pieces.iter().enumerate() {
            let at = (head + index as u16) % size;
            let next = (index + 1 < pieces.len()).then_some((at + 1) % size);
            self.descriptor(table + u64::from(at) * 16, piece, next);
        }
        self.queues[queue].next_descriptor = (head + pieces.len() as u16) % size;
        self.make_available(queue, head);
        head
    }

    /// The same by way of an indirect table.
    pub fn add_indirect(&mut self, queue: usize, pieces: &[Piece]) -> u16 {
        let table = self.page();
        for (index, piece) in pieces.iter().enumerate() {
            let next = (index + 1 < pieces.len()).then_some(index as u16 + 1);
            self.descriptor(table + index as u64 * 16, piece, next);
        }
        let (ring, head) = (self.queues[queue].descriptors, self.queues[queue].next_descriptor);
        self.put_descriptor(ring + u64::from(head) * 16, table, pieces.len() as u32 * 16, 4, 0);
        self.queues[queue].next_descriptor = (head + 1) % self.queues[queue].size;
        self.make_available(queue, head);
        head
    }

    /// Puts `head` into the available ring.
    pub fn make_available(&mut self, queue: usize, head: u16) {
        let DriverQueue { available, size, available_index, .. } = self.queues[queue];
        self.put(available + 4 + u64::from(available_index % size) * 2, &head.to_le_bytes());
        self.queues[queue].available_index = available_index.wrapping_add(1);
        self.put(available + 2, &available_index.wrapping_add(1).to_le_bytes());
    }

    pub fn notify(&mut self, queue: usize) {
        self.write(NOTIFY + queue as u64 * 4, 2, queue as u64);
    }

    /// Lets time pass until nothing is pending; returns the number of events.
    pub fn run(&mut self) -> usize {
        let mut count = 0;
        while self.run_one() {
            count += 1;
            assert!(count < 10_000, "work without end");
        }
        count
    }

    /// Lets the next event happen, if there is one.
    pub fn run_one(&mut self) -> bool {
        let Some((&token, &at)) = self.port.events.iter().min_by_key(|(_, at)| **at) else { return false };
        self.port.events.remove(&token);
        assert!(at >= self.port.now, "an event in the past");
        self.port.now = at;
        self.device.event(token, &mut self.port);
        true
    }

    /// Buffers that have come back: head and bytes written.
    pub fn collect(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let DriverQueue { used, size, .. } = self.queues[queue];
        let mut found = Vec::new();
        while self.queues[queue].used_index != self.get16(used + 2) {
            let at = used + 4 + u64::from(self.queues[queue].used_index % size) * 8;
            let entry = self.port.bytes(at, 8);
            let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
            found.push((word(0) as u16, word(4)));
            self.queues[queue].used_index = self.queues[queue].used_index.wrapping_add(1);
        }
        found
    }

    /// Available-ring index from which on the device wants to be notified.
    pub fn available_event(&self, queue: usize) -> u16 {
        let DriverQueue { used, size, .. } = self.queues[queue];
        self.get16(used + 4 + u64::from(size) * 8)
    }

    /// Asks for an interrupt once the used index has gone past `index`.
    pub fn set_used_event(&mut self, queue: usize, index: u16) {
        let DriverQueue { available, size, .. } = self.queues[queue];
        self.put(available + 4 + u64::from(size) * 2, &index.to_le_bytes());
    }

    /// Sets or clears VIRTQ_AVAIL_F_NO_INTERRUPT.
    pub fn set_no_interrupt(&mut self, queue: usize, flag: bool) {
        let available = self.queues[queue].available;
        self.put(available, &u16::from(flag).to_le_bytes());
    }
}
