//! An endpoint function: configuration space, BARs and MSI-X around a device's own logic.

use super::capabilities::{self, CapabilityList, bar_window};
use super::config_space::{ConfigSpace, Register, header};
use super::msix::{self, Msix};
use super::port::FunctionPort;
use super::{BarInfo, Bdf, FunctionInfo, Host, PciDevice, Slot, VendorCapability};
use crate::bus::{Access, AccessError};
use crate::dma::DmaAttrs;
use crate::state::{Loader, SaveState, Saver, StateError};

/// BARs of a type 0 header.
const BARS: usize = 6;

/// Why a device cannot be attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Slots are 1-8.
    #[error("there is no PCI slot {0}; slots are 1-8")]
    NoSlot(Slot),
    /// Another device is there.
    #[error("PCI slot {slot} already holds {occupant}")]
    Occupied { slot: Slot, occupant: &'static str },
    /// The device describes a BAR that cannot exist.
    #[error("{device}: BAR {index} is impossible: {reason}")]
    BadBar { device: &'static str, index: u8, reason: &'static str },
    /// The device asks for more than 2048 MSI-X vectors.
    #[error("{device}: {vectors} MSI-X vectors are more than 2048")]
    TooManyVectors { device: &'static str, vectors: u16 },
}

/// Where a function is on the buses and what is above it: it decides whether it may master the bus.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upstream {
    pub slot: Slot,
    /// The function's own address.
    pub bdf: Bdf,
    /// The root port forwards requests upstream.
    pub forwards: bool,
}

/// Everything that decides which addresses a function decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decode {
    memory: bool,
    bars: [u32; BARS],
}

/// A function with its device.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    config: ConfigSpace,
    express: u16,
    power: u16,
    /// MSI-X state, its capability and its BAR.
    msix: Option<(Msix, u16, u8)>,
    /// All BARs, the MSI-X one included.
    bars: Vec<BarInfo>,
    /// The capability that is a window to the BARs.
    window: Option<u16>,
    /// The device asserts its interrupt pin.
    pin: bool,
    /// The pin's level as the host knows it.
    pin_driven: bool,
    device: Box<dyn PciDevice>,
}

/// Builds the whole BAR list, choosing a free 32-bit BAR for MSI-X; returns its index.
fn layout_bars(name: &'static str, info: &FunctionInfo) -> Result<(Vec<BarInfo>, Option<u8>), AttachError> {
    let mut taken = [false; BARS];
    let mut bars = Vec::new();
    for bar in &info.bars {
        let bad = |reason| AttachError::BadBar { device: name, index: bar.index, reason };
        if !bar.size.is_power_of_two() || bar.size < 16 {
            return Err(bad("the size is not a power of two of at least 16"));
        }
        if !bar.is_64bit && bar.size > 1 << 31 {
            return Err(bad("32 bits cannot address it"));
        }
        for register in usize::from(bar.index)..usize::from(bar.index) + if bar.is_64bit { 2 } else { 1 } {
            match taken.get_mut(register) {
                None => return Err(bad("registers are 0-5")),
                Some(true) => return Err(bad("another BAR has the register")),
                Some(free) => *free = true,
            }
        }
        bars.push(*bar);
    }
    if info.msix_vectors == 0 {
        return Ok((bars, None));
    }
    if info.msix_vectors > msix::MAX_VECTORS {
        return Err(AttachError::TooManyVectors { device: name, vectors: info.msix_vectors });
    }
    let index = [2, 4, 1, 3, 5, 0].into_iter().find(|&index| taken.get(usize::from(index)) == Some(&false));
    let Some(index) = index else {
        return Err(AttachError::BadBar { device: name, index: 5, reason: "none is left for MSI-X" });
    };
    let size = Msix::bar_size(info.msix_vectors);
    bars.push(BarInfo { index, size, is_64bit: false, prefetchable: false });
    Ok((bars, Some(index)))
}

/// What the device's description decides (BARs, where capabilities are) is not saved.
impl SaveState for Endpoint {
    fn save(&self, to: &mut Saver) -> Result<(), StateError> {
        self.config.save(to)?;
        if let Some((msix, ..)) = &self.msix {
            msix.save(to)?;
        }
        to.put(&(self.pin, self.pin_driven))?;
        self.device.save(to)
    }

    fn restore(&mut self, from: &mut Loader<'_>) -> Result<(), StateError> {
        self.config.restore(from)?;
        if let Some((msix, ..)) = &mut self.msix {
            msix.restore(from)?;
        }
        (self.pin, self.pin_driven) = from.take()?;
        self.device.restore(from)
    }
}

fn bar_registers(bar: &BarInfo) -> Vec<Register> {
    let offset = header::BAR0 + u16::from(bar.index) * 4;
    let kind = if bar.is_64bit { 4 } else { 0 } | if bar.prefetchable { 8 } else { 0 };
    let mask = !(bar.size - 1);
    let mut registers = vec![Register::rw(offset, 4, kind, mask as u32 & !0xf)];
    if bar.is_64bit {
        registers.push(Register::rw(offset + 4, 4, 0, (mask >> 32) as u32));
    }
    registers
}

impl Endpoint {
    pub fn new(device: Box<dyn PciDevice>) -> Result<Self, AttachError> {
        let info = device.info();
        let (bars, msix_bar) = layout_bars(device.name(), &info)?;

        let mut list = CapabilityList::new();
        let power = list.power_management();
        let express = list.express_endpoint();
        let vectors = info.msix_vectors;
        let msix =
            msix_bar.map(|bar| (Msix::new(vectors), list.msix(vectors, bar, Msix::pba_offset(vectors)), bar));

        let mut window = None;
        for capability in &info.vendor_capabilities {
            let at = list.vendor(capability);
            if matches!(capability, VendorCapability::BarWindow(_)) {
                window = Some(at);
            }
        }

        let mut registers = vec![
            Register::ro(header::VENDOR_ID, 2, u32::from(info.vendor_id)),
            Register::ro(header::DEVICE_ID, 2, u32::from(info.device_id)),
            Register::rw(header::COMMAND, 2, 0, 0x0546),
            Register::rw1c(header::STATUS, 2, header::STATUS_CAPABILITIES, header::STATUS_ERRORS),
            Register::ro(header::REVISION, 1, u32::from(info.revision)),
            Register::ro(header::CLASS, 1, info.class),
            Register::ro(header::CLASS + 1, 2, info.class >> 8),
            Register::rw(header::CACHE_LINE, 1, 0, 0xff),
            Register::ro(header::SUBSYSTEM_VENDOR_ID, 2, u32::from(info.subsystem_vendor_id)),
            Register::ro(header::SUBSYSTEM_ID, 2, u32::from(info.subsystem_id)),
            Register::rw(header::INTERRUPT_LINE, 1, 0, 0xff),
            Register::ro(header::INTERRUPT_PIN, 1, u32::from(info.interrupt_pin)),
        ];
        registers.extend(bars.iter().flat_map(bar_registers));
        registers.extend(list.finish());
        let config = ConfigSpace::new(&registers);
        Ok(Self { config, express, power, msix, bars, window, pin: false, pin_driven: false, device })
    }

    pub fn device(&self) -> &dyn PciDevice {
        &*self.device
    }

    pub fn bars(&self) -> &[BarInfo] {
        &self.bars
    }

    /// Base address of a BAR, whether or not it is decoded.
    pub fn bar_base(&self, bar: &BarInfo) -> u64 {
        let offset = header::BAR0 + u16::from(bar.index) * 4;
        let low = u64::from(self.config.u32(offset) & !0xf);
        if bar.is_64bit { low | (u64::from(self.config.u32(offset + 4)) << 32) } else { low }
    }

    /// Firmware's placement of a BAR.
    pub fn place_bar(&mut self, bar: &BarInfo, base: u64) {
        let offset = header::BAR0 + u16::from(bar.index) * 4;
        self.config.write_u32(offset, base as u32);
        if bar.is_64bit {
            self.config.write_u32(offset + 4, (base >> 32) as u32);
        }
    }

    /// Firmware's enabling of memory decoding.
    pub fn enable_memory(&mut self) {
        let command = self.config.u16(header::COMMAND);
        self.config.write_u16(header::COMMAND, command | header::COMMAND_MEMORY);
    }

    /// In D0, not D3hot.
    fn is_powered(&self) -> bool {
        self.config.u16(self.power + capabilities::POWER_CONTROL) & capabilities::POWER_STATE == 0
    }

    /// Memory BARs are decoded.
    pub fn decodes_memory(&self) -> bool {
        self.is_powered() && self.config.u16(header::COMMAND) & header::COMMAND_MEMORY != 0
    }

    fn may_master(&self) -> bool {
        self.is_powered() && self.config.u16(header::COMMAND) & header::COMMAND_BUS_MASTER != 0
    }

    pub fn decode(&self) -> Decode {
        let bar = |index: u16| self.config.u32(header::BAR0 + index * 4);
        Decode { memory: self.decodes_memory(), bars: [0, 1, 2, 3, 4, 5].map(bar) }
    }

    /// A guest's configuration read. One of the window's data reads the BAR that the window is at.
    ///
    /// The completion of a read pushes posted writes before it (PCIe, 2.4.1): so do those of BARs.
    pub fn config_read(&mut self, offset: u16, data: &mut [u8], upstream: Upstream, host: &mut dyn Host) {
        host.dma_flush(upstream.bdf);
        if let Some((bar, at, length)) = self.window_access(offset, data.len()) {
            let mut value = [0; 4];
            if let Some(part) = value.get_mut(..length)
                && self.bar_read(bar, at, part, upstream, host).is_err()
            {
                part.fill(0xff);
            }
            let window = self.window.unwrap_or_default();
            self.config.set_u32(window + bar_window::DATA, u32::from_le_bytes(value));
        }
        self.config.read(offset, data);
    }

    /// BAR, offset and length that a configuration access of `size` bytes at `offset` reaches through the window.
    fn window_access(&self, offset: u16, size: usize) -> Option<(u8, u64, usize)> {
        let window = self.window?;
        let data = usize::from(window + bar_window::DATA);
        let offset = usize::from(offset);
        if offset >= data + 4 || offset + size <= data {
            return None;
        }
        let at = self.config.u32(window + bar_window::OFFSET);
        let length = self.config.u32(window + bar_window::LENGTH);
        (matches!(length, 1 | 2 | 4) && at.is_multiple_of(length)).then_some((
            self.config.u8(window + bar_window::BAR),
            u64::from(at),
            length as usize,
        ))
    }

    /// A guest's configuration write and what follows from it: function-level reset, messages unmasked.
    pub fn config_write(&mut self, offset: u16, data: &[u8], upstream: Upstream, host: &mut dyn Host) {
        let power_control = self.power + capabilities::POWER_CONTROL;
        let old_power = self.config.u16(power_control);
        self.config.write(offset, data);

        // D1 and D2 are not supported: such a write is discarded (PCI PM 1.2, 3.2.4).
        if matches!(self.config.u16(power_control) & capabilities::POWER_STATE, 1 | 2) {
            self.config.set_u16(power_control, old_power);
        }
        let device_control = self.config.u16(self.express + capabilities::EXPRESS_DEVICE_CONTROL);
        if device_control & capabilities::DEVICE_CONTROL_RESET != 0 {
            self.reset(upstream.slot, host);
            return;
        }
        if let Some((msix, capability, _)) = &mut self.msix {
            let control = self.config.u16(*capability + capabilities::MSIX_CONTROL);
            msix.set_control(
                control & capabilities::MSIX_ENABLE != 0,
                control & capabilities::MSIX_FUNCTION_MASK != 0,
            );
        }
        if let Some((bar, at, length)) = self.window_access(offset, data.len()) {
            let window = self.window.unwrap_or_default();
            let value = self.config.u32(window + bar_window::DATA).to_le_bytes();
            if let Some(part) = value.get(..length)
                && let Err(error) = self.bar_write(bar, at, part, upstream, host)
            {
                log::debug!("{}: write of BAR {bar} + {at:#x} by configuration: {error}", self.device.name());
            }
        }
        self.send_pending(upstream, host);
        self.drive_pin(upstream.slot, host);
    }

    /// Tells the host the level of the interrupt pin if it has changed. Interrupt Status shows what the device asserts,
    /// whatever keeps the pin from being driven (PCI, 6.2.3).
    fn drive_pin(&mut self, slot: Slot, host: &mut dyn Host) {
        let status = self.config.u16(header::STATUS) & !header::STATUS_INTERRUPT;
        let asserted = if self.pin { header::STATUS_INTERRUPT } else { 0 };
        self.config.set_u16(header::STATUS, status | asserted);
        let disabled = self.config.u16(header::COMMAND) & header::COMMAND_INTERRUPT_DISABLE != 0
            || self.msix.as_ref().is_some_and(|(msix, ..)| msix.is_enabled());
        let level = self.pin && !disabled && self.is_powered();
        if level != self.pin_driven {
            self.pin_driven = level;
            host.set_interrupt_pin(slot, level);
        }
    }

    /// Sends messages that nothing holds back any more.
    pub fn send_pending(&mut self, upstream: Upstream, host: &mut dyn Host) {
        self.split(upstream, host).1.send_pending();
    }

    /// Reads `data.len()` bytes at `offset` of BAR `bar`.
    pub fn bar_read(
        &mut self,
        bar: u8,
        offset: u64,
        data: &mut [u8],
        upstream: Upstream,
        host: &mut dyn Host,
    ) -> Access {
        self.check(bar, offset, data.len())?;
        host.dma_flush(upstream.bdf);
        match &self.msix {
            Some((msix, _, msix_bar)) if *msix_bar == bar => msix.read(offset, data),
            _ => {
                let (device, mut port) = self.split(upstream, host);
                let result = device.bar_read(bar, offset, data, &mut port);
                self.drive_pin(upstream.slot, host);
                result
            }
        }
    }

    /// Writes `data` at `offset` of BAR `bar`.
    pub fn bar_write(
        &mut self,
        bar: u8,
        offset: u64,
        data: &[u8],
        upstream: Upstream,
        host: &mut dyn Host,
    ) -> Access {
        self.check(bar, offset, data.len())?;
        match &mut self.msix {
            Some((msix, _, msix_bar)) if *msix_bar == bar => {
                msix.write(offset, data)?;
                self.send_pending(upstream, host);
                Ok(())
            }
            _ => {
                let (device, mut port) = self.split(upstream, host);
                let result = device.bar_write(bar, offset, data, &mut port);
                self.drive_pin(upstream.slot, host);
                result
            }
        }
    }

    /// A time the device asked for has come.
    pub fn event(&mut self, token: u32, upstream: Upstream, host: &mut dyn Host) {
        let (device, mut port) = self.split(upstream, host);
        device.event(token, &mut port);
        self.drive_pin(upstream.slot, host);
    }

    /// Gives the device's chance a new seed.
    pub fn reseed(&mut self, seed: u64) {
        self.device.reseed(seed);
    }

    /// Function-level or hot reset.
    pub fn reset(&mut self, slot: Slot, host: &mut dyn Host) {
        host.cancel_all(slot);
        self.config.reset();
        if let Some((msix, ..)) = &mut self.msix {
            msix.reset();
        }
        self.device.reset();
        self.pin = false;
        self.drive_pin(slot, host);
    }

    fn check(&self, bar: u8, offset: u64, size: usize) -> Access {
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err(AccessError::BadSize);
        }
        let end = offset.checked_add(size as u64);
        let fits = |bar: &BarInfo| end.is_some_and(|end| end <= bar.size);
        let found = self.bars.iter().find(|candidate| candidate.index == bar);
        if found.is_some_and(fits) { Ok(()) } else { Err(AccessError::NoRegister) }
    }

    fn split<'a>(
        &'a mut self,
        upstream: Upstream,
        host: &'a mut dyn Host,
    ) -> (&'a mut dyn PciDevice, FunctionPort<'a>) {
        let may_master = upstream.forwards && self.may_master();
        let control = self.config.u16(self.express + capabilities::EXPRESS_DEVICE_CONTROL);
        let allowed = DmaAttrs {
            no_snoop: control & capabilities::DEVICE_CONTROL_NO_SNOOP != 0,
            relaxed_ordering: control & capabilities::DEVICE_CONTROL_RELAXED_ORDERING != 0,
            ..DmaAttrs::default()
        };
        let msix = self.msix.as_mut().map(|(msix, ..)| msix);
        let (slot, requester, pin) = (upstream.slot, upstream.bdf, &mut self.pin);
        let port = FunctionPort { slot, requester, may_master, allowed, msix, pin, host };
        (&mut *self.device, port)
    }
}
