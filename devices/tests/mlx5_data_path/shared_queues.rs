//! Shared receive queues.

use devices::mlx5::layout::commands::OBJECT;
use driver_model::mlx5_model::command;
use driver_model::mlx5_verbs::{
    AddressVector, AsyncEvent, Connection, Cq, Cqe, LID, Pair, PairSpec, ReceiveQueue, SendRequest, Sge, Srq,
    SrqKind, Verbs, event, opcode, syndrome, transport,
};

struct Pool {
    verbs: Verbs,
    srq: Srq,
    cq: Cq,
    pairs: Vec<Pair>,
    at: u64,
    key: u32,
}

/// A pool of receives and `count` pairs, each connected to itself, that take from it.
fn pool(count: usize) -> Pool {
    let mut verbs = Verbs::open();
    let srq = Srq::new(&mut verbs, SrqKind::Pool, 4, 6);
    let cq = Cq::new(&mut verbs, 6);
    let spec = PairSpec { receive: ReceiveQueue::Shared(srq.srqn), ..PairSpec::new(transport::RC, cq.cqn) };
    let pairs = (0..count).map(|_| Pair::loopback(&mut verbs, spec)).collect();
    let at = verbs.memory(65536);
    let key = verbs.register(at, 65536);
    Pool { verbs, srq, cq, pairs, at, key }
}

impl Pool {
    fn post(&mut self, slot: u64) -> u16 {
        self.srq.post(&mut self.verbs, &[Sge::new(self.at + slot * 64, 64, self.key)])
    }

    /// Sends one byte through a pair and takes the completion of its receive.
    fn send(&mut self, pair: usize, byte: u8) -> Cqe {
        self.pairs[pair].send(&mut self.verbs, SendRequest::send(&[]).inline(&[byte]).unsignalled());
        self.cq.one(&mut self.verbs)
    }
}

#[test]
fn pairs_share_receives_in_the_order_of_the_list() {
    let mut pool = pool(3);
    let posted: Vec<u16> = (0..9).map(|slot| pool.post(slot)).collect();
    for (slot, index) in posted.iter().enumerate() {
        let cqe = pool.send(slot % 3, slot as u8 + 1);
        assert_eq!((cqe.opcode, cqe.bytes, cqe.wqe_counter), (opcode::SEND, 1, *index));
        assert_eq!((cqe.qpn, cqe.user_index), (pool.pairs[slot % 3].qpn, pool.pairs[slot % 3].user_index));
        assert_eq!(pool.verbs.bytes(pool.at + slot as u64 * 64, 2), [slot as u8 + 1, 0]);
    }
}

#[test]
fn freed_entries_are_followed_in_any_order() {
    let mut pool = pool(1);
    let mut indices: Vec<u16> = (0..15).map(|slot| pool.post(slot)).collect();
    for round in 0..20u8 {
        let taken: Vec<u16> = (0..5).map(|_| pool.send(0, round).wqe_counter).collect();
        assert_eq!(taken, indices[..5]);
        indices.drain(..5);
        let order = [[4, 1, 0, 2, 3], [2, 3, 4, 0, 1]][usize::from(round % 2)];
        for number in order {
            pool.srq.free(&mut pool.verbs, taken[number]);
        }
        for _ in order {
            indices.push(pool.post(u64::from(round)));
        }
    }
}

#[test]
fn an_empty_pool_is_not_ready() {
    let mut pool = pool(1);
    pool.pairs[0].send(&mut pool.verbs, SendRequest::send(&[]).inline(&[1]));
    pool.verbs.run_for(1_000_000);
    assert_eq!(pool.cq.poll(&mut pool.verbs), None);
    pool.post(0);
    assert_eq!(pool.cq.drain(&mut pool.verbs).len(), 2);
}

#[test]
fn a_limit_raises_one_event() {
    let mut pool = pool(1);
    let xrcd = pool.verbs.allocate_object(0x80e);
    let cqn = pool.cq.cqn;
    for slot in 0..6 {
        pool.post(slot);
    }
    pool.srq.arm(&mut pool.verbs, 4);
    let limit = AsyncEvent { kind: event::SRQ_LIMIT, number: pool.srq.srqn };
    for left in [5u8, 4, 3, 2] {
        pool.send(0, left);
        let expected: &[AsyncEvent] = if left == 3 { &[limit] } else { &[] };
        assert_eq!(pool.verbs.async_events(), expected, "{left} are left");
    }
    pool.srq.arm(&mut pool.verbs, 2);
    pool.send(0, 1);
    assert_eq!(pool.verbs.async_events(), [limit], "armed again");

    let mut srq = Srq::new(&mut pool.verbs, SrqKind::Xrc { xrcd, cqn }, 4, 6);
    srq.post(&mut pool.verbs, &[]);
    srq.post(&mut pool.verbs, &[]);
    srq.arm(&mut pool.verbs, 2);
    let spec =
        PairSpec { xrcd, receive: ReceiveQueue::Shared(srq.srqn), ..PairSpec::new(transport::XRC, cqn) };
    let mut pair = Pair::loopback(&mut pool.verbs, spec);
    pair.send(&mut pool.verbs, SendRequest::send(&[]).for_srq(srq.srqn).unsignalled());
    assert_eq!(pool.cq.one(&mut pool.verbs).user_index, srq.user_index);
    assert_eq!(pool.verbs.async_events(), [AsyncEvent { number: srq.srqn, ..limit }]);
}

#[test]
fn a_pair_in_error_leaves_the_pool_to_the_others() {
    let mut pool = pool(2);
    pool.post(0);
    pool.pairs[0].to_error(&mut pool.verbs);
    assert_eq!(pool.cq.drain(&mut pool.verbs), []);
    let last = AsyncEvent { kind: event::SRQ_LAST_WQE, number: pool.pairs[0].qpn };
    assert_eq!(pool.verbs.async_events(), [last]);
    assert_eq!(pool.send(1, 5).opcode, opcode::SEND);
}

#[test]
fn an_error_in_a_shared_receive_belongs_to_the_pair_that_took_it() {
    let mut pool = pool(2);
    pool.srq.post(&mut pool.verbs, &[Sge::new(pool.at, 64, 0xdddd_dd00)]);
    pool.post(1);
    pool.pairs[0].send(&mut pool.verbs, SendRequest::send(&[]).inline(&[1]));
    let all = pool.cq.drain(&mut pool.verbs);
    assert!(all.iter().all(|cqe| cqe.is_error() && cqe.qpn == pool.pairs[0].qpn), "{all:x?}");
    let local = all.iter().find(|cqe| cqe.opcode == opcode::RESPONDER_ERROR).expect("the receive's");
    assert_eq!(local.syndrome, syndrome::LOCAL_PROTECTION);
    assert_eq!(pool.send(1, 2).opcode, opcode::SEND);
}

#[test]
fn a_pool_in_use_cannot_be_destroyed() {
    let mut pool = pool(1);
    let mut input = command(0x90e, 0, 16);
    OBJECT.set(&mut input, pool.srq.srqn.into());
    pool.verbs.driver.fail(&input, 16, 0x09);
    pool.pairs.remove(0).destroy(&mut pool.verbs);
    pool.srq.destroy(&mut pool.verbs);
}

#[test]
fn a_datagram_pair_may_use_a_pool() {
    let mut pool = pool(0);
    let spec = PairSpec {
        receive: ReceiveQueue::Shared(pool.srq.srqn),
        ..PairSpec::new(transport::UD, pool.cq.cqn)
    };
    let mut pair = Pair::new(&mut pool.verbs, spec);
    pair.connect(&mut pool.verbs, Connection::to(0));
    let index = pool.post(0);
    let vector = AddressVector { q_key: 0x1111_1111, qpn: pair.qpn, lid: LID, extended: true };
    pair.send(&mut pool.verbs, SendRequest::send(&[]).to(vector).inline(b"x").unsignalled());
    let cqe = pool.cq.one(&mut pool.verbs);
    assert_eq!((cqe.bytes, cqe.wqe_counter), (41, index));
}
