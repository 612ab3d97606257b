//! Writing a line of a trace.

use std::fmt::{self, Display, Formatter};

use super::{Op, View};
use crate::config::{Config, WriteBack, WritePolicy};
use crate::ledger::Direction;
use crate::model::{MemoryType, Snoop};
use crate::policy::Policy;

/// The operation as a line of a trace, without its end.
impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { config, memory } => write_config(f, config, *memory),
            Self::Load { cpu, addr, len, kind } => {
                write!(f, "load {cpu} {addr:#x} {len}{}", load_suffix(*kind))
            }
            Self::Store { cpu, addr, data, kind } => {
                write!(f, "store {cpu} {addr:#x} {}{}", Hex(data), store_suffix(*kind))
            }
            Self::Clean { addr, len } => write!(f, "clean {addr:#x} {len}"),
            Self::Invalidate { addr, len } => write!(f, "inval {addr:#x} {len}"),
            Self::Flush { addr, len } => write!(f, "flush {addr:#x} {len}"),
            Self::WriteBackInvalidateAll => f.write_str("wbinvd"),
            Self::InvalidateAll => f.write_str("invd"),
            Self::Fence { cpu } => write!(f, "fence {cpu}"),
            Self::Fill { addr } => write!(f, "fill {addr:#x}"),
            Self::Evict { addr } => write!(f, "evict {addr:#x}"),
            Self::DmaRead { device, addr, len, snoop } => {
                write!(f, "dma-read {device} {addr:#x} {len} {}", attribute(*snoop))
            }
            Self::DmaWrite { device, addr, data, snoop } => {
                write!(f, "dma-write {device} {addr:#x} {} {}", Hex(data), attribute(*snoop))
            }
            Self::Map { id, device, addr, len, direction } => {
                let direction = match direction {
                    Direction::ToDevice => "to",
                    Direction::FromDevice => "from",
                    Direction::Bidirectional => "bidi",
                    Direction::Coherent => "coherent",
                };
                write!(f, "map {id} {device} {addr:#x} {len} {direction}")
            }
            Self::SyncForCpu { id, part } => write_sync(f, "sync-cpu", *id, *part),
            Self::SyncForDevice { id, part } => write_sync(f, "sync-dev", *id, *part),
            Self::Unmap { id } => write!(f, "unmap {id}"),
            Self::Expect { view, addr, data } => {
                let view = match view {
                    View::Cpu => "cpu",
                    View::Ram => "ram",
                };
                write!(f, "expect {view} {addr:#x} {}", Hex(data))
            }
        }
    }
}

/// Bytes as lower-case hex digits, in memory order.
pub(crate) struct Hex<'a>(pub &'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn write_config(f: &mut Formatter<'_>, config: &Config, memory: u64) -> fmt::Result {
    let geometry = config.geometry();
    write!(f, "config line={} sets={} ways={} ", geometry.line(), geometry.sets(), geometry.ways())?;
    match config.policy() {
        Policy::Lru => write!(f, "policy=lru")?,
        Policy::Fifo => write!(f, "policy=fifo")?,
        Policy::TreePlru => write!(f, "policy=plru")?,
        Policy::Random { seed } => write!(f, "policy=random seed={seed}")?,
    }
    let write = match config.write() {
        WritePolicy::Back => "back",
        WritePolicy::Through => "through",
    };
    let alloc = if config.allocates() { "yes" } else { "no" };
    let write_back = match config.write_back() {
        WriteBack::Line => "line",
        WriteBack::Bytes => "bytes",
    };
    write!(f, " write={write} alloc={alloc} writeback={write_back} mem={memory}")
}

fn write_sync(f: &mut Formatter<'_>, name: &str, id: u64, part: Option<(u64, u64)>) -> fmt::Result {
    write!(f, "{name} {id}")?;
    part.map_or(Ok(()), |(offset, len)| write!(f, " {offset:#x} {len}"))
}

/// The format has no write-protected type: its loads are those of write-through memory,
fn load_suffix(kind: MemoryType) -> &'static str {
    if kind == MemoryType::WriteProtected { " wt" } else { store_suffix(kind) }
}

/// and its stores those of uncached memory.
fn store_suffix(kind: MemoryType) -> &'static str {
    match kind {
        MemoryType::WriteBack => "",
        MemoryType::WriteThrough => " wt",
        MemoryType::WriteCombining => " wc",
        MemoryType::WriteProtected | MemoryType::Uncached => " uc",
        MemoryType::NonTemporal => " nt",
    }
}

fn attribute(snoop: Snoop) -> &'static str {
    match snoop {
        Snoop::Snoop => "snoop",
        Snoop::NoSnoop => "nosnoop",
    }
}
