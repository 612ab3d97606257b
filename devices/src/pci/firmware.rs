//! What firmware does before it hands the machine over: bus numbers, BARs, bridge windows, decode bits.

use super::endpoint::Endpoint;
use super::root_port::RootPort;
use super::{BarInfo, Slot};

/// Granularity of a bridge's memory windows.
const WINDOW_UNIT: u64 = 1 << 20;

/// Address space that firmware may give to PCI functions; first and last address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceWindows {
    /// Below 4 GiB, for everything that is not both 64-bit and prefetchable.
    pub memory32: (u64, u64),
    /// For 64-bit prefetchable BARs.
    pub memory64: (u64, u64),
}

/// The BARs of the devices present do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for BAR {bar} ({size:#x} bytes) of the device in PCI slot {slot}")]
pub struct AssignError {
    pub slot: Slot,
    pub bar: u8,
    pub size: u64,
}

/// Places addresses upwards in one window.
struct Allocator {
    next: u64,
    last: u64,
}

impl Allocator {
    fn new((first, last): (u64, u64)) -> Self {
        Self { next: first, last }
    }

    fn align(&mut self, unit: u64) -> Option<()> {
        self.next = self.next.checked_next_multiple_of(unit)?;
        Some(())
    }

    fn allocate(&mut self, size: u64) -> Option<u64> {
        self.align(size)?;
        let base = self.next;
        let last = base.checked_add(size - 1).filter(|&last| last <= self.last)?;
        self.next = last.checked_add(1)?;
        Some(base)
    }

    /// Places `bars` in a bridge window of their own; returns the window.
    fn place(
        &mut self,
        slot: Slot,
        endpoint: &mut Endpoint,
        mut bars: Vec<BarInfo>,
    ) -> Result<Option<(u64, u64)>, AssignError> {
        bars.sort_by_key(|bar| std::cmp::Reverse(bar.size));
        let Some(largest) = bars.first() else { return Ok(None) };
        let error = |bar: &BarInfo| AssignError { slot, bar: bar.index, size: bar.size };
        self.align(largest.size.max(WINDOW_UNIT)).ok_or(error(largest))?;
        let first = self.next;
        for bar in &bars {
            let base = self.allocate(bar.size).ok_or(error(bar))?;
            endpoint.place_bar(bar, base);
        }
        self.align(WINDOW_UNIT).ok_or(error(largest))?;
        Ok(Some((first, self.next - 1)))
    }
}

/// Programs every root port and the endpoints behind them.
pub(super) fn assign(ports: &mut [RootPort], windows: &ResourceWindows) -> Result<(), AssignError> {
    let mut memory32 = Allocator::new(windows.memory32);
    let mut memory64 = Allocator::new(windows.memory64);
    for (port, slot) in ports.iter_mut().zip(1..) {
        let mut opened = (None, None);
        if let Some(endpoint) = port.reachable() {
            let (high, low): (Vec<_>, Vec<_>) =
                endpoint.bars().iter().partition(|bar| bar.is_64bit && bar.prefetchable);
            opened = (memory32.place(slot, endpoint, low)?, memory64.place(slot, endpoint, high)?);
            endpoint.enable_memory();
        }
        port.set_buses(slot);
        port.set_windows(opened.0, opened.1);
        port.enable();
    }
    Ok(())
}
