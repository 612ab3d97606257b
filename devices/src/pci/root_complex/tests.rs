use super::*;
use crate::bus::Nanos;
use crate::dma::{AtomicOp, DmaAttrs, DmaError, Object, Purpose, What};
use crate::pci::{BarInfo, FunctionInfo, Port, VendorCapability};
use crate::state::State;
use crate::storage::Storage;
use serde::{Deserialize, Serialize};

/// What the device says of its writes.
const PURPOSE: Purpose = Purpose::new(What::Completion, Object::CompletionQueue, 5);

/// What the root complex asked of the machine.
#[derive(Debug, Default)]
struct TestHost {
    messages: Vec<(Bdf, u64, u32)>,
    writes: Vec<(Bdf, u64, DmaAttrs)>,
    events: Vec<(Slot, u32, Nanos)>,
    cancelled: Vec<Slot>,
    pins: Vec<(Slot, bool)>,
}

impl Host for TestHost {
    fn now(&self) -> Nanos {
        7
    }
    fn dma_read(&mut self, _: Bdf, iova: u64, _: &mut [u8], _: DmaAttrs) -> Result<(), DmaError> {
        Err(DmaError::Unmapped(iova))
    }
    fn dma_write(&mut self, from: Bdf, iova: u64, _: &[u8], attrs: DmaAttrs) -> Result<(), DmaError> {
        self.writes.push((from, iova, attrs));
        Ok(())
    }
    fn dma_atomic(&mut self, _: Bdf, _: u64, _: AtomicOp, _: DmaAttrs) -> Result<u64, DmaError> {
        Ok(5)
    }
    fn dma_flush(&mut self, _: Bdf) {}
    fn set_interrupt_pin(&mut self, slot: Slot, asserted: bool) {
        self.pins.push((slot, asserted));
    }
    fn deliver_msi(&mut self, from: Bdf, address: u64, data: u32) {
        self.messages.push((from, address, data));
    }
    fn schedule(&mut self, slot: Slot, token: u32, at: Nanos) {
        self.events.push((slot, token, at));
    }
    fn cancel(&mut self, _: Slot, _: u32) {}
    fn cancel_all(&mut self, slot: Slot) {
        self.cancelled.push(slot);
    }
    fn storage(&mut self, _: Slot) -> Option<&mut dyn Storage> {
        None
    }
    fn output(&mut self, _: Slot, _: &[u8]) {}
}

/// One register at BAR 0 + 0; offset 8 signals a vector, 16 writes memory, 24 reads it, 32 asks for an event,
/// 40 drives the interrupt pin.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct TestDevice {
    register: u8,
    resets: u32,
    last_read: [u8; 2],
}

impl State for TestDevice {}

impl PciDevice for TestDevice {
    fn name(&self) -> &'static str {
        "test"
    }
    fn info(&self) -> FunctionInfo {
        FunctionInfo {
            vendor_id: 0x1234,
            device_id: 0x5678,
            subsystem_vendor_id: 0x1111,
            subsystem_id: 0x2222,
            revision: 3,
            class: 0x02_0700,
            bars: vec![BarInfo { index: 0, size: 4 << 20, is_64bit: true, prefetchable: true }],
            msix_vectors: 4,
            interrupt_pin: true,
            vendor_capabilities: vec![
                VendorCapability::ReadOnly(vec![8, 1, 2, 3, 4, 5]),
                VendorCapability::BarWindow(vec![20, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ],
        }
    }
    fn bar_read(&mut self, _: u8, offset: u64, data: &mut [u8], _: &mut dyn Port) -> Access {
        match offset {
            0 => data.fill(self.register),
            24 => data.fill(self.last_read[0]),
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
    fn bar_write(&mut self, _: u8, offset: u64, data: &[u8], port: &mut dyn Port) -> Access {
        let value = data.first().copied().unwrap_or(0);
        match offset {
            0 => self.register = value,
            8 => port.msi(u16::from(value)),
            16 => {
                let attrs = DmaAttrs { no_snoop: true, relaxed_ordering: true, purpose: PURPOSE };
                self.register = u8::from(port.write(0x1000, data, attrs).is_ok());
            }
            24 => assert!(port.read(0x1000, &mut self.last_read, DmaAttrs::default()).is_err()),
            32 => port.schedule(port.now() + 10, 1),
            40 => port.set_interrupt_pin(value != 0),
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
    fn event(&mut self, token: u32, _: &mut dyn Port) {
        self.register = token as u8 | 0x80;
    }
    fn reset(&mut self) {
        *self = Self { resets: self.resets + 1, ..Self::default() };
    }
}

const WINDOWS: ResourceWindows =
    ResourceWindows { memory32: (0xc000_0000, 0xdfff_ffff), memory64: (0x10_0000_0000, 0x1f_ffff_ffff) };
const PORT: u64 = 8 << 15;
const FUNCTION: u64 = 8 << 20;
/// Capabilities of the function: power management at 0x40, PCI Express at 0x48, MSI-X at 0x84.
const POWER_CONTROL: u64 = FUNCTION + 0x44;
const DEVICE_CONTROL: u64 = FUNCTION + 0x50;
const MSIX_CONTROL: u64 = FUNCTION + 0x86;

struct Machine {
    root: RootComplex,
    host: TestHost,
}

impl Machine {
    /// A test device in slot 8, resources assigned, bus mastering on.
    fn new() -> Self {
        let mut root = RootComplex::new();
        root.attach(8, Box::<TestDevice>::default()).unwrap();
        root.assign_resources(&WINDOWS).unwrap();
        let mut machine = Self { root, host: TestHost::default() };
        machine.write16(FUNCTION + 4, 6);
        machine
    }
    fn read16(&mut self, offset: u64) -> u16 {
        let mut data = [0; 2];
        self.root.ecam_read(offset, &mut data, &mut self.host);
        u16::from_le_bytes(data)
    }
    fn read32(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.root.ecam_read(offset, &mut data, &mut self.host);
        u32::from_le_bytes(data)
    }
    fn write16(&mut self, offset: u64, value: u16) {
        self.root.ecam_write(offset, &value.to_le_bytes(), &mut self.host);
    }
    fn write32(&mut self, offset: u64, value: u32) {
        self.root.ecam_write(offset, &value.to_le_bytes(), &mut self.host);
    }
    fn bar(&self, bar: u8) -> u64 {
        self.root.bar(8, bar).unwrap().0
    }
    fn poke(&mut self, offset: u64, value: u8) {
        self.root.mmio_write(self.bar(0) + offset, &[value], &mut self.host);
    }
    fn peek(&mut self, address: u64) -> u8 {
        let mut data = [0];
        self.root.mmio_read(address, &mut data, &mut self.host);
        data[0]
    }
    /// Unmasks `vector` with a message of its own and enables MSI-X.
    fn enable_vector(&mut self, vector: u64) {
        let entry = self.bar(2) + vector * 16;
        for (offset, value) in [(0, 0xfee0_0000), (4, 0), (8, 0x40 + vector as u32), (12, 0u32)] {
            self.root.mmio_write(entry + offset, &value.to_le_bytes(), &mut self.host);
        }
        self.write16(MSIX_CONTROL, 0x8000);
    }
}

#[test]
fn topology_is_what_the_design_says() {
    let mut machine = Machine::new();
    assert_eq!(machine.read32(8), 0x0600_0000, "host bridge");
    for slot in 1..=8 {
        assert_eq!(machine.read32((slot << 15) + 8), 0x0604_0000, "root port {slot}");
        assert_eq!(machine.read32((slot << 15) + 0x18) & 0xff_ffff, (slot as u32) * 0x1_0100);
        assert_eq!(machine.read16((slot << 15) + 0x42), 0x0042, "root port, no slot");
    }
    assert_eq!(machine.read32(FUNCTION), 0x5678_1234);
    assert_eq!(machine.read32(FUNCTION + 8), 0x0207_0003);
    for absent in [9 << 15, 1 << 12, 1 << 20, FUNCTION + (1 << 15), FUNCTION + (1 << 12), 9 << 20, 255 << 20]
    {
        assert_eq!(machine.read32(absent), u32::MAX, "function at {absent:#x}");
    }
    assert_eq!(machine.read32(FUNCTION + 0x100), 0, "no extended capabilities");
    assert_eq!(machine.read16(PORT + 0x52) & 0x2000, 0x2000, "the link of slot 8 is up");
    assert_eq!(machine.read16((1 << 15) + 0x52) & 0x2000, 0, "slot 1 is empty");
}

#[test]
fn resources_nest_in_their_windows() {
    let mut machine = Machine::new();
    assert_eq!(machine.root.bar(8, 0), Some((0x10_0000_0000, 4 << 20)));
    assert_eq!(machine.root.bar(8, 2), Some((0xc000_0000, 0x1000)));
    assert_eq!(machine.read32(PORT + 0x20), 0xc000_c000, "memory window of 1 MiB");
    assert_eq!(machine.read32(PORT + 0x24), 0x0031_0001, "prefetchable window of 4 MiB");
    assert_eq!((machine.read32(PORT + 0x28), machine.read32(PORT + 0x2c)), (0x10, 0x10));
    assert!(machine.root.claims(0x10_003f_ffff));
    assert!(!machine.root.claims(0x10_0040_0000));
    let empty = machine.read32((1 << 15) + 0x20);
    assert!(empty & 0xffff > empty >> 16, "windows of empty slots are closed");
}

#[test]
fn too_little_room_is_an_error() {
    let mut root = RootComplex::new();
    root.attach(1, Box::<TestDevice>::default()).unwrap();
    let windows = ResourceWindows { memory64: (1 << 32, (1 << 32) + 0x1f_ffff), ..WINDOWS };
    assert_eq!(root.assign_resources(&windows), Err(AssignError { slot: 1, bar: 0, size: 4 << 20 }));
}

#[test]
fn attach_refuses_what_cannot_be() {
    let mut root = RootComplex::new();
    let device = || Box::<TestDevice>::default();
    assert_eq!(root.attach(0, device()), Err(AttachError::NoSlot(0)));
    assert_eq!(root.attach(9, device()), Err(AttachError::NoSlot(9)));
    root.attach(1, device()).unwrap();
    assert_eq!(root.attach(1, device()), Err(AttachError::Occupied { slot: 1, occupant: "test" }));
    assert_eq!(root.free_slot(), Some(2));
    assert_eq!(root.device(1).unwrap().name(), "test");
}

#[test]
fn bars_size_and_relocate() {
    let mut machine = Machine::new();
    machine.write16(FUNCTION + 4, 0);
    assert!(!machine.root.claims(0x10_0000_0000), "decoding is off");
    machine.write32(FUNCTION + 0x10, u32::MAX);
    machine.write32(FUNCTION + 0x14, u32::MAX);
    assert_eq!((machine.read32(FUNCTION + 0x10), machine.read32(FUNCTION + 0x14)), (0xffc0_000c, u32::MAX));
    machine.write32(FUNCTION + 0x18, u32::MAX);
    assert_eq!(machine.read32(FUNCTION + 0x18), 0xffff_f000);
    machine.write32(FUNCTION + 0x1c, u32::MAX);
    assert_eq!(machine.read32(FUNCTION + 0x1c), 0, "no such BAR");

    machine.write32(FUNCTION + 0x10, 0x0040_0000);
    machine.write32(FUNCTION + 0x14, 0x10);
    machine.write16(FUNCTION + 4, 6);
    assert!(!machine.root.claims(0x10_0040_0000), "outside the bridge's window");
    machine.write32(PORT + 0x24, 0x0071_0001);
    machine.poke(0, 0x5a);
    assert_eq!(machine.peek(0x10_0040_0000), 0x5a);
    machine.write16(PORT + 4, 4);
    assert_eq!(machine.peek(0x10_0040_0000), 0xff, "the bridge does not forward");
}

#[test]
fn accesses_past_a_bar_or_refused_read_all_ones() {
    let mut machine = Machine::new();
    let bar = machine.bar(0);
    let mut data = [0; 8];
    machine.root.mmio_read(bar + (4 << 20) - 4, &mut data, &mut machine.host);
    assert_eq!(data, [0xff; 8]);
    assert_eq!(machine.peek(bar + 3), 0xff);
    let mut odd = [0; 3];
    machine.root.mmio_read(bar, &mut odd, &mut machine.host);
    assert_eq!(odd, [0xff; 3]);
    assert_eq!(machine.root.log.count(), 3);
}

#[test]
fn messages_are_masked_pending_and_delivered() {
    let mut machine = Machine::new();
    machine.enable_vector(1);
    machine.poke(8, 1);
    let message = (Bdf::new(8, 0, 0), 0xfee0_0000, 0x41);
    assert_eq!(machine.host.messages, [message]);
    machine.poke(8, 2);
    machine.write16(MSIX_CONTROL, 0xc000);
    machine.poke(8, 1);
    assert_eq!(machine.host.messages.len(), 1);
    assert_eq!(machine.peek(machine.bar(2) + 0x800), 0xff, "byte reads of the PBA are refused");
    let mut pending = [0; 4];
    machine.root.mmio_read(machine.bar(2) + 0x800, &mut pending, &mut machine.host);
    assert_eq!(pending[0], 0b110);
    machine.write16(MSIX_CONTROL, 0x8000);
    assert_eq!(machine.host.messages, [message, message], "the masked vector 2 still waits");
    machine.enable_vector(2);
    assert_eq!(machine.host.messages.len(), 3);
    machine.poke(8, 200);
    assert_eq!(machine.host.messages.len(), 3, "no such vector");
}

#[test]
fn bus_master_enable_gates_dma_and_messages() {
    let mut machine = Machine::new();
    machine.enable_vector(0);
    for (command, port_command) in [(2, 6), (6, 2)] {
        machine.write16(PORT + 4, port_command);
        machine.write16(FUNCTION + 4, command);
        machine.poke(16, 1);
        assert_eq!(machine.peek(machine.bar(0)), 0, "the write failed");
        machine.poke(24, 0);
        assert_eq!(machine.peek(machine.bar(0) + 24), 0xff, "a failed read gives all-ones");
        machine.poke(8, 0);
        assert_eq!((machine.host.writes.len(), machine.host.messages.len()), (0, 0));
        machine.write16(PORT + 4, 6);
        machine.write16(FUNCTION + 4, 6);
        assert_eq!(machine.host.messages.len(), 1, "sent when it may");
        machine.host.messages.clear();
    }
    machine.poke(16, 1);
    assert_eq!(machine.peek(machine.bar(0)), 1);
}

#[test]
fn device_control_decides_the_attributes() {
    let mut machine = Machine::new();
    assert_eq!(machine.read16(DEVICE_CONTROL), 0x2810);
    for (control, no_snoop, relaxed_ordering) in
        [(0x2810, true, true), (0x2010, false, true), (0x2800, true, false), (0x2000, false, false)]
    {
        machine.write16(DEVICE_CONTROL, control);
        machine.poke(16, 1);
        let sent = machine.host.writes.pop().unwrap();
        assert_eq!(
            sent,
            (Bdf::new(8, 0, 0), 0x1000, DmaAttrs { no_snoop, relaxed_ordering, purpose: PURPOSE })
        );
    }
}

#[test]
fn resets_of_all_kinds_reach_the_device() {
    let mut machine = Machine::new();
    machine.poke(0, 0x11);
    machine.write16(DEVICE_CONTROL, 0x8000);
    assert_eq!(machine.host.cancelled, [8]);
    assert_eq!(machine.read16(DEVICE_CONTROL), 0x2810);
    assert_eq!((machine.read16(FUNCTION + 4), machine.read32(FUNCTION + 0x14)), (0, 0));
    assert!(!machine.root.claims(0x10_0000_0000));

    machine.write16(PORT + 0x3e, 0x40);
    assert_eq!(machine.host.cancelled, [8, 8]);
    assert_eq!(machine.read32(FUNCTION), u32::MAX, "in reset");
    assert_eq!(machine.read16(PORT + 0x52) & 0x2000, 0);
    machine.write16(PORT + 0x3e, 0x40);
    assert_eq!(machine.host.cancelled.len(), 2, "only the edge resets");
    machine.write16(PORT + 0x3e, 0);
    assert_eq!(machine.read32(FUNCTION), 0x5678_1234);

    machine.write16(PORT + 0x50, 0x10);
    assert_eq!((machine.host.cancelled.len(), machine.read32(FUNCTION)), (3, u32::MAX), "link disabled");
    let Machine { root, host } = &mut machine;
    root.reset(host);
    assert_eq!((machine.host.cancelled.len(), machine.read32(PORT + 0x18)), (4, 0));
    assert_eq!(machine.read16(PORT + 0x52) & 0x2000, 0x2000);
}

#[test]
fn d3hot_stops_decoding_and_keeps_the_context() {
    let mut machine = Machine::new();
    machine.poke(0, 0x33);
    let bar = machine.bar(0);
    machine.write16(POWER_CONTROL, 1);
    assert_eq!(machine.read16(POWER_CONTROL), 8, "D1 is not supported");
    machine.write16(POWER_CONTROL, 3);
    assert_eq!(machine.peek(bar), 0xff);
    machine.write16(POWER_CONTROL, 0);
    assert_eq!(machine.peek(bar), 0x33);
}

#[test]
fn events_are_addressed_by_slot_whatever_the_bus_number() {
    let mut machine = Machine::new();
    machine.poke(32, 0);
    assert_eq!(machine.host.events, [(8, 1, 17)]);
    machine.root.ecam_write(PORT + 0x19, &[0x42, 0x42], &mut machine.host);
    let Machine { root, host } = &mut machine;
    root.event(8, 1, host);
    root.event(0, 1, host);
    root.event(200, 1, host);
    assert_eq!(machine.peek(machine.bar(0)), 0x81);
    assert_eq!(machine.read32(0x42 << 20), 0x5678_1234);
    machine.poke(16, 1);
    assert_eq!(machine.host.writes[0].0, Bdf::new(0x42, 0, 0));
}

#[test]
fn ports_cf8_and_cfc_reach_the_same_registers() {
    let mut machine = Machine::new();
    let Machine { root, host } = &mut machine;
    root.port_write(3, &[1], host);
    root.port_write(0, &0x8000_0000u32.to_le_bytes(), host);
    let mut data = [0; 4];
    root.port_read(0, &mut data, host);
    assert_eq!(u32::from_le_bytes(data), 0x8000_0000);
    root.port_write(0, &0x8008_0000u32.to_le_bytes(), host);
    root.port_read(4, &mut data, host);
    assert_eq!(u32::from_le_bytes(data), 0x5678_1234);
    let mut half = [0; 2];
    root.port_read(6, &mut half, host);
    assert_eq!(u16::from_le_bytes(half), 0x5678);
    root.port_read(7, &mut half, host);
    assert_eq!(half, [0xff; 2], "beyond the ports");
    root.port_write(0, &0x0008_0000u32.to_le_bytes(), host);
    root.port_read(4, &mut data, host);
    assert_eq!(data, [0xff; 4], "not enabled");
}

#[test]
fn a_clone_is_independent() {
    let mut machine = Machine::new();
    let mut copy = machine.root.clone();
    machine.poke(0, 0x77);
    let mut data = [0];
    copy.mmio_read(machine.bar(0), &mut data, &mut machine.host);
    assert_eq!((data[0], machine.peek(machine.bar(0))), (0, 0x77));
}

#[test]
fn the_interrupt_pin_is_silenced_by_interrupt_disable_msix_and_sleep() {
    let mut machine = Machine::new();
    assert_eq!(machine.read16(FUNCTION + 0x3c) >> 8, 1, "INTA");
    machine.poke(40, 1);
    assert_eq!(machine.host.pins, [(8, true)]);
    assert_eq!(machine.read16(FUNCTION + 6) & 8, 8, "Interrupt Status");
    machine.poke(40, 1);
    assert_eq!(machine.host.pins.len(), 1, "only changes are told");
    for (register, silent, loud) in
        [(FUNCTION + 4, 0x406, 6), (MSIX_CONTROL, 0x8000, 0), (POWER_CONTROL, 3, 0)]
    {
        machine.host.pins.clear();
        machine.write16(register, silent);
        assert_eq!(machine.host.pins, [(8, false)], "{register:#x}");
        assert_eq!(machine.read16(FUNCTION + 6) & 8, 8);
        machine.write16(register, loud);
        assert_eq!(machine.host.pins, [(8, false), (8, true)], "{register:#x}");
    }
    machine.host.pins.clear();
    machine.write16(DEVICE_CONTROL, 0x8000);
    assert_eq!(machine.host.pins, [(8, false)], "a reset releases it");
    assert_eq!(machine.read16(FUNCTION + 6) & 8, 0);
}

#[test]
fn bars_are_reached_through_the_window_without_being_decoded() {
    // Vendor-specific capabilities behind MSI-X.
    let (fixed, window) = (FUNCTION + 0x90, FUNCTION + 0x98);
    let mut machine = Machine::new();
    assert_eq!((machine.read32(fixed), machine.read32(window) & 0xffff_00ff), (0x0108_9809, 0x0514_0009));
    machine.write32(fixed + 4, u32::MAX);
    assert_eq!(machine.read32(fixed + 4), 0x0504_0302, "read-only");
    machine.write16(FUNCTION + 4, 0);
    machine.write32(window + 4, u32::MAX);
    assert_eq!(machine.read32(window + 4), 0xff, "the BAR alone can be written");
    machine.write32(window + 4, 0);
    machine.write32(window + 12, 1);
    machine.write32(window + 16, 0x5a);
    assert_eq!(machine.read32(window + 16), 0x5a);
    machine.write32(window + 8, 100);
    assert_eq!(machine.read32(window + 16), 0xff, "no register there");
    machine.write32(window + 12, 3);
    machine.write32(window + 8, 0);
    machine.write32(window + 16, 0x11);
    machine.write32(window + 12, 1);
    assert_eq!(machine.read32(window + 16), 0x5a, "three bytes are no access");
    machine.write32(window + 4, 5);
    assert_eq!(machine.read32(window + 16), 0xff, "no such BAR");
    machine.write32(window + 4, 2);
    machine.write32(window + 12, 4);
    machine.write32(window + 8, 12);
    assert_eq!(machine.read32(window + 16), 1, "vector 0 is masked");
    machine.write32(window + 8, 0xffff_fffc);
    assert_eq!(machine.read32(window + 16), u32::MAX);
}
