//! Register accesses of a local APIC: the memory page, the x2APIC MSRs and IA32_APIC_BASE.

use super::{
    ApicMode, ApicOutput, BASE_BSP, BASE_ENABLE, BASE_EXTD, GpFault, LVT_COUNT, LVT_MASKED, LVT_REMOTE_IRR,
    LVT_TIMER, LocalApic, SVR_ENABLE,
};
use crate::bus::Nanos;
use crate::interrupt::apic_timer::TimerMode;
use crate::interrupt::{DeliveryMode, Destination, Message};

/// Six LVT entries (highest index 5), version 0x15.
const VERSION: u32 = 0x0005_0015;

/// Register numbers: MMIO offset / 16, or MSR - 0x800.
mod register {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const TMR: u32 = 0x18;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR_LOW: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT: u32 = 0x32;
    pub const LVT_LAST: u32 = 0x37;
    pub const TIMER_INITIAL: u32 = 0x38;
    pub const TIMER_CURRENT: u32 = 0x39;
    pub const TIMER_DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

const MSR_APIC_BASE: u32 = 0x1b;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
const MSR_X2APIC_FIRST: u32 = 0x800;
const MSR_X2APIC_LAST: u32 = 0x8ff;

const ICR_RESERVED_X2APIC: u64 = 0xfff3_3000;
const ICR_WRITABLE_XAPIC: u32 = 0x000c_cfff;

const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// Writable bits of timer, thermal, performance, LINT0, LINT1 and error entries.
const LVT_WRITABLE: [u32; LVT_COUNT] =
    [0x0007_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];

impl LocalApic {
    /// CR8: bits 7:4 of the task priority.
    #[must_use]
    #[inline]
    pub fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// Writes CR8; only bits 3:0 count.
    #[inline]
    pub fn set_cr8(&mut self, value: u8) {
        self.tpr = value << 4;
        self.update();
    }

    /// A read in the register page (xAPIC mode). Registers are 32 bits at 16-byte strides; parts of a register may
    /// be read, the gaps read zero.
    pub fn mmio_read(&mut self, offset: u64, data: &mut [u8], now: Nanos) {
        let register = ((offset & 0xfff) >> 4) as u32;
        let value = match self.read_register(register, now) {
            Some(value) => value,
            None => {
                self.raise_error(ESR_ILLEGAL_REGISTER);
                0
            }
        };
        let bytes = value.to_le_bytes();
        let skip = (offset & 0xf) as usize;
        for (byte, index) in data.iter_mut().zip(skip..) {
            *byte = bytes.get(index).copied().unwrap_or(0);
        }
    }

    /// A write in the register page (xAPIC mode). Anything but an aligned 32-bit write is ignored (SDM 3A,
    /// 11.4.1 leaves it undefined).
    pub fn mmio_write(&mut self, offset: u64, data: &[u8], now: Nanos) -> Option<ApicOutput> {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return None };
        if offset & 0xf != 0 {
            return None;
        }
        let value = u32::from_le_bytes(bytes);
        match ((offset & 0xfff) >> 4) as u32 {
            // The xAPIC ID is not writable on processors since Nehalem.
            register::ID | register::VERSION | register::PPR | register::TIMER_CURRENT => None,
            register::LDR => {
                self.ldr = value & 0xff00_0000;
                None
            }
            register::DFR => {
                self.dfr = value | 0x0fff_ffff;
                None
            }
            register::ICR_HIGH => {
                self.icr = (self.icr & 0xffff_ffff) | (u64::from(value & 0xff00_0000) << 32);
                None
            }
            register::ICR_LOW => {
                self.icr = (self.icr & !0xffff_ffff) | u64::from(value & ICR_WRITABLE_XAPIC);
                let dest = (self.icr >> 56) as u8;
                self.send_ipi(Destination::from_8bit(dest, value & (1 << 11) != 0))
            }
            index => match self.write_register(index, value, now) {
                Some(output) => output,
                None => {
                    self.raise_error(ESR_ILLEGAL_REGISTER);
                    None
                }
            },
        }
    }

    /// Whether [`Self::read_msr`] and [`Self::write_msr`] own this MSR.
    #[must_use]
    pub fn owns_msr(msr: u32) -> bool {
        matches!(msr, MSR_APIC_BASE | MSR_TSC_DEADLINE | MSR_X2APIC_FIRST..=MSR_X2APIC_LAST)
    }

    /// RDMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register.
    ///
    /// # Errors
    /// [`GpFault`] for registers that do not exist, are write-only, or belong to the other mode.
    pub fn read_msr(&mut self, msr: u32, now: Nanos) -> Result<u64, GpFault> {
        match msr {
            MSR_APIC_BASE => Ok(self.base),
            MSR_TSC_DEADLINE => {
                self.advance(now);
                Ok(self.timer.tsc_deadline())
            }
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.mode() == ApicMode::X2Apic => {
                match msr - MSR_X2APIC_FIRST {
                    register::ID => Ok(u64::from(self.id)),
                    register::LDR => Ok(u64::from(self.logical_id())),
                    register::ICR_LOW => Ok(self.icr),
                    register::DFR | register::ICR_HIGH | register::EOI => Err(GpFault),
                    index => self.read_register(index, now).map(u64::from).ok_or(GpFault),
                }
            }
            _ => Err(GpFault),
        }
    }

    /// WRMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register.
    ///
    /// # Errors
    /// [`GpFault`] for reserved bits, illegal mode changes, and registers that do not exist, are read-only, or belong
    /// to the other mode.
    pub fn write_msr(&mut self, msr: u32, value: u64, now: Nanos) -> Result<Option<ApicOutput>, GpFault> {
        match msr {
            MSR_APIC_BASE => self.write_base(value).map(|()| None),
            MSR_TSC_DEADLINE => {
                self.advance(now);
                self.timer.set_tsc_deadline(value, now);
                self.advance(now);
                Ok(None)
            }
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.mode() == ApicMode::X2Apic => {
                self.write_x2apic(msr - MSR_X2APIC_FIRST, value, now)
            }
            _ => Err(GpFault),
        }
    }

    fn write_x2apic(&mut self, index: u32, value: u64, now: Nanos) -> Result<Option<ApicOutput>, GpFault> {
        if index == register::ICR_LOW {
            if value & ICR_RESERVED_X2APIC != 0 {
                return Err(GpFault);
            }
            self.icr = value;
            let dest = (value >> 32) as u32;
            let destination = match (value & (1 << 11) != 0, dest) {
                (_, u32::MAX) => Destination::All,
                (true, _) => Destination::Logical(dest),
                (false, _) => Destination::Physical(dest),
            };
            return Ok(self.send_ipi(destination));
        }
        let writable = match index {
            register::TPR | register::SELF_IPI => 0xff,
            register::EOI | register::ESR => 0,
            register::SVR => 0x1ff,
            register::LVT..=register::LVT_LAST => {
                // Delivery status and remote IRR are read-only, not reserved.
                LVT_WRITABLE.get((index - register::LVT) as usize).copied().unwrap_or(0) | 0x5000
            }
            register::TIMER_INITIAL => 0xffff_ffff,
            register::TIMER_DIVIDE => 0xb,
            _ => return Err(GpFault),
        };
        if value & !u64::from(writable) != 0 {
            return Err(GpFault);
        }
        if index == register::SELF_IPI {
            if value < 16 {
                self.raise_error(ESR_SEND_ILLEGAL_VECTOR);
            } else if self.is_enabled() {
                self.accept_vector(value as u8, false);
            }
            return Ok(None);
        }
        self.write_register(index, value as u32, now).ok_or(GpFault)
    }

    fn write_base(&mut self, value: u64) -> Result<(), GpFault> {
        let address_mask = (1u64 << self.physical_bits) - 0x1000;
        if value & !(address_mask | BASE_BSP | BASE_EXTD | BASE_ENABLE) != 0 {
            return Err(GpFault);
        }
        let old = self.mode();
        match (old, value & BASE_ENABLE != 0, value & BASE_EXTD != 0) {
            (_, false, true) | (ApicMode::X2Apic, true, false) | (ApicMode::Disabled, true, true) => {
                return Err(GpFault);
            }
            (ApicMode::XApic | ApicMode::X2Apic, false, false) => self.clear_registers(),
            (ApicMode::XApic, true, true) => self.icr &= 0xffff_ffff,
            _ => {}
        }
        self.base = value;
        Ok(())
    }

    pub(super) fn xapic_id(&self) -> u32 {
        self.id & 0xff
    }

    /// Logical x2APIC ID (SDM 3A, 11.12.10.2).
    pub(super) fn logical_id(&self) -> u32 {
        ((self.id >> 4) << 16) | (1 << (self.id & 0xf))
    }

    /// Registers common to both modes; `None` if there is no such register.
    fn read_register(&mut self, index: u32, now: Nanos) -> Option<u32> {
        Some(match index {
            register::ID => self.xapic_id() << 24,
            register::VERSION => VERSION,
            register::TPR => u32::from(self.tpr),
            register::PPR => u32::from(self.ppr),
            register::EOI => 0,
            register::LDR => self.ldr,
            register::DFR => self.dfr,
            register::SVR => self.svr,
            register::ISR..register::TMR => self.isr.register(index - register::ISR),
            register::TMR..register::IRR => self.tmr.register(index - register::TMR),
            register::IRR..register::ESR => self.irr.register(index - register::IRR),
            register::ESR => self.esr,
            register::ICR_LOW => self.icr as u32,
            register::ICR_HIGH => (self.icr >> 32) as u32,
            register::LVT..=register::LVT_LAST => *self.lvt.get((index - register::LVT) as usize)?,
            register::TIMER_INITIAL => self.timer.initial(),
            register::TIMER_CURRENT => {
                self.advance(now);
                self.timer.current(now)
            }
            register::TIMER_DIVIDE => self.timer.divide_config(),
            _ => return None,
        })
    }

    /// Registers common to both modes; `None` if there is no such writable register.
    fn write_register(&mut self, index: u32, value: u32, now: Nanos) -> Option<Option<ApicOutput>> {
        match index {
            register::TPR => {
                self.tpr = value as u8;
                self.update();
            }
            register::EOI => return Some(self.end_of_interrupt()),
            register::SVR => {
                self.svr = value & 0x1ff;
                if self.svr & SVR_ENABLE == 0 {
                    for entry in &mut self.lvt {
                        *entry |= LVT_MASKED;
                    }
                }
            }
            register::ESR => self.esr = std::mem::take(&mut self.esr_pending),
            register::LVT..=register::LVT_LAST => {
                self.write_lvt((index - register::LVT) as usize, value, now)?;
            }
            register::TIMER_INITIAL => {
                self.advance(now);
                self.timer.set_initial(value, now);
            }
            register::TIMER_DIVIDE => {
                self.advance(now);
                self.timer.set_divide_config(value, now);
            }
            _ => return None,
        }
        Some(None)
    }

    fn write_lvt(&mut self, index: usize, value: u32, now: Nanos) -> Option<()> {
        if index == LVT_TIMER {
            self.advance(now);
            self.timer.set_mode(TimerMode::from_lvt(value), now);
        }
        let writable = *LVT_WRITABLE.get(index)?;
        let entry = self.lvt.get_mut(index)?;
        *entry = (*entry & LVT_REMOTE_IRR) | (value & writable);
        if self.svr & SVR_ENABLE == 0 {
            *entry |= LVT_MASKED;
        }
        Some(())
    }

    /// Builds the message of a write to the ICR's low half (SDM 3A, 11.6.1).
    fn send_ipi(&mut self, addressed: Destination) -> Option<ApicOutput> {
        let icr = self.icr as u32;
        let vector = (icr & 0xff) as u8;
        let mode = DeliveryMode::from_bits(icr >> 8)?;
        let destination = match (icr >> 18) & 3 {
            0 => addressed,
            1 => Destination::Myself,
            2 => Destination::All,
            _ => Destination::Others,
        };
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < 16 => {
                self.raise_error(ESR_SEND_ILLEGAL_VECTOR);
                None
            }
            // INIT level de-assert only synchronises arbitration IDs, which this bus does not have.
            DeliveryMode::Init if icr & 0xc000 == 0x8000 => None,
            DeliveryMode::ExtInt | DeliveryMode::Smi => None,
            _ => Some(ApicOutput::Ipi(Message { destination, mode, vector, level: false })),
        }
    }
}
