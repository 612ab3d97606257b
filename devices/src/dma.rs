//! How a device reaches memory: transactions with attributes, and errors as values.

pub mod purpose;

pub use purpose::{Object, Purpose, What};
use serde::{Deserialize, Serialize};

/// Attributes that travel with a PCIe memory transaction (PCIe Base Specification, 2.2.6.4 and 2.2.6.5), and what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DmaAttrs {
    /// No Snoop: hardware need not keep caches coherent for this transaction.
    pub no_snoop: bool,
    /// Relaxed Ordering: the write may pass earlier posted writes.
    pub relaxed_ordering: bool,
    /// For reports; no hardware sees it.
    pub purpose: Purpose,
}

impl DmaAttrs {
    /// The same for this purpose.
    #[must_use]
    pub fn to(self, purpose: Purpose) -> Self {
        Self { purpose, ..self }
    }
}

/// Why a transaction did not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// The function may not master the bus (command register bit 2 clear).
    #[error("bus mastering is disabled")]
    BusMasterDisabled,
    /// No memory answers at this address (an unsupported request).
    #[error("no memory at {0:#x}")]
    Unmapped(u64),
    /// The IOMMU blocked the access.
    #[error("blocked by the IOMMU at {0:#x}")]
    Blocked(u64),
}

/// An atomic read-modify-write on 8 naturally aligned bytes, operands in host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AtomicOp {
    /// Stores `swap` where the old value equals `compare`.
    CompareSwap { compare: u64, swap: u64 },
    /// Adds, wrapping.
    FetchAdd(u64),
}

impl AtomicOp {
    /// What it brings: the value to store, or to add.
    #[must_use]
    pub fn operand(self) -> u64 {
        match self {
            Self::CompareSwap { swap, .. } => swap,
            Self::FetchAdd(addend) => addend,
        }
    }

    /// What it makes of the value that it finds.
    #[must_use]
    pub fn apply(self, old: u64) -> u64 {
        match self {
            Self::CompareSwap { compare, swap } if compare == old => swap,
            Self::CompareSwap { .. } => old,
            Self::FetchAdd(addend) => old.wrapping_add(addend),
        }
    }
}
