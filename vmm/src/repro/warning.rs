//! dma-debug's warnings in a kernel log.
//!
//! `err_printk()` of kernel/dma/debug.c is a `WARN()`: "cut here", the message, the WARNING line, registers, the call
//! trace, the end marker, and after it, where stack traces are kept, "Mapped at:" with the mapping's own trace.

use super::console::{message, word_after};
use super::trace::{Frame, frame};

/// More than any guest that is not out to flood us prints; dma-debug stops after one unless told otherwise.
const MAX_WARNINGS: usize = 256;
/// The kernel's own limit on a trace's depth is far lower.
const MAX_FRAMES: usize = 256;

/// One warning of dma-debug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Warning {
    pub driver: String,
    pub device: String,
    pub message: String,
    pub site: Site,
    /// The task that the kernel was working for.
    pub comm: Option<String>,
    pub pid: Option<u64>,
    /// Callers, innermost first; the function that warns is not among them.
    pub trace: Vec<Frame>,
    /// Where the mapping was made, as far as dma-debug keeps it (five frames).
    pub mapped_at: Vec<Frame>,
}

/// Where a warning comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// The WARNING line as printed.
    pub line: String,
    /// `kernel/dma/debug.c:601`; none if the kernel keeps no file names.
    pub location: Option<String>,
    pub function: String,
    pub pid: Option<u64>,
    pub comm: Option<String>,
}

enum Section {
    Head,
    Trace,
    Tail,
    MappedAt,
}

/// A warning while it is being read.
struct Open {
    driver: String,
    device: String,
    message: String,
    site: Option<Site>,
    comm: Option<String>,
    pid: Option<u64>,
    trace: Vec<Frame>,
    mapped_at: Vec<Frame>,
    section: Section,
}

/// All warnings of dma-debug, in the log's order.
pub(super) fn warnings(lines: &[String]) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut open: Option<Open> = None;
    for text in lines.iter().map(|line| message(line)) {
        let starts = header(text);
        if starts.is_some() || text.contains("[ cut here ]") {
            found.extend(open.take().and_then(Open::close));
            open = starts;
        } else if open.as_mut().is_some_and(|open| !open.take_in(text)) {
            found.extend(open.take().and_then(Open::close));
        }
        if found.len() >= MAX_WARNINGS {
            return found;
        }
    }
    found.extend(open.and_then(Open::close));
    found
}

/// `DMA-API: <driver> <device>: <message>`
fn header(text: &str) -> Option<Open> {
    let (driver, rest) = text.strip_prefix("DMA-API: ")?.split_once(' ')?;
    let (device, message) = rest.split_once(": ")?;
    if device.is_empty() || device.contains(char::is_whitespace) || message.is_empty() {
        return None;
    }
    Some(Open {
        driver: driver.to_owned(),
        device: device.to_owned(),
        message: message.to_owned(),
        site: None,
        comm: None,
        pid: None,
        trace: Vec::new(),
        mapped_at: Vec::new(),
        section: Section::Head,
    })
}

impl Open {
    /// Takes in a line that follows; false if the warning ends before it. Lines of others in between are let pass.
    fn take_in(&mut self, text: &str) -> bool {
        if text.ends_with("Mapped at:") {
            self.section = Section::MappedAt;
            return true;
        }
        match self.section {
            Section::Head => self.take_head(text),
            Section::Trace => {
                if text == "</TASK>" || text.starts_with("---[ end trace") {
                    self.section = Section::Tail;
                } else if let Some(frame) = frame(text).filter(|_| self.trace.len() < MAX_FRAMES) {
                    self.trace.push(frame);
                }
            }
            Section::Tail => {}
            Section::MappedAt => match frame(text).filter(|_| self.mapped_at.len() < MAX_FRAMES) {
                Some(frame) => self.mapped_at.push(frame),
                None => return false,
            },
        }
        true
    }

    fn take_head(&mut self, text: &str) {
        if text == "Call Trace:" {
            self.section = Section::Trace;
        } else if self.site.is_none() {
            self.site = site(text);
        } else if text.starts_with("CPU: ") {
            self.pid = word_after(text, "PID: ").and_then(|word| word.parse().ok());
            self.comm = text.split_once(" Comm: ").and_then(|(_, rest)| comm(rest));
        }
    }

    /// A message without a WARNING line was no warning.
    fn close(self) -> Option<Warning> {
        let site = self.site?;
        Some(Warning {
            driver: self.driver,
            device: self.device,
            message: self.message,
            comm: self.comm.or_else(|| site.comm.clone()),
            pid: self.pid.or(site.pid),
            site,
            trace: self.trace,
            mapped_at: self.mapped_at,
        })
    }
}

/// The name in `regtwice Not tainted 6.12.117 #1`, which may hold blanks.
fn comm(rest: &str) -> Option<String> {
    let end = ["Kdump:", "Not tainted", "Tainted:"].iter().filter_map(|mark| rest.find(mark)).min()?;
    let name = rest.get(..end)?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The WARNING line, in either form:
/// `WARNING: CPU: 0 PID: 64 at kernel/dma/debug.c:601 add_dma_entry+0x190/0x1a8` (until 6.18) and
/// `WARNING: kernel/dma/debug.c:620 at add_dma_entry+0x1bb/0x280, CPU#6: ibv_rc_pingpong/5812`.
fn site(text: &str) -> Option<Site> {
    let rest = text.strip_prefix("WARNING: ")?;
    let site = |location: Option<&str>, symbol: &str, pid, comm| {
        let function = frame(symbol)?.function;
        Some(Site { line: text.to_owned(), location: location.map(str::to_owned), function, pid, comm })
    };
    if let Some(rest) = rest.strip_prefix("CPU: ") {
        let (task, place) = rest.split_once(" at ")?;
        let pid = word_after(task, "PID: ").and_then(|word| word.parse().ok());
        let first = place.split(' ').next()?;
        return match place.split_once(' ').filter(|_| first.contains(':')) {
            Some((location, symbol)) => site(Some(location), symbol, pid, None),
            None => site(None, place, pid, None),
        };
    }
    let (place, task) = rest.rsplit_once(", CPU#").unwrap_or((rest, ""));
    let (location, symbol) = match place.split_once(" at ") {
        Some((location, symbol)) => (Some(location), symbol),
        None => (None, place.strip_prefix("at ").unwrap_or(place)),
    };
    let owner = task.split_once(": ").and_then(|(_, owner)| owner.rsplit_once('/'));
    let pid = owner.and_then(|(_, pid)| pid.parse().ok());
    site(location, symbol, pid, owner.map(|(comm, _)| comm.trim().to_owned()))
}
