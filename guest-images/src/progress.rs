//! How a build tells what it does: an observer, and the two that the command line uses.

use crate::recipe::Estimate;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Told before a build starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is built, for people: "image linux-6.12-debug".
    pub what: String,
    /// `None` if most of it is there and only what has changed is compiled.
    pub cost: Option<Estimate>,
    pub log: PathBuf,
    pub stages: u32,
}

/// What a stage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Steps,
}

/// Observes a build. Every method may be ignored; none may fail.
pub trait Progress: Sync {
    /// A build is about to start.
    fn plan(&self, _plan: &Plan) {}
    /// Stage `number` of the plan's stages starts.
    fn stage(&self, _number: u32, _title: &str) {}
    /// The current stage has done `done` of about `total`.
    fn advance(&self, _done: u64, _total: u64, _unit: Unit) {}
    /// Something worth a line.
    fn message(&self, _text: &str) {}
    /// The build has ended, well or not.
    fn end(&self) {}
}

/// Silence.
impl Progress for () {}

/// A bar on a terminal, lines elsewhere; on standard error.
pub fn for_stderr() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() { Box::new(Bar::default()) } else { Box::new(Lines::default()) }
}

fn plan_text(plan: &Plan) -> String {
    let cost = match &plan.cost {
        Some(Estimate { minutes, disk_mib, download_mib }) => format!(
            "about {minutes} min on two cores, {download_mib} MiB to download, {disk_mib} MiB of disk"
        ),
        None => "what has changed".to_owned(),
    };
    format!("building {}: {cost}; log: {}", plan.what, plan.log.display())
}

/// One line a stage, with the time that the previous one took.
#[derive(Debug, Default)]
pub struct Lines {
    state: Mutex<LinesState>,
}

#[derive(Debug, Default)]
struct LinesState {
    stages: u32,
    started: Option<Instant>,
}

impl Lines {
    fn print(text: &str) {
        // Standard error may be closed.
        let _ = writeln!(std::io::stderr(), "staleline: {text}");
    }
}

impl Progress for Lines {
    fn plan(&self, plan: &Plan) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = LinesState { stages: plan.stages, started: Some(Instant::now()) };
        Self::print(&plan_text(plan));
    }

    fn stage(&self, number: u32, title: &str) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = state.started.map_or(0, |started| started.elapsed().as_secs());
        Self::print(&format!("[{number}/{} {elapsed:>3} s] {title}", state.stages));
    }

    fn message(&self, text: &str) {
        Self::print(text);
    }
}

/// A progress bar with the stage, its percentage and the time left.
#[derive(Debug, Default)]
pub struct Bar {
    state: Mutex<BarState>,
}

#[derive(Debug, Default)]
struct BarState {
    stages: u32,
    bar: Option<ProgressBar>,
}

const STEPS: &str = "{prefix} {wide_msg} [{bar:24}] {percent:>3} %  {elapsed} (ETA {eta})";
const BYTES: &str = "{prefix} {wide_msg} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} (ETA {eta})";
const SPINNER: &str = "{prefix} {wide_msg} {spinner} {elapsed}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Bar {
    fn with_bar(&self, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = &self.state.lock().unwrap_or_else(PoisonError::into_inner).bar {
            act(bar);
        }
    }
}

impl Progress for Bar {
    fn plan(&self, plan: &Plan) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stages = plan.stages;
        Lines::print(&plan_text(plan));
    }

    fn stage(&self, number: u32, title: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(previous) = state.bar.take() {
            previous.finish_and_clear();
        }
        let bar = ProgressBar::no_length().with_style(style(SPINNER));
        bar.set_prefix(format!("[{number}/{}]", state.stages));
        bar.set_message(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        state.bar = Some(bar);
    }

    fn advance(&self, done: u64, total: u64, unit: Unit) {
        self.with_bar(|bar| {
            if bar.length() != Some(total) {
                bar.set_length(total);
                bar.set_style(style(if unit == Unit::Bytes { BYTES } else { STEPS }));
                bar.reset_eta();
            }
            bar.set_position(done.min(total));
        });
    }

    fn message(&self, text: &str) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.bar {
            Some(bar) => bar.suspend(|| Lines::print(text)),
            None => Lines::print(text),
        }
    }

    fn end(&self) {
        if let Some(bar) = self.state.lock().unwrap_or_else(PoisonError::into_inner).bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Keeps what it is told, for tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    lines: Mutex<Vec<String>>,
}

#[cfg(test)]
impl Recorder {
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

#[cfg(test)]
impl Progress for Recorder {
    fn stage(&self, number: u32, title: &str) {
        self.lines.lock().unwrap().push(format!("{number} {title}"));
    }

    fn message(&self, text: &str) {
        self.lines.lock().unwrap().push(text.to_owned());
    }
}
