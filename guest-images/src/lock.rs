//! Locks between processes that share the cache.

use crate::error::{Error, Result, at};
use crate::progress::Progress;
use std::cell::Cell;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::process::Stdio;

/// An exclusive lock on a file, released when it is dropped; one that was shared with children ([`Lock::as_stdin`]), when no
/// child process holds it any more.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    shared: Cell<bool>,
}

impl Lock {
    /// Waits for the lock; says so first if another process holds it.
    pub fn wait(path: &Path, what: &str, progress: &dyn Progress) -> Result<Self> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.message(&format!("{what} is in use by another process; waiting"));
                file.lock().map_err(at(path))?;
            }
            Err(TryLockError::Error(error)) => return Err(at(path)(error)),
        }
        Ok(Self::over(file))
    }

    /// Takes the lock, or fails at once with [`Error::Busy`].
    pub fn try_take(path: &Path, image: &str) -> Result<Self> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self::over(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Busy { image: image.to_owned() }),
            Err(TryLockError::Error(error)) => Err(at(path)(error)),
        }
    }

    fn over(file: File) -> Self {
        Self { file, shared: Cell::new(false) }
    }

    /// The (empty) lock file as a child's standard input. The child then shares the lock, so that a build whose parent
    /// was killed keeps others out until its last process has ended.
    pub fn as_stdin(&self) -> Stdio {
        self.shared.set(true);
        self.file.try_clone().map_or_else(|_| Stdio::null(), Stdio::from)
    }
}

impl Drop for Lock {
    /// A child that another thread starts at this moment holds a copy of the file until it executes its program, and closing the
    /// file alone would leave it locked so long.
    fn drop(&mut self) {
        if !self.shared.get() {
            // Closing the file comes next and is all that is left to try.
            let _ = self.file.unlock();
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Recorder;
    use std::time::Duration;

    #[test]
    fn a_second_taker_waits_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let first = Lock::wait(&path, "x", &()).unwrap();
        assert!(matches!(Lock::try_take(&path, "x"), Err(Error::Busy { .. })));
        let recorder = Recorder::default();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Lock::wait(&path, "image x", &recorder).map(|_| ()));
            while recorder.lines().is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap().unwrap();
        });
        assert_eq!(recorder.lines(), ["image x is in use by another process; waiting"]);
        Lock::try_take(&path, "x").unwrap();
    }

    /// A copy of the file stands for that of a child that has not executed its program yet.
    #[test]
    fn a_lock_that_was_not_shared_ends_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = Lock::wait(&path, "x", &()).unwrap();
        let copy = lock.file.try_clone().unwrap();
        drop(lock);
        Lock::try_take(&path, "x").unwrap();
        drop(copy);
    }

    #[test]
    fn a_child_keeps_the_lock_of_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = Lock::wait(&path, "x", &()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").stdin(lock.as_stdin()).spawn().unwrap();
        drop(lock);
        let while_it_runs = Lock::try_take(&path, "x").map(|_| ());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(while_it_runs, Err(Error::Busy { .. })));
        // A child that another test starts at this moment may hold a copy until it executes its program.
        Lock::wait(&path, "x", &()).unwrap();
    }
}
