//! The pages of RAM that are not zero, as a stream: the size of RAM, then runs of pages (number of the first, how many, and
//! their bytes), by ascending number. Pages are numbered in the order in which RAM is laid out, across the gap below 4 GiB.
//! All numbers are 64 bits, little-endian.

use super::GuestRam;
use super::layout::PAGE;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use vmm_sys_util::seek_hole::SeekHole;

/// Bytes that are moved at a time.
const CHUNK: u64 = 1 << 20;
/// Bytes of the size of RAM.
const HEADER: u64 = 8;
/// Bytes of a run before its pages.
const RUN_HEADER: u64 = 16;

/// A stream cannot be put into RAM.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is of RAM of {found} bytes, not {expected}")]
    Size { found: u64, expected: u64 },
    #[error(
        "{count} pages from page {first} on: they are out of order, or beyond the end of RAM or of the stream"
    )]
    Run { first: u64, count: u64 },
}

/// The pages of RAM that are not zero. RAM must not change while this lives.
#[derive(Debug)]
pub struct Pages<'a> {
    ram: &'a GuestRam,
    /// Byte ranges of whole pages.
    runs: Vec<Range<u64>>,
}

impl<'a> Pages<'a> {
    /// Finds them.
    ///
    /// # Errors
    /// The host's reason; RAM that is itself a copy has no file to read.
    pub fn of(ram: &'a GuestRam) -> io::Result<Self> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let file = ram.file().map_err(io::Error::other)?;
        for extent in extents(file, ram.size())? {
            read_chunks(file, extent, |at, chunk| {
                for (page, start) in chunk.chunks(PAGE as usize).zip((at..).step_by(PAGE as usize)) {
                    if page.iter().all(|&byte| byte == 0) {
                        continue;
                    }
                    match runs.last_mut() {
                        Some(run) if run.end == start => run.end += PAGE,
                        _ => runs.push(start..start + PAGE),
                    }
                }
                Ok(())
            })?;
        }
        Ok(Self { ram, runs })
    }

    /// Bytes that [`Pages::write`] writes.
    #[must_use]
    pub fn length(&self) -> u64 {
        HEADER + self.runs.iter().map(|run| RUN_HEADER + (run.end - run.start)).sum::<u64>()
    }

    /// Writes them.
    ///
    /// # Errors
    /// The host's reason.
    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let file = self.ram.file().map_err(io::Error::other)?;
        to.write_all(&self.ram.size().to_le_bytes())?;
        for run in &self.runs {
            to.write_all(&(run.start / PAGE).to_le_bytes())?;
            to.write_all(&((run.end - run.start) / PAGE).to_le_bytes())?;
            read_chunks(file, run.clone(), |_, chunk| to.write_all(chunk))?;
        }
        Ok(())
    }
}

/// Puts the pages of a stream of `length` bytes into RAM that is all zero.
///
/// # Errors
/// [`PagesError`]; a part may have been put there.
pub fn read(ram: &GuestRam, from: &mut dyn Read, length: u64) -> Result<(), PagesError> {
    let file = ram.file().map_err(io::Error::other)?;
    let size = number(from)?;
    if size != ram.size() {
        return Err(PagesError::Size { found: size, expected: ram.size() });
    }
    let mut left = length.saturating_sub(HEADER);
    let mut chunk = vec![0; CHUNK as usize];
    let mut done = 0;
    while left > 0 {
        let (first, count) = (number(from)?, number(from)?);
        left = left.saturating_sub(RUN_HEADER);
        let start = first.checked_mul(PAGE).filter(|&start| start >= done);
        let bytes = count.checked_mul(PAGE).filter(|&bytes| bytes > 0 && bytes <= left);
        let run = start.zip(bytes).and_then(|(start, bytes)| Some(start..start.checked_add(bytes)?));
        let run = run.filter(|run| run.end <= size).ok_or(PagesError::Run { first, count })?;
        let mut at = run.start;
        while at < run.end {
            let part = chunk.get_mut(..(run.end - at).min(CHUNK) as usize).unwrap_or_default();
            from.read_exact(part)?;
            file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        left -= run.end - run.start;
        done = run.end;
    }
    Ok(())
}

fn number(from: &mut dyn Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// The parts of a file of `size` bytes that are not holes, cut into whole pages.
fn extents(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut file = file.try_clone()?;
    let (mut extents, mut at) = (Vec::new(), 0);
    while at < size {
        let Some(start) = file.seek_data(at)? else { break };
        let end = file.seek_hole(start)?.unwrap_or(size);
        extents.push(start - start % PAGE..end.next_multiple_of(PAGE).min(size));
        at = end.max(start + 1);
    }
    Ok(extents)
}

/// Calls `each` with the pieces of `range` of a file, and where each begins.
fn read_chunks(
    file: &File,
    range: Range<u64>,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK.min(range.end - range.start) as usize];
    let mut at = range.start;
    while at < range.end {
        let part = chunk.get_mut(..(range.end - at).min(CHUNK) as usize).unwrap_or_default();
        file.read_exact_at(part, at)?;
        each(at, part)?;
        at += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::layout::{GIB, HIGH_RAM, MIB};
    use super::*;

    fn stream(ram: &GuestRam) -> Vec<u8> {
        let pages = Pages::of(ram).unwrap();
        let mut bytes = Vec::new();
        pages.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, pages.length());
        bytes
    }

    fn put(ram: &GuestRam, bytes: &[u8]) -> Result<(), PagesError> {
        read(ram, &mut &bytes[..], bytes.len() as u64)
    }

    #[test]
    fn only_pages_with_something_in_them_are_kept() {
        let ram = GuestRam::new(5 * GIB).unwrap();
        assert_eq!(stream(&ram).len() as u64, HEADER);
        // Two pages in a row across the gap, one that was written with zeros, and the last.
        let written = [(3 * GIB - 1, 7), (HIGH_RAM, 8), (16 * MIB, 0), (HIGH_RAM + 2 * GIB - 1, 9)];
        for (address, byte) in written {
            ram.write(address, &[byte]).unwrap();
        }
        let bytes = stream(&ram);
        assert_eq!(bytes.len() as u64, HEADER + 2 * RUN_HEADER + 3 * PAGE);
        let copy = GuestRam::new(5 * GIB).unwrap();
        put(&copy, &bytes).unwrap();
        for (address, byte) in written {
            let mut data = [0xff];
            copy.read(address, &mut data).unwrap();
            assert_eq!(data, [byte], "{address:#x}");
        }
        assert_eq!(stream(&copy), bytes);
        assert!(Pages::of(&ram.fork().unwrap()).is_err(), "a copy has no file");
    }

    #[test]
    fn streams_are_checked() {
        let ram = || GuestRam::new(8 * MIB).unwrap();
        let written = ram();
        written.write(5 * PAGE, &[1; 2 * PAGE as usize]).unwrap();
        let good = stream(&written);
        let with = |at: usize, number: u64| {
            let mut bytes = good.clone();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            put(&ram(), &bytes)
        };
        assert!(matches!(with(0, 16 * MIB), Err(PagesError::Size { .. })));
        for (at, number) in [(8, 2047), (8, u64::MAX), (8, u64::MAX / PAGE), (16, 3), (16, 0), (16, u64::MAX)]
        {
            assert!(matches!(with(at, number), Err(PagesError::Run { .. })), "{number} at {at}");
        }
        // Fewer pages: what is left over is taken for a run, and is none.
        assert!(with(16, 1).is_err());
        for length in 0..good.len() {
            let cut = put(&ram(), &good[..length]);
            assert_eq!(cut.is_ok(), length == HEADER as usize, "{length}");
        }
        let twice = [&good[..], &good[HEADER as usize..]].concat();
        assert!(matches!(put(&ram(), &twice), Err(PagesError::Run { first: 5, count: 2 })));
    }
}
