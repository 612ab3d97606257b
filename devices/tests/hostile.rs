//! Random accesses of every size and alignment to every device: nothing panics (overflow checks are on), nothing
//! runs away, and what must always hold still holds.

use devices::acpi_pm::{AcpiPm, TimerWidth};
use devices::board_ports::{DebugExit, PostCode, ResetControl, SystemControlA};
use devices::bus::{Access, AccessError, Nanos, Platform, PlatformDevice, PowerRequest};
use devices::dma::{AtomicOp, DmaAttrs, DmaError};
use devices::i8042::I8042;
use devices::interrupt::{ApicClock, Interrupts, InterruptsConfig, LocalApic};
use devices::mlx5::{Mlx5, Mlx5Config};
use devices::pci::{
    BarInfo, Bdf, FunctionInfo, Host, PciDevice, Port, ResourceWindows, RootComplex, Slot, VendorCapability,
};
use devices::pit::Pit;
use devices::rtc::Rtc;
use devices::serial::{INPUT_LIMIT, OUTPUT_LIMIT, Serial};
use devices::state::State;
use devices::storage::Storage;
use serde::{Deserialize, Serialize};
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
fn interval_timer() {
    torment(12, 5, Pit::new(2), |_| {});
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
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reckless {
    #[serde(skip)]
    bars: Vec<BarInfo>,
    vectors: u16,
}

impl State for Reckless {}

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
            interrupt_pin: true,
            vendor_capabilities: vec![VendorCapability::BarWindow(vec![20; 18])],
        }
    }
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8], port: &mut dyn Port) -> Access {
        assert!(self.contains(bar, offset, data.len()), "BAR {bar} + {offset:#x}");
        match port.read(
            offset,
            data,
            DmaAttrs { no_snoop: true, relaxed_ordering: true, ..DmaAttrs::default() },
        ) {
            Ok(()) => Ok(()),
            Err(_) => Err(AccessError::NoRegister),
        }
    }
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8], port: &mut dyn Port) -> Access {
        assert!(self.contains(bar, offset, data.len()), "BAR {bar} + {offset:#x}");
        port.msi(offset as u16);
        port.set_interrupt_pin(offset & 1 != 0);
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
    /// Memory that answers some of the DMA; the rest fails or reads at random.
    memory: Vec<u8>,
    events: BTreeMap<u32, Nanos>,
    now: Nanos,
    calls: u32,
    messages: u64,
    dma: u64,
}

impl MockHost {
    fn new(seed: u64, memory: usize) -> Self {
        let mut random = Random(seed);
        let memory = (0..memory).map(|_| random.next() as u8).collect();
        Self { random, memory, events: BTreeMap::new(), now: 5, calls: 0, messages: 0, dma: 0 }
    }

    fn at(&mut self, iova: u64, size: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(iova).ok()?;
        self.memory.get_mut(start..start.checked_add(size)?)
    }
}

impl Host for MockHost {
    fn now(&self) -> Nanos {
        self.now
    }
    fn dma_read(&mut self, _: Bdf, iova: u64, buf: &mut [u8], _: DmaAttrs) -> Result<(), DmaError> {
        self.calls += 1;
        self.dma += 1;
        if let Some(memory) = self.at(iova, buf.len()) {
            buf.copy_from_slice(memory);
            return Ok(());
        }
        buf.fill(self.random.next() as u8);
        if self.random.chance(2) { Ok(()) } else { Err(DmaError::Unmapped(iova)) }
    }
    fn dma_write(&mut self, _: Bdf, iova: u64, data: &[u8], _: DmaAttrs) -> Result<(), DmaError> {
        self.calls += 1;
        self.dma += 1;
        if let Some(memory) = self.at(iova, data.len()) {
            memory.copy_from_slice(data);
            return Ok(());
        }
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
    fn schedule(&mut self, _: Slot, token: u32, at: Nanos) {
        self.calls += 1;
        self.events.insert(token, at);
    }
    fn cancel(&mut self, _: Slot, token: u32) {
        self.calls += 1;
        self.events.remove(&token);
    }
    fn cancel_all(&mut self, _: Slot) {
        self.calls += 1;
        self.events.clear();
    }
    fn storage(&mut self, _: Slot) -> Option<&mut dyn Storage> {
        None
    }
    fn output(&mut self, _: Slot, _: &[u8]) {}
    fn set_interrupt_pin(&mut self, _: Slot, _: bool) {
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
    let mut host = MockHost::new(77, 0);
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
                    root.ecam_read(offset, &mut data.clone(), &mut host);
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
                root.port_read(offset, &mut data.clone(), &mut host);
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

/// The mlx5 function driven by garbage: commands of every opcode with random content in random memory, doorbells of
/// every kind, and resets in between.
#[test]
fn mlx5() {
    const SLOT: Slot = 8;
    const MEMORY: usize = 1 << 20;
    /// One access or event may walk structures in memory, but only so many.
    const LIMIT: u32 = 20_000;
    let mut root = RootComplex::new();
    root.attach(SLOT, Box::new(Mlx5::new(Mlx5Config::default()))).unwrap();
    root.assign_resources(&WINDOWS).unwrap();
    let bar = root.bar(SLOT, 0).unwrap().0;
    let mut host = MockHost::new(88, MEMORY);
    let mut random = Random(13);
    let (mut completed, mut worst) = (0, 0);
    for _ in 0..ROUNDS / 2 {
        host.calls = 0;
        host.now = random.step(host.now);
        root.ecam_write((u64::from(SLOT) << 20) + 4, &[6, 0], &mut host);
        let size = random.size();
        match random.below(12) {
            0 => root.mmio_read(bar + random.below(0x2000), &mut random.bytes(size), &mut host),
            1 => root.mmio_write(bar + random.below(0x1020), &random.bytes(size), &mut host),
            2 => {
                let address = bar + random.below(0x400) * 4096 + 0x800 + random.below(0x100) * 8;
                root.mmio_write(address, &random.bytes(8), &mut host);
            }
            3 => root.mmio_write(bar + random.below(0x400) * 4096 + 0x20, &random.bytes(8), &mut host),
            4 if random.chance(500) => {
                root.ecam_write((u64::from(SLOT) << 20) + 0x50, &[0, 0x80], &mut host);
                root.assign_resources(&WINDOWS).unwrap();
            }
            _ => {
                // A command entry in slot 0 of a queue at the start of memory, its mailboxes anywhere.
                let page = random.below(MEMORY as u64 / 4096 - 1) * 4096;
                let opcodes =
                    [0x100, 0x104, 0x107, 0x200, 0x301, 0x400, 0x500, 0x50a, 0x700, 0x754, 0x800, 0x900];
                let opcode = opcodes[random.below(12) as usize] + random.below(18) as u16;
                let lengths = [16, 16, 32, 64, 256, 272, 600, 4096, random.value() as u32];
                let mut entry = vec![0; 64];
                entry[0] = 7;
                entry[4..8].copy_from_slice(&lengths[random.below(9) as usize].to_be_bytes());
                entry[8..16].copy_from_slice(&(page & !0x1ff).to_be_bytes());
                entry[16..18].copy_from_slice(&opcode.to_be_bytes());
                entry[24..32].copy_from_slice(&random.below(16).to_be_bytes());
                entry[48..56].copy_from_slice(&((page + 4096) & !0x1ff).to_be_bytes());
                entry[56..60].copy_from_slice(&lengths[random.below(9) as usize].to_be_bytes());
                entry[63] = 1;
                host.memory[..64].copy_from_slice(&entry);
                // Mailbox blocks that chain, sometimes to themselves.
                for block in [page, page + 4096] {
                    let next = if random.chance(4) { block } else { random.below(MEMORY as u64) & !0x3ff };
                    host.memory[block as usize + 560..][..8].copy_from_slice(&next.to_be_bytes());
                }
                root.mmio_write(bar + 0x10, &[0; 4], &mut host);
                root.mmio_write(bar + 0x14, &[0; 4], &mut host);
                root.mmio_write(bar + 0x18, &1_u32.to_be_bytes(), &mut host);
            }
        }
        let due: Vec<u32> = host.events.keys().copied().collect();
        for token in due {
            host.events.remove(&token);
            root.event(SLOT, token, &mut host);
        }
        worst = worst.max(host.calls);
        assert!(host.calls <= LIMIT, "one access asks for {} things", host.calls);
        completed +=
            u32::from(host.memory.first() == Some(&7) && host.memory.get(63).is_some_and(|own| own & 1 == 0));
    }
    assert!(completed > 1000, "only {completed} commands completed (at most {worst} transactions each)");
}
