//! The state behind the command interface: the phase of the device and its tables of objects.

use super::caps::Capabilities;
use super::config::Mlx5Config;
use super::cq::CompletionQueue;
use super::data_path::Schedule;
use super::eq::EventQueue;
use super::layout::commands::OBJECT;
use super::mkey::MemoryKey;
use super::multicast::MulticastGroups;
use super::peer::Node;
use super::qp::QueuePair;
use super::registers;
use super::resources::{ProtectionDomain, TransportDomain, Uar, XrcDomain};
use super::srq::SharedReceiveQueue;
use super::status::Failure;
use super::table::ObjectTable;
use super::uar;
use super::vport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// How far the driver has brought the device up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// After reset and DISABLE_HCA.
    Disabled,
    /// After ENABLE_HCA: capabilities may be read and set.
    Enabled,
    /// After INIT_HCA: objects may be created.
    Ready,
}

/// Unknown opcodes that are remembered, so that each is logged once.
const MAX_NOTED_OPCODES: usize = 64;
/// Failures of queues that are logged as warnings.
const MAX_NOTED_FAILURES: u32 = 16;

/// Numbers of queue pairs below this are reserved for special queue pairs.
const FIRST_QPN: u32 = 16;

/// How many objects of each kind exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiveObjects {
    pub uars: usize,
    pub pds: usize,
    pub xrcds: usize,
    pub transport_domains: usize,
    pub mkeys: usize,
    pub eqs: usize,
    pub cqs: usize,
    pub qps: usize,
    /// Shared receive queues: XRC SRQs and receive memory pools.
    pub srqs: usize,
}

impl LiveObjects {
    /// All of them together.
    pub fn total(&self) -> usize {
        self.uars
            + self.pds
            + self.xrcds
            + self.transport_domains
            + self.mkeys
            + self.eqs
            + self.cqs
            + self.qps
            + self.srqs
    }
}

/// Everything that commands change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hca {
    pub config: Mlx5Config,
    pub phase: Phase,
    pub issi: u16,
    pub caps: Capabilities,
    #[serde(with = "crate::state::bytes")]
    pub node_description: [u8; registers::NODE_DESCRIPTION_LEN],
    pub uars: ObjectTable<Uar>,
    pub pds: ObjectTable<ProtectionDomain>,
    pub xrcds: ObjectTable<XrcDomain>,
    pub transport_domains: ObjectTable<TransportDomain>,
    pub mkeys: ObjectTable<MemoryKey>,
    pub eqs: ObjectTable<EventQueue>,
    pub cqs: ObjectTable<CompletionQueue>,
    pub qps: ObjectTable<QueuePair>,
    pub srqs: ObjectTable<SharedReceiveQueue>,
    pub multicast: MulticastGroups,
    /// What the driver has announced that the port can do (IBA 14.2.5.6).
    pub port_capabilities: u32,
    /// Health syndrome that the health buffer shows, 0 when all is well.
    pub health_syndrome: u8,
    /// The second node of the fabric.
    pub peer: Node,
    /// What has work to do.
    pub schedule: Schedule,
    /// Where bytes stay between two transactions; it holds nothing between two calls.
    #[serde(skip)]
    pub buffer: Vec<u8>,
    noted_opcodes: BTreeSet<u16>,
    noted_failures: u32,
}

impl Hca {
    /// The state after power-on.
    pub fn new(config: Mlx5Config) -> Self {
        Self {
            config,
            phase: Phase::Disabled,
            issi: 0,
            caps: Capabilities::new(&config),
            node_description: registers::default_node_description(),
            uars: ObjectTable::new(uar::FIRST..uar::END),
            pds: ObjectTable::new(1..1 << 8),
            xrcds: ObjectTable::new(1..1 << 4),
            transport_domains: ObjectTable::new(1..1 << 4),
            mkeys: ObjectTable::new(1..1 << 12),
            eqs: ObjectTable::new(1..1 << 4),
            cqs: ObjectTable::new(1..1 << 8),
            qps: ObjectTable::new(FIRST_QPN..1 << 8),
            srqs: ObjectTable::new(1..1 << 6),
            multicast: MulticastGroups::default(),
            port_capabilities: vport::CAP_MASK1,
            health_syndrome: 0,
            peer: Node::default(),
            schedule: Schedule::default(),
            buffer: Vec::new(),
            noted_opcodes: BTreeSet::new(),
            noted_failures: 0,
        }
    }

    /// Drops all objects and settings, and stays in `phase`. What has been logged stays known.
    pub fn restart(&mut self, phase: Phase) {
        let noted_opcodes = std::mem::take(&mut self.noted_opcodes);
        let noted_failures = self.noted_failures;
        *self = Self { phase, noted_opcodes, noted_failures, ..Self::new(self.config) };
    }

    /// Whether `other` is configured alike and gives out the same numbers.
    pub fn has_shape_of(&self, other: &Self) -> bool {
        let shape = |hca: &Self| {
            let numbers = [
                hca.uars.numbers(),
                hca.pds.numbers(),
                hca.xrcds.numbers(),
                hca.transport_domains.numbers(),
                hca.mkeys.numbers(),
                hca.eqs.numbers(),
                hca.cqs.numbers(),
                hca.qps.numbers(),
                hca.srqs.numbers(),
            ];
            (hca.config, numbers)
        };
        shape(self) == shape(other)
    }

    /// How many objects of each kind exist.
    pub fn live_objects(&self) -> LiveObjects {
        LiveObjects {
            uars: self.uars.len(),
            pds: self.pds.len(),
            xrcds: self.xrcds.len(),
            transport_domains: self.transport_domains.len(),
            mkeys: self.mkeys.len(),
            eqs: self.eqs.len(),
            cqs: self.cqs.len(),
            qps: self.qps.len(),
            srqs: self.srqs.len(),
        }
    }

    /// Logs the failure of a queue: loudly as long as there are few, since a guest can have queues fail without end.
    pub fn note_queue_failure(&mut self, failure: fmt::Arguments<'_>) {
        let level =
            if self.noted_failures < MAX_NOTED_FAILURES { log::Level::Warn } else { log::Level::Debug };
        self.noted_failures = self.noted_failures.saturating_add(1);
        log::log!(level, "mlx5: {failure}");
    }

    /// Logs an unknown opcode the first time it is seen.
    pub fn note_unknown_opcode(&mut self, opcode: u16) {
        if self.noted_opcodes.len() < MAX_NOTED_OPCODES && self.noted_opcodes.insert(opcode) {
            log::warn!("mlx5: command with unknown opcode {opcode:#05x} refused");
        }
    }
}

/// Reports the number of a new object, or that there is no room for it.
pub fn answer_number(number: Option<u32>, out: &mut [u8]) -> Result<(), Failure> {
    let number = number.ok_or(Failure::limit("no more objects of this kind"))?;
    OBJECT.set(out, number.into());
    Ok(())
}
