//! Completion queues: their life, and arming.

use super::command::Command;
use super::eq::{COUNTER_MASK, Event};
use super::hca::{Hca, Phase, answer_number};
use super::layout::capabilities::general;
use super::layout::commands::{CONTEXT, OBJECT, PAGES, header, modify_cq};
use super::layout::contexts::cqc;
use super::pages::{Buffer, PageList};
use super::status::{Failure, Status};
use crate::dma::DmaAttrs;
use crate::pci::Port;

pub const COMMANDS: &[Command] = &[
    Command::new(0x400, "CREATE_CQ", Phase::Ready, create).lengths(PAGES, header::OUT_LEN),
    Command::new(0x401, "DESTROY_CQ", Phase::Ready, destroy),
    Command::new(0x402, "QUERY_CQ", Phase::Ready, query).lengths(header::IN_LEN, PAGES),
    Command::new(0x403, "MODIFY_CQ", Phase::Ready, modify).lengths(PAGES, header::OUT_LEN),
];

const ST_ARMED: u64 = 0x9;
const ST_FIRED: u64 = 0xa;

/// A completion queue.
#[derive(Debug, Clone)]
pub struct CompletionQueue {
    context: [u8; cqc::SIZE],
    /// Event queue that is told of completions.
    pub eqn: u32,
    pub uar: u32,
    pages: PageList,
    /// Bus address of the doorbell record: consumer counter, then arm word.
    doorbell_record: u64,
    producer: u32,
    armed: bool,
}

impl CompletionQueue {
    fn parse(input: &[u8]) -> Result<Self, Failure> {
        let given = input.get(CONTEXT..).and_then(|bytes| bytes.first_chunk());
        let context: [u8; cqc::SIZE] = *given.ok_or(Failure::new(Status::BadInputLength, "no context"))?;
        if cqc::DBR_UMEM_VALID.is_set(&context) {
            return Err(Failure::parameter("user memory objects are not supported"));
        }
        let entry_size = match cqc::CQE_SZ.get(&context) {
            0 => 64,
            1 => 128,
            _ => return Err(Failure::parameter("unknown entry size")),
        };
        let doorbell_record = cqc::DBR_ADDR.get(&context);
        if !doorbell_record.is_multiple_of(8) {
            return Err(Failure::parameter("doorbell record not aligned"));
        }
        let buffer = Buffer {
            log_page_size: cqc::LOG_PAGE_SIZE.get32(&context),
            page_offset: cqc::PAGE_OFFSET.get32(&context),
            len: entry_size << cqc::LOG_CQ_SIZE.get32(&context),
        };
        Ok(Self {
            eqn: cqc::C_EQN.get32(&context),
            uar: cqc::UAR_PAGE.get32(&context),
            pages: PageList::parse(buffer, input.get(PAGES..).unwrap_or_default())?,
            doorbell_record,
            producer: 0,
            armed: false,
            context,
        })
    }

    /// The driver asks for an event at the next completion. True if there is one already that it has not consumed.
    fn arm(&mut self, port: &mut dyn Port) -> bool {
        let mut record = [0; 8];
        if port.read(self.doorbell_record, &mut record, DmaAttrs::default()).is_err() {
            log::debug!("mlx5: doorbell record at {:#x} cannot be read", self.doorbell_record);
            return false;
        }
        let [_, _, _, _, arm @ ..] = record;
        let consumer = u32::from_be_bytes(arm) & COUNTER_MASK;
        let pending = self.producer.wrapping_sub(consumer) & COUNTER_MASK;
        // A consumer counter ahead of the producer is a driver's mistake, and nothing is pending then.
        let fires = pending != 0 && pending <= COUNTER_MASK / 2;
        self.armed = !fires;
        fires
    }
}

impl Hca {
    /// The CQ doorbell of `uar`: `word` names the completion queue.
    pub fn arm_completion_queue(&mut self, uar: u32, word: u32, port: &mut dyn Port) {
        let cqn = word & COUNTER_MASK;
        let Some(cq) = self.cqs.get_mut(cqn).filter(|cq| cq.uar == uar) else {
            log::debug!("mlx5: UAR {uar} rang for completion queue {cqn}, which it has not");
            return;
        };
        if cq.arm(port) {
            let eqn = cq.eqn;
            self.post_event(eqn, Event::completion(cqn), port);
        }
    }
}

fn create(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let context = input.get(CONTEXT..).unwrap_or_default();
    if cqc::LOG_CQ_SIZE.get32(context) > hca.caps.general(general::LOG_MAX_CQ_SZ) {
        return Err(Failure::parameter("completion queue too large"));
    }
    let cq = CompletionQueue::parse(input)?;
    if !hca.uars.contains(cq.uar) {
        return Err(Failure::resource("no such UAR"));
    }
    if !hca.eqs.contains(cq.eqn) {
        return Err(Failure::resource("no such event queue"));
    }
    let end = hca.caps.limit(general::LOG_MAX_CQ);
    answer_number(hca.cqs.insert(cq, end), out)
}

fn destroy(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let cqn = OBJECT.get32(input);
    if hca.qps.values().any(|qp| qp.send_cq == cqn || qp.receive_cq == cqn)
        || hca.srqs.values().any(|srq| srq.cqn() == Some(cqn))
    {
        return Err(Failure::busy("the completion queue is in use"));
    }
    hca.cqs.remove(cqn).ok_or(Failure::resource("no such completion queue"))?;
    Ok(())
}

fn query(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let cq = hca.cqs.get(OBJECT.get32(input)).ok_or(Failure::resource("no such completion queue"))?;
    let mut context = cq.context;
    cqc::ST.set(&mut context, if cq.armed { ST_ARMED } else { ST_FIRED });
    cqc::CONSUMER_COUNTER.set(&mut context, 0);
    cqc::PRODUCER_COUNTER.set(&mut context, cq.producer.into());
    if let Some(answer) = out.get_mut(CONTEXT..CONTEXT + cqc::SIZE) {
        answer.copy_from_slice(&context);
    }
    cq.pages.store(out.get_mut(PAGES..).unwrap_or_default());
    Ok(())
}

/// Only the moderation of events can be changed; resizing needs a capability that is not offered.
fn modify(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    const PERIOD: u64 = 1 << 0;
    const MAX_COUNT: u64 = 1 << 1;
    let cq = hca.cqs.get_mut(OBJECT.get32(input)).ok_or(Failure::resource("no such completion queue"))?;
    let select = modify_cq::FIELD_SELECT.get(input);
    if header::OP_MOD.is_set(input) || select & !(PERIOD | MAX_COUNT) != 0 {
        return Err(Failure::parameter("this cannot be modified"));
    }
    let wanted = input.get(CONTEXT..).unwrap_or_default();
    if select & PERIOD != 0 {
        cqc::CQ_PERIOD.copy(wanted, &mut cq.context);
    }
    if select & MAX_COUNT != 0 {
        cqc::CQ_MAX_COUNT.copy(wanted, &mut cq.context);
    }
    Ok(())
}
