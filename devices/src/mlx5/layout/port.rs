//! Port registers and virtual port contexts.

use crate::mlx5::field::Field;

/// HCA (InfiniBand) virtual port context.
pub mod hca_vport {
    use super::Field;

    pub const SIZE: usize = 512;
    /// Which of the other fields are to be changed.
    pub const FIELD_SELECT: Field = Field::at(0x000, 32);
    pub const PORT_PHYSICAL_STATE: Field = Field::at(0x110, 4);
    pub const PORT_STATE: Field = Field::at(0x118, 4);
    pub const VPORT_STATE: Field = Field::at(0x11c, 4);
    pub const SYSTEM_IMAGE_GUID: Field = Field::at(0x140, 64);
    pub const PORT_GUID: Field = Field::at(0x180, 64);
    pub const NODE_GUID: Field = Field::at(0x1c0, 64);
    pub const CAP_MASK1: Field = Field::at(0x200, 32);
    /// Bits of the capability mask that may be changed, or are to be.
    pub const CAP_MASK1_FIELD_SELECT: Field = Field::at(0x220, 32);
    pub const LID: Field = Field::at(0x300, 16);
    pub const SUBNET_TIMEOUT: Field = Field::at(0x31b, 5);
    pub const SM_LID: Field = Field::at(0x320, 16);
}

/// NIC (Ethernet) virtual port context.
pub mod nic_vport {
    use super::Field;

    pub const SIZE: usize = 256;
    pub const MTU: Field = Field::at(0x130, 16);
    pub const SYSTEM_IMAGE_GUID: Field = Field::at(0x140, 64);
    pub const PORT_GUID: Field = Field::at(0x180, 64);
    pub const NODE_GUID: Field = Field::at(0x1c0, 64);
    /// The MAC address in the low 48 bits.
    pub const PERMANENT_ADDRESS: Field = Field::at(0x7a0, 64);
}

/// Port type and speed register.
pub mod ptys {
    use super::Field;

    pub const LEN: usize = 64;
    pub const LOCAL_PORT: Field = Field::at(0x008, 8);
    /// Which protocol's fields are asked for.
    pub const PROTO_MASK: Field = Field::at(0x01d, 3);
    pub const PROTO_IB: u64 = 1;
    pub const PROTO_ETH: u64 = 4;
    pub const ETH_CAPABILITY: Field = Field::at(0x060, 32);
    pub const IB_WIDTH_CAPABILITY: Field = Field::at(0x080, 16);
    pub const IB_SPEED_CAPABILITY: Field = Field::at(0x090, 16);
    pub const ETH_ADMIN: Field = Field::at(0x0c0, 32);
    pub const IB_WIDTH_ADMIN: Field = Field::at(0x0e0, 16);
    pub const IB_SPEED_ADMIN: Field = Field::at(0x0f0, 16);
    pub const ETH_OPER: Field = Field::at(0x120, 32);
    pub const IB_WIDTH_OPER: Field = Field::at(0x140, 16);
    pub const IB_SPEED_OPER: Field = Field::at(0x150, 16);
}

/// Port MTU register, in bytes.
pub mod pmtu {
    use super::Field;

    pub const LEN: usize = 16;
    pub const LOCAL_PORT: Field = Field::at(0x008, 8);
    pub const MAX_MTU: Field = Field::at(0x020, 16);
    pub const ADMIN_MTU: Field = Field::at(0x040, 16);
    pub const OPER_MTU: Field = Field::at(0x060, 16);
}

/// Port virtual lanes register.
pub mod pvlc {
    use super::Field;

    pub const LEN: usize = 16;
    pub const LOCAL_PORT: Field = Field::at(0x008, 8);
    pub const VL_HW_CAP: Field = Field::at(0x03c, 4);
    pub const VL_ADMIN: Field = Field::at(0x05c, 4);
    pub const VL_OPERATIONAL: Field = Field::at(0x07c, 4);
}
