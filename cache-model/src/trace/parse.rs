//! Reading a line of a trace.

use std::str::SplitWhitespace;

use thiserror::Error;

use super::{MAX_MEMORY, Op, View};
use crate::config::{Config, ConfigError, WriteBack, WritePolicy};
use crate::geometry::{Geometry, GeometryError};
use crate::ledger::Direction;
use crate::model::{MemoryType, Snoop};
use crate::policy::Policy;

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// No such operation.
    #[error("unknown operation {0:?}")]
    UnknownOperation(String),
    /// The line ends too early.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The line goes on after its last field.
    #[error("nothing is expected after the last field, but there is {0:?}")]
    Trailing(String),
    /// A field is not a number.
    #[error("{what} is not a decimal or 0x number: {text:?}")]
    Number {
        /// The field.
        what: &'static str,
        /// What it holds.
        text: String,
    },
    /// A number does not fit.
    #[error("{what} is too large: {text}")]
    TooLarge {
        /// The field.
        what: &'static str,
        /// What it holds.
        text: String,
    },
    /// An access or range of no bytes.
    #[error("a length of 0 bytes")]
    Empty,
    /// Data is not an even number of hex digits.
    #[error("data is not pairs of hex digits: {0:?}")]
    Hex(String),
    /// A field is none of the words it can be.
    #[error("{what} is not one of {choices}: {text:?}")]
    Choice {
        /// The field.
        what: &'static str,
        /// What it can be.
        choices: &'static str,
        /// What it holds.
        text: String,
    },
    /// A part of `config` is not `key=value`.
    #[error("not key=value: {0:?}")]
    NotAPair(String),
    /// `config` has no such key.
    #[error("unknown key {0:?}")]
    UnknownKey(String),
    /// `config` has a key twice.
    #[error("{0}= is given twice")]
    Twice(String),
    /// The memory's size does not do.
    #[error("mem={memory}: memory is 1 to {MAX_MEMORY} bytes, a multiple of the line of {line}")]
    Memory {
        /// Bytes asked for.
        memory: u64,
        /// The line size in bytes.
        line: u64,
    },
    /// A cache of this shape is not supported.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The policy does not fit the shape.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Reads one line; `None` if it holds nothing but space and comment.
///
/// # Errors
/// If it is not an operation of the format. Whether its addresses lie in memory is not known here.
pub fn parse(line: &str) -> Result<Option<Op>, ParseError> {
    let code = line.split('#').next().unwrap_or_default();
    let mut words = code.split_whitespace();
    let Some(name) = words.next() else { return Ok(None) };
    let mut fields = Fields(words);
    let op = operation(name, &mut fields)?;
    match fields.0.next() {
        Some(extra) => Err(ParseError::Trailing(extra.to_owned())),
        None => Ok(Some(op)),
    }
}

fn operation(name: &str, fields: &mut Fields) -> Result<Op, ParseError> {
    Ok(match name {
        "config" => config(fields)?,
        "load" => Op::Load {
            cpu: fields.small("CPU")?,
            addr: fields.number("ADDR")?,
            len: fields.length()?,
            kind: fields.memory_type()?,
        },
        "store" => Op::Store {
            cpu: fields.small("CPU")?,
            addr: fields.number("ADDR")?,
            data: fields.data()?,
            kind: fields.memory_type()?,
        },
        "clean" => Op::Clean { addr: fields.number("ADDR")?, len: fields.length()? },
        "inval" => Op::Invalidate { addr: fields.number("ADDR")?, len: fields.length()? },
        "flush" => Op::Flush { addr: fields.number("ADDR")?, len: fields.length()? },
        "wbinvd" => Op::WriteBackInvalidateAll,
        "invd" => Op::InvalidateAll,
        "fence" => Op::Fence { cpu: fields.small("CPU")? },
        "fill" => Op::Fill { addr: fields.number("ADDR")? },
        "evict" => Op::Evict { addr: fields.number("ADDR")? },
        "dma-read" => Op::DmaRead {
            device: fields.small("DEV")?,
            addr: fields.number("ADDR")?,
            len: fields.length()?,
            snoop: fields.snoop()?,
        },
        "dma-write" => Op::DmaWrite {
            device: fields.small("DEV")?,
            addr: fields.number("ADDR")?,
            data: fields.data()?,
            snoop: fields.snoop()?,
        },
        "map" => Op::Map {
            id: fields.number("ID")?,
            device: fields.small("DEV")?,
            addr: fields.number("ADDR")?,
            len: fields.length()?,
            direction: fields.direction()?,
        },
        "sync-cpu" => Op::SyncForCpu { id: fields.number("ID")?, part: fields.part()? },
        "sync-dev" => Op::SyncForDevice { id: fields.number("ID")?, part: fields.part()? },
        "unmap" => Op::Unmap { id: fields.number("ID")? },
        "expect" => Op::Expect { view: fields.view()?, addr: fields.number("ADDR")?, data: fields.data()? },
        _ => return Err(ParseError::UnknownOperation(name.to_owned())),
    })
}

/// The words of a line after its operation.
struct Fields<'a>(SplitWhitespace<'a>);

impl<'a> Fields<'a> {
    fn word(&mut self, what: &'static str) -> Result<&'a str, ParseError> {
        self.0.next().ok_or(ParseError::Missing(what))
    }

    fn number(&mut self, what: &'static str) -> Result<u64, ParseError> {
        number(what, self.word(what)?)
    }

    fn small(&mut self, what: &'static str) -> Result<u32, ParseError> {
        let text = self.word(what)?;
        let value = number(what, text)?;
        u32::try_from(value).map_err(|_| ParseError::TooLarge { what, text: text.to_owned() })
    }

    fn length(&mut self) -> Result<u64, ParseError> {
        match self.number("LEN")? {
            0 => Err(ParseError::Empty),
            len => Ok(len),
        }
    }

    fn data(&mut self) -> Result<Vec<u8>, ParseError> {
        let text = self.word("HEX")?;
        let digit = |&byte: &u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        bytes.ok_or_else(|| ParseError::Hex(shortened(text)))
    }

    fn part(&mut self) -> Result<Option<(u64, u64)>, ParseError> {
        let Some(text) = self.0.next() else { return Ok(None) };
        Ok(Some((number("OFF", text)?, self.length()?)))
    }

    fn memory_type(&mut self) -> Result<MemoryType, ParseError> {
        Ok(match self.0.next() {
            None | Some("wb") => MemoryType::WriteBack,
            Some("wt") => MemoryType::WriteThrough,
            Some("wc") => MemoryType::WriteCombining,
            Some("uc") => MemoryType::Uncached,
            Some("nt") => MemoryType::NonTemporal,
            Some(text) => return Err(choice("TYPE", "wb, wt, wc, uc, nt", text)),
        })
    }

    fn snoop(&mut self) -> Result<Snoop, ParseError> {
        match self.word("snoop or nosnoop")? {
            "snoop" => Ok(Snoop::Snoop),
            "nosnoop" => Ok(Snoop::NoSnoop),
            text => Err(choice("the attribute", "snoop, nosnoop", text)),
        }
    }

    fn direction(&mut self) -> Result<Direction, ParseError> {
        match self.word("the direction")? {
            "to" => Ok(Direction::ToDevice),
            "from" => Ok(Direction::FromDevice),
            "bidi" => Ok(Direction::Bidirectional),
            "coherent" => Ok(Direction::Coherent),
            text => Err(choice("the direction", "to, from, bidi, coherent", text)),
        }
    }

    fn view(&mut self) -> Result<View, ParseError> {
        match self.word("cpu or ram")? {
            "cpu" => Ok(View::Cpu),
            "ram" => Ok(View::Ram),
            text => Err(choice("the view", "cpu, ram", text)),
        }
    }
}

fn config(fields: &mut Fields) -> Result<Op, ParseError> {
    let mut seen: Vec<&str> = Vec::new();
    let (mut line, mut sets, mut ways, mut memory, mut seed) = (64, None, None, None, 0);
    let (mut policy, mut write, mut allocate, mut write_back) =
        (Policy::Lru, WritePolicy::Back, true, WriteBack::Line);
    for pair in fields.0.by_ref() {
        let (key, value) = pair.split_once('=').ok_or_else(|| ParseError::NotAPair(pair.to_owned()))?;
        match key {
            "line" => line = number("line=", value)?,
            "sets" => sets = Some(number("sets=", value)?),
            "ways" => ways = Some(number("ways=", value)?),
            "mem" => memory = Some(number("mem=", value)?),
            "seed" => seed = number("seed=", value)?,
            "policy" => {
                policy = match value {
                    "lru" => Policy::Lru,
                    "fifo" => Policy::Fifo,
                    "plru" => Policy::TreePlru,
                    "random" => Policy::Random { seed: 0 },
                    _ => return Err(choice("policy=", "lru, fifo, plru, random", value)),
                }
            }
            "write" => {
                write = match value {
                    "back" => WritePolicy::Back,
                    "through" => WritePolicy::Through,
                    _ => return Err(choice("write=", "back, through", value)),
                }
            }
            "alloc" => {
                allocate = match value {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(choice("alloc=", "yes, no", value)),
                }
            }
            "writeback" => {
                write_back = match value {
                    "line" => WriteBack::Line,
                    "bytes" => WriteBack::Bytes,
                    _ => return Err(choice("writeback=", "line, bytes", value)),
                }
            }
            _ => return Err(ParseError::UnknownKey(key.to_owned())),
        }
        if seen.contains(&key) {
            return Err(ParseError::Twice(key.to_owned()));
        }
        seen.push(key);
    }
    if let Policy::Random { seed: start } = &mut policy {
        *start = seed;
    }
    let sets = sets.ok_or(ParseError::Missing("sets="))?;
    let ways = ways.ok_or(ParseError::Missing("ways="))?;
    let memory = memory.ok_or(ParseError::Missing("mem="))?;
    let config = Config::new(Geometry::new(line, sets, ways)?, policy)?;
    if memory == 0 || memory > MAX_MEMORY || !memory.is_multiple_of(line) {
        return Err(ParseError::Memory { memory, line });
    }
    let config = config.with_write(write).with_allocate(allocate).with_write_back(write_back);
    Ok(Op::Config { config, memory })
}

fn number(what: &'static str, text: &str) -> Result<u64, ParseError> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix would also take a sign.
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(ParseError::Number { what, text: shortened(text) });
    }
    u64::from_str_radix(digits, radix).map_err(|_| ParseError::TooLarge { what, text: shortened(text) })
}

fn choice(what: &'static str, choices: &'static str, text: &str) -> ParseError {
    ParseError::Choice { what, choices, text: shortened(text) }
}

/// Bad data can be long; a message need not be.
fn shortened(text: &str) -> String {
    const LIMIT: usize = 40;
    let mut short: String = text.chars().take(LIMIT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Op {
        parse(line).unwrap().unwrap()
    }

    #[test]
    fn every_operation_survives_writing() {
        for line in [
            "config line=32 sets=4 ways=2 policy=plru write=through alloc=no writeback=bytes mem=8192",
            "config line=64 sets=1 ways=3 policy=random seed=7 write=back alloc=yes writeback=line mem=64",
            "load 0 0x100 8",
            "load 1 0x100 8 uc",
            "store 2 0xffffffffffffffff 00ff wt",
            "store 2 0x0 a0 wc",
            "store 2 0x0 a0 nt",
            "clean 0x100 1",
            "inval 0x100 1",
            "flush 0x100 1",
            "wbinvd",
            "invd",
            "fence 3",
            "fill 0x40",
            "evict 0x40",
            "dma-read 5 0x40 3 snoop",
            "dma-write 5 0x40 0102 nosnoop",
            "map 1 5 0x40 64 to",
            "map 1 5 0x40 64 from",
            "map 1 5 0x40 64 bidi",
            "map 1 5 0x40 64 coherent",
            "sync-cpu 1",
            "sync-dev 1 0x8 4",
            "unmap 1",
            "expect cpu 0x40 00",
            "expect ram 0x40 ff",
        ] {
            assert_eq!(one(line).to_string(), line);
        }
    }

    #[test]
    fn spaces_comments_and_radixes() {
        assert_eq!(parse("  # nothing\r"), Ok(None));
        assert_eq!(parse(""), Ok(None));
        assert_eq!(one("\tload  0x0 256\t0x8 wb # a comment"), one("load 0 0x100 8"));
        assert_eq!(one("store 0 0 AbCd"), one("store 0 0 abcd"));
        assert_eq!(one("config mem=8192 ways=2 sets=4").to_string().split(' ').nth(1), Some("line=64"));
    }

    #[test]
    fn says_what_is_wrong() {
        for (line, message) in [
            ("lead 0 0 1", "unknown operation \"lead\""),
            ("load 0 0", "LEN is missing"),
            ("load 0 0 0", "a length of 0 bytes"),
            ("load 0 +1 1", "ADDR is not a decimal or 0x number: \"+1\""),
            ("load 0 0x 1", "ADDR is not a decimal or 0x number: \"0x\""),
            ("load 0 1f 1", "ADDR is not a decimal or 0x number: \"1f\""),
            ("load 0 0x10000000000000000 1", "ADDR is too large: 0x10000000000000000"),
            ("load 4294967296 0 1", "CPU is too large: 4294967296"),
            ("load 0 0 1 xx", "TYPE is not one of wb, wt, wc, uc, nt: \"xx\""),
            ("load 0 0 1 wb wb", "nothing is expected after the last field, but there is \"wb\""),
            ("store 0 0 abc", "data is not pairs of hex digits: \"abc\""),
            ("store 0 0 0xab", "data is not pairs of hex digits: \"0xab\""),
            ("store 0 0", "HEX is missing"),
            ("store 0 0 é", "data is not pairs of hex digits: \"é\""),
            ("wbinvd 0", "nothing is expected after the last field, but there is \"0\""),
            ("dma-read 0 0 1", "snoop or nosnoop is missing"),
            ("dma-read 0 0 1 snoopy", "the attribute is not one of snoop, nosnoop: \"snoopy\""),
            ("sync-cpu 1 0", "LEN is missing"),
            ("expect mem 0 00", "the view is not one of cpu, ram: \"mem\""),
            ("config", "sets= is missing"),
            ("config sets=4 ways=2", "mem= is missing"),
            ("config sets", "not key=value: \"sets\""),
            ("config sets=4 sets=4", "sets= is given twice"),
            ("config colour=red", "unknown key \"colour\""),
            ("config policy=mru", "policy= is not one of lru, fifo, plru, random: \"mru\""),
            ("config sets=4 ways=0 mem=64", "ways=0: a set has at least one way"),
            (
                "config sets=4 ways=3 policy=plru mem=64",
                "policy=plru needs a power of two of at most 64 ways, not 3",
            ),
            (
                "config sets=4 ways=2 mem=100",
                "mem=100: memory is 1 to 1073741824 bytes, a multiple of the line of 64",
            ),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), message, "{line}");
        }
    }
}
