//! A driver in Rust for the emulated ConnectX function: memory, command queue, event queues. No guest.
//!
//! Offsets of the command queue's entries, mailboxes and event queue entries are written down here once more, so that
//! a mistake in the device's own is noticed.
pub use crate::mock_port::{MockPort, PAGE, RAM_BASE, RAM_SIZE};
use devices::mlx5::field::Field;
use devices::mlx5::layout::commands::{CONTEXT, EQ_NUMBER, PAGES, create_eq, header};
use devices::mlx5::layout::contexts::eqc;
use devices::mlx5::{Mlx5, Mlx5Config};
use devices::pci::PciDevice;
use std::collections::BTreeMap;

/// An event queue as the driver sees it.
#[derive(Debug, Clone)]
pub struct EventQueue {
    pub buffer: u64,
    pub log_size: u32,
    pub vector: u16,
    pub consumer: u32,
}

/// The slots of the command queue; the last is the driver's own for pages.
pub const SLOTS: u32 = 32;

/// The driver: a device, memory around it, and what a driver remembers.
#[derive(Debug, Clone)]
pub struct Driver {
    pub device: Mlx5,
    pub port: MockPort,
    pub queue: u64,
    mailboxes: u64,
    next_page: u64,
    next_slot: u32,
    token: u8,
    pub eqs: BTreeMap<u32, EventQueue>,
    /// The event queue that announces finished commands; none while the driver polls.
    pub command_eq: Option<u32>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// Delivery status, 0 if the command was executed.
    pub delivery: u8,
    pub out: Vec<u8>,
}

impl Completion {
    pub fn status(&self) -> u8 {
        self.out[0]
    }
}

const MAILBOX_STRIDE: u64 = 1024;
const MAILBOX_POOL: u64 = 4 << 20;

impl Driver {
    /// Attaches to a new device.
    pub fn new(config: Mlx5Config) -> Self {
        Self::attach(Mlx5::new(config))
    }

    /// Attaches to a device, with fresh memory, and sets its command queue up.
    pub fn attach(device: Mlx5) -> Self {
        let mut driver = Self {
            device,
            port: MockPort::default(),
            queue: RAM_BASE,
            mailboxes: RAM_BASE + PAGE,
            next_page: RAM_BASE + PAGE + MAILBOX_POOL,
            next_slot: 0,
            token: 0,
            eqs: BTreeMap::new(),
            command_eq: None,
        };
        driver.set_queue_address(RAM_BASE);
        driver
    }

    pub fn set_queue_address(&mut self, address: u64) {
        self.queue = address;
        self.write32(0x10, (address >> 32) as u32);
        self.write32(0x14, address as u32);
    }

    pub fn read32(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.device.bar_read(0, offset, &mut data, &mut self.port).expect("a register");
        u32::from_be_bytes(data)
    }

    pub fn write32(&mut self, offset: u64, value: u32) {
        let written = self.device.bar_write(0, offset, &value.to_be_bytes(), &mut self.port);
        written.expect("a register");
    }

    pub fn write64(&mut self, offset: u64, value: u64) {
        let written = self.device.bar_write(0, offset, &value.to_be_bytes(), &mut self.port);
        written.expect("a register");
    }

    /// Memory for a queue; contents are zero.
    pub fn allocate(&mut self, pages: u64) -> u64 {
        let at = self.next_page;
        self.next_page += pages * PAGE;
        assert!(self.next_page <= RAM_BASE + RAM_SIZE, "the model's memory is used up");
        at
    }

    /// Lets virtual time pass up to the device's next event and delivers it.
    pub fn deliver_event(&mut self) -> bool {
        let Some((&token, &at)) = self.port.events.iter().min_by_key(|(_, at)| **at) else { return false };
        self.port.events.remove(&token);
        self.port.now = self.port.now.max(at);
        self.device.event(token, &mut self.port);
        true
    }

    /// Writes a chain of mailboxes and returns where it begins, 0 if there is none.
    fn write_chain(&mut self, pool: u64, blocks: usize, data: &[u8]) -> u64 {
        for number in 0..blocks {
            let at = pool + number as u64 * MAILBOX_STRIDE;
            let token = self.token;
            let block = self.port.bytes_mut(at, 576);
            block.fill(0);
            if let Some(part) = data.chunks(512).nth(number) {
                block[..part.len()].copy_from_slice(part);
            }
            let next = if number + 1 < blocks { at + MAILBOX_STRIDE } else { 0 };
            block[560..568].copy_from_slice(&next.to_be_bytes());
            block[568..572].copy_from_slice(&(number as u32).to_be_bytes());
            block[573] = token;
        }
        if blocks > 0 { pool } else { 0 }
    }

    /// Writes a command into a slot. The doorbell is not rung.
    pub fn post(&mut self, slot: u32, input: &[u8], out_len: usize) {
        self.token = self.token.wrapping_add(1).max(1);
        let input_blocks = input.len().saturating_sub(16).div_ceil(512);
        let rest = input.get(16..).unwrap_or_default();
        let in_pointer = self.write_chain(self.mailboxes, input_blocks, rest);
        let out_pool = self.mailboxes + MAILBOX_POOL / 2;
        let out_pointer = self.write_chain(out_pool, out_len.saturating_sub(16).div_ceil(512), &[]);
        let mut entry = [0u8; 64];
        entry[0] = 7;
        entry[4..8].copy_from_slice(&(input.len() as u32).to_be_bytes());
        entry[8..16].copy_from_slice(&in_pointer.to_be_bytes());
        let inline = input.len().min(16);
        entry[16..16 + inline].copy_from_slice(&input[..inline]);
        entry[48..56].copy_from_slice(&out_pointer.to_be_bytes());
        entry[56..60].copy_from_slice(&(out_len as u32).to_be_bytes());
        entry[60] = self.token;
        entry[63] = 1;
        entry[61] = !entry.iter().fold(0, |sum, byte| sum ^ byte);
        let at = self.entry(slot);
        self.port.bytes_mut(at, 64).copy_from_slice(&entry);
    }

    pub fn entry(&self, slot: u32) -> u64 {
        self.queue + u64::from(slot) * 64
    }

    pub fn ring(&mut self, slots: u32) {
        self.write32(0x18, slots);
    }

    /// Collects the answer of a finished command, checking what the driver checks and the signatures.
    pub fn collect(&mut self, slot: u32, out_len: usize) -> Completion {
        let at = self.entry(slot);
        let entry = self.port.bytes(at, 64).to_vec();
        assert_eq!(entry[63] & 1, 0, "slot {slot} has not completed");
        assert_eq!(entry.iter().fold(0, |sum, byte| sum ^ byte), 0xff, "signature of the entry");
        let delivery = entry[63] >> 1;
        let mut out = entry[32..48].to_vec();
        let mut next = u64::from_be_bytes(entry[48..56].try_into().unwrap());
        while out.len() < out_len && delivery == 0 {
            let block = self.port.bytes(next, 576);
            assert_eq!(block.iter().fold(0, |sum, byte| sum ^ byte), 0xff, "signature of a block");
            assert_eq!(block[512..575].iter().fold(0, |sum, byte| sum ^ byte), 0xff, "its control signature");
            let wanted = (out_len - out.len()).min(512);
            out.extend_from_slice(&block[..wanted]);
            next = u64::from_be_bytes(block[560..568].try_into().unwrap());
        }
        out.truncate(out_len);
        Completion { delivery, out }
    }

    /// Executes a command in the next slot, waiting as the driver does at this time: by polling or by an event.
    pub fn execute(&mut self, input: &[u8], out_len: usize) -> Completion {
        let slot = self.next_slot;
        self.next_slot = (self.next_slot + 1) % (SLOTS - 1);
        self.post(slot, input, out_len);
        self.port.interrupts.clear();
        self.ring(1 << slot);
        if let Some(eqn) = self.command_eq {
            let vector = self.eqs[&eqn].vector;
            assert_eq!(self.port.interrupts, [vector], "one interrupt a command");
            let event = self.next_event(eqn).expect("an event a command");
            assert_eq!((event[1], be32(&event[32..])), (0x0a, 1 << slot), "command completion event");
            assert_eq!(self.next_event(eqn), None);
            self.arm(eqn);
        } else {
            assert!(self.port.interrupts.is_empty(), "no interrupt while polling");
        }
        self.collect(slot, out_len)
    }

    /// Executes a command that must succeed.
    pub fn succeed(&mut self, input: &[u8], out_len: usize) -> Vec<u8> {
        let completion = self.execute(input, out_len);
        let opcode = header::OPCODE.get(input);
        assert_eq!(completion.delivery, 0, "delivery status of {opcode:#x}");
        assert_eq!(
            completion.status(),
            0,
            "status of {opcode:#x}, syndrome {:#x}",
            be32(&completion.out[4..])
        );
        completion.out
    }

    /// Executes a command that must fail with `status`, having been delivered.
    pub fn fail(&mut self, input: &[u8], out_len: usize, status: u8) {
        let completion = self.execute(input, out_len);
        let opcode = header::OPCODE.get(input);
        assert_eq!((completion.delivery, completion.status()), (0, status), "outcome of {opcode:#x}");
        assert_ne!(be32(&completion.out[4..]), 0, "a failure has a syndrome");
    }

    /// Takes the next entry of an event queue, if the device has written one.
    pub fn next_event(&mut self, eqn: u32) -> Option<[u8; 64]> {
        let eq = self.eqs.get_mut(&eqn).expect("an event queue of the driver");
        let index = eq.consumer & ((1 << eq.log_size) - 1);
        let at = eq.buffer + u64::from(index) * 64;
        let owner = eq.consumer >> eq.log_size & 1;
        let consumer = eq.consumer + 1;
        let entry: [u8; 64] = self.port.bytes(at, 64).try_into().unwrap();
        if u32::from(entry[63] & 1) != owner {
            return None;
        }
        self.eqs.get_mut(&eqn).unwrap().consumer = consumer;
        Some(entry)
    }

    /// Tells the device how far an event queue has been consumed, and asks for the next interrupt.
    pub fn arm(&mut self, eqn: u32) {
        let consumer = self.eqs[&eqn].consumer;
        self.write32(16 * PAGE + 0x40, eqn << 24 | consumer & 0xff_ffff);
    }

    /// Creates an event queue as the driver does, and arms it.
    pub fn create_eq(&mut self, input_len: usize, param: EqParam) -> u32 {
        let pages = (64u64 << param.log_size).div_ceil(PAGE);
        let buffer = self.allocate(pages);
        for entry in self.port.bytes_mut(buffer, 64 << param.log_size).chunks_mut(64) {
            entry[63] = 1;
        }
        let mut input = command(0x301, 0, input_len);
        set(&mut input, CONTEXT, eqc::LOG_EQ_SIZE, param.log_size.into());
        set(&mut input, CONTEXT, eqc::UAR_PAGE, param.uar.into());
        set(&mut input, CONTEXT, eqc::INTR, param.vector.into());
        create_eq::EVENT_WORD.within(create_eq::EVENTS).set(&mut input, param.mask);
        fill_pages(&mut input[PAGES..], buffer, pages);
        let out = self.succeed(&input, 16);
        let eqn = EQ_NUMBER.get(&out) as u32;
        let eq = EventQueue { buffer, log_size: param.log_size, vector: param.vector, consumer: 0 };
        self.eqs.insert(eqn, eq);
        self.arm(eqn);
        eqn
    }

    /// ENABLE_HCA to INIT_HCA.
    pub fn bring_up(&mut self) {
        self.succeed(&command(0x104, 0, 16), 12);
        self.succeed(&command(0x102, 0, 32), 16);
    }
}

/// What the driver asks of an event queue.
#[derive(Debug, Clone, Copy)]
pub struct EqParam {
    pub log_size: u32,
    pub vector: u16,
    pub uar: u32,
    pub mask: u64,
}

/// The input of a command, `len` bytes.
pub fn command(opcode: u16, op_mod: u16, len: usize) -> Vec<u8> {
    let mut input = vec![0; len];
    header::OPCODE.set(&mut input, opcode.into());
    header::OP_MOD.set(&mut input, op_mod.into());
    input
}

/// Sets a field of the structure that begins at byte `base`.
pub fn set(data: &mut [u8], base: usize, field: Field, value: u64) {
    field.set(&mut data[base..], value);
}

/// Reads a field of the structure that begins at byte `base`.
pub fn get(data: &[u8], base: usize, field: Field) -> u64 {
    field.get(&data[base..])
}

/// Writes a list of `count` pages from `first` on.
pub fn fill_pages(list: &mut [u8], first: u64, count: u64) {
    for (entry, page) in list.chunks_exact_mut(8).zip(0..count) {
        entry.copy_from_slice(&(first + page * PAGE).to_be_bytes());
    }
}

pub fn be32(data: &[u8]) -> u32 {
    u32::from_be_bytes(data[..4].try_into().unwrap())
}
