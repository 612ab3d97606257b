//! The VM: memory, interrupt controllers and their wiring.

use super::error::KvmError;
use super::memory_slots;
use crate::machine::InterruptSignal;
use crate::memory::GuestRam;
use crate::memory::layout::KVM_TSS;
use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_msi,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use vmm_sys_util::errno;

/// Inputs of KVM's IO-APIC.
const IO_APIC_PINS: u32 = 24;
/// The 8254's global system interrupt: it is ISA interrupt 0 at the 8259 pair.
const TIMER_GSI: u32 = 2;

/// What must be there, with the name that the API's documentation gives it.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// A VM, and the RAM that its slots map: fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Vm {
    kvm: Kvm,
    fd: Arc<VmFd>,
    ram: GuestRam,
}

impl Vm {
    pub(super) fn new(device: &Path, ram: &GuestRam) -> Result<Self, KvmError> {
        let open = |source| KvmError::Open { device: device.to_owned(), source };
        let path =
            CString::new(device.as_os_str().as_bytes()).map_err(|_| open(errno::Error::new(libc::EINVAL)))?;
        let kvm = Kvm::new_with_path(&path).map_err(open)?;
        let version = kvm.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(KvmError::Version { device: device.to_owned(), version });
        }
        for (cap, name) in NEEDED {
            if !kvm.check_extension(cap) {
                return Err(KvmError::Lacks(name));
            }
        }
        let fd = kvm.create_vm().map_err(KvmError::call("KVM_CREATE_VM"))?;
        // Not every KVM has or needs it.
        if kvm.check_extension(Cap::SetTssAddr) {
            fd.set_tss_address(KVM_TSS as usize).map_err(KvmError::call("KVM_SET_TSS_ADDR"))?;
        }
        fd.create_irq_chip().map_err(KvmError::call("KVM_CREATE_IRQCHIP"))?;
        fd.set_gsi_routing(&routing()?).map_err(KvmError::call("KVM_SET_GSI_ROUTING"))?;
        memory_slots::map(&fd, ram)?;
        Ok(Self { kvm, fd: Arc::new(fd), ram: ram.clone() })
    }

    pub(super) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    pub(super) fn max_vcpus(&self) -> u32 {
        u32::try_from(self.kvm.get_max_vcpus()).unwrap_or(u32::MAX)
    }

    /// Bytes of the page that KVM shares for each vCPU.
    pub(super) fn run_size(&self) -> usize {
        self.fd.run_size()
    }

    /// Whether the local APICs have the TSC-deadline mode.
    pub(super) fn has_deadline_timer(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    pub(super) fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::call("KVM_GET_SUPPORTED_CPUID"))
    }

    pub(super) fn create_vcpu(&self, id: u32, cpuid: &CpuId) -> Result<VcpuFd, KvmError> {
        let vcpu = self.fd.create_vcpu(id.into()).map_err(KvmError::call("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(cpuid).map_err(KvmError::call("KVM_SET_CPUID2"))?;
        Ok(vcpu)
    }

    /// KVM's interrupt controllers, for what devices signal.
    pub(super) fn controllers(&self) -> Controllers {
        Controllers(Arc::clone(&self.fd))
    }
}

/// The interrupt controllers in the kernel.
#[derive(Debug, Clone)]
pub(super) struct Controllers(Arc<VmFd>);

impl Controllers {
    pub(super) fn signal(&self, signal: InterruptSignal) -> Result<(), KvmError> {
        match signal {
            InterruptSignal::Line { gsi, high } if (1..IO_APIC_PINS).contains(&gsi) => {
                self.0.set_irq_line(gsi, high).map_err(KvmError::call("KVM_IRQ_LINE"))
            }
            InterruptSignal::Line { .. } => Ok(()),
            InterruptSignal::Message { address, data } => {
                let message = kvm_msi {
                    address_lo: address as u32,
                    address_hi: (address >> 32) as u32,
                    data,
                    ..kvm_msi::default()
                };
                // A message that nobody takes, or with a reserved delivery mode, is the guest's affair.
                match self.0.signal_msi(message) {
                    Ok(_) => Ok(()),
                    Err(error) if error.errno() == libc::EINVAL => Ok(()),
                    Err(error) => Err(KvmError::call("KVM_SIGNAL_MSI")(error)),
                }
            }
        }
    }
}

/// The wiring of the machine's own controllers ([`devices::interrupt::Interrupts::set_gsi`]): every interrupt goes to
/// the IO-APIC input of its number, and below 16 to the 8259 pair as well.
fn routing() -> Result<KvmIrqRouting, KvmError> {
    let mut entries = Vec::new();
    for gsi in 1..IO_APIC_PINS {
        entries.push(entry(gsi, KVM_IRQCHIP_IOAPIC, gsi));
        let isa = if gsi == TIMER_GSI { 0 } else { gsi };
        match isa {
            0..8 => entries.push(entry(gsi, KVM_IRQCHIP_PIC_MASTER, isa)),
            8..16 => entries.push(entry(gsi, KVM_IRQCHIP_PIC_SLAVE, isa - 8)),
            _ => {}
        }
    }
    KvmIrqRouting::from_entries(&entries).map_err(|_| KvmError::Lacks("room for the interrupt wiring"))
}

fn entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 { irqchip: kvm_irq_routing_irqchip { irqchip, pin } },
        ..kvm_irq_routing_entry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_is_isa_interrupt_0() {
        let routing = routing().unwrap();
        let of = |gsi| routing.as_slice().iter().filter(move |entry| entry.gsi == gsi).count();
        assert_eq!([of(0), of(1), of(2), of(15), of(16), of(23)], [0, 2, 2, 2, 1, 1]);
    }
}
