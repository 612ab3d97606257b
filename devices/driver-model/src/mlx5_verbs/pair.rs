//! Queue pairs: life, states, posting.

use super::srq::scatter_list;
use super::{Buffer, LID, SendRequest, Sge, Verbs};
use crate::mlx5_model::{PAGE, command, get, set};
use devices::mlx5::layout::commands::{OBJECT, PAGES, qp};
use devices::mlx5::layout::contexts::{ads, qpc};

/// Transport services.
pub mod transport {
    pub const RC: u8 = 0x0;
    pub const UC: u8 = 0x1;
    pub const UD: u8 = 0x2;
    pub const XRC: u8 = 0x3;
    /// Registers memory for the kernel.
    pub const REGISTER: u8 = 0xc;
}

/// States of a queue pair.
pub mod qp_state {
    pub const RESET: u64 = 0;
    pub const INIT: u64 = 1;
    pub const READY_TO_RECEIVE: u64 = 2;
    pub const READY_TO_SEND: u64 = 3;
    pub const SEND_QUEUE_ERROR: u64 = 4;
    pub const ERROR: u64 = 6;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveQueue {
    Own,
    Shared(u32),
    None,
}

/// What a queue pair is made of.
#[derive(Debug, Clone, Copy)]
pub struct PairSpec {
    pub transport: u8,
    pub send_cq: u32,
    pub receive_cq: u32,
    pub receive: ReceiveQueue,
    /// 64-byte blocks of the send queue, as a power of two; none if there is no send queue.
    pub log_send: Option<u32>,
    pub log_receive: u32,
    /// Bytes of a receive request, as a power of two.
    pub log_stride: u32,
    pub xrcd: u32,
}

impl PairSpec {
    /// A pair with both queues, which complete in one completion queue.
    pub fn new(transport: u8, cqn: u32) -> Self {
        Self {
            transport,
            send_cq: cqn,
            receive_cq: cqn,
            receive: ReceiveQueue::Own,
            log_send: Some(6),
            log_receive: 5,
            log_stride: 6,
            xrcd: 0,
        }
    }
}

/// Attributes of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    pub qpn: u32,
    pub lid: u16,
    pub remote_read: bool,
    pub remote_write: bool,
    pub remote_atomic: bool,
    /// Code of the time that a requester waits when this pair is not ready (InfiniBand 9.7.5.2.8); 1: 10 µs.
    pub min_rnr_timer: u8,
    /// 7: for ever.
    pub rnr_retry: u8,
    pub retry: u8,
    /// Time to an answer, 4.096 µs × 2^this.
    pub timeout: u8,
    /// Code of the path MTU; 5: 4096 bytes.
    pub mtu: u8,
    pub q_key: u32,
}

impl Connection {
    pub fn to(qpn: u32) -> Self {
        Self {
            qpn,
            lid: LID,
            remote_read: true,
            remote_write: true,
            remote_atomic: true,
            min_rnr_timer: 1,
            rnr_retry: 7,
            retry: 7,
            timeout: 4,
            mtu: 5,
            q_key: 0x1111_1111,
        }
    }
}

/// A queue pair.
#[derive(Debug, Clone)]
pub struct Pair {
    pub qpn: u32,
    pub spec: PairSpec,
    pub user_index: u32,
    pub buffer: Buffer,
    /// Doorbell record: receive counter, then send counter.
    pub record: u64,
    /// Blocks posted to the send queue so far.
    pub sent: u16,
    /// Requests posted to the receive queue so far.
    pub received: u16,
    /// Last control segment, which the doorbell shows.
    last: [u8; 8],
    /// The two doorbells take turns.
    odd: bool,
}

impl Pair {
    pub fn new(verbs: &mut Verbs, spec: PairSpec) -> Self {
        let receive_len =
            if spec.receive == ReceiveQueue::Own { 1 << (spec.log_receive + spec.log_stride) } else { 0 };
        let send_len = spec.log_send.map_or(0, |log| 64 << log);
        let buffer = Buffer::new(verbs, receive_len + send_len);
        let record = verbs.memory(8) + 192;
        let user_index = verbs.user_index();
        let mut input = command(0x500, 0, PAGES + 8 * buffer.pages.len());
        let (rq_type, srqn) = match spec.receive {
            ReceiveQueue::Own => (0, 0),
            ReceiveQueue::Shared(srqn) => (1, srqn),
            ReceiveQueue::None => (3, 0),
        };
        const MIGRATED: u64 = 3;
        for (field, value) in [
            (qpc::ST, spec.transport.into()),
            (qpc::PM_STATE, MIGRATED),
            (qpc::PD, verbs.pd.into()),
            (qpc::UAR_PAGE, verbs.uar.into()),
            (qpc::USER_INDEX, user_index.into()),
            (qpc::CQN_SND, spec.send_cq.into()),
            (qpc::CQN_RCV, spec.receive_cq.into()),
            (qpc::DBR_ADDR, record),
            (qpc::LOG_PAGE_SIZE, buffer.layout.log_page_size()),
            (qpc::PAGE_OFFSET, buffer.layout.offset.into()),
            (qpc::RQ_TYPE, rq_type),
            (qpc::SRQN, srqn.into()),
            (qpc::XRCD, spec.xrcd.into()),
            (qpc::NO_SQ, spec.log_send.is_none().into()),
            (qpc::LOG_SQ_SIZE, spec.log_send.unwrap_or(0).into()),
        ] {
            set(&mut input, qp::QPC, field, value);
        }
        if spec.receive == ReceiveQueue::Own {
            set(&mut input, qp::QPC, qpc::LOG_RQ_SIZE, spec.log_receive.into());
            set(&mut input, qp::QPC, qpc::LOG_RQ_STRIDE, u64::from(spec.log_stride) - 4);
        }
        buffer.list(&mut input[PAGES..]);
        let qpn = OBJECT.get32(&verbs.driver.succeed(&input, 16));
        Self { qpn, spec, user_index, buffer, record, sent: 0, received: 0, last: [0; 8], odd: false }
    }

    /// A pair of this kind, connected to itself: what it sends, it receives.
    pub fn loopback(verbs: &mut Verbs, spec: PairSpec) -> Self {
        let mut pair = Self::new(verbs, spec);
        let own = Connection::to(pair.qpn);
        pair.connect(verbs, own);
        pair
    }

    /// Two pairs of this kind, connected to each other.
    pub fn connected(verbs: &mut Verbs, spec: PairSpec) -> (Self, Self) {
        let (mut a, mut b) = (Self::new(verbs, spec), Self::new(verbs, spec));
        a.connect(verbs, Connection::to(b.qpn));
        b.connect(verbs, Connection::to(a.qpn));
        (a, b)
    }

    fn modify(
        &self,
        verbs: &mut Verbs,
        opcode: u16,
        mask: u32,
        fields: &[(devices::mlx5::field::Field, u64)],
    ) {
        let mut input = command(opcode, 0, PAGES);
        OBJECT.set(&mut input, self.qpn.into());
        qp::OPT_PARAM_MASK.set(&mut input, mask.into());
        for (field, value) in fields {
            set(&mut input, qp::QPC, *field, *value);
        }
        verbs.driver.succeed(&input, 16);
    }

    /// RESET to INIT.
    pub fn to_init(&self, verbs: &mut Verbs, to: Connection) {
        const INFINIBAND_SPECIFICATION: u64 = 1;
        let fields = [
            (qpc::PM_STATE, 3),
            (ads::VHCA_PORT_NUM.within(qpc::PRIMARY_PATH), 1),
            (qpc::Q_KEY, to.q_key.into()),
            (qpc::RRE, to.remote_read.into()),
            (qpc::RWE, to.remote_write.into()),
            (qpc::RAE, to.remote_atomic.into()),
            (qpc::ATOMIC_MODE, INFINIBAND_SPECIFICATION),
        ];
        self.modify(verbs, 0x502, 0, &fields);
    }

    /// INIT to ready to receive.
    pub fn to_ready_to_receive(&self, verbs: &mut Verbs, to: Connection) {
        let log_longest = if self.spec.transport == transport::UD { 12 } else { 30 };
        let fields = [
            (qpc::MTU, to.mtu.into()),
            (qpc::LOG_MSG_MAX, log_longest),
            (qpc::REMOTE_QPN, to.qpn.into()),
            (ads::RLID.within(qpc::PRIMARY_PATH), to.lid.into()),
            (qpc::MIN_RNR_NAK, to.min_rnr_timer.into()),
            (qpc::LOG_RRA_MAX, 4),
        ];
        self.modify(verbs, 0x503, 0, &fields);
    }

    /// Ready to receive to ready to send.
    pub fn to_ready_to_send(&self, verbs: &mut Verbs, to: Connection) {
        let fields = [
            (qpc::RETRY_COUNT, to.retry.into()),
            (qpc::RNR_RETRY, to.rnr_retry.into()),
            (ads::ACK_TIMEOUT.within(qpc::PRIMARY_PATH), to.timeout.into()),
            (qpc::LOG_SRA_MAX, 4),
        ];
        self.modify(verbs, 0x504, 0, &fields);
    }

    /// RESET to ready to send.
    pub fn connect(&mut self, verbs: &mut Verbs, to: Connection) {
        self.to_init(verbs, to);
        self.to_ready_to_receive(verbs, to);
        self.to_ready_to_send(verbs, to);
    }

    pub fn to_error(&self, verbs: &mut Verbs) {
        verbs.on_object(0x507, self.qpn);
    }

    /// To RESET; what has been posted is forgotten by both sides.
    pub fn reset(&mut self, verbs: &mut Verbs) {
        verbs.on_object(0x50a, self.qpn);
        (self.sent, self.received) = (0, 0);
        verbs.fill(self.record, &[0; 8]);
    }

    pub fn state(&self, verbs: &mut Verbs) -> u64 {
        get(&verbs.query(0x50b, self.qpn), qp::QPC, qpc::STATE)
    }

    pub fn destroy(self, verbs: &mut Verbs) {
        verbs.on_object(0x501, self.qpn);
    }

    fn send_queue(&self) -> u64 {
        match self.spec.receive {
            ReceiveQueue::Own => 1 << (self.spec.log_receive + self.spec.log_stride),
            _ => 0,
        }
    }

    /// Writes a request into the send queue, which the device is not told of; returns the index of its first block.
    pub fn place(&mut self, verbs: &mut Verbs, request: &SendRequest) -> u16 {
        let bytes = request.encode(self.sent, self.qpn);
        self.place_bytes(verbs, &bytes)
    }

    /// Writes any bytes as a request.
    pub fn place_bytes(&mut self, verbs: &mut Verbs, bytes: &[u8]) -> u16 {
        let index = self.sent;
        let len = 64u64 << self.spec.log_send.expect("a send queue");
        for (number, block) in bytes.chunks(64).enumerate() {
            let at = (u64::from(index) + number as u64) * 64 % len;
            self.buffer.store(verbs, self.send_queue() + at, block);
        }
        self.last = bytes[..8].try_into().unwrap();
        self.sent = self.sent.wrapping_add(bytes.len().div_ceil(64) as u16);
        index
    }

    /// Publishes what has been placed and rings the doorbell; the device has not run yet.
    pub fn ring(&mut self, verbs: &mut Verbs) {
        let counter = u32::from(self.sent).to_be_bytes();
        verbs.fill(self.record + 4, &counter);
        let offset = u64::from(verbs.uar) * PAGE + if self.odd { 0x900 } else { 0x800 };
        self.odd = !self.odd;
        verbs.driver.write64(offset, u64::from_be_bytes(self.last));
    }

    /// Posts requests with one doorbell; returns the index of each.
    pub fn post(&mut self, verbs: &mut Verbs, requests: &[SendRequest]) -> Vec<u16> {
        let indices = requests.iter().map(|request| self.place(verbs, request)).collect();
        self.ring(verbs);
        indices
    }

    /// Posts one request.
    pub fn send(&mut self, verbs: &mut Verbs, request: SendRequest) -> u16 {
        self.post(verbs, &[request])[0]
    }

    /// Posts a receive request; returns its index.
    pub fn receive(&mut self, verbs: &mut Verbs, scatter: &[Sge]) -> u16 {
        let list = scatter_list(scatter, (1usize << self.spec.log_stride) / 16);
        self.receive_bytes(verbs, &list)
    }

    /// Posts any bytes as a receive request.
    pub fn receive_bytes(&mut self, verbs: &mut Verbs, bytes: &[u8]) -> u16 {
        let index = self.received;
        let slot = u64::from(index) % (1 << self.spec.log_receive);
        let at = slot << self.spec.log_stride;
        self.buffer.store(verbs, at, bytes);
        self.received = self.received.wrapping_add(1);
        let counter = u32::from(self.received).to_be_bytes();
        verbs.fill(self.record, &counter);
        index
    }
}
