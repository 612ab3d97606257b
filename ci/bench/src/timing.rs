//! Runs a machine and takes the time of what its guest says on the console.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// A run that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(1800);
/// What the guest's program says (`programs/workload.c`).
const BEGINS: &str = "workload begins";
const ENDS: &str = "workload ends ";

/// When what happened.
#[derive(Debug, Clone)]
pub(crate) struct Timing {
    /// From the start of the machine to the first word of the guest's program.
    pub to_user: Duration,
    /// The program's work.
    pub work: Duration,
    /// From the start to the machine's own end, where that was waited for.
    pub whole: Option<Duration>,
    /// What the program has computed.
    pub checksum: String,
}

impl Timing {
    /// Seconds that the workload has taken: the whole run where it was waited for, else the program's work.
    pub(crate) fn seconds(&self) -> f64 {
        self.whole.unwrap_or(self.work).as_secs_f64()
    }
}

/// A machine about to be started, with its guest's console on standard output.
#[derive(Debug)]
pub(crate) struct Run(Command);

/// A running machine; its processes are ended when this is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // The group: what was started may be a script that has started the machine.
        let group = format!("-{}", self.0.id());
        let killed = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        if killed.is_err() || self.0.wait().is_err() {
            eprintln!("process group {group} may be left over");
        }
    }
}

impl Run {
    pub(crate) fn new(command: Command) -> Self {
        Self(command)
    }

    /// Runs the machine until its guest has said that the work is done or, with `to_its_end`, until it ends by itself.
    pub(crate) fn time(mut self, to_its_end: bool) -> Result<Timing> {
        self.0.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let start = Instant::now();
        let mut machine = Machine(self.0.spawn().with_context(|| format!("{:?}", self.0))?);
        let stdout = machine.0.stdout.take().context("standard output is a pipe")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length != 0) {
                let said = (start.elapsed(), String::from_utf8_lossy(&line).into_owned());
                line.clear();
                if sender.send(said).is_err() {
                    break;
                }
            }
        });
        let (mut began, mut ended) = (None, None);
        loop {
            let (at, line) = match lines.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
                Ok(said) => said,
                Err(RecvTimeoutError::Timeout) => bail!("it takes too long: {:?}", self.0),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if line.contains(BEGINS) {
                began = Some(at);
            } else if let Some((_, checksum)) = line.split_once(ENDS) {
                ended = Some((at, checksum.trim().to_owned()));
                if !to_its_end {
                    break;
                }
            }
        }
        let (Some(to_user), Some((end, checksum))) = (began, ended) else {
            bail!("the guest has not done its work; run it by hand: {:?}", self.0)
        };
        let whole = if to_its_end {
            let status = machine.0.wait()?;
            ensure!(status.success(), "{status}: {:?}", self.0);
            Some(start.elapsed())
        } else {
            None
        };
        Ok(Timing { to_user, work: end.saturating_sub(to_user), whole, checksum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Run {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Run::new(command)
    }

    #[test]
    fn what_the_guest_says_is_timed() {
        let timing =
            shell("echo workload begins; echo 'workload ends 12ab'; sleep 1000").time(false).unwrap();
        assert_eq!((timing.checksum.as_str(), timing.whole), ("12ab", None));
        let timing = shell("echo boot; echo workload begins; echo 'workload ends 0'").time(true).unwrap();
        assert!(timing.whole.unwrap() >= timing.to_user + timing.work);
    }

    #[test]
    fn a_guest_that_fails_is_an_error() {
        assert!(shell("echo workload begins").time(false).is_err());
        assert!(shell("echo workload begins; echo 'workload ends 0'; exit 3").time(true).is_err());
    }
}
