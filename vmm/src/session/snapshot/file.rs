//! The file of a saved machine: sections behind a header, and a checksum over everything before it.
//!
//! ```text
//! 0   16 bytes   "staleline state" and a line feed
//! 16  u64        version of the format: of the sections and of what is in them
//! 24  u64        bytes of the whole file
//! 32             the sections, in the order of Section::ALL, each:
//!     8 bytes    its name, filled up with zeros
//!     u64        bytes of what follows
//!     …          its content
//! ```
//!
//! Numbers are little-endian. The last section is the SHA-256 of all that stands before its content: a file that was cut,
//! altered or mixed up is found out before anything in it is believed. What is in the other sections
//! is read with every length and index checked all the same, so that a file which was made with a right checksum is refused,
//! or is a machine.

use crate::memory::pages::Pages;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

/// The version of the format. Raise it whenever what is saved, or how, changes: `the_layout_has_this_version` tells.
pub const VERSION: u64 = 16;

const MAGIC: [u8; 16] = *b"staleline state\n";
const HEADER: u64 = 32;
const SECTION_HEADER: u64 = 16;
const CHECKSUM: u64 = 32;
/// Bytes that the checksum takes at a time.
const CHUNK: usize = 1 << 20;

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What the machine is built from, and what the guest has sent: [`super::SavedSession`].
    Session,
    /// A digest of the layout of the two sections after it.
    Layout,
    /// The state of devices and of what they share.
    Devices,
    /// The engine and its vCPUs.
    Cpus,
    /// [`crate::memory::pages`].
    Ram,
    Checksum,
}

impl Section {
    pub const ALL: [Self; 6] =
        [Self::Session, Self::Layout, Self::Devices, Self::Cpus, Self::Ram, Self::Checksum];

    /// Its name, in the file and for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Layout => "layout",
            Self::Devices => "devices",
            Self::Cpus => "vcpus",
            Self::Ram => "ram",
            Self::Checksum => "sha256",
        }
    }

    fn header(self, length: u64) -> [u8; SECTION_HEADER as usize] {
        let mut header = [0; SECTION_HEADER as usize];
        let (name, number) = header.split_at_mut(8);
        for (byte, letter) in name.iter_mut().zip(self.name().bytes()) {
            *byte = letter;
        }
        number.copy_from_slice(&length.to_le_bytes());
        header
    }
}

/// A file is no saved machine that can be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a regular file")]
    NotAFile,
    #[error("not a saved machine: it does not begin as one")]
    Foreign,
    #[error(
        "saved in version {0} of the format by another staleline; this one reads version {VERSION}: save the machine anew \
         with this one, or restore it with the other"
    )]
    Version(u64),
    #[error("truncated: it ends in its {part}, at byte {found} of {expected}")]
    Truncated { part: &'static str, found: u64, expected: u64 },
    #[error("damaged: it has {found} bytes and says that it has {expected}")]
    TooLong { found: u64, expected: u64 },
    #[error("damaged: its checksum is wrong")]
    Checksum,
    #[error("damaged: its section {0} is not in its place")]
    Section(&'static str),
}

/// What is written into a section.
#[derive(Debug)]
pub enum Content<'a> {
    Bytes(Vec<u8>),
    Pages(Pages<'a>),
}

impl Content<'_> {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pages(pages) => pages.length(),
        }
    }

    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => to.write_all(bytes),
            Self::Pages(pages) => pages.write(to),
        }
    }
}

/// Adds up what passes through.
struct Summing<'a> {
    to: &'a mut dyn Write,
    sum: Sha256,
}

impl Write for Summing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.sum.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writes a file of `contents`: those of all sections but the checksum, in order. Returns its length.
///
/// # Errors
/// The host's reason.
pub fn write(to: &mut dyn Write, contents: &[Content<'_>; 5]) -> io::Result<u64> {
    let sections = contents.iter().map(|content| SECTION_HEADER + content.length()).sum::<u64>();
    let length = HEADER + sections + SECTION_HEADER + CHECKSUM;
    let mut to = Summing { to, sum: Sha256::new() };
    to.write_all(&MAGIC)?;
    to.write_all(&VERSION.to_le_bytes())?;
    to.write_all(&length.to_le_bytes())?;
    for (section, content) in Section::ALL.into_iter().zip(contents) {
        to.write_all(&section.header(content.length()))?;
        content.write(&mut to)?;
    }
    to.write_all(&Section::Checksum.header(CHECKSUM))?;
    let sum = to.sum.clone().finalize();
    to.write_all(&sum)?;
    to.flush()?;
    Ok(length)
}

/// A file whose checksum is right.
#[derive(Debug)]
pub struct SavedFile {
    file: File,
    /// Where the content of each of [`Section::ALL`] is.
    places: Vec<Range<u64>>,
}

impl SavedFile {
    /// Opens it, and reads all of it to check it.
    ///
    /// # Errors
    /// [`FileError`] with what is wrong.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        // Opening a pipe would wait for its other end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(FileError::NotAFile);
        }
        let file = File::open(path)?;
        let found = file.metadata()?.len();
        let expected = read_header(&file)?;
        let places = walk(&file, found, expected);
        match &places {
            _ if found > expected => return Err(FileError::TooLong { found, expected }),
            Err(Misplaced(section)) if found < expected => {
                return Err(FileError::Truncated { part: section.name(), found, expected });
            }
            // The checksum says whether the file was damaged or made so.
            _ => {}
        }
        check_sum(&file, found)?;
        match places {
            Ok(places) => Ok(Self { file, places }),
            Err(Misplaced(section)) => Err(FileError::Section(section.name())),
        }
    }

    /// The content of a section, and its length.
    ///
    /// # Errors
    /// The host's reason.
    pub fn section(&self, section: Section) -> io::Result<(impl Read, u64)> {
        let place = self.places.get(section as usize).cloned().unwrap_or_default();
        let length = place.end - place.start;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(place.start))?;
        Ok((BufReader::with_capacity(CHUNK, file).take(length), length))
    }

    /// All of a section.
    ///
    /// # Errors
    /// The host's reason.
    pub fn bytes(&self, section: Section) -> io::Result<Vec<u8>> {
        let (mut from, _) = self.section(section)?;
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Reads the header; returns how long the file says it is.
fn read_header(file: &File) -> Result<u64, FileError> {
    let mut header = Vec::new();
    file.take(HEADER).read_to_end(&mut header)?;
    let known = header.len().min(MAGIC.len());
    if known == 0 || header.get(..known) != MAGIC.get(..known) {
        return Err(FileError::Foreign);
    }
    let truncated = FileError::Truncated { part: "header", found: header.len() as u64, expected: HEADER };
    let number = |at: usize| {
        let bytes = header.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map(|bytes| u64::from_le_bytes(*bytes))
    };
    match (number(16), number(24)) {
        (Some(version), _) if version != VERSION => Err(FileError::Version(version)),
        (Some(_), Some(length)) => Ok(length),
        _ => Err(truncated),
    }
}

/// The section that is not where it should be, or does not end within the file.
struct Misplaced(Section);

/// Finds the sections of a file that has `found` bytes and should have `expected`. One that cannot be read is misplaced.
fn walk(mut file: &File, found: u64, expected: u64) -> Result<Vec<Range<u64>>, Misplaced> {
    let (mut places, mut at) = (Vec::new(), HEADER);
    for section in Section::ALL {
        let mut header = [0; SECTION_HEADER as usize];
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut header));
        let size = header.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let start = at + SECTION_HEADER;
        let end = start.checked_add(size).filter(|&end| end <= found);
        match end {
            Some(end) if read.is_ok() && header == section.header(size) => {
                places.push(start..end);
                at = end;
            }
            _ => return Err(Misplaced(section)),
        }
    }
    let checksum =
        places.last().is_some_and(|place| place.end - place.start == CHECKSUM && place.end == expected);
    if checksum { Ok(places) } else { Err(Misplaced(Section::Checksum)) }
}

/// Compares the sum of a file of `length` bytes with what stands at its end.
fn check_sum(mut file: &File, length: u64) -> Result<(), FileError> {
    file.seek(SeekFrom::Start(0))?;
    let mut left = length.saturating_sub(CHECKSUM);
    let (mut sum, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    while left > 0 {
        let part = chunk.get_mut(..left.min(CHUNK as u64) as usize).unwrap_or_default();
        file.read_exact(part)?;
        sum.update(&*part);
        left -= part.len() as u64;
    }
    let mut expected = [0; CHECKSUM as usize];
    file.read_exact(&mut expected)?;
    if sum.finalize().as_slice() == expected { Ok(()) } else { Err(FileError::Checksum) }
}
