//! The root complex: host bridge 00:00.0, root ports 00:01.0-00:08.0, configuration and memory routing.

use super::config_space::{ConfigSpace, Register, header};
use super::endpoint::{AttachError, Endpoint};
use super::firmware::{self, AssignError, ResourceWindows};
use super::root_port::RootPort;
use super::{Bdf, Host, PciDevice, Slot};
use crate::bus::{Access, AccessError, AccessLog, RangeMap};
use crate::state::{Loader, SaveState, Saver, StateError};

#[cfg(test)]
mod tests;

/// Number of root ports, each with one slot.
pub const ROOT_PORTS: u8 = 8;

/// IDs of a generic PCI Express host bridge, which no driver has quirks for.
const HOST_BRIDGE_VENDOR_ID: u32 = 0x1b36;
const HOST_BRIDGE_DEVICE_ID: u32 = 0x0008;
const CLASS_HOST_BRIDGE: u32 = 0x0600;

const CONFIG_ADDRESS_ENABLE: u32 = 1 << 31;

/// What decodes an address: a BAR and its base.
#[derive(Debug, Clone, Copy)]
struct Claim {
    slot: Slot,
    bar: u8,
    base: u64,
}

/// All of PCI Express in a machine.
#[derive(Debug, Clone)]
pub struct RootComplex {
    host_bridge: ConfigSpace,
    ports: Vec<RootPort>,
    /// The CF8 register.
    config_address: u32,
    /// Every decoded address; rebuilt when a decode register changes.
    map: RangeMap<Claim>,
    log: AccessLog,
}

impl Default for RootComplex {
    fn default() -> Self {
        Self::new()
    }
}

/// Devices are not saved but their states: a state is restored when what it was saved of is attached again.
impl SaveState for RootComplex {
    fn save(&self, to: &mut Saver) -> Result<(), StateError> {
        self.host_bridge.save(to)?;
        to.put(&self.config_address)?;
        to.put(&self.log)?;
        to.put(&self.kinds())?;
        self.ports.iter().try_for_each(|port| port.save(to))
    }

    fn restore(&mut self, from: &mut Loader<'_>) -> Result<(), StateError> {
        self.host_bridge.restore(from)?;
        self.config_address = from.take()?;
        self.log = from.take()?;
        if from.take::<Vec<String>>()? != self.kinds() {
            return Err(StateError::unfit("PCI", "other devices were attached to it, or in other slots"));
        }
        for (slot, port) in (1..=ROOT_PORTS).zip(&mut self.ports) {
            let name = port.endpoint.as_ref().map_or("no device", |endpoint| endpoint.device().name());
            port.restore(from).map_err(|error| error.of(format!("{name} in PCI slot {slot}")))?;
        }
        self.rebuild_map();
        Ok(())
    }
}

/// Whom a configuration access addresses.
enum Target {
    HostBridge,
    RootPort(usize),
    Endpoint(usize),
    Nobody,
}

impl RootComplex {
    /// A root complex with empty slots.
    #[must_use]
    pub fn new() -> Self {
        Self {
            host_bridge: ConfigSpace::new(&[
                Register::ro(header::VENDOR_ID, 2, HOST_BRIDGE_VENDOR_ID),
                Register::ro(header::DEVICE_ID, 2, HOST_BRIDGE_DEVICE_ID),
                Register::rw(header::COMMAND, 2, 0, 0x0546),
                Register::rw1c(header::STATUS, 2, 0, header::STATUS_ERRORS),
                Register::ro(header::CLASS + 1, 2, CLASS_HOST_BRIDGE),
            ]),
            ports: (1..=ROOT_PORTS).map(RootPort::new).collect(),
            config_address: 0,
            map: RangeMap::default(),
            log: AccessLog::default(),
        }
    }

    /// Puts a device into slot 1-8, behind root port 00:`slot`.0. Only before the machine runs.
    ///
    /// # Errors
    /// [`AttachError`] if there is no such slot, it is taken, or the device describes impossible BARs.
    pub fn attach(&mut self, slot: Slot, device: Box<dyn PciDevice>) -> Result<(), AttachError> {
        let port = slot.checked_sub(1).and_then(|index| self.ports.get_mut(usize::from(index)));
        let port = port.ok_or(AttachError::NoSlot(slot))?;
        if let Some(endpoint) = &port.endpoint {
            return Err(AttachError::Occupied { slot, occupant: endpoint.device().name() });
        }
        port.attach(Endpoint::new(device)?);
        Ok(())
    }

    /// The device in `slot`.
    #[must_use]
    pub fn device(&self, slot: Slot) -> Option<&dyn PciDevice> {
        self.endpoint(slot).map(Endpoint::device)
    }

    /// The lowest slot without a device.
    #[must_use]
    pub fn free_slot(&self) -> Option<Slot> {
        (1..=ROOT_PORTS).find(|&slot| self.endpoint(slot).is_none())
    }

    /// Where BAR `bar` of the device in `slot` is and its size, whether or not it is decoded.
    #[must_use]
    pub fn bar(&self, slot: Slot, bar: u8) -> Option<(u64, u64)> {
        let endpoint = self.endpoint(slot)?;
        let info = endpoint.bars().iter().find(|info| info.index == bar)?;
        Some((endpoint.bar_base(info), info.size))
    }

    /// The name of the device behind each port; none is empty.
    fn kinds(&self) -> Vec<String> {
        let name = |port: &RootPort| port.endpoint.as_ref().map_or("", |endpoint| endpoint.device().name());
        self.ports.iter().map(|port| name(port).to_owned()).collect()
    }

    fn endpoint(&self, slot: Slot) -> Option<&Endpoint> {
        let index = usize::from(slot.checked_sub(1)?);
        self.ports.get(index)?.endpoint.as_ref()
    }

    /// Plays firmware: bus `n` behind root port `n`, BARs of the devices present, bridge windows around them, memory
    /// decoding everywhere, and requests forwarded by the root ports. Bus mastering of the functions is their
    /// drivers' business.
    ///
    /// # Errors
    /// [`AssignError`] if the BARs do not fit into `windows`.
    pub fn assign_resources(&mut self, windows: &ResourceWindows) -> Result<(), AssignError> {
        firmware::assign(&mut self.ports, windows)?;
        self.rebuild_map();
        Ok(())
    }

    /// Gives the chance of each device a new seed, by its slot.
    pub fn reseed(&mut self, seed: impl Fn(Slot) -> u64) {
        for (slot, port) in (1..).zip(&mut self.ports) {
            if let Some(endpoint) = &mut port.endpoint {
                endpoint.reseed(seed(slot));
            }
        }
    }

    /// System reset of everything, devices included. Firmware's programming is lost:
    /// call [`Self::assign_resources`] again.
    pub fn reset(&mut self, host: &mut dyn Host) {
        self.host_bridge.reset();
        self.config_address = 0;
        for port in &mut self.ports {
            port.reset(host);
        }
        self.rebuild_map();
    }

    // ---- Configuration space ----

    fn target(&self, bdf: Bdf) -> Target {
        if bdf.function() != 0 {
            return Target::Nobody;
        }
        if bdf.bus() == 0 {
            return match bdf.device() {
                0 => Target::HostBridge,
                device @ 1..=ROOT_PORTS => Target::RootPort(usize::from(device) - 1),
                _ => Target::Nobody,
            };
        }
        // The first port that claims the bus; a type 0 access reaches device 0 only (PCIe, 7.3.1).
        let port = self.ports.iter().position(|port| {
            let (secondary, subordinate) = port.buses();
            (secondary..=subordinate).contains(&bdf.bus())
        });
        match port {
            Some(index)
                if bdf.device() == 0
                    && self
                        .ports
                        .get(index)
                        .is_some_and(|port| port.buses().0 == bdf.bus() && port.link_up()) =>
            {
                Target::Endpoint(index)
            }
            _ => Target::Nobody,
        }
    }

    /// Reads any number of bytes at register `offset` of a function; absent functions read all-ones.
    pub fn config_read(&mut self, bdf: Bdf, offset: u16, data: &mut [u8], host: &mut dyn Host) {
        match self.target(bdf) {
            Target::HostBridge => self.host_bridge.read(offset, data),
            Target::RootPort(index) => {
                if let Some(port) = self.ports.get(index) {
                    port.config_read(offset, data);
                }
            }
            Target::Endpoint(index) => {
                if let Some(port) = self.ports.get_mut(index) {
                    let upstream = port.upstream();
                    if let Some(endpoint) = port.reachable() {
                        endpoint.config_read(offset, data, upstream, host);
                    }
                }
            }
            Target::Nobody => data.fill(0xff),
        }
    }

    /// Writes any number of bytes at register `offset` of a function, and does what follows: routing changes,
    /// resets, messages unmasked.
    pub fn config_write(&mut self, bdf: Bdf, offset: u16, data: &[u8], host: &mut dyn Host) {
        let (index, to_port) = match self.target(bdf) {
            Target::HostBridge => return self.host_bridge.write(offset, data),
            Target::RootPort(index) => (index, true),
            Target::Endpoint(index) => (index, false),
            Target::Nobody => return,
        };
        let Some(port) = self.ports.get_mut(index) else { return };
        let before = port.decode();
        if to_port {
            port.config_write(offset, data, host);
        } else {
            let upstream = port.upstream();
            if let Some(endpoint) = port.reachable() {
                endpoint.config_write(offset, data, upstream, host);
            }
        }
        if port.decode() != before {
            self.rebuild_map();
        }
    }

    /// Reads at `offset` of the enhanced configuration space (PCIe, 7.2.2): bus, device, function, register.
    pub fn ecam_read(&mut self, offset: u64, data: &mut [u8], host: &mut dyn Host) {
        match u16::try_from(offset >> 12) {
            Ok(bdf) => self.config_read(Bdf::from_bits(bdf), (offset & 0xfff) as u16, data, host),
            Err(_) => data.fill(0xff),
        }
    }

    /// Writes at `offset` of the enhanced configuration space.
    pub fn ecam_write(&mut self, offset: u64, data: &[u8], host: &mut dyn Host) {
        if let Ok(bdf) = u16::try_from(offset >> 12) {
            self.config_write(Bdf::from_bits(bdf), (offset & 0xfff) as u16, data, host);
        }
    }

    /// Function and register that CONFIG_DATA at `offset` (0-3) reaches now.
    fn config_data(&self, offset: u16) -> Option<(Bdf, u16)> {
        let address = self.config_address;
        (address & CONFIG_ADDRESS_ENABLE != 0)
            .then_some((Bdf::from_bits((address >> 8) as u16), (address & 0xfc) as u16 | offset))
    }

    /// Reads ports 0xcf8-0xcff; `offset` counts from 0xcf8. Port 0xcf9 in bytes is the reset register, not ours.
    pub fn port_read(&mut self, offset: u16, data: &mut [u8], host: &mut dyn Host) {
        data.fill(0xff);
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.config_address.to_le_bytes()),
            (4..=7, size @ 1..=4) if usize::from(offset) + size <= 8 => {
                if let Some((bdf, register)) = self.config_data(offset - 4) {
                    self.config_read(bdf, register, data, host);
                }
            }
            _ => {}
        }
    }

    /// Writes ports 0xcf8-0xcff; `offset` counts from 0xcf8.
    pub fn port_write(&mut self, offset: u16, data: &[u8], host: &mut dyn Host) {
        match (offset, data.len()) {
            (0, 4) => {
                let value = data.iter().rev().fold(0, |value, &byte| (value << 8) | u32::from(byte));
                self.config_address = value & 0x80ff_fffc;
            }
            (4..=7, size @ 1..=4) if usize::from(offset) + size <= 8 => {
                if let Some((bdf, register)) = self.config_data(offset - 4) {
                    self.config_write(bdf, register, data, host);
                }
            }
            _ => {}
        }
    }

    // ---- Memory space ----

    fn rebuild_map(&mut self) {
        self.map.clear();
        for (port, slot) in self.ports.iter().zip(1..) {
            port.claims(|first, last, bar, base| {
                self.map.insert_uncovered(first, last, Claim { slot, bar, base });
            });
        }
    }

    /// Whether a BAR decodes `address`. Of overlapping BARs the one behind the lowest root port answers.
    #[must_use]
    #[inline]
    pub fn claims(&self, address: u64) -> bool {
        self.map.lookup(address).is_some()
    }

    /// Reads 1, 2, 4 or 8 bytes of a BAR; what nobody answers reads all-ones.
    pub fn mmio_read(&mut self, address: u64, data: &mut [u8], host: &mut dyn Host) {
        let Some((_, claim)) = self.map.lookup(address) else { return data.fill(0xff) };
        let offset = address.wrapping_sub(claim.base);
        let size = data.len();
        let result = match self.claimant(claim) {
            Some((endpoint, upstream)) => endpoint.bar_read(claim.bar, offset, data, upstream, host),
            None => Err(AccessError::Disabled),
        };
        if result.is_err() {
            data.fill(0xff);
        }
        self.note("read", claim, offset, size, result);
    }

    /// Writes 1, 2, 4 or 8 bytes of a BAR; what nobody answers is dropped.
    pub fn mmio_write(&mut self, address: u64, data: &[u8], host: &mut dyn Host) {
        let Some((_, claim)) = self.map.lookup(address) else { return };
        let offset = address.wrapping_sub(claim.base);
        let result = match self.claimant(claim) {
            Some((endpoint, upstream)) => endpoint.bar_write(claim.bar, offset, data, upstream, host),
            None => Err(AccessError::Disabled),
        };
        self.note("write", claim, offset, data.len(), result);
    }

    /// A time asked for by [`Host::schedule`] has come.
    pub fn event(&mut self, slot: Slot, token: u32, host: &mut dyn Host) {
        let index = slot.checked_sub(1).map(usize::from);
        if let Some(port) = index.and_then(|index| self.ports.get_mut(index)) {
            let upstream = port.upstream();
            if let Some(endpoint) = port.reachable() {
                endpoint.event(token, upstream, host);
            }
        }
    }

    fn claimant(&mut self, claim: Claim) -> Option<(&mut Endpoint, super::endpoint::Upstream)> {
        let port = self.ports.get_mut(usize::from(claim.slot.checked_sub(1)?))?;
        let upstream = port.upstream();
        Some((port.reachable()?, upstream))
    }

    fn note(&mut self, what: &str, claim: Claim, offset: u64, size: usize, result: Access) {
        if let Err(error) = result {
            let name = self.device(claim.slot).map_or("PCI", PciDevice::name);
            self.log.refused(
                format_args!("{name}: {size}-byte {what} of BAR {} + {offset:#x}", claim.bar),
                error,
            );
        }
    }
}
