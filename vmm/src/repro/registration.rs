//! Registrations of memory regions: what the guest's program says of them, and what the driver logs.

use super::catalogue::ExpectedRegistration;
use super::console::{message, word_after};
use crate::quantity::parse_number;

/// Bytes; both first bytes of a reproduction lie in one.
const PAGE: u64 = 0x1000;
/// More than any of our programs registers or prints; a hostile one is cut off here.
const MAX_LINES: usize = 1024;

/// A line of the program: `reg_mr page+1 length 0xfff: ok, lkey 0x1201`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Bytes from the page's start.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// The reason as printed if it failed.
    pub result: Result<(), String>,
}

/// dma-debug's error counter, before the registrations and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorCount {
    /// The program did not come so far.
    Unknown,
    NotInKernel,
    Read {
        before: i64,
        after: i64,
    },
}

/// What `regtwice` printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub attempts: Vec<Attempt>,
    pub error_count: ErrorCount,
    /// A line that says why the program could not even begin, such as `no RDMA device`.
    pub obstacle: Option<String>,
}

impl Program {
    pub(super) fn read(lines: &[String]) -> Self {
        let mut program = Self { attempts: Vec::new(), error_count: ErrorCount::Unknown, obstacle: None };
        for line in lines.iter().map(|line| line.trim()).take(MAX_LINES) {
            if let Some(rest) = line.strip_prefix("reg_mr page+") {
                program.attempts.extend(attempt(rest));
            } else if let Some(rest) = line.strip_prefix("dma-api error_count: ") {
                program.error_count = error_count(rest);
            } else if program.attempts.is_empty()
                && (line == "no RDMA device" || line.contains(": failed, errno "))
            {
                program.obstacle = Some(line.to_owned());
            }
        }
        program
    }

    /// The attempt at a registration that is expected.
    pub(super) fn attempt(&self, expected: &ExpectedRegistration) -> Option<&Attempt> {
        self.attempts.iter().find(|one| one.offset == expected.offset && one.length == expected.length)
    }
}

/// `1 length 0xfff: ok, lkey 0x1201`
fn attempt(text: &str) -> Option<Attempt> {
    let (what, result) = text.split_once(": ")?;
    let (offset, length) = what.split_once(" length ")?;
    let result = if result == "ok" || result.starts_with("ok,") { Ok(()) } else { Err(result.to_owned()) };
    Some(Attempt { offset: parse_number(offset)?, length: parse_number(length)?, result })
}

/// `0 -> 1`
fn error_count(text: &str) -> ErrorCount {
    if text == "not in this kernel" {
        return ErrorCount::NotInKernel;
    }
    let read = |(before, after): (&str, &str)| {
        Some(ErrorCount::Read { before: before.trim().parse().ok()?, after: after.trim().parse().ok()? })
    };
    text.split_once("->").and_then(read).unwrap_or(ErrorCount::Unknown)
}

/// The driver's debug message:
/// `infiniband mlx5_0: mlx5_ib_reg_user_mr:1541:(pid 64): start 0x…, iova 0x…, length 0x…, access_flags 0x1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    pub pid: u64,
    pub start: u64,
    pub length: u64,
    pub access_flags: u64,
}

/// All registrations that `function` logged.
pub(super) fn logged(lines: &[String], function: &str) -> Vec<Logged> {
    let key = format!(": {function}:");
    lines.iter().filter_map(|line| logged_line(message(line), &key)).take(MAX_LINES).collect()
}

fn logged_line(text: &str, key: &str) -> Option<Logged> {
    let (_, rest) = text.split_once(key)?;
    let (place, values) = rest.split_once("): ")?;
    let value = |name| word_after(values, name).and_then(parse_number);
    Some(Logged {
        pid: parse_number(place.rsplit_once("(pid ")?.1)?,
        start: value("start ")?,
        length: value("length ")?,
        access_flags: value("access_flags ")?,
    })
}

/// The messages that belong to the expected registrations, or to the first of them: the longest such run with the
/// expected lengths and access flags, by one task, on one page; the last one of several.
pub(super) fn matching<'a>(expected: &[ExpectedRegistration], logged: &'a [Logged]) -> &'a [Logged] {
    let fits = |run: &&[Logged]| {
        let page = run.first().map(|first| first.start & !(PAGE - 1));
        let pid = run.first().map(|first| first.pid);
        run.iter().zip(expected).all(|(one, expected)| {
            one.length == expected.length
                && one.access_flags == expected.access_flags
                && Some(one.pid) == pid
                && page.and_then(|page| page.checked_add(expected.offset)) == Some(one.start)
        })
    };
    (1..=expected.len()).rev().find_map(|length| logged.windows(length).rev().find(fits)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Program {
        Program::read(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_programs_lines_are_read() {
        let program = read(
            "device: mlx5_0\nreg_mr page+0 length 0x1000: ok, lkey 0x1200\n\
             reg_mr page+1 length 0xfff: failed, errno 5 (Input/output error)\n\
             dma-api error_count: 0 -> 1\nresult: failed\n",
        );
        assert_eq!(program.attempts[0], Attempt { offset: 0, length: 0x1000, result: Ok(()) });
        assert_eq!(program.attempts[1].result, Err("failed, errno 5 (Input/output error)".into()));
        assert_eq!(program.error_count, ErrorCount::Read { before: 0, after: 1 });
        assert_eq!(program.obstacle, None);
    }

    #[test]
    fn an_obstacle_is_what_stood_before_any_registration() {
        assert_eq!(read("no RDMA device\n").obstacle.as_deref(), Some("no RDMA device"));
        let text = "device: mlx5_0\nalloc_pd: failed, errno 12 (Cannot allocate memory)";
        assert!(read(text).obstacle.is_some_and(|line| line.starts_with("alloc_pd")));
        assert_eq!(read("dma-api error_count: not in this kernel").error_count, ErrorCount::NotInKernel);
        assert_eq!(read("dma-api error_count: 0 -> x").error_count, ErrorCount::Unknown);
        assert_eq!(read("reg_mr page+99999999999999999999 length 0x1: ok").attempts, []);
    }

    #[test]
    fn driver_messages_are_paired_with_what_is_expected() {
        let line = |pid: u32, start: &str, length: &str| {
            format!(
                "[    1.5] infiniband mlx5_0: mlx5_ib_reg_user_mr:1541:(pid {pid}): start {start}, iova {start}, \
                 length {length}, access_flags 0x1"
            )
        };
        let expected = [
            ExpectedRegistration { offset: 0, length: 0x1000, access_flags: 1 },
            ExpectedRegistration { offset: 1, length: 0xfff, access_flags: 1 },
        ];
        let first = line(64, "0x7f0000001000", "0x1000");
        let both = |second: String| logged(&[first.clone(), second], "mlx5_ib_reg_user_mr");
        let right = both(line(64, "0x7f0000001001", "0xfff"));
        assert_eq!(right.len(), 2);
        assert_eq!(matching(&expected, &right), right);
        for wrong in [
            line(65, "0x7f0000001001", "0xfff"),
            line(64, "0x7f0000002001", "0xfff"),
            line(64, "0x7f0000001001", "0xffe"),
        ] {
            assert_eq!(matching(&expected, &both(wrong)), &right[..1]);
        }
        assert_eq!(matching(&expected, &right[1..]), []);
        assert_eq!(matching(&expected, &[]), []);
    }
}
