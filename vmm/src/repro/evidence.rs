//! What a finished run leaves to judge.

/// How the command in the guest, or the run itself, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The command's own exit status.
    Exited(u8),
    /// The number of the signal that ended the command.
    Signalled(u8),
    /// The guest could not start the command, and why.
    NotStarted(String),
    /// The guest's kernel panicked.
    Panicked,
    /// A limit ended the run; which one, for people ("60 s on the host").
    TimedOut(String),
    /// The machine stopped before the command did, and how ("triple fault on vCPU 0").
    Stopped(String),
}

/// What a run left: all that [`super::check`] and [`super::render`] look at.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The guest's console, as it came.
    pub console: Vec<u8>,
    /// The command's standard output.
    pub stdout: Vec<u8>,
    pub ended: Ended,
    /// As `uname -r` prints it; empty to take it from the console.
    pub kernel_release: String,
    /// Content hash of the image; empty if the kernel was brought by the user.
    pub image_hash: String,
    /// The machine's seed.
    pub seed: u64,
    /// The engine's name, as `--engine` takes it.
    pub engine: String,
}
