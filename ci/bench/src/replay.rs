//! `staleline replay`: operations a second, through the parser and by the model alone.

use crate::process::measure;
use crate::table::Figure;
use anyhow::{Context, Result, ensure};
use cache_model::trace::{Machine, Op};
use cache_model::{CacheModel, Config, Geometry, MemoryType, Policy, Writer};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use tempfile::NamedTempFile;

/// Operations of a trace.
const OPS: u32 = 10_000_000;
const MEMORY: u64 = 8 << 20;
/// Millions of operations a second that an ordinary trace is to reach.
const TARGET: f64 = 20.0;
/// Bytes of an access.
const SIZE: u64 = 8;
const DATA: [u8; SIZE as usize] = *b"01234567";

/// Measures two traces of loads and stores in a cache of 32 KiB and 8 ways: one as a program makes it, and one without any
/// locality.
pub(crate) fn run(staleline: &Path, rounds: u32) -> Result<Vec<Figure>> {
    let geometry = Geometry::new(64, 64, 8)?;
    let config = Config::new(geometry, Policy::Lru)?;
    let mut figures = Vec::new();
    for (name, next) in
        [("a program's accesses", program as fn(&mut Random) -> Access), ("random accesses", scattered)]
    {
        let accesses: Vec<Access> = {
            let mut random = Random { state: 1, steps: 0 };
            (0..OPS).map(|_| next(&mut random)).collect()
        };
        let (mut model, hits) = alone(config, &accesses)?;
        let trace = write(config, &accesses).context("a trace")?;
        let figure =
            |what: &str| Figure::new(format!("replay of {name} ({hits:.0} % hits): {what}"), "M ops/s");
        let (mut replay, mut core) = (figure("staleline replay"), figure("the model alone"));
        replay.target = (hits > 90.0).then_some(TARGET);
        core.values.push(model);
        for round in 0..rounds {
            if round > 0 {
                (model, _) = alone(config, &accesses)?;
                core.values.push(model);
            }
            let ran = measure(Command::new(staleline).arg("replay").arg(trace.path()))?;
            ensure!(ran.success, "staleline replay failed");
            replay.values.push(f64::from(OPS) / 1e6 / ran.wall.as_secs_f64());
        }
        figures.extend([replay, core]);
    }
    Ok(figures)
}

/// A load or store of [`SIZE`] bytes.
#[derive(Debug, Clone, Copy)]
struct Access {
    store: bool,
    addr: u64,
}

/// Most accesses go to a stack, the others along two arrays, a few anywhere in a heap of 256 KiB: about one in twenty misses.
fn program(random: &mut Random) -> Access {
    let draw = random.draw();
    let step = random.steps;
    random.steps += 1;
    let addr = match draw % 64 {
        0..50 => 0x1000 + draw / 64 % 128 * SIZE,
        50..56 => 0x10_0000 + step / 8 * SIZE % 0x10_0000,
        56..62 => 0x20_0000 + step / 8 * SIZE % 0x10_0000,
        _ => 0x40_0000 + draw / 64 % 0x8000 * SIZE,
    };
    Access { store: draw >> 40 & 3 == 0, addr }
}

/// Anywhere in all of memory.
fn scattered(random: &mut Random) -> Access {
    let draw = random.draw();
    Access { store: draw >> 40 & 3 == 0, addr: draw % (MEMORY / SIZE) * SIZE }
}

/// Writes the accesses as a trace.
fn write(config: Config, accesses: &[Access]) -> Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    let mut out = BufWriter::new(&mut file);
    let mut line = Vec::new();
    let machine = Op::Config(Box::new(Machine { config, base: 0, memory: MEMORY, seed: 0 }));
    let ops = accesses.iter().map(|&Access { store, addr }| match store {
        true => Op::Store { cpu: 0, addr, data: &DATA, kind: MemoryType::WriteBack },
        false => Op::Load { cpu: 0, addr, len: SIZE, kind: MemoryType::WriteBack },
    });
    for op in std::iter::once(machine).chain(ops) {
        line.clear();
        op.append_to(&mut line);
        line.push(b'\n');
        out.write_all(&line)?;
    }
    out.flush()?;
    drop(out);
    Ok(file)
}

/// Millions of operations a second of the model over a byte array, and the hits in a hundred.
fn alone(config: Config, accesses: &[Access]) -> Result<(f64, f64)> {
    let mut memory = vec![0; usize::try_from(MEMORY)?];
    let memory = memory.as_mut_slice();
    let mut model = CacheModel::new(config);
    let start = Instant::now();
    for (&Access { store, addr }, stamp) in accesses.iter().zip(1..) {
        let who = Writer::cpu(0, 0, stamp);
        if store {
            if model.store_hit(who, addr, DATA.len()) {
                cache_model::Memory::write(memory, addr, &DATA)?;
            } else {
                model.store(memory, who, addr, &DATA, MemoryType::WriteBack)?;
            }
        } else if !(model.load_hit(0, addr, DATA.len()) || model.load_miss(who, addr, DATA.len())) {
            model.load(memory, who, addr, &mut [0; SIZE as usize], MemoryType::WriteBack)?;
        }
    }
    let rate = accesses.len() as f64 / 1e6 / start.elapsed().as_secs_f64();
    let stats = model.stats();
    let hits = (stats.load_hits + stats.store_hits) as f64;
    Ok((rate, hits / accesses.len() as f64 * 100.0))
}

/// xorshift64*, and a counter for what goes on in steps.
struct Random {
    state: u64,
    steps: u64,
}

impl Random {
    fn draw(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }
}
