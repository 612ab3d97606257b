//! Data on its way that may not have reached RAM, because nothing guarantees it before a fence: write-combining and
//! non-temporal stores, and lines that weakly ordered flushes write back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::finding::Writer;
use crate::mask::ByteMask;

/// A line's bytes and whose they are, disjoint.
type Parts = Vec<(ByteMask, Writer)>;

/// What data waits for on its way to RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For its buffer to be drained: by a fence, or by an access that buffers do not outlast.
    Drain,
    /// For a fence.
    Fence,
}

/// What one CPU has sent on its way, by line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sent {
    buffered: BTreeMap<u64, Parts>,
    flushed: BTreeMap<u64, Parts>,
}

impl Sent {
    fn waiting(&mut self, wait: Wait) -> &mut BTreeMap<u64, Parts> {
        match wait {
            Wait::Drain => &mut self.buffered,
            Wait::Fence => &mut self.flushed,
        }
    }

    fn parts(&self, line: u64) -> impl Iterator<Item = &Parts> {
        [&self.buffered, &self.flushed].into_iter().filter_map(move |lines| lines.get(&line))
    }
}

/// The bytes that each CPU has sent on their way since its last fence.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pending {
    cpus: BTreeMap<u32, Sent>,
    lines: usize,
}

impl Pending {
    /// Notes bytes and who wrote them; false if that is forgotten because `limit` lines are pending.
    pub fn add(
        &mut self,
        (cpu, wait): (u32, Wait),
        line: u64,
        bytes: ByteMask,
        writer: Writer,
        limit: usize,
    ) -> bool {
        let lines = self.cpus.entry(cpu).or_default().waiting(wait);
        if let Some(parts) = lines.get_mut(&line) {
            without(parts, bytes);
            parts.push((bytes, writer));
            return true;
        }
        if self.lines >= limit {
            return false;
        }
        lines.insert(line, vec![(bytes, writer)]);
        self.lines += 1;
        true
    }

    /// True if some bytes of a line are on their way.
    #[inline]
    pub fn contains(&self, line: u64) -> bool {
        self.lines != 0 && self.parts(line).next().is_some()
    }

    /// Bytes of a line have been written again: they are not these CPUs' any more.
    pub fn overwritten(&mut self, line: u64, bytes: ByteMask) {
        for sent in self.cpus.values_mut() {
            for wait in [Wait::Drain, Wait::Fence] {
                let lines = sent.waiting(wait);
                let Some(parts) = lines.get_mut(&line) else { continue };
                without(parts, bytes);
                if parts.is_empty() {
                    lines.remove(&line);
                    self.lines = self.lines.saturating_sub(1);
                }
            }
        }
    }

    /// The line has been flushed in order, after whatever flushes of it were weakly ordered.
    pub fn flushed(&mut self, line: u64) {
        for sent in self.cpus.values_mut() {
            let gone = sent.flushed.remove(&line).is_some();
            self.lines = self.lines.saturating_sub(usize::from(gone));
        }
    }

    /// The CPU's data that waits for this is in RAM now: that of these lines.
    pub fn complete(&mut self, cpu: u32, wait: Wait) -> Vec<u64> {
        let Some(sent) = self.cpus.get_mut(&cpu) else { return Vec::new() };
        let done: Vec<u64> = std::mem::take(sent.waiting(wait)).into_keys().collect();
        self.lines = self.lines.saturating_sub(done.len());
        done
    }

    /// The bytes of a line that are on their way.
    pub fn bytes(&self, line: u64) -> ByteMask {
        self.parts(line).fold(ByteMask::EMPTY, |all, (bytes, _)| all.or(*bytes))
    }

    /// Who has written a byte that is on its way.
    pub fn author(&self, line: u64, offset: usize) -> Option<Writer> {
        self.parts(line).find(|(bytes, _)| bytes.contains(offset)).map(|&(_, writer)| writer)
    }

    /// What is on its way of a line.
    pub fn parts(&self, line: u64) -> impl Iterator<Item = &(ByteMask, Writer)> {
        self.cpus.values().flat_map(move |sent| sent.parts(line)).flatten()
    }
}

fn without(parts: &mut Parts, bytes: ByteMask) {
    for (other, _) in parts.iter_mut() {
        *other = other.without(bytes);
    }
    parts.retain(|(other, _)| !other.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_completes_is_one_cpu_s() {
        let by = |cpu| Writer::cpu(cpu, 1, 2);
        let mut pending = Pending::default();
        assert!(pending.add((0, Wait::Drain), 4, ByteMask::range(0, 4), by(0), 2));
        assert!(pending.add((1, Wait::Drain), 4, ByteMask::range(8, 4), by(1), 2));
        assert!(!pending.add((1, Wait::Drain), 5, ByteMask::range(8, 4), by(1), 2));
        assert_eq!(pending.complete(1, Wait::Drain), [4]);
        assert_eq!(pending.bytes(4), ByteMask::range(0, 4));
        assert!(pending.add((1, Wait::Drain), 5, ByteMask::range(8, 4), by(1), 2));
        pending.complete(0, Wait::Drain);
        pending.complete(1, Wait::Drain);
        assert_eq!((pending.lines, pending.bytes(4)), (0, ByteMask::EMPTY));
    }

    #[test]
    fn a_buffer_that_drains_completes_no_flush() {
        let mut pending = Pending::default();
        pending.add((0, Wait::Drain), 4, ByteMask::range(0, 4), Writer::cpu(0, 1, 2), 2);
        pending.add((0, Wait::Fence), 4, ByteMask::range(8, 4), Writer::cpu(0, 1, 3), 2);
        assert_eq!(pending.complete(0, Wait::Drain), [4]);
        assert_eq!((pending.lines, pending.bytes(4)), (1, ByteMask::range(8, 4)));
        pending.flushed(4);
        assert_eq!((pending.lines, pending.contains(4)), (0, false));
        assert!(pending.complete(0, Wait::Fence).is_empty());
    }

    #[test]
    fn each_byte_has_its_last_writer() {
        let mut pending = Pending::default();
        for stamp in 0..4 {
            pending.add((0, Wait::Drain), 4, ByteMask::range(stamp, 4), Writer::cpu(0, 1, stamp as u64), 2);
        }
        let stamps = [0, 1, 2, 3, 6, 7].map(|at| pending.author(4, at).map(|writer| writer.stamp));
        assert_eq!(stamps, [Some(0), Some(1), Some(2), Some(3), Some(3), None]);
        pending.overwritten(4, ByteMask::range(1, 2));
        assert_eq!(pending.bytes(4), ByteMask::range(0, 1).or(ByteMask::range(3, 4)));
        pending.overwritten(4, ByteMask::range(0, 64));
        assert_eq!(pending.lines, 0);
    }
}
