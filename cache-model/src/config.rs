//! What kind of cache is modelled.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::geometry::Geometry;
use crate::policy::{MAX_PLRU_WAYS, Policy};

/// What a store to write-back memory does in this cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WritePolicy {
    /// It makes the line dirty.
    #[default]
    Back,
    /// It goes to RAM at once, as to write-through memory.
    Through,
}

/// How much of a dirty line a write-back writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteBack {
    /// All of it: bytes that a device wrote meanwhile are lost.
    #[default]
    Line,
    /// The dirty bytes (byte enables).
    Bytes,
}

/// Bounds on what the model remembers; beyond them things are counted, not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Lines with side state: masks, coherent values.
    pub records: usize,
    /// Lines with write-combining or non-temporal data not yet fenced, over all CPUs.
    pub pending: usize,
    /// Findings not yet taken.
    pub findings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { records: 1 << 18, pending: 1 << 12, findings: 1 << 16 }
    }
}

/// Tree-PLRU needs a complete binary tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("policy=plru needs a power of two of at most {MAX_PLRU_WAYS} ways, not {0}")]
pub struct PlruWays(pub usize);

/// A cache: geometry, replacement and write policies, and the model's own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    geometry: Geometry,
    policy: Policy,
    write: WritePolicy,
    allocate: bool,
    write_back: WriteBack,
    limits: Limits,
}

impl Config {
    /// A write-back, write-allocate cache that writes back whole lines.
    ///
    /// # Errors
    /// If the policy cannot work with this number of ways.
    pub fn new(geometry: Geometry, policy: Policy) -> Result<Self, PlruWays> {
        let ways = geometry.ways();
        if policy == Policy::TreePlru && !(ways.is_power_of_two() && ways <= MAX_PLRU_WAYS) {
            return Err(PlruWays(ways));
        }
        Ok(Self {
            geometry,
            policy,
            write: WritePolicy::default(),
            allocate: true,
            write_back: WriteBack::default(),
            limits: Limits::default(),
        })
    }

    /// The same with another write policy.
    #[must_use]
    pub fn with_write(self, write: WritePolicy) -> Self {
        Self { write, ..self }
    }

    /// The same with or without write-allocate.
    #[must_use]
    pub fn with_allocate(self, allocate: bool) -> Self {
        Self { allocate, ..self }
    }

    /// The same with another extent of write-backs.
    #[must_use]
    pub fn with_write_back(self, write_back: WriteBack) -> Self {
        Self { write_back, ..self }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The cache's shape.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The replacement policy.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// What stores to write-back memory do.
    #[must_use]
    pub fn write(&self) -> WritePolicy {
        self.write
    }

    /// True if a store that misses brings its line in. Write-through stores never do.
    #[must_use]
    pub fn allocates(&self) -> bool {
        self.allocate
    }

    /// The extent of a write-back.
    #[must_use]
    pub fn write_back(&self) -> WriteBack {
        self.write_back
    }

    /// The model's limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plru_wants_a_full_tree() {
        for (ways, fits) in [(1, true), (3, false), (8, true), (64, true), (128, false)] {
            let geometry = Geometry::new(64, 1, ways).unwrap();
            assert_eq!(Config::new(geometry, Policy::TreePlru).is_ok(), fits, "{ways}");
            assert!(Config::new(geometry, Policy::Lru).is_ok(), "{ways}");
        }
    }
}
