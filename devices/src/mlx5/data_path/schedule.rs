//! What waits for its turn, and what waits for its time. Work is done in turns of bounded size, each an event in virtual
//! time, so that no driver can stall the machine.

use crate::bus::Nanos;
use crate::mlx5::hca::Hca;
use crate::mlx5::{EVENT_TIMERS, EVENT_WORK};
use crate::pci::Port;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// From a doorbell to the first transaction.
const DOORBELL_DELAY: Nanos = 1000;
/// Requests, roughly, and bytes moved in one turn.
const TURN_REQUESTS: u32 = 256;
const TURN_BYTES: u64 = 256 << 10;
/// Bytes that cross the link in a microsecond: 100 Gbit/s.
const BYTES_PER_MICROSECOND: u64 = 12_500;
/// Requests of one queue pair in a turn before the next has its own.
const SHARE: u32 = 16;

/// Something that can work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Task {
    QueuePair(u32),
    /// The limit of a shared receive queue has been set.
    SharedReceiveQueue(u32),
    /// The remote peer.
    Peer,
}

/// Tasks that can go on now, in order, and those that can go on at a time. A task is in each at most once.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Schedule {
    ready: VecDeque<Task>,
    queued: BTreeSet<Task>,
    timers: BTreeSet<(Nanos, Task)>,
    timer_of: BTreeMap<Task, Nanos>,
    /// An event has been asked for, for the next turn.
    turn_announced: bool,
    /// The time for which an event has been asked for.
    timer_announced: Option<Nanos>,
    /// When the link has carried what the last turn has moved.
    link_free_at: Nanos,
}

impl Schedule {
    /// `task` has something to do.
    pub fn wake(&mut self, task: Task) {
        if self.queued.insert(task) {
            self.ready.push_back(task);
        }
    }

    /// `task` has something to do at `at`, instead of when it was to have so far.
    pub fn wake_at(&mut self, at: Nanos, task: Task) {
        if let Some(old) = self.timer_of.insert(task, at) {
            self.timers.remove(&(old, task));
        }
        self.timers.insert((at, task));
    }

    fn pop(&mut self) -> Option<Task> {
        let task = self.ready.pop_front()?;
        self.queued.remove(&task);
        Some(task)
    }

    fn take_expired(&mut self, now: Nanos) -> Option<Task> {
        let &(at, task) = self.timers.first().filter(|(at, _)| *at <= now)?;
        self.timers.remove(&(at, task));
        self.timer_of.remove(&task);
        Some(task)
    }

    /// Asks for the events that the tasks need. To be called after everything that may have woken one.
    pub fn announce(&mut self, port: &mut dyn Port) {
        if !self.ready.is_empty() && !self.turn_announced {
            let at = port.now().saturating_add(DOORBELL_DELAY).max(self.link_free_at);
            port.schedule(at, EVENT_WORK);
            self.turn_announced = true;
        }
        let first = self.timers.first().map(|(at, _)| *at);
        if first != self.timer_announced {
            match first {
                Some(at) => port.schedule(at, EVENT_TIMERS),
                None => port.cancel(EVENT_TIMERS),
            }
            self.timer_announced = first;
        }
    }
}

/// How a task's share of a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do.
    More,
    /// Nothing to do before something happens.
    Idle,
    /// Nothing to do before this time.
    Until(Nanos),
}

/// What is left of a turn.
#[derive(Debug)]
pub struct Budget {
    requests: u32,
    bytes: u64,
    share: u32,
}

impl Budget {
    /// A whole turn, and a task's share of it.
    pub fn new() -> Self {
        Self { requests: TURN_REQUESTS, bytes: TURN_BYTES, share: SHARE }
    }

    /// Whether no more bytes are to be moved in this turn.
    pub fn bytes_are_spent(&self) -> bool {
        self.bytes == 0
    }

    fn is_spent(&self) -> bool {
        self.requests == 0 || self.bytes == 0
    }

    /// Whether the present task's share is used up.
    pub fn share_is_spent(&self) -> bool {
        self.share == 0 || self.is_spent()
    }

    /// A request has been looked at.
    pub fn spend_request(&mut self) {
        self.requests = self.requests.saturating_sub(1);
        self.share = self.share.saturating_sub(1);
    }

    /// Bytes have been moved.
    pub fn spend_bytes(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// How long the link takes to carry what has been moved.
    fn time(&self) -> Nanos {
        (TURN_BYTES - self.bytes) * 1000 / BYTES_PER_MICROSECOND
    }
}

impl Hca {
    /// Tasks whose time has come are woken.
    pub fn expire_timers(&mut self, port: &mut dyn Port) {
        self.schedule.timer_announced = None;
        while let Some(task) = self.schedule.take_expired(port.now()) {
            self.schedule.wake(task);
        }
    }

    /// One turn of work.
    pub fn work(&mut self, port: &mut dyn Port) {
        self.schedule.turn_announced = false;
        let mut budget = Budget::new();
        while !budget.is_spent() {
            let Some(task) = self.schedule.pop() else { break };
            budget.share = SHARE;
            let progress = match task {
                Task::QueuePair(qpn) => self.run_queue_pair(qpn, &mut budget, port),
                Task::SharedReceiveQueue(srqn) => self.check_limit(srqn, port),
                Task::Peer => self.run_peer(&mut budget, port),
            };
            match progress {
                Progress::More => self.schedule.wake(task),
                Progress::Idle => {}
                Progress::Until(at) => self.schedule.wake_at(at, task),
            }
        }
        self.schedule.link_free_at = port.now().saturating_add(budget.time());
    }
}
