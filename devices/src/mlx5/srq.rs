//! Shared receive queues. The driver makes an ordinary one as a receive memory pool (RMP), an XRC one as an XRC SRQ;
//! both kinds share one number space.

use super::command::Command;
use super::hca::{Hca, Phase, answer_number};
use super::layout::capabilities::general;
use super::layout::commands::{CONTEXT, OBJECT, PAGES, arm_srq, header, rmp};
use super::layout::contexts::{rmpc, wq, xrc_srqc};
use super::pages::{Buffer, PageList};
use super::status::{Failure, Status};

pub const COMMANDS: &[Command] = &[
    Command::new(0x705, "CREATE_XRC_SRQ", Phase::Ready, create_xrc_srq).lengths(PAGES, header::OUT_LEN),
    Command::new(0x706, "DESTROY_XRC_SRQ", Phase::Ready, destroy_xrc_srq),
    Command::new(0x707, "QUERY_XRC_SRQ", Phase::Ready, query_xrc_srq).lengths(header::IN_LEN, PAGES),
    Command::new(0x708, "ARM_XRC_SRQ", Phase::Ready, arm_xrc_srq),
    Command::new(0x90c, "CREATE_RMP", Phase::Ready, create_rmp).lengths(PAGES, header::OUT_LEN),
    Command::new(0x90d, "MODIFY_RMP", Phase::Ready, modify_rmp).lengths(PAGES, header::OUT_LEN),
    Command::new(0x90e, "DESTROY_RMP", Phase::Ready, destroy_rmp),
    Command::new(0x90f, "QUERY_RMP", Phase::Ready, query_rmp).lengths(header::IN_LEN, PAGES),
];

/// Smallest stride of a receive queue, as a power of two; contexts count from it.
const MIN_STRIDE_SHIFT: u32 = 4;

/// A shared receive queue.
#[derive(Debug, Clone)]
pub struct SharedReceiveQueue {
    kind: Kind,
    pub pd: u32,
    pages: PageList,
}

#[derive(Debug, Clone)]
enum Kind {
    Xrc { context: [u8; xrc_srqc::SIZE], xrcd: u32, cqn: u32 },
    MemoryPool { context: [u8; rmpc::SIZE] },
}

impl SharedReceiveQueue {
    /// The XRC domain of an XRC SRQ.
    pub fn xrcd(&self) -> Option<u32> {
        match self.kind {
            Kind::Xrc { xrcd, .. } => Some(xrcd),
            Kind::MemoryPool { .. } => None,
        }
    }

    /// The completion queue of an XRC SRQ.
    pub fn cqn(&self) -> Option<u32> {
        match self.kind {
            Kind::Xrc { cqn, .. } => Some(cqn),
            Kind::MemoryPool { .. } => None,
        }
    }

    fn parse_xrc(input: &[u8]) -> Result<Self, Failure> {
        let given = input.get(CONTEXT..).and_then(|bytes| bytes.first_chunk());
        let context: [u8; xrc_srqc::SIZE] =
            *given.ok_or(Failure::new(Status::BadInputLength, "no context"))?;
        if xrc_srqc::DBR_UMEM_VALID.is_set(&context) {
            return Err(Failure::parameter("user memory objects are not supported"));
        }
        if !xrc_srqc::DBR_ADDR.get(&context).is_multiple_of(4) {
            return Err(Failure::parameter("doorbell record not aligned"));
        }
        let stride = xrc_srqc::LOG_RQ_STRIDE.get32(&context) + MIN_STRIDE_SHIFT;
        let buffer = Buffer {
            log_page_size: xrc_srqc::LOG_PAGE_SIZE.get32(&context),
            page_offset: xrc_srqc::PAGE_OFFSET.get32(&context),
            len: 1 << (stride + xrc_srqc::LOG_SIZE.get32(&context)),
        };
        Ok(Self {
            pd: xrc_srqc::PD.get32(&context),
            pages: PageList::parse(buffer, input.get(PAGES..).unwrap_or_default())?,
            kind: Kind::Xrc {
                xrcd: xrc_srqc::XRCD.get32(&context),
                cqn: xrc_srqc::CQN.get32(&context),
                context,
            },
        })
    }

    fn parse_pool(input: &[u8]) -> Result<Self, Failure> {
        let given = input.get(rmp::RMPC..).and_then(|bytes| bytes.first_chunk());
        let context: [u8; rmpc::SIZE] = *given.ok_or(Failure::new(Status::BadInputLength, "no context"))?;
        let queue = context.get(rmpc::WQ as usize..).unwrap_or_default();
        if wq::DBR_UMEM_VALID.is_set(queue) || wq::WQ_UMEM_VALID.is_set(queue) {
            return Err(Failure::parameter("user memory objects are not supported"));
        }
        if !wq::DBR_ADDR.get(queue).is_multiple_of(4) {
            return Err(Failure::parameter("doorbell record not aligned"));
        }
        let buffer = Buffer {
            log_page_size: wq::LOG_WQ_PG_SZ.get32(queue),
            page_offset: wq::PAGE_OFFSET.get32(queue),
            len: 1 << (wq::LOG_WQ_STRIDE.get32(queue) + wq::LOG_WQ_SZ.get32(queue)),
        };
        Ok(Self {
            pd: wq::PD.get32(queue),
            pages: PageList::parse(buffer, input.get(PAGES..).unwrap_or_default())?,
            kind: Kind::MemoryPool { context },
        })
    }
}

/// Adds a queue whose own references have been checked.
fn insert(hca: &mut Hca, srq: SharedReceiveQueue, out: &mut [u8]) -> Result<(), Failure> {
    if !hca.pds.contains(srq.pd) {
        return Err(Failure::resource("no such protection domain"));
    }
    let end = hca.caps.limit(general::LOG_MAX_SRQ);
    answer_number(hca.srqs.insert(srq, end), out)
}

fn create_xrc_srq(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let context = input.get(CONTEXT..).unwrap_or_default();
    if xrc_srqc::LOG_SIZE.get32(context) > hca.caps.general(general::LOG_MAX_SRQ_SZ) {
        return Err(Failure::parameter("shared receive queue too large"));
    }
    let srq = SharedReceiveQueue::parse_xrc(input)?;
    if srq.xrcd().is_some_and(|xrcd| !hca.xrcds.contains(xrcd)) {
        return Err(Failure::resource("no such XRC domain"));
    }
    if srq.cqn().is_some_and(|cqn| !hca.cqs.contains(cqn)) {
        return Err(Failure::resource("no such completion queue"));
    }
    insert(hca, srq, out)
}

fn create_rmp(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let queue = input.get(rmp::RMPC + rmpc::WQ as usize..).unwrap_or_default();
    if wq::LOG_WQ_SZ.get32(queue) > hca.caps.general(general::LOG_MAX_SRQ_SZ) {
        return Err(Failure::parameter("receive memory pool too large"));
    }
    let srq = SharedReceiveQueue::parse_pool(input)?;
    insert(hca, srq, out)
}

/// Removes the queue that `input` names, if it is of the kind that `is_kind` accepts.
fn remove(hca: &mut Hca, input: &[u8], is_kind: fn(&Kind) -> bool) -> Result<(), Failure> {
    let srqn = OBJECT.get32(input);
    if !hca.srqs.get(srqn).is_some_and(|srq| is_kind(&srq.kind)) {
        return Err(Failure::resource("no such shared receive queue"));
    }
    if hca.qps.values().any(|qp| qp.srq == Some(srqn)) {
        return Err(Failure::busy("the shared receive queue is in use"));
    }
    hca.srqs.remove(srqn);
    Ok(())
}

fn destroy_xrc_srq(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    remove(hca, input, |kind| matches!(kind, Kind::Xrc { .. }))
}

fn destroy_rmp(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    remove(hca, input, |kind| matches!(kind, Kind::MemoryPool { .. }))
}

fn xrc_context<'a>(hca: &'a mut Hca, input: &[u8]) -> Result<&'a mut [u8; xrc_srqc::SIZE], Failure> {
    match hca.srqs.get_mut(OBJECT.get32(input)).map(|srq| &mut srq.kind) {
        Some(Kind::Xrc { context, .. }) => Ok(context),
        _ => Err(Failure::resource("no such XRC SRQ")),
    }
}

fn pool_context<'a>(hca: &'a mut Hca, input: &[u8]) -> Result<&'a mut [u8; rmpc::SIZE], Failure> {
    match hca.srqs.get_mut(OBJECT.get32(input)).map(|srq| &mut srq.kind) {
        Some(Kind::MemoryPool { context }) => Ok(context),
        _ => Err(Failure::resource("no such receive memory pool")),
    }
}

fn query_xrc_srq(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let mut context = *xrc_context(hca, input)?;
    xrc_srqc::STATE.set(&mut context, 0);
    if let Some(answer) = out.get_mut(CONTEXT..CONTEXT + xrc_srqc::SIZE) {
        answer.copy_from_slice(&context);
    }
    store_pages(hca, input, out);
    Ok(())
}

fn query_rmp(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    const READY: u64 = 1;
    let mut context = *pool_context(hca, input)?;
    rmpc::STATE.set(&mut context, READY);
    if let Some(answer) = out.get_mut(rmp::RMPC..rmp::RMPC + rmpc::SIZE) {
        answer.copy_from_slice(&context);
    }
    store_pages(hca, input, out);
    Ok(())
}

fn store_pages(hca: &Hca, input: &[u8], out: &mut [u8]) {
    if let Some(srq) = hca.srqs.get(OBJECT.get32(input)) {
        srq.pages.store(out.get_mut(PAGES..).unwrap_or_default());
    }
}

fn arm_xrc_srq(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let context = xrc_context(hca, input)?;
    xrc_srqc::LWM.set(context, arm_srq::LWM.get(input));
    Ok(())
}

fn modify_rmp(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    const LWM: u64 = 1;
    let context = pool_context(hca, input)?;
    let lwm = wq::LWM.within(rmpc::WQ);
    match rmp::BITMASK.get(input) {
        0 => {}
        LWM => lwm.copy(input.get(rmp::RMPC..).unwrap_or_default(), context),
        _ => return Err(Failure::parameter("this cannot be modified")),
    }
    Ok(())
}
