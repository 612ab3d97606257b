//! CPUID of a guest: what KVM supports on this host, with the machine's topology and without what is not for guests.

use super::Paravirtual;
use super::error::KvmError;
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use x86_cpu::Vcpu;

/// Bits of leaf 1 ECX: MONITOR waits in the processor, VMX and SVM are not passed on.
const MONITOR: u32 = 1 << 3;
const VMX: u32 = 1 << 5;
/// Bits of leaf 1 ECX that KVM leaves to its user: the deadline timer, where its local APIC has one; a hypervisor.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR_PRESENT: u32 = 1 << 31;
/// Bit of leaf 0x8000_0001 ECX.
const SVM: u32 = 1 << 2;
/// Bit of leaf 1 EDX: several logical processors.
const HTT: u32 = 1 << 28;

/// KVM's leaf with its signature, and the last that a hypervisor can have.
const HYPERVISOR: u32 = 0x4000_0000;
const HYPERVISOR_END: u32 = 0x4fff_ffff;
/// MAXPHYADDR of processors that do not say it (SDM volume 3A, 4.1.4).
const DEFAULT_PHYSICAL_BITS: u32 = 36;

/// CPUID of vCPU `id` among `count`. `deadline_timer` says that KVM's local APIC has one.
pub(super) fn for_guest(
    supported: &CpuId,
    id: u32,
    count: u32,
    deadline_timer: bool,
    paravirtual: Paravirtual,
) -> Result<CpuId, KvmError> {
    // The software CPU's identity where the machine decides, not the processor: topology and hypervisor.
    let mut machine = Vcpu::new(id);
    machine.count = count;
    let mut entries: Vec<_> =
        supported.as_slice().iter().filter_map(|&e| adapt(e, &machine, paravirtual)).collect();
    if deadline_timer {
        entries.iter_mut().filter(|entry| entry.function == 1).for_each(|entry| entry.ecx |= TSC_DEADLINE);
    }
    let topology_leaves = [0xb, 0x1f].into_iter().filter(|&leaf| leaf <= max_basic(supported));
    for leaf in topology_leaves {
        entries.extend((0..3).map(|subleaf| {
            let [eax, ebx, ecx, edx] = machine.cpuid(leaf, subleaf);
            let flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
            kvm_cpuid_entry2 {
                function: leaf,
                index: subleaf,
                flags,
                eax,
                ebx,
                ecx,
                edx,
                ..Default::default()
            }
        }));
    }
    if paravirtual == Paravirtual::Hidden {
        let [eax, ebx, ecx, edx] = machine.cpuid(HYPERVISOR, 0);
        entries.push(kvm_cpuid_entry2 { function: HYPERVISOR, eax, ebx, ecx, edx, ..Default::default() });
    }
    CpuId::from_entries(&entries).map_err(|_| KvmError::Lacks("room for the guest's CPUID"))
}

fn max_basic(cpuid: &CpuId) -> u32 {
    find(cpuid, 0).map_or(0, |entry| entry.eax)
}

fn find(cpuid: &CpuId, leaf: u32) -> Option<&kvm_cpuid_entry2> {
    cpuid.as_slice().iter().find(|entry| entry.function == leaf)
}

/// MAXPHYADDR.
pub(super) fn physical_bits(cpuid: &CpuId) -> u32 {
    find(cpuid, 0x8000_0008).map_or(DEFAULT_PHYSICAL_BITS, |entry| entry.eax & 0xff).clamp(32, 52)
}

/// The guest's version of an entry; `None` for those that it gets in another way or not at all.
fn adapt(mut entry: kvm_cpuid_entry2, machine: &Vcpu, paravirtual: Paravirtual) -> Option<kvm_cpuid_entry2> {
    let (id, count) = (machine.id, machine.count);
    let id_bits = count.next_power_of_two().trailing_zeros();
    match entry.function {
        1 => {
            entry.ebx = machine.cpuid(1, 0)[1];
            entry.ecx = entry.ecx & !(MONITOR | VMX) | HYPERVISOR_PRESENT;
            entry.edx = entry.edx & !HTT | if count > 1 { HTT } else { 0 };
        }
        // Intel's and AMD's deterministic cache parameters: the last level is shared by all, the others by nobody.
        4 | 0x8000_001d => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level >= 3 { (1 << id_bits) - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
            if entry.function == 4 && entry.eax & 0x1f != 0 {
                entry.eax |= ((1 << id_bits) - 1_u32).min(0x3f) << 26;
            }
        }
        // MONITOR's line sizes; performance counters; topology.
        5 | 0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0xb | 0x1f | 0x8000_0026 => return None,
        HYPERVISOR..=HYPERVISOR_END if paravirtual == Paravirtual::Hidden => return None,
        0x8000_0001 => entry.ecx &= !SVM,
        0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | id_bits << 12 | (count - 1) & 0xff,
        0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // AMD's extended APIC ID: one thread a core, one node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0),
        _ => {}
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> CpuId {
        let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        CpuId::from_entries(&[
            leaf(0, 0x1f, 0, 0, 0),
            leaf(1, 0x6d1, 0x5500_0800, MONITOR | VMX | 1, 1),
            leaf(0xb, 1, 2, 0x100, 77),
            leaf(HYPERVISOR, 0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d),
            leaf(0x8000_0001, 0, 0, SVM | 1, 0),
            leaf(0x8000_0008, 0x3028, 0, 0x700f, 0),
        ])
        .unwrap()
    }

    #[test]
    fn the_machine_decides_on_topology_and_nesting() {
        let guest = for_guest(&host(), 2, 3, true, Paravirtual::Shown).unwrap();
        let one = find(&guest, 1).unwrap();
        assert_eq!((one.ebx >> 24, one.ebx >> 16 & 0xff), (2, 4), "APIC ID, IDs in the package");
        assert_eq!((one.ecx, one.edx), (1 | TSC_DEADLINE | HYPERVISOR_PRESENT, 1 | HTT));
        assert_eq!(find(&guest, 0x8000_0001).unwrap().ecx, 1);
        assert_eq!(find(&guest, 0x8000_0008).unwrap().ecx, 2 << 12 | 2);
        assert_eq!(physical_bits(&guest), 40);
        let topology: Vec<_> = guest.as_slice().iter().filter(|entry| entry.function == 0xb).collect();
        assert_eq!(topology.len(), 3);
        assert!(topology.iter().all(|entry| entry.edx == 2));
        assert_eq!((topology[1].eax, topology[1].ebx), (2, 3));
    }

    #[test]
    fn kvm_can_be_hidden() {
        let signature =
            |shown| find(&for_guest(&host(), 0, 1, false, shown).unwrap(), HYPERVISOR).unwrap().ebx;
        assert_eq!(signature(Paravirtual::Shown).to_le_bytes(), *b"KVMK");
        assert_eq!(signature(Paravirtual::Hidden).to_le_bytes(), *b"Stal");
    }
}
