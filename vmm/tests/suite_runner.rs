//! `staleline suite` with tiny guests: what holds and what does not, reports, artefacts, interruption.

mod common;

use common::suite::{DEBUG_EXIT, HOLDS, SPIN, Suite, named, verdicts};
use common::{LOAD_ADDRESS, Ran, bare_kernel, out, path, staleline};
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn what_fails_leaves_the_command_that_does_it_again() {
    let fails = HOLDS.replace("status = 7", "status = 8").replace("'hi'", "'hi', 'bye'");
    let suite = Suite::new(&[("holds", HOLDS), ("fails", &fails)]);
    assert_eq!(
        suite.verdicts(&["--jobs", "2"]),
        (1, named([("fails/seed-1", "failed"), ("holds/seed-1", "passed")]))
    );
    assert!(!suite.artefacts().join("holds").exists());
    let kept = suite.artefacts().join("fails/seed-1");
    assert_eq!(fs::read(kept.join("console")).unwrap(), b"hi\n");
    assert_eq!(common::status_member(&kept.join("status.json"), "guest_exit"), 7);
    let problems = fs::read_to_string(kept.join("problems")).unwrap();
    assert_eq!(problems, "run: exit status 7 (debug-exit), not 8\nrun: the console has no \"bye\"\n");

    // The script runs whatever is called staleline.
    let program = PathBuf::from(env!("CARGO_BIN_EXE_staleline"));
    let console = suite.folder.path().join("again");
    let status = std::process::Command::new("/bin/sh")
        .arg(kept.join("command"))
        .args(["--console", path(&console)])
        .env("PATH", program.parent().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    // Without a command in the guest the console would be standard output.
    assert_eq!(status.unwrap().code(), Some(7));
    assert_eq!(fs::read(console).unwrap(), fs::read(kept.join("console")).unwrap());
}

#[test]
fn what_did_not_hold_is_run_again() {
    let suite = Suite::new(&[("holds", HOLDS), ("fails", &HOLDS.replace('7', "8"))]);
    let refused = suite.run(&["--rerun-failed"]);
    assert!(refused.status == 125 && refused.stderr.contains("no outcomes of an earlier run"), "{refused:?}");
    assert_eq!(suite.verdicts(&[]).0, 1);
    fs::write(suite.folder.path().join("fails.toml"), format!("bug = 'b'\nsource = 's'\n{HOLDS}")).unwrap();
    assert_eq!(suite.verdicts(&["--rerun-failed"]), (0, named([("fails/seed-1", "passed")])));
    let nothing = suite.run(&["--rerun-failed"]);
    assert!(nothing.status == 125 && nothing.stderr.contains("all held"), "{nothing:?}");
}

#[test]
fn cases_are_listed_filtered_and_given_seeds() {
    let suite = Suite::new(&[("m", &format!("seeds = [3, 1]\n[matrix]\ncpus = [1, 2]\n{HOLDS}"))]);
    let listed = suite.run(&["--list"]);
    assert_eq!(listed.stdout, "m/cpus=1/seed-3\nm/cpus=1/seed-1\nm/cpus=2/seed-3\nm/cpus=2/seed-1\n");
    let seeded = suite.run(&["--list", "--seeds", "1..1000"]);
    assert_eq!(seeded.stdout.lines().count(), 2000);
    assert_eq!(suite.verdicts(&["--filter", "cpus=2/.*-1$"]), (0, named([("m/cpus=2/seed-1", "passed")])));
    assert_eq!(suite.run(&["--filter", "nowhere"]).status, 125);
}

#[test]
fn memory_is_compared_at_the_end_of_a_run() {
    let address = LOAD_ADDRESS + 0x1800;
    // mov dword [address], 0x44332211
    let mut code = vec![0xc7, 0x04, 0x25];
    code.extend(u32::try_from(address).unwrap().to_le_bytes());
    code.extend([0x11, 0x22, 0x33, 0x44]);
    code.extend(out(DEBUG_EXIT.0, DEBUG_EXIT.1).into_iter().chain(SPIN));
    let with = |bytes: &str, address: u64| {
        let contents = format!("memory = [{{ address = {address:#x}, bytes = '{bytes}' }}]");
        format!("[guest]\nkernel = './writes'\nmemory = '64M'\n[[expect]]\n{contents}")
    };
    let suite = Suite::new(&[
        ("differs", &with("00 11 22 33 45", address - 1)),
        ("holds", &with("11 22 33 44 00", address)),
        ("outside", &with("11 22", (64 << 20) - 1)),
    ]);
    fs::copy(bare_kernel(&code).path(), suite.folder.path().join("writes")).unwrap();
    let expected = [("differs/seed-1", "failed"), ("holds/seed-1", "passed"), ("outside/seed-1", "failed")];
    assert_eq!(suite.verdicts(&[]), (1, named(expected)));
    let problems =
        |case: &str| fs::read_to_string(suite.artefacts().join(case).join("seed-1/problems")).unwrap();
    assert_eq!(
        problems("differs"),
        "run: memory at 0x1001803 has 44, not 45 (1 of the 5 bytes from 0x10017ff on differ)\n"
    );
    assert_eq!(problems("outside"), "run: memory cannot be compared: no RAM at 0x3ffffff (2 bytes)\n");
}

/// The memory of a guest that was forked is compared as that of one that booted by itself. With linux-6.12-debug.
#[test]
fn memory_of_forks_is_compared() {
    // "RSD PTR ", where kernels look for the root of the ACPI tables.
    let memory =
        |last: &str| format!("memory = [{{ address = 0xe0000, bytes = '52 53 44 20 50 54 52 {last}' }}]");
    let text = |last: &str| {
        format!(
            "seeds = '1..2'\n[guest]\nkernel = 'linux-6.12-debug'\n[[step]]\nrun = ['true']\n[[expect]]\n{}",
            memory(last)
        )
    };
    let suite = Suite::new(&[("differs", &text("21")), ("same", &text("20"))]);
    let expected = [
        ("differs/seed-1", "failed"),
        ("differs/seed-2", "failed"),
        ("same/seed-1", "passed"),
        ("same/seed-2", "passed"),
    ];
    for more in [&[][..], &["--cold"]] {
        assert_eq!(suite.verdicts(more), (1, named(expected)), "{more:?}");
        let problems = fs::read_to_string(suite.artefacts().join("differs/seed-2/problems")).unwrap();
        assert_eq!(
            problems,
            "run: memory at 0xe0007 has 20, not 21 (1 of the 8 bytes from 0xe0000 on differ)\n"
        );
    }
}

#[test]
fn a_deadline_ends_a_case_not_the_suite() {
    let spins = "deadline = 0.001\n[guest]\nkernel = './spins'\n[[expect]]\nstatus = 0";
    let waited_for = "deadline = 0.001\n[guest]\nkernel = './spins'\n[[expect]]\ncause = 'deadline'";
    let suite = Suite::new(&[("expected", waited_for), ("holds", HOLDS), ("spins", spins)]);
    let expected = [("expected/seed-1", "passed"), ("holds/seed-1", "passed"), ("spins/seed-1", "timed-out")];
    assert_eq!(suite.verdicts(&[]), (1, named(expected)));
}

#[test]
fn an_interruption_leaves_partial_results() {
    let spins = HOLDS.replace("./exits", "./spins").replace("[guest]", "deadline = 1e6\n[guest]");
    let suite = Suite::new(&[("a", HOLDS), ("b", &spins), ("c", HOLDS)]);
    let artefacts = suite.artefacts();
    let child = staleline(&suite.arguments(&artefacts, &["--format", "json", "--jobs", "1"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The command is written before the case runs.
    while !artefacts.join("b/seed-1/command").is_file() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: sends a signal to a process of this test's own that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, 125, "{ran:?}");
    let expected = [("a/seed-1", "passed"), ("b/seed-1", "not-run"), ("c/seed-1", "not-run")];
    assert_eq!(verdicts(&ran), named(expected));
}

#[test]
fn reports_are_written_to_files_and_do_not_depend_on_order() {
    let seeds = format!("seeds = '1..6'\n{HOLDS}");
    let suite = Suite::new(&[("s", &seeds)]);
    let file = |name: &str| suite.folder.path().join(name);
    let run = |jobs: &str, name: &str| {
        let report = format!("junit={}", file(name).display());
        let ran = suite.run(&["--jobs", jobs, "--report", &report]);
        assert_eq!(ran.status, 0, "{ran:?}");
        (ran.stdout, fs::read_to_string(file(name)).unwrap())
    };
    let (one, four) = (run("1", "1.xml"), run("4", "4.xml"));
    assert_eq!(one, four);
    assert!(one.0.starts_with("KTAP version 1\n1..1\n  KTAP version 1\n"), "{}", one.0);
    let document = roxmltree::Document::parse(&one.1).unwrap();
    assert_eq!(document.root_element().attribute("tests"), Some("6"));
    assert!(suite.run(&["--report", "xml=x"]).stderr.contains("'xml' is no format"));
    let nowhere = suite.run(&["--report", "json=/nonexistent/file"]);
    assert!(nowhere.status == 125 && nowhere.stderr.contains("--report /nonexistent/file"), "{nowhere:?}");
    assert_eq!(nowhere.stdout, "", "nothing has run");
}
