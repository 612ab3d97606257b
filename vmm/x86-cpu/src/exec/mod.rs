//! What instructions do, one family a module. Each family has a `lower` that chooses the operation for an instruction.

pub(crate) mod control;
pub(crate) mod integer;
pub(crate) mod sse;
pub(crate) mod string;
pub(crate) mod system;
pub(crate) mod x87;
