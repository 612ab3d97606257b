//! Accesses of a processor to ports and to memory that is not RAM: decoding, and splitting into what devices take.

use super::Machine;
use super::ports::PortTarget;
use crate::memory::layout::{ECAM, IO_APIC, platform};
use crate::memory::{MemorySystem, Transaction};
use devices::bus::{Access, Nanos};
use devices::dma::DmaError;
use devices::fw_cfg;
use devices::interrupt::LocalApic;

/// RAM as the firmware configuration device reaches it.
struct FwCfgMemory<'a> {
    memory: &'a mut MemorySystem,
    by: Transaction,
}

impl fw_cfg::Memory for FwCfgMemory<'_> {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        self.memory.dma_read(self.by, address, data)
    }
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.memory.dma_write(self.by, address, data)
    }
}

/// Splits `length` bytes at `address` into naturally aligned parts of 1, 2, 4 or 8 bytes; an access that already has such
/// a size stays whole, for the device to judge its alignment.
fn parts(address: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = length.checked_sub(done).filter(|&left| left != 0)?;
        let at = address.wrapping_add(done as u64);
        let size = if done == 0 && matches!(left, 1 | 2 | 4 | 8) {
            left
        } else {
            let aligned = 1 << at.trailing_zeros().min(3);
            aligned.min(1 << left.ilog2())
        };
        let from = done;
        done += size;
        Some((at, from..done))
    })
}

impl Machine {
    /// Reads memory that is not RAM. Nobody answering reads all-ones.
    pub fn mmio_read(&mut self, cpu: u32, now: Nanos, address: u64, data: &mut [u8]) {
        self.board.now = now;
        for (at, range) in parts(address, data.len()) {
            let Some(part) = data.get_mut(range) else { break };
            self.mmio_read_part(cpu as usize, at, part);
        }
    }

    /// Writes memory that is not RAM. What nobody takes is dropped.
    pub fn mmio_write(&mut self, cpu: u32, now: Nanos, address: u64, data: &[u8]) {
        self.board.now = now;
        for (at, range) in parts(address, data.len()) {
            let Some(part) = data.get(range) else { break };
            self.mmio_write_part(cpu as usize, at, part);
        }
    }

    fn mmio_read_part(&mut self, cpu: usize, address: u64, data: &mut [u8]) {
        let now = self.board.now;
        if self.board.interrupts.apic_page(cpu) == Some(address & !0xfff) {
            self.board.interrupts.apic_read(cpu, address & 0xfff, data, now);
        } else if self.pci.claims(address) {
            let (pci, mut host) = self.pci_and_host();
            pci.mmio_read(address, data, &mut host);
        } else if ECAM.contains(address) {
            let (pci, mut host) = self.pci_and_host();
            pci.ecam_read(address - ECAM.start, data, &mut host);
        } else if IO_APIC.contains(address) {
            self.board.interrupts.io_apic_read(address - IO_APIC.start, data);
        } else {
            self.platform_read(address, data);
        }
    }

    fn mmio_write_part(&mut self, cpu: usize, address: u64, data: &[u8]) {
        let now = self.board.now;
        if self.board.interrupts.apic_page(cpu) == Some(address & !0xfff) {
            self.board.interrupts.apic_write(cpu, address & 0xfff, data, now);
            return;
        }
        let (pci, mut host) = self.pci_and_host();
        if pci.claims(address) {
            pci.mmio_write(address, data, &mut host);
        } else if ECAM.contains(address) {
            pci.ecam_write(address - ECAM.start, data, &mut host);
        } else if IO_APIC.contains(address) {
            self.board.interrupts.io_apic_write(address - IO_APIC.start, data);
        } else {
            self.platform_write(address, data);
        }
    }

    /// Reads the memory of a platform device.
    fn platform_read(&mut self, address: u64, data: &mut [u8]) {
        let Some((index, offset)) = self.ports.lookup_memory(address) else {
            log::trace!("read of {} bytes at {address:#x}: nobody answers", data.len());
            return data.fill(0xff);
        };
        if let Err(error) = self.ports.read(index, offset, data, &mut self.board) {
            data.fill(0xff);
            self.log.refused(format_args!("{}-byte read at {address:#x}", data.len()), error);
        }
    }

    /// Writes the memory of a platform device.
    fn platform_write(&mut self, address: u64, data: &[u8]) {
        let Some((index, offset)) = self.ports.lookup_memory(address) else {
            return log::trace!("write of {} bytes at {address:#x}: nobody answers", data.len());
        };
        if let Err(error) = self.ports.write(index, offset, data, &mut self.board) {
            self.log.refused(format_args!("{}-byte write at {address:#x}", data.len()), error);
        }
    }

    /// Writes the firmware configuration device, and makes the transfer that this may start.
    fn fw_cfg_write(&mut self, offset: u64, data: &[u8]) -> Access {
        if let Some(address) = self.ports.fw_cfg.write(offset, data)? {
            let by = Transaction::of_platform(self.board.now);
            self.ports.fw_cfg.transfer(address, &mut FwCfgMemory { memory: &mut self.memory, by });
        }
        Ok(())
    }

    /// Reads `data.len()` bytes (1, 2 or 4) from a port. Nobody answering reads all-ones.
    pub fn port_read(&mut self, now: Nanos, port: u16, data: &mut [u8]) {
        self.board.now = now;
        let Some((offset, target)) = self.ports.lookup(port) else { return data.fill(0xff) };
        let result = match target {
            PortTarget::Device { index, offset: base } => {
                self.ports.read(index, base + offset, data, &mut self.board)
            }
            PortTarget::Pic => {
                for (byte, at) in data.iter_mut().zip(port..) {
                    *byte = self.board.interrupts.pic_read(at);
                }
                Ok(())
            }
            PortTarget::FwCfg => self.ports.fw_cfg.read(offset, data),
            PortTarget::PciConfig { reset } if port == platform::RESET && data.len() == 1 => {
                self.ports.read(reset, 0, data, &mut self.board)
            }
            PortTarget::PciConfig { .. } => {
                let (pci, mut host) = self.pci_and_host();
                pci.port_read(offset as u16, data, &mut host);
                Ok(())
            }
        };
        if let Err(error) = result {
            data.fill(0xff);
            self.log.refused(format_args!("{}-byte read of port {port:#x}", data.len()), error);
        }
    }

    /// Writes `data.len()` bytes (1, 2 or 4) to a port. What nobody takes is dropped.
    pub fn port_write(&mut self, now: Nanos, port: u16, data: &[u8]) {
        self.board.now = now;
        let Some((offset, target)) = self.ports.lookup(port) else { return };
        let result = match target {
            PortTarget::Device { index, offset: base } => {
                self.ports.write(index, base + offset, data, &mut self.board)
            }
            PortTarget::Pic => {
                for (&byte, at) in data.iter().zip(port..) {
                    self.board.interrupts.pic_write(at, byte);
                }
                Ok(())
            }
            PortTarget::FwCfg => self.fw_cfg_write(offset, data),
            PortTarget::PciConfig { reset } if port == platform::RESET && data.len() == 1 => {
                self.ports.write(reset, 0, data, &mut self.board)
            }
            PortTarget::PciConfig { .. } => {
                let (pci, mut host) = self.pci_and_host();
                pci.port_write(offset as u16, data, &mut host);
                Ok(())
            }
        };
        if let Err(error) = result {
            self.log.refused(format_args!("{}-byte write of port {port:#x}", data.len()), error);
        }
    }

    /// Reads a model-specific register of the local APIC; `None` raises #GP(0).
    pub fn apic_read_msr(&mut self, cpu: u32, now: Nanos, index: u32) -> Option<u64> {
        self.board.now = now;
        let owned = LocalApic::owns_msr(index);
        owned.then(|| self.board.interrupts.read_msr(cpu as usize, index, now).ok()).flatten()
    }

    /// Writes a model-specific register of the local APIC; `None` raises #GP(0).
    pub fn apic_write_msr(&mut self, cpu: u32, now: Nanos, index: u32, value: u64) -> Option<()> {
        self.board.now = now;
        let owned = LocalApic::owns_msr(index);
        owned.then(|| self.board.interrupts.write_msr(cpu as usize, index, value, now).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MachineConfig, Port};
    use super::*;
    use crate::memory::layout::{MIB, TEST_MEMORY};
    use devices::bus::PowerRequest;
    use devices::state::{Loader, SaveState, Saver};

    fn machine() -> Machine {
        let devices = ["mlx5", "rng", "console", "input"].map(|device| device.parse().unwrap()).into();
        Machine::new(&MachineConfig {
            memory: 16 * MIB,
            cpus: 1,
            seed: 1,
            devices,
            cache: crate::memory::CacheSpec::off(),
            iommu: crate::machine::IommuSpec::Off,
            confidential: None,
        })
        .unwrap()
    }

    fn read32(machine: &mut Machine, address: u64) -> u32 {
        let mut data = [0; 4];
        machine.mmio_read(0, 0, address, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn accesses_are_split_at_natural_alignment() {
        let split =
            |address, length| parts(address, length).map(|(_, range)| range.len()).collect::<Vec<_>>();
        assert_eq!(split(0x1000, 8), [8]);
        assert_eq!(split(0x1003, 4), [4], "for the device to refuse");
        assert_eq!(split(0x1000, 16), [8, 8]);
        assert_eq!(split(0x1002, 6), [2, 4]);
        assert_eq!(split(0x1001, 3), [1, 2]);
        assert_eq!(split(u64::MAX, 3), [1, 2]);
        assert!(split(0, 0).is_empty());
    }

    #[test]
    fn every_window_is_decoded() {
        let mut machine = machine();
        machine.mmio_write(0, 0, TEST_MEMORY.start, &[1, 2, 3, 4]);
        assert_eq!(read32(&mut machine, TEST_MEMORY.start), u32::MAX, "no test device");
        machine.add_test_device().unwrap();
        machine.mmio_write(0, 0, TEST_MEMORY.start, &[1, 2, 3, 4]);
        assert_eq!(read32(&mut machine, TEST_MEMORY.start), 0x0403_0201);
        assert_eq!(read32(&mut machine, ECAM.start), 0x0008_1b36, "host bridge");
        assert_eq!(read32(&mut machine, ECAM.start + (8 << 20)) & 0xffff, 0x15b3, "mlx5 at 08:00.0");
        assert_eq!(read32(&mut machine, 0xfee0_0030) & 0xf0, 0x10, "local APIC version");
        machine.mmio_write(0, 0, IO_APIC.start, &[1, 0, 0, 0]);
        assert_eq!(read32(&mut machine, IO_APIC.start + 0x10), 0x0017_0020);
        let (bar, _) = machine.pci().bar(8, 0).unwrap();
        assert_ne!(read32(&mut machine, bar), u32::MAX, "BAR 0");
        assert_eq!(read32(&mut machine, 0xd000_0000), u32::MAX, "nobody");
    }

    #[test]
    fn ports_are_decoded() {
        let mut machine = machine();
        machine.port_write(0, platform::COM1, b"x");
        machine.port_write(0, platform::COM2, b"y");
        assert_eq!(machine.serial_output(Port::Console).as_deref(), Some(&b"x"[..]));
        assert_eq!(machine.serial_output(Port::Channel).as_deref(), Some(&b"y"[..]));
        machine.port_write(0, platform::PCI_CONFIG, &0x8000_0000_u32.to_le_bytes());
        let mut data = [0; 4];
        machine.port_read(0, platform::PCI_CONFIG + 4, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x0008_1b36);
        machine.port_read(0, 0x1234, &mut data);
        assert_eq!(data, [0xff; 4]);
        machine.port_read(0, platform::COM1, &mut data);
        assert_eq!(data, [0xff; 4], "a serial port takes bytes only");
    }

    #[test]
    fn firmware_configuration_reaches_ram() {
        let mut machine = machine();
        let mut byte = [0];
        machine.port_write(0, platform::FW_CFG, &5_u16.to_le_bytes());
        machine.port_read(0, platform::FW_CFG + 1, &mut byte);
        assert_eq!(byte, [1], "one vCPU");
        // Select the signature and read four bytes to 0x3000.
        let request: [u32; 4] = [0x0a, 4, 0, 0x3000];
        let bytes: Vec<u8> = request.into_iter().flat_map(u32::to_be_bytes).collect();
        machine.ram().write(0x2000, &bytes).unwrap();
        machine.port_write(0, platform::FW_CFG + 8, &0x2000_u32.to_be_bytes());
        let (mut control, mut text) = ([9; 4], [0; 4]);
        machine.ram().read(0x2000, &mut control).unwrap();
        machine.ram().read(0x3000, &mut text).unwrap();
        assert_eq!((control, &text), ([0; 4], b"QEMU"));
    }

    #[test]
    fn power_requests_arrive() {
        let request = |port, data: &[u8]| {
            let mut machine = machine();
            machine.port_write(0, port, data);
            machine.take_power_request()
        };
        assert_eq!(request(platform::RESET, &[6]), Some(PowerRequest::Reset));
        assert_eq!(request(platform::PM1A_CONTROL, &0x3400_u16.to_le_bytes()), Some(PowerRequest::Off));
        assert_eq!(request(0xf4, &[3]), Some(PowerRequest::DebugExit(3)));
        assert_eq!(request(0x64, &[0xfe]), Some(PowerRequest::Reset));
    }

    /// Random accesses of every size and alignment to every window, port and register.
    #[test]
    fn garbage_is_survived_everywhere() {
        let mut machine = machine();
        machine.add_test_device().unwrap();
        let mut random = devices::random::Random::new(7);
        let (bar, size) = machine.pci().bar(8, 0).unwrap();
        let mut windows = vec![
            (ECAM.start, ECAM.size),
            (IO_APIC.start, 0x100),
            (0xfee0_0000, 0x1000),
            (bar, size),
            (bar, 0x1000),
            (TEST_MEMORY.start, TEST_MEMORY.size),
        ];
        // The virtio devices are in the first slots that are free.
        windows.extend([1, 2, 3].map(|slot| machine.pci().bar(slot, 0).unwrap()));
        for round in 0..200_000_u64 {
            let now = round * 1000;
            let value = random.next_u64().to_le_bytes();
            let choice = random.next_u64();
            if choice & 1 == 0 {
                let (start, size) = windows[(choice >> 1) as usize % windows.len()];
                let address = start + random.next_u64() % size;
                let length = 1 + (random.next_u64() % 16) as usize;
                let mut data = [0; 16];
                data[..8].copy_from_slice(&value);
                if choice & 0x100 == 0 {
                    machine.mmio_read(0, now, address, &mut data[..length]);
                } else {
                    machine.mmio_write(0, now, address, &data[..length]);
                }
            } else {
                let port = random.next_u64() as u16 & if choice & 0x200 == 0 { 0xfff } else { 0xffff };
                let length = [1, 2, 4][random.next_u64() as usize % 3];
                if choice & 0x100 == 0 {
                    machine.port_read(now, port, &mut [0; 4][..length]);
                } else {
                    machine.port_write(now, port, &value[..length]);
                }
            }
            machine.advance(now);
            machine.take_power_request();
            machine.serial_output(Port::Console);
            machine.serial_output(Port::Channel);
        }
        for index in 0x800..0x900 {
            machine.apic_read_msr(0, 0, index);
            machine.apic_write_msr(0, 0, index, random.next_u64());
        }
        machine.interrupts_mut().acknowledge(0);

        // What it has come to can be saved and is whole when it is restored.
        let saved = |machine: &Machine| {
            let mut saver = Saver::default();
            machine.save(&mut saver).unwrap();
            saver.into_bytes()
        };
        let bytes = saved(&machine);
        let mut restored = self::machine();
        restored.add_test_device().unwrap();
        let mut from = Loader::new(&bytes);
        restored.restore(&mut from).unwrap();
        from.finish().unwrap();
        assert!(saved(&restored) == bytes);
        assert!(saved(&self::machine()) != bytes);
    }
}
