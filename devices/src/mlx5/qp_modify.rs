//! Which transitions of a queue pair's state there are, and which fields of its context each takes over.

use super::field::Field;
use super::layout::contexts::{ads, qpc};
use super::qp::{State, Transport};

/// A transition by one command.
#[derive(Debug, Clone, Copy)]
pub struct Transition {
    pub from: &'static [State],
    pub to: State,
    /// Fields taken whatever the mask of optional parameters says.
    required: &'static [Field],
    /// What of the primary address path is taken.
    path: Path,
}

/// The part of the primary address path that a transition takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    None,
    /// Port and P_Key, before there is a peer.
    Local,
    /// The route to the peer of a connected queue pair.
    Route,
    /// How long an acknowledgement may take.
    AckTimeout,
}

pub const RESET_TO_INIT: Transition = Transition {
    from: &[State::Reset],
    to: State::Init,
    required: &[
        qpc::LAG_TX_PORT_AFFINITY,
        qpc::PM_STATE,
        qpc::MTU,
        qpc::LOG_MSG_MAX,
        qpc::RLKY,
        qpc::COUNTER_SET_ID,
        qpc::DETH_SQPN,
        qpc::ATOMIC_MODE,
        qpc::RRE,
        qpc::RWE,
        qpc::RAE,
        qpc::Q_KEY,
    ],
    path: Path::Local,
};

pub const INIT_TO_INIT: Transition =
    Transition { from: &[State::Init], to: State::Init, required: &[], path: Path::None };

pub const INIT_TO_RTR: Transition = Transition {
    from: &[State::Init],
    to: State::ReadyToReceive,
    required: &[
        qpc::MTU,
        qpc::LOG_MSG_MAX,
        qpc::REMOTE_QPN,
        qpc::NEXT_RCV_PSN,
        qpc::LOG_RRA_MAX,
        qpc::MIN_RNR_NAK,
    ],
    path: Path::Route,
};

pub const RTR_TO_RTS: Transition = Transition {
    from: &[State::ReadyToReceive],
    to: State::ReadyToSend,
    required: &[
        qpc::LOG_ACK_REQ_FREQ,
        qpc::LOG_SRA_MAX,
        qpc::RETRY_COUNT,
        qpc::RNR_RETRY,
        qpc::NEXT_SEND_PSN,
    ],
    path: Path::AckTimeout,
};

pub const RTS_TO_RTS: Transition =
    Transition { from: &[State::ReadyToSend], to: State::ReadyToSend, required: &[], path: Path::None };

pub const SQ_ERROR_TO_RTS: Transition =
    Transition { from: &[State::SendQueueError], to: State::ReadyToSend, required: &[], path: Path::None };

/// Fields that a bit of the mask of optional parameters takes over.
const OPTIONAL: &[(u32, Field)] = &[
    (1, qpc::RRE),
    (2, qpc::RAE),
    (2, qpc::ATOMIC_MODE),
    (3, qpc::RWE),
    (4, ads::PKEY_INDEX.within(qpc::PRIMARY_PATH)),
    (5, qpc::Q_KEY),
    (6, qpc::MIN_RNR_NAK),
    (8, qpc::LOG_SRA_MAX),
    (9, qpc::LOG_RRA_MAX),
    (10, qpc::PM_STATE),
    (12, qpc::RETRY_COUNT),
    (13, qpc::RNR_RETRY),
    (14, ads::ACK_TIMEOUT.within(qpc::PRIMARY_PATH)),
    (15, qpc::LAG_TX_PORT_AFFINITY),
    (16, ads::VHCA_PORT_NUM.within(qpc::PRIMARY_PATH)),
    (25, qpc::COUNTER_SET_ID),
];

/// Bits of the mask that take over a whole address path.
const ALTERNATE_PATH_BIT: u32 = 0;
const PRIMARY_PATH_BIT: u32 = 7;

impl Transition {
    /// Takes over what this transition and `mask` allow from the context `wanted`.
    pub fn apply(&self, wanted: &[u8], mask: u32, transport: Transport, context: &mut [u8; qpc::SIZE]) {
        for field in self.required {
            field.copy(wanted, context);
        }
        let pkey = ads::PKEY_INDEX.within(qpc::PRIMARY_PATH);
        let port = ads::VHCA_PORT_NUM.within(qpc::PRIMARY_PATH);
        let timeout = ads::ACK_TIMEOUT.within(qpc::PRIMARY_PATH);
        match self.path {
            Path::Local => {
                pkey.copy(wanted, context);
                port.copy(wanted, context);
            }
            Path::Route if transport.is_connected() => {
                // The driver fills in only what this transition is about: P_Key, port and timeout stay.
                let kept = [pkey, port, timeout].map(|field| (field, field.get(context)));
                copy_path(qpc::PRIMARY_PATH, wanted, context);
                for (field, value) in kept {
                    field.set(context, value);
                }
            }
            Path::AckTimeout => timeout.copy(wanted, context),
            Path::Route | Path::None => {}
        }
        for (bit, field) in OPTIONAL {
            if mask >> bit & 1 != 0 {
                field.copy(wanted, context);
            }
        }
        for (bit, path) in [(ALTERNATE_PATH_BIT, qpc::SECONDARY_PATH), (PRIMARY_PATH_BIT, qpc::PRIMARY_PATH)]
        {
            if mask >> bit & 1 != 0 {
                copy_path(path, wanted, context);
            }
        }
    }
}

fn copy_path(base: u32, wanted: &[u8], context: &mut [u8; qpc::SIZE]) {
    let range = base as usize..(base + ads::SIZE) as usize;
    if let (Some(from), Some(to)) = (wanted.get(range.clone()), context.get_mut(range)) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::{INIT_TO_RTR, RESET_TO_INIT};
    use crate::mlx5::layout::contexts::{ads, qpc};
    use crate::mlx5::qp::Transport;

    #[test]
    fn a_route_leaves_what_init_has_set() {
        let pkey = ads::PKEY_INDEX.within(qpc::PRIMARY_PATH);
        let port = ads::VHCA_PORT_NUM.within(qpc::PRIMARY_PATH);
        let rlid = ads::RLID.within(qpc::PRIMARY_PATH);
        let mut context = [0; qpc::SIZE];
        let mut wanted = [0; qpc::SIZE];
        pkey.set(&mut wanted, 3);
        port.set(&mut wanted, 1);
        qpc::RRE.set(&mut wanted, 1);
        RESET_TO_INIT.apply(&wanted, 0, Transport::ReliableConnection, &mut context);

        let mut wanted = [0; qpc::SIZE];
        rlid.set(&mut wanted, 7);
        qpc::REMOTE_QPN.set(&mut wanted, 20);
        INIT_TO_RTR.apply(&wanted, 0, Transport::ReliableConnection, &mut context);
        assert_eq!((pkey.get(&context), port.get(&context), rlid.get(&context)), (3, 1, 7));
        assert_eq!(qpc::REMOTE_QPN.get(&context), 20);
        assert!(qpc::RRE.is_set(&context), "not in the mask");

        INIT_TO_RTR.apply(&wanted, 1 << 1, Transport::ReliableConnection, &mut context);
        assert!(!qpc::RRE.is_set(&context), "in the mask");
    }
}
