//! The words of a `config` line.

use super::parse::ParseError;
use super::words::{Words, choice, number, shortened};
use super::{MAX_MEMORY, Machine};
use crate::config::{Config, Schedule, WriteBack, WritePolicy};
use crate::geometry::Geometry;
use crate::policy::Policy;

/// The machine that a `config` line starts, of which the first word has been read.
#[cold]
pub fn config(words: &mut Words<'_>) -> Result<Machine, ParseError> {
    let mut seen: Vec<&[u8]> = Vec::new();
    let (mut line, mut sets, mut ways, mut memory, mut base, mut seed) = (64, None, None, None, 0, 0);
    let (mut sets2, mut ways2, mut policy2, mut schedule) = (None, None, None, Schedule::None);
    let (mut policy, mut write, mut allocate, mut write_back) =
        (Policy::Lru, WritePolicy::Back, true, WriteBack::Line);
    while let Some(pair) = words.next() {
        let equals = pair.iter().position(|&byte| byte == b'=');
        let (key, value) = equals
            .and_then(|at| Some((pair.get(..at)?, pair.get(at + 1..)?)))
            .ok_or_else(|| ParseError::NotAPair(shortened(pair)))?;
        match key {
            b"line" => line = number("line=", value)?,
            b"sets" => sets = Some(number("sets=", value)?),
            b"ways" => ways = Some(number("ways=", value)?),
            b"sets2" => sets2 = Some(number("sets2=", value)?),
            b"ways2" => ways2 = Some(number("ways2=", value)?),
            b"mem" => memory = Some(number("mem=", value)?),
            b"base" => base = number("base=", value)?,
            b"seed" => seed = number("seed=", value)?,
            b"policy" => policy = replacement("policy=", value)?,
            b"policy2" => policy2 = Some(replacement("policy2=", value)?),
            b"schedule" => {
                schedule = match value {
                    b"none" => Schedule::None,
                    b"random" => Schedule::Random,
                    b"worst" => Schedule::Worst,
                    _ => return Err(choice("schedule=", "none, random, worst", value)),
                }
            }
            b"write" => {
                write = match value {
                    b"back" => WritePolicy::Back,
                    b"through" => WritePolicy::Through,
                    _ => return Err(choice("write=", "back, through", value)),
                }
            }
            b"alloc" => {
                allocate = match value {
                    b"yes" => true,
                    b"no" => false,
                    _ => return Err(choice("alloc=", "yes, no", value)),
                }
            }
            b"writeback" => {
                write_back = match value {
                    b"line" => WriteBack::Line,
                    b"bytes" => WriteBack::Bytes,
                    _ => return Err(choice("writeback=", "line, bytes", value)),
                }
            }
            _ => return Err(ParseError::UnknownKey(shortened(key))),
        }
        if seen.contains(&key) {
            return Err(ParseError::Twice(shortened(key)));
        }
        seen.push(key);
    }
    let seeded = |policy| match policy {
        Policy::Random { .. } => Policy::Random { seed },
        other => other,
    };
    let sets = sets.ok_or(ParseError::Missing("sets="))?;
    let ways = ways.ok_or(ParseError::Missing("ways="))?;
    let memory = memory.ok_or(ParseError::Missing("mem="))?;
    let mut config = Config::new(Geometry::new(line, sets, ways)?, seeded(policy))?
        .with_write(write)
        .with_allocate(allocate)
        .with_write_back(write_back)
        .with_schedule(schedule);
    if sets2.is_some() || ways2.is_some() || policy2.is_some() {
        let sets = sets2.ok_or(ParseError::Missing("sets2="))?;
        let ways = ways2.ok_or(ParseError::Missing("ways2="))?;
        let policy = seeded(policy2.unwrap_or(Policy::Lru));
        config = config.with_second_level(Geometry::new(line, sets, ways)?, policy)?;
    }
    if memory == 0 || memory > MAX_MEMORY {
        return Err(ParseError::Memory(memory));
    }
    let end = base.checked_add(memory).and_then(|end| end.checked_next_multiple_of(line));
    if !base.is_multiple_of(line) || end.is_none() {
        return Err(ParseError::Base { base, memory, line });
    }
    Ok(Machine { config, base, memory, seed })
}

fn replacement(key: &'static str, value: &[u8]) -> Result<Policy, ParseError> {
    match value {
        b"lru" => Ok(Policy::Lru),
        b"fifo" => Ok(Policy::Fifo),
        b"plru" => Ok(Policy::TreePlru),
        b"random" => Ok(Policy::Random { seed: 0 }),
        _ => Err(choice(key, "lru, fifo, plru, random", value)),
    }
}
