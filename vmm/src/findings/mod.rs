//! Findings: what the cache model and the DMA ledger have seen, told to people and to programs.

mod agent;
mod collector;
mod gather;
mod raw;
mod report;
#[cfg(test)]
pub(crate) mod samples;
mod sink;
mod text;

pub use agent::agent_name;
pub use collector::{Counts, DISTINCT, Findings, Found, Key, OCCURRENCES, Place};
pub use gather::{Callers, Scene};
pub use raw::{LINE, Raw, SavedAccess, Transaction, WAITING};
pub use report::{Access, Action, Frame, Mapped, Moment, Occurrence, Report, Task, What};
pub use sink::Sink;
pub use text::{Text, title};

use clap::ValueEnum;
use serde::Serialize;

/// What all findings of a run have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Context {
    /// Of all that is random in the run.
    pub seed: u64,
    /// From the guest's ready mark on, where that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_seed: Option<u64>,
    /// The command line that finds them again.
    pub again: String,
}

/// The findings of a run that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raised {
    /// Different ones, each with how often it was found.
    pub reports: Vec<Report>,
    pub counts: Counts,
}

/// Which findings make a run fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Those that have happened.
    #[default]
    Manifest,
    /// Also those that could have.
    Latent,
    None,
}

/// Exit status: findings were raised.
pub const STATUS_FINDINGS: u8 = 123;

impl FailOn {
    /// Whether findings of this number make a run fail.
    #[must_use]
    pub fn fails(self, counts: Counts) -> bool {
        match self {
            Self::Manifest => counts.manifest > 0,
            Self::Latent => counts.total() > 0,
            Self::None => false,
        }
    }
}
