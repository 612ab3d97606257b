//! What can go wrong when an image is looked up or built. The message says what to do about it.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no image is called {name:?}; there are: {}", .known.join(", "))]
    UnknownImage { name: String, known: Vec<String> },

    #[error("recipe {file}: {reason}")]
    BadRecipe { file: String, reason: String },

    #[error("neither XDG_CACHE_HOME nor HOME is set: no place for the image cache")]
    NoCacheFolder,

    /// The machine cannot fetch Debian packages at all.
    #[error(
        "image {image} cannot be built here: {reason}\n  it needs: {needs}\n  bring your own instead: --kernel FILE --initrd FILE, with {bring_instead}"
    )]
    NoPackages { image: String, reason: String, needs: String, bring_instead: String },

    /// The mirror does not have what the recipe asks for, or no longer: nothing can be tested with the image.
    #[error("unavailable: the mirror {mirror} has no {wanted} in {}", .suites.join(", "))]
    PackageNotFound { wanted: String, suites: Vec<String>, mirror: String },

    #[error("the package lists of {} are signed with a key that this machine does not know; a newer debian-archive-keyring has it", .suites.join(", "))]
    UnknownKey { suites: Vec<String> },

    #[error("building needs {tool} on this machine ({purpose}); install it and try again")]
    MissingTool { tool: &'static str, purpose: &'static str },

    /// The source was fetched but can never show what the image is for; nothing can be tested with it.
    #[error("{package} {version} cannot raise the warning: {reason} ({file})")]
    CannotRaise { package: String, version: String, file: String, reason: String },

    #[error("{}: no out-of-tree module: kbuild wants a Makefile or Kbuild there that sets obj-m", .folder.display())]
    NoModule { folder: PathBuf },

    #[error("{}: not a Linux source tree that can be built for x86: {reason}", .folder.display())]
    NoKernelTree { folder: PathBuf, reason: String },

    #[error(
        "{}: built in place ({left} is there), and kbuild then refuses to build elsewhere; `make mrproper` there, or take a clean copy: git -C {} worktree add FOLDER", .folder.display(), .folder.display()
    )]
    TreeBuiltInPlace { folder: PathBuf, left: &'static str },

    #[error("image {image} is not compiled from source, so it has no configuration for a kernel tree; these are: {}", .known.join(", "))]
    NotFromSource { image: String, known: Vec<String> },

    #[error("image {image} is not built yet: staleline images build {image}")]
    NotBuilt { image: String },

    #[error("{}: no image can be imported from it: {reason}", .file.display())]
    NoImageFile { file: PathBuf, reason: String },

    #[error("disk full: {} has {} MiB free{}", .folder.display(), .free_mib, match .needed_mib { Some(needed) => format!(", the build needs about {needed} MiB"), None => String::new() })]
    DiskFull { folder: PathBuf, free_mib: u64, needed_mib: Option<u64> },

    #[error("{stage} failed: the Debian mirror could not be reached or lacks a file; run again to continue (log: {})\n{tail}", .log.display())]
    Network { stage: String, log: PathBuf, tail: String },

    #[error("{stage} failed: {reason} (log: {})\n{tail}", .log.display())]
    Build { stage: String, reason: String, log: PathBuf, tail: String },

    #[error("image {image} is being built or used by another process; try again when it has ended")]
    Busy { image: String },

    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Error {
    /// Whether the mirror lacks a package: there is nothing to test with, which is neither a pass nor a failure.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::PackageNotFound { .. })
    }
}

/// Attaches the file's name to an I/O error; a full disk becomes [`Error::DiskFull`].
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::DiskFull { folder: path.to_owned(), free_mib: 0, needed_mib: None }
        }
        _ => Error::Io { path: path.to_owned(), source },
    }
}
