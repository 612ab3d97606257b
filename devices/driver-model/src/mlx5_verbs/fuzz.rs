//! A hostile program made of bytes: what it may do to the data path, and what the device may never do for it.
//!
//! The bytes are read as a list of actions: work requests and receives, well-formed or not, counters, doorbells, lives of
//! objects, time. The program owns some queues and some registered memory. Whatever it does, the device reads and writes
//! nothing else, and the work of one register access or event is bounded.

use super::{
    AddressVector, Connection, Cq, LID, Pair, PairSpec, ReceiveQueue, SendRequest, Sge, Srq, SrqKind, Verbs,
};
use super::{access, transport};
use crate::mlx5_model::{Driver, PAGE, command};
use crate::mock_port::{Transaction, TransactionKind};
use devices::mlx5::Mlx5Config;
use devices::mlx5::layout::commands::OBJECT;
use devices::mlx5::peer::protocol::{self as peer, order};
use std::ops::Range;

/// Memory transactions of one register access or event.
const MAX_TRANSACTIONS: usize = 100_000;
const AREA: u64 = 64 << 10;

/// An input that is being read; zeros follow its end.
#[derive(Debug)]
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }
}

/// The program and its device.
#[derive(Debug)]
struct World {
    verbs: Verbs,
    cqs: Vec<Cq>,
    pairs: Vec<Pair>,
    srq: Srq,
    at: u64,
    /// Keys of the program: for everything, for reading, over pieces, and some that do not exist.
    keys: Vec<u32>,
    /// What the device may touch.
    may_read: Vec<Range<u64>>,
    may_write: Vec<Range<u64>>,
}

/// Plays an input; returns the device and its driver as they are in the end.
///
/// # Panics
/// If the device does what it must not.
pub fn run(input: &[u8]) -> Verbs {
    run_with(input, |_| {})
}

/// The same; `between` is called after each action.
///
/// # Panics
/// If the device does what it must not.
pub fn run_with(input: &[u8], mut between: impl FnMut(&mut Verbs)) -> Verbs {
    let mut source = Source(input);
    let mut world = World::new(Driver::new(Mlx5Config::default()));
    while !source.0.is_empty() {
        world.act(&mut source);
        world.check();
        between(&mut world.verbs);
    }
    world.pass_time(64);
    world.others_work();
    world.verbs
}

/// The pair that is connected to the remote peer; the others are connected to themselves.
const PEER_PAIR: usize = 4;

fn connection(number: usize, qpn: u32) -> Connection {
    let own = Connection { rnr_retry: 2, retry: 1, ..Connection::to(qpn) };
    if number == PEER_PAIR { Connection { qpn: peer::FIRST_QPN, lid: peer::LID, ..own } } else { own }
}

impl World {
    /// A program on a device in the state after power-on.
    fn new(driver: Driver) -> Self {
        let mut verbs = Verbs::attach(driver);
        let cqs: Vec<Cq> = [2, 7].map(|log_size| Cq::new(&mut verbs, log_size)).into();
        let srq = Srq::new(&mut verbs, SrqKind::Pool, 4, 6);
        let at = verbs.memory(AREA);
        let whole = verbs.register(at, AREA);
        let read_only = verbs.register_with(at, AREA, access::LOCAL_READ | access::REMOTE_READ);
        let pieces = verbs.keyed_key(
            at,
            &[(100, whole, at), (5000, read_only, at), (100, whole, at + 7)],
            access::ALL,
        );
        let keys = vec![whole, read_only, pieces, whole ^ 1, 0, 0x100, u32::MAX];
        let mut pairs = Vec::new();
        for (kind, cq, receive) in [
            (transport::RC, 1, ReceiveQueue::Own),
            (transport::RC, 0, ReceiveQueue::Shared(srq.srqn)),
            (transport::UC, 1, ReceiveQueue::Own),
            (transport::UD, 1, ReceiveQueue::Own),
            (transport::RC, 1, ReceiveQueue::Own),
        ] {
            let spec =
                PairSpec { receive, log_send: Some(4), log_receive: 3, ..PairSpec::new(kind, cqs[cq].cqn) };
            let mut pair = Pair::new(&mut verbs, spec);
            let to = connection(pairs.len(), pair.qpn);
            pair.connect(&mut verbs, to);
            pairs.push(pair);
        }
        let mut world =
            Self { verbs, cqs, pairs, srq, at, keys, may_read: Vec::new(), may_write: Vec::new() };
        world.learn_ranges();
        world.verbs.driver.port.log = Some(Vec::new());
        world
    }

    fn learn_ranges(&mut self) {
        let pages = |pages: &[u64]| pages.iter().map(|page| *page..page + PAGE).collect::<Vec<_>>();
        let driver = &self.verbs.driver;
        // The command queue and its mailboxes are the kernel's, which is not hostile here.
        let mut both = vec![driver.queue..driver.queue + PAGE + (4 << 20), self.at..self.at + AREA];
        both.extend(driver.eqs.values().map(|eq| eq.buffer..eq.buffer + (64 << eq.log_size)));
        for cq in &self.cqs {
            both.extend(pages(&cq.buffer.pages));
        }
        self.may_write.clone_from(&both);
        for cq in &self.cqs {
            both.push(cq.record..cq.record + 8);
        }
        for pair in &self.pairs {
            both.push(pair.record..pair.record + 8);
            both.extend(pages(&pair.buffer.pages));
        }
        both.push(self.srq.record..self.srq.record + 8);
        both.extend(pages(&self.srq.buffer.pages));
        self.may_read = both;
    }

    /// The device has touched nothing that is not the program's, and not too much of that.
    fn check(&mut self) {
        let log = self.verbs.driver.port.log.replace(Vec::new()).unwrap_or_default();
        assert!(log.len() <= MAX_TRANSACTIONS, "{} transactions at once", log.len());
        for done in log {
            let Transaction { kind, iova, len, .. } = done;
            let allowed = if kind == TransactionKind::Read { &self.may_read } else { &self.may_write };
            let end = iova.saturating_add(len as u64);
            let inside = allowed.iter().any(|range| range.start <= iova && end <= range.end);
            assert!(inside || len == 0, "{done:x?} touches memory of others");
        }
    }

    fn pass_time(&mut self, events: usize) {
        for _ in 0..events {
            if !self.verbs.driver.deliver_event() {
                return;
            }
            self.check();
        }
    }

    fn act(&mut self, source: &mut Source<'_>) {
        let number = usize::from(source.byte()) % self.pairs.len();
        match source.byte() % 16 {
            0..4 => {
                let request = self.request(source);
                let count = 1 + source.byte() % 4;
                for _ in 0..count {
                    self.pairs[number].place(&mut self.verbs, &request);
                }
                self.pairs[number].ring(&mut self.verbs);
            }
            4 => {
                let len = 16 + usize::from(source.byte()) % 100;
                let bytes = source.bytes(len);
                self.pairs[number].place_bytes(&mut self.verbs, &bytes);
                self.pairs[number].ring(&mut self.verbs);
            }
            5 | 6 => self.receive(source, number),
            7 => {
                let pair = &self.pairs[number];
                let (at, counter) =
                    (pair.record + 4 * u64::from(source.byte() % 2), u32::from(source.word()));
                self.verbs.fill(at, &counter.to_be_bytes());
            }
            8 => {
                let word = u64::from(source.word()) << 8 | u64::from(source.byte());
                let offset = source.pick(&[0x20u64, 0x24, 0x800, 0x804, 0x900, 0x904, 0xf00]);
                self.verbs.driver.write64(u64::from(self.verbs.uar) * PAGE + (offset & !4), word);
            }
            9 => {
                let next = source.word();
                self.srq.set_next(&mut self.verbs, u16::from(source.byte() % 16), next);
                let counter = source.word();
                self.verbs.fill(self.srq.record, &counter.to_be_bytes());
            }
            10 => self.command(source),
            11 => {
                let cq = usize::from(source.byte()) % self.cqs.len();
                let solicited = source.byte() & 1 != 0;
                self.cqs[cq].arm(&mut self.verbs, solicited);
            }
            12 => {
                let cq = usize::from(source.byte()) % self.cqs.len();
                while self.cqs[cq].poll(&mut self.verbs).is_some() {}
            }
            13 => self.revive(number),
            14 => self.order(source),
            _ => self.pass_time(1 + usize::from(source.byte() % 16)),
        }
    }

    fn sge(&self, source: &mut Source<'_>) -> Sge {
        let at = match source.byte() % 8 {
            0 => u64::from(source.word()) << 48 | u64::from(source.word()),
            1 => self.at + AREA - u64::from(source.byte()),
            _ => self.at + u64::from(source.word()) % AREA,
        };
        let len = match source.byte() % 8 {
            0 => u32::from(source.word()) << 16 | u32::from(source.word()),
            1 => u32::from(source.word()),
            _ => u32::from(source.byte()),
        };
        Sge::new(at, len, source.pick(&self.keys))
    }

    fn request(&self, source: &mut Source<'_>) -> SendRequest {
        let opcode = match source.byte() {
            255 => source.byte(),
            byte => [8, 9, 0xa, 0xb, 0x10, 0x11, 0x12, 0x25, 0][usize::from(byte) % 9],
        };
        let mut request = SendRequest::new(opcode).word(source.word().into());
        let flags = source.byte();
        if flags & 1 != 0 {
            request = request.unsignalled();
        }
        if flags & 2 != 0 {
            request = request.solicited();
        }
        if flags & 4 != 0 {
            request = request.fenced();
        }
        for _ in 0..1 + source.byte() % 6 {
            let segment = match source.byte() % 8 {
                0 => source.bytes(16),
                1 => {
                    let len = u32::from(source.byte() % 64);
                    let mut segment = (len | 1 << 31).to_be_bytes().to_vec();
                    segment.extend(source.bytes(len as usize));
                    segment.resize(segment.len().next_multiple_of(16), 0);
                    segment
                }
                2 => {
                    let extended = source.byte() & 1 != 0;
                    let pair = usize::from(source.byte()) % self.pairs.len();
                    let qpn = self.pairs[pair].qpn;
                    let vector = AddressVector { q_key: 0x1111_1111, qpn, lid: LID, extended };
                    SendRequest::new(0).to(vector).encode(0, 0).split_off(16)
                }
                3 | 4 => {
                    let Sge { at, key, .. } = self.sge(source);
                    [&at.to_be_bytes()[..], &key.to_be_bytes(), &[0; 4]].concat()
                }
                _ => self.sge(source).encode().to_vec(),
            };
            request = request.segments(&segment);
        }
        request
    }

    /// An order to the remote peer.
    fn order(&mut self, source: &mut Source<'_>) {
        // Most connections are broken before long.
        if source.byte().is_multiple_of(2) {
            self.revive(PEER_PAIR);
            self.receive(source, PEER_PAIR);
        }
        let Sge { at, len, key } = self.sge(source);
        let at = source.pick(&[at, at & !7]);
        let key = source.pick(&[key, self.keys[0], self.keys[0], self.keys[2]]);
        let op = u32::from(source.byte() % 7);
        let len = source.pick(&[8, 8, u64::from(len), 1 << 20]);
        let any = u64::from(source.word());
        let delay = source.pick(&[0, 1, 1000, any]);
        let repeat = source.pick(&[1, 1, 2, peer::MAX_REPEAT]);
        let mut message = [0; peer::ORDER_SIZE];
        let mut put = |at: usize, bytes: &[u8]| message[at..at + bytes.len()].copy_from_slice(bytes);
        put(order::OP, &op.to_le_bytes());
        put(order::RKEY, &key.to_le_bytes());
        put(order::ADDRESS, &at.to_le_bytes());
        put(order::LENGTH, &len.to_le_bytes());
        put(order::DELAY, &delay.to_le_bytes());
        put(order::REPEAT, &repeat.to_le_bytes());
        let pair = &mut self.pairs[PEER_PAIR];
        pair.send(&mut self.verbs, SendRequest::send(&[]).inline(&message));
    }

    fn receive(&mut self, source: &mut Source<'_>, number: usize) {
        let raw = source.byte();
        let elements: Vec<Sge> = (0..1 + source.byte() % 2).map(|_| self.sge(source)).collect();
        let pair = &mut self.pairs[number];
        if pair.spec.receive == ReceiveQueue::Own {
            if raw == 255 {
                pair.receive_bytes(&mut self.verbs, &source.bytes(64));
            } else {
                pair.receive(&mut self.verbs, &elements);
            }
        } else if self.srq.has_room() {
            self.srq.post(&mut self.verbs, &elements);
        }
    }

    /// A command of the kernel's about an object of the program's. Whether it succeeds does not matter.
    fn command(&mut self, source: &mut Source<'_>) {
        let opcode = source.pick(&[
            0x501u16, 0x502, 0x503, 0x504, 0x505, 0x506, 0x507, 0x50a, 0x50b, 0x202, 0x401, 0x402, 0x90e,
            0x90f,
        ]);
        let number = match opcode >> 8 {
            5 => self.pairs[usize::from(source.byte()) % self.pairs.len()].qpn,
            2 => source.pick(&self.keys) >> 8,
            4 => source.pick(&[self.cqs[0].cqn, self.cqs[1].cqn]),
            _ => self.srq.srqn,
        };
        let mut input = command(opcode, 0, 272);
        OBJECT.set(&mut input, number.into());
        let at = 16 + usize::from(source.byte());
        input[at] = source.byte();
        // The stage of its object's life may be wrong.
        let _ = self.verbs.driver.execute(&input, 4112);
    }

    /// Connects a pair anew; if it does not exist any more, the driver is unbound and bound again.
    fn revive(&mut self, number: usize) {
        const RESET_QP: u16 = 0x50a;
        const TEARDOWN_HCA: u16 = 0x103;
        const DISABLE_HCA: u16 = 0x105;
        let pair = &mut self.pairs[number];
        let mut input = command(RESET_QP, 0, 16);
        OBJECT.set(&mut input, pair.qpn.into());
        if self.verbs.driver.execute(&input, 16).status() == 0 {
            pair.reset(&mut self.verbs);
            let to = connection(number, pair.qpn);
            pair.connect(&mut self.verbs, to);
        } else {
            let driver = &mut self.verbs.driver;
            driver.succeed(&command(TEARDOWN_HCA, 0, 16), 16);
            driver.succeed(&command(DISABLE_HCA, 0, 16), 16);
            *self = Self::new(Driver::attach(driver.device.clone()));
        }
    }

    /// A program that has had no part in this finds the device in order.
    fn others_work(&mut self) {
        self.verbs.driver.port.log = None;
        let mut cq = Cq::new(&mut self.verbs, 3);
        let mut pair = Pair::loopback(&mut self.verbs, PairSpec::new(transport::RC, cq.cqn));
        pair.receive(&mut self.verbs, &[]);
        pair.send(&mut self.verbs, SendRequest::send(&[]).unsignalled());
        for _ in 0..10_000 {
            if let Some(cqe) = cq.poll(&mut self.verbs) {
                assert!(!cqe.is_error(), "{cqe:x?}");
                return;
            }
            assert!(self.verbs.driver.deliver_event(), "the message has arrived");
        }
        panic!("the message of another program does not arrive");
    }
}
