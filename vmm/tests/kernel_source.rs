//! `--kernel-source`: a kernel of the user's own, and `git bisect run` with it.

mod common;

use common::suite::{HOLDS, Suite, named};
use common::{path, run};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a folder needs to pass for a kernel tree.
fn sketch_of_a_tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("Makefile", "VERSION = 6\nPATCHLEVEL = 12\n\nall:\n\t@echo cannot be compiled; false\n"),
        ("Kconfig", ""),
        ("arch/x86/Makefile", ""),
        ("init/main.c", ""),
    ] {
        let file = folder.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    folder
}

fn refused(arguments: &[&str], parts: &[&str]) {
    let ran = run(arguments);
    assert_eq!(ran.status, 125, "{arguments:?}: {ran:?}");
    for part in parts {
        assert!(ran.stderr.contains(part), "{part:?} is not in {ran:?}");
    }
}

#[test]
fn what_is_no_tree_is_refused() {
    refused(&["run", "--kernel-source", "/"], &["--kernel-source: /: not a Linux source tree", "Makefile"]);
    refused(&["repro", "mlx5-eexist", "--kernel-source", "/nonexistent"], &["/nonexistent", "No such file"]);
    let tree = sketch_of_a_tree();
    let folder = path(tree.path());
    refused(
        &["repro", "mlx5-eexist", "--kernel", "a", "--kernel-source", folder],
        &["--kernel", "cannot be used with"],
    );
    refused(
        &["run", "--kernel", "debian-cloud-6.1", "--kernel-source", folder],
        &["debian-cloud-6.1 is not compiled from source", "linux-6.12-debug"],
    );
    refused(
        &["run", "--kernel", "vmlinuz", "--kernel-source", folder],
        &["--kernel names the configuration"],
    );
    fs::write(tree.path().join(".config"), "").unwrap();
    refused(&["run", "--kernel-source", folder], &["built in place", "mrproper"]);
}

/// Where the source is: it stays there, so that the next run compiles only what differs.
const SOURCE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/linux");
/// Held by who uses it.
static IN_USE: Mutex<()> = Mutex::new(());

/// The real source of linux-6.12-debug, in a git repository whose tag `base`, which is checked out, is the source as it is.
fn repository() -> Repository {
    let user = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    let repository = Repository { folder: SOURCE.into(), _user: user };
    if repository.try_git(&["rev-parse", "base"]).is_some() {
        let _ = repository.try_git(&["bisect", "reset"]);
        repository.git(&["checkout", "--quiet", "--force", "--detach", "base"]);
        return repository;
    }
    let downloads = guest_images::Store::open(None).unwrap().folder().join("downloads");
    let package = fs::read_dir(&downloads)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|file| file.file_name().unwrap().to_string_lossy().starts_with("linux-source-6.12_"))
        .unwrap_or_else(|| {
            panic!(
                "no linux-source-6.12 package in {}: `staleline images clean linux-6.12-debug`, then `staleline images \
                 build linux-6.12-debug` fetches it",
                downloads.display()
            )
        });
    let _ = fs::remove_dir_all(&repository.folder);
    fs::create_dir_all(&repository.folder).unwrap();
    // What an x86 kernel is not made from would only cost time.
    let script = "set -e; dpkg-deb --fsys-tarfile \"$0\" | tar -xO ./usr/src/linux-source-6.12.tar.xz | xz -dc | \
                  tar -x --strip-components=1 --exclude='*/Documentation/*/*' --exclude='*/tools/testing/*' \
                  --exclude='*/drivers/gpu/*.[chS]' --exclude='*/drivers/media/*.[ch]' --exclude='*/sound/*.[ch]' \
                  --exclude='*.dts' --exclude='*.dtsi'";
    let unpacked =
        Command::new("sh").args(["-c", script]).arg(&package).current_dir(&repository.folder).status();
    assert!(unpacked.unwrap().success());
    repository.git(&["init", "--quiet"]);
    // The kernel's own ignore files would leave files of the package out.
    repository.git(&["add", "--all", "--force"]);
    repository.git(&["commit", "--quiet", "--message", "the package's source"]);
    repository.git(&["tag", "base"]);
    repository
}

struct Repository {
    folder: PathBuf,
    _user: MutexGuard<'static, ()>,
}

impl Repository {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder);
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "A Developer");
            command.env(format!("GIT_{role}_EMAIL"), "developer@example.org");
        }
        command
    }

    fn try_git(&self, arguments: &[&str]) -> Option<String> {
        let output = self.command("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn git(&self, arguments: &[&str]) -> String {
        self.try_git(arguments).unwrap_or_else(|| panic!("git {arguments:?} failed"))
    }

    /// Replaces `from` in `file`, where it must be once.
    fn replace(&self, file: &str, from: &str, to: &str) {
        let file = self.folder.join(file);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {}", file.display());
        fs::write(&file, text.replace(from, to)).unwrap();
    }

    /// Does the same, and commits.
    fn edit(&self, message: &str, file: &str, from: &str, to: &str) -> String {
        self.replace(file, from, to);
        self.git(&["commit", "--quiet", "--all", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }
}

const DEBUG: &str = "kernel/dma/debug.c";
/// Is once in [`DEBUG`].
const BRACE: &str = "static void add_dma_entry(struct dma_debug_entry *entry, unsigned long attrs)\n{\n";

/// Cases of a suite have one build of the tree in common; one that cannot be compiled is an error of its scenario alone.
#[test]
#[ignore = "compiles a whole kernel when it runs for the first time, about 10 minutes on two cores; then half of one"]
fn scenarios_boot_a_tree() {
    let repository = repository();
    let ran = run(&["run", "--kernel-source", SOURCE, "--", "uname", "-r"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("6.12."), "{ran:?}");

    let tree = "seeds = '1..2'\n[guest]\nkernel-source = 'linux'\n[matrix]\ncpus = [1, 2]\n\
                [[step]]\nrun = ['uname', '-r']\n[[step.expect]]\noutput = ['6.12.']";
    let suite = Suite::new(&[("holds", HOLDS), ("tree", tree)]);
    std::os::unix::fs::symlink(SOURCE, suite.folder.path().join("linux")).unwrap();
    // A change that no commit names.
    repository.replace(DEBUG, BRACE, &format!("{BRACE}\t/* Of this test. */\n"));
    let ran = suite.run(&["--format", "json"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["summary"]["passed"], 5);
    assert_eq!(ran.stderr.matches("the kernel in ").count(), 1, "built once: {}", ran.stderr);
    let line = report["scenarios"][1]["cases"][0]["command"].as_str().unwrap();
    assert!(line.contains(" --kernel /") && !line.contains("--kernel-source"), "what was built runs: {line}");

    repository.replace(DEBUG, BRACE, &format!("{BRACE}\tthis is no C;\n"));
    let (status, verdicts) = suite.verdicts(&[]);
    assert_eq!(status, 125);
    let cells = ["cpus=1/seed-1", "cpus=1/seed-2", "cpus=2/seed-1", "cpus=2/seed-2"];
    let errors = cells.map(|cell| (format!("tree/{cell}"), "error".to_owned()));
    assert_eq!(verdicts[0], named([("holds/seed-1", "passed")])[0]);
    assert_eq!(verdicts[1..], errors);
    let ran = suite.run(&[]);
    for part in ["tree.toml:5:17: kernel-source: ", "this is no C", "linux-6.12-debug.tree.log"] {
        assert!(ran.stdout.contains(part), "{part}: {ran:?}");
    }
    assert_eq!(repository.git(&["status", "--porcelain", "--ignored"]), "M kernel/dma/debug.c");
}

/// The condition that keeps x86 kernels from 7.x on from warning is taken out in the midst of a history over the real source:
/// `git bisect run` finds that commit, passing over one that cannot be compiled.
#[test]
#[ignore = "compiles a whole kernel when it runs for the first time, about 10 minutes on two cores; then 2"]
fn git_bisect_finds_the_commit_that_brings_the_warning_in() {
    const BEFORE: &str = "rc == -EEXIST && !(attrs & DMA_ATTR_SKIP_CPU_SYNC) &&\n";
    const CONDITION: &str = "\t\t   dma_get_cache_alignment() >= L1_CACHE_BYTES &&\n";
    const UMEM: &str = "int ib_umem_copy_from(";

    let repository = repository();
    let edit = |message: &str, file: &str, from: &str, to: &str| repository.edit(message, file, from, to);
    let with_condition = format!("{BEFORE}{CONDITION}");
    let good = edit("dma-debug: warn only where caches are not coherent", DEBUG, BEFORE, &with_condition);
    edit(
        "umem: say what it copies",
        "drivers/infiniband/core/umem.c",
        UMEM,
        &format!("/* Out of it. */\n{UMEM}"),
    );
    edit(
        "mapping: another comment",
        "kernel/dma/mapping.c",
        "#include \"debug.h\"",
        "#include \"debug.h\" /* ! */",
    );
    let broken = format!("{BRACE}\tthis is no C;\n");
    let broken = edit("dma-debug: half of a change", DEBUG, BRACE, &broken);
    edit("dma-debug: the other half", DEBUG, "\tthis is no C;\n", "");
    let culprit = edit("dma-debug: warn everywhere", DEBUG, CONDITION, "");
    let bad = edit("mapping: no comment", "kernel/dma/mapping.c", " /* ! */", "");

    repository.git(&["bisect", "start", &bad, &good]);
    let output = repository
        .command("git")
        .args(["bisect", "run", env!("CARGO_BIN_EXE_staleline")])
        .args(["repro", "mlx5-eexist", "--expect", "absent", "--kernel-source", "."])
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let log = repository.git(&["bisect", "log"]);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains(&format!("{culprit} is the first bad commit")), "{stdout}\n{stderr}");
    assert!(log.contains(&format!("git bisect skip {broken}")), "{log}");
    // Each verdict names its commit, and an absence its cause.
    assert!(stdout.contains("NOT REPRODUCED mlx5-eexist  Linux 6.12."), "{stdout}");
    assert!(stdout.contains("\nREPRODUCED mlx5-eexist  Linux 6.12."), "{stdout}");
    assert!(stdout.contains(&format!("commit {}..", &culprit[..12])), "{stdout}");
    assert!(stdout.contains("by its source: "), "{stdout}");
    assert!(stderr.contains("this is no C"), "the compiler's message is shown: {stderr}");
    assert_eq!(repository.git(&["status", "--porcelain", "--ignored"]), "", "the tree is left as it was");
    repository.git(&["bisect", "reset"]);

    // The verdict of a commit that was tried is there at once, and the same.
    repository.git(&["checkout", "--quiet", "--detach", &culprit]);
    let again = run(&["repro", "mlx5-eexist", "--kernel-source", path(&repository.folder)]);
    assert_eq!(again.status, 0, "{again:?}");
    assert!(!again.stderr.contains("building"), "{again:?}");
}
