//! Queue pairs: their life and their state machine.

use super::command::Command;
use super::connection::Connection;
use super::data_path::{
    AddressVector, Arrival, BrokenQueue, Flight, Holder, Landing, MAX_RECEIVE_STRIDE, Receive,
    SEND_BLOCK_SHIFT, Source, Task, WorkQueue,
};
use super::hca::{Hca, Phase, answer_number};
use super::layout::capabilities::general;
use super::layout::commands::{OBJECT, PAGES, header, qp};
use super::layout::contexts::qpc;
use super::pages::{Buffer, PageList};
use super::qp_modify::{self, Transition};
use super::status::{Failure, Status};
use super::vport;
use crate::bus::Nanos;
use crate::dma::DmaAttrs;
use crate::pci::Port;
use serde::{Deserialize, Serialize};

pub const COMMANDS: &[Command] = &[
    Command::new(0x500, "CREATE_QP", Phase::Ready, create).lengths(PAGES, header::OUT_LEN),
    Command::new(0x501, "DESTROY_QP", Phase::Ready, destroy),
    Command::new(0x502, "RST2INIT_QP", Phase::Ready, |hca, input, _| {
        modify(hca, input, &qp_modify::RESET_TO_INIT)
    })
    .lengths(PAGES, header::OUT_LEN),
    Command::new(0x50e, "INIT2INIT_QP", Phase::Ready, |hca, input, _| {
        modify(hca, input, &qp_modify::INIT_TO_INIT)
    })
    .lengths(PAGES, header::OUT_LEN),
    Command::new(0x503, "INIT2RTR_QP", Phase::Ready, |hca, input, _| {
        modify(hca, input, &qp_modify::INIT_TO_RTR)
    })
    .lengths(PAGES, header::OUT_LEN),
    Command::new(0x504, "RTR2RTS_QP", Phase::Ready, |hca, input, _| {
        modify(hca, input, &qp_modify::RTR_TO_RTS)
    })
    .lengths(PAGES, header::OUT_LEN),
    Command::new(0x505, "RTS2RTS_QP", Phase::Ready, |hca, input, _| {
        modify(hca, input, &qp_modify::RTS_TO_RTS)
    })
    .lengths(PAGES, header::OUT_LEN),
    Command::new(0x506, "SQERR2RTS_QP", Phase::Ready, |hca, input, _| {
        modify(hca, input, &qp_modify::SQ_ERROR_TO_RTS)
    })
    .lengths(PAGES, header::OUT_LEN),
    Command::new(0x507, "2ERR_QP", Phase::Ready, to_error),
    Command::new(0x50a, "2RST_QP", Phase::Ready, to_reset),
    Command::new(0x50b, "QUERY_QP", Phase::Ready, query).lengths(header::IN_LEN, PAGES),
];

/// States of a queue pair, with their encoding in the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum State {
    Reset = 0,
    Init = 1,
    ReadyToReceive = 2,
    ReadyToSend = 3,
    SendQueueError = 4,
    Error = 6,
}

/// Transport services, with their encoding in the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Transport {
    ReliableConnection = 0x0,
    UnreliableConnection = 0x1,
    UnreliableDatagram = 0x2,
    ExtendedReliableConnection = 0x3,
    /// Subnet management (QP 0).
    SubnetManagement = 0x7,
    /// General services (QP 1).
    GeneralServices = 0x8,
    /// Registers memory by work requests of the driver.
    MemoryRegistration = 0xc,
}

impl Transport {
    fn parse(code: u64) -> Result<Self, Failure> {
        Ok(match code {
            0x0 => Self::ReliableConnection,
            0x1 => Self::UnreliableConnection,
            0x2 => Self::UnreliableDatagram,
            0x3 => Self::ExtendedReliableConnection,
            0x7 => Self::SubnetManagement,
            0x8 => Self::GeneralServices,
            0xc => Self::MemoryRegistration,
            _ => return Err(Failure::parameter("unsupported transport service")),
        })
    }

    /// Whether messages are acknowledged.
    pub fn is_reliable(self) -> bool {
        matches!(self, Self::ReliableConnection | Self::ExtendedReliableConnection | Self::MemoryRegistration)
    }

    /// Whether each message names its destination.
    pub fn is_datagram(self) -> bool {
        matches!(self, Self::UnreliableDatagram | Self::SubnetManagement | Self::GeneralServices)
    }

    /// Whether a queue pair is connected to one other.
    pub fn is_connected(self) -> bool {
        matches!(
            self,
            Self::ReliableConnection | Self::UnreliableConnection | Self::ExtendedReliableConnection
        )
    }
}

/// Receive queue types in the context.
const RQ_REGULAR: u64 = 0;
const RQ_SHARED: u64 = 1;
const RQ_NONE: u64 = 3;

const MIN_STRIDE_SHIFT: u32 = 4;

/// A queue pair.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueuePair {
    /// The context with what modifications have changed; the state is kept beside it.
    #[serde(with = "crate::state::bytes")]
    context: [u8; qpc::SIZE],
    /// The context at creation, to which a reset returns.
    #[serde(with = "crate::state::bytes")]
    created: [u8; qpc::SIZE],
    number: u32,
    pub state: State,
    pub transport: Transport,
    pub pd: u32,
    pub send_cq: u32,
    pub receive_cq: u32,
    /// The number by which the driver knows it in completions.
    pub user_index: u32,
    /// The shared receive queue that it receives from.
    pub srq: Option<u32>,
    /// The XRC domain of an XRC queue pair.
    pub xrcd: Option<u32>,
    /// The UAR of its send queue's doorbells.
    pub uar: Option<u32>,
    pub pages: PageList,
    /// Bus address of the doorbell record: receive counter, then send counter.
    doorbell_record: u64,
    /// Its own queues; a queue pair may have neither.
    pub send: Option<WorkQueue>,
    pub receive: Option<WorkQueue>,
    /// What the context says of the peer and of what it may do.
    pub connection: Connection,
    /// The work request under way.
    pub flight: Option<Flight>,
    /// The message that is arriving.
    pub arriving: Option<Landing>,
    /// A receive request whose message has been abandoned by its sender.
    pub held: Option<Receive>,
    /// A message has been received, and the driver told of the first.
    pub established: bool,
    /// The driver has been told that no more requests are taken from the shared receive queue.
    pub last_reported: bool,
    /// How long until a failed queue pair looks for receive requests again.
    pub next_look: Nanos,
}

impl QueuePair {
    fn parse(input: &[u8], max_log_size: u32) -> Result<Self, Failure> {
        let given = input.get(qp::QPC..).and_then(|bytes| bytes.first_chunk());
        let mut context: [u8; qpc::SIZE] =
            *given.ok_or(Failure::new(Status::BadInputLength, "no context"))?;
        if qpc::DBR_UMEM_VALID.is_set(&context) {
            return Err(Failure::parameter("user memory objects are not supported"));
        }
        let doorbell_record = qpc::DBR_ADDR.get(&context);
        if !doorbell_record.is_multiple_of(8) {
            return Err(Failure::parameter("doorbell record not aligned"));
        }
        let transport = Transport::parse(qpc::ST.get(&context))?;
        let log_rq = qpc::LOG_RQ_SIZE.get32(&context);
        let log_sq = qpc::LOG_SQ_SIZE.get32(&context);
        if log_rq > max_log_size || log_sq > max_log_size {
            return Err(Failure::parameter("work queue too large"));
        }
        let stride = qpc::LOG_RQ_STRIDE.get32(&context) + MIN_STRIDE_SHIFT;
        let (receive, srq) = match qpc::RQ_TYPE.get(&context) {
            RQ_REGULAR if 1 << stride > MAX_RECEIVE_STRIDE => {
                return Err(Failure::parameter("receive requests too large"));
            }
            RQ_REGULAR => (Some(WorkQueue::new(0, log_rq, stride)), None),
            RQ_SHARED => (None, Some(qpc::SRQN.get32(&context))),
            RQ_NONE => (None, None),
            _ => return Err(Failure::parameter("unsupported receive queue type")),
        };
        let receive_len = receive.as_ref().map_or(0, WorkQueue::len);
        let has_sq = !qpc::NO_SQ.is_set(&context);
        let send = has_sq.then(|| WorkQueue::new(receive_len, log_sq, SEND_BLOCK_SHIFT));
        let buffer = Buffer {
            log_page_size: qpc::LOG_PAGE_SIZE.get32(&context),
            page_offset: qpc::PAGE_OFFSET.get32(&context),
            len: receive_len + send.as_ref().map_or(0, WorkQueue::len),
        };
        qpc::STATE.set(&mut context, State::Reset as u64);
        Ok(Self {
            number: 0,
            state: State::Reset,
            transport,
            pd: qpc::PD.get32(&context),
            send_cq: qpc::CQN_SND.get32(&context),
            receive_cq: qpc::CQN_RCV.get32(&context),
            user_index: qpc::USER_INDEX.get32(&context),
            srq,
            xrcd: (transport == Transport::ExtendedReliableConnection).then(|| qpc::XRCD.get32(&context)),
            uar: has_sq.then(|| qpc::UAR_PAGE.get32(&context)),
            pages: PageList::parse(buffer, input.get(PAGES..).unwrap_or_default())?,
            doorbell_record,
            send,
            receive,
            connection: Connection::of(&context),
            flight: None,
            arriving: None,
            held: None,
            established: false,
            last_reported: false,
            next_look: 0,
            created: context,
            context,
        })
    }

    /// Back to the state after creation.
    fn reset(&mut self) {
        self.state = State::Reset;
        self.context = self.created;
        self.connection = Connection::of(&self.context);
        for queue in self.send.iter_mut().chain(&mut self.receive) {
            queue.reset();
        }
        (self.flight, self.arriving, self.held) = (None, None, None);
        (self.established, self.last_reported) = (false, false);
    }

    /// On whose behalf it accesses memory.
    pub fn holder(&self) -> Holder {
        let any_domain = self.transport == Transport::MemoryRegistration;
        Holder { qpn: self.number, pd: (!any_domain).then_some(self.pd) }
    }

    /// What a receiver sees as the source of its messages, those to `vector` if they are datagrams.
    pub fn source(&self, vector: Option<&AddressVector>) -> Source {
        let qpn = match self.transport {
            Transport::SubnetManagement => 0,
            Transport::GeneralServices => 1,
            _ => self.number,
        };
        Source {
            qpn,
            lid: vport::LID as u16,
            service_level: vector.map_or(self.connection.service_level, |vector| vector.service_level),
            has_grh: vector.is_some_and(|vector| vector.global.is_some()),
        }
    }

    /// Longest message in bytes.
    pub fn longest_message(&self) -> u64 {
        1 << qpc::LOG_MSG_MAX.get(&self.context)
    }

    /// Whether messages may arrive.
    pub fn can_receive(&self) -> bool {
        matches!(self.state, State::ReadyToReceive | State::ReadyToSend | State::SendQueueError)
    }

    /// Whether a message is one for this queue pair, from a sender that it takes messages of.
    pub fn listens_to(&self, arrival: &Arrival) -> bool {
        self.can_receive()
            && match arrival.datagram {
                Some(header) => self.transport.is_datagram() && header.q_key == self.connection.q_key,
                None => {
                    self.transport == arrival.transport
                        && self.connection.qpn == arrival.source.qpn
                        && self.connection.lid == arrival.source.lid
                }
            }
    }

    /// Whether it has a receive queue of its own.
    pub fn receives_from_its_own(&self) -> bool {
        self.receive.is_some()
    }

    /// Learns from the doorbell record how far the driver has posted to the send queue, once all known is used up.
    ///
    /// # Errors
    /// [`BrokenQueue`] if the record is out of reach or names more than the queue holds.
    pub fn refresh_send_producer(&mut self, port: &mut dyn Port, attrs: DmaAttrs) -> Result<(), BrokenQueue> {
        refresh(self.send.as_mut(), self.doorbell_record.wrapping_add(4), port, attrs)
    }

    /// The same for the receive queue.
    ///
    /// # Errors
    /// [`BrokenQueue`] likewise.
    pub fn refresh_receive_producer(
        &mut self,
        port: &mut dyn Port,
        attrs: DmaAttrs,
    ) -> Result<(), BrokenQueue> {
        refresh(self.receive.as_mut(), self.doorbell_record, port, attrs)
    }

    /// The context as a query answers it.
    fn queried(&self) -> [u8; qpc::SIZE] {
        let mut context = self.context;
        qpc::STATE.set(&mut context, self.state as u64);
        if let Some(send) = &self.send {
            qpc::HW_SQ_WQEBB_COUNTER.set(&mut context, send.head.into());
            qpc::SW_SQ_WQEBB_COUNTER.set(&mut context, send.producer.into());
        }
        if let Some(receive) = &self.receive {
            qpc::HW_RQ_COUNTER.set(&mut context, receive.head.into());
            qpc::SW_RQ_COUNTER.set(&mut context, receive.producer.into());
        }
        context
    }
}

fn refresh(
    queue: Option<&mut WorkQueue>,
    record: u64,
    port: &mut dyn Port,
    attrs: DmaAttrs,
) -> Result<(), BrokenQueue> {
    match queue {
        Some(queue) if queue.pending() == 0 => queue.refresh(record, port, attrs),
        _ => Ok(()),
    }
}

impl Hca {
    /// The send doorbell of `uar`: the low word of the last work request's control segment, `qpn << 8 | size`.
    pub fn ring_send_queue(&mut self, uar: u32, word: u32) {
        let qpn = word >> 8;
        match self.qps.get(qpn).filter(|qp| qp.uar == Some(uar)) {
            None => log::debug!("mlx5: UAR {uar} rang for queue pair {qpn}, which it has not"),
            Some(_) => self.schedule.wake(Task::QueuePair(qpn)),
        }
    }
}

fn create(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let qp = QueuePair::parse(input, hca.caps.general(general::LOG_MAX_QP_SZ))?;
    // A queue pair that registers memory is of no protection domain: its work requests name memory keys only.
    if qp.transport != Transport::MemoryRegistration && !hca.pds.contains(qp.pd) {
        return Err(Failure::resource("no such protection domain"));
    }
    if !hca.cqs.contains(qp.send_cq) || !hca.cqs.contains(qp.receive_cq) {
        return Err(Failure::resource("no such completion queue"));
    }
    if qp.uar.is_some_and(|uar| !hca.uars.contains(uar)) {
        return Err(Failure::resource("no such UAR"));
    }
    if qp.srq.is_some_and(|srqn| !hca.srqs.contains(srqn)) {
        return Err(Failure::resource("no such shared receive queue"));
    }
    if qp.xrcd.is_some_and(|xrcd| !hca.xrcds.contains(xrcd)) {
        return Err(Failure::resource("no such XRC domain"));
    }
    let end = hca.caps.limit(general::LOG_MAX_QP);
    let qpn = hca.qps.insert(qp, end);
    if let Some(qpn) = qpn
        && let Some(qp) = hca.qps.get_mut(qpn)
    {
        qp.number = qpn;
    }
    answer_number(qpn, out)
}

fn find<'a>(hca: &'a mut Hca, input: &[u8]) -> Result<&'a mut QueuePair, Failure> {
    hca.qps.get_mut(OBJECT.get32(input)).ok_or(Failure::resource("no such queue pair"))
}

fn destroy(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let qpn = OBJECT.get32(input);
    if hca.multicast.contains(qpn) {
        return Err(Failure::busy("the queue pair is in a multicast group"));
    }
    hca.qps.remove(qpn).ok_or(Failure::resource("no such queue pair"))?;
    hca.follow_connection(qpn);
    Ok(())
}

fn modify(hca: &mut Hca, input: &[u8], transition: &Transition) -> Result<(), Failure> {
    let qp = find(hca, input)?;
    if !transition.from.contains(&qp.state) {
        return Err(Failure::new(Status::BadQpState, "the queue pair is in another state"));
    }
    let wanted = input.get(qp::QPC..).unwrap_or_default();
    transition.apply(wanted, qp::OPT_PARAM_MASK.get32(input), qp.transport, &mut qp.context);
    qp.state = transition.to;
    qp.connection = Connection::of(&qp.context);
    let qpn = OBJECT.get32(input);
    hca.schedule.wake(Task::QueuePair(qpn));
    hca.follow_connection(qpn);
    Ok(())
}

fn to_error(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    find(hca, input)?;
    hca.fail_queue_pair(OBJECT.get32(input));
    Ok(())
}

fn to_reset(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    find(hca, input)?.reset();
    hca.follow_connection(OBJECT.get32(input));
    Ok(())
}

fn query(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let qp = find(hca, input)?;
    if let Some(answer) = out.get_mut(qp::QPC..qp::QPC + qpc::SIZE) {
        answer.copy_from_slice(&qp.queried());
    }
    qp.pages.store(out.get_mut(PAGES..).unwrap_or_default());
    Ok(())
}
