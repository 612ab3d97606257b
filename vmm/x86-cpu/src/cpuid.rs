//! CPUID.

use iced_x86::Instruction;

/// Family, model and stepping, as in CPUID leaf 1 EAX.
pub(crate) const SIGNATURE: u32 = 0x000a_06d1;

/// Whether CPUID advertises what `instruction` needs.
pub(crate) fn implements(_instruction: &Instruction) -> bool {
    true
}
