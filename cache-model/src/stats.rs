//! What the cache did, and for whom.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::finding::Agent;

/// The most agents with counters of their own; what any others cause is in the sum only.
pub const MAX_AGENTS: usize = 1 << 10;

/// What the cache did. Hits and misses count one for each line that an access touches.
///
/// Of a CPU: its cacheable accesses. Of a device: its snooped ones, for which a hit is a line that was resident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Loads (and fetches) that found their line resident.
    pub load_hits: u64,
    /// Loads (and fetches) that had to fill.
    pub load_misses: u64,
    /// Stores that found their line resident.
    pub store_hits: u64,
    /// Stores that found their line absent, whether they allocated or not.
    pub store_misses: u64,
    /// Lines brought in, on demand or speculatively.
    pub fills: u64,
    /// Lines that made room for another or left by a schedule's choice (not by cache maintenance or a snoop).
    pub evictions: u64,
    /// Dirty lines written to RAM, for whatever reason.
    pub writebacks: u64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.load_hits += other.load_hits;
        self.load_misses += other.load_misses;
        self.store_hits += other.store_hits;
        self.store_misses += other.store_misses;
        self.fills += other.fills;
        self.evictions += other.evictions;
        self.writebacks += other.writebacks;
    }
}

/// Counters of every agent, and of the schedule.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    cpus: Vec<Stats>,
    devices: BTreeMap<u32, Stats>,
    /// What no agent caused, or one of too many CPUs.
    rest: Stats,
    /// Of too many devices.
    other_devices: Stats,
}

impl Counters {
    /// A CPU's counters, if it has any yet.
    #[inline]
    pub fn of_cpu(&mut self, cpu: u32) -> Option<&mut Stats> {
        self.cpus.get_mut(cpu as usize)
    }

    /// An agent's counters; with `None`, those of the schedule.
    #[inline]
    pub fn of(&mut self, agent: Option<Agent>) -> &mut Stats {
        match agent {
            Some(Agent::Cpu(cpu)) if (cpu as usize) < self.cpus.len() => {
                self.cpus.get_mut(cpu as usize).unwrap_or(&mut self.rest)
            }
            _ => self.of_another(agent),
        }
    }

    /// As [`Counters::of`], where it is no CPU that has counters already.
    fn of_another(&mut self, agent: Option<Agent>) -> &mut Stats {
        match agent {
            Some(Agent::Cpu(cpu)) if (cpu as usize) < MAX_AGENTS => {
                self.cpus.resize(cpu as usize + 1, Stats::default());
                self.cpus.last_mut().unwrap_or(&mut self.rest)
            }
            Some(Agent::Device(device)) => {
                if self.devices.len() < MAX_AGENTS || self.devices.contains_key(&device) {
                    return self.devices.entry(device).or_default();
                }
                &mut self.other_devices
            }
            _ => &mut self.rest,
        }
    }

    /// Hits and misses of the CPUs; fills, evictions and write-backs of all.
    pub fn sum(&self) -> Stats {
        let mut sum = self.rest;
        self.cpus.iter().for_each(|stats| sum += *stats);
        for stats in self.devices.values().chain([&self.other_devices]) {
            sum.fills += stats.fills;
            sum.evictions += stats.evictions;
            sum.writebacks += stats.writebacks;
        }
        sum
    }

    /// Every agent that has caused anything, CPUs first.
    pub fn by_agent(&self) -> Vec<(Agent, Stats)> {
        let cpus = (0_u32..).zip(&self.cpus).map(|(cpu, stats)| (Agent::Cpu(cpu), *stats));
        let devices = self.devices.iter().map(|(&device, &stats)| (Agent::Device(device), stats));
        cpus.chain(devices).filter(|(_, stats)| *stats != Stats::default()).collect()
    }
}
