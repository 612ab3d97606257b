//! The memory system: the physical address map, guest RAM, and the path of DMA to it.

pub mod cache;
pub mod cache_spec;
pub mod dma;
pub mod encryption;
pub mod hook;
pub mod layout;
pub mod page_list;
pub mod page_set;
pub mod pages;
pub mod ram;
pub mod reach;
pub mod recorder;
pub mod system;

pub use cache::{Cache, CacheConfig, Scope};
pub use cache_spec::CacheSpec;
pub use encryption::Encryption;
pub use ram::{GuestRam, RamError};
pub use system::{MemorySystem, Transaction};
