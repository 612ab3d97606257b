//! Capability structures of QUERY_HCA_CAP and SET_HCA_CAP.

/// Bytes of one capability structure.
pub const SIZE: usize = 256;

/// General device capabilities (`cmd_hca_cap`, type 0).
pub mod general {
    use crate::mlx5::field::Field;

    pub const VHCA_ID: Field = Field::at(0x030, 16);
    pub const LOG_MAX_SRQ_SZ: Field = Field::at(0x080, 8);
    pub const LOG_MAX_QP_SZ: Field = Field::at(0x088, 8);
    pub const LOG_MAX_QP: Field = Field::at(0x09b, 5);
    pub const LOG_MAX_SRQ: Field = Field::at(0x0ab, 5);
    pub const LOG_MAX_CQ_SZ: Field = Field::at(0x0c8, 8);
    pub const LOG_MAX_CQ: Field = Field::at(0x0db, 5);
    pub const LOG_MAX_EQ_SZ: Field = Field::at(0x0e0, 8);
    pub const LOG_MAX_MKEY: Field = Field::at(0x0ea, 6);
    pub const LOG_MAX_EQ: Field = Field::at(0x0fc, 4);
    pub const LOG_MAX_MRW_SZ: Field = Field::at(0x109, 7);
    pub const UMR_EXTENDED_TRANSLATION_OFFSET: Field = Field::at(0x118, 1);
    pub const LOG_MAX_KLM_LIST_SIZE: Field = Field::at(0x11a, 6);
    pub const LOG_MAX_RA_REQ_QP: Field = Field::at(0x14a, 6);
    pub const LOG_MAX_RA_RES_QP: Field = Field::at(0x15a, 6);
    pub const GID_TABLE_SIZE: Field = Field::at(0x170, 16);
    pub const PKEY_TABLE_SIZE: Field = Field::at(0x190, 16);
    pub const IB_VIRT: Field = Field::at(0x1a2, 1);
    pub const LOCAL_CA_ACK_DELAY: Field = Field::at(0x1ab, 5);
    pub const PORT_TYPE: Field = Field::at(0x1b6, 2);
    pub const NUM_PORTS: Field = Field::at(0x1b8, 8);
    pub const LOG_MAX_MSG: Field = Field::at(0x1c3, 5);
    pub const CQE_VERSION: Field = Field::at(0x1fc, 4);
    pub const COMPACT_ADDRESS_VECTOR: Field = Field::at(0x200, 1);
    pub const UMR_MODIFY_ENTITY_SIZE_DISABLED: Field = Field::at(0x207, 1);
    pub const ATOMIC: Field = Field::at(0x21e, 1);
    /// Memory windows.
    pub const IMAICL: Field = Field::at(0x231, 1);
    pub const XRC: Field = Field::at(0x23c, 1);
    pub const UD: Field = Field::at(0x23d, 1);
    pub const UC: Field = Field::at(0x23e, 1);
    pub const RC: Field = Field::at(0x23f, 1);
    pub const LOG_PG_SZ: Field = Field::at(0x258, 8);
    pub const LOG_BF_REG_SIZE: Field = Field::at(0x26b, 5);
    pub const MAX_WQE_SZ_SQ: Field = Field::at(0x290, 16);
    pub const MAX_WQE_SZ_RQ: Field = Field::at(0x2b0, 16);
    pub const MAX_QP_MCG: Field = Field::at(0x2e7, 25);
    pub const LOG_MAX_MCG: Field = Field::at(0x318, 8);
    pub const LOG_MAX_TRANSPORT_DOMAIN: Field = Field::at(0x323, 5);
    pub const LOG_MAX_PD: Field = Field::at(0x32b, 5);
    pub const LOG_MAX_XRCD: Field = Field::at(0x33b, 5);
    pub const LOG_MAX_RQ: Field = Field::at(0x363, 5);
    pub const LOG_MAX_SQ: Field = Field::at(0x36b, 5);
    pub const LOG_MAX_TIR: Field = Field::at(0x373, 5);
    pub const LOG_MAX_TIS: Field = Field::at(0x37b, 5);
    pub const LOG_MAX_STRIDE_SZ_RQ: Field = Field::at(0x3a3, 5);
    pub const LOG_MAX_STRIDE_SZ_SQ: Field = Field::at(0x3b3, 5);
    pub const LOG_MAX_WQ_SZ: Field = Field::at(0x3db, 5);
    pub const DEVICE_FREQUENCY_KHZ: Field = Field::at(0x4e0, 32);
}

/// Atomic capabilities (type 3).
pub mod atomic {
    use crate::mlx5::field::Field;

    /// The byte order of operands in memory that is in force: 1 for the host's.
    pub const HOST_ENDIANNESS: Field = Field::at(0x040, 2);
    pub const HOST_ENDIANNESS_SUPPORTED: Field = Field::at(0x046, 1);
    /// Bit 0: compare and swap, bit 1: fetch and add.
    pub const OPERATIONS: Field = Field::at(0x090, 16);
    /// Operand sizes a QP takes, one bit per power of two (bit 3: 8 bytes).
    pub const SIZE_QP: Field = Field::at(0x0b0, 16);
}
