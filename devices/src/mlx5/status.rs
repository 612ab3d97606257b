//! Outcomes of a command: its status, and what kept it from being delivered.

/// Status byte of a command that firmware has executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Ok = 0x00,
    /// Unknown opcode, or one this function may not use.
    BadOperation = 0x02,
    BadParameter = 0x03,
    /// The device is not in the state that the command needs.
    BadSystemState = 0x04,
    /// An object is named that does not exist.
    BadResource = 0x05,
    /// A capability's limit is reached.
    LimitExceeded = 0x08,
    /// The object is still used by another.
    BadResourceState = 0x09,
    BadIndex = 0x0a,
    BadQpState = 0x10,
    BadInputLength = 0x50,
    BadOutputLength = 0x51,
}

/// Why a command failed: the status that the driver sees and a reason for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{status:?}: {reason}")]
pub struct Failure {
    pub status: Status,
    pub reason: &'static str,
}

impl Failure {
    pub const fn new(status: Status, reason: &'static str) -> Self {
        Self { status, reason }
    }

    pub const fn parameter(reason: &'static str) -> Self {
        Self::new(Status::BadParameter, reason)
    }

    pub const fn resource(reason: &'static str) -> Self {
        Self::new(Status::BadResource, reason)
    }

    pub const fn busy(reason: &'static str) -> Self {
        Self::new(Status::BadResourceState, reason)
    }

    pub const fn limit(reason: &'static str) -> Self {
        Self::new(Status::LimitExceeded, reason)
    }
}

/// Why a command could not be taken from the command queue. Reported in bits 7:1 of the entry's last byte; the
/// command has not been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum DeliveryError {
    #[error("a mailbox block carries another token than the entry")]
    Token = 0x02,
    #[error("a mailbox block carries the wrong number")]
    BlockNumber = 0x03,
    #[error("the output mailbox pointer is not aligned")]
    OutputAlignment = 0x04,
    #[error("the input mailbox pointer is not aligned")]
    InputAlignment = 0x05,
    #[error("a mailbox could not be read or written")]
    Firmware = 0x06,
    #[error("the input is too short, too long or longer than its mailboxes")]
    InputLength = 0x07,
    #[error("the output is too short, too long or longer than its mailboxes")]
    OutputLength = 0x08,
    #[error("a reserved field of the entry is not zero")]
    ReservedField = 0x09,
    #[error("the entry's transport type is unknown")]
    Descriptor = 0x10,
}
