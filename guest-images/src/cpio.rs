//! Writer for the "newc" cpio archives that Linux unpacks as initramfs
//! (kernel: Documentation/driver-api/early-userspace/buffer-format.rst). Contents depend on the input alone: no clock, no
//! host user.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Builds an uncompressed archive; parent directories are added as needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// A directory and its parents, mode 0755, once each.
    pub fn directory(&mut self, path: &str) {
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        self.parents(path);
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY | 0o755, &[], (0, 0));
    }

    /// A regular file; `mode` is the permission bits.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR | mode, data, (0, 0));
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, SYMLINK | 0o777, target.as_bytes(), (0, 0));
    }

    pub fn character_device(&mut self, path: &str, mode: u32, device: (u32, u32)) {
        self.parents(path);
        self.entry(path, CHARACTER | mode, &[], device);
    }

    /// Ends the archive; the length is a multiple of four, so that another may follow.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        self.entries = self.entries.wrapping_add(1);
        let size = data.len() as u32;
        let name_size = path.len() as u32 + 1;
        let links = 1;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Name, mode and data of each entry.
    pub(crate) fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            let header = &archive[at..at + 110];
            assert_eq!(&header[..6], b"070701");
            let field = |n: usize| {
                u32::from_str_radix(std::str::from_utf8(&header[6 + n * 8..14 + n * 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(archive[at + 110..at + 110 + name_size - 1].to_vec()).unwrap();
            let data = (at + 110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(data, archive.len());
                return entries;
            }
            entries.push((name, mode, archive[data..data + size].to_vec()));
            at = (data + size).next_multiple_of(4);
        }
    }

    #[test]
    fn entries_read_back_with_parents_first_and_once() {
        let mut archive = Archive::default();
        archive.file("usr/bin/tool", 0o755, b"abc");
        archive.file("usr/bin/other", 0o644, b"");
        archive.symlink("bin", "usr/bin");
        archive.character_device("dev/console", 0o600, (5, 1));
        let entries = read(&archive.finish());
        let names: Vec<_> = entries.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
        assert_eq!(
            names,
            [
                ("usr", 0o40755),
                ("usr/bin", 0o40755),
                ("usr/bin/tool", 0o100755),
                ("usr/bin/other", 0o100644),
                ("bin", 0o120777),
                ("dev", 0o40755),
                ("dev/console", 0o20600),
            ]
        );
        assert_eq!(entries[2].2, b"abc");
        assert_eq!(entries[4].2, b"usr/bin");
    }

    #[test]
    fn bytes_of_one_file_are_as_the_format_says() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"hello");
        let bytes = archive.finish();
        let expected = "07070100000001000081A4000000000000000000000001000000000000000500000000000000000000000000000000\
                        0000000200000000a\0hello\0\0\0";
        assert_eq!(std::str::from_utf8(&bytes[..expected.len()]).unwrap(), expected);
        assert_eq!(bytes.len() % 4, 0);
    }
}
