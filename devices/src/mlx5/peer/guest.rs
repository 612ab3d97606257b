//! What the peer needs of the guest's side of its connections.

use super::protocol::Operation;
use crate::dma::AtomicOp;
use crate::mlx5::data_path::Nak;

/// The responder of the guest's queue pairs, by queue pair number: every request is checked there as one by any other
/// requester is.
pub trait Guest {
    /// RDMA WRITE of `data`.
    ///
    /// # Errors
    /// How the responder refuses it; some of it may have been written.
    fn write(&mut self, qpn: u32, rkey: u32, address: u64, data: &[u8]) -> Result<(), Nak>;
    /// RDMA READ into `data`.
    ///
    /// # Errors
    /// How the responder refuses it.
    fn read(&mut self, qpn: u32, rkey: u32, address: u64, data: &mut [u8]) -> Result<(), Nak>;
    /// An atomic operation; returns the old value.
    ///
    /// # Errors
    /// How the responder refuses it.
    fn atomic(&mut self, qpn: u32, rkey: u32, address: u64, op: AtomicOp) -> Result<u64, Nak>;
    /// SEND of `message`.
    ///
    /// # Errors
    /// How the responder refuses it.
    fn send(&mut self, qpn: u32, message: &[u8]) -> Result<(), Nak>;
    /// The memory registered last, of the queue pair's protection domain, with the right that `operation` needs.
    fn newest_memory(&self, qpn: u32, operation: Operation) -> Option<MemoryArea>;
}

/// Registered memory, as a remote node names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryArea {
    pub rkey: u32,
    pub address: u64,
    /// Bytes.
    pub len: u64,
}
