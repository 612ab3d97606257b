//! What forks of a booted machine cost: host time, and memory by the number of them.

use crate::table::Figure;
use anyhow::{Context, Result, anyhow, ensure};
use guest_images::progress::for_stderr;
use guest_images::{Store, work_archive};
use staleline::boot::{InitrdPart, cmdline};
use staleline::engine::{EngineKind, Kick};
use staleline::machine::{IommuSpec, MachineConfig};
use staleline::session::{Cause, Output, SessionConfig, Template, Watch, Work};
use std::io::{self, Write};
use std::sync::Barrier;
use std::time::Instant;

const IMAGE: &str = "linux-6.12-debug";
const MEMORY: u64 = 512 << 20;
/// Forks of a round.
const FORKS: u32 = 20;
/// Milliseconds that a fork may cost that runs nothing.
pub(crate) const TARGET: f64 = 20.0;
/// Forks that are there at the same time while their memory is measured.
const CROWDS: [usize; 3] = [1, 4, 16];

/// Measures forks of a machine with the mlx5 function.
pub(crate) fn run(rounds: u32) -> Result<Vec<Figure>> {
    let template = boot()?;
    let mut alone = Figure::new("a fork that runs nothing".into(), "ms");
    alone.target = Some(TARGET);
    let mut to_the_end = Figure::new("a fork that runs `true` to its end".into(), "ms");
    let memory = |count: &usize| Figure::new(format!("memory of {count} forks that run a program"), "MiB");
    let mut crowds: Vec<_> = CROWDS.iter().map(memory).collect();
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

        for (figure, count) in crowds.iter_mut().zip(CROWDS) {
            figure.values.push(crowd(&template, count)?);
        }
    }
    Ok([alone, to_the_end].into_iter().chain(crowds).collect())
}

/// MiB that `count` forks take beside their template, each stopped in the middle of a program.
fn crowd(template: &Template, count: usize) -> Result<f64> {
    let before = anonymous()?;
    let meeting = Barrier::new(count + 1);
    std::thread::scope(|scope| {
        let forks: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(|| {
                    end(template, &["echo", "started"], &mut Stop { meeting: &meeting, met: false })
                })
            })
            .collect();
        meeting.wait();
        let during = anonymous();
        meeting.wait();
        for fork in forks {
            fork.join().map_err(|_| anyhow!("a fork has panicked"))??;
        }
        Ok(during? - before)
    })
}

fn boot() -> Result<Template> {
    let image = Store::open(None)?.ensure(IMAGE, &*for_stderr())?;
    let config = SessionConfig {
        machine: MachineConfig {
            memory: MEMORY,
            cpus: 1,
            seed: 1,
            devices: vec!["mlx5".parse()?],
            cache: staleline::memory::CacheSpec::off(),
            iommu: IommuSpec::Off,
            confidential: None,
        },
        engine: EngineKind::Soft,
        kernel: image.kernel,
        initrd: vec![InitrdPart::File(image.initrd), InitrdPart::Bytes(work_archive())],
        command_line: Some(cmdline::append(&image.cmdline, cmdline::OUR_INIT)),
        deadline: None,
        work: None,
        watch: Watch::default(),
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

/// Stops a run at its first output until everybody has met here twice.
#[derive(Debug)]
struct Stop<'a> {
    meeting: &'a Barrier,
    met: bool,
}

impl Write for Stop<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.met, true) {
            self.meeting.wait();
            self.meeting.wait();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
