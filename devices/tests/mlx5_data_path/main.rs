//! The data path of the emulated ConnectX function, driven as rdma-core drives it, without a guest.

mod atomics;
mod completions;
mod errors;
mod events;
mod hostile;
mod keys;
mod lifecycle;
mod link;
mod no_snoop;
mod property;
mod queues;
mod reference;
mod retries;
mod shared_queues;
mod transports;
mod umr;
