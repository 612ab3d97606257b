//! Datagrams: where they go, and the global route header that stands before what is received (IBA 8.3, 11.4.1.2).

use crate::mlx5::field::{be16, be32};
use crate::mlx5::vport::{self, GID};
use serde::{Deserialize, Serialize};

/// Bytes that a receive request for datagrams keeps free before the data.
pub const GRH_LEN: usize = 40;

/// The destination of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressVector {
    pub q_key: u32,
    pub qpn: u32,
    pub service_level: u8,
    pub lid: u16,
    /// The route header's fields, if it has one.
    pub global: Option<GlobalRoute>,
}

/// Fields of a global route header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalRoute {
    pub traffic_class: u8,
    pub flow_label: u32,
    pub hop_limit: u8,
    pub destination: [u8; 16],
}

impl AddressVector {
    /// A compact (16 bytes) or extended (48 bytes) address vector.
    pub fn parse(bytes: &[u8]) -> Self {
        const HAS_GRH: u32 = 1 << 30;
        let flags_and_flow = be32(bytes, 28);
        let destination = bytes.get(32..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        Self {
            q_key: be32(bytes, 0),
            qpn: be32(bytes, 8) & 0xff_ffff,
            service_level: byte(12) & 0xf,
            lid: be16(bytes, 14),
            global: (flags_and_flow & HAS_GRH != 0).then(|| GlobalRoute {
                traffic_class: byte(26),
                flow_label: flags_and_flow & 0xf_ffff,
                hop_limit: byte(27),
                destination,
            }),
        }
    }

    /// The multicast group that it names, if it names one.
    pub fn group(&self) -> Option<[u8; 16]> {
        const MULTICAST_LIDS: std::ops::Range<u16> = 0xc000..0xffff;
        self.global.filter(|_| MULTICAST_LIDS.contains(&self.lid)).map(|route| route.destination)
    }

    /// Whether it names this port.
    pub fn is_local(&self) -> bool {
        u64::from(self.lid) == vport::LID
            && self.global.is_none_or(|route| route.destination == GID.to_be_bytes())
    }
}

impl GlobalRoute {
    /// The header as it stands before a received datagram of `payload` bytes.
    pub fn header(&self, payload: u64) -> [u8; GRH_LEN] {
        const VERSION: u32 = 6;
        const NEXT_HEADER_IBA: u8 = 0x1b;
        /// Base and datagram transport headers and the checksum count as payload.
        const HEADERS_AND_CHECKSUM: u64 = 12 + 8 + 4;
        let mut header = [0; GRH_LEN];
        let first = VERSION << 28 | u32::from(self.traffic_class) << 20 | self.flow_label;
        let length = (payload.next_multiple_of(4) + HEADERS_AND_CHECKSUM) as u16;
        header[..4].copy_from_slice(&first.to_be_bytes());
        header[4..6].copy_from_slice(&length.to_be_bytes());
        header[6] = NEXT_HEADER_IBA;
        header[7] = self.hop_limit;
        header[8..24].copy_from_slice(&GID.to_be_bytes());
        header[24..].copy_from_slice(&self.destination);
        header
    }
}
