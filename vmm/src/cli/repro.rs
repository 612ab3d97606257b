//! `staleline repro`.

use super::matrix;
use crate::quantity::parse_seconds;
use crate::repro::{self, Expect};
use crate::reproduce::{self, Variation};
use anyhow::{Context, Result, bail};
use clap::Args;
use guest_images::Store;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct ReproArguments {
    /// Which bug.
    name: Option<String>,
    /// The verdict that makes the exit status 0. A matrix is present if all its cells are as expected.
    #[arg(long, value_name = "present|absent", default_value = "present", requires = "name")]
    expect: Expect,
    /// Seed of everything random in the machine.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "name")]
    seed: u64,
    /// Try this kernel instead of the image's.
    #[arg(long, value_name = "FILE", requires = "name")]
    kernel: Option<PathBuf>,
    /// Try a kernel built from this source tree, with the configuration of the reproduction's image. It is compiled out of tree,
    /// and only what has changed since the last time. A tree that cannot be compiled is neither present nor absent: exit
    /// status 125, which `git bisect run` skips.
    #[arg(long, value_name = "DIR", requires = "name", conflicts_with = "kernel")]
    kernel_source: Option<PathBuf>,
    /// Use this initial RAM file system instead of the image's.
    #[arg(long, value_name = "FILE", requires = "name")]
    initrd: Option<PathBuf>,
    /// Give up after this time on the host; of a matrix each case.
    #[arg(long, value_name = "HOST_SECONDS", value_parser = parse_seconds, default_value = "300", requires = "name")]
    timeout: Duration,
    /// Write the guest's console to this file.
    #[arg(long, value_name = "FILE", requires = "name")]
    console: Option<PathBuf>,
}

/// Reproduces, or lists what can be reproduced; returns the exit status.
pub(super) fn run(arguments: &ReproArguments) -> Result<u8> {
    let mut stdout = io::stdout();
    let Some(name) = &arguments.name else {
        stdout.write_all(repro::render_list(&repro::list()?, &repro::matrices()?).as_bytes())?;
        return Ok(0);
    };
    if let Some(found) = repro::matrices()?.iter().find(|matrix| matrix.spec.name == *name) {
        let single = [
            ("--kernel", arguments.kernel.is_some()),
            ("--kernel-source", arguments.kernel_source.is_some()),
            ("--initrd", arguments.initrd.is_some()),
            ("--console", arguments.console.is_some()),
        ];
        if let Some((option, _)) = single.into_iter().find(|(_, given)| *given) {
            bail!("{option}: {name} is a matrix of several kernels, each with a console of its own");
        }
        return matrix::run(found, arguments.seed, arguments.expect, arguments.timeout);
    }
    let reproduction = repro::find(name)?;
    let mut console: Box<dyn Write> = match &arguments.console {
        Some(path) => Box::new(File::create(path).with_context(|| format!("--console {}", path.display()))?),
        None => Box::new(io::sink()),
    };
    let variation = Variation {
        seed: arguments.seed,
        kernel: arguments.kernel.clone(),
        kernel_source: arguments.kernel_source.clone(),
        initrd: arguments.initrd.clone(),
        timeout: Some(arguments.timeout),
    };
    let progress = guest_images::progress::for_stderr();
    let store = Store::open(None)?;
    let evidence = reproduce::run(&reproduction, &variation, &store, progress.as_ref(), &mut console)?;
    let verdict = repro::check(&reproduction, &evidence);
    stdout.write_all(repro::render(&reproduction, &evidence, &verdict).as_bytes())?;
    Ok(verdict.exit_status(arguments.expect))
}
