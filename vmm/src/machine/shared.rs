//! The machine as its owner and the threads of its vCPUs share it.

use super::Machine;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A machine that several threads can reach, one at a time; clones are the same machine.
///
/// The software engine holds it while it runs. The KVM engine's vCPUs take it for one access each.
#[derive(Debug, Clone)]
pub struct SharedMachine(Arc<Mutex<Machine>>);

impl SharedMachine {
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        Self(Arc::new(Mutex::new(machine)))
    }

    /// Waits for the others and takes the machine. A thread that has panicked with it has left it between two accesses
    /// at worst: the run ends, but its output can still be had.
    pub fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
