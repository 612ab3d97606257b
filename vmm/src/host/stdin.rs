//! Standard input on its way to the guest's console: terminal, pipe, file or device.

use super::escape::Escape;
use super::{HostEvent, Inbox, add};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

const CHUNK: usize = 4096;

pub(super) struct Stdin {
    file: File,
    inbox: Arc<Inbox>,
    escape: Option<Escape>,
    /// Regular files and some devices cannot be waited for: they are always ready.
    pollable: bool,
    open: bool,
}

impl Stdin {
    /// Fails if standard input is closed.
    pub(super) fn new(inbox: Arc<Inbox>, interactive: bool) -> io::Result<Self> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let escape = interactive.then(Escape::default);
        Ok(Self { file, inbox, escape, pollable: true, open: true })
    }

    /// Reads once; returns whether there is room for more.
    fn read(&mut self) -> bool {
        let mut buffer = [0; CHUNK];
        let typed = match self.file.read(&mut buffer) {
            Ok(0) => &[],
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) => {
                log::info!("standard input: {error}");
                &[]
            }
        };
        if typed.is_empty() {
            self.open = false;
            self.inbox.close_input();
            return false;
        }
        let mut guest = Vec::new();
        match &mut self.escape {
            Some(escape) => {
                if escape.filter(typed, &mut guest) {
                    self.inbox.post(HostEvent::Leave);
                }
            }
            None => guest.extend_from_slice(typed),
        }
        self.inbox.push_input(&guest)
    }

    fn read_while_there_is_room(&mut self) {
        while self.read() {}
    }

    fn interest(&self, events: EventSet) -> Events {
        Events::new(&self.file, events)
    }
}

impl MutEventSubscriber for Stdin {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let resumed = events.fd() == self.inbox.room().as_raw_fd();
        if resumed && self.inbox.room().read().is_err() || !self.open {
            return;
        }
        if !self.pollable {
            self.read_while_there_is_room();
            return;
        }
        let result = if resumed {
            ops.add(self.interest(EventSet::IN))
        } else if self.read() {
            Ok(())
        } else {
            // Full or ended. A descriptor that stays registered would report its hang-up for ever.
            ops.remove(self.interest(EventSet::IN))
        };
        if let Err(error) = result {
            log::warn!("console input: {error}");
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, Events::new(self.inbox.room(), EventSet::IN), "room for input");
        if ops.add(self.interest(EventSet::IN)).is_err() {
            self.pollable = false;
            self.read_while_there_is_room();
        }
    }
}
