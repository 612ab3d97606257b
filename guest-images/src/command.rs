//! Archives to append to any initramfs: our init, and files of the host.

use crate::cpio::Archive;
use crate::error::{Result, at};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The guest's PID 1, compiled from `programs/staleline-init.c`: static, freestanding, x86-64.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/staleline-init"));

/// The guest's PID 1; boot it with `rdinit=/staleline/init`.
pub fn init_binary() -> &'static [u8] {
    INIT
}

/// An uncompressed newc archive to append to an initramfs: `/staleline/init`, and `/staleline/work`, which has it wait for
/// a command ([`crate::channel::request`]) instead of starting a shell. Boot with `rdinit=/staleline/init`.
///
/// The command is not part of it: a guest boots alike whatever it is to run.
pub fn work_archive() -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file("staleline/init", 0o755, INIT);
    archive.file("staleline/work", 0o644, b"");
    archive.finish()
}

/// An uncompressed newc archive of one file, to append to an initramfs.
pub fn file_archive(path: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file(path, mode, data);
    archive.finish()
}

/// An uncompressed newc archive of files and folders of the host, each with its path in the guest; folders with all that is in
/// them. Permissions of files and symbolic links are kept, other kinds of files are left out; every owner is root.
pub fn files_archive(files: &[(PathBuf, String)]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (from, to) in files {
        let from = fs::canonicalize(from).map_err(at(from))?;
        add_tree(&mut archive, &from, to.trim_matches('/'))?;
    }
    Ok(archive.finish())
}

/// A file, a link, or a folder with all that is in it.
pub(crate) fn add_tree(archive: &mut Archive, from: &Path, to: &str) -> Result<()> {
    let meta = fs::symlink_metadata(from).map_err(at(from))?;
    if meta.is_symlink() {
        let target = fs::read_link(from).map_err(at(from))?;
        archive.symlink(to, &target.to_string_lossy());
    } else if meta.is_file() {
        let data = fs::read(from).map_err(at(from))?;
        archive.file(to, meta.permissions().mode() & 0o7777, &data);
    } else if meta.is_dir() {
        archive.directory(to);
        let mut names: Vec<_> = fs::read_dir(from)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(at(from))?;
        // The order in which a file system lists them is the host's affair.
        names.sort();
        for name in names {
            let inside = format!("{to}/{}", name.to_string_lossy());
            add_tree(archive, &from.join(&name), inside.trim_start_matches('/'))?;
        }
    }
    Ok(())
}

/// Appends `archive` to an initramfs of any compression. Linux wants a following archive at a multiple of four.
pub fn append_archive(initrd: &mut Vec<u8>, archive: &[u8]) {
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend_from_slice(archive);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(haystack: &'a [u8], needle: &[u8]) -> Option<&'a [u8]> {
        haystack
            .windows(needle.len())
            .position(|window| window == needle)
            .map(|at| &haystack[at + needle.len()..])
    }

    #[test]
    fn the_work_archive_holds_init_and_its_mark() {
        let archive = work_archive();
        // The name as an entry's, right after the header's last field.
        assert!(find(&archive, b"00000000staleline/work\0").is_some());
        assert!(find(&archive, INIT).is_some());
    }

    #[test]
    fn init_is_a_static_x86_64_program() {
        assert_eq!(&INIT[..4], b"\x7fELF");
        assert_eq!(INIT[18], 62, "EM_X86_64");
        assert!(find(INIT, b"/staleline/work\0").is_some());
        assert!(find(INIT, b"ld-linux").is_none());
    }

    #[test]
    fn folders_are_archived_whole_with_links_and_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("run"), "text").unwrap();
        fs::set_permissions(inner.join("run"), fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("run", inner.join("link")).unwrap();
        let archive = files_archive(&[(folder.path().to_owned(), "/usr".into())]).unwrap();
        let entries = crate::cpio::tests::read(&archive);
        let find = |name: &str| entries.iter().find(|entry| entry.0 == name).cloned().unwrap();
        assert_eq!(find("usr/a/run"), ("usr/a/run".into(), 0o100_750, b"text".to_vec()));
        assert_eq!(find("usr/a/link"), ("usr/a/link".into(), 0o120_777, b"run".to_vec()));
        assert_eq!(find("usr/a").1, 0o040_755);
        let at_root = files_archive(&[(inner, "/".into())]).unwrap();
        assert!(crate::cpio::tests::read(&at_root).iter().any(|entry| entry.0 == "run"));
        assert!(files_archive(&[("/nonexistent".into(), "/x".into())]).is_err());
    }

    #[test]
    fn appending_aligns_to_four() {
        let mut initrd = vec![1; 5];
        append_archive(&mut initrd, b"0707");
        assert_eq!(initrd, [1, 1, 1, 1, 1, 0, 0, 0, b'0', b'7', b'0', b'7']);
    }
}
