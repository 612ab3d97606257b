//! What the machine's cache model and ledger find, looked into between two instructions.

use super::Machine;
use super::guest::KnownGuest;
use crate::findings::{Callers, Findings, Found, Frame, LINE, Raw, Scene, Task};
use crate::guest::{self, Registers};
use cache_model::{Agent, Config, EventKind, Finding, Geometry, Policy, Writer};

/// Most frames of a backtrace in a report.
const DEPTH: usize = 32;

impl Machine {
    /// Whether [`Machine::look_into_observations`] has something to do.
    #[must_use]
    pub fn has_observations(&self) -> bool {
        self.memory.has_found() || self.findings.has_observations()
    }

    /// Makes findings of what has been seen. `registers` are those of the vCPU that has just executed an instruction.
    pub fn look_into_observations(&mut self, registers: &Registers) {
        let seen = self.memory.cache.as_mut().map(|cache| cache.model_mut().take_findings());
        for finding in seen.unwrap_or_default().into_iter().filter(concerns_a_device) {
            self.findings.observe(Raw::Seen(Box::new(finding)));
        }
        self.observe_private_dma();
        for raw in self.findings.take_observations() {
            self.look_into(&raw, registers);
        }
    }

    fn look_into(&mut self, raw: &Raw, registers: &Registers) {
        let Some(config) = self.traced_cache() else { return };
        let (key, occurrence) = self.scene(config).weigh(raw);
        if self.findings.is_known(&key, || occurrence) {
            return;
        }
        let callers = match raw {
            Raw::Seen(finding) if matches!(finding.observer.agent, Agent::Cpu(_)) => self.callers(registers),
            _ => Callers::default(),
        };
        let found = self.scene(config).tell(raw, callers);
        self.findings.add(key, found);
    }

    /// What names and mappings are looked up in.
    fn scene(&self, config: Config) -> Scene<'_> {
        let guest = match &self.guest {
            KnownGuest::Found(guest) => Some(guest),
            _ => None,
        };
        Scene { guest, ledger: self.ledger.as_deref(), devices: &self.devices, config }
    }

    /// Where a vCPU with these registers is.
    fn callers(&mut self, registers: &Registers) -> Callers {
        let KnownGuest::Found(guest) = &mut self.guest else { return Callers::default() };
        let ram = &self.memory.ram;
        let frames = guest.backtrace(ram, registers, DEPTH);
        let named = |frame: &guest::Frame| Frame {
            address: frame.address,
            symbol: guest.resolve_frame(frame).map(|symbol| symbol.to_string()),
            guess: frame.how == guest::How::Guess,
        };
        let task = guest.task(ram, registers).map(|task| Task { pid: task.pid, name: task.comm });
        Callers { frames: frames.iter().map(named).collect(), task }
    }

    /// The cache that traces of findings are of: the machine's, or one of a line for rogue transactions.
    fn traced_cache(&self) -> Option<Config> {
        match &self.memory.cache {
            Some(cache) => Some(cache.model().config()),
            None => Config::new(Geometry::new(LINE, 1, 1).ok()?, Policy::Lru).ok(),
        }
    }

    /// What has been found so far.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Findings that nobody has been told of yet, if there are any.
    pub fn take_new_findings(&mut self) -> Option<Vec<Found>> {
        self.findings.has_new().then(|| self.findings.take_new())
    }

    /// Has [`Machine::take_new_findings`] begin anew.
    pub fn rewind_findings(&mut self) {
        self.findings.rewind();
    }
}

/// Whether it is of account to devices. What CPUs do to their own view of memory, through two memory types say, breaks no rule of
/// DMA; what an invalidation discards is lost to all.
fn concerns_a_device(finding: &Finding) -> bool {
    let device = |by: Writer| matches!(by.agent, Agent::Device(_));
    let line = &finding.line;
    let bypassed = |by: Option<Writer>| by.is_some_and(device);
    device(finding.observer)
        || line.timeline.iter().any(|event| event.kind == EventKind::Invalidate)
        || line.writers.iter().any(|run| device(run.writer))
        || line.timeline.iter().any(|event| event.kind == EventKind::BypassingWrite && bypassed(event.by))
}
