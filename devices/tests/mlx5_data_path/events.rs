//! Asynchronous events about queue pairs.

use crate::link::{AREA, End, Link};
use driver_model::mlx5_verbs::{
    ASYNC_VECTOR, AsyncEvent, Connection, SendRequest, Verbs, event, syndrome, transport,
};

#[test]
fn the_first_message_establishes_the_communication() {
    let mut verbs = Verbs::open();
    let mut a = End::new(&mut verbs, transport::RC);
    let mut b = End::new(&mut verbs, transport::RC);
    a.pair.connect(&mut verbs, Connection::to(b.pair.qpn));
    let to_a = Connection::to(a.pair.qpn);
    b.pair.to_init(&mut verbs, to_a);
    b.pair.receive(&mut verbs, &[]);
    b.pair.receive(&mut verbs, &[]);
    b.pair.to_ready_to_receive(&mut verbs, to_a);
    verbs.async_events();
    verbs.driver.port.interrupts.clear();
    a.pair.send(&mut verbs, SendRequest::send(&[]));
    assert_eq!(a.cq.one(&mut verbs).syndrome, 0);
    assert_eq!(b.cq.one(&mut verbs).syndrome, 0);
    let established = AsyncEvent { kind: event::COMMUNICATION_ESTABLISHED, number: b.pair.qpn };
    assert_eq!(verbs.driver.port.interrupts, [ASYNC_VECTOR]);
    assert_eq!(verbs.async_events(), [established]);
    b.pair.to_ready_to_send(&mut verbs, to_a);
    a.pair.send(&mut verbs, SendRequest::send(&[]));
    assert_eq!(a.cq.one(&mut verbs).syndrome, 0);
    assert_eq!(verbs.async_events(), []);
}

#[test]
fn a_responder_learns_why_it_has_failed() {
    let mut link = Link::new(transport::RC);
    let element = link.a.sge(0, 8);
    link.fail(SendRequest::write(link.b.at, link.b.key ^ 1, &[element]), syndrome::REMOTE_ACCESS);
    let events = link.verbs.async_events();
    assert_eq!(events, [AsyncEvent { kind: event::WQ_ACCESS, number: link.b.pair.qpn }]);

    let mut link = Link::with(transport::RC, |connection| connection.remote_write = false);
    let element = link.a.sge(0, 8);
    link.fail(SendRequest::write(link.b.at, link.b.key, &[element]), syndrome::REMOTE_INVALID_REQUEST);
    let events = link.verbs.async_events();
    assert_eq!(events, [AsyncEvent { kind: event::WQ_INVALID_REQUEST, number: link.b.pair.qpn }]);
}

#[test]
fn errors_that_a_completion_reports_raise_no_event() {
    let mut link = Link::new(transport::RC);
    let bad = link.a.sge(AREA, 8);
    link.fail(SendRequest::send(&[bad]), syndrome::LOCAL_PROTECTION);
    assert_eq!(link.verbs.async_events(), []);
}
