//! From an observation to a report: judgement by the ledger, names by the guest's symbols.

use super::agent::agent_name;
use super::collector::{Found, Key, Place};
use super::raw::{LINE, Raw, SavedAccess};
use super::report::{Access, Action, Frame, Mapped, Moment, Occurrence, Report, Task, What};
use crate::guest::{Guest, How};
use crate::ledger::{Diverged, Ledger, Note};
use cache_model::judge::{
    Judgement, Kind, Rules, judge, judge_blocked, judge_bounced, judge_misuse, judge_private, judge_rogue,
};
use cache_model::ledger::{self as model, Entry, Misuse, Owner, Rogue, RogueKind, Transfer};
use cache_model::{Agent, Config, EventKind, Finding, Verdict, Writer};
use cache_model::{minimal_rogue_trace, minimal_trace};
use devices::dma::Purpose;
use std::collections::BTreeMap;

/// Names of a mapping's attributes (`DMA_ATTR_…` of Linux without that), by their bits.
const ATTRIBUTES: [(u32, &str); 11] = [
    (1, "WEAK_ORDERING"),
    (2, "WRITE_COMBINE"),
    (4, "NO_KERNEL_MAPPING"),
    (5, "SKIP_CPU_SYNC"),
    (6, "FORCE_CONTIGUOUS"),
    (7, "ALLOC_SINGLE_PAGES"),
    (8, "NO_WARN"),
    (9, "PRIVILEGED"),
    (10, "MMIO"),
    (11, "DEBUGGING_IGNORE_CACHELINES"),
    (12, "REQUIRE_COHERENT"),
];

/// Where the vCPU is that has made an observation: its callers, the innermost first, and what it runs.
#[derive(Debug, Clone, Default)]
pub struct Callers {
    pub frames: Vec<Frame>,
    pub task: Option<Task>,
}

/// What names and mappings are looked up in.
#[derive(Debug)]
pub struct Scene<'a> {
    pub guest: Option<&'a Guest>,
    pub ledger: Option<&'a Ledger>,
    /// Devices by requester ID.
    pub devices: &'a BTreeMap<u32, String>,
    /// The cache that is modelled, or stands for none in a trace.
    pub config: Config,
}

impl Scene<'_> {
    /// What makes an observation the same as another, and where and when it was.
    #[must_use]
    pub fn weigh(&self, raw: &Raw) -> (Key, Occurrence) {
        let (victim, occurrence) = match raw {
            Raw::Seen(finding) => {
                let occurrence = Occurrence {
                    time: finding.observer.stamp,
                    addr: finding.addr,
                    expected: finding.expected.clone(),
                    found: finding.found.clone(),
                };
                (Some(finding.observer), occurrence)
            }
            Raw::Rogue { access, .. } | Raw::Blocked { access, .. } => {
                let SavedAccess { stamp: time, addr, data, .. } = access;
                let (expected, found) = (Vec::new(), data.clone());
                (None, Occurrence { time: *time, addr: *addr, expected, found })
            }
            Raw::Bounced { access, diverged, .. } => {
                let Diverged { memory: addr, expected, found, .. } = diverged.clone();
                let victim = (access.transfer == Transfer::Read).then(|| access.writer());
                (victim, Occurrence { time: access.stamp, addr, expected, found })
            }
            Raw::Private { access, instead_of, .. } => {
                let SavedAccess { stamp: time, addr, data, .. } = access;
                let (expected, found) = (instead_of.clone(), data.clone());
                (None, Occurrence { time: *time, addr: *addr, expected, found })
            }
            Raw::Misuse { entry, .. } => {
                let (time, addr) = (entry.mapped_at, entry.mapping.addr);
                (None, Occurrence { time, addr, expected: Vec::new(), found: Vec::new() })
            }
        };
        let key = self.judged(raw, |judged| key(judged, victim, self.trace_of(judged.mapping)));
        (key, occurrence)
    }

    /// The report of an observation, made at `callers` if by a vCPU.
    #[must_use]
    pub fn tell(&self, raw: &Raw, callers: Callers) -> Found {
        self.judged(raw, |judged| match raw {
            Raw::Seen(finding) => self.seen(finding, judged, callers),
            Raw::Rogue { access, kind, .. } => {
                let lives = *kind != RogueKind::OutOfMapping;
                let trace = minimal_rogue_trace(&access.into(), judged, self.config);
                Found { trace, ..self.transaction(access, lives, judged) }
            }
            // What an IOMMU lets through is no matter of caches.
            Raw::Blocked { access, .. } => self.transaction(access, true, judged),
            Raw::Bounced { access, diverged, .. } => self.bounced(access, diverged, judged),
            Raw::Private { access, instead_of, .. } => {
                let mut found = self.transaction(access, true, judged);
                found.report.expected = instead_of.clone();
                found
            }
            Raw::Misuse { misuse, entry } => self.misuse(*misuse, judged, entry),
        })
    }

    fn judged<T>(&self, raw: &Raw, then: impl FnOnce(&Judgement<'_, Note>) -> T) -> T {
        match raw {
            Raw::Seen(finding) => {
                let empty = model::Ledger::default();
                let rules = Rules { syncs: self.ledger.is_some_and(|ledger| ledger.coverage().syncs) };
                then(&judge(finding, self.ledger.map_or(&empty, Ledger::mappings), rules))
            }
            Raw::Rogue { access, kind, entry } => {
                let rogue = Rogue { kind: *kind, addr: access.addr, mapping: entry.as_deref() };
                then(&judge_rogue(&rogue, access.writer()))
            }
            Raw::Blocked { access, entry } => then(&judge_blocked(entry.as_deref(), access.writer())),
            Raw::Bounced { access, entry, .. } => {
                then(&judge_bounced(entry, access.transfer, access.writer()))
            }
            Raw::Private { access, entry, .. } => then(&judge_private(entry.as_deref(), access.writer())),
            Raw::Misuse { misuse, entry } => then(&judge_misuse(*misuse, entry, None)),
        }
    }

    fn seen(&self, finding: &Finding, judged: &Judgement<'_, Note>, callers: Callers) -> Found {
        let line = &finding.line;
        let is_cpu = matches!(finding.observer.agent, Agent::Cpu(_));
        let seen = if is_cpu { Action::Load } else { Action::DmaRead };
        let victim = self.access(finding.observer, seen, callers);
        let writes = |writer: Writer| match writer.agent {
            Agent::Cpu(_) => Action::Store,
            Agent::Device(_) => Action::DmaWrite,
        };
        let discards = |writer: Writer| {
            line.timeline.iter().any(|event| event.kind == EventKind::Invalidate && event.by == Some(writer))
        };
        let does = |writer: Writer| if discards(writer) { Action::Invalidate } else { writes(writer) };
        let culprit = judged.culprit.map(|culprit| self.access(culprit, does(culprit), Callers::default()));
        let writer = finding.writer().map(|writer| self.access(writer, writes(writer), Callers::default()));
        let mut timeline: Vec<Moment> = line
            .timeline
            .iter()
            .map(|event| {
                let is_device = event.by.is_some_and(|by| matches!(by.agent, Agent::Device(_)));
                Moment {
                    time: event.stamp,
                    what: What::of(event.kind, is_device),
                    by: event.by.map(|by| self.who(by.agent)),
                    at: event.by.filter(|_| !is_device).map(|by| self.frame(by.ip)),
                }
            })
            .collect();
        let offset = usize::try_from(finding.addr.saturating_sub(line.addr)).unwrap_or(usize::MAX);
        let ram = line.ram.get(offset..).unwrap_or_default();
        let observed = Moment {
            time: finding.observer.stamp,
            what: What::Observed,
            by: Some(victim.who.clone()),
            at: None,
        };
        timeline.push(observed);
        self.add_life(&mut timeline, judged.mapping, finding.addr, finding.observer.stamp);
        let manifest = finding.verdict == Verdict::Manifest;
        let report = Report {
            line: line.addr,
            line_size: line.ram.len() as u64,
            addr: finding.addr,
            len: finding.found.len() as u64,
            expected: finding.expected.clone(),
            found: finding.found.clone(),
            ram: ram.get(..finding.found.len()).unwrap_or(ram).to_vec(),
            culprit,
            victim: Some(victim),
            writer,
            timeline,
            ..self.report(judged, finding.observer.stamp)
        };
        let trace = manifest.then(|| minimal_trace(finding, judged, self.config)).flatten();
        Found { report, trace }
    }

    /// A device's transaction that should not have been; with `lives` the timeline has its mapping.
    fn transaction(&self, access: &SavedAccess, lives: bool, judged: &Judgement<'_, Note>) -> Found {
        let action = match access.transfer {
            Transfer::Read => Action::DmaRead,
            Transfer::Write => Action::DmaWrite,
        };
        let culprit = judged.culprit.map(|culprit| self.access(culprit, action, Callers::default()));
        let mut timeline = vec![Moment {
            time: access.stamp,
            what: What::Observed,
            by: culprit.as_ref().map(|culprit| culprit.who.clone()),
            at: None,
        }];
        let mapping = judged.mapping.filter(|_| lives);
        self.add_life(&mut timeline, mapping, access.addr, access.stamp);
        let report = Report {
            line: access.addr - access.addr % LINE,
            line_size: LINE,
            addr: access.addr,
            len: access.data.len() as u64,
            found: access.data.clone(),
            culprit,
            timeline,
            ..self.report(judged, access.stamp)
        };
        Found { report, trace: None }
    }

    /// A transaction with the bounce buffer of memory that is other than it should be. What the report is about is the memory.
    fn bounced(&self, access: &SavedAccess, diverged: &Diverged, judged: &Judgement<'_, Note>) -> Found {
        let Diverged { memory, expected, found, ram, .. } = diverged;
        let mut report = self.transaction(access, true, judged).report;
        let by = |action| Some(self.access(access.writer(), action, Callers::default()));
        match access.transfer {
            Transfer::Read => report.victim = by(Action::DmaRead),
            Transfer::Write => report.writer = by(Action::DmaWrite),
        }
        report.addr = *memory;
        report.line = memory - memory % LINE;
        report.len = found.len() as u64;
        report.expected.clone_from(expected);
        report.found.clone_from(found);
        report.ram.clone_from(ram);
        Found { report, trace: None }
    }

    fn misuse(&self, misuse: Misuse, judged: &Judgement<'_, Note>, entry: &Entry<Note>) -> Found {
        let mut report = self.report(judged, entry.mapped_at);
        let mapping = &entry.mapping;
        report.addr = mapping.addr;
        report.line = mapping.addr - mapping.addr % LINE;
        report.line_size = LINE;
        report.len = mapping.len;
        report.culprit = report.mapping.as_ref().map(|mapped| Access {
            who: mapped.device.clone(),
            action: Action::Map,
            purpose: None,
            time: mapped.mapped_at,
            backtrace: mapped.backtrace.clone(),
            task: mapped.task.clone(),
        });
        if let Misuse::MixedAttributes(other) = misuse
            && let Some(other) = self.ledger.and_then(|ledger| ledger.mappings().get(other))
        {
            let Mapped { device, addr, len, direction, attributes, backtrace, .. } = self.mapped(other);
            let frames: Vec<_> = backtrace.iter().map(Frame::to_string).collect();
            report.notes.push(format!(
                "the other mapping is {addr:#010x}+{len:#x} {direction} {} for {device}, made by {}",
                attributes.join(" "),
                frames.join(" < ")
            ));
        }
        Found { report, trace: None }
    }

    /// What every report has.
    fn report(&self, judged: &Judgement<'_, Note>, time: u64) -> Report {
        let kernel = self.guest.map(|guest| match guest.build_id() {
            Some(id) => format!("{} build-id {id}", guest.release()),
            None => guest.release().to_owned(),
        });
        Report {
            id: 0,
            kind: judged.kind,
            verdict: judged.verdict,
            blame: judged.blame,
            uapi_cannot_sync: judged.uapi_cannot_sync,
            time,
            line: 0,
            line_size: 0,
            addr: 0,
            len: 0,
            expected: Vec::new(),
            found: Vec::new(),
            ram: Vec::new(),
            culprit: None,
            victim: None,
            writer: None,
            mapping: judged.mapping.map(|entry| self.mapped(entry)),
            timeline: Vec::new(),
            notes: self.notes(judged),
            kernel,
            count: 1,
            again_at: Vec::new(),
            trace: None,
        }
    }

    fn notes(&self, judged: &Judgement<'_, Note>) -> Vec<String> {
        let by_sync = matches!(judged.kind, Kind::StaleCpuRead | Kind::StaleDeviceRead);
        match self.ledger {
            None => {
                vec!["the ledger is off (--ledger on): mappings and who owns the memory are not known".into()]
            }
            Some(ledger) if ledger.off().is_some() => {
                vec![format!("the ledger is off: {}", ledger.off().unwrap_or_default())]
            }
            Some(ledger) if by_sync && !ledger.coverage().syncs => ledger.coverage().reasons.clone(),
            Some(_) => Vec::new(),
        }
    }

    fn mapped(&self, entry: &Entry<Note>) -> Mapped {
        let mapping = &entry.mapping;
        let has = |bit: &u32| mapping.note.attributes >> bit & 1 == 1;
        let named = ATTRIBUTES.iter().filter(|(bit, _)| has(bit)).map(|(_, name)| (*name).to_owned());
        Mapped {
            device: self.device(mapping.device),
            addr: mapping.addr,
            len: mapping.len,
            bounced: mapping.note.bounced,
            direction: mapping.direction.name().to_owned(),
            attributes: mapping
                .user_pinned
                .then(|| "USER_PINNED".to_owned())
                .into_iter()
                .chain(named)
                .collect(),
            mapped_at: entry.mapped_at,
            unmapped_at: entry.unmapped_at,
            backtrace: self.frames_of(mapping.note.trace),
            task: self.task_of(mapping.note.task),
            unmap_backtrace: self.frames_of(mapping.note.unmap_trace),
            unmap_task: self.task_of(mapping.note.unmap_task),
        }
    }

    /// The mapping's beginning, end and syncs of the byte at `addr`, among what happened up to `now`.
    fn add_life(&self, timeline: &mut Vec<Moment>, entry: Option<&Entry<Note>>, addr: u64, now: u64) {
        let Some(entry) = entry else { return };
        let moment = |time, what| Moment { time, what, by: None, at: None };
        let covers =
            |sync: &&model::Handover| (sync.addr..sync.addr.saturating_add(sync.len)).contains(&addr);
        let synced = |sync: &model::Handover| match sync.to {
            Owner::Cpu => moment(sync.at, What::SyncForCpu),
            Owner::Device => moment(sync.at, What::SyncForDevice),
        };
        timeline.push(moment(entry.mapped_at, What::Map));
        timeline.extend(entry.syncs().iter().filter(covers).map(synced));
        timeline.extend(entry.unmapped_at.map(|at| moment(at, What::Unmap)));
        timeline.retain(|moment| moment.time <= now);
        timeline.sort_by_key(|moment| (moment.time, moment.what == What::Observed));
    }

    fn access(&self, writer: Writer, action: Action, callers: Callers) -> Access {
        let Callers { frames, task } = callers;
        let own = matches!(writer.agent, Agent::Cpu(_)).then(|| self.frame(writer.ip));
        // The vCPU has gone on by an instruction since.
        let callers = frames.into_iter().skip(1);
        let purpose = match writer.agent {
            Agent::Device(_) => Purpose::from_bits(writer.ip).describe(),
            Agent::Cpu(_) => None,
        };
        Access {
            who: self.who(writer.agent),
            action,
            purpose,
            time: writer.stamp,
            backtrace: own.into_iter().chain(callers).collect(),
            task,
        }
    }

    fn who(&self, agent: Agent) -> String {
        agent_name(agent, self.devices)
    }

    fn device(&self, device: u32) -> String {
        self.who(Agent::Device(device))
    }

    fn frame(&self, address: u64) -> Frame {
        let symbol = self.guest.and_then(|guest| guest.resolve(address)).map(|symbol| symbol.to_string());
        Frame { address, symbol, guess: false }
    }

    fn trace_of(&self, entry: Option<&Entry<Note>>) -> Vec<u64> {
        let number = entry.and_then(|entry| entry.mapping.note.trace);
        let trace = self.ledger.zip(number).map(|(ledger, number)| ledger.trace(number));
        trace.unwrap_or_default().iter().map(|frame| frame.address).collect()
    }

    /// The frames where a mapping was made, or ended.
    fn frames_of(&self, trace: Option<u32>) -> Vec<Frame> {
        let trace = self.ledger.zip(trace).map(|(ledger, number)| ledger.trace(number));
        let name = |frame| self.guest.and_then(|guest| guest.resolve_frame(frame));
        let frames = trace.unwrap_or_default().iter().map(|frame| Frame {
            address: frame.address,
            symbol: name(frame).map(|symbol| symbol.to_string()),
            guess: frame.how == How::Guess,
        });
        frames.collect()
    }

    /// The task that made a mapping, or ended it.
    fn task_of(&self, task: Option<u32>) -> Option<Task> {
        let task = self.ledger.zip(task).and_then(|(ledger, number)| ledger.task(number))?;
        Some(Task { pid: task.pid, name: task.comm.clone() })
    }
}

fn key(judged: &Judgement<'_, Note>, victim: Option<Writer>, mapped_by: Vec<u64>) -> Key {
    let place = |writer: Writer| match writer.agent {
        Agent::Cpu(_) => Place::Code(writer.ip),
        Agent::Device(device) => Place::Device(device),
    };
    Key {
        kind: judged.kind,
        manifest: judged.verdict == Verdict::Manifest,
        culprit: judged.culprit.map(place),
        victim: victim.map(place),
        mapped_by,
    }
}
