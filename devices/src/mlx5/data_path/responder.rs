//! The receiving side of a queue pair: a message arrives, its bytes go to a receive request or to memory behind a key of
//! this side, and a completion is posted where a receive request was used. The sender may be another queue pair of this
//! device or the remote peer.
//!
//! A sender calls [`Hca::admit`], then [`Hca::deliver`], [`Hca::fetch`] or [`Hca::perform_atomic`] as often as it takes,
//! then [`Hca::finish`]. Every call may find that the queue pair is gone or has failed meanwhile.

use super::completion::{Completion, Outcome, Source, Syndrome};
use super::datagram::{GRH_LEN, GlobalRoute};
use super::receive::{NoReceive, Receive};
use super::translate::{Holder, Right};
use super::wqe::{Immediate, Operation, Remote};
use crate::bus::Nanos;
use crate::dma::{AtomicOp, What};
use crate::mlx5::eq::{Event, EventType};
use crate::mlx5::hca::Hca;
use crate::mlx5::qp::{State, Transport};
use crate::pci::Port;
use serde::{Deserialize, Serialize};

/// Bytes that an atomic operation works on.
pub const ATOMIC_LEN: u64 = 8;

/// A message as its first packet announces it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Arrival {
    pub transport: Transport,
    pub operation: Operation,
    pub immediate: Option<Immediate>,
    pub len: u64,
    /// Memory of this side that a WRITE, READ or atomic operation is about.
    pub remote: Remote,
    /// The shared receive queue that an XRC message names.
    pub srqn: Option<u32>,
    pub solicited: bool,
    pub source: Source,
    /// What a datagram carries beside its data.
    pub datagram: Option<DatagramHeader>,
}

impl Arrival {
    /// Bytes of the receive request before the message's data.
    fn header_len(&self) -> u64 {
        if self.datagram.is_some() { GRH_LEN as u64 } else { 0 }
    }
}

/// Headers of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramHeader {
    pub q_key: u32,
    pub global: Option<GlobalRoute>,
}

/// Why a message is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nak {
    /// No receive request; the sender may try again after this time.
    NotReady(Nanos),
    InvalidRequest,
    RemoteAccess,
    RemoteOperation,
    /// Nobody answers: the queue pair does not exist, is not ready or belongs to somebody else.
    NoAnswer,
}

/// A message that has been admitted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Landing {
    arrival: Arrival,
    /// On whose behalf memory of this side is accessed by WRITE, READ and atomic operations.
    holder: Holder,
    receive: Option<Receive>,
}

impl Landing {
    /// The receive request, if the message has one and has not been finished.
    pub fn into_receive(self) -> Option<Receive> {
        self.receive
    }
}

/// How long a sender is to wait, by the code of the receiver's minimum RNR NAK timer, in units of 10 µs (IBA 9.7.5.2.8).
const RNR_TIMERS: [u32; 32] = [
    65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048,
    3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
];

fn rnr_delay(code: u8) -> Nanos {
    const UNIT: Nanos = 10_000;
    RNR_TIMERS.get(usize::from(code)).map_or(UNIT, |&units| Nanos::from(units) * UNIT)
}

impl Hca {
    /// A message for queue pair `qpn` begins. On success its bytes may follow.
    ///
    /// # Errors
    /// What the sender is answered. A fault has failed the queue pair as well, as its transport demands.
    pub fn admit(&mut self, qpn: u32, arrival: &Arrival, port: &mut dyn Port) -> Result<(), Nak> {
        let qp = self.qps.get_mut(qpn).ok_or(Nak::NoAnswer)?;
        if !qp.listens_to(arrival) {
            return Err(Nak::NoAnswer);
        }
        if let Some(abandoned) = qp.arriving.take() {
            qp.held = abandoned.receive.or(qp.held.take());
        }
        let mut holder = qp.holder();
        let establishes = qp.state == State::ReadyToReceive && !std::mem::replace(&mut qp.established, true);
        let (access, xrcd) = (qp.connection.access, qp.xrcd);
        let Remote { address, key } = arrival.remote;
        let (allowed, right) = match arrival.operation {
            Operation::Send => (true, None),
            Operation::Write => (access.write, Some(Right::RemoteWrite)),
            Operation::Read => (access.read, Some(Right::RemoteRead)),
            Operation::Atomic(_) => {
                (access.atomic && address.is_multiple_of(ATOMIC_LEN), Some(Right::RemoteAtomic))
            }
        };
        if establishes {
            self.report(Event::of_queue(EventType::CommunicationEstablished, qpn), port);
        }
        if !allowed {
            return Err(self.refuse(qpn, Nak::InvalidRequest, port));
        }
        // An XRC message names the shared receive queue whose protection domain counts (IBA, annex A14).
        if arrival.transport == Transport::ExtendedReliableConnection {
            let srq = arrival.srqn.and_then(|srqn| self.srqs.get(srqn)).filter(|srq| srq.xrcd() == xrcd);
            match srq {
                Some(srq) => holder.pd = Some(srq.pd),
                None => return Err(self.refuse(qpn, Nak::InvalidRequest, port)),
            }
        }
        if let Some(right) = right
            && self.check_key(holder, key, address, arrival.len, right).is_err()
        {
            return Err(self.refuse(qpn, Nak::RemoteAccess, port));
        }
        if let Some(Immediate::Invalidate(key)) = arrival.immediate
            && !self.usable_key(key, holder).is_ok_and(|mkey| mkey.remote_invalidate)
        {
            return Err(self.refuse(qpn, Nak::RemoteAccess, port));
        }
        let uses_receive = arrival.operation == Operation::Send || arrival.immediate.is_some();
        let receive = if uses_receive { Some(self.find_receive(qpn, arrival, port)?) } else { None };
        let mut landing = Landing { arrival: *arrival, holder, receive };
        if arrival.operation == Operation::Send
            && let Some(receive) = landing.receive.take()
        {
            let needed = arrival.header_len().saturating_add(arrival.len);
            if receive.room() < needed {
                return Err(self.fail_receive(qpn, &receive, Syndrome::LocalLength, port));
            }
            let holder = Holder { qpn, pd: Some(receive.pd) };
            if self.check_segments(holder, &receive.segments, needed, Right::LocalWrite).is_err() {
                return Err(self.fail_receive(qpn, &receive, Syndrome::LocalProtection, port));
            }
            landing.receive = Some(receive);
        }
        if let Some(qp) = self.qps.get_mut(qpn) {
            qp.arriving = Some(landing);
        }
        match arrival.datagram.and_then(|datagram| datagram.global) {
            Some(route) => self.deliver_at(qpn, 0, &route.header(arrival.len), port),
            None => Ok(()),
        }
    }

    /// The receive request for a message: that which an abandoned message has left, or the next.
    fn find_receive(&mut self, qpn: u32, arrival: &Arrival, port: &mut dyn Port) -> Result<Receive, Nak> {
        let qp = self.qps.get_mut(qpn).ok_or(Nak::NoAnswer)?;
        if let Some(receive) = qp.held.take() {
            return Ok(receive);
        }
        let srqn = arrival.srqn.or(qp.srq);
        let delay = rnr_delay(qp.connection.min_rnr_timer);
        match self.take_receive(qpn, srqn, port) {
            Ok(receive) => Ok(receive),
            Err(NoReceive::Empty) => Err(Nak::NotReady(delay)),
            Err(NoReceive::Broken) => {
                self.fail_catastrophically(qpn, port);
                Err(Nak::RemoteOperation)
            }
        }
    }

    /// Bytes of the admitted message, `offset` bytes after its beginning.
    ///
    /// # Errors
    /// What the sender is answered.
    pub fn deliver(&mut self, qpn: u32, offset: u64, data: &[u8], port: &mut dyn Port) -> Result<(), Nak> {
        let landing = self.landing(qpn)?;
        if landing.arrival.operation == Operation::Write {
            let holder = landing.holder;
            let Remote { address, key } = landing.arrival.remote;
            let at = address.wrapping_add(offset);
            let written = self.write_key(holder, (key, at), data, Right::RemoteWrite, port);
            return written.map_err(|_| self.refuse(qpn, Nak::RemoteAccess, port));
        }
        let offset = offset.saturating_add(landing.arrival.header_len());
        self.deliver_at(qpn, offset, data, port)
    }

    /// Writes to the receive request of the admitted message.
    fn deliver_at(&mut self, qpn: u32, offset: u64, data: &[u8], port: &mut dyn Port) -> Result<(), Nak> {
        let receive = self.landing(qpn)?.receive.as_ref().ok_or(Nak::NoAnswer)?;
        let holder = Holder { qpn, pd: Some(receive.pd) };
        if self.scatter(holder, &receive.segments, offset, data, port).is_ok() {
            return Ok(());
        }
        let landing = self.qps.get_mut(qpn).and_then(|qp| qp.arriving.take());
        match landing.and_then(Landing::into_receive) {
            Some(receive) => Err(self.fail_receive(qpn, &receive, Syndrome::LocalProtection, port)),
            None => Err(Nak::NoAnswer),
        }
    }

    /// Bytes that an admitted READ asks for, `offset` bytes after its beginning.
    ///
    /// # Errors
    /// What the sender is answered.
    pub fn fetch(&mut self, qpn: u32, offset: u64, data: &mut [u8], port: &mut dyn Port) -> Result<(), Nak> {
        let landing = self.landing(qpn)?;
        let holder = landing.holder;
        let Remote { address, key } = landing.arrival.remote;
        let at = address.wrapping_add(offset);
        let read = self.read_key(holder, (key, at), data, Right::RemoteRead, port);
        read.map_err(|_| self.refuse(qpn, Nak::RemoteAccess, port))
    }

    /// Performs an admitted atomic operation; returns the old value.
    ///
    /// # Errors
    /// What the sender is answered.
    pub fn perform_atomic(&mut self, qpn: u32, op: AtomicOp, port: &mut dyn Port) -> Result<u64, Nak> {
        let landing = self.landing(qpn)?;
        let holder = landing.holder;
        let Remote { address, key } = landing.arrival.remote;
        let piece = self.translate(holder, key, address, ATOMIC_LEN, Right::RemoteAtomic).ok();
        let piece = piece.filter(|piece| piece.len == ATOMIC_LEN && piece.bus.is_multiple_of(ATOMIC_LEN));
        let attrs = self.config.payload(false, What::RdmaAtomic, qpn, key);
        let old = piece.and_then(|piece| port.atomic(piece.bus, op, attrs).ok());
        old.ok_or_else(|| self.refuse(qpn, Nak::RemoteAccess, port))
    }

    /// The admitted message has arrived whole.
    pub fn finish(&mut self, qpn: u32, port: &mut dyn Port) {
        let Some(qp) = self.qps.get_mut(qpn) else { return };
        let Some(Landing { arrival, receive, .. }) = qp.arriving.take() else { return };
        if let Some(Immediate::Invalidate(key)) = arrival.immediate
            && let Some(mkey) = self.mkeys.get_mut(key >> 8)
        {
            mkey.free = true;
        }
        let Some(receive) = receive else { return };
        let written = arrival.operation == Operation::Write;
        let completion = Completion {
            outcome: Outcome::Responder { immediate: arrival.immediate, written },
            qpn,
            user_index: receive.user_index,
            counter: receive.counter,
            byte_count: arrival.len.saturating_add(arrival.header_len()).min(u32::MAX.into()) as u32,
            source: arrival.source,
            solicited: arrival.solicited,
        };
        self.complete(receive.cqn, &completion, port);
    }

    fn landing(&self, qpn: u32) -> Result<&Landing, Nak> {
        let qp = self.qps.get(qpn).filter(|qp| qp.can_receive()).ok_or(Nak::NoAnswer)?;
        qp.arriving.as_ref().ok_or(Nak::NoAnswer)
    }

    /// A message that this side does not allow. A connection is broken by it (IBA 9.9.3, class C), and the driver told.
    fn refuse(&mut self, qpn: u32, nak: Nak, port: &mut dyn Port) -> Nak {
        let reliable = self.qps.get(qpn).is_some_and(|qp| qp.transport.is_reliable());
        if reliable {
            let kind = match nak {
                Nak::RemoteAccess => EventType::AccessViolation,
                _ => EventType::InvalidRequest,
            };
            self.fail_queue_pair(qpn);
            self.report(Event::of_queue(kind, qpn), port);
        }
        nak
    }

    /// A receive request that does not fit its message, or names memory that it must not.
    fn fail_receive(&mut self, qpn: u32, receive: &Receive, syndrome: Syndrome, port: &mut dyn Port) -> Nak {
        self.fail_queue_pair(qpn);
        self.complete(receive.cqn, &receive.failed(qpn, syndrome), port);
        if syndrome == Syndrome::LocalLength { Nak::InvalidRequest } else { Nak::RemoteOperation }
    }
}

#[cfg(test)]
mod tests {
    use super::rnr_delay;

    #[test]
    fn the_timer_codes_are_those_of_the_specification() {
        assert_eq!([0, 1, 12, 31].map(rnr_delay), [655_360_000, 10_000, 640_000, 491_520_000]);
    }
}
