//! A root port: a type 1 function with bus numbers, windows and a link to at most one endpoint.

use super::capabilities::{self, CapabilityList};
use super::config_space::{ConfigSpace, Register, header};
use super::endpoint::{Decode, Endpoint, Upstream};
use super::{Bdf, Host, Slot};
use crate::state::{Loader, SaveState, Saver, StateError};

/// IDs of a generic PCI Express root port, which no driver has quirks for.
const VENDOR_ID: u32 = 0x1b36;
const DEVICE_ID: u32 = 0x000c;
const CLASS_PCI_BRIDGE: u32 = 0x0604;

/// Everything that decides which addresses and bus numbers a root port forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortDecode {
    memory: bool,
    link_up: bool,
    windows: [Option<(u64, u64)>; 2],
    endpoint: Option<Decode>,
}

/// A root port and what is behind it.
#[derive(Debug, Clone)]
pub(super) struct RootPort {
    slot: Slot,
    config: ConfigSpace,
    express: u16,
    pub endpoint: Option<Endpoint>,
}

impl SaveState for RootPort {
    fn save(&self, to: &mut Saver) -> Result<(), StateError> {
        self.config.save(to)?;
        self.endpoint.as_ref().map_or(Ok(()), |endpoint| endpoint.save(to))
    }

    fn restore(&mut self, from: &mut Loader<'_>) -> Result<(), StateError> {
        self.config.restore(from)?;
        self.endpoint.as_mut().map_or(Ok(()), |endpoint| endpoint.restore(from))
    }
}

impl RootPort {
    /// The root port 00:`slot`.0.
    pub fn new(slot: Slot) -> Self {
        let mut list = CapabilityList::new();
        let express = list.express_root_port(slot);
        list.msi();
        let mut registers = vec![
            Register::ro(header::VENDOR_ID, 2, VENDOR_ID),
            Register::ro(header::DEVICE_ID, 2, DEVICE_ID),
            Register::rw(header::COMMAND, 2, 0, 0x0547),
            Register::rw1c(header::STATUS, 2, header::STATUS_CAPABILITIES, header::STATUS_ERRORS),
            Register::ro(header::CLASS, 1, 0),
            Register::ro(header::CLASS + 1, 2, CLASS_PCI_BRIDGE),
            Register::rw(header::CACHE_LINE, 1, 0, 0xff),
            Register::ro(header::HEADER_TYPE, 1, 1),
            Register::rw(header::PRIMARY_BUS, 1, 0, 0xff),
            Register::rw(header::SECONDARY_BUS, 1, 0, 0xff),
            Register::rw(header::SUBORDINATE_BUS, 1, 0, 0xff),
            // 16-bit I/O addressing.
            Register::rw(header::IO_BASE, 2, 0, 0xf0f0),
            Register::rw1c(header::SECONDARY_STATUS, 2, 0, header::STATUS_ERRORS),
            Register::rw(header::MEMORY_BASE, 2, 0, 0xfff0),
            Register::rw(header::MEMORY_LIMIT, 2, 0, 0xfff0),
            // Low bits 1: 64-bit addressing.
            Register::rw(header::PREFETCH_BASE, 2, 1, 0xfff0),
            Register::rw(header::PREFETCH_LIMIT, 2, 1, 0xfff0),
            Register::rw(header::PREFETCH_BASE_UPPER, 4, 0, 0xffff_ffff),
            Register::rw(header::PREFETCH_LIMIT_UPPER, 4, 0, 0xffff_ffff),
            Register::rw(header::INTERRUPT_LINE, 1, 0, 0xff),
            Register::ro(header::INTERRUPT_PIN, 1, 1),
            Register::rw(header::BRIDGE_CONTROL, 2, 0, 0x0047),
        ];
        registers.extend(list.finish());
        Self { slot, config: ConfigSpace::new(&registers), express, endpoint: None }
    }

    /// Secondary and subordinate bus number.
    pub fn buses(&self) -> (u8, u8) {
        (self.config.u8(header::SECONDARY_BUS), self.config.u8(header::SUBORDINATE_BUS))
    }

    /// What the endpoint's requests meet on their way up.
    pub fn upstream(&self) -> Upstream {
        Upstream {
            slot: self.slot,
            bdf: Bdf::new(self.buses().0, 0, 0),
            forwards: self.link_up() && self.config.u16(header::COMMAND) & header::COMMAND_BUS_MASTER != 0,
        }
    }

    /// An endpoint is there, and neither Link Disable nor Secondary Bus Reset keeps it away.
    pub fn link_up(&self) -> bool {
        let link_control = self.config.u16(self.express + capabilities::EXPRESS_LINK_CONTROL);
        let bridge_control = self.config.u16(header::BRIDGE_CONTROL);
        self.endpoint.is_some()
            && link_control & capabilities::LINK_CONTROL_DISABLE == 0
            && bridge_control & header::BRIDGE_CONTROL_BUS_RESET == 0
    }

    fn update_link_status(&mut self) {
        let status = capabilities::link_status(self.link_up());
        self.config.set_u16(self.express + capabilities::EXPRESS_LINK_STATUS, status);
    }

    pub fn attach(&mut self, endpoint: Endpoint) {
        self.endpoint = Some(endpoint);
        self.update_link_status();
    }

    /// The endpoint, if the link to it is up.
    pub fn reachable(&mut self) -> Option<&mut Endpoint> {
        if self.link_up() { self.endpoint.as_mut() } else { None }
    }

    fn forwards_memory(&self) -> bool {
        self.config.u16(header::COMMAND) & header::COMMAND_MEMORY != 0
    }

    /// The memory and prefetchable windows, first and last address, where they are open.
    pub fn windows(&self) -> [Option<(u64, u64)>; 2] {
        let low = |offset| u64::from(self.config.u16(offset) & 0xfff0) << 16;
        let high = |offset| u64::from(self.config.u32(offset)) << 32;
        let open = |base: u64, limit: u64| (base <= limit).then_some((base, limit));
        [
            open(low(header::MEMORY_BASE), low(header::MEMORY_LIMIT) | 0xf_ffff),
            open(
                low(header::PREFETCH_BASE) | high(header::PREFETCH_BASE_UPPER),
                low(header::PREFETCH_LIMIT) | high(header::PREFETCH_LIMIT_UPPER) | 0xf_ffff,
            ),
        ]
    }

    pub fn decode(&self) -> PortDecode {
        PortDecode {
            memory: self.forwards_memory(),
            link_up: self.link_up(),
            windows: self.windows(),
            endpoint: self.endpoint.as_ref().map(Endpoint::decode),
        }
    }

    /// Calls `claim(first, last, bar, base)` for every address range that reaches a BAR.
    pub fn claims(&self, mut claim: impl FnMut(u64, u64, u8, u64)) {
        let Some(endpoint) = self.endpoint.as_ref().filter(|endpoint| endpoint.decodes_memory()) else {
            return;
        };
        if !self.forwards_memory() || !self.link_up() {
            return;
        }
        for bar in endpoint.bars() {
            let base = endpoint.bar_base(bar);
            // A BAR that would wrap around decodes nothing.
            let Some(last) = base.checked_add(bar.size - 1) else { continue };
            for (window_first, window_last) in self.windows().into_iter().flatten() {
                let (first, last) = (base.max(window_first), last.min(window_last));
                if first <= last {
                    claim(first, last, bar.index, base);
                }
            }
        }
    }

    pub fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    /// A guest's configuration write and what follows from it: resets of what is below, messages let through.
    pub fn config_write(&mut self, offset: u16, data: &[u8], host: &mut dyn Host) {
        let was_up = self.link_up();
        self.config.write(offset, data);
        if was_up && !self.link_up() {
            self.reset_endpoint(host);
        }
        self.update_link_status();
        let upstream = self.upstream();
        if let Some(endpoint) = self.reachable() {
            endpoint.send_pending(upstream, host);
        }
    }

    fn reset_endpoint(&mut self, host: &mut dyn Host) {
        let slot = self.slot;
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.reset(slot, host);
        }
    }

    /// System reset, of the endpoint too.
    pub fn reset(&mut self, host: &mut dyn Host) {
        self.config.reset();
        self.reset_endpoint(host);
        self.update_link_status();
    }

    /// Firmware's bus numbers.
    pub fn set_buses(&mut self, bus: u8) {
        self.config.write(header::PRIMARY_BUS, &[0, bus, bus]);
    }

    /// Firmware's windows; `None` closes one (base above limit). The I/O window stays closed: nothing here has I/O
    /// BARs.
    pub fn set_windows(&mut self, memory: Option<(u64, u64)>, prefetchable: Option<(u64, u64)>) {
        let (base, limit) = memory.unwrap_or((0xfff0_0000, 0));
        self.config.write_u16(header::MEMORY_BASE, (base >> 16) as u16);
        self.config.write_u16(header::MEMORY_LIMIT, (limit >> 16) as u16);
        let (base, limit) = prefetchable.unwrap_or((0xfff0_0000, 0));
        self.config.write_u16(header::PREFETCH_BASE, (base >> 16) as u16);
        self.config.write_u16(header::PREFETCH_LIMIT, (limit >> 16) as u16);
        self.config.write_u32(header::PREFETCH_BASE_UPPER, (base >> 32) as u32);
        self.config.write_u32(header::PREFETCH_LIMIT_UPPER, (limit >> 32) as u32);
        self.config.write_u16(header::IO_BASE, 0x00f0);
    }

    /// Firmware's enabling of memory forwarding and of requests from below.
    pub fn enable(&mut self) {
        self.config.write_u16(header::COMMAND, header::COMMAND_MEMORY | header::COMMAND_BUS_MASTER);
    }
}
