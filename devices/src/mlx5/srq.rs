//! Shared receive queues. The driver makes an ordinary one as a receive memory pool (RMP), an XRC one as an XRC SRQ;
//! both kinds share one number space.

use super::command::Command;
use super::data_path::{MAX_RECEIVE_STRIDE, NoReceive, Task, WorkQueue};
use super::field::be16;
use super::hca::{Hca, Phase, answer_number};
use super::layout::capabilities::general;
use super::layout::commands::{CONTEXT, OBJECT, PAGES, arm_srq, header, rmp};
use super::layout::contexts::{rmpc, wq, xrc_srqc};
use super::pages::{Buffer, PageList};
use super::status::{Failure, Status};
use crate::dma::DmaAttrs;
use crate::pci::Port;
use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SharedReceiveQueue {
    kind: Kind,
    pub pd: u32,
    pages: PageList,
    queue: WorkQueue,
    /// Bus address of the doorbell record: how many requests have been posted.
    doorbell_record: u64,
    /// Block of the next request. The blocks are linked, not in a row.
    next: u16,
    /// The driver is told when fewer requests than this are left; 0 for never.
    limit: u16,
    /// Its memory is out of reach or makes no sense.
    pub failed: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Kind {
    Xrc {
        #[serde(with = "crate::state::bytes")]
        context: [u8; xrc_srqc::SIZE],
        xrcd: u32,
        cqn: u32,
    },
    MemoryPool {
        #[serde(with = "crate::state::bytes")]
        context: [u8; rmpc::SIZE],
    },
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

    /// The number by which the driver knows an XRC SRQ in completions.
    pub fn user_index(&self) -> u32 {
        match &self.kind {
            Kind::Xrc { context, .. } => xrc_srqc::USER_INDEX.get32(context),
            Kind::MemoryPool { .. } => 0,
        }
    }

    /// Takes the next request: the number of its block, and the block.
    ///
    /// # Errors
    /// [`NoReceive`].
    pub fn take(&mut self, port: &mut dyn Port, attrs: DmaAttrs) -> Result<(u16, Vec<u8>), NoReceive> {
        const NEXT_BLOCK: usize = 2;
        if self.failed {
            return Err(NoReceive::Broken);
        }
        if self.queue.pending() == 0 {
            self.queue.refresh(self.doorbell_record, port, attrs).map_err(|_| NoReceive::Broken)?;
        }
        if self.queue.pending() == 0 {
            return Err(NoReceive::Empty);
        }
        let number = self.next;
        let mut block = vec![0; self.queue.stride()];
        if !self.queue.read(&self.pages, number, &mut block, port, attrs) {
            return Err(NoReceive::Broken);
        }
        let next = be16(&block, NEXT_BLOCK);
        if next > self.queue.mask() {
            return Err(NoReceive::Broken);
        }
        self.next = next;
        self.queue.head = self.queue.head.wrapping_add(1);
        Ok((number, block))
    }

    /// Whether fewer requests are left than the driver wants to be told of. It is told once.
    pub fn falls_below_limit(&mut self, port: &mut dyn Port, attrs: DmaAttrs) -> bool {
        if self.limit == 0 || self.queue.pending() >= self.limit {
            return false;
        }
        if self.queue.refresh(self.doorbell_record, port, attrs).is_err()
            || self.queue.pending() >= self.limit
        {
            return false;
        }
        self.limit = 0;
        true
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
        let queue = work_queue(xrc_srqc::LOG_SIZE.get32(&context), stride)?;
        let buffer = Buffer {
            log_page_size: xrc_srqc::LOG_PAGE_SIZE.get32(&context),
            page_offset: xrc_srqc::PAGE_OFFSET.get32(&context),
            len: queue.len(),
        };
        Ok(Self {
            queue,
            doorbell_record: xrc_srqc::DBR_ADDR.get(&context),
            next: 0,
            limit: xrc_srqc::LWM.get(&context) as u16,
            failed: false,
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
        let ring = work_queue(wq::LOG_WQ_SZ.get32(queue), wq::LOG_WQ_STRIDE.get32(queue))?;
        let buffer = Buffer {
            log_page_size: wq::LOG_WQ_PG_SZ.get32(queue),
            page_offset: wq::PAGE_OFFSET.get32(queue),
            len: ring.len(),
        };
        Ok(Self {
            queue: ring,
            doorbell_record: wq::DBR_ADDR.get(queue),
            next: 0,
            limit: wq::LWM.get(queue) as u16,
            failed: false,
            pd: wq::PD.get32(queue),
            pages: PageList::parse(buffer, input.get(PAGES..).unwrap_or_default())?,
            kind: Kind::MemoryPool { context },
        })
    }
}

/// The ring of a shared receive queue: 2^`log_size` blocks of 2^`stride` bytes, each with a link and a scatter list.
fn work_queue(log_size: u32, stride: u32) -> Result<WorkQueue, Failure> {
    if !(MIN_STRIDE_SHIFT..=MAX_RECEIVE_STRIDE.ilog2()).contains(&stride) {
        return Err(Failure::parameter("size of receive requests out of range"));
    }
    Ok(WorkQueue::new(0, log_size, stride))
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

fn set_limit(hca: &mut Hca, srqn: u32, limit: u16) {
    if let Some(srq) = hca.srqs.get_mut(srqn) {
        srq.limit = limit;
        hca.schedule.wake(Task::SharedReceiveQueue(srqn));
    }
}

/// The limit in force: none any more once the driver has been told.
fn limit(hca: &Hca, input: &[u8]) -> u64 {
    hca.srqs.get(OBJECT.get32(input)).map_or(0, |srq| srq.limit.into())
}

fn xrc_context<'a>(hca: &'a Hca, input: &[u8]) -> Result<&'a [u8; xrc_srqc::SIZE], Failure> {
    match hca.srqs.get(OBJECT.get32(input)).map(|srq| &srq.kind) {
        Some(Kind::Xrc { context, .. }) => Ok(context),
        _ => Err(Failure::resource("no such XRC SRQ")),
    }
}

fn pool_context<'a>(hca: &'a Hca, input: &[u8]) -> Result<&'a [u8; rmpc::SIZE], Failure> {
    match hca.srqs.get(OBJECT.get32(input)).map(|srq| &srq.kind) {
        Some(Kind::MemoryPool { context }) => Ok(context),
        _ => Err(Failure::resource("no such receive memory pool")),
    }
}

fn query_xrc_srq(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let mut context = *xrc_context(hca, input)?;
    xrc_srqc::STATE.set(&mut context, 0);
    xrc_srqc::LWM.set(&mut context, limit(hca, input));
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
    wq::LWM.within(rmpc::WQ).set(&mut context, limit(hca, input));
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
    xrc_context(hca, input)?;
    set_limit(hca, OBJECT.get32(input), arm_srq::LWM.get(input) as u16);
    Ok(())
}

fn modify_rmp(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    const LWM: u64 = 1;
    pool_context(hca, input)?;
    match rmp::BITMASK.get(input) {
        0 => {}
        LWM => {
            let wanted = input.get(rmp::RMPC..).unwrap_or_default();
            set_limit(hca, OBJECT.get32(input), wq::LWM.within(rmpc::WQ).get(wanted) as u16);
        }
        _ => return Err(Failure::parameter("this cannot be modified")),
    }
    Ok(())
}
