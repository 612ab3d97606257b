//! What the machine's cache has done, and for whom.

use super::Machine;
use crate::findings::agent_name;
use cache_model::Stats;
use serde::Serialize;

/// Counters of the machine's cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheStatistics {
    /// Hits and misses of the vCPUs; fills, evictions and write-backs of all.
    #[serde(flatten)]
    pub all: Stats,
    /// Accesses that missed the first level and found their line in the second.
    pub second_level_hits: u64,
    /// Reads not judged since their line's past is unknown: of a cache with scope=dma.
    pub unjudged: u64,
    /// What each vCPU and device has caused, vCPUs first.
    pub agents: Vec<AgentStatistics>,
}

/// What one vCPU or device has caused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentStatistics {
    pub agent: String,
    #[serde(flatten)]
    pub stats: Stats,
}

impl Machine {
    /// What its cache has done, if it has one.
    #[must_use]
    pub fn cache_statistics(&self) -> Option<CacheStatistics> {
        let model = self.memory.cache.as_ref()?.model();
        let agents = model.stats_by_agent().into_iter();
        Some(CacheStatistics {
            all: model.stats(),
            second_level_hits: model.second_level_hits(),
            unjudged: model.unjudged(),
            agents: agents
                .map(|(agent, stats)| AgentStatistics { agent: agent_name(agent, &self.devices), stats })
                .collect(),
        })
    }
}
