//! Engines: what runs the vCPUs of a machine.

mod kick;
pub mod kick_signal;
pub mod kvm;
pub mod soft;

pub use kick::Kick;
pub use kvm::{KvmEngine, KvmError, Paravirtual};
pub use soft::SoftEngine;

use crate::boot::CpuState;
use crate::machine::{Confidential, SharedMachine};
use crate::memory::GuestRam;
use devices::bus::{Nanos, PowerRequest};
use devices::state::{Saver, StateError};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which engine runs a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineKind {
    /// The deterministic software engine.
    Soft,
    /// The KVM behind this device node.
    Kvm { device: PathBuf, paravirtual: Paravirtual },
}

impl EngineKind {
    /// Its name on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Kvm { .. } => "kvm",
        }
    }

    /// Makes the engine for a machine with `ram`; it comes back when `kick` is raised.
    ///
    /// # Errors
    /// [`EngineError`] if the host cannot have it.
    pub fn create(&self, ram: &GuestRam, kick: Kick) -> Result<Box<dyn Engine>, EngineError> {
        Ok(match self {
            Self::Soft => Box::new(SoftEngine::new(kick)),
            Self::Kvm { device, paravirtual } => Box::new(KvmEngine::new(device, ram, *paravirtual, kick)?),
        })
    }
}

/// Why an engine came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// Virtual time has reached the limit given.
    Deadline,
    /// Somebody wants the machine's owner to look outside ([`Kick`]).
    Kicked,
    /// A serial port has sent enough that it should be drained, or a while has passed.
    Output,
    /// All vCPUs are halted; the next event is at this time. Nothing is lost by waiting for host input first.
    Idle(Option<Nanos>),
    /// All vCPUs are halted and nothing inside or outside the machine can wake them.
    Dead,
    /// A triple fault.
    Shutdown { cpu: u32 },
    /// The guest asked the power logic for something.
    Power(PowerRequest),
}

/// What an engine has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Instructions retired by all vCPUs together, if the engine counts them.
    pub instructions: Option<u64>,
    /// Virtual time. By the software engine: instructions retired, and the time skipped while all vCPUs were idle.
    pub now: Nanos,
}

/// An engine cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("there is no vCPU {0}")]
    NoVcpu(u32),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("the {0} engine shows guests no memory encryption")]
    NotConfidential(&'static str),
    #[error("the {0} engine cannot save its vCPUs")]
    CannotSave(&'static str),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Runs the vCPUs of one machine.
///
/// [`Engine::create_vcpus`] comes first; the others only after it. State may be read and written only between calls of
/// [`Engine::run`].
pub trait Engine: std::fmt::Debug + Send {
    /// Creates `count` vCPUs, which show the guest memory encryption or none: the first starts in state `boot`, the others
    /// wait for a start-up IPI.
    ///
    /// # Errors
    /// [`EngineError`] if the engine cannot have that many, or has no memory encryption.
    fn create_vcpus(
        &mut self,
        count: u32,
        boot: &CpuState,
        confidential: Option<Confidential>,
    ) -> Result<(), EngineError>;
    /// Runs until virtual time `until`, or until something needs the machine's owner, who must not hold the machine. No
    /// vCPU executes between calls.
    ///
    /// # Errors
    /// [`EngineError`] if the engine fails.
    fn run(&mut self, machine: &SharedMachine, until: Nanos) -> Result<Exit, EngineError>;
    /// Whether the interrupt controllers are the engine's: then the machine only collects what its devices signal.
    fn owns_interrupt_controllers(&self) -> bool;
    /// Moves virtual time on to `to` while all vCPUs are idle.
    fn skip_to(&mut self, to: Nanos);
    /// Drops translations and decoded code: what happens from here on depends on the machine's and the vCPUs' state alone,
    /// not on how they got there.
    fn drop_caches(&mut self, machine: &SharedMachine);
    /// An engine that goes on from the same state with a copy of the machine, and comes back when `kick` is raised. What
    /// this one has cached is not copied: [`Engine::drop_caches`] comes before. `None` if its state cannot be copied.
    fn fork(&self, kick: Kick) -> Option<Box<dyn Engine>>;
    /// Adds to `to` what [`Engine::fork`] copies.
    ///
    /// # Errors
    /// [`EngineError::CannotSave`] if its state cannot be copied.
    fn save(&self, to: &mut Saver) -> Result<(), EngineError>;
    /// What makes [`Engine::run`] come back soon, from another thread.
    fn kick(&self) -> Kick;
    /// How far the machine has come.
    fn progress(&self) -> Progress;
    /// The architectural state of a vCPU.
    ///
    /// # Errors
    /// [`EngineError::NoVcpu`].
    fn state(&self, cpu: u32) -> Result<CpuState, EngineError>;
    /// Sets the architectural state of a vCPU.
    ///
    /// # Errors
    /// [`EngineError::NoVcpu`].
    fn set_state(&mut self, cpu: u32, state: &CpuState) -> Result<(), EngineError>;
}
