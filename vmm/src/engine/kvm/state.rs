//! Conversion between the engines' vCPU state and KVM's structures.

use super::error::KvmError;
use crate::boot::CpuState;
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use x86_cpu::{Segment, TableRegister, seg};

/// Reads the architectural state. The vCPU must not be running.
pub(super) fn read(vcpu: &VcpuFd) -> Result<CpuState, KvmError> {
    let regs = vcpu.get_regs().map_err(KvmError::call("KVM_GET_REGS"))?;
    let sregs = vcpu.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
    let mut segments = [Segment::null(0); 6];
    for (index, segment) in segments.iter_mut().enumerate() {
        *segment = from_kvm(kvm_segment_of(&sregs, index));
    }
    let table = |table: kvm_dtable| TableRegister { base: table.base, limit: table.limit };
    Ok(CpuState {
        gpr: [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
            regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
        rip: regs.rip,
        rflags: regs.rflags,
        segments,
        ldtr: from_kvm(&sregs.ldt),
        tr: from_kvm(&sregs.tr),
        gdtr: table(sregs.gdt),
        idtr: table(sregs.idt),
        cr0: sregs.cr0,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
    })
}

/// Sets the architectural state. The vCPU must not be running.
pub(super) fn write(vcpu: &VcpuFd, state: &CpuState) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().map_err(KvmError::call("KVM_GET_SREGS"))?;
    for (index, segment) in state.segments.iter().enumerate() {
        *kvm_segment_of_mut(&mut sregs, index) = to_kvm(segment);
    }
    let table =
        |table: TableRegister| kvm_dtable { base: table.base, limit: table.limit, ..Default::default() };
    (sregs.ldt, sregs.tr) = (to_kvm(&state.ldtr), to_kvm(&state.tr));
    (sregs.gdt, sregs.idt) = (table(state.gdtr), table(state.idtr));
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (state.cr0, state.cr3, state.cr4, state.efer);
    vcpu.set_sregs(&sregs).map_err(KvmError::call("KVM_SET_SREGS"))?;
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    let (rip, rflags) = (state.rip, state.rflags);
    let regs = kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    };
    vcpu.set_regs(&regs).map_err(KvmError::call("KVM_SET_REGS"))
}

fn kvm_segment_of(sregs: &kvm_sregs, index: usize) -> &kvm_segment {
    match index {
        seg::ES => &sregs.es,
        seg::CS => &sregs.cs,
        seg::SS => &sregs.ss,
        seg::DS => &sregs.ds,
        seg::FS => &sregs.fs,
        _ => &sregs.gs,
    }
}

fn kvm_segment_of_mut(sregs: &mut kvm_sregs, index: usize) -> &mut kvm_segment {
    match index {
        seg::ES => &mut sregs.es,
        seg::CS => &mut sregs.cs,
        seg::SS => &mut sregs.ss,
        seg::DS => &mut sregs.ds,
        seg::FS => &mut sregs.fs,
        _ => &mut sregs.gs,
    }
}

fn to_kvm(segment: &Segment) -> kvm_segment {
    let bit = |at: u16| (segment.attr >> at & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (segment.attr & 0xf) as u8,
        s: bit(4),
        dpl: segment.dpl(),
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        unusable: u8::from(segment.attr == 0),
        padding: 0,
    }
}

fn from_kvm(segment: &kvm_segment) -> Segment {
    if segment.unusable != 0 {
        return Segment { base: segment.base, ..Segment::null(segment.selector) };
    }
    let bits = [
        (segment.type_ & 0xf, 0),
        (segment.s, 4),
        (segment.dpl & 3, 5),
        (segment.present, 7),
        (segment.avl, 12),
        (segment.l, 13),
        (segment.db, 14),
        (segment.g, 15),
    ];
    let attr = bits.into_iter().fold(0, |attr, (value, at)| attr | u16::from(value) << at);
    Segment { selector: segment.selector, base: segment.base, limit: segment.limit, attr }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_go_there_and_back() {
        for attr in [0, 0xa09b, 0xc093, 0x008b, 0xc0f3, 0xf0ff] {
            let segment = Segment { selector: 0x10, base: 0x1234_5678, limit: 0xf_ffff, attr };
            let back = from_kvm(&to_kvm(&segment));
            assert_eq!((back.selector, back.base, back.attr), (0x10, 0x1234_5678, attr));
        }
    }
}
