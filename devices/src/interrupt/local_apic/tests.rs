use super::*;

fn apic() -> LocalApic {
    let mut apic = LocalApic::new(3, true, 46, ApicClock::default());
    write(&mut apic, 0xf0, 0x1ff);
    apic
}

fn write(apic: &mut LocalApic, offset: u64, value: u32) -> Option<ApicOutput> {
    write_at(apic, offset, value, 0)
}

fn write_at(apic: &mut LocalApic, offset: u64, value: u32, now: Nanos) -> Option<ApicOutput> {
    apic.mmio_write(offset, &value.to_le_bytes(), now)
}

fn read(apic: &mut LocalApic, offset: u64) -> u32 {
    let mut data = [0; 4];
    apic.mmio_read(offset, &mut data, 0);
    u32::from_le_bytes(data)
}

fn fixed(vector: u8, level: bool) -> Message {
    Message { destination: Destination::Physical(3), mode: DeliveryMode::Fixed, vector, level }
}

#[test]
fn identity_and_reset_values() {
    let mut apic = LocalApic::new(3, true, 46, ApicClock::default());
    assert_eq!(read(&mut apic, 0x20), 3 << 24);
    assert_eq!(read(&mut apic, 0x30), 0x0005_0015);
    assert_eq!(read(&mut apic, 0xe0), u32::MAX);
    assert_eq!(read(&mut apic, 0xf0), 0xff);
    for offset in (0x320..=0x370).step_by(16) {
        assert_eq!(read(&mut apic, offset), LVT_MASKED, "LVT at {offset:#x}");
    }
    assert_eq!(apic.page(), Some(0xfee0_0000));
    assert_eq!(apic.read_msr(0x1b, 0), Ok(0xfee0_0900));
}

#[test]
fn a_software_disabled_apic_drops_fixed_but_takes_nmi() {
    let mut apic = LocalApic::new(3, true, 46, ApicClock::default());
    assert!(!apic.accept(&fixed(0x40, false)));
    assert!(apic.accept(&Message { mode: DeliveryMode::Nmi, ..fixed(0, false) }));
    assert_eq!((apic.pending_vector(), apic.take_nmi(), apic.take_nmi()), (None, true, false));
}

#[test]
fn priorities_nest_and_unwind() {
    let mut apic = apic();
    apic.accept(&fixed(0x41, false));
    apic.accept(&fixed(0x83, false));
    assert_eq!(apic.acknowledge(), 0x83);
    assert_eq!(read(&mut apic, 0xa0), 0x80, "PPR is the class in service");
    assert_eq!(apic.pending_vector(), None);
    apic.accept(&fixed(0x8f, false));
    assert_eq!(apic.pending_vector(), None, "same class waits");
    apic.accept(&fixed(0x91, false));
    assert_eq!(apic.acknowledge(), 0x91);
    assert_eq!(write(&mut apic, 0xb0, 0), None, "edge: no broadcast");
    assert_eq!(write(&mut apic, 0xb0, 0), None);
    assert_eq!(apic.acknowledge(), 0x8f);
    write(&mut apic, 0xb0, 0);
    apic.set_cr8(5);
    assert_eq!((read(&mut apic, 0x80), apic.pending_vector()), (0x50, None));
    apic.set_cr8(3);
    assert_eq!(apic.pending_vector(), Some(0x41));
}

#[test]
fn registers_show_request_and_service() {
    let mut apic = apic();
    apic.accept(&fixed(0x65, true));
    assert_eq!(read(&mut apic, 0x200 + 3 * 16), 1 << 5);
    assert_eq!(read(&mut apic, 0x180 + 3 * 16), 1 << 5);
    apic.acknowledge();
    assert_eq!((read(&mut apic, 0x230), read(&mut apic, 0x130)), (0, 1 << 5));
    assert_eq!(write(&mut apic, 0xb0, 0), Some(ApicOutput::Eoi(0x65)));
    assert_eq!(read(&mut apic, 0x130), 0);
}

#[test]
fn nothing_to_acknowledge_is_spurious() {
    let mut apic = apic();
    write(&mut apic, 0xf0, 0x1ef);
    assert_eq!(apic.acknowledge(), 0xef);
    assert_eq!(read(&mut apic, 0x170), 0, "a spurious interrupt is not in service");
}

#[test]
fn base_register_transitions() {
    let mut apic = apic();
    let base = 0xfee0_0100;
    assert_eq!(apic.write_msr(0x1b, base | 0x400, 0), Err(GpFault), "EXTD without EN");
    assert_eq!(apic.write_msr(0x1b, base | 0x800 | 0x200, 0), Err(GpFault), "reserved bit");
    assert_eq!(apic.write_msr(0x1b, base | 0x800 | 1 << 46, 0), Err(GpFault), "beyond MAXPHYADDR");
    assert_eq!(apic.write_msr(0x1b, base | 0xc00, 0), Ok(None));
    assert_eq!((apic.mode(), apic.page()), (ApicMode::X2Apic, None));
    assert_eq!(apic.write_msr(0x1b, base | 0x800, 0), Err(GpFault), "x2APIC to xAPIC");
    assert_eq!(apic.write_msr(0x1b, base, 0), Ok(None));
    assert_eq!(apic.write_msr(0x1b, base | 0xc00, 0), Err(GpFault), "disabled to x2APIC");
    assert_eq!(apic.write_msr(0x1b, 0xfed0_0900, 0), Ok(None));
    assert_eq!(apic.page(), Some(0xfed0_0000));
    assert_eq!(read(&mut apic, 0xf0), 0xff, "disabling resets the registers");
}

#[test]
fn x2apic_registers_fault_as_documented() {
    let mut apic = LocalApic::new(0x25, false, 46, ApicClock::default());
    assert_eq!(apic.read_msr(0x802, 0), Err(GpFault), "xAPIC mode");
    apic.write_msr(0x1b, 0xfee0_0c00, 0).unwrap();
    assert_eq!(apic.read_msr(0x802, 0), Ok(0x25));
    assert_eq!(apic.read_msr(0x80d, 0), Ok(0x2_0020));
    for msr in [0x80b, 0x80e, 0x831, 0x83f, 0x840, 0x8ff, 0x800] {
        assert_eq!(apic.read_msr(msr, 0), Err(GpFault), "read {msr:#x}");
    }
    for (msr, value) in [
        (0x802, 0),
        (0x803, 0),
        (0x80a, 0),
        (0x80d, 0),
        (0x80e, 0),
        (0x80b, 1),
        (0x828, 1),
        (0x808, 0x100),
        (0x830, 1 << 20),
        (0x831, 0),
        (0x839, 0),
        (0x832, 1 << 19),
        (0x838, 1 << 32),
    ] {
        assert_eq!(apic.write_msr(msr, value, 0), Err(GpFault), "write {value:#x} to {msr:#x}");
    }
    apic.write_msr(0x80f, 0x1ff, 0).unwrap();
    assert_eq!(apic.write_msr(0x83f, 0x51, 0), Ok(None));
    assert_eq!(apic.acknowledge(), 0x51);
    assert_eq!(apic.write_msr(0x80b, 0, 0), Ok(None));
    assert_eq!(
        apic.write_msr(0x830, (0x1_0001 << 32) | 0x800 | 0x31, 0),
        Ok(Some(ApicOutput::Ipi(Message {
            destination: Destination::Logical(0x1_0001),
            mode: DeliveryMode::Fixed,
            vector: 0x31,
            level: false
        })))
    );
}

#[test]
fn destinations_match_by_model() {
    let mut apic = apic();
    assert!(apic.matches(Destination::Physical(3)));
    assert!(!apic.matches(Destination::Physical(4)));
    write(&mut apic, 0xd0, 0x0400_0000);
    assert!(apic.matches(Destination::Logical(0x0c)));
    assert!(!apic.matches(Destination::Logical(0x03)));
    write(&mut apic, 0xe0, 0x0fff_ffff);
    write(&mut apic, 0xd0, 0x2200_0000);
    assert!(apic.matches(Destination::Logical(0x23)));
    assert!(!apic.matches(Destination::Logical(0x13)));
    assert!(!apic.matches(Destination::Logical(0x21)));
    assert!(apic.matches(Destination::Logical(0xff)));
    apic.write_msr(0x1b, 0xfee0_0c00, 0).unwrap();
    assert!(apic.matches(Destination::Logical(0x0008)));
    assert!(!apic.matches(Destination::Logical(0x1_0008)));
}

#[test]
fn icr_shorthands_and_modes() {
    let mut apic = apic();
    write(&mut apic, 0x310, 0x0500_0000);
    let send = |apic: &mut LocalApic, low| match write(apic, 0x300, low) {
        Some(ApicOutput::Ipi(message)) => Some(message),
        _ => None,
    };
    let message = send(&mut apic, 0x40).unwrap();
    assert_eq!((message.destination, message.vector), (Destination::Physical(5), 0x40));
    assert_eq!(send(&mut apic, 0x4_0040).unwrap().destination, Destination::Myself);
    assert_eq!(send(&mut apic, 0x8_0040).unwrap().destination, Destination::All);
    assert_eq!(send(&mut apic, 0xc_0400).unwrap().destination, Destination::Others);
    assert_eq!(send(&mut apic, 0xc500).unwrap().mode, DeliveryMode::Init, "level assert");
    assert_eq!(send(&mut apic, 0x8500), None, "level de-assert");
    let start = send(&mut apic, 0x699).unwrap();
    assert_eq!((start.mode, start.vector), (DeliveryMode::StartUp, 0x99));
    assert_eq!(send(&mut apic, 0x05), None, "illegal vector");
    write(&mut apic, 0x280, 0);
    assert_eq!(read(&mut apic, 0x280), 1 << 5, "send illegal vector");
    write(&mut apic, 0x280, 0);
    assert_eq!(read(&mut apic, 0x280), 0);
    assert_eq!(read(&mut apic, 0x300), 0x05, "the ICR reads back idle");
}

#[test]
fn errors_interrupt_through_their_entry() {
    let mut apic = apic();
    write(&mut apic, 0x370, 0xfe);
    apic.accept(&fixed(3, false));
    assert_eq!(apic.pending_vector(), Some(0xfe));
    write(&mut apic, 0x280, 0);
    assert_eq!(read(&mut apic, 0x280), ESR_RECEIVE_ILLEGAL_VECTOR);
    let mut other = self::apic();
    read(&mut other, 0x400);
    write(&mut other, 0x280, 0);
    assert_eq!(read(&mut other, 0x280), 1 << 7, "illegal register");
}

#[test]
fn timer_interrupts_and_masks() {
    let mut apic = apic();
    write(&mut apic, 0x3e0, 0xb);
    write(&mut apic, 0x320, 0x2_00ec);
    write_at(&mut apic, 0x380, 1000, 100);
    assert_eq!(apic.next_deadline(), Some(40_100));
    apic.advance(40_100);
    assert_eq!(apic.acknowledge(), 0xec);
    assert_eq!(apic.next_deadline(), Some(80_100));
    write_at(&mut apic, 0x320, 0x3_00ec, 50_000);
    assert_eq!(apic.next_deadline(), None, "masked");
    write(&mut apic, 0xb0, 0);
    apic.advance(90_000);
    assert_eq!(apic.pending_vector(), None);
    write_at(&mut apic, 0x320, 0x2_00ec, 100_000);
    assert_eq!(apic.next_deadline(), Some(120_100), "the phase was kept");
}

#[test]
fn tsc_deadline_interrupts_once() {
    let mut apic = apic();
    write(&mut apic, 0x320, 0x4_00ec);
    apic.write_msr(0x6e0, 5000, 10).unwrap();
    assert_eq!(apic.next_deadline(), Some(5000));
    assert_eq!(apic.read_msr(0x6e0, 20), Ok(5000));
    assert_eq!(apic.read_msr(0x6e0, 5000), Ok(0));
    assert_eq!(apic.acknowledge(), 0xec);
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn init_resets_registers_but_not_identity() {
    let mut apic = apic();
    write(&mut apic, 0x320, 0xec);
    apic.accept(&Message { mode: DeliveryMode::Init, ..fixed(0, false) });
    apic.accept(&Message { mode: DeliveryMode::StartUp, ..fixed(0x9a, false) });
    assert_eq!(read(&mut apic, 0x320), LVT_MASKED);
    assert!(!apic.is_enabled());
    assert_eq!(read(&mut apic, 0x20), 3 << 24);
    assert_eq!((apic.take_init(), apic.take_sipi(), apic.take_sipi()), (true, Some(0x9a), None));
}

#[test]
fn disabling_by_software_masks_the_entries() {
    let mut apic = apic();
    write(&mut apic, 0x350, 0x700);
    assert!(apic.passes_intr());
    write(&mut apic, 0xf0, 0xff);
    assert!(!apic.passes_intr());
    write(&mut apic, 0x350, 0x700);
    assert_eq!(read(&mut apic, 0x350), 0x1_0700, "stays masked");
}
