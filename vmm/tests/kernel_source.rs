//! `--kernel-source`: a kernel of the user's own.

mod common;

use common::{path, run};
use std::fs;

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
