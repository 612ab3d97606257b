//! The thread of a vCPU.

use super::bus::Bus;
use super::error::KvmError;
use super::exits::{self, Next};
use super::gate::{Gate, Stop};
use super::{SharedVcpu, Vm};
use crate::engine::kick_signal;
use crate::memory::GuestRam;
use kvm_ioctls::KvmRunWrapper;
use std::sync::Arc;
use std::thread::JoinHandle;
use vmm_sys_util::signal::Killable;

/// A vCPU's thread, seen from the engine.
#[derive(Debug)]
pub(super) struct VcpuThread {
    thread: Option<JoinHandle<()>>,
    /// The engine's own mapping of the page shared with KVM: of it only `immediate_exit` is written here, and nowhere else.
    run_page: KvmRunWrapper,
}

impl VcpuThread {
    /// Starts the thread, which waits at `gate`.
    pub(super) fn start(
        cpu: u32,
        vcpu: &SharedVcpu,
        vm: &Vm,
        bus: &Arc<Bus>,
        gate: &Arc<Gate>,
    ) -> Result<Self, KvmError> {
        let run_size = vm.run_size();
        let mapped = KvmRunWrapper::mmap_from_fd(&*vcpu.lock(), run_size);
        let run_page = mapped.map_err(KvmError::call("a mapping of the vCPU's page"))?;
        let body = Body {
            cpu,
            vcpu: vcpu.clone(),
            run_size,
            ram: vm.ram().clone(),
            bus: Arc::clone(bus),
            gate: Arc::clone(gate),
        };
        let builder = std::thread::Builder::new().name(format!("vcpu{cpu}"));
        let thread = builder.spawn(move || body.run()).map_err(KvmError::Thread)?;
        Ok(Self { thread: Some(thread), run_page })
    }

    /// Whether the next KVM_RUN, or the present one once a signal comes, ends at once.
    pub(super) fn set_immediate_exit(&mut self, on: bool) {
        self.run_page.as_mut_ref().immediate_exit = u8::from(on);
    }

    /// Has the thread come back from KVM_RUN soon. With `immediate_exit` set before, no moment is missed: KVM looks at it
    /// on entry, and a signal ends what has been entered.
    pub(super) fn interrupt(&self) {
        if let Some(thread) = &self.thread
            && let Err(error) = thread.kill(kick_signal::number())
        {
            log::error!("a vCPU's thread cannot be signalled: {error}");
        }
    }

    /// Waits for the thread's end, which has been ordered.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a vCPU's thread has panicked");
        }
    }
}

/// What the thread works with.
struct Body {
    cpu: u32,
    vcpu: SharedVcpu,
    run_size: usize,
    ram: GuestRam,
    bus: Arc<Bus>,
    gate: Arc<Gate>,
}

/// Says at the gate that the vCPU does not run any more, also if its thread panics.
struct Inside<'a> {
    body: &'a Body,
    stop: Option<Stop>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stop = Some(Stop::Failed(KvmError::Panicked(self.body.cpu)));
        }
        let stopped = self.stop.is_some();
        self.body.gate.leave(self.stop.take());
        if stopped {
            self.body.bus.ring();
        }
    }
}

impl Body {
    fn run(&self) {
        while self.gate.enter() {
            let mut inside = Inside { body: self, stop: None };
            inside.stop = self.run_inside();
        }
    }

    /// Runs the vCPU until it stops or the gate closes.
    fn run_inside(&self) -> Option<Stop> {
        let mut vcpu = self.vcpu.lock();
        loop {
            match exits::run_once(self.cpu, &mut vcpu, self.run_size, &self.ram, &self.bus) {
                // A pause comes with `immediate_exit` set: the next KVM_RUN first completes the access, then returns.
                Ok(Next::Enter) => {}
                Ok(Next::Look) if self.gate.is_open() => {}
                Ok(Next::Look) => return None,
                Ok(Next::Wait) => {
                    self.gate.close();
                    return None;
                }
                Ok(Next::Shutdown) => return Some(Stop::Shutdown(self.cpu)),
                Err(error) => return Some(Stop::Failed(error)),
            }
        }
    }
}
