//! Receivers that are not ready, and destinations that do not answer.

use crate::link::{End, Link};
use driver_model::mlx5_verbs::{
    Connection, Cq, Cqe, Pair, PairSpec, SendRequest, Verbs, opcode, pattern, qp_state, syndrome, transport,
};

#[test]
fn a_send_waits_for_a_receive() {
    let mut link = Link::new(transport::RC);
    let data = link.fill(1, 64);
    let element = link.a.sge(0, 64);
    let requests = [SendRequest::send(&[element]), SendRequest::send(&[]).immediate(8)];
    link.a.pair.post(&mut link.verbs, &requests);
    link.verbs.run_for(1_000_000);
    assert_eq!(link.a.cq.poll(&mut link.verbs), None);
    link.receive(0, 64);
    link.verbs.run_for(1_000_000);
    assert!(link.a.cq.poll(&mut link.verbs).is_some_and(|cqe| !cqe.is_error()));
    assert_eq!(link.a.cq.poll(&mut link.verbs), None, "one receive, one message");
    link.receive(64, 64);
    assert_eq!(link.a.cq.one(&mut link.verbs).outcome().1, 0);
    let received = link.b.cq.drain(&mut link.verbs);
    assert_eq!(
        received.iter().map(|cqe| cqe.opcode).collect::<Vec<_>>(),
        [opcode::SEND, opcode::SEND_IMMEDIATE]
    );
    assert!(link.at_b(0, 64) == data);
}

#[test]
fn memory_is_read_when_the_message_goes() {
    let mut link = Link::new(transport::RC);
    link.fill(1, 64);
    let element = link.a.sge(0, 64);
    link.a.pair.send(&mut link.verbs, SendRequest::send(&[element]));
    link.verbs.run_for(100_000);
    let data = link.fill(2, 64);
    link.receive(0, 64);
    assert_eq!(link.a.cq.one(&mut link.verbs).syndrome, 0);
    assert!(link.at_b(0, 64) == data, "the requester sends the message anew");
}

#[test]
fn patience_for_a_receive_is_counted() {
    for rnr_retry in [0, 3] {
        let mut link = Link::with(transport::RC, |connection| connection.rnr_retry = rnr_retry);
        link.fail(SendRequest::send(&[]), syndrome::RNR_RETRY_EXCEEDED);
        assert_eq!(link.states(), (qp_state::ERROR, qp_state::READY_TO_SEND));
        assert_eq!(link.b.cq.drain(&mut link.verbs), []);
    }
}

#[test]
fn doorbells_do_not_use_up_patience() {
    // Code 14: 1.28 ms. So long the request waits before it is tried again, whatever else is posted.
    const TIMER: u8 = 14;
    let mut link = Link::with(transport::RC, |connection| {
        (connection.rnr_retry, connection.min_rnr_timer) = (1, TIMER);
    });
    for _ in 0..6 {
        link.a.pair.send(&mut link.verbs, SendRequest::send(&[]));
        link.verbs.run_for(100_000);
    }
    assert_eq!(link.a.cq.poll(&mut link.verbs), None);
    for _ in 0..6 {
        link.receive(0, 0);
    }
    assert!(link.a.cq.drain(&mut link.verbs).iter().all(|cqe| !cqe.is_error()));
    assert_eq!(link.b.cq.drain(&mut link.verbs).len(), 6);

    let mut verbs = Verbs::open();
    let mut end = End::new(&mut verbs, transport::RC);
    // Tries 4.3 s apart.
    end.pair.connect(&mut verbs, Connection { retry: 1, timeout: 20, ..Connection::to(0xff_0000) });
    for _ in 0..6 {
        end.pair.send(&mut verbs, SendRequest::send(&[]));
        verbs.run_for(1_000_000);
    }
    assert_eq!(end.cq.poll(&mut verbs), None);
}

#[test]
fn a_pair_listens_to_the_one_that_it_is_connected_to() {
    let mut link = Link::new(transport::RC);
    let mut stranger = End::new(&mut link.verbs, transport::RC);
    let to_b = Connection { retry: 1, ..Connection::to(link.b.pair.qpn) };
    stranger.pair.connect(&mut link.verbs, to_b);
    link.receive(0, 64);
    let index = stranger.pair.send(&mut link.verbs, SendRequest::send(&[]).inline(b"let me in"));
    let cqe = stranger.cq.one(&mut link.verbs);
    assert_eq!(cqe.outcome(), (opcode::REQUESTER_ERROR, syndrome::RETRY_EXCEEDED, index));
    assert!(link.is_quiet());
    link.succeed(SendRequest::send(&[]).inline(b"hello"));
    assert_eq!(link.at_b(0, 9), b"hello\0\0\0\0");
}

#[test]
fn a_write_with_immediate_waits_for_a_receive_too() {
    let mut link = Link::new(transport::RC);
    let data = link.fill(1, 64);
    let element = link.a.sge(0, 64);
    link.a.pair.send(&mut link.verbs, SendRequest::write(link.b.at, link.b.key, &[element]).immediate(1));
    link.verbs.run_for(1_000_000);
    assert_eq!(link.a.cq.poll(&mut link.verbs), None);
    link.receive(1000, 0);
    assert_eq!(link.a.cq.one(&mut link.verbs).syndrome, 0);
    assert!(link.at_b(0, 64) == data);
    assert_eq!(link.b.cq.one(&mut link.verbs).opcode, opcode::WRITE_IMMEDIATE);
}

#[test]
fn waiting_requests_are_flushed_by_an_error() {
    let mut link = Link::new(transport::RC);
    let requests = vec![SendRequest::send(&[]); 3];
    let indices = link.a.pair.post(&mut link.verbs, &requests);
    link.verbs.run_for(100_000);
    link.a.pair.to_error(&mut link.verbs);
    let outcomes: Vec<_> = link.a.cq.drain(&mut link.verbs).iter().map(Cqe::outcome).collect();
    let flushed = |index| (opcode::REQUESTER_ERROR, syndrome::FLUSHED, index);
    assert_eq!(outcomes, indices.iter().map(|index| flushed(*index)).collect::<Vec<_>>());
}

#[test]
fn a_destination_that_does_not_answer_ends_the_connection() {
    let mut verbs = Verbs::open();
    let unconnected = End::new(&mut verbs, transport::RC);
    let in_init = End::new(&mut verbs, transport::RC);
    in_init.pair.to_init(&mut verbs, Connection::to(0));
    let mut in_error = End::new(&mut verbs, transport::RC);
    in_error.pair.connect(&mut verbs, Connection::to(0));
    in_error.pair.to_error(&mut verbs);
    let of_others = End::new(&mut verbs, transport::UD);
    let to = |qpn| Connection { retry: 2, ..Connection::to(qpn) };
    let connections = [
        to(0xff_0000),
        to(unconnected.pair.qpn),
        to(in_init.pair.qpn),
        to(in_error.pair.qpn),
        to(of_others.pair.qpn),
        Connection { lid: 0x77, ..to(unconnected.pair.qpn) },
    ];
    let mut cq = Cq::new(&mut verbs, 4);
    for (number, connection) in connections.into_iter().enumerate() {
        let spec = PairSpec::new(transport::RC, cq.cqn);
        let mut pair = Pair::new(&mut verbs, spec);
        pair.connect(&mut verbs, connection);
        let index = pair.send(&mut verbs, SendRequest::send(&[]));
        let cqe = cq.one(&mut verbs);
        let expected = (opcode::REQUESTER_ERROR, syndrome::RETRY_EXCEEDED, index);
        assert_eq!(cqe.outcome(), expected, "destination {number}");
        assert_eq!(pair.state(&mut verbs), qp_state::ERROR);
        pair.destroy(&mut verbs);
    }
}

#[test]
fn a_destination_that_becomes_ready_in_time_gets_the_message() {
    let mut verbs = Verbs::open();
    let mut a = End::new(&mut verbs, transport::RC);
    let mut b = End::new(&mut verbs, transport::RC);
    // About a second a try.
    a.pair.connect(&mut verbs, Connection { timeout: 18, ..Connection::to(b.pair.qpn) });
    let scatter = b.sge(0, 100);
    a.pair.send(&mut verbs, SendRequest::send(&[]).inline(b"early"));
    verbs.run_for(10_000_000);
    assert_eq!(a.cq.poll(&mut verbs), None);
    b.pair.connect(&mut verbs, Connection::to(a.pair.qpn));
    b.pair.receive(&mut verbs, &[scatter]);
    verbs.settle();
    verbs.settle();
    assert_eq!(a.cq.one(&mut verbs).syndrome, 0);
    assert_eq!(b.cq.one(&mut verbs).bytes, 5);
}

#[test]
fn a_long_message_does_not_keep_others_waiting() {
    let mut verbs = Verbs::open();
    let mut slow = End::new(&mut verbs, transport::RC);
    let mut quick = End::new(&mut verbs, transport::RC);
    for end in [&mut slow, &mut quick] {
        let own = Connection::to(end.pair.qpn);
        end.pair.connect(&mut verbs, own);
    }
    let data = pattern(1, 1 << 20);
    verbs.fill(slow.at, &data);
    let (at, key, element) = (slow.at + (1 << 20), slow.key, slow.sge(0, 1 << 20));
    let request = SendRequest::write(at, key, &[element]);
    slow.pair.post(&mut verbs, &vec![request; 16]);
    quick.pair.send(&mut verbs, SendRequest::write(0, 0, &[]));
    while verbs.driver.deliver_event() && quick.cq.peek(&verbs).is_none() {}
    assert!(quick.cq.poll(&mut verbs).is_some());
    let mut done = 0;
    while slow.cq.poll(&mut verbs).is_some() {
        done += 1;
    }
    assert!(done < 16, "the other pair had its turn before all was done");
    assert_eq!(done + slow.cq.drain(&mut verbs).len(), 16);
    assert!(verbs.bytes(at, 1 << 20) == data);
}
