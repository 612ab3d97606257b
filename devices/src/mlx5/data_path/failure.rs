//! How a queue pair fails, and how what it still holds is given back.

use super::completion::Syndrome;
use super::responder::Landing;
use super::schedule::{Budget, Progress, Task};
use crate::bus::Nanos;
use crate::mlx5::eq::{Event, EventType};
use crate::mlx5::hca::Hca;
use crate::mlx5::qp::State;
use crate::pci::Port;

/// A driver rings no doorbell for receive requests, yet those that it posts to a failed queue pair are flushed as well:
/// the queue is looked at again, at first so often and then ever less.
const FIRST_LOOK: Nanos = 10_000;
const LAST_LOOK: Nanos = 10_000_000;

impl Hca {
    /// Moves a queue pair into the error state. What it holds is flushed in turns.
    pub fn fail_queue_pair(&mut self, qpn: u32) {
        let Some(qp) = self.qps.get_mut(qpn) else { return };
        if qp.state != State::Error {
            qp.state = State::Error;
            qp.flight = None;
            qp.next_look = FIRST_LOOK;
            self.schedule.wake(Task::QueuePair(qpn));
            self.follow_connection(qpn);
        }
    }

    /// A queue pair fails for want of its own structures: they are out of reach, make no sense or have overrun.
    pub fn fail_catastrophically(&mut self, qpn: u32, port: &mut dyn Port) {
        if self.qps.get(qpn).is_some_and(|qp| qp.state != State::Error) {
            log::debug!("mlx5: queue pair {qpn} fails: its queues are out of reach or make no sense");
            self.fail_queue_pair(qpn);
            self.report(Event::of_queue(EventType::QueuePairCatastrophe, qpn), port);
        }
    }

    /// Flushes the next request of a failed queue pair.
    pub fn flush(&mut self, qpn: u32, budget: &mut Budget, port: &mut dyn Port) -> Progress {
        if self.flush_send_queue(qpn, budget, port) == Progress::More {
            return Progress::More;
        }
        let Some(qp) = self.qps.get_mut(qpn) else { return Progress::Idle };
        let begun = qp.held.take().or_else(|| qp.arriving.take().and_then(Landing::into_receive));
        let receive = match begun {
            Some(receive) => Some(receive),
            None if qp.receives_from_its_own() => self.take_receive(qpn, None, port).ok(),
            None => None,
        };
        let Some(qp) = self.qps.get_mut(qpn) else { return Progress::Idle };
        if let Some(receive) = receive {
            qp.next_look = FIRST_LOOK;
            budget.spend_request();
            self.complete(receive.cqn, &receive.failed(qpn, Syndrome::Flushed), port);
            return Progress::More;
        }
        if qp.srq.is_some() && !std::mem::replace(&mut qp.last_reported, true) {
            self.report(Event::of_queue(EventType::LastRequestReached, qpn), port);
            return Progress::Idle;
        }
        if !qp.receives_from_its_own() {
            return Progress::Idle;
        }
        let look = qp.next_look;
        qp.next_look = look.saturating_mul(2).min(LAST_LOOK);
        Progress::Until(port.now().saturating_add(look))
    }
}
