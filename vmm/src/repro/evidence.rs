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

/// Where the kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An image with this content hash.
    Image(String),
    /// A commit of the user's source tree.
    Commit(String),
    /// The user's source tree as it is, without a commit that would name it; its path.
    Tree(String),
    /// A file of the user's.
    File,
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
    pub origin: Origin,
    /// Why the kernel could not have shown the bug, if its source tells.
    pub cannot_raise: Option<String>,
    /// Options beside the seed that `staleline repro` was given, for the line that says how to see it again.
    pub options: Vec<String>,
    /// The machine's seed.
    pub seed: u64,
    /// The engine's name, as `--engine` takes it.
    pub engine: String,
}
