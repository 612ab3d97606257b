//! The sending side of a queue pair: work requests are taken off its send queue one after the other, and each message is
//! carried to the other side in chunks.

use super::completion::{Completion, Outcome, Source, Syndrome};
use super::datagram::AddressVector;
use super::responder::{ATOMIC_LEN, Arrival, DatagramHeader, Nak};
use super::schedule::{Budget, Progress};
use super::translate::Right;
use super::wqe::{self, BLOCK, Control, Data, Layout, MAX_BLOCKS, Message, Operation, Work};
use crate::bus::Nanos;
use crate::dma::{Object, What};
use crate::mlx5::hca::Hca;
use crate::mlx5::qp::{State, Transport};
use crate::mlx5::vport;
use crate::pci::Port;
use serde::{Deserialize, Serialize};

/// Bytes moved at once.
const CHUNK: usize = 32 << 10;
/// Numbers of the special queue pairs, for datagrams.
const SUBNET_MANAGEMENT_QPN: u32 = 0;
const GENERAL_SERVICES_QPN: u32 = 1;
/// A queue pair's own Q_Key is sent when a request's has this bit (IBA 10.2.5).
const CONTROLLED_Q_KEY: u32 = 1 << 31;
/// A sender that waits for an answer for ever looks for the other side so often.
const NO_TIMEOUT: Nanos = 100_000_000;
/// A retry count that never runs out.
const FOREVER: u8 = 7;

/// A work request under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flight {
    control: Control,
    work: Work,
    attempt: Attempt,
}

/// How far a message has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Attempt {
    /// The other side has admitted the message.
    admitted: bool,
    /// Bytes carried.
    done: u64,
    /// How often the other side has not answered, and has not been ready.
    unanswered: u8,
    not_ready: u8,
    /// It is not tried again before this time, whatever else is posted.
    not_before: Nanos,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// A queue pair of this device.
    Local(u32),
    /// The remote peer.
    Peer,
    Nowhere,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is done, so many bytes having been moved.
    Done(u64),
    More,
    /// It is tried again at this time.
    Retry(Nanos),
}

impl Hca {
    /// Works on queue pair `qpn` until its share of the turn is used up or there is nothing to do.
    pub fn run_queue_pair(&mut self, qpn: u32, budget: &mut Budget, port: &mut dyn Port) -> Progress {
        while !budget.share_is_spent() {
            let Some(qp) = self.qps.get(qpn) else { return Progress::Idle };
            let progress = match qp.state {
                State::ReadyToSend => self.send(qpn, budget, port),
                State::SendQueueError => self.flush_send_queue(qpn, budget, port),
                State::Error => self.flush(qpn, budget, port),
                State::Reset | State::Init | State::ReadyToReceive => Progress::Idle,
            };
            if progress != Progress::More {
                return progress;
            }
        }
        Progress::More
    }

    /// One step of the send queue.
    fn send(&mut self, qpn: u32, budget: &mut Budget, port: &mut dyn Port) -> Progress {
        let Some(qp) = self.qps.get_mut(qpn) else { return Progress::Idle };
        if let Some(at) =
            qp.flight.as_ref().map(|flight| flight.attempt.not_before).filter(|at| *at > port.now())
        {
            return Progress::Until(at);
        }
        let flight = qp.flight.take().or_else(|| self.take_off(qpn, budget, port));
        match flight {
            Some(flight) => self.fly(qpn, flight, budget, port),
            // A malformed request has failed the queue: what follows it is flushed.
            None if self.qps.get(qpn).is_some_and(|qp| qp.state != State::ReadyToSend) => Progress::More,
            None => Progress::Idle,
        }
    }

    /// Takes the next request off the send queue. None if there is none, or the queue pair has failed over it.
    fn take_off(&mut self, qpn: u32, budget: &mut Budget, port: &mut dyn Port) -> Option<Flight> {
        let attrs = self.config.control(What::SendRequest, Object::QueuePair, qpn);
        let qp = self.qps.get_mut(qpn)?;
        if qp.refresh_send_producer(port, attrs).is_err() {
            self.fail_catastrophically(qpn, port);
            return None;
        }
        let queue = qp.send.as_ref().filter(|queue| queue.pending() != 0)?;
        budget.spend_request();
        let (head, posted) = (queue.head, queue.pending());
        let mut entry = [0; BLOCK * MAX_BLOCKS];
        let (blocks, _) = entry.as_chunks_mut::<BLOCK>();
        let mut readable = true;
        let mut wanted = 1;
        for (at, block) in (0u16..).zip(blocks) {
            if at == wanted {
                break;
            }
            readable &= queue.read(&qp.pages, head.wrapping_add(at), block, port, attrs);
            if at == 0 {
                wanted = Control::parse(block).blocks();
            }
        }
        if !readable {
            self.fail_catastrophically(qpn, port);
            return None;
        }
        let control = Control::parse(&entry);
        let layout = qp.transport.layout();
        let well_formed = control.qpn == qpn && control.units != 0 && control.blocks() <= posted;
        let work =
            if well_formed { wqe::parse(&control, &entry, layout) } else { Err(Syndrome::LocalOperation) };
        match work {
            Ok(work) => Some(Flight { control, work, attempt: Attempt::default() }),
            Err(syndrome) => {
                self.fail_request(qpn, &control, syndrome, port);
                None
            }
        }
    }

    /// Goes on with a request.
    fn fly(&mut self, qpn: u32, mut flight: Flight, budget: &mut Budget, port: &mut dyn Port) -> Progress {
        let Flight { control, work, attempt } = &mut flight;
        let step = match work {
            Work::Nothing => Ok(Step::Done(0)),
            Work::ChangeKey(segments) => {
                self.change_key(qpn, control.immediate, segments, budget, port).map(|()| Step::Done(0))
            }
            Work::Message(message) => self.carry(qpn, message, control.solicited, attempt, budget, port),
        };
        match step {
            Ok(Step::Done(bytes)) => {
                self.conclude(qpn, &flight.control, Ok(bytes), port);
                Progress::More
            }
            Ok(Step::More) => {
                self.keep(qpn, flight);
                Progress::More
            }
            Ok(Step::Retry(at)) => {
                flight.attempt.not_before = at;
                self.keep(qpn, flight);
                Progress::Until(at)
            }
            Err(syndrome) => {
                self.fail_request(qpn, &flight.control, syndrome, port);
                Progress::More
            }
        }
    }

    /// A request stays under way, unless the queue pair has been moved out of its state by what the request did.
    fn keep(&mut self, qpn: u32, flight: Flight) {
        if let Some(qp) = self.qps.get_mut(qpn).filter(|qp| qp.state == State::ReadyToSend) {
            qp.flight = Some(flight);
        }
    }

    /// Carries a message on, as far as the turn allows.
    fn carry(
        &mut self,
        qpn: u32,
        message: &Message,
        solicited: bool,
        attempt: &mut Attempt,
        budget: &mut Budget,
        port: &mut dyn Port,
    ) -> Result<Step, Syndrome> {
        let qp = self.qps.get(qpn).ok_or(Syndrome::Flushed)?;
        let (transport, holder) = (qp.transport, qp.holder());
        let len = match message.operation {
            Operation::Atomic(_) => ATOMIC_LEN,
            _ => message.data.len(),
        };
        let arrival = Arrival {
            transport,
            operation: message.operation,
            immediate: message.immediate,
            len,
            remote: message.remote,
            srqn: message.srqn,
            solicited,
            source: qp.source(message.vector.as_ref()),
            datagram: message.vector.map(|vector| DatagramHeader {
                q_key: if vector.q_key & CONTROLLED_Q_KEY != 0 { qp.connection.q_key } else { vector.q_key },
                global: vector.global,
            }),
        };
        if !attempt.admitted && attempt.unanswered == 0 && attempt.not_ready == 0 {
            if len > qp.longest_message() {
                return Err(Syndrome::LocalLength);
            }
            if let Data::Segments(segments) = &message.data {
                let right = match message.operation {
                    Operation::Send | Operation::Write => Right::LocalRead,
                    Operation::Read | Operation::Atomic(_) => Right::LocalWrite,
                };
                // An atomic operation's result is as long as it is, whatever the request has room for.
                if message.data.len() < len {
                    return Err(Syndrome::LocalLength);
                }
                if self.check_segments(holder, segments, len, right).is_err() {
                    return Err(Syndrome::LocalProtection);
                }
            }
        }
        if let Some(group) = message.vector.and_then(|vector| vector.group()) {
            return self.multicast(qpn, &arrival, message, group, budget, port).map(|()| Step::Done(len));
        }
        let to = match self.route(qpn, message.vector.as_ref()) {
            Route::Local(to) => to,
            Route::Peer => {
                return match self.send_to_peer(qpn, message, port)? {
                    Ok(()) => Ok(Step::Done(len)),
                    Err(nak) => self.answer(qpn, attempt, len, nak, port),
                };
            }
            Route::Nowhere => return self.answer(qpn, attempt, len, Nak::NoAnswer, port),
        };
        if !attempt.admitted {
            if let Err(nak) = self.admit(to, &arrival, port) {
                return self.answer(qpn, attempt, len, nak, port);
            }
            (attempt.admitted, attempt.done) = (true, 0);
        }
        match self.exchange((qpn, to), message, &mut attempt.done, len, budget, port)? {
            Ok(true) => {
                self.finish(to, port);
                Ok(Step::Done(len))
            }
            Ok(false) => Ok(Step::More),
            Err(nak) => self.answer(qpn, attempt, len, nak, port),
        }
    }

    /// Copies a datagram to every queue pair of a group but the sender. Those that cannot take it lose it.
    fn multicast(
        &mut self,
        qpn: u32,
        arrival: &Arrival,
        message: &Message,
        group: [u8; 16],
        budget: &mut Budget,
        port: &mut dyn Port,
    ) -> Result<(), Syndrome> {
        for to in self.multicast.members(&group).into_iter().filter(|to| *to != qpn) {
            // A datagram is short and cannot be interrupted: no copy is cut off where the turn's bytes end.
            let mut unbroken = Budget::new();
            if self.admit(to, arrival, port).is_ok()
                && self.exchange((qpn, to), message, &mut 0, arrival.len, &mut unbroken, port)? == Ok(true)
            {
                self.finish(to, port);
                budget.spend_bytes(arrival.len);
            }
        }
        Ok(())
    }

    /// Moves the bytes of an admitted message between two queue pairs of this device, from byte `done` on. True if all
    /// have been moved.
    fn exchange(
        &mut self,
        (from, to): (u32, u32),
        message: &Message,
        done: &mut u64,
        len: u64,
        budget: &mut Budget,
        port: &mut dyn Port,
    ) -> Result<Result<bool, Nak>, Syndrome> {
        let holder = self.qps.get(from).ok_or(Syndrome::Flushed)?.holder();
        let segments = match &message.data {
            Data::Segments(segments) => segments.as_slice(),
            Data::Inline(_) => &[],
        };
        if let Operation::Atomic(op) = message.operation {
            let old = match self.perform_atomic(to, op, port) {
                Ok(old) => old.to_le_bytes(),
                Err(nak) => return Ok(Err(nak)),
            };
            let stored = self.scatter(holder, segments, 0, &old, port);
            return stored.map(|()| Ok(true)).map_err(|_| Syndrome::LocalProtection);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK, 0);
        let result = loop {
            let left = len.saturating_sub(*done);
            if left == 0 {
                break Ok(Ok(true));
            }
            // At the beginning of a step there are some: a datagram, shorter than a chunk, is never interrupted.
            if budget.bytes_are_spent() {
                break Ok(Ok(false));
            }
            let Some(chunk) = buffer.get_mut(..CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))) else {
                break Ok(Ok(true));
            };
            let moved = match message.operation {
                Operation::Read => self.fetch(to, *done, chunk, port).map(|()| {
                    let stored = self.scatter(holder, segments, *done, chunk, port);
                    stored.map_err(|_| Syndrome::LocalProtection)
                }),
                _ => match self.gather(holder, &message.data, *done, chunk, port) {
                    Ok(()) => self.deliver(to, *done, chunk, port).map(Ok),
                    Err(_) => Ok(Err(Syndrome::LocalProtection)),
                },
            };
            match moved {
                Ok(Ok(())) => {}
                Ok(Err(syndrome)) => break Err(syndrome),
                Err(nak) => break Ok(Err(nak)),
            }
            *done += chunk.len() as u64;
            budget.spend_bytes(chunk.len() as u64);
        };
        self.buffer = buffer;
        result
    }

    /// What a sender makes of a refusal. Unreliable services know of none.
    fn answer(
        &mut self,
        qpn: u32,
        attempt: &mut Attempt,
        len: u64,
        nak: Nak,
        port: &mut dyn Port,
    ) -> Result<Step, Syndrome> {
        let qp = self.qps.get(qpn).ok_or(Syndrome::Flushed)?;
        if !qp.transport.is_reliable() {
            return Ok(Step::Done(len));
        }
        (attempt.admitted, attempt.done) = (false, 0);
        let connection = &qp.connection;
        match nak {
            Nak::InvalidRequest => Err(Syndrome::RemoteInvalidRequest),
            Nak::RemoteAccess => Err(Syndrome::RemoteAccess),
            Nak::RemoteOperation => Err(Syndrome::RemoteOperation),
            Nak::NotReady(delay) => {
                if attempt.not_ready >= connection.rnr_retries && connection.rnr_retries != FOREVER {
                    return Err(Syndrome::NotReadyRetriesExceeded);
                }
                // Counted so far that the request is known not to be new; it never wraps.
                attempt.not_ready = attempt.not_ready.saturating_add(1);
                Ok(Step::Retry(port.now().saturating_add(delay)))
            }
            Nak::NoAnswer => {
                let timeout = connection.ack_timeout();
                if attempt.unanswered >= connection.retries && timeout.is_some() {
                    return Err(Syndrome::RetriesExceeded);
                }
                attempt.unanswered = attempt.unanswered.saturating_add(1);
                Ok(Step::Retry(port.now().saturating_add(timeout.unwrap_or(NO_TIMEOUT))))
            }
        }
    }

    /// Where messages of queue pair `qpn` go, or the datagram with address `vector`.
    fn route(&self, qpn: u32, vector: Option<&AddressVector>) -> Route {
        let Some(qp) = self.qps.get(qpn) else { return Route::Nowhere };
        match vector {
            None if u64::from(qp.connection.lid) == vport::LID => Route::Local(qp.connection.qpn),
            None if qp.is_connected_to_peer() => Route::Peer,
            Some(vector) if vector.is_local() => {
                let special = match vector.qpn {
                    SUBNET_MANAGEMENT_QPN => Transport::SubnetManagement,
                    GENERAL_SERVICES_QPN => Transport::GeneralServices,
                    qpn => return Route::Local(qpn),
                };
                let found = self.qps.iter().find(|(_, qp)| qp.transport == special);
                found.map_or(Route::Nowhere, |(qpn, _)| Route::Local(qpn))
            }
            _ => Route::Nowhere,
        }
    }

    /// A request has left the send queue: done with so many bytes, or failed.
    fn conclude(&mut self, qpn: u32, control: &Control, result: Result<u64, Syndrome>, port: &mut dyn Port) {
        let Some(qp) = self.qps.get_mut(qpn) else { return };
        let Some(queue) = qp.send.as_mut() else { return };
        let counter = queue.head;
        queue.head = queue.head.wrapping_add(control.blocks().min(queue.pending()));
        let opcode = control.opcode;
        let (outcome, bytes) = match result {
            Ok(_) if !control.signalled => return,
            Ok(bytes) => (Outcome::Requester { opcode }, bytes),
            Err(syndrome) => (Outcome::RequesterError { opcode, syndrome }, 0),
        };
        let completion = Completion {
            outcome,
            qpn,
            user_index: qp.user_index,
            counter,
            byte_count: bytes.min(u32::MAX.into()) as u32,
            source: Source::default(),
            solicited: false,
        };
        let cqn = qp.send_cq;
        self.complete(cqn, &completion, port);
    }

    /// A request fails, and the queue with it: the whole queue pair of a connection, the send queue alone otherwise
    /// (IBA 10.3.1).
    fn fail_request(&mut self, qpn: u32, control: &Control, syndrome: Syndrome, port: &mut dyn Port) {
        let Some(qp) = self.qps.get_mut(qpn) else { return };
        log::debug!(
            "mlx5: a request of queue pair {qpn} (opcode {:#x}) failed: {syndrome:?}",
            control.opcode
        );
        let reliable = qp.transport.is_reliable();
        // One that is connected to itself has failed already, as the responder that refused the request.
        if !reliable && qp.state == State::ReadyToSend {
            qp.state = State::SendQueueError;
        }
        self.conclude(qpn, control, Err(syndrome), port);
        if reliable {
            self.fail_queue_pair(qpn);
        }
    }

    /// Flushes the next request of the send queue.
    pub fn flush_send_queue(&mut self, qpn: u32, budget: &mut Budget, port: &mut dyn Port) -> Progress {
        let attrs = self.config.control(What::SendRequest, Object::QueuePair, qpn);
        let Some(qp) = self.qps.get_mut(qpn) else { return Progress::Idle };
        qp.flight = None;
        if qp.refresh_send_producer(port, attrs).is_err() {
            return Progress::Idle;
        }
        let Some(queue) = qp.send.as_ref().filter(|queue| queue.pending() != 0) else {
            return Progress::Idle;
        };
        let mut block = [0; BLOCK];
        if !queue.read(&qp.pages, queue.head, &mut block, port, attrs) {
            return Progress::Idle;
        }
        budget.spend_request();
        self.conclude(qpn, &Control::parse(&block), Err(Syndrome::Flushed), port);
        Progress::More
    }
}

impl Transport {
    /// What the entries of a send queue of this transport hold.
    fn layout(self) -> Layout {
        let reads = matches!(self, Self::ReliableConnection | Self::ExtendedReliableConnection);
        Layout {
            xrc: self == Self::ExtendedReliableConnection,
            datagram: self.is_datagram(),
            reads,
            writes: reads || self == Self::UnreliableConnection,
        }
    }
}
