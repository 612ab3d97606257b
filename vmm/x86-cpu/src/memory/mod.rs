//! Linear memory as instructions see it: segmentation, paging, the software TLB and accesses.

pub mod access;
mod host;
pub(crate) mod hot_lines;
pub mod memory_type;
pub mod paging;
pub mod segment;
pub mod tlb;
pub mod word;

pub use memory_type::MemoryType;
pub use word::Word;
