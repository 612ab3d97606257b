//! The archive that makes any initramfs run one command: our init and the command's arguments.

use crate::cpio::Archive;

/// The guest's PID 1, compiled from `programs/staleline-init.c`: static, freestanding, x86-64.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/staleline-init"));

/// The guest's PID 1; boot it with `rdinit=/staleline/init`.
pub fn init_binary() -> &'static [u8] {
    INIT
}

/// An uncompressed newc archive to append to an initramfs: `/staleline/init` and, unless `argv` is empty,
/// `/staleline/command`. Boot with `rdinit=/staleline/init`.
///
/// The init runs the command with its output framed on `/dev/ttyS1` ([`crate::channel`]), or without a command an
/// interactive shell on the console. Arguments cannot contain NUL: what follows one is dropped.
pub fn command_archive(argv: &[String]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file("staleline/init", 0o755, INIT);
    if !argv.is_empty() {
        let mut command = Vec::new();
        for argument in argv {
            command.extend(argument.bytes().take_while(|byte| *byte != 0));
            command.push(0);
        }
        archive.file("staleline/command", 0o644, &command);
    }
    archive.finish()
}

/// An uncompressed newc archive of one file, to append to an initramfs.
pub fn file_archive(path: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file(path, mode, data);
    archive.finish()
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
    fn the_archive_holds_init_and_terminated_arguments() {
        let archive = command_archive(&["echo".into(), String::new(), "a b".into()]);
        // The name as an entry's, right after the header's last field.
        let entry = b"00000000staleline/command\0";
        let after = find(&archive, entry).unwrap();
        assert!(find(after, b"echo\0\0a b\0").is_some());
        assert!(find(&archive, INIT).is_some());
        assert!(find(&command_archive(&[]), entry).is_none());
    }

    #[test]
    fn init_is_a_static_x86_64_program() {
        assert_eq!(&INIT[..4], b"\x7fELF");
        assert_eq!(INIT[18], 62, "EM_X86_64");
        assert!(find(INIT, b"/staleline/command\0").is_some());
        assert!(find(INIT, b"ld-linux").is_none());
    }

    #[test]
    fn appending_aligns_to_four() {
        let mut initrd = vec![1; 5];
        append_archive(&mut initrd, b"0707");
        assert_eq!(initrd, [1, 1, 1, 1, 1, 0, 0, 0, b'0', b'7', b'0', b'7']);
    }
}
