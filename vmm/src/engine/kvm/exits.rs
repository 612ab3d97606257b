//! What a vCPU's exits ask for.

use super::bus::Bus;
use super::error::{Bytes, KvmError, StopReason};
use super::run_page::{self, InternalError};
use crate::memory::GuestRam;
use kvm_ioctls::{VcpuExit, VcpuFd};

/// What a vCPU's thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Enter the guest again.
    Enter,
    /// Look whether the engine wants it to stop; enter the guest again if not.
    Look,
    /// The guest has asked for something that may end the run: stop until the engine has seen it.
    Wait,
    /// A triple fault.
    Shutdown,
}

/// Enters the guest once and does what its exit asks for.
pub(super) fn run_once(
    cpu: u32,
    vcpu: &mut VcpuFd,
    run_size: usize,
    ram: &GuestRam,
    bus: &Bus,
) -> Result<Next, KvmError> {
    let reason = match vcpu.run() {
        Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => return ports(vcpu, run_size, bus),
        Ok(VcpuExit::MmioRead(address, data)) => {
            return bus.access(|machine, now| machine.mmio_read(cpu, now, address, data));
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            return bus.access(|machine, now| machine.mmio_write(cpu, now, address, data));
        }
        Ok(VcpuExit::Shutdown) => return Ok(Next::Shutdown),
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => return Ok(Next::Look),
        Ok(VcpuExit::InternalError) => match run_page::internal_error(vcpu) {
            InternalError::Emulation(bytes) if bytes.is_empty() => {
                StopReason::Emulation(instruction(vcpu, ram))
            }
            InternalError::Emulation(bytes) => StopReason::Emulation(Bytes(bytes)),
            InternalError::Other(suberror) => StopReason::Internal(suberror),
        },
        Ok(VcpuExit::FailEntry(reason, _)) => StopReason::Entry(reason),
        Ok(VcpuExit::MemoryFault { .. }) => StopReason::Unreachable(instruction(vcpu, ram)),
        Ok(other) => StopReason::Unexpected(format!("{other:?}")),
        Err(error) => match error.errno() {
            libc::EINTR | libc::EAGAIN => return Ok(Next::Look),
            libc::EFAULT => StopReason::Unreachable(instruction(vcpu, ram)),
            _ => StopReason::Run(error),
        },
    };
    let rip = vcpu.get_regs().map_err(KvmError::call("KVM_GET_REGS"))?.rip;
    Err(KvmError::Stopped { cpu, rip, reason })
}

/// IN, OUT and their string forms.
fn ports(vcpu: &mut VcpuFd, run_size: usize, bus: &Bus) -> Result<Next, KvmError> {
    let Some(access) = run_page::port_access(vcpu, run_size) else {
        return Err(KvmError::Lacks("port accesses of 1, 2 or 4 bytes"));
    };
    bus.access(|machine, now| {
        for data in access.data.chunks_exact_mut(access.size) {
            match access.out {
                true => machine.port_write(now, access.port, data),
                false => machine.port_read(now, access.port, data),
            }
        }
    })
}

/// The longest instruction (SDM volume 2A, 2.3.11).
const LONGEST: usize = 15;

/// The bytes at the vCPU's instruction pointer, as far as they are mapped RAM.
fn instruction(vcpu: &VcpuFd, ram: &GuestRam) -> Bytes {
    let (Ok(regs), Ok(sregs)) = (vcpu.get_regs(), vcpu.get_sregs()) else { return Bytes::default() };
    let linear = sregs.cs.base.wrapping_add(regs.rip);
    let byte = |offset: usize| {
        let translation = vcpu.translate_gva(linear.wrapping_add(offset as u64)).ok()?;
        let mut byte = [0];
        let read = translation.valid != 0 && ram.read(translation.physical_address, &mut byte).is_ok();
        read.then_some(byte[0])
    };
    Bytes((0..LONGEST).map_while(byte).collect())
}
