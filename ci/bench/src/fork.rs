//! What a fork of a booted machine costs: host time and memory, beside what it runs.

use crate::table::Figure;
use anyhow::{Context, Result, ensure};
use guest_images::progress::for_stderr;
use guest_images::{Store, work_archive};
use staleline::boot::{InitrdPart, cmdline};
use staleline::engine::{EngineKind, Kick};
use staleline::machine::MachineConfig;
use staleline::session::{Cause, Output, SessionConfig, Template, Work};
use std::io::{self, Write};
use std::time::Instant;

const IMAGE: &str = "linux-6.12-debug";
const MEMORY: u64 = 512 << 20;
/// Forks of a round.
const FORKS: u32 = 20;
/// Milliseconds that a fork may cost that runs nothing.
const TARGET: f64 = 20.0;

/// Measures forks of a machine with the mlx5 function.
pub(crate) fn run(rounds: u32) -> Result<Vec<Figure>> {
    let template = boot()?;
    let mut alone = Figure::new("a fork that runs nothing".into(), "ms");
    alone.target = Some(TARGET);
    let mut to_the_end = Figure::new("a fork that runs `true` to its end".into(), "ms");
    let mut working = Figure::new("memory of a fork in which a program has started".into(), "MiB");
    for _ in 0..rounds {
        let start = Instant::now();
        let forks = (0..FORKS)
            .map(|_| template.fork(&work(&["true"]), None, Kick::default()))
            .collect::<Result<Vec<_>, _>>()?;
        alone.values.push(milliseconds(start));
        drop(forks);

        let start = Instant::now();
        for _ in 0..FORKS {
            end(&template, &["true"], &mut io::sink())?;
        }
        to_the_end.values.push(milliseconds(start));

        let before = anonymous()?;
        let mut seen = Sample(None);
        end(&template, &["echo", "started"], &mut seen)?;
        working.values.push(seen.0.context("the program has printed nothing")? - before);
    }
    Ok(vec![alone, to_the_end, working])
}

fn boot() -> Result<Template> {
    let image = Store::open(None)?.ensure(IMAGE, &*for_stderr())?;
    let config = SessionConfig {
        machine: MachineConfig { memory: MEMORY, cpus: 1, seed: 1, devices: vec!["mlx5".parse()?] },
        engine: EngineKind::Soft,
        kernel: image.kernel,
        initrd: vec![InitrdPart::File(image.initrd), InitrdPart::Bytes(work_archive())],
        command_line: Some(cmdline::append(&image.cmdline, cmdline::OUR_INIT)),
        deadline: None,
        work: None,
    };
    let (mut stdout, mut stderr) = (io::sink(), io::sink());
    let output = &mut Output::new(Vec::new(), &mut stdout, &mut stderr);
    Ok(Template::boot(&config, Kick::default(), None, output)?)
}

fn work(argv: &[&str]) -> Work {
    Work { argv: argv.iter().map(|&word| word.to_owned()).collect(), seed: None }
}

/// Runs a fork to its end.
fn end(template: &Template, argv: &[&str], stdout: &mut dyn Write) -> Result<()> {
    let fork = template.fork(&work(argv), None, Kick::default())?;
    let outcome = fork.run(None, &mut Output::new(Vec::new(), stdout, &mut io::sink()))?;
    ensure!(outcome.cause == Cause::Exited(0), "{argv:?}: {:?}", outcome.cause);
    Ok(())
}

/// Of one fork, since `start`.
fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0 / f64::from(FORKS)
}

/// MiB of this process's memory that it shares with nobody: pages that forks have written, and its heap.
fn anonymous() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").context("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).context("no Anonymous in it")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Measures memory when the first output comes.
#[derive(Debug)]
struct Sample(Option<f64>);

impl Write for Sample {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.is_none() {
            self.0 = Some(anonymous().map_err(io::Error::other)?);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
