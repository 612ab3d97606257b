//! The channel on the guest's second serial port: what the guest is to run; what that printed and how it ended.
//! The format is described in `programs/channel.h`.

const MAGIC: u8 = 0xa7;
const HEADER: usize = 5;
const MAX_PAYLOAD: usize = 4096;
/// Bytes of arguments in one frame of a request: with its header less than a terminal holds (4095 bytes).
const MAX_REQUEST: usize = 4000;

const ARGUMENTS: u8 = 7;
const RUN: u8 = 8;

/// What the guest's init reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// User space is up: the guest waits for its work, or starts the shell.
    Ready,
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// The command's exit status, 0 to 255.
    Exit(u8),
    /// The number of the signal that ended the command.
    Signal(u8),
    /// Nothing could be run, and why.
    Error(String),
}

/// Turns the bytes of the serial port into [`Event`]s. Bytes that are not part of a sound frame are skipped and
/// counted. Holds at most one frame.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    skipped: u64,
}

/// A frame's header and what it announces.
enum Header {
    Sound { kind: u8, length: usize },
    Unsound,
    Incomplete,
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they come, in any portions, and appends the events they complete to `events`.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        for chunk in bytes.chunks(MAX_PAYLOAD) {
            self.pending.extend_from_slice(chunk);
            let mut rest = self.pending.as_slice();
            loop {
                match header(rest) {
                    Header::Incomplete => break,
                    Header::Unsound => {
                        self.skipped += 1;
                        rest = rest.get(1..).unwrap_or_default();
                    }
                    Header::Sound { kind, length } => {
                        let Some(payload) = rest.get(HEADER..HEADER + length) else { break };
                        events.extend(event(kind, payload));
                        rest = rest.get(HEADER + length..).unwrap_or_default();
                    }
                }
            }
            let done = self.pending.len() - rest.len();
            self.pending.drain(..done);
        }
    }

    /// Bytes that belonged to no frame.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// The frames that have the guest run a command, in order. Each is to be sent when the guest has taken the one before: its
/// terminal holds no more than one. Arguments cannot contain NUL: what follows one is dropped.
pub fn request(argv: &[String]) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    for argument in argv {
        arguments.extend(argument.bytes().take_while(|byte| *byte != 0));
        arguments.push(0);
    }
    let parts = arguments.chunks(MAX_REQUEST).map(|part| frame(ARGUMENTS, part));
    parts.chain([frame(RUN, b"")]).collect()
}

/// `payload` has at most [`MAX_PAYLOAD`] bytes.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let [low, high] = (payload.len() as u16).to_le_bytes();
    let mut bytes = vec![MAGIC, kind, low, high, 0xff ^ kind ^ low ^ high];
    bytes.extend_from_slice(payload);
    bytes
}

fn header(bytes: &[u8]) -> Header {
    match *bytes {
        [] => Header::Incomplete,
        [magic, ..] if magic != MAGIC => Header::Unsound,
        [_, kind, low, high, check, ..] => {
            let length = usize::from(u16::from_le_bytes([low, high]));
            let length_fits = match kind {
                1 => length == 0,
                2 | 3 | 6 => length <= MAX_PAYLOAD,
                4 | 5 => length == 4,
                _ => false,
            };
            if length_fits && check == 0xff ^ kind ^ low ^ high {
                Header::Sound { kind, length }
            } else {
                Header::Unsound
            }
        }
        _ => Header::Incomplete,
    }
}

/// `None` for a kind that [`header`] does not let pass.
fn event(kind: u8, payload: &[u8]) -> Option<Event> {
    let first = payload.first().copied().unwrap_or(0);
    match kind {
        1 => Some(Event::Ready),
        2 => Some(Event::Stdout(payload.to_vec())),
        3 => Some(Event::Stderr(payload.to_vec())),
        4 => Some(Event::Exit(first)),
        5 => Some(Event::Signal(first)),
        6 => Some(Event::Error(String::from_utf8_lossy(payload).into_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8], portion: usize) -> (Vec<Event>, u64) {
        let mut decoder = Decoder::new();
        let mut events = Vec::new();
        for chunk in bytes.chunks(portion) {
            decoder.push(chunk, &mut events);
            assert!(decoder.pending.len() <= HEADER + MAX_PAYLOAD);
        }
        (events, decoder.skipped())
    }

    fn session() -> (Vec<u8>, Vec<Event>) {
        let long = vec![MAGIC; MAX_PAYLOAD];
        let bytes = [
            frame(1, b""),
            frame(2, b"out\n"),
            frame(3, b""),
            frame(2, &long),
            frame(6, "no \u{e9}".as_bytes()),
            frame(5, &[9, 0, 0, 0]),
            frame(4, &[200, 0, 0, 0]),
        ]
        .concat();
        let events = vec![
            Event::Ready,
            Event::Stdout(b"out\n".to_vec()),
            Event::Stderr(vec![]),
            Event::Stdout(long),
            Event::Error("no \u{e9}".into()),
            Event::Signal(9),
            Event::Exit(200),
        ];
        (bytes, events)
    }

    #[test]
    fn frames_decode_in_any_portions() {
        let (bytes, events) = session();
        for portion in [1, 2, 3, 7, 64, 4096, 100_000] {
            assert_eq!(decode(&bytes, portion), (events.clone(), 0), "portion {portion}");
        }
    }

    #[test]
    fn garbage_between_frames_is_skipped() {
        let mut bytes = b"[    0.1] some text\r\n\xa7\xa7\xa7\x02\xff\xff\x00".to_vec();
        let garbage = bytes.len() as u64;
        bytes.extend(frame(2, b"kept"));
        bytes.extend([MAGIC, 4, 1, 0, 0xff ^ 4 ^ 1]);
        bytes.extend(frame(4, &[3, 0, 0, 0]));
        assert_eq!(decode(&bytes, 5), (vec![Event::Stdout(b"kept".to_vec()), Event::Exit(3)], garbage + 5));
    }

    #[test]
    fn random_bytes_never_fail_and_a_frame_after_them_is_found() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..200 {
            let mut bytes: Vec<u8> = (0..997)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    if state & 0x700 == 0 { MAGIC } else { state as u8 }
                })
                .collect();
            // Random bytes may look like a header; zeros end any frame they could announce.
            bytes.extend([0; HEADER + MAX_PAYLOAD]);
            bytes.extend(frame(4, &[42, 0, 0, 0]));
            assert_eq!(decode(&bytes, 11).0.last(), Some(&Event::Exit(42)));
        }
    }

    #[test]
    fn a_request_is_terminated_arguments_in_parts() {
        assert_eq!(request(&[]), [frame(RUN, b"")]);
        let short = request(&["echo".into(), String::new(), "a b".into(), "c\0d".into()]);
        assert_eq!(short, [frame(ARGUMENTS, b"echo\0\0a b\0c\0"), frame(RUN, b"")]);
        let long = request(&["x".repeat(2 * MAX_REQUEST)]);
        assert_eq!(long.len(), 4);
        assert!(long.iter().all(|frame| frame.len() < 4096), "more than a terminal holds");
        let arguments: Vec<u8> = long.iter().flat_map(|frame| frame[HEADER..].to_vec()).collect();
        assert_eq!(arguments, [vec![b'x'; 2 * MAX_REQUEST], vec![0]].concat());
    }

    #[test]
    fn the_c_header_has_the_same_numbers() {
        let text = include_str!("../programs/channel.h");
        for (name, value) in [
            ("MAGIC", "0xa7"),
            ("MAX_PAYLOAD", "4096"),
            ("READY", "1"),
            ("STDOUT", "2"),
            ("STDERR", "3"),
            ("EXIT", "4"),
            ("SIGNAL", "5"),
            ("ERROR", "6"),
            ("ARGUMENTS", "7"),
            ("RUN", "8"),
        ] {
            assert!(text.contains(&format!("#define CHANNEL_{name} {value}\n")), "{name}");
        }
    }
}
