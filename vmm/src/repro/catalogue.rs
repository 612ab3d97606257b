//! The known reproductions, as data.

use super::matrix::{Matrix, matrices};
use serde::Deserialize;
use std::fmt::Write;

/// The files under `catalogue/`, by name, in the order in which lists show them.
const FILES: &[(&str, &str)] = &[("mlx5-eexist.toml", include_str!("catalogue/mlx5-eexist.toml"))];

/// A reproduction cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    #[error("no reproduction is called '{name}' (known: {known})")]
    Unknown { name: String, known: String },
    #[error("reproduction {file}: {reason}")]
    Malformed { file: String, reason: String },
}

/// One known bug: how to bring it out and how to recognise it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reproduction {
    pub name: String,
    /// One line for lists.
    pub summary: String,
    /// What it takes with the image built, minutes, rounded up.
    pub minutes: u32,
    pub guest: Guest,
    pub expect: Expectation,
    pub(super) report: OriginalReport,
    /// Kernel messages after which silence means nothing.
    #[serde(default)]
    pub(super) mute: Vec<Mute>,
    #[serde(default)]
    pub(super) note: Vec<Note>,
}

/// What to boot and what to run in it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// A recipe of guest-images.
    pub image: String,
    /// As `--memory` takes it.
    pub memory: String,
    pub cpus: u32,
    /// As `--device` takes them.
    pub devices: Vec<String>,
    /// Parameters appended to the image's own kernel command line, each one word or quoted as the kernel wants it.
    pub cmdline: Vec<String>,
    /// The program and its arguments; a name without a slash is looked up in the guest's `PATH`.
    pub command: Vec<String>,
}

/// What has to be seen for the bug to be present.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    pub driver: String,
    /// PCI address of the device that dma-debug names.
    pub device: String,
    /// dma-debug's message without driver and device.
    pub message: String,
    /// The function that holds the warning.
    pub warns_in: String,
    /// Functions in the call trace, innermost first; others may stand between them.
    pub frames: Vec<String>,
    /// Growth of dma-debug's `error_count`.
    pub error_count_delta: i64,
    /// The driver's function whose debug messages tell of registrations.
    pub registration_log: String,
    pub registration: Vec<ExpectedRegistration>,
}

/// One memory region that the guest's program registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedRegistration {
    /// Bytes from the page's start.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// `IB_ACCESS_*` bits.
    pub access_flags: u64,
}

/// Facts of the report that made the bug known.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginalReport {
    pub source: String,
    /// As `uname -r` prints it.
    pub kernel: String,
    /// File and line of the warning.
    pub location: String,
    pub comm: String,
    pub driver: String,
    pub device: String,
    /// Link layer, and whether the function is physical (PF) or virtual (VF).
    pub link: String,
    pub frames: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mute {
    /// How a kernel message begins.
    pub message: String,
    pub reason: String,
}

/// Something to know about an absence.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// The first kernel that it holds for, as `major.minor`.
    pub from_kernel: String,
    pub text: String,
}

/// All reproductions.
///
/// # Errors
/// [`CatalogueError::Malformed`] if a file built into staleline cannot be read.
pub fn list() -> Result<Vec<Reproduction>, CatalogueError> {
    FILES.iter().map(|(file, text)| parse(file, text)).collect()
}

/// The reproduction called `name`.
///
/// # Errors
/// [`CatalogueError::Unknown`], or [`CatalogueError::Malformed`] as for [`list`].
pub fn find(name: &str) -> Result<Reproduction, CatalogueError> {
    let all = list()?;
    let matrices = matrices()?;
    let names = all.iter().map(|one| one.name.as_str());
    let names = names.chain(matrices.iter().map(|matrix| matrix.spec.name.as_str()));
    let known = names.collect::<Vec<_>>().join(", ");
    all.into_iter()
        .find(|one| one.name == name)
        .ok_or_else(|| CatalogueError::Unknown { name: name.to_owned(), known })
}

/// The table that `staleline repro` prints without a name.
#[must_use]
pub fn render_list(all: &[Reproduction], matrices: &[Matrix]) -> String {
    let singles = all.iter().map(|one| (&*one.name, &*one.guest.image, one.minutes, &*one.summary));
    let many =
        matrices.iter().map(|Matrix { spec, .. }| (&*spec.name, "several", spec.minutes, &*spec.summary));
    let lines: Vec<_> = singles.chain(many).collect();
    let name_width = width(lines.iter().map(|line| line.0), "name");
    let image_width = width(lines.iter().map(|line| line.1), "kernel image");
    let mut text =
        format!("{:name_width$}  {:image_width$}  minutes  what it shows\n", "name", "kernel image");
    for (name, image, minutes, summary) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:name_width$}  {image:image_width$}  {minutes:>7}  {summary}");
    }
    text
}

fn width<'a>(column: impl Iterator<Item = &'a str>, title: &str) -> usize {
    column.map(|cell| cell.chars().count()).max().unwrap_or(0).max(title.len())
}

fn parse(file: &str, text: &str) -> Result<Reproduction, CatalogueError> {
    let malformed = |reason: String| CatalogueError::Malformed { file: file.to_owned(), reason };
    let reproduction: Reproduction = toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
    if reproduction.guest.command.is_empty() {
        return Err(malformed("its command is empty".to_owned()));
    }
    if reproduction.expect.frames.is_empty() || reproduction.expect.registration.is_empty() {
        return Err(malformed("it expects no frames or no registrations, so anything would do".to_owned()));
    }
    Ok(reproduction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_sound_and_bears_its_own_name() {
        for ((file, _), one) in FILES.iter().zip(list().expect("the catalogue")) {
            assert_eq!(*file, format!("{}.toml", one.name));
            assert!(!one.summary.contains('\n'));
        }
    }

    #[test]
    fn every_reproduction_names_a_recipe_that_exists() {
        let cache = tempfile::tempdir().expect("a folder");
        let store = guest_images::Store::open(Some(cache.path().to_owned())).expect("a store");
        let recipes = store.recipes();
        for one in list().expect("the catalogue") {
            assert!(recipes.iter().any(|recipe| recipe.name == one.guest.image), "{}", one.guest.image);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = find("mlx5-eexit").expect_err("no such reproduction");
        assert_eq!(
            error.to_string(),
            "no reproduction is called 'mlx5-eexit' (known: mlx5-eexist, require-coherent)"
        );
    }

    #[test]
    fn a_file_that_expects_nothing_is_refused() {
        let text = FILES[0].1.replace("command = [\"regtwice\"]", "command = []");
        assert!(matches!(parse("x.toml", &text), Err(CatalogueError::Malformed { .. })));
        assert!(parse("x.toml", "name = 3").is_err());
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let all = list().expect("the catalogue");
        let table = render_list(&all, &matrices().expect("the matrices"));
        assert_eq!(table.lines().count(), 2 + all.len());
        assert!(table.contains("mlx5-eexist       linux-6.12-debug        1  dma-debug: "), "{table}");
        assert!(table.contains("\nrequire-coherent  several "), "{table}");
    }
}
