//! What the machine that builds has: programs on its search path, its release, free disk space.

use crate::error::{Error, Result};
use crate::sources_list::{self, Mirrors, Source};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The machine, as far as builds see it.
#[derive(Clone, Debug)]
pub struct Host {
    /// The search path for programs.
    pub path: OsString,
    /// `/`, or a folder that stands for it in tests.
    pub root: PathBuf,
}

impl Host {
    /// This machine: the search path of the environment and the sbin folders, the real file system.
    pub fn this_machine() -> Self {
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        // Non-root users often lack the sbin folders, where some packages put tools that need no root.
        for extra in ["/usr/sbin", "/sbin"] {
            if !std::env::split_paths(&path).any(|folder| folder == Path::new(extra)) {
                path.push(":");
                path.push(extra);
            }
        }
        Self { path, root: "/".into() }
    }

    /// Where `program` lies on the search path.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|folder| folder.join(program)).find(|file| {
            file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
    }

    pub(crate) fn require(&self, tool: &'static str, purpose: &'static str) -> Result<()> {
        self.find(tool).map(|_| ()).ok_or(Error::MissingTool { tool, purpose })
    }

    /// A field of `/etc/os-release`, without quotes.
    pub fn os_release(&self, field: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join("etc/os-release")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix('='))
            .map(|value| value.trim_matches(['"', '\'']).to_owned())
    }

    /// The machine's own package sources.
    pub fn package_sources(&self) -> Vec<Source> {
        let apt = self.root.join("etc/apt");
        let mut files = vec![apt.join("sources.list")];
        if let Ok(folder) = std::fs::read_dir(apt.join("sources.list.d")) {
            files.extend(folder.filter_map(|entry| Some(entry.ok()?.path())));
        }
        files.sort();
        files
            .iter()
            .filter_map(|file| {
                let text = std::fs::read_to_string(file).ok()?;
                match file.extension()?.to_str()? {
                    "list" => Some(sources_list::parse_lines(&text)),
                    "sources" => Some(sources_list::parse_deb822(&text)),
                    _ => None,
                }
            })
            .flatten()
            .collect()
    }

    /// The machine's Debian archives; `None` if it is no Debian or its package sources name none.
    pub fn debian_mirrors(&self) -> Option<Mirrors> {
        if self.os_release("ID").is_none_or(|id| id != "debian") {
            return None;
        }
        Mirrors::find(&self.package_sources(), &self.os_release("VERSION_CODENAME").unwrap_or_default())
    }

    /// MiB that an ordinary user may still write in `folder`'s file system; `None` if `df` does not say.
    pub fn free_mib(&self, folder: &Path) -> Option<u64> {
        let output = Command::new("df")
            .args(["--output=avail", "-B1048576"])
            .arg(folder)
            .env("PATH", &self.path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        String::from_utf8_lossy(&output.stdout).lines().nth(1)?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_search_path_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tool");
        std::fs::write(&file, "").unwrap();
        let host = Host { path: folder.path().as_os_str().to_owned(), root: "/".into() };
        assert_eq!(host.find("tool"), None, "not executable");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(host.find("tool"), Some(file));
        assert!(matches!(host.require("absent", "x"), Err(Error::MissingTool { tool: "absent", .. })));
    }

    #[test]
    fn sources_of_both_styles_are_read() {
        let root = tempfile::tempdir().unwrap();
        let apt = root.path().join("etc/apt/sources.list.d");
        std::fs::create_dir_all(&apt).unwrap();
        std::fs::write(
            root.path().join("etc/apt/sources.list"),
            "deb http://a.example/debian bookworm main\n",
        )
        .unwrap();
        std::fs::write(apt.join("b.sources"), "Types: deb\nURIs: http://b.example/\nSuites: bookworm\n")
            .unwrap();
        std::fs::write(apt.join("c.sources.disabled"), "Types: deb\nURIs: http://c.example/\nSuites: x\n")
            .unwrap();
        std::fs::write(root.path().join("etc/os-release"), "ID=debian\nVERSION_CODENAME=\"bookworm\"\n")
            .unwrap();
        let host = Host { path: OsString::new(), root: root.path().to_owned() };
        let uris: Vec<_> = host.package_sources().into_iter().flat_map(|source| source.uris).collect();
        assert_eq!(uris, ["http://a.example/debian", "http://b.example/"]);
        assert_eq!(host.os_release("VERSION_CODENAME").as_deref(), Some("bookworm"));
        assert_eq!(host.os_release("VERSION"), None);
    }

    #[test]
    fn free_space_is_known() {
        assert!(Host::this_machine().free_mib(Path::new("/")).is_some());
    }
}
