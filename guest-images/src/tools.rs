//! Host programs and libraries for a kernel build: the machine's own where it has them, otherwise packages unpacked into
//! the cache's tool folder and reached through the environment.

use crate::error::{Error, Result};
use crate::recipe::{self, HostTool};
use crate::releases::Releases;
use crate::runner::Runner;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const LIBRARY_FOLDERS: [&str; 4] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib", "lib"];

/// The environment in which all wanted tools work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tools {
    variables: Vec<(String, OsString)>,
}

impl Tools {
    /// The tools of `wanted` that neither the machine nor the tool folder has.
    pub fn missing(runner: &Runner, root: &Path, wanted: &[String]) -> Result<Vec<HostTool>> {
        let known = recipe::host_tools()?;
        let environment = Self::with_root(runner, root);
        let mut missing = Vec::new();
        for name in wanted {
            let tool = known.iter().find(|tool| tool.name == *name).ok_or_else(|| Error::BadRecipe {
                file: "host-tools.toml".into(),
                reason: format!("no tool {name:?}"),
            })?;
            if !Self::default().works(runner, tool) && !environment.works(runner, tool) {
                missing.push(tool.clone());
            }
        }
        Ok(missing)
    }

    /// The machine's tools first, the tool folder's where the machine has none. Fails if something still does not work.
    pub fn ready(runner: &Runner, root: &Path, wanted: &[String]) -> Result<Self> {
        let tools = Self::with_root(runner, root);
        let missing = Self::missing(runner, root, wanted)?;
        match missing.first() {
            None => Ok(tools),
            Some(tool) => Err(Error::Build {
                stage: "preparing the host tools".into(),
                reason: format!(
                    "{} does not work, neither the machine's nor the one from {}",
                    tool.name,
                    tool.packages.join(", ")
                ),
                log: runner.log_path.clone(),
                tail: String::new(),
            }),
        }
    }

    fn with_root(runner: &Runner, root: &Path) -> Self {
        if !root.exists() {
            return Self::default();
        }
        let mut path = runner.host.path.clone();
        for folder in ["usr/bin", "bin"] {
            path.push(":");
            path.push(root.join(folder));
        }
        let libraries = join(LIBRARY_FOLDERS.iter().map(|folder| root.join(folder)), None);
        let headers = ["usr/include", "usr/include/x86_64-linux-gnu"].map(|folder| root.join(folder));
        let mut variables = vec![
            ("PATH".to_owned(), path),
            ("CPATH".to_owned(), join(headers.into_iter(), std::env::var_os("CPATH"))),
            ("LIBRARY_PATH".to_owned(), join_os(&libraries, std::env::var_os("LIBRARY_PATH"))),
            ("LD_LIBRARY_PATH".to_owned(), join_os(&libraries, std::env::var_os("LD_LIBRARY_PATH"))),
        ];
        // bison and flex look for m4 and for their data where they would be installed.
        if runner.host.find("bison").is_none() {
            variables.push(("BISON_PKGDATADIR".into(), root.join("usr/share/bison").into()));
        }
        if runner.host.find("m4").is_none() {
            variables.push(("M4".into(), root.join("usr/bin/m4").into()));
        }
        Self { variables }
    }

    pub fn apply(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(key, value)| (key, value)));
    }

    fn works(&self, runner: &Runner, tool: &HostTool) -> bool {
        let check = |mut command: Command| {
            self.apply(&mut command);
            runner.succeeds(&mut command)
        };
        if let Some(program) = &tool.command {
            let mut command = runner.command("sh");
            command.args(["-c", "command -v \"$0\" && \"$0\" --version", program.as_str()]);
            if !check(command) {
                return false;
            }
        }
        if tool.header.is_some() || tool.library.is_some() {
            let mut command = runner.command("sh");
            let header =
                tool.header.as_deref().map(|header| format!("-include {header}")).unwrap_or_default();
            let library = tool.library.as_deref().map(|library| format!("-l{library}")).unwrap_or_default();
            let script =
                format!("echo 'int main(void){{return 0;}}' | cc -x c {header} - -o /dev/null {library}");
            command.args(["-c", &script]);
            if !check(command) {
                return false;
            }
        }
        true
    }
}

fn join(folders: impl Iterator<Item = PathBuf>, inherited: Option<OsString>) -> OsString {
    let mut joined = OsString::new();
    for folder in folders {
        if !joined.is_empty() {
            joined.push(":");
        }
        joined.push(folder);
    }
    join_os(&joined, inherited)
}

fn join_os(folders: &OsString, inherited: Option<OsString>) -> OsString {
    let mut joined = folders.clone();
    if let Some(inherited) = inherited.filter(|inherited| !inherited.is_empty()) {
        joined.push(":");
        joined.push(inherited);
    }
    joined
}

/// Fetches what is missing of `wanted` from this machine's own release, on which it will run, and unpacks it.
pub(crate) fn provide(releases: &Releases, wanted: &[String]) -> Result<Tools> {
    let (runner, root) = (releases.runner, releases.layout.tools());
    let missing = Tools::missing(runner, &root, wanted)?;
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|tool| tool.name.as_str()).collect();
        runner.note(&format!("host tools missing: {}", names.join(", ")));
        let names: Vec<String> = missing.iter().flat_map(|tool| tool.packages.clone()).collect();
        let packages = releases.own(|apt| {
            let packages = apt.resolve(&names)?;
            releases.fetch(apt, &packages)?;
            Ok(packages)
        })?;
        releases.unpack(&packages, &root)?;
    }
    Tools::ready(runner, &root, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::lock::Lock;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn tools_come_from_the_machine_first_then_from_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::this_machine();
        let lock = Lock::wait(&folder.path().join("lock"), "x", &()).unwrap();
        let runner = Runner::new(&host, &lock, folder.path().join("log")).unwrap();
        let root = folder.path().join("tools");
        let tool = |name: &str| HostTool {
            name: name.into(),
            command: Some(name.into()),
            header: None,
            library: None,
            packages: vec![],
        };
        assert!(Tools::default().works(&runner, &tool("sed")));
        assert!(!Tools::default().works(&runner, &tool("staleline-test-tool")));

        fs::create_dir_all(root.join("usr/bin")).unwrap();
        let program = root.join("usr/bin/staleline-test-tool");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Tools::with_root(&runner, &root).works(&runner, &tool("staleline-test-tool")));

        fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
        assert!(
            !Tools::with_root(&runner, &root).works(&runner, &tool("staleline-test-tool")),
            "found but broken"
        );
        assert!(matches!(Tools::missing(&runner, &root, &["nonsense".into()]), Err(Error::BadRecipe { .. })));
    }

    #[test]
    fn headers_and_libraries_are_tried_with_the_compiler() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::this_machine();
        let lock = Lock::wait(&folder.path().join("lock"), "x", &()).unwrap();
        let runner = Runner::new(&host, &lock, folder.path().join("log")).unwrap();
        let mut tool = HostTool {
            name: "math".into(),
            command: None,
            header: Some("math.h".into()),
            library: Some("m".into()),
            packages: vec![],
        };
        assert!(Tools::default().works(&runner, &tool));
        tool.header = Some("no-such-header.h".into());
        assert!(!Tools::default().works(&runner, &tool));
    }
}
