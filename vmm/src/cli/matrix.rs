//! `staleline repro` of a matrix: its scenarios are run as a suite, and told as a table.

use super::suite::{self, Guests};
use crate::repro::{Expect, Matrix, render_matrix};
use crate::suite::Seeds;
use crate::suite::artefacts::Artefacts;
use crate::suite::case::cases;
use anyhow::{Context, Result, bail};
use guest_images::{Store, driver_sources};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::time::Duration;

/// Where the evidence of each cell is left, from the current folder.
const EVIDENCE: &str = "staleline-artefacts";
/// Where scenarios are, from the folder in which drivers have the place that they have for them.
const SCENARIOS: &str = "ci/suites";
const DRIVER_FOLDER: &str = "guest-images/drivers";

/// Runs `matrix` with this seed; returns the exit status.
pub(super) fn run(matrix: &Matrix, seed: u64, expect: Expect, timeout: Duration) -> Result<u8> {
    let store = Store::open(None)?;
    let folder = unpack(matrix, store.folder())?;
    let files: Vec<PathBuf> = matrix.scenarios.iter().map(|(name, _)| folder.join(name)).collect();
    let seeds: Seeds = seed.to_string().parse().map_err(|error| anyhow::anyhow!("--seed {seed}: {error}"))?;
    let scenarios = suite::read(&files, Some(&seeds));
    if let Some(error) = scenarios.iter().find_map(|scenario| scenario.as_ref().err()) {
        bail!("{error}");
    }
    let all = scenarios.iter().flatten().flat_map(cases).collect();
    let evidence = absolute(Path::new(EVIDENCE).join(&matrix.spec.name))?;
    let launcher = Arc::new(Guests::new(evidence.join("modules"), false));
    let artefacts = Artefacts::new(evidence, true);
    let results = suite::execute(&scenarios, all, &launcher, suite::limits(None, Some(timeout)), &artefacts)?;
    // Those of the images that have come to be used.
    let releases: Vec<String> = matrix
        .spec
        .column
        .iter()
        .map(|column| {
            let built = column.kernels.values().filter_map(|image| store.path(image).ok().flatten());
            let mut releases: Vec<_> = built.map(|image| image.manifest.kernel_release).collect();
            releases.dedup();
            releases.join(", ")
        })
        .collect();
    let (table, count) = render_matrix(&matrix.spec, &results, &releases);
    let mut stdout = io::stdout();
    stdout.write_all(table.as_bytes())?;
    writeln!(stdout, "evidence: {EVIDENCE}/{}/SCENARIO/CELL/seed-{seed}", matrix.spec.name)?;
    writeln!(stdout, "again: staleline repro {} --seed {seed}", matrix.spec.name)?;
    let present = count.unexpected == 0;
    Ok(match (count.not_run, expect) {
        (1.., _) => crate::session::STATUS_ERROR,
        (0, Expect::Present) => u8::from(!present),
        (0, Expect::Absent) => u8::from(present),
    })
}

/// Puts the scenarios, and the drivers that they build, into a folder of the cache that is named after what is in them.
fn unpack(matrix: &Matrix, cache: &Path) -> Result<PathBuf> {
    let drivers =
        driver_sources().into_iter().map(|(path, text)| (Path::new(DRIVER_FOLDER).join(path), text));
    let place = |name: &str| Path::new(SCENARIOS).join(&matrix.spec.name).join(name);
    let scenarios = matrix.scenarios.iter().map(|(name, text)| (place(name), text.as_bytes()));
    let files: Vec<_> = drivers.chain(scenarios).collect();
    let root = cache.join("repro").join(digest(&files));
    let scenarios = root.join(place(""));
    if root.exists() {
        return Ok(scenarios);
    }
    let parent = cache.join("repro");
    let failed = || parent.display().to_string();
    fs::create_dir_all(&parent).with_context(failed)?;
    let partial = tempfile::tempdir_in(&parent).with_context(failed)?;
    for (path, contents) in &files {
        let path = partial.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(&parent)).with_context(failed)?;
        fs::write(&path, contents).with_context(failed)?;
    }
    match fs::rename(partial.path(), &root) {
        // Somebody else has been faster.
        Err(error) if !root.exists() => Err(error).with_context(failed),
        _ => Ok(scenarios),
    }
}

/// A name for these files.
fn digest(files: &[(PathBuf, &[u8])]) -> String {
    let mut sum = Sha256::new();
    for (path, contents) in files {
        sum.update(path.as_os_str().as_encoded_bytes());
        sum.update([0]);
        sum.update((contents.len() as u64).to_le_bytes());
        sum.update(contents);
    }
    sum.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
