//! Writing a line of a trace.

use std::fmt::{self, Display, Formatter};

use super::{Machine, Op};
use crate::access::{MemoryType, Snoop};
use crate::config::{Schedule, WriteBack, WritePolicy};
use crate::ledger::Direction;
use crate::policy::Policy;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl Op<'_> {
    /// Appends the operation as a line of a trace, without its end. A recorder calls this for every access: it does no
    /// formatting by `fmt`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let mut line = Line(out);
        match *self {
            Self::Config(ref machine) => line.config(machine),
            Self::Load { cpu, addr, len, kind } => {
                line.name("load").decimal(cpu.into()).address(addr).decimal(len).load_kind(kind)
            }
            Self::Store { cpu, addr, data, kind } => {
                line.name("store").decimal(cpu.into()).address(addr).data(data).store_kind(kind)
            }
            Self::Clean { addr, len } => line.name("clean").address(addr).decimal(len),
            Self::Invalidate { addr, len } => line.name("inval").address(addr).decimal(len),
            Self::Flush { addr, len } => line.name("flush").address(addr).decimal(len),
            Self::WriteBackInvalidateAll => line.name("wbinvd"),
            Self::InvalidateAll => line.name("invd"),
            Self::Fence { cpu } => line.name("fence").decimal(cpu.into()),
            Self::Fill { addr } => line.name("fill").address(addr),
            Self::Evict { addr } => line.name("evict").address(addr),
            Self::WriteBack { addr } => line.name("writeback").address(addr),
            Self::DmaRead { device, addr, len, snoop } => {
                line.name("dma-read").decimal(device.into()).address(addr).decimal(len).snoop(snoop)
            }
            Self::DmaWrite { device, addr, data, snoop } => {
                line.name("dma-write").decimal(device.into()).address(addr).data(data).snoop(snoop)
            }
            Self::Map { id, device, addr, len, direction } => {
                let line = line.name("map").decimal(id).decimal(device.into()).address(addr);
                line.decimal(len).direction(direction)
            }
            Self::SyncForCpu { id, part } => line.name("sync-cpu").decimal(id).part(part),
            Self::SyncForDevice { id, part } => line.name("sync-dev").decimal(id).part(part),
            Self::Unmap { id } => line.name("unmap").decimal(id),
            Self::Expect { view, addr, data } => {
                line.name("expect").word(view.name()).address(addr).data(data)
            }
        };
    }
}

/// The operation as a line of a trace, without its end.
impl Display for Op<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut line = Vec::new();
        self.append_to(&mut line);
        f.write_str(&String::from_utf8_lossy(&line))
    }
}

/// Bytes as lower-case hex digits, in memory order.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|&byte| digits(byte)).map(char::from).collect()
}

/// A line in the making.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn name(&mut self, name: &str) -> &mut Self {
        self.0.extend_from_slice(name.as_bytes());
        self
    }

    fn word(&mut self, word: &str) -> &mut Self {
        self.0.push(b' ');
        self.name(word)
    }

    fn pair(&mut self, key: &str, value: u64) -> &mut Self {
        self.word(key).digits(value, 10)
    }

    fn decimal(&mut self, value: u64) -> &mut Self {
        self.word("").digits(value, 10)
    }

    fn address(&mut self, value: u64) -> &mut Self {
        self.word("0x").digits(value, 16)
    }

    fn digits(&mut self, mut value: u64, radix: u64) -> &mut Self {
        // The longest number is 2^64 - 1 in decimal.
        let mut text = [0; 20];
        let mut start = text.len();
        for (at, digit) in text.iter_mut().enumerate().rev() {
            *digit = DIGITS.get((value % radix) as usize).copied().unwrap_or_default();
            start = at;
            value /= radix;
            if value == 0 {
                break;
            }
        }
        self.0.extend_from_slice(text.get(start..).unwrap_or_default());
        self
    }

    fn data(&mut self, data: &[u8]) -> &mut Self {
        self.0.push(b' ');
        self.0.extend(data.iter().flat_map(|&byte| digits(byte)));
        self
    }

    fn part(&mut self, part: Option<(u64, u64)>) -> &mut Self {
        match part {
            Some((offset, len)) => self.address(offset).decimal(len),
            None => self,
        }
    }

    /// The format has no write-protected type: its loads are those of write-through memory,
    fn load_kind(&mut self, kind: MemoryType) -> &mut Self {
        if kind == MemoryType::WriteProtected { self.word("wt") } else { self.store_kind(kind) }
    }

    /// and its stores those of uncached memory.
    fn store_kind(&mut self, kind: MemoryType) -> &mut Self {
        match kind {
            MemoryType::WriteBack => self,
            MemoryType::WriteThrough => self.word("wt"),
            MemoryType::WriteCombining => self.word("wc"),
            MemoryType::WriteProtected | MemoryType::Uncached => self.word("uc"),
            MemoryType::NonTemporal => self.word("nt"),
        }
    }

    fn snoop(&mut self, snoop: Snoop) -> &mut Self {
        self.word(match snoop {
            Snoop::Snoop => "snoop",
            Snoop::NoSnoop => "nosnoop",
        })
    }

    fn direction(&mut self, direction: Direction) -> &mut Self {
        self.word(match direction {
            Direction::ToDevice => "to",
            Direction::FromDevice => "from",
            Direction::Bidirectional => "bidi",
            Direction::Coherent => "coherent",
        })
    }

    fn config(&mut self, machine: &Machine) -> &mut Self {
        let Machine { config, base, memory, seed } = machine;
        let geometry = config.geometry();
        self.name("config").pair("line=", geometry.line() as u64);
        self.pair("sets=", geometry.sets() as u64).pair("ways=", geometry.ways() as u64);
        self.word("policy=").name(replacement(config.policy()));
        self.word(match config.write() {
            WritePolicy::Back => "write=back",
            WritePolicy::Through => "write=through",
        });
        self.word(if config.allocates() { "alloc=yes" } else { "alloc=no" });
        self.word(match config.write_back() {
            WriteBack::Line => "writeback=line",
            WriteBack::Bytes => "writeback=bytes",
        });
        self.pair("mem=", *memory);
        if *base != 0 {
            self.word("base=0x").digits(*base, 16);
        }
        if let Some((geometry, policy)) = config.second_level() {
            self.pair("sets2=", geometry.sets() as u64).pair("ways2=", geometry.ways() as u64);
            self.word("policy2=").name(replacement(policy));
        }
        let schedule = match config.schedule() {
            Schedule::None => None,
            Schedule::Random => Some("schedule=random"),
            Schedule::Worst => Some("schedule=worst"),
        };
        if let Some(schedule) = schedule {
            self.word(schedule);
        }
        if *seed == 0 { self } else { self.pair("seed=", *seed) }
    }
}

fn replacement(policy: Policy) -> &'static str {
    match policy {
        Policy::Lru => "lru",
        Policy::Fifo => "fifo",
        Policy::TreePlru => "plru",
        Policy::Random { .. } => "random",
    }
}

fn digits(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 0xf].map(|digit| DIGITS.get(usize::from(digit)).copied().unwrap_or_default())
}
