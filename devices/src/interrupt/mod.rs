//! Interrupt controllers: local APICs, the IO-APIC, the 8259 pair, and the fabric that routes between them.
//!
//! References: Intel SDM volume 3A chapter 11 ("APIC"); 82093AA IO-APIC data sheet; 8259A data sheet.

mod apic_timer;
mod fabric;
mod io_apic;
mod local_apic;
mod pic;

pub use apic_timer::ApicClock;
pub use fabric::{Interrupts, InterruptsConfig};
pub use io_apic::IoApic;
pub use local_apic::{ApicMode, ApicOutput, GpFault, LocalApic};
pub use pic::PicPair;

/// Base address of the local APIC's page after reset.
pub const LOCAL_APIC_BASE: u64 = 0xfee0_0000;

/// How an interrupt message acts on its target (SDM 3A, 11.6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryMode {
    /// To every addressed processor, with a vector.
    Fixed,
    /// To the addressed processor that runs at the lowest priority, with a vector.
    LowestPriority,
    /// System management interrupt. This machine has no SMM: it is dropped.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI; the vector names the page of the start address.
    StartUp,
    /// Like the INTR pin: the vector comes from the 8259 pair.
    ExtInt,
}

impl DeliveryMode {
    /// Decodes the three-bit field used by the ICR, LVTs, redirection entries and MSI data; 3 is reserved.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => return None,
        })
    }
}

/// Whom a message addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The local APIC with this ID.
    Physical(u32),
    /// Every local APIC whose logical ID matches (flat, cluster or x2APIC model, as the receiver is set).
    Logical(u32),
    /// The sender.
    Myself,
    /// All local APICs.
    All,
    /// All but the sender.
    Others,
}

impl Destination {
    /// Decodes the eight-bit destination of an xAPIC ICR, redirection entry or MSI address. Physical 0xff is the
    /// broadcast.
    #[must_use]
    pub fn from_8bit(dest: u8, logical: bool) -> Self {
        match (logical, dest) {
            (true, _) => Self::Logical(u32::from(dest)),
            (false, 0xff) => Self::All,
            (false, _) => Self::Physical(u32::from(dest)),
        }
    }
}

/// One interrupt message on its way to local APICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub destination: Destination,
    pub mode: DeliveryMode,
    pub vector: u8,
    /// Level-triggered: the receiver broadcasts its EOI to the IO-APIC.
    pub level: bool,
}
