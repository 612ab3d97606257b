//! Routes interrupts between devices, the IO-APIC, the 8259 pair and the processors' local APICs.

use super::{
    ApicClock, ApicMode, ApicOutput, DeliveryMode, Destination, GpFault, IoApic, LocalApic, Message, PicPair,
};
use crate::bus::Nanos;
use crate::state::{State, same};
use serde::{Deserialize, Serialize};

/// IO-APIC input of the 8254's output: the MADT overrides ISA interrupt 0 to it, since input 0 carries the 8259s.
const GSI_TIMER: u32 = 2;

/// Fixed properties of the interrupt system.
#[derive(Debug, Clone, Copy)]
pub struct InterruptsConfig {
    /// Number of processors; processor `n` has APIC ID `n`, processor 0 is the bootstrap processor.
    pub cpus: u32,
    pub clock: ApicClock,
    /// MAXPHYADDR, which bounds IA32_APIC_BASE.
    pub physical_bits: u8,
}

/// All interrupt controllers of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Interrupts {
    apics: Vec<LocalApic>,
    io_apic: IoApic,
    pic: PicPair,
    /// The 8259 pair's INT output, as last seen.
    intr: bool,
}

impl State for Interrupts {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same(self.apics.len() == saved.apics.len())?;
        self.apics.iter().zip(&saved.apics).try_for_each(|(apic, saved)| apic.accepts(saved))?;
        self.pic.accepts(&saved.pic)
    }
}

impl Interrupts {
    /// Controllers after power-on.
    #[must_use]
    pub fn new(config: &InterruptsConfig) -> Self {
        let apic = |id| LocalApic::new(id, id == 0, config.physical_bits, config.clock);
        Self {
            apics: (0..config.cpus).map(apic).collect(),
            io_apic: IoApic::default(),
            pic: PicPair::default(),
            intr: false,
        }
    }

    /// System reset. Input lines keep the level their devices drive.
    pub fn reset(&mut self) {
        for apic in &mut self.apics {
            apic.reset();
        }
        self.io_apic.reset();
        self.pic.reset();
        self.intr = false;
    }

    /// Leaves the bootstrap processor in virtual wire mode, as firmware does: 8259 interrupts reach it.
    pub fn enter_virtual_wire(&mut self) {
        if let Some(apic) = self.apics.first_mut() {
            apic.enter_virtual_wire();
        }
    }

    // ---- What a processor asks ----

    /// Anything for `cpu` at all: an interrupt, NMI, INIT or start-up.
    #[must_use]
    #[inline]
    pub fn has_event(&self, cpu: usize) -> bool {
        self.apics.get(cpu).is_some_and(|apic| apic.has_signal()) || self.interrupt_pending(cpu)
    }

    /// A maskable interrupt waits for `cpu`.
    #[must_use]
    #[inline]
    pub fn interrupt_pending(&self, cpu: usize) -> bool {
        self.apics.get(cpu).is_some_and(|apic| apic.pending_vector().is_some() || self.ext_int_pending(apic))
    }

    /// The vector that [`Self::acknowledge`] would return now.
    #[must_use]
    pub fn pending_vector(&self, cpu: usize) -> Option<u8> {
        let apic = self.apics.get(cpu)?;
        if self.ext_int_pending(apic) { self.pic.pending_vector() } else { apic.pending_vector() }
    }

    /// `cpu` takes its interrupt. With none pending the spurious vector is returned.
    pub fn acknowledge(&mut self, cpu: usize) -> u8 {
        let Some(apic) = self.apics.get_mut(cpu) else { return 0xff };
        if self.intr && (apic.ext_int_latched() || apic.passes_intr()) {
            apic.take_ext_int();
            let vector = self.pic.acknowledge();
            self.follow_pic();
            vector
        } else {
            apic.acknowledge()
        }
    }

    #[inline]
    fn ext_int_pending(&self, apic: &LocalApic) -> bool {
        self.intr && (apic.ext_int_latched() || apic.passes_intr())
    }

    /// The local APIC of `cpu`, for signals (NMI, INIT, start-up), CR8 and the TSC offset.
    #[must_use]
    #[inline]
    pub fn apic(&self, cpu: usize) -> Option<&LocalApic> {
        self.apics.get(cpu)
    }

    /// The local APIC of `cpu`, for taking signals, writing CR8 and setting the TSC offset.
    #[inline]
    pub fn apic_mut(&mut self, cpu: usize) -> Option<&mut LocalApic> {
        self.apics.get_mut(cpu)
    }

    // ---- Timers ----

    /// Virtual time of the earliest APIC timer interrupt.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.apics.iter().filter_map(LocalApic::next_deadline).min()
    }

    /// Raises the timer interrupts due at `now`.
    pub fn advance(&mut self, now: Nanos) {
        for apic in &mut self.apics {
            if apic.next_deadline().is_some_and(|at| at <= now) {
                apic.advance(now);
            }
        }
    }

    // ---- Register accesses of a processor ----

    /// Physical address of `cpu`'s APIC page while it decodes one.
    #[must_use]
    #[inline]
    pub fn apic_page(&self, cpu: usize) -> Option<u64> {
        self.apics.get(cpu)?.page()
    }

    /// Reads `cpu`'s APIC page.
    pub fn apic_read(&mut self, cpu: usize, offset: u64, data: &mut [u8], now: Nanos) {
        match self.apics.get_mut(cpu) {
            Some(apic) => apic.mmio_read(offset, data, now),
            None => data.fill(0xff),
        }
    }

    /// Writes `cpu`'s APIC page and routes what follows from it.
    pub fn apic_write(&mut self, cpu: usize, offset: u64, data: &[u8], now: Nanos) {
        let output = self.apics.get_mut(cpu).and_then(|apic| apic.mmio_write(offset, data, now));
        self.route_output(cpu, output);
    }

    /// RDMSR on `cpu` of a register for which [`LocalApic::owns_msr`] holds.
    ///
    /// # Errors
    /// [`GpFault`] as [`LocalApic::read_msr`].
    pub fn read_msr(&mut self, cpu: usize, msr: u32, now: Nanos) -> Result<u64, GpFault> {
        self.apics.get_mut(cpu).ok_or(GpFault)?.read_msr(msr, now)
    }

    /// WRMSR on `cpu` of a register for which [`LocalApic::owns_msr`] holds.
    ///
    /// # Errors
    /// [`GpFault`] as [`LocalApic::write_msr`].
    pub fn write_msr(&mut self, cpu: usize, msr: u32, value: u64, now: Nanos) -> Result<(), GpFault> {
        let output = self.apics.get_mut(cpu).ok_or(GpFault)?.write_msr(msr, value, now)?;
        self.route_output(cpu, output);
        Ok(())
    }

    /// Reads the IO-APIC's window.
    pub fn io_apic_read(&self, offset: u64, data: &mut [u8]) {
        self.io_apic.mmio_read(offset, data);
    }

    /// Writes the IO-APIC's window and routes what follows from it.
    pub fn io_apic_write(&mut self, offset: u64, data: &[u8]) {
        self.io_apic.mmio_write(offset, data);
        self.drain_io_apic();
    }

    /// Reads a port of the 8259 pair (0x20, 0x21, 0xa0, 0xa1) or its ELCR (0x4d0, 0x4d1).
    pub fn pic_read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => self.pic.read(port & 0x80 != 0, port & 1 != 0),
            0x4d0 | 0x4d1 => self.pic.read_elcr(port & 1 != 0),
            _ => 0xff,
        };
        self.follow_pic();
        value
    }

    /// Writes a port of the 8259 pair (0x20, 0x21, 0xa0, 0xa1) or its ELCR (0x4d0, 0x4d1).
    pub fn pic_write(&mut self, port: u16, value: u8) {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => self.pic.write(port & 0x80 != 0, port & 1 != 0, value),
            0x4d0 | 0x4d1 => self.pic.write_elcr(port & 1 != 0, value),
            _ => {}
        }
        self.follow_pic();
    }

    // ---- What devices send ----

    /// Drives global system interrupt `gsi`: the IO-APIC input of that number, and below 16 the ISA interrupt of the
    /// 8259 pair. GSI 2 is ISA interrupt 0 (the 8254).
    pub fn set_gsi(&mut self, gsi: u32, high: bool) {
        match gsi {
            GSI_TIMER => self.pic.set_line(0, high),
            1 | 3..=15 => self.pic.set_line(gsi as u8, high),
            // Input 0 is wired to the 8259 pair's output.
            0 => return,
            _ => {}
        }
        self.io_apic.set_line(gsi, high);
        self.drain_io_apic();
        if gsi < 16 {
            self.follow_pic();
        }
    }

    /// A device's memory write to the interrupt address range (SDM 3A, 11.11); returns whether `address` is in it.
    pub fn deliver_msi(&mut self, address: u64, data: u32) -> bool {
        if address >> 20 != 0xfee {
            return false;
        }
        let logical = address & 4 != 0;
        let redirect = address & 8 != 0;
        let (level, assert) = (data & (1 << 15) != 0, data & (1 << 14) != 0);
        let Some(mut mode) = DeliveryMode::from_bits(data >> 8) else { return true };
        if level && !assert {
            return true;
        }
        if redirect && logical && mode == DeliveryMode::Fixed {
            mode = DeliveryMode::LowestPriority;
        }
        let destination = Destination::from_8bit((address >> 12) as u8, logical);
        self.deliver(None, &Message { destination, mode, vector: data as u8, level });
        true
    }

    /// A non-maskable interrupt from the board (LINT1 of every processor).
    pub fn raise_nmi(&mut self) {
        for apic in &mut self.apics {
            apic.raise_lint1();
        }
    }

    // ---- Routing ----

    fn route_output(&mut self, cpu: usize, output: Option<ApicOutput>) {
        match output {
            Some(ApicOutput::Ipi(message)) => {
                self.deliver(Some(cpu), &message);
            }
            Some(ApicOutput::Eoi(vector)) => {
                self.io_apic.end_of_interrupt(vector);
                self.drain_io_apic();
            }
            None => {}
        }
    }

    /// Delivers to every (or the most suitable) addressed local APIC; returns whether one took the message.
    fn deliver(&mut self, source: Option<usize>, message: &Message) -> bool {
        let addressed = |index: usize, apic: &LocalApic| match message.destination {
            Destination::Myself => Some(index) == source,
            Destination::All => apic.mode() != ApicMode::Disabled,
            Destination::Others => Some(index) != source && apic.mode() != ApicMode::Disabled,
            destination => apic.matches(destination),
        };
        if message.mode == DeliveryMode::LowestPriority {
            let chosen = self
                .apics
                .iter_mut()
                .enumerate()
                .filter(|(index, apic)| addressed(*index, apic) && apic.is_enabled())
                .min_by_key(|(_, apic)| apic.priority());
            return chosen.is_some_and(|(_, apic)| apic.accept(message));
        }
        let mut taken = false;
        for (index, apic) in self.apics.iter_mut().enumerate() {
            if addressed(index, apic) {
                taken |= apic.accept(message);
            }
        }
        taken
    }

    fn drain_io_apic(&mut self) {
        // Each message either sets a remote IRR or uses up an edge, so this ends.
        while let Some((pin, message)) = self.io_apic.next_message() {
            if !self.deliver(None, &message) {
                self.io_apic.rejected(pin);
            }
        }
    }

    /// Passes a change of the 8259 pair's output on to LINT0 and IO-APIC input 0.
    fn follow_pic(&mut self) {
        let output = self.pic.output();
        if output == self.intr {
            return;
        }
        self.intr = output;
        if output {
            for apic in &mut self.apics {
                apic.raise_lint0();
            }
        }
        self.io_apic.set_line(0, output);
        self.drain_io_apic();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: u32) -> Interrupts {
        let mut machine =
            Interrupts::new(&InterruptsConfig { cpus, clock: ApicClock::default(), physical_bits: 46 });
        for cpu in 0..cpus as usize {
            machine.apic_write(cpu, 0xf0, &0x1ffu32.to_le_bytes(), 0);
            machine.apic_write(cpu, 0xd0, &(1u32 << (24 + cpu)).to_le_bytes(), 0);
        }
        machine
    }

    fn write_apic(machine: &mut Interrupts, cpu: usize, offset: u64, value: u32) {
        machine.apic_write(cpu, offset, &value.to_le_bytes(), 0);
    }

    fn redirect(machine: &mut Interrupts, pin: u8, entry: u64) {
        for (index, half) in [(0, entry as u32), (1, (entry >> 32) as u32)].into_iter().rev() {
            machine.io_apic_write(0, &[0x10 + pin * 2 + index]);
            machine.io_apic_write(0x10, &half.to_le_bytes());
        }
    }

    #[test]
    fn an_msi_reaches_the_addressed_processor() {
        let mut machine = machine(4);
        assert!(machine.deliver_msi(0xfee0_2000, 0x4061));
        assert!(!machine.has_event(1));
        assert_eq!(machine.acknowledge(2), 0x61);
        assert!(!machine.deliver_msi(0xfed0_0000, 0x61));
        machine.deliver_msi(0xfee0_a004, 0x72);
        assert_eq!(
            (1..4).map(|cpu| machine.pending_vector(cpu)).collect::<Vec<_>>(),
            [Some(0x72), None, Some(0x72)]
        );
        machine.deliver_msi(0xfee0_0000, 0xc300 | 0x80);
        assert_eq!(machine.pending_vector(0), None, "reserved delivery mode");
        machine.deliver_msi(0xfeef_f000, 0x95);
        assert!((0..4).all(|cpu| machine.has_event(cpu)), "broadcast");
    }

    #[test]
    fn a_redirection_hint_picks_the_least_busy() {
        let mut machine = machine(3);
        machine.apic_mut(0).unwrap().set_cr8(4);
        machine.deliver_msi(0xfee0_700c, 0x61);
        assert_eq!(machine.pending_vector(1), Some(0x61));
        assert_eq!((machine.pending_vector(0), machine.pending_vector(2)), (None, None));
    }

    #[test]
    fn ipis_follow_shorthands_and_wake_processors() {
        let mut machine = machine(3);
        write_apic(&mut machine, 1, 0x300, 0xc_00f0);
        assert_eq!((0..3).map(|cpu| machine.has_event(cpu)).collect::<Vec<_>>(), [true, false, true]);
        write_apic(&mut machine, 1, 0x300, 0x4_00f1);
        assert_eq!(machine.pending_vector(1), Some(0xf1));
        write_apic(&mut machine, 0, 0x310, 2 << 24);
        write_apic(&mut machine, 0, 0x300, 0xc500);
        write_apic(&mut machine, 0, 0x300, 0x8500);
        write_apic(&mut machine, 0, 0x300, 0x609a);
        let apic = machine.apic_mut(2).unwrap();
        assert!(apic.take_init());
        assert_eq!(apic.take_sipi(), None, "0x609a has delivery mode fixed");
        write_apic(&mut machine, 0, 0x300, 0x69a);
        assert_eq!(machine.apic_mut(2).unwrap().take_sipi(), Some(0x9a));
        write_apic(&mut machine, 0, 0x300, 0xc_0400);
        assert!(!machine.apic(0).unwrap().nmi_pending());
        assert!(machine.apic_mut(1).unwrap().take_nmi());
    }

    #[test]
    fn a_level_interrupt_completes_its_round_trip() {
        let mut machine = machine(1);
        redirect(&mut machine, 16, 0x8051);
        machine.set_gsi(16, true);
        assert_eq!(machine.acknowledge(0), 0x51);
        machine.set_gsi(16, false);
        machine.set_gsi(16, true);
        assert!(!machine.has_event(0), "remote IRR holds it back");
        write_apic(&mut machine, 0, 0xb0, 0);
        assert_eq!(machine.acknowledge(0), 0x51);
        machine.set_gsi(16, false);
        write_apic(&mut machine, 0, 0xb0, 0);
        assert!(!machine.has_event(0));
    }

    #[test]
    fn isa_interrupts_reach_both_controllers() {
        let mut machine = machine(1);
        redirect(&mut machine, 4, 0x34);
        machine.set_gsi(4, true);
        assert_eq!(machine.acknowledge(0), 0x34);
        machine.pic_write(0x20, 0x0a);
        assert_eq!(machine.pic_read(0x20), 1 << 4);
    }

    #[test]
    fn ext_int_comes_from_the_8259s() {
        let mut machine =
            Interrupts::new(&InterruptsConfig { cpus: 2, clock: ApicClock::default(), physical_bits: 46 });
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0)] {
            machine.pic_write(port, value);
        }
        machine.set_gsi(2, true);
        assert!(!machine.has_event(0), "LINT0 is masked after reset");
        machine.enter_virtual_wire();
        assert_eq!(machine.pending_vector(0), Some(0x20));
        assert!(!machine.has_event(1));
        assert_eq!(machine.acknowledge(0), 0x20);
        assert!(!machine.has_event(0));
        machine.pic_write(0x20, 0x20);
        machine.set_gsi(2, false);
        machine.set_gsi(2, true);
        machine.set_gsi(3, true);
        assert_eq!(machine.acknowledge(0), 0x20);
    }

    #[test]
    fn the_earliest_timer_decides() {
        let mut machine = machine(2);
        for (cpu, count) in [(0, 300), (1, 200)] {
            write_apic(&mut machine, cpu, 0x3e0, 0xb);
            write_apic(&mut machine, cpu, 0x320, 0xee);
            write_apic(&mut machine, cpu, 0x380, count);
        }
        assert_eq!(machine.next_deadline(), Some(8000));
        machine.advance(8000);
        assert_eq!((machine.pending_vector(0), machine.pending_vector(1)), (None, Some(0xee)));
        assert_eq!(machine.next_deadline(), Some(12_000));
    }
}
