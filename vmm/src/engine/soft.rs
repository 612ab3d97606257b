//! The software engine: all vCPUs on one host thread, in a fixed quantum, deterministic.

use super::{Engine, EngineError, Exit, Kick, Progress};
use crate::boot::{CpuState, firmware};
use crate::machine::{Confidential, Machine, SharedMachine};
use devices::bus::Nanos;
use devices::state::{Loader, Saver, StateError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use x86_cpu::flags::bits;
use x86_cpu::{Activity, CodeCache, CodePages, Segment, SharedCode, Vcpu, World, seg};

/// Instructions that a vCPU runs before the next one has its turn. Short, since kernels wait for one another without PAUSE
/// as well.
const QUANTUM: u64 = 4_000;
/// Runs on end that retire nothing (exceptions only, or a REP without end) after which a vCPU has used up its turn: timers
/// and the other vCPUs go on.
const BARREN_RUNS: u32 = 16;
/// Instructions between looks at the outside world. Independent of the host, so that runs are alike.
const OUTSIDE_INTERVAL: u64 = 200_000;

/// The engine, with its vCPUs and decoded code. What is saved of it is all but the code.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SoftEngine {
    vcpus: Vec<Vcpu>,
    /// TSC adjustment of each vCPU that its local APIC's timer knows of.
    tsc_adjust: Vec<i64>,
    #[serde(skip)]
    code: CodeCache<Machine>,
    /// What forks of this engine have decoded.
    #[serde(skip)]
    decoded: Arc<SharedCode<Machine>>,
    #[serde(skip)]
    kick: Kick,
    now: Nanos,
    /// Virtual time skipped while idle.
    skipped: Nanos,
    /// The vCPU whose turn it is.
    turn: usize,
    /// Runs on end that retired nothing.
    barren: u32,
    /// When that turn is over at the latest.
    turn_end: Nanos,
}

/// What a vCPU's turn has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It can go on.
    Runnable,
    /// It cannot, or would rather not: PAUSE, HLT.
    Over,
    Shutdown,
}

impl SoftEngine {
    /// An engine without vCPUs that comes back when `kick` is raised.
    #[must_use]
    pub fn new(kick: Kick) -> Self {
        Self { kick, ..Self::default() }
    }

    /// The engine of a machine with `cpus` vCPUs as [`Engine::save`] has saved it.
    ///
    /// # Errors
    /// [`StateError`] if there is no such state.
    pub fn restore(cpus: u32, kick: Kick, from: &mut Loader<'_>) -> Result<Self, StateError> {
        let mut engine = Self { kick, ..from.take()? };
        engine.complete(cpus).map_err(|reason| StateError::unfit("vCPUs", reason))?;
        Ok(engine)
    }

    /// A vCPU with all of its state. Between calls of [`Engine::run`] it is between two instructions.
    ///
    /// # Errors
    /// [`EngineError::NoVcpu`].
    pub fn vcpu(&self, cpu: u32) -> Result<&Vcpu, EngineError> {
        self.vcpus.get(cpu as usize).ok_or(EngineError::NoVcpu(cpu))
    }

    /// Checks what was read and makes the vCPUs ready to run.
    fn complete(&mut self, cpus: u32) -> Result<(), &'static str> {
        let count = cpus as usize;
        if (self.vcpus.len(), self.tsc_adjust.len()) != (count, count) || self.turn >= count {
            return Err("they are not as many as the machine has");
        }
        if self.skipped > self.now || self.barren >= BARREN_RUNS {
            return Err("their clock is impossible");
        }
        for (vcpu, id) in self.vcpus.iter_mut().zip(0..) {
            if (vcpu.id, vcpu.count) != (id, cpus) {
                return Err("they are out of order");
            }
            vcpu.complete()?;
        }
        Ok(())
    }

    /// Gives the vCPU whose turn it is its quantum, ending at `limit` at the latest.
    fn run_turn(&mut self, machine: &mut Machine, limit: Nanos) -> Option<Turn> {
        let vcpu = self.vcpus.get_mut(self.turn)?;
        let (exit, now) = x86_cpu::run(vcpu, machine, &mut self.code, self.now, limit);
        self.now = now;
        if let Some(known) = self.tsc_adjust.get_mut(self.turn)
            && *known != vcpu.msr.tsc_adjust
        {
            *known = vcpu.msr.tsc_adjust;
            if let Some(apic) = machine.interrupts_mut().apic_mut(self.turn) {
                apic.set_tsc_offset(vcpu.msr.tsc_adjust as u64, now);
            }
        }
        Some(match exit {
            x86_cpu::Exit::Deadline | x86_cpu::Exit::Attention => Turn::Runnable,
            x86_cpu::Exit::Yield | x86_cpu::Exit::Halted | x86_cpu::Exit::WaitForSipi => Turn::Over,
            x86_cpu::Exit::Shutdown => Turn::Shutdown,
        })
    }

    /// Accounts for a run that retired nothing.
    fn spend_barren_run(&mut self) {
        self.barren += 1;
        if self.barren == BARREN_RUNS {
            self.barren = 0;
            self.skip_to(self.turn_end);
        }
    }

    /// Whether a vCPU has something to do: it runs, or what waits for it will wake it.
    fn is_runnable(&self, machine: &Machine, index: usize) -> bool {
        let Some(vcpu) = self.vcpus.get(index) else { return false };
        let interrupts = machine.interrupts();
        match vcpu.activity {
            Activity::Running => true,
            Activity::Halted => {
                let nmi = interrupts.apic(index).is_some_and(|apic| apic.nmi_pending());
                nmi && !vcpu.nmi_blocked
                    || vcpu.system_flags & bits::IF != 0 && interrupts.interrupt_pending(index)
            }
            Activity::WaitForSipi | Activity::Shutdown => false,
        }
    }

    /// Acts on INIT and start-up messages (SDM volume 3A, 9.4.1 and 11.6.1).
    fn take_startup(&mut self, machine: &mut Machine) {
        for (index, vcpu) in self.vcpus.iter_mut().enumerate() {
            let Some(apic) = machine.interrupts_mut().apic_mut(index) else { continue };
            if apic.take_init() {
                vcpu.init();
                if !apic.is_bootstrap() {
                    vcpu.activity = Activity::WaitForSipi;
                }
            }
            if let Some(vector) = apic.take_sipi()
                && vcpu.activity == Activity::WaitForSipi
            {
                vcpu.set_segment(seg::CS, Segment::real(u16::from(vector) << 8, true));
                vcpu.rip = 0;
                vcpu.activity = Activity::Running;
            }
        }
    }

    /// Has the machine look into what its cache model and its ledger have seen.
    fn show_findings(&self, machine: &mut Machine) {
        if machine.has_observations()
            && let Some(vcpu) = self.vcpus.get(self.turn)
        {
            machine.look_into_observations(&vcpu.into());
        }
    }

    /// Has the machine look for the kernel that runs in it once that has said where system calls enter it, if anybody wants to
    /// know.
    fn show_guest(&self, machine: &mut Machine) {
        if machine.wants_guest()
            && let Some(vcpu) = self.vcpus.iter().find(|vcpu| vcpu.msr.lstar != 0)
        {
            machine.find_guest(&vcpu.into());
        }
    }

    /// Whether an interrupt could ever wake a vCPU.
    fn can_be_woken(&self) -> bool {
        self.vcpus.iter().any(|vcpu| vcpu.activity == Activity::Halted && vcpu.system_flags & bits::IF != 0)
    }
}

impl Engine for SoftEngine {
    fn create_vcpus(
        &mut self,
        count: u32,
        boot: &CpuState,
        confidential: Option<Confidential>,
    ) -> Result<(), EngineError> {
        self.vcpus = (0..count).map(Vcpu::new).collect();
        self.tsc_adjust = vec![0; self.vcpus.len()];
        for vcpu in &mut self.vcpus {
            vcpu.count = count;
            vcpu.sev = confidential == Some(Confidential::Sev);
            vcpu.msr.mtrr = firmware::mtrrs();
            if vcpu.id != 0 {
                vcpu.activity = Activity::WaitForSipi;
            }
        }
        self.set_state(0, boot)
    }

    fn run(&mut self, machine: &SharedMachine, until: Nanos) -> Result<Exit, EngineError> {
        let machine = &mut *machine.lock();
        let outside = self.now.saturating_add(OUTSIDE_INTERVAL);
        loop {
            machine.advance(self.now);
            self.show_findings(machine);
            if let Some(request) = machine.take_power_request() {
                return Ok(Exit::Power(request));
            }
            if self.kick.take() {
                return Ok(Exit::Kicked);
            }
            if self.now >= until {
                return Ok(Exit::Deadline);
            }
            if self.now >= outside {
                return Ok(Exit::Output);
            }
            self.take_startup(machine);
            self.show_guest(machine);
            let count = self.vcpus.len();
            let mut next = (0..count).map(|offset| (self.turn + offset) % count);
            let Some(index) = next.find(|&index| self.is_runnable(machine, index)) else {
                return Ok(match machine.next_event() {
                    None if !self.can_be_woken() => Exit::Dead,
                    next => Exit::Idle(next),
                });
            };
            // Whatever interrupts a turn, it is the same turn until its quantum is used up.
            if index != self.turn || self.now >= self.turn_end {
                (self.turn, self.turn_end) = (index, self.now.saturating_add(QUANTUM));
            }
            let limit = machine.next_event().unwrap_or(Nanos::MAX).min(until).min(outside).min(self.turn_end);
            let mut turn = Turn::Runnable;
            while turn == Turn::Runnable && self.now < limit {
                let before = self.now;
                turn = self.run_turn(machine, limit).ok_or(EngineError::NoVcpu(index as u32))?;
                self.show_findings(machine);
                if self.now == before {
                    self.spend_barren_run();
                    break;
                }
                self.barren = 0;
                // An access may have moved the next event or asked for something: look before going on.
                if machine.needs_attention(limit) {
                    break;
                }
            }
            if turn == Turn::Shutdown {
                return Ok(Exit::Shutdown { cpu: index as u32 });
            }
            if turn == Turn::Over || self.now >= self.turn_end {
                (self.turn, self.turn_end) = ((index + 1) % count, self.now.saturating_add(QUANTUM));
            }
        }
    }

    fn owns_interrupt_controllers(&self) -> bool {
        false
    }

    fn skip_to(&mut self, to: Nanos) {
        self.skipped += to.saturating_sub(self.now);
        self.now = self.now.max(to);
    }

    fn drop_caches(&mut self, machine: &SharedMachine) {
        self.code.reset();
        *machine.lock().code_pages() = CodePages::default();
        self.vcpus.iter_mut().for_each(Vcpu::drop_caches);
    }

    fn fork(&self, kick: Kick) -> Option<Box<dyn Engine>> {
        Some(Box::new(Self {
            vcpus: self.vcpus.clone(),
            tsc_adjust: self.tsc_adjust.clone(),
            code: CodeCache::sharing(Arc::clone(&self.decoded)),
            decoded: Arc::clone(&self.decoded),
            kick,
            now: self.now,
            skipped: self.skipped,
            turn: self.turn,
            barren: self.barren,
            turn_end: self.turn_end,
        }))
    }

    fn save(&self, to: &mut Saver) -> Result<(), EngineError> {
        Ok(to.put(self)?)
    }

    fn kick(&self) -> Kick {
        self.kick.clone()
    }

    fn progress(&self) -> Progress {
        Progress { instructions: Some(self.now - self.skipped), now: self.now }
    }

    fn state(&self, cpu: u32) -> Result<CpuState, EngineError> {
        let vcpu = self.vcpu(cpu)?;
        let mut gpr = [0; 16];
        for (value, register) in gpr.iter_mut().zip(vcpu.gpr) {
            *value = register;
        }
        Ok(CpuState {
            gpr,
            rip: vcpu.rip,
            rflags: vcpu.rflags(),
            segments: vcpu.segs,
            ldtr: vcpu.ldtr,
            tr: vcpu.tr,
            gdtr: vcpu.gdtr,
            idtr: vcpu.idtr,
            cr0: vcpu.cr0,
            cr3: vcpu.cr3,
            cr4: vcpu.cr4,
            efer: vcpu.efer,
        })
    }

    fn set_state(&mut self, cpu: u32, state: &CpuState) -> Result<(), EngineError> {
        let vcpu = self.vcpus.get_mut(cpu as usize).ok_or(EngineError::NoVcpu(cpu))?;
        for (register, value) in vcpu.gpr.iter_mut().zip(state.gpr) {
            *register = value;
        }
        vcpu.rip = state.rip;
        (vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer) = (state.cr0, state.cr3, state.cr4, state.efer);
        (vcpu.ldtr, vcpu.tr, vcpu.gdtr, vcpu.idtr) = (state.ldtr, state.tr, state.gdtr, state.idtr);
        vcpu.cpl = state.segments[seg::SS].dpl();
        vcpu.set_rflags(state.rflags);
        for (index, segment) in state.segments.into_iter().enumerate() {
            vcpu.set_segment(index, segment);
        }
        vcpu.update_mode();
        vcpu.attention = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(engine: &SoftEngine) -> Vec<u8> {
        let mut saver = Saver::default();
        engine.save(&mut saver).unwrap();
        saver.into_bytes()
    }

    fn restored(engine: &SoftEngine, cpus: u32) -> Result<SoftEngine, StateError> {
        SoftEngine::restore(cpus, Kick::default(), &mut Loader::new(&saved(engine)))
    }

    #[test]
    fn a_state_that_no_engine_can_be_in_is_refused() {
        let engine = |change: fn(&mut SoftEngine)| {
            let vcpus = vec![Vcpu::new(0), Vcpu::new(1)];
            let mut engine = SoftEngine { vcpus, tsc_adjust: vec![0; 2], now: 1000, ..SoftEngine::default() };
            engine.vcpus.iter_mut().for_each(|vcpu| vcpu.count = 2);
            change(&mut engine);
            engine
        };
        let good = engine(|engine| engine.turn = 1);
        assert_eq!(saved(&restored(&good, 2).unwrap()), saved(&good));
        for (cpus, change) in [
            (1, (|_| {}) as fn(&mut SoftEngine)),
            (2, |engine| engine.turn = 2),
            (2, |engine| engine.skipped = 1001),
            (2, |engine| engine.barren = BARREN_RUNS),
            (2, |engine| engine.vcpus.swap(0, 1)),
            (2, |engine| engine.vcpus[1].count = 3),
            (2, |engine| engine.vcpus[1].cpl = 4),
            (2, |engine| engine.tsc_adjust.push(0)),
        ] {
            let error = restored(&engine(change), cpus).unwrap_err().to_string();
            assert!(error.starts_with("vCPUs: "), "{error}");
        }
    }
}
