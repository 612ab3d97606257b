//! Capability structures: PCI Express, power management, MSI and MSI-X.

use super::VendorCapability;
use super::config_space::Register;

const ID_POWER_MANAGEMENT: u32 = 0x01;
const ID_MSI: u32 = 0x05;
const ID_VENDOR_SPECIFIC: u32 = 0x09;
const ID_PCI_EXPRESS: u32 = 0x10;
const ID_MSIX: u32 = 0x11;

/// First capability, behind the 64-byte header.
const FIRST: u16 = 0x40;

/// Link speed 8 GT/s, encoded (PCIe, 7.5.3.6).
const LINK_SPEED: u32 = 3;
const LINK_WIDTH: u32 = 16;
/// Supported link speeds 2.5, 5 and 8 GT/s.
const LINK_SPEEDS: u32 = 0x0e;
/// Maximum payload of 256 bytes.
const PAYLOAD_256: u32 = 1;

/// Device Control bit 4, Enable Relaxed Ordering.
pub(super) const DEVICE_CONTROL_RELAXED_ORDERING: u16 = 1 << 4;
/// Device Control bit 11, Enable No Snoop.
pub(super) const DEVICE_CONTROL_NO_SNOOP: u16 = 1 << 11;
/// Device Control bit 15, Initiate Function Level Reset; always reads zero.
pub(super) const DEVICE_CONTROL_RESET: u16 = 1 << 15;
/// Relaxed ordering, no snoop and 512-byte read requests, as after reset (PCIe, 7.5.3.4).
const DEVICE_CONTROL_DEFAULT: u32 = 0x2810;

/// Offsets in the PCI Express capability.
pub(super) const EXPRESS_DEVICE_CONTROL: u16 = 0x08;
pub(super) const EXPRESS_LINK_CONTROL: u16 = 0x10;
pub(super) const EXPRESS_LINK_STATUS: u16 = 0x12;
/// Link Control bit 4, Link Disable.
pub(super) const LINK_CONTROL_DISABLE: u16 = 1 << 4;

/// Offset of PMCSR in the power-management capability, its state field and D3hot.
pub(super) const POWER_CONTROL: u16 = 0x04;
pub(super) const POWER_STATE: u16 = 3;

/// Offset of Message Control in the MSI-X capability, and its enable and function mask bits.
pub(super) const MSIX_CONTROL: u16 = 0x02;
pub(super) const MSIX_ENABLE: u16 = 1 << 15;
pub(super) const MSIX_FUNCTION_MASK: u16 = 1 << 14;

/// Offsets in a capability that is a window to the BARs (virtio 1.2, 4.1.4.9).
pub(super) mod bar_window {
    pub const BAR: u16 = 4;
    /// Identifier and padding, which stay read-only.
    pub const RESERVED: std::ops::Range<u16> = 5..8;
    pub const OFFSET: u16 = 8;
    pub const LENGTH: u16 = 12;
    pub const DATA: u16 = 16;
    pub const END: u16 = 20;
}

/// Link status of a trained link, or of one with nothing at its other end.
pub(super) fn link_status(up: bool) -> u16 {
    let slot_clock = 1 << 12;
    if up { slot_clock | (1 << 13) | (LINK_WIDTH << 4) as u16 | LINK_SPEED as u16 } else { slot_clock | 1 }
}

/// Lays out a linked list of capabilities.
#[derive(Debug)]
pub(super) struct CapabilityList {
    registers: Vec<Register>,
    next: u16,
    /// Index of the register that points from the last structure to the next.
    last_pointer: Option<usize>,
}

impl CapabilityList {
    pub fn new() -> Self {
        Self { registers: Vec::new(), next: FIRST, last_pointer: None }
    }

    /// Adds a structure of `size` bytes; `registers` have offsets within it. Returns where it is.
    fn add(&mut self, id: u32, size: u16, registers: &[Register]) -> u16 {
        let at = self.next;
        self.next = at.saturating_add(size).next_multiple_of(4);
        self.registers.push(Register::ro(at, 1, id));
        self.last_pointer = Some(self.registers.len());
        self.registers.push(Register::ro(at + 1, 1, u32::from(self.next)));
        let moved = registers.iter().map(|register| Register { offset: at + register.offset, ..*register });
        self.registers.extend(moved);
        at
    }

    /// The registers, with the list ended and the header pointing at it.
    pub fn finish(mut self) -> Vec<Register> {
        if let Some(pointer) = self.last_pointer.and_then(|index| self.registers.get_mut(index)) {
            pointer.reset = 0;
        }
        self.registers.push(Register::ro(super::config_space::header::CAPABILITIES, 1, u32::from(FIRST)));
        self.registers
    }

    /// Power management with D0 and D3hot, keeping its context over D3hot (No_Soft_Reset).
    pub fn power_management(&mut self) -> u16 {
        self.add(
            ID_POWER_MANAGEMENT,
            8,
            &[Register::ro(2, 2, 3), Register::rw(POWER_CONTROL, 2, 1 << 3, u32::from(POWER_STATE))],
        )
    }

    /// The PCI Express capability of an endpoint with function-level reset.
    pub fn express_endpoint(&mut self) -> u16 {
        let role_based_errors = 1 << 15;
        let function_level_reset = 1 << 28;
        let extended_tags = 1 << 5;
        self.add(
            ID_PCI_EXPRESS,
            0x3c,
            &[
                Register::ro(0x02, 2, 0x0002),
                Register::ro(0x04, 4, PAYLOAD_256 | extended_tags | role_based_errors | function_level_reset),
                Register::rw(EXPRESS_DEVICE_CONTROL, 2, DEVICE_CONTROL_DEFAULT, 0xf9ff),
                Register::rw1c(0x0a, 2, 0, 0x000f),
                Register::ro(0x0c, 4, LINK_SPEED | (LINK_WIDTH << 4)),
                Register::rw(EXPRESS_LINK_CONTROL, 2, 0, 0x00cb),
                // Data Link Layer Active is the downstream port's to report.
                Register::ro(EXPRESS_LINK_STATUS, 2, u32::from(link_status(true)) & !(1 << 13)),
                Register::ro(0x2c, 4, LINK_SPEEDS),
                Register::rw(0x30, 2, LINK_SPEED, 0x000f),
            ],
        )
    }

    /// The PCI Express capability of root port `number`: no slot, so nothing to plug.
    pub fn express_root_port(&mut self, number: u8) -> u16 {
        let role_based_errors = 1 << 15;
        let link_active_reporting = 1 << 20;
        let link_capabilities =
            LINK_SPEED | (LINK_WIDTH << 4) | link_active_reporting | (u32::from(number) << 24);
        self.add(
            ID_PCI_EXPRESS,
            0x3c,
            &[
                Register::ro(0x02, 2, 0x0042),
                Register::ro(0x04, 4, PAYLOAD_256 | role_based_errors),
                Register::rw(EXPRESS_DEVICE_CONTROL, 2, 0x2000, 0x70ef),
                Register::rw1c(0x0a, 2, 0, 0x000f),
                Register::ro(0x0c, 4, link_capabilities),
                Register::rw(EXPRESS_LINK_CONTROL, 2, 0, 0x00db),
                Register::ro(EXPRESS_LINK_STATUS, 2, u32::from(link_status(false))),
                Register::rw(0x1c, 2, 0, 0x000f),
                Register::rw1c(0x20, 4, 0, 1 << 16),
                Register::ro(0x2c, 4, LINK_SPEEDS),
                Register::rw(0x30, 2, LINK_SPEED, 0x000f),
            ],
        )
    }

    /// MSI with one 64-bit message.
    pub fn msi(&mut self) -> u16 {
        self.add(
            ID_MSI,
            14,
            &[
                Register::rw(2, 2, 1 << 7, 0x0071),
                Register::rw(4, 4, 0, 0xffff_fffc),
                Register::rw(8, 4, 0, 0xffff_ffff),
                Register::rw(12, 2, 0, 0xffff),
            ],
        )
    }

    /// A vendor-specific structure.
    pub fn vendor(&mut self, capability: &VendorCapability) -> u16 {
        let (bytes, writable) = match capability {
            VendorCapability::ReadOnly(bytes) => (bytes, None),
            VendorCapability::BarWindow(bytes) => (bytes, Some(bar_window::BAR..bar_window::END)),
        };
        let registers: Vec<_> = bytes
            .iter()
            .zip(2..)
            .map(|(&byte, offset)| {
                let is_field = |range: &std::ops::Range<u16>| {
                    range.contains(&offset) && !bar_window::RESERVED.contains(&offset)
                };
                let mask = if writable.as_ref().is_some_and(is_field) { 0xff } else { 0 };
                Register::rw(offset, 1, u32::from(byte), mask)
            })
            .collect();
        self.add(ID_VENDOR_SPECIFIC, registers.len() as u16 + 2, &registers)
    }

    /// MSI-X with `vectors` entries; table and pending bits are in BAR `bar`, the latter at `pba_offset`.
    pub fn msix(&mut self, vectors: u16, bar: u8, pba_offset: u32) -> u16 {
        let writable = u32::from(MSIX_ENABLE | MSIX_FUNCTION_MASK);
        self.add(
            ID_MSIX,
            12,
            &[
                Register::rw(MSIX_CONTROL, 2, u32::from(vectors.saturating_sub(1)) & 0x7ff, writable),
                Register::ro(4, 4, u32::from(bar)),
                Register::ro(8, 4, pba_offset | u32::from(bar)),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::config_space::ConfigSpace;
    use super::*;

    #[test]
    fn the_list_can_be_walked() {
        let mut list = CapabilityList::new();
        let power = list.power_management();
        let express = list.express_endpoint();
        let msix = list.msix(8, 2, 0x800);
        let space = ConfigSpace::new(&list.finish());
        let mut at = u16::from(space.u8(0x34));
        let mut found = Vec::new();
        while at != 0 {
            found.push((u32::from(space.u8(at)), at));
            at = u16::from(space.u8(at + 1));
        }
        assert_eq!(found, [(ID_POWER_MANAGEMENT, power), (ID_PCI_EXPRESS, express), (ID_MSIX, msix)]);
        assert_eq!(space.u16(express + EXPRESS_DEVICE_CONTROL), 0x2810);
        assert_eq!((space.u16(msix + 2), space.u32(msix + 8)), (7, 0x802));
    }
}
