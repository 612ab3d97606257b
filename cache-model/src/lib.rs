//! A write-back cache whose DMA need not be coherent, and what a coherent machine would have said.
//!
//! The model keeps two views of memory. C, what the CPUs see, is the embedder's ([`Memory`]); what RAM holds differs from
//! it only in resident lines, so the model keeps that in the modelled cache's own slots: its size is the cache's, not
//! memory's. Beside them it tracks, for the bytes where it matters, the *coherent value* with its writer, and which bytes
//! could have gone wrong under another legal schedule. A CPU or device that reads a wrong byte raises a *manifest*
//! [`Finding`], one that reads a doubtful byte a *latent* one. Nobody reading means nothing raised.
//!
//! The crate knows no machine, does no I/O and keeps all state as plain data.
//!
//! ```
//! use cache_model::{CacheModel, Config, Geometry, Kind, MemoryType, Policy, Snoop, Verdict, Writer};
//!
//! let config = Config::new(Geometry::new(64, 4, 2)?, Policy::Lru)?;
//! let mut cache = CacheModel::new(config);
//! let memory = &mut vec![0; 8192][..];
//!
//! // The CPU fills a buffer and forgets to clean it; a device that does not snoop reads it from RAM.
//! cache.store(memory, Writer::cpu(0, 0xffff_8000, 1), 0x100, &[1, 2, 3, 4], MemoryType::WriteBack)?;
//! let mut got = [0; 4];
//! cache.dma_read(memory, Writer::device(7, 2), 0x100, &mut got, Snoop::NoSnoop)?;
//! assert_eq!(got, [0; 4]);
//!
//! let finding = &cache.take_findings()[0];
//! assert_eq!((finding.kind, finding.verdict), (Kind::StaleDeviceRead, Verdict::Manifest));
//! assert_eq!(finding.expected, [1, 2, 3, 4]);
//! assert_eq!(finding.writer(), Some(Writer::cpu(0, 0xffff_8000, 1)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Embedding it in another VMM
//!
//! One [`CacheModel`] stands for the coherence domain of all vCPUs. The embedder implements [`Memory`] over guest memory and
//! calls the model wherever something reaches that memory:
//!
//! | what the machine does | what to call |
//! |---|---|
//! | loads, page walks | [`CacheModel::load_hit`] where the memory type is write-back, then [`CacheModel::load_miss`]; if they decline, or for any other type, [`CacheModel::load`] |
//! | stores, updates of accessed and dirty bits | [`CacheModel::store_hit`], then write guest memory; else [`CacheModel::store`], which writes it |
//! | locked operations | the load and the store, with one [`Writer`]: no schedule splits them; then [`CacheModel::fence`] |
//! | instruction fetches | [`CacheModel::fetch_hit`], then [`CacheModel::fetch_miss`], else [`CacheModel::fetch`] |
//! | CLWB; `dc cvac`, `cbo.clean` | [`CacheModel::clean_weakly`]; [`CacheModel::clean`] |
//! | CLFLUSHOPT; CLFLUSH, `dc civac`, `cbo.flush` | [`CacheModel::flush_weakly`]; [`CacheModel::flush`] |
//! | `dc ivac`, `cbo.inval` | [`CacheModel::invalidate`] |
//! | WBINVD; INVD | [`CacheModel::write_back_invalidate_all`]; [`CacheModel::invalidate_all`] |
//! | SFENCE, MFENCE, serialising instructions | [`CacheModel::fence`] |
//! | uncached accesses, interrupts | [`CacheModel::drain`] |
//! | DMA | [`CacheModel::dma_read`], [`CacheModel::dma_write`], [`CacheModel::dma_atomic`], with whether it is snooped |
//! | posted writes with relaxed ordering | [`PostedWrites`], in front of the model |
//! | a debugger or the VMM itself changes memory | a snooped [`CacheModel::dma_write`]; reads need nothing |
//!
//! After an instruction or a transaction, [`CacheModel::has_findings`] says whether to [`CacheModel::take_findings`]. What a
//! driver has mapped, and whose fault a finding is, is the business of [`ledger`] and [`judge`].
//!
//! The embedder guarantees that
//!
//! - all accesses to memory go through the model, in one order (every method takes `&mut self`); or, if it shows only some
//!   of memory, that lines come in by [`CacheModel::enter_unknown`];
//! - nothing but the model, and the stores that [`CacheModel::store_hit`] has accepted, changes the CPU's view;
//! - [`Writer::stamp`] does not decrease, and the accesses of one instruction share it;
//! - what it keeps of guest code in another form is dropped when [`Memory::write`] changes that code;
//! - a resident line stays memory, and is flushed before its memory goes. (The model asks [`Memory::covers`] before each access;
//!   where it has no [`Memory`], as in [`CacheModel::load_miss`], whole lines are memory.)
//!
//! In return no input of a guest makes the model panic, and its own memory is bounded by the modelled cache and by [`Limits`].
//! The examples `plain` (over a byte array) and `vm_memory` (over the crate of that name) are complete.
//!
//! [`replay`] runs the model alone over a text trace ([`trace`]).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod access;
mod authors;
mod coherence;
mod config;
mod fetched;
mod finding;
mod geometry;
pub mod judge;
pub mod ledger;
mod level;
mod line_map;
mod lines;
mod mask;
mod memory;
mod minimal;
mod model;
mod observe;
mod pending;
mod policy;
mod posted;
mod quick;
mod record;
pub mod replay;
mod residency;
mod run;
mod schedule;
mod spill;
mod stats;
pub mod trace;
mod unknown;

pub use access::{MAX_ATOMIC, MemoryType, Snoop};
pub use coherence::Overflow;
pub use config::{Config, ConfigError, Limits, Schedule, WriteBack, WritePolicy};
pub use finding::{Agent, Event, EventKind, Finding, Kind, LineState, Path, Verdict, Writer, Written};
pub use geometry::{Geometry, GeometryError, MAX_LINE, MAX_LINES, MIN_LINE, Span};
pub use mask::ByteMask;
pub use memory::{Memory, OutOfRange};
pub use minimal::{RogueAccess, minimal_rogue_trace, minimal_trace};
pub use model::CacheModel;
pub use policy::{MAX_PLRU_WAYS, Policy};
pub use posted::{MAX_WAIT, PostedWrite, PostedWrites};
pub use stats::{MAX_AGENTS, Stats};
