//! Completion queue entries: how a finished or failed work request is reported. Positions are those of `mlx5_cqe64` and
//! `mlx5_err_cqe` in the Linux kernel's `include/linux/mlx5/device.h` (6.12).

use super::wqe::Immediate;
use crate::dma::{Object, What};
use crate::mlx5::cq::Posted;
use crate::mlx5::eq::Event;
use crate::mlx5::hca::Hca;
use crate::mlx5::iseg;
use crate::pci::Port;
use serde::{Deserialize, Serialize};

/// Bytes of an entry; in queues of 128-byte entries it is the second half.
pub const ENTRY: usize = 64;

/// Why a work request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Syndrome {
    LocalLength = 0x01,
    LocalOperation = 0x02,
    LocalProtection = 0x04,
    /// The queue has failed before the request's turn.
    Flushed = 0x05,
    MemoryWindowBind = 0x06,
    RemoteInvalidRequest = 0x12,
    RemoteAccess = 0x13,
    RemoteOperation = 0x14,
    /// The other side does not answer.
    RetriesExceeded = 0x15,
    /// The other side has no receive request ready, time and again.
    NotReadyRetriesExceeded = 0x16,
}

/// What is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A send queue's request is done. Its opcode comes back.
    Requester {
        opcode: u8,
    },
    /// A message has been received, by a WRITE if `written`.
    Responder {
        immediate: Option<Immediate>,
        written: bool,
    },
    RequesterError {
        opcode: u8,
        syndrome: Syndrome,
    },
    ResponderError(Syndrome),
}

/// A completion queue entry before it has a place in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    pub outcome: Outcome,
    pub qpn: u32,
    /// The number by which the driver knows the queue that the request came from.
    pub user_index: u32,
    /// Where the request stood in its queue.
    pub counter: u16,
    pub byte_count: u32,
    pub source: Source,
    pub solicited: bool,
}

/// Where a received message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Source {
    pub qpn: u32,
    pub lid: u16,
    pub service_level: u8,
    /// A global route header stands before the data.
    pub has_grh: bool,
}

impl Completion {
    /// Whether it wakes a driver that waits for solicited completions only. Failures do.
    fn wakes_solicited(&self) -> bool {
        self.solicited || matches!(self.outcome, Outcome::RequesterError { .. } | Outcome::ResponderError(_))
    }

    fn encode(&self, timestamp: u64, owner: bool) -> [u8; ENTRY] {
        const SOLICITED: u8 = 1 << 1;
        let mut entry = [0; ENTRY];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = entry.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(32, &self.user_index.to_be_bytes());
        put(60, &self.counter.to_be_bytes());
        let (code, opcode) = match self.outcome {
            Outcome::Requester { opcode } => (0x0, opcode),
            Outcome::Responder { immediate: None, .. } => (0x2, 0),
            Outcome::Responder { immediate: Some(Immediate::Data(_)), written: true } => (0x1, 0),
            Outcome::Responder { immediate: Some(Immediate::Data(_)), written: false } => (0x3, 0),
            Outcome::Responder { immediate: Some(Immediate::Invalidate(_)), .. } => (0x4, 0),
            Outcome::RequesterError { opcode, .. } => (0xd, opcode),
            Outcome::ResponderError(_) => (0xe, 0),
        };
        put(56, &(u32::from(opcode) << 24 | self.qpn).to_be_bytes());
        match self.outcome {
            Outcome::RequesterError { syndrome, .. } | Outcome::ResponderError(syndrome) => {
                put(55, &[syndrome as u8]);
            }
            Outcome::Requester { .. } | Outcome::Responder { .. } => {
                put(44, &self.byte_count.to_be_bytes());
                put(48, &timestamp.to_be_bytes());
            }
        }
        if let Outcome::Responder { immediate, .. } = self.outcome {
            let Source { qpn, lid, service_level, has_grh } = self.source;
            let flags = u32::from(has_grh) << 28 | u32::from(service_level) << 24 | qpn;
            put(22, &lid.to_be_bytes());
            put(24, &flags.to_be_bytes());
            if let Some(Immediate::Data(value) | Immediate::Invalidate(value)) = immediate {
                put(36, &value.to_be_bytes());
            }
        }
        let solicited = if self.solicited { SOLICITED } else { 0 };
        put(63, &[code << 4 | solicited | u8::from(owner)]);
        entry
    }
}

impl Hca {
    /// Posts an entry to completion queue `cqn` and tells the driver, if it wants to know. A queue that is full or out
    /// of reach fails, and the queue pair with it.
    pub fn complete(&mut self, cqn: u32, completion: &Completion, port: &mut dyn Port) {
        let attrs = self.config.control(What::Completion, Object::CompletionQueue, cqn);
        let Some(cq) = self.cqs.get_mut(cqn) else { return };
        let entry = completion.encode(iseg::ticks(port.now()), cq.next_owner());
        match cq.post(&entry, completion.wakes_solicited(), port, attrs) {
            Posted::Written { notify: false } => {}
            Posted::Written { notify: true } => {
                let eqn = cq.eqn;
                self.post_event(eqn, Event::completion(cqn), port);
            }
            Posted::Failed { syndrome, first } => {
                if first {
                    self.note_queue_failure(format_args!(
                        "completion queue {cqn} has failed (syndrome {syndrome})"
                    ));
                    self.report(Event::completion_queue_error(cqn, syndrome), port);
                }
                self.fail_catastrophically(completion.qpn, port);
            }
        }
    }
}
