//! What a transaction is for, as its device knows it: for whoever reports what became of the bytes. Nothing depends on it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    RdmaWrite = 1,
    RdmaRead,
    RdmaAtomic,
    /// What a request sends.
    Sent,
    /// What a receive, an RDMA READ or an atomic brings back.
    Received,
    SendRequest,
    ReceiveRequest,
    DoorbellRecord,
    Completion,
    Event,
    Command,
}

const WHATS: [(What, &str); 11] = [
    (What::RdmaWrite, "RDMA WRITE"),
    (What::RdmaRead, "RDMA READ"),
    (What::RdmaAtomic, "RDMA atomic"),
    (What::Sent, "payload to send"),
    (What::Received, "payload received"),
    (What::SendRequest, "send WQE"),
    (What::ReceiveRequest, "receive WQE"),
    (What::DoorbellRecord, "doorbell record"),
    (What::Completion, "CQE"),
    (What::Event, "EQE"),
    (What::Command, "command"),
];

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Object {
    QueuePair = 1,
    SharedReceiveQueue,
    CompletionQueue,
    EventQueue,
    CommandSlot,
}

/// What their numbers are called.
const OBJECTS: [(Object, &str); 5] = [
    (Object::QueuePair, "qpn"),
    (Object::SharedReceiveQueue, "srqn"),
    (Object::CompletionQueue, "cqn"),
    (Object::EventQueue, "eqn"),
    (Object::CommandSlot, "slot"),
];

/// What (bits 63:60, 0 for nothing known), for which kind of object (59:56) by its number (55:32), and by which memory key
/// (31:0, 0 for none).
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purpose(u64);

impl Purpose {
    const WHAT: u32 = 60;
    const OBJECT: u32 = 56;
    const NUMBER: u32 = 32;
    const NUMBER_MASK: u64 = 0xff_ffff;

    /// For the object `number`, of which the lower 24 bits are kept.
    #[must_use]
    pub const fn new(what: What, object: Object, number: u32) -> Self {
        let number = (number as u64 & Self::NUMBER_MASK) << Self::NUMBER;
        Self((object as u64) << Self::OBJECT | number).but(what)
    }

    /// Something else for the same object.
    #[must_use]
    pub const fn but(self, what: What) -> Self {
        Self(self.0 & !(0xf << Self::WHAT) | (what as u64) << Self::WHAT)
    }

    /// The same by a memory key.
    #[must_use]
    pub const fn by_key(self, key: u32) -> Self {
        Self(self.0 & !0xffff_ffff | key as u64)
    }

    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The one with these bits; bits that no purpose has are one of which nothing is known.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// In words; none if nothing is known.
    #[must_use]
    pub fn describe(self) -> Option<String> {
        let what = self.0 >> Self::WHAT;
        let object = self.0 >> Self::OBJECT & 0xf;
        let (_, what) = WHATS.iter().find(|(known, _)| *known as u64 == what)?;
        let (_, object) = OBJECTS.iter().find(|(known, _)| *known as u64 == object)?;
        let number = self.0 >> Self::NUMBER & Self::NUMBER_MASK;
        Some(match self.0 as u32 {
            0 => format!("{what} {object} {number:#x}"),
            key => format!("{what} {object} {number:#x} mkey {key:#x}"),
        })
    }
}

impl fmt::Debug for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Purpose({})", self.describe().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_are_told_in_words_and_bits() {
        let write = Purpose::new(What::RdmaWrite, Object::QueuePair, 0x4a).by_key(0x1234);
        assert_eq!(write.describe().unwrap(), "RDMA WRITE qpn 0x4a mkey 0x1234");
        assert_eq!(write.but(What::RdmaRead).describe().unwrap(), "RDMA READ qpn 0x4a mkey 0x1234");
        assert_eq!(Purpose::from_bits(write.to_bits()), write);
        let completion = Purpose::new(What::Completion, Object::CompletionQueue, 0xff00_0001);
        assert_eq!(completion.describe().unwrap(), "CQE cqn 0x1");
        for (what, what_name) in WHATS {
            for (object, object_name) in OBJECTS {
                let text = Purpose::new(what, object, 7).describe().unwrap();
                assert_eq!(text, format!("{what_name} {object_name} 0x7"));
            }
        }
        for bits in [0, 5, 0xf << 60, 1 << 60] {
            assert_eq!(Purpose::from_bits(bits).describe(), None);
        }
    }
}
