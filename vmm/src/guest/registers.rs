//! What of a vCPU's registers says where it is.

use super::memory::AddressSpace;
use x86_cpu::{Vcpu, seg};

/// The registers of a vCPU between two instructions, as far as symbols, stacks and tasks need them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8-R15.
    pub gpr: [u64; 16],
    /// Linear address of the next instruction.
    pub rip: u64,
    /// Current privilege level, 0-3.
    pub cpl: u8,
    /// What CR3 and CR4 select.
    pub space: AddressSpace,
    pub gs_base: u64,
    /// IA32_KERNEL_GS_BASE: what SWAPGS would make the base of GS.
    pub kernel_gs_base: u64,
    /// IA32_LSTAR: where SYSCALL enters the kernel; 0 before the kernel has said.
    pub lstar: u64,
}

impl From<&Vcpu> for Registers {
    fn from(vcpu: &Vcpu) -> Self {
        let mut gpr = [0; 16];
        for (value, register) in gpr.iter_mut().zip(vcpu.gpr) {
            *value = register;
        }
        let code = &vcpu.segs[seg::CS];
        let base = if vcpu.long_mode() && code.long() { 0 } else { code.base };
        Self {
            gpr,
            rip: vcpu.rip.wrapping_add(base),
            cpl: vcpu.cpl,
            space: AddressSpace::new(vcpu.cr3, vcpu.cr4),
            gs_base: vcpu.segs[seg::GS].base,
            kernel_gs_base: vcpu.msr.kernel_gs_base,
            lstar: vcpu.msr.lstar,
        }
    }
}
