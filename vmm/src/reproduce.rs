//! Runs a reproduction: builds its image if need be, boots it, and collects what [`crate::repro`] judges.

use crate::boot::{InitrdPart, cmdline};
use crate::bounded::Bounded;
use crate::engine::{EngineKind, Kick};
use crate::host::{Host, HostOptions};
use crate::machine::{IommuSpec, MachineConfig};
use crate::memory::CacheSpec;
use crate::quantity::parse_size;
use crate::repro::{Ended, Evidence, Origin, Reproduction};
use crate::session::{Cause, Output, Session, SessionConfig, Watch, Work};
use anyhow::{Context, Result, anyhow, bail};
use guest_images::progress::Progress;
use guest_images::{KernelTree, Store};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a user may change about a reproduction.
#[derive(Debug, Clone, Default)]
pub struct Variation {
    pub seed: u64,
    /// A kernel instead of the image's.
    pub kernel: Option<PathBuf>,
    /// A source tree to build the kernel from, with the image's configuration. Counts before `kernel`.
    pub kernel_source: Option<PathBuf>,
    /// An initial RAM file system instead of the image's.
    pub initrd: Option<PathBuf>,
    /// Limit on the run's time on the host.
    pub timeout: Option<Duration>,
}

/// What is booted, and what is known of it.
struct Boot {
    kernel: PathBuf,
    initrd: PathBuf,
    command_line: String,
    /// As `uname -r` prints it; empty if unknown.
    release: String,
    origin: Origin,
    cannot_raise: Option<String>,
}

impl Variation {
    /// Builds what is absent of the image `name`, or of the kernel that takes its place.
    fn prepare(&self, name: &str, store: &Store, progress: &dyn Progress) -> Result<Boot> {
        if let Some(folder) = &self.kernel_source {
            let tree = KernelTree::open(folder).context("--kernel-source")?;
            let initrd = match &self.initrd {
                Some(file) => file.clone(),
                None => store.initramfs(name, progress)?,
            };
            let built = store.build_tree(name, &tree, progress)?;
            return Ok(Boot {
                kernel: built.kernel,
                initrd,
                command_line: store.recipe(name)?.cmdline.clone(),
                release: built.release,
                origin: match built.commit {
                    Some(commit) => Origin::Commit(commit),
                    None => Origin::Tree(tree.folder().display().to_string()),
                },
                cannot_raise: built.cannot_raise,
            });
        }
        let image = store.ensure(name, progress)?;
        let (kernel, release, origin) = match &self.kernel {
            Some(kernel) => (kernel.clone(), String::new(), Origin::File),
            None => (image.kernel, image.manifest.kernel_release, Origin::Image(image.hash)),
        };
        let initrd = self.initrd.clone().unwrap_or(image.initrd);
        Ok(Boot { kernel, initrd, command_line: image.cmdline, release, origin, cannot_raise: None })
    }

    /// The options of `staleline repro` that say the same, without the seed's.
    fn options(&self) -> Vec<String> {
        let given = [
            ("--kernel-source", &self.kernel_source),
            ("--kernel", &self.kernel),
            ("--initrd", &self.initrd),
        ];
        given
            .into_iter()
            .filter_map(|(option, path)| Some(format!("{option} {}", quoted(path.as_ref()?))))
            .collect()
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_alphanumeric() || "/._-+=:,@%".contains(c)) && !text.is_empty() {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs the guest of `reproduction`. The console also goes to `console`, as it comes.
///
/// # Errors
/// If the image cannot be built, the guest not be booted, or the user interrupts the run.
pub fn run(
    reproduction: &Reproduction,
    variation: &Variation,
    store: &Store,
    progress: &dyn Progress,
    console: &mut dyn Write,
) -> Result<Evidence> {
    let guest = &reproduction.guest;
    let memory = parse_size(&guest.memory).map_err(|reason| anyhow!("memory {}: {reason}", guest.memory))?;
    let devices = guest.devices.iter().map(|device| device.parse()).collect::<Result<_, _>>()?;
    let boot = variation.prepare(&guest.image, store, progress)?;
    let mut command_line = cmdline::append(&boot.command_line, &guest.cmdline.join(" "));
    command_line = cmdline::append(&command_line, cmdline::OUR_INIT);
    let config = SessionConfig {
        machine: MachineConfig {
            memory,
            cpus: guest.cpus,
            seed: variation.seed,
            devices,
            cache: CacheSpec::off(),
            iommu: IommuSpec::Off,
            confidential: None,
        },
        engine: EngineKind::Soft,
        kernel: boot.kernel,
        initrd: vec![InitrdPart::File(boot.initrd), InitrdPart::Bytes(guest_images::work_archive())],
        command_line: Some(command_line),
        deadline: None,
        work: Some(Work { argv: guest.command.clone(), seed: None }),
        watch: Watch::default(),
    };
    let (mut transcript, mut stdout) = (Bounded::default(), Bounded::default());
    let mut stderr = std::io::stderr();
    let kick = Kick::default();
    let options = HostOptions { timeout: variation.timeout, ..HostOptions::default() };
    let host = Host::start(options, kick.clone()).context("cannot watch the host's side")?;
    let outcome = {
        let mut output = Output::new(vec![&mut transcript, console], &mut stdout, &mut stderr);
        Session::new(&config, kick)?.run(Some(&host), &mut output)?
    };
    let limit =
        variation.timeout.map_or_else(String::new, |limit| format!("{} s on the host", limit.as_secs_f64()));
    let ended = match outcome.cause {
        Cause::Exited(status) => Ended::Exited(status),
        Cause::Signalled(signal) => Ended::Signalled(signal),
        Cause::CommandFailed(reason) => Ended::NotStarted(reason),
        Cause::Panic(_) => Ended::Panicked,
        Cause::Timeout => Ended::TimedOut(limit),
        Cause::Interrupted(signal) => bail!("interrupted by signal {signal}"),
        Cause::OutputLost(reason) => bail!("{reason}"),
        other => Ended::Stopped(other.description()),
    };
    Ok(Evidence {
        console: transcript.bytes,
        stdout: stdout.bytes,
        ended,
        kernel_release: boot.release,
        origin: boot.origin,
        cannot_raise: boot.cannot_raise,
        options: variation.options(),
        seed: variation.seed,
        engine: "soft".into(),
    })
}
