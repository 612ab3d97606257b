//! What the model reports: somebody read bytes that are, or could have been, wrong.

use serde::{Deserialize, Serialize};

/// Who accesses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Agent {
    /// A vCPU by its index.
    Cpu(u32),
    /// A device by a number of the embedder's choice (a PCI requester ID, say).
    Device(u32),
}

/// Who wrote a byte, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The CPU or device.
    pub agent: Agent,
    /// The model's stamp ([`crate::CacheModel::set_stamp`]) at the write.
    pub stamp: u64,
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
    /// A device that uses the DMA API accessed memory outside its mappings, or against their direction.
    RogueDma,
}

/// One observation of wrong or doubtful bytes. An access that touches several lines can raise one for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The model's stamp at the observation.
    pub stamp: u64,
    /// Who observed it.
    pub observer: Agent,
    /// What went wrong.
    pub kind: Kind,
    /// Whether it happened or could have.
    pub verdict: Verdict,
    /// Address of the first wrong (latent: doubtful) byte.
    pub addr: u64,
    /// What a coherent machine would hold, from the first to the last such byte of the line.
    pub expected: Vec<u8>,
    /// What the observer got there.
    pub found: Vec<u8>,
    /// What RAM holds there.
    pub ram: Vec<u8>,
    /// Who wrote the first of the expected bytes, where that is known.
    pub writer: Option<Writer>,
}
