//! The peer itself: its connections, and what it has to do when.

use super::guest::Guest;
use super::pattern::Pattern;
use super::plan::Plan;
use super::protocol::{Answer, Difference, MAX_ORDERS, Malformed, ORDER_SIZE, Operation, Order, Status};
use crate::bus::Nanos;
use crate::dma::AtomicOp;
use crate::mlx5::data_path::{Budget, Nak};
use log::Level;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest single request; what is longer goes as several.
const REQUEST_BYTES: u64 = 64 << 10;
/// How long the guest waits before it sends an order again that found [`MAX_ORDERS`] outstanding.
const BUSY_DELAY: Nanos = 10_000;
/// How often an answer that finds no receive posted is sent again, and after what time at least.
const ANSWER_RETRIES: u32 = 1000;
const MIN_RETRY_DELAY: Nanos = 10_000;
/// Most reports of plans that are logged.
const MAX_REPORTS: u32 = 64;

/// The end of one connection at the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Connection {
    /// Orders that have not been answered.
    outstanding: usize,
    /// A request or an answer has failed for good: nothing more is taken or sent.
    broken: bool,
}

/// Something to be done at a time.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Task {
    /// The guest's queue pair.
    qpn: u32,
    work: Work,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Work {
    /// The connection is new: the plan's delay begins now.
    Begin(Plan),
    /// The plan's delay is over.
    Plan(Plan),
    Request(Progress),
    Answer {
        answer: Answer,
        retries: u32,
    },
}

/// How far an order is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Progress {
    order: Order,
    /// Given by the plan: the result is logged, not sent.
    planned: bool,
    repetition: u32,
    /// Bytes of this repetition that are done.
    offset: u64,
    old: u64,
    digest: Digest,
    difference: Option<Difference>,
}

/// FNV-1a, 64 bits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    fn add(&mut self, data: &[u8]) {
        for byte in data {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// What becomes of a task.
enum Next {
    /// It goes on at this time.
    At(Nanos, Work),
    Over,
    /// It was the plan's, and a report of it is due.
    Report(Level, String),
}

/// The second node of the fabric.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Node {
    /// By the guest's queue pair number.
    connections: BTreeMap<u32, Connection>,
    /// By time, then in the order in which the orders came.
    agenda: BTreeMap<(Nanos, u64), Task>,
    next_serial: u64,
    reports: u32,
}

impl Node {
    /// The guest's queue pair `qpn` is connected to the peer, and nothing is left of a connection that it had before.
    pub fn connect(&mut self, qpn: u32, plan: Option<Plan>) {
        self.disconnect(qpn);
        self.connections.insert(qpn, Connection::default());
        if let Some(plan) = plan {
            self.add(0, Task { qpn, work: Work::Begin(plan) });
        }
    }

    /// Whether the guest's queue pair `qpn` is connected to the peer, by a connection that may be broken.
    #[must_use]
    pub fn is_connected(&self, qpn: u32) -> bool {
        self.connections.contains_key(&qpn)
    }

    /// The guest's queue pair `qpn` is connected no longer. What is outstanding is dropped.
    pub fn disconnect(&mut self, qpn: u32) {
        if self.connections.remove(&qpn).is_some() {
            self.drop_tasks(qpn);
        }
    }

    fn break_connection(&mut self, qpn: u32) {
        if let Some(connection) = self.connections.get_mut(&qpn) {
            connection.broken = true;
            self.drop_tasks(qpn);
        }
    }

    fn drop_tasks(&mut self, qpn: u32) {
        self.agenda.retain(|_, task| task.qpn != qpn);
    }

    /// Whether the peer takes a SEND of `len` bytes from the guest's queue pair `qpn`.
    ///
    /// # Errors
    /// What the peer's side of the connection answers instead of an acknowledgement.
    pub fn admit(&self, qpn: u32, len: u64) -> Result<(), Nak> {
        let connection = self.connections.get(&qpn).filter(|connection| !connection.broken);
        let connection = connection.ok_or(Nak::NoAnswer)?;
        if len > ORDER_SIZE as u64 {
            return Err(Nak::InvalidRequest);
        }
        if connection.outstanding >= MAX_ORDERS {
            return Err(Nak::NotReady(BUSY_DELAY));
        }
        Ok(())
    }

    /// Takes the message of a SEND that has been admitted.
    pub fn accept(&mut self, qpn: u32, message: &[u8], now: Nanos) {
        let Some(connection) = self.connections.get_mut(&qpn) else { return };
        connection.outstanding += 1;
        let (due, work) = match Order::parse(message) {
            Ok(order) => (now.saturating_add(order.delay), Work::Request(Progress::new(order, false))),
            Err(Malformed { status, cookie }) => (now, Work::answer(Answer::refusal(status, cookie, now))),
        };
        self.add(due, Task { qpn, work });
    }

    fn add(&mut self, due: Nanos, task: Task) {
        self.agenda.insert((due, self.next_serial), task);
        self.next_serial += 1;
    }

    /// When there is something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        self.agenda.keys().next().map(|(due, _)| *due)
    }

    /// Does what is due at `now`, as far as the share of a turn allows. What is left stays due.
    pub fn run(&mut self, now: Nanos, budget: &mut Budget, guest: &mut dyn Guest) {
        while !budget.share_is_spent() {
            let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) else { return };
            let ((due, serial), Task { qpn, work }) = entry.remove_entry();
            budget.spend_request();
            budget.spend_bytes(work.next_len());
            match work.step(qpn, due, now, guest) {
                Ok(Next::At(due, work)) => {
                    self.agenda.insert((due, serial), Task { qpn, work });
                }
                Ok(Next::Over) => {
                    if let Some(connection) = self.connections.get_mut(&qpn) {
                        connection.outstanding = connection.outstanding.saturating_sub(1);
                    }
                }
                Ok(Next::Report(level, report)) => {
                    self.reports = self.reports.saturating_add(1);
                    if self.reports <= MAX_REPORTS {
                        log::log!(level, "mlx5: the peer's plan for queue pair {qpn}: {report}");
                    }
                }
                Err(nak) => {
                    log::debug!("mlx5: the peer's connection with queue pair {qpn} is broken: {nak:?}");
                    self.break_connection(qpn);
                }
            }
        }
    }
}

impl Answer {
    /// The answer to a message that is no order.
    fn refusal(status: Status, cookie: u64, time: Nanos) -> Self {
        Self { status, cookie, time, repetitions: 0, old: 0, digest: 0, difference: Difference::default() }
    }
}

impl Work {
    fn answer(answer: Answer) -> Self {
        Self::Answer { answer, retries: ANSWER_RETRIES }
    }

    /// Bytes that the next step moves.
    fn next_len(&self) -> u64 {
        match self {
            Self::Request(progress) => progress.next_len(),
            Self::Answer { .. } => ORDER_SIZE as u64,
            Self::Begin(_) | Self::Plan(_) => 0,
        }
    }

    /// Does one step of what has been due at `due`.
    fn step(self, qpn: u32, due: Nanos, now: Nanos, guest: &mut dyn Guest) -> Result<Next, Nak> {
        match self {
            Self::Begin(plan) => Ok(Next::At(now.saturating_add(plan.delay), Self::Plan(plan))),
            Self::Plan(plan) => Ok(match guest.newest_memory(qpn, plan.operation) {
                Some(area) => Next::At(due, Self::Request(Progress::new(plan.order(area), true))),
                None => {
                    let report = "its protection domain has no memory with the right to it";
                    Next::Report(Level::Warn, report.into())
                }
            }),
            Self::Request(progress) => progress.step(qpn, due, now, guest),
            Self::Answer { answer, retries } => match guest.send(qpn, &answer.encode()) {
                Ok(()) => Ok(Next::Over),
                Err(Nak::NotReady(delay)) if retries > 0 => {
                    let again = now.saturating_add(delay.max(MIN_RETRY_DELAY));
                    Ok(Next::At(again, Self::Answer { answer, retries: retries - 1 }))
                }
                Err(nak) => Err(nak),
            },
        }
    }
}

impl Progress {
    fn new(order: Order, planned: bool) -> Self {
        Self { order, planned, repetition: 0, offset: 0, old: 0, digest: Digest::default(), difference: None }
    }

    fn next_len(&self) -> u64 {
        self.order.len.saturating_sub(self.offset).min(REQUEST_BYTES)
    }

    /// Carries out one request, and says what comes next.
    fn step(mut self, qpn: u32, due: Nanos, now: Nanos, guest: &mut dyn Guest) -> Result<Next, Nak> {
        if self.offset == 0 {
            self.digest = Digest::default();
        }
        let len = self.next_len();
        self.request(qpn, len, guest)?;
        self.offset += len;
        if self.difference.is_none() && self.offset < self.order.len {
            return Ok(Next::At(due, Work::Request(self)));
        }
        self.repetition += 1;
        self.offset = 0;
        if self.difference.is_none() && self.repetition < self.order.repeat {
            // One that cannot keep up does not make up for it: others have their turn.
            let next = due.saturating_add(self.order.delay).max(now);
            return Ok(Next::At(next, Work::Request(self)));
        }
        if self.planned {
            return Ok(self.report());
        }
        Ok(Next::At(now, Work::answer(self.answer(now))))
    }

    fn request(&mut self, qpn: u32, len: u64, guest: &mut dyn Guest) -> Result<(), Nak> {
        let Order { operation, rkey, .. } = self.order;
        let address = self.order.address.checked_add(self.offset).ok_or(Nak::RemoteAccess)?;
        match operation {
            Operation::Write { seed } => {
                let mut data = vec![0; len as usize];
                Pattern { seed, repetition: self.repetition }.fill(self.offset, &mut data);
                guest.write(qpn, rkey, address, &data)
            }
            Operation::Read | Operation::Check { .. } => {
                let mut data = vec![0; len as usize];
                guest.read(qpn, rkey, address, &mut data)?;
                self.look_at(&data);
                Ok(())
            }
            Operation::CompareSwap { compare, swap } => {
                self.old = guest.atomic(qpn, rkey, address, AtomicOp::CompareSwap { compare, swap })?;
                Ok(())
            }
            Operation::FetchAdd { addend } => {
                self.old = guest.atomic(qpn, rkey, address, AtomicOp::FetchAdd(addend))?;
                Ok(())
            }
        }
    }

    /// Notes what has been read from the present offset on.
    fn look_at(&mut self, data: &[u8]) {
        self.digest.add(data);
        if self.offset == 0 {
            self.old = u64::from_le_bytes(first_eight(data.iter().copied()));
        }
        let Operation::Check { seed } = self.order.operation else { return };
        let pattern = Pattern { seed, repetition: self.repetition };
        if let Some(index) = pattern.mismatch(self.offset, data) {
            let found = data.get(index..).unwrap_or_default();
            let offset = self.offset + index as u64;
            self.difference = Some(Difference {
                offset,
                found: first_eight(found.iter().copied()),
                expected: first_eight(pattern.bytes(offset).take(found.len())),
            });
        }
    }

    fn answer(&self, time: Nanos) -> Answer {
        let reads = matches!(self.order.operation, Operation::Read | Operation::Check { .. });
        Answer {
            status: if self.difference.is_some() { Status::Mismatch } else { Status::Done },
            repetitions: self.repetition,
            old: self.old,
            cookie: self.order.cookie,
            time,
            digest: if reads { self.digest.0 } else { 0 },
            difference: self.difference.unwrap_or_default(),
        }
    }

    /// How the plan has ended.
    fn report(&self) -> Next {
        let Order { operation, rkey, address, len, .. } = self.order;
        let what = format!("{} of {len} bytes at {address:#x}, key {rkey:#x}", operation.name());
        let Some(Difference { offset, found, expected }) = self.difference else {
            let times = self.repetition;
            let text = match operation {
                Operation::Write { .. } => format!("{what}: done {times} times"),
                _ => format!("{what}: done {times} times, the last found {:#x}", self.old),
            };
            return Next::Report(Level::Info, text);
        };
        let text = format!(
            "{what}: not the pattern at offset {offset:#x}: expected {expected:02x?}, found {found:02x?}"
        );
        Next::Report(Level::Warn, text)
    }
}

/// The first 8 bytes, zeros after the last.
fn first_eight(bytes: impl Iterator<Item = u8>) -> [u8; 8] {
    let mut first = [0; 8];
    for (place, byte) in first.iter_mut().zip(bytes) {
        *place = byte;
    }
    first
}

#[cfg(test)]
mod tests;
