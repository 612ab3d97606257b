//! The trace format: one operation a line, `#` comments, numbers decimal or `0x`, data in hex.
//!
//! ```text
//! config line= sets= ways= policy=lru|fifo|plru|random write=back|through alloc=yes|no writeback=line|bytes mem=
//! load CPU ADDR LEN [wb|wt|wc|uc|nt]          store CPU ADDR HEX [wb|wt|wc|uc|nt]
//! clean|inval|flush ADDR LEN                  wbinvd          invd          fence CPU
//! fill ADDR                                   evict ADDR
//! dma-read DEV ADDR LEN snoop|nosnoop         dma-write DEV ADDR HEX snoop|nosnoop
//! map ID DEV ADDR LEN to|from|bidi|coherent   sync-cpu|sync-dev ID [OFF LEN]     unmap ID
//! expect cpu|ram ADDR HEX
//! ```
//!
//! The words of a line are separated by spaces and tabs; a line may end in CR LF. `#` starts a comment wherever it stands.
//! Hex data has no prefix and is in memory order. An access type that is left out is `wb`.
//!
//! `config` starts a fresh machine: memory zero, lines absent. Its keys may come in any order. It needs `sets`, `ways` and
//! `mem` (bytes); the rest defaults to `line=64 policy=lru write=back alloc=yes writeback=line`. Beyond the format there
//! are these keys, without which nothing changes:
//!
//! - `base=` (default 0, a multiple of the line): the address of memory's first byte, so that a trace of a few lines high
//!   up in a large machine needs no large memory.
//! - `sets2= ways2= policy2=` (together; the policy may be left out): a second level.
//! - `schedule=none|random|worst`: an adversary moves lines, from the start.
//! - `seed=` (default 0): where its choices, and the random policy's, begin.
//!
//! and the operation `writeback ADDR`: the cache writes a dirty line back by its own choice, and the line stays. Recordings of
//! machines with a schedule have it.
//!
//! A [`Parser`] reads lines; [`Op::append_to`] and an [`Op`]'s `Display` write them.

mod config_line;
mod digits;
mod parse;
mod words;
mod write;

pub use parse::{ParseError, Parser};
pub use write::hex;

use crate::access::{MemoryType, Snoop};
use crate::config::Config;
use crate::ledger::Direction;

/// The largest memory of a replayed machine, in bytes.
pub const MAX_MEMORY: u64 = 1 << 36;

/// One of the two views of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// What a write-back load would return.
    Cpu,
    /// What RAM holds.
    Ram,
}

impl View {
    /// Its word in a trace.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Ram => "ram",
        }
    }
}

/// The machine that `config` starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its cache.
    pub config: Config,
    /// Address of memory's first byte, a multiple of the line.
    pub base: u64,
    /// Size of memory in bytes.
    pub memory: u64,
    /// Where the choices of an adversarial schedule, which acts from the start, and of the random policy begin.
    pub seed: u64,
}

/// One operation of a trace. Data that it writes are borrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the format's, described above")]
pub enum Op<'a> {
    /// `config`
    Config(Box<Machine>),
    /// `load`
    Load { cpu: u32, addr: u64, len: u64, kind: MemoryType },
    /// `store`
    Store { cpu: u32, addr: u64, data: &'a [u8], kind: MemoryType },
    /// `clean`
    Clean { addr: u64, len: u64 },
    /// `inval`
    Invalidate { addr: u64, len: u64 },
    /// `flush`
    Flush { addr: u64, len: u64 },
    /// `wbinvd`
    WriteBackInvalidateAll,
    /// `invd`
    InvalidateAll,
    /// `fence`
    Fence { cpu: u32 },
    /// `fill`
    Fill { addr: u64 },
    /// `evict`
    Evict { addr: u64 },
    /// `writeback`
    WriteBack { addr: u64 },
    /// `dma-read`
    DmaRead { device: u32, addr: u64, len: u64, snoop: Snoop },
    /// `dma-write`
    DmaWrite { device: u32, addr: u64, data: &'a [u8], snoop: Snoop },
    /// `map`
    Map { id: u64, device: u32, addr: u64, len: u64, direction: Direction },
    /// `sync-cpu`
    SyncForCpu { id: u64, part: Option<(u64, u64)> },
    /// `sync-dev`
    SyncForDevice { id: u64, part: Option<(u64, u64)> },
    /// `unmap`
    Unmap { id: u64 },
    /// `expect`
    Expect { view: View, addr: u64, data: &'a [u8] },
}
