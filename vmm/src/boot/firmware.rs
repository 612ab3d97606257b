//! What this VMM leaves in processors as the firmware: memory types (SDM volume 3A, 12.11).

use crate::memory::layout::{GIB, LOW_RAM_MAX, PCI_WINDOW_64};
use x86_cpu::Mtrrs;

/// The memory type range registers of every processor: everything is write-back but the PCI holes.
#[must_use]
pub fn mtrrs() -> Mtrrs {
    let mut mtrrs = Mtrrs::default();
    for (base, size) in [(LOW_RAM_MAX, GIB), (PCI_WINDOW_64.start, PCI_WINDOW_64.size)] {
        let fits = mtrrs.set_uncacheable(base, size);
        debug_assert!(fits, "the variable MTRRs suffice for both holes");
    }
    mtrrs
}
