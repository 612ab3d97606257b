//! Registration by work request.

use crate::link::Link;
use driver_model::mlx5_model::PAGE;
use driver_model::mlx5_verbs::{
    Cq, Pair, PairSpec, ReceiveQueue, SendRequest, Sge, access, syndrome, transport,
};

const UMR: u8 = 0x25;
const INLINE: u8 = 1 << 7;
/// The request fails unless the key is free.
const FAIL_IF_NOT_FREE: u8 = 1 << 5;

/// Which fields of the key a request changes.
mod mask {
    pub const LEN: u64 = 1 << 0;
    pub const PAGE_SIZE: u64 = 1 << 1;
    pub const START: u64 = 1 << 6;
    pub const PD: u64 = 1 << 7;
    pub const KEY: u64 = 1 << 13;
    pub const RIGHTS: u64 = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21;
    pub const FREE: u64 = 1 << 29;
    pub const REGISTER: u64 = LEN | PAGE_SIZE | START | KEY | RIGHTS | FREE;
}

/// What a key becomes.
#[derive(Clone, Copy)]
struct Wanted {
    variant: u8,
    keyed: bool,
    pd: u32,
    start: u64,
    len: u64,
    rights: u32,
    octwords: u32,
    free: bool,
}

impl Wanted {
    fn segment(self) -> Vec<u8> {
        let mode: u8 = if self.keyed { 2 } else { 1 };
        let rights = (self.rights as u8) << 2;
        let bit = |access: u32, at: u8| if u32::from(rights >> 2) & access != 0 { 1 << at } else { 0 };
        let flags = bit(access::LOCAL_READ, 2)
            | bit(access::LOCAL_WRITE, 3)
            | bit(access::REMOTE_READ, 4)
            | bit(access::REMOTE_WRITE, 5)
            | bit(access::ATOMIC, 6)
            | 1 << 7
            | mode;
        let mut segment = vec![if self.free { 1 << 6 } else { 0 }, 0, flags, 0];
        segment.extend((0xffff_ff00 | u32::from(self.variant)).to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(self.pd.to_be_bytes());
        segment.extend(self.start.to_be_bytes());
        segment.extend(self.len.to_be_bytes());
        segment.extend([0; 20]);
        segment.extend(self.octwords.to_be_bytes());
        segment.extend([0, 0, 0, 12, 0, 0, 0, 0]);
        assert_eq!(segment.len(), 64);
        segment
    }
}

fn control(flags: u8, octwords: u16, mask: u64) -> Vec<u8> {
    let mut segment = vec![flags, 0, 0, 0];
    segment.extend(octwords.to_be_bytes());
    segment.extend([0; 2]);
    segment.extend(mask.to_be_bytes());
    segment.extend([0; 32]);
    segment
}

/// A page list as the request or the memory it names holds it: pages that may be read and written, filled up to whole 64
/// bytes.
fn page_list(pages: &[u64]) -> Vec<u8> {
    const READ_AND_WRITE: u64 = 3;
    let mut list: Vec<u8> = pages.iter().flat_map(|page| (page | READ_AND_WRITE).to_be_bytes()).collect();
    list.resize(list.len().next_multiple_of(64), 0);
    list
}

fn wanted(link: &Link, variant: u8, start: u64, len: u64) -> Wanted {
    let rights = access::ALL;
    Wanted { variant, keyed: false, pd: link.verbs.pd, start, len, rights, octwords: 4, free: false }
}

fn register(key: u32, wanted: Wanted, flags: u8, translations: &[u8], octwords: u16) -> SendRequest {
    let body = [control(flags, octwords, mask::REGISTER), wanted.segment(), translations.to_vec()].concat();
    SendRequest::new(UMR).word(key).segments(&body)
}

fn use_key(link: &mut Link, key: u32, start: u64, seed: u64) -> Vec<u8> {
    let data = link.fill(seed, 6000);
    let element = link.a.sge(0, 6000);
    link.succeed(SendRequest::write(start, key, &[element]));
    data
}

#[test]
fn a_fast_registration_takes_pages_from_the_request_or_from_memory() {
    for inline in [true, false] {
        let mut link = Link::new(transport::RC);
        let key = link.verbs.free_key(false, 4);
        let new_key = key & !0xff | 0x77;
        let pages = [link.b.at + 5 * PAGE, link.b.at + PAGE];
        let list = page_list(&pages);
        let wanted = wanted(&link, 0x77, 0x40_0800, 6000);
        let request = if inline {
            register(new_key, wanted, INLINE | FAIL_IF_NOT_FREE, &list, 4)
        } else {
            link.verbs.fill(link.a.at + (1 << 20), &list);
            let pointer = link.a.sge(1 << 20, list.len() as u32);
            register(new_key, wanted, FAIL_IF_NOT_FREE, &pointer.encode(), 4)
        };
        link.succeed(request);
        let data = use_key(&mut link, new_key, 0x40_0800, 1);
        assert!(link.at_b(5 * PAGE + 0x800, 0x800) == &data[..0x800]);
        assert!(link.at_b(PAGE, 6000 - 0x800) == &data[0x800..]);
        let element = link.a.sge(0, 8);
        link.fail(SendRequest::write(0x40_0800, key, &[element]), syndrome::REMOTE_ACCESS);
    }
}

#[test]
fn a_registration_and_its_use_may_share_a_doorbell() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.free_key(false, 4);
    let list = page_list(&[link.b.at, link.b.at + PAGE]);
    let request = register(key, wanted(&link, key as u8, 0, 2 * PAGE), INLINE | FAIL_IF_NOT_FREE, &list, 4)
        .unsignalled();
    let write = SendRequest::write(4000, key, &[]).inline(b"across the pages: a line longer than the rest of the page, as it has to be to cross it at all, is it not?");
    let index = link.a.pair.post(&mut link.verbs, &[request, write])[1];
    let cqe = link.a.cq.one(&mut link.verbs);
    assert_eq!((cqe.syndrome, cqe.wqe_counter), (0, index));
    assert_eq!(link.at_b(4000, 10), b"across the");
}

#[test]
fn a_free_key_cannot_be_used_and_an_invalidated_one_is_free() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.free_key(false, 4);
    let element = link.a.sge(0, 8);
    link.fail(SendRequest::write(0, key, &[element]), syndrome::REMOTE_ACCESS);

    let mut link = Link::new(transport::RC);
    let key = link.verbs.free_key(false, 4);
    let list = page_list(&[link.b.at, link.b.at + PAGE]);
    let wanted = wanted(&link, key as u8, 0, 2 * PAGE);
    link.succeed(register(key, wanted, INLINE | FAIL_IF_NOT_FREE, &list, 4));
    use_key(&mut link, key, 0, 1);
    let free = Wanted { free: true, octwords: 0, ..wanted };
    let body = [control(INLINE, 0, mask::FREE), free.segment()].concat();
    link.succeed(SendRequest::new(UMR).word(key).segments(&body));
    let element = link.a.sge(0, 8);
    link.fail(SendRequest::write(0, key, &[element]), syndrome::REMOTE_ACCESS);
}

#[test]
fn the_other_end_may_invalidate_a_key_that_allows_it() {
    const SEND_INVALIDATE: u8 = 0x01;
    const RECEIVED_INVALIDATE: u8 = 4;
    const EN_RINVAL_MASK: u64 = 1 << 8;
    const EN_RINVAL: u32 = 1 << 24;
    for allowed in [true, false] {
        let mut link = Link::new(transport::RC);
        let key = link.verbs.free_key(false, 4);
        let list = page_list(&[link.b.at, link.b.at + PAGE]);
        let mut wanted = wanted(&link, key as u8, 0, 2 * PAGE);
        wanted.pd |= if allowed { EN_RINVAL } else { 0 };
        let segments =
            [control(INLINE | FAIL_IF_NOT_FREE, 4, mask::REGISTER | EN_RINVAL_MASK), wanted.segment(), list];
        // The key is b's own, and b registers it.
        link.b.pair.send(&mut link.verbs, SendRequest::new(UMR).word(key).segments(&segments.concat()));
        assert_eq!(link.b.cq.one(&mut link.verbs).syndrome, 0);
        use_key(&mut link, key, 0, 1);
        link.receive(100_000, 64);
        let request = SendRequest::new(SEND_INVALIDATE).word(key).inline(b"done");
        if allowed {
            link.succeed(request);
            let cqe = link.b.cq.one(&mut link.verbs);
            assert_eq!((cqe.opcode, cqe.bytes, cqe.immediate), (RECEIVED_INVALIDATE, 4, key));
            let element = link.a.sge(0, 8);
            link.fail(SendRequest::write(0, key, &[element]), syndrome::REMOTE_ACCESS);
        } else {
            link.fail(request, syndrome::REMOTE_ACCESS);
        }
    }
}

#[test]
fn a_key_that_is_not_free_is_not_registered_again() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.free_key(false, 4);
    let list = page_list(&[link.b.at]);
    let wanted = wanted(&link, key as u8, 0, PAGE);
    link.succeed(register(key, wanted, INLINE | FAIL_IF_NOT_FREE, &list, 4));
    let cqe = link.complete(register(key, wanted, INLINE | FAIL_IF_NOT_FREE, &list, 4));
    assert!(cqe.is_error());
    assert_eq!(link.states().0, 6);
}

#[test]
fn the_drivers_own_queue_registers_and_releases_memory() {
    let mut link = Link::new(transport::RC);
    let mut cq = Cq::new(&mut link.verbs, 4);
    let spec = PairSpec { receive: ReceiveQueue::None, ..PairSpec::new(transport::REGISTER, cq.cqn) };
    let mut umr = Pair::loopback(&mut link.verbs, spec);
    let lkey = link.verbs.physical_key(access::LOCAL);
    let key = link.verbs.free_key(false, 4);
    let list = page_list(&[3, 1].map(|page| link.b.at + page * PAGE));
    let list_at = link.verbs.memory(4096);
    link.verbs.fill(list_at, &list);
    let pointer = Sge::new(list_at, list.len() as u32, lkey).encode();
    let wanted = wanted(&link, 0x31, 0x9000, 2 * PAGE);
    let new_key = key & !0xff | 0x31;
    let body = [control(FAIL_IF_NOT_FREE, 4, mask::REGISTER | mask::PD), wanted.segment(), pointer.to_vec()]
        .concat();
    umr.send(&mut link.verbs, SendRequest::new(UMR).word(key & !0xff).segments(&body));
    assert_eq!(cq.one(&mut link.verbs).syndrome, 0);
    let data = use_key(&mut link, new_key, 0x9000, 1);
    assert!(link.at_b(3 * PAGE, 4096) == &data[..4096]);
    assert!(link.at_b(PAGE, 6000 - 4096) == &data[4096..]);
}

#[test]
fn a_keyed_list_can_be_registered_too() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.free_key(true, 4);
    let mut list = Vec::new();
    for (bytes, at) in [(10u32, link.b.at + 500), (20, link.b.at)] {
        list.extend(Sge::new(at, bytes, link.b.key).encode());
    }
    list.resize(64, 0);
    let wanted = Wanted { keyed: true, ..wanted(&link, key as u8, 0, 30) };
    link.succeed(register(key, wanted, INLINE | FAIL_IF_NOT_FREE, &list, 4));
    let data = *b"0123456789abcdefghijklmnopqrst";
    link.succeed(SendRequest::write(0, key, &[]).inline(&data));
    assert_eq!(link.at_b(500, 10), &data[..10]);
    assert_eq!(link.at_b(0, 20), &data[10..]);
}

#[test]
fn changes_of_a_long_keyed_list_are_spread_over_turns() {
    const OCTWORDS: u16 = 1 << 14;
    const CHANGES: usize = 30;
    let mut link = Link::new(transport::RC);
    let key = link.verbs.free_key(true, OCTWORDS.into());
    let octwords = OCTWORDS.into();
    let wanted = Wanted { keyed: true, octwords, ..wanted(&link, key as u8, 0, 30) };
    let pointer = link.a.sge(0, 16 * u32::from(OCTWORDS));
    link.succeed(register(key, wanted, FAIL_IF_NOT_FREE, &pointer.encode(), OCTWORDS));
    let nothing = || {
        let body = [control(0, 0, 0), wanted.segment()].concat();
        SendRequest::new(UMR).word(key).segments(&body)
    };
    let requests: Vec<_> = (0..CHANGES).map(|_| nothing()).collect();
    link.a.pair.post(&mut link.verbs, &requests);
    let mut turns = 0;
    while link.verbs.driver.deliver_event() {
        turns += 1;
    }
    let done = link.a.cq.drain(&mut link.verbs);
    assert_eq!(done.iter().filter(|cqe| !cqe.is_error()).count(), CHANGES);
    assert!(turns >= CHANGES / 2, "{turns} turns");
}

#[test]
fn registrations_cannot_outgrow_the_key_or_hit_what_is_not_theirs() {
    for number in 0..6 {
        let mut link = Link::new(transport::RC);
        let key = link.verbs.free_key(false, 4);
        let wanted = wanted(&link, key as u8, 0, PAGE);
        let list = page_list(&[link.b.at]);
        let plain = link.verbs.register(link.b.at, 64);
        let request = match number {
            // More entries than the key has room for.
            0 => {
                register(key, Wanted { octwords: 0xffff, ..wanted }, INLINE | FAIL_IF_NOT_FREE, &list, 0xffff)
            }
            // A key that does not exist.
            1 => register(0x00ff_ff00, wanted, INLINE | FAIL_IF_NOT_FREE, &list, 4),
            // A key that may not be changed by requests.
            2 => register(plain, wanted, INLINE, &list, 4),
            // A list in memory that the request may not read.
            3 => register(key, wanted, FAIL_IF_NOT_FREE, &Sge::new(0, 64, link.b.key).encode(), 4),
            // No list at all.
            4 => register(key, wanted, FAIL_IF_NOT_FREE, &[], 4),
            // No segments at all.
            _ => SendRequest::new(UMR).word(key),
        };
        let cqe = link.complete(request);
        assert!(cqe.is_error(), "case {number}");
        assert_eq!(link.states().0, 6, "case {number}");
    }
}
