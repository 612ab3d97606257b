//! The physical address map of the machine.
//!
//! ```text
//! 0                 low RAM (the first MiB also holds what the boot code leaves for the kernel)
//! 3 GiB             32-bit PCI window
//! 3.5 GiB           ECAM of buses 0-8
//! fec0_0000         IO-APIC
//! fee0_0000         local APICs, MSI
//! ff00_0000         memory of the test device (multiboot kernels only)
//! 4 GiB             high RAM: what does not fit below 3 GiB
//! 256 GiB           64-bit prefetchable PCI window
//! ```

/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;
/// Bytes in a gibibyte.
pub const GIB: u64 = 1 << 30;

/// Bytes of a page frame.
pub const PAGE: u64 = 4096;

/// Bytes of a cache line: DMA is atomic within one.
pub const LINE: u64 = 64;

/// End of conventional memory. RAM below is free for the kernel's trampolines.
pub const CONVENTIONAL_END: u64 = 0xa_0000;
/// Start of the firmware area, reserved in E820. The ACPI tables are here, where kernels look for the RSDP.
pub const FIRMWARE_START: u64 = 0xe_0000;
/// End of the firmware area.
pub const FIRMWARE_END: u64 = 0x10_0000;

/// RAM beyond this size moves over [`HIGH_RAM`].
pub const LOW_RAM_MAX: u64 = 3 * GIB;
/// Where RAM goes on that does not fit below [`LOW_RAM_MAX`].
pub const HIGH_RAM: u64 = 4 * GIB;

/// The window for 32-bit BARs.
pub const PCI_WINDOW_32: Window = Window { start: 0xc000_0000, size: 0x2000_0000 };
/// The window for 64-bit prefetchable BARs.
pub const PCI_WINDOW_64: Window = Window { start: 256 * GIB, size: 64 * GIB };
/// The window for port BARs, above the ports of platform devices.
pub const PCI_WINDOW_IO: Window = Window { start: 0xc000, size: 0x4000 };

/// Buses below the host bridge: the root bus and one behind each root port.
pub const PCI_BUSES: u8 = 9;
/// Enhanced configuration access: 1 MiB a bus.
pub const ECAM: Window = Window { start: 0xe000_0000, size: PCI_BUSES as u64 * MIB };

/// Window of the IO-APIC.
pub const IO_APIC: Window = Window { start: 0xfec0_0000, size: PAGE };
/// Where a device's write is an interrupt message (SDM volume 3A, 11.11.1).
pub const MESSAGES: Window = Window { start: 0xfee0_0000, size: MIB };
/// Three pages that KVM on VMX needs for itself where a processor cannot run real mode, outside RAM and devices
/// (KVM_SET_TSS_ADDR).
pub const KVM_TSS: u64 = 0xfffb_d000;
/// Page of the local APICs.
pub const LOCAL_APIC: Window = Window { start: 0xfee0_0000, size: PAGE };

/// Memory of the test device.
pub const TEST_MEMORY: Window = Window { start: 0xff00_0000, size: 0x1_0000 };

/// Ports and interrupt inputs of the platform devices.
pub mod platform {
    /// First serial port: the console.
    pub const COM1: u16 = 0x3f8;
    /// Interrupt of the first serial port.
    pub const COM1_GSI: u32 = 4;
    /// Second serial port: the channel to our init.
    pub const COM2: u16 = 0x2f8;
    /// Interrupt of the second serial port.
    pub const COM2_GSI: u32 = 3;
    /// CMOS index and data.
    pub const CMOS: u16 = 0x70;
    /// Interrupt of the real-time clock.
    pub const RTC_GSI: u32 = 8;
    /// PM1a event block, 4 bytes (ACPI specification, 4.8.3).
    pub const PM1A_EVENT: u16 = 0x600;
    /// PM1a control block, 2 bytes.
    pub const PM1A_CONTROL: u16 = 0x604;
    /// Power management timer, 4 bytes.
    pub const PM_TIMER: u16 = 0x608;
    /// The system control interrupt.
    pub const SCI_GSI: u32 = 9;
    /// The firmware configuration device: selector, data, DMA.
    pub const FW_CFG: u16 = 0x510;
    /// The reset control register.
    pub const RESET: u16 = 0xcf9;
    /// What to write there for a full reset.
    pub const RESET_VALUE: u8 = 6;
    /// Configuration mechanism 1: CONFIG_ADDRESS and CONFIG_DATA.
    pub const PCI_CONFIG: u16 = 0xcf8;
    /// The first of the four interrupt inputs that PCI pins share.
    pub const PCI_GSI: u32 = 16;
}

/// The most RAM a machine can have: it must end below the 64-bit PCI window.
pub const RAM_MAX: u64 = 128 * GIB;
/// The least RAM that makes sense: the first MiB and something to run in.
pub const RAM_MIN: u64 = 4 * MIB;

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start: u64,
    pub size: u64,
}

impl Window {
    /// The last address.
    #[must_use]
    pub const fn last(self) -> u64 {
        self.start + (self.size - 1)
    }
    /// The first address beyond.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start + self.size
    }
    /// Whether `address` lies within.
    #[must_use]
    pub const fn contains(self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.size
    }
}

/// Bytes of RAM below 3 GiB and above 4 GiB of a machine with `size` bytes.
#[must_use]
pub const fn split_ram(size: u64) -> (u64, u64) {
    if size > LOW_RAM_MAX { (LOW_RAM_MAX, size - LOW_RAM_MAX) } else { (size, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap() {
        let mut windows = [
            Window { start: 0, size: LOW_RAM_MAX },
            PCI_WINDOW_32,
            ECAM,
            IO_APIC,
            LOCAL_APIC,
            TEST_MEMORY,
            Window { start: HIGH_RAM, size: RAM_MAX - LOW_RAM_MAX },
            PCI_WINDOW_64,
        ];
        windows.sort_by_key(|window| window.start);
        for pair in windows.windows(2) {
            assert!(pair[0].end() <= pair[1].start, "{pair:x?}");
        }
    }

    #[test]
    fn ram_moves_over_the_hole() {
        assert_eq!(split_ram(512 * MIB), (512 * MIB, 0));
        assert_eq!(split_ram(3 * GIB), (3 * GIB, 0));
        assert_eq!(split_ram(6 * GIB), (3 * GIB, 3 * GIB));
    }
}
