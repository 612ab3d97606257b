//! RAM as KVM's memory slots: one a region.

use super::error::KvmError;
use crate::memory::GuestRam;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

/// Maps all of `ram`, which the caller keeps for as long as the VM exists.
pub(super) fn map(vm: &VmFd, ram: &GuestRam) -> Result<(), KvmError> {
    for (slot, region) in (0..).zip(ram.memory().iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is a mapping of exactly this size. The one caller, `Vm::new`, stores a clone of `ram`, which
        // shares the mapping, beside the VM's descriptor; the vCPUs' descriptors belong to the engine that owns the `Vm`
        // and are dropped before it. The host reads and writes the mapping only by vm-memory's volatile accesses and, in
        // the software engine, not at the same time.
        unsafe { vm.set_user_memory_region(slot) }.map_err(KvmError::call("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}
