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

/// Keys that all virtio devices have: by default access-platform=on, no-snoop=off.
const ACCESS_PLATFORM: &str = "access-platform";
const NO_SNOOP: &str = "no-snoop";

/// What those keys say.
#[derive(Clone, Copy)]
struct Common {
    access_platform: bool,
    no_snoop: bool,
}

impl Common {
    fn of(keys: &Keys<'_>) -> Result<Self, DeviceError> {
        let no_snoop = keys.choice(NO_SNOOP, &[("off", false), ("payload", true)])?.unwrap_or(false);
        Ok(Self { access_platform: keys.flag(ACCESS_PLATFORM)?.unwrap_or(true), no_snoop })
    }

    fn function<T: DeviceType>(self, device: T, attachment: Option<Attachment>) -> Built {
        let function = VirtioPci::new(device, self.access_platform);
        let function = if self.no_snoop { function.without_snooping_payload() } else { function };
        Built { device: Box::new(function), attachment }
    }
}

fn read(kind: &'static str, path: &PathBuf) -> Result<Vec<u8>, DeviceError> {
    let bad = |reason: String| DeviceError::File { kind, path: path.clone(), reason };
    let length = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if length > MAX_TEXT {
        return Err(bad(format!("larger than {MAX_TEXT} bytes")));
    }
    std::fs::read(path).map_err(|error| bad(error.to_string()))
}

/// What a disk's blocks lie in.
enum Disk {
    Image {
        path: PathBuf,
        read_only: bool,
    },
    /// A file without a name, of this many bytes, all zero: gone when the run ends.
    Scratch(u64),
}

impl Disk {
    fn open(&self) -> Result<DiskFile, DeviceError> {
        match self {
            Self::Image { path, read_only } => {
                DiskFile::open(path, *read_only).map_err(|error| self.bad(error.to_string()))
            }
            Self::Scratch(size) => DiskFile::scratch(*size).map_err(|error| self.bad(error.to_string())),
        }
    }

    fn bad(&self, reason: String) -> DeviceError {
        let path = match self {
            Self::Image { path, .. } => path.clone(),
            Self::Scratch(_) => std::env::temp_dir(),
        };
        DeviceError::File { kind: BlkPlan::KIND, path, reason }
    }

    fn is_read_only(&self) -> bool {
        matches!(self, Self::Image { read_only: true, .. })
    }
}

/// `--device blk`.
struct BlkPlan {
    disk: Disk,
    queues: u16,
    serial: Option<String>,
    common: Common,
}

impl BlkPlan {
    const KIND: &str = "blk";
}

pub(super) fn blk(pairs: &[(String, String)]) -> Result<Box<dyn Plan>, DeviceError> {
    const KIND: &str = BlkPlan::KIND;
    let keys =
        Keys::new(KIND, pairs, &["path", "size", "readonly", "queues", "serial", ACCESS_PLATFORM, NO_SNOOP])?;
    let read_only = keys.flag("readonly")?.unwrap_or(false);
    let path = keys.text("path").filter(|path| !path.is_empty());
    let disk = match (path, keys.size("size")?) {
        (Some(path), None) => Disk::Image { path: path.into(), read_only },
        (None, Some(size)) if !read_only => Disk::Scratch(size),
        (None, Some(_)) => {
            let reason = "a scratch disk is empty: with readonly=on nothing could come of it".into();
            return Err(DeviceError::Keys { kind: KIND, key: "size", reason });
        }
        (Some(_), Some(_)) => {
            let reason = "the image of path=… has its own size".into();
            return Err(DeviceError::Keys { kind: KIND, key: "size", reason });
        }
        (None, None) => {
            let what = "the raw disk image (or size=64M for a disk that is gone afterwards)";
            return Err(DeviceError::Missing { kind: KIND, key: "path", what });
        }
    };
    Ok(Box::new(BlkPlan {
        disk,
        queues: keys.number("queues", 1..=MAX_QUEUES)?.unwrap_or(1),
        serial: keys.text("serial").map(str::to_owned),
        common: Common::of(&keys)?,
    }))
}

impl Plan for BlkPlan {
    fn build(self: Box<Self>, _seed: u64) -> Result<Built, DeviceError> {
        let file = self.disk.open()?;
        let sectors = file.size() / SECTOR_SIZE;
        if sectors == 0 {
            return Err(self.disk.bad(format!("smaller than a sector of {SECTOR_SIZE} bytes")));
        }
        if let Disk::Image { path, .. } = &self.disk
            && !file.size().is_multiple_of(SECTOR_SIZE)
        {
            log::warn!("{}: the guest does not see the last, incomplete sector", path.display());
        }
        let read_only = self.disk.is_read_only();
        let serial = self.serial.unwrap_or_else(|| "staleline".into());
        let config = BlkConfig { sectors, read_only, queues: self.queues, serial };
        Ok(self.common.function(Blk::new(config), Some(Attachment::Disk(file))))
    }
}

/// `--device rng`.
struct RngPlan {
    common: Common,
}

pub(super) fn rng(pairs: &[(String, String)]) -> Result<Box<dyn Plan>, DeviceError> {
    let keys = Keys::new("rng", pairs, &[ACCESS_PLATFORM, NO_SNOOP])?;
    Ok(Box::new(RngPlan { common: Common::of(&keys)? }))
}

impl Plan for RngPlan {
    fn build(self: Box<Self>, seed: u64) -> Result<Built, DeviceError> {
        // Not the sequence that RDRAND takes from the same seed.
        let seed = Random::new(seed).next_u64();
        Ok(self.common.function(Rng::new(seed), None))
    }
}

/// `--device console`.
struct ConsolePlan {
    input: Option<PathBuf>,
    output: Option<PathBuf>,
    common: Common,
}

pub(super) fn console(pairs: &[(String, String)]) -> Result<Box<dyn Plan>, DeviceError> {
    let keys = Keys::new("console", pairs, &["out", "in", ACCESS_PLATFORM, NO_SNOOP])?;
    Ok(Box::new(ConsolePlan {
        input: keys.text("in").map(PathBuf::from),
        output: keys.text("out").map(PathBuf::from),
        common: Common::of(&keys)?,
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
        Ok(self.common.function(Console::new(input), Some(attachment)))
    }
}

/// `--device input`.
struct InputPlan {
    kind: InputKind,
    /// Keys given on the command line.
    keys: Script,
    events: Option<PathBuf>,
    common: Common,
}

pub(super) fn input(pairs: &[(String, String)]) -> Result<Box<dyn Plan>, DeviceError> {
    const KIND: &str = "input";
    let keys = Keys::new(KIND, pairs, &["type", "key", "events", ACCESS_PLATFORM, NO_SNOOP])?;
    let kinds = [("keyboard", InputKind::Keyboard), ("tablet", InputKind::Tablet)];
    let events = keys.text("events").map(PathBuf::from);
    let script = keys.text("key").map(|text| {
        Script::keys(text).map_err(|error| DeviceError::Keys {
            kind: KIND,
            key: "key",
            reason: error.to_string(),
        })
    });
    if events.is_some() && script.is_some() {
        return Err(DeviceError::Keys { kind: KIND, key: "key", reason: "'events' is given as well".into() });
    }
    Ok(Box::new(InputPlan {
        kind: keys.choice("type", &kinds)?.unwrap_or_default(),
        keys: script.transpose()?.unwrap_or_default(),
        events,
        common: Common::of(&keys)?,
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
        Ok(self.common.function(Input::new(self.kind, script), None))
    }
}
