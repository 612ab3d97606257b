//! How a suite tells what it does, on standard error: a bar on a terminal, lines elsewhere.

use super::results::{CaseResult, Summary, Verdict};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Observes a suite.
pub trait Progress: Sync {
    /// The guest of `place` is booted, for so many cases.
    fn boots(&self, _place: &str, _cases: usize) {}
    /// That boot has ended.
    fn booted(&self, _place: &str) {}
    /// A case begins.
    fn begins(&self, _id: &str) {}
    /// A case has ended. `forked`: it went on from a boot that it shares with others.
    fn ended(&self, _result: &CaseResult, _forked: bool) {}
    /// All is over.
    fn finish(&self) {}
}

/// Silence.
impl Progress for () {}

/// What fits a host's standard error, for this many cases.
#[must_use]
pub fn for_stderr(cases: usize) -> Box<dyn Progress> {
    let terminal = std::io::stderr().is_terminal();
    let bar = terminal.then(|| {
        let bar = ProgressBar::new(cases as u64);
        let template = "[{bar:24}] {pos}/{len}  {elapsed} (ETA {eta}, {per_sec})  {wide_msg}";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    });
    Box::new(OnStderr { bar, cases, began: Instant::now(), state: Mutex::default() })
}

#[derive(Debug, Default)]
struct State {
    done: usize,
    summary: Summary,
    /// Boots for several cases, and cases forked from them.
    boots: usize,
    forks: usize,
    running: Vec<String>,
}

#[derive(Debug)]
struct OnStderr {
    bar: Option<ProgressBar>,
    cases: usize,
    began: Instant,
    state: Mutex<State>,
}

impl OnStderr {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, text: &str) {
        // Standard error may be closed.
        let print = || drop(writeln!(std::io::stderr(), "{text}"));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn show(&self, state: &State) {
        if let Some(bar) = &self.bar {
            bar.set_position(state.done as u64);
            let failed = state.summary.failed + state.summary.errors;
            let failures = if failed > 0 { format!("{failed} failed; ") } else { String::new() };
            bar.set_message(format!("{failures}{}", state.running.join(" ")));
        }
    }
}

/// What a boot is called among what is running.
fn boot_of(place: &str) -> String {
    format!("boot of {place}")
}

impl Progress for OnStderr {
    fn boots(&self, place: &str, cases: usize) {
        let mut state = self.state();
        state.boots += 1;
        state.running.push(boot_of(place));
        if self.bar.is_none() {
            self.print(&format!("booting {place} for {cases} cases"));
        }
        self.show(&state);
    }

    fn booted(&self, place: &str) {
        let mut state = self.state();
        let boot = boot_of(place);
        state.running.retain(|what| *what != boot);
        self.show(&state);
    }

    fn begins(&self, id: &str) {
        let mut state = self.state();
        state.running.push(id.to_owned());
        self.show(&state);
    }

    fn ended(&self, result: &CaseResult, forked: bool) {
        let mut state = self.state();
        state.done += 1;
        state.forks += usize::from(forked);
        *state.summary.count(result.verdict) += 1;
        state.running.retain(|id| *id != result.id);
        let word = match result.verdict {
            Verdict::Passed => "ok",
            Verdict::Failed => "FAILED",
            Verdict::TimedOut => "TIMED OUT",
            Verdict::Error => "ERROR",
            Verdict::Unavailable => "unavailable",
            Verdict::NotRun => "not run",
        };
        let mut text = format!("[{}/{}] {word} {}", state.done, self.cases, result.id);
        if result.ended.is_some() {
            text += &format!(" ({:.2} virtual s)", result.virtual_time().as_secs_f64());
        }
        for problem in result.problems() {
            text += &format!("\n    {}", problem.replace('\n', "\n    "));
        }
        if let Some(folder) = result.artefacts.as_ref().filter(|_| result.verdict != Verdict::Passed) {
            text += &format!("\n    see {}", folder.display());
        }
        // On a terminal the bar counts what is well.
        if self.bar.is_none() || result.verdict != Verdict::Passed {
            self.print(&text);
        }
        self.show(&state);
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let state = self.state();
        let took = self.began.elapsed().as_secs_f64();
        let rate = state.done as f64 / took.max(f64::MIN_POSITIVE);
        let forks = match (state.boots, state.forks) {
            (0, _) => String::new(),
            (1, forks) => format!("{forks} forked from 1 boot, "),
            (boots, forks) => format!("{forks} forked from {boots} boots, "),
        };
        self.print(&format!("{}; {forks}{took:.1} s, {rate:.1} cases a second", state.summary));
    }
}
