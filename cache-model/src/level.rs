//! One level of the cache: in which slots a line may be, in which it is, and which it would get.
//!
//! The slots of all levels are numbered in one row; `tags` holds the number of each one's line.

use serde::{Deserialize, Serialize};

use crate::geometry::Geometry;
use crate::policy::{Policy, Replacement};

/// The line number of a slot that holds none. (Lines have at least 16 bytes, so no address is in it.)
pub const NONE: u64 = u64::MAX;

/// A level's sets and their replacement. What is in its slots, [`crate::lines::Lines`] knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Level {
    pub geometry: Geometry,
    /// Its first slot.
    pub start: usize,
    pub replacement: Replacement,
}

impl Level {
    pub fn new(geometry: Geometry, policy: Policy, start: usize) -> Self {
        Self { geometry, start, replacement: Replacement::new(policy, geometry) }
    }

    /// The slots in which a line may be.
    #[inline]
    pub fn set(&self, line: u64) -> std::ops::Range<usize> {
        let ways = self.geometry.ways();
        let first = self.start + self.geometry.set_of(line) * ways;
        first..first + ways
    }

    /// The slot of a line, if it is in this level.
    #[inline]
    pub fn find(&self, tags: &[u64], line: u64) -> Option<usize> {
        let slots = self.set(line);
        let start = slots.start;
        let (eights, rest) = tags.get(slots)?.as_chunks::<8>();
        // Without a branch for each way: which one it is cannot be predicted.
        let way_in = |tags: &[u64]| {
            let mut found = usize::MAX;
            for (way, tag) in tags.iter().enumerate() {
                found = if *tag == line { way } else { found };
            }
            found
        };
        for (index, eight) in eights.iter().enumerate() {
            let way = way_in(eight);
            if way != usize::MAX {
                return Some(start + index * 8 + way);
            }
        }
        let way = way_in(rest);
        (way != usize::MAX).then(|| start + eights.len() * 8 + way)
    }

    /// The slot for a line that is absent: the lowest free one of its set, or that of the policy's victim if that is no matter
    /// of chance.
    #[inline]
    pub fn next_room(&self, tags: &[u64], line: u64) -> Option<usize> {
        let slots = self.set(line);
        let start = slots.start;
        // The others' victim is a free way, if there is one.
        let looks = matches!(self.replacement.policy(), Policy::TreePlru | Policy::Random { .. });
        let free = |tags: &[u64]| tags.iter().position(|tag| *tag == NONE);
        let free = if looks { tags.get(slots).and_then(free) } else { None };
        let way = free.or_else(|| self.replacement.next_victim(self.geometry.set_of(line)))?;
        Some(start + way)
    }

    /// As [`Level::next_room`], whatever the policy.
    pub fn room(&mut self, tags: &[u64], line: u64) -> usize {
        self.next_room(tags, line)
            .unwrap_or_else(|| self.set(line).start + self.replacement.victim(self.geometry.set_of(line)))
    }

    /// Set and way of a slot.
    #[inline]
    pub fn place(&self, slot: usize) -> (usize, usize) {
        let (index, ways) = (slot - self.start, self.geometry.ways());
        (index / ways, index % ways)
    }
}
