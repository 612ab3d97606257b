//! Completion queues: arming, ownership of entries, overflow.

use crate::link::Link;
use driver_model::mlx5_verbs::{
    AsyncEvent, COMPLETION_VECTOR, Cq, Pair, PairSpec, SendRequest, Verbs, event, opcode, transport,
};

const NONE: [u32; 0] = [];

/// A pair connected to itself, with a completion queue for each direction.
struct Looped {
    verbs: Verbs,
    pair: Pair,
    sent: Cq,
    received: Cq,
}

fn looped(log_sent: u32, log_received: u32) -> Looped {
    let mut verbs = Verbs::open();
    let (sent, received) = (Cq::new(&mut verbs, log_sent), Cq::new(&mut verbs, log_received));
    let spec = PairSpec { receive_cq: received.cqn, ..PairSpec::new(transport::RC, sent.cqn) };
    let pair = Pair::loopback(&mut verbs, spec);
    Looped { verbs, pair, sent, received }
}

impl Looped {
    /// Sends an empty message to itself, solicited or not, and lets it arrive.
    fn message(&mut self, solicited: bool) {
        self.pair.receive(&mut self.verbs, &[]);
        let request = SendRequest::send(&[]).unsignalled();
        self.pair.send(&mut self.verbs, if solicited { request.solicited() } else { request });
        self.verbs.settle();
    }

    fn events(&mut self) -> Vec<u32> {
        self.verbs.completion_events()
    }
}

#[test]
fn an_armed_queue_tells_of_one_completion() {
    let mut looped = looped(4, 4);
    looped.message(false);
    assert_eq!(looped.events(), NONE, "not armed");
    assert!(looped.received.poll(&mut looped.verbs).is_some());
    looped.received.arm(&mut looped.verbs, false);
    assert_eq!(looped.events(), NONE, "nothing new");
    looped.verbs.driver.port.interrupts.clear();
    looped.message(false);
    looped.message(false);
    assert_eq!(looped.verbs.driver.port.interrupts, [COMPLETION_VECTOR]);
    assert_eq!(looped.events(), [looped.received.cqn], "one event for two completions");
}

#[test]
fn arming_with_completions_pending_tells_at_once() {
    let mut looped = looped(4, 4);
    looped.message(false);
    looped.received.arm(&mut looped.verbs, false);
    looped.verbs.settle();
    assert_eq!(looped.events(), [looped.received.cqn]);
    looped.received.poll(&mut looped.verbs).expect("the completion");
    looped.received.arm(&mut looped.verbs, false);
    looped.verbs.settle();
    assert_eq!(looped.events(), NONE);
}

#[test]
fn arming_before_polling_tells_of_no_completion_twice() {
    let mut looped = looped(4, 4);
    for solicited_only in [false, true] {
        looped.received.arm(&mut looped.verbs, solicited_only);
        for _ in 0..3 {
            looped.message(true);
            assert_eq!(looped.events(), [looped.received.cqn]);
            // As programs do: on the event arm, then poll.
            looped.received.arm(&mut looped.verbs, solicited_only);
            looped.verbs.settle();
            assert_eq!(looped.events(), NONE, "it has been told of this one");
            looped.received.poll(&mut looped.verbs).expect("the completion");
        }
        looped.message(true);
        looped.message(true);
        assert_eq!(looped.events(), [looped.received.cqn]);
        looped.received.arm(&mut looped.verbs, solicited_only);
        looped.verbs.settle();
        assert_eq!(looped.events(), [looped.received.cqn], "another has arrived since");
        assert_eq!(looped.received.drain(&mut looped.verbs).len(), 2);
    }
}

#[test]
fn a_queue_armed_for_solicited_completions_waits_for_one() {
    let mut looped = looped(4, 4);
    looped.received.arm(&mut looped.verbs, true);
    looped.message(false);
    assert_eq!(looped.events(), NONE);
    looped.message(true);
    assert_eq!(looped.events(), [looped.received.cqn]);
    looped.message(true);
    assert_eq!(looped.events(), NONE, "once");
    // The one that is pending was solicited.
    looped.received.arm(&mut looped.verbs, true);
    looped.verbs.settle();
    assert_eq!(looped.events(), [looped.received.cqn]);
}

#[test]
fn arming_for_any_is_not_weakened_by_arming_for_solicited() {
    let mut looped = looped(4, 4);
    looped.received.arm(&mut looped.verbs, false);
    looped.received.arm(&mut looped.verbs, true);
    looped.message(false);
    assert_eq!(looped.events(), [looped.received.cqn]);
}

#[test]
fn an_error_is_as_good_as_a_solicited_completion() {
    let mut looped = looped(4, 4);
    looped.sent.arm(&mut looped.verbs, true);
    looped.pair.send(&mut looped.verbs, SendRequest::write(0, 0, &[]));
    looped.verbs.settle();
    assert_eq!(looped.events(), NONE, "a send is not solicited");
    looped.pair.send(&mut looped.verbs, SendRequest::new(0xff));
    looped.verbs.settle();
    assert_eq!(looped.events(), [looped.sent.cqn]);
}

#[test]
fn entries_change_owner_with_each_round() {
    let mut looped = looped(2, 3);
    for round in 0..37u32 {
        looped.pair.receive(&mut looped.verbs, &[]);
        looped.pair.send(&mut looped.verbs, SendRequest::send(&[]).immediate(round));
        assert_eq!(looped.sent.one(&mut looped.verbs).opcode, opcode::REQUESTER);
        assert_eq!(looped.received.one(&mut looped.verbs).immediate, round);
    }
}

#[test]
fn a_full_queue_is_an_error_and_keeps_what_it_has() {
    let mut looped = looped(6, 2);
    for _ in 0..6 {
        looped.pair.receive(&mut looped.verbs, &[]);
    }
    for number in 0..6 {
        looped.pair.send(&mut looped.verbs, SendRequest::send(&[]).immediate(number).unsignalled());
    }
    looped.verbs.settle();
    let events = looped.verbs.async_events();
    assert!(
        events.contains(&AsyncEvent { kind: event::CQ_ERROR, number: looped.received.cqn }),
        "{events:?}"
    );
    let kept = std::iter::from_fn(|| looped.received.poll(&mut looped.verbs));
    let numbers: Vec<u32> = kept.map(|cqe| cqe.immediate).take(4).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert!(looped.verbs.async_events().is_empty());
}

#[test]
fn a_queue_that_is_just_full_is_no_error() {
    let mut looped = looped(6, 2);
    for round in 0..5 {
        for _ in 0..4 {
            looped.message(false);
        }
        assert_eq!(looped.received.drain(&mut looped.verbs).len(), 4, "round {round}");
    }
    assert_eq!(looped.verbs.async_events(), []);
}

#[test]
fn one_queue_serves_both_directions_and_many_pairs() {
    let mut link = Link::new(transport::RC);
    let cqn = link.a.cq.cqn;
    let mut pairs: Vec<Pair> =
        (0..4).map(|_| Pair::loopback(&mut link.verbs, PairSpec::new(transport::RC, cqn))).collect();
    for pair in &mut pairs {
        pair.receive(&mut link.verbs, &[]);
        pair.send(&mut link.verbs, SendRequest::send(&[]));
    }
    let all = link.a.cq.drain(&mut link.verbs);
    for pair in &pairs {
        let mut opcodes: Vec<u8> =
            all.iter().filter(|cqe| cqe.qpn == pair.qpn).map(|cqe| cqe.opcode).collect();
        opcodes.sort_unstable();
        assert_eq!(opcodes, [opcode::REQUESTER, opcode::SEND]);
    }
}

#[test]
fn an_event_queue_interrupts_once_until_it_is_armed_again() {
    let mut looped = looped(4, 4);
    looped.verbs.completion_events();
    looped.verbs.driver.port.interrupts.clear();
    for _ in 0..3 {
        looped.received.arm(&mut looped.verbs, false);
        looped.message(false);
        while looped.received.poll(&mut looped.verbs).is_some() {}
    }
    assert_eq!(looped.verbs.driver.port.interrupts, [COMPLETION_VECTOR]);
    assert_eq!(looped.events(), [looped.received.cqn; 3]);
}
