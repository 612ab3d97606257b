//! Images as single files, for hosts without a network and for the caches of CI systems: a tar archive compressed with
//! Zstandard. Its first member says what it is; the others are the files of the image's folder.

use crate::error::{Error, Result, at};
use crate::image::Image;
use crate::kernel::remove;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tar::{Archive, Builder, Entries, EntryType, Header, HeaderMode};

/// The first member's name.
const LABEL: &str = "staleline-image.json";
/// Bump when the archive's layout changes.
const FORMAT: u32 = 1;
/// Bytes that a label may have.
const LABEL_MAX: u64 = 4096;
/// Zstandard's level: kernels with symbols shrink to a quarter in a second or two.
const LEVEL: i32 = 6;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Label {
    format: u32,
    pub name: String,
    /// The recipe's content hash.
    pub hash: String,
}

/// Writes `image` to the file `to`, which is whole or absent afterwards. The same image makes the same bytes.
pub(crate) fn export(image: &Image, to: &Path) -> Result<()> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write(image, &partial).map_err(at(&partial));
    if written.is_err() {
        remove(&partial)?;
    }
    written?;
    fs::rename(&partial, to).map_err(at(to))
}

fn write(image: &Image, to: &Path) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(BufWriter::new(File::create(to)?), LEVEL)?;
    // Damage must not pass for an image.
    encoder.include_checksum(true)?;
    let mut archive = Builder::new(encoder);
    archive.mode(HeaderMode::Deterministic);
    archive.follow_symlinks(false);
    // Holes are the file system's affair; zeros compress well.
    archive.sparse(false);
    let label = Label { format: FORMAT, name: image.name.clone(), hash: image.hash.clone() };
    let label = serde_json::to_vec(&label)?;
    let mut header = Header::new_gnu();
    header.set_size(label.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, LABEL, label.as_slice())?;
    append(&mut archive, &image.folder, Path::new(""))?;
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    file.get_ref().sync_all()
}

/// Appends what is in `folder`, under the names that begin with `prefix`.
fn append<W: Write>(archive: &mut Builder<W>, folder: &Path, prefix: &Path) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    // The order in which a file system lists them is the host's affair.
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = prefix.join(entry.file_name());
        archive.append_path_with_name(entry.path(), &name)?;
        if entry.file_type()?.is_dir() {
            append(archive, &entry.path(), &name)?;
        }
    }
    Ok(())
}

/// Reads what the archive `file` is, then unpacks it into the folder that `place` names for it, which is made afresh. `None` if
/// `place` does not want it.
pub(crate) fn unpack(
    file: &Path,
    place: impl FnOnce(&Label) -> Result<Option<PathBuf>>,
) -> Result<Option<(Label, PathBuf)>> {
    let opened = File::open(file).map_err(at(file))?;
    let decoder = zstd::Decoder::new(opened).map_err(at(file))?;
    let mut archive = Archive::new(decoder);
    let mut entries = archive.entries().map_err(|error| damaged(file, error))?;
    let label = read_label(file, &mut entries)?;
    let Some(folder) = place(&label)? else { return Ok(None) };
    remove(&folder)?;
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let unpacked = unpack_files(file, entries, &folder).and_then(|()| {
        // The end of the archive is not the end of the stream, at which the checksum is.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| damaged(file, error))
    });
    if unpacked.is_err() {
        remove(&folder)?;
    }
    unpacked.map(|_| Some((label, folder)))
}

fn refuse(file: &Path, reason: String) -> Error {
    Error::NoImageFile { file: file.to_owned(), reason }
}

fn damaged(file: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => at(file)(error),
        _ => refuse(file, format!("cut off or damaged, or none that staleline has written: {error}")),
    }
}

fn read_label<R: Read>(file: &Path, entries: &mut Entries<R>) -> Result<Label> {
    let damaged = |error| damaged(file, error);
    let first = match entries.next() {
        Some(entry) => entry.map_err(damaged)?,
        None => return Err(damaged(io::ErrorKind::UnexpectedEof.into())),
    };
    if first.path().map_err(damaged)?.as_ref() != Path::new(LABEL) {
        return Err(refuse(file, format!("an archive of something else: it does not begin with {LABEL}")));
    }
    let mut text = Vec::new();
    first.take(LABEL_MAX).read_to_end(&mut text).map_err(damaged)?;
    let label: Label = serde_json::from_slice(&text).map_err(|error| damaged(error.into()))?;
    if label.format != FORMAT {
        let version = format!(
            "written by another version of staleline (format {}, this one reads {FORMAT})",
            label.format
        );
        return Err(refuse(file, version));
    }
    Ok(label)
}

fn unpack_files<R: Read>(file: &Path, entries: Entries<R>, folder: &Path) -> Result<()> {
    let damaged = |error| damaged(file, error);
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path().map_err(damaged)?.display().to_string();
        let kind = entry.header().entry_type();
        if !matches!(kind, EntryType::Regular | EntryType::Directory | EntryType::Symlink) {
            return Err(refuse(file, format!("{name} in it is neither a file, nor a folder, nor a link")));
        }
        // Names that would leave the folder, also by way of a link, are not unpacked.
        if !entry.unpack_in(folder).map_err(damaged)? {
            return Err(refuse(file, format!("{name} in it would be unpacked elsewhere")));
        }
    }
    Ok(())
}
