//! Atomic operations. Operands and results are numbers of the host, little-endian in memory.

use crate::link::Link;
use driver_model::mlx5_verbs::{SendRequest, access, syndrome, transport};

fn word(link: &Link, at: u64) -> u64 {
    u64::from_le_bytes(link.verbs.bytes(at, 8).try_into().unwrap())
}

#[test]
fn compare_and_swap_answers_the_old_value() {
    let mut link = Link::new(transport::RC);
    let (target, result) = (link.b.at + 16, link.a.sge(8, 8));
    link.verbs.fill(target, &0x0123_4567_89ab_cdefu64.to_le_bytes());
    link.succeed(SendRequest::compare_swap(target, link.b.key, 1, 2, result));
    assert_eq!((word(&link, target), word(&link, result.at)), (0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef));
    link.succeed(SendRequest::compare_swap(target, link.b.key, 0x0123_4567_89ab_cdef, 2, result));
    assert_eq!(word(&link, target), 2);
    link.succeed(SendRequest::compare_swap(target, link.b.key, 2, u64::MAX, result));
    assert_eq!((word(&link, target), word(&link, result.at)), (u64::MAX, 2));
    assert_eq!((word(&link, target - 8), word(&link, target + 8)), (0, 0));
}

#[test]
fn fetch_and_add_wraps() {
    let mut link = Link::new(transport::RC);
    let (target, result) = (link.b.at, link.a.sge(0, 8));
    link.verbs.fill(target, &(u64::MAX - 1).to_le_bytes());
    link.succeed(SendRequest::fetch_add(target, link.b.key, 3, result));
    assert_eq!((word(&link, target), word(&link, result.at)), (1, u64::MAX - 1));
    let requests: Vec<_> = (0..20).map(|_| SendRequest::fetch_add(target, link.b.key, 5, result)).collect();
    link.a.pair.post(&mut link.verbs, &requests);
    assert_eq!(link.a.cq.drain(&mut link.verbs).len(), 20);
    assert_eq!((word(&link, target), word(&link, result.at)), (101, 96));
}

#[test]
fn an_atomic_is_one_transaction() {
    use driver_model::mock_port::TransactionKind;
    let mut link = Link::new(transport::RC);
    let (target, result) = (link.b.at, link.a.sge(0, 8));
    link.verbs.driver.port.log = Some(Vec::new());
    link.succeed(SendRequest::fetch_add(target, link.b.key, 3, result));
    let log = link.verbs.driver.port.log.take().unwrap();
    let touching: Vec<_> = log.iter().filter(|done| done.iova == target).map(|done| done.kind).collect();
    assert_eq!(touching, [TransactionKind::Atomic]);
}

#[test]
fn the_result_may_be_scattered() {
    let mut link = Link::new(transport::RC);
    let target = link.b.at;
    link.verbs.fill(target, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let parts = [link.a.sge(0, 3), link.a.sge(100, 5)];
    let request = SendRequest::fetch_add(target, link.b.key, 0, parts[0]).gather(&parts);
    link.succeed(request);
    assert_eq!(link.verbs.bytes(link.a.at, 3), [1, 2, 3]);
    assert_eq!(link.verbs.bytes(link.a.at + 100, 5), [4, 5, 6, 7, 8]);
}

#[test]
fn an_unaligned_target_is_an_invalid_request() {
    for offset in [1, 4] {
        let mut link = Link::new(transport::RC);
        let (target, result) = (link.b.at + offset, link.a.sge(0, 8));
        link.fail(SendRequest::fetch_add(target, link.b.key, 1, result), syndrome::REMOTE_INVALID_REQUEST);
        assert_eq!(link.states(), (6, 6));
    }
}

#[test]
fn the_right_to_atomics_is_one_of_its_own() {
    let mut link = Link::new(transport::RC);
    let (target, result) = (link.b.at, link.a.sge(0, 8));
    let key = link.verbs.register_with(target, 64, access::ALL & !access::ATOMIC);
    link.fail(SendRequest::fetch_add(target, key, 1, result), syndrome::REMOTE_ACCESS);
    assert_eq!(word(&link, target), 0);

    let mut link = Link::new(transport::RC);
    let (target, result) = (link.b.at, link.a.sge(0, 8));
    let key = link.verbs.register_with(target, 64, access::LOCAL | access::ATOMIC);
    link.succeed(SendRequest::fetch_add(target, key, 1, result));
    assert_eq!(word(&link, target), 1);

    let mut link = Link::with(transport::RC, |connection| connection.remote_atomic = false);
    let (target, result) = (link.b.at, link.a.sge(0, 8));
    link.fail(SendRequest::fetch_add(target, link.b.key, 1, result), syndrome::REMOTE_INVALID_REQUEST);
    assert_eq!(word(&link, target), 0);
}

#[test]
fn an_atomic_beyond_the_key_changes_nothing() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.register(link.b.at, 12);
    let (target, result) = (link.b.at + 8, link.a.sge(0, 8));
    link.fail(SendRequest::fetch_add(target, key, 1, result), syndrome::REMOTE_ACCESS);
    assert_eq!(word(&link, target), 0);
}
