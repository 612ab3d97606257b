//! The data path: what work requests do.
//!
//! A doorbell marks a queue pair as having something to do (`schedule`). In its turn the sending side (`requester`) takes
//! entries off the send queue (`work_queue`, `wqe`) and carries each message to the receiving side (`responder`), which
//! finds a receive request for it (`receive`) or checks what a WRITE, READ or atomic operation names. Bytes move between
//! ranges of memory keys (`translate`, `memory`). Requests of another kind change memory keys (`umr`). What is done or
//! has failed is reported by completions (`completion`), and what a failed queue pair holds is flushed (`failure`).
//!
//! Messages are not cut into packets: one message of a queue pair is under way at a time, and its bytes move in order.
//! That is one of the orders in which hardware may do it.

mod completion;
mod datagram;
mod failure;
mod memory;
mod receive;
mod requester;
mod responder;
mod schedule;
mod translate;
mod umr;
mod work_queue;
mod wqe;

pub use completion::{ENTRY as COMPLETION_LEN, Source, Syndrome};
pub use datagram::AddressVector;
pub use receive::{MAX_STRIDE as MAX_RECEIVE_STRIDE, NoReceive, Receive};
pub use requester::Flight;
pub use responder::{Arrival, Landing, Nak};
pub use schedule::{Budget, Progress, Schedule, Task};
pub use translate::{Holder, Right};
pub use work_queue::{BrokenQueue, WorkQueue};
pub use wqe::{BLOCK_SHIFT as SEND_BLOCK_SHIFT, Message, Operation, Remote};
