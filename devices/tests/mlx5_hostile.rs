//! What a careless or hostile driver may do to the emulated ConnectX function: every attempt ends in an error value.

use devices::bus::AccessError;
use devices::mlx5::layout::capabilities::general;
use devices::mlx5::layout::commands::{CONTEXT, EQ_NUMBER, OBJECT, PAGES, mkey, qp};
use devices::mlx5::layout::contexts::{cqc, eqc, mkc, qpc};
use devices::mlx5::{Mlx5, Mlx5Config, PortType};
use devices::pci::PciDevice;
use driver_model::mlx5_model::{
    Driver, EqParam, PAGE, RAM_BASE, RAM_SIZE, SLOTS, be32, command, fill_pages, get, set,
};

const BAD_OPERATION: u8 = 0x02;
const BAD_PARAMETER: u8 = 0x03;
const BAD_SYSTEM_STATE: u8 = 0x04;
const BAD_RESOURCE: u8 = 0x05;
const LIMIT_EXCEEDED: u8 = 0x08;
const BAD_RESOURCE_STATE: u8 = 0x09;
const BAD_INDEX: u8 = 0x0a;
const BAD_QP_STATE: u8 = 0x10;
const BAD_INPUT_LENGTH: u8 = 0x50;
const BAD_OUTPUT_LENGTH: u8 = 0x51;

const ALLOC_PD: u16 = 0x800;
const CREATE_MKEY: u16 = 0x200;
/// Health buffer: the word that holds the syndrome.
const HEALTH: u64 = 0x23c;

fn ready() -> Driver {
    let mut driver = Driver::new(Mlx5Config::default());
    driver.bring_up();
    driver
}

fn on_object(opcode: u16, number: u32) -> Vec<u8> {
    let mut input = command(opcode, 0, 16);
    OBJECT.set(&mut input, number.into());
    input
}

fn alloc(driver: &mut Driver, opcode: u16) -> u32 {
    OBJECT.get32(&driver.succeed(&command(opcode, 0, 16), 16))
}

/// A device with a UAR and one command event queue of 2^`log_size` entries.
fn with_events(log_size: u32) -> Driver {
    let mut driver = ready();
    assert_eq!(alloc(&mut driver, 0x802), 16);
    let eqn = driver.create_eq(280, EqParam { log_size, vector: 2, uar: 16, mask: 1 << 0x0a });
    driver.command_eq = Some(eqn);
    driver
}

fn create_cq_input(driver: &mut Driver) -> Vec<u8> {
    let buffer = driver.allocate(2);
    let mut input = command(0x400, 0, 280);
    set(&mut input, CONTEXT, cqc::LOG_CQ_SIZE, 4);
    set(&mut input, CONTEXT, cqc::C_EQN, 1);
    set(&mut input, CONTEXT, cqc::UAR_PAGE, 16);
    set(&mut input, CONTEXT, cqc::DBR_ADDR, buffer + PAGE);
    fill_pages(&mut input[PAGES..], buffer, 1);
    input
}

fn create_qp_input(driver: &mut Driver) -> Vec<u8> {
    let buffer = driver.allocate(1);
    let mut input = command(0x500, 0, 280);
    for (field, value) in
        [(qpc::PD, 1), (qpc::CQN_SND, 1), (qpc::CQN_RCV, 1), (qpc::UAR_PAGE, 16), (qpc::LOG_SQ_SIZE, 2)]
    {
        set(&mut input, qp::QPC, field, value);
    }
    fill_pages(&mut input[PAGES..], buffer, 1);
    input
}

#[test]
fn identity_follows_the_port_type() {
    let class = |port| Mlx5::new(Mlx5Config { port, ..Mlx5Config::default() }).info().class;
    assert_eq!(class(PortType::InfiniBand), 0x02_07_00);
    assert_eq!(class(PortType::Ethernet), 0x02_00_00);
    let info = Mlx5::new(Mlx5Config::default()).info();
    assert_eq!((info.vendor_id, info.device_id), (0x15b3, 0x1018));
    assert!(info.msix_vectors >= 8);
    assert_eq!(info.bars.len(), 1);
    assert_eq!((info.bars[0].index, info.bars[0].size), (0, 4 << 20));
}

#[test]
fn unknown_opcodes_and_short_lengths_are_refused() {
    let mut driver = ready();
    for opcode in [0u16, 0x0fff, 0x930, 0xa00, 0xffff] {
        driver.fail(&command(opcode, 0, 16), 16, BAD_OPERATION);
    }
    driver.fail(&command(CREATE_MKEY, 0, 16), 16, BAD_INPUT_LENGTH);
    driver.fail(&command(CREATE_MKEY, 0, 271), 16, BAD_INPUT_LENGTH);
    driver.fail(&command(0x100, 0, 16), 16, BAD_OUTPUT_LENGTH);
    driver.fail(&command(ALLOC_PD, 0, 16), 12, BAD_OUTPUT_LENGTH);
    let mut mkey = command(CREATE_MKEY, 0, 288);
    mkey::TRANSLATIONS_OCTWORD_ACTUAL_SIZE.set(&mut mkey, u32::MAX.into());
    driver.fail(&mkey, 16, BAD_INPUT_LENGTH);
    driver.fail(&command(0x100, 0x21 << 1, 16), 4112, BAD_PARAMETER);
    assert_eq!(driver.device.live_objects().total(), 0);
}

#[test]
fn commands_wait_for_their_phase() {
    let mut driver = Driver::new(Mlx5Config::default());
    driver.fail(&command(0x102, 0, 32), 16, BAD_SYSTEM_STATE);
    driver.fail(&command(ALLOC_PD, 0, 16), 16, BAD_SYSTEM_STATE);
    driver.bring_up();
    alloc(&mut driver, ALLOC_PD);
    driver.fail(&command(0x102, 0, 32), 16, BAD_SYSTEM_STATE);
    driver.fail(&command(0x109, 0, 4112), 16, BAD_SYSTEM_STATE);
    assert_eq!(driver.device.live_objects().pds, 1);
    driver.succeed(&command(0x103, 0, 16), 16);
    assert_eq!(driver.device.live_objects().total(), 0, "teardown drops what is left");
    driver.fail(&command(ALLOC_PD, 0, 16), 16, BAD_SYSTEM_STATE);
}

#[test]
fn limits_cannot_be_raised_but_lowered() {
    let mut driver = Driver::new(Mlx5Config::default());
    driver.succeed(&command(0x104, 0, 16), 12);
    let caps = driver.succeed(&command(0x100, 0, 16), 4112);
    let mut wanted = command(0x109, 0, 4112);
    wanted[CONTEXT..].copy_from_slice(&caps[CONTEXT..]);
    set(&mut wanted, CONTEXT, general::LOG_MAX_PD, 31);
    driver.fail(&wanted, 16, BAD_PARAMETER);
    set(&mut wanted, CONTEXT, general::LOG_MAX_PD, 2);
    driver.succeed(&wanted, 16);
    driver.succeed(&command(0x102, 0, 32), 16);
    let pds: Vec<u32> = (0..3).map(|_| alloc(&mut driver, ALLOC_PD)).collect();
    assert_eq!(pds, [1, 2, 3]);
    driver.fail(&command(ALLOC_PD, 0, 16), 16, LIMIT_EXCEEDED);
    driver.succeed(&on_object(0x801, 2), 16);
    driver.fail(&on_object(0x801, 2), 16, BAD_RESOURCE);
    assert_eq!(alloc(&mut driver, ALLOC_PD), 2);
}

#[test]
fn objects_in_use_stay_and_absent_ones_are_not_found() {
    let mut driver = with_events(6);
    alloc(&mut driver, ALLOC_PD);
    let mut cq = create_cq_input(&mut driver);
    set(&mut cq, CONTEXT, cqc::C_EQN, 9);
    driver.fail(&cq, 16, BAD_RESOURCE);
    set(&mut cq, CONTEXT, cqc::C_EQN, 1);
    set(&mut cq, CONTEXT, cqc::LOG_CQ_SIZE, 31);
    driver.fail(&cq, 16, BAD_PARAMETER);
    set(&mut cq, CONTEXT, cqc::LOG_CQ_SIZE, 8);
    driver.fail(&cq, 16, BAD_PARAMETER);
    set(&mut cq, CONTEXT, cqc::LOG_CQ_SIZE, 4);
    driver.succeed(&cq, 16);

    let mut pair = create_qp_input(&mut driver);
    set(&mut pair, qp::QPC, qpc::ST, 5);
    driver.fail(&pair, 16, BAD_PARAMETER);
    set(&mut pair, qp::QPC, qpc::ST, 0);
    set(&mut pair, qp::QPC, qpc::PD, 7);
    driver.fail(&pair, 16, BAD_RESOURCE);
    set(&mut pair, qp::QPC, qpc::PD, 1);
    let qpn = OBJECT.get32(&driver.succeed(&pair, 16));

    for busy in [on_object(0x801, 1), on_object(0x803, 16), on_object(0x401, 1)] {
        driver.fail(&busy, 16, BAD_RESOURCE_STATE);
    }
    let mut destroy_eq = command(0x302, 0, 16);
    EQ_NUMBER.set(&mut destroy_eq, 1);
    driver.fail(&destroy_eq, 16, BAD_RESOURCE_STATE);
    for absent in [0x202, 0x401, 0x501, 0x706, 0x90e, 0x801, 0x803, 0x80f, 0x817] {
        driver.fail(&on_object(absent, 0xff_ffff), 16, BAD_RESOURCE);
    }
    let mut gid = command(0x764, 0, 16);
    gid[14..16].copy_from_slice(&99u16.to_be_bytes());
    driver.fail(&gid, 32, BAD_INDEX);

    let modify = |opcode| {
        let mut input = command(opcode, 0, 272);
        OBJECT.set(&mut input, qpn.into());
        input
    };
    driver.fail(&modify(0x503), 16, BAD_QP_STATE);
    driver.succeed(&modify(0x502), 16);
    driver.fail(&modify(0x502), 16, BAD_QP_STATE);
    driver.fail(&modify(0x504), 16, BAD_QP_STATE);
    driver.succeed(&on_object(0x507, qpn), 16);
    driver.fail(&modify(0x503), 16, BAD_QP_STATE);
    driver.succeed(&on_object(0x501, qpn), 16);
    driver.succeed(&on_object(0x401, 1), 16);
    driver.succeed(&on_object(0x801, 1), 16);
}

#[test]
fn malformed_entries_are_not_delivered() {
    let mut driver = ready();
    let deliver = |driver: &mut Driver, spoil: &dyn Fn(&mut [u8])| {
        driver.post(3, &command(0x100, 0, 16), 4112);
        let at = driver.entry(3);
        spoil(driver.port.bytes_mut(at, 64));
        driver.ring(1 << 3);
        driver.collect(3, 16).delivery
    };
    assert_eq!(deliver(&mut driver, &|_| {}), 0);
    assert_eq!(deliver(&mut driver, &|entry| entry[0] = 0), 0x10, "transport type");
    assert_eq!(deliver(&mut driver, &|entry| entry[2] = 1), 0x09, "reserved byte");
    assert_eq!(deliver(&mut driver, &|entry| entry[60] ^= 1), 0x02, "token");
    assert_eq!(deliver(&mut driver, &|entry| entry[55] = 8), 0x04, "output alignment");
    assert_eq!(deliver(&mut driver, &|entry| entry[48..56].fill(0)), 0x08, "no output mailbox");
    assert_eq!(deliver(&mut driver, &|entry| entry[56..60].fill(0xff)), 0x08, "output length");
    assert_eq!(deliver(&mut driver, &|entry| entry[56..60].fill(0)), 0x08, "no output");
    assert_eq!(deliver(&mut driver, &|entry| entry[4..8].fill(0xff)), 0x07, "input length");
    assert_eq!(deliver(&mut driver, &|entry| entry[4..8].fill(0)), 0x07, "no input");
    assert_eq!(deliver(&mut driver, &|entry| entry[6] = 1), 0x07, "no input mailbox");
    let misaligned = |entry: &mut [u8]| (entry[6], entry[15]) = (1, 4);
    assert_eq!(deliver(&mut driver, &misaligned), 0x05, "input alignment");
    assert_eq!(deliver(&mut driver, &|entry| entry[48..54].fill(0xff)), 0x06, "output mailbox nowhere");
    let nowhere = |entry: &mut [u8]| (entry[6], entry[8]) = (1, 0xee);
    assert_eq!(deliver(&mut driver, &nowhere), 0x06, "input mailbox nowhere");
}

#[test]
fn a_cyclic_mailbox_chain_ends_at_once() {
    let mut driver = ready();
    driver.post(0, &command(0x109, 0, 4112), 16);
    let pointer = driver.port.bytes(RAM_BASE + 8, 8).to_vec();
    let first = u64::from_be_bytes(pointer.try_into().unwrap());
    driver.port.bytes_mut(first + 560, 8).copy_from_slice(&first.to_be_bytes());
    let before = driver.port.transactions;
    driver.ring(1);
    assert_eq!(driver.collect(0, 16).delivery, 0x03, "the second block has number 0");
    assert!(driver.port.transactions - before < 8);
}

#[test]
fn an_input_may_hold_a_key_of_four_gibibytes_and_no_more() {
    const LONGEST: u32 = 272 + 8 * (1 << 20);
    const BLOCK_NUMBER: u8 = 0x03;
    const INPUT_LENGTH: u8 = 0x07;
    for (len, delivery) in [(LONGEST, BLOCK_NUMBER), (LONGEST + 1, INPUT_LENGTH)] {
        let mut driver = ready();
        driver.post(0, &command(0x200, 0, 528), 16);
        driver.port.bytes_mut(RAM_BASE + 4, 4).copy_from_slice(&len.to_be_bytes());
        // A chain that closes on itself tells whether it is walked at all.
        let pointer = driver.port.bytes(RAM_BASE + 8, 8).to_vec();
        let first = u64::from_be_bytes(pointer.try_into().unwrap());
        driver.port.bytes_mut(first + 560, 8).copy_from_slice(&first.to_be_bytes());
        driver.ring(1);
        assert_eq!(driver.collect(0, 16).delivery, delivery, "{len} bytes");
    }
}

#[test]
fn a_command_queue_that_is_nowhere_does_nothing() {
    for address in [0, RAM_BASE + RAM_SIZE, !0xfff] {
        let mut driver = ready();
        driver.set_queue_address(address);
        let before = driver.port.transactions;
        driver.ring(u32::MAX);
        assert!(driver.port.transactions - before <= SLOTS as usize);
        driver.set_queue_address(RAM_BASE);
        assert_eq!(alloc(&mut driver, ALLOC_PD), 1);
    }
    let mut driver = ready();
    driver.post(0, &command(ALLOC_PD, 0, 16), 16);
    driver.port.broken = true;
    driver.ring(1);
    driver.port.broken = false;
    assert_eq!(driver.device.live_objects().pds, 0);
}

#[test]
fn a_second_doorbell_for_a_slot_is_ignored() {
    let mut driver = with_events(6);
    driver.post(5, &command(ALLOC_PD, 0, 16), 16);
    driver.ring(1 << 5);
    driver.ring(1 << 5);
    driver.ring(u32::MAX);
    assert_eq!(driver.device.live_objects().pds, 1);
    assert_eq!(driver.collect(5, 16).status(), 0);
    assert!(driver.next_event(1).is_some());
    assert_eq!(driver.next_event(1), None, "one event a command");
}

#[test]
fn all_slots_may_be_rung_together() {
    let mut driver = with_events(6);
    driver.arm(1);
    driver.port.interrupts.clear();
    for slot in 0..SLOTS {
        driver.post(slot, &command(ALLOC_PD, 0, 16), 16);
    }
    driver.ring(u32::MAX);
    assert_eq!(driver.port.interrupts, [2], "the queue was armed once");
    let mut slots = 0;
    while let Some(event) = driver.next_event(1) {
        slots |= be32(&event[32..]);
    }
    assert_eq!(slots, u32::MAX);
    let pds: Vec<u64> = (0..SLOTS).map(|slot| OBJECT.get(&driver.collect(slot, 16).out)).collect();
    assert_eq!(pds, (1..=u64::from(SLOTS)).collect::<Vec<_>>());
}

#[test]
fn arming_with_events_pending_interrupts_at_once() {
    let mut driver = with_events(6);
    driver.post(0, &command(ALLOC_PD, 0, 16), 16);
    driver.port.interrupts.clear();
    driver.ring(1);
    driver.arm(1);
    assert_eq!(driver.port.interrupts, [2, 2]);
    assert!(driver.next_event(1).is_some());
    driver.arm(1);
    assert_eq!(driver.port.interrupts, [2, 2], "nothing pending");
    driver.write32(16 * PAGE + 0x48, 1 << 24 | 1);
    assert_eq!(driver.port.interrupts, [2, 2], "an update does not arm");
}

#[test]
fn an_overrun_event_queue_stops_and_shows_in_the_health_buffer() {
    let mut driver = with_events(2);
    for slot in 0..8 {
        assert_eq!(driver.read32(HEALTH), if slot > 4 { 0x0c << 16 } else { 0 });
        driver.post(slot, &command(ALLOC_PD, 0, 16), 16);
        driver.ring(1 << slot);
        assert_eq!(driver.collect(slot, 16).status(), 0, "commands go on");
    }
    driver.command_eq = None;
    let mut query = command(0x303, 0, 16);
    EQ_NUMBER.set(&mut query, 1);
    driver.post(0, &query, 272);
    driver.ring(1);
    let out = driver.collect(0, 272).out;
    assert_eq!(get(&out, CONTEXT, eqc::STATUS), 0xa);
    assert_eq!(get(&out, CONTEXT, eqc::PRODUCER_COUNTER), 4);
}

#[test]
fn an_event_queue_that_is_nowhere_enters_the_error_state() {
    let mut driver = ready();
    assert_eq!(alloc(&mut driver, 0x802), 16);
    let mut input = command(0x301, 0, 280);
    set(&mut input, CONTEXT, eqc::UAR_PAGE, 16);
    input[0x58..0x60].copy_from_slice(&(1u64 << 0x0a).to_be_bytes());
    driver.succeed(&input, 16);
    driver.post(0, &command(ALLOC_PD, 0, 16), 16);
    driver.ring(1);
    assert_eq!(driver.collect(0, 16).status(), 0);
    assert_eq!(driver.read32(HEALTH), 0x0d << 16);
    set(&mut input, CONTEXT, eqc::INTR, 999);
    driver.post(0, &input, 16);
    driver.ring(1);
    assert_eq!(driver.collect(0, 16).status(), BAD_PARAMETER);
}

#[test]
fn long_commands_take_turns() {
    let mut driver = ready();
    alloc(&mut driver, ALLOC_PD);
    let octwords = 1 << 17;
    let mut input = command(CREATE_MKEY, 0, 272 + 16 * octwords);
    mkey::TRANSLATIONS_OCTWORD_ACTUAL_SIZE.set(&mut input, octwords as u64);
    for (field, value) in [(mkc::PD, 1), (mkc::ACCESS_MODE_1_0, 1), (mkc::LOG_PAGE_SIZE, 12)] {
        set(&mut input, CONTEXT, field, value);
    }
    // The chain is as long as a command's may be, and its blocks are shared by all slots.
    let blocks = (input.len() - 16).div_ceil(512) as u64;
    let pool = driver.allocate(blocks / 4 + 1);
    driver.post(0, &input[..16], 16);
    for number in 0..blocks {
        let block = driver.port.bytes_mut(pool + number * 1024, 576);
        let data = &input[16 + number as usize * 512..];
        let len = data.len().min(512);
        block[..len].copy_from_slice(&data[..len]);
        block[560..568].copy_from_slice(&(pool + (number + 1) * 1024).to_be_bytes());
        block[568..572].copy_from_slice(&(number as u32).to_be_bytes());
        block[573] = 2;
    }
    let entry = {
        let entry = driver.port.bytes_mut(RAM_BASE, 64);
        entry[4..8].copy_from_slice(&(input.len() as u32).to_be_bytes());
        entry[8..16].copy_from_slice(&pool.to_be_bytes());
        entry[60] = 2;
        entry.to_vec()
    };
    for slot in 0..SLOTS {
        let at = driver.entry(slot);
        driver.port.bytes_mut(at, 64).copy_from_slice(&entry);
    }
    let mut most = 0;
    let mut turns = 0;
    driver.ring(u32::MAX);
    loop {
        let before = driver.port.transactions;
        turns += 1;
        if !driver.deliver_event() {
            break;
        }
        most = most.max(driver.port.transactions - before);
    }
    assert!(turns > 10, "{turns} turns");
    assert!(most < 20_000, "{most} transactions in a turn");
    assert!(driver.port.now > 0, "the rest waits for virtual time");
    let statuses: Vec<u8> = (0..SLOTS).map(|slot| driver.collect(slot, 16).status()).collect();
    let accepted = statuses.iter().filter(|status| **status == 0).count();
    assert_eq!(accepted, 16, "as many as translation entries are kept for");
    assert!(statuses[accepted..].iter().all(|status| *status == LIMIT_EXCEEDED));
}

#[test]
fn doorbells_of_absent_objects_do_nothing() {
    let mut driver = with_events(6);
    driver.port.interrupts.clear();
    for (offset, value) in [(0x20, 77u64), (0x800, 0xa << 32 | 77 << 8 | 2), (0x900, u64::MAX)] {
        driver.write64(16 * PAGE + offset, value);
    }
    driver.write32(16 * PAGE + 0x40, u32::MAX);
    assert!(driver.port.interrupts.is_empty());
    let unallocated = driver.device.bar_write(0, 17 * PAGE + 0x20, &[0; 8], &mut driver.port);
    assert_eq!(unallocated, Err(AccessError::NoRegister));
    let mut data = [0; 4];
    let beyond = driver.device.bar_read(0, (4 << 20) - 2, &mut data, &mut driver.port);
    assert_eq!(beyond, Err(AccessError::NoRegister));
    let other_bar = driver.device.bar_read(2, 0, &mut data, &mut driver.port);
    assert_eq!(other_bar, Err(AccessError::NoRegister));
    let odd_size = driver.device.bar_read(0, 0, &mut [0; 3], &mut driver.port);
    assert_eq!(odd_size, Err(AccessError::BadSize));
}

#[test]
fn the_doorbell_of_another_uar_is_not_obeyed() {
    let mut driver = with_events(6);
    assert_eq!(alloc(&mut driver, 0x802), 17);
    driver.post(0, &command(ALLOC_PD, 0, 16), 16);
    driver.port.interrupts.clear();
    driver.ring(1);
    assert_eq!(driver.port.interrupts, [2]);
    driver.write32(17 * PAGE + 0x40, 1 << 24);
    assert_eq!(driver.port.interrupts, [2], "the queue belongs to UAR 16");
}

#[test]
fn the_segment_reads_at_any_size_and_alignment() {
    let mut driver = Driver::new(Mlx5Config::default());
    driver.set_queue_address(0x1_2345_6000);
    let mut wide = [0; 8];
    driver.device.bar_read(0, 0x10, &mut wide, &mut driver.port).unwrap();
    assert_eq!(wide, [0, 0, 0, 1, 0x23, 0x45, 0x60, 0x56]);
    for len in [1usize, 2, 4, 8] {
        for offset in 0x10..=0x18 - len {
            let mut data = vec![0xee; len];
            driver.device.bar_read(0, offset as u64, &mut data, &mut driver.port).unwrap();
            assert_eq!(data, wide[offset - 0x10..][..len]);
        }
    }
    driver.device.bar_write(0, 0x13, &[9], &mut driver.port).unwrap();
    assert_eq!(driver.read32(0x10), 9, "one byte of the address");
    assert_eq!(driver.read32(0x4), 5 << 16 | 2000, "command interface revision 5");
    assert_eq!(driver.read32(0x1fc), 0, "not initializing");
    assert_ne!(driver.read32(0x230), u32::MAX);
    let (counter, timer) = (driver.read32(0x1010), driver.read32(0x1004));
    driver.port.now += 2_000_000_000;
    assert!(driver.read32(0x1010) > counter, "the health counter runs");
    assert_eq!(driver.read32(0x1004) - timer, 312_500_000);
}

#[test]
fn disabling_the_interface_and_reset_drop_everything() {
    let mut driver = with_events(6);
    alloc(&mut driver, ALLOC_PD);
    driver.write32(0x14, RAM_BASE as u32 | 1 << 8);
    assert_eq!(driver.read32(0x14) >> 8 & 7, 1);
    assert_eq!(driver.device.live_objects().total(), 0);
    driver.post(0, &command(0x104, 0, 16), 12);
    driver.ring(1);
    let at = driver.entry(0);
    assert_eq!(driver.port.bytes(at, 64)[63], 1, "commands wait");

    let mut driver = Driver::attach(driver.device);
    assert_eq!(driver.read32(0x14) >> 8 & 7, 0);
    driver.bring_up();
    alloc(&mut driver, ALLOC_PD);
    driver.device.reset();
    let fresh = Mlx5::new(Mlx5Config::default());
    assert_eq!(format!("{:?}", driver.device), format!("{fresh:?}"));
}
