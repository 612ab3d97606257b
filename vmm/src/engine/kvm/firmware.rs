//! What firmware leaves in a processor: memory types, and the bootstrap processor's local APIC in virtual wire mode.

use super::error::KvmError;
use crate::boot::firmware;
use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

/// Local APIC registers (SDM volume 3A, table 11-1) and what firmware sets in them: enabled, 8259 interrupts by LINT0,
/// NMIs by LINT1.
const SPURIOUS_VECTOR: usize = 0xf0;
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const EXT_INT: u32 = 0x700;
const NMI: u32 = 0x400;

/// Prepares vCPU `id` of a guest with `physical_bits` address bits.
pub(super) fn prepare(vcpu: &VcpuFd, id: u32, physical_bits: u32) -> Result<(), KvmError> {
    let entries: Vec<_> = firmware::mtrrs()
        .registers(physical_bits)
        .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() })
        .collect();
    let msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::Lacks("room for the MTRRs"))?;
    let taken = vcpu.set_msrs(&msrs).map_err(KvmError::call("KVM_SET_MSRS"))?;
    if taken != entries.len() {
        return Err(KvmError::Msrs { taken, given: entries.len() });
    }
    if id == 0 {
        let mut apic = vcpu.get_lapic().map_err(KvmError::call("KVM_GET_LAPIC"))?;
        let spurious = register(&apic, SPURIOUS_VECTOR);
        set_register(&mut apic, SPURIOUS_VECTOR, spurious | SOFTWARE_ENABLE);
        set_register(&mut apic, LVT_LINT0, EXT_INT);
        set_register(&mut apic, LVT_LINT1, NMI);
        vcpu.set_lapic(&apic).map_err(KvmError::call("KVM_SET_LAPIC"))?;
    }
    Ok(())
}

fn register(apic: &kvm_lapic_state, at: usize) -> u32 {
    let bytes = apic.regs.get(at..at + 4).unwrap_or_default();
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte as u8))
}

fn set_register(apic: &mut kvm_lapic_state, at: usize, value: u32) {
    for (byte, new) in apic.regs.iter_mut().skip(at).zip(value.to_le_bytes()) {
        *byte = new as _;
    }
}
