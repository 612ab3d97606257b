//! `staleline suite`.

use super::run::{self, RunArguments};
use super::status::Status;
use crate::bounded::Bounded;
use crate::doctor;
use crate::host::{Host, HostOptions};
use crate::quantity::parse_seconds;
use crate::session::{Output, STATUS_ERROR, Session};
use crate::suite::artefacts::Artefacts;
use crate::suite::case::{Built, Case, cases};
use crate::suite::judge::Evidence;
use crate::suite::progress;
use crate::suite::report::{self, Format};
use crate::suite::results::{CaseResult, ScenarioResult, Summary, Verdict};
use crate::suite::runner::{self, Launcher, Limits, Trouble};
use crate::suite::{Scenario, ScenarioError, Seeds, files};
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, ValueEnum};
use guest_images::{Image, Store};
use regex::Regex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct SuiteArguments {
    /// Scenarios: files, or folders of them.
    #[arg(value_name = "FILE|DIR", required = true)]
    scenarios: Vec<PathBuf>,
    /// Format of the report on standard output. Progress goes to standard error.
    #[arg(long, value_enum, default_value = "ktap")]
    format: Format,
    /// Write a report to a file as well; may be repeated.
    #[arg(long = "report", value_name = "FORMAT=FILE", value_parser = parse_report)]
    reports: Vec<(Format, PathBuf)>,
    /// Where a case that does not hold leaves its console, output, status, and the command line that does the same again.
    #[arg(long, value_name = "DIR", default_value = "staleline-artefacts")]
    artefacts: PathBuf,
    /// Keep the artefacts of cases that hold, too.
    #[arg(long)]
    keep: bool,
    /// Cases side by side, as far as memory allows; as many as there are cores by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    jobs: Option<u32>,
    /// Only cases whose name this regular expression matches.
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Only cases that did not hold when they were last run with these artefacts, or were never run.
    #[arg(long)]
    rerun_failed: bool,
    /// Run every scenario with these seeds instead of its own: 1..1000 (both ends), or 1,5,9.
    #[arg(long, value_name = "SEEDS")]
    seeds: Option<Seeds>,
    /// End a case after this time on the host.
    #[arg(long, value_name = "HOST_SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// List the cases instead of running them.
    #[arg(long)]
    list: bool,
}

fn parse_report(text: &str) -> Result<(Format, PathBuf), String> {
    let (format, file) = text.split_once('=').ok_or("give FORMAT=FILE, as junit=results.xml")?;
    match Format::from_str(format, false) {
        Ok(format) if !file.is_empty() => Ok((format, PathBuf::from(file))),
        Ok(_) => Err("the file has no name".into()),
        Err(_) => Err(format!("'{format}' is no format (formats: ktap, junit, json)")),
    }
}

/// A scenario, or why it is none.
type Read = Result<Arc<Scenario>, ScenarioError>;

/// Runs scenarios, or lists them; returns the exit status.
pub(super) fn run(arguments: &SuiteArguments) -> Result<u8> {
    let scenarios = read(&files(&arguments.scenarios)?);
    let folder = absolute(&arguments.artefacts).context("--artefacts")?;
    let launcher = Guests::new(folder.join("modules"));
    let artefacts = Artefacts::new(folder, arguments.keep);
    let cases = select(arguments, &scenarios, &artefacts)?;
    if arguments.list {
        return list(&scenarios, &cases);
    }
    if cases.is_empty() && scenarios.iter().all(Result::is_ok) {
        bail!("no case is left to run{}", if arguments.rerun_failed { ": all held" } else { "" });
    }
    // Images are built one after the other, before anything runs; Ctrl-C ends that at once.
    let prepared = cases.iter().map(|case| launcher.prepare(case)).collect();
    let host = Host::start(HostOptions::default(), crate::engine::Kick::default())
        .context("cannot watch the host's side")?;
    let progress = progress::for_stderr(cases.len());
    let results =
        runner::run(cases, prepared, limits(arguments), &launcher, &artefacts, progress.as_ref(), &host);
    drop(host);
    progress.finish();
    let ended = results.iter().filter(|result| result.verdict != Verdict::NotRun);
    artefacts.remember(ended.map(|result| (result.id.clone(), result.verdict))).context("--artefacts")?;
    let results = by_scenario(&scenarios, results);
    for (format, file) in &arguments.reports {
        let text = report::render(*format, &results)?;
        std::fs::write(file, text).with_context(|| format!("--report {}", file.display()))?;
    }
    io::stdout().write_all(report::render(arguments.format, &results)?.as_bytes())?;
    Ok(Summary::of(&results).exit_status())
}

/// Reads the files. A name that another scenario has already is an error of the later one.
fn read(files: &[PathBuf]) -> Vec<Read> {
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    files
        .iter()
        .map(|file| {
            let scenario = Scenario::read(file)?;
            match names.insert(scenario.name.clone(), file.clone()) {
                Some(other) => Err(ScenarioError {
                    file: file.clone(),
                    line: None,
                    reason: format!("the name '{}' is taken by {}", scenario.name, other.display()),
                }),
                None => Ok(Arc::new(scenario)),
            }
        })
        .collect()
}

/// The cases that are asked for.
fn select(arguments: &SuiteArguments, scenarios: &[Read], artefacts: &Artefacts) -> Result<Vec<Case>> {
    let usable = scenarios.iter().filter_map(|scenario| scenario.as_ref().ok());
    let mut all: Vec<_> = usable.flat_map(|scenario| cases(scenario, arguments.seeds.as_ref())).collect();
    if let Some(filter) = &arguments.filter {
        all.retain(|case| filter.is_match(&case.id));
    }
    if arguments.rerun_failed {
        let last = artefacts.outcomes().with_context(|| {
            format!("--rerun-failed: {} has no outcomes of an earlier run", arguments.artefacts.display())
        })?;
        all.retain(|case| last.get(&case.id) != Some(&Verdict::Passed));
    }
    Ok(all)
}

fn list(scenarios: &[Read], cases: &[Case]) -> Result<u8> {
    let mut text = String::new();
    for case in cases {
        writeln!(text, "{}", case.id)?;
    }
    io::stdout().write_all(text.as_bytes())?;
    let mut status = 0;
    for error in scenarios.iter().filter_map(|scenario| scenario.as_ref().err()) {
        eprintln!("staleline: {error}");
        status = STATUS_ERROR;
    }
    Ok(status)
}

fn limits(arguments: &SuiteArguments) -> Limits {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Limits {
        jobs: arguments.jobs.map_or(cores, |jobs| jobs as usize),
        // A host that does not say has enough.
        memory: doctor::available_memory().unwrap_or(u64::MAX),
        timeout: arguments.timeout,
    }
}

/// Results under their scenarios. A scenario none of whose cases was asked for is left out.
fn by_scenario(scenarios: &[Read], results: Vec<CaseResult>) -> Vec<ScenarioResult> {
    let mut results = results.into_iter().peekable();
    let mut all = Vec::new();
    for scenario in scenarios {
        match scenario {
            Ok(scenario) => {
                let prefix = format!("{}/", scenario.name);
                let mut cases = Vec::new();
                while let Some(case) = results.next_if(|case| case.id.starts_with(&prefix)) {
                    cases.push(case);
                }
                if !cases.is_empty() {
                    all.push(ScenarioResult {
                        name: scenario.name.clone(),
                        file: scenario.file.clone(),
                        bug: scenario.bug.clone(),
                        source: scenario.source.clone(),
                        error: None,
                        cases,
                    });
                }
            }
            Err(error) => all.push(ScenarioResult::broken(error)),
        }
    }
    all
}

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
        Ok(RunLine { command: RunCommand::Run(arguments) }) => Ok(*arguments),
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
struct Guests {
    /// Where kernel modules are put; command lines of artefacts name them.
    module_folder: PathBuf,
    images: Once<String, Image>,
    /// By image and source.
    modules: Once<(String, PathBuf), Vec<PathBuf>>,
}

fn trouble(error: &guest_images::Error) -> Trouble {
    match error.is_unavailable() {
        true => Trouble::Unavailable(error.to_string()),
        false => Trouble::Error(error.to_string()),
    }
}

impl Guests {
    fn new(module_folder: PathBuf) -> Self {
        Self { module_folder, images: Mutex::default(), modules: Mutex::default() }
    }

    fn image(&self, name: &str) -> Result<Image, Trouble> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let build = || {
            let store = Store::open(None).map_err(|error| trouble(&error))?;
            store.ensure(name, guest_images::progress::for_stderr().as_ref()).map_err(|error| trouble(&error))
        };
        images.entry(name.to_owned()).or_insert_with(build).clone()
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
}

impl Launcher for Guests {
    fn prepare(&self, case: &Case) -> Result<Vec<String>, Trouble> {
        let error = |error: anyhow::Error| Trouble::Error(super::message(&error));
        // What cannot be run needs no image built.
        let bare = case.arguments(&Built::default());
        parse_run(&bare).and_then(|arguments| arguments.check()).map_err(error)?;
        let mut built = Built::default();
        let image = case.image().unwrap_or(run::DEFAULT_IMAGE);
        if case.has_image() {
            built.cmdline = Some(self.image(image)?.cmdline);
        }
        for source in &case.cell.guest.modules {
            if !case.has_image() {
                return Err(Trouble::Error(format!(
                    "modules {source}: modules are built for an image's kernel"
                )));
            }
            built.modules.extend(self.modules(image, &case.path(source))?);
        }
        Ok(case.arguments(&built))
    }

    fn run(&self, arguments: &[String], host: &Host, status: &Path) -> Result<Evidence, String> {
        let (mut console, mut stdout, mut stderr) =
            (Bounded::default(), Bounded::default(), Bounded::default());
        let ran = parse_run(arguments).and_then(|arguments| {
            let prepared = run::prepare(&arguments)?;
            let outcome = {
                let mut output = Output::new(vec![&mut console], &mut stdout, &mut stderr);
                Session::new(&prepared.config, host.kick())?.run(Some(host), &mut output)?
            };
            Status::of(&outcome, prepared.config.engine.name(), prepared.image, arguments.seeds())
                .write(status)?;
            Ok((outcome, prepared.config.work.is_some()))
        });
        let (outcome, command) = ran.map_err(|error| super::message(&error))?;
        Ok(Evidence {
            status: outcome.cause.exit_status(command),
            outcome,
            overflowed: console.overflowed || stdout.overflowed,
            console: console.bytes,
            output: stdout.bytes,
        })
    }
}
