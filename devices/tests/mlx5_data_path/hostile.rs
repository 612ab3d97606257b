//! What a careless or hostile program may do to the data path: it harms itself, never the device.

use crate::link::{AREA, End, Link};
use devices::pci::PciDevice;
use driver_model::mlx5_model::{PAGE, RAM_BASE, RAM_SIZE};
use driver_model::mlx5_verbs::{
    Connection, Cq, Pair, PairSpec, ReceiveQueue, SendRequest, Sge, Srq, SrqKind, Verbs, access, opcode,
    pattern, qp_state, syndrome, transport,
};

/// Memory transactions that one event or register write may cause: a turn of the device that moves 256 KiB, byte by byte.
const MAX_TRANSACTIONS: usize = 300_000;

/// Lets the device come to rest, counting what each event moves.
fn settle_in_turns(verbs: &mut Verbs) {
    for _ in 0..10_000 {
        let before = verbs.driver.port.transactions;
        if !verbs.driver.deliver_event() {
            return;
        }
        assert!(verbs.driver.port.transactions - before < MAX_TRANSACTIONS, "a turn is bounded");
        if verbs.driver.port.now > 10_000_000_000 {
            return;
        }
    }
}

/// The link of somebody else still works.
fn others_work(link: &mut Link) {
    link.receive(0, 64);
    link.succeed(SendRequest::send(&[]).inline(b"still there"));
    assert_eq!(link.b.cq.one(&mut link.verbs).bytes, 11);
    assert_eq!(link.at_b(0, 11), b"still there");
}

#[test]
fn doorbells_for_nobody_are_ignored() {
    let mut link = Link::new(transport::RC);
    let uar = u64::from(link.verbs.uar) * PAGE;
    for (offset, value) in
        [(0x800, 0xff_ffff_u64 << 8 | 1), (0x900, 0), (0x800, u64::MAX), (0x20, 0xff_ffff), (0x20, u64::MAX)]
    {
        link.verbs.driver.write64(uar + offset, value);
    }
    link.verbs.driver.write32(uar + 0x40, u32::MAX);
    link.verbs.driver.write32(uar + 0x48, u32::MAX);
    link.verbs.settle();
    // The pair's own UAR is the only one that rings it.
    let other = link.verbs.allocate_object(0x802);
    link.a.pair.place(&mut link.verbs, &SendRequest::write(0, 0, &[]));
    link.verbs.fill(link.a.pair.record + 4, &[0, 0, 0, 1]);
    link.verbs.driver.write64(u64::from(other) * PAGE + 0x800, u64::from(link.a.pair.qpn << 8 | 1));
    assert_eq!(link.a.cq.drain(&mut link.verbs), []);
    link.a.pair.ring(&mut link.verbs);
    assert_eq!(link.a.cq.one(&mut link.verbs).syndrome, 0);
    others_work(&mut link);
}

#[test]
fn counters_beyond_the_queue_end_in_an_error() {
    for counter in [65u16, 1000, 0x8000, 0xffff] {
        let mut link = Link::new(transport::RC);
        let mut good = End::new(&mut link.verbs, transport::RC);
        let own = Connection::to(good.pair.qpn);
        good.pair.connect(&mut link.verbs, own);
        link.verbs.fill(link.a.pair.record + 4, &u32::from(counter).to_be_bytes());
        let doorbell = u64::from(link.a.pair.qpn << 8 | 1);
        link.verbs.driver.write64(u64::from(link.verbs.uar) * PAGE + 0x800, doorbell);
        settle_in_turns(&mut link.verbs);
        assert_eq!(link.a.state(&mut link.verbs), qp_state::ERROR, "counter {counter:#x}");
        good.pair.send(&mut link.verbs, SendRequest::write(0, 0, &[]));
        assert_eq!(good.cq.one(&mut link.verbs).syndrome, 0);
    }
}

#[test]
fn receive_counters_beyond_the_queue_are_bounded_too() {
    for counter in [33u32, 0x8000, 0xffff] {
        let mut link = Link::with(transport::RC, |connection| connection.rnr_retry = 0);
        link.verbs.fill(link.b.pair.record, &counter.to_be_bytes());
        link.a.pair.send(&mut link.verbs, SendRequest::send(&[]).inline(&[1]));
        settle_in_turns(&mut link.verbs);
        link.b.pair.to_error(&mut link.verbs);
        settle_in_turns(&mut link.verbs);
        let flushed = std::iter::from_fn(|| link.b.cq.poll(&mut link.verbs)).count();
        assert!(flushed <= 32, "no more than the queue holds: {flushed}");
    }
}

#[test]
fn sizes_of_requests_are_checked() {
    // Control segments that claim 0, too few, too many and far too many units.
    for (units, opcode) in
        [(0u32, 0x0au8), (1, 0x08), (1, 0x10), (3, 0x11), (1, 0x25), (63, 0x0a), (0x3f, 0x12)]
    {
        let mut link = Link::new(transport::RC);
        let mut bytes = SendRequest::new(opcode).encode(0, link.a.pair.qpn);
        bytes[4..8].copy_from_slice(&(link.a.pair.qpn << 8 | units).to_be_bytes());
        bytes.resize(64, 0);
        link.a.pair.place_bytes(&mut link.verbs, &bytes);
        link.a.pair.ring(&mut link.verbs);
        settle_in_turns(&mut link.verbs);
        let state = link.a.state(&mut link.verbs);
        assert!(state == qp_state::ERROR, "opcode {opcode:#x} of {units} units: state {state}");
        let cqe = link.a.cq.poll(&mut link.verbs).expect("an error");
        assert_eq!(cqe.opcode, opcode::REQUESTER_ERROR, "opcode {opcode:#x} of {units} units");
    }
}

#[test]
fn inline_lengths_beyond_the_request_are_refused() {
    for len in [13u32, 100, 0x3ff, 0x7fff_ffff] {
        let mut link = Link::new(transport::RC);
        link.receive(0, 4096);
        let mut segment = (len | 1 << 31).to_be_bytes().to_vec();
        segment.resize(16, 7);
        link.fail(SendRequest::new(0x0a).segments(&segment), syndrome::LOCAL_OPERATION);
        assert_eq!(link.at_b(0, 4096), [0; 4096]);
    }
}

#[test]
fn two_gigabytes_are_no_surprise() {
    let mut link = Link::new(transport::RC);
    // A count of 0 stands for 2^31 bytes, or for none: either way it is no trouble.
    let segment = Sge::new(link.a.at, 0, link.a.key).encode();
    link.receive(0, 64);
    link.complete(SendRequest::new(0x0a).segments(&segment));
    assert_eq!(link.at_b(0, 64), [0; 64]);
    let mut link = Link::new(transport::RC);
    let all = link.verbs.physical_key(access::ALL);
    let many: Vec<u8> = (0..20).flat_map(|_| Sge::new(0, 0x7fff_ffff, all).encode()).collect();
    link.a.pair.send(&mut link.verbs, SendRequest::write(0, all, &[]).segments(&many));
    settle_in_turns(&mut link.verbs);
    assert!(link.a.cq.poll(&mut link.verbs).expect("a completion").is_error());
}

#[test]
fn keyed_lists_that_name_themselves_end() {
    let mut link = Link::new(transport::RC);
    // Numbers of keys are given out one after the other, so that the next is known.
    let probe = link.verbs.keyed_key(0, &[(8, 0, 0)], access::ALL);
    let next = probe + 0x100;
    let own = link.verbs.keyed_key(0, &[(64, next, 0), (64, next, 0)], access::ALL);
    assert_eq!(own, next, "a key that is made of itself");
    let (first, second) = (next + 0x100, next + 0x200);
    let a = link.verbs.keyed_key(0, &[(64, second, 0)], access::ALL);
    let b = link.verbs.keyed_key(0, &[(64, first, 0)], access::ALL);
    assert_eq!((a, b), (first, second), "keys that are made of each other");
    for key in [own, a, b] {
        let mut link = link.clone();
        let element = link.a.sge(0, 64);
        let before = link.verbs.driver.port.transactions;
        link.fail(SendRequest::write(0, key, &[element]), syndrome::REMOTE_ACCESS);
        assert!(link.verbs.driver.port.transactions - before < 1000);
        let mut other = link.clone();
        let cqe = {
            other.a.pair.reset(&mut other.verbs);
            other.b.pair.reset(&mut other.verbs);
            let (to_a, to_b) = (Connection::to(other.a.pair.qpn), Connection::to(other.b.pair.qpn));
            other.a.pair.connect(&mut other.verbs, to_b);
            other.b.pair.connect(&mut other.verbs, to_a);
            other.complete(SendRequest::write(other.b.at, other.b.key, &[Sge::new(0, 64, key)]))
        };
        assert_eq!(cqe.syndrome, syndrome::LOCAL_PROTECTION);
    }
}

#[test]
fn towers_of_keyed_lists_are_bounded() {
    let mut link = Link::new(transport::RC);
    // Each level names the one below many times: without a bound the work would double with every level.
    let mut key = link.b.key;
    let mut start = link.b.at;
    for _ in 0..20 {
        key = link.verbs.keyed_key(0, &vec![(1, key, start); 64], access::ALL);
        start = 0;
    }
    let element = link.a.sge(0, 64);
    link.a.pair.send(&mut link.verbs, SendRequest::write(0, key, &[element]));
    settle_in_turns(&mut link.verbs);
    assert!(link.a.cq.poll(&mut link.verbs).is_some());
}

#[test]
fn keys_of_single_bytes_are_slow_and_no_worse() {
    let mut link = Link::new(transport::RC);
    let count = 60_000u64;
    // Every byte of the message is a transaction of its own, in the reverse order.
    let list: Vec<_> = (0..count).rev().map(|byte| (1, link.b.key, link.b.at + byte)).collect();
    let key = link.verbs.keyed_key(0, &list, access::ALL);
    let mut data = link.fill(1, count as usize);
    let element = link.a.sge(0, count as u32);
    let requests = vec![SendRequest::write(0, key, &[element]); 10];
    link.a.pair.post(&mut link.verbs, &requests);
    settle_in_turns(&mut link.verbs);
    assert_eq!(link.a.cq.drain(&mut link.verbs).iter().filter(|cqe| !cqe.is_error()).count(), 10);
    data.reverse();
    assert!(link.at_b(0, count as usize) == data);
}

#[test]
fn queues_in_memory_that_is_not_there_fail_alone() {
    let nowhere = [0u64, RAM_BASE + RAM_SIZE, 0xfee0_0000, !0xfff];
    for number in 0..4 {
        for at in nowhere {
            let mut link = Link::with(transport::RC, |connection| connection.rnr_retry = 0);
            let mut verbs = link.verbs.clone();
            let mut cq = Cq::new(&mut verbs, 4);
            let mut spec = PairSpec::new(transport::RC, cq.cqn);
            let record_kind = number;
            let mut buffer_pages = 0;
            if record_kind == 0 {
                // The completion queue.
                cq.buffer.pages.fill(at);
                let input = cq_input(&verbs, &cq);
                spec.send_cq =
                    devices::mlx5::layout::commands::OBJECT.get32(&verbs.driver.succeed(&input, 16));
                spec.receive_cq = spec.send_cq;
            } else {
                buffer_pages = record_kind;
            }
            let mut pair = broken_pair(&mut verbs, spec, buffer_pages, at);
            let to = Connection { rnr_retry: 0, ..Connection::to(pair.qpn) };
            pair.connect(&mut verbs, to);
            for _ in 0..3 {
                let bytes = SendRequest::send(&[]).encode(pair.sent, pair.qpn);
                if buffer_pages == 0 {
                    pair.place_bytes(&mut verbs, &bytes);
                    pair.receive(&mut verbs, &[]);
                }
                let doorbell = u64::from_be_bytes(bytes[..8].try_into().unwrap());
                let uar = u64::from(verbs.uar) * PAGE;
                if record_kind != 2 {
                    verbs.fill(pair.record, &[0, 0, 0, 1, 0, 0, 0, 1]);
                }
                verbs.driver.write64(uar + 0x800, doorbell);
                settle_in_turns(&mut verbs);
            }
            link.verbs = verbs;
            others_work(&mut link);
        }
    }
}

fn cq_input(verbs: &Verbs, cq: &Cq) -> Vec<u8> {
    use devices::mlx5::layout::commands::{CONTEXT, PAGES};
    use devices::mlx5::layout::contexts::cqc;
    use driver_model::mlx5_model::{command, set};
    let mut input = command(0x400, 0, PAGES + 8 * cq.buffer.pages.len());
    for (field, value) in [
        (cqc::LOG_CQ_SIZE, cq.log_size.into()),
        (cqc::C_EQN, verbs.completion_eq.into()),
        (cqc::UAR_PAGE, verbs.uar.into()),
        (cqc::DBR_ADDR, cq.record),
    ] {
        set(&mut input, CONTEXT, field, value);
    }
    cq.buffer.list(&mut input[PAGES..]);
    input
}

/// A pair whose queues (1), doorbell record (2) or both (3) lie at `at`.
fn broken_pair(verbs: &mut Verbs, spec: PairSpec, what: u32, at: u64) -> Pair {
    use devices::mlx5::layout::commands::{OBJECT, PAGES, qp};
    use devices::mlx5::layout::contexts::qpc;
    use driver_model::mlx5_model::{command, set};
    let mut pair = Pair::new(verbs, spec);
    if what == 0 {
        return pair;
    }
    if what != 2 {
        pair.buffer.pages.fill(at);
    }
    let record = if what == 1 { pair.record } else { at & !7 };
    let mut input = command(0x500, 0, PAGES + 8 * pair.buffer.pages.len());
    for (field, value) in [
        (qpc::PD, verbs.pd.into()),
        (qpc::UAR_PAGE, verbs.uar.into()),
        (qpc::CQN_SND, spec.send_cq.into()),
        (qpc::CQN_RCV, spec.receive_cq.into()),
        (qpc::DBR_ADDR, record),
        (qpc::LOG_SQ_SIZE, 6),
        (qpc::LOG_RQ_SIZE, spec.log_receive.into()),
        (qpc::LOG_RQ_STRIDE, u64::from(spec.log_stride) - 4),
    ] {
        set(&mut input, qp::QPC, field, value);
    }
    pair.buffer.list(&mut input[PAGES..]);
    pair.qpn = OBJECT.get32(&verbs.driver.succeed(&input, 16));
    pair
}

#[test]
fn cyclic_lists_of_shared_receives_are_followed_no_further_than_posted() {
    let mut verbs = Verbs::open();
    let mut srq = Srq::new(&mut verbs, SrqKind::Pool, 4, 6);
    let mut cq = Cq::new(&mut verbs, 7);
    let spec = PairSpec { receive: ReceiveQueue::Shared(srq.srqn), ..PairSpec::new(transport::RC, cq.cqn) };
    let mut pair = Pair::new(&mut verbs, spec);
    let own = Connection { rnr_retry: 1, ..Connection::to(pair.qpn) };
    pair.connect(&mut verbs, own);
    srq.post(&mut verbs, &[]);
    srq.post(&mut verbs, &[]);
    srq.set_next(&mut verbs, 0, 0);
    pair.post(&mut verbs, &[SendRequest::send(&[]), SendRequest::send(&[]), SendRequest::send(&[])]);
    settle_in_turns(&mut verbs);
    let all: Vec<_> = std::iter::from_fn(|| cq.poll(&mut verbs)).collect();
    assert!(all.iter().filter(|cqe| cqe.opcode == opcode::SEND).count() <= 2, "{all:x?}");
    // An index beyond the queue.
    srq.set_next(&mut verbs, 0, 0xffff);
    pair.reset(&mut verbs);
    pair.connect(&mut verbs, own);
    for counter in [5u32, 0x7fff, 0xffff] {
        verbs.fill(srq.record, &counter.to_be_bytes());
        pair.post(&mut verbs, &vec![SendRequest::send(&[]); 20]);
        settle_in_turns(&mut verbs);
        while cq.poll(&mut verbs).is_some() {}
        pair.reset(&mut verbs);
        pair.connect(&mut verbs, own);
    }
}

#[test]
fn receives_of_garbage_fail_with_the_message() {
    for seed in 0..30 {
        let mut link = Link::new(transport::RC);
        let garbage = pattern(seed, 64);
        link.b.pair.receive_bytes(&mut link.verbs, &garbage);
        link.a.pair.send(&mut link.verbs, SendRequest::send(&[]).inline(b"into garbage"));
        settle_in_turns(&mut link.verbs);
        assert!(link.a.cq.poll(&mut link.verbs).is_some_and(|cqe| cqe.is_error()), "seed {seed}");
    }
}

#[test]
fn objects_may_vanish_in_the_middle_of_a_message() {
    for what in 0..8 {
        for events in 0..6 {
            let mut link = Link::new(transport::RC);
            let mut other = Link { verbs: link.verbs.clone(), ..link.clone() };
            let key_a = link.verbs.register(link.a.at, AREA);
            let key_b = link.verbs.register(link.b.at, AREA);
            for _ in 0..4 {
                link.receive(0, 2 << 20);
            }
            let element = Sge::new(link.a.at, AREA as u32, key_a);
            let requests = [
                SendRequest::write(link.b.at, key_b, &[element]),
                SendRequest::send(&[element]),
                SendRequest::read(link.b.at, key_b, &[element]),
                SendRequest::write(link.b.at, key_b, &[element]).immediate(1),
            ];
            link.a.pair.post(&mut link.verbs, &requests);
            for _ in 0..events {
                link.verbs.driver.deliver_event();
            }
            match what {
                0 => link.verbs.destroy_key(key_a),
                1 => link.verbs.destroy_key(key_b),
                2 => link.a.pair.to_error(&mut link.verbs),
                3 => link.b.pair.to_error(&mut link.verbs),
                4 => link.a.pair.reset(&mut link.verbs),
                5 => link.b.pair.reset(&mut link.verbs),
                6 => link.a.pair.clone().destroy(&mut link.verbs),
                _ => link.b.pair.clone().destroy(&mut link.verbs),
            }
            settle_in_turns(&mut link.verbs);
            while link.a.cq.poll(&mut link.verbs).is_some() {}
            while link.b.cq.poll(&mut link.verbs).is_some() {}
            // A new connection works, whatever has become of the old one.
            let mut a = End::new(&mut link.verbs, transport::RC);
            let own = Connection::to(a.pair.qpn);
            a.pair.connect(&mut link.verbs, own);
            a.pair.send(&mut link.verbs, SendRequest::write(a.at, a.key, &[]).inline(b"new"));
            assert_eq!(a.cq.one(&mut link.verbs).syndrome, 0, "{what} after {events} events");
            others_work(&mut other);
        }
    }
}

#[test]
fn a_reset_device_forgets_its_work() {
    for events in 0..4 {
        let mut link = Link::new(transport::RC);
        link.fill(1, AREA as usize);
        let element = link.a.sge(0, AREA as u32);
        let request = SendRequest::write(link.b.at, link.b.key, &[element]);
        link.a.pair.post(&mut link.verbs, &vec![request; 8]);
        link.a.pair.send(&mut link.verbs, SendRequest::send(&[]));
        for _ in 0..events {
            link.verbs.driver.deliver_event();
        }
        // A reset withdraws the function's pending events; one that comes nevertheless finds nothing to do.
        let pending = std::mem::take(&mut link.verbs.driver.port.events);
        link.verbs.driver.device.reset();
        let before = link.verbs.driver.port.transactions;
        for token in pending.into_keys() {
            link.verbs.driver.device.event(token, &mut link.verbs.driver.port);
        }
        assert_eq!(link.verbs.driver.port.transactions, before, "after {events} events");
        assert_eq!(link.verbs.driver.device.live_objects().total(), 0);
    }
}

#[test]
fn a_bus_master_that_is_switched_off_moves_nothing() {
    let mut link = Link::with(transport::RC, |connection| connection.rnr_retry = 0);
    link.receive(0, 64);
    let element = link.a.sge(0, 64);
    link.a.pair.place(&mut link.verbs, &SendRequest::send(&[element]));
    link.verbs.driver.port.broken = true;
    let record = link.a.pair.record;
    let at = &mut link.verbs.driver.port;
    at.bytes_mut(record + 4, 4).copy_from_slice(&1u32.to_be_bytes());
    let doorbell = u64::from(link.a.pair.qpn << 8 | 2);
    link.verbs.driver.write64(u64::from(link.verbs.uar) * PAGE + 0x800, doorbell);
    settle_in_turns(&mut link.verbs);
    link.verbs.driver.port.broken = false;
    assert_eq!(link.at_b(0, 64), [0; 64]);
    let mut fresh = End::new(&mut link.verbs, transport::RC);
    let own = Connection::to(fresh.pair.qpn);
    fresh.pair.connect(&mut link.verbs, own);
    fresh.pair.send(&mut link.verbs, SendRequest::write(0, 0, &[]));
    assert_eq!(fresh.cq.one(&mut link.verbs).syndrome, 0);
}
