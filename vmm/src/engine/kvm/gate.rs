//! Where the threads of the vCPUs wait for leave to run.

use super::error::KvmError;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What the threads are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Order {
    #[default]
    Pause,
    Run,
    End,
}

/// Why a vCPU has stopped by itself.
#[derive(Debug)]
pub(super) enum Stop {
    /// A triple fault.
    Shutdown(u32),
    Failed(KvmError),
}

#[derive(Debug, Default)]
struct State {
    order: Order,
    /// Threads between [`Gate::enter`] and [`Gate::leave`].
    inside: usize,
    /// The first stop that has not been taken.
    stop: Option<Stop>,
}

impl State {
    fn close(&mut self) {
        if self.order == Order::Run {
            self.order = Order::Pause;
        }
    }
}

/// The gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the threads run.
    pub(super) fn open(&self) {
        self.state().order = Order::Run;
        self.changed.notify_all();
    }

    /// Has the threads pause; [`Gate::wait_empty`] says when they have.
    pub(super) fn close(&self) {
        self.state().close();
    }

    /// Has the threads end.
    pub(super) fn end(&self) {
        self.state().order = Order::End;
        self.changed.notify_all();
    }

    /// Waits until no thread runs.
    pub(super) fn wait_empty(&self) {
        let inside = |state: &mut State| state.inside != 0;
        drop(self.changed.wait_while(self.state(), inside).unwrap_or_else(PoisonError::into_inner));
    }

    /// The first stop since the last call.
    pub(super) fn take_stop(&self) -> Option<Stop> {
        self.state().stop.take()
    }

    // ---- The threads' side ----

    /// Waits for leave to run; `false` to end.
    pub(super) fn enter(&self) -> bool {
        let waits = |state: &mut State| state.order == Order::Pause;
        let mut state = self.changed.wait_while(self.state(), waits).unwrap_or_else(PoisonError::into_inner);
        if state.order == Order::End {
            return false;
        }
        state.inside += 1;
        true
    }

    /// Whether a thread inside may go on.
    pub(super) fn is_open(&self) -> bool {
        self.state().order == Order::Run
    }

    /// A thread does not run any more. One that has stopped by itself closes the gate for the others.
    pub(super) fn leave(&self, stop: Option<Stop>) {
        let mut state = self.state();
        state.inside -= 1;
        if let Some(stop) = stop {
            state.stop.get_or_insert(stop);
            state.close();
        }
        drop(state);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn threads_run_while_the_gate_is_open() {
        let gate = Arc::new(Gate::default());
        let thread = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || {
                let mut rounds = 0;
                while gate.enter() {
                    rounds += 1;
                    while gate.is_open() {
                        std::thread::yield_now();
                    }
                    gate.leave((rounds == 2).then_some(Stop::Shutdown(7)));
                }
                rounds
            }
        });
        for stopped in [false, true] {
            gate.open();
            while gate.state().inside == 0 {
                std::thread::yield_now();
            }
            gate.close();
            gate.wait_empty();
            assert_eq!(matches!(gate.take_stop(), Some(Stop::Shutdown(7))), stopped);
        }
        gate.end();
        assert_eq!(thread.join().unwrap(), 2);
    }
}
