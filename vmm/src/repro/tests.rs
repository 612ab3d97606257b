//! Verdicts and reports on transcripts of runs.

use super::*;
use proptest::prelude::*;

/// What matters of the console of a real run; so is [`ONCE`].
const PRESENT: &str = include_str!("transcripts/present-6.12.console");
const PRESENT_STDOUT: &str = include_str!("transcripts/present.stdout");
const ONCE: &str = include_str!("transcripts/once-6.12.console");
const ONCE_STDOUT: &str = include_str!("transcripts/once.stdout");
/// The original report, as published with the commit that mended it.
const REPORT: &str = include_str!("transcripts/report-6.19.console");
const PANIC: &str = include_str!("transcripts/panic.console");
/// The report of [`PRESENT`].
const PRESENT_REPORT: &str = include_str!("transcripts/present.report");
/// The report of [`ONCE`].
const ONCE_REPORT: &str = include_str!("transcripts/once.report");

fn reproduction() -> Reproduction {
    find("mlx5-eexist").expect("the catalogue")
}

fn evidence(console: impl AsRef<[u8]>, stdout: impl AsRef<[u8]>) -> Evidence {
    Evidence {
        console: console.as_ref().to_vec(),
        stdout: stdout.as_ref().to_vec(),
        ended: Ended::Exited(0),
        kernel_release: "6.12.117-staleline".into(),
        origin: Origin::Image("ca85b6f41ea35ced60bc39ac4229ccfe".into()),
        cannot_raise: None,
        options: Vec::new(),
        seed: 1,
        engine: "soft".into(),
    }
}

fn judge(console: impl AsRef<[u8]>, stdout: impl AsRef<[u8]>) -> Verdict {
    check(&reproduction(), &evidence(console, stdout))
}

fn failed(verdict: &Verdict) -> Vec<&str> {
    verdict.checks.iter().filter(|check| !check.ok).map(|check| check.name).collect()
}

/// The reason for [`Outcome::CannotTell`].
fn reason(verdict: &Verdict) -> &str {
    match &verdict.outcome {
        Outcome::CannotTell(reason) => reason,
        other => panic!("{other:?} instead of a reason"),
    }
}

/// `text` with `from` replaced, which must occur.
fn edited(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

/// `text` without the lines that contain `what`, of which there must be some.
fn without(text: &str, what: &str) -> String {
    assert!(text.contains(what), "{what}");
    text.split_inclusive('\n').filter(|line| !line.contains(what)).collect()
}

#[test]
fn a_whole_warning_is_present() {
    let verdict = judge(PRESENT, PRESENT_STDOUT);
    assert_eq!(failed(&verdict), [""; 0]);
    assert_eq!(verdict.outcome, Outcome::Present);
    assert_eq!((verdict.exit_status(Expect::Present), verdict.exit_status(Expect::Absent)), (0, 1));
    let found =
        |name| verdict.checks.iter().find(|check| check.name == name).map(|check| check.found.as_str());
    assert_eq!(found("frames"), Some("7/7"));
    assert_eq!(found("error_count"), Some("0->1"));
    assert_eq!(found("registrations"), Some("2/2"));
}

#[test]
fn the_reports_are_as_recorded() {
    let report = |evidence: &Evidence| {
        let reproduction = reproduction();
        render(&reproduction, evidence, &check(&reproduction, evidence))
    };
    assert_eq!(report(&evidence(PRESENT, PRESENT_STDOUT)), PRESENT_REPORT);
    assert_eq!(report(&evidence(ONCE, ONCE_STDOUT)), ONCE_REPORT);
}

#[test]
fn what_a_run_shares_with_the_report_is_no_difference() {
    let reproduction = reproduction();
    let mut own = evidence(REPORT, PRESENT_STDOUT);
    own.kernel_release = "6.19.0+".into();
    let verdict = check(&reproduction, &own);
    assert_eq!(verdict.outcome, Outcome::Present, "{:?}", verdict.checks);
    assert!(render(&reproduction, &own, &verdict).contains("\ndiffers from report: nothing\n"));
    own.kernel_release = "6.18.3".into();
    let report = render(&reproduction, &own, &check(&reproduction, &own));
    assert!(report.contains("\ndiffers from report: kernel 6.19.0+\n"), "{report}");
}

#[test]
fn log_levels_callers_and_missing_times_do_not_matter() {
    let with_callers: String =
        PRESENT.lines().map(|line| format!("<4>{}\n", line.replacen("] ", "][   T64] ", 1))).collect();
    assert_eq!(judge(with_callers, PRESENT_STDOUT).outcome, Outcome::Present);
    let bare: String = PRESENT
        .lines()
        .filter_map(|line| line.split_once("] "))
        .map(|(_, rest)| format!("{rest}\n"))
        .collect();
    assert_eq!(judge(bare, PRESENT_STDOUT).outcome, Outcome::Present);
    let shared = edited(PRESENT, "[    0.054905]", "another program's output\r\n[    0.054905]");
    assert_eq!(judge(shared, PRESENT_STDOUT).outcome, Outcome::Present);
}

#[test]
fn without_the_second_registration_it_is_absent() {
    let verdict = judge(ONCE, ONCE_STDOUT);
    assert_eq!(verdict.outcome, Outcome::Absent);
    assert_eq!((verdict.exit_status(Expect::Present), verdict.exit_status(Expect::Absent)), (1, 0));
    assert_eq!(failed(&verdict), ["message", "device", "place", "frames", "error_count", "registrations"]);
}

#[test]
fn two_registrations_without_a_warning_are_absent_too() {
    let silent: String =
        PRESENT.split_inclusive("length 0xfff, access_flags 0x1\r\n").next().unwrap_or("").into();
    let stdout = edited(PRESENT_STDOUT, "0 -> 1", "0 -> 0");
    let verdict = judge(&silent, &stdout);
    assert_eq!(verdict.outcome, Outcome::Absent);
    assert_eq!(failed(&verdict), ["message", "device", "place", "frames", "error_count"]);
    let note = |kernel: &str| {
        let own = Evidence { kernel_release: kernel.into(), ..evidence(&silent, &stdout) };
        render(&reproduction(), &own, &check(&reproduction(), &own)).contains("its absence proves nothing")
    };
    assert!(note("7.2.13") && !note("6.12.117"));
}

#[test]
fn refused_registrations_are_told() {
    let stdout = "device: mlx5_0\nreg_mr page+0 length 0x1000: failed, errno 5 (Input/output error)\n\
                  reg_mr page+1 length 0xfff: failed, errno 5 (Input/output error)\n\
                  dma-api error_count: 0 -> 0\nresult: failed\n";
    let own = Evidence { ended: Ended::Exited(1), ..evidence("", stdout) };
    let verdict = check(&reproduction(), &own);
    assert_eq!(verdict.outcome, Outcome::Absent);
    let report = render(&reproduction(), &own, &verdict);
    assert!(report.contains("page+1 length 0xfff  -> failed, errno 5 (Input/output error)"), "{report}");
    assert!(report.contains("FAILED: exit: expected 0; found 1"), "{report}");
}

#[test]
fn a_warning_that_is_not_the_expected_one_is_neither_present_nor_absent() {
    let swapped = edited(
        &edited(
            &edited(PRESENT, "] \u{20}ib_umem_get", "] \u{20}@"),
            "] \u{20}dma_map_sgtable",
            "] \u{20}ib_umem_get",
        ),
        "] \u{20}@",
        "] \u{20}dma_map_sgtable",
    );
    for (console, failures) in [
        (edited(PRESENT, "mlx5_core 0000:08:00.0: cache", "mlx5_core 0000:07:00.0: cache"), &["device"][..]),
        (edited(PRESENT, "mlx5_core 0000:08:00.0: cache", "nvme 0000:08:00.0: cache"), &["device"]),
        (edited(PRESENT, "cacheline tracking EEXIST", "device driver failed"), &["message"]),
        (edited(PRESENT, "601 add_dma_entry", "601 check_sync"), &["place"]),
        (without(PRESENT, " ib_umem_get+"), &["frames"]),
        (edited(PRESENT, "  ib_umem_get+", "  ? ib_umem_get+"), &["frames"]),
        (swapped, &["frames"]),
        (edited(PRESENT, "PID: 40", "PID: 41"), &["registrations"]),
        (edited(PRESENT, "start 0x7fda28027001", "start 0x7fda28028001"), &["registrations"]),
    ] {
        let verdict = judge(&console, PRESENT_STDOUT);
        assert_eq!(failed(&verdict), failures);
        assert!(reason(&verdict).contains(failures[0]), "{:?}", verdict.outcome);
        assert_eq!(verdict.exit_status(Expect::Present), 125);
        assert_eq!(verdict.exit_status(Expect::Absent), 125);
    }
    let counted_twice = judge(PRESENT, edited(PRESENT_STDOUT, "0 -> 1", "0 -> 2"));
    assert_eq!(failed(&counted_twice), ["error_count"]);
}

#[test]
fn an_earlier_warning_of_another_device_does_not_hide_the_expected_one() {
    let other = PRESENT.replace("mlx5_core 0000:08:00.0: cache", "nvme 0000:01:00.0: cache");
    assert_eq!(judge(format!("{other}{PRESENT}"), PRESENT_STDOUT).outcome, Outcome::Present);
}

#[test]
fn a_warning_that_was_not_raised_meanwhile_leaves_an_absence() {
    let other = edited(PRESENT, "mlx5_core 0000:08:00.0: cache", "nvme 0000:01:00.0: cache");
    let stdout = edited(PRESENT_STDOUT, "0 -> 1", "1 -> 1");
    let verdict = judge(other, &stdout);
    assert_eq!(verdict.outcome, Outcome::Absent);
    assert_eq!(failed(&verdict), ["device", "error_count"]);
    assert!(reason(&judge(PRESENT, stdout)).contains("1->1"));
}

#[test]
fn a_message_without_its_warning_is_none() {
    let quoted = edited(&without(PRESENT, "WARNING: "), "\r\n", "\n");
    let verdict = judge(quoted, PRESENT_STDOUT);
    assert!(reason(&verdict).contains("0->1"), "{:?}", verdict.outcome);
}

#[test]
fn a_run_that_did_not_come_to_its_end_tells_nothing() {
    let ended = |ended, console: &str, stdout: &str| {
        check(&reproduction(), &Evidence { ended, ..evidence(console, stdout) })
    };
    let panicked = ended(Ended::Panicked, PANIC, "device: mlx5_0\n");
    assert_eq!(reason(&panicked), "the guest panicked: Kernel panic - not syncing: Fatal exception");
    for end in [
        Ended::TimedOut("60 s on the host".into()),
        Ended::Signalled(11),
        Ended::Stopped("triple fault on vCPU 0".into()),
        Ended::NotStarted("regtwice: not found".into()),
    ] {
        for (console, stdout) in [(ONCE, ONCE_STDOUT), (PRESENT, PRESENT_STDOUT), ("", "")] {
            assert_eq!(ended(end.clone(), console, stdout).exit_status(Expect::Absent), 125);
        }
    }
    let unbound = ended(Ended::Exited(1), ONCE, "no RDMA device\n");
    assert_eq!(reason(&unbound), "the device did not come up: regtwice said \"no RDMA device\"");
    assert!(reason(&ended(Ended::Exited(0), "", "")).contains("without having registered anything"));
}

#[test]
fn silence_of_a_kernel_that_cannot_warn_tells_nothing() {
    let stock = edited(ONCE_STDOUT, "0 -> 0", "not in this kernel");
    assert!(reason(&judge(ONCE, stock)).contains("no dma-debug"));
    let off = format!("[    0.0] DMA-API: debugging disabled on kernel command line\r\n{ONCE}");
    assert!(reason(&judge(off, ONCE_STDOUT)).contains("dma_debug=off"));
    let torn = without(ONCE_STDOUT, "error_count");
    assert!(reason(&judge(ONCE, torn)).contains("error count"));
}

proptest! {
    #[test]
    fn no_bytes_make_it_fail(console: Vec<u8>, stdout: Vec<u8>, status: u8) {
        let reproduction = reproduction();
        let own = Evidence { ended: Ended::Exited(status), ..evidence(console, stdout) };
        let verdict = check(&reproduction, &own);
        prop_assert_ne!(&verdict.outcome, &Outcome::Present);
        prop_assert!(render(&reproduction, &own, &verdict).ends_with("--seed 1\n"));
    }

    #[test]
    fn a_damaged_transcript_is_never_taken_for_more_than_it_is(
        damage in prop::collection::vec((0..PRESENT.len(), any::<u8>()), 0..40),
        from in 0..PRESENT.len(),
        length in 0..4000_usize,
    ) {
        let mut console = PRESENT.as_bytes().to_vec();
        for (place, byte) in damage {
            console[place] = byte;
        }
        console.drain(from..from.saturating_add(length).min(PRESENT.len()));
        let reproduction = reproduction();
        let own = evidence(console, PRESENT_STDOUT);
        let verdict = check(&reproduction, &own);
        // The program still says that an error was counted: silence on the console is not an absence.
        prop_assert_ne!(&verdict.outcome, &Outcome::Absent);
        prop_assert!(render(&reproduction, &own, &verdict).contains(" mlx5-eexist  Linux 6.12.117-staleline image "));
    }

    #[test]
    fn lines_made_of_the_languages_words_do_not_make_it_fail(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "DMA-API: ", "mlx5_core ", "0000:08:00.0", ": ", "WARNING: ", "CPU: ", "PID: ", " at ", ", CPU#", "/",
                "kernel/dma/debug.c:601 ", "add_dma_entry+0x1/0x2", "+0x", "[", "]", "<", ">", "\n", "\r\n", "? ",
                "Call Trace:", "<TASK>", "</TASK>", "---[ end trace", "Mapped at:", "Comm: ", "Not tainted",
                "mlx5_ib_reg_user_mr:", "(pid ", "): ", "start ", "0x", "18446744073709551615", "é", "[ cut here ]",
                "reg_mr page+", " length ", "ok", "dma-api error_count: ", "-9223372036854775808", " -> ",
                "9223372036854775807", "pci 0000:08:00.0: [", "15b3:1018", "class 0x", "Linux version ",
            ]),
            0..300,
        ),
    ) {
        let text = words.concat();
        let reproduction = reproduction();
        let own = evidence(&text, &text);
        let report = render(&reproduction, &own, &check(&reproduction, &own));
        prop_assert!(report.ends_with("--seed 1\n"));
    }
}

#[test]
fn a_report_on_a_kernel_of_the_users_names_its_source() {
    let own = Evidence {
        origin: Origin::Commit("0123456789abcdef0123".into()),
        cannot_raise: Some("it never warns (kernel/dma/debug.c)".into()),
        options: vec!["--kernel-source /home/u/linux".into()],
        ..evidence(ONCE, ONCE_STDOUT)
    };
    let report = render(&reproduction(), &own, &check(&reproduction(), &own));
    assert!(report.contains(" commit 0123456789ab.. soft seed 1"), "{report}");
    assert!(report.contains("\nby its source: it never warns (kernel/dma/debug.c)\n"), "{report}");
    assert!(
        report.ends_with("again: staleline repro mlx5-eexist --seed 1 --kernel-source /home/u/linux\n"),
        "{report}"
    );
    let tree = Evidence { origin: Origin::Tree("/home/u/linux".into()), ..own };
    let report = render(&reproduction(), &tree, &check(&reproduction(), &tree));
    assert!(report.contains(" tree /home/u/linux soft seed 1"), "{report}");
}
