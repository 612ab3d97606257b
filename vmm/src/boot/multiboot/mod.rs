//! The Multiboot 0.6.96 boot protocol: the header that a kernel carries and the information that it is handed.

mod header;
mod info;

pub(super) use header::{Header, find};
pub(super) use info::{Info, Module, write};

/// What EAX holds at the kernel's entry (specification, 3.2).
pub(super) const MAGIC: u64 = 0x2bad_b002;

#[cfg(test)]
pub(super) use header::tests::header;
