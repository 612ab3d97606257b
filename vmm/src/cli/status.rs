//! The file of `--status`.

use crate::ledger::Report;
use crate::machine::{CacheStatistics, ConfidentialStatistics, IommuStatistics};
use crate::session::{Cause, Outcome};
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::Write;
use std::path::Path;

/// What a run draws its random numbers from.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Seeds {
    /// The machine's.
    pub seed: u64,
    /// From the guest's ready mark on, where it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_seed: Option<u64>,
}

/// What the file says. `cause` is authoritative.
#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    pub cause: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Status that the guest ended with, or null.
    pub guest_exit: Option<u8>,
    /// How often anything was found.
    pub findings: u64,
    /// How much of that has happened, and how much could have.
    pub manifest: u64,
    pub latent: u64,
    /// Different findings.
    pub distinct: usize,
    /// Name and hash of the image, or the kernel's path.
    pub image: String,
    #[serde(flatten)]
    pub seeds: Seeds,
    /// What ran the guest, if it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_nanos: Option<u64>,
    /// What became of the ledger, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<&'a Report>,
    /// What the modelled cache has done, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<&'a CacheStatistics>,
    /// What the IOMMU has not let through, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommu: Option<&'a IommuStatistics>,
    /// What has become of memory encryption, if the guest was shown any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidential: Option<&'a ConfidentialStatistics>,
    /// Host input: instruction count at which it entered, bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<(u64, usize)>,
}

impl<'a> Status<'a> {
    /// The status of a run that has ended.
    pub(super) fn of(outcome: &'a Outcome, engine: &'static str, image: String, seeds: Seeds) -> Self {
        Self {
            cause: outcome.cause.name(),
            detail: outcome.cause.detail(),
            guest_exit: outcome.cause.guest_exit(),
            findings: outcome.findings.counts.total(),
            manifest: outcome.findings.counts.manifest,
            latent: outcome.findings.counts.latent,
            distinct: outcome.findings.reports.len(),
            image,
            seeds,
            engine: Some(engine),
            instructions: outcome.instructions,
            virtual_nanos: Some(outcome.virtual_nanos),
            ledger: outcome.ledger.as_ref(),
            cache: outcome.cache.as_ref(),
            iommu: outcome.iommu.as_ref(),
            confidential: outcome.confidential.as_ref(),
            inputs: outcome.inputs.clone(),
        }
    }

    /// The status of a run that never began.
    pub(super) fn error(detail: String, image: String, seeds: Seeds) -> Self {
        Self { detail: Some(detail), ..Self::of_cause("error", image, seeds) }
    }

    /// The status of a run that was given up, its machine out of reach.
    pub(super) fn without_run(cause: &'a Cause, image: String, seeds: Seeds) -> Self {
        Self { detail: cause.detail(), ..Self::of_cause(cause.name(), image, seeds) }
    }

    fn of_cause(cause: &'a str, image: String, seeds: Seeds) -> Self {
        Self {
            cause,
            detail: None,
            guest_exit: None,
            findings: 0,
            manifest: 0,
            latent: 0,
            distinct: 0,
            image,
            seeds,
            engine: None,
            instructions: None,
            virtual_nanos: None,
            ledger: None,
            cache: None,
            iommu: None,
            confidential: None,
            inputs: Vec::new(),
        }
    }

    /// Writes the file, whole or not at all where that can be had.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        let context = || format!("--status {}", path.display());
        // A device or pipe cannot be replaced.
        if path.exists() && !path.is_file() {
            let mut file = std::fs::OpenOptions::new().write(true).open(path).with_context(context)?;
            return file.write_all(text.as_bytes()).with_context(context);
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        std::fs::write(&partial, text)
            .and_then(|()| std::fs::rename(&partial, path))
            .inspect_err(|_| drop(std::fs::remove_file(&partial)))
            .with_context(context)
    }
}
