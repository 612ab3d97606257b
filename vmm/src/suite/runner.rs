//! Runs cases side by side: as many as there are cores for, and memory.

use super::artefacts::{Artefacts, CaseFolder};
use super::case::{Case, shell_line};
use super::judge::{self, Evidence};
use super::progress::Progress;
use super::results::{CaseResult, Ended, Verdict};
use crate::engine::Kick;
use crate::host::{Host, HostEvent};
use crate::session::Cause;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the VMM needs beyond guest RAM at most, bytes.
const OWN_MEMORY: u64 = 150 << 20;
/// How long an interruption or the end of a time limit may go unnoticed.
const GLANCE: Duration = Duration::from_millis(50);

/// Why a case cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The mirror does not have what it needs.
    Unavailable(String),
    Error(String),
}

/// Runs guests.
pub trait Launcher: Sync {
    /// The arguments of `staleline` that run `case`; what the guest needs is built first.
    ///
    /// # Errors
    /// [`Trouble`] if it cannot be had, or this version cannot do what is asked for.
    fn prepare(&self, case: &Case) -> Result<Vec<String>, Trouble>;

    /// Runs the guest to its end, or until `host` hears of one. How it ended goes to the file `status`.
    ///
    /// # Errors
    /// What is wrong, for people.
    fn run(&self, arguments: &[String], host: &Host, status: &Path) -> Result<Evidence, String>;
}

/// What the cases may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Cases side by side.
    pub jobs: usize,
    /// Bytes of memory for all of them; a case that needs more runs alone.
    pub memory: u64,
    /// Time of a case on the host.
    pub timeout: Option<Duration>,
}

/// A case that is running.
struct Running {
    since: Instant,
    host: Arc<Host>,
}

struct State {
    /// The next case.
    next: usize,
    /// Memory that is not promised to a case.
    free: u64,
    running: BTreeMap<usize, Running>,
    /// No case is begun any more.
    stopped: bool,
}

/// What workers share.
struct Shared<'a> {
    cases: &'a [(Case, Result<Vec<String>, Trouble>)],
    launcher: &'a dyn Launcher,
    artefacts: &'a Artefacts,
    progress: &'a dyn Progress,
    state: Mutex<State>,
    changed: Condvar,
}

/// Runs `cases` and returns what each has come to, in their order. `host` hears of signals: then the cases that run are ended,
/// and no other is begun.
#[must_use]
pub fn run(
    cases: Vec<Case>,
    prepared: Vec<Result<Vec<String>, Trouble>>,
    limits: Limits,
    launcher: &dyn Launcher,
    artefacts: &Artefacts,
    progress: &dyn Progress,
    host: &Host,
) -> Vec<CaseResult> {
    let cases: Vec<_> = cases.into_iter().zip(prepared).collect();
    let state = State { next: 0, free: limits.memory, running: BTreeMap::new(), stopped: false };
    let shared = Shared {
        cases: &cases,
        launcher,
        artefacts,
        progress,
        state: Mutex::new(state),
        changed: Condvar::new(),
    };
    let mut results: Vec<Option<CaseResult>> = cases.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        for _ in 0..limits.jobs.clamp(1, cases.len().max(1)) {
            let sender = sender.clone();
            let shared = &shared;
            scope.spawn(move || shared.work(&sender));
        }
        drop(sender);
        loop {
            match receiver.recv_timeout(GLANCE) {
                Ok((at, result)) => {
                    progress.ended(&result);
                    if let Some(place) = results.get_mut(at) {
                        *place = Some(result);
                    }
                }
                Err(RecvTimeoutError::Timeout) => shared.glance(host, limits.timeout),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    let not_run = |case: &Case| result(case, Verdict::NotRun, Some("interrupted".into()));
    results
        .into_iter()
        .zip(&cases)
        .map(|(result, (case, _))| result.unwrap_or_else(|| not_run(case)))
        .collect()
}

/// A result of which nothing more is known.
fn result(case: &Case, verdict: Verdict, reason: Option<String>) -> CaseResult {
    CaseResult {
        id: case.id.clone(),
        seed: case.seed,
        cell: case.cell.at.clone(),
        verdict,
        reason,
        checks: Vec::new(),
        ended: None,
        command: None,
        artefacts: None,
    }
}

impl Shared<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what comes from outside.
    fn glance(&self, host: &Host, timeout: Option<Duration>) {
        let mut state = self.state();
        if let Some(event) = host.inbox().event() {
            state.stopped = true;
            state.running.values().for_each(|case| case.host.inbox().post(event));
            self.changed.notify_all();
        }
        if let Some(limit) = timeout {
            let late = state.running.values().filter(|case| case.since.elapsed() >= limit);
            late.for_each(|case| case.host.inbox().post(HostEvent::Timeout));
        }
    }

    /// Takes cases, in their order, as long as there are any.
    fn work(&self, results: &Sender<(usize, CaseResult)>) {
        while let Some((at, need)) = self.take() {
            let Some((case, prepared)) = self.cases.get(at) else { return };
            let result = match prepared {
                Ok(arguments) => self.run_case(at, case, arguments),
                Err(Trouble::Unavailable(reason)) => result(case, Verdict::Unavailable, Some(reason.clone())),
                Err(Trouble::Error(reason)) => result(case, Verdict::Error, Some(reason.clone())),
            };
            let mut state = self.state();
            state.running.remove(&at);
            state.free = state.free.saturating_add(need);
            drop(state);
            self.changed.notify_all();
            if results.send((at, result)).is_err() {
                return;
            }
        }
    }

    /// The next case and the memory promised to it. Waits until there is enough, or nothing else runs.
    fn take(&self) -> Option<(usize, u64)> {
        let mut state = self.state();
        loop {
            let at = state.next;
            let (case, prepared) = self.cases.get(at).filter(|_| !state.stopped)?;
            let need = if prepared.is_ok() { case.memory().saturating_add(OWN_MEMORY) } else { 0 };
            if need <= state.free || state.running.is_empty() {
                let need = need.min(state.free);
                state.next += 1;
                state.free -= need;
                match Host::remote(Kick::default()) {
                    Ok(host) => {
                        let running = Running { since: Instant::now(), host: Arc::new(host) };
                        state.running.insert(at, running);
                    }
                    Err(error) => log::error!("{}: {error}", case.id),
                }
                return Some((at, need));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run_case(&self, at: usize, case: &Case, arguments: &[String]) -> CaseResult {
        let host = self.state().running.get(&at).map(|running| Arc::clone(&running.host));
        let Some(host) = host else {
            return result(case, Verdict::Error, Some("the host gives no descriptors".into()));
        };
        let command = shell_line(arguments);
        self.progress.begins(&case.id);
        let folder = match self.artefacts.begin(&case.id, &command) {
            Ok(folder) => folder,
            Err(error) => {
                return result(case, Verdict::Error, Some(format!("artefacts of {}: {error}", case.id)));
            }
        };
        let status = folder.file("status.json");
        // A defect of this program ends one case, not the suite.
        let ran = catch_unwind(AssertUnwindSafe(|| self.launcher.run(arguments, &host, &status)));
        let ran =
            ran.unwrap_or_else(|_| Err("staleline itself has failed (a panic; see standard error)".into()));
        let mut judged = match ran {
            Ok(evidence) => judged(case, &evidence, &folder),
            Err(reason) => result(case, Verdict::Error, Some(reason)),
        };
        judged.command = Some(command);
        match folder.end(&judged.problems()) {
            Ok(kept) => judged.artefacts = kept,
            Err(error) => log::error!("artefacts of {}: {error}", case.id),
        }
        judged
    }
}

/// What a run that has ended comes to.
fn judged(case: &Case, evidence: &Evidence, folder: &CaseFolder<'_>) -> CaseResult {
    let scenario = &case.scenario;
    let expected = scenario.expectation(&case.cell);
    let steps = scenario.steps.iter().map(|step| step.expectation(&case.cell).map(|one| (step, one)));
    let (expected, steps) = match (expected, steps.collect::<Result<Vec<_>, _>>()) {
        (Ok(expected), Ok(steps)) => (expected, steps),
        (Err(reason), _) | (_, Err(reason)) => return result(case, Verdict::Error, Some(reason)),
    };
    let checks = judge::judge(&expected, &steps, evidence);
    let cause = &evidence.outcome.cause;
    let holds = checks.iter().all(|check| check.problems.is_empty());
    let (verdict, reason) = match cause {
        Cause::Interrupted(_) | Cause::Left => (Verdict::NotRun, Some("interrupted".to_owned())),
        _ if holds => (Verdict::Passed, None),
        Cause::Deadline => (
            Verdict::TimedOut,
            Some(format!("its deadline of {} virtual seconds has passed", scenario.deadline.0)),
        ),
        Cause::Timeout => (Verdict::TimedOut, Some("it took longer than --timeout".to_owned())),
        _ => (Verdict::Failed, None),
    };
    let mut judged = result(case, verdict, reason);
    judged.checks = checks;
    judged.ended = Some(Ended {
        cause: cause.name().to_owned(),
        status: evidence.status,
        instructions: evidence.outcome.instructions,
        virtual_nanos: evidence.outcome.virtual_nanos,
    });
    if let Err(error) = folder.write(evidence) {
        log::error!("artefacts of {}: {error}", case.id);
    }
    judged
}
