//! `staleline suite`.

mod guests;

use crate::doctor;
use crate::host::{Host, HostOptions};
use crate::quantity::parse_seconds;
use crate::session::STATUS_ERROR;
use crate::suite::artefacts::Artefacts;
use crate::suite::case::{Case, cases};
use crate::suite::progress;
use crate::suite::report::{self, Format};
use crate::suite::results::{CaseResult, ScenarioResult, Summary, Verdict};
use crate::suite::runner::{self, Launcher, Limits, Line, Trouble};
use crate::suite::{Scenario, ScenarioError, Seeds, files};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
pub(in crate::cli) use guests::Guests;
use regex::Regex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How long an interruption may go unnoticed while images are built.
const GLANCE: Duration = Duration::from_millis(50);

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
    /// Boot every case by itself. Otherwise guests that several cases have in common, all seeds among them, are booted once,
    /// and each case goes on from a copy made at the guest's ready mark: what is reported and kept is the same, byte for byte.
    #[arg(long)]
    cold: bool,
    /// End a case, and a boot that several have in common, after this time on the host.
    #[arg(long, value_name = "HOST_SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// Let the suite hold although there are cases whose image the mirror cannot serve: they are reported as skipped.
    #[arg(long)]
    allow_unavailable: bool,
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
pub(super) type Read = Result<Arc<Scenario>, ScenarioError>;

/// Runs scenarios, or lists them; returns the exit status.
pub(super) fn run(arguments: &SuiteArguments) -> Result<u8> {
    let scenarios = read(&files(&arguments.scenarios)?, arguments.seeds.as_ref());
    let folder = absolute(&arguments.artefacts).context("--artefacts")?;
    let launcher = Arc::new(Guests::new(folder.join("modules"), arguments.cold));
    let artefacts = Artefacts::new(folder, arguments.keep);
    let cases = select(arguments, &scenarios, &artefacts)?;
    if arguments.list {
        return list(&scenarios, &cases);
    }
    if cases.is_empty() && scenarios.iter().all(Result::is_ok) {
        bail!("no case is left to run{}", if arguments.rerun_failed { ": all held" } else { "" });
    }
    // Made now: a report that cannot be written is found out before anything has run for it.
    let reports = arguments.reports.iter().map(|(format, path)| Ok((*format, create(path)?)));
    let reports = reports.collect::<Result<Vec<_>>>()?;
    let results =
        execute(&scenarios, cases, &launcher, limits(arguments.jobs, arguments.timeout), &artefacts)?;
    for ((_, path), (format, mut file)) in arguments.reports.iter().zip(reports) {
        let text = report::render(format, &results)?;
        file.write_all(text.as_bytes()).with_context(|| format!("--report {}", path.display()))?;
    }
    io::stdout().write_all(report::render(arguments.format, &results)?.as_bytes())?;
    Ok(Summary::of(&results).exit_status(arguments.allow_unavailable))
}

/// Runs cases, and says what has become of them under their scenarios. Ctrl-C ends it early.
pub(super) fn execute(
    scenarios: &[Read],
    cases: Vec<Case>,
    launcher: &Arc<Guests>,
    limits: Limits,
    artefacts: &Artefacts,
) -> Result<Vec<ScenarioResult>> {
    let host = Host::start(HostOptions::default(), crate::engine::Kick::default())
        .context("cannot watch the host's side")?;
    let progress = progress::for_stderr(cases.len());
    let results = match prepare(launcher, &cases, &host)? {
        Some(lines) => {
            let cases = cases.into_iter().zip(lines).collect();
            runner::run(cases, limits, &**launcher, artefacts, progress.as_ref(), &host)
        }
        None => cases.iter().map(runner::not_run).collect(),
    };
    drop(host);
    progress.finish();
    let ended = results.iter().filter(|result| result.verdict != Verdict::NotRun);
    artefacts.remember(ended.map(|result| (result.id.clone(), result.verdict))).context("--artefacts")?;
    Ok(by_scenario(scenarios, results))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("--report {}", path.display()))
}

/// Finds out how the cases are run. Images are built for that, one after the other, before anything runs. None if something on
/// the host's side has come in between; what is being built then ends with this process.
fn prepare(
    launcher: &Arc<Guests>,
    cases: &[Case],
    host: &Host,
) -> Result<Option<Vec<Result<Line, Trouble>>>> {
    let (sender, lines) = channel();
    let (builder, cases) = (Arc::clone(launcher), cases.to_vec());
    std::thread::Builder::new().name("images".into()).spawn(move || {
        let lines: Vec<_> = cases.iter().map(|case| builder.prepare(case)).collect();
        // Nobody listens after an interruption.
        let _ = sender.send(lines);
    })?;
    loop {
        let received = lines.recv_timeout(GLANCE);
        if host.inbox().event().is_some() {
            return Ok(None);
        }
        match received {
            Ok(lines) => return Ok(Some(lines)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("staleline itself has failed (a panic; see above)"),
        }
    }
}

/// Reads the files, and gives the scenarios `seeds`. A name that another scenario has already is an error of the later one.
pub(super) fn read(files: &[PathBuf], seeds: Option<&Seeds>) -> Vec<Read> {
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    files
        .iter()
        .map(|file| {
            let mut scenario = Scenario::read(file)?;
            if let Some(seeds) = seeds {
                scenario = scenario.with_seeds(seeds.clone())?;
            }
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
    let mut all: Vec<_> = usable.flat_map(cases).collect();
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

/// What cases may use: `jobs` side by side, by default as many as there are cores.
pub(super) fn limits(jobs: Option<u32>, timeout: Option<Duration>) -> Limits {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Limits {
        jobs: jobs.map_or(cores, |jobs| jobs as usize),
        // A host that does not say has enough.
        memory: doctor::available_memory().unwrap_or(u64::MAX),
        timeout,
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
                        file: scenario.file().to_owned(),
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
