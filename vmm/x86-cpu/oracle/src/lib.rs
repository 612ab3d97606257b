//! The host's processor as oracle for user-mode instructions of the software CPU.
//!
//! A [`generate::Case`] is a few instructions and the state to run them in. [`lab::Lab`] runs it natively, in a traced child, and
//! in the interpreter, and lists what differs but for what the architecture leaves open ([`compare::Undefined`]) and where
//! processors of the host's vendor are known to differ ([`vendor`]). The differential test of `x86-cpu` and its fuzz target
//! choose cases with the same generators, from a seed or from the fuzzer's bytes ([`rng::Rng`]).

mod address;
pub mod compare;
pub mod corner;
pub mod forms;
pub mod generate;
mod initial;
pub mod input;
mod interp;
pub mod lab;
mod native;
pub mod prefix;
mod raw;
pub mod report;
pub mod rng;
mod selector;
pub mod sequence;
mod special;
pub mod state;
mod values;
pub mod vendor;
mod world;
