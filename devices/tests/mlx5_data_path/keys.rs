//! Memory keys: translation and its bounds.

use crate::link::Link;
use driver_model::mlx5_model::PAGE;
use driver_model::mlx5_verbs::{SendRequest, Sge, access, pattern, syndrome, transport};

#[test]
fn a_page_list_is_followed_page_by_page() {
    let mut link = Link::new(transport::RC);
    let pages: Vec<u64> = [7, 2, 9, 0].iter().map(|page| link.b.at + page * PAGE).collect();
    // Programs see the pages side by side, from an address in the middle of the first.
    let start = 0x7f00_0000_0123;
    let len = 4 * PAGE - 0x123 - 5;
    let key = link.verbs.page_key(start, len, 12, &pages, access::ALL);
    let data = link.fill(1, len as usize);
    let element = link.a.sge(0, len as u32);
    link.succeed(SendRequest::write(start, key, &[element]));
    let mut seen = Vec::new();
    for (number, page) in pages.iter().enumerate() {
        let skip = if number == 0 { 0x123 } else { 0 };
        seen.extend_from_slice(link.verbs.bytes(page + skip, (PAGE - skip) as usize));
    }
    assert!(seen[..len as usize] == data);
    assert_eq!(seen[len as usize..], [0; 5]);
    let back = link.a.sge(1 << 20, 100);
    link.succeed(SendRequest::read(start + 5000, key, &[back]));
    assert!(link.verbs.bytes(back.at, 100) == &data[5000..5100]);
}

#[test]
fn pages_may_be_large() {
    let mut link = Link::new(transport::RC);
    let size = 1u64 << 16;
    let base = link.b.at.next_multiple_of(size);
    let pages = [base + 2 * size, base];
    let key = link.verbs.page_key(0x10_0000, 2 * size, 16, &pages, access::ALL);
    let data = link.fill(1, 2 * size as usize);
    let element = link.a.sge(0, 2 * size as u32);
    link.succeed(SendRequest::write(0x10_0000, key, &[element]));
    assert!(link.verbs.bytes(base + 2 * size, size as usize) == &data[..size as usize]);
    assert!(link.verbs.bytes(base, size as usize) == &data[size as usize..]);
}

#[test]
fn a_physical_key_takes_bus_addresses() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.physical_key(access::ALL);
    let data = link.fill(1, 10_000);
    let element = Sge { key, ..link.a.sge(0, 10_000) };
    link.succeed(SendRequest::write(link.b.at + 77, key, &[element]));
    assert!(link.at_b(77, 10_000) == data);
}

#[test]
fn a_keyed_list_is_made_of_other_keys() {
    let mut link = Link::new(transport::RC);
    let inner = link.verbs.page_key(
        0x5000,
        3 * PAGE,
        12,
        &[0, 2, 4].map(|page| link.b.at + page * PAGE),
        access::ALL,
    );
    let outer = [(100, inner, 0x5010), (50, link.b.key, link.b.at + 100_000), (5000, inner, 0x5f00)];
    let key = link.verbs.keyed_key(0x1_0000, &outer, access::ALL);
    let data = link.fill(1, 5150);
    let element = link.a.sge(0, 5150);
    link.succeed(SendRequest::write(0x1_0000, key, &[element]));
    assert!(link.at_b(0x10, 100) == &data[..100]);
    assert!(link.at_b(100_000, 50) == &data[100..150]);
    assert!(link.at_b(0xf00, 0x100) == &data[150..406]);
    assert!(link.at_b(2 * PAGE, 4096) == &data[406..4502]);
    assert!(link.at_b(4 * PAGE, 648) == &data[4502..]);
    let back = link.a.sge(1 << 20, 20);
    link.succeed(SendRequest::read(0x1_0000 + 95, key, &[back]));
    assert!(link.verbs.bytes(back.at, 20) == &data[95..115]);
    link.fail(SendRequest::read(0x1_0000 + 5140, key, &[back]), syndrome::REMOTE_ACCESS);
}

#[test]
fn a_key_with_fewer_pages_than_its_length_needs_is_refused_where_they_end() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.page_key(0, 4 * PAGE, 12, &[link.b.at], access::ALL);
    let element = link.a.sge(0, 64);
    link.succeed(SendRequest::write(PAGE - 64, key, &[element]));
    link.fail(SendRequest::write(PAGE - 32, key, &[element]), syndrome::REMOTE_ACCESS);
}

#[test]
fn memory_that_is_not_there_is_a_fault_of_who_registered_it() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.page_key(0, PAGE, 12, &[0xfee0_0000], access::ALL);
    let element = Sge::new(0, 64, key);
    let cqe = link.complete(SendRequest::write(link.b.at, link.b.key, &[element]));
    assert!(cqe.is_error());
    let mut link = Link::new(transport::RC);
    let key = link.verbs.page_key(0, PAGE, 12, &[0xfee0_0000], access::ALL);
    let element = link.a.sge(0, 64);
    let cqe = link.complete(SendRequest::write(0, key, &[element]));
    assert!(cqe.is_error());
    assert_eq!(link.states(), (6, 6));
}

#[test]
fn keys_are_checked_whole_before_anything_moves() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.register(link.b.at, 100_000);
    link.fill(1, 100_001);
    let element = link.a.sge(0, 100_001);
    link.verbs.driver.port.log = Some(Vec::new());
    link.fail(SendRequest::write(link.b.at, key, &[element]), syndrome::REMOTE_ACCESS);
    let log = link.verbs.driver.port.log.take().unwrap();
    let area = link.b.at..link.b.at + 100_001;
    assert!(!log.iter().any(|done| area.contains(&done.iova)), "no byte of the target has been touched");
}

#[test]
fn a_key_destroyed_between_requests_is_gone() {
    let mut link = Link::new(transport::RC);
    let key = link.verbs.register(link.b.at, 64);
    let data = pattern(1, 16);
    link.succeed(SendRequest::write(link.b.at, key, &[]).inline(&data));
    link.verbs.destroy_key(key);
    link.fail(SendRequest::write(link.b.at + 16, key, &[]).inline(&data), syndrome::REMOTE_ACCESS);
    assert_eq!(link.at_b(16, 16), [0; 16]);
}
