//! Write-combining and non-temporal data that may not have reached RAM: nothing guarantees it before a fence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::finding::Writer;
use crate::mask::ByteMask;

/// A line's bytes and whose they are, disjoint.
type Parts = Vec<(ByteMask, Writer)>;

/// The bytes each CPU has written since its last fence, by line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pending {
    cpus: BTreeMap<u32, BTreeMap<u64, Parts>>,
    lines: usize,
}

impl Pending {
    /// Notes a write; false if it is forgotten because `limit` lines are pending.
    pub fn add(&mut self, cpu: u32, line: u64, bytes: ByteMask, writer: Writer, limit: usize) -> bool {
        let known = self.cpus.get_mut(&cpu).and_then(|lines| lines.get_mut(&line));
        if let Some(parts) = known {
            without(parts, bytes);
            parts.push((bytes, writer));
            return true;
        }
        if self.lines >= limit {
            return false;
        }
        self.cpus.entry(cpu).or_default().insert(line, vec![(bytes, writer)]);
        self.lines += 1;
        true
    }

    /// True if some CPU has not fenced what it wrote to a line.
    #[inline]
    pub fn contains(&self, line: u64) -> bool {
        self.lines != 0 && self.cpus.values().any(|lines| lines.contains_key(&line))
    }

    /// Bytes of a line have been written again: they are not these CPUs' any more.
    pub fn overwritten(&mut self, line: u64, bytes: ByteMask) {
        for lines in self.cpus.values_mut() {
            let Some(parts) = lines.get_mut(&line) else { continue };
            without(parts, bytes);
            if parts.is_empty() {
                lines.remove(&line);
                self.lines = self.lines.saturating_sub(1);
            }
        }
    }

    /// The CPU's data is in RAM now: that of these lines.
    pub fn fence(&mut self, cpu: u32) -> Vec<u64> {
        let drained: Vec<u64> = self.cpus.remove(&cpu).into_iter().flat_map(BTreeMap::into_keys).collect();
        self.lines = self.lines.saturating_sub(drained.len());
        drained
    }

    /// The bytes of a line that some CPU has not fenced.
    pub fn bytes(&self, line: u64) -> ByteMask {
        self.parts(line).fold(ByteMask::EMPTY, |all, (bytes, _)| all.or(*bytes))
    }

    /// Who has written a byte and not fenced it.
    pub fn author(&self, line: u64, offset: usize) -> Option<Writer> {
        self.parts(line).find(|(bytes, _)| bytes.contains(offset)).map(|&(_, writer)| writer)
    }

    /// What is unfenced of a line.
    pub fn parts(&self, line: u64) -> impl Iterator<Item = &(ByteMask, Writer)> {
        self.cpus.values().filter_map(move |lines| lines.get(&line)).flatten()
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
    fn a_fence_drains_its_own_cpu() {
        let by = |cpu| Writer::cpu(cpu, 1, 2);
        let mut pending = Pending::default();
        assert!(pending.add(0, 4, ByteMask::range(0, 4), by(0), 2));
        assert!(pending.add(1, 4, ByteMask::range(8, 4), by(1), 2));
        assert!(!pending.add(1, 5, ByteMask::range(8, 4), by(1), 2));
        assert_eq!(pending.fence(1), [4]);
        assert_eq!(pending.bytes(4), ByteMask::range(0, 4));
        assert!(pending.add(1, 5, ByteMask::range(8, 4), by(1), 2));
        pending.fence(0);
        pending.fence(1);
        assert_eq!((pending.lines, pending.bytes(4)), (0, ByteMask::EMPTY));
    }

    #[test]
    fn each_byte_has_its_last_writer() {
        let mut pending = Pending::default();
        for stamp in 0..4 {
            pending.add(0, 4, ByteMask::range(stamp, 4), Writer::cpu(0, 1, stamp as u64), 2);
        }
        let stamps = [0, 1, 2, 3, 6, 7].map(|at| pending.author(4, at).map(|writer| writer.stamp));
        assert_eq!(stamps, [Some(0), Some(1), Some(2), Some(3), Some(3), None]);
        pending.overwritten(4, ByteMask::range(1, 2));
        assert_eq!(pending.bytes(4), ByteMask::range(0, 1).or(ByteMask::range(3, 4)));
        pending.overwritten(4, ByteMask::range(0, 64));
        assert_eq!(pending.lines, 0);
    }
}
