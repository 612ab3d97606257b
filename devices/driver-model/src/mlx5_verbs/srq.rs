//! Shared receive queues: the two kinds, and the linked list of free entries that both use.

use super::{Buffer, Sge, Verbs};
use crate::mlx5_model::{command, set};
use devices::mlx5::layout::commands::{CONTEXT, OBJECT, PAGES, rmp};
use devices::mlx5::layout::contexts::{rmpc, wq, xrc_srqc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SrqKind {
    /// A receive memory pool, which queue pairs share.
    Pool,
    /// An XRC SRQ, which requests name.
    Xrc { xrcd: u32, cqn: u32 },
}

/// A shared receive queue.
#[derive(Debug, Clone)]
pub struct Srq {
    pub srqn: u32,
    pub kind: SrqKind,
    /// Index that completions carry, for XRC.
    pub user_index: u32,
    pub buffer: Buffer,
    pub record: u64,
    pub log_size: u32,
    log_stride: u32,
    head: u16,
    tail: u16,
    posted: u32,
}

impl Srq {
    /// A queue of 2^`log_size` entries of 2^`log_stride` bytes, one less of which can be posted.
    pub fn new(verbs: &mut Verbs, kind: SrqKind, log_size: u32, log_stride: u32) -> Self {
        let buffer = Buffer::new(verbs, 1 << (log_size + log_stride));
        let record = verbs.memory(8) + 128;
        let user_index = verbs.user_index();
        let tail = ((1u32 << log_size) - 1) as u16;
        let mut srq = Self {
            srqn: 0,
            kind,
            user_index,
            buffer,
            record,
            log_size,
            log_stride,
            head: 0,
            tail,
            posted: 0,
        };
        for index in 0..1 << log_size {
            srq.set_next(verbs, index, (index + 1) & tail);
        }
        srq.srqn = match kind {
            SrqKind::Pool => srq.create_pool(verbs),
            SrqKind::Xrc { xrcd, cqn } => srq.create_xrc(verbs, xrcd, cqn),
        };
        srq
    }

    fn create_pool(&self, verbs: &mut Verbs) -> u32 {
        let mut input = command(0x90c, 0, PAGES + 8 * self.buffer.pages.len());
        for (field, value) in [
            (wq::PD, verbs.pd.into()),
            (wq::DBR_ADDR, self.record),
            (wq::LOG_WQ_STRIDE, self.log_stride.into()),
            (wq::LOG_WQ_SZ, self.log_size.into()),
            (wq::LOG_WQ_PG_SZ, self.buffer.layout.log_page_size()),
            (wq::PAGE_OFFSET, self.buffer.layout.offset.into()),
        ] {
            set(&mut input, rmp::RMPC + rmpc::WQ as usize, field, value);
        }
        self.buffer.list(&mut input[PAGES..]);
        OBJECT.get32(&verbs.driver.succeed(&input, 16))
    }

    fn create_xrc(&self, verbs: &mut Verbs, xrcd: u32, cqn: u32) -> u32 {
        const USER_INDEX: devices::mlx5::field::Field = devices::mlx5::field::Field::at(0x88, 24);
        let mut input = command(0x705, 0, PAGES + 8 * self.buffer.pages.len());
        for (field, value) in [
            (xrc_srqc::PD, verbs.pd.into()),
            (xrc_srqc::XRCD, xrcd.into()),
            (xrc_srqc::CQN, cqn.into()),
            (xrc_srqc::DBR_ADDR, self.record),
            (xrc_srqc::LOG_SIZE, self.log_size.into()),
            (xrc_srqc::LOG_PAGE_SIZE, self.buffer.layout.log_page_size()),
            (xrc_srqc::PAGE_OFFSET, self.buffer.layout.offset.into()),
            (xrc_srqc::LOG_RQ_STRIDE, u64::from(self.log_stride) - 4),
            (USER_INDEX, self.user_index.into()),
        ] {
            set(&mut input, CONTEXT, field, value);
        }
        self.buffer.list(&mut input[PAGES..]);
        OBJECT.get32(&verbs.driver.succeed(&input, 16))
    }

    fn entry(&self, index: u16) -> u64 {
        u64::from(index) << self.log_stride
    }

    pub fn set_next(&self, verbs: &mut Verbs, index: u16, next: u16) {
        self.buffer.store(verbs, self.entry(index) + 2, &next.to_be_bytes());
    }

    /// The list's next entry; a test may have spoilt it.
    fn next(&self, verbs: &Verbs, index: u16) -> u16 {
        let bytes = self.buffer.load(verbs, self.entry(index) + 2, 2);
        u16::from_be_bytes([bytes[0], bytes[1]]) & ((1 << self.log_size) - 1)
    }

    /// Posts a receive request; returns the index of its entry, with which its completion names it.
    pub fn post(&mut self, verbs: &mut Verbs, scatter: &[Sge]) -> u16 {
        assert_ne!(self.head, self.tail, "the shared receive queue is full");
        let index = self.head;
        let room = (1usize << self.log_stride) / 16 - 1;
        let list = scatter_list(scatter, room);
        self.buffer.store(verbs, self.entry(index) + 16, &list);
        self.head = self.next(verbs, index);
        self.posted += 1;
        let counter = (self.posted & 0xffff).to_be_bytes();
        verbs.fill(self.record, &counter);
        index
    }

    pub fn has_room(&self) -> bool {
        self.head != self.tail
    }

    /// Gives an entry back whose completion has been taken.
    pub fn free(&mut self, verbs: &mut Verbs, index: u16) {
        self.set_next(verbs, self.tail, index);
        self.tail = index;
    }

    /// Asks for an event when fewer than `limit` requests are left.
    pub fn arm(&mut self, verbs: &mut Verbs, limit: u16) {
        match self.kind {
            SrqKind::Xrc { .. } => {
                let mut input = command(0x708, 0, 16);
                OBJECT.set(&mut input, self.srqn.into());
                input[14..16].copy_from_slice(&limit.to_be_bytes());
                verbs.driver.succeed(&input, 16);
            }
            SrqKind::Pool => {
                const READY: u8 = 1;
                let mut input = command(0x90d, 0, PAGES);
                OBJECT.set(&mut input, self.srqn.into());
                input[8] = READY << 4;
                rmp::BITMASK.set(&mut input, 1);
                set(&mut input, rmp::RMPC, wq::LWM.within(rmpc::WQ), limit.into());
                verbs.driver.succeed(&input, 16);
            }
        }
    }

    pub fn destroy(self, verbs: &mut Verbs) {
        let opcode = if self.kind == SrqKind::Pool { 0x90e } else { 0x706 };
        verbs.on_object(opcode, self.srqn);
    }
}

/// A scatter list of at most `room` elements; a shorter one ends with the key that says so.
pub fn scatter_list(scatter: &[Sge], room: usize) -> Vec<u8> {
    const END_OF_LIST: u32 = 0x100;
    let mut elements: Vec<Sge> = scatter.iter().copied().filter(|sge| sge.len != 0).collect();
    assert!(elements.len() <= room, "too many elements for the entry");
    if elements.len() < room {
        elements.push(Sge::new(0, 0, END_OF_LIST));
    }
    elements.iter().flat_map(|sge| sge.encode()).collect()
}
