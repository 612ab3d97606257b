//! The memory system: the physical address map, guest RAM, and the path of DMA to it.

pub mod dma;
pub mod layout;
pub mod pages;
pub mod ram;

pub use ram::{GuestRam, RamError};
