//! The signal that has a thread come back from KVM_RUN.

use vmm_sys_util::errno;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Its number.
#[must_use]
pub fn number() -> libc::c_int {
    SIGRTMIN() + 7
}

/// Installs a handler that does nothing: without one the signal would end the process.
///
/// # Errors
/// If the host refuses.
pub fn register() -> Result<(), errno::Error> {
    register_signal_handler(number(), ignore)
}

/// Only there to make system calls return.
extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
