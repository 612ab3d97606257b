//! The table of results, in Markdown.

use crate::guest::{Guest, MEMORY};
use crate::peer::Peer;
use crate::process::median;
use crate::timing::Timing;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// All results, and what they were measured on.
#[derive(Debug)]
pub(crate) struct Table {
    /// Lines about machine and versions.
    about: Vec<String>,
    rounds: u32,
    peers: Vec<Peer>,
    guest: Option<String>,
    rows: Vec<Row>,
    figures: Vec<Figure>,
}

/// A rate or a cost that no peer is compared with.
#[derive(Debug)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    pub values: Vec<f64>,
    /// What a rate is to reach, or a cost is not to exceed.
    pub target: Option<f64>,
}

impl Figure {
    pub(crate) fn new(name: String, unit: &'static str) -> Self {
        Self { name, unit, values: Vec::new(), target: None }
    }
}

/// One workload.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    seconds: Vec<f64>,
    /// Millions of instructions a second, and millions of instructions.
    rates: Vec<f64>,
    instructions: Option<f64>,
    peers: Vec<PeerColumn>,
}

#[derive(Debug, Default)]
struct PeerColumn {
    seconds: Vec<f64>,
    ratios: Vec<f64>,
}

impl Row {
    pub(crate) fn new(name: String, peers: &[Peer]) -> Self {
        let peers = peers.iter().map(|_| PeerColumn::default()).collect();
        Self { name, seconds: Vec::new(), rates: Vec::new(), instructions: None, peers }
    }

    /// A round of staleline's; `instructions` if it came to its end.
    pub(crate) fn add(&mut self, timing: &Timing, instructions: Option<f64>) {
        self.add_seconds(timing.seconds());
        if let (Some(instructions), Some(whole)) = (instructions, timing.whole) {
            self.instructions = Some(instructions);
            self.rates.push(instructions / whole.as_secs_f64() / 1e6);
        }
    }

    pub(crate) fn add_seconds(&mut self, seconds: f64) {
        self.seconds.push(seconds);
    }

    /// A peer's part of the same round. One that cannot be switched off is compared up to user space.
    pub(crate) fn add_peer(&mut self, at: usize, ours: &Timing, theirs: &Timing) {
        let (ours, theirs) = match (ours.whole, theirs.whole) {
            (Some(_), None) => (ours.to_user.as_secs_f64(), theirs.to_user.as_secs_f64()),
            _ => (ours.seconds(), theirs.seconds()),
        };
        if let Some(column) = self.peers.get_mut(at) {
            column.seconds.push(theirs);
            column.ratios.push(ours / theirs);
        }
    }
}

impl Table {
    pub(crate) fn new(staleline: &Path, rounds: u32) -> Self {
        let version = Command::new(staleline).arg("--version").output();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let about = vec![format!("Host: {}.", host()), format!("{}.", version.unwrap_or_default())];
        Self { about, rounds, peers: Vec::new(), guest: None, rows: Vec::new(), figures: Vec::new() }
    }

    /// Gives the peer a column if it is installed, and says so either way.
    pub(crate) fn add_peer(&mut self, peer: Peer) -> bool {
        let version = peer.version();
        match &version {
            Some(version) => {
                self.about.push(format!("{} {version}.", peer.title()));
                self.peers.push(peer);
            }
            None => self.about.push(format!("{} is not installed: no ratio.", peer.title())),
        }
        version.is_some()
    }

    pub(crate) fn guest(&mut self, guest: &Guest) {
        let release = &guest.image.manifest.kernel_release;
        self.guest = Some(format!("Guest: Linux {release}, {MEMORY} MiB, 1 vCPU."));
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn add_figures(&mut self, figures: Vec<Figure>) {
        self.figures.extend(figures);
    }

    fn write_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| workload | staleline s | MIPS | M instructions |")?;
        for peer in &self.peers {
            write!(f, " {} s | ratio |", peer.title())?;
        }
        write!(f, "\n|---|---:|---:|---:|")?;
        for _ in &self.peers {
            write!(f, "---:|---:|")?;
        }
        writeln!(f)?;
        for row in &self.rows {
            write!(f, "| {} | {:.2} |", row.name, median(&row.seconds))?;
            match row.instructions {
                Some(instructions) => write!(f, " {:.0} | {:.0} |", median(&row.rates), instructions / 1e6)?,
                None => write!(f, " - | - |")?,
            }
            for at in 0..self.peers.len() {
                match row.peers.get(at) {
                    Some(column) => {
                        write!(f, " {:.2} | {:.2} |", median(&column.seconds), median(&column.ratios))?;
                    }
                    None => write!(f, " - | - |")?,
                }
            }
            writeln!(f)?;
        }
        if self.peers.iter().any(|peer| !peer.powers_off()) {
            writeln!(
                f,
                "\nBoot under Bochs ends at user space, since it has no ACPI here; its ratio is up to there."
            )?;
        }
        Ok(())
    }

    fn write_figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | median | target |\n|---|---:|---:|")?;
        for figure in &self.figures {
            let target = figure.target.map_or("-".to_owned(), |target| format!("{target:.2}"));
            writeln!(f, "| {} | {:.2} {} | {target} |", figure.name, median(&figure.values), figure.unit)?;
        }
        Ok(())
    }
}

/// Processor and number of CPUs.
fn host() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": ")).map_or("unknown processor", |(_, name)| name);
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {count} CPUs")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.about.iter().chain(&self.guest) {
            writeln!(f, "{line}")?;
        }
        writeln!(
            f,
            "Medians of {} rounds; a ratio is from one round, staleline's time by the peer's.\n",
            self.rounds
        )?;
        if !self.rows.is_empty() {
            self.write_rows(f)?;
        }
        if !self.figures.is_empty() {
            let gap = if self.rows.is_empty() { "" } else { "\n" };
            write!(f, "{gap}")?;
            self.write_figures(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn timing(work: u64, whole: Option<u64>) -> Timing {
        let seconds = Duration::from_secs;
        Timing {
            to_user: seconds(10),
            work: seconds(work),
            whole: whole.map(seconds),
            checksum: String::new(),
        }
    }

    #[test]
    fn ratios_are_of_one_round_and_medians_of_all() {
        let mut table = Table {
            about: vec!["Host: x.".into()],
            rounds: 3,
            peers: vec![Peer::Qemu, Peer::Bochs],
            guest: None,
            rows: Vec::new(),
            figures: Vec::new(),
        };
        let mut row = Row::new("integer".into(), &table.peers);
        for (ours, theirs) in [(10, 5), (40, 10), (9, 3)] {
            row.add(&timing(ours, None), None);
            row.add_peer(0, &timing(ours, None), &timing(theirs, None));
            row.add_peer(1, &timing(ours, None), &timing(2 * ours, None));
        }
        table.add(row);
        let mut row = Row::new("boot".into(), &table.peers);
        row.add(&timing(1, Some(20)), Some(2e9));
        row.add_peer(0, &timing(1, Some(20)), &timing(1, Some(2)));
        row.add_peer(1, &timing(1, Some(20)), &timing(1, None));
        table.add(row);
        let mut figure = Figure::new("device".into(), "GB/s");
        figure.values.extend([3.0, 1.0, 2.0]);
        figure.target = Some(2.0);
        table.add_figures(vec![figure]);
        let text = table.to_string();
        assert!(text.contains("| device | 2.00 GB/s | 2.00 |\n"), "{text}");
        assert!(text.contains("| integer | 10.00 | - | - | 5.00 | 3.00 | 20.00 | 0.50 |\n"), "{text}");
        assert!(text.contains("| boot | 20.00 | 100 | 2000 | 2.00 | 10.00 | 10.00 | 1.00 |\n"), "{text}");
    }
}
