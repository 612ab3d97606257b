//! The limit on a run's time on the host.

use super::{HostEvent, Inbox, add};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use vmm_sys_util::timerfd::TimerFd;

pub(super) struct Timeout {
    timer: TimerFd,
    inbox: Arc<Inbox>,
}

impl Timeout {
    pub(super) fn new(limit: Duration, inbox: Arc<Inbox>) -> io::Result<Self> {
        let mut timer = TimerFd::new().map_err(io::Error::from)?;
        // A timer of zero would be disarmed.
        timer.reset(limit.max(Duration::from_nanos(1)), None).map_err(io::Error::from)?;
        Ok(Self { timer, inbox })
    }
}

impl MutEventSubscriber for Timeout {
    fn process(&mut self, _: Events, ops: &mut EventOps<'_>) {
        self.inbox.post(HostEvent::Timeout);
        if let Err(error) = ops.remove(Events::new(&self.timer, EventSet::IN)) {
            log::debug!("timer: {error}");
        }
    }
    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, Events::new(&self.timer, EventSet::IN), "timer");
    }
}
