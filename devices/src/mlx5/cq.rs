//! Completion queues: their life, their entries' places, and arming.

use super::command::Command;
use super::data_path::COMPLETION_LEN;
use super::eq::{COUNTER_MASK, Event};
use super::field::be32;
use super::hca::{Hca, Phase, answer_number};
use super::layout::capabilities::general;
use super::layout::commands::{CONTEXT, OBJECT, PAGES, header, modify_cq};
use super::layout::contexts::cqc;
use super::pages::{Buffer, PageList};
use super::status::{Failure, Status};
use crate::dma::{DmaAttrs, Object, What};
use crate::pci::Port;
use serde::{Deserialize, Serialize};

pub const COMMANDS: &[Command] = &[
    Command::new(0x400, "CREATE_CQ", Phase::Ready, create).lengths(PAGES, header::OUT_LEN),
    Command::new(0x401, "DESTROY_CQ", Phase::Ready, destroy),
    Command::new(0x402, "QUERY_CQ", Phase::Ready, query).lengths(header::IN_LEN, PAGES),
    Command::new(0x403, "MODIFY_CQ", Phase::Ready, modify).lengths(PAGES, header::OUT_LEN),
];

const STATUS_OVERFLOW: u64 = 0x9;
const ST_SOLICITED_ARMED: u64 = 0x6;
const ST_ARMED: u64 = 0x9;
const ST_FIRED: u64 = 0xa;

/// A completion queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompletionQueue {
    #[serde(with = "crate::state::bytes")]
    context: [u8; cqc::SIZE],
    /// Event queue that is told of completions.
    pub eqn: u32,
    pub uar: u32,
    pages: PageList,
    /// Bus address of the doorbell record: consumer counter, then arm word.
    doorbell_record: u64,
    /// Entries, as a power of two, and bytes of one.
    log_size: u32,
    entry_size: u64,
    /// The queue overruns silently.
    overrun_ignored: bool,
    producer: u32,
    /// How far the driver has come, as the device knows it.
    consumer: u32,
    /// The entry after the last that was solicited.
    after_solicited: u32,
    /// There are completions, or solicited ones, since the driver was last told of any.
    untold: bool,
    untold_solicited: bool,
    armed: Arm,
    failed: bool,
}

/// What the driver wants to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Arm {
    Nothing,
    /// The next solicited completion.
    Solicited,
    /// The next completion.
    Any,
}

/// What came of posting an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// It is in the queue; the driver wants to be told if `notify`.
    Written { notify: bool },
    /// The queue has failed, with this posting if it is the `first`.
    Failed { syndrome: u8, first: bool },
}

/// Syndromes of a failed queue: it has overrun; its memory is out of reach.
const OVERRUN: u8 = 1;
const ACCESS_VIOLATION: u8 = 2;

impl CompletionQueue {
    fn parse(input: &[u8]) -> Result<Self, Failure> {
        let given = input.get(CONTEXT..).and_then(|bytes| bytes.first_chunk());
        let context: [u8; cqc::SIZE] = *given.ok_or(Failure::new(Status::BadInputLength, "no context"))?;
        if cqc::DBR_UMEM_VALID.is_set(&context) {
            return Err(Failure::parameter("user memory objects are not supported"));
        }
        const ENTRY_64: u64 = 0;
        const ENTRY_128: u64 = 1;
        const ENTRY_64_PADDED: u64 = 2;
        let entry_size = match cqc::CQE_SZ.get(&context) {
            ENTRY_64 => 64,
            ENTRY_128 | ENTRY_64_PADDED => 128,
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
            log_size: cqc::LOG_CQ_SIZE.get32(&context),
            entry_size,
            overrun_ignored: cqc::OI.is_set(&context),
            producer: 0,
            consumer: 0,
            after_solicited: 0,
            untold: false,
            untold_solicited: false,
            armed: Arm::Nothing,
            failed: false,
            context,
        })
    }

    /// The driver asks for an event at the next completion. True if there is one already that it has neither consumed
    /// nor been told of: a driver that arms on an event and polls afterwards is not told of the same completion twice.
    fn arm(&mut self, port: &mut dyn Port, attrs: DmaAttrs) -> bool {
        const NOT_SOLICITED_ONLY_SHIFT: u32 = 24;
        let mut record = [0; 8];
        if port.read(self.doorbell_record, &mut record, attrs).is_err() {
            log::debug!("mlx5: doorbell record at {:#x} cannot be read", self.doorbell_record);
            return false;
        }
        let arm = be32(&record, 4);
        let solicited_only = arm >> NOT_SOLICITED_ONLY_SHIFT & 1 != 0;
        let (wanted, last, untold) = if solicited_only {
            (Arm::Solicited, self.after_solicited, self.untold_solicited)
        } else {
            (Arm::Any, self.producer, self.untold)
        };
        let pending = last.wrapping_sub(arm) & COUNTER_MASK;
        // A consumer counter ahead of the producer is a driver's mistake, and nothing is pending then.
        let fires = untold && pending != 0 && pending <= COUNTER_MASK / 2;
        if fires {
            self.tell();
        } else if self.armed != Arm::Any {
            // Who waits for any completion goes on doing so (IBA 11.4.2.2).
            self.armed = wanted;
        }
        fires
    }

    /// The driver is told of all completions so far.
    fn tell(&mut self) {
        self.armed = Arm::Nothing;
        (self.untold, self.untold_solicited) = (false, false);
    }

    /// The owner bit of the next entry.
    pub fn next_owner(&self) -> bool {
        self.producer >> self.log_size & 1 != 0
    }

    fn is_full(&self) -> bool {
        self.producer.wrapping_sub(self.consumer) & COUNTER_MASK >= 1 << self.log_size
    }

    /// Writes an entry, its owner bit being that of [`Self::next_owner`]. The doorbell record is looked at only when
    /// the queue seems full.
    pub fn post(
        &mut self,
        entry: &[u8; COMPLETION_LEN],
        wakes_solicited: bool,
        port: &mut dyn Port,
        attrs: DmaAttrs,
    ) -> Posted {
        if self.failed {
            return Posted::Failed { syndrome: OVERRUN, first: false };
        }
        if self.is_full() && !self.overrun_ignored {
            let mut record = [0; 4];
            let attrs = attrs.to(attrs.purpose.but(What::DoorbellRecord));
            if port.read(self.doorbell_record, &mut record, attrs).is_ok() {
                self.consumer = be32(&record, 0) & COUNTER_MASK;
            }
            if self.is_full() {
                self.failed = true;
                return Posted::Failed { syndrome: OVERRUN, first: true };
            }
        }
        let index = u64::from(self.producer & ((1 << self.log_size) - 1));
        let position = index * self.entry_size + (self.entry_size - COMPLETION_LEN as u64);
        if self.pages.locate(position).is_none_or(|at| port.write(at, entry, attrs).is_err()) {
            self.failed = true;
            return Posted::Failed { syndrome: ACCESS_VIOLATION, first: true };
        }
        self.producer = self.producer.wrapping_add(1) & COUNTER_MASK;
        self.untold = true;
        if wakes_solicited {
            self.after_solicited = self.producer;
            self.untold_solicited = true;
        }
        let notify = match self.armed {
            Arm::Nothing => false,
            Arm::Solicited => wakes_solicited,
            Arm::Any => true,
        };
        if notify {
            self.tell();
        }
        Posted::Written { notify }
    }
}

impl Hca {
    /// The CQ doorbell of `uar`: `word` names the completion queue.
    pub fn arm_completion_queue(&mut self, uar: u32, word: u32, port: &mut dyn Port) {
        let cqn = word & COUNTER_MASK;
        let attrs = self.config.control(What::DoorbellRecord, Object::CompletionQueue, cqn);
        let Some(cq) = self.cqs.get_mut(cqn).filter(|cq| cq.uar == uar) else {
            log::debug!("mlx5: UAR {uar} rang for completion queue {cqn}, which it has not");
            return;
        };
        if cq.arm(port, attrs) {
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
    cqc::STATUS.set(&mut context, if cq.failed { STATUS_OVERFLOW } else { 0 });
    cqc::ST.set(
        &mut context,
        match cq.armed {
            Arm::Nothing => ST_FIRED,
            Arm::Solicited => ST_SOLICITED_ARMED,
            Arm::Any => ST_ARMED,
        },
    );
    cqc::CONSUMER_COUNTER.set(&mut context, cq.consumer.into());
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
