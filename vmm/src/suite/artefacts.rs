//! What is kept of cases that do not hold, and the memory of how cases ended last.

use super::results::Verdict;
use crate::bounded::Bounded;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Reproduces the case: written before it runs.
const COMMAND: &str = "command";
/// How every case ended last.
const OUTCOMES: &str = "outcomes.json";

/// The artefacts' folder.
#[derive(Debug)]
pub struct Artefacts {
    root: PathBuf,
    /// Keep everything, also of cases that hold.
    keep: bool,
    /// Held while folders are made or removed: a case that holds removes the folders above its own that are empty then,
    /// and another may be about to make its own in one.
    folders: Mutex<()>,
}

/// The folder of a case.
#[derive(Debug)]
pub struct CaseFolder<'a> {
    artefacts: &'a Artefacts,
    pub path: PathBuf,
}

impl Artefacts {
    #[must_use]
    pub fn new(root: PathBuf, keep: bool) -> Self {
        Self { root, keep, folders: Mutex::default() }
    }

    /// Makes the folder of the case `id`, with `command` in it; what an earlier run has left there goes.
    ///
    /// # Errors
    /// If it cannot be made, or holds something that no suite has put there.
    pub fn begin(&self, id: &str, command: &str) -> io::Result<CaseFolder<'_>> {
        let path = self.root.join(id);
        let _folders = self.lock_folders();
        if path.join(COMMAND).is_file() {
            fs::remove_dir_all(&path)?;
        } else if fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "not a folder of artefacts"));
        }
        fs::create_dir_all(&path)?;
        // Options such as `--console FILE` can be given to the script.
        let (program, options) = command.split_once(" run ").unwrap_or((command, ""));
        fs::write(path.join(COMMAND), format!("#!/bin/sh\nexec {program} run \"$@\" {options}\n"))?;
        Ok(CaseFolder { artefacts: self, path })
    }

    fn lock_folders(&self) -> MutexGuard<'_, ()> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How cases ended last.
    ///
    /// # Errors
    /// If no suite has left that, or it is not what a suite leaves.
    pub fn outcomes(&self) -> io::Result<BTreeMap<String, Verdict>> {
        Ok(serde_json::from_str(&fs::read_to_string(self.root.join(OUTCOMES))?)?)
    }

    /// Remembers how cases ended; those that were not run this time stay as they were.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn remember(&self, ended: impl Iterator<Item = (String, Verdict)>) -> io::Result<()> {
        let mut all = self.outcomes().unwrap_or_default();
        all.extend(ended);
        fs::create_dir_all(&self.root)?;
        let partial = self.root.join(format!("{OUTCOMES}.{}", std::process::id()));
        fs::write(&partial, serde_json::to_string_pretty(&all)? + "\n")?;
        fs::rename(partial, self.root.join(OUTCOMES))
    }
}

impl CaseFolder<'_> {
    /// A file in it for what a guest sends, written as it comes.
    #[must_use]
    pub fn stream(&self, name: &str) -> Stream {
        let path = self.file(name);
        let file = File::create(&path).inspect_err(|error| log::error!("{}: {error}", path.display()));
        Stream { kept: Bounded::default(), file: file.ok(), path }
    }

    /// Keeps the folder of a case with `problems`, removes that of one that holds; returns where it is, if it is.
    ///
    /// # Errors
    /// If a file cannot be written or removed.
    pub fn end(self, problems: &[String]) -> io::Result<Option<PathBuf>> {
        if problems.is_empty() && !self.artefacts.keep {
            let _folders = self.artefacts.lock_folders();
            fs::remove_dir_all(&self.path)?;
            // Folders above that are empty now.
            let above = self.path.ancestors().skip(1).take_while(|folder| *folder != self.artefacts.root);
            let _ = above.map(fs::remove_dir).take_while(Result::is_ok).count();
            return Ok(None);
        }
        if !problems.is_empty() {
            let text: String = problems.iter().map(|line| format!("{line}\n")).collect();
            fs::write(self.path.join("problems"), text)?;
        }
        Ok(Some(self.path))
    }

    /// A file in the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// What a guest sends, kept up to a limit, both here and in a file: what has come by then is there even if this program ends
/// before the guest.
#[derive(Debug)]
pub struct Stream {
    kept: Bounded,
    /// None after it could not be written.
    file: Option<File>,
    path: PathBuf,
}

impl Stream {
    /// What was sent, and whether that was more than is kept.
    #[must_use]
    pub fn into_bytes(self) -> (Vec<u8>, bool) {
        (self.kept.bytes, self.kept.overflowed)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.kept.bytes.len();
        self.kept.write_all(bytes)?;
        let new = self.kept.bytes.get(before..).unwrap_or_default();
        // A disk that is full is no matter of the guest's.
        if let Some(Err(error)) = self.file.as_mut().map(|file| file.write_all(new)) {
            log::error!("{}: {error}", self.path.display());
            self.file = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fails_is_kept_and_nothing_foreign_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let artefacts = Artefacts::new(root.path().join("a"), false);
        let folder = artefacts.begin("s/c/seed-1", "staleline run --seed 1").unwrap();
        let script = fs::read_to_string(folder.file(COMMAND)).unwrap();
        assert_eq!(script, "#!/bin/sh\nexec staleline run \"$@\" --seed 1\n");
        assert_eq!(folder.end(&[]).unwrap(), None);
        assert!(!root.path().join("a/s").exists() && root.path().join("a").exists());

        let kept = artefacts.begin("s/seed-2", "x").unwrap().end(&["bad".into()]).unwrap().unwrap();
        assert_eq!(fs::read_to_string(kept.join("problems")).unwrap(), "bad\n");
        fs::write(kept.join("console"), "old").unwrap();
        artefacts.begin("s/seed-2", "x").unwrap();
        assert!(!kept.join("console").exists());

        fs::create_dir_all(root.path().join("a/mine")).unwrap();
        fs::write(root.path().join("a/mine/letter"), "dear").unwrap();
        assert!(artefacts.begin("mine", "x").is_err());
        assert!(root.path().join("a/mine/letter").exists());
    }

    #[test]
    fn what_a_guest_sends_is_in_the_file_as_it_comes() {
        let root = tempfile::tempdir().unwrap();
        let artefacts = Artefacts::new(root.path().into(), false);
        let folder = artefacts.begin("s/seed-1", "x").unwrap();
        let mut stream = folder.stream("console");
        stream.write_all(b"boot").unwrap();
        assert_eq!(fs::read(folder.file("console")).unwrap(), b"boot");
        let flood = vec![b'x'; Bounded::LIMIT];
        stream.write_all(&flood).unwrap();
        let (kept, overflowed) = stream.into_bytes();
        assert!(overflowed && kept.len() == Bounded::LIMIT && kept.starts_with(b"bootxx"));
        assert_eq!(fs::read(folder.file("console")).unwrap(), kept);
    }

    #[test]
    fn cases_that_hold_at_the_same_time_do_not_remove_each_other_s_folders() {
        let root = tempfile::tempdir().unwrap();
        let artefacts = Artefacts::new(root.path().into(), false);
        std::thread::scope(|scope| {
            for case in 0..8 {
                let artefacts = &artefacts;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let folder = artefacts.begin(&format!("s/seed-{case}"), "x").unwrap();
                        assert_eq!(folder.end(&[]).unwrap(), None);
                    }
                });
            }
        });
    }

    #[test]
    fn outcomes_are_remembered_one_by_one() {
        let root = tempfile::tempdir().unwrap();
        let artefacts = Artefacts::new(root.path().into(), false);
        assert!(artefacts.outcomes().is_err());
        let remember =
            |id: &str, verdict| artefacts.remember([(id.to_owned(), verdict)].into_iter()).unwrap();
        remember("a", Verdict::Failed);
        remember("b", Verdict::Passed);
        remember("a", Verdict::Passed);
        let all = artefacts.outcomes().unwrap();
        assert_eq!(
            all.into_iter().collect::<Vec<_>>(),
            [("a".into(), Verdict::Passed), ("b".into(), Verdict::Passed)]
        );
    }
}
