//! The platform devices and the I/O ports they answer at.

use super::MachineConfig;
use super::Port;
use super::board::{Board, PlatformPort};
use crate::boot::e820;
use crate::clock::events::Source;
use crate::memory::GuestRam;
use crate::memory::layout::{TEST_MEMORY, platform};
use devices::acpi_pm::{self, AcpiPm, TimerWidth};
use devices::board_ports::{DebugExit, PostCode, ResetControl, SystemControlA};
use devices::bus::{Access, PlatformDevice, RangeError, RangeMap};
use devices::fw_cfg::{self, FwCfg, FwCfgConfig};
use devices::i8042::I8042;
use devices::pit::{self, Pit};
use devices::rtc::Rtc;
use devices::serial::Serial;
use devices::test_device::{self, TestDevice};

/// Interrupt input of the 8254: the MADT overrides ISA interrupt 0 to it.
const PIT_GSI: u32 = 2;

/// What answers at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortTarget {
    /// A platform device, and what to add to the port's offset in the range.
    Device { index: usize, offset: u64 },
    /// The 8259 pair.
    Pic,
    /// The firmware configuration device.
    FwCfg,
    /// Configuration mechanism 1, with the reset register inside.
    PciConfig { reset: usize },
}

/// Platform devices by index: the two serial ports first, since the host talks to them.
#[derive(Debug, Clone)]
pub(super) struct PortDevices {
    pub serial: [Serial; 2],
    pub others: Vec<Box<dyn PlatformDevice>>,
    pub fw_cfg: FwCfg,
    /// Index of the test device, if there is one.
    test_device: Option<usize>,
    map: RangeMap<PortTarget>,
}

impl PortDevices {
    pub(super) fn new(ram: &GuestRam, config: &MachineConfig) -> Result<Self, RangeError> {
        let cpus = u16::try_from(config.cpus).unwrap_or(u16::MAX);
        let map = e820::map(ram, config.confidential);
        let files = vec![("etc/e820".to_owned(), e820::table(&map))];
        let described = FwCfgConfig { memory: ram.size(), cpus, max_cpus: cpus, files };
        let mut devices = Self {
            serial: [Serial::new(platform::COM1_GSI), Serial::new(platform::COM2_GSI)],
            others: Vec::new(),
            fw_cfg: FwCfg::new(&described),
            test_device: None,
            map: RangeMap::default(),
        };
        for (index, port) in [platform::COM1, platform::COM2].into_iter().enumerate() {
            devices.map.insert(port.into(), 8, PortTarget::Device { index, offset: 0 })?;
        }
        let rtc = Rtc::new(platform::RTC_GSI, ram.low_end(), ram.high_size());
        let power = AcpiPm::new(platform::SCI_GSI, TimerWidth::Bits32);
        devices.add(Box::new(Pit::new(PIT_GSI)), &[(0x40, 4, 0), (0x61, 1, pit::OFFSET_PORT_B)])?;
        devices.add(Box::new(I8042), &[(0x60, 1, 0), (0x64, 1, 4)])?;
        devices.add(Box::new(rtc), &[(platform::CMOS, 2, 0)])?;
        devices.add(Box::new(PostCode::default()), &[(0x80, 1, 0)])?;
        devices.add(Box::new(SystemControlA), &[(0x92, 1, 0)])?;
        devices.add(Box::new(DebugExit), &[(0xf4, 4, 0)])?;
        devices.add(Box::new(power), &[(platform::PM1A_EVENT, acpi_pm::BLOCK_LENGTH, 0)])?;
        let reset = devices.add(Box::new(ResetControl::default()), &[])?;
        devices.map.insert(platform::PCI_CONFIG.into(), 8, PortTarget::PciConfig { reset })?;
        devices.map.insert(platform::FW_CFG.into(), fw_cfg::LENGTH, PortTarget::FwCfg)?;
        for (port, length) in [(0x20, 2), (0xa0, 2), (0x4d0, 2)] {
            devices.map.insert(port, length, PortTarget::Pic)?;
        }
        Ok(devices)
    }

    /// Adds what test kernels expect.
    pub(super) fn add_test_device(&mut self) -> Result<(), RangeError> {
        let ranges = [
            (0xe0, 4, test_device::OFFSET_DATA),
            (0xe4, 4, test_device::OFFSET_FLUSH),
            (0xe8, 4, test_device::OFFSET_BYTES),
            (0x2000, test_device::LINES, test_device::OFFSET_LINES),
        ];
        self.test_device = Some(self.add(Box::new(TestDevice::default()), &ranges)?);
        Ok(())
    }

    /// What answers at a memory address: a platform device, and the offset in it.
    pub(super) fn lookup_memory(&self, address: u64) -> Option<(usize, u64)> {
        let index = self.test_device.filter(|_| TEST_MEMORY.contains(address))?;
        Some((index, test_device::OFFSET_MEMORY + (address - TEST_MEMORY.start)))
    }

    /// Registers a device at ranges of ports: first port, number, offset of the first. Returns its index.
    fn add(
        &mut self,
        device: Box<dyn PlatformDevice>,
        ranges: &[(u16, u64, u64)],
    ) -> Result<usize, RangeError> {
        let index = self.serial.len() + self.others.len();
        self.others.push(device);
        for &(port, length, offset) in ranges {
            self.map.insert(port.into(), length, PortTarget::Device { index, offset })?;
        }
        Ok(index)
    }

    /// What answers at `port`, and the port's offset in its range.
    pub(super) fn lookup(&self, port: u16) -> Option<(u64, PortTarget)> {
        self.map.lookup(port.into()).map(|(first, target)| (u64::from(port) - first, target))
    }

    pub(super) fn serial(&self, port: Port) -> &Serial {
        let [console, channel] = &self.serial;
        match port {
            Port::Console => console,
            Port::Channel => channel,
        }
    }

    pub(super) fn serial_mut(&mut self, port: Port) -> &mut Serial {
        let [console, channel] = &mut self.serial;
        match port {
            Port::Console => console,
            Port::Channel => channel,
        }
    }

    fn device(&mut self, index: usize) -> Option<&mut dyn PlatformDevice> {
        match index.checked_sub(self.serial.len()) {
            None => self.serial.get_mut(index).map(|serial| serial as &mut dyn PlatformDevice),
            Some(other) => {
                self.others.get_mut(other).map(|device| device.as_mut() as &mut dyn PlatformDevice)
            }
        }
    }

    pub(super) fn read(&mut self, index: usize, offset: u64, data: &mut [u8], board: &mut Board) -> Access {
        let port = &mut PlatformPort { source: Source::Platform(index), board };
        self.device(index).map_or(Ok(()), |device| device.read(offset, data, port))
    }

    pub(super) fn write(&mut self, index: usize, offset: u64, data: &[u8], board: &mut Board) -> Access {
        let port = &mut PlatformPort { source: Source::Platform(index), board };
        self.device(index).map_or(Ok(()), |device| device.write(offset, data, port))
    }

    pub(super) fn event(&mut self, index: usize, token: u32, board: &mut Board) {
        let port = &mut PlatformPort { source: Source::Platform(index), board };
        if let Some(device) = self.device(index) {
            device.event(token, port);
        }
    }
}
