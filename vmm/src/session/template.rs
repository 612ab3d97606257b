//! A guest that has been booted to its ready mark, and runs that go on from there.

use super::{Cause, Mark, Outcome, Output, Session, SessionConfig, SessionError, Work};
use crate::engine::{Exit, Kick};
use crate::guest::SymbolFile;
use crate::host::Host;
use crate::machine::{Machine, MachineConfig, SharedMachine};
use devices::bus::Nanos;
use std::sync::{Arc, Mutex, PoisonError};
use x86_cpu::SharedCode;

/// What a guest has sent up to its ready mark.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    pub console: Vec<u8>,
    pub channel: Vec<u8>,
}

impl Transcript {
    /// Most bytes that a guest may send before its ready mark.
    const LIMIT: usize = 16 << 20;

    pub(super) fn is_full(&self) -> bool {
        self.console.len() + self.channel.len() > Self::LIMIT
    }
}

/// Where a fork begins.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub transcript: Arc<Transcript>,
    /// How the engine came back with the mark.
    pub exit: Exit,
}

/// A machine at its guest's ready mark. It never runs again: each [`Template::fork`] goes on from a copy of it.
///
/// A fork's console, output, instruction count and virtual time are those of a run that boots by itself: both drop
/// translations and decoded code at the mark. RAM is shared until a fork writes to it, page by page.
#[derive(Debug)]
pub struct Template {
    /// Behind a lock since the machine's devices may move between threads, but not be used by two at once.
    pub(super) session: Mutex<Session>,
    pub(super) start: Start,
    /// What the machine was built from.
    pub(super) config: MachineConfig,
}

impl Template {
    /// Boots a guest to its ready mark. `config.work` is of no account; the initrd must have
    /// [`guest_images::work_archive`] in it for the guest to take work. What the guest sends goes to `output` on the way.
    ///
    /// # Errors
    /// [`SessionError`]; among them [`SessionError::NotReady`] if the guest, or an event on the host's side, ends the run
    /// before the mark, and [`SessionError::CannotFork`] if the engine's or a device's state cannot be had twice.
    pub fn boot(
        config: &SessionConfig,
        kick: Kick,
        host: Option<&Host>,
        output: &mut Output<'_>,
    ) -> Result<Self, SessionError> {
        // A guest that is told only later what to run must take it, too.
        let config = &SessionConfig { work: Some(Work::default()), ..config.clone() };
        let mut session = Session::new(config, kick)?;
        session.machine.lock().can_fork().map_err(SessionError::CannotFork)?;
        session
            .engine
            .fork(Kick::default())
            .ok_or(SessionError::CannotFork("its engine cannot copy vCPUs"))?;
        session.request.clear();
        session.transcript = Some(Transcript::default());
        let exit = loop {
            let (exit, ended) = session.advance(host, output)?;
            let ended =
                ended.or_else(|| if session.mark == Mark::Heard { None } else { session.handle(exit, host) });
            if let Some(cause) = ended {
                return Err(SessionError::NotReady(Box::new(session.outcome(Session::judge(cause, output)))));
            }
            if session.transcript.as_ref().is_some_and(Transcript::is_full) {
                return Err(SessionError::Talkative(Transcript::LIMIT));
            }
            if session.mark == Mark::Heard {
                break exit;
            }
        };
        session.pass_ready_mark();
        let transcript = Arc::new(session.transcript.take().unwrap_or_default());
        let start = Start { transcript, exit };
        Ok(Self { session: Mutex::new(session), start, config: config.machine.clone() })
    }

    /// What is told of the runs that go on from here, for a machine that was restored: names from `symbols`, if there are
    /// any, and with `records` the live mappings ([`crate::ledger::Report::records`]). Returns whether it has a ledger,
    /// without which it has neither.
    pub fn watch_with(&mut self, symbols: Option<Arc<SymbolFile>>, records: bool) -> bool {
        let session = self.session.get_mut().unwrap_or_else(PoisonError::into_inner);
        session.machine.lock().go_on_following(symbols, records)
    }

    /// A run that goes on from here with `work`, up to `deadline` in virtual time, which is counted from power-on; it looks
    /// outside soon after `kick` has been raised. May be called from any number of threads.
    ///
    /// # Errors
    /// [`SessionError::CannotFork`] if the deadline is not after the ready mark: a boot of its own would not have come to
    /// it; what the host has against it if it cannot map the fork's RAM.
    pub fn fork(&self, work: &Work, deadline: Option<Nanos>, kick: Kick) -> Result<Session, SessionError> {
        let template = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if deadline.is_some_and(|deadline| deadline <= template.engine.progress().now) {
            return Err(SessionError::CannotFork("its ready mark is not before the deadline"));
        }
        let mut machine = template.machine.lock().fork()?;
        machine.rewind_findings();
        let engine =
            template.engine.fork(kick).ok_or(SessionError::CannotFork("its engine cannot copy vCPUs"))?;
        let mut fork = Session {
            machine: SharedMachine::new(machine),
            engine,
            deadline: deadline.unwrap_or(Nanos::MAX),
            has_work: true,
            request: work.request(),
            seed: work.seed,
            mark: Mark::Heard,
            panic_end: template.panic_end,
            inputs: template.inputs.clone(),
            transcript: None,
            start: Some(self.start.clone()),
            kept: Vec::new(),
            pages_to: template.pages_to.clone(),
        };
        fork.pass_ready_mark();
        Ok(fork)
    }

    /// The template itself goes on, with `work` and up to `deadline`, after [`Template::boot`]: it is no template any more. The
    /// run needs the kick, and the output, that the boot was given.
    pub fn go_on(self, work: &Work, deadline: Option<Nanos>) -> Session {
        let session = self.session.into_inner().unwrap_or_else(PoisonError::into_inner);
        // The output has what the guest has sent so far.
        let start = Start { transcript: Arc::default(), exit: self.start.exit };
        let mut session = Session {
            deadline: deadline.unwrap_or(Nanos::MAX),
            request: work.request(),
            seed: work.seed,
            start: Some(start),
            ..session
        };
        session.pass_ready_mark();
        session
    }

    /// How the run ends if it does not go on.
    #[must_use]
    pub fn end(self, cause: Cause) -> Outcome {
        self.session.into_inner().unwrap_or_else(PoisonError::into_inner).outcome(cause)
    }

    /// Virtual time at the ready mark.
    #[must_use]
    pub fn virtual_nanos(&self) -> Nanos {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).engine.progress().now
    }

    /// Bytes of the host's memory that its RAM and what its forks have decoded take, as long as it or a fork is there.
    #[must_use]
    pub fn resident_memory(&self) -> u64 {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let ram = session.machine.lock().ram().resident();
        ram.saturating_add(SharedCode::<Machine>::MAX_MEMORY)
    }
}
