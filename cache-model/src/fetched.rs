//! The line that each vCPU last fetched instructions from: fetching on from it is no access to the cache.

use serde::{Deserialize, Serialize};

use crate::stats::MAX_AGENTS;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Last {
    line: u64,
    /// [`crate::coherence::Coherence::doubts`] when the line was last known to be in no doubt.
    sound: Option<u64>,
}

/// The last fetched line of each vCPU.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Fetched(Vec<Option<Last>>);

impl Fetched {
    /// True if this is the vCPU's last line, and no line has come to be in doubt since it was not.
    #[inline]
    pub fn is_sound(&self, cpu: u32, line: u64, doubts: u64) -> bool {
        let last = self.0.get(cpu as usize).copied().flatten();
        last.is_some_and(|last| last.line == line && last.sound == Some(doubts))
    }

    /// True if this is the vCPU's last line.
    #[inline]
    pub fn is(&self, cpu: u32, line: u64) -> bool {
        self.0.get(cpu as usize).copied().flatten().is_some_and(|last| last.line == line)
    }

    /// The vCPU fetches from this line, which is `sound` as of a number of doubts or in doubt.
    #[inline]
    pub fn set(&mut self, cpu: u32, line: u64, sound: Option<u64>) {
        let index = cpu as usize;
        if index >= self.0.len() {
            if index >= MAX_AGENTS {
                return;
            }
            self.0.resize(index + 1, None);
        }
        if let Some(last) = self.0.get_mut(index) {
            *last = Some(Last { line, sound });
        }
    }
}
