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
//! `config` starts a fresh machine: memory zero, lines absent. It needs `sets`, `ways` and `mem` (bytes, a multiple of the
//! line); the rest defaults to `line=64 policy=lru write=back alloc=yes writeback=line`. `seed=` (default 0) starts the
//! random policy's sequence. [`parse`] reads a line and an [`Op`]'s `Display` writes it.

mod parse;
mod write;

pub use parse::{ParseError, parse};
pub(crate) use write::Hex;

use crate::config::Config;
use crate::ledger::Direction;
use crate::model::{MemoryType, Snoop};

/// The largest memory of a replayed machine, in bytes.
pub const MAX_MEMORY: u64 = 1 << 30;

/// One of the two views of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// What a write-back load would return.
    Cpu,
    /// What RAM holds.
    Ram,
}

/// One operation of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the format's, described above")]
pub enum Op {
    /// `config`
    Config { config: Config, memory: u64 },
    /// `load`
    Load { cpu: u32, addr: u64, len: u64, kind: MemoryType },
    /// `store`
    Store { cpu: u32, addr: u64, data: Vec<u8>, kind: MemoryType },
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
    /// `dma-read`
    DmaRead { device: u32, addr: u64, len: u64, snoop: Snoop },
    /// `dma-write`
    DmaWrite { device: u32, addr: u64, data: Vec<u8>, snoop: Snoop },
    /// `map`
    Map { id: u64, device: u32, addr: u64, len: u64, direction: Direction },
    /// `sync-cpu`
    SyncForCpu { id: u64, part: Option<(u64, u64)> },
    /// `sync-dev`
    SyncForDevice { id: u64, part: Option<(u64, u64)> },
    /// `unmap`
    Unmap { id: u64 },
    /// `expect`
    Expect { view: View, addr: u64, data: Vec<u8> },
}
