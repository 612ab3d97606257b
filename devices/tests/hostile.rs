//! Random accesses of every size and alignment to every device: nothing panics (overflow checks are on), nothing
//! runs away, and what must always hold still holds.

use devices::acpi_pm::{AcpiPm, TimerWidth};
use devices::board_ports::{DebugExit, PostCode, ResetControl, SystemControlA};
use devices::bus::{Access, AccessError, Nanos, Platform, PlatformDevice, PowerRequest};
use devices::dma::{AtomicOp, DmaAttrs, DmaError};
use devices::i8042::I8042;
use devices::interrupt::{ApicClock, Interrupts, InterruptsConfig, LocalApic};
use devices::pci::{BarInfo, Bdf, FunctionInfo, Host, PciDevice, Port, ResourceWindows, RootComplex, Slot};
use devices::rtc::Rtc;
use devices::serial::{INPUT_LIMIT, OUTPUT_LIMIT, Serial};
use std::collections::BTreeMap;

/// Operations against each device.
const ROUNDS: u32 = 200_000;

/// xorshift64*: good enough to be nasty, and the same on every host.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// Values that break things: extremes, single bits, small numbers, anything.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => (1u64 << self.below(64)).wrapping_sub(1),
            4 => self.below(0x200),
            _ => self.next(),
        }
    }

    fn size(&mut self) -> usize {
        *[1, 2, 4, 8, 1, 2, 4, 3, 0, 16].get(self.below(10) as usize).unwrap()
    }

    fn bytes(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = self.value().to_le_bytes().to_vec();
        bytes.extend(self.next().to_le_bytes());
        bytes.truncate(size);
        bytes
    }

    /// Mostly small steps, sometimes a leap.
    fn step(&mut self, now: Nanos) -> Nanos {
        let step = if self.chance(1000) { self.value() >> 12 } else { self.below(100_000) };
        now.saturating_add(step)
    }
}

#[derive(Default)]
struct MockPlatform {
    now: Nanos,
    events: BTreeMap<u32, Nanos>,
    calls: u32,
}

impl Platform for MockPlatform {
    fn now(&self) -> Nanos {
        self.now
    }
    fn set_irq(&mut self, _: u32, _: bool) {
        self.calls += 1;
    }
    fn schedule(&mut self, at: Nanos, token: u32) {
        self.calls += 1;
        self.events.insert(token, at);
    }
    fn cancel(&mut self, token: u32) {
        self.calls += 1;
        self.events.remove(&token);
    }
    fn power(&mut self, _: PowerRequest) {
        self.calls += 1;
    }
}

/// Throws accesses, events and resets at a platform device whose registers end at `length`.
fn torment<D: PlatformDevice + Clone + 'static>(
    seed: u64,
    length: u64,
    mut device: D,
    check: impl Fn(&mut D),
) {
    let mut random = Random(seed);
    let mut platform = MockPlatform::default();
    for _ in 0..ROUNDS {
        platform.now = random.step(platform.now);
        platform.calls = 0;
        let size = random.size();
        let offset = if random.chance(20) { random.value() } else { random.below(length + 2) };
        if random.chance(2) {
            let _: Access = device.read(offset, &mut random.bytes(size), &mut platform);
        } else {
            let _: Access = device.write(offset, &random.bytes(size), &mut platform);
        }
        assert!(platform.calls <= 16, "one access asks for {} things", platform.calls);
        let now = platform.now;
        let due: Vec<u32> =
            platform.events.iter().filter(|&(_, &at)| at <= now).map(|(&token, _)| token).collect();
        for token in due {
            platform.events.remove(&token);
            device.event(token, &mut platform);
            let again = platform.events.get(&token);
            assert!(again.is_none_or(|&at| at > now || at == Nanos::MAX), "an event asks for its own past");
        }
        if random.chance(5000) {
            platform.events.clear();
            device.reset();
            device = device.clone();
        }
        if random.chance(200) {
            check(&mut device);
        }
    }
}

#[test]
fn serial_port() {
    torment(1, 8, Serial::new(4), |serial| {
        assert!(serial.input_room() <= INPUT_LIMIT);
        assert!(serial.take_output().len() <= OUTPUT_LIMIT);
        let room = serial.input_room();
        let taken = serial.enqueue_input(&[0x55; 700], &mut MockPlatform::default());
        assert_eq!(taken, room.min(700));
    });
}

#[test]
fn real_time_clock() {
    torment(2, 2, Rtc::new(8, u64::MAX, u64::MAX), |_| {});
}

#[test]
fn acpi_registers() {
    torment(3, 16, AcpiPm::new(9, TimerWidth::Bits24), |pm| {
        pm.press_power_button(&mut MockPlatform::default())
    });
    torment(4, 16, AcpiPm::new(9, TimerWidth::Bits32), |_| {});
}

#[test]
fn board_ports() {
    torment(5, 5, I8042, |_| {});
    torment(6, 1, ResetControl::default(), |_| {});
    torment(7, 1, SystemControlA, |_| {});
    torment(8, 1, PostCode::default(), |_| {});
    torment(9, 1, DebugExit, |_| {});
}

#[test]
fn interrupt_controllers() {
    const CPUS: u64 = 3;
    let clock = ApicClock { tsc_hz: 2_999_999_999, timer_hz: 24_999_999 };
    let mut machine = Interrupts::new(&InterruptsConfig { cpus: CPUS as u32, clock, physical_bits: 46 });
    let mut random = Random(10);
    let mut now = 0;
    let mut taken = 0;
    for _ in 0..3 * ROUNDS {
        now = random.step(now);
        let cpu = random.below(CPUS + 1) as usize;
        let size = random.size();
        let data = random.bytes(size);
        match random.below(16) {
            0..=2 => {
                let aligned = random.below(0x40) << 4;
                let offset = if random.chance(4) { random.value() } else { aligned };
                machine.apic_write(cpu, offset, &data, now);
            }
            3 => machine.apic_read(cpu, random.below(0x1000), &mut data.clone(), now),
            4 => {
                let msr =
                    *[0x1b, 0x6e0, 0x800 + random.below(0x100) as u32].get(random.below(3) as usize).unwrap();
                assert!(LocalApic::owns_msr(msr));
                let mut value = random.value();
                if msr == 0x1b && !random.chance(4) {
                    value = 0xfee0_0000 | (random.below(4) << 10) | (random.below(2) << 8);
                }
                let _ = machine.write_msr(cpu, msr, value, now);
            }
            5 => drop(machine.read_msr(cpu, random.value() as u32, now)),
            6 => {
                // Software-enable, or nothing would ever be accepted for long.
                machine.apic_write(cpu, 0xf0, &0x1ff_u32.to_le_bytes(), now);
                let _ = machine.write_msr(cpu, 0x80f, 0x1ff, now);
            }
            7 => machine
                .io_apic_write([0, 0, 0x10, 0x10, 0x40, random.value()][random.below(6) as usize], &data),
            8 => machine.io_apic_read(random.below(0x50), &mut data.clone()),
            9 => machine.set_gsi(random.below(30) as u32, random.chance(2)),
            10 => {
                let address =
                    if random.chance(4) { random.value() } else { 0xfee0_0000 | random.below(1 << 20) };
                machine.deliver_msi(address, random.value() as u32);
            }
            11 => {
                let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][random.below(6) as usize];
                machine.pic_write(port, random.value() as u8);
                machine.pic_read(port);
            }
            12 => {
                machine.advance(now);
                assert!(machine.next_deadline().is_none_or(|at| at > now || at == Nanos::MAX));
            }
            13 | 14 => {
                let pending = machine.pending_vector(cpu);
                assert_eq!(pending.is_some(), machine.interrupt_pending(cpu));
                let vector = machine.acknowledge(cpu);
                if let Some(pending) = pending {
                    assert_eq!(vector, pending);
                    taken += 1;
                }
            }
            _ => {
                if let Some(apic) = machine.apic_mut(cpu) {
                    apic.set_cr8(random.below(16) as u8);
                    apic.set_tsc_offset(random.value(), now);
                    apic.take_init();
                    apic.take_sipi();
                    apic.take_nmi();
                    assert!(!apic.has_signal());
                }
                if random.chance(2000) {
                    machine.reset();
                    machine = machine.clone();
                }
            }
        }
    }
    assert!(taken > 1000, "only {taken} interrupts got through: the test misses its target");
}

/// A device that turns what it is told into DMA, messages and events at once.
#[derive(Debug, Clone)]
struct Reckless {
    bars: Vec<BarInfo>,
    vectors: u16,
}

impl PciDevice for Reckless {
    fn name(&self) -> &'static str {
        "reckless"
    }
    fn info(&self) -> FunctionInfo {
        FunctionInfo {
            vendor_id: 0x1234,
            device_id: 1,
            subsystem_vendor_id: 0,
            subsystem_id: 0,
            revision: 0,
            class: 0xff_0000,
            bars: self.bars.clone(),
            msix_vectors: self.vectors,
        }
    }
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8], port: &mut dyn Port) -> Access {
        assert!(self.contains(bar, offset, data.len()), "BAR {bar} + {offset:#x}");
        match port.read(offset, data, DmaAttrs { no_snoop: true, relaxed_ordering: true }) {
            Ok(()) => Ok(()),
            Err(_) => Err(AccessError::NoRegister),
        }
    }
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8], port: &mut dyn Port) -> Access {
        assert!(self.contains(bar, offset, data.len()), "BAR {bar} + {offset:#x}");
        port.msi(offset as u16);
        port.schedule(offset, offset as u32);
        port.cancel(offset as u32 >> 1);
        port.flush();
        let _ = port.atomic(offset, AtomicOp::FetchAdd(1), DmaAttrs::default());
        port.write(offset, data, DmaAttrs::default()).map_err(|_| AccessError::Disabled)
    }
    fn event(&mut self, token: u32, port: &mut dyn Port) {
        port.msi(token as u16);
    }
    fn reset(&mut self) {}
}

impl Reckless {
    fn contains(&self, bar: u8, offset: u64, size: usize) -> bool {
        let bar = self.bars.iter().find(|candidate| candidate.index == bar);
        matches!(size, 1 | 2 | 4 | 8) && bar.is_some_and(|bar| offset + size as u64 <= bar.size)
    }
}

/// Answers DMA at random, counts what it is asked.
struct MockHost {
    random: Random,
    calls: u32,
    messages: u64,
    dma: u64,
}

impl Host for MockHost {
    fn now(&self) -> Nanos {
        5
    }
    fn dma_read(&mut self, from: Bdf, iova: u64, buf: &mut [u8], attrs: DmaAttrs) -> Result<(), DmaError> {
        let byte = self.random.next() as u8;
        buf.fill(byte);
        self.dma_write(from, iova, buf, attrs)
    }
    fn dma_write(&mut self, _: Bdf, iova: u64, _: &[u8], _: DmaAttrs) -> Result<(), DmaError> {
        self.calls += 1;
        self.dma += 1;
        if self.random.chance(2) { Ok(()) } else { Err(DmaError::Unmapped(iova)) }
    }
    fn dma_atomic(&mut self, _: Bdf, iova: u64, _: AtomicOp, _: DmaAttrs) -> Result<u64, DmaError> {
        self.calls += 1;
        if self.random.chance(2) { Ok(self.random.value()) } else { Err(DmaError::Blocked(iova)) }
    }
    fn dma_flush(&mut self, _: Bdf) {
        self.calls += 1;
    }
    fn deliver_msi(&mut self, _: Bdf, _: u64, _: u32) {
        self.calls += 1;
        self.messages += 1;
    }
    fn schedule(&mut self, _: Slot, _: u32, _: Nanos) {
        self.calls += 1;
    }
    fn cancel(&mut self, _: Slot, _: u32) {
        self.calls += 1;
    }
    fn cancel_all(&mut self, _: Slot) {
        self.calls += 1;
    }
}

const WINDOWS: ResourceWindows =
    ResourceWindows { memory32: (0xc000_0000, 0xdfff_ffff), memory64: (1 << 36, (1 << 40) - 1) };

fn bar(index: u8, size: u64, is_64bit: bool, prefetchable: bool) -> BarInfo {
    BarInfo { index, size, is_64bit, prefetchable }
}

fn root_complex() -> RootComplex {
    let mut root = RootComplex::new();
    let functions = [
        (1, vec![bar(0, 16, false, false), bar(5, 1 << 12, false, true)], 2048),
        (3, vec![bar(0, 4 << 20, true, true)], 8),
        (7, vec![bar(0, 1 << 38, true, true), bar(2, 1 << 14, true, false), bar(4, 64, false, false)], 1),
        (8, vec![bar(0, 1 << 20, false, false)], 0),
    ];
    for (slot, bars, vectors) in functions {
        root.attach(slot, Box::new(Reckless { bars, vectors })).unwrap();
    }
    root.assign_resources(&WINDOWS).unwrap();
    root
}

#[test]
fn pci_express() {
    let mut root = root_complex();
    let mut host = MockHost { random: Random(77), calls: 0, messages: 0, dma: 0 };
    let mut random = Random(11);
    let mut claimed = 0;
    for round in 0..3 * ROUNDS {
        host.calls = 0;
        let size = random.size();
        let data = random.bytes(size);
        match random.below(8) {
            0..=2 => {
                // Mostly registers that exist, of the ports and of what is behind them.
                let slot = random.below(9);
                let function = if random.chance(2) { slot << 15 } else { slot << 20 };
                let offset = match random.below(8) {
                    0 => random.value(),
                    1 => function + random.below(0x1000),
                    _ => function + random.below(0xa0),
                };
                if random.chance(4) {
                    root.ecam_read(offset, &mut data.clone());
                } else if random.chance(2) {
                    root.ecam_write(offset, &data, &mut host);
                } else {
                    // Let decoding and mastering come back.
                    root.ecam_write(function + 4, &[6, 0], &mut host);
                }
            }
            3 => {
                let offset = random.below(10) as u16;
                root.port_write(offset, &data, &mut host);
                root.port_read(offset, &mut data.clone());
            }
            4 | 5 => {
                let slot = 1 + random.below(8) as Slot;
                let base = root.bar(slot, random.below(6) as u8);
                let address = match base {
                    Some((base, length)) if !random.chance(8) => {
                        base.wrapping_add(random.below(length.min(1 << 16) + 8)).wrapping_sub(4)
                    }
                    _ => random.value(),
                };
                claimed += u64::from(root.claims(address));
                if random.chance(2) {
                    root.mmio_read(address, &mut data.clone(), &mut host);
                } else {
                    root.mmio_write(address, &data, &mut host);
                }
            }
            6 => root.event(random.value() as Slot, random.value() as u32, &mut host),
            _ => {
                // Enable MSI-X with everything unmasked now and then, at whatever place it has.
                let slot = [1, 3, 7][random.below(3) as usize];
                root.ecam_write((u64::from(slot) << 20) + 0x86, &0x8000_u16.to_le_bytes(), &mut host);
                if let Some((base, _)) = root.bar(slot, 2) {
                    root.mmio_write(base + 12, &[0; 4], &mut host);
                }
            }
        }
        assert!(host.calls <= 2048 + 16, "one access asks for {} things", host.calls);
        if round % 1000 == 0 {
            if random.chance(2) {
                root.reset(&mut host);
            }
            root = root.clone();
            root.assign_resources(&WINDOWS).unwrap();
        }
    }
    assert!(claimed > 1000, "only {claimed} accesses hit a BAR: the test misses its target");
    assert!(host.messages > 100 && host.dma > 100, "{} messages, {} transactions", host.messages, host.dma);
}
