//! The virtio devices of the command line: their keys, and the files that they stand for.

use super::super::attachment::{Attachment, DiskFile, OutputFile};
use super::keys::Keys;
use super::{Built, DeviceError, Plan};
use devices::random::Random;
use devices::virtio::input::Script;
use devices::virtio::{
    Blk, BlkConfig, Console, DeviceType, Input, InputKind, MAX_QUEUES, Rng, SECTOR_SIZE, VirtioPci,
};
use std::path::PathBuf;

/// Most bytes of a file that are given to the guest as console input or read as a script.
const MAX_TEXT: u64 = 16 << 20;

/// The key that all virtio devices have, by default on.
const ACCESS_PLATFORM: &str = "access-platform";

fn access_platform(keys: &Keys<'_>) -> Result<bool, DeviceError> {
    Ok(keys.flag(ACCESS_PLATFORM)?.unwrap_or(true))
}

fn function<T: DeviceType>(device: T, access_platform: bool, attachment: Option<Attachment>) -> Built {
    Built { device: Box::new(VirtioPci::new(device, access_platform)), attachment }
}

fn read(kind: &'static str, path: &PathBuf) -> Result<Vec<u8>, DeviceError> {
    let bad = |reason: String| DeviceError::File { kind, path: path.clone(), reason };
    let length = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if length > MAX_TEXT {
        return Err(bad(format!("larger than {MAX_TEXT} bytes")));
    }
    std::fs::read(path).map_err(|error| bad(error.to_string()))
}

/// `--device blk`.
struct BlkPlan {
    path: PathBuf,
    read_only: bool,
    queues: u16,
    serial: Option<String>,
    access_platform: bool,
}

pub(super) fn blk(pairs: &[(String, String)]) -> Result<Box<dyn Plan>, DeviceError> {
    const KIND: &str = "blk";
    let keys = Keys::new(KIND, pairs, &["path", "readonly", "queues", "serial", ACCESS_PLATFORM])?;
    let path = keys.text("path").filter(|path| !path.is_empty()).ok_or(DeviceError::Missing {
        kind: KIND,
        key: "path",
        what: "the raw disk image",
    })?;
    Ok(Box::new(BlkPlan {
        path: path.into(),
        read_only: keys.flag("readonly")?.unwrap_or(false),
        queues: keys.number("queues", 1..=MAX_QUEUES)?.unwrap_or(1),
        serial: keys.text("serial").map(str::to_owned),
        access_platform: access_platform(&keys)?,
    }))
}

impl Plan for BlkPlan {
    fn build(self: Box<Self>, _seed: u64) -> Result<Built, DeviceError> {
        let bad = |reason: String| DeviceError::File { kind: "blk", path: self.path.clone(), reason };
        let disk = DiskFile::open(&self.path, self.read_only).map_err(|error| bad(error.to_string()))?;
        let sectors = disk.size() / SECTOR_SIZE;
        if sectors == 0 {
            return Err(bad(format!("smaller than a sector of {SECTOR_SIZE} bytes")));
        }
        if !disk.size().is_multiple_of(SECTOR_SIZE) {
            log::warn!("{}: the guest does not see the last, incomplete sector", self.path.display());
        }
        let serial = self.serial.unwrap_or_else(|| "staleline".into());
        let config = BlkConfig { sectors, read_only: self.read_only, queues: self.queues, serial };
        Ok(function(Blk::new(config), self.access_platform, Some(Attachment::Disk(disk))))
    }
}

/// `--device rng`.
struct RngPlan {
    access_platform: bool,
}

pub(super) fn rng(pairs: &[(String, String)]) -> Result<Box<dyn Plan>, DeviceError> {
    let keys = Keys::new("rng", pairs, &[ACCESS_PLATFORM])?;
    Ok(Box::new(RngPlan { access_platform: access_platform(&keys)? }))
}

impl Plan for RngPlan {
    fn build(self: Box<Self>, seed: u64) -> Result<Built, DeviceError> {
        // Not the sequence that RDRAND takes from the same seed.
        let seed = Random::new(seed).next_u64();
        Ok(function(Rng::new(seed), self.access_platform, None))
    }
}

/// `--device console`.
struct ConsolePlan {
    input: Option<PathBuf>,
    output: Option<PathBuf>,
    access_platform: bool,
}

pub(super) fn console(pairs: &[(String, String)]) -> Result<Box<dyn Plan>, DeviceError> {
    let keys = Keys::new("console", pairs, &["out", "in", ACCESS_PLATFORM])?;
    Ok(Box::new(ConsolePlan {
        input: keys.text("in").map(PathBuf::from),
        output: keys.text("out").map(PathBuf::from),
        access_platform: access_platform(&keys)?,
    }))
}

impl Plan for ConsolePlan {
    fn build(self: Box<Self>, _seed: u64) -> Result<Built, DeviceError> {
        let input = self.input.as_ref().map(|path| read("console", path)).transpose()?.unwrap_or_default();
        let attachment = match self.output {
            None => Attachment::Console,
            Some(path) => match OutputFile::create(&path) {
                Ok(file) => Attachment::Output(file),
                Err(error) => {
                    return Err(DeviceError::File { kind: "console", path, reason: error.to_string() });
                }
            },
        };
        Ok(function(Console::new(input), self.access_platform, Some(attachment)))
    }
}

/// `--device input`.
struct InputPlan {
    kind: InputKind,
    /// Keys given on the command line.
    keys: Script,
    events: Option<PathBuf>,
    access_platform: bool,
}

pub(super) fn input(pairs: &[(String, String)]) -> Result<Box<dyn Plan>, DeviceError> {
    const KIND: &str = "input";
    let keys = Keys::new(KIND, pairs, &["type", "key", "events", ACCESS_PLATFORM])?;
    let kinds = [("keyboard", InputKind::Keyboard), ("tablet", InputKind::Tablet)];
    let events = keys.text("events").map(PathBuf::from);
    let script = keys.text("key").map(|text| {
        Script::keys(text).map_err(|error| DeviceError::Keys { kind: KIND, reason: error.to_string() })
    });
    if events.is_some() && script.is_some() {
        return Err(DeviceError::Keys { kind: KIND, reason: "'events' is given as well".into() });
    }
    Ok(Box::new(InputPlan {
        kind: keys.choice("type", &kinds)?.unwrap_or_default(),
        keys: script.transpose()?.unwrap_or_default(),
        events,
        access_platform: access_platform(&keys)?,
    }))
}

impl Plan for InputPlan {
    fn build(self: Box<Self>, _seed: u64) -> Result<Built, DeviceError> {
        let script = match self.events {
            None => self.keys,
            Some(path) => {
                let text = String::from_utf8_lossy(&read("input", &path)?).into_owned();
                Script::parse(&text).map_err(|error| DeviceError::File {
                    kind: "input",
                    path,
                    reason: error.to_string(),
                })?
            }
        };
        Ok(function(Input::new(self.kind, script), self.access_platform, None))
    }
}
