//! `repro mlx5-eexist`, end to end. Image: linux-6.12-debug, built at first use.

mod common;

use common::run;
use staleline::repro::{self, Expect, Outcome};
use staleline::reproduce::{self, Variation};

#[test]
fn the_warning_is_reproduced() {
    let ran = run(&["repro", "mlx5-eexist"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    for text in [
        "REPRODUCED mlx5-eexist",
        "DMA-API: mlx5_core 0000:08:00.0: cacheline tracking EEXIST, overlapping mappings aren't supported",
        "frames 7/7",
        "error_count 0->1",
        "again: staleline repro mlx5-eexist --seed 1",
    ] {
        assert!(ran.stdout.contains(text), "no {text:?} in {}", ran.stdout);
    }
    assert_eq!(run(&["repro", "mlx5-eexist"]).stdout, ran.stdout, "two runs differ");
}

#[test]
fn expecting_its_absence_fails() {
    let ran = run(&["repro", "mlx5-eexist", "--expect", "absent", "--seed", "3"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.contains("--seed 3"), "{ran:?}");
}

/// The check must not be satisfied by a run in which the second registration is left out.
#[test]
fn without_the_second_registration_the_check_fails() {
    let mut reproduction = repro::find("mlx5-eexist").unwrap();
    reproduction.guest.command.extend(["--count".into(), "1".into()]);
    let store = guest_images::Store::open(None).unwrap();
    let progress = guest_images::progress::for_stderr();
    let variation = Variation { seed: 1, ..Variation::default() };
    let mut console = Vec::new();
    let evidence =
        reproduce::run(&reproduction, &variation, &store, progress.as_ref(), &mut console).unwrap();
    assert_eq!(evidence.console, console);
    let verdict = repro::check(&reproduction, &evidence);
    assert!(!matches!(verdict.outcome, Outcome::Present), "{verdict:?}");
    assert_ne!(verdict.exit_status(Expect::Present), 0);
    assert!(!String::from_utf8_lossy(&evidence.console).contains("EEXIST"));
}

#[test]
fn a_kernel_that_cannot_warn_decides_nothing() {
    let image = guest_images::Store::open(None)
        .unwrap()
        .ensure("debian-cloud-6.12", guest_images::progress::for_stderr().as_ref())
        .unwrap();
    let (kernel, initrd) = (common::path(&image.kernel), common::path(&image.initrd));
    let ran = run(&["repro", "mlx5-eexist", "--kernel", kernel, "--initrd", initrd]);
    assert_eq!(ran.status, 125, "{ran:?}");
}
