//! The findings of a run so far: each once, however often it is found, and no more than a report can use.

use super::Raised;
use super::raw::{Raw, WAITING};
use super::report::{Occurrence, Report};
use cache_model::Verdict;
use cache_model::judge::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Different findings that are kept; more are counted.
pub const DISTINCT: usize = 1_000;
/// Times that a finding was found again that are kept; more are counted.
pub const OCCURRENCES: usize = 64;

/// Who did something: the same code on whichever vCPU, or a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// The instruction at this linear address.
    Code(u64),
    Device(u32),
}

/// What makes findings the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    pub kind: Kind,
    /// 1 if it is manifest: a latent finding does not hide it.
    pub manifest: bool,
    pub culprit: Option<Place>,
    pub victim: Option<Place>,
    /// Who mapped the memory: addresses from the DMA API's caller on.
    pub mapped_by: Vec<u64>,
}

/// A report, and the trace that shows it alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub report: Report,
    pub trace: Option<String>,
}

/// How many findings there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Every time that one was found, with those that are kept no more.
    pub manifest: u64,
    pub latent: u64,
    /// Those that are like none that is kept, or were too many to look into.
    pub dropped: u64,
}

/// All findings of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Findings {
    found: Vec<Found>,
    known: BTreeMap<Key, usize>,
    /// How many of `found` have been asked for.
    heard: usize,
    counts: Counts,
    /// What has been seen and not been looked into.
    waiting: Vec<Raw>,
}

impl Findings {
    /// Takes an observation, to be looked into between two instructions.
    pub fn observe(&mut self, raw: Raw) {
        if self.waiting.len() < WAITING {
            self.waiting.push(raw);
        } else {
            self.counts.dropped = self.counts.dropped.saturating_add(1);
        }
    }

    /// True if there is something for [`Findings::take_observations`].
    #[must_use]
    pub fn has_observations(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What has been seen since the last call.
    pub fn take_observations(&mut self) -> Vec<Raw> {
        std::mem::take(&mut self.waiting)
    }

    /// Counts a finding if one like it is known, or if there is no room for it; returns whether that is all there is to do.
    pub fn is_known(&mut self, key: &Key, occurrence: impl FnOnce() -> Occurrence) -> bool {
        let full = self.found.len() >= DISTINCT;
        let known = self.known.get(key).and_then(|&at| self.found.get_mut(at));
        if known.is_some() || full {
            self.counts.add(if key.manifest { Verdict::Manifest } else { Verdict::Latent });
        }
        match known {
            Some(Found { report, .. }) => {
                report.count = report.count.saturating_add(1);
                if report.again_at.len() < OCCURRENCES {
                    report.again_at.push(occurrence());
                }
                true
            }
            None => {
                self.counts.dropped += u64::from(full);
                full
            }
        }
    }

    /// Adds a finding that is not known; its report gets its number.
    pub fn add(&mut self, key: Key, mut found: Found) {
        self.counts.add(found.report.verdict);
        found.report.id = self.found.len() as u64 + 1;
        self.known.insert(key, self.found.len());
        self.found.push(found);
    }

    /// What there is at the end of a run.
    #[must_use]
    pub fn raised(&self) -> Raised {
        let reports = self.found.iter().map(|found| found.report.clone()).collect();
        Raised { reports, counts: self.counts }
    }

    /// Those that are new since the last call.
    pub fn take_new(&mut self) -> Vec<Found> {
        let new = self.found.get(self.heard..).unwrap_or_default().to_vec();
        self.heard = self.found.len();
        new
    }

    /// True if there are some for [`Findings::take_new`].
    #[must_use]
    pub fn has_new(&self) -> bool {
        self.heard < self.found.len()
    }

    /// Has [`Findings::take_new`] begin anew: for a copy of the machine, whose findings nobody has heard of.
    pub fn rewind(&mut self) {
        self.heard = 0;
    }
}

impl Counts {
    fn add(&mut self, verdict: Verdict) {
        let count = match verdict {
            Verdict::Manifest => &mut self.manifest,
            Verdict::Latent => &mut self.latent,
        };
        *count = count.saturating_add(1);
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.manifest.saturating_add(self.latent)
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn key(victim: u64) -> Key {
        Key {
            kind: Kind::StaleCpuRead,
            manifest: true,
            culprit: Some(Place::Device(0x800)),
            victim: Some(Place::Code(victim)),
            mapped_by: Vec::new(),
        }
    }

    fn occurrence(time: u64) -> Occurrence {
        Occurrence { time, addr: 0x40, expected: vec![1], found: vec![0] }
    }

    fn add(findings: &mut Findings, victim: u64, time: u64) {
        if !findings.is_known(&key(victim), || occurrence(time)) {
            findings.add(key(victim), Found { report: samples::stale_cpu_read(), trace: None });
        }
    }

    #[test]
    fn the_same_finding_is_counted() {
        let mut findings = Findings::default();
        for time in 0..100 {
            add(&mut findings, time % 2, time);
        }
        assert_eq!(findings.raised().counts, Counts { manifest: 100, latent: 0, dropped: 0 });
        let new = findings.take_new();
        assert_eq!(
            new.iter().map(|one| (one.report.id, one.report.count)).collect::<Vec<_>>(),
            [(1, 50), (2, 50)]
        );
        assert_eq!(new[1].report.again_at[0], occurrence(3));
        assert!(findings.take_new().is_empty() && !findings.has_new());
        findings.rewind();
        assert_eq!(findings.take_new(), new);
    }

    #[test]
    fn what_is_saved_comes_back() {
        let mut findings = Findings::default();
        add(&mut findings, 1, 5);
        let mut saver = devices::state::Saver::default();
        saver.put(&findings).unwrap();
        let bytes = saver.into_bytes();
        let back: Findings = devices::state::Loader::new(&bytes).take().unwrap();
        assert_eq!(back.raised(), findings.raised());
        assert_eq!(back.raised().reports.len(), 1);
    }

    #[test]
    fn a_flood_is_counted_only() {
        let mut findings = Findings::default();
        for victim in 0..DISTINCT as u64 + 5 {
            for time in 0..OCCURRENCES as u64 + 3 {
                add(&mut findings, victim, time);
            }
        }
        let Raised { reports, counts } = findings.raised();
        assert_eq!((reports.len(), reports[0].again_at.len()), (DISTINCT, OCCURRENCES));
        let each = OCCURRENCES as u64 + 3;
        assert_eq!((counts.manifest, counts.dropped), ((DISTINCT as u64 + 5) * each, 5 * each));
    }
}
