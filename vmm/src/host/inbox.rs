//! What the watching thread has for the thread that runs the machine.

use crate::engine::Kick;
use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Something that ends a run from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostEvent {
    /// Ctrl-A x on the terminal.
    Leave,
    /// A signal, by its number.
    Signal(i32),
    /// The time limit has passed.
    Timeout,
}

/// Bytes of input that wait at most: beyond, standard input is not read.
pub(super) const INPUT_LIMIT: usize = 64 * 1024;

#[derive(Debug, Default)]
struct State {
    input: VecDeque<u8>,
    input_open: bool,
    event: Option<HostEvent>,
}

/// Bytes and events, and the means to wait for them.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    kick: Kick,
    /// Tells the watching thread that there is room for input again.
    room: EventFd,
}

impl Inbox {
    pub(super) fn new(kick: Kick) -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new(State { input_open: true, ..State::default() }),
            arrived: Condvar::new(),
            kick,
            room: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of what is raised whenever something has come.
    pub(super) fn kick(&self) -> Kick {
        self.kick.clone()
    }

    fn notify(&self) {
        self.arrived.notify_all();
        self.kick.raise();
    }

    /// The event that signals room for input.
    pub(super) fn room(&self) -> &EventFd {
        &self.room
    }

    /// Adds input; returns whether there is room for more.
    pub(super) fn push_input(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        state.input.extend(bytes);
        let room = state.input.len() < INPUT_LIMIT;
        drop(state);
        self.notify();
        room
    }

    /// No more input will come.
    pub(super) fn close_input(&self) {
        self.state().input_open = false;
        self.notify();
    }

    /// Has the run ended. The first event counts.
    pub fn post(&self, event: HostEvent) {
        self.state().event.get_or_insert(event);
        self.notify();
    }

    /// The event that ends the run, if one has come.
    #[must_use]
    pub fn event(&self) -> Option<HostEvent> {
        self.state().event
    }

    /// Takes up to `room` bytes of input.
    #[must_use]
    pub fn take_input(&self, room: usize) -> Vec<u8> {
        let mut state = self.state();
        let was_full = state.input.len() >= INPUT_LIMIT;
        let count = room.min(state.input.len());
        let bytes: Vec<u8> = state.input.drain(..count).collect();
        if was_full && state.input.len() < INPUT_LIMIT {
            drop(state);
            if let Err(error) = self.room.write(1) {
                log::warn!("console input stays stopped: {error}");
            }
        }
        bytes
    }

    /// Whether input waits.
    #[must_use]
    pub fn has_input(&self) -> bool {
        !self.state().input.is_empty()
    }

    /// Whether anything can still come from outside: input, or something that ends the run.
    #[must_use]
    pub fn input_open(&self) -> bool {
        self.state().input_open
    }

    /// Waits until input or an event is there, or for `limit`.
    pub fn wait(&self, limit: Duration) {
        let state = self.state();
        let empty = |state: &mut State| state.input.is_empty() && state.event.is_none();
        drop(self.arrived.wait_timeout_while(state, limit, empty).unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_bounded_and_room_is_signalled() {
        let kick = Kick::default();
        let inbox = Inbox::new(kick.clone()).unwrap();
        assert!(inbox.push_input(b"abc"));
        assert!(kick.take());
        assert!(!inbox.push_input(&[0; INPUT_LIMIT]));
        assert_eq!(inbox.take_input(2), b"ab");
        assert!(inbox.room().read().is_err(), "still full");
        assert_eq!(inbox.take_input(usize::MAX).len(), INPUT_LIMIT + 1);
        assert_eq!(inbox.room().read().unwrap(), 1);
        assert!(!inbox.has_input());
    }

    #[test]
    fn the_first_event_counts() {
        let inbox = Inbox::new(Kick::default()).unwrap();
        inbox.post(HostEvent::Timeout);
        inbox.post(HostEvent::Signal(15));
        assert_eq!(inbox.event(), Some(HostEvent::Timeout));
        inbox.wait(Duration::MAX);
    }
}
