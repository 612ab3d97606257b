//! A software x86-64 CPU.
//!
//! Instructions are decoded once into blocks of operations, keyed by guest-physical address, and executed from there.
//! The CPU knows no device: memory that is not RAM, ports, interrupts and model-specific registers of others are reached
//! through the one trait [`World`]. Execution is deterministic: it depends on the state of the [`Vcpu`] and the answers of
//! the world alone.

mod block;
mod code_pages;
mod cpuid;
mod debug;
mod decode;
pub mod encryption;
mod exec;
mod fault;
mod fetched;
pub mod flags;
#[cfg(test)]
mod hook_tests;
mod interrupt;
mod memory;
mod mode;
mod msr;
mod probes;
#[cfg(test)]
mod probes_tests;
mod run;
#[cfg(test)]
mod run_tests;
mod shared_code;
mod state;
#[cfg(test)]
pub(crate) mod test_world;
mod world;

pub use block::{AddressKind, Op, OpFn};
pub use code_pages::CodePages;
pub use cpuid::{CRYSTAL_HZ, TSC_PER_CRYSTAL};
pub use debug::Debug;
pub use fault::Fault;
pub use memory::{MemoryType, Word};
pub use mode::{CodeSize, Mode};
pub use msr::{Msrs, Mtrrs};
pub use probes::Probes;
pub use run::{CodeCache, Exit, run};
pub use shared_code::SharedCode;
pub use state::*;
pub use world::{CacheOp, Dropped, RamAccess, Shown, World};

/// Whether CPUID advertises the instruction form `code`. Forms that it does not raise #UD.
#[must_use]
pub fn advertises(code: iced_x86::Code) -> bool {
    let mut instruction = iced_x86::Instruction::default();
    instruction.set_code(code);
    cpuid::implements(&instruction)
}
