//! Reading a line of a trace.

use thiserror::Error;

use super::config_line::config;
use super::digits;
use super::words::{Words, shortened};
use super::{MAX_MEMORY, Op};
use crate::access::MemoryType;
use crate::config::ConfigError;
use crate::geometry::GeometryError;

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
        if let Some((usual, next)) = usual(text, &mut self.data) {
            *text = next;
            let kind = MemoryType::WriteBack;
            return Ok(Some(match usual {
                Usual::Load { cpu, addr, len } => Op::Load { cpu, addr, len, kind },
                Usual::Store { cpu, addr } => Op::Store { cpu, addr, data: &self.data, kind },
            }));
        }
        let mut words = Words { rest: text };
        let op = match words.next() {
            Some(name) => Some(operation(name, &mut words, &mut self.data)?),
            None => None,
        };
        *text = words.end_of_line()?;
        Ok(op)
    }
}

/// What nearly all lines of long traces are.
enum Usual {
    Load {
        cpu: u32,
        addr: u64,
        len: u64,
    },
    /// Of the data that have been read.
    Store {
        cpu: u32,
        addr: u64,
    },
}

/// A load or store of write-back memory by one of the first CPUs, written with single spaces, a hexadecimal address of few
/// digits and nothing more than need be, and what follows it. `None` does not say that the line is anything else.
#[inline]
fn usual<'t>(text: &'t [u8], data: &mut Vec<u8>) -> Option<(Usual, &'t [u8])> {
    match text {
        [b'l', b'o', b'a', b'd', b' ', cpu @ b'0'..=b'9', b' ', b'0', b'x', rest @ ..] => {
            let (addr, rest) = digits::address(rest)?;
            let [b' ', len @ b'1'..=b'9', b'\n', next @ ..] = rest else { return None };
            Some((Usual::Load { cpu: u32::from(cpu - b'0'), addr, len: u64::from(len - b'0') }, next))
        }
        [b's', b't', b'o', b'r', b'e', b' ', cpu @ b'0'..=b'9', b' ', b'0', b'x', rest @ ..] => {
            let (addr, rest) = digits::address(rest)?;
            let [b' ', rest @ ..] = rest else { return None };
            let [b'\n', next @ ..] = digits::pairs(rest, data) else { return None };
            (!data.is_empty()).then_some((Usual::Store { cpu: u32::from(cpu - b'0'), addr }, next))
        }
        _ => None,
    }
}

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

    #[test]
    fn data_is_pairs_of_digits() {
        for len in 1..40 {
            let text: String = (0..len).map(|at| format!("{:02X}", at * 37 % 256)).collect();
            let data: Vec<u8> = (0..len).map(|at| (at * 37 % 256) as u8).collect();
            let line = format!("store 0 0x40 {text}\n");
            let mut parser = Parser::default();
            let kind = MemoryType::WriteBack;
            let parsed = parser.next(&mut line.as_bytes());
            assert_eq!(parsed, Ok(Some(Op::Store { cpu: 0, addr: 0x40, data: &data, kind })));
            for at in 0..text.len() {
                for byte in [b'g', b'@', b'`', b':', b'/', b'p', 0, b'\x10', b'\x80', b'\xb1'] {
                    let mut line = line.clone().into_bytes();
                    line[at + 13] = byte;
                    assert!(parser.next(&mut &line[..]).is_err(), "{line:?}");
                }
            }
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
                    None if place > 0 && super::super::words::ends_word(byte) => {}
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
