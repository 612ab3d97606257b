//! What a queue pair's context says of its peer and of what the peer may do, taken out of it once for the data path.

use super::layout::contexts::{ads, qpc};
use crate::bus::Nanos;
use serde::{Deserialize, Serialize};

/// Operations that the peer may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteAccess {
    pub read: bool,
    pub write: bool,
    pub atomic: bool,
}

/// The connection of a queue pair. For datagrams only the Q_Key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The peer.
    pub qpn: u32,
    pub lid: u16,
    pub service_level: u8,
    pub access: RemoteAccess,
    pub q_key: u32,
    /// Code of the time that a peer is to wait when there is no receive request.
    pub min_rnr_timer: u8,
    /// How often a message is sent again when the peer does not answer.
    pub retries: u8,
    /// How often when the peer is not ready; 7 for ever.
    pub rnr_retries: u8,
    ack_timeout: u32,
}

impl Connection {
    /// The connection that a context describes.
    pub fn of(context: &[u8; qpc::SIZE]) -> Self {
        let path = |field: super::field::Field| field.within(qpc::PRIMARY_PATH).get(context);
        Self {
            qpn: qpc::REMOTE_QPN.get32(context),
            lid: path(ads::RLID) as u16,
            service_level: path(ads::SL) as u8,
            access: RemoteAccess {
                read: qpc::RRE.is_set(context),
                write: qpc::RWE.is_set(context),
                atomic: qpc::RAE.is_set(context),
            },
            q_key: qpc::Q_KEY.get32(context),
            min_rnr_timer: qpc::MIN_RNR_NAK.get(context) as u8,
            retries: qpc::RETRY_COUNT.get(context) as u8,
            rnr_retries: qpc::RNR_RETRY.get(context) as u8,
            ack_timeout: path(ads::ACK_TIMEOUT) as u32,
        }
    }

    /// How long an answer may take: 4.096 µs times 2 to the power of a code (IBA 9.7.6.1.3). None for ever.
    pub fn ack_timeout(&self) -> Option<Nanos> {
        const UNIT: Nanos = 4096;
        (self.ack_timeout != 0).then(|| UNIT << self.ack_timeout)
    }
}
