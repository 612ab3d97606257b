//! Inputs and outputs of the commands. The byte where a context begins is given beside its table.

use crate::mlx5::field::Field;

/// Fields that every command has.
pub mod header {
    use super::Field;

    pub const OPCODE: Field = Field::at(0x00, 16);
    pub const OP_MOD: Field = Field::at(0x30, 16);
    /// Output: see [`crate::mlx5::status::Status`].
    pub const STATUS: Field = Field::at(0x00, 8);
    pub const SYNDROME: Field = Field::at(0x20, 32);
    /// Shortest input.
    pub const IN_LEN: usize = 16;
    /// Shortest output of the commands that answer nothing else.
    pub const OUT_LEN: usize = 16;
}

/// The 24-bit object number of most commands: in the input it names an object, in the output a new one.
pub const OBJECT: Field = Field::at(0x48, 24);
/// The 8-bit number of an event queue, in inputs and outputs.
pub const EQ_NUMBER: Field = Field::at(0x58, 8);
/// Where contexts begin in most inputs and outputs.
pub const CONTEXT: usize = 0x10;
/// Where page lists and translation entries begin.
pub const PAGES: usize = 0x110;

pub mod issi {
    use super::Field;

    pub const CURRENT: Field = Field::at(0x50, 16);
    pub const SUPPORTED_DW0: Field = Field::at(0x360, 32);
}

pub mod pages {
    use super::Field;

    pub const COUNT: Field = Field::at(0x60, 32);
    /// MANAGE_PAGES output: how many entries follow.
    pub const OUTPUT_COUNT: Field = Field::at(0x40, 32);
}

pub mod adapter {
    use super::Field;

    pub const IEEE_VENDOR_ID: Field = Field::at(0xc8, 24).within(0x10);
    pub const VSD_VENDOR_ID: Field = Field::at(0xf0, 16).within(0x10);
    /// Byte range of the board id.
    pub const PSID: std::ops::Range<usize> = 0x100..0x110;
}

pub mod create_eq {
    use super::Field;

    /// Byte where the event mask, four 64-bit words, begins; also in QUERY_EQ's output.
    pub const EVENTS: u32 = 0x58;
    pub const EVENT_WORD: Field = Field::at(0, 64);
}

pub mod modify_cq {
    use super::Field;

    pub const FIELD_SELECT: Field = Field::at(0x60, 32);
}

pub mod mkey {
    use super::Field;

    /// The translation entries carry their own access rights.
    pub const PG_ACCESS: Field = Field::at(0x60, 1);
    pub const UMEM_VALID: Field = Field::at(0x61, 1);
    /// 16-byte units of translation entries that follow.
    pub const TRANSLATIONS_OCTWORD_ACTUAL_SIZE: Field = Field::at(0x300, 32);
}

pub mod special_contexts {
    use super::Field;

    pub const RESD_LKEY: Field = Field::at(0x60, 32);
    pub const TERMINATE_SCATTER_LIST_MKEY: Field = Field::at(0xa0, 32);
}

pub mod access_register {
    use super::Field;

    pub const REGISTER_ID: Field = Field::at(0x50, 16);
    /// Byte where the register's data begins.
    pub const DATA: usize = 0x10;
}

/// Fields of the commands that name a virtual port.
pub mod vport {
    use super::Field;

    pub const OTHER_VPORT: Field = Field::at(0x40, 1);
    pub const PORT_NUM: Field = Field::at(0x4c, 4);
    /// Index into the GID or P_Key table; 0xffff for the whole table.
    pub const INDEX: Field = Field::at(0x70, 16);
    /// QUERY_HCA_VPORT_GID output.
    pub const GIDS_NUM: Field = Field::at(0x60, 16);
}

pub mod qp {
    use super::Field;

    pub const OPT_PARAM_MASK: Field = Field::at(0x80, 32);
    /// Byte where the QP context begins.
    pub const QPC: usize = 0x18;
}

pub mod mcg {
    /// Byte where the group's GID begins.
    pub const GID: usize = 0x10;
    pub const LEN: usize = 0x20;
}

pub mod rmp {
    use super::Field;

    /// Byte where the RMP context begins.
    pub const RMPC: usize = 0x20;
    /// MODIFY_RMP: which fields to change.
    pub const BITMASK: Field = Field::at(0x80, 64);
}

pub mod arm_srq {
    use super::Field;

    /// Limit water mark.
    pub const LWM: Field = Field::at(0x70, 16);
}
