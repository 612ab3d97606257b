//! Where a guest's output goes.

use super::Cause;
use super::panic_watch::PanicWatch;
use crate::findings::{Found, Sink};
use guest_images::channel::{Decoder, Event};
use std::io::{ErrorKind, Write};
use std::time::Duration;

/// Sinks of a run, and what is read from the streams on the way.
pub struct Output<'a> {
    console: Vec<&'a mut dyn Write>,
    stdout: &'a mut dyn Write,
    stderr: &'a mut dyn Write,
    findings: Option<&'a mut Sink>,
    panic: PanicWatch,
    decoder: Decoder,
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("panic", &self.panic).finish_non_exhaustive()
    }
}

/// What was heard on the channel.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The guest is up.
    pub ready: bool,
    /// Why the run is over, if it is.
    pub end: Option<Cause>,
}

impl<'a> Output<'a> {
    /// The guest's console goes to all of `console`, the command's output to `stdout` and `stderr`.
    pub fn new(
        console: Vec<&'a mut dyn Write>,
        stdout: &'a mut dyn Write,
        stderr: &'a mut dyn Write,
    ) -> Self {
        Self {
            console,
            stdout,
            stderr,
            findings: None,
            panic: PanicWatch::default(),
            decoder: Decoder::new(),
        }
    }

    /// Findings go to `sink`.
    #[must_use]
    pub fn with_findings(self, sink: &'a mut Sink) -> Self {
        Self { findings: Some(sink), ..self }
    }

    /// Takes new findings; returns why the run is over, if it is.
    pub(super) fn findings(&mut self, new: Vec<Found>) -> Option<Cause> {
        let taken = self.findings.as_mut().map_or(Ok(()), |sink| sink.take(new));
        taken.err().map(|error| Cause::OutputLost(format!("findings: {error}")))
    }

    /// The message of a kernel panic seen on the console.
    #[must_use]
    pub fn panic_message(&self) -> Option<&str> {
        self.panic.message()
    }

    /// Takes console bytes; returns why the run is over, if it is.
    pub(super) fn console(&mut self, bytes: &[u8]) -> Option<Cause> {
        self.panic.push(bytes);
        let mut ended = None;
        for sink in &mut self.console {
            ended = ended.or(deliver(*sink, bytes, "the guest's console"));
        }
        let panicked = || Cause::Panic(self.panic.message().unwrap_or_default().to_owned());
        ended.or_else(|| self.panic.ended().then(panicked))
    }

    /// Takes bytes of the second serial port.
    pub(super) fn channel(&mut self, bytes: &[u8]) -> Heard {
        let (mut heard, mut events) = (Heard::default(), Vec::new());
        self.decoder.push(bytes, &mut events);
        for event in events {
            heard.end = match event {
                Event::Ready => {
                    heard.ready = true;
                    None
                }
                Event::Stdout(bytes) => deliver(self.stdout, &bytes, "the command's output"),
                Event::Stderr(bytes) => deliver(self.stderr, &bytes, "the command's error output"),
                Event::Exit(status) => Some(Cause::Exited(status)),
                Event::Signal(signal) => Some(Cause::Signalled(signal)),
                Event::Error(reason) => Some(Cause::CommandFailed(reason)),
            };
            if heard.end.is_some() {
                break;
            }
        }
        heard
    }
}

/// Writes all of `bytes`. A sink that cannot take any more ends the run.
fn deliver(sink: &mut dyn Write, mut bytes: &[u8], what: &str) -> Option<Cause> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Some(Cause::OutputLost(format!("{what} takes no more"))),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody made the descriptor non-blocking: a terminal shared with another program.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(error) => return Some(Cause::OutputLost(format!("{what} cannot be written: {error}"))),
        }
    }
    match sink.flush() {
        Err(error) if error.kind() != ErrorKind::WouldBlock && error.kind() != ErrorKind::Interrupted => {
            Some(Cause::OutputLost(format!("{what} cannot be written: {error}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_go_to_their_sinks() {
        let (mut console, mut copy, mut out, mut err) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut output = Output::new(vec![&mut console, &mut copy], &mut out, &mut err);
        assert_eq!(output.console(b"booting\n"), None);
        let frames = [0xa7, 2, 2, 0, 0xff ^ 2 ^ 2, b'h', b'i', 0xa7, 3, 1, 0, 0xff ^ 3 ^ 1, b'e'];
        let heard = output.channel(&frames);
        assert_eq!((heard.ready, heard.end), (false, None));
        assert!(output.channel(&[0xa7, 1, 0, 0, 0xfe]).ready);
        let exit = [0xa7, 4, 4, 0, 0xff, 42, 0, 0, 0];
        assert_eq!(output.channel(&exit).end, Some(Cause::Exited(42)));
        assert_eq!(
            (console, copy, out, err),
            (b"booting\n".to_vec(), b"booting\n".to_vec(), b"hi".to_vec(), b"e".to_vec())
        );
    }

    #[test]
    fn a_closed_sink_ends_the_run() {
        let mut full = &mut [0; 4][..];
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut output = Output::new(vec![&mut full], &mut out, &mut err);
        assert_eq!(output.console(b"1234"), None);
        assert!(matches!(output.console(b"5"), Some(Cause::OutputLost(_))));
    }
}
