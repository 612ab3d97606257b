//! The script that runs a scenario's steps in the guest, and what it sends back.
//!
//! It comes over the channel, apart from the console: each step's output between two marks that carry its exit status and
//! dma-debug's count, then the kernel's log.

use super::scenario::{Deadline, Step};
use std::fmt::Write;

/// Begins the lines that part the outputs.
const MARK: &str = "@@staleline ";

/// What a guest has told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// One for each step that has begun.
    pub steps: Vec<Section>,
    /// The kernel's log as `dmesg -r` prints it, if it came to that; empty if it was not asked for.
    pub log: Option<String>,
    /// dma-debug's `error_count` after the last step; none in kernels without.
    pub error_count: Option<u64>,
    /// The script has come to its end.
    pub done: bool,
}

/// What a step has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    /// Output and error output.
    pub output: String,
    /// Exit status; none if the step has not ended.
    pub status: Option<u8>,
    /// dma-debug's `error_count` before and after it; none in kernels without.
    pub errors_before: Option<u64>,
    pub errors_after: Option<u64>,
}

/// A word as a shell takes it.
pub(super) fn quote(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=,:+@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The shell script that runs `steps`, one after the other, and ends with status 0. The kernel's log comes only if it is asked
/// for.
///
/// What the steps do not need starts no process, which would be most of what a small case costs.
pub(super) fn script(steps: &[Step], log: bool) -> String {
    let mut text = format!(
        "n() {{ c=; read -r c < /sys/kernel/debug/dma-api/error_count; }} 2> /dev/null\n\
         m() {{ printf '\\n{MARK}%s\\n' \"$*\"; }}\n"
    );
    for step in steps {
        let program = match (&step.run, &step.script) {
            (Some(run), _) => run.get_ref().iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
            (None, Some(script)) => format!("sh -c {}", quote(script.get_ref())),
            (None, None) => continue,
        };
        let limit =
            step.timeout.map_or_else(String::new, |Deadline(seconds)| format!("timeout -s KILL {seconds} "));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "n; m begin $c\n{limit}{program} 2>&1 < /dev/null; s=$?; n; m end $s $c");
    }
    let log = if log { "dmesg -r\n" } else { "" };
    text + "n; m log $c\n" + log + "m done\nexit 0\n"
}

/// Takes apart what the script has printed.
pub(super) fn told(output: &str) -> Told {
    let mut told = Told::default();
    for part in output.split(&format!("\n{MARK}")).skip(1) {
        let (mark, rest) = part.split_once('\n').unwrap_or((part, ""));
        let mut words = mark.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        match kind {
            "begin" => told.steps.push(Section {
                errors_before: number(),
                output: rest.to_owned(),
                ..Section::default()
            }),
            "end" => {
                if let Some(section) = told.steps.last_mut() {
                    section.status = number().and_then(|status| u8::try_from(status).ok());
                    section.errors_after = number();
                }
            }
            "log" => {
                told.error_count = number();
                told.log = Some(rest.to_owned());
            }
            "done" => told.done = true,
            _ => {}
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn steps(text: &str) -> Vec<Step> {
        #[derive(serde::Deserialize)]
        struct File {
            step: Vec<Step>,
        }
        toml::from_str::<File>(text).unwrap().step
    }

    #[test]
    fn what_the_script_prints_is_taken_apart() {
        let steps = steps(
            "[[step]]\nrun = ['printf', '%s', \"it's\"]\n[[step]]\nscript = \"echo out; echo 'err' >&2; exit 3\"\n\
             [[step]]\ntimeout = 0.2\nrun = ['sleep', '60']",
        );
        // The host's shell stands in for the guest's; its kernel's log may not be readable.
        let ran = Command::new("sh").arg("-c").arg(script(&steps, true)).output().unwrap();
        assert!(ran.status.success());
        let told = told(&String::from_utf8(ran.stdout).unwrap());
        assert!(told.done && told.log.is_some());
        let got: Vec<_> = told.steps.iter().map(|step| (&*step.output, step.status)).collect();
        assert_eq!(got[..2], [("it's", Some(0)), ("out\nerr\n", Some(3))]);
        // The shell may say that it was killed.
        assert_eq!(got[2].1, Some(137));
    }

    #[test]
    fn counts_are_read_and_an_unfinished_step_has_no_status() {
        let text = "\n@@staleline begin 1\nout\n\n@@staleline end 0 3\n\n@@staleline begin 3\nhalf";
        let told = told(text);
        assert_eq!((told.steps[0].errors_before, told.steps[0].errors_after), (Some(1), Some(3)));
        assert_eq!((told.steps[1].output.as_str(), told.steps[1].status), ("half", None));
        assert!(!told.done);
    }
}
