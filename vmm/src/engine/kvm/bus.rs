//! The machine as the vCPUs' threads reach it: one access at a time, at the host's time, with interrupts passed on.

use super::error::KvmError;
use super::exits::Next;
use super::vm::Controllers;
use crate::engine::Kick;
use crate::machine::{Machine, SharedMachine};
use devices::bus::Nanos;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What the threads of a run share besides the gate.
#[derive(Debug)]
pub(super) struct Bus {
    machine: SharedMachine,
    controllers: Controllers,
    started: Instant,
    kick: Kick,
    /// Virtual time at which the owner's thread looks at the machine by itself.
    planned: AtomicU64,
    /// Accesses made so far.
    accesses: AtomicU64,
}

impl Bus {
    pub(super) fn new(machine: &SharedMachine, controllers: Controllers, kick: &Kick) -> Self {
        Self {
            machine: machine.clone(),
            controllers,
            started: Instant::now(),
            kick: kick.clone(),
            planned: AtomicU64::new(0),
            accesses: AtomicU64::new(0),
        }
    }

    /// Virtual time: the host's, since the run began.
    pub(super) fn now(&self) -> Nanos {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn accesses(&self) -> u64 {
        self.accesses.load(Ordering::Relaxed)
    }

    /// Wakes the owner's thread.
    pub(super) fn ring(&self) {
        self.kick.ring();
    }

    /// The owner's thread will look at the machine at `at`.
    pub(super) fn plan(&self, at: Nanos) {
        self.planned.store(at, Ordering::Release);
    }

    /// A vCPU's access: what it signals is passed on, and the owner is woken if it must look sooner than planned.
    pub(super) fn access(&self, work: impl FnOnce(&mut Machine, Nanos)) -> Result<Next, KvmError> {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let mut machine = self.machine.lock();
        let silent = !machine.has_serial_output();
        // Read under the lock: no access sees an earlier time than the one before.
        work(&mut machine, self.now());
        self.pass_on(&mut machine)?;
        let planned = self.planned.load(Ordering::Acquire);
        if machine.needs_attention(planned) || silent && machine.has_serial_output() {
            self.ring();
        }
        Ok(if machine.has_power_request() { Next::Wait } else { Next::Enter })
    }

    /// Passes what devices have signalled on to KVM.
    pub(super) fn pass_on(&self, machine: &mut Machine) -> Result<(), KvmError> {
        machine.take_interrupt_signals().into_iter().try_for_each(|signal| self.controllers.signal(signal))
    }
}
