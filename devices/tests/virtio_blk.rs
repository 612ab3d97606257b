//! The block device by a driver model: legal traffic of every kind, and requests that must fail.

use devices::virtio::{Blk, BlkConfig, NOTIFY_LATENCY, VirtioPci};
use driver_model::virtio_model::*;

const SECTORS: u64 = 4096;
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const F_READ_ONLY: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;

fn config() -> BlkConfig {
    BlkConfig { sectors: SECTORS, read_only: false, queues: 1, serial: "disk-7".into() }
}

struct Disk {
    driver: Driver<Blk>,
    header: u64,
    status: u64,
    data: u64,
    indirect: bool,
}

impl Disk {
    fn new(config: BlkConfig, features: u64) -> Self {
        let mut driver = Driver::attach(VirtioPci::new(Blk::new(config), true));
        driver.port.disk.data = vec![0; (SECTORS * 512) as usize];
        driver.bring_up(features, 16);
        let (header, status) = (driver.page(), driver.page());
        let data = driver.page();
        for _ in 0..64 {
            driver.page();
        }
        Self { driver, header, status, data, indirect: false }
    }

    /// Makes a request available on `queue`.
    fn add(&mut self, queue: usize, kind: u32, sector: u64, data: &[Piece]) {
        let header = self.header;
        self.driver.port.bytes_mut(header, 4).copy_from_slice(&kind.to_le_bytes());
        self.driver.port.bytes_mut(header + 8, 8).copy_from_slice(&sector.to_le_bytes());
        self.driver.port.bytes_mut(self.status, 1).fill(0xee);
        let mut pieces = vec![readable(header, 16)];
        pieces.extend(data);
        pieces.push(writable(self.status, 1));
        if self.indirect {
            self.driver.add_indirect(queue, &pieces);
        } else {
            self.driver.add(queue, &pieces);
        }
    }

    /// Has a request done; returns its status and the length reported.
    fn request(&mut self, kind: u32, sector: u64, data: &[Piece]) -> (u8, u32) {
        self.add(0, kind, sector, data);
        self.driver.notify(0);
        self.driver.run();
        let used = self.driver.collect(0);
        assert_eq!(used.len(), 1);
        (self.driver.port.bytes(self.status, 1)[0], used[0].1)
    }

    fn fill(&mut self, seed: u8, length: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..length).map(|at| (at / 7) as u8 ^ seed).collect();
        self.driver.port.bytes_mut(self.data, length).copy_from_slice(&bytes);
        bytes
    }

    fn range(&mut self, sector: u64, count: u32, flags: u32) -> Piece {
        let data = self.data;
        self.driver.port.bytes_mut(data, 8).copy_from_slice(&sector.to_le_bytes());
        self.driver.port.bytes_mut(data + 8, 4).copy_from_slice(&count.to_le_bytes());
        self.driver.port.bytes_mut(data + 12, 4).copy_from_slice(&flags.to_le_bytes());
        readable(data, 16)
    }
}

#[test]
fn configuration_describes_the_disk() {
    let mut disk = Disk::new(BlkConfig { queues: 3, ..config() }, 0);
    let driver = &mut disk.driver;
    assert_eq!(driver.read(CONFIG, 8), SECTORS);
    assert_eq!(driver.read(CONFIG + 12, 4), 256, "seg_max");
    assert_eq!(driver.read(CONFIG + 20, 4), 512, "blk_size");
    assert_eq!((driver.read(CONFIG + 24, 1), driver.read(CONFIG + 26, 2)), (3, 8), "topology");
    assert_eq!(driver.read(CONFIG + 34, 2), 3, "num_queues");
    assert_eq!((driver.read(CONFIG + 36, 4), driver.read(CONFIG + 40, 4)), (131_072, 1), "discard");
    assert_eq!(driver.read(CONFIG + 56, 1), 1, "write_zeroes_may_unmap");
    let mut byte = [0];
    assert!(
        devices::pci::PciDevice::bar_read(&mut driver.device, 0, CONFIG + 60, &mut byte, &mut driver.port)
            .is_err()
    );
}

#[test]
fn data_goes_there_and_back_in_pieces_and_by_indirect_tables() {
    for indirect in [false, true] {
        let mut disk = Disk::new(config(), INDIRECT | F_FLUSH);
        disk.indirect = indirect;
        let data = disk.data;
        let written = disk.fill(3, 4096);
        let pieces = [readable(data, 100), readable(data + 100, 412), readable(data + 512, 3584)];
        assert_eq!(disk.request(WRITE, 5, &pieces), (OK, 1));
        assert_eq!(disk.driver.port.disk.data[5 * 512..][..4096], written);
        assert_eq!(disk.driver.port.disk.flushes, 0, "the driver flushes");
        disk.driver.port.bytes_mut(data, 4096).fill(0);
        let pieces = [writable(data, 1), writable(data + 1, 4095)];
        assert_eq!(disk.request(READ, 5, &pieces), (OK, 4097));
        assert_eq!(disk.driver.port.bytes(data, 4096), written);
        assert_eq!(disk.request(FLUSH, 0, &[]), (OK, 1));
        assert_eq!(disk.driver.port.disk.flushes, 1);
        assert_eq!(disk.request(GET_ID, 0, &[writable(data, 20)]), (OK, 21));
        assert_eq!(disk.driver.port.bytes(data, 20), b"disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }
}

#[test]
fn status_may_share_a_piece_with_the_data_and_the_header_with_what_is_written() {
    let mut disk = Disk::new(config(), F_FLUSH);
    let data = disk.data;
    disk.fill(9, 16 + 512);
    disk.driver.port.bytes_mut(data, 16).copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    disk.driver.add(0, &[readable(data, 528), writable(data + 600, 1)]);
    disk.driver
        .port
        .bytes_mut(data + 700, 16)
        .copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    disk.driver.add(0, &[readable(data + 700, 16), writable(data + 1000, 513)]);
    disk.driver.notify(0);
    disk.driver.run();
    assert_eq!(disk.driver.collect(0), [(0, 1), (2, 513)]);
    let port = &disk.driver.port;
    assert_eq!(port.bytes(data + 16, 512), port.bytes(data + 1000, 512));
    assert_eq!((port.bytes(data + 600, 1)[0], port.bytes(data + 1512, 1)[0]), (OK, OK));
}

#[test]
fn a_driver_that_does_not_flush_has_its_writes_on_stable_storage() {
    let mut disk = Disk::new(config(), 0);
    let data = disk.data;
    disk.fill(3, 512);
    assert_eq!(disk.request(WRITE, 0, &[readable(data, 512)]), (OK, 1));
    assert_eq!(disk.driver.port.disk.flushes, 1);
}

#[test]
fn discarded_and_zeroed_sectors_read_as_zero() {
    let mut disk = Disk::new(config(), F_FLUSH | F_DISCARD);
    disk.driver.port.disk.data.fill(0xaa);
    let range = disk.range(8, 16, 0);
    assert_eq!(disk.request(DISCARD, 0, &[range]), (OK, 1));
    assert_eq!(disk.driver.port.disk.deallocated, 16 * 512);
    let range = disk.range(40, 8, 0);
    assert_eq!(disk.request(WRITE_ZEROES, 0, &[range]), (OK, 1));
    assert_eq!(disk.driver.port.disk.deallocated, 16 * 512);
    let range = disk.range(48, 8, 1);
    assert_eq!(disk.request(WRITE_ZEROES, 0, &[range]), (OK, 1));
    assert_eq!(disk.driver.port.disk.deallocated, 24 * 512);
    let zero =
        |sector: usize| disk.driver.port.disk.data[sector * 512..][..512].iter().all(|&byte| byte == 0);
    let found: Vec<bool> = [7, 8, 23, 24, 39, 40, 55, 56].map(zero).into();
    assert_eq!(found, [false, true, true, false, false, true, true, false]);
    for (kind, range, status) in [
        (DISCARD, (0, 8, 1), UNSUPPORTED),
        (WRITE_ZEROES, (0, 8, 2), UNSUPPORTED),
        (DISCARD, (SECTORS - 1, 2, 0), IO_ERROR),
        (DISCARD, (u64::MAX, 1, 0), IO_ERROR),
        (WRITE_ZEROES, (0, 131_073, 0), IO_ERROR),
    ] {
        let range = disk.range(range.0, range.1, range.2);
        assert_eq!(disk.request(kind, 0, &[range]).0, status, "{kind} {range:?}");
    }
    let data = disk.data;
    assert_eq!(disk.request(DISCARD, 0, &[readable(data, 8)]).0, IO_ERROR, "half a range");
}

#[test]
fn requests_that_cannot_be_done_are_answered_so() {
    let mut disk = Disk::new(config(), F_FLUSH);
    let data = disk.data;
    assert_eq!(disk.request(READ, SECTORS, &[writable(data, 512)]).0, IO_ERROR);
    assert_eq!(disk.request(READ, SECTORS - 1, &[writable(data, 1024)]).0, IO_ERROR);
    assert_eq!(disk.request(READ, u64::MAX / 512, &[writable(data, 512)]).0, IO_ERROR);
    assert_eq!(disk.request(READ, 0, &[writable(data, 100)]).0, IO_ERROR, "no whole sector");
    assert_eq!(disk.request(WRITE, SECTORS, &[readable(data, 512)]).0, IO_ERROR);
    assert_eq!(disk.request(GET_ID, 0, &[writable(data, 19)]).0, IO_ERROR);
    assert_eq!(disk.request(99, 0, &[]), (UNSUPPORTED, 1));
    assert_eq!(disk.request(READ, 0, &[writable(8, 512)]), (IO_ERROR, 0), "no memory there");
    assert_eq!(disk.request(WRITE, 0, &[readable(u64::MAX - 5, 512)]).0, IO_ERROR);
    disk.driver.port.disk.broken = true;
    assert_eq!(disk.request(READ, 0, &[writable(data, 512)]).0, IO_ERROR, "the host fails");
    assert_eq!(disk.request(WRITE, 0, &[readable(data, 512)]).0, IO_ERROR);
    assert_eq!(disk.request(FLUSH, 0, &[]).0, IO_ERROR);
    disk.driver.port.disk.broken = false;
    assert_eq!(disk.request(READ, 0, &[writable(data, 512)]).0, OK, "the disk goes on");
}

#[test]
fn a_read_only_disk_is_not_changed() {
    let mut disk = Disk::new(BlkConfig { read_only: true, ..config() }, F_FLUSH | F_DISCARD);
    let offered = disk.driver.offered();
    assert_eq!(offered & (F_READ_ONLY | F_DISCARD), F_READ_ONLY);
    disk.driver.port.disk.data.fill(0x55);
    let data = disk.data;
    disk.fill(1, 512);
    assert_eq!(disk.request(WRITE, 0, &[readable(data, 512)]).0, IO_ERROR);
    let range = disk.range(0, 8, 0);
    assert_eq!(disk.request(DISCARD, 0, &[range]).0, IO_ERROR);
    assert_eq!(disk.request(WRITE_ZEROES, 0, &[range]).0, IO_ERROR);
    assert!(disk.driver.port.disk.data.iter().all(|&byte| byte == 0x55));
    assert_eq!(disk.request(READ, 0, &[writable(data, 512)]).0, OK);
}

#[test]
fn queues_work_side_by_side_with_a_vector_each() {
    let mut disk = Disk::new(BlkConfig { queues: 4, ..config() }, F_FLUSH);
    let data = disk.data;
    for queue in 0..4 {
        disk.add(queue, READ, 0, &[writable(data, 512)]);
        disk.driver.notify(queue);
    }
    disk.driver.run();
    assert_eq!(disk.driver.port.interrupts, [1, 2, 3, 4]);
    for queue in 0..4 {
        assert_eq!(disk.driver.collect(queue).len(), 1);
    }
}

/// Completion is a matter of virtual time alone: latency, then what the bytes take.
#[test]
fn requests_take_their_time() {
    let mut disk = Disk::new(config(), F_FLUSH);
    let data = disk.data;
    let mut time = |length: u32| {
        let begin = disk.driver.port.now;
        assert_eq!(disk.request(READ, 0, &[writable(data, length)]).0, OK);
        disk.driver.port.now - begin
    };
    let (small, large) = (time(512), time(65_536));
    assert!(small > NOTIFY_LATENCY);
    assert_eq!(large - small, 65_536 - 512, "a nanosecond a byte");
}

/// Buffers of any length are worked at in turns, other queues in between.
#[test]
fn a_long_request_leaves_room_for_others() {
    let mut disk = Disk::new(BlkConfig { queues: 2, ..config() }, F_FLUSH);
    disk.driver.port.disk.data.fill(0x77);
    let data = disk.data;
    // The whole disk into the same memory over and over.
    let piece = SECTORS as u32 * 512 / 8;
    disk.add(0, READ, 0, &[writable(data, piece); 8]);
    disk.add(1, READ, 0, &[writable(data, 512)]);
    disk.driver.notify(0);
    disk.driver.notify(1);
    let (mut events, mut other_done_at) = (0, None);
    while disk.driver.run_one() {
        events += 1;
        if !disk.driver.collect(1).is_empty() {
            other_done_at = Some(events);
        }
    }
    assert_eq!(disk.driver.collect(0), [(0, SECTORS as u32 * 512 + 1)]);
    assert!(events >= 6 && other_done_at.unwrap() < events, "{events} {other_done_at:?}");
}

#[test]
fn a_reset_forgets_a_request_that_was_begun() {
    let mut disk = Disk::new(config(), F_FLUSH | RING_RESET);
    let data = disk.data;
    let long = [writable(data, 200 << 10); 10];
    disk.add(0, READ, 0, &long);
    disk.driver.notify(0);
    assert!(disk.driver.run_one());
    // The queue alone, while the device goes on.
    disk.driver.write(QUEUE_SELECT, 2, 0);
    disk.driver.write(0x3a, 2, 1);
    assert_eq!(
        (disk.driver.read(0x3a, 2), disk.driver.read(0x1c, 2), disk.driver.read(0x18, 2)),
        (0, 0, 256)
    );
    assert_eq!(disk.driver.run(), 0, "nothing is pending");
    disk.driver.set_up_queue(0, 8);
    assert_eq!(disk.request(READ, 0, &[writable(data, 512)]).0, OK);
    // The whole device.
    disk.add(0, READ, 0, &long);
    disk.driver.notify(0);
    assert!(disk.driver.run_one());
    disk.driver.write(STATUS, 1, 0);
    assert_eq!((disk.driver.read(STATUS, 1), disk.driver.run()), (0, 0));
    disk.driver.bring_up(F_FLUSH, 16);
    assert_eq!(disk.request(READ, 0, &[writable(data, 512)]).0, OK);
}

/// A machine that is cloned in the middle of a request continues it on both sides alike.
#[test]
fn state_is_plain_data() {
    let mut disk = Disk::new(config(), F_FLUSH);
    let data = disk.data;
    disk.add(0, READ, 0, &[writable(data, 200 << 10); 8]);
    disk.driver.notify(0);
    assert!(disk.driver.run_one());
    let mut copy = disk.driver.clone();
    disk.driver.run();
    copy.run();
    assert_eq!(copy.collect(0), disk.driver.collect(0));
    assert_eq!(copy.port.now, disk.driver.port.now);
    assert!(copy.port.ram == disk.driver.port.ram);
}
