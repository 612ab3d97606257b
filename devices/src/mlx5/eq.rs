//! Event queues: where the device tells the driver what has happened, and the interrupts that go with it.

use super::MSIX_VECTORS;
use super::command::Command;
use super::hca::{Hca, Phase};
use super::layout::capabilities::general;
use super::layout::commands::{CONTEXT, EQ_NUMBER, PAGES, create_eq, header};
use super::layout::contexts::eqc;
use super::pages::{Buffer, PageList};
use super::status::{Failure, Status};
use crate::dma::{DmaAttrs, Object, What};
use crate::pci::Port;
use serde::{Deserialize, Serialize};

pub const COMMANDS: &[Command] = &[
    Command::new(0x301, "CREATE_EQ", Phase::Ready, create).lengths(PAGES, header::OUT_LEN),
    Command::new(0x302, "DESTROY_EQ", Phase::Ready, destroy),
    Command::new(0x303, "QUERY_EQ", Phase::Ready, query).lengths(header::IN_LEN, PAGES),
];

const EQE_SIZE: usize = 64;
/// Counters of queues are 24 bits wide.
pub const COUNTER_MASK: u32 = 0xff_ffff;
const STATUS_WRITE_FAILURE: u64 = 0xa;
const ST_ARMED: u64 = 0x9;
const ST_FIRED: u64 = 0xa;
/// Health syndromes: an asynchronous event queue has overrun; an event queue is in error.
const HEALTH_EQ_OVERRUN: u8 = 0x0c;
const HEALTH_EQ_IN_ERROR: u8 = 0x0d;

/// Types of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EventType {
    Completion = 0x00,
    /// A queue pair that is ready to receive has received its first message.
    CommunicationEstablished = 0x02,
    CompletionQueueError = 0x04,
    /// A queue pair's own structures are out of reach or make no sense.
    QueuePairCatastrophe = 0x05,
    Command = 0x0a,
    /// The peer of a queue pair has asked for what is not possible.
    InvalidRequest = 0x10,
    /// The peer of a queue pair has asked for what is not allowed.
    AccessViolation = 0x11,
    SrqCatastrophe = 0x12,
    /// A failed queue pair takes no more requests from its shared receive queue.
    LastRequestReached = 0x13,
    SrqLimit = 0x14,
}

/// An event queue entry before it has a place in a queue.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    kind: EventType,
    /// Word of the event's data, and its value.
    data: (usize, u32),
    /// Byte of the event's data, and its value.
    detail: (usize, u8),
}

/// Where a queue's number stands.
const QUEUE_NUMBER_WORD: usize = 6;
/// Where it stands whether that is a queue pair (0, as all here are), an RQ or an SQ.
const QUEUE_TYPE_BYTE: usize = 20;

impl Event {
    /// Commands of these slots have completed.
    pub fn command(slots: u32) -> Self {
        Self { kind: EventType::Command, data: (0, slots), detail: (QUEUE_TYPE_BYTE, 0) }
    }

    /// A completion queue has new entries.
    pub fn completion(cqn: u32) -> Self {
        Self::of_queue(EventType::Completion, cqn)
    }

    /// Something has happened to a queue pair or a shared receive queue.
    pub fn of_queue(kind: EventType, number: u32) -> Self {
        Self { kind, data: (QUEUE_NUMBER_WORD, number), detail: (QUEUE_TYPE_BYTE, 0) }
    }

    /// A completion queue has failed.
    pub fn completion_queue_error(cqn: u32, syndrome: u8) -> Self {
        const SYNDROME_BYTE: usize = 11;
        Self { kind: EventType::CompletionQueueError, data: (0, cqn), detail: (SYNDROME_BYTE, syndrome) }
    }

    /// The entry with its owner bit.
    fn encode(self, owner: u8) -> [u8; EQE_SIZE] {
        const TYPE: usize = 1;
        const DATA: usize = 32;
        const SIGNATURE: usize = 62;
        const OWNER: usize = 63;
        let mut entry = [0; EQE_SIZE];
        let ((word, value), (byte, detail)) = (self.data, self.detail);
        if let Some(place) = entry.get_mut(DATA + word * 4..DATA + word * 4 + 4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
        if let Some(place) = entry.get_mut(DATA + byte) {
            *place |= detail;
        }
        entry[TYPE] = self.kind as u8;
        entry[OWNER] = owner;
        entry[SIGNATURE] = !entry.iter().fold(0, |sum, byte| sum ^ byte);
        entry
    }
}

/// An event queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventQueue {
    #[serde(with = "crate::state::bytes")]
    context: [u8; eqc::SIZE],
    events: [u64; 4],
    pages: PageList,
    log_size: u32,
    vector: u16,
    /// The UAR through which the driver rings this queue.
    pub uar: u32,
    producer: u32,
    consumer: u32,
    armed: bool,
    in_error: bool,
}

/// What came of posting an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Posted {
    Written,
    Overrun,
    Failed,
}

impl EventQueue {
    fn parse(input: &[u8]) -> Result<Self, Failure> {
        let given = input.get(CONTEXT..).and_then(|bytes| bytes.first_chunk());
        let context: [u8; eqc::SIZE] = *given.ok_or(Failure::new(Status::BadInputLength, "no context"))?;
        let log_size = eqc::LOG_EQ_SIZE.get32(&context);
        let buffer = Buffer {
            log_page_size: eqc::LOG_PAGE_SIZE.get32(&context),
            page_offset: eqc::PAGE_OFFSET.get32(&context),
            len: (EQE_SIZE as u64) << log_size,
        };
        let events = std::array::from_fn(|word| {
            create_eq::EVENT_WORD.within(create_eq::EVENTS + 8 * word as u32).get(input)
        });
        Ok(Self {
            events,
            pages: PageList::parse(buffer, input.get(PAGES..).unwrap_or_default())?,
            log_size,
            vector: eqc::INTR.get(&context) as u16,
            uar: eqc::UAR_PAGE.get32(&context),
            producer: 0,
            consumer: 0,
            armed: eqc::ST.get(&context) == ST_ARMED,
            in_error: false,
            context,
        })
    }

    /// Whether the driver wants events of this type here.
    pub fn wants(&self, kind: EventType) -> bool {
        let kind = kind as usize;
        self.events.get(kind / 64).is_some_and(|word| word >> (kind % 64) & 1 != 0)
    }

    fn post(&mut self, event: Event, port: &mut dyn Port, attrs: DmaAttrs) -> Posted {
        if self.in_error {
            return Posted::Failed;
        }
        let pending = self.producer.wrapping_sub(self.consumer) & COUNTER_MASK;
        if pending >> self.log_size != 0 && !eqc::OVERRUN_IGNORE.is_set(&self.context) {
            self.in_error = true;
            return Posted::Overrun;
        }
        let owner = (self.producer >> self.log_size & 1) as u8;
        let index = self.producer & ((1 << self.log_size) - 1);
        let written = self
            .pages
            .locate(u64::from(index) * EQE_SIZE as u64)
            .is_some_and(|at| port.write(at, &event.encode(owner), attrs).is_ok());
        if !written {
            self.in_error = true;
            return Posted::Failed;
        }
        self.producer = self.producer.wrapping_add(1) & COUNTER_MASK;
        if self.armed {
            self.armed = false;
            port.msi(self.vector);
        }
        Posted::Written
    }

    /// The driver has consumed entries up to `consumer`, and wants an interrupt for the next one if `arm`.
    pub fn ring(&mut self, consumer: u32, arm: bool, port: &mut dyn Port) {
        self.consumer = consumer & COUNTER_MASK;
        if !arm {
            return;
        }
        self.armed = self.producer == self.consumer;
        if !self.armed {
            port.msi(self.vector);
        }
    }
}

impl Hca {
    /// The event queue that takes events of type `kind`.
    pub fn event_queue_for(&self, kind: EventType) -> Option<u32> {
        self.eqs.iter().find(|(_, eq)| eq.wants(kind)).map(|(eqn, _)| eqn)
    }

    /// Posts an event to queue `eqn`, if it exists still. A full or unreachable queue enters the error state, which
    /// the health buffer shows.
    pub fn post_event(&mut self, eqn: u32, event: Event, port: &mut dyn Port) {
        let attrs = self.config.control(What::Event, Object::EventQueue, eqn);
        let Some(eq) = self.eqs.get_mut(eqn) else { return };
        let was_in_error = eq.in_error;
        let syndrome = match eq.post(event, port, attrs) {
            Posted::Written => return,
            Posted::Overrun => HEALTH_EQ_OVERRUN,
            Posted::Failed => HEALTH_EQ_IN_ERROR,
        };
        if !was_in_error {
            self.note_queue_failure(format_args!(
                "event queue {eqn} is in error (health syndrome {syndrome:#x})"
            ));
            self.health_syndrome = syndrome;
        }
    }

    /// Posts an asynchronous event to the queue that takes events of its type.
    pub fn report(&mut self, event: Event, port: &mut dyn Port) {
        match self.event_queue_for(event.kind) {
            Some(eqn) => self.post_event(eqn, event, port),
            None => log::debug!("mlx5: no event queue takes {:?}", event.kind),
        }
    }
}

fn create(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let context = input.get(CONTEXT..).unwrap_or_default();
    if eqc::LOG_EQ_SIZE.get32(context) > hca.caps.general(general::LOG_MAX_EQ_SZ) {
        return Err(Failure::parameter("event queue too large"));
    }
    let eq = EventQueue::parse(input)?;
    if !hca.uars.contains(eq.uar) {
        return Err(Failure::resource("no such UAR"));
    }
    if eq.vector >= MSIX_VECTORS {
        return Err(Failure::parameter("no such interrupt vector"));
    }
    let end = hca.caps.limit(general::LOG_MAX_EQ);
    let eqn = hca.eqs.insert(eq, end).ok_or(Failure::limit("no more event queues"))?;
    EQ_NUMBER.set(out, eqn.into());
    Ok(())
}

fn destroy(hca: &mut Hca, input: &[u8], _out: &mut [u8]) -> Result<(), Failure> {
    let eqn = EQ_NUMBER.get32(input);
    if hca.cqs.values().any(|cq| cq.eqn == eqn) {
        return Err(Failure::busy("the event queue serves completion queues"));
    }
    hca.eqs.remove(eqn).ok_or(Failure::resource("no such event queue"))?;
    Ok(())
}

fn query(hca: &mut Hca, input: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let eq = hca.eqs.get(EQ_NUMBER.get32(input)).ok_or(Failure::resource("no such event queue"))?;
    let mut context = eq.context;
    eqc::STATUS.set(&mut context, if eq.in_error { STATUS_WRITE_FAILURE } else { 0 });
    eqc::ST.set(&mut context, if eq.armed { ST_ARMED } else { ST_FIRED });
    eqc::CONSUMER_COUNTER.set(&mut context, eq.consumer.into());
    eqc::PRODUCER_COUNTER.set(&mut context, eq.producer.into());
    if let Some(answer) = out.get_mut(CONTEXT..CONTEXT + eqc::SIZE) {
        answer.copy_from_slice(&context);
    }
    create_eq::EVENT_WORD.within(create_eq::EVENTS).set(out, eq.events[0]);
    eq.pages.store(out.get_mut(PAGES..).unwrap_or_default());
    Ok(())
}
