//! Memory that a device may use at any time, with no hand-over and no bounce buffer: what the DMA API has allocated for it.

use super::Kind;

/// Memory becomes shared, or is so no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Begins {
        id: u64,
        /// PCI requester ID of the function that it is for.
        device: u32,
        addr: u64,
        len: u64,
    },
    Ends {
        id: u64,
    },
}

/// Whether memory that was got like this is allocated for its device, and not the kernel's own that is mapped for a while. A
/// block of a pool is not: the page that it is in is.
pub(super) fn is_allocated(kind: Kind) -> bool {
    match kind {
        Kind::Coherent | Kind::Noncoherent | Kind::Noncontiguous | Kind::PoolPage => true,
        Kind::Single | Kind::ScatterGather | Kind::Resource | Kind::PoolBlock | Kind::Iova => false,
    }
}
