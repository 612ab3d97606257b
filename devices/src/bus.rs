//! The contract between a bus and the devices on it.

use crate::state::SaveState;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Virtual time in nanoseconds since the machine was switched on.
pub type Nanos = u64;

/// Why a device did not take an access. The bus answers a failed read with all-ones and drops a failed write,
/// and logs either at a limited rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Nothing is implemented at this offset.
    #[error("no register at this offset")]
    NoRegister,
    /// The register exists, but not for accesses of this size.
    #[error("access of an unsupported size")]
    BadSize,
    /// The register must be accessed at its natural alignment.
    #[error("unaligned access")]
    Unaligned,
    /// Decoding is switched off (PCI command register, power state).
    #[error("decoding is disabled")]
    Disabled,
}

/// Outcome of one access to a device register.
pub type Access = Result<(), AccessError>;

/// What a platform device sees of the machine, lent for one call.
pub trait Platform {
    /// Current virtual time.
    fn now(&self) -> Nanos;
    /// Drives the global system interrupt `gsi` (an IO-APIC input; below 16 also an 8259 input) to `high`.
    fn set_irq(&mut self, gsi: u32, high: bool);
    /// Asks for [`PlatformDevice::event`] with `token` at virtual time `at`, replacing an event of the same
    /// device and token that is still pending.
    fn schedule(&mut self, at: Nanos, token: u32);
    /// Withdraws a pending event of this device and token.
    fn cancel(&mut self, token: u32);
    /// Asks the machine to act on its power state after this access.
    fn power(&mut self, request: PowerRequest);
}

/// What a guest can ask of the power logic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerRequest {
    /// Soft off (ACPI S5).
    Off,
    /// A system reset (reset register, keyboard controller, port 0xcf9).
    Reset,
    /// End of the run with this value (isa-debug-exit).
    DebugExit(u32),
}

/// A device at fixed port or memory addresses. Offsets are relative to the range it was registered at.
pub trait PlatformDevice: ClonePlatformDevice + SaveState + fmt::Debug + Send {
    /// Reads `data.len()` bytes (1, 2, 4 or 8) at `offset`.
    ///
    /// # Errors
    /// [`AccessError`] says why the device does not answer; `data` is then overwritten by the bus.
    fn read(&mut self, offset: u64, data: &mut [u8], platform: &mut dyn Platform) -> Access;
    /// Writes `data.len()` bytes (1, 2, 4 or 8) at `offset`.
    ///
    /// # Errors
    /// [`AccessError`] says why the write was dropped.
    fn write(&mut self, offset: u64, data: &[u8], platform: &mut dyn Platform) -> Access;
    /// A time asked for by [`Platform::schedule`] has come.
    fn event(&mut self, _token: u32, _platform: &mut dyn Platform) {}
    /// Back to the state after power-on. Pending events have been withdrawn by the caller.
    fn reset(&mut self);
}

/// Cloning behind the trait object, for every device that is [`Clone`]: a machine is cloned with its devices.
pub trait ClonePlatformDevice {
    /// A copy of the device in its present state.
    fn clone_box(&self) -> Box<dyn PlatformDevice>;
}

impl<T: PlatformDevice + Clone + 'static> ClonePlatformDevice for T {
    fn clone_box(&self) -> Box<dyn PlatformDevice> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn PlatformDevice> {
    fn clone(&self) -> Self {
        (**self).clone_box()
    }
}

/// Lines that an [`AccessLog`] writes before it falls silent.
const ACCESS_LOG_LIMIT: u32 = 32;

/// Logs refused accesses, at most a fixed number of them: a guest cannot flood the log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AccessLog {
    refused: u32,
}

impl AccessLog {
    /// Logs that `access` was refused with `error`.
    pub fn refused(&mut self, access: fmt::Arguments<'_>, error: impl fmt::Display) {
        self.refused = self.refused.saturating_add(1);
        if self.refused <= ACCESS_LOG_LIMIT {
            log::warn!("{access}: {error}");
        }
        if self.refused == ACCESS_LOG_LIMIT {
            log::warn!("further refused accesses are not logged");
        }
    }

    /// How many accesses were refused.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.refused
    }
}

/// Address ranges that do not overlap, with what is behind each: a bus's decoder.
#[derive(Debug, Clone)]
pub struct RangeMap<T> {
    /// Sorted by first address; both ends inclusive.
    ranges: Vec<(u64, u64, T)>,
}

impl<T> Default for RangeMap<T> {
    fn default() -> Self {
        Self { ranges: Vec::new() }
    }
}

/// A range cannot be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("range {start:#x} of {length:#x} bytes is empty, wraps or overlaps another")]
pub struct RangeError {
    pub start: u64,
    pub length: u64,
}

impl<T: Copy> RangeMap<T> {
    /// Registers `length` addresses from `start`.
    ///
    /// # Errors
    /// [`RangeError`] if the range is empty, wraps around or overlaps a registered one.
    pub fn insert(&mut self, start: u64, length: u64, target: T) -> Result<(), RangeError> {
        let error = RangeError { start, length };
        let last = length.checked_sub(1).and_then(|more| start.checked_add(more)).ok_or(error)?;
        let at = self.ranges.partition_point(|range| range.1 < start);
        if self.ranges.get(at).is_some_and(|range| range.0 <= last) {
            return Err(error);
        }
        self.ranges.insert(at, (start, last, target));
        Ok(())
    }

    /// Registers those parts of a range that nothing claims yet: earlier insertions win.
    pub fn insert_uncovered(&mut self, start: u64, last: u64, target: T) {
        let mut from = start;
        while from <= last {
            let at = self.ranges.partition_point(|range| range.1 < from);
            let (gap_last, next) = match self.ranges.get(at) {
                Some(&(first, end, _)) if first <= last => (first.checked_sub(1), end.checked_add(1)),
                _ => (Some(last), None),
            };
            if let Some(gap_last) = gap_last.filter(|&gap_last| gap_last >= from) {
                self.ranges.insert(at, (from, gap_last, target));
            }
            let Some(next) = next else { return };
            from = next;
        }
    }

    /// What is behind `address`, and the first address of its range.
    #[must_use]
    #[inline]
    pub fn lookup(&self, address: u64) -> Option<(u64, T)> {
        let at = self.ranges.partition_point(|range| range.1 < address);
        self.ranges.get(at).filter(|range| range.0 <= address).map(|range| (range.0, range.2))
    }

    /// Forgets every range.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_and_do_not_overlap() {
        let mut map = RangeMap::default();
        map.insert(0x60, 1, 'k').unwrap();
        map.insert(0x64, 1, 'k').unwrap();
        map.insert(0x61, 1, 's').unwrap();
        map.insert(u64::MAX, 1, 'e').unwrap();
        assert_eq!(map.lookup(0x61), Some((0x61, 's')));
        assert_eq!(map.lookup(0x62), None);
        assert_eq!(map.lookup(u64::MAX), Some((u64::MAX, 'e')));
        for (start, length) in [(0x5f, 2), (0x60, 8), (0x64, 1), (0x70, 0), (u64::MAX, 2)] {
            assert_eq!(map.insert(start, length, 'x'), Err(RangeError { start, length }));
        }
    }

    #[test]
    fn uncovered_parts_are_filled_in() {
        let mut map = RangeMap::default();
        map.insert_uncovered(10, 19, 'a');
        map.insert_uncovered(30, 39, 'b');
        map.insert_uncovered(5, 44, 'c');
        map.insert_uncovered(0, u64::MAX, 'd');
        let found: Vec<_> = [0, 4, 5, 9, 10, 19, 20, 29, 30, 39, 40, 44, 45, u64::MAX]
            .map(|at| map.lookup(at).unwrap().1)
            .into();
        assert_eq!(found.iter().collect::<String>(), "ddccaaccbbccdd");
        map.clear();
        assert_eq!(map.lookup(10), None);
    }
}
