//! Bounce buffers of memory that CPU and device use at the same time: what one side writes the other does not see before the
//! kernel copies it.
//!
//! A coherent machine would have one place, with the bytes that were written last. Here there are two, and who was last is told by
//! what the memory had when the device wrote: if it is another byte now, a CPU has stored since.

use crate::memory::layout::LINE;
use cache_model::ledger::Transfer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most lines of which it is kept what the memory had.
const MAX_LINES: usize = 1 << 16;
/// Most live buffers.
const MAX_BUFFERS: usize = 1 << 17;

/// A buffer whose memory should be coherent.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Buffer {
    /// The mapping's.
    id: u64,
    /// Guest-physical address of the memory.
    memory: u64,
    len: u64,
    /// What the device has written, by the address of the memory's line.
    lines: BTreeMap<u64, Line>,
    /// It has written more than is kept: what it reads cannot be judged.
    lost: bool,
}

/// A line of memory in whose buffer the device has written.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    /// The bytes that it has written, and what the memory had there then.
    written: u64,
    had: Vec<u8>,
}

/// Memory and buffer differ, and it matters: within a line of the memory, from the first to the last byte that does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    /// The mapping's identity.
    pub mapping: u64,
    /// Where in the transaction it begins.
    pub offset: usize,
    /// Guest-physical address of the memory.
    pub memory: u64,
    /// What a coherent machine would have there.
    pub expected: Vec<u8>,
    /// What is there: in memory if the device writes, in the buffer if it reads.
    pub found: Vec<u8>,
    /// What memory has.
    pub ram: Vec<u8>,
}

/// All such buffers that are live, by the address that the device has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Coherents {
    live: BTreeMap<u64, Buffer>,
    lines: usize,
}

impl Coherents {
    /// The mapping `id` has the buffer at `addr` for the `len` bytes of memory at `memory`.
    pub fn begin(&mut self, id: u64, addr: u64, memory: u64, len: u64) {
        self.end(addr);
        if self.live.len() < MAX_BUFFERS {
            self.live.insert(addr, Buffer { id, memory, len, lines: BTreeMap::new(), lost: false });
        }
    }

    /// The buffer at `addr` is no more.
    pub fn end(&mut self, addr: u64) {
        if let Some(buffer) = self.live.remove(&addr) {
            self.lines = self.lines.saturating_sub(buffer.lines.len());
        }
    }

    /// The kernel makes the buffer and memory of the `len` bytes at `addr` equal.
    pub fn copied(&mut self, addr: u64, len: u64) {
        let end = addr.saturating_add(len);
        let Some((&start, buffer)) = self.live.range_mut(..=addr).next_back() else { return };
        let memory_of = |at: u64| buffer.memory.saturating_add(at.saturating_sub(start).min(buffer.len));
        let (from, to) = (memory_of(addr), memory_of(end));
        if from < to {
            let mut emptied = Vec::new();
            for (&line, kept) in buffer.lines.range_mut(from - from % LINE..to) {
                let first = from.saturating_sub(line).min(LINE);
                let last = (to - line).min(LINE);
                kept.written &= !bits(first, last);
                if kept.written == 0 {
                    emptied.push(line);
                }
            }
            self.lines = self.lines.saturating_sub(emptied.len());
            for line in emptied {
                buffer.lines.remove(&line);
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// A device writes, or has read, `data` at `addr`; `memory` gives what the CPUs have at a guest-physical address. Returns the
    /// first line in which a side does not have what it should.
    pub fn see(
        &mut self,
        transfer: Transfer,
        addr: u64,
        data: &[u8],
        memory: impl Fn(u64, &mut [u8]) -> bool,
    ) -> Option<Diverged> {
        let end = addr.saturating_add(data.len() as u64);
        // The one that begins before it may reach into it.
        let first = self.live.range(..=addr).next_back().map_or(addr, |(&start, _)| start);
        let mut found = None;
        for (&start, buffer) in self.live.range_mut(first..end) {
            let last = start.saturating_add(buffer.len).min(end);
            let mut at = addr.max(start);
            while at < last {
                let of_memory = buffer.memory.saturating_add(at - start);
                let len = (LINE - of_memory % LINE).min(last - at);
                let offset = (at - addr) as usize;
                let part = data.get(offset..offset + len as usize).unwrap_or_default();
                let mut had = [0; LINE as usize];
                let Some(had) = had.get_mut(..part.len()) else { break };
                if memory(of_memory, had) {
                    let diverged = match transfer {
                        Transfer::Write => buffer.write(of_memory, part, had, &mut self.lines),
                        Transfer::Read => buffer.read(of_memory, part, had),
                    };
                    let whole = |Part { within, expected, found }: Part| Diverged {
                        mapping: buffer.id,
                        offset: offset + within,
                        memory: of_memory + within as u64,
                        ram: had.get(within..within + found.len()).unwrap_or_default().to_vec(),
                        expected,
                        found,
                    };
                    found = found.or_else(|| diverged.map(whole));
                }
                at += len;
            }
        }
        found
    }
}

/// What differs in a part of a line.
struct Part {
    /// Where in it that begins.
    within: usize,
    expected: Vec<u8>,
    found: Vec<u8>,
}

impl Buffer {
    /// The device writes `data` for memory that has `had`, which stays as it is.
    fn write(&mut self, at: u64, data: &[u8], had: &[u8], lines: &mut usize) -> Option<Part> {
        let (line, within) = (at - at % LINE, (at % LINE) as usize);
        if *lines >= MAX_LINES && !self.lines.contains_key(&line) {
            self.lost = true;
        } else {
            let kept = self.lines.entry(line).or_insert_with(|| {
                *lines += 1;
                Line { written: 0, had: vec![0; LINE as usize] }
            });
            kept.written |= bits(within as u64, within as u64 + data.len() as u64);
            if let Some(place) = kept.had.get_mut(within..within + had.len()) {
                place.copy_from_slice(had);
            }
        }
        between(data, had)
    }

    /// The device has read `data`, where memory has `now`.
    fn read(&self, at: u64, data: &[u8], now: &[u8]) -> Option<Part> {
        if self.lost {
            return None;
        }
        let within = (at % LINE) as usize;
        let kept = self.lines.get(&(at - at % LINE));
        // Its own, which nobody has stored over since.
        let is_latest = |index: usize| {
            kept.is_some_and(|line| {
                let place = within + index;
                line.written >> place & 1 != 0 && line.had.get(place) == now.get(index)
            })
        };
        let latest: Vec<u8> = (0..data.len())
            .filter_map(|index| if is_latest(index) { data.get(index) } else { now.get(index) })
            .copied()
            .collect();
        between(&latest, data)
    }
}

/// Bits from `first` to before `end`.
fn bits(first: u64, end: u64) -> u64 {
    let below = |bit: u64| if bit >= 64 { u64::MAX } else { (1 << bit) - 1 };
    below(end) & !below(first)
}

/// What lies from the first to the last byte in which the two differ.
fn between(expected: &[u8], found: &[u8]) -> Option<Part> {
    let differs = |index: &usize| expected.get(*index) != found.get(*index);
    let first = (0..expected.len()).find(differs)?;
    let last = (0..expected.len()).rev().find(differs)?;
    let part = |bytes: &[u8]| bytes.get(first..=last).unwrap_or_default().to_vec();
    Some(Part { within: first, expected: part(expected), found: part(found) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const SLOT: u64 = 0x1bf0_0000;
    const MEMORY: u64 = 0x5000;

    /// Memory and buffer, as the guest has them.
    struct Machine {
        coherents: Coherents,
        memory: RefCell<Vec<u8>>,
        buffer: Vec<u8>,
    }

    impl Machine {
        fn new() -> Self {
            let mut coherents = Coherents::default();
            coherents.begin(7, SLOT, MEMORY, 0x100);
            Self { coherents, memory: RefCell::new(vec![0; 0x100]), buffer: vec![0; 0x100] }
        }

        fn see(&mut self, transfer: Transfer, at: usize, data: &[u8]) -> Option<Diverged> {
            let memory = self.memory.borrow();
            self.coherents.see(transfer, SLOT + at as u64, data, |address, bytes| {
                let at = (address - MEMORY) as usize;
                bytes.copy_from_slice(&memory[at..at + bytes.len()]);
                true
            })
        }

        fn dma_write(&mut self, at: usize, data: &[u8]) -> Option<Diverged> {
            self.buffer[at..at + data.len()].copy_from_slice(data);
            self.see(Transfer::Write, at, data)
        }

        fn dma_read(&mut self, at: usize, len: usize) -> Option<Diverged> {
            let data = self.buffer[at..at + len].to_vec();
            self.see(Transfer::Read, at, &data)
        }

        fn store(&self, at: usize, data: &[u8]) {
            self.memory.borrow_mut()[at..at + data.len()].copy_from_slice(data);
        }
    }

    #[test]
    fn a_devices_write_does_not_come_to_memory() {
        let mut machine = Machine::new();
        assert_eq!(machine.dma_write(0x10, &[0; 8]), None, "the same bytes");
        let found = machine.dma_write(0x3e, &[0, 1, 2, 3]).unwrap();
        let diverged = Diverged {
            mapping: 7,
            offset: 1,
            memory: 0x503f,
            expected: vec![1],
            found: vec![0],
            ram: vec![0],
        };
        assert_eq!(found, diverged, "the first line of two");
        assert_eq!(machine.see(Transfer::Write, 0x100, &[1]), None, "beyond it");
        machine.coherents.end(SLOT);
        assert!(machine.dma_write(0, &[9]).is_none() && machine.coherents.lines == 0);
    }

    #[test]
    fn a_device_reads_what_it_wrote_unless_a_cpu_has_stored_since() {
        let mut machine = Machine::new();
        assert_eq!(machine.dma_read(0, 0x100), None);
        machine.dma_write(0, &[1, 2, 3, 4]);
        assert_eq!(machine.dma_read(0, 8), None, "its own");
        machine.store(2, &[9]);
        let found = machine.dma_read(0, 8).unwrap();
        assert_eq!((found.offset, found.memory, found.expected, found.found), (2, 0x5002, vec![9], vec![3]));
        machine.store(6, &[5]);
        let found = machine.dma_read(1, 7).unwrap();
        assert_eq!((found.expected, found.found), (vec![9, 4, 0, 0, 5], vec![3, 4, 0, 0, 0]));
        assert_eq!(found.ram, [9, 0, 0, 0, 5], "the device's 4 has not come to memory");
    }

    #[test]
    fn copying_makes_both_equal() {
        let mut machine = Machine::new();
        machine.dma_write(0, &[1; 0x80]);
        // As dma_sync_single_for_cpu does with a part.
        machine.memory.borrow_mut()[0x20..0x50].fill(1);
        machine.coherents.copied(SLOT + 0x20, 0x30);
        machine.store(0x30, &[0]);
        let found = machine.dma_read(0, 0x80).unwrap();
        assert_eq!((found.memory, found.expected), (MEMORY + 0x30, vec![0]), "a store after the copy");
        machine.coherents.copied(SLOT, 0x1000);
        assert_eq!(machine.coherents.lines, 0);
        machine.coherents.copied(SLOT - 1, 5);
        machine.coherents.copied(SLOT + 0x200, 5);
    }

    #[test]
    fn what_is_not_kept_is_not_judged() {
        let mut coherents = Coherents::default();
        let lines = MAX_LINES as u64 + 1;
        coherents.begin(1, SLOT, 0, lines * LINE);
        let zero = |_: u64, bytes: &mut [u8]| {
            bytes.fill(0);
            true
        };
        for line in 0..lines {
            assert!(coherents.see(Transfer::Write, SLOT + line * LINE, &[1], zero).is_some());
        }
        assert_eq!(coherents.lines, MAX_LINES);
        assert_eq!(coherents.see(Transfer::Read, SLOT + (lines - 1) * LINE, &[1], zero), None);
        coherents.end(SLOT);
        assert_eq!(coherents.lines, 0);
    }

    #[test]
    fn buffers_side_by_side_are_told_apart() {
        let mut coherents = Coherents::default();
        coherents.begin(1, SLOT, 0x1000, 0x800);
        coherents.begin(2, SLOT + 0x800, 0x9000, 0x800);
        let zero = |_: u64, bytes: &mut [u8]| {
            bytes.fill(0);
            true
        };
        let found = coherents.see(Transfer::Write, SLOT + 0x7fe, &[0, 0, 1, 1], zero).unwrap();
        assert_eq!((found.mapping, found.memory, found.offset), (2, 0x9000, 2));
        let none = |_: u64, _: &mut [u8]| false;
        assert_eq!(coherents.see(Transfer::Write, SLOT, &[1], none), None, "no RAM there");
    }
}
