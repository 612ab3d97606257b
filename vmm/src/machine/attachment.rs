//! What devices have of the host: files. Kept apart from the devices, which are plain data, and lent to them by slot.

use devices::pci::Slot;
use devices::storage::Storage;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use vmm_sys_util::fallocate::{FallocateMode, fallocate};

/// Zeroes written at a time where the host cannot make them itself.
const ZEROES: usize = 64 << 10;

/// One device's share of the host.
#[derive(Debug, Clone)]
pub(super) enum Attachment {
    Disk(DiskFile),
    Output(OutputFile),
    /// Output goes where that of the first serial port goes.
    Console,
}

/// The shares of all devices, by slot. A clone shares the files.
#[derive(Debug, Clone, Default)]
pub(super) struct Attachments {
    slots: BTreeMap<Slot, Attachment>,
    /// Output for the console that has not been taken yet.
    console: Vec<u8>,
}

impl Attachments {
    pub(super) fn insert(&mut self, slot: Slot, attachment: Attachment) {
        self.slots.insert(slot, attachment);
    }

    /// Whether a file is written to: then no other machine can have the same.
    pub(super) fn is_exclusive(&self) -> bool {
        self.slots.values().any(|attachment| match attachment {
            Attachment::Disk(disk) => !disk.read_only,
            Attachment::Output(_) => true,
            Attachment::Console => false,
        })
    }

    /// What the device in `slot` stores its data in.
    pub(super) fn storage(&mut self, slot: Slot) -> Option<&mut dyn Storage> {
        match self.slots.get_mut(&slot) {
            Some(Attachment::Disk(disk)) => Some(disk),
            _ => None,
        }
    }

    /// Passes on output of the device in `slot`.
    pub(super) fn output(&mut self, slot: Slot, bytes: &[u8]) {
        match self.slots.get_mut(&slot) {
            Some(Attachment::Output(file)) => file.write(bytes),
            Some(Attachment::Console) => self.console.extend_from_slice(bytes),
            _ => {}
        }
    }

    /// Whether there is output for the console.
    pub(super) fn has_console(&self) -> bool {
        !self.console.is_empty()
    }

    /// Output for the console that has not been taken yet.
    pub(super) fn console(&self) -> &Vec<u8> {
        &self.console
    }

    /// Replaces it.
    pub(super) fn set_console(&mut self, console: Vec<u8>) {
        self.console = console;
    }

    /// Output for the console since the last call.
    pub(super) fn take_console(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.console)
    }
}

/// A raw disk image, or a block device of the host.
#[derive(Debug, Clone)]
pub(super) struct DiskFile {
    file: Arc<File>,
    size: u64,
    read_only: bool,
}

impl DiskFile {
    /// Opens and locks it: shared if it is only read, else for this machine alone.
    ///
    /// # Errors
    /// The host's reason, or that another machine has the disk.
    pub(super) fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        match if read_only { file.try_lock_shared() } else { file.try_lock() } {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another machine, or device of this one, is using it"));
            }
            Err(TryLockError::Error(error)) => {
                log::warn!("{}: cannot be locked against other users: {error}", path.display());
            }
        }
        // The end says how large it is for block devices, too.
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Self { file: Arc::new(file), size, read_only })
    }

    /// A file of `size` bytes in the host's folder for temporary files that nobody else can open.
    ///
    /// # Errors
    /// The host's reason.
    pub(super) fn scratch(size: u64) -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        file.set_len(size)?;
        Ok(Self { file: Arc::new(file), size, read_only: false })
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

impl Storage for DiskFile {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, offset)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn zero(&mut self, offset: u64, length: u64, deallocate: bool) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let mode = if deallocate { FallocateMode::PunchHole } else { FallocateMode::ZeroRange };
        if fallocate(&*self.file, mode, true, offset, length).is_ok() {
            return Ok(());
        }
        // The host's file system can do neither.
        let zeroes = [0; ZEROES];
        let mut done = 0;
        while done < length {
            let part = zeroes.get(..(length - done).min(ZEROES as u64) as usize).unwrap_or(&zeroes);
            self.file.write_all_at(part, offset + done)?;
            done += part.len() as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// A file that takes output. One that fails takes no more.
#[derive(Debug, Clone)]
pub(super) struct OutputFile(Option<Arc<File>>);

impl OutputFile {
    /// Makes it empty.
    ///
    /// # Errors
    /// The host's reason.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Some(Arc::new(File::create(path)?))))
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(file) = &self.0
            && let Err(error) = (&**file).write_all(bytes)
        {
            log::error!("a device's output file takes no more: {error}");
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(bytes: &[u8]) -> (tempfile::NamedTempFile, DiskFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let disk = DiskFile::open(file.path(), false).unwrap();
        (file, disk)
    }

    #[test]
    fn disks_are_read_written_and_zeroed_in_place() {
        let (file, mut disk) = disk(&[7; 8192]);
        disk.write(4096, &[1, 2, 3]).unwrap();
        let mut data = [0; 4];
        disk.read(4095, &mut data).unwrap();
        assert_eq!(data, [7, 1, 2, 3]);
        assert!(disk.read(8190, &mut data).is_err(), "past the end");
        disk.zero(0, 4096, true).unwrap();
        disk.zero(4098, 10, false).unwrap();
        disk.flush().unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(bytes[..4096].iter().all(|&byte| byte == 0));
        assert_eq!(bytes[4096..4099], [1, 2, 0]);
        assert_eq!((bytes[4107], bytes[4108], bytes.len()), (0, 7, 8192));
    }

    #[test]
    fn a_disk_that_is_written_has_one_user() {
        let (file, disk) = disk(&[0; 512]);
        assert!(DiskFile::open(file.path(), true).unwrap_err().to_string().contains("is using it"));
        drop(disk);
        let first = DiskFile::open(file.path(), true).unwrap();
        let second = DiskFile::open(file.path(), true).unwrap();
        assert_eq!((first.size(), second.size()), (512, 512));
        assert!(DiskFile::open(file.path(), false).is_err());
        assert!(DiskFile::open(Path::new("/"), true).is_err());
    }
}
