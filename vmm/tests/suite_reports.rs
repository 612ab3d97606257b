//! Reports of `staleline suite` as strict readers find them that have nothing in common with what writes them: python3 with its
//! own parsers of XML and JSON, and a reader of KTAP.

mod common;

use common::suite::{HOLDS, Suite};
use common::{bare_kernel, out, path};
use std::fs;
use std::process::Command;

/// What a report must neither be broken by nor take for its own.
const HOSTILE: &[u8] =
    b"<a&b>]]> \x01\x1b[31m\xff\xc3( # SKIP \x7f\"'\r\nok 9 forged\nnot ok 1\nKTAP version 1\n";

#[test]
fn what_scenarios_and_guests_say_breaks_no_report() {
    let fails = "name = '+odd.'\n[guest]\nkernel = './panics'\n[[expect]]\ncause = 'power-off'\n\
                 console = [\"<&>]]> \\u0001\\u001b[0m # SKIP\\nok 1 forged\"]\n";
    let step = "[guest]\nkernel = './exits'\n[[step]]\nname = \"<&> # not ok\\n1..9\"\nrun = ['x']\n";
    let spins = "deadline = 0.001\n[guest]\nkernel = './spins'\n[[expect]]\nstatus = 0";
    let suite = Suite::new(&[
        ("broken", "name = 'x'\n\"<&>\\u0001# SKIP\" = 1"),
        ("fails", fails),
        ("holds", &format!("seeds = '1..3'\n{HOLDS}")),
        ("spins", spins),
        ("step", step),
    ]);
    let message = [b"Kernel panic - not syncing: ", HOSTILE, b"---[ end Kernel panic\n"].concat();
    let said = message.iter().flat_map(|&byte| out(0x3f8, byte));
    // cli; hlt: what counts of a halted guest is its panic.
    let code: Vec<u8> = said.chain([0xfa, 0xf4]).collect();
    fs::copy(bare_kernel(&code).path(), suite.folder.path().join("panics")).unwrap();
    let odd = "bug = \"<&> \\u0001\\u001b[0m # x\\nok 1\"\nsource = ']]>'\n";
    fs::write(suite.folder.path().join("odd.toml"), format!("{odd}{HOLDS}")).unwrap();

    let file = |name: &str| suite.folder.path().join(name);
    let files = ["ktap", "junit", "json"].map(file);
    let reports = files
        .each_ref()
        .map(|file| format!("{}={}", file.file_name().unwrap().to_string_lossy(), file.display()));
    let more: Vec<&str> = reports.iter().flat_map(|report| ["--report", report]).collect();
    let ran = suite.run(&more);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert_eq!(fs::read_to_string(&files[0]).unwrap(), ran.stdout);

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/read_reports.py");
    let read = Command::new("python3").arg(script).args(&files).output().unwrap();
    assert!(read.status.success(), "{}\n{}", String::from_utf8_lossy(&read.stderr), ran.stdout);
    let expected = [
        "broken error",
        "+odd./seed-1 failed",
        "holds/seed-1 passed",
        "holds/seed-2 passed",
        "holds/seed-3 passed",
        "odd/seed-1 passed",
        "spins/seed-1 failed",
        "step/seed-1 error",
    ];
    // Each line once from each report.
    let expected: String = expected.map(|line| format!("{line}\n").repeat(3)).concat();
    assert_eq!(String::from_utf8_lossy(&read.stdout), expected, "{}", ran.stdout);
    for file in &files {
        assert!(
            fs::read_to_string(file).unwrap().contains("the run ended by panic ("),
            "what the guest said"
        );
    }
    // Nothing that the guest said is lost where it can be had.
    let console = fs::read(suite.artefacts().join("+odd./seed-1/console")).unwrap();
    assert!(console.windows(HOSTILE.len()).any(|part| part == HOSTILE), "{}", path(&suite.artefacts()));
}
