//! Saved machines: a run that goes on from a file is the run that a boot of its own would have been, and a file that is no
//! saved machine is refused by name. Image: linux-6.12-debug, built at first use.

mod common;

use common::session::{Ran, boot, cold, config, run, shell};
use common::{bare_kernel, out, path, staleline, status_member};
use devices::random::Random;
use sha2::{Digest, Sha256};
use staleline::engine::{EngineKind, Kick};
use staleline::machine::{IommuSpec, MachineConfig};
use staleline::session::{
    Cause, FileError, Output, Session, SessionConfig, SessionError, SnapshotError, Template, Watch, Work,
    saved_memory,
};
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempDir};

/// RDMA traffic to the remote peer and between two programs, with data checked at both ends.
const RDMA: &str = "peer-walk --nodes 4 &&
    (ibv_rc_pingpong -c -n 20 & sleep 1; ibv_rc_pingpong -c -n 20 127.0.0.1) && exit 5";

/// Saves a machine of `config` and restores it for each of several works; a restored machine can be saved again.
fn restored_runs_equal_cold_runs(config: &SessionConfig, works: &[Work]) -> Vec<Ran> {
    let (folder, file) = common::new_file();
    let template = boot(config).unwrap();
    let length = template.save(&file, "the image").unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), length);
    assert_eq!(saved_memory(&file).unwrap(), config.machine.memory);
    let forks: Vec<Ran> = works
        .iter()
        .map(|work| run(template.fork(work, config.deadline, Kick::default()).unwrap()))
        .collect();
    drop(template);
    for (work, fork) in works.iter().zip(&forks) {
        let restored = Template::restore(&file).unwrap();
        assert_eq!((&*restored.guest, restored.machine.cpus), ("the image", config.machine.cpus));
        let ran = run(restored.template.fork(work, config.deadline, Kick::default()).unwrap());
        assert_eq!(ran, *fork, "{work:?}");
        assert_eq!(ran, cold(config, work), "{work:?}");
        let again = folder.path().join("again");
        restored.template.save(&again, &restored.guest).unwrap();
        assert!(std::fs::read(&again).unwrap() == std::fs::read(&file).unwrap(), "another file");
    }
    forks
}

fn restored_rdma_equals_cold_runs(cpus: u32) {
    let works = [
        shell(RDMA, None),
        shell("head -c 64 /dev/hwrng | md5sum; cat /proc/interrupts; echo more > /dev/hvc0; date", Some(7)),
    ];
    let forks = restored_runs_equal_cold_runs(&config(cpus), &works);
    assert_eq!(forks[0].outcome.cause, Cause::Exited(5), "{forks:?}");
}

#[test]
fn restored_runs_with_one_vcpu_equal_cold_runs() {
    restored_rdma_equals_cold_runs(1);
}

#[test]
fn restored_runs_with_two_vcpus_equal_cold_runs() {
    restored_rdma_equals_cold_runs(2);
}

/// The cache is full at the mark, and what it does from there on depends on the seed.
#[test]
fn restored_runs_with_a_cache_equal_cold_runs() {
    let mut config = config(1);
    config.machine.cache = "random".parse().unwrap();
    config.machine.devices = vec!["mlx5,no-snoop=payload,umr=off".parse().unwrap()];
    config.watch.ledger = true;
    let works = [None, Some(7)].map(|seed| shell("verbs-verify --polling uc.send", seed));
    let forks = restored_runs_equal_cold_runs(&config, &works);
    let findings = forks.iter().map(|ran| &ran.outcome.findings).collect::<Vec<_>>();
    assert!(findings.iter().all(|raised| !raised.reports.is_empty()), "{findings:?}");
    assert!(findings.iter().any(|raised| *raised != findings[0]), "the schedule has a seed: {findings:?}");
}

/// Runs the program and returns its output, and instructions and virtual time from its status.
fn program(arguments: &[&str], folder: &Path) -> (common::Ran, [serde_json::Value; 3]) {
    let status = folder.join("status");
    let mut all = vec!["run", "--status", path(&status)];
    all.extend(arguments);
    let ran = staleline(&all).output().unwrap().into();
    (ran, ["cause", "instructions", "virtual_nanos"].map(|name| status_member(&status, name)))
}

#[test]
fn the_command_line_saves_and_restores() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (alone, going_on) = (file("alone"), file("going-on"));
    let machine = ["--kernel", "linux-6.12-debug", "--device", "mlx5", "--memory", "256M"];
    let command = ["--", "sh", "-c", "ibv_devinfo | grep state; dmesg | tail -n 2; exit 3"];
    let with = |more: &[&'static str]| [&machine[..], more, &command].concat();
    let (cold, facts) = program(&with(&[]), folder.path());
    assert_eq!(cold.status, 3, "{cold:?}");

    let (saved, saved_facts) = program(&[&machine[..], &["--save", path(&alone)]].concat(), folder.path());
    assert_eq!((saved.status, &saved_facts[0]), (0, &"saved".into()), "{saved:?}");
    assert!(saved.stdout.contains("Linux version 6.12"), "the console comes as ever: {saved:?}");
    assert!(
        saved.stderr.contains(&format!("saved {}", path(&alone))) && saved.stderr.contains("MiB"),
        "{saved:?}"
    );

    let arguments = [&machine[..], &["--save", path(&going_on)], &command].concat();
    let (went_on, went_on_facts) = program(&arguments, folder.path());
    assert_eq!((went_on.status, &went_on.stdout, &went_on_facts), (3, &cold.stdout, &facts));
    assert!(std::fs::read(&alone).unwrap() == std::fs::read(&going_on).unwrap(), "two boots, two files");

    for _ in 0..2 {
        let arguments = [&["--restore", path(&alone)], &command[..]].concat();
        let (restored, restored_facts) = program(&arguments, folder.path());
        assert_eq!((restored.status, &restored.stdout, &restored_facts), (3, &cold.stdout, &facts));
        let image = status_member(&folder.path().join("status"), "image");
        assert!(image.as_str().unwrap().starts_with("linux-6.12-debug "), "{image}");
    }
}

/// A guest that is ready at once, and has written to its memory.
fn tiny_kernel() -> NamedTempFile {
    let mut code: Vec<u8> = [0xa7, 1, 0, 0, 0xfe].iter().flat_map(|&byte| out(0x2f8, byte)).collect();
    // mov byte [0x2000000], 1; hlt
    code.extend([0xc6, 0x04, 0x25, 0, 0, 0, 2, 1, 0xf4]);
    bare_kernel(&code)
}

fn tiny_config(devices: &[&str]) -> (NamedTempFile, SessionConfig) {
    let kernel = tiny_kernel();
    let config = SessionConfig {
        machine: MachineConfig {
            memory: 128 << 20,
            cpus: 2,
            seed: 1,
            devices: devices.iter().map(|device| device.parse().unwrap()).collect(),
            cache: staleline::memory::CacheSpec::off(),
            iommu: IommuSpec::Off,
            confidential: None,
        },
        engine: EngineKind::Soft,
        kernel: kernel.path().to_owned(),
        initrd: Vec::new(),
        command_line: Some(String::new()),
        deadline: None,
        work: None,
        watch: Watch::default(),
    };
    (kernel, config)
}

/// A small saved machine with devices of every kind but those with files.
struct Small {
    folder: TempDir,
    bytes: Vec<u8>,
}

impl Small {
    fn new() -> Self {
        let (_kernel, config) = tiny_config(&["mlx5,peer=write@1ms", "rng", "console", "input,key=A@1s"]);
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("small");
        boot(&config).unwrap().save(&file, "tiny").unwrap();
        Self { bytes: std::fs::read(file).unwrap(), folder }
    }

    /// What comes of restoring a file of `bytes`.
    fn restore(&self, bytes: &[u8]) -> Result<Session, SessionError> {
        let file = self.folder.path().join("altered");
        std::fs::write(&file, bytes).unwrap();
        let restored = Template::restore(&file)?;
        restored.template.fork(&Work::default(), Some(10_000_000), Kick::default())
    }

    /// Where each section's content is, by name.
    fn section(&self, name: &str) -> std::ops::Range<usize> {
        let mut at = 32;
        loop {
            let length = u64::from_le_bytes(self.bytes[at + 8..at + 16].try_into().unwrap()) as usize;
            if self.bytes[at..].starts_with(name.as_bytes()) {
                return at + 16..at + 16 + length;
            }
            at += 16 + length;
        }
    }
}

/// Makes the checksum right.
fn seal(bytes: &mut [u8]) {
    let end = bytes.len() - 32;
    let sum = Sha256::digest(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum);
}

fn file_error(result: Result<Session, SessionError>) -> FileError {
    match result {
        Err(SessionError::Snapshot(SnapshotError::File { error, .. })) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn whatever_is_altered_is_found_out() {
    let small = Small::new();
    assert_eq!(run(small.restore(&small.bytes).unwrap()).outcome.cause, Cause::Halted);
    let mut random = Random::new(1);
    let mut below = |limit: usize| (random.next_u64() % limit as u64) as usize;
    let headers =
        ["session", "layout", "devices", "vcpus", "ram", "sha256"].map(|name| small.section(name).start);
    let places = (0..48).chain(headers.iter().flat_map(|&start| start - 16..start + 4));
    let places: Vec<_> = places.chain((0..600).map(|_| below(small.bytes.len()))).collect();
    for at in places {
        let mut bytes = small.bytes.clone();
        bytes[at] ^= 1 << below(8);
        let error = file_error(small.restore(&bytes));
        match at {
            0..16 => assert!(matches!(error, FileError::Foreign), "{at}: {error}"),
            16..24 => assert!(matches!(error, FileError::Version(_)), "{at}: {error}"),
            24..32 => {
                let wrong = matches!(error, FileError::TooLong { .. } | FileError::Truncated { .. });
                assert!(wrong, "{at}: {error}");
            }
            _ => assert!(matches!(error, FileError::Checksum), "{at}: {error}"),
        }
    }
    for length in (0..64).chain((0..300).map(|_| below(small.bytes.len()))) {
        let error = file_error(small.restore(&small.bytes[..length]));
        match error {
            FileError::Foreign => assert_eq!(length, 0),
            FileError::Truncated { part, .. } => {
                let place = if part == "header" { 0..32 } else { small.section(part) };
                let start = place.start.saturating_sub(16);
                assert!((start..place.end).contains(&length), "{part}: {length}");
            }
            _ => panic!("{length}: {error}"),
        }
    }
    let error = file_error(small.restore(&[&small.bytes[..], b"more"].concat()));
    assert!(matches!(error, FileError::TooLong { .. }), "{error}");
}

/// With a right checksum only what is in the file can be wrong with it: it is refused, or it is a machine that runs.
#[test]
fn a_file_made_up_is_refused_or_runs() {
    let small = Small::new();
    let mut random = Random::new(2);
    let mut below = |limit: usize| (random.next_u64() % limit as u64) as usize;
    let (mut refused, mut ran) = (0, 0);
    for section in ["session", "layout", "devices", "vcpus", "ram"] {
        let place = small.section(section);
        let headers = place.start - 16..place.start;
        let places = headers.chain((0..400).map(|_| place.start + below(place.len())));
        for at in places.collect::<Vec<_>>() {
            let mut bytes = small.bytes.clone();
            bytes[at] =
                if below(2) == 0 { bytes[at] ^ 1 << below(8) } else { [0, 0x7f, 0x80, 0xff][below(4)] };
            seal(&mut bytes);
            match small.restore(&bytes) {
                Ok(session) => {
                    let (mut stdout, mut stderr) = (std::io::sink(), std::io::sink());
                    session.run(None, &mut Output::new(Vec::new(), &mut stdout, &mut stderr)).unwrap();
                    ran += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 200 && ran > 200, "{refused} refused, {ran} ran");
}

#[test]
fn files_are_refused_by_name() {
    let small = Small::new();
    let file = small.folder.path().join("file");
    let refused = |words: &[&str]| {
        let ran = common::run(&["run", "--restore", path(&file), "--", "true"]);
        assert_eq!((ran.status, &*ran.stdout), (125, ""), "{ran:?}");
        for word in [&["--restore", path(&file)], words].concat() {
            assert!(ran.stderr.contains(word), "no {word:?} in {}", ran.stderr);
        }
    };
    let write = |bytes: &[u8]| std::fs::write(&file, bytes).unwrap();
    refused(&["No such file"]);
    for foreign in [&b""[..], b"hello", b"\x7fELF\x02\x01\x01"] {
        write(foreign);
        refused(&["not a saved machine"]);
    }
    let altered = |at: usize, byte: u8| {
        let mut bytes = small.bytes.clone();
        bytes[at] = byte;
        seal(&mut bytes);
        write(&bytes);
    };
    altered(16, 99);
    refused(&["version 99", "this one reads version", "save the machine anew"]);
    altered(small.section("layout").start, 0);
    refused(&["keeps its state in another way", "save it anew"]);
    write(&small.bytes[..small.section("ram").start + 5]);
    refused(&["truncated", "ram"]);
    let mut bytes = small.bytes.clone();
    bytes[small.section("devices").start + 40] ^= 1;
    write(&bytes);
    refused(&["damaged", "checksum"]);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    refused(&["not a regular file"]);
}

fn disk(length: u64) -> (TempDir, PathBuf) {
    let (folder, file) = common::new_file();
    std::fs::File::create(&file).unwrap().set_len(length).unwrap();
    (folder, file)
}

#[test]
fn a_disk_is_opened_again_and_has_the_same_size() {
    let (_folder, disk) = disk(1 << 20);
    let (_kernel, config) = tiny_config(&[&format!("blk,readonly=on,path={}", path(&disk))]);
    let (_saved, file) = common::new_file();
    boot(&config).unwrap().save(&file, "tiny").unwrap();
    let restored = Template::restore(&file).unwrap();
    let ran = run(restored.template.fork(&Work::default(), None, Kick::default()).unwrap());
    assert_eq!(ran.outcome.cause, Cause::Halted);
    let error = || Template::restore(&file).unwrap_err().to_string();
    std::fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(2 << 20).unwrap();
    assert!(error().contains("virtio-blk in PCI slot 1: the disk has another size"), "{}", error());
    std::fs::remove_file(&disk).unwrap();
    assert!(error().contains(&format!("{}: No such file", path(&disk))), "{}", error());
}

#[test]
fn what_cannot_be_saved_says_why() {
    let refused = |arguments: &[&str], words: &[&str]| {
        let (_folder, file) = common::new_file();
        let ran = common::run(&[&["run", "--save", path(&file)], arguments].concat());
        assert_eq!(ran.status, 125, "{ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "no {word:?} in {}", ran.stderr);
        }
        assert!(!file.exists());
    };
    let kernel = tiny_kernel();
    let kernel = path(kernel.path());
    let (disk_folder, disk) = disk(1 << 20);
    let folder = disk_folder.path();
    let blk = format!("blk,path={}", path(&disk));
    refused(&["--kernel", kernel, "--memory", "64M", "--device", &blk], &["--save", "writes to a file"]);
    refused(&["--kernel", kernel, "--cmdline", "rdinit=/bin/sh"], &["--save", "rdinit="]);
    let ran = common::run(&["run", "--kernel", kernel, "--memory", "64M", "--save", "/nonexistent/file"]);
    assert_eq!(ran.status, 125, "{ran:?}");
    assert!(ran.stderr.contains("--save: /nonexistent/file: No such file"), "{ran:?}");
    let ran = common::run(&["run", "--kernel", kernel, "--memory", "64M", "--save", path(folder)]);
    assert_eq!(ran.status, 125, "{ran:?}");
    assert!(ran.stderr.contains("not a regular file") && folder.is_dir(), "{ran:?}");
    // A guest that ends before its mark ends as it would have ended anyway.
    let halts = bare_kernel(&[0xf4]);
    let (_folder, file) = common::new_file();
    let ran = common::run(&["run", "--kernel", path(halts.path()), "--memory", "64M", "--save", path(&file)]);
    assert_eq!((ran.status, file.exists()), (255, false), "{ran:?}");
}
