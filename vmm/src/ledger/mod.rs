//! The guest's DMA mappings, followed by probes on the functions of Linux's DMA API.
//!
//! Probes stop a vCPU at a function's entry, where its arguments are, and at its return, where it has said what came of it. All
//! that is known is read from the guest's registers and memory, which is left as it was. The mappings are kept in the form that
//! [`cache_model::ledger`] judges; what it does not know is in their notes.
//!
//! A guest can call the functions with whatever it likes: each table here has an end, and a call that makes no sense ends
//! judgement, not the run.

mod bounce_report;
mod bounces;
mod bouncing;
mod calls;
mod coherent;
mod coverage;
mod entry;
mod follow;
mod functions;
mod intern;
mod kernel;
mod pinned;
mod record;
mod share;

pub use bounce_report::{BounceFailure, BounceReport, BouncedDevice, BouncedMapping};
pub use bounces::Bounced;
pub use coherent::Diverged;
pub use coverage::Coverage;
pub use entry::{Kind, Note};
pub use kernel::{Device, NO_FUNCTION};
pub use record::{Record, Report};
pub use share::Share;

use crate::guest::{Frame, Guest, Registers, Task};
use crate::memory::GuestRam;
use bounces::Bounces;
use cache_model::ledger as model;
use calls::{Call, Calls};
use coherent::Coherents;
use follow::End;
use functions::{Does, Function, Version};
use intern::Interned;
use kernel::{Kernel, Structures};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use x86_cpu::{Probes, reg};

/// Most places that calls return to.
const MAX_SITES: usize = 1 << 12;

/// Where in [`Registers::gpr`] a function's first six arguments are (System V ABI, 3.2.3); the others are on the stack.
const ARGUMENTS: [usize; 6] = [reg::RDI, reg::RSI, reg::RDX, reg::RCX, 8, 9];

/// How far the ledger has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// The kernel is not known yet.
    Waiting,
    /// It follows a kernel of this version.
    Following(u32, u32),
    /// It follows nothing, for this reason.
    Off(String),
}

/// Memory that a DMA pool has its blocks from.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PoolPage {
    /// Among mappings and pages of pools.
    id: u64,
    size: u64,
    mapped_at: u64,
    note: Note,
}

/// The ledger: plain data, a part of the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ledger {
    state: State,
    probes: Probes,
    /// Names of the functions at whose entries there are probes.
    entries: BTreeMap<u64, String>,
    /// Places that calls return to, with a probe at each.
    sites: usize,
    calls: Calls,
    mappings: model::Ledger<Note>,
    /// By device and address.
    pool_pages: BTreeMap<(u32, u64), PoolPage>,
    /// Identity of the next mapping or page of a pool.
    next: u64,
    names: Interned<String>,
    traces: Interned<Vec<Frame>>,
    tasks: Interned<Task>,
    coverage: Coverage,
    bounces: Bounces,
    coherents: Coherents,
    /// Calls that ended or synced what is not known.
    unknown: u64,
    /// What the last call has mapped: address, as the device has it, and length.
    #[serde(skip)]
    entered: Vec<(u64, u64)>,
    /// What has become of memory that devices and CPUs share, since that was last taken.
    #[serde(skip)]
    shares: Vec<Share>,
    /// Mappings that are wrong in themselves and have not been taken.
    misuses: Vec<(model::Misuse, Box<model::Entry<Note>>)>,
    /// What was mapped when the guest last printed its own ledger, if that is wanted.
    printed: Option<Vec<Record>>,
    keeps_printed: bool,
    /// Of the kernel that is followed, once it has been needed.
    #[serde(skip)]
    structures: Option<Structures>,
}

impl Ledger {
    /// A ledger that waits for the kernel. With `keeps_printed` it keeps what it knows at the moment at which the guest reads
    /// `dma-api/dump` of its debugfs, for [`Ledger::report`].
    #[must_use]
    pub fn new(keeps_printed: bool) -> Self {
        Self {
            state: State::Waiting,
            probes: Probes::default(),
            entries: BTreeMap::new(),
            sites: 0,
            calls: Calls::default(),
            mappings: model::Ledger::default(),
            pool_pages: BTreeMap::new(),
            next: 0,
            names: Interned::default(),
            traces: Interned::default(),
            tasks: Interned::default(),
            coverage: Coverage::default(),
            bounces: Bounces::default(),
            coherents: Coherents::default(),
            unknown: 0,
            entered: Vec::new(),
            shares: Vec::new(),
            misuses: Vec::new(),
            printed: None,
            keeps_printed,
            structures: None,
        }
    }

    /// Follows nothing from now on.
    pub fn turn_off(&mut self, reason: String) {
        log::info!("ledger: off: {reason}");
        *self = Self { state: State::Off(reason), ..Self::new(self.keeps_printed) };
    }

    /// Keeps what it knows when the guest next prints its own, as [`Ledger::new`] says, or does not.
    pub fn keep_printed(&mut self, keeps: bool) {
        self.keeps_printed = keeps;
    }

    /// The kernel has been found: for the first time, or again in a machine that was restored.
    pub fn found(&mut self, guest: &Guest, ram: &GuestRam) {
        match self.state {
            State::Waiting => self.start(guest, ram),
            State::Following(major, minor) => {
                self.follow(guest, ram, Version(major, minor));
            }
            State::Off(_) => {}
        }
    }

    fn start(&mut self, guest: &Guest, ram: &GuestRam) {
        let release = guest.release();
        let version = match Version::of_release(release) {
            Some(version) if version >= Version::OLDEST => version,
            Some(_) => {
                return self
                    .turn_off(format!("the DMA API of Linux {release} is not known, only that from 6.1 on"));
            }
            None => return self.turn_off(format!("{release:?} is no version of Linux")),
        };
        self.state = State::Following(version.0, version.1);
        let missing = self.follow(guest, ram, version);
        self.coverage = Coverage::of(guest, version, &missing);
        log::info!("ledger: follows {} functions of Linux {release}", self.entries.len());
    }

    /// Has vCPUs stop at the functions of this version; returns those that the kernel does not have.
    fn follow(&mut self, guest: &Guest, ram: &GuestRam, version: Version) -> Vec<&'static Function> {
        let memory = guest.memory(ram);
        let mut missing = Vec::new();
        for function in functions::of_version(version) {
            if function.does == Does::Dump && !self.keeps_printed {
                continue;
            }
            match address(guest, function) {
                Some(address) => {
                    self.probes.insert(address, memory.translate(address).ok());
                    self.entries.insert(address, function.name.clone());
                }
                None if function.optional => {}
                None => missing.push(function),
            }
        }
        missing
    }

    /// The function called `name` of the kernel that is followed.
    fn function(&self, name: &str) -> Option<&'static Function> {
        match self.state {
            State::Following(major, minor) => functions::named(name, Version(major, minor)),
            State::Waiting | State::Off(_) => None,
        }
    }

    /// Where vCPUs are to stop for [`Ledger::probe`].
    pub fn probes(&mut self) -> &mut Probes {
        &mut self.probes
    }

    /// A vCPU is at one of the probes.
    pub fn probe(&mut self, guest: &mut Guest, ram: &GuestRam, registers: &Registers, now: u64) {
        if !matches!(self.state, State::Following(..)) || registers.cpl != 0 {
            return;
        }
        self.entered.clear();
        self.shares.clear();
        let memory = guest.memory(ram);
        let structures = match self.structures {
            Some(structures) => structures,
            None => match Structures::of(guest, &memory) {
                Ok(structures) => *self.structures.insert(structures),
                Err(reason) => return self.turn_off(reason),
            },
        };
        let kernel = Kernel { memory, structures };
        let stack = registers.gpr[reg::RSP];
        if let Some(call) = self.calls.leave(registers.rip, stack) {
            self.returned(guest, ram, &kernel, registers, &call, now);
        }
        let entered = self.entries.get(&registers.rip);
        if let Some(function) = entered.and_then(|name| self.function(name)) {
            self.called(guest, ram, &kernel, registers, function, now);
        }
    }

    /// `function` is about to begin.
    fn called(
        &mut self,
        guest: &mut Guest,
        ram: &GuestRam,
        kernel: &Kernel<'_>,
        registers: &Registers,
        function: &Function,
        now: u64,
    ) {
        let stack = registers.gpr[reg::RSP];
        let mut arguments = [0; Call::ARGUMENTS];
        for (index, argument) in arguments.iter_mut().enumerate().take(function.arguments.len()) {
            *argument = match ARGUMENTS.get(index) {
                Some(&register) => registers.gpr[register],
                None => {
                    let above = (index - ARGUMENTS.len() + 1) as u64 * 8;
                    kernel.memory.u64(stack.wrapping_add(above)).unwrap_or_default()
                }
            };
        }
        let call = Call { function: function.name.clone(), arguments, back: 0, outer: None };
        if !function.does.is_known_at_return() {
            let end = End::new(now, function.does.ends().then(|| self.place_of_call(guest, ram, registers)));
            return self.acts(guest, kernel, function, &call, end);
        }
        let Ok(back) = kernel.memory.u64(stack) else {
            return self.coverage.lost(format!("{} was called with no stack", function.name));
        };
        if !self.probes.contains(back) {
            if self.sites >= MAX_SITES {
                return self
                    .coverage
                    .lost(format!("the DMA API is called from more than {MAX_SITES} places"));
            }
            self.sites += 1;
            self.probes.insert(back, kernel.memory.translate(back).ok());
        }
        self.calls.enter(stack, Call { back, ..call }, &kernel.memory);
        if self.calls.lost != 0 {
            self.coverage.lost("more calls of the DMA API than can be followed never returned");
        }
    }

    /// The mappings, live and of late.
    #[must_use]
    pub fn mappings(&self) -> &model::Ledger<Note> {
        &self.mappings
    }

    /// What can be judged by it.
    #[must_use]
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Why it has come to follow nothing, if it has.
    #[must_use]
    pub fn gave_up(&self) -> Option<&str> {
        match &self.state {
            State::Off(reason) => Some(reason),
            State::Waiting | State::Following(..) => None,
        }
    }

    /// Why it follows nothing, if it does not.
    #[must_use]
    pub fn off(&self) -> Option<&str> {
        match &self.state {
            State::Off(reason) => Some(reason),
            State::Waiting => Some("the guest's kernel did not come to its system call entry"),
            State::Following(..) => None,
        }
    }

    /// The name of a device in a [`Note`].
    #[must_use]
    pub fn name(&self, number: u32) -> &str {
        self.names.get(number).map_or("?", |name| name)
    }

    /// The frames where a mapping in a [`Note`] was made, the innermost first: the caller of the function that made it.
    #[must_use]
    pub fn trace(&self, number: u32) -> &[Frame] {
        self.traces.get(number).map_or(&[], |trace| trace)
    }

    /// The mappings made since the last call that are wrong in themselves.
    pub fn take_misuses(&mut self) -> Vec<(model::Misuse, Box<model::Entry<Note>>)> {
        std::mem::take(&mut self.misuses)
    }

    /// A device writes, or has read, `data` at `addr`, where it may have a bounce buffer for memory that has to be coherent.
    /// Returns the first line of which a side does not have what it should, with the mapping.
    pub fn see(
        &mut self,
        transfer: model::Transfer,
        addr: u64,
        data: &[u8],
        ram: &GuestRam,
    ) -> Option<(Diverged, model::Entry<Note>)> {
        if self.coherents.is_empty() {
            return None;
        }
        let memory = |address, bytes: &mut [u8]| ram.read(address, bytes).is_ok();
        let diverged = self.coherents.see(transfer, addr, data, memory)?;
        // Between the mapping's end and that of its buffer it is of the past.
        let past = || self.mappings.past_at(addr, data.len() as u64).into_iter();
        let entry = self.mappings.get(diverged.mapping);
        let entry = entry.or_else(|| past().find(|entry| entry.id == diverged.mapping))?.clone();
        Some((diverged, entry))
    }

    /// What has become of memory that devices and CPUs share: to be taken after each [`Ledger::probe`].
    pub fn take_shares(&mut self) -> Vec<Share> {
        std::mem::take(&mut self.shares)
    }

    /// The task in a [`Note`].
    #[must_use]
    pub fn task(&self, number: u32) -> Option<&Task> {
        self.tasks.get(number)
    }

    /// The memory that devices have got at the last [`Ledger::probe`]: address, as they have it, and length in bytes.
    #[must_use]
    pub fn entered(&self) -> &[(u64, u64)] {
        &self.entered
    }
}

/// Where `function` begins.
fn address(guest: &Guest, function: &Function) -> Option<u64> {
    match &function.near {
        None => guest.address(&function.name),
        Some(near) => {
            let near = guest.address(near)?;
            guest.addresses(&function.name).into_iter().min_by_key(|address| address.abs_diff(near))
        }
    }
}
