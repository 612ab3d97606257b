//! What lies between the machine's devices and its memory, and what of memory the guest shares with them.

use super::Machine;
use super::guest::KnownGuest;
use crate::findings::agent_name;
use crate::ledger::Share;
use crate::quantity::{parse_number, parse_size};
use cache_model::Agent;
use devices::iommu::{Allocation, Blocked, Iommu, Policy, Shared, Span};
use devices::pci::Bdf;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// `--iommu` as it was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IommuSpec {
    /// Devices reach all of memory.
    #[default]
    Off,
    /// Devices reach what the guest shares: its bounce buffers, and what it has allocated for them.
    Bounce,
    /// Devices reach these addresses.
    Window { base: u64, size: u64 },
}

impl IommuSpec {
    pub(super) fn build(self) -> Option<Iommu> {
        let policy = match self {
            Self::Off => return None,
            Self::Bounce => Policy::Bounce(Shared::default()),
            Self::Window { base, size } => Policy::Window(Span::new(base, size)),
        };
        Some(Iommu::new(policy))
    }
}

impl FromStr for IommuSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => return Ok(Self::Off),
            "bounce" => return Ok(Self::Bounce),
            _ => {}
        }
        let window = text.strip_prefix("window=").ok_or("it is off, bounce or window=BASE+SIZE")?;
        let (base, size) = window.split_once('+').ok_or("a window is BASE+SIZE, as window=0+1G")?;
        let number = |text: &str| match parse_number(text) {
            Some(number) => Ok(number),
            None => parse_size(text).map_err(|error| format!("{text:?}: {error}")),
        };
        let (base, size) = (number(base)?, number(size)?);
        if size == 0 || base.checked_add(size).is_none() {
            return Err("there are no such addresses".into());
        }
        Ok(Self::Window { base, size })
    }
}

impl fmt::Display for IommuSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Bounce => f.write_str("bounce"),
            Self::Window { base, size } => write!(f, "window={base:#x}+{size:#x}"),
        }
    }
}

/// What the IOMMU has not let through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IommuStatistics {
    /// Functions of which it has blocked something.
    pub blocked: Vec<BlockedFunction>,
    /// The bounce buffers, if the guest's memory is known to have them: first address and bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<(u64, u64)>,
}

/// Requests of a function that were not let through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockedFunction {
    pub device: String,
    #[serde(flatten)]
    pub requests: Blocked,
}

impl Machine {
    /// Tells the IOMMU what the guest has come to share with its devices, where that is what it goes by.
    pub(super) fn share_memory(&mut self) {
        let (Some(ledger), Some(shared)) =
            (&mut self.ledger, self.iommu.as_deref_mut().and_then(Iommu::shared_mut))
        else {
            return;
        };
        for share in ledger.take_shares() {
            match share {
                Share::Begins { id, device, addr, len } => {
                    // Of what is no PCI function nobody asks.
                    if let Ok(function) = u16::try_from(device) {
                        let function = Bdf::from_bits(function);
                        shared.allocate(id, Allocation { function, span: Span::new(addr, len) });
                    }
                }
                Share::Ends { id } => shared.free(id),
            }
        }
        if shared.pools().is_empty()
            && let KnownGuest::Found(guest) = &self.guest
        {
            match guest.swiotlb(&self.memory.ram) {
                Ok(Some(pool)) => shared.add_pool(Span { start: pool.start, end: pool.end }),
                Ok(None) => {}
                Err(error) => self.unconfined = Some(error.to_string()),
            }
        }
    }

    /// Why it cannot be known what the guest shares with its devices, although the IOMMU goes by that.
    #[must_use]
    pub fn unconfined(&self) -> Option<String> {
        let shares = self.iommu.as_ref().is_some_and(|iommu| matches!(iommu.policy(), Policy::Bounce(_)));
        if !shares {
            return None;
        }
        let ledger = self.ledger.as_ref().and_then(|ledger| ledger.gave_up());
        self.unconfined.clone().or_else(|| ledger.map(|reason| format!("the ledger is off: {reason}")))
    }

    /// What the IOMMU has not let through, if there is one.
    #[must_use]
    pub fn iommu_statistics(&self) -> Option<IommuStatistics> {
        let iommu = self.iommu.as_deref()?;
        let blocked = iommu.blocked().map(|(function, requests)| {
            let agent = Agent::Device(function.to_bits().into());
            BlockedFunction { device: agent_name(agent, &self.devices), requests }
        });
        let pools = match iommu.policy() {
            Policy::Bounce(shared) => shared.pools(),
            Policy::Window(_) => &[],
        };
        let pools = pools.iter().map(|pool| (pool.start, pool.end.saturating_sub(pool.start)));
        Some(IommuStatistics { blocked: blocked.collect(), pools: pools.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_and_written() {
        for (text, spec) in [
            ("off", IommuSpec::Off),
            ("bounce", IommuSpec::Bounce),
            ("window=0+1G", IommuSpec::Window { base: 0, size: 1 << 30 }),
            ("window=0x1000+0x2000", IommuSpec::Window { base: 0x1000, size: 0x2000 }),
        ] {
            assert_eq!(text.parse(), Ok(spec));
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
        for bad in [
            "on",
            "",
            "window",
            "window=",
            "window=1G",
            "window=0+0",
            "window=x+1",
            "window=0xffffffffffffffff+2",
        ] {
            assert!(bad.parse::<IommuSpec>().is_err(), "{bad}");
        }
    }
}
