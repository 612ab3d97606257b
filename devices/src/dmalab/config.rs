//! What the device makes of the transaction attributes that descriptors ask for.

use crate::dma::DmaAttrs;
use serde::{Deserialize, Serialize};

/// Which transactions ask for PCIe No Snoop. Whether one carries it is decided by Device Control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NoSnoop {
    /// None, whatever descriptors say.
    Off,
    /// The payload of descriptors that ask for it.
    #[default]
    Descriptor,
    /// All payload. Descriptors are fetched and completed by snooped transactions.
    Payload,
    /// Every transaction: descriptors, too, are fetched and completed without snooping.
    All,
}

/// Which payload writes ask for PCIe Relaxed Ordering. Nothing else ever does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RelaxedOrdering {
    /// None, whatever descriptors say.
    Off,
    /// Those of descriptors that ask for it.
    #[default]
    Descriptor,
    /// All.
    Payload,
}

/// Configuration of a [`Dmalab`](super::Dmalab) device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DmalabConfig {
    pub no_snoop: NoSnoop,
    pub relaxed_ordering: RelaxedOrdering,
}

impl DmalabConfig {
    /// Attributes of transactions on descriptors themselves.
    pub(super) fn control(&self) -> DmaAttrs {
        DmaAttrs { no_snoop: self.no_snoop == NoSnoop::All, ..DmaAttrs::default() }
    }

    /// Attributes of payload for which a descriptor asks for those in `wanted`.
    pub(super) fn payload(&self, wanted: DmaAttrs) -> DmaAttrs {
        DmaAttrs {
            no_snoop: match self.no_snoop {
                NoSnoop::Off => false,
                NoSnoop::Descriptor => wanted.no_snoop,
                NoSnoop::Payload | NoSnoop::All => true,
            },
            relaxed_ordering: match self.relaxed_ordering {
                RelaxedOrdering::Off => false,
                RelaxedOrdering::Descriptor => wanted.relaxed_ordering,
                RelaxedOrdering::Payload => true,
            },
            ..wanted
        }
    }

    /// As the guest is told. Bits 1:0 are no-snoop: 0 off, 1 as descriptors say, 2 all payload, 3 everything; bits 5:4 are
    /// relaxed ordering: 0 off, 1 as descriptors say, 2 all payload.
    pub(super) fn describe(&self) -> u32 {
        let no_snoop = match self.no_snoop {
            NoSnoop::Off => 0,
            NoSnoop::Descriptor => 1,
            NoSnoop::Payload => 2,
            NoSnoop::All => 3,
        };
        let relaxed = match self.relaxed_ordering {
            RelaxedOrdering::Off => 0,
            RelaxedOrdering::Descriptor => 1,
            RelaxedOrdering::Payload => 2,
        };
        no_snoop | relaxed << 4
    }
}
