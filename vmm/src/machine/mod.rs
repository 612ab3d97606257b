//! The machine: RAM, devices and interrupt controllers put together, seen by engines through a few methods.

mod attachment;
mod board;
mod bus;
mod confidential;
pub mod device;
mod findings;
mod guest;
mod iommu;
mod ports;
mod shared;
mod state;
mod statistics;
mod world;

#[cfg(test)]
mod iommu_tests;
#[cfg(test)]
mod posted_tests;

pub use board::InterruptSignal;
pub use confidential::{Confidential, ConfidentialStatistics, PrivateDma};
pub use device::{DeviceError, DeviceSpec};
pub use iommu::{BlockedFunction, IommuSpec, IommuStatistics};
pub use shared::SharedMachine;
pub use statistics::{AgentStatistics, CacheStatistics};

use crate::clock::EventId;
use crate::clock::events::Source;
use crate::findings::Findings;
use crate::ledger::Ledger;
use crate::memory::layout::{PCI_WINDOW_32, PCI_WINDOW_64};
use crate::memory::{CacheSpec, Encryption, GuestRam, MemorySystem, RamError};
use attachment::Attachments;
use board::{Board, PciHost, PlatformPort, Watch};
use devices::bus::{AccessLog, Nanos, PowerRequest, RangeError};
use devices::interrupt::Interrupts;
use devices::iommu::Iommu;
use devices::pci::{AssignError, AttachError, Bdf, ResourceWindows, RootComplex, Slot};
use devices::random::Random;
use guest::KnownGuest;
use ports::PortDevices;
use std::collections::BTreeMap;

/// The most vCPUs that a machine can have.
pub const CPUS_MAX: u32 = 8;

/// Which machine to build.
#[derive(Debug, Clone)]
pub struct MachineConfig {
    /// Bytes of RAM.
    pub memory: u64,
    /// vCPUs, 1 to [`CPUS_MAX`].
    pub cpus: u32,
    /// Seed of everything random in the machine.
    pub seed: u64,
    pub devices: Vec<DeviceSpec>,
    /// What lies between vCPUs and RAM.
    pub cache: CacheSpec,
    /// What lies between devices and memory.
    pub iommu: IommuSpec,
    /// Memory encryption that the guest is shown.
    pub confidential: Option<Confidential>,
}

/// The machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("a machine has 1 to {CPUS_MAX} vCPUs, not {0}")]
    Cpus(u32),
    #[error(transparent)]
    Ram(#[from] RamError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Assign(#[from] AssignError),
    #[error(transparent)]
    Ports(#[from] RangeError),
    #[error("memory encryption and a cache model cannot be had together")]
    EncryptedCache,
    #[error("device {0}: all eight PCI slots are taken")]
    NoFreeSlot(String),
}

/// Told apart by this, the seed is that of the schedule of posted writes.
const POSTED_WRITES: u64 = 0x706f_7374_6564;

/// The seed of the device in `slot`: the slot makes the sequences of two random devices differ.
fn device_seed(seed: u64, slot: Slot) -> u64 {
    seed ^ u64::from(slot) << 56
}

/// A serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// The first: the console.
    Console = 0,
    /// The second: the channel to our init.
    Channel = 1,
}

/// Everything but the vCPUs: plain data, the mapping of RAM, and the files that devices have.
#[derive(Debug, Clone)]
pub struct Machine {
    memory: MemorySystem,
    board: Board,
    ports: PortDevices,
    pci: RootComplex,
    attachments: Attachments,
    random: Random,
    /// The seed of everything random in it from here on.
    seed: u64,
    log: AccessLog,
    guest: KnownGuest,
    ledger: Option<Box<Ledger>>,
    iommu: Option<Box<Iommu>>,
    /// What of the guest's memory is shared cannot be known, for this reason: the run means nothing.
    unconfined: Option<String>,
    findings: Findings,
    /// Devices by requester ID.
    devices: BTreeMap<u32, String>,
}

impl Machine {
    /// Builds the machine and does the firmware's work on it.
    ///
    /// # Errors
    /// [`MachineError`] if RAM cannot be had, the number of vCPUs is out of bounds, or a device does not fit.
    pub fn new(config: &MachineConfig) -> Result<Self, MachineError> {
        if !(1..=CPUS_MAX).contains(&config.cpus) {
            return Err(MachineError::Cpus(config.cpus));
        }
        if config.confidential.is_some() && !config.cache.is_off() {
            return Err(MachineError::EncryptedCache);
        }
        let ram = GuestRam::new(config.memory)?;
        let encryption =
            config.confidential.map(|Confidential::Sev| Box::new(Encryption::new(config.seed, ram.end())));
        let mut pci = RootComplex::new();
        let mut attachments = Attachments::default();
        let mut names = BTreeMap::new();
        // Devices with a place of their own first: the others take what is left.
        let (placed, floating): (Vec<_>, Vec<_>) =
            config.devices.iter().partition(|device| device.fixed_slot().is_some());
        for device in placed.into_iter().chain(floating) {
            let free = || pci.free_slot().ok_or_else(|| MachineError::NoFreeSlot(device.kind.clone()));
            let slot = device.fixed_slot().map_or_else(free, Ok)?;
            let built = device.build(device_seed(config.seed, slot))?;
            pci.attach(slot, built.device)?;
            // Behind the root port of its slot.
            let bdf = Bdf::new(slot, 0, 0);
            names.insert(bdf.to_bits().into(), format!("{bdf} {}", device.kind));
            if let Some(attachment) = built.attachment {
                attachments.insert(slot, attachment);
            }
        }
        pci.assign_resources(&ResourceWindows {
            memory32: (PCI_WINDOW_32.start, PCI_WINDOW_32.last()),
            memory64: (PCI_WINDOW_64.start, PCI_WINDOW_64.last()),
        })?;
        Ok(Self {
            ports: PortDevices::new(&ram, config)?,
            board: Board::new(config.cpus),
            pci,
            attachments,
            memory: MemorySystem { encryption, ..MemorySystem::new(ram, config.cache.config()) },
            random: Random::new(config.seed),
            seed: config.seed,
            log: AccessLog::default(),
            guest: KnownGuest::default(),
            ledger: None,
            iommu: config.iommu.build().map(Box::new),
            unconfined: None,
            findings: Findings::default(),
            devices: names,
        })
    }

    /// Adds the device that bare-metal test kernels expect (`pc-testdev` of QEMU).
    ///
    /// # Errors
    /// [`MachineError::Ports`] if there is one already.
    pub fn add_test_device(&mut self) -> Result<(), MachineError> {
        Ok(self.ports.add_test_device()?)
    }

    /// The root complex, and the rest of the machine as it sees it.
    fn pci_and_host(&mut self) -> (&mut RootComplex, PciHost<'_>) {
        let host = PciHost {
            memory: &mut self.memory,
            board: &mut self.board,
            attachments: &mut self.attachments,
            iommu: self.iommu.as_deref_mut(),
            watch: Watch { ledger: self.ledger.as_deref_mut(), findings: &mut self.findings },
        };
        (&mut self.pci, host)
    }

    /// Whether [`Machine::fork`] can have a machine like this one.
    ///
    /// # Errors
    /// Why not.
    pub fn can_fork(&self) -> Result<(), &'static str> {
        if self.attachments.is_exclusive() {
            return Err("a device of it writes to a file of the host");
        }
        Ok(())
    }

    /// A copy that goes on by itself, with this machine's RAM as it is now, which must not change any more.
    ///
    /// # Errors
    /// [`MachineError::Ram`] if the host cannot map the copy's RAM.
    pub fn fork(&self) -> Result<Self, MachineError> {
        let memory = MemorySystem { ram: self.memory.ram.fork()?, ..self.memory.clone() };
        Ok(Self { memory, ..self.clone() })
    }

    /// Seeds everything random in the machine anew.
    pub fn reseed(&mut self, seed: u64) {
        self.seed = seed;
        self.random = Random::new(seed);
        self.pci.reseed(|slot| device_seed(seed, slot));
    }

    /// The guest is ready: from here on what hardware may do in several ways goes as the seed decides.
    pub fn start_schedules(&mut self) {
        // Not the sequence that anything else takes from the same seed.
        self.board.posted.start(Random::new(self.seed ^ POSTED_WRITES).next_u64());
        if let Some(cache) = &mut self.memory.cache {
            cache.start_schedule(self.seed);
        }
    }

    /// What lies between vCPUs, devices and RAM.
    pub fn memory_mut(&mut self) -> &mut MemorySystem {
        &mut self.memory
    }

    /// Guest RAM.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.memory.ram
    }

    /// The interrupt controllers.
    #[must_use]
    pub fn interrupts(&self) -> &Interrupts {
        &self.board.interrupts
    }

    /// The interrupt controllers, for what a vCPU takes from them.
    pub fn interrupts_mut(&mut self) -> &mut Interrupts {
        &mut self.board.interrupts
    }

    /// Leaves the interrupt controllers to the engine: from now on what devices signal is kept for
    /// [`Machine::take_interrupt_signals`], and the machine's own controllers hear of nothing.
    pub fn delegate_interrupts(&mut self) {
        self.board.delegated.get_or_insert_default();
    }

    /// What devices have signalled since the last call to controllers that are the engine's, in order. To be asked for
    /// after every access and every [`Machine::advance`].
    pub fn take_interrupt_signals(&mut self) -> Vec<InterruptSignal> {
        self.board.delegated.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Virtual time of the next thing that happens by itself.
    #[must_use]
    pub fn next_event(&self) -> Option<Nanos> {
        let timer = self.board.interrupts.next_deadline();
        match (self.board.events.next(), timer) {
            (Some(event), Some(timer)) => Some(event.min(timer)),
            (event, timer) => event.or(timer),
        }
    }

    /// Has everything happen that is due at `now`.
    pub fn advance(&mut self, now: Nanos) {
        self.board.now = self.board.now.max(now);
        self.board.interrupts.advance(now);
        while let Some(EventId { source, token }) = self.board.events.take_due(now) {
            match source {
                Source::Platform(index) => self.ports.event(index, token, &mut self.board),
                Source::Pci(slot) => {
                    let (pci, mut host) = self.pci_and_host();
                    pci.event(slot, token, &mut host);
                }
                Source::PostedWrites => self.pci_and_host().1.make_due_writes(),
            }
        }
    }

    /// Whether an engine that runs towards `limit` must look at the machine first: something happens before, or the
    /// guest has asked for something.
    #[must_use]
    pub fn needs_attention(&self, limit: Nanos) -> bool {
        self.board.power.is_some() || self.next_event().is_some_and(|at| at < limit)
    }

    /// Whether the guest has asked for something of the power logic.
    #[must_use]
    pub fn has_power_request(&self) -> bool {
        self.board.power.is_some()
    }

    /// What the guest has asked of the power logic since the last call.
    pub fn take_power_request(&mut self) -> Option<PowerRequest> {
        self.board.power.take()
    }

    /// Gives host input to a serial port; returns how many bytes it took.
    pub fn serial_input(&mut self, port: Port, bytes: &[u8]) -> usize {
        let serial = self.ports.serial_mut(port);
        serial.enqueue_input(
            bytes,
            &mut PlatformPort { source: Source::Platform(port as usize), board: &mut self.board },
        )
    }

    /// Bytes of host input that a serial port can take now: none before the guest's driver has it open, since drivers
    /// throw away what they find in it.
    #[must_use]
    pub fn serial_room(&self, port: Port) -> usize {
        let serial = self.ports.serial(port);
        if serial.requests_to_send() { serial.input_room() } else { 0 }
    }

    /// Whether the guest has sent anything on a serial port since it was last asked for.
    #[must_use]
    pub fn has_serial_output(&self) -> bool {
        [Port::Console, Port::Channel].into_iter().any(|port| self.ports.serial(port).has_output())
            || self.attachments.has_console()
    }

    /// What the guest has sent on a serial port since the last call; with the console's comes what virtio consoles without
    /// a file of their own have sent.
    pub fn serial_output(&mut self, port: Port) -> Option<Vec<u8>> {
        let mut bytes = self.ports.serial_mut(port).take_output();
        if port == Port::Console {
            bytes.append(&mut self.attachments.take_console());
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    /// The root complex and what is attached to it.
    #[must_use]
    pub fn pci(&self) -> &RootComplex {
        &self.pci
    }
}
