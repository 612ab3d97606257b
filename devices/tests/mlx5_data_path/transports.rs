//! Every operation of each transport.

use crate::link::{End, Link};
use devices::mlx5::layout::commands::OBJECT;
use driver_model::mlx5_model::command;
use driver_model::mlx5_verbs::{
    AddressVector, Connection, Cq, LID, Pair, PairSpec, ReceiveQueue, SendRequest, Sge, Srq, SrqKind, Verbs,
    opcode, pattern, transport,
};

#[test]
fn a_send_moves_every_byte_of_every_size() {
    for kind in [transport::RC, transport::UC] {
        let mut link = Link::new(kind);
        for (seed, len) in [1u32, 2, 63, 64, 65, 4095, 4096, 4097, 100_000, 1 << 20].into_iter().enumerate() {
            let data = link.fill(seed as u64, len as usize);
            let index = link.receive(8, len + 16);
            let gather = link.a.sge(0, len);
            link.succeed(SendRequest::send(&[gather]));
            let cqe = link.b.cq.one(&mut link.verbs);
            assert_eq!((cqe.opcode, cqe.bytes, cqe.wqe_counter), (opcode::SEND, len, index));
            assert_eq!((cqe.qpn, cqe.user_index), (link.b.pair.qpn, link.b.pair.user_index));
            assert!(link.at_b(8, len as usize) == data, "{len} bytes");
            assert_eq!(link.at_b(8 + u64::from(len), 8), [0; 8], "nothing beyond");
            link.verbs.fill(link.b.at, &vec![0; len as usize + 16]);
        }
    }
}

#[test]
fn a_message_without_bytes_consumes_a_receive() {
    for kind in [transport::RC, transport::UC] {
        let mut link = Link::new(kind);
        link.receive(0, 64);
        link.succeed(SendRequest::send(&[]));
        let cqe = link.b.cq.one(&mut link.verbs);
        assert_eq!((cqe.opcode, cqe.bytes), (opcode::SEND, 0));
        // An empty receive is enough for it.
        link.b.pair.receive(&mut link.verbs, &[]);
        link.succeed(SendRequest::send(&[]).immediate(5));
        let cqe = link.b.cq.one(&mut link.verbs);
        assert_eq!((cqe.opcode, cqe.bytes, cqe.immediate), (opcode::SEND_IMMEDIATE, 0, 5));
    }
}

#[test]
fn lists_of_elements_are_gathered_and_scattered() {
    let mut link = Link::new(transport::RC);
    let data = link.fill(1, 6000);
    let gather = [(0, 100), (100, 1), (101, 3899), (4000, 2000)].map(|(at, len)| link.a.sge(at, len));
    let scatter = [(10_000, 7), (0, 5000), (20_000, 1000)].map(|(at, len)| link.b.sge(at, len));
    link.b.pair.receive(&mut link.verbs, &scatter);
    link.succeed(SendRequest::send(&gather));
    assert_eq!(link.b.cq.one(&mut link.verbs).bytes, 6000);
    assert!(link.at_b(10_000, 7) == &data[..7]);
    assert!(link.at_b(0, 5000) == &data[7..5007]);
    assert!(link.at_b(20_000, 993) == &data[5007..]);
    assert_eq!(link.at_b(20_993, 7), [0; 7]);
}

#[test]
fn immediate_data_arrives_with_a_send() {
    for kind in [transport::RC, transport::UC] {
        let mut link = Link::new(kind);
        link.fill(2, 32);
        link.receive(0, 32);
        let gather = link.a.sge(0, 32);
        link.succeed(SendRequest::send(&[gather]).immediate(0xdead_beef));
        let cqe = link.b.cq.one(&mut link.verbs);
        assert_eq!((cqe.opcode, cqe.bytes, cqe.immediate), (opcode::SEND_IMMEDIATE, 32, 0xdead_beef));
    }
}

#[test]
fn a_write_is_seen_by_nobody_but_the_requester() {
    for kind in [transport::RC, transport::UC] {
        let mut link = Link::new(kind);
        let receive = link.receive(0, 64);
        for (seed, len) in [1u32, 4097, 1 << 20].into_iter().enumerate() {
            let data = link.fill(seed as u64, len as usize);
            let (gather, to) = (link.a.sge(0, len), link.b.at + 3);
            link.succeed(SendRequest::write(to, link.b.key, &[gather]));
            assert!(link.at_b(3, len as usize) == data, "{len} bytes");
            assert_eq!(link.b.cq.drain(&mut link.verbs), []);
        }
        // The receive is still there.
        link.succeed(SendRequest::send(&[]));
        assert_eq!(link.b.cq.one(&mut link.verbs).wqe_counter, receive);
    }
}

#[test]
fn a_write_with_immediate_consumes_a_receive_but_not_its_memory() {
    for kind in [transport::RC, transport::UC] {
        let mut link = Link::new(kind);
        let data = link.fill(3, 500);
        let index = link.receive(100_000, 64);
        let (gather, to) = (link.a.sge(0, 500), link.b.at);
        link.succeed(SendRequest::write(to, link.b.key, &[gather]).immediate(77));
        let cqe = link.b.cq.one(&mut link.verbs);
        assert_eq!((cqe.opcode, cqe.bytes, cqe.immediate), (opcode::WRITE_IMMEDIATE, 500, 77));
        assert_eq!(cqe.wqe_counter, index);
        assert!(link.at_b(0, 500) == data);
        assert_eq!(link.at_b(100_000, 64), [0; 64]);
    }
}

#[test]
fn a_read_fetches_and_scatters() {
    let mut link = Link::new(transport::RC);
    for (seed, len) in [1usize, 5000, 1 << 20].into_iter().enumerate() {
        let data = pattern(seed as u64, len);
        link.verbs.fill(link.b.at + 9, &data);
        let first = (len / 3) as u32;
        let scatter =
            [link.a.sge(5, first), link.a.sge(first.into(), 0), link.a.sge(700_000, len as u32 - first)];
        link.succeed(SendRequest::read(link.b.at + 9, link.b.key, &scatter));
        assert!(link.verbs.bytes(link.a.at + 5, first as usize) == &data[..first as usize]);
        let rest = link.verbs.bytes(link.a.at + 700_000, len - first as usize);
        assert!(rest == &data[first as usize..], "{len} bytes");
    }
    assert!(link.b.cq.drain(&mut link.verbs).is_empty());
}

#[test]
fn requests_without_bytes_check_no_key() {
    let mut link = Link::new(transport::RC);
    link.succeed(SendRequest::write(0, 0, &[]));
    link.succeed(SendRequest::read(0, 0, &[]));
    link.b.pair.receive(&mut link.verbs, &[]);
    link.succeed(SendRequest::write(0, 0, &[]).immediate(1));
    assert_eq!(link.b.cq.one(&mut link.verbs).bytes, 0);
}

#[test]
fn inline_data_wraps_around_the_end_of_the_queue() {
    for kind in [transport::RC, transport::UC] {
        let mut link = Link::new(kind);
        // Requests of three blocks in a queue of 64 blocks: the 22nd begins two blocks before the end.
        for round in 0..50u64 {
            let data = pattern(round, 120 + (round % 50) as usize);
            link.receive(0, 200);
            link.succeed(SendRequest::send(&[]).inline(&data));
            assert_eq!(link.b.cq.one(&mut link.verbs).bytes as usize, data.len());
            assert!(link.at_b(0, data.len()) == data, "round {round}");
        }
        let data = pattern(99, 28);
        link.succeed(SendRequest::write(link.b.at, link.b.key, &[]).inline(&data));
        assert!(link.at_b(0, 28) == data);
    }
}

#[test]
fn queues_wrap_many_times_and_doorbells_cover_many_requests() {
    let mut link = Link::new(transport::RC);
    let mut expected = Vec::new();
    for round in 0..40u64 {
        let count = 1 + round % 16;
        let mut requests = Vec::new();
        for number in 0..count {
            let value = round * 100 + number;
            link.receive(number * 64, 64);
            requests.push(SendRequest::send(&[]).inline(&value.to_be_bytes()));
        }
        let indices = link.a.pair.post(&mut link.verbs, &requests);
        let done: Vec<u16> = link.a.cq.drain(&mut link.verbs).iter().map(|cqe| cqe.wqe_counter).collect();
        assert_eq!(done, indices, "in order");
        for (number, cqe) in link.b.cq.drain(&mut link.verbs).iter().enumerate() {
            expected.push(cqe.wqe_counter);
            let value = round * 100 + number as u64;
            assert_eq!(link.at_b(number as u64 * 64, 8), value.to_be_bytes());
        }
    }
    let receives = link.b.pair.received;
    assert_eq!(expected, (0..receives).collect::<Vec<_>>(), "receives complete in order");
    assert!(receives > 256);
}

#[test]
fn only_signalled_requests_complete() {
    let mut link = Link::new(transport::RC);
    let to = link.b.at;
    let requests = [1u8, 2, 3].map(|byte| {
        let request = SendRequest::write(to + u64::from(byte), link.b.key, &[]).inline(&[byte]);
        if byte == 3 { request } else { request.unsignalled() }
    });
    let indices = link.a.pair.post(&mut link.verbs, &requests);
    assert_eq!(link.a.cq.one(&mut link.verbs).wqe_counter, indices[2]);
    assert_eq!(link.at_b(0, 4), [0, 1, 2, 3]);
}

#[test]
fn a_pair_may_be_connected_to_itself() {
    let mut verbs = Verbs::open();
    let mut cq = Cq::new(&mut verbs, 4);
    let mut pair = Pair::loopback(&mut verbs, PairSpec::new(transport::RC, cq.cqn));
    let at = verbs.memory(100);
    let key = verbs.register(at, 100);
    pair.receive(&mut verbs, &[Sge::new(at, 50, key)]);
    pair.send(&mut verbs, SendRequest::send(&[]).inline(b"to myself"));
    let mut opcodes: Vec<u8> = cq.drain(&mut verbs).iter().map(|cqe| cqe.opcode).collect();
    opcodes.sort_unstable();
    assert_eq!(opcodes, [opcode::REQUESTER, opcode::SEND]);
    assert_eq!(verbs.bytes(at, 9), b"to myself");
}

#[test]
fn traffic_goes_both_ways_at_once() {
    let mut link = Link::new(transport::RC);
    let to_a = link.a.sge(100, 8);
    link.a.pair.receive(&mut link.verbs, &[to_a]);
    link.receive(100, 8);
    link.a.pair.send(&mut link.verbs, SendRequest::send(&[]).inline(b"from a.."));
    link.b.pair.send(&mut link.verbs, SendRequest::send(&[]).inline(b"from b.."));
    assert_eq!(link.a.cq.drain(&mut link.verbs).len(), 2);
    assert_eq!(link.b.cq.drain(&mut link.verbs).len(), 2);
    assert_eq!(link.at_b(100, 8), b"from a..");
    assert_eq!(link.verbs.bytes(link.a.at + 100, 8), b"from b..");
}

/// A datagram pair `a` and one `b`, with b's address.
fn datagrams() -> (Link, AddressVector) {
    let link = Link::new(transport::UD);
    let vector = AddressVector { q_key: 0x1111_1111, qpn: link.b.pair.qpn, lid: LID, extended: true };
    (link, vector)
}

#[test]
fn a_datagram_leaves_room_for_the_global_routing_header() {
    let (mut link, vector) = datagrams();
    for (extended, len) in [(true, 1u32), (false, 2048), (true, 4096), (false, 0)] {
        let vector = AddressVector { extended, ..vector };
        let data = link.fill(len.into(), len as usize);
        link.verbs.fill(link.b.at, &[0; 5000]);
        let index = link.receive(0, len + 40);
        let gather = link.a.sge(0, len);
        let request =
            if extended { SendRequest::send(&[gather]) } else { SendRequest::send(&[gather]).immediate(9) };
        link.succeed(request.to(vector));
        let cqe = link.b.cq.one(&mut link.verbs);
        let expected = if extended { opcode::SEND } else { opcode::SEND_IMMEDIATE };
        assert_eq!((cqe.opcode, cqe.bytes, cqe.wqe_counter), (expected, len + 40, index));
        assert_eq!((cqe.source_qpn, cqe.source_lid), (link.a.pair.qpn, LID));
        assert!(!cqe.has_grh);
        assert!(link.at_b(40, len as usize) == data, "{len} bytes");
    }
    let receive = link.receive(0, 100);
    link.succeed(SendRequest::send(&[]).to(vector).inline(b"inline"));
    assert_eq!(link.b.cq.one(&mut link.verbs).wqe_counter, receive);
    assert_eq!(link.at_b(40, 6), b"inline");
}

#[test]
fn a_datagram_that_nobody_wants_is_lost_and_its_sender_content() {
    let (mut link, vector) = datagrams();
    link.succeed(SendRequest::send(&[]).to(vector).inline(b"nobody has posted a receive"));
    let index = link.receive(0, 100);
    for vector in [
        AddressVector { q_key: 5, ..vector },
        AddressVector { qpn: 0xff_ff00, ..vector },
        AddressVector { lid: 99, ..vector },
    ] {
        link.succeed(SendRequest::send(&[]).to(vector).inline(b"lost"));
        assert_eq!(link.b.cq.drain(&mut link.verbs), []);
    }
    link.succeed(SendRequest::send(&[]).to(vector).inline(b"arrives"));
    assert_eq!(link.b.cq.one(&mut link.verbs).wqe_counter, index);
    assert_eq!(link.at_b(40, 7), b"arrives");
}

#[test]
fn a_datagram_pair_reaches_many() {
    let mut verbs = Verbs::open();
    let mut ends: Vec<End> = (0..3).map(|_| End::new(&mut verbs, transport::UD)).collect();
    for end in &mut ends {
        end.pair.connect(&mut verbs, Connection::to(0));
        end.pair.receive(&mut verbs, &[Sge::new(end.at, 100, end.key)]);
    }
    for to in [2usize, 1, 0] {
        let vector = AddressVector { q_key: 0x1111_1111, qpn: ends[to].pair.qpn, lid: LID, extended: true };
        ends[0]
            .pair
            .send(&mut verbs, SendRequest::send(&[]).to(vector).inline(&[to as u8 + 1]).unsignalled());
        let cqe = ends[to].cq.one(&mut verbs);
        assert_eq!((cqe.bytes, cqe.source_qpn), (41, ends[0].pair.qpn));
        assert_eq!(verbs.bytes(ends[to].at + 40, 1), [to as u8 + 1]);
    }
}

/// Attaches a pair to a multicast group (0x806) or detaches it (0x807).
fn change_group(verbs: &mut Verbs, opcode: u16, qpn: u32, gid: [u8; 16]) {
    let mut input = command(opcode, 0, 32);
    OBJECT.set(&mut input, qpn.into());
    input[16..].copy_from_slice(&gid);
    verbs.driver.succeed(&input, 16);
}

#[test]
fn every_member_of_a_group_has_a_copy() {
    const ATTACH: u16 = 0x806;
    const DETACH: u16 = 0x807;
    let mut verbs = Verbs::open();
    let mut ends: Vec<End> = (0..4).map(|_| End::new(&mut verbs, transport::UD)).collect();
    let group = [0xff, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    for end in &mut ends {
        end.pair.connect(&mut verbs, Connection::to(0));
        for slot in 0..3 {
            let scatter = end.sge(slot * 100, 100);
            end.pair.receive(&mut verbs, &[scatter]);
        }
    }
    for end in &ends[..3] {
        change_group(&mut verbs, ATTACH, end.pair.qpn, group);
    }
    for (round, members) in [3, 2].into_iter().enumerate() {
        let request = SendRequest::send(&[]).for_group(0x1111_1111, group).inline(b"to all").unsignalled();
        ends[3].pair.send(&mut verbs, request);
        verbs.settle();
        for (number, end) in ends.iter_mut().enumerate() {
            let received = end.cq.drain(&mut verbs);
            if number >= members {
                assert_eq!(received, [], "end {number} in round {round}");
                continue;
            }
            assert_eq!(received.len(), 1, "end {number} in round {round}");
            assert_eq!((received[0].bytes, received[0].has_grh), (46, true));
            let at = end.at + 100 * round as u64;
            assert_eq!(verbs.bytes(at + 40, 6), b"to all");
            assert_eq!(verbs.bytes(at + 24, 16), group, "destination in the global routing header");
        }
        change_group(&mut verbs, DETACH, ends[members - 1].pair.qpn, group);
    }
}

#[test]
fn an_unreliable_connection_loses_what_nobody_can_take() {
    let mut link = Link::new(transport::UC);
    let gather = link.a.sge(0, 64);
    link.succeed(SendRequest::send(&[gather]));
    link.succeed(SendRequest::write(link.b.at, link.b.key ^ 0x100, &[gather]));
    link.succeed(SendRequest::write(link.b.at, link.b.key, &[gather]).immediate(3));
    assert!(link.is_quiet());
    link.receive(0, 64);
    link.succeed(SendRequest::send(&[gather]));
    assert_eq!(link.b.cq.one(&mut link.verbs).bytes, 64);
    assert_eq!(link.states(), (3, 3));
}

#[test]
fn extended_connections_name_the_shared_receive_queue() {
    let mut verbs = Verbs::open();
    let xrcd = verbs.allocate_object(0x80e);
    let mut sender = Cq::new(&mut verbs, 4);
    let mut receivers = [Cq::new(&mut verbs, 4), Cq::new(&mut verbs, 4)];
    let cqns = [receivers[0].cqn, receivers[1].cqn];
    let mut srqs = cqns.map(|cqn| Srq::new(&mut verbs, SrqKind::Xrc { xrcd, cqn }, 4, 6));
    let spec = PairSpec { xrcd, receive: ReceiveQueue::None, ..PairSpec::new(transport::XRC, sender.cqn) };
    let mut initiator = Pair::new(&mut verbs, spec);
    let receive = ReceiveQueue::Shared(srqs[0].srqn);
    let mut target = Pair::new(&mut verbs, PairSpec { log_send: None, receive, ..spec });
    initiator.connect(&mut verbs, Connection::to(target.qpn));
    target.connect(&mut verbs, Connection::to(initiator.qpn));
    let at = verbs.memory(4096);
    let key = verbs.register(at, 4096);
    for (number, srq) in srqs.iter_mut().enumerate() {
        let index = srq.post(&mut verbs, &[Sge::new(at + 100 * number as u64, 100, key)]);
        let data = [number as u8 + 7; 9];
        initiator.send(&mut verbs, SendRequest::send(&[]).for_srq(srq.srqn).inline(&data).immediate(4));
        assert_eq!(sender.one(&mut verbs).outcome().0, opcode::REQUESTER);
        let cqe = receivers[number].one(&mut verbs);
        assert_eq!((cqe.opcode, cqe.bytes, cqe.immediate), (opcode::SEND_IMMEDIATE, 9, 4));
        assert_eq!((cqe.user_index, cqe.wqe_counter), (srq.user_index, index));
        assert_eq!(verbs.bytes(at + 100 * number as u64, 9), data);
    }
    let request = SendRequest::write(at + 1000, key, &[]).for_srq(srqs[0].srqn).inline(b"one-sided");
    initiator.send(&mut verbs, request);
    assert_eq!(sender.one(&mut verbs).outcome().0, opcode::REQUESTER);
    assert_eq!(verbs.bytes(at + 1000, 9), b"one-sided");
}

#[test]
fn entries_of_128_bytes_hold_the_completion_in_their_second_half() {
    let mut verbs = Verbs::open();
    let mut cq = Cq::with_entries(&mut verbs, 3, 128);
    let mut pair = Pair::loopback(&mut verbs, PairSpec::new(transport::RC, cq.cqn));
    for round in 0..20u32 {
        pair.receive(&mut verbs, &[]);
        pair.send(&mut verbs, SendRequest::send(&[]).immediate(round).unsignalled());
        let cqe = cq.one(&mut verbs);
        assert_eq!((cqe.opcode, cqe.immediate), (opcode::SEND_IMMEDIATE, round));
    }
}
