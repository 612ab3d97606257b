//! An endpoint function: configuration space, BARs and MSI-X around a device's own logic.

use super::capabilities::{self, CapabilityList};
use super::config_space::{ConfigSpace, Register, header};
use super::msix::{self, Msix};
use super::port::FunctionPort;
use super::{BarInfo, Bdf, FunctionInfo, Host, PciDevice, Slot};
use crate::bus::{Access, AccessError};
use crate::dma::DmaAttrs;

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
        ];
        registers.extend(bars.iter().flat_map(bar_registers));
        registers.extend(list.finish());
        Ok(Self { config: ConfigSpace::new(&registers), express, power, msix, bars, device })
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

    pub fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
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
        self.send_pending(upstream, host);
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
        match &self.msix {
            Some((msix, _, msix_bar)) if *msix_bar == bar => msix.read(offset, data),
            _ => {
                let (device, mut port) = self.split(upstream, host);
                device.bar_read(bar, offset, data, &mut port)
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
                device.bar_write(bar, offset, data, &mut port)
            }
        }
    }

    /// A time the device asked for has come.
    pub fn event(&mut self, token: u32, upstream: Upstream, host: &mut dyn Host) {
        let (device, mut port) = self.split(upstream, host);
        device.event(token, &mut port);
    }

    /// Function-level or hot reset.
    pub fn reset(&mut self, slot: Slot, host: &mut dyn Host) {
        host.cancel_all(slot);
        self.config.reset();
        if let Some((msix, ..)) = &mut self.msix {
            msix.reset();
        }
        self.device.reset();
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
        };
        let msix = self.msix.as_mut().map(|(msix, ..)| msix);
        let port =
            FunctionPort { slot: upstream.slot, requester: upstream.bdf, may_master, allowed, msix, host };
        (&mut *self.device, port)
    }
}
