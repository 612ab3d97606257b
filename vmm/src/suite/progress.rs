//! How a suite tells what it does, on standard error: a bar on a terminal, lines elsewhere.

use super::results::{CaseResult, Summary, Verdict};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Observes a suite.
pub trait Progress: Sync {
    /// A case begins.
    fn begins(&self, _id: &str) {}
    /// A case has ended.
    fn ended(&self, _result: &CaseResult) {}
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
        let template = "[{bar:24}] {pos}/{len}  {elapsed} (ETA {eta})  {wide_msg}";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    });
    Box::new(OnStderr { bar, cases, state: Mutex::default() })
}

#[derive(Debug, Default)]
struct State {
    done: usize,
    summary: Summary,
    running: Vec<String>,
}

#[derive(Debug)]
struct OnStderr {
    bar: Option<ProgressBar>,
    cases: usize,
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

impl Progress for OnStderr {
    fn begins(&self, id: &str) {
        let mut state = self.state();
        state.running.push(id.to_owned());
        self.show(&state);
    }

    fn ended(&self, result: &CaseResult) {
        let mut state = self.state();
        state.done += 1;
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
        let summary = self.state().summary;
        self.print(&format!("{summary}"));
    }
}
