//! A private apt: package lists and downloads in the cache folder, from the machine's own mirrors, without root and
//! without touching the machine's apt state.

use crate::deb_version;
use crate::error::{Error, Result, at};
use crate::progress::{Progress, Unit};
use crate::recipe::VersionRange;
use crate::runner::Runner;
use crate::sources_list::Source;
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LISTS_STAY_FRESH: Duration = Duration::from_secs(24 * 3600);
const STAGE: &str = "fetching packages";
/// How apt says that the mirror answers but does not have a suite.
const ABSENT: [&str; 3] = ["does not have a Release file", "404  Not Found", "File not found - "];

/// Where apt-helper lies in every release of apt: it resumes and verifies single downloads.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// A package in one version, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
    pub uri: String,
    /// The file's name in the download folder.
    pub file: String,
    pub size: u64,
    /// apt's notation: `SHA256:…`.
    pub hash: String,
}

#[derive(Debug)]
pub(crate) struct Apt<'a> {
    runner: &'a Runner<'a>,
    folder: PathBuf,
    suites: Vec<String>,
    mirror: String,
}

impl<'a> Apt<'a> {
    /// Lays out the private configuration for `sources` under `parent`; equal sources share lists.
    pub fn new(runner: &'a Runner<'a>, parent: &Path, sources: &[Source]) -> Result<Self> {
        let text = sources.iter().map(Source::to_deb822).collect::<Vec<_>>().join("\n");
        let key: String = Sha256::digest(&text).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let folder = parent.join(key);
        for part in ["lists/partial", "cache/archives/partial", "state"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(at(&part))?;
        }
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            fs::write(&file, text).map_err(at(&file))
        };
        write("archive.sources", &text)?;
        write("state/status", "")?;
        let machine = runner.output(STAGE, runner.command("apt-config").arg("dump"))?;
        write("apt.conf", &configuration(&folder, &machine))?;
        Ok(Self {
            runner,
            folder,
            suites: sources.iter().flat_map(|source| source.suites.clone()).collect(),
            mirror: sources.iter().flat_map(|source| source.uris.clone()).collect::<Vec<_>>().join(" "),
        })
    }

    /// `apt-get download` passes over what lies in the folder that it runs in, so that is not the user's.
    fn command(&self, program: &str) -> Command {
        let mut command = self.runner.command(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).current_dir(&self.folder);
        command
    }

    /// Brings the package lists up to date, unless they were within a day (or `force`). With older lists present a
    /// failure is only noted: what they name may still be there. A suite that the mirror does not have is
    /// [`Error::PackageNotFound`], a signature that the machine's keyring cannot verify [`Error::UnknownKey`].
    pub fn update(&self, force: bool, progress: &dyn Progress) -> Result<()> {
        let stamp = self.folder.join("updated");
        let fresh = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < LISTS_STAY_FRESH));
        if fresh && !force {
            return Ok(());
        }
        let mut update = self.command("apt-get");
        update.args(["update", "-q", "-o", "APT::Update::Error-Mode=any"]);
        let (mut gone, mut unknown_key) = (false, false);
        let result = self.runner.run("updating the package lists", &mut update, |line| {
            gone |= ABSENT.iter().any(|text| line.contains(text));
            unknown_key |= line.contains("NO_PUBKEY") || line.contains("is not signed");
        });
        match result {
            Ok(()) => fs::write(&stamp, "").map_err(at(&stamp)),
            Err(_) if unknown_key => Err(Error::UnknownKey { suites: self.suites.clone() }),
            Err(_) if gone => Err(self.not_found("Release")),
            Err(Error::Network { .. } | Error::Build { .. }) if stamp.exists() => {
                progress.message(
                    "the package lists could not be updated; going on with those of an earlier build",
                );
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The version that apt would install of each package that it knows.
    fn candidates(&self, names: &[String]) -> Result<Vec<(String, String)>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let text = self.runner.output(STAGE, self.command("apt-cache").arg("policy").args(names))?;
        Ok(parse_policy(&text))
    }

    /// All versions of each package that it knows.
    fn versions(&self, names: &[String]) -> Result<Vec<(String, String)>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let text = self.runner.output(STAGE, self.command("apt-cache").arg("madison").args(names))?;
        Ok(parse_madison(&text))
    }

    fn not_found(&self, wanted: &str) -> Error {
        Error::PackageNotFound {
            wanted: wanted.to_owned(),
            suites: self.suites.clone(),
            mirror: self.mirror.clone(),
        }
    }

    /// Resolves exact names; alternatives are separated by `|`, the first that exists wins.
    pub fn resolve(&self, wanted: &[String]) -> Result<Vec<Package>> {
        let names: Vec<String> =
            wanted.iter().flat_map(|entry| entry.split('|').map(str::to_owned)).collect();
        let known = self.candidates(&names)?;
        let chosen = wanted
            .iter()
            .map(|entry| {
                entry
                    .split('|')
                    .find_map(|name| known.iter().find(|(known, _)| known == name).cloned())
                    .ok_or_else(|| self.not_found(entry))
            })
            .collect::<Result<Vec<_>>>()?;
        self.locate(&chosen)
    }

    /// The newest package within `range` whose name matches one of `patterns`, and what each `*` of the pattern stood
    /// for; among equal versions the earlier pattern wins.
    pub fn newest(&self, patterns: &[String], range: &VersionRange) -> Result<(Package, String)> {
        let (mut best, mut seen): (Option<(String, String, String)>, Vec<String>) = (None, Vec::new());
        for pattern in patterns {
            let prefix = pattern.split('*').next().unwrap_or_default();
            let all = self.runner.output(STAGE, self.command("apt-cache").args(["pkgnames", prefix]))?;
            let names: Vec<String> =
                all.lines().filter(|name| star(pattern, name).is_some()).map(str::to_owned).collect();
            for (name, version) in self.versions(&names)? {
                if !range.contains(&version) {
                    seen.push(version);
                    continue;
                }
                let newer = |best: &(String, String, String)| {
                    deb_version::compare(&version, &best.1) == Ordering::Greater
                };
                if best.as_ref().is_none_or(newer) {
                    let stood = star(pattern, &name).unwrap_or_default().to_owned();
                    best = Some((name, version, stood));
                }
            }
        }
        let wanted = || format!("{} ({range})", patterns.join(" or "));
        let Some((name, version, stood)) = best else {
            return Err(self.not_found(&match seen.pop() {
                Some(version) => format!("{}; there is {version}", wanted()),
                None => wanted(),
            }));
        };
        let package = self.locate(&[(name, version)])?.pop().ok_or_else(|| self.not_found(&wanted()))?;
        Ok((package, stood))
    }

    /// The packages `names`, all in `version`.
    pub fn exactly(&self, names: &[String], version: &str) -> Result<Vec<Package>> {
        let known = self.versions(names)?;
        let chosen: Vec<_> = names.iter().map(|name| (name.clone(), version.to_owned())).collect();
        match chosen.iter().find(|package| !known.contains(package)) {
            Some((name, _)) => Err(self.not_found(&format!("{name} (= {version})"))),
            None => self.locate(&chosen),
        }
    }

    fn locate(&self, packages: &[(String, String)]) -> Result<Vec<Package>> {
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = self.command("apt-get");
        command.args(["download", "--print-uris", "-qq"]);
        command.args(packages.iter().map(|(name, version)| format!("{name}={version}")));
        let text = self.runner.output(STAGE, &mut command)?;
        let located = parse_uris(&text);
        packages
            .iter()
            .map(|(name, version)| {
                let prefix = format!("{name}_");
                let found = located.iter().find(|package| package.file.starts_with(&prefix));
                let mut package = found.cloned().ok_or_else(|| self.not_found(name))?;
                package.name.clone_from(name);
                package.version.clone_from(version);
                Ok(package)
            })
            .collect()
    }

    /// Downloads what `folder` lacks. Finished files are kept for later builds; a part of a file is resumed.
    pub fn fetch(&self, packages: &[Package], folder: &Path, progress: &dyn Progress) -> Result<()> {
        let missing: Vec<&Package> =
            packages.iter().filter(|package| !is_complete(package, folder)).collect();
        let total: u64 = missing.iter().map(|package| package.size).sum();
        let mut done = 0;
        for package in missing {
            let part = folder.join(format!("{}.part", package.file));
            let mut command = self.command(APT_HELPER);
            command.args(["download-file", "-o", "APT::Status-Fd=1", "-o", "Acquire::Retries=3"]);
            command.arg(&package.uri).arg(&part).arg(&package.hash);
            let stage = format!("downloading {} {}", package.name, package.version);
            self.runner.run(&stage, &mut command, |line| {
                if let Some(percent) = download_percent(line) {
                    let bytes = (package.size as f64 * percent / 100.0) as u64;
                    progress.advance(done + bytes.min(package.size), total, Unit::Bytes);
                }
            })?;
            let file = folder.join(&package.file);
            fs::rename(&part, &file).map_err(at(&file))?;
            done += package.size;
            progress.advance(done, total, Unit::Bytes);
        }
        Ok(())
    }
}

/// A finished download: it was verified before it got its name, so only its size is looked at again.
fn is_complete(package: &Package, folder: &Path) -> bool {
    fs::metadata(folder.join(&package.file)).is_ok_and(|meta| meta.len() == package.size)
}

/// The private configuration: the machine's way to reach the network (proxies, retries, date checks), nothing else of it.
fn configuration(folder: &Path, machine: &str) -> String {
    let network = machine.lines().filter(|line| {
        [
            "Acquire::http",
            "Acquire::https",
            "Acquire::ftp",
            "Acquire::Check-",
            "Acquire::ForceIPv",
            "Acquire::Queue",
        ]
        .iter()
        .any(|prefix| line.starts_with(prefix))
    });
    let quoted = |part: &str| format!("\"{}\"", folder.join(part).display());
    let mut text = String::new();
    for line in network {
        text.push_str(line);
        text.push('\n');
    }
    for (key, value) in [
        ("Dir::Etc::Parts", "\"/dev/null\"".to_owned()),
        ("Dir::Etc::Main", "\"/dev/null\"".to_owned()),
        ("Dir::Etc::SourceList", quoted("archive.sources")),
        ("Dir::Etc::SourceParts", "\"/dev/null\"".to_owned()),
        ("Dir::Etc::Preferences", "\"/dev/null\"".to_owned()),
        ("Dir::Etc::PreferencesParts", "\"/dev/null\"".to_owned()),
        ("Dir::State", quoted("state")),
        ("Dir::State::Lists", quoted("lists")),
        ("Dir::State::Status", quoted("state/status")),
        ("Dir::Cache", quoted("cache")),
        ("Dir::Cache::SrcPkgCache", "\"\"".to_owned()),
        ("APT::Architecture", "\"amd64\"".to_owned()),
        ("APT::Architectures", "\"amd64\"".to_owned()),
        // Downloads happen as the user who runs the build, whose folders apt's own user cannot enter.
        ("APT::Sandbox::User", "\"root\"".to_owned()),
        ("Acquire::Languages", "\"none\"".to_owned()),
    ] {
        text.push_str(&format!("{key} {value};\n"));
    }
    text
}

/// `apt-cache policy`: a line with the name, then indented `Candidate: VERSION`.
fn parse_policy(text: &str) -> Vec<(String, String)> {
    let mut name = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(version) = line.trim_start().strip_prefix("Candidate:") {
            let version = version.trim();
            if version != "(none)" {
                found.push((name.to_owned(), version.to_owned()));
            }
        } else if !line.starts_with(' ') {
            name = line.trim_end_matches(':');
        }
    }
    found
}

/// `apt-cache madison`: ` NAME | VERSION | ARCHIVE` a line; source packages are listed too.
fn parse_madison(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('|').map(str::trim);
            let (name, version, archive) = (fields.next()?, fields.next()?, fields.next()?);
            archive.ends_with(" Packages").then(|| (name.to_owned(), version.to_owned()))
        })
        .collect()
}

/// `apt-get download --print-uris`: `'URI' FILE SIZE HASH` a line.
fn parse_uris(text: &str) -> Vec<Package> {
    text.lines()
        .filter_map(|line| {
            let (uri, rest) = line.strip_prefix('\'')?.split_once('\'')?;
            let mut words = rest.split_whitespace();
            Some(Package {
                name: String::new(),
                version: String::new(),
                uri: uri.to_owned(),
                file: words.next()?.to_owned(),
                size: words.next()?.parse().ok()?,
                hash: words.next()?.to_owned(),
            })
        })
        .collect()
}

/// apt's status lines: `dlstatus:ITEM:PERCENT:TEXT`.
fn download_percent(line: &str) -> Option<f64> {
    line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()
}

/// What the one `*` of `pattern` stands for in `name`: any text without a hyphen, so that no other flavour matches. `None`
/// if `name` does not match.
fn star<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    let (head, tail) = pattern.split_once('*').unwrap_or((pattern, ""));
    let stood = name.strip_prefix(head)?.strip_suffix(tail)?;
    let allowed = if pattern.contains('*') { !stood.contains('-') } else { stood.is_empty() };
    allowed.then_some(stood)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let pattern = "linux-image-6.1.0-*-amd64";
        assert_eq!(star(pattern, "linux-image-6.1.0-56-amd64"), Some("56"));
        assert_eq!(star(pattern, "linux-image-6.1.0-56-cloud-amd64"), None, "another flavour");
        assert_eq!(star(pattern, "linux-image-6.1.0-56-amd64-unsigned"), None);
        assert_eq!((star("flex", "flex"), star("flex", "flex-old")), (Some(""), None));
    }

    #[test]
    fn apt_output_parses() {
        let policy = "flex:\n  Installed: (none)\n  Candidate: 2.6.4-8.2\n  Version table:\n     2.6.4-8.2 500\n\
                      gone:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        assert_eq!(parse_policy(policy), [("flex".into(), "2.6.4-8.2".into())]);
        let madison = " a | 6.12.1-1 | http://m.example/debian trixie/main amd64 Packages\n \
                       a | 6.12.1-1 | http://m.example/debian trixie/main Sources\n";
        assert_eq!(parse_madison(madison), [("a".into(), "6.12.1-1".into())]);
        let uris =
            "'http://m.example/p/flex_2.6%3a4_amd64.deb' flex_2.6%3a4_amd64.deb 423136 SHA256:ab\nnoise\n";
        let packages = parse_uris(uris);
        assert_eq!(packages.len(), 1);
        assert_eq!((packages[0].file.as_str(), packages[0].size), ("flex_2.6%3a4_amd64.deb", 423_136));
        assert_eq!(packages[0].hash, "SHA256:ab");
        assert_eq!(download_percent("dlstatus:1:36.3465:Retrieving file 1 of 1"), Some(36.3465));
        assert_eq!(download_percent("Get:1 http://x"), None);
    }

    #[test]
    fn only_the_machines_network_settings_are_taken() {
        let machine = "Acquire::http::Proxy \"http://p.example\";\nAPT::Update::Post-Invoke:: \"rm x\";\n\
                       Acquire::IndexTargets::deb::X \"y\";\nDir::Cache \"/var\";\n";
        let text = configuration(Path::new("/c"), machine);
        assert!(text.starts_with("Acquire::http::Proxy \"http://p.example\";\n"));
        assert!(!text.contains("rm x") && !text.contains("IndexTargets") && !text.contains("/var"));
        assert!(text.contains("Dir::State::Lists \"/c/lists\";"));
    }

    #[test]
    fn finished_downloads_are_kept_and_others_are_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let package = Package {
            name: "p".into(),
            version: "1".into(),
            uri: String::new(),
            file: "p_1.deb".into(),
            size: 3,
            hash: String::new(),
        };
        assert!(!is_complete(&package, folder.path()));
        fs::write(folder.path().join("p_1.deb.part"), "abc").unwrap();
        assert!(!is_complete(&package, folder.path()));
        fs::write(folder.path().join("p_1.deb"), "ab").unwrap();
        assert!(!is_complete(&package, folder.path()));
        fs::write(folder.path().join("p_1.deb"), "abc").unwrap();
        assert!(is_complete(&package, folder.path()));
    }
}
