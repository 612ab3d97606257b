//! Runs the programs of a build: output goes to the build's log, failures come back as errors that say why.

use crate::error::{Error, Result, at};
use crate::host::Host;
use crate::lock::Lock;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Lines that an error shows of the end of a command's output, and of earlier lines that tell of an error.
const TAIL_LINES: usize = 15;
const ERROR_LINES: usize = 5;

#[derive(Debug)]
pub(crate) struct Runner<'a> {
    pub host: &'a Host,
    pub log_path: PathBuf,
    log: File,
    lock: &'a Lock,
}

impl<'a> Runner<'a> {
    /// Starts a fresh log at `log_path`.
    pub fn new(host: &'a Host, lock: &'a Lock, log_path: PathBuf) -> Result<Self> {
        let log = File::create(&log_path).map_err(at(&log_path))?;
        Ok(Self { host, log_path, log, lock })
    }

    pub fn note(&self, text: &str) {
        // A log that cannot be written must not end a build.
        let _ = writeln!(&self.log, "{text}");
    }

    /// A command with the build's search path and language, and no inherited input.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", &self.host.path).env("LC_ALL", "C");
        command
    }

    /// Runs to the end; each line of output is logged and shown to `on_line`.
    pub fn run(&self, stage: &str, command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<()> {
        self.note(&format!("$ {command:?}"));
        let name = command_name(command);
        let broken = |error| self.failure(stage, format!("{name}: {error}"), &[]);
        let (reader, writer) = std::io::pipe().map_err(broken)?;
        let errors = writer.try_clone().map_err(broken)?;
        let spawned = command.stdin(self.lock.as_stdin()).stdout(writer).stderr(errors).spawn();
        // The command keeps its copies of the pipe until it is told otherwise; the reader would never see the end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = spawned.map_err(broken)?;

        let mut tail: Vec<String> = Vec::new();
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|size| size > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            self.note(&text);
            on_line(&text);
            tail.push(text);
            if tail.len() > 200 {
                tail.drain(..100);
            }
        }
        let status = child.wait().map_err(broken)?;
        self.judge(stage, command, status, &tail)
    }

    /// Runs to the end and returns what it wrote to standard output.
    pub fn output(&self, stage: &str, command: &mut Command) -> Result<String> {
        self.note(&format!("$ {command:?}"));
        let output = command
            .stdin(self.lock.as_stdin())
            .output()
            .map_err(|error| self.failure(stage, format!("{}: {error}", command_name(command)), &[]))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        self.note(&errors);
        let tail: Vec<String> = errors.lines().map(str::to_owned).collect();
        self.judge(stage, command, output.status, &tail)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether the command succeeds; says nothing.
    pub fn succeeds(&self, command: &mut Command) -> bool {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn judge(&self, stage: &str, command: &Command, status: ExitStatus, tail: &[String]) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        Err(self.failure(stage, format!("{} ended with {status}", command_name(command)), tail))
    }

    fn failure(&self, stage: &str, reason: String, lines: &[String]) -> Error {
        self.note(&reason);
        let (before, tail) = lines.split_at(lines.len().saturating_sub(TAIL_LINES));
        // With several compilers at work the message that matters may be far from the end.
        let errors = before.iter().filter(|line| line.contains("error:")).take(ERROR_LINES);
        let tail = errors.chain(tail).map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n");
        let mentions =
            |causes: &[&str]| lines.iter().any(|line| causes.iter().any(|cause| line.contains(cause)));
        if mentions(&["No space left on device", "Disk quota exceeded", "not enough free disk space"]) {
            let folder = self.log_path.parent().unwrap_or(Path::new("/")).to_owned();
            let free_mib = self.host.free_mib(&folder).unwrap_or(0);
            return Error::DiskFull { folder, free_mib, needed_mib: None };
        }
        if mentions(NETWORK_CAUSES) {
            return Error::Network { stage: stage.into(), log: self.log_path.clone(), tail };
        }
        Error::Build { stage: stage.into(), reason, log: self.log_path.clone(), tail }
    }
}

/// How apt says that the network failed.
const NETWORK_CAUSES: &[&str] = &[
    "Temporary failure resolving",
    "Could not resolve",
    "Could not connect",
    "Unable to connect",
    "Cannot initiate the connection",
    "Connection failed",
    "Connection timed out",
    "Connection refused",
    "Error reading from server",
    "Network is unreachable",
    "Failed to fetch",
];

fn command_name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_runner(test: impl FnOnce(&Runner)) {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::this_machine();
        let lock = Lock::wait(&folder.path().join("lock"), "x", &()).unwrap();
        test(&Runner::new(&host, &lock, folder.path().join("x.log")).unwrap());
    }

    fn shell(runner: &Runner, script: &str) -> Command {
        let mut command = runner.command("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_logged_and_shown_line_by_line() {
        with_runner(|runner| {
            let mut lines = Vec::new();
            runner
                .run("s", &mut shell(runner, "echo one; echo two >&2"), |line| lines.push(line.to_owned()))
                .unwrap();
            assert_eq!(lines, ["one", "two"]);
            let log = std::fs::read_to_string(&runner.log_path).unwrap();
            assert!(log.contains("\none\ntwo\n"), "{log}");
            assert_eq!(runner.output("s", &mut shell(runner, "echo out; echo err >&2")).unwrap(), "out\n");
        });
    }

    #[test]
    fn failures_name_the_log_and_show_its_end() {
        with_runner(|runner| {
            let script = "echo x.c:1:2: error: y; for i in $(seq 1 40); do echo line $i; done; exit 3";
            let error = runner.run("compile", &mut shell(runner, script), |_| {}).unwrap_err().to_string();
            assert!(error.contains("compile failed") && error.contains("x.log"), "{error}");
            assert!(error.contains("| x.c:1:2: error: y\n  | line 26\n"), "{error}");
            assert!(error.contains("line 40") && !error.contains("line 25\n"), "{error}");
        });
    }

    #[test]
    fn full_disks_and_lost_networks_are_told_apart() {
        with_runner(|runner| {
            let fails = |text: &str| {
                runner.run("s", &mut shell(runner, &format!("echo '{text}'; false")), |_| {}).unwrap_err()
            };
            assert!(matches!(fails("tar: x: No space left on device"), Error::DiskFull { .. }));
            assert!(matches!(fails("E: Temporary failure resolving 'mirror'"), Error::Network { .. }));
            assert!(matches!(fails("syntax error"), Error::Build { .. }));
        });
        with_runner(|runner| {
            let error = runner.run("s", &mut runner.command("no-such-program"), |_| {}).unwrap_err();
            assert!(error.to_string().contains("no-such-program"), "{error}");
        });
    }
}
