//! `--record`: every operation on memory as a line of a trace that `staleline replay` reads.
//!
//! The trace begins with what RAM held when recording began, as writes of the platform's, and ends with comments that say what
//! the machine came to: the digests and counters that a replay gives as well. It goes to its file as it arises.

use super::hook::{MemoryHook, Operation};
use super::layout::PAGE;
use super::system::PLATFORM;
use super::{GuestRam, dma};
use cache_model::trace::{Machine, Op, hex};
use cache_model::{Agent, CacheModel, EventKind, Memory, OutOfRange, Policy, Schedule, Snoop, Stats, Writer};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A trace being written. Clones write the same one.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Mutex<Sink>>);

#[derive(Debug)]
struct Sink {
    out: BufWriter<File>,
    /// The line being made.
    text: Vec<u8>,
    /// Bytes of a cache line.
    line: u64,
    /// Line of each vCPU's last fetch: only another one is an access.
    fetched: Vec<Option<u64>>,
    /// What ended the recording.
    error: Option<io::Error>,
}

impl Sink {
    fn put(&mut self, op: &Op<'_>) {
        self.text.clear();
        op.append_to(&mut self.text);
        self.text.push(b'\n');
        self.write_text();
    }

    fn comment(&mut self, text: &str) {
        self.text.clear();
        self.text.extend_from_slice(b"# ");
        self.text.extend_from_slice(text.as_bytes());
        self.text.push(b'\n');
        self.write_text();
    }

    fn write_text(&mut self) {
        if self.error.is_none() {
            self.error = self.out.write_all(&self.text).err();
        }
    }

    /// Whether `cpu` fetched from another line than `address`'s before.
    fn fetches_anew(&mut self, cpu: u32, address: u64) -> bool {
        let line = Some(address / self.line);
        let at = cpu as usize;
        if self.fetched.len() <= at {
            self.fetched.resize(at + 1, None);
        }
        self.fetched.get_mut(at).is_some_and(|last| std::mem::replace(last, line) != line)
    }
}

impl Recorder {
    /// Begins a trace in `file` of a machine with this RAM, whose cache is empty.
    ///
    /// # Errors
    /// The host's reason.
    pub fn new(file: File, ram: &GuestRam, model: &CacheModel) -> io::Result<Self> {
        // What the schedule does is in the trace.
        let config = model.config().with_schedule(Schedule::None);
        let seed = if let Policy::Random { seed } = config.policy() { seed } else { 0 };
        let mut sink = Sink {
            out: BufWriter::with_capacity(1 << 20, file),
            text: Vec::new(),
            line: config.geometry().line() as u64,
            fetched: Vec::new(),
            error: None,
        };
        sink.put(&Op::Config(Box::new(Machine { config, base: 0, memory: ram.end(), seed })));
        pages(ram, |address, page| {
            if let Some(data) = page.filter(|data| data.iter().any(|&byte| byte != 0)) {
                sink.put(&Op::DmaWrite { device: PLATFORM, addr: address, data, snoop: Snoop::Snoop });
            }
        });
        match sink.error.take() {
            Some(error) => Err(error),
            None => Ok(Self(Arc::new(Mutex::new(sink)))),
        }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `model` make an operation, line by line, and writes down what the model's schedule has done before it and the
    /// operation.
    ///
    /// # Errors
    /// If a line of it is not RAM: the lines before have been made.
    pub fn record<M: Memory>(
        &mut self,
        model: &mut CacheModel,
        memory: &mut M,
        by: Writer,
        operation: &mut Operation<'_>,
    ) -> Result<(), OutOfRange> {
        let Some((address, length)) = operation.range() else {
            return self.record_part(model, memory, by, operation);
        };
        for (at, bytes) in dma::parts(address, length, model.config().geometry().line() as u64) {
            self.record_part(model, memory, by, &mut operation.part(at, bytes))?;
        }
        Ok(())
    }

    fn record_part<M: Memory>(
        &mut self,
        model: &mut CacheModel,
        memory: &mut M,
        by: Writer,
        operation: &mut Operation<'_>,
    ) -> Result<(), OutOfRange> {
        model.operate(memory, by, operation)?;
        self.moved(model);
        self.operate(memory, by, operation)
    }

    /// Writes down what the model's schedule has done.
    pub fn moved(&mut self, model: &mut CacheModel) {
        let moves = model.take_moves();
        if moves.is_empty() {
            return;
        }
        let mut sink = self.sink();
        for (kind, addr) in moves {
            match kind {
                EventKind::Fill => sink.put(&Op::Fill { addr }),
                EventKind::Evict => sink.put(&Op::Evict { addr }),
                _ => sink.put(&Op::WriteBack { addr }),
            }
        }
    }

    /// Ends the trace with what the machine has come to.
    ///
    /// # Errors
    /// What has kept a line from being written.
    pub fn finish(&mut self, ram: &GuestRam, stats: Stats, peek: impl Fn(u64, &mut [u8])) -> io::Result<()> {
        let (mut cpu, mut memory) = (Sha256::new(), Sha256::new());
        let mut beyond = [0; PAGE as usize];
        pages(ram, |address, page| {
            let Some(page) = page else {
                cpu.update([0; PAGE as usize]);
                return memory.update([0; PAGE as usize]);
            };
            cpu.update(page);
            peek(address, &mut beyond);
            memory.update(beyond);
        });
        let mut sink = self.sink();
        sink.comment(&format!("cpu {}", hex(&cpu.finalize())));
        sink.comment(&format!("ram {}", hex(&memory.finalize())));
        let stats = serde_json::to_string(&stats).map_err(io::Error::other)?;
        sink.comment(&format!("stats {stats}"));
        match sink.error.take() {
            Some(error) => Err(error),
            None => sink.out.flush(),
        }
    }
}

impl MemoryHook for Recorder {
    fn operate<M: Memory>(
        &mut self,
        _: &mut M,
        by: Writer,
        operation: &mut Operation<'_>,
    ) -> Result<(), OutOfRange> {
        let mut sink = self.sink();
        let (Agent::Cpu(id) | Agent::Device(id)) = by.agent;
        let length = |data: &[u8]| data.len() as u64;
        match operation {
            Operation::Load { address, data, kind } => {
                sink.put(&Op::Load { cpu: id, addr: *address, len: length(data), kind: *kind });
            }
            Operation::Store { address, data, kind } => {
                sink.put(&Op::Store { cpu: id, addr: *address, data, kind: *kind });
            }
            Operation::Fetch { address, length, kind } => {
                if sink.fetches_anew(id, *address) {
                    sink.put(&Op::Load { cpu: id, addr: *address, len: *length as u64, kind: *kind });
                }
            }
            Operation::DmaRead { address, data, snoop } => {
                sink.put(&Op::DmaRead { device: id, addr: *address, len: length(data), snoop: *snoop });
            }
            Operation::DmaWrite { address, data, snoop } => {
                sink.put(&Op::DmaWrite { device: id, addr: *address, data, snoop: *snoop });
            }
            // A trace's flushes and fences are all in order.
            Operation::Flush(addr) | Operation::FlushWeakly(addr) => {
                sink.put(&Op::Flush { addr: *addr, len: 1 });
            }
            Operation::CleanWeakly(addr) => sink.put(&Op::Clean { addr: *addr, len: 1 }),
            Operation::FlushAll => sink.put(&Op::WriteBackInvalidateAll),
            Operation::InvalidateAll => sink.put(&Op::InvalidateAll),
            Operation::Fence(cpu) | Operation::Drain(cpu) => sink.put(&Op::Fence { cpu: *cpu }),
        }
        Ok(())
    }
}

/// Calls `each` with every page up to the end of RAM, by ascending address, and what is in it where it is RAM.
fn pages(ram: &GuestRam, mut each: impl FnMut(u64, Option<&[u8]>)) {
    let mut page = [0; PAGE as usize];
    for address in (0..ram.end()).step_by(PAGE as usize) {
        let is_ram = ram.read(address, &mut page).is_ok();
        each(address, is_ram.then_some(&page));
    }
}
