//! Guests that are stopped on their way and looked at.

use super::file;
use staleline::boot::{self, Boot, InitrdPart, Kernel, cmdline};
use staleline::engine::{Engine, Exit, Kick, SoftEngine};
use staleline::guest::{Guest, Registers, SymbolFile};
use staleline::machine::{IommuSpec, Machine, MachineConfig, Port, SharedMachine};
use std::path::{Path, PathBuf};

/// Virtual time after which a guest that has not come to where it should is given up.
const LIMIT: u64 = 60_000_000_000;

/// A guest that has been started.
#[derive(Debug)]
pub struct Running {
    pub machine: SharedMachine,
    pub engine: SoftEngine,
    pub console: String,
}

/// The image `name`, built if it is not there.
pub fn image(name: &str) -> guest_images::Image {
    let store = guest_images::Store::open(None).unwrap();
    store.ensure(name, guest_images::progress::for_stderr().as_ref()).unwrap()
}

/// The module of the driver `name` of guest-images, built for the kernel of an image.
pub fn module(image: &str, name: &str) -> PathBuf {
    let store = guest_images::Store::open(None).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-images/drivers").join(name);
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(image);
    let progress = guest_images::progress::for_stderr();
    let built = store.build_module(image, &source, &to, progress.as_ref()).unwrap();
    built.into_iter().next().unwrap()
}

/// A copy of the bzImage at `path` that says nothing of its payload, as bzImages before protocol 2.08 did: the kernel then
/// unpacks itself, and moves itself if it is configured to (CONFIG_RANDOMIZE_BASE).
pub fn unpacks_itself(path: &Path) -> tempfile::NamedTempFile {
    let mut kernel = std::fs::read(path).unwrap();
    kernel[0x248..0x250].fill(0);
    file(&kernel)
}

impl Running {
    /// Starts `kernel` of the image, which is its own one by default, with its init.
    pub fn start(image: &guest_images::Image, kernel: Option<&Path>, cpus: u32, seed: u64) -> Self {
        let config = MachineConfig {
            memory: 512 << 20,
            cpus,
            seed,
            devices: ["mlx5", "rng"].map(|device| device.parse().unwrap()).into(),
            cache: staleline::memory::CacheSpec::off(),
            iommu: IommuSpec::Off,
            confidential: None,
        };
        let machine = Machine::new(&config).unwrap();
        let kernel = Kernel::open(kernel.unwrap_or(&image.kernel)).unwrap();
        let initrd = [InitrdPart::File(PathBuf::from(&image.initrd))];
        let command_line = cmdline::append(&image.cmdline, cmdline::OUR_INIT);
        let boot =
            Boot { kernel: &kernel, initrd: &initrd, command_line: &command_line, cpus, confidential: None };
        let state = boot::load(machine.ram(), &boot).unwrap();
        let mut engine = SoftEngine::new(Kick::default());
        engine.create_vcpus(cpus, &state, None).unwrap();
        Self { machine: SharedMachine::new(machine), engine, console: String::new() }
    }

    /// Runs for `time` of virtual time.
    pub fn run_for(&mut self, time: u64) {
        let until = self.engine.progress().now + time;
        while self.engine.progress().now < until {
            match self.engine.run(&self.machine, until).unwrap() {
                Exit::Idle(next) => self.engine.skip_to(next.unwrap_or(until).min(until)),
                Exit::Deadline | Exit::Output => {}
                exit => panic!("{exit:?}\n{}", self.console),
            }
            let sent = self.machine.lock().serial_output(Port::Console).unwrap_or_default();
            self.console.push_str(&String::from_utf8_lossy(&sent));
            self.machine.lock().serial_output(Port::Channel);
        }
    }

    /// Runs, `step` of virtual time at a time, until the guest is where `there` says.
    pub fn run_until(&mut self, step: u64, mut there: impl FnMut(&Self) -> bool) {
        while !there(self) {
            assert!(self.engine.progress().now < LIMIT, "{}", self.console);
            self.run_for(step);
        }
    }

    /// The registers of a vCPU.
    pub fn registers(&self, cpu: u32) -> Registers {
        Registers::from(self.engine.vcpu(cpu).unwrap())
    }

    /// Runs until the kernel has said where system calls enter it.
    pub fn run_to_lstar(&mut self) {
        self.run_until(100_000, |running| running.registers(0).lstar != 0);
    }

    /// Looks at the guest.
    pub fn discover(&self, file: Option<&SymbolFile>) -> Result<Guest, staleline::guest::GuestError> {
        Guest::discover(self.machine.lock().ram(), &self.registers(0), file)
    }
}
