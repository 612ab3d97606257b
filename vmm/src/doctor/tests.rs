use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A machine with nothing: no programs, no apt, no KVM, an empty cache.
fn bare(folder: &Path) -> Options {
    Options {
        cache: Some(folder.join("cache")),
        offline: true,
        host: Host { path: folder.join("bin").into(), root: folder.to_owned() },
        kvm: folder.join("dev/kvm"),
    }
}

fn install(folder: &Path, program: &str, script: &str) {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let file = bin.join(program);
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn item<'a>(report: &'a Report, what: &str) -> &'a Item {
    report.sections.iter().flat_map(|section| &section.items).find(|item| item.what == what).unwrap()
}

#[test]
fn a_bare_machine_still_runs_kernels_that_are_brought() {
    let folder = tempfile::tempdir().unwrap();
    let report = examine(&bare(folder.path()));
    assert!(report.can_run && !report.can_build && !report.can_repro);
    assert_eq!(report.exit_status(), 125);
    assert_eq!(item(&report, "kvm").status, Status::Warn);
    for (what, advice) in [("apt-get", "--kernel"), ("cc", "apt-get install gcc"), ("mirror", "--kernel")] {
        let item = item(&report, what);
        assert_eq!(item.status, Status::Missing, "{what}");
        assert!(item.advice.as_deref().unwrap().contains(advice), "{what}");
    }
    assert!(item(&report, "flex").finding.contains("unpacks it"), "builds bring it themselves");
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert!(names.is_empty(), "a doctor writes nothing: {names:?}");
}

#[test]
fn a_debian_machine_with_a_compiler_can_build() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for program in
        ["apt-get", "apt-cache", "apt-config", "dpkg-deb", "tar", "cc", "make", "ld", "strip", "flex"]
    {
        install(root, program, &format!("echo {program} 1.2"));
    }
    install(root, "awk", "exit 2");
    install(root, "df", "printf 'Avail\\n99999\\n'");
    std::fs::create_dir_all(root.join("etc/apt")).unwrap();
    std::fs::write(root.join("etc/os-release"), "ID=debian\nVERSION_CODENAME=bookworm\n").unwrap();
    std::fs::write(root.join("etc/apt/sources.list"), "deb http://m.example/debian bookworm main\n").unwrap();
    std::fs::create_dir_all(root.join("cache/tools/usr/bin")).unwrap();
    std::fs::write(root.join("cache/tools/usr/bin/bison"), "").unwrap();

    let report = examine(&bare(root));
    assert!(report.can_build && report.can_repro, "{report:#?}");
    assert_eq!(report.exit_status(), 0);
    assert_eq!(item(&report, "make").finding, "make 1.2");
    assert_eq!(item(&report, "awk").status, Status::Ok, "it need not know --version");
    assert_eq!(item(&report, "flex").finding, "flex 1.2");
    assert!(item(&report, "bison").finding.contains("a build unpacked it"));
    assert!(item(&report, "free space").finding.starts_with("99999 MiB"));

    std::fs::remove_file(root.join("bin/make")).unwrap();
    let report = examine(&bare(root));
    assert!(report.can_run && !report.can_build && !report.can_repro);
    assert_eq!(item(&report, "make").status, Status::Missing);
}

#[test]
fn programs_that_hang_do_not_hold_it_up() {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path(), "make", "exec sleep 60");
    install(folder.path(), "tar", "sleep 60 & echo started");
    let start = Instant::now();
    let report = examine(&Options {
        host: Host {
            path: format!("{}:/usr/bin:/bin", folder.path().join("bin").display()).into(),
            ..bare(folder.path()).host
        },
        ..bare(folder.path())
    });
    assert!(start.elapsed() < Duration::from_secs(20));
    for program in ["make", "tar"] {
        assert_eq!(item(&report, program).status, Status::Missing);
        assert!(item(&report, program).finding.contains("does not run"));
    }
}

#[test]
fn this_machine_gets_an_answer_in_every_form() {
    let report = examine(&Options { offline: true, ..Options::default() });
    assert!(report.can_run, "the tests boot kernels: {report:#?}");
    let mut text = Vec::new();
    print(&report, &mut text, Style::PLAIN).unwrap();
    let text = String::from_utf8(text).unwrap();
    for section in &report.sections {
        assert!(text.contains(&section.title));
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["can_run"], true);
    assert_eq!(json["sections"][0]["items"][0]["status"], "ok");
}
