//! The only place where guest RAM is touched through a host pointer.

use super::Word;

/// Reads a word at host address `address`.
///
/// # Safety
/// `address` must lie, with the whole word, in a frame that [`crate::World::ram_frame`] returned for a world that still
/// exists.
#[inline(always)]
pub(super) unsafe fn read<T: Word>(address: u64) -> T {
    // SAFETY: the caller vouches for the frame; every bit pattern is a valid word.
    unsafe { (address as *const T).read_unaligned() }
}

/// Writes a word at host address `address`.
///
/// # Safety
/// As for [`read`].
#[inline(always)]
pub(super) unsafe fn write<T: Word>(address: u64, value: T) {
    // SAFETY: the caller vouches for the frame.
    unsafe { (address as *mut T).write_unaligned(value) }
}

/// Copies `data.len()` bytes from host address `address`.
///
/// # Safety
/// The whole range must lie in a frame as for [`read`].
pub(super) unsafe fn read_bytes(address: u64, data: &mut [u8]) {
    // SAFETY: the caller vouches for the source; guest RAM never overlaps a Rust buffer.
    unsafe { std::ptr::copy_nonoverlapping(address as *const u8, data.as_mut_ptr(), data.len()) }
}

/// Copies `data` to host address `address`.
///
/// # Safety
/// The whole range must lie in a frame as for [`read`].
pub(super) unsafe fn write_bytes(address: u64, data: &[u8]) {
    // SAFETY: the caller vouches for the destination; guest RAM never overlaps a Rust buffer.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), address as *mut u8, data.len()) }
}
