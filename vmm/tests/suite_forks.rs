//! `staleline suite` boots what cases have in common once: what it reports and keeps is that of boots of their own, whatever
//! becomes of the boot. Tiny guests that speak the channel's protocol, and the image linux-6.12-debug, built at first use.

mod common;

use common::{Ran, bare_kernel, out, path, run, staleline};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const CONSOLE: u16 = 0x3f8;
const CHANNEL: u16 = 0x2f8;
/// `1: jmp 1b`
const SPIN: [u8; 2] = [0xeb, 0xfe];
/// Frames' kinds (guest-images/programs/channel.h).
const READY: u8 = 1;
const STDOUT: u8 = 2;
const EXIT: u8 = 4;

fn say(port: u16, bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|&byte| out(port, byte)).collect()
}

/// Says a random character: rdrand eax; and al, 63; add al, '0'; mov dx, port; out dx, al.
fn say_random(port: u16) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x0f, 0xc7, 0xf0, 0x24, 0x3f, 0x04, b'0', 0x66, 0xba, low, high, 0xee]
}

/// Says a random character that it has written into its own code: rdrand eax; and al, 63; add al, '0'; mov [rip + 7], al;
/// jmp $ + 2; mov dx, port; mov al, 0; out dx, al.
fn say_rewritten(port: u16) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    let random = [0x0f, 0xc7, 0xf0, 0x24, 0x3f, 0x04, b'0', 0x88, 0x05, 7, 0, 0, 0, 0xeb, 0x00];
    [&random[..], &[0x66, 0xba, low, high, 0xb0, 0, 0xee]].concat()
}

/// The header of a frame on the channel.
fn frame(kind: u8, length: u8) -> Vec<u8> {
    say(CHANNEL, &[0xa7, kind, length, 0, 0xff ^ kind ^ length])
}

/// Waits for the first byte on the channel: mov dx, port + 5; 1: in al, dx; test al, 1; jz 1b.
fn wait_for_work() -> Vec<u8> {
    let [low, high] = (CHANNEL + 5).to_le_bytes();
    vec![0x66, 0xba, low, high, 0xec, 0xa8, 0x01, 0x74, 0xfb]
}

/// A guest that gets ready, waits for its work and does as a scenario's only step would that prints a random character.
fn works() -> Vec<u8> {
    let (begin, end) =
        ("\n@@staleline begin\n", "\n\n@@staleline end 0\n\n@@staleline log\n\n@@staleline done\n");
    let length = u8::try_from(begin.len() + 1 + end.len()).unwrap();
    [
        say(CONSOLE, b"boot "),
        say_random(CONSOLE),
        say(CONSOLE, b"\n"),
        // Data terminal ready, request to send: nothing is sent to a port that nobody has open.
        out(CHANNEL + 4, 3),
        frame(READY, 0),
        wait_for_work(),
        say(CONSOLE, b"work "),
        say_random(CONSOLE),
        say(CONSOLE, b"\n"),
        frame(STDOUT, length),
        say(CHANNEL, begin.as_bytes()),
        say_rewritten(CHANNEL),
        say(CHANNEL, end.as_bytes()),
        frame(EXIT, 4),
        say(CHANNEL, &[0; 4]),
        SPIN.into(),
    ]
    .concat()
}

/// A folder of scenarios with kernels: one that works, and some that never get ready.
struct Suite {
    folder: TempDir,
}

impl Suite {
    fn new(scenarios: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let panic =
            b"Kernel panic - not syncing: no reason\n---[ end Kernel panic - not syncing: no reason ]---\n";
        for (name, code) in [
            ("works", works()),
            ("spins", [say(CONSOLE, b"hi\n"), SPIN.into()].concat()),
            ("panics", [say(CONSOLE, panic), SPIN.into()].concat()),
            // ud2 without a table of handlers.
            ("faults", [say(CONSOLE, b"hi\n"), vec![0x0f, 0x0b]].concat()),
        ] {
            fs::copy(bare_kernel(&code).path(), folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("text"), "no kernel").unwrap();
        for (name, text) in scenarios {
            let head = "bug = 'none'\nsource = 'this test'\n";
            fs::write(folder.path().join(format!("{name}.toml")), format!("{head}{text}")).unwrap();
        }
        Self { folder }
    }

    fn artefacts(&self) -> PathBuf {
        self.folder.path().join("artefacts")
    }

    fn command(&self, more: &[&str]) -> Command {
        let artefacts = self.artefacts();
        let arguments =
            [&["suite", path(self.folder.path()), "--format", "json", "--artefacts", path(&artefacts)], more];
        staleline(&arguments.concat())
    }

    fn run(&self, more: &[&str]) -> Ran {
        self.command(more).output().unwrap().into()
    }

    /// What a run reports, what it leaves, and its last line on standard error. The artefacts are removed.
    fn evidence(&self, more: &[&str]) -> (i32, String, BTreeMap<PathBuf, Vec<u8>>, String) {
        let ran = self.run(&[&["--keep"], more].concat());
        let mut left = BTreeMap::new();
        read_all(&self.artefacts(), &mut left);
        fs::remove_dir_all(self.artefacts()).unwrap();
        let last = ran.stderr.lines().last().unwrap_or_default().to_owned();
        (ran.status, ran.stdout, left, last)
    }
}

fn read_all(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, files);
        } else {
            files.insert(path.clone(), fs::read(path).unwrap());
        }
    }
}

/// Verdict and reason of each case.
fn verdicts(report: &str) -> Vec<(String, String, String)> {
    let report: serde_json::Value = serde_json::from_str(report).unwrap_or_else(|_| panic!("{report}"));
    let scenarios = report["scenarios"].as_array().unwrap();
    let cases = scenarios.iter().flat_map(|scenario| scenario["cases"].as_array().unwrap());
    let text = |case: &serde_json::Value, key: &str| case[key].as_str().unwrap_or_default().to_owned();
    cases.map(|case| (text(case, "id"), text(case, "verdict"), text(case, "reason"))).collect()
}

/// A guest of two cells and a step.
fn scenario(kernel: &str, more: &str) -> String {
    format!(
        "seeds = '1..4'\ndeadline = 0.01\n[guest]\nkernel = './{kernel}'\nmemory = '32M'\n[matrix]\ncpus = [1, 2]\n\
         [[step]]\nrun = ['x']\n{more}"
    )
}

#[test]
fn what_is_forked_is_reported_and_kept_as_if_it_had_booted_by_itself() {
    let one_case = "deadline = 0.01\n[guest]\nkernel = './works'\n[[step]]\nrun = ['x']";
    let early = scenario("works", "").replace("0.01", "0.00000001");
    let no_steps =
        "seeds = '1..3'\ndeadline = 0.001\n[guest]\nkernel = './works'\n[[expect]]\ncause = 'deadline'";
    let suite = Suite::new(&[
        ("early", &early),
        ("faults", &scenario("faults", "")),
        ("no-steps", no_steps),
        ("one-case", one_case),
        ("panics", &scenario("panics", "")),
        ("spins", &scenario("spins", "")),
        ("text", &scenario("text", "")),
        ("works", &scenario("works", "")),
        ("works-by-chance", &scenario("works", "[[step.expect]]\noutput = [{ regex = '^[0-M]$' }]")),
    ]);
    let (status, report, left, said) = suite.evidence(&["--jobs", "2"]);
    let (cold_status, cold_report, cold_left, cold_said) = suite.evidence(&["--jobs", "2", "--cold"]);
    assert_eq!((status, &report), (cold_status, &cold_report));
    assert_eq!(left.keys().collect::<Vec<_>>(), cold_left.keys().collect::<Vec<_>>());
    for (file, bytes) in &left {
        let text = [bytes, &cold_left[file]].map(|bytes| String::from_utf8_lossy(bytes));
        assert_eq!(text[0], text[1], "{}", file.display());
    }
    assert_eq!(status, 1);
    // Ten boots: of five kernels with one vCPU or two. What was to end before the mark has booted by itself.
    let shared = 2 * 4 * 5;
    assert!(said.contains(&format!("; {shared} forked from 10 boots, ")), "{said}");
    assert!(!cold_said.contains("forked"), "{cold_said}");

    let verdicts = verdicts(&report);
    let of = |scenario: &str| {
        let prefix = format!("{scenario}/");
        let all = verdicts.iter().filter(|(id, ..)| id.starts_with(&prefix));
        all.map(|(_, verdict, reason)| (&**verdict, &**reason)).collect::<Vec<_>>()
    };
    let never = "the guest did not come to its ready mark: ";
    let panic = format!("{never}Kernel panic - not syncing: no reason");
    let fault = format!("{never}vCPU 0 triple-faulted");
    let late = "its deadline of 0.01 virtual seconds has passed before the guest's ready mark";
    assert_eq!(of("early"), [("timed-out", &*late.replace("0.01", "0.00000001")); 8]);
    assert_eq!(of("faults"), [("error", &*fault); 8]);
    assert_eq!(of("no-steps"), [("passed", ""); 3]);
    assert_eq!(of("one-case"), [("passed", ""); 1]);
    assert_eq!(of("panics"), [("error", &*panic); 8]);
    assert_eq!(of("spins"), [("timed-out", late); 8]);
    assert!(of("text").iter().all(|(verdict, reason)| *verdict == "error" && reason.contains("/text")));
    assert_eq!(of("works"), [("passed", ""); 8]);
    let chance = of("works-by-chance").into_iter().map(|(verdict, _)| verdict).collect::<Vec<_>>();
    assert!(chance.contains(&"passed") && chance.contains(&"failed"), "{chance:?}");

    // Up to the mark all seeds are one boot, from there on each is its own.
    let consoles: Vec<_> = (1..=4)
        .map(|seed| left[&suite.artefacts().join(format!("works/cpus=1/seed-{seed}/console"))].clone())
        .collect();
    let lines = consoles.iter().map(|console| String::from_utf8_lossy(console)).collect::<Vec<_>>();
    assert!(
        lines.iter().all(|text| text.split_once('\n').unwrap().0 == lines[0].split_once('\n').unwrap().0)
    );
    assert!(lines.iter().any(|text| *text != lines[0]), "{lines:?}");
    let dead = &left[&suite.artefacts().join("panics/cpus=2/seed-3/console")];
    assert!(String::from_utf8_lossy(dead).starts_with("Kernel panic"), "the boot's console is each case's");
}

#[test]
fn a_thousand_seeds_take_one_boot() {
    let suite = Suite::new(&[("works", &scenario("works", "").replace("[1, 2]", "[1]"))]);
    let ran = suite.run(&["--seeds", "1..1000"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("1000 passed, 0 failed; 1000 forked from 1 boot, "), "{last}");
    assert_eq!(verdicts(&ran.stdout).len(), 1000);
    assert!(!suite.artefacts().join("works").exists(), "nothing is kept of what holds");
}

#[test]
fn the_limit_on_host_time_holds_for_boots() {
    let endless = scenario("spins", "").replace("0.01", "1e6");
    let suite = Suite::new(&[("spins", &endless), ("works", &scenario("works", ""))]);
    let ran = suite.run(&["--timeout", "0.2", "--jobs", "1"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    for (id, verdict, reason) in verdicts(&ran.stdout) {
        let expected = match id.starts_with("spins/") {
            true => ("timed-out", "it took longer than --timeout before the guest's ready mark"),
            false => ("passed", ""),
        };
        assert_eq!((&*verdict, &*reason), expected, "{id}");
    }
}

/// Sends SIGINT and waits for the end.
fn interrupt(child: Child) -> Ran {
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: sends a signal to a process of this test's own that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    child.wait_with_output().unwrap().into()
}

#[test]
fn an_interrupted_boot_leaves_its_console_and_partial_results() {
    let endless = scenario("spins", "").replace("0.01", "1e6").replace("[1, 2]", "[1]");
    let suite = Suite::new(&[("a", &scenario("works", "")), ("b", &endless)]);
    let mut command = suite.command(&["--jobs", "1", "--seeds", "1,2"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // What the guest says is in the file before anything has ended.
    let console = suite.artefacts().join("b/cpus=1/seed-1/console");
    while fs::read(&console).unwrap_or_default() != b"hi\n" {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ran = interrupt(child);
    assert_eq!(ran.status, 125, "{ran:?}");
    let verdicts = verdicts(&ran.stdout);
    assert!(
        verdicts.iter().filter(|(id, ..)| id.starts_with("a/")).all(|(_, verdict, _)| verdict == "passed")
    );
    let interrupted: Vec<_> = verdicts.iter().filter(|(id, ..)| id.starts_with("b/")).collect();
    assert_eq!(interrupted.len(), 2);
    assert!(interrupted.iter().all(|(_, verdict, why)| verdict == "not-run" && why == "interrupted"));
    assert_eq!(fs::read(&console).unwrap(), b"hi\n");
    assert!(fs::read_to_string(suite.artefacts().join("b/cpus=1/seed-1/command")).unwrap().contains("spins"));
}

#[test]
fn an_interruption_while_an_image_is_waited_for_leaves_a_report() {
    let image = "[guest]\nkernel = 'linux-6.12-debug'\n[[step]]\nrun = ['true']";
    let suite = Suite::new(&[("a", &scenario("works", "")), ("b", image)]);
    // Another process has the image's lock.
    let cache = TempDir::new().unwrap();
    let locks = cache.path().join("staleline/locks");
    fs::create_dir_all(&locks).unwrap();
    let lock = File::create(locks.join("linux-6.12-debug.lock")).unwrap();
    lock.lock().unwrap();
    let mut command = suite.command(&[]);
    command.env("XDG_CACHE_HOME", cache.path()).env_remove("STALELINE_CACHE");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("in use by another process") {
        assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let ran = interrupt(child);
    assert_eq!(ran.status, 125, "{ran:?}");
    let verdicts = verdicts(&ran.stdout);
    assert_eq!(verdicts.len(), 9);
    assert!(verdicts.iter().all(|(_, verdict, reason)| verdict == "not-run" && reason == "interrupted"));
}

#[test]
fn an_image_s_seeds_are_forked_and_their_command_lines_do_the_same_by_themselves() {
    let script = "head -c 4096 /dev/hwrng | md5sum; cat /proc/uptime; regtwice; echo noted > /dev/kmsg";
    let scenario = format!(
        "seeds = '1..3'\n[guest]\nkernel = 'linux-6.12-debug'\ndevices = ['mlx5', 'rng']\n\
         [[step]]\nscript = '{script}'\n[[step.expect]]\nstatus = 0\nerror-count = 1\n\
         [[expect]]\nlog = ['noted', 'Linux version 6.12']\ndma-debug = ['cacheline tracking EEXIST']\n"
    );
    let suite = Suite::new(&[("image", &scenario)]);
    let cold = suite.evidence(&["--cold"]);
    let forked = suite.evidence(&[]);
    assert_eq!((cold.0, forked.0), (0, 0), "{} {}", cold.1, forked.1);
    assert!(forked.3.contains("; 3 forked from 1 boot, "), "{}", forked.3);
    assert_eq!(forked.1, cold.1);
    assert!(forked.2 == cold.2, "artefacts of forks are those of boots");

    let file =
        |seed: u32, name: &str| &forked.2[&suite.artefacts().join(format!("image/seed-{seed}/{name}"))];
    assert_ne!(file(1, "output"), file(2, "output"), "the seed decides random numbers");
    let again = suite.folder.path().join("again");
    fs::create_dir(&again).unwrap();
    fs::write(again.join("command"), file(2, "command")).unwrap();
    let (console, status) = (again.join("console"), again.join("status.json"));
    let ran = Command::new("/bin/sh")
        .args([path(&again.join("command")), "--console", path(&console), "--status", path(&status)])
        .env("PATH", Path::new(env!("CARGO_BIN_EXE_staleline")).parent().unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(ran.stdout == *file(2, "output"), "{}", String::from_utf8_lossy(&ran.stdout));
    assert!(fs::read(console).unwrap() == *file(2, "console"));
    assert_eq!(fs::read(status).unwrap(), *file(2, "status.json"));
}

#[test]
fn with_a_cache_forks_find_what_boots_of_their_own_find() {
    let scenario = "seeds = '1..2'\n[guest]\nkernel = 'linux-6.12-debug'\ncache = 'random'\n\
         devices = ['mlx5,no-snoop=payload,umr=off']\n[[step]]\nscript = 'verbs-verify --polling uc.send || true'\n\
         [[expect]]\nfindings = [{ blame = 'platform' }]\n";
    let suite = Suite::new(&[("cache", scenario)]);
    let cold = suite.evidence(&["--cold"]);
    let forked = suite.evidence(&[]);
    assert_eq!((cold.0, forked.0), (0, 0), "{} {}", cold.1, forked.1);
    assert!(forked.3.contains("; 2 forked from 1 boot, "), "{}", forked.3);
    assert_eq!(forked.1, cold.1);
    assert!(forked.2 == cold.2, "artefacts of forks are those of boots");
    let findings =
        |seed: u32| &forked.2[&suite.artefacts().join(format!("cache/seed-{seed}/findings.jsonl"))];
    assert!(!findings(1).is_empty() && findings(1) != findings(2), "the schedule has a seed");
}

#[test]
fn what_cannot_be_forked_boots_by_itself() {
    let suite = Suite::new(&[]);
    let out = suite.folder.path().join("out");
    let text = format!(
        "bug = 'b'\nsource = 's'\nseeds = '1..2'\ndeadline = 0.01\n[guest]\nkernel = './works'\n\
         devices = ['console,out={}']\n[[step]]\nrun = ['x']\n",
        out.display()
    );
    fs::write(suite.folder.path().join("file.toml"), text).unwrap();
    let ran = suite.run(&[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("2 passed, 0 failed; 0 forked from 1 boot, "), "{last}");
    let refused = run(&["suite", path(suite.folder.path()), "--list"]);
    assert_eq!(refused.stdout, "file/seed-1\nfile/seed-2\n");
}
