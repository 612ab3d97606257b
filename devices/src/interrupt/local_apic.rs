//! The local APIC, in xAPIC and x2APIC mode (SDM 3A, chapter 11).

use super::apic_timer::{ApicClock, ApicTimer};
use super::{DeliveryMode, Destination, LOCAL_APIC_BASE, Message};
use crate::bus::Nanos;
use crate::state::{State, same};
use serde::{Deserialize, Serialize};

mod registers;
#[cfg(test)]
mod tests;

/// The access raises a general-protection fault with error code 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("general-protection fault")]
pub struct GpFault;

/// Mode selected by IA32_APIC_BASE (SDM 3A, 11.12.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApicMode {
    Disabled,
    XApic,
    X2Apic,
}

/// What a register write asks of the rest of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApicOutput {
    /// An inter-processor interrupt to route.
    Ipi(Message),
    /// The end of a level-triggered interrupt with this vector: broadcast it to the IO-APIC.
    Eoi(u8),
}

const BASE_BSP: u64 = 1 << 8;
const BASE_EXTD: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;

const SVR_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const LVT_LEVEL: u32 = 1 << 15;
const LVT_REMOTE_IRR: u32 = 1 << 14;

const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;

const LVT_COUNT: usize = 6;
const LVT_TIMER: usize = 0;
const LVT_LINT0: usize = 3;
const LVT_LINT1: usize = 4;
const LVT_ERROR: usize = 5;

/// 256 bits, one a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct VectorSet([u64; 4]);

impl VectorSet {
    #[inline]
    fn set(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] |= 1 << (vector & 63);
    }

    #[inline]
    fn clear(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] &= !(1 << (vector & 63));
    }

    #[inline]
    fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 6)] & (1 << (vector & 63)) != 0
    }

    /// The highest vector, 0 for none (vectors below 16 are never set).
    #[inline]
    fn highest(&self) -> u8 {
        for (index, &word) in self.0.iter().enumerate().rev() {
            if word != 0 {
                return (index as u8) * 64 + (63 - word.leading_zeros() as u8);
            }
        }
        0
    }

    fn register(&self, index: u32) -> u32 {
        let word = self.0[(index / 2) as usize % 4];
        (word >> (index % 2 * 32)) as u32
    }
}

/// One processor's local APIC.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalApic {
    id: u32,
    /// The bootstrap processor's; the flag in IA32_APIC_BASE is the guest's to change.
    bootstrap: bool,
    base: u64,
    physical_bits: u8,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    esr: u32,
    esr_pending: u32,
    icr: u64,
    lvt: [u32; LVT_COUNT],
    irr: VectorSet,
    isr: VectorSet,
    tmr: VectorSet,
    timer: ApicTimer,
    /// Highest vector in service.
    in_service: u8,
    ppr: u8,
    /// The vector to deliver next, 0 for none: highest of IRR if its class is above the PPR's.
    ready: u8,
    nmi: bool,
    init: bool,
    sipi: Option<u8>,
    ext_int: bool,
}

impl State for LocalApic {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        let fixed = |apic: &Self| (apic.id, apic.bootstrap, apic.physical_bits, apic.timer.clock());
        same(fixed(self) == fixed(saved))
    }
}

impl LocalApic {
    /// A local APIC after reset, in xAPIC mode. `id` is the initial (x2)APIC ID; `physical_bits` is MAXPHYADDR.
    #[must_use]
    pub fn new(id: u32, bootstrap: bool, physical_bits: u8, clock: ApicClock) -> Self {
        let mut apic = Self {
            id,
            bootstrap,
            base: 0,
            physical_bits: physical_bits.clamp(32, 52),
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            esr: 0,
            esr_pending: 0,
            icr: 0,
            lvt: [0; LVT_COUNT],
            irr: VectorSet::default(),
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            timer: ApicTimer::new(clock),
            in_service: 0,
            ppr: 0,
            ready: 0,
            nmi: false,
            init: false,
            sipi: None,
            ext_int: false,
        };
        apic.reset();
        apic
    }

    /// Power-on reset.
    pub fn reset(&mut self) {
        self.base = LOCAL_APIC_BASE | BASE_ENABLE | if self.bootstrap { BASE_BSP } else { 0 };
        self.clear_registers();
        self.nmi = false;
        self.init = false;
        self.sipi = None;
    }

    fn clear_registers(&mut self) {
        self.tpr = 0;
        self.ldr = 0;
        self.dfr = u32::MAX;
        self.svr = 0xff;
        self.esr = 0;
        self.esr_pending = 0;
        self.icr = 0;
        self.lvt = [LVT_MASKED; LVT_COUNT];
        self.irr = VectorSet::default();
        self.isr = VectorSet::default();
        self.tmr = VectorSet::default();
        self.timer.reset();
        self.ext_int = false;
        self.update();
    }

    /// Virtual wire mode, as firmware leaves the bootstrap processor: enabled, ExtINT on LINT0, NMI on LINT1.
    pub fn enter_virtual_wire(&mut self) {
        self.svr |= SVR_ENABLE;
        self.lvt[LVT_LINT0] = 0x700;
        self.lvt[LVT_LINT1] = 0x400;
    }

    /// The mode IA32_APIC_BASE selects.
    #[must_use]
    #[inline]
    pub fn mode(&self) -> ApicMode {
        match (self.base & BASE_ENABLE != 0, self.base & BASE_EXTD != 0) {
            (false, _) => ApicMode::Disabled,
            (true, false) => ApicMode::XApic,
            (true, true) => ApicMode::X2Apic,
        }
    }

    /// Physical address of the register page while it is decoded (xAPIC mode only).
    #[must_use]
    #[inline]
    pub fn page(&self) -> Option<u64> {
        (self.mode() == ApicMode::XApic).then_some(self.base & !0xfff)
    }

    /// IA32_APIC_BASE says that this is the bootstrap processor: after INIT it starts at the reset vector.
    #[must_use]
    pub fn is_bootstrap(&self) -> bool {
        self.base & BASE_BSP != 0
    }

    /// The initial APIC ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    // ---- Interrupts to the processor ----

    /// The vector that the processor would take if it were interruptible.
    #[must_use]
    #[inline]
    pub fn pending_vector(&self) -> Option<u8> {
        (self.ready != 0).then_some(self.ready)
    }

    /// The processor takes the pending interrupt: it moves from request to service. With nothing to deliver any
    /// more, the spurious vector is returned and nothing is in service.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = self.ready;
        if vector == 0 {
            return (self.svr & 0xff) as u8;
        }
        self.irr.clear(vector);
        self.isr.set(vector);
        self.update();
        vector
    }

    /// An NMI is waiting.
    #[must_use]
    #[inline]
    pub fn nmi_pending(&self) -> bool {
        self.nmi
    }

    /// Takes the waiting NMI.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }

    /// Takes the waiting INIT; registers were reset when it arrived.
    pub fn take_init(&mut self) -> bool {
        std::mem::take(&mut self.init)
    }

    /// Takes the waiting start-up vector. The processor ignores it unless it waits for one.
    pub fn take_sipi(&mut self) -> Option<u8> {
        self.sipi.take()
    }

    /// NMI, INIT or start-up is waiting.
    #[must_use]
    #[inline]
    pub fn has_signal(&self) -> bool {
        self.nmi || self.init || self.sipi.is_some()
    }

    /// An ExtINT message has arrived over the interrupt bus (IO-APIC pin 0 in ExtINT mode).
    #[must_use]
    #[inline]
    pub(super) fn ext_int_latched(&self) -> bool {
        self.ext_int
    }

    pub(super) fn take_ext_int(&mut self) {
        self.ext_int = false;
    }

    /// The INTR line of the 8259 pair reaches the processor: LINT0 is an unmasked ExtINT, or the APIC is disabled
    /// and LINT0 is the INTR pin.
    #[must_use]
    #[inline]
    pub(super) fn passes_intr(&self) -> bool {
        if self.mode() == ApicMode::Disabled {
            return self.bootstrap;
        }
        self.lvt[LVT_LINT0] & (LVT_MASKED | 0x700) == 0x700
    }

    /// A rising edge on LINT0. ExtINT is a level and seen by [`Self::passes_intr`].
    pub(super) fn raise_lint0(&mut self) {
        if self.mode() != ApicMode::Disabled && self.lvt[LVT_LINT0] & 0x700 != 0x700 {
            self.deliver_lvt(LVT_LINT0);
        }
    }

    /// A rising edge on LINT1.
    pub(super) fn raise_lint1(&mut self) {
        if self.mode() == ApicMode::Disabled {
            self.nmi = true;
        } else {
            self.deliver_lvt(LVT_LINT1);
        }
    }

    // ---- Interrupts from the bus ----

    /// Whether a message to this destination addresses this APIC. Shorthands are the router's business.
    #[must_use]
    pub fn matches(&self, destination: Destination) -> bool {
        match (destination, self.mode()) {
            (_, ApicMode::Disabled) => false,
            (Destination::Physical(id), ApicMode::X2Apic) => id == self.id || id == u32::MAX,
            (Destination::Physical(id), ApicMode::XApic) => id == self.xapic_id() || id == u32::MAX,
            (Destination::Logical(dest), ApicMode::X2Apic) => {
                let ldr = self.logical_id();
                dest == u32::MAX || (dest >> 16 == ldr >> 16 && dest & ldr & 0xffff != 0)
            }
            (Destination::Logical(dest), ApicMode::XApic) => {
                let ldr = self.ldr >> 24;
                if self.dfr >> 28 == 0xf {
                    dest & ldr & 0xff != 0
                } else {
                    (dest >> 4 == 0xf || dest >> 4 == ldr >> 4) && dest & ldr & 0xf != 0
                }
            }
            (Destination::Myself | Destination::All | Destination::Others, _) => false,
        }
    }

    /// Priority by which lowest-priority delivery chooses (the processor priority).
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.ppr
    }

    /// Software-enabled (SVR bit 8): fixed interrupts are accepted.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.mode() != ApicMode::Disabled && self.svr & SVR_ENABLE != 0
    }

    /// Accepts a message that addresses this APIC; returns whether it was taken.
    pub fn accept(&mut self, message: &Message) -> bool {
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.is_enabled() && self.accept_vector(message.vector, message.level)
            }
            DeliveryMode::Nmi => {
                self.nmi = true;
                true
            }
            DeliveryMode::Init => {
                self.receive_init();
                true
            }
            DeliveryMode::StartUp => {
                self.sipi = Some(message.vector);
                true
            }
            DeliveryMode::ExtInt => {
                self.ext_int = true;
                true
            }
            DeliveryMode::Smi => false,
        }
    }

    fn accept_vector(&mut self, vector: u8, level: bool) -> bool {
        if vector < 16 {
            self.raise_error(ESR_RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        self.irr.set(vector);
        if level {
            self.tmr.set(vector);
        } else {
            self.tmr.clear(vector);
        }
        self.update();
        true
    }

    fn deliver_lvt(&mut self, index: usize) {
        let entry = self.lvt[index];
        if entry & LVT_MASKED != 0 {
            return;
        }
        let vector = (entry & 0xff) as u8;
        // Timer and error entries have no mode field: those bits are never set there.
        match DeliveryMode::from_bits(entry >> 8) {
            Some(DeliveryMode::Fixed) => {
                let level = index == LVT_LINT0 && entry & LVT_LEVEL != 0;
                if self.accept_vector(vector, level) && level {
                    self.lvt[index] |= LVT_REMOTE_IRR;
                }
            }
            Some(DeliveryMode::Nmi) => self.nmi = true,
            Some(DeliveryMode::Init) => self.receive_init(),
            _ => {}
        }
    }

    /// INIT: the registers are as after power-on but for the ID and IA32_APIC_BASE (SDM 3A, 11.4.7.3), and what waited
    /// for the processor is gone.
    fn receive_init(&mut self) {
        self.clear_registers();
        self.init = true;
        self.nmi = false;
        self.sipi = None;
    }

    fn raise_error(&mut self, bits: u32) {
        self.esr_pending |= bits;
        let entry = self.lvt[LVT_ERROR];
        let vector = (entry & 0xff) as u8;
        // An error entry with an illegal vector must not raise another error.
        if entry & LVT_MASKED == 0 && vector >= 16 {
            self.accept_vector(vector, false);
        }
    }

    /// Recomputes the cached priorities after any change of TPR, IRR or ISR.
    #[inline]
    fn update(&mut self) {
        self.in_service = self.isr.highest();
        self.ppr = if self.tpr >> 4 >= self.in_service >> 4 { self.tpr } else { self.in_service & 0xf0 };
        let requested = self.irr.highest();
        self.ready = if requested >> 4 > self.ppr >> 4 { requested } else { 0 };
    }

    fn end_of_interrupt(&mut self) -> Option<ApicOutput> {
        let vector = self.in_service;
        if vector == 0 {
            return None;
        }
        self.isr.clear(vector);
        self.update();
        if !self.tmr.contains(vector) {
            return None;
        }
        if self.lvt[LVT_LINT0] & 0xff == u32::from(vector) {
            self.lvt[LVT_LINT0] &= !LVT_REMOTE_IRR;
        }
        Some(ApicOutput::Eoi(vector))
    }

    // ---- Timer ----

    /// Virtual time of the next timer interrupt; `None` while the timer is stopped or masked.
    #[must_use]
    #[inline]
    pub fn next_deadline(&self) -> Option<Nanos> {
        if self.lvt[LVT_TIMER] & LVT_MASKED != 0 { None } else { self.timer.expiry() }
    }

    /// Brings the timer to `now`, raising its interrupt if it expired.
    #[inline]
    pub fn advance(&mut self, now: Nanos) {
        if self.timer.expire(now) {
            self.deliver_lvt(LVT_TIMER);
        }
    }

    /// Sets guest TSC minus the machine's TSC (wrapping), which moves the meaning of TSC deadlines.
    pub fn set_tsc_offset(&mut self, offset: u64, now: Nanos) {
        self.advance(now);
        self.timer.set_tsc_offset(offset, now);
        self.advance(now);
    }
}
