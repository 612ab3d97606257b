//! Reading a line of a trace.

use memchr::memchr;
use thiserror::Error;

use super::{MAX_MEMORY, Machine, Op, View};
use crate::access::{MemoryType, Snoop};
use crate::config::{Config, ConfigError, Schedule, WriteBack, WritePolicy};
use crate::geometry::{Geometry, GeometryError};
use crate::ledger::Direction;
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
    #[error("mem={0}: memory is 1 to {MAX_MEMORY} bytes")]
    Memory(u64),
    /// Memory cannot start or end there.
    #[error(
        "base={base:#x}: memory of {memory} bytes starts at a multiple of the line of {line}, and ends below 2^64"
    )]
    Base {
        /// Address asked for.
        base: u64,
        /// Bytes asked for.
        memory: u64,
        /// The line size in bytes.
        line: u64,
    },
    /// A cache of this shape is not supported.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The policy or a second level does not fit the shape.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Reads lines. The buffer for their data is used again for the next line.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    data: Vec<u8>,
}

impl Parser {
    /// Reads the first line of `text` and leaves the rest there; `None` if the line holds nothing but space and comment.
    /// A line ends at a line feed or with the text.
    ///
    /// # Errors
    /// If it is not an operation of the format. Whether its addresses lie in memory is not known here. What is then left
    /// in `text` is not specified.
    #[inline]
    pub fn next(&mut self, text: &mut &[u8]) -> Result<Option<Op<'_>>, ParseError> {
        let mut words = Words { rest: text };
        let op = match words.name() {
            Some(name) => Some(operation(name, &mut words, &mut self.data)?),
            None => None,
        };
        *text = words.end_of_line()?;
        Ok(op)
    }
}

#[inline]
fn operation<'d>(name: &[u8], words: &mut Words<'_>, buffer: &'d mut Vec<u8>) -> Result<Op<'d>, ParseError> {
    Ok(match name {
        b"load" => Op::Load {
            cpu: words.small("CPU")?,
            addr: words.number("ADDR")?,
            len: words.length()?,
            kind: words.memory_type()?,
        },
        b"store" => Op::Store {
            cpu: words.small("CPU")?,
            addr: words.number("ADDR")?,
            data: words.data(buffer)?,
            kind: words.memory_type()?,
        },
        b"clean" => Op::Clean { addr: words.number("ADDR")?, len: words.length()? },
        b"inval" => Op::Invalidate { addr: words.number("ADDR")?, len: words.length()? },
        b"flush" => Op::Flush { addr: words.number("ADDR")?, len: words.length()? },
        b"wbinvd" => Op::WriteBackInvalidateAll,
        b"invd" => Op::InvalidateAll,
        b"fence" => Op::Fence { cpu: words.small("CPU")? },
        b"fill" => Op::Fill { addr: words.number("ADDR")? },
        b"evict" => Op::Evict { addr: words.number("ADDR")? },
        b"writeback" => Op::WriteBack { addr: words.number("ADDR")? },
        b"dma-read" => Op::DmaRead {
            device: words.small("DEV")?,
            addr: words.number("ADDR")?,
            len: words.length()?,
            snoop: words.snoop()?,
        },
        b"dma-write" => Op::DmaWrite {
            device: words.small("DEV")?,
            addr: words.number("ADDR")?,
            data: words.data(buffer)?,
            snoop: words.snoop()?,
        },
        b"map" => Op::Map {
            id: words.number("ID")?,
            device: words.small("DEV")?,
            addr: words.number("ADDR")?,
            len: words.length()?,
            direction: words.direction()?,
        },
        b"sync-cpu" => Op::SyncForCpu { id: words.number("ID")?, part: words.part()? },
        b"sync-dev" => Op::SyncForDevice { id: words.number("ID")?, part: words.part()? },
        b"unmap" => Op::Unmap { id: words.number("ID")? },
        b"expect" => {
            Op::Expect { view: words.view()?, addr: words.number("ADDR")?, data: words.data(buffer)? }
        }
        b"config" => Op::Config(Box::new(config(words)?)),
        _ => return Err(ParseError::UnknownOperation(shortened(name))),
    })
}

/// The rest of the text, of which the words of the first line are read. Numbers and data are read without looking for the
/// word's end first; what ends in something else than a word ends with is looked at again, for the message.
struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    /// The next word; none at the line's end or its comment.
    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.skip_blanks();
        let rest = self.rest;
        let len = rest.iter().position(|&byte| ends_word(byte)).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(len);
        self.rest = rest;
        if word.is_empty() { None } else { Some(word) }
    }

    /// The first word, which in most lines is one of two.
    #[inline]
    fn name(&mut self) -> Option<&'a [u8]> {
        if let Some(rest) = self.rest.strip_prefix(b"load ") {
            self.rest = rest;
            Some(b"load")
        } else if let Some(rest) = self.rest.strip_prefix(b"store ") {
            self.rest = rest;
            Some(b"store")
        } else {
            self.next()
        }
    }

    #[inline]
    fn word(&mut self, what: &'static str) -> Result<&'a [u8], ParseError> {
        self.next().ok_or(ParseError::Missing(what))
    }

    #[inline]
    fn skip_blanks(&mut self) {
        while let [byte, rest @ ..] = self.rest
            && byte.is_ascii_whitespace()
            && *byte != b'\n'
        {
            self.rest = rest;
        }
    }

    /// What follows the line.
    #[inline]
    fn end_of_line(&mut self) -> Result<&'a [u8], ParseError> {
        self.skip_blanks();
        match self.rest {
            [] => Ok(self.rest),
            [b'\n', next @ ..] => Ok(next),
            [b'#', comment @ ..] => {
                let end = memchr(b'\n', comment);
                Ok(end.and_then(|end| comment.get(end + 1..)).unwrap_or_default())
            }
            _ => Err(ParseError::Trailing(shortened(self.word("")?))),
        }
    }

    /// Goes on after the next `len` bytes, if a word ends there.
    #[inline]
    fn advance(&mut self, len: usize) -> bool {
        let Some((_, rest)) = self.rest.split_at_checked(len) else { return false };
        let ends = rest.first().is_none_or(|&byte| ends_word(byte));
        if ends {
            self.rest = rest;
        }
        ends
    }

    #[inline]
    fn number(&mut self, what: &'static str) -> Result<u64, ParseError> {
        self.skip_blanks();
        // Most CPUs, devices and lengths have one digit.
        if let [digit @ b'0'..=b'9', rest @ ..] = self.rest
            && rest.first().is_some_and(|&end| ends_word(end))
        {
            self.rest = rest;
            return Ok(u64::from(digit - b'0'));
        }
        match self.take_number() {
            Some(value) => Ok(value),
            None => Err(number_error(what, self.word(what)?)),
        }
    }

    /// The number that stands next, if all of the word is one that fits.
    #[inline(never)]
    fn take_number(&mut self) -> Option<u64> {
        let (value, len) = match self.rest {
            [b'0', b'x' | b'X', digits @ ..] => {
                let (value, len) = hexadecimal(digits)?;
                (value, len + 2)
            }
            digits => decimal(digits)?,
        };
        self.advance(len).then_some(value)
    }

    #[inline]
    fn small(&mut self, what: &'static str) -> Result<u32, ParseError> {
        let value = self.number(what)?;
        u32::try_from(value).map_err(|_| ParseError::TooLarge { what, text: value.to_string() })
    }

    #[inline]
    fn length(&mut self) -> Result<u64, ParseError> {
        match self.number("LEN")? {
            0 => Err(ParseError::Empty),
            len => Ok(len),
        }
    }

    #[inline]
    fn data<'d>(&mut self, buffer: &'d mut Vec<u8>) -> Result<&'d [u8], ParseError> {
        self.skip_blanks();
        buffer.clear();
        let (pairs, _) = self.rest.as_chunks::<2>();
        buffer.extend(pairs.iter().map_while(|pair| {
            let [high, low] = pair.map(digit);
            ((high | low) & NO_DIGIT == 0).then_some(high << 4 | low)
        }));
        if !buffer.is_empty() && self.advance(buffer.len() * 2) {
            return Ok(buffer);
        }
        Err(ParseError::Hex(shortened(self.word("HEX")?)))
    }

    fn part(&mut self) -> Result<Option<(u64, u64)>, ParseError> {
        self.skip_blanks();
        if self.rest.first().is_none_or(|&byte| ends_word(byte)) {
            return Ok(None);
        }
        Ok(Some((self.number("OFF")?, self.length()?)))
    }

    #[inline]
    fn memory_type(&mut self) -> Result<MemoryType, ParseError> {
        Ok(match self.next() {
            None | Some(b"wb") => MemoryType::WriteBack,
            Some(b"wt") => MemoryType::WriteThrough,
            Some(b"wc") => MemoryType::WriteCombining,
            Some(b"uc") => MemoryType::Uncached,
            Some(b"nt") => MemoryType::NonTemporal,
            Some(text) => return Err(choice("TYPE", "wb, wt, wc, uc, nt", text)),
        })
    }

    fn snoop(&mut self) -> Result<Snoop, ParseError> {
        match self.word("snoop or nosnoop")? {
            b"snoop" => Ok(Snoop::Snoop),
            b"nosnoop" => Ok(Snoop::NoSnoop),
            text => Err(choice("the attribute", "snoop, nosnoop", text)),
        }
    }

    fn direction(&mut self) -> Result<Direction, ParseError> {
        match self.word("the direction")? {
            b"to" => Ok(Direction::ToDevice),
            b"from" => Ok(Direction::FromDevice),
            b"bidi" => Ok(Direction::Bidirectional),
            b"coherent" => Ok(Direction::Coherent),
            text => Err(choice("the direction", "to, from, bidi, coherent", text)),
        }
    }

    fn view(&mut self) -> Result<View, ParseError> {
        match self.word("cpu or ram")? {
            b"cpu" => Ok(View::Cpu),
            b"ram" => Ok(View::Ram),
            text => Err(choice("the view", "cpu, ram", text)),
        }
    }
}

#[cold]
fn config(words: &mut Words<'_>) -> Result<Machine, ParseError> {
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

/// A number that is all of a word.
fn number(what: &'static str, text: &[u8]) -> Result<u64, ParseError> {
    let mut words = Words { rest: text };
    match words.number(what) {
        Err(ParseError::Missing(_)) => Err(number_error(what, text)),
        result => result,
    }
}

/// The number that `text` begins with, and the number of its digits; `None` if there is none or it is too large.
#[inline]
fn decimal(text: &[u8]) -> Option<(u64, usize)> {
    let mut value: u64 = 0;
    let mut len = 0;
    while let Some(&byte @ b'0'..=b'9') = text.get(len) {
        len += 1;
        value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    (len > 0).then_some((value, len))
}

/// As [`decimal`]. Most addresses have up to eight digits, which are read together.
#[inline]
fn hexadecimal(text: &[u8]) -> Option<(u64, usize)> {
    if let Some(&bytes) = text.first_chunk()
        && let Some((value, len)) = up_to_eight(u64::from_le_bytes(bytes))
    {
        return Some((value, len));
    }
    let mut value: u64 = 0;
    let mut len = 0;
    while let Some(digit) = text.get(len).map(|&byte| digit(byte)).filter(|&digit| digit != NO_DIGIT) {
        len += 1;
        if value >> 60 != 0 {
            return None;
        }
        value = value << 4 | u64::from(digit);
    }
    (len > 0).then_some((value, len))
}

/// The hexadecimal number that these bytes, the first lowest, begin with, if it ends among them at a byte below `0` and
/// nothing else is between. All bytes are looked at at once, since the length of an address is hard to predict.
#[inline]
fn up_to_eight(bytes: u64) -> Option<(u64, usize)> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The lowest byte that is less than 0x30 has its top bit here; above it the bits mean nothing.
    let below = bytes.wrapping_sub(ONES * 0x30) & !bytes & ONES << 7;
    let len = below.trailing_zeros() / 8;
    if len == 0 || len == 8 {
        return None;
    }
    // Zeros in front make it eight digits.
    let text = bytes << (64 - len * 8);
    let low = text & (ONES * 0xf);
    let letter = text >> 6 & ONES;
    let digits = low + letter * 9;
    let letter = letter << 4;
    let bad = text & ONES << 7                      // no ASCII
        | (low + ONES * 6) & !letter & ONES << 4    // : to ?
        | digits & ONES << 4                        // g to o
        | text & letter                             // p and on
        | !(low + ONES * 0xf) & letter; // @ and the grave accent
    if bad != 0 {
        return None;
    }
    // The first digit is the most significant. Pairs of digits, then of bytes, then of words move together.
    let mut value = digits.swap_bytes();
    value = (value | value >> 4) & 0x00ff_00ff_00ff_00ff;
    value = (value | value >> 8) & 0x0000_ffff_0000_ffff;
    value = (value | value >> 16) & 0xffff_ffff;
    Some((value, len as usize))
}

/// Why a word is no number.
#[cold]
fn number_error(what: &'static str, text: &[u8]) -> ParseError {
    let digits = match text {
        [b'0', b'x' | b'X', digits @ ..] if !digits.is_empty() => digits.iter().all(u8::is_ascii_hexdigit),
        digits => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
    };
    let text = shortened(text);
    if digits { ParseError::TooLarge { what, text } } else { ParseError::Number { what, text } }
}

#[inline]
fn ends_word(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'#'
}

/// What [`digit`] gives for anything else; no digit has a bit in common with it.
const NO_DIGIT: u8 = 0xf0;

/// The value of a hex digit.
#[inline]
fn digit(byte: u8) -> u8 {
    const VALUES: [u8; 256] = {
        let mut values = [NO_DIGIT; 256];
        let mut digit = 0;
        while digit < 16 {
            values[b"0123456789abcdef"[digit] as usize] = digit as u8;
            values[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
            digit += 1;
        }
        values
    };
    VALUES[usize::from(byte)]
}

#[cold]
fn choice(what: &'static str, choices: &'static str, text: &[u8]) -> ParseError {
    ParseError::Choice { what, choices, text: shortened(text) }
}

/// Bad data can be long, and anything; a message need not be.
#[cold]
fn shortened(text: &[u8]) -> String {
    const LIMIT: usize = 40;
    let mut short = String::from_utf8_lossy(text.get(..LIMIT).unwrap_or(text)).into_owned();
    if text.len() > LIMIT {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a line is written as.
    fn written(line: &str) -> String {
        Parser::default().next(&mut line.as_bytes()).unwrap().unwrap().to_string()
    }

    fn error(mut line: &[u8]) -> String {
        Parser::default().next(&mut line).unwrap_err().to_string()
    }

    #[test]
    fn every_operation_survives_writing() {
        for line in [
            "config line=32 sets=4 ways=2 policy=plru write=through alloc=no writeback=bytes mem=8192",
            "config line=64 sets=1 ways=3 policy=random write=back alloc=yes writeback=line mem=64 seed=7",
            "config line=64 sets=1 ways=2 policy=lru write=back alloc=yes writeback=line mem=64 sets2=8 ways2=4 policy2=plru schedule=worst seed=7",
            "config line=16 sets=4 ways=2 policy=fifo write=back alloc=yes writeback=line mem=100 base=0x12340",
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
            "writeback 0x40",
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
            assert_eq!(written(line), line);
        }
    }

    #[test]
    fn spaces_comments_and_radixes() {
        for nothing in ["  # nothing\r", "", "#", "\r\n", " \t\n", "# \u{e9}\n"] {
            assert_eq!(Parser::default().next(&mut nothing.as_bytes()), Ok(None), "{nothing:?}");
        }
        assert_eq!(Parser::default().next(&mut &b"# \xff\xfe\0"[..]), Ok(None));
        for (line, same) in [
            ("\tload  0x0 256\t0x8 wb # a comment", "load 0 0x100 8"),
            ("load 0 256 010\r\n", "load 0 0x100 10"),
            ("load 0 0X1aF 8# attached", "load 0 0x1af 8"),
            ("store 0 0 AbCd", "store 0 0x0 abcd"),
            ("store 0 18446744073709551615 00", "store 0 0xffffffffffffffff 00"),
            (
                "config mem=0x2000 ways=2 sets=4",
                "config line=64 sets=4 ways=2 policy=lru write=back alloc=yes writeback=line mem=8192",
            ),
        ] {
            assert_eq!(written(line), same, "{line:?}");
        }
    }

    /// Every byte at every place of a short and a long number.
    #[test]
    fn hexadecimal_digits_are_digits() {
        for (digits, place) in (1..=18).flat_map(|digits| (0..digits).map(move |place| (digits, place))) {
            for byte in 0..=255_u8 {
                let mut text = b"1e0d2c3b4a59687f01".get(..digits).unwrap().to_vec();
                text[place] = byte;
                let number =
                    str::from_utf8(&text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
                let number = number.and_then(|text| u64::from_str_radix(text, 16).ok());
                let line = [b"fill 0x", &text[..], b" # and on and on"].concat();
                let mut parser = Parser::default();
                let parsed = parser.next(&mut &line[..]);
                match number {
                    Some(addr) => assert_eq!(parsed, Ok(Some(Op::Fill { addr })), "{line:?}"),
                    None if place > 0 && ends_word(byte) => {}
                    None => assert!(parsed.is_err(), "{line:?}"),
                }
            }
        }
    }

    #[test]
    fn lines_follow_one_another() {
        let mut text: &[u8] = b"store 0 0 010203\n\n # none\nfence 0 # 1\r\nstore 0 0 04\nwbinvd";
        let mut parser = Parser::default();
        assert!(matches!(parser.next(&mut text), Ok(Some(Op::Store { data: [1, 2, 3], .. }))));
        for _ in 0..2 {
            assert_eq!(parser.next(&mut text), Ok(None));
        }
        assert_eq!(parser.next(&mut text), Ok(Some(Op::Fence { cpu: 0 })));
        assert!(matches!(parser.next(&mut text), Ok(Some(Op::Store { data: [4], .. }))));
        assert_eq!(parser.next(&mut text), Ok(Some(Op::WriteBackInvalidateAll)));
        assert!(text.is_empty());
        // No operation takes words of the next line.
        for line in ["load 0 0\n8", "store 0 0\n00", "sync-cpu 1 0\n1", "load\n0 0 1", "expect\ncpu 0 00"] {
            assert!(error(line.as_bytes()).ends_with(" is missing"), "{line:?}");
        }
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
            ("config sets=4 ways=2 mem=64 ways2=4", "sets2= is missing"),
            ("config sets=4 ways=2 mem=64 policy2=fifo", "sets2= is missing"),
            (
                "config sets=4 ways=2 mem=64 schedule=best",
                "schedule= is not one of none, random, worst: \"best\"",
            ),
            ("config sets=4 ways=2 mem=0", "mem=0: memory is 1 to 68719476736 bytes"),
            (
                "config sets=4 ways=2 mem=0xffffffffffffffff",
                "mem=18446744073709551615: memory is 1 to 68719476736 bytes",
            ),
            (
                "config sets=4 ways=2 mem=64 base=32",
                "base=0x20: memory of 64 bytes starts at a multiple of the line of 64, and ends below 2^64",
            ),
            (
                "config sets=4 ways=2 mem=64 base=0xffffffffffffffc0",
                "base=0xffffffffffffffc0: memory of 64 bytes starts at a multiple of the line of 64, and ends below 2^64",
            ),
            (
                "config sets=99999999 ways=99999999 mem=64",
                "sets=99999999 ways=99999999: at most 1048576 lines are supported",
            ),
            ("config line=48 sets=4 ways=2 mem=64", "line=48: a line is a power of two of 16 to 256 bytes"),
            ("load 0 0 1\0", "LEN is not a decimal or 0x number: \"1\\0\""),
        ] {
            assert_eq!(error(line.as_bytes()), message, "{line}");
        }
        assert_eq!(error(b"lo\xffad 0 0 1"), "unknown operation \"lo\u{fffd}ad\"");
        let long = format!("store 0 0 {}", "0".repeat(99));
        assert_eq!(
            error(long.as_bytes()),
            format!("data is not pairs of hex digits: \"{}…\"", "0".repeat(40))
        );
    }
}
