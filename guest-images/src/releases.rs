//! Packages from several Debian releases in a recipe's order: each release has package lists of its own, which are
//! fetched only when the releases before it lack the package.

use crate::apt::{Apt, Package};
use crate::error::{Error, Result, at};
use crate::kernel::remove;
use crate::progress::Progress;
use crate::runner::Runner;
use crate::sources_list::{Mirrors, Source};
use crate::store::Layout;
use std::fs;
use std::path::{Path, PathBuf};

/// The archive keys of all Debian releases that the package's own release knows of.
const KEYRING_PACKAGE: &str = "debian-archive-keyring";
const KEYRING: &str = "usr/share/keyrings/debian-archive-keyring.gpg";

/// The machine's archives, seen release by release.
#[derive(Clone, Copy)]
pub(crate) struct Releases<'a> {
    pub runner: &'a Runner<'a>,
    pub layout: &'a Layout,
    pub mirrors: &'a Mirrors,
    pub progress: &'a dyn Progress,
}

impl<'a> Releases<'a> {
    /// What `find` finds in the first of `releases` that has it; each is the list of the suites of one release.
    /// [`Error::PackageNotFound`] if none has.
    pub fn first<T>(&self, releases: &[Vec<String>], find: impl Fn(&Apt) -> Result<T>) -> Result<T> {
        let mut missing: Option<Error> = None;
        for suites in releases {
            let found =
                self.open(&self.mirrors.sources_for(suites)).and_then(|apt| self.attempt(&apt, &find));
            match found {
                Err(error @ Error::PackageNotFound { .. }) => missing = Some(join(missing, error)),
                result => return result,
            }
        }
        Err(missing.unwrap_or_else(|| Error::PackageNotFound {
            wanted: "package".into(),
            suites: Vec::new(),
            mirror: self.mirrors.main.uris.join(" "),
        }))
    }

    /// The release that this machine runs, for programs that run on it.
    pub fn own<T>(&self, find: impl Fn(&Apt) -> Result<T>) -> Result<T> {
        let sources: Vec<Source> = [Some(&self.mirrors.main), self.mirrors.security.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        self.attempt(&self.open(&sources)?, &find)
    }

    /// Old lists may name files that the mirror no longer has, and lack those that it has now.
    fn attempt<T>(&self, apt: &Apt, find: impl Fn(&Apt) -> Result<T>) -> Result<T> {
        match find(apt) {
            Err(Error::Network { .. } | Error::Build { .. } | Error::PackageNotFound { .. }) => {
                apt.update(true, self.progress)?;
                find(apt)
            }
            result => result,
        }
    }

    fn open(&self, sources: &[Source]) -> Result<Apt<'a>> {
        let parent = self.layout.apt();
        let apt = Apt::new(self.runner, &parent, sources)?;
        match apt.update(false, self.progress) {
            Err(Error::UnknownKey { .. }) => {
                let keyring = self.keyring()?;
                self.progress.message("verifying with the newest archive keyring of this machine's release");
                let sources: Vec<Source> =
                    sources.iter().map(|source| source.signed_by(&keyring.to_string_lossy())).collect();
                let apt = Apt::new(self.runner, &parent, &sources)?;
                apt.update(false, self.progress)?;
                Ok(apt)
            }
            result => result.map(|()| apt),
        }
    }

    /// A release that is younger than this machine's keyring is signed with keys that the keyring lacks. The machine's own
    /// release vouches for them: its archive, verified with the keyring at hand, carries the newest keyring.
    fn keyring(&self) -> Result<PathBuf> {
        let folder = self.layout.keyring();
        let packages = self.own(|apt| {
            let packages = apt.resolve(&[KEYRING_PACKAGE.to_owned()])?;
            self.fetch(apt, &packages)?;
            Ok(packages)
        })?;
        remove(&folder)?;
        self.unpack(&packages, &folder)?;
        let keyring = folder.join(KEYRING);
        fs::metadata(&keyring).map_err(at(&keyring))?;
        Ok(keyring)
    }

    /// Downloads packages that `apt` has located.
    pub fn fetch(&self, apt: &Apt, packages: &[Package]) -> Result<()> {
        apt.fetch(packages, &self.layout.downloads(), self.progress)
    }

    /// A control field of the first of the downloaded packages.
    pub fn field(&self, packages: &[Package], name: &str) -> Result<String> {
        let Some(package) = packages.first() else { return Ok(String::new()) };
        let mut command = self.runner.command("dpkg-deb");
        command.arg("-f").arg(self.layout.downloads().join(&package.file)).arg(name);
        self.runner.output("reading a package's fields", &mut command)
    }

    /// Unpacks downloaded packages into the folder `to`.
    pub fn unpack(&self, packages: &[Package], to: &Path) -> Result<()> {
        fs::create_dir_all(to).map_err(at(to))?;
        for package in packages {
            let mut command = self.runner.command("dpkg-deb");
            command.arg("-x").arg(self.layout.downloads().join(&package.file)).arg(to);
            self.runner.run(&format!("unpacking {}", package.name), &mut command, |_| {})?;
        }
        Ok(())
    }
}

/// One error for a package that several releases lack.
fn join(earlier: Option<Error>, later: Error) -> Error {
    match (earlier, later) {
        (
            Some(Error::PackageNotFound { wanted, mut suites, mirror }),
            Error::PackageNotFound { suites: more, .. },
        ) => {
            suites.extend(more);
            Error::PackageNotFound { wanted, suites, mirror }
        }
        (_, later) => later,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::host::Host;
    use crate::lock::Lock;
    use crate::recipe::VersionRange;
    use sha2::{Digest, Sha256};

    /// An archive in `root` with one package in each suite, given as suite, package and version.
    pub(crate) fn archive(root: &Path, suites: &[(&str, &str, &str)]) {
        for (suite, package, version) in suites {
            let index = format!(
                "Package: {package}\nVersion: {version}\nArchitecture: amd64\nMaintainer: x\n\
                 Filename: pool/{package}_{version}.deb\nSize: 7\nSHA256: {:064}\nDescription: x\n\n",
                0
            );
            let folder = root.join("dists").join(suite);
            let file = folder.join("main/binary-amd64/Packages");
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, &index).unwrap();
            let hash: String = Sha256::digest(&index).iter().map(|byte| format!("{byte:02x}")).collect();
            let release = format!(
                "Suite: {suite}\nCodename: {suite}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nArchitectures: amd64\n\
                 Components: main\nSHA256:\n {hash} {} main/binary-amd64/Packages\n",
                index.len()
            );
            fs::write(folder.join("Release"), release).unwrap();
        }
    }

    fn with_releases(suites: &[(&str, &str, &str)], test: impl FnOnce(&Releases)) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        archive(root, suites);
        let host = Host::this_machine();
        let lock = Lock::wait(&root.join("lock"), "x", &()).unwrap();
        let runner = Runner::new(&host, &lock, root.join("log")).unwrap();
        let layout = Layout { root: root.to_owned() };
        let main = Source {
            uris: vec![format!("file:{}", root.display())],
            suites: vec!["old".into()],
            components: vec!["main".into()],
            options: vec![("trusted".into(), "yes".into())],
        };
        let mirrors = Mirrors { main, security: None };
        test(&Releases { runner: &runner, layout: &layout, mirrors: &mirrors, progress: &() });
    }

    fn newest(releases: &Releases, order: &[&str], pattern: &str) -> Result<(String, String)> {
        let range = VersionRange { at_least: "7.2".into(), below: "7.3".into() };
        let order: Vec<Vec<String>> = order.iter().map(|suite| vec![(*suite).to_owned()]).collect();
        let (package, stood) = releases.first(&order, |apt| apt.newest(&[pattern.to_owned()], &range))?;
        Ok((package.version, stood))
    }

    #[test]
    fn releases_are_asked_in_order_and_only_versions_in_range_count() {
        let suites = [
            ("old", "linux-7.1.9-x", "7.1.9-1"),
            ("new", "linux-7.2.1-x", "7.2.1-1"),
            ("newer", "linux-7.2.9-x", "7.2.9-1"),
        ];
        with_releases(&suites, |releases| {
            let found = newest(releases, &["old", "new", "newer"], "linux-*-x").unwrap();
            assert_eq!(found, ("7.2.1-1".to_owned(), "7.2.1".to_owned()));
            assert_eq!(newest(releases, &["newer", "new"], "linux-*-x").unwrap().1, "7.2.9");
        });
    }

    #[test]
    fn what_no_release_has_is_unavailable() {
        with_releases(&[("old", "linux-7.1.9-x", "7.1.9-1")], |releases| {
            let error = newest(releases, &["old", "gone"], "linux-*-x").unwrap_err();
            assert!(error.is_unavailable());
            let text = error.to_string();
            for part in ["unavailable", "linux-*-x (>= 7.2, << 7.3); there is 7.1.9-1", "old, gone", "file:/"]
            {
                assert!(text.contains(part), "{part} in {text}");
            }
        });
    }
}
