//! A finding as it is reported: what a maintainer needs to know, with names for addresses.

use cache_model::judge::{Blame, Kind};
use cache_model::{EventKind, Verdict};
use serde::{Deserialize, Serialize};

/// A finding. `--findings FILE` has each as one line of JSON, with what is the same for all of them ([`super::Context`]).
///
/// Addresses are guest-physical unless said otherwise, times virtual nanoseconds, bytes in hexadecimal. Fields that do not
/// apply are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// 1 for the first of a run.
    pub id: u64,
    pub kind: Kind,
    /// Whether it happened or could have.
    pub verdict: Verdict,
    /// Whose fault it is.
    pub blame: Blame,
    /// Of the platform's: the user-space API has no call by which the application's memory could have been handed over.
    #[serde(default)]
    pub uapi_cannot_sync: bool,
    pub time: u64,
    /// Address of the cache line.
    pub line: u64,
    /// Its length in bytes.
    pub line_size: u64,
    /// Address of the first byte that is wrong or in doubt.
    pub addr: u64,
    /// How many bytes, from the first to the last such byte.
    pub len: u64,
    /// What a coherent machine would have given.
    #[serde(with = "hex", default)]
    pub expected: Vec<u8>,
    /// What the victim got; of a transaction that no mapping allows: what it moved.
    #[serde(with = "hex", default)]
    pub found: Vec<u8>,
    /// What RAM has there.
    #[serde(with = "hex", default)]
    pub ram: Vec<u8>,
    /// The access that should not have been, or not without a sync.
    pub culprit: Option<Access>,
    /// The access that got wrong or doubtful bytes.
    pub victim: Option<Access>,
    /// Who wrote the bytes that are expected.
    pub writer: Option<Access>,
    /// The DMA mapping that it is about.
    pub mapping: Option<Mapped>,
    /// What happened to the line, oldest first.
    pub timeline: Vec<Moment>,
    /// What limits what can be said.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The guest's kernel: release and build-id.
    pub kernel: Option<String>,
    /// How often it was found: by the same culprit and victim.
    pub count: u64,
    /// The first of the other times.
    #[serde(default)]
    pub again_at: Vec<Occurrence>,
    /// The trace by which `staleline replay` shows it: a path from the file's folder.
    pub trace: Option<String>,
}

/// Who accessed memory, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `vCPU N`, or a device by its place and kind, `0000:08:00.0 mlx5`.
    pub who: String,
    pub action: Action,
    /// What a device's transaction was for, where it says: `RDMA WRITE qpn 0x42 mkey 0x1200`.
    pub purpose: Option<String>,
    pub time: u64,
    /// The instruction, then its callers, where they are known. None for devices.
    #[serde(default)]
    pub backtrace: Vec<Frame>,
    /// What ran.
    pub task: Option<Task>,
}

impl Access {
    /// The place of the access: what `culprit` and `victim` of a scenario are looked for in.
    #[must_use]
    pub fn site(&self) -> String {
        let place = self.backtrace.first().map_or_else(|| self.who.clone(), Frame::to_string);
        match (&self.task, &self.purpose) {
            (Some(task), _) => format!("{place} [{task}]"),
            (None, Some(purpose)) => format!("{place} ({purpose})"),
            (None, None) => place,
        }
    }
}

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Load,
    Store,
    DmaRead,
    DmaWrite,
    /// Cache maintenance that discards.
    Invalidate,
    /// A call of the DMA API.
    Map,
}

impl Action {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Store => "store",
            Self::DmaRead => "DMA read",
            Self::DmaWrite => "DMA write",
            Self::Invalidate => "invalidation",
            Self::Map => "mapping",
        }
    }
}

/// A place in the guest's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Virtual address.
    pub address: u64,
    /// `symbol+0xoffset`, with `[module]` where it is one's.
    pub symbol: Option<String>,
    /// The unwinder has guessed it.
    #[serde(default)]
    pub guess: bool,
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = if self.guess { "? " } else { "" };
        match &self.symbol {
            Some(symbol) => write!(f, "{mark}{symbol}"),
            None => write!(f, "{mark}{:#x}", self.address),
        }
    }
}

/// A task of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub pid: u32,
    /// Its name (`comm`).
    pub name: String,
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pid {}", self.name, self.pid)
    }
}

/// A DMA mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// As in [`Access::who`].
    pub device: String,
    pub addr: u64,
    pub len: u64,
    /// The device has been given a bounce buffer: address of the memory that it stands for.
    pub bounced: Option<u64>,
    /// Linux's name: TO_DEVICE and so on, COHERENT for memory allocated for DMA.
    pub direction: String,
    /// Linux's names, without `DMA_ATTR_`; USER_PINNED for an application's memory.
    #[serde(default)]
    pub attributes: Vec<String>,
    pub mapped_at: u64,
    pub unmapped_at: Option<u64>,
    /// Of the mapping.
    #[serde(default)]
    pub backtrace: Vec<Frame>,
    pub task: Option<Task>,
    /// Of its end: the caller of the function that ended it first.
    #[serde(default)]
    pub unmap_backtrace: Vec<Frame>,
    pub unmap_task: Option<Task>,
}

/// Something that happened to a line or its mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub time: u64,
    pub what: What,
    /// As in [`Access::who`]; none if the cache did it by itself.
    pub by: Option<String>,
    /// The instruction.
    pub at: Option<Frame>,
}

/// What happens to lines and mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    Map,
    SyncForCpu,
    SyncForDevice,
    Unmap,
    Store,
    /// RAM was written past the cache by a device.
    DmaWrite,
    /// The same by a CPU (UC, WC).
    UncachedStore,
    /// A device wrote through the caches.
    SnoopedWrite,
    /// A store that went to RAM at once (write-through, non-temporal).
    StoreThrough,
    Fill,
    WriteBack,
    Evict,
    Clean,
    Invalidate,
    Flush,
    /// What the finding is about.
    Observed,
}

impl What {
    /// Of an event of the model, caused by a device or not.
    #[must_use]
    pub fn of(event: EventKind, device: bool) -> Self {
        match event {
            EventKind::Store => Self::Store,
            EventKind::BypassingWrite if device => Self::DmaWrite,
            EventKind::BypassingWrite => Self::UncachedStore,
            EventKind::CoherentWrite if device => Self::SnoopedWrite,
            EventKind::CoherentWrite => Self::StoreThrough,
            EventKind::Fill => Self::Fill,
            EventKind::WriteBack => Self::WriteBack,
            EventKind::Evict => Self::Evict,
            EventKind::Clean => Self::Clean,
            EventKind::Invalidate => Self::Invalidate,
            EventKind::Flush => Self::Flush,
        }
    }

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::SyncForCpu => "sync for CPU",
            Self::SyncForDevice => "sync for device",
            Self::Unmap => "unmap",
            Self::Store => "store",
            Self::DmaWrite => "DMA write",
            Self::UncachedStore => "uncached store",
            Self::SnoopedWrite => "snooped DMA write",
            Self::StoreThrough => "store to RAM",
            Self::Fill => "fill",
            Self::WriteBack => "write-back",
            Self::Evict => "evict",
            Self::Clean => "clean",
            Self::Invalidate => "invalidate",
            Self::Flush => "flush",
            Self::Observed => "found",
        }
    }
}

/// The same finding at another time or place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occurrence {
    pub time: u64,
    pub addr: u64,
    #[serde(with = "hex")]
    pub expected: Vec<u8>,
    #[serde(with = "hex")]
    pub found: Vec<u8>,
}

/// Bytes as hexadecimal digits.
mod hex {
    use cache_model::trace::hex;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], output: S) -> Result<S::Ok, S::Error> {
        output.serialize_str(&hex(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(input)?;
        let digit = |&digit: &u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?));
        let bytes: Option<Vec<u8>> = bytes.collect();
        bytes.filter(|_| rest.is_empty()).ok_or_else(|| de::Error::custom("not pairs of hexadecimal digits"))
    }
}
