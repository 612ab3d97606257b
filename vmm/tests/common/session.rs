//! Guests with work, run in this process: cold, and from a template.

use staleline::boot::{InitrdPart, cmdline};
use staleline::engine::{EngineKind, Kick};
use staleline::machine::{IommuSpec, MachineConfig};
use staleline::session::{
    MemoryRange, Outcome, Output, Session, SessionConfig, SessionError, Template, Watch, Work,
};
use std::hash::{DefaultHasher, Hasher};

/// A machine with the mlx5 function, a source of entropy and a virtio console, on which the guest also has a log.
pub fn config(cpus: u32) -> SessionConfig {
    let store = guest_images::Store::open(None).unwrap();
    let image = store.ensure("linux-6.12-debug", guest_images::progress::for_stderr().as_ref()).unwrap();
    SessionConfig {
        machine: MachineConfig {
            memory: 512 << 20,
            cpus,
            seed: 1,
            devices: ["mlx5", "rng", "console"].map(|device| device.parse().unwrap()).into(),
            cache: staleline::memory::CacheSpec::off(),
            iommu: IommuSpec::Off,
            confidential: None,
        },
        engine: EngineKind::Soft,
        kernel: image.kernel,
        initrd: vec![InitrdPart::File(image.initrd), InitrdPart::Bytes(guest_images::work_archive())],
        command_line: Some(cmdline::append(&image.cmdline, cmdline::OUR_INIT)),
        deadline: Some(3_600_000_000_000),
        work: None,
        watch: Watch::default(),
    }
}

pub fn shell(script: &str, seed: Option<u64>) -> Work {
    Work { argv: ["sh", "-c", script].map(str::to_owned).into(), seed }
}

/// What is to be the same: console, output, error output, how it ended, and the kernel with its data.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub console: String,
    pub stdout: String,
    pub stderr: String,
    pub outcome: Outcome,
    /// Of the 64 MiB where the kernel is.
    pub memory_hash: u64,
}

pub fn run(session: Session) -> Ran {
    let (mut console, mut stdout, mut stderr) = (Vec::new(), Vec::new(), Vec::new());
    let session = session.keep(vec![MemoryRange { address: 16 << 20, length: 64 << 20 }]);
    let mut outcome =
        session.run(None, &mut Output::new(vec![&mut console], &mut stdout, &mut stderr)).unwrap();
    let memory = outcome.memory.pop().unwrap().unwrap();
    assert!(memory.iter().any(|&byte| byte != 0));
    let mut hasher = DefaultHasher::new();
    hasher.write(&memory);
    let [console, stdout, stderr] =
        [console, stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ran { console, stdout, stderr, outcome, memory_hash: hasher.finish() }
}

pub fn cold(config: &SessionConfig, work: &Work) -> Ran {
    let config = SessionConfig { work: Some(work.clone()), ..config.clone() };
    run(Session::new(&config, Kick::default()).unwrap())
}

pub fn boot(config: &SessionConfig) -> Result<Template, SessionError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    Template::boot(config, Kick::default(), None, &mut Output::new(Vec::new(), &mut stdout, &mut stderr))
}
