//! Lives of objects around traffic: any order of destruction, teardown at any time, nothing left behind.

use crate::link::{End, Link};
use devices::mlx5::LiveObjects;
use devices::mlx5::field::Field;
use devices::mlx5::layout::commands::{EQ_NUMBER, OBJECT, qp};
use devices::mlx5::layout::contexts::{ads, qpc};
use driver_model::mlx5_model::{Driver, command, get};
use driver_model::mlx5_verbs::{
    Connection, Cq, LID, Pair, PairSpec, ReceiveQueue, SendRequest, Sge, Srq, SrqKind, Verbs, transport,
};

/// Objects of every kind, with traffic under way. Returns the commands that destroy them, in order of creation.
fn busy(verbs: &mut Verbs) -> Vec<(u16, u32)> {
    let mut commands = vec![(0x803, verbs.uar), (0x302, verbs.async_eq), (0x302, verbs.completion_eq)];
    commands.push((0x801, verbs.pd));
    let xrcd = verbs.allocate_object(0x80e);
    let domain = verbs.allocate_object(0x816);
    commands.extend([(0x80f, xrcd), (0x817, domain)]);
    let cq = Cq::new(verbs, 7);
    commands.push((0x401, cq.cqn));
    let pool = Srq::new(verbs, SrqKind::Pool, 4, 6);
    let xrc = Srq::new(verbs, SrqKind::Xrc { xrcd, cqn: cq.cqn }, 4, 6);
    commands.extend([(0x90e, pool.srqn), (0x706, xrc.srqn)]);
    let at = verbs.memory(1 << 20);
    let key = verbs.register(at, 1 << 20);
    commands.push((0x202, key >> 8));
    let element = Sge::new(at, 1 << 19, key);
    for (kind, receive) in [
        (transport::RC, ReceiveQueue::Own),
        (transport::RC, ReceiveQueue::Shared(pool.srqn)),
        (transport::UC, ReceiveQueue::Own),
        (transport::UD, ReceiveQueue::Own),
        (transport::XRC, ReceiveQueue::Shared(xrc.srqn)),
    ] {
        let mut pair = Pair::loopback(verbs, PairSpec { receive, xrcd, ..PairSpec::new(kind, cq.cqn) });
        commands.push((0x501, pair.qpn));
        if kind == transport::RC {
            let write = SendRequest::write(at + (1 << 19), key, &[element]);
            pair.post(verbs, &[write, SendRequest::send(&[])]);
        }
    }
    verbs.run_for(3000);
    commands
}

fn destroy(verbs: &mut Verbs, opcode: u16, number: u32) -> bool {
    let mut input = command(opcode, 0, 16);
    let field = if opcode == 0x302 { EQ_NUMBER } else { OBJECT };
    field.set(&mut input, number.into());
    verbs.driver.execute(&input, 16).status() == 0
}

#[test]
fn objects_may_be_destroyed_in_any_order() {
    for seed in 1..40u64 {
        let mut verbs = Verbs::open();
        let mut left = busy(&mut verbs);
        let mut random = seed;
        let mut refused = 0;
        while !left.is_empty() {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let (opcode, number) = left.remove((random >> 33) as usize % left.len());
            if !destroy(&mut verbs, opcode, number) {
                // Something else holds it.
                left.push((opcode, number));
                refused += 1;
                assert!(refused < 10_000, "seed {seed}: {left:x?} cannot be destroyed");
            }
            verbs.run_for(2000);
        }
        assert_eq!(verbs.driver.device.live_objects(), LiveObjects::default(), "seed {seed}");
        verbs.settle();
        assert!(verbs.driver.port.events.is_empty(), "nothing is left to do");
    }
}

#[test]
fn a_doorbell_page_may_go_before_the_queues_that_it_rings() {
    let mut verbs = Verbs::open();
    let other = verbs.allocate_object(0x802);
    let kept = std::mem::replace(&mut verbs.uar, other);
    let cq = Cq::new(&mut verbs, 4);
    let pair = Pair::loopback(&mut verbs, PairSpec::new(transport::RC, cq.cqn));
    let gone = std::mem::replace(&mut verbs.uar, kept);
    let before = verbs.driver.device.live_objects();
    assert!(destroy(&mut verbs, 0x803, gone));
    assert_eq!(verbs.driver.device.live_objects().uars, before.uars - 1);
    pair.destroy(&mut verbs);
    cq.destroy(&mut verbs);
}

#[test]
fn a_hundred_probes_leave_no_trace() {
    let mut verbs = Verbs::open();
    let mut first = None;
    for round in 0..100 {
        busy(&mut verbs);
        let mut driver = verbs.driver;
        // As unbind does, though not all has been destroyed: TEARDOWN_HCA and DISABLE_HCA.
        driver.succeed(&command(0x103, 0, 16), 16);
        driver.succeed(&command(0x105, 0, 16), 12);
        assert_eq!(driver.device.live_objects(), LiveObjects::default());
        while driver.deliver_event() {}
        let state = format!("{:?}", driver.device);
        assert_eq!(*first.get_or_insert_with(|| state.clone()), state, "round {round}");
        let fresh = Driver::attach(driver.device);
        verbs = Verbs::attach(fresh);
    }
}

#[test]
fn numbers_of_pairs_and_keys_come_round() {
    let mut link = Link::new(transport::RC);
    let (at, cqn) = (link.b.at, link.a.cq.cqn);
    for round in 0..300u64 {
        let mut pair = Pair::loopback(&mut link.verbs, PairSpec::new(transport::RC, cqn));
        let key = link.verbs.register(at, 64);
        pair.receive(&mut link.verbs, &[Sge::new(at, 64, key)]);
        pair.send(&mut link.verbs, SendRequest::send(&[]).inline(&round.to_be_bytes()));
        assert_eq!(link.a.cq.drain(&mut link.verbs).len(), 2);
        assert_eq!(link.verbs.bytes(at, 8), round.to_be_bytes());
        link.verbs.destroy_key(key);
        pair.destroy(&mut link.verbs);
    }
}

#[test]
fn a_query_answers_what_has_been_modified() {
    let mut verbs = Verbs::open();
    let mut end = End::new(&mut verbs, transport::RC);
    let to = Connection {
        remote_read: false,
        min_rnr_timer: 9,
        rnr_retry: 3,
        retry: 5,
        timeout: 17,
        mtu: 3,
        ..Connection::to(77)
    };
    end.pair.connect(&mut verbs, to);
    let answer = verbs.query(0x50b, end.pair.qpn);
    let path = |field: Field| field.within(qpc::PRIMARY_PATH);
    for (field, value) in [
        (qpc::STATE, 3),
        (qpc::REMOTE_QPN, 77),
        (qpc::RRE, 0),
        (qpc::RWE, 1),
        (qpc::RAE, 1),
        (qpc::MIN_RNR_NAK, 9),
        (qpc::RNR_RETRY, 3),
        (qpc::RETRY_COUNT, 5),
        (qpc::MTU, 3),
        (path(ads::RLID), LID.into()),
        (path(ads::ACK_TIMEOUT), 17),
        (path(ads::VHCA_PORT_NUM), 1),
        (qpc::USER_INDEX, end.pair.user_index.into()),
    ] {
        assert_eq!(get(&answer, qp::QPC, field), value, "{field:?}");
    }
    end.pair.to_error(&mut verbs);
    assert_eq!(end.state(&mut verbs), 6);
    end.pair.reset(&mut verbs);
    assert_eq!(end.state(&mut verbs), 0);
}
