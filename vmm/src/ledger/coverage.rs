//! What can be judged by the ledger, and why not the rest.

use super::functions::{self, Does, Version};
use crate::guest::Guest;
use serde::{Deserialize, Serialize};

/// Most reasons that are kept.
const MAX_REASONS: usize = 32;

/// Which rules have all that they need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Every mapping is known: what a device accesses outside of all is wrong.
    pub mappings: bool,
    /// So is every mapping's end: what a device accesses after it is wrong.
    pub unmaps: bool,
    /// So is every sync: a missing one is.
    pub syncs: bool,
    /// Why not.
    pub reasons: Vec<String>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { mappings: true, unmaps: true, syncs: true, reasons: Vec::new() }
    }
}

/// Functions that only a kernel with dma-debug has (CONFIG_DMA_API_DEBUG): such a kernel calls the DMA API's functions even
/// where they have nothing to do.
const DEBUG: [&str; 2] = ["debug_dma_map_phys", "debug_dma_map_page"];

impl Coverage {
    /// What can be judged in a kernel that has all the functions but `missing`.
    #[must_use]
    pub fn of(guest: &Guest, version: Version, missing: &[&functions::Function]) -> Self {
        let mut coverage = Self::default();
        for function in missing {
            let what = match function.does {
                does if does.is_sync() => {
                    coverage.syncs = false;
                    "missing syncs are"
                }
                does if does.is_known_at_return() => {
                    coverage.lose_mappings();
                    "accesses out of mappings and missing syncs are"
                }
                Does::Dump => continue,
                _ => {
                    coverage.unmaps = false;
                    "accesses after unmap are"
                }
            };
            coverage.because(format!(
                "the kernel has no function {} to follow: {what} not judged",
                function.name
            ));
        }
        let debug = DEBUG.into_iter().any(|function| guest.address(function).is_some());
        if !debug && version >= Version(6, 10) {
            coverage.syncs = false;
            coverage.because(format!(
                "Linux {}.{} without CONFIG_DMA_API_DEBUG leaves out dma_sync_* of coherent devices: missing syncs are not judged",
                version.0, version.1
            ));
        }
        if !debug && guest.address("dma_need_unmap").is_some() {
            coverage.unmaps = false;
            coverage.because(
                "drivers may leave out dma_unmap_* of coherent devices (dma_need_unmap()): accesses after unmap are not judged"
                    .into(),
            );
        }
        coverage
    }

    fn lose_mappings(&mut self) {
        (self.mappings, self.unmaps, self.syncs) = (false, false, false);
    }

    fn because(&mut self, reason: String) {
        if self.reasons.len() < MAX_REASONS && !self.reasons.contains(&reason) {
            log::info!("ledger: {reason}");
            self.reasons.push(reason);
        }
    }

    /// A call that made or ended a mapping was not understood: nothing can be held against anybody any more.
    pub fn lost(&mut self, reason: impl Into<String>) {
        self.lose_mappings();
        self.because(format!("{}: mappings are not judged", reason.into()));
    }
}
