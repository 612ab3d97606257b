//! Memory encryption as an SEV guest sees it (AMD APM volume 2, 15.34).
//!
//! The guest's page tables say of each page whether it is private, by the C-bit. What encryption makes of RAM is the world's
//! business: the CPU strips the bit and says by [`World::set_label`] which of the two views of a frame it is about to access.
//! Translations by which it may access a frame past the world are of the view that the frame has, and go when that changes.

use crate::block::Op;
use crate::fault::Fault;
use crate::memory::tlb::PAGE_MASK;
use crate::state::{Vcpu, reg};
use crate::world::World;

/// The bit of a page-table entry, and of CR3, that makes a page private: where processors of family 17h model 31h and later
/// have it. It lies above all addresses, so that their width is not reduced.
pub const C_BIT: u64 = 1 << C_BIT_POSITION;
const C_BIT_POSITION: u32 = 51;

/// CPUID 8000_001FH: SEV, no reduction of the address width, and the position of the C-bit.
pub(crate) const CPUID_LEAF: [u32; 4] = [1 << 1, C_BIT_POSITION, 0, 0];

/// SEV_STATUS: SEV is active, neither SEV-ES nor SEV-SNP (APM volume 2, 15.34.10).
pub(crate) const SEV_STATUS: u64 = 1;

/// Hypercalls as KVM has them (Linux, Documentation/virt/kvm/x86/hypercalls.rst): the number in RAX, arguments in RBX, RCX,
/// RDX and RSI; the answer goes to RAX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hypercall {
    pub number: u64,
    pub arguments: [u64; 4],
}

/// Errors that hypercalls answer with (Linux, include/uapi/linux/kvm_para.h).
pub mod hypercall_error {
    pub const NOT_PERMITTED: u64 = 1_u64.wrapping_neg();
    pub const INVALID: u64 = 22_u64.wrapping_neg();
    pub const UNKNOWN: u64 = 1000_u64.wrapping_neg();
}

impl Vcpu {
    /// An access to the frame of RAM at `frame`, private or not, is about to be made: the world has it show that view.
    pub(crate) fn set_label<W: World>(&mut self, world: &mut W, frame: u64, private: bool) {
        if world.set_label(frame & PAGE_MASK, private) {
            self.tlb.forget_frame(frame);
            self.tlb.label_generation = world.label_generation();
            if world.code_pages().has_stale() {
                self.limit = 0;
            }
        }
    }

    /// Labels may have changed on other vCPUs' accesses or by a hypercall.
    pub(crate) fn heed_labels<W: World>(&mut self, world: &W) {
        if self.tlb.label_generation != world.label_generation() {
            self.tlb.label_generation = world.label_generation();
            self.tlb.forget_data();
        }
    }
}

/// VMMCALL. To a guest without a hypervisor that takes calls it does not exist.
pub(crate) fn hypercall<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    if !cpu.sev {
        return crate::decode::unimplemented(cpu, world, op);
    }
    let mask = if cpu.mode.is_64() { u64::MAX } else { 0xffff_ffff };
    let answer = if cpu.cpl == 0 {
        let arguments = [reg::RBX, reg::RCX, reg::RDX, reg::RSI].map(|register| cpu.gpr[register] & mask);
        let call = Hypercall { number: cpu.gpr[reg::RAX] & mask, arguments };
        world.hypercall(cpu.id, cpu.now(), call)
    } else {
        hypercall_error::NOT_PERMITTED
    };
    cpu.gpr[reg::RAX] = answer & mask;
    cpu.heed_labels(world);
    Ok(())
}
