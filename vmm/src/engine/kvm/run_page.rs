//! What only the page shared with KVM tells about an exit (`struct kvm_run`): the width of port accesses, and the
//! instruction that KVM could not emulate.

use kvm_bindings::{
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
};
use kvm_ioctls::VcpuFd;

/// One instruction's accesses to a port: `data` has all of them, `size` bytes each.
#[derive(Debug)]
pub(super) struct PortAccess<'a> {
    pub port: u16,
    pub size: usize,
    pub out: bool,
    pub data: &'a mut [u8],
}

/// The port access that the vCPU has just come back with. `run_size` is the size of the shared mapping.
pub(super) fn port_access(vcpu: &mut VcpuFd, run_size: usize) -> Option<PortAccess<'_>> {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_IO {
        return None;
    }
    // SAFETY: all members of the union are plain integers, of which every pattern is valid, and this is the member that
    // belongs to the exit reason.
    let io = unsafe { run.__bindgen_anon_1.io };
    let size = usize::from(io.size);
    let length = size.checked_mul(usize::try_from(io.count).ok()?)?;
    let offset = usize::try_from(io.data_offset).ok()?;
    if !matches!(size, 1 | 2 | 4) || offset < size_of_val(run) || offset.checked_add(length)? > run_size {
        return None;
    }
    // SAFETY: the mapping is `run_size` bytes long and begins with `run`; the range lies in it and behind the structure, so
    // that nothing else refers to it. KVM does not touch it until the next KVM_RUN, for which the caller needs `vcpu`.
    let data =
        unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(run).cast::<u8>().add(offset), length) };
    Some(PortAccess { port: io.port, size, out: u32::from(io.direction) == KVM_EXIT_IO_OUT, data })
}

/// What KVM says about an internal error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InternalError {
    /// An instruction that it cannot emulate; its first bytes, if KVM tells them.
    Emulation(Vec<u8>),
    /// Anything else: the suberror.
    Other(u32),
}

/// The internal error that the vCPU has just come back with.
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> InternalError {
    let run = vcpu.get_kvm_run();
    // SAFETY: as in `port_access`: plain integers, and the member of this exit reason.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    if failure.suberror != KVM_INTERNAL_ERROR_EMULATION {
        return InternalError::Other(failure.suberror);
    }
    // The flags are there with one datum, size and bytes with three.
    let told = failure.ndata >= 3
        && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if !told {
        return InternalError::Emulation(Vec::new());
    }
    // SAFETY: plain integers; the inner union has this one member.
    let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    let size = usize::from(instruction.insn_size);
    InternalError::Emulation(instruction.insn_bytes.get(..size).unwrap_or(&instruction.insn_bytes).to_vec())
}
