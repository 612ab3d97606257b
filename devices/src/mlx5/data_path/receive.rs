//! Receive requests: taken off a queue pair's own receive queue or a shared one when a message arrives.

use super::completion::{Completion, Outcome, Source, Syndrome};
use super::schedule::Progress;
use super::wqe::Segment;
use crate::dma::{Object, What};
use crate::mlx5::eq::{Event, EventType};
use crate::mlx5::hca::Hca;
use crate::mlx5::mkey::TERMINATE_SCATTER_LIST_MKEY;
use crate::pci::Port;
use serde::{Deserialize, Serialize};

/// Longest receive request.
pub const MAX_STRIDE: usize = 512;
/// The segment that links a shared receive queue's blocks.
const LINK_SEGMENT: usize = 16;

/// A receive request that a message has been given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Receive {
    /// The queue that is told of the message.
    pub cqn: u32,
    pub user_index: u32,
    /// The protection domain of its memory keys: that of the queue it was posted to.
    pub pd: u32,
    /// Where the request stood in its queue.
    pub counter: u16,
    pub segments: Vec<Segment>,
}

impl Receive {
    /// Bytes that it has room for.
    pub fn room(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.len)).sum()
    }

    /// What is reported when queue pair `qpn` cannot use it.
    pub fn failed(&self, qpn: u32, syndrome: Syndrome) -> Completion {
        Completion {
            outcome: Outcome::ResponderError(syndrome),
            qpn,
            user_index: self.user_index,
            counter: self.counter,
            byte_count: 0,
            source: Source::default(),
            solicited: false,
        }
    }
}

/// Why there is no receive request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReceive {
    /// The driver has posted none.
    Empty,
    /// The queue cannot be read or makes no sense.
    Broken,
}

/// The scatter list in a block: it ends with the block or with a segment that names a key of its own.
fn scatter_list(block: &[u8]) -> Vec<Segment> {
    let segments = block.chunks_exact(Segment::SIZE).map(Segment::parse);
    segments.take_while(|segment| segment.key != TERMINATE_SCATTER_LIST_MKEY).collect()
}

impl Hca {
    /// Takes the next receive request of queue pair `qpn`, from the shared receive queue `srqn` if there is one.
    pub fn take_receive(
        &mut self,
        qpn: u32,
        srqn: Option<u32>,
        port: &mut dyn Port,
    ) -> Result<Receive, NoReceive> {
        match srqn {
            Some(srqn) => self.take_shared(qpn, srqn, port),
            None => self.take_own(qpn, port),
        }
    }

    fn take_own(&mut self, qpn: u32, port: &mut dyn Port) -> Result<Receive, NoReceive> {
        let attrs = self.config.control(What::ReceiveRequest, Object::QueuePair, qpn);
        let qp = self.qps.get_mut(qpn).ok_or(NoReceive::Broken)?;
        qp.refresh_receive_producer(port, attrs).map_err(|_| NoReceive::Broken)?;
        let queue = qp.receive.as_mut().filter(|queue| queue.pending() != 0).ok_or(NoReceive::Empty)?;
        let mut block = [0; MAX_STRIDE];
        let block = block.get_mut(..queue.stride()).ok_or(NoReceive::Broken)?;
        if !queue.read(&qp.pages, queue.head, block, port, attrs) {
            return Err(NoReceive::Broken);
        }
        let counter = queue.head;
        queue.head = queue.head.wrapping_add(1);
        let segments = scatter_list(block);
        Ok(Receive { cqn: qp.receive_cq, user_index: qp.user_index, pd: qp.pd, counter, segments })
    }

    fn take_shared(&mut self, qpn: u32, srqn: u32, port: &mut dyn Port) -> Result<Receive, NoReceive> {
        let attrs = self.config.control(What::ReceiveRequest, Object::SharedReceiveQueue, srqn);
        let qp = self.qps.get(qpn).ok_or(NoReceive::Broken)?;
        let srq = self.srqs.get_mut(srqn).ok_or(NoReceive::Broken)?;
        let (cqn, user_index) = match srq.cqn() {
            Some(cqn) => (cqn, srq.user_index()),
            None => (qp.receive_cq, qp.user_index),
        };
        let pd = srq.pd;
        let taken = srq.take(port, attrs);
        if taken == Err(NoReceive::Broken) && !std::mem::replace(&mut srq.failed, true) {
            self.report(Event::of_queue(EventType::SrqCatastrophe, srqn), port);
        }
        let (counter, block) = taken?;
        let segments = scatter_list(block.get(LINK_SEGMENT..).unwrap_or_default());
        self.check_limit(srqn, port);
        Ok(Receive { cqn, user_index, pd, counter, segments })
    }

    /// Tells the driver, once, when a shared receive queue holds fewer requests than its limit.
    pub fn check_limit(&mut self, srqn: u32, port: &mut dyn Port) -> Progress {
        let attrs = self.config.control(What::DoorbellRecord, Object::SharedReceiveQueue, srqn);
        if self.srqs.get_mut(srqn).is_some_and(|srq| srq.falls_below_limit(port, attrs)) {
            self.report(Event::of_queue(EventType::SrqLimit, srqn), port);
        }
        Progress::Idle
    }
}
