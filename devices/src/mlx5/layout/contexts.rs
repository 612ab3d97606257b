//! Contexts: the state of an object as the driver gives it and queries it.

use crate::mlx5::field::Field;

/// Event queue context.
pub mod eqc {
    use super::Field;

    pub const SIZE: usize = 64;
    pub const STATUS: Field = Field::at(0x000, 4);
    pub const OVERRUN_IGNORE: Field = Field::at(0x00e, 1);
    pub const ST: Field = Field::at(0x014, 4);
    pub const PAGE_OFFSET: Field = Field::at(0x054, 6);
    pub const LOG_EQ_SIZE: Field = Field::at(0x063, 5);
    pub const UAR_PAGE: Field = Field::at(0x068, 24);
    pub const INTR: Field = Field::at(0x0b4, 12);
    pub const LOG_PAGE_SIZE: Field = Field::at(0x0c3, 5);
    pub const CONSUMER_COUNTER: Field = Field::at(0x148, 24);
    pub const PRODUCER_COUNTER: Field = Field::at(0x168, 24);
}

/// Completion queue context.
pub mod cqc {
    use super::Field;

    pub const SIZE: usize = 64;
    pub const STATUS: Field = Field::at(0x000, 4);
    pub const DBR_UMEM_VALID: Field = Field::at(0x006, 1);
    pub const CQE_SZ: Field = Field::at(0x008, 3);
    /// Overruns are ignored.
    pub const OI: Field = Field::at(0x00e, 1);
    pub const ST: Field = Field::at(0x014, 4);
    pub const PAGE_OFFSET: Field = Field::at(0x054, 6);
    pub const LOG_CQ_SIZE: Field = Field::at(0x063, 5);
    pub const UAR_PAGE: Field = Field::at(0x068, 24);
    pub const CQ_PERIOD: Field = Field::at(0x084, 12);
    pub const CQ_MAX_COUNT: Field = Field::at(0x090, 16);
    pub const C_EQN: Field = Field::at(0x0a0, 32);
    pub const LOG_PAGE_SIZE: Field = Field::at(0x0c3, 5);
    pub const CONSUMER_COUNTER: Field = Field::at(0x148, 24);
    pub const PRODUCER_COUNTER: Field = Field::at(0x168, 24);
    pub const DBR_ADDR: Field = Field::at(0x1c0, 64);
}

/// Queue pair context.
pub mod qpc {
    use super::Field;

    pub const SIZE: usize = 232;
    pub const STATE: Field = Field::at(0x000, 4);
    pub const LAG_TX_PORT_AFFINITY: Field = Field::at(0x004, 4);
    pub const ST: Field = Field::at(0x008, 8);
    pub const PM_STATE: Field = Field::at(0x013, 2);
    pub const PD: Field = Field::at(0x028, 24);
    pub const MTU: Field = Field::at(0x040, 3);
    pub const LOG_MSG_MAX: Field = Field::at(0x043, 5);
    pub const LOG_RQ_SIZE: Field = Field::at(0x049, 4);
    pub const LOG_RQ_STRIDE: Field = Field::at(0x04d, 3);
    pub const NO_SQ: Field = Field::at(0x050, 1);
    pub const LOG_SQ_SIZE: Field = Field::at(0x051, 4);
    pub const RLKY: Field = Field::at(0x05b, 1);
    pub const COUNTER_SET_ID: Field = Field::at(0x060, 8);
    pub const UAR_PAGE: Field = Field::at(0x068, 24);
    pub const USER_INDEX: Field = Field::at(0x088, 24);
    pub const LOG_PAGE_SIZE: Field = Field::at(0x0a3, 5);
    pub const REMOTE_QPN: Field = Field::at(0x0a8, 24);
    /// Byte where the primary address path begins.
    pub const PRIMARY_PATH: u32 = 0x18;
    /// Byte where the alternate address path begins.
    pub const SECONDARY_PATH: u32 = 0x44;
    pub const LOG_ACK_REQ_FREQ: Field = Field::at(0x380, 4);
    pub const LOG_SRA_MAX: Field = Field::at(0x388, 3);
    pub const RETRY_COUNT: Field = Field::at(0x38d, 3);
    pub const RNR_RETRY: Field = Field::at(0x390, 3);
    pub const NEXT_SEND_PSN: Field = Field::at(0x3c8, 24);
    pub const CQN_SND: Field = Field::at(0x3e8, 24);
    pub const DETH_SQPN: Field = Field::at(0x408, 24);
    pub const LOG_RRA_MAX: Field = Field::at(0x488, 3);
    pub const ATOMIC_MODE: Field = Field::at(0x48c, 4);
    pub const RRE: Field = Field::at(0x490, 1);
    pub const RWE: Field = Field::at(0x491, 1);
    pub const RAE: Field = Field::at(0x492, 1);
    pub const PAGE_OFFSET: Field = Field::at(0x494, 6);
    pub const MIN_RNR_NAK: Field = Field::at(0x4a3, 5);
    pub const NEXT_RCV_PSN: Field = Field::at(0x4a8, 24);
    pub const XRCD: Field = Field::at(0x4c8, 24);
    pub const CQN_RCV: Field = Field::at(0x4e8, 24);
    pub const DBR_ADDR: Field = Field::at(0x500, 64);
    pub const Q_KEY: Field = Field::at(0x540, 32);
    pub const RQ_TYPE: Field = Field::at(0x565, 3);
    pub const SRQN: Field = Field::at(0x568, 24);
    pub const HW_SQ_WQEBB_COUNTER: Field = Field::at(0x5a0, 16);
    pub const SW_SQ_WQEBB_COUNTER: Field = Field::at(0x5b0, 16);
    pub const HW_RQ_COUNTER: Field = Field::at(0x5c0, 32);
    pub const SW_RQ_COUNTER: Field = Field::at(0x5e0, 32);
    pub const DBR_UMEM_VALID: Field = Field::at(0x683, 1);
}

/// Address path inside a QP context.
pub mod ads {
    use super::Field;

    pub const SIZE: u32 = 44;
    pub const PKEY_INDEX: Field = Field::at(0x10, 16);
    pub const RLID: Field = Field::at(0x30, 16);
    pub const ACK_TIMEOUT: Field = Field::at(0x40, 5);
    pub const SL: Field = Field::at(0x124, 4);
    pub const VHCA_PORT_NUM: Field = Field::at(0x128, 8);
}

/// XRC shared receive queue context.
pub mod xrc_srqc {
    use super::Field;

    pub const SIZE: usize = 64;
    pub const STATE: Field = Field::at(0x000, 4);
    pub const LOG_SIZE: Field = Field::at(0x004, 4);
    pub const LOG_RQ_STRIDE: Field = Field::at(0x025, 3);
    pub const XRCD: Field = Field::at(0x028, 24);
    pub const PAGE_OFFSET: Field = Field::at(0x040, 6);
    pub const DBR_UMEM_VALID: Field = Field::at(0x047, 1);
    pub const CQN: Field = Field::at(0x048, 24);
    pub const LOG_PAGE_SIZE: Field = Field::at(0x082, 6);
    pub const USER_INDEX: Field = Field::at(0x088, 24);
    pub const PD: Field = Field::at(0x0c8, 24);
    pub const LWM: Field = Field::at(0x0e0, 16);
    pub const DBR_ADDR: Field = Field::at(0x140, 64);
}

/// Receive memory pool context, which holds a work queue.
pub mod rmpc {
    use super::Field;

    pub const SIZE: usize = 240;
    pub const STATE: Field = Field::at(0x008, 4);
    /// Byte where the work queue begins.
    pub const WQ: u32 = 0x30;
}

/// Work queue inside a context.
pub mod wq {
    use super::Field;

    pub const PAGE_OFFSET: Field = Field::at(0x02b, 5);
    pub const LWM: Field = Field::at(0x030, 16);
    pub const PD: Field = Field::at(0x048, 24);
    pub const DBR_ADDR: Field = Field::at(0x080, 64);
    pub const LOG_WQ_STRIDE: Field = Field::at(0x10c, 4);
    pub const LOG_WQ_PG_SZ: Field = Field::at(0x113, 5);
    pub const LOG_WQ_SZ: Field = Field::at(0x11b, 5);
    pub const DBR_UMEM_VALID: Field = Field::at(0x120, 1);
    pub const WQ_UMEM_VALID: Field = Field::at(0x121, 1);
}

/// Memory key context.
pub mod mkc {
    use super::Field;

    pub const SIZE: usize = 64;
    pub const FREE: Field = Field::at(0x001, 1);
    pub const ACCESS_MODE_4_2: Field = Field::at(0x003, 3);
    pub const RELAXED_ORDERING_WRITE: Field = Field::at(0x00d, 1);
    pub const UMR_EN: Field = Field::at(0x010, 1);
    pub const ATOMIC: Field = Field::at(0x011, 1);
    pub const REMOTE_WRITE: Field = Field::at(0x012, 1);
    pub const REMOTE_READ: Field = Field::at(0x013, 1);
    pub const LOCAL_WRITE: Field = Field::at(0x014, 1);
    pub const LOCAL_READ: Field = Field::at(0x015, 1);
    pub const ACCESS_MODE_1_0: Field = Field::at(0x016, 2);
    pub const QPN: Field = Field::at(0x020, 24);
    pub const MKEY_7_0: Field = Field::at(0x038, 8);
    pub const LENGTH64: Field = Field::at(0x060, 1);
    pub const EN_RINVAL: Field = Field::at(0x067, 1);
    pub const PD: Field = Field::at(0x068, 24);
    pub const START_ADDR: Field = Field::at(0x080, 64);
    pub const LEN: Field = Field::at(0x0c0, 64);
    pub const TRANSLATIONS_OCTWORD_SIZE: Field = Field::at(0x1a0, 32);
    pub const RELAXED_ORDERING_READ: Field = Field::at(0x1d9, 1);
    pub const LOG_PAGE_SIZE: Field = Field::at(0x1da, 6);
    /// The two parts of the page size that a work request changes apart.
    pub const LOG_PAGE_SIZE_5: Field = Field::at(0x1da, 1);
    pub const LOG_PAGE_SIZE_4_0: Field = Field::at(0x1db, 5);
}
