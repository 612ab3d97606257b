//! Memory encryption, as the machine's owner asks for it and hears of it.

use super::Machine;
use crate::findings::{Raw, SavedAccess, agent_name};
use crate::ledger::Ledger;
use crate::memory::encryption::PrivateAccess;
use cache_model::Agent;
use cache_model::ledger::Transfer;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A kind of memory encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Confidential {
    /// AMD SEV, without the encrypted state of SEV-ES and the integrity of SEV-SNP.
    Sev,
}

/// What an encrypted guest has shared with its devices, and what they have accessed all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfidentialStatistics {
    /// Bytes of the pages that the guest last accessed as shared.
    pub shared_bytes: u64,
    /// Devices that have accessed memory which the guest had not shared.
    pub private_dma: Vec<PrivateDma>,
}

/// Transactions of a device of which a byte was private.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrivateDma {
    pub device: String,
    pub transactions: u64,
}

impl Machine {
    /// What has become of the guest's memory encryption, if it is shown any.
    #[must_use]
    pub fn confidential_statistics(&self) -> Option<ConfidentialStatistics> {
        let encryption = self.memory.encryption.as_ref()?;
        let private_dma = encryption.private_accesses().iter().map(|(&device, &transactions)| PrivateDma {
            device: agent_name(Agent::Device(device), &self.devices),
            transactions,
        });
        Some(ConfidentialStatistics {
            shared_bytes: encryption.shared_bytes(),
            private_dma: private_dma.collect(),
        })
    }

    /// Makes observations of what devices have accessed of private memory.
    pub(super) fn observe_private_dma(&mut self) {
        let Some(encryption) = &mut self.memory.encryption else { return };
        for access in encryption.take_accesses() {
            let PrivateAccess { device, write, address: addr, outside, inside, no_snoop, purpose, at } =
                access;
            let ledger = self.ledger.as_deref().filter(|ledger| ledger.coverage().mappings);
            let nearest = ledger.map(Ledger::mappings).and_then(|mappings| mappings.nearest(device, addr, 1));
            let entry = nearest.cloned().map(Box::new);
            let (transfer, data, instead_of) =
                if write { (Transfer::Write, inside, outside) } else { (Transfer::Read, outside, inside) };
            let access = SavedAccess { device, transfer, addr, data, no_snoop, purpose, stamp: at };
            self.findings.observe(Raw::Private { access, instead_of, entry });
        }
    }
}
