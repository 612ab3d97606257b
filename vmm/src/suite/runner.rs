//! Runs cases side by side: as many as there are cores for, and memory. Guests that several cases have in common are booted
//! once, and each case goes on from there.

use super::artefacts::{Artefacts, CaseFolder, Stream};
use super::case::{Case, shell_line};
use super::judge::{self, Evidence, Outcomes};
use super::progress::Progress;
use super::results::{CaseResult, Ended, Verdict};
use super::schedule::{Demand, Job, Next, Schedule};
use super::text::Text;
use crate::engine::Kick;
use crate::host::{Host, HostEvent};
use crate::session::{Cause, MemoryRange, Outcome};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use toml::Spanned;

/// How long an interruption or the end of a time limit may go unnoticed.
const GLANCE: Duration = Duration::from_millis(50);

/// Why a case cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The mirror does not have what it needs.
    Unavailable(String),
    Error(String),
}

/// How a case is run.
#[derive(Debug, Clone)]
pub struct Line {
    /// The arguments of `staleline`.
    pub arguments: Vec<String>,
    /// Cases with the same here can be forked from one boot; none if it boots by itself.
    pub boot: Option<Vec<String>>,
    /// Bytes of the guest's RAM.
    pub ram: u64,
    /// What of RAM is kept at the end.
    pub memory: Vec<MemoryRange>,
}

/// How a boot for several cases has ended.
#[derive(Debug)]
pub enum Boot<B> {
    /// They go on from it, and it takes this many bytes of memory for as long.
    Kept(B, u64),
    /// Each has to boot by itself, and why.
    Alone(String),
}

/// How a case's run has ended.
#[derive(Debug)]
pub struct Ran {
    pub outcome: Outcome,
    /// Exit status that `staleline run` has for it.
    pub status: u8,
    /// It went on from a boot that it shares with other cases.
    pub forked: bool,
}

/// Where a guest's streams go: its console, and the output of what it was told to run.
pub struct Streams<'a> {
    pub console: &'a mut dyn Write,
    pub output: &'a mut dyn Write,
}

impl std::fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

/// Files that a run writes for those who look into it.
#[derive(Debug, Clone)]
pub struct Files {
    /// As `--status`.
    pub status: PathBuf,
    /// As `--findings`; the traces are beside it.
    pub findings: PathBuf,
}

/// Runs guests.
pub trait Launcher: Sync {
    /// A guest that has been booted for several cases.
    type Booted: Send + Sync;

    /// How `case` is run; what the guest needs is built first.
    ///
    /// # Errors
    /// [`Trouble`] if it cannot be had, or this version cannot do what is asked for.
    fn prepare(&self, case: &Case) -> Result<Line, Trouble>;

    /// Boots the guest of a case, for others as well whose [`Line::boot`] is the same and whose deadline is not later.
    ///
    /// # Errors
    /// What is wrong, for people: with each of the cases.
    fn boot(
        &self,
        arguments: &[String],
        host: &Host,
        streams: Streams<'_>,
    ) -> Result<Boot<Self::Booted>, String>;

    /// Runs a guest to its end, or until `host` hears of one. How it ended, and what was found, goes to `files`. If there is a
    /// boot to go on from, then what is sent and how it ends is as if there were none.
    ///
    /// # Errors
    /// What is wrong, for people.
    fn run(
        &self,
        line: &Line,
        booted: Option<&Self::Booted>,
        host: &Host,
        streams: Streams<'_>,
        files: &Files,
    ) -> Result<Ran, String>;
}

/// What the cases may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Cases side by side.
    pub jobs: usize,
    /// Bytes of memory for all of them; a case that needs more runs alone.
    pub memory: u64,
    /// Time of a case, and of a boot for several, on the host.
    pub timeout: Option<Duration>,
}

/// Something that is going on.
struct Running {
    since: Instant,
    host: Arc<Host>,
}

struct State {
    schedule: Schedule,
    running: BTreeMap<Job, Running>,
}

/// A boot for several cases, or what was wrong with it.
type Shared<B> = Result<B, Failed>;

/// A boot that has failed on the host's side.
struct Failed {
    reason: String,
    /// What the guest had said by then.
    console: Vec<u8>,
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self { reason, console: Vec::new() }
    }
}

/// What workers have in common.
struct Workers<'a, L: Launcher> {
    cases: &'a [(Case, Result<Line, Trouble>)],
    launcher: &'a L,
    artefacts: &'a Artefacts,
    progress: &'a dyn Progress,
    state: Mutex<State>,
    changed: Condvar,
    /// By group of the schedule.
    boots: Mutex<BTreeMap<usize, Arc<Shared<L::Booted>>>>,
}

/// A case of those given has ended.
struct CaseEnded {
    at: usize,
    result: CaseResult,
    forked: bool,
}

/// Runs cases and returns what each has come to, in their order. `host` hears of signals: then what runs is ended, and
/// nothing else is begun.
#[must_use]
pub fn run<L: Launcher>(
    cases: Vec<(Case, Result<Line, Trouble>)>,
    limits: Limits,
    launcher: &L,
    artefacts: &Artefacts,
    progress: &dyn Progress,
    host: &Host,
) -> Vec<CaseResult> {
    let demands = cases.iter().map(|(_, line)| match line {
        Ok(line) => Demand { memory: line.ram, boot: line.boot.as_deref() },
        Err(_) => Demand { memory: 0, boot: None },
    });
    let state = State { schedule: Schedule::new(demands, limits.memory), running: BTreeMap::new() };
    let workers = Workers {
        cases: &cases,
        launcher,
        artefacts,
        progress,
        state: Mutex::new(state),
        changed: Condvar::new(),
        boots: Mutex::default(),
    };
    let mut results: Vec<Option<CaseResult>> = cases.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        for _ in 0..limits.jobs.clamp(1, cases.len().max(1)) {
            let sender = sender.clone();
            let workers = &workers;
            scope.spawn(move || workers.work(&sender));
        }
        drop(sender);
        let mut glanced = Instant::now();
        loop {
            match receiver.recv_timeout(GLANCE) {
                Ok(CaseEnded { at, result, forked }) => {
                    progress.ended(&result, forked);
                    if let Some(place) = results.get_mut(at) {
                        *place = Some(result);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // Also while one short case follows the other.
            if glanced.elapsed() >= GLANCE {
                workers.glance(host, limits.timeout);
                glanced = Instant::now();
            }
        }
    });
    results
        .into_iter()
        .zip(&cases)
        .map(|(result, (case, _))| result.unwrap_or_else(|| not_run(case)))
        .collect()
}

/// The result of a case that the suite has not come to.
#[must_use]
pub fn not_run(case: &Case) -> CaseResult {
    result(case, Verdict::NotRun, Some("interrupted".into()))
}

/// A result of which nothing more is known.
fn result(case: &Case, verdict: Verdict, reason: Option<String>) -> CaseResult {
    let expected = case.scenario.expectation(&case.cell).unwrap_or_default();
    let stated = |text: Option<&Spanned<Text>>| text.map(|text| text.get_ref().0.clone());
    CaseResult {
        id: case.id.clone(),
        seed: case.seed,
        cell: case.cell.at.clone(),
        verdict,
        reason,
        checks: Vec::new(),
        outcome: None,
        expected_outcome: stated(expected.outcome.as_ref()),
        why: stated(expected.why.as_ref()),
        ended: None,
        command: None,
        artefacts: None,
    }
}

impl<L: Launcher> Workers<'_, L> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn boots(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<Shared<L::Booted>>>> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn case(&self, at: usize) -> Option<(&Case, &Result<Line, Trouble>)> {
        self.cases.get(at).map(|(case, line)| (case, line))
    }

    /// Looks at what comes from outside.
    fn glance(&self, host: &Host, timeout: Option<Duration>) {
        let mut state = self.state();
        if let Some(event) = host.inbox().event() {
            state.schedule.stop();
            state.running.values().for_each(|running| running.host.inbox().post(event));
            self.changed.notify_all();
        }
        if let Some(limit) = timeout {
            let late = state.running.values().filter(|running| running.since.elapsed() >= limit);
            late.for_each(|running| running.host.inbox().post(HostEvent::Timeout));
        }
    }

    /// Does what there is to do, until there is nothing.
    fn work(&self, results: &Sender<CaseEnded>) {
        while let Some((job, host)) = self.take() {
            match job {
                Job::Boot(group) => self.boot(group, host),
                Job::Case(at) => {
                    let ended = self.end_case(at, host);
                    if let Some(ended) = ended
                        && results.send(ended).is_err()
                    {
                        return;
                    }
                }
            }
            self.changed.notify_all();
        }
    }

    /// The next piece of work, and the side from which it can be ended. Waits as long as there may be some later.
    fn take(&self) -> Option<(Job, io::Result<Arc<Host>>)> {
        let mut state = self.state();
        loop {
            match state.schedule.next() {
                Next::Do(job) => {
                    let host = Host::remote(Kick::default()).map(Arc::new);
                    if let Ok(host) = &host {
                        let running = Running { since: Instant::now(), host: Arc::clone(host) };
                        state.running.insert(job, running);
                    }
                    return Some((job, host));
                }
                Next::Wait => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Next::Done => return None,
            }
        }
    }

    /// Boots the guest of a group of cases.
    fn boot(&self, group: usize, host: io::Result<Arc<Host>>) {
        let cases = self.state().schedule.cases(group).to_vec();
        let cases = cases.iter().filter_map(|&at| match self.case(at) {
            Some((case, Ok(line))) => Some((case, line)),
            _ => None,
        });
        let booted = match host {
            Ok(host) => self.boot_for(&cases.collect::<Vec<_>>(), &host),
            Err(error) => Some((Err(no_descriptors(&error).into()), 0)),
        };
        let held = booted.as_ref().map_or(0, |(_, memory)| *memory);
        if let Some((shared, _)) = booted {
            self.boots().insert(group, Arc::new(shared));
        }
        let mut state = self.state();
        state.running.remove(&Job::Boot(group));
        state.schedule.booted(group, held);
    }

    /// Boots the guest that `cases` have in common. Returns it, and the memory that it takes; none if each has to boot by
    /// itself.
    fn boot_for(&self, cases: &[(&Case, &Line)], host: &Host) -> Option<(Shared<L::Booted>, u64)> {
        let (first, _) = cases.first()?;
        // Up to the latest of their deadlines.
        let latest = cases.iter().max_by(|(one, _), (other, _)| one.deadline().total_cmp(&other.deadline()));
        let (_, line) = latest?;
        self.progress.boots(first.place(), cases.len());
        // If this program ends before the boot, then the first case has what it has said by then.
        let folder = self.artefacts.begin(&first.id, &shell_line(&line.arguments));
        let ran = match folder {
            Ok(folder) => {
                let (mut console, mut output) = (folder.stream("console"), folder.stream("output"));
                let streams = Streams { console: &mut console, output: &mut output };
                let ran = guard(|| self.launcher.boot(&line.arguments, host, streams));
                ran.map_err(|reason| Failed { reason, console: console.into_bytes().0 })
            }
            // The case itself says so as well.
            Err(error) => Err(format!("artefacts of {}: {error}", first.id).into()),
        };
        self.progress.booted(first.place());
        match ran {
            Ok(Boot::Kept(booted, memory)) => Some((Ok(booted), memory)),
            Ok(Boot::Alone(reason)) => {
                log::debug!("{}: each case boots by itself: {reason}", first.place());
                None
            }
            Err(failed) => Some((Err(failed), 0)),
        }
    }

    /// Runs a case to its end, and lets go of the boot that it is the last to need.
    fn end_case(&self, at: usize, host: io::Result<Arc<Host>>) -> Option<CaseEnded> {
        let (case, line) = self.case(at)?;
        let (result, forked) = match (line, host) {
            (Ok(line), Ok(host)) => {
                let group = self.state().schedule.group_of(at);
                let boot = group.and_then(|group| self.boots().get(&group).cloned());
                self.run_case(case, line, boot.as_deref(), &host)
            }
            (Ok(_), Err(error)) => (result(case, Verdict::Error, Some(no_descriptors(&error))), false),
            (Err(Trouble::Unavailable(reason)), _) => {
                (result(case, Verdict::Unavailable, Some(reason.clone())), false)
            }
            (Err(Trouble::Error(reason)), _) => (result(case, Verdict::Error, Some(reason.clone())), false),
        };
        let mut state = self.state();
        state.running.remove(&Job::Case(at));
        let over = state.schedule.ended(at);
        drop(state);
        if let Some(group) = over {
            // First the memory, then the promise.
            let boot = self.boots().remove(&group);
            drop(boot);
            self.state().schedule.release(group);
        }
        Some(CaseEnded { at, result, forked })
    }

    fn run_case(
        &self,
        case: &Case,
        line: &Line,
        boot: Option<&Shared<L::Booted>>,
        host: &Host,
    ) -> (CaseResult, bool) {
        let command = shell_line(&line.arguments);
        self.progress.begins(&case.id);
        let folder = match self.artefacts.begin(&case.id, &command) {
            Ok(folder) => folder,
            Err(error) => {
                let reason = format!("artefacts of {}: {error}", case.id);
                return (result(case, Verdict::Error, Some(reason)), false);
            }
        };
        let (mut console, mut output) = (folder.stream("console"), folder.stream("output"));
        let files = Files { status: folder.file("status.json"), findings: folder.file("findings.jsonl") };
        let ran = match boot.map(Result::as_ref).transpose() {
            Ok(booted) => {
                let streams = Streams { console: &mut console, output: &mut output };
                guard(|| self.launcher.run(line, booted, host, streams, &files))
            }
            Err(Failed { reason, console: said }) => {
                console.write_all(said).map_err(|error| error.to_string()).and(Err(reason.clone()))
            }
        };
        let forked = ran.as_ref().is_ok_and(|ran| ran.forked);
        let mut judged = match ran {
            Ok(ran) => judged(case, &evidence(ran, console, output)),
            Err(reason) => result(case, Verdict::Error, Some(reason)),
        };
        judged.command = Some(command);
        judged.artefacts = kept(folder, &judged);
        (judged, forked)
    }
}

/// A defect of this program ends one piece of work, not the suite.
fn guard<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("staleline itself has failed (a panic; see standard error)".into()))
}

fn no_descriptors(error: &io::Error) -> String {
    format!("the host gives no descriptors: {error}")
}

fn evidence(ran: Ran, console: Stream, output: Stream) -> Evidence {
    let ((console, more_console), (output, more_output)) = (console.into_bytes(), output.into_bytes());
    let overflowed = more_console || more_output;
    Evidence { outcome: ran.outcome, status: ran.status, console, output, overflowed }
}

/// Where the artefacts are that are kept of a case.
fn kept(folder: CaseFolder<'_>, judged: &CaseResult) -> Option<PathBuf> {
    folder.end(&judged.problems()).unwrap_or_else(|error| {
        log::error!("artefacts of {}: {error}", judged.id);
        None
    })
}

/// What a run that has ended comes to.
fn judged(case: &Case, evidence: &Evidence) -> CaseResult {
    let scenario = &case.scenario;
    let expected = scenario.expectation(&case.cell);
    let steps = scenario.steps.iter().map(|step| step.expectation(&case.cell).map(|one| (step, one)));
    let (expected, steps) = match (expected, steps.collect::<Result<Vec<_>, _>>()) {
        (Ok(expected), Ok(steps)) => (expected, steps),
        (Err(wrong), _) | (_, Err(wrong)) => return result(case, Verdict::Error, Some(wrong.to_string())),
    };
    let outcomes = Outcomes { rules: &scenario.outcomes, cell: &case.cell };
    let (checks, outcome) = judge::judge(&expected, &steps, outcomes, evidence);
    let cause = &evidence.outcome.cause;
    let holds = checks.iter().all(|check| check.problems.is_empty());
    let never_ready = case.has_mark() && !evidence.outcome.ready;
    let early = if never_ready { " before the guest's ready mark" } else { "" };
    let (verdict, reason) = match cause {
        Cause::Interrupted(_) | Cause::Left => (Verdict::NotRun, Some("interrupted".to_owned())),
        _ if holds => (Verdict::Passed, None),
        Cause::Deadline => (
            Verdict::TimedOut,
            Some(format!("its deadline of {} virtual seconds has passed{early}", scenario.deadline.0)),
        ),
        Cause::Timeout => (Verdict::TimedOut, Some(format!("it took longer than --timeout{early}"))),
        cause if never_ready => (
            Verdict::Error,
            Some(format!("the guest did not come to its ready mark: {}", cause.description())),
        ),
        _ => (Verdict::Failed, None),
    };
    let mut judged = result(case, verdict, reason);
    judged.checks = checks;
    judged.outcome = outcome;
    judged.ended = Some(Ended {
        cause: cause.name().to_owned(),
        status: evidence.status,
        instructions: evidence.outcome.instructions,
        virtual_nanos: evidence.outcome.virtual_nanos,
    });
    judged
}
