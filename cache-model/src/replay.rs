//! Running the model alone over a text trace in the format of [`crate::trace`].
//!
//! DMA API operations (`map`, `sync-*`, `unmap`) only say who may access what: a recorded trace holds the cache
//! maintenance they caused as operations of their own. Non-temporal and write-combining stores reach RAM at once, as they
//! legally may; until the CPU's next `fence` a device that reads them past the caches raises a latent finding.
//!
//! A trace can be longer than memory: [`Replay`] takes it piece by piece and keeps the machine, what was found and at most
//! one line of text.

mod memory;

use memchr::{memchr, memrchr};
use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::access::MemoryType;
use crate::config::{Limits, Schedule};
use crate::finding::{Finding, Verdict, Writer};
use crate::judge::{Kind, Rules, judge};
use crate::ledger::{Ledger, LedgerError, Mapping, Owner, RogueKind, Transfer};
use crate::memory::{Memory, OutOfRange};
use crate::model::CacheModel;
use crate::stats::Stats;
use crate::trace::{self, Op, ParseError, Parser, View, hex};
use memory::{CHUNK, SparseMemory};

/// The most findings, and the most failed expectations, that a report holds; later ones are counted.
pub const MAX_FINDINGS: usize = 1 << 18;

/// The longest line of a trace, in bytes.
pub const MAX_LINE_LENGTH: usize = 1 << 30;

/// Why a trace cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line_no}: {reason}")]
pub struct Error {
    /// The line of the trace, from 1.
    pub line_no: u64,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Reason {
    /// It is not in the format.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// Its address range is not in memory.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// It speaks of a mapping that does not exist, or exists already.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is no machine yet.
    #[error("a trace starts with a config line")]
    NoConfig,
    /// It does not end.
    #[error("a line of more than {MAX_LINE_LENGTH} bytes")]
    TooLong,
}

/// What came of a trace. A trace may configure several machines: findings and failures are of all of them, the rest is of
/// the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What the model found, in the trace's order.
    pub findings: Vec<ReportedFinding>,
    /// The `expect` lines that did not hold.
    pub failed: Vec<Failure>,
    /// SHA-256 of all of RAM, in hex.
    pub ram: String,
    /// SHA-256 of all of memory as the CPU sees it, in hex.
    pub cpu: String,
    /// What the cache did.
    pub stats: Stats,
    /// Findings, failures, or writes to follow, beyond the limits.
    #[serde(skip_serializing_if = "is_zero")]
    pub overflow: u64,
}

/// A finding and the line that raised it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportedFinding {
    /// The line of the trace, from 1.
    pub line_no: u64,
    /// What went wrong.
    pub kind: Kind,
    /// Whether it happened or could have.
    pub verdict: Verdict,
    /// Address of the first wrong byte.
    pub addr: u64,
    /// What a coherent machine would have given, in hex; empty for DMA that no mapping allows.
    pub expected: String,
    /// What was there, in hex.
    pub found: String,
}

/// An `expect` that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The line of the trace, from 1.
    pub line_no: u64,
    /// `cpu` or `ram`.
    pub view: &'static str,
    /// The line's address.
    pub addr: u64,
    /// The line's data, in hex.
    pub expected: String,
    /// What is there, in hex.
    pub found: String,
}

/// Replays a trace that is in memory.
///
/// # Errors
/// At the first line that is malformed or out of range, and if there is no `config`.
pub fn run(trace: &str) -> Result<Report, Error> {
    let mut replay = Replay::new();
    replay.feed(trace.as_bytes())?;
    replay.finish()
}

/// A trace being replayed.
#[derive(Debug, Default)]
pub struct Replay {
    parser: Parser,
    machine: Option<Machine>,
    outcome: Outcome,
    /// The start of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl Replay {
    /// A replay that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replays what comes next in the trace; a piece may end anywhere in a line.
    ///
    /// # Errors
    /// At the first line that is malformed or out of range. Nothing can be fed after an error.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Error> {
        let mut rest = piece;
        if !self.partial.is_empty() {
            let len = memchr(b'\n', piece).map_or(piece.len(), |end| end + 1);
            let (end, next) = piece.split_at(len);
            if self.partial.len().saturating_add(len) > MAX_LINE_LENGTH {
                return Err(Error { line_no: self.outcome.line_no + 1, reason: Reason::TooLong });
            }
            self.partial.extend_from_slice(end);
            if !end.ends_with(b"\n") {
                return Ok(());
            }
            let line = std::mem::take(&mut self.partial);
            self.lines(&line)?;
            rest = next;
        }
        let whole = memrchr(b'\n', rest).map_or(0, |end| end + 1);
        let (whole, partial) = rest.split_at(whole);
        self.partial.extend_from_slice(partial);
        self.lines(whole)
    }

    /// The trace ends here.
    ///
    /// # Errors
    /// If its last line, without an end, is malformed or out of range, and if there was no `config`.
    pub fn finish(mut self) -> Result<Report, Error> {
        if !self.partial.is_empty() {
            let line = std::mem::take(&mut self.partial);
            self.lines(&line)?;
        }
        let Self { machine, mut outcome, .. } = self;
        let line_no = outcome.line_no.max(1);
        let machine = machine.ok_or(Error { line_no, reason: Reason::NoConfig })?;
        outcome.overflow_of(&machine);
        let (cpu, ram) = machine.digests().map_err(|reason| Error { line_no, reason: reason.into() })?;
        Ok(Report {
            findings: outcome.findings,
            failed: outcome.failed,
            ram,
            cpu,
            stats: machine.model.stats(),
            overflow: outcome.overflow,
        })
    }

    /// Replays whole lines.
    fn lines(&mut self, mut text: &[u8]) -> Result<(), Error> {
        while !text.is_empty() {
            self.outcome.line_no += 1;
            self.line(&mut text).map_err(|reason| Error { line_no: self.outcome.line_no, reason })?;
        }
        Ok(())
    }

    #[inline]
    fn line(&mut self, text: &mut &[u8]) -> Result<(), Reason> {
        match (self.parser.next(text)?, &mut self.machine) {
            (None, _) => Ok(()),
            (Some(Op::Config(shape)), machine) => {
                if let Some(old) = machine.replace(Machine::new(*shape)) {
                    self.outcome.overflow_of(&old);
                }
                Ok(())
            }
            (Some(op), Some(machine)) => machine.execute(op, &mut self.outcome),
            (Some(_), None) => Err(Reason::NoConfig),
        }
    }
}

/// The modelled machine: memory, cache and DMA mappings.
#[derive(Debug)]
struct Machine {
    shape: trace::Machine,
    memory: SparseMemory,
    model: CacheModel,
    ledger: Ledger,
    /// What a load or a DMA read gets.
    buffer: Box<[u8]>,
    /// Operations have their time. Only mappings ask for it, of what has happened since the first, and schedules, which tell
    /// instructions apart by it; a model that need not tell one store from the next is a quicker one.
    dated: bool,
}

/// What a replay has found so far.
#[derive(Debug, Default)]
struct Outcome {
    line_no: u64,
    findings: Vec<ReportedFinding>,
    failed: Vec<Failure>,
    overflow: u64,
}

impl Machine {
    fn new(shape: trace::Machine) -> Self {
        let trace::Machine { config, base, memory, seed } = shape;
        // The model moves whole lines.
        let line = config.geometry().line() as u64;
        let whole = memory.next_multiple_of(line);
        let config = config.with_limits(limits(usize::try_from(whole / line).unwrap_or(usize::MAX)));
        let mut model = CacheModel::new(config);
        model.start_schedule(seed);
        Self {
            shape,
            memory: SparseMemory::new(base, whole),
            model,
            ledger: Ledger::default(),
            buffer: vec![0; CHUNK].into_boxed_slice(),
            dated: config.schedule() != Schedule::None,
        }
    }

    fn execute(&mut self, op: Op<'_>, outcome: &mut Outcome) -> Result<(), Reason> {
        let Self { shape, memory, model, ledger, buffer, dated } = self;
        let inside = |addr, len| inside(shape, addr, len);
        // A trace has no instructions: an operation's line stands for its time.
        let line_no = outcome.line_no;
        *dated |= matches!(op, Op::Map { .. });
        let stamp = if *dated { line_no } else { 0 };
        let cpu = |cpu| Writer::cpu(cpu, 0, stamp);
        let dma = |device| Writer::device(device, stamp);
        match op {
            // The caller makes a new machine.
            Op::Config(_) => {}
            Op::Load { cpu: index, addr, len, kind } => {
                inside(addr, len)?;
                let quick = kind == MemoryType::WriteBack && len <= CHUNK as u64;
                let done = quick && {
                    let len = len as usize;
                    model.load_hit(index, addr, len) || model.load_miss(cpu(index), addr, len)
                };
                for (addr, len) in pieces(addr, if done { 0 } else { len }) {
                    let data = buffer.get_mut(..len).unwrap_or_default();
                    model.load(memory, cpu(index), addr, data, kind)?;
                }
            }
            Op::Store { cpu: index, addr, data, kind } => {
                inside(addr, data.len() as u64)?;
                if kind == MemoryType::WriteBack && model.store_hit(cpu(index), addr, data.len()) {
                    memory.write(addr, data)?;
                } else {
                    model.store(memory, cpu(index), addr, data, kind)?;
                }
            }
            Op::Clean { addr, len } => {
                inside(addr, len)?;
                model.clean(memory, cpu(0), addr, len)?;
            }
            Op::Invalidate { addr, len } => {
                inside(addr, len)?;
                model.invalidate(memory, cpu(0), addr, len)?;
            }
            Op::Flush { addr, len } => {
                inside(addr, len)?;
                model.flush(memory, cpu(0), addr, len)?;
            }
            Op::WriteBackInvalidateAll => model.write_back_invalidate_all(memory, cpu(0))?,
            Op::InvalidateAll => model.invalidate_all(memory, cpu(0))?,
            Op::Fence { cpu } => model.fence(cpu),
            Op::Fill { addr } => {
                inside(addr, 1)?;
                model.fill(memory, stamp, addr)?;
            }
            Op::Evict { addr } => {
                inside(addr, 1)?;
                model.evict(memory, stamp, addr)?;
            }
            Op::WriteBack { addr } => {
                inside(addr, 1)?;
                model.write_back_line(memory, line_no, addr)?;
            }
            Op::DmaRead { device, addr, len, snoop } => {
                inside(addr, len)?;
                let rogue =
                    ledger.rogue(device, Transfer::Read, addr, len).map(|rogue| (rogue.kind, rogue.addr));
                for (addr, len) in pieces(addr, len) {
                    let data = buffer.get_mut(..len).unwrap_or_default();
                    model.dma_read(memory, dma(device), addr, data, snoop)?;
                    if let Some(at) = rogue {
                        outcome.rogue(shape, at, addr, data);
                    }
                }
            }
            Op::DmaWrite { device, addr, data, snoop } => {
                inside(addr, data.len() as u64)?;
                if let Some(rogue) = ledger.rogue(device, Transfer::Write, addr, data.len() as u64) {
                    outcome.rogue(shape, (rogue.kind, rogue.addr), addr, data);
                }
                model.dma_write(memory, dma(device), addr, data, snoop)?;
            }
            Op::Map { id, device, addr, len, direction } => {
                inside(addr, len)?;
                ledger.map(id, Mapping::new(device, addr, len, direction), line_no)?;
            }
            Op::SyncForCpu { id, part } => {
                ledger.sync(id, Owner::Cpu, part, line_no)?;
            }
            Op::SyncForDevice { id, part } => {
                ledger.sync(id, Owner::Device, part, line_no)?;
            }
            Op::Unmap { id } => {
                ledger.unmap(id, line_no)?;
            }
            Op::Expect { view, addr, data } => {
                inside(addr, data.len() as u64)?;
                let mut found = vec![0; data.len()];
                match view {
                    View::Cpu => memory.read(addr, &mut found)?,
                    View::Ram => model.peek_ram(memory, addr, &mut found)?,
                }
                outcome.compare(view, addr, data, &found);
            }
        }
        if model.has_findings() {
            outcome.take(model.take_findings(), ledger);
        }
        Ok(())
    }

    /// SHA-256 of memory as the CPU sees it, and of RAM. Up to the first difference the work is done once.
    fn digests(&self) -> Result<(String, String), OutOfRange> {
        let trace::Machine { base, memory: size, .. } = self.shape;
        let mut cpu_digest = Sha256::new();
        let mut ram_digest = None;
        let (mut cpu, mut ram) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut done = 0;
        while done < size {
            let len = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
            let (cpu, ram) = (cpu.get_mut(..len).unwrap_or_default(), ram.get_mut(..len).unwrap_or_default());
            self.memory.read(base + done, cpu)?;
            self.model.peek_ram(&self.memory, base + done, ram)?;
            if ram_digest.is_none() && cpu != ram {
                ram_digest = Some(cpu_digest.clone());
            }
            cpu_digest.update(&*cpu);
            if let Some(digest) = &mut ram_digest {
                digest.update(&*ram);
            }
            done += len as u64;
        }
        let ram_digest = ram_digest.unwrap_or_else(|| cpu_digest.clone());
        Ok((hex(&cpu_digest.finalize()), hex(&ram_digest.finalize())))
    }
}

impl Outcome {
    /// A device's access that its mappings do not allow from the address `at` on: its bytes there, up to the line's end.
    /// `data` is what the access, or this piece of it, moves to or from `addr`.
    fn rogue(&mut self, shape: &trace::Machine, (kind, at): (RogueKind, u64), addr: u64, data: &[u8]) {
        let Some(start) = at.checked_sub(addr).and_then(|start| usize::try_from(start).ok()) else { return };
        let Some(found) = data.get(start..).filter(|found| !found.is_empty()) else { return };
        let line = shape.config.geometry().line();
        let left = line - (at % line as u64) as usize;
        self.push(ReportedFinding {
            line_no: self.line_no,
            kind: kind.into(),
            verdict: Verdict::Manifest,
            addr: at,
            expected: String::new(),
            found: hex(found.get(..left).unwrap_or(found)),
        });
    }

    fn take(&mut self, findings: Vec<Finding>, ledger: &Ledger) {
        for finding in findings {
            self.push(ReportedFinding {
                line_no: self.line_no,
                kind: judge(&finding, ledger, Rules::default()).kind,
                verdict: finding.verdict,
                addr: finding.addr,
                expected: hex(&finding.expected),
                found: hex(&finding.found),
            });
        }
    }

    fn push(&mut self, finding: ReportedFinding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.overflow = self.overflow.saturating_add(1);
        }
    }

    fn compare(&mut self, view: View, addr: u64, expected: &[u8], found: &[u8]) {
        if expected == found {
            return;
        }
        if self.failed.len() < MAX_FINDINGS {
            let (expected, found) = (hex(expected), hex(found));
            self.failed.push(Failure { line_no: self.line_no, view: view.name(), addr, expected, found });
        } else {
            self.overflow = self.overflow.saturating_add(1);
        }
    }

    fn overflow_of(&mut self, machine: &Machine) {
        let overflow = machine.model.overflow();
        for count in [overflow.records, overflow.spilled, overflow.pending, overflow.findings] {
            self.overflow = self.overflow.saturating_add(count);
        }
    }
}

/// What the model may remember of a memory of so many lines: all of it up to some ten MiB, so that the report is exact.
fn limits(lines: usize) -> Limits {
    let least = Limits::default();
    Limits {
        records: least.records.max(lines.min(1 << 18)),
        // Of so many it surely keeps any half that follow one another.
        spilled: lines.min(1 << 20) * 2,
        pending: least.pending.max(lines.min(1 << 18)),
        ..least
    }
}

/// Is the range in memory, to the byte? (The model looks at whole lines.)
fn inside(machine: &trace::Machine, addr: u64, len: u64) -> Result<(), OutOfRange> {
    let start = addr.checked_sub(machine.base);
    let end = start.and_then(|start| start.checked_add(len));
    if end.is_some_and(|end| end <= machine.memory) { Ok(()) } else { Err(OutOfRange { addr, len }) }
}

/// A long access in pieces of at most [`CHUNK`] bytes that end between lines.
fn pieces(addr: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = addr.saturating_add(len);
    let mut at = addr;
    std::iter::from_fn(move || {
        let start = at;
        let next = (start / CHUNK as u64 + 1).saturating_mul(CHUNK as u64);
        at = next.min(end);
        (start < end).then(|| (start, usize::try_from(at - start).unwrap_or(CHUNK)))
    })
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
