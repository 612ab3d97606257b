//! How a run has ended.

use crate::findings::{FailOn, Raised, STATUS_FINDINGS};
use crate::ledger::Report;
use crate::machine::{CacheStatistics, ConfidentialStatistics, IommuStatistics};
use crate::memory::ram::NotRam;

/// Why a run is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The command has ended with this status.
    Exited(u8),
    /// The command was ended by this signal.
    Signalled(u8),
    /// The guest's init could not run the command.
    CommandFailed(String),
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest wrote this to the debug exit port.
    DebugExit(u32),
    /// The guest's kernel panicked, with this message.
    Panic(String),
    /// This vCPU triple-faulted.
    TripleFault(u32),
    /// All vCPUs are halted for ever.
    Halted,
    /// `--timeout` has passed.
    Timeout,
    /// `--deadline` has passed.
    Deadline,
    /// A signal to this program.
    Interrupted(i32),
    /// The user left the console.
    Left,
    /// What the guest shares with its devices cannot be known, although the IOMMU goes by that.
    Unconfined(String),
    /// The guest's output cannot be written any more.
    OutputLost(String),
    /// The machine has been saved, which was all there was to do.
    Saved,
}

/// Every name that [`Cause::name`] gives.
pub const CAUSES: &[&str] = &[
    "exited",
    "signalled",
    "command-failed",
    "power-off",
    "reset",
    "debug-exit",
    "panic",
    "triple-fault",
    "halted",
    "timeout",
    "deadline",
    "interrupted",
    "left",
    "unconfined",
    "output-lost",
    "saved",
];

/// Exit status: end of time.
pub const STATUS_TIME: u8 = 124;
/// Exit status: an error of this program, or "cannot test".
pub const STATUS_ERROR: u8 = 125;
/// Exit status: the guest panicked or stopped unexpectedly.
pub const STATUS_GUEST: u8 = 255;
/// What shells add to the number of a signal that ended a command.
const SIGNAL_BASE: u8 = 128;

impl Cause {
    /// The cause's name in `--status`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::Signalled(_) => "signalled",
            Self::CommandFailed(_) => "command-failed",
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::DebugExit(_) => "debug-exit",
            Self::Panic(_) => "panic",
            Self::TripleFault(_) => "triple-fault",
            Self::Halted => "halted",
            Self::Timeout => "timeout",
            Self::Deadline => "deadline",
            Self::Interrupted(_) => "interrupted",
            Self::Left => "left",
            Self::Unconfined(_) => "unconfined",
            Self::OutputLost(_) => "output-lost",
            Self::Saved => "saved",
        }
    }

    /// What happened, for people; `None` where the name says it all.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Panic(message) | Self::CommandFailed(message) | Self::OutputLost(message) => {
                Some(message.clone())
            }
            Self::Unconfined(reason) => {
                Some(format!("--iommu bounce: what the guest shares with its devices is not known: {reason}"))
            }
            Self::TripleFault(cpu) => Some(format!("vCPU {cpu} triple-faulted")),
            Self::Halted => Some("all vCPUs are halted and nothing will wake them".into()),
            Self::Interrupted(signal) => Some(format!("signal {signal}")),
            Self::Signalled(signal) => Some(format!("the command was ended by signal {signal}")),
            _ => None,
        }
    }

    /// What happened, for people, in any case.
    #[must_use]
    pub fn description(&self) -> String {
        self.detail().unwrap_or_else(|| self.name().to_owned())
    }

    /// The status that the guest ended with, if it gave one.
    #[must_use]
    pub fn guest_exit(&self) -> Option<u8> {
        match self {
            Self::Exited(status) => Some(*status),
            Self::Signalled(signal) => Some(SIGNAL_BASE.saturating_add(*signal)),
            Self::DebugExit(value) => Some(((value << 1) | 1) as u8),
            _ => None,
        }
    }

    /// The process's exit status. `command` says that the guest was to run a command: then a guest that stops by itself
    /// has not done its work.
    #[must_use]
    pub fn exit_status(&self, command: bool) -> u8 {
        match self {
            Self::PowerOff | Self::Reset if command => STATUS_GUEST,
            Self::PowerOff | Self::Reset | Self::Left | Self::Saved => 0,
            Self::Panic(_) | Self::TripleFault(_) | Self::Halted => STATUS_GUEST,
            Self::Timeout | Self::Deadline => STATUS_TIME,
            Self::CommandFailed(_) | Self::Interrupted(_) | Self::Unconfined(_) | Self::OutputLost(_) => {
                STATUS_ERROR
            }
            Self::Exited(_) | Self::Signalled(_) | Self::DebugExit(_) => {
                self.guest_exit().unwrap_or(STATUS_ERROR)
            }
        }
    }

    /// Whether a panic seen before says more.
    pub(super) fn yields_to_panic(&self) -> bool {
        matches!(self, Self::PowerOff | Self::Reset | Self::Halted | Self::Deadline | Self::TripleFault(_))
    }
}

/// Bytes of guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRange {
    pub address: u64,
    pub length: usize,
}

/// What RAM holds in a [`MemoryRange`].
pub type Kept = Result<Vec<u8>, NotRam>;

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub cause: Cause,
    /// Instructions retired by all vCPUs together, if the engine counts them.
    pub instructions: Option<u64>,
    /// Virtual time at the end.
    pub virtual_nanos: u64,
    /// The guest has come to its ready mark.
    pub ready: bool,
    /// Host input that entered: at which count of instructions, and how many bytes.
    pub inputs: Vec<(u64, usize)>,
    /// What RAM held in each of the ranges that [`super::Session::keep`] was asked for.
    pub memory: Vec<Kept>,
    /// What became of the ledger, if there was one.
    pub ledger: Option<Report>,
    /// What the modelled cache has done, if there was one.
    pub cache: Option<CacheStatistics>,
    /// What the IOMMU has not let through, if there was one.
    pub iommu: Option<IommuStatistics>,
    /// What has become of memory encryption, if the guest was shown any.
    pub confidential: Option<ConfidentialStatistics>,
    /// What the cache model and the ledger have found.
    pub findings: Raised,
}

impl Outcome {
    /// The process's exit status: that of the cause, but for a run that came to its own end with findings that it is to
    /// fail on. These count more than how a command has ended, which may well be by them; [`Cause::guest_exit`] has that.
    #[must_use]
    pub fn exit_status(&self, command: bool, fail_on: FailOn) -> u8 {
        let own_end = matches!(
            self.cause,
            Cause::Exited(_)
                | Cause::Signalled(_)
                | Cause::PowerOff
                | Cause::Reset
                | Cause::DebugExit(_)
                | Cause::Left
                | Cause::Saved
        );
        match fail_on.fails(self.findings.counts) {
            true if own_end => STATUS_FINDINGS,
            _ => self.cause.exit_status(command),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Counts;

    #[test]
    fn statuses_are_those_of_the_design() {
        assert_eq!(Cause::Exited(7).exit_status(true), 7);
        assert_eq!(Cause::Signalled(9).exit_status(true), 137);
        assert_eq!(Cause::DebugExit(3).exit_status(false), 7);
        assert_eq!(Cause::DebugExit(0x80).exit_status(false), 1);
        assert_eq!(Cause::PowerOff.exit_status(false), 0);
        assert_eq!(Cause::PowerOff.exit_status(true), 255);
        assert_eq!(Cause::Panic(String::new()).exit_status(true), 255);
        assert_eq!(Cause::Timeout.exit_status(true), 124);
        assert_eq!(Cause::Interrupted(15).exit_status(false), 125);
    }

    #[test]
    fn findings_count_more_than_how_a_command_ended() {
        let status = |cause, (manifest, latent), fail_on| {
            let counts = Counts { manifest, latent, dropped: 0 };
            let findings = Raised { reports: Vec::new(), counts };
            let outcome = Outcome {
                cause,
                instructions: None,
                virtual_nanos: 0,
                ready: true,
                inputs: Vec::new(),
                memory: Vec::new(),
                ledger: None,
                cache: None,
                iommu: None,
                confidential: None,
                findings,
            };
            outcome.exit_status(true, fail_on)
        };
        assert_eq!(status(Cause::Exited(0), (1, 0), FailOn::Manifest), 123);
        assert_eq!(status(Cause::Exited(1), (1, 0), FailOn::Latent), 123);
        assert_eq!(status(Cause::Exited(1), (1, 1), FailOn::None), 1);
        assert_eq!(status(Cause::Exited(0), (0, 1), FailOn::Manifest), 0);
        assert_eq!(status(Cause::Exited(0), (0, 1), FailOn::Latent), 123);
        assert_eq!(status(Cause::Deadline, (1, 0), FailOn::Manifest), 124);
        assert_eq!(status(Cause::Panic(String::new()), (1, 0), FailOn::Manifest), 255);
    }
}
