//! What the model reports: somebody read bytes that are, or could have been, wrong.

use serde::{Deserialize, Serialize};

use crate::mask::ByteMask;

/// Who accesses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Agent {
    /// A vCPU by its index.
    Cpu(u32),
    /// A device by a number of the embedder's choice (a PCI requester ID, say).
    Device(u32),
}

/// One access's author: who, from where and when. Written bytes keep it, and a finding names its observer by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The CPU or device.
    pub agent: Agent,
    /// Address of the accessing instruction; of a device whatever the embedder wants to know of the transaction later.
    pub ip: u64,
    /// Time of the access, in a unit of the embedder's choice. The accesses of one instruction share it.
    pub stamp: u64,
}

impl Writer {
    /// A vCPU at an instruction.
    #[must_use]
    pub const fn cpu(cpu: u32, ip: u64, stamp: u64) -> Self {
        Self { agent: Agent::Cpu(cpu), ip, stamp }
    }

    /// A device.
    #[must_use]
    pub const fn device(device: u32, stamp: u64) -> Self {
        Self { agent: Agent::Device(device), ip: 0, stamp }
    }
}

/// Did it happen, or could it have?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The observer got bytes that a coherent machine would not have given it.
    Manifest,
    /// It got the right bytes, but under another legal schedule of fills and evictions it need not have.
    Latent,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A CPU read old bytes from its cache while RAM held the newer ones (or from RAM, uncached, while a cache did).
    StaleCpuRead,
    /// A device read old bytes while the newer ones were elsewhere: in a cache, or not yet fenced.
    StaleDeviceRead,
    /// The newest bytes are nowhere any more: a write-back of their line overwrote them, or an invalidation discarded
    /// them.
    LostWrite,
}

/// How an access reaches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// Through the cache: cacheable loads, snooped DMA.
    Cache,
    /// Past it: UC and WC loads, no-snoop DMA.
    Ram,
}

/// Who wrote a run of bytes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Position of the first byte in its line.
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
    /// Whose write it was.
    pub writer: Writer,
}

/// What happened to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A CPU stored to it in its cache.
    Store,
    /// RAM was written past the cache: no-snoop DMA, UC and WC stores.
    BypassingWrite,
    /// It was written in the cache's view and in RAM: snooped DMA, non-temporal and write-through stores.
    CoherentWrite,
    /// It was brought in.
    Fill,
    /// It was written to RAM.
    WriteBack,
    /// It left the cache by the cache's own choice.
    Evict,
    /// Cache maintenance wrote it to RAM.
    Clean,
    /// Cache maintenance dropped it, dirty bytes and all.
    Invalidate,
    /// Cache maintenance wrote it to RAM and dropped it.
    Flush,
}

/// A step in a line's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Whose access or operation caused it; `None` for an adversarial schedule's choice.
    pub by: Option<Writer>,
    /// When.
    pub stamp: u64,
    /// The bytes of the line that a write touched; all of it for the rest.
    pub bytes: ByteMask,
}

/// All that the model knows of one line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineState {
    /// Address of its first byte.
    pub addr: u64,
    /// The bytes that a cacheable load would get.
    pub cpu: Vec<u8>,
    /// The bytes in RAM.
    pub ram: Vec<u8>,
    /// The bytes that a fully coherent machine would hold.
    pub coherent: Vec<u8>,
    /// Whether the line is in the cache.
    pub resident: bool,
    /// Bytes that the cache would write back.
    pub dirty: ByteMask,
    /// D: stored by a CPU since the last clean, so that RAM may be older under some schedule.
    pub stored: ByteMask,
    /// W: written past the cache since the last invalidation or flush, so that the cache may be older.
    pub bypassed: ByteMask,
    /// Bytes that some legal schedule has destroyed.
    pub destroyed: ByteMask,
    /// Who wrote the coherent bytes, lowest offset first; bytes that are in no doubt may be missing.
    pub writers: Vec<Written>,
    /// What happened to the line, oldest first, as far as it is known: the last few events of a line in doubt.
    pub timeline: Vec<Event>,
}

/// One observation of wrong or doubtful bytes. An access that touches several lines can raise one for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Who observed it.
    pub observer: Writer,
    /// How the observer looked.
    pub path: Path,
    /// What went wrong.
    pub kind: Kind,
    /// Whether it happened or could have.
    pub verdict: Verdict,
    /// Address of the first wrong (latent: doubtful) byte.
    pub addr: u64,
    /// The wrong (latent: doubtful) bytes, by their position in the line.
    pub bytes: ByteMask,
    /// What a coherent machine would hold, from the first to the last such byte.
    pub expected: Vec<u8>,
    /// What the observer got there.
    pub found: Vec<u8>,
    /// The bytes of the line that the access touched.
    pub accessed: ByteMask,
    /// The line at that moment, before the observation changed anything.
    pub line: LineState,
}

impl Finding {
    /// Who wrote the first of the expected bytes, where that is known.
    #[must_use]
    pub fn writer(&self) -> Option<Writer> {
        let (first, _) = self.bytes.bounds()?;
        let holds = |run: &&Written| (run.offset..run.offset.saturating_add(run.len)).contains(&first);
        self.line.writers.iter().find(holds).map(|run| run.writer)
    }
}
