//! Queue pairs: their life and their state machine.

use super::command::Command;
use super::hca::{Hca, Phase, answer_number};
use super::layout::capabilities::general;
use super::layout::commands::{OBJECT, PAGES, header, qp};
use super::layout::contexts::qpc;
use super::pages::{Buffer, PageList};
use super::qp_modify::{self, Transition};
use super::status::{Failure, Status};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A work queue basic block of the send queue, as a power of two.
const SEND_BLOCK_SHIFT: u32 = 6;
const MIN_STRIDE_SHIFT: u32 = 4;

/// A queue pair.
#[derive(Debug, Clone)]
pub struct QueuePair {
    /// The context with what modifications have changed; the state is kept beside it.
    context: [u8; qpc::SIZE],
    /// The context at creation, to which a reset returns.
    created: [u8; qpc::SIZE],
    pub state: State,
    pub transport: Transport,
    pub pd: u32,
    pub send_cq: u32,
    pub receive_cq: u32,
    /// The shared receive queue that it receives from.
    pub srq: Option<u32>,
    /// The XRC domain of an XRC queue pair.
    pub xrcd: Option<u32>,
    /// The UAR of its send queue's doorbells.
    pub uar: Option<u32>,
    pages: PageList,
    /// A doorbell of its send queue has been logged.
    doorbell_noted: bool,
}

impl QueuePair {
    fn parse(input: &[u8], max_log_size: u32) -> Result<Self, Failure> {
        let given = input.get(qp::QPC..).and_then(|bytes| bytes.first_chunk());
        let mut context: [u8; qpc::SIZE] =
            *given.ok_or(Failure::new(Status::BadInputLength, "no context"))?;
        if qpc::DBR_UMEM_VALID.is_set(&context) {
            return Err(Failure::parameter("user memory objects are not supported"));
        }
        if !qpc::DBR_ADDR.get(&context).is_multiple_of(8) {
            return Err(Failure::parameter("doorbell record not aligned"));
        }
        let transport = Transport::parse(qpc::ST.get(&context))?;
        let log_rq = qpc::LOG_RQ_SIZE.get32(&context);
        let log_sq = qpc::LOG_SQ_SIZE.get32(&context);
        if log_rq > max_log_size || log_sq > max_log_size {
            return Err(Failure::parameter("work queue too large"));
        }
        let (receive_len, srq) = match qpc::RQ_TYPE.get(&context) {
            RQ_REGULAR => (1 << (log_rq + qpc::LOG_RQ_STRIDE.get32(&context) + MIN_STRIDE_SHIFT), None),
            RQ_SHARED => (0, Some(qpc::SRQN.get32(&context))),
            RQ_NONE => (0, None),
            _ => return Err(Failure::parameter("unsupported receive queue type")),
        };
        let has_sq = !qpc::NO_SQ.is_set(&context);
        let send_len = if has_sq { 1 << (log_sq + SEND_BLOCK_SHIFT) } else { 0 };
        let buffer = Buffer {
            log_page_size: qpc::LOG_PAGE_SIZE.get32(&context),
            page_offset: qpc::PAGE_OFFSET.get32(&context),
            len: receive_len + send_len,
        };
        qpc::STATE.set(&mut context, State::Reset as u64);
        Ok(Self {
            state: State::Reset,
            transport,
            pd: qpc::PD.get32(&context),
            send_cq: qpc::CQN_SND.get32(&context),
            receive_cq: qpc::CQN_RCV.get32(&context),
            srq,
            xrcd: (transport == Transport::ExtendedReliableConnection).then(|| qpc::XRCD.get32(&context)),
            uar: has_sq.then(|| qpc::UAR_PAGE.get32(&context)),
            pages: PageList::parse(buffer, input.get(PAGES..).unwrap_or_default())?,
            doorbell_noted: false,
            created: context,
            context,
        })
    }
}

impl Hca {
    /// The send doorbell of `uar`: the low word of the last work request's control segment, `qpn << 8 | size`.
    /// Work requests are not executed, which is logged once a queue pair.
    pub fn ring_send_queue(&mut self, uar: u32, word: u32) {
        let qpn = word >> 8;
        match self.qps.get_mut(qpn).filter(|qp| qp.uar == Some(uar)) {
            None => log::debug!("mlx5: UAR {uar} rang for queue pair {qpn}, which it has not"),
            Some(qp) if qp.doorbell_noted => {}
            Some(qp) => {
                qp.doorbell_noted = true;
                log::warn!("mlx5: work requests of queue pair {qpn} are not executed");
            }
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
    answer_number(hca.qps.insert(qp, end), out)
}

fn find<'a>(hca: &'a mut Hca, input: &[u8]) -> Result<&'a mut QueuePair, Failure> {
    hca.qps.get_mut(OBJECT.get32(input)).ok_or(Failure::resource("no such queue pair"))
}

fn destroy(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    hca.qps.remove(OBJECT.get32(input)).ok_or(Failure::resource("no such queue pair"))?;
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
    Ok(())
}

fn to_error(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    find(hca, input)?.state = State::Error;
    Ok(())
}

fn to_reset(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let qp = find(hca, input)?;
    qp.state = State::Reset;
    qp.context = qp.created;
    Ok(())
}

fn query(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let qp = find(hca, input)?;
    let mut context = qp.context;
    qpc::STATE.set(&mut context, qp.state as u64);
    if let Some(answer) = out.get_mut(qp::QPC..qp::QPC + qpc::SIZE) {
        answer.copy_from_slice(&context);
    }
    qp.pages.store(out.get_mut(PAGES..).unwrap_or_default());
    Ok(())
}
