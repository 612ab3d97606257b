//! Bounce buffers as others read of them.

use super::Ledger;
use super::bounces::Bounced;
use crate::guest::{Guest, SwiotlbUsage};
use crate::memory::GuestRam;
use serde::Serialize;
use std::fmt;

/// What has gone through bounce buffers in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BounceReport {
    #[serde(flatten)]
    pub all: Bounced,
    /// The kernel's own count, where it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<SwiotlbUsage>,
    /// Largest request for which there was no room, bytes; 0 if there was room for all.
    pub largest_failure: u64,
    /// The first requests for which there was no room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<BounceFailure>,
    /// In the order in which they first mapped anything.
    pub devices: Vec<BouncedDevice>,
    /// Likewise, then by place.
    pub mappings: Vec<BouncedMapping>,
}

/// A request for which there was no room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BounceFailure {
    pub device: String,
    /// Bytes that it was to map.
    pub size: u64,
    /// Virtual time in nanoseconds.
    pub at: u64,
    /// Slots in use then.
    pub used: u64,
}

/// What a device has had bounced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BouncedDevice {
    pub device: String,
    #[serde(flatten)]
    pub bounced: Bounced,
}

/// What the mappings made at one place have had bounced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BouncedMapping {
    pub device: String,
    /// Where they were made: the caller of the DMA API first. `? ` is before what is but a guess.
    pub trace: Vec<String>,
    #[serde(flatten)]
    pub bounced: Bounced,
}

impl BounceReport {
    /// Whether the kernel counts as the ledger does; nothing if it cannot be read. A buffer that is being got or given back when
    /// the run ends may be in only one of the counts.
    #[must_use]
    pub fn agrees(&self) -> Option<bool> {
        let kernel = self.kernel?;
        let high_water = kernel.high_water.is_none_or(|high_water| high_water == self.all.high_water);
        Some(kernel.used == self.all.used && high_water)
    }
}

impl fmt::Display for BounceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.kernel.map(|kernel| kernel.slots);
        for BouncedDevice { device, bounced } in &self.devices {
            writeln!(f, "{device}: {bounced}")?;
        }
        let Bounced { used, high_water, failed, .. } = self.all;
        write!(f, "pool: {used} slots in use, at most {high_water}")?;
        slots.map_or(Ok(()), |slots| write!(f, " of {slots}"))?;
        if failed > 0 {
            write!(f, "; full {failed} times, for {} bytes at most", self.largest_failure)?;
        }
        if let (Some(false), Some(kernel)) = (self.agrees(), self.kernel) {
            write!(f, "; the kernel counts {} in use", kernel.used)?;
            kernel.high_water.map_or(Ok(()), |most| write!(f, ", at most {most}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Bounced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { maps, failed, to_device, from_device, slots, .. } = self;
        write!(
            f,
            "{maps} buffers of {slots} slots bounced, {to_device} bytes to the device, {from_device} bytes back"
        )?;
        if *failed > 0 { write!(f, ", {failed} refused") } else { Ok(()) }
    }
}

impl Ledger {
    /// What has gone through bounce buffers, if the guest has any.
    pub(super) fn bounce_report(&self, guest: &Guest, ram: &GuestRam) -> Option<BounceReport> {
        let kernel = guest.swiotlb_usage(ram);
        let kernel = kernel.inspect_err(|error| log::info!("ledger: {error}")).ok();
        let all = self.bounces.all();
        if all == Bounced::default() && kernel.is_none_or(|kernel| kernel.slots == 0) {
            return None;
        }
        let name = |device| self.name(device).to_owned();
        let failures = self.bounces.failures().iter().map(|failure| BounceFailure {
            device: name(failure.device),
            size: failure.size,
            at: failure.at,
            used: failure.used,
        });
        let devices = self.bounces.devices();
        let mappings = self.bounces.sites().map(|(site, bounced)| BouncedMapping {
            device: name(site.device),
            trace: self.described(guest, site.trace),
            bounced,
        });
        Some(BounceReport {
            all,
            kernel,
            largest_failure: self.bounces.largest_failure(),
            failures: failures.collect(),
            devices: devices
                .map(|(device, bounced)| BouncedDevice { device: name(device), bounced })
                .collect(),
            mappings: mappings.collect(),
        })
    }
}
