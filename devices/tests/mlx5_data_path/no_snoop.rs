//! Which transactions ask for No Snoop and Relaxed Ordering.

use crate::link::{AREA, End, Link};
use devices::mlx5::layout::commands::{CONTEXT, OBJECT, PAGES, mkey};
use devices::mlx5::layout::contexts::mkc;
use devices::mlx5::{Mlx5Config, NoSnoop};
use driver_model::mlx5_model::{PAGE, command, set};
use driver_model::mlx5_verbs::{
    Connection, Cq, PairSpec, ReceiveQueue, SendRequest, Sge, Srq, SrqKind, Verbs, transport,
};
use driver_model::mock_port::{Transaction, TransactionKind};
use std::collections::BTreeSet;

/// Traffic of every kind, and all transactions that it causes.
fn traffic(no_snoop: NoSnoop) -> (Link, Vec<Transaction>) {
    let mut verbs = Verbs::open_with(Mlx5Config { no_snoop, ..Mlx5Config::default() });
    let mut a = End::new(&mut verbs, transport::RC);
    let cq = Cq::new(&mut verbs, 7);
    let mut srq = Srq::new(&mut verbs, SrqKind::Pool, 4, 6);
    let spec = PairSpec { receive: ReceiveQueue::Shared(srq.srqn), ..PairSpec::new(transport::RC, cq.cqn) };
    let mut b = End::on(&mut verbs, spec, cq);
    a.pair.connect(&mut verbs, Connection::to(b.pair.qpn));
    b.pair.connect(&mut verbs, Connection::to(a.pair.qpn));
    verbs.driver.port.log = Some(Vec::new());
    b.cq.arm(&mut verbs, false);
    srq.post(&mut verbs, &[b.sge(0, 5000)]);
    srq.post(&mut verbs, &[b.sge(0, 5000)]);
    let requests = [
        SendRequest::send(&[a.sge(0, 5000)]),
        SendRequest::send(&[]).inline(b"inline"),
        SendRequest::write(b.at + 10_000, b.key, &[a.sge(0, 100)]),
        SendRequest::read(b.at, b.key, &[a.sge(10_000, 5000)]),
        SendRequest::fetch_add(b.at, b.key, 1, a.sge(0, 8)),
    ];
    a.pair.post(&mut verbs, &requests);
    let done = a.cq.drain(&mut verbs);
    assert!(done.len() == 5 && done.iter().all(|cqe| !cqe.is_error()), "{done:x?}");
    verbs.allocate_object(0x800);
    let log = verbs.driver.port.log.take().unwrap();
    (Link { verbs, a, b }, log)
}

impl Link {
    fn is_payload(&self, transaction: &Transaction) -> bool {
        [&self.a, &self.b].iter().any(|end| (end.at..end.at + AREA).contains(&transaction.iova))
    }
}

#[test]
fn payload_and_structures_are_told_apart() {
    for (no_snoop, payload_asks, structures_ask) in
        [(NoSnoop::Off, false, false), (NoSnoop::Payload, true, false), (NoSnoop::All, true, true)]
    {
        let (link, log) = traffic(no_snoop);
        let (payload, structures): (Vec<Transaction>, Vec<Transaction>) =
            log.into_iter().partition(|done| link.is_payload(done));
        for kind in [TransactionKind::Read, TransactionKind::Write, TransactionKind::Atomic] {
            assert!(payload.iter().any(|done| done.kind == kind), "{kind:?} of payload");
        }
        for kind in [TransactionKind::Read, TransactionKind::Write] {
            assert!(structures.iter().any(|done| done.kind == kind), "{kind:?} of structures");
        }
        for done in &payload {
            assert_eq!(done.attrs.no_snoop, payload_asks, "{no_snoop:?}: {done:x?}");
        }
        for done in &structures {
            assert_eq!(done.attrs.no_snoop, structures_ask, "{no_snoop:?}: {done:x?}");
            assert!(!done.attrs.relaxed_ordering, "{done:x?}");
        }
        // Each says what it is for.
        let purposes = |of: &[Transaction]| {
            of.iter().map(|done| done.attrs.purpose.describe().unwrap()).collect::<BTreeSet<_>>()
        };
        let ((a, b), (from, to)) = ((link.a.pair.qpn, link.b.pair.qpn), (link.a.key, link.b.key));
        let expected = [
            format!("RDMA READ qpn {b:#x} mkey {to:#x}"),
            format!("RDMA WRITE qpn {b:#x} mkey {to:#x}"),
            format!("RDMA atomic qpn {b:#x} mkey {to:#x}"),
            format!("payload received qpn {a:#x} mkey {from:#x}"),
            format!("payload received qpn {b:#x} mkey {to:#x}"),
            format!("payload to send qpn {a:#x} mkey {from:#x}"),
        ];
        assert_eq!(purposes(&payload), BTreeSet::from(expected));
        let said = purposes(&structures);
        for purpose in [
            format!("send WQE qpn {a:#x}"),
            format!("doorbell record qpn {a:#x}"),
            format!("CQE cqn {:#x}", link.b.cq.cqn),
            format!("doorbell record cqn {:#x}", link.b.cq.cqn),
        ] {
            assert!(said.contains(&purpose), "no {purpose:?} in {said:?}");
        }
        for start in ["receive WQE srqn ", "doorbell record srqn ", "EQE eqn ", "command slot "] {
            assert!(said.iter().any(|purpose| purpose.starts_with(start)), "no {start:?} in {said:?}");
        }
        // Work requests, doorbell records, completions, events and commands are all among the structures.
        let touched = |at: u64, len: u64| structures.iter().any(|done| (at..at + len).contains(&done.iova));
        let verbs = &link.verbs;
        let event_queue = verbs.driver.eqs[&verbs.completion_eq].buffer;
        let places = [
            link.a.pair.buffer.pages[0],
            link.a.pair.record,
            link.b.cq.buffer.pages[0],
            link.b.cq.record,
            event_queue,
            verbs.driver.queue,
        ];
        for at in places {
            assert!(touched(at / PAGE * PAGE, PAGE), "{at:#x}");
        }
    }
}

#[test]
fn relaxed_ordering_is_for_writes_through_keys_that_allow_it() {
    let mut link = Link::new(transport::RC);
    let mut input = command(0x200, 0, PAGES + 16);
    for (field, value) in [
        (mkc::ACCESS_MODE_1_0, 1),
        (mkc::START_ADDR, 0),
        (mkc::LEN, PAGE),
        (mkc::PD, link.verbs.pd.into()),
        (mkc::LOG_PAGE_SIZE, 12),
        (mkc::LOCAL_READ, 1),
        (mkc::LOCAL_WRITE, 1),
        (mkc::REMOTE_READ, 1),
        (mkc::REMOTE_WRITE, 1),
        (mkc::RELAXED_ORDERING_WRITE, 1),
        (mkc::QPN, 0xff_ffff),
        (mkc::TRANSLATIONS_OCTWORD_SIZE, 1),
    ] {
        set(&mut input, CONTEXT, field, value);
    }
    mkey::TRANSLATIONS_OCTWORD_ACTUAL_SIZE.set(&mut input, 1);
    input[PAGES..PAGES + 8].copy_from_slice(&link.b.at.to_be_bytes());
    let relaxed = OBJECT.get32(&link.verbs.driver.succeed(&input, 16)) << 8;
    let strict = link.verbs.register(link.b.at, PAGE);
    let (area, base) = (link.b.at..link.b.at + PAGE, link.b.at);
    for (key, at, expected) in [(relaxed, 0, true), (strict, base, false)] {
        link.verbs.driver.port.log = Some(Vec::new());
        link.succeed(SendRequest::write(at, key, &[]).inline(b"written"));
        let log = link.verbs.driver.port.log.take().unwrap();
        let written = |done: &&Transaction| done.kind == TransactionKind::Write;
        for done in log.iter().filter(written) {
            let to_key = area.contains(&done.iova);
            assert_eq!(done.attrs.relaxed_ordering, expected && to_key, "{done:x?}");
        }
        assert!(log.iter().filter(written).any(|done| area.contains(&done.iova)));
    }
    let element = Sge::new(0, 7, relaxed);
    link.b.pair.receive(&mut link.verbs, &[element]);
    link.succeed(SendRequest::send(&[]).inline(b"arrives"));
    assert_eq!(link.at_b(0, 7), b"arrives");
}
