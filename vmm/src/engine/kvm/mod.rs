//! The KVM engine: one host thread a vCPU, interrupt controllers in the kernel, time by the host's clock.
//!
//! Where KVM stands on VMX or SVM it boots Linux. A KVM without them (on PVM) interprets kernel code, lacks instructions
//! that Linux needs, and runs guests made for it ([`crate::doctor::kvm_probe`] tells). Nothing here is deterministic.
//!
//! The machine's devices are the same as under the software engine: their interrupt lines and messages are passed on to
//! KVM's controllers, which are wired as the machine's own are ([`vm`]).

mod bus;
mod cpuid;
mod crew;
mod error;
mod exits;
mod firmware;
mod gate;
mod memory_slots;
mod run_page;
mod state;
mod vcpu;
mod vm;

pub use error::{KvmError, StopReason};

use super::{Engine, EngineError, Exit, Kick, Progress};
use crate::boot::CpuState;
use crate::machine::{Confidential, SharedMachine};
use crate::memory::GuestRam;
use crew::Crew;
use devices::bus::Nanos;
use devices::state::Saver;
use kvm_ioctls::VcpuFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm::Vm;

/// What the guest is shown of KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paravirtual {
    /// CPUID has KVM's leaves: a clock that needs no calibration, cheap IPIs, and hypercalls.
    Shown,
    /// It has not: on a KVM without VMX or SVM a hypercall of kernel code never ends.
    Hidden,
}

/// The engine, with its VM and vCPUs.
#[derive(Debug)]
pub struct KvmEngine {
    /// Ends before the VM does.
    crew: Option<Crew>,
    vcpus: Vec<SharedVcpu>,
    vm: Vm,
    kick: Kick,
    paravirtual: Paravirtual,
}

/// A vCPU: its thread holds it while it runs, the engine between runs.
#[derive(Debug, Clone)]
struct SharedVcpu(Arc<Mutex<VcpuFd>>);

impl SharedVcpu {
    fn lock(&self) -> MutexGuard<'_, VcpuFd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KvmEngine {
    /// A VM of the KVM behind `device` with `ram` as its memory, without vCPUs.
    ///
    /// # Errors
    /// [`KvmError`] if there is no KVM, or it lacks something.
    pub fn new(
        device: &Path,
        ram: &GuestRam,
        paravirtual: Paravirtual,
        kick: Kick,
    ) -> Result<Self, KvmError> {
        Ok(Self { crew: None, vcpus: Vec::new(), vm: Vm::new(device, ram)?, kick, paravirtual })
    }

    fn vcpu(&self, cpu: u32) -> Result<MutexGuard<'_, VcpuFd>, EngineError> {
        self.vcpus.get(cpu as usize).map(SharedVcpu::lock).ok_or(EngineError::NoVcpu(cpu))
    }
}

impl Engine for KvmEngine {
    fn create_vcpus(
        &mut self,
        count: u32,
        boot: &CpuState,
        confidential: Option<Confidential>,
    ) -> Result<(), EngineError> {
        if confidential.is_some() {
            return Err(EngineError::NotConfidential("kvm"));
        }
        self.crew = None;
        self.vcpus.clear();
        let most = self.vm.max_vcpus();
        if count > most {
            return Err(KvmError::TooManyVcpus { wanted: count, most }.into());
        }
        let (supported, deadline_timer) = (self.vm.supported_cpuid()?, self.vm.has_deadline_timer());
        for id in 0..count {
            let cpuid = cpuid::for_guest(&supported, id, count, deadline_timer, self.paravirtual)?;
            let vcpu = self.vm.create_vcpu(id, &cpuid)?;
            firmware::prepare(&vcpu, id, cpuid::physical_bits(&cpuid))?;
            self.vcpus.push(SharedVcpu(Arc::new(Mutex::new(vcpu))));
        }
        // The others wait for a start-up IPI, as KVM creates them.
        self.set_state(0, boot)
    }

    fn run(&mut self, machine: &SharedMachine, until: Nanos) -> Result<Exit, EngineError> {
        let crew = match &mut self.crew {
            Some(crew) => crew,
            none => none.insert(Crew::start(&self.vcpus, &self.vm, machine, &self.kick)?),
        };
        Ok(crew.run(machine, until)?)
    }

    fn owns_interrupt_controllers(&self) -> bool {
        true
    }

    /// Time goes on by itself: an idle guest waits in the kernel.
    fn skip_to(&mut self, _: Nanos) {}

    /// The processor's own caches are none of the guest's business.
    fn drop_caches(&mut self, _: &SharedMachine) {}

    /// The state is the kernel's.
    fn fork(&self, _: Kick) -> Option<Box<dyn Engine>> {
        None
    }

    fn save(&self, _: &mut Saver) -> Result<(), EngineError> {
        Err(EngineError::CannotSave("KVM"))
    }

    fn kick(&self) -> Kick {
        self.kick.clone()
    }

    fn progress(&self) -> Progress {
        Progress { instructions: None, now: self.crew.as_ref().map_or(0, Crew::now) }
    }

    fn state(&self, cpu: u32) -> Result<CpuState, EngineError> {
        Ok(state::read(&*self.vcpu(cpu)?)?)
    }

    fn set_state(&mut self, cpu: u32, state: &CpuState) -> Result<(), EngineError> {
        Ok(state::write(&*self.vcpu(cpu)?, state)?)
    }
}
