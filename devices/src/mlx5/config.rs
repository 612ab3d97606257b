//! How the function presents itself, and what its transactions carry.

use super::peer::Plan;
use crate::dma::{DmaAttrs, Object, Purpose, What};
use serde::{Deserialize, Serialize};

/// Link layer of the function's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PortType {
    /// InfiniBand: the port is active with LID 1, no network device.
    #[default]
    InfiniBand,
    /// Ethernet without RoCE: memory registration works, the RDMA port stays down.
    Ethernet,
}

/// Which of the function's transactions ask for No Snoop. Whether one carries it is decided by Device Control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NoSnoop {
    #[default]
    Off,
    /// What work requests move: the bytes behind memory keys. Queues, doorbell records and mailboxes are snooped.
    Payload,
    /// Every transaction.
    All,
}

/// Configuration of an [`Mlx5`](super::Mlx5) function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mlx5Config {
    pub port: PortType,
    pub no_snoop: NoSnoop,
    /// The driver may change memory keys by work requests (UMR); without it registers by commands.
    pub umr: bool,
    /// What the remote peer does of its own accord on each connection to it.
    pub peer: Option<Plan>,
}

impl Default for Mlx5Config {
    fn default() -> Self {
        Self { port: PortType::default(), no_snoop: NoSnoop::default(), umr: true, peer: None }
    }
}

impl Mlx5Config {
    /// Attributes of transactions on the device's own structures: queues, doorbell records, mailboxes.
    pub fn control(&self, what: What, object: Object, number: u32) -> DmaAttrs {
        let (no_snoop, purpose) = (self.no_snoop == NoSnoop::All, Purpose::new(what, object, number));
        DmaAttrs { no_snoop, relaxed_ordering: false, purpose }
    }

    /// Attributes of transactions on what work requests of a queue pair move.
    pub fn payload(&self, relaxed_ordering: bool, what: What, qpn: u32, key: u32) -> DmaAttrs {
        let purpose = Purpose::new(what, Object::QueuePair, qpn).by_key(key);
        DmaAttrs { no_snoop: self.no_snoop != NoSnoop::Off, relaxed_ordering, purpose }
    }
}
