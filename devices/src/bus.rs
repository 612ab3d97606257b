//! The contract between a bus and the devices on it.

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerRequest {
    /// Soft off (ACPI S5).
    Off,
    /// A system reset (reset register, keyboard controller, port 0xcf9).
    Reset,
}

/// A device at fixed port or memory addresses. Offsets are relative to the range it was registered at.
pub trait PlatformDevice: fmt::Debug + Send {
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
