//! Machines at their guest's ready mark, in files.
//!
//! What is saved is what a [`Template`] is: the state of the machine's parts, put by serde into the sections of a [`file`]. It
//! is restored by building the machine from its description, which opens the host's files afresh, and putting each part into
//! its state. Of the host nothing is in the file but the paths of its devices' files, and the same machine gives the same bytes.
//!
//! A file is believed as far as it has been checked. Loading checks the checksum, then that the machine is the one described
//! and that whatever is used as a length, an index or a divisor is in range. Any other value is taken: at worst the guest has
//! odd hardware, which it could not have come to by itself.

mod file;

pub use file::FileError;

use super::template::{Start, Transcript};
use super::{Mark, Session, SessionError, Template};
use crate::engine::{Engine, EngineError, Exit, Kick, SoftEngine};
use crate::machine::{Confidential, DeviceError, IommuSpec, Machine, MachineConfig, SharedMachine};
use crate::memory::cache_spec::CacheSpecError;
use crate::memory::pages::{self, Pages, PagesError};
use devices::bus::Nanos;
use devices::state::{Loader, SaveState, Saver, StateError, layout};
use file::{Content, SavedFile, Section};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::fs::Permissions;
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What a machine is built from, and what its guest has sent up to the mark.
#[derive(Debug, Serialize, Deserialize)]
struct SavedSession {
    /// What was booted, for reports.
    guest: String,
    memory: u64,
    cpus: u32,
    seed: u64,
    /// As `--device` takes them.
    devices: Vec<String>,
    /// As `--cache` takes it.
    cache: String,
    confidential: Option<Confidential>,
    console: Vec<u8>,
    channel: Vec<u8>,
    exit: Exit,
    panic_end: Option<Nanos>,
    inputs: Vec<(u64, usize)>,
}

/// A machine cannot be saved, or not be restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{}: {error}", .path.display())]
    Write { path: PathBuf, error: std::io::Error },
    #[error("{}: {error}", .path.display())]
    File { path: PathBuf, error: FileError },
    #[error("{}: in its {section}: {error}", .path.display())]
    State { path: PathBuf, section: &'static str, error: StateError },
    #[error("{}: in its ram: {error}", .path.display())]
    Ram { path: PathBuf, error: PagesError },
    #[error("{}: in its session: {error}", .path.display())]
    Device { path: PathBuf, error: DeviceError },
    #[error("{}: in its session: cache {error}", .path.display())]
    Cache { path: PathBuf, error: CacheSpecError },
    #[error("{}: saved by a staleline whose machine keeps its state in another way: save it anew with this one", .0.display())]
    Layout(PathBuf),
}

/// How the state of a machine and its engine is laid out, as text.
fn layout(machine: &Machine, engine: &dyn Engine) -> Result<Vec<u8>, EngineError> {
    let mut text = Saver::describing();
    machine.save(&mut text)?;
    engine.save(&mut text)?;
    Ok([layout::of::<SavedSession>().into_bytes(), text.into_bytes()].concat())
}

/// Reads all of a section by `read`.
fn load<T>(
    path: &Path,
    file: &SavedFile,
    section: Section,
    read: impl FnOnce(&mut Loader<'_>) -> Result<T, StateError>,
) -> Result<T, SnapshotError> {
    let bytes = file.bytes(section);
    let bytes = bytes.map_err(|error| SnapshotError::File { path: path.to_owned(), error: error.into() })?;
    let mut from = Loader::new(&bytes);
    let value = read(&mut from).and_then(|value| from.finish().map(|()| value));
    value.map_err(|error| SnapshotError::State { path: path.to_owned(), section: section.name(), error })
}

/// Opens the file of a saved machine, and reads what it is.
fn open(path: &Path) -> Result<(SavedFile, SavedSession), SnapshotError> {
    let file = SavedFile::open(path);
    let file = file.map_err(|error| SnapshotError::File { path: path.to_owned(), error })?;
    let saved = load(path, &file, Section::Session, |from| from.take())?;
    Ok((file, saved))
}

/// Bytes of RAM of the machine in a file.
///
/// # Errors
/// [`SnapshotError`] if the file is none.
pub fn saved_memory(path: &Path) -> Result<u64, SnapshotError> {
    open(path).map(|(_, saved)| saved.memory)
}

/// A machine from a file.
#[derive(Debug)]
pub struct Restored {
    pub template: Template,
    /// What was booted, as [`Template::save`] was told.
    pub guest: String,
    pub machine: MachineConfig,
}

impl Template {
    /// Writes the machine to a file, which is whole or as it was before; returns its length in bytes. `guest` says what was
    /// booted, for the reports of runs that go on from the file.
    ///
    /// # Errors
    /// [`SnapshotError::Write`] with the host's reason, [`FileError::NotAFile`] if there is something else at `path`.
    pub fn save(&self, path: &Path, guest: &str) -> Result<u64, SessionError> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = session.machine.lock();
        let write = |error| SnapshotError::Write { path: path.to_owned(), error };
        // Renaming would put the file in the place of a device or a pipe.
        if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(SnapshotError::File { path: path.to_owned(), error: FileError::NotAFile }.into());
        }
        let state = |section: Section| {
            move |error| SnapshotError::State { path: path.to_owned(), section: section.name(), error }
        };
        // The file may be restored in another folder.
        let here = std::env::current_dir().map_err(write)?;
        let saved = SavedSession {
            guest: guest.to_owned(),
            memory: self.config.memory,
            cpus: self.config.cpus,
            seed: self.config.seed,
            devices: self
                .config
                .devices
                .iter()
                .map(|device| device.clone().with_files_in(&here).to_string())
                .collect(),
            cache: self.config.cache.to_string(),
            confidential: self.config.confidential,
            console: self.start.transcript.console.clone(),
            channel: self.start.transcript.channel.clone(),
            exit: self.start.exit,
            panic_end: session.panic_end,
            inputs: session.inputs.clone(),
        };
        let (mut description, mut devices, mut cpus) = (Saver::default(), Saver::default(), Saver::default());
        description.put(&saved).map_err(state(Section::Session))?;
        machine.save(&mut devices).map_err(state(Section::Devices))?;
        session.engine.save(&mut cpus)?;
        let contents = [
            Content::Bytes(description.into_bytes()),
            Content::Bytes(Sha256::digest(layout(&machine, &*session.engine)?).to_vec()),
            Content::Bytes(devices.into_bytes()),
            Content::Bytes(cpus.into_bytes()),
            Content::Pages(Pages::of(machine.ram()).map_err(write)?),
        ];
        // A rename puts the whole file in place. That it survives a loss of power is not waited for: its checksum tells.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut partial = tempfile::Builder::new()
            .prefix(".staleline-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(write)?;
        let length = file::write(&mut BufWriter::new(partial.as_file_mut()), &contents).map_err(write)?;
        partial.persist(path).map_err(|error| write(error.error))?;
        Ok(length)
    }

    /// Reads a machine from the file that [`Template::save`] has written. Its forks are those of the template that was saved.
    ///
    /// # Errors
    /// [`SnapshotError`] if the file is none or cannot be read, [`SessionError::Machine`] if the machine cannot be built here,
    /// such as for want of a disk's file.
    pub fn restore(path: &Path) -> Result<Restored, SessionError> {
        let read = |error: FileError| SnapshotError::File { path: path.to_owned(), error };
        let (file, saved) = open(path)?;
        let device = |error| SnapshotError::Device { path: path.to_owned(), error };
        let cache = |error| SnapshotError::Cache { path: path.to_owned(), error };
        let devices = saved.devices.iter().map(|device| device.parse()).collect::<Result<_, _>>();
        let config = MachineConfig {
            memory: saved.memory,
            cpus: saved.cpus,
            seed: saved.seed,
            devices: devices.map_err(device)?,
            cache: saved.cache.parse().map_err(cache)?,
            iommu: IommuSpec::Off,
            confidential: saved.confidential,
        };
        let mut machine = Machine::new(&config)?;
        machine.can_fork().map_err(SessionError::CannotFork)?;
        let known = Sha256::digest(layout(&machine, &SoftEngine::default())?).to_vec();
        if file.bytes(Section::Layout).map_err(|error| read(error.into()))? != known {
            return Err(SnapshotError::Layout(path.to_owned()).into());
        }
        load(path, &file, Section::Devices, |from| machine.restore(from))?;
        let engine =
            load(path, &file, Section::Cpus, |from| SoftEngine::restore(config.cpus, Kick::default(), from))?;
        let (mut from, length) = file.section(Section::Ram).map_err(|error| read(error.into()))?;
        pages::read(machine.ram(), &mut from, length)
            .map_err(|error| SnapshotError::Ram { path: path.to_owned(), error })?;

        let session = Session {
            machine: SharedMachine::new(machine),
            engine: Box::new(engine),
            deadline: Nanos::MAX,
            has_work: true,
            request: VecDeque::new(),
            seed: None,
            mark: Mark::Passed,
            panic_end: saved.panic_end,
            inputs: saved.inputs,
            transcript: None,
            start: None,
            kept: Vec::new(),
            pages_to: None,
        };
        let transcript = Arc::new(Transcript { console: saved.console, channel: saved.channel });
        let start = Start { transcript, exit: saved.exit };
        let template = Self { session: Mutex::new(session), start, config: config.clone() };
        Ok(Restored { template, guest: saved.guest, machine: config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::CacheSpec;
    use crate::memory::layout::MIB;

    /// Digests of all layouts that there have been, by version: one that has changed is added at the end, and the version
    /// raised.
    const LAYOUTS: &[&str] = &[
        "6aa0be35559fdf405767dc4c0c067e884c219efbc6569dcc85b57ad255e1d72b",
        "7fc11cbe00aec03c29fdd3ae5cc9e0b91f9ce79d111987eb49e63cba79ea768e",
        "4a3e8162e385210c413e317994318515976899ade2e13c1f78920bed16508cdf",
        "99d489d42899bb4ac7b37771a38495669f987114ef7699d61378949ca9a5eb1a",
        "b7b8631ee4c10aae728c5510aa334ff95c5d6f89ddeb8586f76ac107bfbaf38c",
        "602600420e150cb1742b2d2cbd3e9a54a59da3174d7906bf1f1ada10ec2c0f24",
        "c5542ef4944ee6478baf268a0a98b938e5c3dd4d265feac55a268a64f6238efc",
        "8810e73729cb3649d9e6f3135d0aa106b1d08b2c9424ad20ffd24f0a7a9cf9b9",
        "736f5971cb9ecafb763662e096605671c9cfe2d7fbfaa1cd31475c997a67766b",
        "6d4d8a1aa994be17fc27bad3974ed7c01f1339f51955c7993c2329a5386f6a66",
        "493ebd50f9d24b014c88850f7533d2124e8b07fd6569a8a8001e3d1d651bce73",
        "721784bf12db14423040a1d0f5c47575890b0ae0874a278953b85b7eba1c2be1",
        "d7edcedd65e9f1ded6e0122acf0799cf62be4335c9dbf3464646d334fdd02da6",
        "f1a6d69fbe17e21a22a46644d90f43c2a626b8d89a540a1dba39a5193c5399c1",
        "04c2129c92b19543a4b17bec3cc9c6bba337011c573a54c664401f6bebeb5a6f",
        "97200577b25410fa6cb74e9b46c8839ecc138e71c5214374342b926960234c3b",
    ];

    #[test]
    fn the_layout_has_this_version() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(512).unwrap();
        let blk = format!("blk,readonly=on,path={}", disk.path().display());
        let devices =
            ["mlx5", "dmalab", "rng", "console", "input", &blk].map(|device| device.parse().unwrap()).into();
        let machine = Machine::new(&MachineConfig {
            memory: 16 * MIB,
            cpus: 1,
            seed: 1,
            devices,
            cache: CacheSpec::off(),
            iommu: IommuSpec::Off,
            confidential: Some(Confidential::Sev),
        })
        .unwrap();
        let text = layout(&machine, &SoftEngine::default()).unwrap();
        assert!(!text.contains(&b'!'), "a type refused what it was given");
        let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            (LAYOUTS.last(), LAYOUTS.len() as u64),
            (Some(&&*digest), file::VERSION),
            "what is saved has changed: add the digest to LAYOUTS and raise VERSION"
        );
    }
}
