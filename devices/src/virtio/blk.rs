//! The block device (virtio 1.2, 5.2): a raw disk.

use super::buffer::{Buffer, BufferError};
use super::queue::{MAX_CHAIN, QueueError};
use super::{DeviceType, Step, feature};
use crate::bus::Nanos;
use crate::pci::Port;
use crate::state::{State, same};
use crate::storage::Storage;
use serde::{Deserialize, Serialize};
use std::io;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

/// Bytes of a sector: the unit of all positions, whatever the block size is.
pub const SECTOR_SIZE: u64 = 512;
/// Most request queues.
pub const MAX_QUEUES: u16 = 8;

/// Data segments of a request, beside header and status.
const MAX_SEGMENTS: u32 = MAX_CHAIN as u32 - 2;
/// Bytes moved in one step.
const CHUNK: usize = 64 << 10;
/// Bytes zeroed in one step: a host without sparse files writes them.
const ZERO_CHUNK: u64 = 4 << 20;
/// Sectors that one discard or write-zeroes request can have: 64 MiB.
const MAX_ZERO_SECTORS: u32 = 64 << 11;
/// Physical blocks have 2^3 sectors: partitions and file systems align to what the host's file system allocates.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
const PHYSICAL_BLOCK_SECTORS: u32 = 1 << PHYSICAL_BLOCK_EXPONENT;

const HEADER_SIZE: usize = 16;
const RANGE_SIZE: usize = 16;
const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IO_ERROR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPPORTED: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// What a disk is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkConfig {
    /// Capacity in sectors of [`SECTOR_SIZE`].
    pub sectors: u64,
    pub read_only: bool,
    /// Request queues, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Serial number; its first 20 bytes count.
    pub serial: String,
}

/// What a request still has to do. Positions and lengths in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Work {
    Read { at: u64, left: u64 },
    Write { at: u64, left: u64 },
    Zero { at: u64, left: u64, deallocate: bool },
    Flush,
    Answer(u8),
}

/// A disk. Its data are in the storage that its port lends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Blk {
    config: BlkConfig,
    /// The driver flushes when it wants to; otherwise every write is on stable storage before it is answered
    /// (virtio, 5.2.6.2).
    write_back: bool,
    /// The request that each queue is at.
    requests: Vec<Option<Work>>,
}

impl Blk {
    /// A disk with `config`; a number of queues out of range is brought into it.
    pub fn new(mut config: BlkConfig) -> Self {
        config.queues = config.queues.clamp(1, MAX_QUEUES);
        Self { write_back: false, requests: vec![None; usize::from(config.queues)], config }
    }

    /// Position in bytes of `length` bytes at `sector`, if they are on the disk.
    fn position(&self, sector: u64, length: u64) -> Option<u64> {
        let first = sector.checked_mul(SECTOR_SIZE)?;
        let size = self.config.sectors.checked_mul(SECTOR_SIZE)?;
        (first.checked_add(length)? <= size).then_some(first)
    }

    /// Reads the header of a request: what it asks for.
    fn begin(&self, buffer: &mut Buffer, port: &mut dyn Port) -> Result<Work, BufferError> {
        let mut header = [0; HEADER_SIZE];
        buffer.read(port, &mut header)?;
        let (kind, sector) = (le32(&header, 0), le64(&header, 8));
        // The last byte takes the status.
        let (data_in, data_out) = (buffer.writable() - 1, buffer.readable());
        let changes = matches!(kind, VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES);
        if changes && self.config.read_only {
            return Ok(Work::Answer(IO_ERROR));
        }
        let transfer =
            |length: u64| self.position(sector, length).filter(|_| length.is_multiple_of(SECTOR_SIZE));
        Ok(match kind {
            VIRTIO_BLK_T_IN => match transfer(data_in) {
                Some(at) => Work::Read { at, left: data_in },
                None => Work::Answer(IO_ERROR),
            },
            VIRTIO_BLK_T_OUT => match transfer(data_out) {
                Some(at) => Work::Write { at, left: data_out },
                None => Work::Answer(IO_ERROR),
            },
            VIRTIO_BLK_T_FLUSH => Work::Flush,
            VIRTIO_BLK_T_GET_ID => Work::Answer(self.write_serial(buffer, port)?),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => self.begin_zero(kind, buffer, port)?,
            _ => Work::Answer(UNSUPPORTED),
        })
    }

    fn write_serial(&self, buffer: &mut Buffer, port: &mut dyn Port) -> Result<u8, BufferError> {
        let mut serial = [0; VIRTIO_BLK_ID_BYTES as usize];
        for (byte, &letter) in serial.iter_mut().zip(self.config.serial.as_bytes()) {
            *byte = letter;
        }
        if buffer.writable() <= serial.len() as u64 {
            return Ok(IO_ERROR);
        }
        buffer.write(port, &serial)?;
        Ok(OK)
    }

    /// Discard and write-zeroes (virtio, 5.2.6): both read as zero afterwards, so that what a guest finds never depends on
    /// the host's file system.
    fn begin_zero(&self, kind: u32, buffer: &mut Buffer, port: &mut dyn Port) -> Result<Work, BufferError> {
        // One range a request, as the configuration says.
        if buffer.readable() != RANGE_SIZE as u64 {
            return Ok(Work::Answer(IO_ERROR));
        }
        let mut range = [0; RANGE_SIZE];
        buffer.read(port, &mut range)?;
        let (sector, count, flags) = (le64(&range, 0), le32(&range, 8), le32(&range, 12));
        let discard = kind == VIRTIO_BLK_T_DISCARD;
        let allowed = if discard { 0 } else { VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP };
        if flags & !allowed != 0 {
            return Ok(Work::Answer(UNSUPPORTED));
        }
        let left = u64::from(count) * SECTOR_SIZE;
        Ok(match self.position(sector, left) {
            Some(at) if count <= MAX_ZERO_SECTORS => {
                Work::Zero { at, left, deallocate: discard || flags != 0 }
            }
            _ => Work::Answer(IO_ERROR),
        })
    }

    /// Does a bounded part of `work`; returns what is left of it.
    fn advance(&self, work: Work, buffer: &mut Buffer, port: &mut dyn Port) -> Result<Work, Failure> {
        let after_change = || if self.write_back { Work::Answer(OK) } else { Work::Flush };
        Ok(match work {
            Work::Read { left: 0, .. } => Work::Answer(OK),
            Work::Read { at, left } => {
                let mut data = vec![0; left.min(CHUNK as u64) as usize];
                storage(port)?.read(at, &mut data)?;
                buffer.write(port, &data)?;
                let done = data.len() as u64;
                Work::Read { at: at + done, left: left - done }
            }
            Work::Write { left: 0, .. } | Work::Zero { left: 0, .. } => after_change(),
            Work::Write { at, left } => {
                let mut data = vec![0; left.min(CHUNK as u64) as usize];
                buffer.read(port, &mut data)?;
                storage(port)?.write(at, &data)?;
                let done = data.len() as u64;
                Work::Write { at: at + done, left: left - done }
            }
            Work::Zero { at, left, deallocate } => {
                let done = left.min(ZERO_CHUNK);
                storage(port)?.zero(at, done, deallocate)?;
                Work::Zero { at: at + done, left: left - done, deallocate }
            }
            Work::Flush => {
                storage(port)?.flush()?;
                Work::Answer(OK)
            }
            Work::Answer(status) => Work::Answer(status),
        })
    }
}

/// Why a request fails: it is answered with an I/O error.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Host(#[from] io::Error),
    #[error(transparent)]
    Buffer(#[from] BufferError),
    #[error("the disk has no storage")]
    NoStorage,
}

fn storage(port: &mut dyn Port) -> Result<&mut dyn Storage, Failure> {
    port.storage().ok_or(Failure::NoStorage)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|field| field.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}

impl State for Blk {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        if self.config.sectors != saved.config.sectors {
            return Err("the disk has another size than the one it was saved with");
        }
        same(self.config == saved.config && self.requests.len() == saved.requests.len())
    }
}

impl DeviceType for Blk {
    const NAME: &'static str = "virtio-blk";
    const ID: u32 = VIRTIO_ID_BLOCK;
    const CLASS: u32 = 0x01_80_00;

    fn queues(&self) -> u16 {
        self.config.queues
    }

    fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_MQ,
        ];
        if self.config.read_only {
            bits.push(VIRTIO_BLK_F_RO);
        } else {
            bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
        }
        bits.into_iter().map(feature).sum()
    }

    /// The structure of virtio 1.2, 5.2.4, up to `write_zeroes_may_unmap` and its padding.
    fn config(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(60);
        bytes.extend(self.config.sectors.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes()); // size_max: not offered
        bytes.extend(MAX_SEGMENTS.to_le_bytes());
        bytes.extend([0; 4]); // geometry: not offered
        bytes.extend((SECTOR_SIZE as u32).to_le_bytes());
        bytes.extend([PHYSICAL_BLOCK_EXPONENT, 0]);
        // Least and best I/O size, in logical blocks.
        bytes.extend((PHYSICAL_BLOCK_SECTORS as u16).to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend([1, 0]); // write-back cache
        bytes.extend(self.config.queues.to_le_bytes());
        let (most, ranges) = if self.config.read_only { (0, 0) } else { (MAX_ZERO_SECTORS, 1_u32) };
        bytes.extend(most.to_le_bytes());
        bytes.extend(ranges.to_le_bytes());
        bytes.extend(PHYSICAL_BLOCK_SECTORS.to_le_bytes());
        bytes.extend(most.to_le_bytes());
        bytes.extend(ranges.to_le_bytes());
        bytes.extend([1, 0, 0, 0]); // write-zeroes may deallocate
        bytes
    }

    fn start(&mut self, features: u64, _now: Nanos) {
        self.write_back = features & feature(VIRTIO_BLK_F_FLUSH) != 0;
    }

    fn serve(&mut self, queue: u16, buffer: &mut Buffer, port: &mut dyn Port) -> Result<Step, QueueError> {
        let begun = self.requests.get_mut(usize::from(queue)).and_then(Option::take);
        if begun.is_none() && buffer.writable() == 0 {
            return Err(QueueError::NoStatus(buffer.head()));
        }
        let result = match begun {
            Some(work) => self.advance(work, buffer, port),
            None => self.begin(buffer, port).map_err(Failure::from),
        };
        let work = result.unwrap_or_else(|error| {
            log::debug!("{}: request failed: {error}", Self::NAME);
            Work::Answer(IO_ERROR)
        });
        if let Work::Answer(status) = work {
            return match buffer.write_last(port, status) {
                Ok(()) => Ok(Step::Done),
                Err(BufferError::Dma(error)) => Err(QueueError::Dma(error)),
                Err(BufferError::TooShort) => Err(QueueError::NoStatus(buffer.head())),
            };
        }
        if let Some(slot) = self.requests.get_mut(usize::from(queue)) {
            *slot = Some(work);
        }
        Ok(Step::More)
    }

    fn reset_queue(&mut self, queue: u16) {
        if let Some(request) = self.requests.get_mut(usize::from(queue)) {
            *request = None;
        }
    }

    fn reset(&mut self) {
        *self = Self::new(self.config.clone());
    }
}
