//! Signals that end a run cleanly, read from a descriptor.

use super::{HostEvent, Inbox, add};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;
use std::sync::Arc;
use vmm_sys_util::signal::{block_signal, create_sigset};

/// The signals handled.
const HANDLED: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

pub(super) struct Signals {
    file: File,
    inbox: Arc<Inbox>,
}

impl Signals {
    /// Blocks the signals in this thread and those it starts, and has them come by descriptor instead.
    pub(super) fn new(inbox: Arc<Inbox>) -> io::Result<Self> {
        for signal in HANDLED {
            if let Err(error) = block_signal(signal) {
                log::debug!("signal {signal}: {error}");
            }
        }
        let set = create_sigset(&HANDLED)?;
        // SAFETY: `set` is an initialised signal set that outlives the call.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` has just been opened and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self { file, inbox })
    }
}

impl MutEventSubscriber for Signals {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        while self.file.read_exact(&mut info).is_ok() {
            // The first field of `struct signalfd_siginfo` is the number.
            let number = info.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
            self.inbox.post(HostEvent::Signal(number));
        }
    }
    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, Events::new(&self.file, EventSet::IN), "signals");
    }
}
