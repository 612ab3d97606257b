//! Linear memory as instructions see it: segmentation, paging, the software TLB and accesses.

pub mod access;
mod host;
pub mod paging;
pub mod segment;
pub mod tlb;
pub mod word;

pub use word::Word;
