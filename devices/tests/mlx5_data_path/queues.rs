//! Geometry of queues: pages, offsets, strides, long requests, counters that wrap.

use crate::link::Link;
use driver_model::mlx5_verbs::{
    Cq, PageLayout, Pair, PairSpec, ReceiveQueue, SendRequest, Sge, Srq, SrqKind, Verbs, opcode, pattern,
    transport,
};

/// Sends through pairs with a receive queue of their own, a pool and an XRC queue, until all have wrapped.
fn all_queues_work(verbs: &mut Verbs, entry_size: u64) {
    let mut cq = Cq::with_entries(verbs, 4, entry_size);
    let xrcd = verbs.allocate_object(0x80e);
    let mut pool = Srq::new(verbs, SrqKind::Pool, 5, 7);
    let mut xrc = Srq::new(verbs, SrqKind::Xrc { xrcd, cqn: cq.cqn }, 5, 7);
    let own = PairSpec { log_receive: 5, log_stride: 8, ..PairSpec::new(transport::RC, cq.cqn) };
    let from_pool = PairSpec { receive: ReceiveQueue::Shared(pool.srqn), ..own };
    let from_xrc =
        PairSpec { receive: ReceiveQueue::Shared(xrc.srqn), transport: transport::XRC, xrcd, ..own };
    let mut pairs = [own, from_pool, from_xrc].map(|spec| Pair::loopback(verbs, spec));
    let at = verbs.memory(256);
    let key = verbs.register(at, 256);
    for round in 0..150u64 {
        let data = pattern(round, 150);
        for (number, pair) in pairs.iter_mut().enumerate() {
            let scatter = [Sge::new(at, 100, key), Sge::new(at + 100, 100, key)];
            let request = SendRequest::send(&[]).inline(&data).unsignalled();
            let (index, request) = match number {
                0 => (pair.receive(verbs, &scatter), request),
                1 => (pool.post(verbs, &scatter), request),
                _ => (xrc.post(verbs, &scatter), request.for_srq(xrc.srqn)),
            };
            pair.send(verbs, request);
            let cqe = cq.one(verbs);
            assert_eq!((cqe.opcode, cqe.bytes, cqe.wqe_counter), (opcode::SEND, 150, index), "pair {number}");
            assert!(verbs.bytes(at, 150) == data, "pair {number} in round {round}");
            match number {
                1 => pool.free(verbs, index),
                2 => xrc.free(verbs, index),
                _ => {}
            }
            verbs.fill(at, &[0; 200]);
        }
    }
}

#[test]
fn queues_begin_anywhere_in_pages_of_any_size() {
    for (shift, offset) in [(12, 0), (12, 1), (12, 31), (13, 17), (16, 3)] {
        for entry_size in [64, 128] {
            let mut verbs = Verbs::open();
            verbs.page_layout = PageLayout { shift, offset };
            all_queues_work(&mut verbs, entry_size);
        }
    }
}

#[test]
fn the_longest_requests_are_understood() {
    let mut verbs = Verbs::open();
    let mut cq = Cq::new(&mut verbs, 4);
    let spec = PairSpec { log_stride: 9, ..PairSpec::new(transport::RC, cq.cqn) };
    let mut pair = Pair::loopback(&mut verbs, spec);
    let (from, to) = (verbs.memory(8192), verbs.memory(8192));
    let (from_key, to_key) = (verbs.register(from, 8192), verbs.register(to, 8192));
    let data = pattern(5, 62 * 10);
    verbs.fill(from, &data);
    // 63 units of 16 bytes: a control segment and 62 elements. A receive of 512 bytes has 32.
    let gather: Vec<Sge> = (0..62).map(|number| Sge::new(from + 10 * number, 10, from_key)).collect();
    let scatter: Vec<Sge> = (0..32).map(|number| Sge::new(to + 100 * number, 20, to_key)).collect();
    for _ in 0..20 {
        pair.receive(&mut verbs, &scatter);
        pair.send(&mut verbs, SendRequest::send(&gather).unsignalled());
        assert_eq!(cq.one(&mut verbs).bytes, 620);
        for (number, part) in (0u64..).zip(data.chunks(20)) {
            assert_eq!(verbs.bytes(to + 100 * number, part.len()), part);
        }
        verbs.fill(to, &[0; 4096]);
    }
    // The same length inline.
    let payload = pattern(6, 62 * 16 - 4);
    pair.receive(&mut verbs, &[Sge::new(to, 1000, to_key)]);
    pair.send(&mut verbs, SendRequest::send(&[]).inline(&payload).unsignalled());
    assert_eq!(cq.one(&mut verbs).bytes as usize, payload.len());
    assert!(verbs.bytes(to, payload.len()) == payload);
}

#[test]
fn counters_of_work_requests_wrap_at_16_bits() {
    let mut link = Link::new(transport::RC);
    for _ in 0..1030 {
        let requests = vec![SendRequest::write(0, 0, &[]).unsignalled(); 64];
        link.a.pair.post(&mut link.verbs, &requests);
        link.verbs.settle();
    }
    assert_eq!(link.a.pair.sent, (1030u32 * 64) as u16);
    link.succeed(SendRequest::write(0, 0, &[]));
}

#[test]
fn counters_of_receives_wrap_at_16_bits() {
    let mut verbs = Verbs::open();
    let mut cq = Cq::new(&mut verbs, 5);
    let mut pool = Srq::new(&mut verbs, SrqKind::Pool, 4, 5);
    let own = PairSpec::new(transport::RC, cq.cqn);
    let shared = PairSpec { receive: ReceiveQueue::Shared(pool.srqn), ..own };
    let (mut own, mut shared) = (Pair::loopback(&mut verbs, own), Pair::loopback(&mut verbs, shared));
    let batch = vec![SendRequest::send(&[]).unsignalled(); 15];
    for _ in 0..4400 {
        let indices: Vec<u16> = (0..15).map(|_| own.receive(&mut verbs, &[])).collect();
        own.post(&mut verbs, &batch);
        let taken: Vec<u16> = cq.drain(&mut verbs).iter().map(|cqe| cqe.wqe_counter).collect();
        assert_eq!(taken, indices);
        let indices: Vec<u16> = (0..15).map(|_| pool.post(&mut verbs, &[])).collect();
        shared.post(&mut verbs, &batch);
        let taken: Vec<u16> = cq.drain(&mut verbs).iter().map(|cqe| cqe.wqe_counter).collect();
        assert_eq!(taken, indices);
        taken.iter().for_each(|index| pool.free(&mut verbs, *index));
    }
}
