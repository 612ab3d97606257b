//! What the ledger knows of a mapping beyond what the cache model needs.

use serde::{Deserialize, Serialize};

/// How memory was mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// dma_map_single, dma_map_page, dma_map_phys.
    Single,
    /// One element of a scatter list.
    ScatterGather,
    /// dma_alloc_coherent.
    Coherent,
    /// dma_alloc_pages.
    Noncoherent,
    /// One element of what dma_alloc_noncontiguous gave.
    Noncontiguous,
    /// dma_map_resource: no RAM.
    Resource,
    /// A block of a DMA pool.
    PoolBlock,
    /// Memory that a DMA pool has its blocks from: the pool's, and no mapping of its own.
    PoolPage,
    /// dma_iova_link.
    Iova,
}

/// The note on a mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub kind: Kind,
    /// Name of the device: [`super::Ledger::name`] has it.
    pub device: u32,
    /// Guest-physical address of the memory, where it is known; what the device is given may be elsewhere.
    pub physical: Option<u64>,
    /// The device has been given a bounce buffer: where the memory is that it stands for.
    pub bounced: Option<u64>,
    /// DMA_ATTR_… as the driver gave them.
    pub attributes: u64,
    /// Elements that the list was mapped to, of which this is one; otherwise 1.
    pub elements: u32,
    /// Where it was mapped: [`super::Ledger::trace`] has it.
    pub trace: Option<u32>,
    /// By which task, or in whose time: [`super::Ledger::task`] has it.
    pub task: Option<u32>,
    /// Likewise of the mapping's end.
    pub unmap_trace: Option<u32>,
    pub unmap_task: Option<u32>,
}
