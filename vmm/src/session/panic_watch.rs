//! Recognises a kernel panic on the console.

/// How a panic's line begins, after the time stamp.
const PANIC: &str = "Kernel panic - not syncing";
/// The line that ends the report.
const END: &str = "---[ end Kernel panic - not syncing";
/// Bytes of a line that are looked at.
const MAX_LINE: usize = 512;

/// Reads the console line by line.
#[derive(Debug, Default)]
pub(super) struct PanicWatch {
    line: Vec<u8>,
    message: Option<String>,
    ended: bool,
}

impl PanicWatch {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.look();
                self.line.clear();
            } else if self.line.len() < MAX_LINE {
                self.line.push(byte);
            }
        }
    }

    /// The panic's message, once there was one.
    pub(super) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// The report of the panic is complete.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    fn look(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let text = without_time_stamp(line.trim());
        if text.starts_with(PANIC) && self.message.is_none() {
            self.message = Some(text.to_owned());
        }
        self.ended |= self.message.is_some() && text.starts_with(END);
    }
}

/// A kernel line without the `[   12.345678] ` in front, which may name a task or CPU as well.
fn without_time_stamp(line: &str) -> &str {
    let rest = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    match rest {
        Some((stamp, text)) if stamp.trim_start().starts_with(|c: char| c.is_ascii_digit()) => {
            text.trim_start()
        }
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_heard_in_pieces() {
        let mut watch = PanicWatch::default();
        watch.push(b"[    0.1] ok\r\n[    1.234567] Kernel pa");
        watch.push(b"nic - not syncing: VFS: Unable to mount root fs\r");
        assert_eq!(watch.message(), None);
        watch.push(b"\n[    1.3] CPU: 0 PID: 1\r\n");
        assert_eq!(watch.message(), Some("Kernel panic - not syncing: VFS: Unable to mount root fs"));
        assert!(!watch.ended());
        watch.push(b"[    1.4] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---\r\n");
        assert!(watch.ended());
    }

    #[test]
    fn talk_about_panics_is_none() {
        let mut watch = PanicWatch::default();
        watch.push(b"echo Kernel panic - not syncing\n# a [Kernel panic - not syncing]\n[x] Kernel panic - not syncing\n");
        watch.push(&[b'x'; 100_000]);
        assert_eq!(watch.message(), None);
        assert!(watch.line.len() <= MAX_LINE);
    }
}
