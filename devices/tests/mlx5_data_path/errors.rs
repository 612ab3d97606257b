//! Requests that fail: the syndrome at each end, the states that follow, and what is flushed.

use crate::link::{AREA, End, Link};
use driver_model::mlx5_verbs::{
    AddressVector, Connection, Cq, Cqe, LID, Pair, PairSpec, SendRequest, Sge, Verbs, access, opcode,
    qp_state, syndrome, transport,
};

const ERROR: u64 = qp_state::ERROR;
const READY: u64 = qp_state::READY_TO_SEND;

/// Elements at `a` that its own checks must refuse: what is wrong with each.
fn bad_elements(link: &mut Link) -> Vec<(&'static str, Sge)> {
    let good = link.a.sge(0, 64);
    let at = good.at;
    let verbs = &mut link.verbs;
    let own = verbs.pd;
    verbs.pd = verbs.allocate_object(0x800);
    let foreign = verbs.register(at, 4096);
    verbs.pd = own;
    let gone = verbs.register(at, 4096);
    verbs.destroy_key(gone);
    let short = verbs.register(at, 63);
    vec![
        ("no such key", Sge { key: 0xabcd_ef00, ..good }),
        ("another variant of the key", Sge { key: good.key ^ 1, ..good }),
        ("a key of another protection domain", Sge { key: foreign, ..good }),
        ("a destroyed key", Sge { key: gone, ..good }),
        ("a byte beyond the key", Sge { key: short, ..good }),
        ("a byte before the key", Sge { at: at - 1, ..good }),
        ("the end of the address space", Sge { at: u64::MAX - 10, ..good }),
    ]
}

#[test]
fn a_requester_refuses_its_own_bad_elements() {
    let count = bad_elements(&mut Link::new(transport::RC)).len();
    for number in 0..count {
        for on_read in [false, true] {
            let mut link = Link::new(transport::RC);
            let (what, element) = bad_elements(&mut link)[number];
            link.receive(0, 64);
            let request = if on_read {
                SendRequest::read(link.b.at, link.b.key, &[element])
            } else {
                SendRequest::send(&[element])
            };
            let cqe = link.complete(request);
            assert_eq!(cqe.outcome().1, syndrome::LOCAL_PROTECTION, "{what}");
            assert_eq!(link.states(), (ERROR, READY), "{what}");
            assert_eq!(link.b.cq.drain(&mut link.verbs), [], "{what}");
            assert_eq!(link.at_b(0, 64), [0; 64], "{what}");
        }
    }
}

#[test]
fn a_read_into_memory_without_the_right_to_write_is_refused() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.register_with(link.a.at, 4096, access::LOCAL_READ | access::REMOTE_READ);
    link.verbs.fill(link.b.at, &[1; 64]);
    let request = SendRequest::read(link.b.at, link.b.key, &[Sge { key, ..link.a.sge(0, 64) }]);
    link.fail(request, syndrome::LOCAL_PROTECTION);
    assert_eq!(link.verbs.bytes(link.a.at, 64), [0; 64]);
}

#[test]
fn a_responder_refuses_bad_remote_keys_and_both_ends_fail() {
    for number in 0..9 {
        let mut link = Link::new(transport::RC);
        let (at, key) = (link.b.at, link.b.key);
        let verbs = &mut link.verbs;
        let read_only = verbs.register_with(at, 4096, access::LOCAL | access::REMOTE_READ);
        let write_only = verbs.register_with(at, 4096, access::LOCAL | access::REMOTE_WRITE);
        let local = verbs.register_with(at, 4096, access::LOCAL);
        let short = verbs.register(at, 63);
        let own = verbs.pd;
        verbs.pd = verbs.allocate_object(0x800);
        let foreign = verbs.register(at, 4096);
        verbs.pd = own;
        let element = link.a.sge(0, 64);
        let write = |at, key| SendRequest::write(at, key, &[element]);
        let read = |at, key| SendRequest::read(at, key, &[element]);
        let request = match number {
            0 => write(at, key ^ 1),
            1 => write(at, 0x0012_3400),
            2 => write(at, read_only),
            3 => read(at, write_only),
            4 => write(at, local),
            5 => write(at, short),
            6 => read(at - 1, key),
            7 => write(u64::MAX - 5, key),
            _ => read(at, foreign),
        };
        link.fill(1, 64);
        link.fail(request, syndrome::REMOTE_ACCESS);
        assert_eq!(link.states(), (ERROR, ERROR), "case {number}");
        assert_eq!(link.at_b(0, 64), [0; 64], "case {number}");
    }
}

#[test]
fn operations_that_a_pair_does_not_allow_are_invalid_requests() {
    let mut link = Link::with(transport::RC, |connection| connection.remote_write = false);
    let element = link.a.sge(0, 64);
    link.fail(SendRequest::write(link.b.at, link.b.key, &[element]), syndrome::REMOTE_INVALID_REQUEST);
    let mut link = Link::with(transport::RC, |connection| connection.remote_read = false);
    let element = link.a.sge(0, 64);
    link.fail(SendRequest::read(link.b.at, link.b.key, &[element]), syndrome::REMOTE_INVALID_REQUEST);
}

#[test]
fn a_message_too_long_for_its_receive_fails_at_both_ends() {
    let mut link = Link::new(transport::RC);
    link.fill(1, 100);
    let index = link.receive(0, 99);
    link.receive(200, 99);
    let element = link.a.sge(0, 100);
    link.fail(SendRequest::send(&[element]), syndrome::REMOTE_INVALID_REQUEST);
    let at_b: Vec<_> = link.b.cq.drain(&mut link.verbs).iter().map(Cqe::outcome).collect();
    let error = |syndrome, index| (opcode::RESPONDER_ERROR, syndrome, index);
    assert_eq!(at_b, [error(syndrome::LOCAL_LENGTH, index), error(syndrome::FLUSHED, index + 1)]);
    assert_eq!(link.states(), (ERROR, ERROR));
    assert_eq!(link.at_b(99, 1), [0], "nothing beyond the receive");
}

#[test]
fn a_receive_into_forbidden_memory_fails_at_both_ends() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.register_with(link.b.at, 4096, access::LOCAL_READ);
    let element = Sge { key, ..link.b.sge(0, 100) };
    let index = link.b.pair.receive(&mut link.verbs, &[element]);
    link.fill(1, 100);
    let element = link.a.sge(0, 100);
    link.fail(SendRequest::send(&[element]), syndrome::REMOTE_OPERATION);
    let cqe = link.b.cq.one(&mut link.verbs);
    assert_eq!(cqe.outcome(), (opcode::RESPONDER_ERROR, syndrome::LOCAL_PROTECTION, index));
    assert_eq!(link.at_b(0, 100), [0; 100]);
    assert_eq!(link.states(), (ERROR, ERROR));
}

#[test]
fn a_pair_connected_to_itself_is_told_what_it_has_refused() {
    let mut verbs = Verbs::open();
    let mut cq = Cq::new(&mut verbs, 4);
    let mut pair = Pair::loopback(&mut verbs, PairSpec::new(transport::RC, cq.cqn));
    let at = verbs.memory(100);
    let key = verbs.register_with(at, 100, access::LOCAL);
    let requests = [SendRequest::write(at, key, &[Sge::new(at, 8, key)]), SendRequest::send(&[])];
    let indices = pair.post(&mut verbs, &requests);
    let outcomes: Vec<_> = cq.drain(&mut verbs).iter().map(Cqe::outcome).collect();
    let error = |syndrome, number: usize| (opcode::REQUESTER_ERROR, syndrome, indices[number]);
    assert_eq!(outcomes, [error(syndrome::REMOTE_ACCESS, 0), error(syndrome::FLUSHED, 1)]);
    assert_eq!(pair.state(&mut verbs), ERROR);
}

#[test]
fn what_cannot_be_a_request_is_a_local_operation_error() {
    for opcode in [0x07, 0x3f, 0xff] {
        let mut link = Link::new(transport::RC);
        link.fail(SendRequest::new(opcode), syndrome::LOCAL_OPERATION);
        assert_eq!(link.states(), (ERROR, READY), "opcode {opcode:#x}");
    }
    // A READ or an atomic is nothing that the other transports have.
    for kind in [transport::UC, transport::UD] {
        for opcode in [0x10, 0x11] {
            let mut link = Link::new(kind);
            let request = SendRequest::new(opcode).segments(&[0; 64]);
            link.fail(request, syndrome::LOCAL_OPERATION);
        }
    }
}

#[test]
fn what_follows_an_error_is_flushed() {
    let mut link = Link::new(transport::RC);
    let bad = link.a.sge(AREA, 8);
    let good = link.a.sge(0, 8);
    let receive = link.a.pair.receive(&mut link.verbs, &[good]);
    let requests = [
        SendRequest::write(link.b.at, link.b.key, &[good]),
        SendRequest::write(link.b.at, link.b.key, &[bad]),
        SendRequest::write(link.b.at + 64, link.b.key, &[good]),
        SendRequest::write(link.b.at + 64, link.b.key, &[good]).unsignalled(),
    ];
    link.fill(1, 8);
    let indices = link.a.pair.post(&mut link.verbs, &requests);
    let all = link.a.cq.drain(&mut link.verbs);
    let sends: Vec<_> =
        all.iter().filter(|cqe| cqe.opcode != opcode::RESPONDER_ERROR).map(Cqe::outcome).collect();
    let error = |syndrome, number: usize| (opcode::REQUESTER_ERROR, syndrome, indices[number]);
    let expected = [
        (opcode::REQUESTER, 0, indices[0]),
        error(syndrome::LOCAL_PROTECTION, 1),
        error(syndrome::FLUSHED, 2),
        error(syndrome::FLUSHED, 3),
    ];
    assert_eq!(sends, expected);
    let receives: Vec<_> =
        all.iter().filter(|cqe| cqe.opcode == opcode::RESPONDER_ERROR).map(Cqe::outcome).collect();
    assert_eq!(receives, [(opcode::RESPONDER_ERROR, syndrome::FLUSHED, receive)]);
    assert_eq!(link.at_b(64, 8), [0; 8]);
}

#[test]
fn what_follows_a_malformed_request_is_flushed() {
    for kind in [transport::RC, transport::UC, transport::UD] {
        let mut link = Link::new(kind);
        let requests = [SendRequest::new(0xff), SendRequest::send(&[]), SendRequest::send(&[])];
        let indices = link.a.pair.post(&mut link.verbs, &requests);
        let outcomes: Vec<_> = link.a.cq.drain(&mut link.verbs).iter().map(Cqe::outcome).collect();
        let error = |syndrome, number: usize| (opcode::REQUESTER_ERROR, syndrome, indices[number]);
        let expected =
            [error(syndrome::LOCAL_OPERATION, 0), error(syndrome::FLUSHED, 1), error(syndrome::FLUSHED, 2)];
        assert_eq!(outcomes, expected, "transport {kind}");
    }
}

/// What the kernel's ib_drain_qp relies on: requests posted to a pair in error are flushed too.
#[test]
fn a_pair_in_error_flushes_what_is_posted_later() {
    let mut link = Link::new(transport::RC);
    let before = link.receive(0, 8);
    link.b.pair.to_error(&mut link.verbs);
    let cqe = link.b.cq.one(&mut link.verbs);
    assert_eq!(cqe.outcome(), (opcode::RESPONDER_ERROR, syndrome::FLUSHED, before));
    let sent = link.b.pair.send(&mut link.verbs, SendRequest::send(&[]));
    let cqe = link.b.cq.one(&mut link.verbs);
    assert_eq!(cqe.outcome(), (opcode::REQUESTER_ERROR, syndrome::FLUSHED, sent));
    link.b.pair.to_error(&mut link.verbs);
    let after = link.receive(0, 8);
    let cqe = link.b.cq.one(&mut link.verbs);
    assert_eq!(cqe.outcome(), (opcode::RESPONDER_ERROR, syndrome::FLUSHED, after));
}

#[test]
fn a_pair_works_again_after_a_reset() {
    let mut link = Link::new(transport::RC);
    let bad = link.a.sge(AREA, 8);
    link.fail(SendRequest::send(&[bad]), syndrome::LOCAL_PROTECTION);
    link.a.pair.reset(&mut link.verbs);
    link.b.pair.reset(&mut link.verbs);
    assert_eq!(link.states(), (qp_state::RESET, qp_state::RESET));
    let (to_a, to_b) = (link.a.pair.qpn, link.b.pair.qpn);
    link.a.pair.connect(&mut link.verbs, Connection::to(to_b));
    link.b.pair.connect(&mut link.verbs, Connection::to(to_a));
    link.receive(0, 100);
    link.succeed(SendRequest::send(&[]).inline(b"again"));
    assert_eq!(link.b.cq.one(&mut link.verbs).bytes, 5);
    assert_eq!(link.at_b(0, 5), b"again");
}

#[test]
fn an_unreliable_pair_stops_sending_but_receives_on() {
    for kind in [transport::UC, transport::UD] {
        let mut link = Link::new(kind);
        let to_b = AddressVector { q_key: 0x1111_1111, qpn: link.b.pair.qpn, lid: LID, extended: true };
        let to_a = AddressVector { qpn: link.a.pair.qpn, ..to_b };
        let route = |request: SendRequest, to| if kind == transport::UD { request.to(to) } else { request };
        let bad = link.a.sge(AREA, 8);
        link.fail(route(SendRequest::send(&[bad]), to_b), syndrome::LOCAL_PROTECTION);
        assert_eq!(link.states(), (qp_state::SEND_QUEUE_ERROR, READY));
        link.fail(route(SendRequest::send(&[]), to_b), syndrome::FLUSHED);
        let element = link.a.sge(0, 100);
        link.a.pair.receive(&mut link.verbs, &[element]);
        link.b.pair.send(&mut link.verbs, route(SendRequest::send(&[]).inline(b"hello"), to_a));
        assert_eq!(link.a.cq.one(&mut link.verbs).opcode, opcode::SEND);
    }
}

#[test]
fn a_datagram_longer_than_the_port_carries_is_a_local_length_error() {
    let mut link = Link::new(transport::UD);
    let vector = AddressVector { q_key: 0x1111_1111, qpn: link.b.pair.qpn, lid: LID, extended: true };
    link.receive(0, 10_000);
    let element = link.a.sge(0, 4097);
    link.fail(SendRequest::send(&[element]).to(vector), syndrome::LOCAL_LENGTH);
    assert_eq!(link.b.cq.drain(&mut link.verbs), []);
}

#[test]
fn a_datagram_never_writes_beyond_its_receive() {
    let mut link = Link::new(transport::UD);
    let vector = AddressVector { q_key: 0x1111_1111, qpn: link.b.pair.qpn, lid: LID, extended: true };
    link.fill(1, 100);
    link.receive(0, 139);
    let element = link.a.sge(0, 100);
    link.succeed(SendRequest::send(&[element]).to(vector));
    assert!(link.b.cq.drain(&mut link.verbs).iter().all(|cqe| cqe.is_error()));
    assert_eq!(link.at_b(139, 1), [0]);
}

#[test]
fn a_pair_that_is_not_ready_does_not_send() {
    let mut verbs = Verbs::open();
    let mut end = End::new(&mut verbs, transport::RC);
    end.pair.send(&mut verbs, SendRequest::send(&[]));
    assert_eq!(end.cq.drain(&mut verbs), []);
    assert_eq!(end.state(&mut verbs), qp_state::RESET);
}
