//! The ring and what the device is doing at it: one descriptor at a time, a bounded part of it in each turn.

use super::config::DmalabConfig;
use super::data::{Checksum, pattern};
use super::descriptor::{COMPLETION, Descriptor, Operation, SIZE, Status, completion};
use super::registers::{STATUS_BUSY, STATUS_FAULT};
use super::{VECTOR_COMPLETION, VECTOR_FAULT};
use crate::bus::Nanos;
use crate::dma::DmaError;
use crate::pci::Port;
use serde::{Deserialize, Serialize};

/// Largest ring, as a power of two.
pub const MAX_LOG2: u32 = 12;
/// Event token: the device has its next turn.
pub const EVENT_TURN: u32 = 0;

/// From the doorbell, or the completion before, to the fetch of a descriptor.
const FETCH_DELAY: Nanos = 100;
/// Bytes moved in one turn, and the time that they take: 16 GB/s.
const TURN_BYTES: u32 = 4096;
const TURN_DELAY: Nanos = 256;
/// Most transactions in one turn: descriptors may ask for tiny ones.
const TURN_TRANSACTIONS: u32 = 512;

/// Why the device has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Fault {
    /// More descriptors were submitted than the ring has.
    TooMany = 1,
    /// A descriptor could not be fetched.
    Fetch = 2,
    /// A descriptor could not be completed.
    Completion = 3,
}

/// The descriptor under way.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Job {
    descriptor: Descriptor,
    /// Bytes moved.
    done: u32,
    /// The checksum so far.
    result: u64,
    /// How it has ended, once it has.
    ended: Option<Ended>,
}

/// How a descriptor has ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Ended {
    status: Status,
    done: u32,
    result: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Disabled,
    Enabled,
    Stopped(Fault),
}

/// The ring.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ring {
    /// Bus address.
    pub base: u64,
    /// Base-2 logarithm of the number of descriptors.
    pub log2: u32,
    phase: Phase,
    /// Descriptors submitted and completed, modulo 2^32.
    head: u32,
    tail: u32,
    job: Option<Job>,
}

impl Default for Ring {
    fn default() -> Self {
        Self { base: 0, log2: 0, phase: Phase::Disabled, head: 0, tail: 0, job: None }
    }
}

impl Ring {
    pub fn is_enabled(&self) -> bool {
        self.phase != Phase::Disabled
    }

    pub fn head(&self) -> u32 {
        self.head
    }

    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        match self.phase {
            Phase::Stopped(fault) => STATUS_FAULT | u32::from(fault as u8) << 8,
            _ if self.head != self.tail => STATUS_BUSY,
            _ => 0,
        }
    }

    /// Whether a ring can have come to this state.
    pub fn is_in_range(&self) -> bool {
        let is_possible = |job: &Job| job.descriptor.is_in_range() && job.done <= job.descriptor.stream();
        self.log2 <= MAX_LOG2
            && self.base.is_multiple_of(SIZE as u64)
            && self.job.as_ref().is_none_or(is_possible)
    }

    /// Begins at descriptor 0; an enabled ring goes on as it is.
    pub fn enable(&mut self) {
        if self.phase == Phase::Disabled {
            self.phase = Phase::Enabled;
        }
    }

    /// Drops what is under way, without a completion, and what has been submitted.
    pub fn disable(&mut self, port: &mut dyn Port) {
        port.cancel(EVENT_TURN);
        *self = Self { base: self.base, log2: self.log2, ..Self::default() };
    }

    /// The doorbell: `head` descriptors have been submitted so far.
    pub fn submit(&mut self, head: u32, port: &mut dyn Port) {
        if self.phase != Phase::Enabled {
            return log::debug!("dmalab: doorbell while not working at a ring: ignored");
        }
        if head.wrapping_sub(self.tail) > 1 << self.log2 {
            return self.stop(Fault::TooMany, port);
        }
        let idle = self.head == self.tail;
        self.head = head;
        if idle && head != self.tail {
            port.schedule(port.now().saturating_add(FETCH_DELAY), EVENT_TURN);
        }
    }

    fn stop(&mut self, fault: Fault, port: &mut dyn Port) {
        log::debug!("dmalab: stopped at descriptor {}: {fault:?}", self.tail);
        self.phase = Phase::Stopped(fault);
        self.job = None;
        port.cancel(EVENT_TURN);
        port.msi(VECTOR_FAULT);
    }

    /// Bus address of the descriptor under way.
    fn current(&self) -> u64 {
        let index = self.tail & ((1 << self.log2) - 1);
        self.base.wrapping_add(u64::from(index) * SIZE as u64)
    }

    /// Does a bounded part of what there is to do, and asks for the next turn.
    pub fn turn(&mut self, config: &DmalabConfig, memory: &mut [u8], port: &mut dyn Port) {
        if self.phase != Phase::Enabled || self.head == self.tail {
            return;
        }
        let mut job = match self.job.take() {
            Some(job) => job,
            None => match self.fetch(config, port) {
                Ok(job) if job.descriptor.delay != 0 => {
                    return self.go_on(job, job.descriptor.delay.into(), port);
                }
                Ok(job) => job,
                Err(Refusal::Unreachable) => return self.stop(Fault::Fetch, port),
                Err(Refusal::Refused(status, interrupt)) => {
                    return self.complete(config, Ended { status, done: 0, result: 0 }, interrupt, port);
                }
            },
        };
        let Descriptor { interrupt, linger, .. } = job.descriptor;
        if job.ended.is_none() {
            job.ended = work(&mut job, config, memory, port);
            if job.ended.is_none() {
                return self.go_on(job, TURN_DELAY, port);
            }
            if linger != 0 {
                return self.go_on(job, linger.into(), port);
            }
        }
        if let Some(ended) = job.ended {
            self.complete(config, ended, interrupt, port);
        }
    }

    /// Has the next turn for `job` come after `delay`.
    fn go_on(&mut self, job: Job, delay: Nanos, port: &mut dyn Port) {
        self.job = Some(job);
        port.schedule(port.now().saturating_add(delay), EVENT_TURN);
    }

    fn fetch(&self, config: &DmalabConfig, port: &mut dyn Port) -> Result<Job, Refusal> {
        let mut bytes = [0; SIZE];
        port.read(self.current(), &mut bytes, config.control()).map_err(|_| Refusal::Unreachable)?;
        let descriptor = Descriptor::parse(&bytes).map_err(|(status, irq)| Refusal::Refused(status, irq))?;
        Ok(Job { descriptor, done: 0, result: Checksum::default().0, ended: None })
    }

    /// Completes the current descriptor and goes on to the next.
    fn complete(&mut self, config: &DmalabConfig, ended: Ended, interrupt: bool, port: &mut dyn Port) {
        let bytes = completion(ended.status, ended.done, ended.result);
        if port.write(self.current().wrapping_add(COMPLETION), &bytes, config.control()).is_err() {
            return self.stop(Fault::Completion, port);
        }
        self.tail = self.tail.wrapping_add(1);
        if interrupt {
            port.msi(VECTOR_COMPLETION);
        }
        if self.head != self.tail {
            port.schedule(port.now().saturating_add(FETCH_DELAY), EVENT_TURN);
        }
    }
}

/// Why a descriptor is not worked at.
enum Refusal {
    Unreachable,
    /// What it is completed with, and whether with an interrupt.
    Refused(Status, bool),
}

/// Works at a descriptor for one turn; returns how it has ended, if it has.
fn work(job: &mut Job, config: &DmalabConfig, memory: &mut [u8], port: &mut dyn Port) -> Option<Ended> {
    let descriptor = job.descriptor;
    let attrs = config.payload(descriptor.attrs);
    if let Some(operation) = descriptor.atomic() {
        return Some(match port.atomic(descriptor.destination, operation, attrs) {
            Ok(result) => Ended { status: Status::Done, done: 8, result },
            Err(_) => Ended { status: Status::Dma, done: 0, result: 0 },
        });
    }
    let mut left_in_turn = TURN_BYTES;
    for _ in 0..TURN_TRANSACTIONS {
        let left = descriptor.stream() - job.done;
        let length = left.min(left_in_turn).min(descriptor.transaction.into());
        if length == 0 {
            break;
        }
        match step(job, length, config, memory, port) {
            Ok(()) => job.done += length,
            Err(_) => return Some(Ended { status: Status::Dma, done: job.done, result: 0 }),
        }
        left_in_turn -= length;
    }
    if job.done < descriptor.stream() {
        return None;
    }
    let result = if descriptor.operation == Operation::Checksum { job.result } else { 0 };
    Some(Ended { status: Status::Done, done: job.done, result })
}

/// One transaction, of a copy two.
fn step(
    job: &mut Job,
    length: u32,
    config: &DmalabConfig,
    memory: &mut [u8],
    port: &mut dyn Port,
) -> Result<(), DmaError> {
    let Job { descriptor, done, .. } = *job;
    let attrs = config.payload(descriptor.attrs);
    let source = descriptor.source.wrapping_add(done.into());
    let destination = descriptor.destination.wrapping_add(done.into());
    let mut data = vec![0; length as usize];
    // Offsets were checked when the descriptor was fetched: what is asked for is there.
    let local = |offset: u64| offset as usize..(offset as usize).saturating_add(length as usize);
    match descriptor.operation {
        Operation::Read | Operation::Copy | Operation::Checksum => port.read(source, &mut data, attrs)?,
        Operation::Write => {
            if let Some(part) = memory.get(local(source)) {
                data.copy_from_slice(part);
            }
        }
        Operation::Fill => {
            let fill = descriptor.operand.to_le_bytes().into_iter().cycle().skip(done as usize % 8);
            data.iter_mut().zip(fill).for_each(|(byte, fill)| *byte = fill);
        }
        Operation::Pattern => {
            for (byte, index) in data.iter_mut().zip(u64::from(done)..) {
                *byte = pattern(descriptor.operand, index);
            }
        }
        Operation::Nothing | Operation::FetchAdd | Operation::CompareSwap => {}
    }
    match descriptor.operation {
        Operation::Read => {
            if let Some(part) = memory.get_mut(local(destination)) {
                part.copy_from_slice(&data);
            }
        }
        Operation::Checksum => job.result = Checksum(job.result).over(&data).0,
        Operation::Write | Operation::Copy | Operation::Fill | Operation::Pattern => {
            port.write(destination, &data, attrs)?;
        }
        Operation::Nothing | Operation::FetchAdd | Operation::CompareSwap => {}
    }
    Ok(())
}
