//! The guests of a suite, run as `staleline run` does.

use crate::boot::cmdline;
use crate::bounded::Bounded;
use crate::cli::message;
use crate::cli::run::{self, RunArguments};
use crate::cli::status::{Seeds, Status};
use crate::findings::Sink;
use crate::host::Host;
use crate::session::{Cause, MemoryRange, Outcome, Output, Session, SessionError, Template, saved_memory};
use crate::suite::case::{Built, Case};
use crate::suite::runner::{Boot, Files, Launcher, Line, Ran, Streams, Trouble};
use anyhow::{Result, bail};
use clap::Parser;
use devices::bus::Nanos;
use guest_images::{Image, KernelTree, Store};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The command line of one run.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct RunLine {
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RunCommand {
    Run(Box<RunArguments>),
}

fn parse_run(arguments: &[String]) -> Result<RunArguments> {
    match RunLine::try_parse_from(arguments) {
        Ok(RunLine { command: RunCommand::Run(arguments) }) => {
            arguments.check_repeatable()?;
            Ok(*arguments)
        }
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            bail!("{}", line.strip_prefix("error: ").unwrap_or(line).to_owned())
        }
    }
}

/// What has been built, or has failed to be; it is tried once.
type Once<K, V> = Mutex<BTreeMap<K, Result<V, Trouble>>>;

/// Runs guests as `staleline run` does.
#[derive(Debug)]
pub(in crate::cli) struct Guests {
    /// Boot each case by itself.
    cold: bool,
    /// Where kernel modules are put; command lines of artefacts name them.
    module_folder: PathBuf,
    images: Once<String, Image>,
    /// By image and source.
    modules: Once<(String, PathBuf), Vec<PathBuf>>,
    /// By the image whose configuration it has, if that is named, and source.
    trees: Once<(Option<String>, PathBuf), Tree>,
    /// Bytes of RAM of saved machines, by file.
    saved: Once<PathBuf, u64>,
}

/// What a source tree has come to.
#[derive(Debug, Clone)]
struct Tree {
    kernel: PathBuf,
    initramfs: PathBuf,
    cmdline: String,
}

fn trouble(error: &guest_images::Error) -> Trouble {
    match error.is_unavailable() {
        true => Trouble::Unavailable(error.to_string()),
        false => Trouble::Error(error.to_string()),
    }
}

impl Guests {
    pub(in crate::cli) fn new(module_folder: PathBuf, cold: bool) -> Self {
        Self {
            module_folder,
            cold,
            images: Mutex::default(),
            modules: Mutex::default(),
            trees: Mutex::default(),
            saved: Mutex::default(),
        }
    }

    fn image(&self, name: &str) -> Result<Image, Trouble> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let build = || {
            let store = Store::open(None).map_err(|error| trouble(&error))?;
            store.ensure(name, guest_images::progress::for_stderr().as_ref()).map_err(|error| trouble(&error))
        };
        images.entry(name.to_owned()).or_insert_with(build).clone()
    }

    /// Bytes of RAM of the machine in `file`.
    fn saved(&self, file: &Path) -> Result<u64, Trouble> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let read = || saved_memory(file).map_err(|error| Trouble::Error(format!("--restore: {error}")));
        saved.entry(file.to_owned()).or_insert_with(read).clone()
    }

    /// Builds the kernel modules of the folder `source` for an image.
    fn modules(&self, image: &str, source: &Path) -> Result<Vec<PathBuf>, Trouble> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let build = || {
            let store = Store::open(None).map_err(|error| trouble(&error))?;
            // Folders of the same name are told apart by the rest of their paths.
            let source = &source.canonicalize().unwrap_or_else(|_| source.to_owned());
            let name = source.to_string_lossy().trim_start_matches('/').replace('/', "_");
            let to = self.module_folder.join(image).join(name);
            let progress = guest_images::progress::for_stderr();
            store.build_module(image, source, &to, progress.as_ref()).map_err(|error| trouble(&error))
        };
        modules.entry((image.to_owned(), source.to_owned())).or_insert_with(build).clone()
    }

    /// Builds the kernel in the folder `source` with the configuration of `image`, by default of that which suits it best.
    fn tree(&self, image: Option<&str>, source: &Path) -> Result<Tree, Trouble> {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        let build = || {
            let tree = KernelTree::open(source)?;
            let store = Store::open(None)?;
            let recipe = image.map_or_else(|| store.recipe_for(&tree), |name| store.recipe(name))?;
            let progress = guest_images::progress::for_stderr();
            let initramfs = store.initramfs(&recipe.name, progress.as_ref())?;
            let kernel = store.build_tree(&recipe.name, &tree, progress.as_ref())?.kernel;
            // Without a command `run` has this only for an image.
            let cmdline = cmdline::append(&recipe.cmdline, cmdline::OUR_INIT);
            Ok(Tree { kernel, initramfs, cmdline })
        };
        let build = || build().map_err(|error| trouble(&error));
        trees.entry((image.map(str::to_owned), source.to_owned())).or_insert_with(build).clone()
    }

    /// Builds what the guest of `case` needs.
    fn build(&self, case: &Case) -> Result<Built, Trouble> {
        let guest = &case.cell.guest;
        let at = |key: &str, value: &str, trouble: Trouble| match trouble {
            Trouble::Error(reason) => Trouble::Error(case.scenario.error_at(key, value, &reason).to_string()),
            unavailable @ Trouble::Unavailable(_) => unavailable,
        };
        let mut built = Built::default();
        if let Some(source) = &guest.kernel_source {
            let tree = self.tree(guest.kernel.as_deref(), &case.path(source));
            let tree = tree.map_err(|trouble| at("kernel-source", source, trouble))?;
            built.kernel = Some(tree.kernel);
            built.initrd = Some(tree.initramfs);
            built.cmdline = Some(tree.cmdline);
        } else if case.has_image() {
            let name = case.image().unwrap_or(run::DEFAULT_IMAGE);
            built.cmdline = Some(self.image(name).map_err(|trouble| at("kernel", name, trouble))?.cmdline);
        }
        for source in &guest.modules {
            let modules = match (case.has_image(), &guest.kernel_source) {
                (true, None) => self.modules(case.image().unwrap_or(run::DEFAULT_IMAGE), &case.path(source)),
                _ => Err(Trouble::Error(format!("{source}: modules are built for an image's kernel only"))),
            };
            built.modules.extend(modules.map_err(|trouble| at("modules", source, trouble))?);
        }
        Ok(built)
    }
}

/// A guest that several cases go on from.
pub(in crate::cli) struct Booted {
    /// For `--status`.
    image: String,
    engine: &'static str,
    /// The machine's seed.
    seed: u64,
    end: BootEnd,
}

enum BootEnd {
    Ready(Box<Template>),
    /// Before the ready mark: with everything that is not to be decided before it, the run of each of the cases.
    Ended {
        outcome: Box<Outcome>,
        deadline: Option<Nanos>,
        console: Vec<u8>,
        output: Vec<u8>,
    },
}

/// Writes to both.
struct Tee<'a>(&'a mut dyn Write, &'a mut dyn Write);

impl Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes)?;
        self.1.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.1.flush()
    }
}

impl Booted {
    /// How a run of `arguments` ends that goes on from here, with `memory` kept; none if it would not have come here, since its
    /// deadline is earlier, or if what it is to keep is gone.
    fn go_on(
        &self,
        arguments: &RunArguments,
        memory: &[MemoryRange],
        host: &Host,
        streams: &mut Streams<'_>,
        findings: &mut Sink,
    ) -> Result<Option<Outcome>> {
        let own = arguments.virtual_deadline();
        match &self.end {
            BootEnd::Ready(template) => {
                if own.is_some_and(|deadline| deadline <= template.virtual_nanos()) {
                    return Ok(None);
                }
                let session = template.fork(&arguments.work().unwrap_or_default(), own, host.kick())?;
                Ok(Some(run_session(session.keep(memory.to_vec()), host, streams, findings)?))
            }
            BootEnd::Ended { outcome, deadline, console, output } => {
                // The host's side knows nothing of virtual time.
                let by_host = matches!(outcome.cause, Cause::Timeout | Cause::Interrupted(_) | Cause::Left);
                let after = own.is_none_or(|own| own > outcome.virtual_nanos);
                let same = by_host || own == *deadline || (outcome.cause != Cause::Deadline && after);
                let same = same && memory.is_empty();
                if same {
                    streams.console.write_all(console)?;
                    streams.output.write_all(output)?;
                }
                Ok(same.then(|| Outcome::clone(outcome)))
            }
        }
    }
}

fn run_session(
    session: Session,
    host: &Host,
    streams: &mut Streams<'_>,
    findings: &mut Sink,
) -> Result<Outcome> {
    let mut stderr = io::sink();
    let output = Output::new(vec![&mut *streams.console], &mut *streams.output, &mut stderr);
    let outcome = session.run(Some(host), &mut output.with_findings(findings))?;
    findings.finish(&outcome.findings.reports)?;
    Ok(outcome)
}

impl Launcher for Guests {
    type Booted = Booted;

    fn prepare(&self, case: &Case) -> Result<Line, Trouble> {
        let error = |error: anyhow::Error| Trouble::Error(message(&error));
        case.check_files().map_err(|error| Trouble::Error(error.to_string()))?;
        // What cannot be run needs no image built.
        let bare = case.arguments(&Built::default());
        let arguments = parse_run(&bare).map_err(error)?;
        arguments.check().map_err(error)?;
        let ram = arguments.ram().or_else(|file| self.saved(file))?;
        let built = self.build(case)?;
        let boot = (case.has_mark() && !self.cold).then(|| case.boot_arguments(&built));
        let memory = case.scenario.memory(&case.cell);
        Ok(Line { arguments: case.arguments(&built), boot, ram, memory })
    }

    fn boot(
        &self,
        arguments: &[String],
        host: &Host,
        streams: Streams<'_>,
    ) -> Result<Boot<Self::Booted>, String> {
        let (mut console, mut output, mut stderr) = (Bounded::default(), Bounded::default(), io::sink());
        let mut boot = || -> Result<_> {
            let prepared = run::prepare(&parse_run(arguments)?)?;
            let mut stdout = Tee(streams.output, &mut output);
            let mut sinks = Output::new(vec![streams.console, &mut console], &mut stdout, &mut stderr);
            let (engine, deadline) = (prepared.engine(), prepared.deadline);
            let template = prepared.origin.template(host.kick(), host, &mut sinks);
            Ok((prepared.image, engine, prepared.seeds.seed, deadline, template))
        };
        let (image, engine, seed, deadline, template) = boot().map_err(|error| message(&error))?;
        let (end, memory) = match template {
            Ok(template) => {
                let memory = template.resident_memory();
                (BootEnd::Ready(Box::new(template)), memory)
            }
            Err(SessionError::NotReady(outcome)) => {
                let (console, output) = (console.bytes, output.bytes);
                (BootEnd::Ended { outcome, deadline, console, output }, 0)
            }
            // On its own it may yet come to its end.
            Err(error @ (SessionError::CannotFork(_) | SessionError::Talkative(_))) => {
                return Ok(Boot::Alone(error.to_string()));
            }
            Err(error) => return Err(message(&error.into())),
        };
        Ok(Boot::Kept(Booted { image, engine, seed, end }, memory))
    }

    fn run(
        &self,
        line: &Line,
        booted: Option<&Self::Booted>,
        host: &Host,
        mut streams: Streams<'_>,
        files: &Files,
    ) -> Result<Ran, String> {
        let ran = parse_run(&line.arguments).and_then(|arguments| {
            let sink = |seeds| {
                let path = arguments.can_find().then_some(&*files.findings);
                Sink::new(path, None, run::findings_context(&line.arguments, seeds))
            };
            let shared = match booted {
                Some(booted) => {
                    let mut findings = sink(Seeds { seed: booted.seed, ..arguments.seeds() })?;
                    let outcome =
                        booted.go_on(&arguments, &line.memory, host, &mut streams, &mut findings)?;
                    outcome.map(|outcome| (booted, outcome))
                }
                None => None,
            };
            let (outcome, forked) = match shared {
                Some((booted, outcome)) => {
                    let image = booted.image.clone();
                    let seeds = Seeds { seed: booted.seed, ..arguments.seeds() };
                    Status::of(&outcome, booted.engine, image, seeds).write(&files.status)?;
                    (outcome, true)
                }
                None => {
                    let prepared = run::prepare(&arguments)?;
                    let session = prepared.session(host.kick())?.keep(line.memory.clone());
                    let mut findings = sink(prepared.seeds)?;
                    let outcome = run_session(session, host, &mut streams, &mut findings)?;
                    let (engine, image) = (prepared.engine(), prepared.image);
                    Status::of(&outcome, engine, image, prepared.seeds).write(&files.status)?;
                    (outcome, false)
                }
            };
            let status = arguments.exit_status(&outcome);
            Ok(Ran { outcome, status, forked })
        });
        ran.map_err(|error| message(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_guest_is_that_of_its_command_line_or_of_its_file() {
        let parsed = |options: &[&str]| {
            let line = [&["run"], options].concat();
            parse_run(&line.into_iter().map(str::to_owned).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(parsed(&["--memory", "1G"]).ram(), Ok(1 << 30));
        assert_eq!(parsed(&[]).ram(), Ok(512 << 20));
        let restored = parsed(&["--restore", "/nonexistent", "--", "true"]);
        let guests = Guests::new(PathBuf::new(), false);
        let reason = restored.ram().or_else(|file| guests.saved(file)).unwrap_err();
        assert_eq!(
            reason,
            Trouble::Error("--restore: /nonexistent: No such file or directory (os error 2)".into())
        );
    }
}
