//! A run of all vCPUs: their threads, and the owner's thread that keeps time for the devices meanwhile.

use super::bus::Bus;
use super::error::KvmError;
use super::gate::{Gate, Stop};
use super::vcpu::VcpuThread;
use super::{SharedVcpu, Vm};
use crate::engine::{Exit, Kick, kick_signal};
use crate::machine::SharedMachine;
use devices::bus::Nanos;
use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED};
use std::sync::Arc;
use std::time::Duration;
use x86_cpu::flags::bits;

/// Time in which serial output gathers before it is passed on.
const OUTPUT_DELAY: Nanos = 2_000_000;
/// How long the vCPUs run before the owner looks outside. Those that have made no access meanwhile may be dead.
const INTERVAL: Nanos = 100_000_000;

/// The threads of a machine's vCPUs, all paused between calls of [`Crew::run`].
#[derive(Debug)]
pub(super) struct Crew {
    gate: Arc<Gate>,
    bus: Arc<Bus>,
    kick: Kick,
    threads: Vec<VcpuThread>,
    vcpus: Vec<SharedVcpu>,
}

impl Crew {
    /// Starts the threads; time begins.
    pub(super) fn start(
        vcpus: &[SharedVcpu],
        vm: &Vm,
        machine: &SharedMachine,
        kick: &Kick,
    ) -> Result<Self, KvmError> {
        kick_signal::register().map_err(KvmError::call("a handler for the kick signal"))?;
        let mut crew = Self {
            gate: Arc::default(),
            bus: Arc::new(Bus::new(machine, vm.controllers(), kick)),
            kick: kick.clone(),
            threads: Vec::new(),
            vcpus: vcpus.to_vec(),
        };
        for (cpu, vcpu) in (0..).zip(vcpus) {
            crew.threads.push(VcpuThread::start(cpu, vcpu, vm, &crew.bus, &crew.gate)?);
        }
        Ok(crew)
    }

    /// Virtual time.
    pub(super) fn now(&self) -> Nanos {
        self.bus.now()
    }

    /// Runs the vCPUs until `until`, or until something needs the owner.
    pub(super) fn run(&mut self, machine: &SharedMachine, until: Nanos) -> Result<Exit, KvmError> {
        self.resume();
        let ended = self.keep_time(machine, until);
        self.pause();
        // A stop that came while pausing counts: its thread would not run again.
        match (ended, self.gate.take_stop()) {
            (Ok(_), Some(stop)) => stopped(stop),
            (ended, _) => ended,
        }
    }

    fn resume(&mut self) {
        for thread in &mut self.threads {
            thread.set_immediate_exit(false);
        }
        self.gate.open();
    }

    fn pause(&mut self) {
        self.gate.close();
        self.interrupt();
        self.gate.wait_empty();
    }

    fn interrupt(&mut self) {
        for thread in &mut self.threads {
            thread.set_immediate_exit(true);
            thread.interrupt();
        }
    }

    /// Has devices' events happen at their time while the vCPUs run.
    fn keep_time(&mut self, machine: &SharedMachine, until: Nanos) -> Result<Exit, KvmError> {
        let mut output_due: Option<Nanos> = None;
        let (seen, look_at) = (self.bus.accesses(), self.now().saturating_add(INTERVAL));
        loop {
            let now = self.now();
            let next_event = {
                let mut machine = machine.lock();
                machine.advance(now);
                self.bus.pass_on(&mut machine)?;
                if let Some(request) = machine.take_power_request() {
                    return Ok(Exit::Power(request));
                }
                if machine.has_serial_output() {
                    output_due.get_or_insert(now.saturating_add(OUTPUT_DELAY));
                }
                let next_event = machine.next_event();
                // Said while no vCPU can make an access: one that comes later sees it and rings if need be.
                self.bus.plan(next_event.unwrap_or(Nanos::MAX));
                next_event
            };
            if let Some(stop) = self.gate.take_stop() {
                return stopped(stop);
            }
            if self.kick.take() {
                return Ok(Exit::Kicked);
            }
            if now >= until {
                return Ok(Exit::Deadline);
            }
            if output_due.is_some_and(|due| now >= due) {
                return Ok(Exit::Output);
            }
            if now >= look_at {
                let silent = self.bus.accesses() == seen && next_event.is_none();
                return Ok(if silent && self.is_dead()? { Exit::Dead } else { Exit::Output });
            }
            let wake = [next_event, output_due].into_iter().flatten().fold(until.min(look_at), Nanos::min);
            self.kick.wait(Duration::from_nanos(wake.saturating_sub(self.now())));
        }
    }

    /// Pauses the vCPUs and looks whether none can ever run again: all are halted with interrupts off, or wait for a
    /// start-up IPI.
    fn is_dead(&mut self) -> Result<bool, KvmError> {
        self.pause();
        let mut dead = true;
        for vcpu in &self.vcpus {
            let vcpu = vcpu.lock();
            let state = vcpu.get_mp_state().map_err(KvmError::call("KVM_GET_MP_STATE"))?.mp_state;
            dead &= match state {
                KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => true,
                KVM_MP_STATE_HALTED => {
                    let flags = vcpu.get_regs().map_err(KvmError::call("KVM_GET_REGS"))?.rflags;
                    let events = vcpu.get_vcpu_events().map_err(KvmError::call("KVM_GET_VCPU_EVENTS"))?;
                    flags & bits::IF == 0 && events.nmi.pending == 0
                }
                _ => false,
            };
        }
        Ok(dead)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.gate.end();
        self.interrupt();
        for thread in &mut self.threads {
            thread.join();
        }
    }
}

fn stopped(stop: Stop) -> Result<Exit, KvmError> {
    match stop {
        Stop::Shutdown(cpu) => Ok(Exit::Shutdown { cpu }),
        Stop::Failed(error) => Err(error),
    }
}
