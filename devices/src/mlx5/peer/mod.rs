//! The remote peer: a second node on the InfiniBand fabric, played by the device.
//!
//! A guest that talks only to itself tests half of RDMA. The peer is the other half: it changes and reads the guest's
//! registered memory while the guest's CPU does something else, which is what goes wrong when DMA is bounced or not
//! coherent with the CPU's cache. It is a test instrument; an adapter has nothing like it.
//!
//! # Connecting
//!
//! The peer has LID [`LID`](protocol::LID) and the queue pair numbers [`FIRST_QPN`](protocol::FIRST_QPN) to
//! `FIRST_QPN + QPN_COUNT - 1`. Each of them is connected to every reliable connection of the guest whose address
//! path names the peer's LID and that number, from its transition to RTR until it is reset, destroyed or in error;
//! nothing is exchanged beforehand, and any packet sequence numbers will do. Guest queue pairs that name the same
//! number are served apart from one another. The peer opens no memory of its own: WRITE, READ and atomic requests of
//! the guest meet a remote access error. Datagrams and unreliable connections to it are dropped.
//!
//! # Orders
//!
//! An order is a SEND of 64 bytes ([`protocol`]): operation, rkey, address, length, operands, delay, repeat count,
//! cookie. The peer carries it out `repeat` times, first `delay` nanoseconds of virtual time after the order came and
//! then every `delay` nanoseconds or as fast as it can, by one-sided requests that the guest's queue pair answers as
//! it answers any remote node: rights, bounds and state are checked by the same code. It then answers with a SEND of
//! 64 bytes, which needs a receive of the guest's. WRITE and CHECK use the byte sequence of [`pattern`].
//!
//! - Orders due at the same time are carried out in the order in which they came. A request of more than 64 KiB goes
//!   as several, between which the guest's CPUs may run.
//! - A message that is no order is answered with a status that says why, and changes nothing.
//! - A connection has up to [`MAX_ORDERS`](protocol::MAX_ORDERS) orders outstanding, as if the peer had posted so
//!   many receives. Further ones meet "receiver not ready", and the guest's adapter sends them again.
//! - A request that the guest's queue pair refuses (key, rights, bounds) breaks the connection, as between any two
//!   nodes: the guest's queue pair is in the error state with an asynchronous event, and no answer comes.
//! - An answer that finds no receive is sent again after the queue pair's RNR timer, up to 1000 times; after that the
//!   connection is broken on the peer's side: further SENDs are not acknowledged until the guest connects anew.
//!
//! # Plans
//!
//! Where DMA to user memory is bounced (`swiotlb=force`), the guest's own send queue lies in bounced pages and no
//! order ever leaves it, while commands still work. For that case the device's configuration may hold a [`Plan`]:
//! `delay` after each connection is made the peer writes (reads, checks, adds 1 to) the memory that was registered
//! last (by a command or a work request), in the connection's protection domain, with the right to it. The seed of its pattern is
//! [`PLAN_SEED`](plan::PLAN_SEED). How it ended is logged: as a warning if a check has found something else than the
//! pattern or there is no such memory, as information otherwise.

mod guest;
mod link;
mod node;
pub mod pattern;
pub mod plan;
pub mod protocol;

pub(super) use node::Node;
pub use plan::Plan;
