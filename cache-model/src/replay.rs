//! Running the model alone over a text trace in the format of [`crate::trace`].
//!
//! DMA API operations (`map`, `sync-*`, `unmap`) only say who may access what: a recorded trace holds the cache
//! maintenance they caused as operations of their own. Non-temporal and write-combining stores reach RAM at once, as they
//! legally may; until the CPU's next `fence` a device that reads them past the caches raises a latent finding.

use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::finding::{Finding, Kind, Verdict, Writer};
use crate::ledger::{Ledger, LedgerError, Mapping, Owner, Transfer};
use crate::memory::{Memory, OutOfRange};
use crate::model::CacheModel;
use crate::stats::Stats;
use crate::trace::{self, Op, ParseError, View};

/// The most findings that a report holds; later ones are counted.
pub const MAX_FINDINGS: usize = 1 << 16;

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
    /// Findings, or writes to follow, beyond the model's limits.
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
    /// What a coherent machine would have given, in hex; empty for [`Kind::RogueDma`].
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

/// Replays a trace.
///
/// # Errors
/// At the first line that is malformed or out of range, and if there is no `config`.
pub fn run(text: &str) -> Result<Report, Error> {
    let mut machine = None;
    let mut outcome = Outcome::default();
    let mut line_no = 0;
    for line in text.lines() {
        line_no += 1;
        outcome.line_no = line_no;
        step(&mut machine, &mut outcome, line).map_err(|reason| Error { line_no, reason })?;
    }
    let machine = machine.ok_or(Error { line_no: line_no.max(1), reason: Reason::NoConfig })?;
    outcome.overflow_of(&machine);
    let at_end = |reason: OutOfRange| Error { line_no, reason: reason.into() };
    Ok(Report {
        findings: outcome.findings,
        failed: outcome.failed,
        ram: machine.ram_digest().map_err(at_end)?,
        cpu: hex(&Sha256::digest(&machine.memory)),
        stats: machine.model.stats(),
        overflow: outcome.overflow,
    })
}

/// The modelled machine: memory, cache and DMA mappings.
struct Machine {
    memory: Vec<u8>,
    model: CacheModel,
    ledger: Ledger,
}

/// What a replay has found so far.
#[derive(Default)]
struct Outcome {
    line_no: u64,
    findings: Vec<ReportedFinding>,
    failed: Vec<Failure>,
    overflow: u64,
}

fn step(machine: &mut Option<Machine>, outcome: &mut Outcome, line: &str) -> Result<(), Reason> {
    let Some(op) = trace::parse(line)? else { return Ok(()) };
    if let Op::Config { config, memory } = op {
        let size = usize::try_from(memory).map_err(|_| OutOfRange { addr: 0, len: memory })?;
        let fresh =
            Machine { memory: vec![0; size], model: CacheModel::new(config), ledger: Ledger::default() };
        if let Some(old) = machine.replace(fresh) {
            outcome.overflow_of(&old);
        }
        return Ok(());
    }
    machine.as_mut().ok_or(Reason::NoConfig)?.execute(op, outcome)
}

impl Machine {
    fn execute(&mut self, op: Op, outcome: &mut Outcome) -> Result<(), Reason> {
        let Self { memory, model, ledger } = self;
        let memory = memory.as_mut_slice();
        // A trace has no instructions: an operation's line stands for its time.
        let cpu = |cpu| Writer::cpu(cpu, 0, outcome.line_no);
        let dma = |device| Writer::device(device, outcome.line_no);
        match op {
            // The caller makes a new machine.
            Op::Config { .. } => {}
            Op::Load { cpu: index, addr, len, kind } => {
                model.load(memory, cpu(index), addr, &mut buffer(memory, addr, len)?, kind)?;
            }
            Op::Store { cpu: index, addr, data, kind } => {
                model.store(memory, cpu(index), addr, &data, kind)?
            }
            Op::Clean { addr, len } => model.clean(memory, cpu(0), addr, len)?,
            Op::Invalidate { addr, len } => model.invalidate(memory, cpu(0), addr, len)?,
            Op::Flush { addr, len } => model.flush(memory, cpu(0), addr, len)?,
            Op::WriteBackInvalidateAll => model.write_back_invalidate_all(memory, cpu(0))?,
            Op::InvalidateAll => model.invalidate_all(memory, cpu(0))?,
            Op::Fence { cpu } => model.fence(cpu),
            Op::Fill { addr } => model.fill(memory, addr)?,
            Op::Evict { addr } => model.evict(memory, addr)?,
            Op::DmaRead { device, addr, len, snoop } => {
                let mut data = buffer(memory, addr, len)?;
                model.dma_read(memory, dma(device), addr, &mut data, snoop)?;
                outcome.judge(ledger, device, Transfer::Read, addr, &data);
            }
            Op::DmaWrite { device, addr, data, snoop } => {
                model.dma_write(memory, dma(device), addr, &data, snoop)?;
                outcome.judge(ledger, device, Transfer::Write, addr, &data);
            }
            Op::Map { id, device, addr, len, direction } => {
                in_memory(memory, addr, len)?;
                ledger.map(id, Mapping::new(device, addr, len, direction), outcome.line_no)?;
            }
            Op::SyncForCpu { id, part } => {
                ledger.sync(id, Owner::Cpu, part, outcome.line_no)?;
            }
            Op::SyncForDevice { id, part } => {
                ledger.sync(id, Owner::Device, part, outcome.line_no)?;
            }
            Op::Unmap { id } => {
                ledger.unmap(id, outcome.line_no)?;
            }
            Op::Expect { view, addr, data } => {
                let mut found = buffer(memory, addr, data.len() as u64)?;
                match view {
                    View::Cpu => memory.read(addr, &mut found)?,
                    View::Ram => model.peek_ram(memory, addr, &mut found)?,
                }
                outcome.compare(view, addr, &data, &found);
            }
        }
        outcome.take(model.take_findings());
        Ok(())
    }

    fn ram_digest(&self) -> Result<String, OutOfRange> {
        let mut digest = Sha256::new();
        let mut line = vec![0; self.model.config().geometry().line()];
        for addr in (0..self.memory.len() as u64).step_by(line.len()) {
            self.model.peek_ram(self.memory.as_slice(), addr, &mut line)?;
            digest.update(&line);
        }
        Ok(hex(&digest.finalize()))
    }
}

impl Outcome {
    /// Is the transaction within the device's mappings?
    fn judge(&mut self, ledger: &Ledger, device: u32, transfer: Transfer, addr: u64, data: &[u8]) {
        let Some(rogue) = ledger.rogue(device, transfer, addr, data.len() as u64) else { return };
        let at = rogue.addr;
        let inside = usize::try_from(at.saturating_sub(addr)).unwrap_or(usize::MAX);
        self.push(ReportedFinding {
            line_no: self.line_no,
            kind: Kind::RogueDma,
            verdict: Verdict::Manifest,
            addr: at,
            expected: String::new(),
            found: hex(data.get(inside..).unwrap_or_default()),
        });
    }

    fn take(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            self.push(ReportedFinding {
                line_no: finding.observer.stamp,
                kind: finding.kind,
                verdict: finding.verdict,
                addr: finding.addr,
                expected: hex(&finding.expected),
                found: hex(&finding.found),
            });
        }
    }

    fn push(&mut self, finding: ReportedFinding) {
        if self.findings.len() >= MAX_FINDINGS {
            self.overflow = self.overflow.saturating_add(1);
        } else {
            self.findings.push(finding);
        }
    }

    fn compare(&mut self, view: View, addr: u64, expected: &[u8], found: &[u8]) {
        if expected != found {
            let view = match view {
                View::Cpu => "cpu",
                View::Ram => "ram",
            };
            let (expected, found) = (hex(expected), hex(found));
            self.failed.push(Failure { line_no: self.line_no, view, addr, expected, found });
        }
    }

    fn overflow_of(&mut self, machine: &Machine) {
        let overflow = machine.model.overflow();
        for count in [overflow.records, overflow.pending, overflow.findings] {
            self.overflow = self.overflow.saturating_add(count);
        }
    }
}

/// A buffer for an access, once it is known to be in memory (and so not larger).
fn buffer(memory: &[u8], addr: u64, len: u64) -> Result<Vec<u8>, OutOfRange> {
    in_memory(memory, addr, len)?;
    let len = usize::try_from(len).map_err(|_| OutOfRange { addr, len })?;
    Ok(vec![0; len])
}

fn in_memory(memory: &[u8], addr: u64, len: u64) -> Result<(), OutOfRange> {
    if memory.covers(addr, len) { Ok(()) } else { Err(OutOfRange { addr, len }) }
}

fn hex(bytes: &[u8]) -> String {
    trace::Hex(bytes).to_string()
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
