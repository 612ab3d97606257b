//! One run of a guest: built, booted and driven to its end.

mod outcome;
mod output;
mod panic_watch;
mod snapshot;
mod template;

pub use outcome::{CAUSES, Cause, Kept, MemoryRange, Outcome, STATUS_ERROR, STATUS_GUEST, STATUS_TIME};
pub use output::Output;
pub use snapshot::{FileError, Restored, SnapshotError, saved_memory};
pub use template::Template;

use crate::boot::{self, Boot, BootError, InitrdPart, Kernel};
use crate::engine::{Engine, EngineError, EngineKind, Exit, Kick};
use crate::guest::SymbolFile;
use crate::host::{Host, HostEvent};
use crate::machine::{Machine, MachineConfig, MachineError, Port, SharedMachine};
use crate::memory::layout::PAGE;
use crate::memory::page_list::{self, PageListError};
use devices::bus::{Nanos, PowerRequest};
use devices::serial::INPUT_LIMIT;
use guest_images::channel;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use template::{Start, Transcript};

/// What to run.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    pub machine: MachineConfig,
    pub engine: EngineKind,
    pub kernel: PathBuf,
    pub initrd: Vec<InitrdPart>,
    /// `None`: what the kernel needs for its console.
    pub command_line: Option<String>,
    /// End of the run in virtual time.
    pub deadline: Option<Nanos>,
    /// What the guest is told to run at its ready mark; `None`: nothing, it knows itself what to do.
    pub work: Option<Work>,
    /// What of the guest is followed.
    pub watch: Watch,
}

/// What of the guest is followed while it runs, without its seeing it: by the software engine only.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Its DMA mappings.
    pub ledger: bool,
    /// The outcome has the live ones: see [`crate::ledger::Report::records`].
    pub ledger_records: bool,
    /// Where every operation on its memory is written, as a trace that `staleline replay` reads: of a machine with a cache
    /// that is shown everything.
    pub record: Option<PathBuf>,
    /// The pages that a cache with scope=dma is shown from power-on: a file ([`crate::memory::page_list`]). If it is not there, the
    /// run writes those that it has shown in the end.
    pub pages: Option<PathBuf>,
    /// Symbols of its kernel; `None`: those that it carries in its memory.
    pub symbols: Option<Arc<SymbolFile>>,
}

/// What a guest runs from its ready mark on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// The program with its arguments.
    pub argv: Vec<String>,
    /// Seeds everything random in the machine anew at the mark; `None`: what the machine's seed has begun goes on.
    pub seed: Option<u64>,
}

impl Work {
    fn request(&self) -> VecDeque<Vec<u8>> {
        channel::request(&self.argv).into()
    }
}

/// A run cannot start, or its engine cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("kernel {}: a multiboot kernel comes to no ready mark and runs no command: leave out `-- COMMAND`", .0.display())]
    NoCommand(PathBuf),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the recording cannot be written: {0}")]
    Record(io::Error),
    #[error("--cache pages=: {0}")]
    Pages(#[from] PageListError),
    /// How the boot ended: as every run that is no different up to there.
    #[error("the guest did not come to its ready mark: {}", .0.cause.description())]
    NotReady(Box<Outcome>),
    #[error("the guest sent more than {0} bytes before its ready mark")]
    Talkative(usize),
    #[error("this machine cannot be forked: {0}")]
    CannotFork(&'static str),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Virtual time after a panic message in which the guest may finish its report.
const PANIC_GRACE: Nanos = 200_000_000;
/// What an idle guest waits for a typing user at most before virtual time moves on: keeps an idle shell from spinning.
const INTERACTIVE_PAUSE: Duration = Duration::from_millis(2);
/// Longest wait for the outside world at a time.
const LONG_WAIT: Duration = Duration::from_secs(3600);

/// Where a run is with regard to the guest's ready mark: the moment at which it has said on the channel that it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Ahead,
    Heard,
    Passed,
}

/// A guest ready to run.
#[derive(Debug)]
pub struct Session {
    machine: SharedMachine,
    engine: Box<dyn Engine>,
    deadline: Nanos,
    /// The guest is to run a command and to say how it ended.
    has_work: bool,
    /// What of the request has not been sent yet.
    request: VecDeque<Vec<u8>>,
    /// Of the machine's random sources from the ready mark on.
    seed: Option<u64>,
    mark: Mark,
    /// End of the grace after a panic.
    panic_end: Option<Nanos>,
    /// Host input that has entered: at which count of instructions, and how many bytes.
    inputs: Vec<(u64, usize)>,
    /// What the guest sends, where a template is to keep it.
    transcript: Option<Transcript>,
    /// Where the run begins, unless at power-on.
    start: Option<Start>,
    /// What of RAM the outcome has.
    kept: Vec<MemoryRange>,
    /// Where the pages shown to the cache are written in the end.
    pages_to: Option<PathBuf>,
}

/// Entries of input beyond which only the log has them.
const MAX_INPUTS: usize = 10_000;

impl Session {
    /// Builds the machine and loads the guest. The run looks outside soon after `kick` has been raised.
    ///
    /// # Errors
    /// [`SessionError`] with the reason, before anything has run.
    pub fn new(config: &SessionConfig, kick: Kick) -> Result<Self, SessionError> {
        // The kernel is read before RAM is mapped and dropped before the guest runs.
        let kernel = Kernel::open(&config.kernel)?;
        if config.work.is_some() && kernel.is_multiboot() {
            return Err(SessionError::NoCommand(config.kernel.clone()));
        }
        let mut machine = Machine::new(&config.machine)?;
        if kernel.is_multiboot() {
            machine.add_test_device()?;
        }
        let cpus = config.machine.cpus;
        let command_line = config.command_line.as_deref().unwrap_or(kernel.default_command_line());
        let confidential = config.machine.confidential;
        let boot = Boot { kernel: &kernel, initrd: &config.initrd, command_line, cpus, confidential };
        let state = boot::load(machine.ram(), &boot)?;
        if config.watch.ledger {
            machine.look_for_guest(config.watch.symbols.clone());
            machine.follow_dma(config.watch.ledger_records);
        }
        if let Some(path) = &config.watch.record {
            let file = File::create(path).map_err(SessionError::Record)?;
            machine.memory_mut().record(file).map_err(SessionError::Record)?;
        }
        let mut pages_to = config.watch.pages.clone();
        if let Some(path) = pages_to.take_if(|path| path.exists()) {
            let pages = page_list::read(&path, |page| machine.ram().contains(page, PAGE))?;
            if let Some(cache) = &mut machine.memory_mut().cache {
                cache.show_pages(&pages);
            }
        }
        let mut engine = config.engine.create(machine.ram(), kick)?;
        engine.create_vcpus(cpus, &state, confidential)?;
        if engine.owns_interrupt_controllers() {
            machine.delegate_interrupts();
        }
        Ok(Self {
            machine: SharedMachine::new(machine),
            engine,
            deadline: config.deadline.unwrap_or(Nanos::MAX),
            has_work: config.work.is_some(),
            request: config.work.as_ref().map(Work::request).unwrap_or_default(),
            seed: config.work.as_ref().and_then(|work| work.seed),
            mark: Mark::Ahead,
            panic_end: None,
            inputs: Vec::new(),
            transcript: None,
            start: None,
            kept: Vec::new(),
            pages_to,
        })
    }

    /// Has the outcome hold what is in these ranges of RAM at the end of the run.
    #[must_use]
    pub fn keep(self, ranges: Vec<MemoryRange>) -> Self {
        Self { kept: ranges, ..self }
    }

    /// Runs the guest to its end.
    ///
    /// # Errors
    /// [`SessionError`] if the engine fails.
    pub fn run(mut self, host: Option<&Host>, output: &mut Output<'_>) -> Result<Outcome, SessionError> {
        if let Some(start) = self.start.take() {
            let ended = output.console(&start.transcript.console);
            let ended = ended.or(output.channel(&start.transcript.channel).end);
            if let Some(cause) = ended.or_else(|| self.handle(start.exit, host)) {
                return self.end(Self::judge(cause, output));
            }
        }
        loop {
            let (exit, ended) = self.advance(host, output)?;
            if self.mark == Mark::Heard {
                self.pass_ready_mark();
            }
            if let Some(cause) = ended.or_else(|| self.handle(exit, host)) {
                return self.end(Self::judge(cause, output));
            }
        }
    }

    fn end(self, cause: Cause) -> Result<Outcome, SessionError> {
        self.machine.lock().memory_mut().finish_recording().map_err(SessionError::Record)?;
        if let (Some(path), Some(cache)) = (&self.pages_to, &self.machine.lock().memory_mut().cache) {
            page_list::write(path, cache.shown_pages())?;
        }
        Ok(self.outcome(cause))
    }

    /// Runs until something needs looking at, and passes on what the guest has sent. Returns what the engine came back
    /// with, still to be handled, and why the run is over, if it is.
    fn advance(
        &mut self,
        host: Option<&Host>,
        output: &mut Output<'_>,
    ) -> Result<(Exit, Option<Cause>), SessionError> {
        let until = self.panic_end.unwrap_or(Nanos::MAX).min(self.deadline);
        let exit = self.engine.run(&self.machine, until)?;
        let ended = self.listen(output);
        let ended = ended.or_else(|| host.and_then(|host| host.inbox().event()).map(Self::stopped_by_host));
        Ok((exit, ended))
    }

    /// A panicking guest ends by reset, power-off or a loop: what counts is the panic.
    fn judge(cause: Cause, output: &Output<'_>) -> Cause {
        match output.panic_message() {
            Some(message) if cause.yields_to_panic() => Cause::Panic(message.to_owned()),
            _ => cause,
        }
    }

    /// Passes on what the guest has sent.
    fn listen(&mut self, output: &mut Output<'_>) -> Option<Cause> {
        let mut ended = None;
        let sent = self.machine.lock().serial_output(Port::Console);
        if let Some(bytes) = sent {
            if let Some(transcript) = &mut self.transcript {
                transcript.console.extend_from_slice(&bytes);
            }
            ended = output.console(&bytes);
            if output.panic_message().is_some() && self.panic_end.is_none() {
                self.panic_end = Some(self.engine.progress().now.saturating_add(PANIC_GRACE));
            }
        }
        if let Some(new) = self.machine.lock().take_new_findings() {
            ended = ended.or(output.findings(new));
        }
        if let Some(reason) = self.machine.lock().unconfined() {
            ended = ended.or(Some(Cause::Unconfined(reason)));
        }
        let sent = self.machine.lock().serial_output(Port::Channel);
        if let Some(bytes) = sent {
            if let Some(transcript) = &mut self.transcript {
                transcript.channel.extend_from_slice(&bytes);
            }
            let heard = output.channel(&bytes);
            if heard.ready && self.mark == Mark::Ahead {
                self.mark = Mark::Heard;
            }
            match heard.end {
                Some(cause) if self.has_work => ended = ended.or(Some(cause)),
                Some(cause) => log::debug!("on the channel: {cause:?}"),
                None => {}
            }
        }
        ended
    }

    /// Every run drops what its engine has cached here, so that one that begins here goes on as one that has come here.
    fn pass_ready_mark(&mut self) {
        self.mark = Mark::Passed;
        self.engine.drop_caches(&self.machine);
        {
            let mut machine = self.machine.lock();
            if let Some(seed) = self.seed {
                machine.reseed(seed);
            }
            machine.start_schedules();
        }
        log::debug!("ready at {:?}", self.engine.progress());
    }

    /// Sends the next part of the request once the guest has taken the one before; returns whether there was any.
    fn send_request(&mut self) -> bool {
        if self.mark != Mark::Passed || self.request.is_empty() {
            return false;
        }
        let mut machine = self.machine.lock();
        if machine.serial_room(Port::Channel) < INPUT_LIMIT {
            return false;
        }
        let frame = self.request.pop_front().unwrap_or_default();
        machine.serial_input(Port::Channel, &frame);
        true
    }

    /// The cause that an event on the host's side amounts to.
    #[must_use]
    pub fn stopped_by_host(event: HostEvent) -> Cause {
        match event {
            HostEvent::Leave => Cause::Left,
            HostEvent::Signal(number) => Cause::Interrupted(number),
            HostEvent::Timeout => Cause::Timeout,
        }
    }

    /// Acts on an exit; returns why the run is over, if it is.
    fn handle(&mut self, exit: Exit, host: Option<&Host>) -> Option<Cause> {
        match exit {
            Exit::Deadline => Some(Cause::Deadline),
            Exit::Shutdown { cpu } => Some(Cause::TripleFault(cpu)),
            Exit::Power(PowerRequest::Off) => Some(Cause::PowerOff),
            Exit::Power(PowerRequest::Reset) => Some(Cause::Reset),
            Exit::Power(PowerRequest::DebugExit(value)) => Some(Cause::DebugExit(value)),
            Exit::Dead => Some(Cause::Halted),
            Exit::Output | Exit::Kicked => {
                self.send_request();
                self.feed(host);
                None
            }
            Exit::Idle(next) => {
                let sent = self.send_request();
                if !self.feed(host) && !sent {
                    return self.idle(next, host);
                }
                None
            }
        }
    }

    /// Gives waiting host input to the console; returns whether there was any.
    fn feed(&mut self, host: Option<&Host>) -> bool {
        let Some(host) = host else { return false };
        let mut machine = self.machine.lock();
        let bytes = host.inbox().take_input(machine.serial_room(Port::Console));
        if bytes.is_empty() {
            return false;
        }
        if let Some(count) = self.engine.progress().instructions {
            log::debug!("{} bytes of console input at instruction {count}", bytes.len());
            if self.inputs.len() < MAX_INPUTS {
                self.inputs.push((count, bytes.len()));
            }
        }
        machine.serial_input(Port::Console, &bytes);
        true
    }

    /// All vCPUs are halted and no input can be taken.
    fn idle(&mut self, next: Option<Nanos>, host: Option<&Host>) -> Option<Cause> {
        let limit = self.panic_end.unwrap_or(Nanos::MAX).min(self.deadline);
        let wake = next.filter(|&next| next <= limit).or((limit != Nanos::MAX).then_some(limit));
        let can_type = host.filter(|host| host.inbox().input_open() || host.inbox().has_input());
        match (wake, can_type) {
            (Some(at), Some(host)) => {
                if host.interactive() && at > self.engine.progress().now {
                    host.inbox().wait(INTERACTIVE_PAUSE);
                    if host.inbox().has_input() && self.machine.lock().serial_room(Port::Console) > 0 {
                        return None;
                    }
                }
                self.engine.skip_to(at);
                None
            }
            (Some(at), None) => {
                self.engine.skip_to(at);
                None
            }
            (None, Some(host)) if self.machine.lock().serial_room(Port::Console) > 0 => {
                host.inbox().wait(LONG_WAIT);
                None
            }
            (None, _) => Some(Cause::Halted),
        }
    }

    fn outcome(self, cause: Cause) -> Outcome {
        let progress = self.engine.progress();
        let state = self.engine.state(0).ok();
        log::debug!("ended: {cause:?}, {progress:?}, rip {:#x}", state.map_or(0, |state| state.rip));
        let mut machine = self.machine.lock();
        Outcome {
            cause,
            ledger: machine.ledger_report(),
            cache: machine.cache_statistics(),
            iommu: machine.iommu_statistics(),
            confidential: machine.confidential_statistics(),
            instructions: progress.instructions,
            virtual_nanos: progress.now,
            ready: self.mark == Mark::Passed,
            inputs: self.inputs,
            memory: self.kept.iter().map(|range| machine.ram().bytes(range.address, range.length)).collect(),
            findings: machine.findings().raised(),
        }
    }
}
