//! Write-combining and non-temporal data that may not have reached RAM: nothing guarantees it before a fence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mask::ByteMask;

/// The bytes each CPU has written since its last fence, by line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pending {
    cpus: BTreeMap<u32, BTreeMap<u64, ByteMask>>,
    lines: usize,
}

impl Pending {
    /// Notes a write; false if it is forgotten because `limit` lines are pending.
    pub fn add(&mut self, cpu: u32, line: u64, bytes: ByteMask, limit: usize) -> bool {
        if let Some(known) = self.cpus.get_mut(&cpu).and_then(|lines| lines.get_mut(&line)) {
            *known = known.or(bytes);
            return true;
        }
        if self.lines >= limit {
            return false;
        }
        self.cpus.entry(cpu).or_default().insert(line, bytes);
        self.lines += 1;
        true
    }

    /// The CPU's data is in RAM now.
    pub fn fence(&mut self, cpu: u32) {
        let drained = self.cpus.remove(&cpu).map_or(0, |lines| lines.len());
        self.lines = self.lines.saturating_sub(drained);
    }

    /// The bytes of a line that some CPU has not fenced.
    pub fn bytes(&self, line: u64) -> ByteMask {
        let masks = self.cpus.values().filter_map(|lines| lines.get(&line));
        masks.fold(ByteMask::EMPTY, |all, mask| all.or(*mask))
    }

    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_drains_its_own_cpu() {
        let mut pending = Pending::default();
        assert!(pending.add(0, 4, ByteMask::range(0, 4), 2));
        assert!(pending.add(1, 4, ByteMask::range(8, 4), 2));
        assert!(!pending.add(1, 5, ByteMask::range(8, 4), 2));
        pending.fence(1);
        assert_eq!(pending.bytes(4), ByteMask::range(0, 4));
        assert!(pending.add(1, 5, ByteMask::range(8, 4), 2));
        pending.fence(0);
        pending.fence(1);
        assert!(pending.is_empty());
    }
}
