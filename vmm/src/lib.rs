//! The machine: memory system, boot protocols, firmware tables, engines, clock, command line and reports.
//!
//! `devices`, `cache-model` and `x86-cpu` know nothing of one another; this crate composes them.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("staleline runs on Linux on x86-64 hosts only");

pub mod boot;
mod bounded;
pub mod cli;
pub mod clock;
pub mod doctor;
pub mod engine;
pub mod findings;
pub mod guest;
pub mod guest_file;
pub mod host;
pub mod ledger;
pub mod machine;
pub mod memory;
pub mod quantity;
pub mod repro;
pub mod reproduce;
pub mod session;
pub mod suite;
