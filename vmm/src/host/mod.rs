//! The host's side of a run: console input, signals and the time limit, watched by a thread of their own.

mod escape;
mod inbox;
mod signals;
mod stdin;
pub mod terminal;
mod timeout;

pub use inbox::{HostEvent, Inbox};

use crate::engine::Kick;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Ends the process; called when an event has come and the run has not ended by [`GRACE`] later.
pub type LastResort = Box<dyn FnOnce(HostEvent) + Send>;

/// Time that a run has to end after it was told to.
const GRACE: Duration = Duration::from_secs(5);

/// What to watch.
pub struct HostOptions {
    /// Standard input goes to the guest's console.
    pub stdin: bool,
    /// End the run after this time.
    pub timeout: Option<Duration>,
    /// What to do about a run that does not end.
    pub last_resort: LastResort,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { stdin: false, timeout: None, last_resort: Box::new(give_up) }
    }
}

impl std::fmt::Debug for HostOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostOptions")
            .field("stdin", &self.stdin)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Ends the process without ceremony.
fn give_up(event: HostEvent) {
    eprintln!("staleline: {event:?}: the run is blocked outside the guest and is given up");
    std::process::exit(i32::from(crate::session::STATUS_ERROR));
}

/// The watching thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Host {
    inbox: Arc<Inbox>,
    stop: EventFd,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Restores the terminal.
    _terminal: Option<terminal::RawMode>,
    interactive: bool,
}

/// Ends the thread.
struct Stop {
    event: EventFd,
}

impl MutEventSubscriber for Stop {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {}
    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, Events::new(&self.event, EventSet::IN), "stop event");
    }
}

/// Watches a descriptor; without it the run goes on, less convenient.
fn add(ops: &mut EventOps<'_>, events: Events, what: &str) {
    if let Err(error) = ops.add(events) {
        log::warn!("cannot watch the {what}: {error}");
    }
}

impl Host {
    /// Blocks the signals it handles in this thread and starts the watching thread, which has `kick` raised whenever
    /// something has come.
    ///
    /// # Errors
    /// If the host gives no descriptors or thread.
    pub fn start(options: HostOptions, kick: Kick) -> io::Result<Self> {
        let inbox = Arc::new(Inbox::new(kick)?);
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let mut subscribers: Vec<Box<dyn MutEventSubscriber + Send>> = vec![
            Box::new(Stop { event: stop.try_clone()? }),
            Box::new(signals::Signals::new(Arc::clone(&inbox))?),
        ];
        if let Some(limit) = options.timeout {
            subscribers.push(Box::new(timeout::Timeout::new(limit, Arc::clone(&inbox))?));
        }
        let terminal = if options.stdin { terminal::RawMode::enter()? } else { None };
        let interactive = terminal.is_some();
        // A terminal in whose background this runs would stop a process that reads from it.
        if options.stdin && (interactive || !io::stdin().is_terminal()) {
            match stdin::Stdin::new(Arc::clone(&inbox), interactive) {
                Ok(stdin) => subscribers.push(Box::new(stdin)),
                Err(error) => {
                    log::info!("standard input is closed: {error}");
                    inbox.close_input();
                }
            }
        } else {
            inbox.close_input();
        }
        let stopped = stop.try_clone()?;
        let watched = Arc::clone(&inbox);
        let thread = std::thread::Builder::new().name("host".into()).spawn(move || {
            match watch(subscribers, &stopped, &watched) {
                Ok(None) => {}
                Ok(Some(event)) => {
                    terminal::restore();
                    (options.last_resort)(event);
                }
                Err(error) => log::error!("the host's side has failed: {error}"),
            }
        })?;
        Ok(Self { inbox, stop, thread: Some(thread), _terminal: terminal, interactive })
    }

    /// A side on which nobody watches anything: the run hears only what is posted to the inbox. For one of several runs of
    /// a process, whose signals another `Host` watches.
    ///
    /// # Errors
    /// If the host gives no descriptors.
    pub fn remote(kick: Kick) -> io::Result<Self> {
        let inbox = Arc::new(Inbox::new(kick)?);
        inbox.close_input();
        let stop = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self { inbox, stop, thread: None, _terminal: None, interactive: false })
    }

    /// What has come in, and what takes more of it.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// What has the run look at the inbox.
    #[must_use]
    pub fn kick(&self) -> Kick {
        self.inbox.kick()
    }

    /// Standard input is a terminal: somebody is typing.
    #[must_use]
    pub fn interactive(&self) -> bool {
        self.interactive
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.stop.write(1).is_ok()
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the host's thread has panicked");
        }
    }
}

/// Watches until `stopped`; returns the event that the run has not heeded, if it came to that.
fn watch(
    subscribers: Vec<Box<dyn MutEventSubscriber + Send>>,
    stopped: &EventFd,
    inbox: &Inbox,
) -> Result<Option<HostEvent>, event_manager::Error> {
    let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new()?;
    for subscriber in subscribers {
        manager.add_subscriber(subscriber);
    }
    let mut told: Option<(HostEvent, Instant)> = None;
    while stopped.read().is_err() {
        let wait = match told {
            None => -1,
            Some((event, at)) => match GRACE.checked_sub(at.elapsed()) {
                None => return Ok(Some(event)),
                // Rounded up, or the last millisecond would be spent spinning.
                Some(left) => i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1),
            },
        };
        match manager.run_with_timeout(wait) {
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
            result => {
                result?;
            }
        }
        told = told.or_else(|| inbox.event().map(|event| (event, Instant::now())));
    }
    Ok(None)
}
