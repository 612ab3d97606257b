//! What devices share: interrupt controllers, pending events, the power logic, time.

use super::attachment::Attachments;
use crate::clock::events::Source;
use crate::clock::{EventId, EventQueue};
use crate::findings::{self, Findings, Raw};
use crate::ledger::Ledger;
use crate::memory::layout::{MESSAGES, platform};
use crate::memory::{GuestRam, MemorySystem, Transaction, dma};
use cache_model::ledger::{RogueKind, Transfer};
use cache_model::{PostedWrite, PostedWrites, Snoop};
use devices::bus::{Nanos, Platform, PowerRequest};
use devices::dma::{AtomicOp, DmaAttrs, DmaError, Purpose};
use devices::interrupt::{ApicClock, Interrupts, InterruptsConfig};
use devices::iommu::{Iommu, Request};
use devices::pci::{Bdf, Host, Slot};
use devices::storage::Storage;
use x86_cpu::{CRYSTAL_HZ, TSC_PER_CRYSTAL};

/// MAXPHYADDR of the vCPUs.
const PHYSICAL_BITS: u8 = 46;

/// What a device has signalled, for interrupt controllers that an engine owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptSignal {
    /// Global system interrupt `gsi` is driven to `high`.
    Line { gsi: u32, high: bool },
    /// A memory write to the interrupt address range.
    Message { address: u64, data: u32 },
}

/// Shared state behind the contexts that devices are lent.
#[derive(Debug, Clone)]
pub(super) struct Board {
    pub interrupts: Interrupts,
    /// What devices have signalled while an engine owns the interrupt controllers; else the signals go to `interrupts`.
    pub delegated: Option<Vec<InterruptSignal>>,
    pub events: EventQueue,
    /// The first request that has not been taken yet.
    pub power: Option<PowerRequest>,
    /// Virtual time of the access being made.
    pub now: Nanos,
    /// The slots whose functions assert their interrupt pin, by bit.
    pub pins: u16,
    /// Writes with relaxed ordering that are on their way.
    pub posted: PostedWrites,
}

impl Board {
    pub(super) fn new(cpus: u32) -> Self {
        let timer_hz = u64::from(CRYSTAL_HZ);
        let clock = ApicClock { tsc_hz: timer_hz * u64::from(TSC_PER_CRYSTAL), timer_hz };
        let config = InterruptsConfig { cpus, clock, physical_bits: PHYSICAL_BITS };
        let mut interrupts = Interrupts::new(&config);
        interrupts.enter_virtual_wire();
        Self {
            interrupts,
            delegated: None,
            events: EventQueue::default(),
            power: None,
            now: 0,
            pins: 0,
            posted: PostedWrites::default(),
        }
    }

    fn set_gsi(&mut self, gsi: u32, high: bool) {
        match &mut self.delegated {
            Some(signals) => signals.push(InterruptSignal::Line { gsi, high }),
            None => self.interrupts.set_gsi(gsi, high),
        }
    }

    /// Returns whether `address` is an interrupt's.
    fn deliver_msi(&mut self, address: u64, data: u32) -> bool {
        match &mut self.delegated {
            Some(signals) if MESSAGES.contains(address) => {
                signals.push(InterruptSignal::Message { address, data });
                true
            }
            Some(_) => false,
            None => self.interrupts.deliver_msi(address, data),
        }
    }

    /// INTA of the function in `slot` changes. Root ports pass it on as their own INTA: slots four apart share an input.
    fn set_interrupt_pin(&mut self, slot: Slot, asserted: bool) {
        let bit = 1 << (slot & 15);
        self.pins = if asserted { self.pins | bit } else { self.pins & !bit };
        let sharing = 0x1111 << (slot % 4);
        self.set_gsi(platform::PCI_GSI + u32::from(slot) % 4, self.pins & sharing != 0);
    }
}

/// The machine as one platform device sees it during one call.
pub(super) struct PlatformPort<'a> {
    pub source: Source,
    pub board: &'a mut Board,
}

impl Platform for PlatformPort<'_> {
    fn now(&self) -> Nanos {
        self.board.now
    }
    fn set_irq(&mut self, gsi: u32, high: bool) {
        self.board.set_gsi(gsi, high);
    }
    fn schedule(&mut self, at: Nanos, token: u32) {
        self.board.events.schedule(at, EventId { source: self.source, token });
    }
    fn cancel(&mut self, token: u32) {
        self.board.events.cancel(EventId { source: self.source, token });
    }
    fn power(&mut self, request: PowerRequest) {
        self.board.power.get_or_insert(request);
    }
}

fn snoop(attrs: DmaAttrs) -> Snoop {
    if attrs.no_snoop { Snoop::NoSnoop } else { Snoop::Snoop }
}

/// A transaction as findings have it.
fn seen(by: Transaction, transfer: Transfer, addr: u64, data: &[u8]) -> findings::Transaction<'_> {
    let Transaction { device, at: now, snoop, purpose } = by;
    let no_snoop = snoop == Snoop::NoSnoop;
    findings::Transaction { device, transfer, addr, data, no_snoop, purpose, now }
}

/// The machine as the root complex sees it during one call.
pub(super) struct PciHost<'a> {
    pub memory: &'a mut MemorySystem,
    pub board: &'a mut Board,
    pub attachments: &'a mut Attachments,
    pub iommu: Option<&'a mut Iommu>,
    pub watch: Watch<'a>,
}

/// What looks at transactions of devices.
pub(super) struct Watch<'a> {
    pub ledger: Option<&'a mut Ledger>,
    pub findings: &'a mut Findings,
}

impl Watch<'_> {
    /// A transaction with RAM: do the mappings of its device allow it, and is it the memory that they stand for?
    fn see(&mut self, transaction: findings::Transaction<'_>, ram: &GuestRam) {
        let Some(ledger) = self.ledger.as_deref_mut().filter(|ledger| ledger.coverage().mappings) else {
            return;
        };
        match transaction.judge(ledger.mappings()) {
            Some(Raw::Rogue { kind: RogueKind::UseAfterUnmap, .. }) if !ledger.coverage().unmaps => {}
            Some(raw) => self.findings.observe(raw),
            None => {}
        }
        let findings::Transaction { transfer, addr, data, .. } = transaction;
        let bounced = ledger.see(transfer, addr, data, ram);
        if let Some(raw) = bounced.and_then(|(diverged, entry)| transaction.bounced(diverged, entry)) {
            self.findings.observe(raw);
        }
    }

    /// A transaction that the IOMMU has not let through: what it asked for from `beyond` on its device may not reach.
    fn see_blocked(&mut self, transaction: findings::Transaction<'_>, beyond: u64) {
        let ledger = self.ledger.as_deref().filter(|ledger| ledger.coverage().mappings);
        if let Some(raw) = transaction.blocked(beyond, ledger.map(Ledger::mappings)) {
            self.findings.observe(raw);
        }
    }
}

impl PciHost<'_> {
    fn of(&self, from: Bdf, attrs: DmaAttrs) -> Transaction {
        let DmaAttrs { purpose, .. } = attrs;
        Transaction { device: from.to_bits().into(), at: self.board.now, snoop: snoop(attrs), purpose }
    }

    /// A write reaches memory.
    fn write_now(&mut self, by: Transaction, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        self.check(by, Request::Write, iova, data)?;
        self.see(by, Transfer::Write, iova, data);
        self.memory.dma_write(by, iova, data)
    }

    /// Asks the IOMMU; `data` is what a write, or an atomic operation, brings, or what a read that fails returns.
    fn check(&mut self, by: Transaction, request: Request, addr: u64, data: &[u8]) -> Result<(), DmaError> {
        let Some(iommu) = &mut self.iommu else { return Ok(()) };
        let checked = iommu.check(Bdf::from_bits(by.device as u16), request, addr, data.len() as u64);
        if let Err(DmaError::Blocked(beyond)) = checked {
            let transfer = if request == Request::Read { Transfer::Read } else { Transfer::Write };
            self.watch.see_blocked(seen(by, transfer, addr, data), beyond);
        }
        checked
    }

    fn see(&mut self, by: Transaction, transfer: Transfer, addr: u64, data: &[u8]) {
        if self.memory.ram.contains(addr, data.len() as u64) {
            self.watch.see(seen(by, transfer, addr, data), &self.memory.ram);
        }
    }

    /// A write with relaxed ordering goes on its way, line by line. One that the IOMMU or memory would refuse is made at once,
    /// for the device to hear of it; each line is checked again when it is made.
    fn post(&mut self, from: Bdf, iova: u64, data: &[u8], attrs: DmaAttrs) -> Result<(), DmaError> {
        self.check(self.of(from, attrs), Request::Write, iova, data)?;
        for (addr, range) in dma::lines(iova, data.len()) {
            let part = data.get(range).unwrap_or_default();
            let by = self.of(from, attrs);
            let Transaction { device, snoop, purpose, .. } = by;
            let write = PostedWrite { device, addr, data: part.to_vec(), snoop, label: purpose.to_bits() };
            if !self.memory.ram.contains(addr, part.len() as u64) {
                self.write_now(by, addr, part)?;
            } else if let Some(write) = self.board.posted.post(self.board.now, write) {
                self.make(&[write]);
            }
        }
        self.schedule_posted();
        Ok(())
    }

    /// Writes that have been on their way reach memory.
    fn make(&mut self, writes: &[PostedWrite]) {
        for write in writes {
            let &PostedWrite { device, snoop, label, .. } = write;
            let by = Transaction { device, at: self.board.now, snoop, purpose: Purpose::from_bits(label) };
            if let Err(error) = self.write_now(by, write.addr, &write.data) {
                log::debug!("{}: posted write lost: {error}", Bdf::from_bits(write.device as u16));
            }
        }
    }

    /// Posted writes reach memory that have waited long enough.
    pub fn make_due_writes(&mut self) {
        let due = self.board.posted.due(self.board.now);
        self.make(&due);
        self.schedule_posted();
    }

    fn schedule_posted(&mut self) {
        let id = EventId { source: Source::PostedWrites, token: 0 };
        match self.board.posted.next_due() {
            Some(at) => self.board.events.schedule(at, id),
            None => self.board.events.cancel(id),
        }
    }
}

impl Host for PciHost<'_> {
    fn now(&self) -> Nanos {
        self.board.now
    }
    fn dma_read(&mut self, from: Bdf, iova: u64, buf: &mut [u8], attrs: DmaAttrs) -> Result<(), DmaError> {
        self.dma_flush(from);
        let by = self.of(from, attrs);
        if self.iommu.is_some() {
            // What it gets if it is blocked.
            buf.fill(0xff);
            self.check(by, Request::Read, iova, buf)?;
        }
        self.memory.dma_read(by, iova, buf)?;
        self.see(by, Transfer::Read, iova, buf);
        Ok(())
    }
    fn dma_write(&mut self, from: Bdf, iova: u64, data: &[u8], attrs: DmaAttrs) -> Result<(), DmaError> {
        if attrs.relaxed_ordering && self.board.posted.is_started() {
            return self.post(from, iova, data, attrs);
        }
        self.dma_flush(from);
        self.write_now(self.of(from, attrs), iova, data)
    }
    fn dma_atomic(&mut self, from: Bdf, iova: u64, op: AtomicOp, attrs: DmaAttrs) -> Result<u64, DmaError> {
        self.dma_flush(from);
        let by = self.of(from, attrs);
        self.check(by, Request::Atomic, iova, &op.operand().to_le_bytes())?;
        let old = self.memory.dma_atomic(by, iova, op)?;
        self.see(by, Transfer::Read, iova, &old.to_le_bytes());
        self.see(by, Transfer::Write, iova, &op.apply(old).to_le_bytes());
        Ok(old)
    }
    fn dma_flush(&mut self, from: Bdf) {
        if !self.board.posted.is_empty() {
            let waiting = self.board.posted.drain(from.to_bits().into());
            self.make(&waiting);
            self.schedule_posted();
        }
    }
    fn set_interrupt_pin(&mut self, slot: Slot, asserted: bool) {
        self.board.set_interrupt_pin(slot, asserted);
    }
    /// A message is a strongly ordered write, and carries no attribute.
    fn deliver_msi(&mut self, from: Bdf, address: u64, data: u32) {
        self.dma_flush(from);
        let by = self.of(from, DmaAttrs::default());
        if !self.board.deliver_msi(address, data)
            && let Err(error) = self.write_now(by, address, &data.to_le_bytes())
        {
            log::debug!("{from}: interrupt message lost: {error}");
        }
    }
    fn schedule(&mut self, slot: Slot, token: u32, at: Nanos) {
        self.board.events.schedule(at, EventId { source: Source::Pci(slot), token });
    }
    fn cancel(&mut self, slot: Slot, token: u32) {
        self.board.events.cancel(EventId { source: Source::Pci(slot), token });
    }
    fn cancel_all(&mut self, slot: Slot) {
        self.board.events.cancel_all(Source::Pci(slot));
    }
    fn storage(&mut self, slot: Slot) -> Option<&mut dyn Storage> {
        self.attachments.storage(slot)
    }
    fn output(&mut self, slot: Slot, bytes: &[u8]) {
        self.attachments.output(slot, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GuestRam;
    use crate::memory::layout::MIB;

    #[test]
    fn a_message_to_ram_is_a_write() {
        let mut memory = MemorySystem::new(GuestRam::new(8 * MIB).unwrap(), None);
        let mut board = Board::new(1);
        let attachments = &mut Attachments::default();
        let watch = Watch { ledger: None, findings: &mut Findings::default() };
        let mut host = PciHost { memory: &mut memory, board: &mut board, attachments, iommu: None, watch };
        host.deliver_msi(Bdf::new(1, 0, 0), 0x5000, 0xabcd);
        host.deliver_msi(Bdf::new(1, 0, 0), u64::MAX, 0xabcd);
        let mut word = [0; 4];
        memory.ram.read(0x5000, &mut word).unwrap();
        assert_eq!(u32::from_le_bytes(word), 0xabcd);
    }

    #[test]
    fn signals_are_kept_for_controllers_that_are_an_engines() {
        let mut memory = MemorySystem::new(GuestRam::new(8 * MIB).unwrap(), None);
        let mut board = Board::new(1);
        board.delegated = Some(Vec::new());
        PlatformPort { source: Source::Platform(0), board: &mut board }.set_irq(4, true);
        let attachments = &mut Attachments::default();
        let watch = Watch { ledger: None, findings: &mut Findings::default() };
        let mut host = PciHost { memory: &mut memory, board: &mut board, attachments, iommu: None, watch };
        host.deliver_msi(Bdf::new(1, 0, 0), 0xfee0_1000, 0x41);
        host.deliver_msi(Bdf::new(1, 0, 0), 0x5000, 0xabcd);
        let message = InterruptSignal::Message { address: 0xfee0_1000, data: 0x41 };
        assert_eq!(board.delegated, Some(vec![InterruptSignal::Line { gsi: 4, high: true }, message]));
        assert!(!board.interrupts.has_event(0), "the machine's own hear nothing");
        let mut word = [0; 4];
        memory.ram.read(0x5000, &mut word).unwrap();
        assert_eq!(u32::from_le_bytes(word), 0xabcd, "a message to RAM stays a write");
    }

    #[test]
    fn the_first_power_request_counts() {
        let mut board = Board::new(1);
        let mut port = PlatformPort { source: Source::Platform(0), board: &mut board };
        port.power(PowerRequest::Off);
        port.power(PowerRequest::Reset);
        assert_eq!(board.power, Some(PowerRequest::Off));
    }
}
