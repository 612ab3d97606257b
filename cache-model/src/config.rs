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

/// Who decides, beyond geometry and replacement policy, when lines move. A schedule acts from
/// [`crate::CacheModel::start_schedule`] on and only does what a cache may do at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schedule {
    /// Nobody.
    #[default]
    None,
    /// A seeded adversary writes dirty lines back, drops clean lines and refills speculatively, at random.
    Random,
    /// An adversary that puts each of these at the moment that changes what a device or CPU reads.
    Worst,
}

/// Bounds on what the model remembers; beyond them things are counted, not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Lines in doubt: written past the cache, or dropped dirty. Some hundred bytes each.
    pub records: usize,
    /// Lines outside the cache of which it is known what CPUs have stored there since the last clean; at most 2^22. About 200
    /// bytes each.
    pub spilled: usize,
    /// Groups of 64 neighbouring lines that have entered as unknown.
    pub unknown: usize,
    /// Lines with data not yet fenced, over all CPUs: of write-combining and non-temporal stores and of weakly ordered flushes.
    pub pending: usize,
    /// Findings not yet taken, each with all that is known of its line: a few kilobytes.
    pub findings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { records: 1 << 16, spilled: 1 << 17, unknown: 1 << 17, pending: 1 << 12, findings: 1 << 14 }
    }
}

/// Why a configuration cannot be modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Tree-PLRU needs a complete binary tree.
    #[error("policy=plru needs a power of two of at most {MAX_PLRU_WAYS} ways, not {0}")]
    PlruWays(usize),
    /// Both levels have lines of one size.
    #[error("the second level's line of {second} bytes is not the first level's of {first}")]
    LineSizes {
        /// The first level's line in bytes.
        first: usize,
        /// The second level's line in bytes.
        second: usize,
    },
}

/// A cache: geometry, replacement and write policies, and the model's own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    geometry: Geometry,
    policy: Policy,
    write: WritePolicy,
    allocate: bool,
    write_back: WriteBack,
    limits: Limits,
    second: Option<(Geometry, Policy)>,
    schedule: Schedule,
}

impl Config {
    /// A write-back, write-allocate cache that writes back whole lines.
    ///
    /// # Errors
    /// If the policy cannot work with this number of ways.
    pub fn new(geometry: Geometry, policy: Policy) -> Result<Self, ConfigError> {
        check_ways(geometry, policy)?;
        Ok(Self {
            geometry,
            policy,
            write: WritePolicy::default(),
            allocate: true,
            write_back: WriteBack::default(),
            limits: Limits::default(),
            second: None,
            schedule: Schedule::None,
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

    /// The same with a second level behind the first.
    ///
    /// # Errors
    /// If its lines are of another size than the first level's, or the policy cannot work with its number of ways.
    pub fn with_second_level(self, geometry: Geometry, policy: Policy) -> Result<Self, ConfigError> {
        check_ways(geometry, policy)?;
        let (first, second) = (self.geometry.line(), geometry.line());
        if first != second {
            return Err(ConfigError::LineSizes { first, second });
        }
        Ok(Self { second: Some((geometry, policy)), ..self })
    }

    /// The same under an adversarial schedule.
    #[must_use]
    pub fn with_schedule(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
    }

    /// The cache's shape (its first level's, if there are two).
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

    /// The second level's shape and replacement policy, if there is one.
    #[must_use]
    pub fn second_level(&self) -> Option<(Geometry, Policy)> {
        self.second
    }

    /// Who moves lines beyond geometry and policy.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// The model's limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

fn check_ways(geometry: Geometry, policy: Policy) -> Result<(), ConfigError> {
    let ways = geometry.ways();
    if policy == Policy::TreePlru && !(ways.is_power_of_two() && ways <= MAX_PLRU_WAYS) {
        return Err(ConfigError::PlruWays(ways));
    }
    Ok(())
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
