//! Completion queues and what is read from them.

use super::{Buffer, Verbs};
use crate::mlx5_model::{PAGE, be32, command, set};
use devices::mlx5::layout::commands::{CONTEXT, OBJECT, PAGES};
use devices::mlx5::layout::contexts::cqc;

/// Opcodes of completions.
pub mod opcode {
    pub const REQUESTER: u8 = 0;
    pub const WRITE_IMMEDIATE: u8 = 1;
    pub const SEND: u8 = 2;
    pub const SEND_IMMEDIATE: u8 = 3;
    pub const REQUESTER_ERROR: u8 = 13;
    pub const RESPONDER_ERROR: u8 = 14;
    pub const INVALID: u8 = 15;
}

/// Syndromes of error completions.
pub mod syndrome {
    pub const LOCAL_LENGTH: u8 = 0x01;
    pub const LOCAL_OPERATION: u8 = 0x02;
    pub const LOCAL_PROTECTION: u8 = 0x04;
    pub const FLUSHED: u8 = 0x05;
    pub const LOCAL_ACCESS: u8 = 0x11;
    pub const REMOTE_INVALID_REQUEST: u8 = 0x12;
    pub const REMOTE_ACCESS: u8 = 0x13;
    pub const REMOTE_OPERATION: u8 = 0x14;
    pub const RETRY_EXCEEDED: u8 = 0x15;
    pub const RNR_RETRY_EXCEEDED: u8 = 0x16;
}

/// A completion queue entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cqe {
    pub opcode: u8,
    /// 0 unless the opcode is an error.
    pub syndrome: u8,
    pub qpn: u32,
    /// Index that the program has given the queue; of the shared receive queue for XRC.
    pub user_index: u32,
    pub wqe_counter: u16,
    pub bytes: u32,
    pub immediate: u32,
    pub source_lid: u16,
    pub source_qpn: u32,
    /// A global routing header has been received.
    pub has_grh: bool,
}

impl Cqe {
    pub fn parse(entry: &[u8]) -> Self {
        let opcode = entry[63] >> 4;
        let is_error = matches!(opcode, opcode::REQUESTER_ERROR | opcode::RESPONDER_ERROR);
        Self {
            opcode,
            syndrome: if is_error { entry[55] } else { 0 },
            qpn: be32(&entry[56..]) & 0xff_ffff,
            user_index: be32(&entry[32..]) & 0xff_ffff,
            wqe_counter: u16::from_be_bytes([entry[60], entry[61]]),
            bytes: if is_error { 0 } else { be32(&entry[44..]) },
            immediate: be32(&entry[36..]),
            source_lid: u16::from_be_bytes([entry[22], entry[23]]),
            source_qpn: be32(&entry[24..]) & 0xff_ffff,
            has_grh: entry[24] >> 4 & 3 != 0,
        }
    }

    /// What tests compare most: opcode, syndrome and work request.
    pub fn outcome(&self) -> (u8, u8, u16) {
        (self.opcode, self.syndrome, self.wqe_counter)
    }

    pub fn is_error(&self) -> bool {
        matches!(self.opcode, opcode::REQUESTER_ERROR | opcode::RESPONDER_ERROR)
    }
}

/// A completion queue.
#[derive(Debug, Clone)]
pub struct Cq {
    pub cqn: u32,
    pub buffer: Buffer,
    pub log_size: u32,
    pub entry_size: u64,
    /// Doorbell record: consumer counter, then arm word.
    pub record: u64,
    pub consumer: u32,
    arm_sequence: u32,
}

impl Cq {
    /// A queue of 2^`log_size` entries of 64 bytes.
    pub fn new(verbs: &mut Verbs, log_size: u32) -> Self {
        Self::with_entries(verbs, log_size, 64)
    }

    /// A queue of 2^`log_size` entries of 64 or 128 bytes.
    pub fn with_entries(verbs: &mut Verbs, log_size: u32, entry_size: u64) -> Self {
        let buffer = Buffer::new(verbs, entry_size << log_size);
        let record = verbs.memory(8) + 64;
        let mut cq = Self { cqn: 0, buffer, log_size, entry_size, record, consumer: 0, arm_sequence: 0 };
        for index in 0..1 << log_size {
            cq.buffer.store(verbs, cq.entry(index) + 63, &[opcode::INVALID << 4]);
        }
        let mut input = command(0x400, 0, PAGES + 8 * cq.buffer.pages.len());
        for (field, value) in [
            (cqc::CQE_SZ, entry_size / 128),
            (cqc::LOG_CQ_SIZE, log_size.into()),
            (cqc::C_EQN, verbs.completion_eq.into()),
            (cqc::UAR_PAGE, verbs.uar.into()),
            (cqc::DBR_ADDR, record),
            (cqc::LOG_PAGE_SIZE, cq.buffer.layout.log_page_size()),
            (cqc::PAGE_OFFSET, cq.buffer.layout.offset.into()),
        ] {
            set(&mut input, CONTEXT, field, value);
        }
        cq.buffer.list(&mut input[PAGES..]);
        cq.cqn = OBJECT.get32(&verbs.driver.succeed(&input, 16));
        cq
    }

    /// Offset of the 64 bytes that describe a completion: the second half of a large entry.
    fn entry(&self, index: u32) -> u64 {
        u64::from(index) * self.entry_size + self.entry_size - 64
    }

    /// The next completion, left in the queue for the device: its consumer counter does not move.
    pub fn peek(&self, verbs: &Verbs) -> Option<Cqe> {
        let index = self.consumer & ((1 << self.log_size) - 1);
        let entry = self.buffer.load(verbs, self.entry(index), 64);
        let owner = (self.consumer >> self.log_size & 1) as u8;
        let is_new = entry[63] >> 4 != opcode::INVALID && entry[63] & 1 == owner;
        is_new.then(|| Cqe::parse(&entry))
    }

    /// Takes the next completion, if there is one.
    pub fn poll(&mut self, verbs: &mut Verbs) -> Option<Cqe> {
        let cqe = self.peek(verbs)?;
        self.consumer = (self.consumer + 1) & 0xff_ffff;
        let consumer = self.consumer.to_be_bytes();
        verbs.fill(self.record, &consumer);
        Some(cqe)
    }

    /// Lets the device finish and takes all completions.
    pub fn drain(&mut self, verbs: &mut Verbs) -> Vec<Cqe> {
        verbs.settle();
        std::iter::from_fn(|| self.poll(verbs)).collect()
    }

    /// Lets the device finish and takes the only completion there must be.
    pub fn one(&mut self, verbs: &mut Verbs) -> Cqe {
        let all = self.drain(verbs);
        assert_eq!(all.len(), 1, "{all:x?}");
        all.into_iter().next().unwrap()
    }

    /// Asks for an event at the next completion, or the next solicited one.
    pub fn arm(&mut self, verbs: &mut Verbs, solicited_only: bool) {
        let word = self.arm_sequence << 28 | u32::from(solicited_only) << 24 | self.consumer;
        self.arm_sequence = (self.arm_sequence + 1) & 3;
        verbs.fill(self.record + 4, &word.to_be_bytes());
        let doorbell = u64::from(word) << 32 | u64::from(self.cqn);
        verbs.driver.write64(u64::from(verbs.uar) * PAGE + 0x20, doorbell);
    }

    pub fn destroy(self, verbs: &mut Verbs) {
        verbs.on_object(0x401, self.cqn);
    }
}
