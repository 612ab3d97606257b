use super::super::guest::MemoryArea;
use super::super::plan::PLAN_SEED;
use super::super::protocol::{ANSWER_SIZE, MAX_REPEAT, answer, op, order};
use super::*;

const QPN: u32 = 20;
const BASE: u64 = 0x10_0000;
const RKEY: u32 = 0x501;

/// Memory under one key, and the receives that queue pair [`QPN`] has posted.
#[derive(Debug, Default)]
struct Memory {
    bytes: Vec<u8>,
    receives: usize,
    answers: Vec<[u8; ANSWER_SIZE]>,
    /// Requests and bytes of one-sided operations.
    requests: u32,
    moved: u64,
}

impl Memory {
    fn new(len: usize, receives: usize) -> Self {
        Self { bytes: vec![0; len], receives, ..Self::default() }
    }

    fn range(&mut self, rkey: u32, address: u64, len: usize) -> Result<&mut [u8], Nak> {
        self.requests += 1;
        self.moved += len as u64;
        let start = address.checked_sub(BASE).filter(|_| rkey == RKEY).ok_or(Nak::RemoteAccess)? as usize;
        self.bytes.get_mut(start..start + len).ok_or(Nak::RemoteAccess)
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }
}

impl Guest for Memory {
    fn write(&mut self, _qpn: u32, rkey: u32, address: u64, data: &[u8]) -> Result<(), Nak> {
        self.range(rkey, address, data.len())?.copy_from_slice(data);
        Ok(())
    }

    fn read(&mut self, _qpn: u32, rkey: u32, address: u64, data: &mut [u8]) -> Result<(), Nak> {
        data.copy_from_slice(self.range(rkey, address, data.len())?);
        Ok(())
    }

    fn atomic(&mut self, _qpn: u32, rkey: u32, address: u64, op: AtomicOp) -> Result<u64, Nak> {
        let place = self.range(rkey, address, 8)?;
        let old = u64::from_le_bytes((&*place).try_into().unwrap());
        let new = match op {
            AtomicOp::CompareSwap { compare, swap } if old == compare => swap,
            AtomicOp::CompareSwap { .. } => old,
            AtomicOp::FetchAdd(addend) => old.wrapping_add(addend),
        };
        place.copy_from_slice(&new.to_le_bytes());
        Ok(old)
    }

    fn send(&mut self, _qpn: u32, message: &[u8]) -> Result<(), Nak> {
        self.receives = self.receives.checked_sub(1).ok_or(Nak::NotReady(1000))?;
        self.answers.push(message.try_into().expect("an answer's length"));
        Ok(())
    }

    fn newest_memory(&self, _qpn: u32, _operation: Operation) -> Option<MemoryArea> {
        let len = self.bytes.len() as u64;
        (len > 0).then_some(MemoryArea { rkey: RKEY, address: BASE, len })
    }
}

/// One turn at `now`.
fn turn(node: &mut Node, now: Nanos, memory: &mut Memory) {
    node.run(now, &mut Budget::new(), memory);
}

fn connected() -> Node {
    let mut node = Node::default();
    node.connect(QPN, None);
    node
}

/// What a test asks for; the rest is put in by [`Wanted::message`].
#[derive(Clone, Copy)]
struct Wanted {
    op: u32,
    at: u64,
    len: u64,
    operands: [u64; 2],
    delay: Nanos,
    repeat: u32,
}

impl Wanted {
    fn message(self) -> [u8; ORDER_SIZE] {
        let mut message = [0; ORDER_SIZE];
        let mut put = |at: usize, bytes: &[u8]| message[at..at + bytes.len()].copy_from_slice(bytes);
        put(order::OP, &self.op.to_le_bytes());
        put(order::RKEY, &RKEY.to_le_bytes());
        put(order::ADDRESS, &(BASE + self.at).to_le_bytes());
        put(order::LENGTH, &self.len.to_le_bytes());
        put(order::OPERAND, &self.operands[0].to_le_bytes());
        put(order::SWAP, &self.operands[1].to_le_bytes());
        put(order::DELAY, &self.delay.to_le_bytes());
        put(order::REPEAT, &self.repeat.to_le_bytes());
        put(order::COOKIE, &u64::from(self.op).to_le_bytes());
        message
    }
}

const WRITE: Wanted = Wanted { op: op::WRITE, at: 0, len: 100, operands: [7, 0], delay: 50, repeat: 1 };

fn field(answer: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(answer[at..at + 8].try_into().unwrap())
}

fn status(answer: &[u8]) -> (u32, u32) {
    let word = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().unwrap());
    (word(answer::STATUS), word(answer::REPETITIONS))
}

/// Runs the node at each time that it asks for, up to `end`; returns those times.
fn run_until(node: &mut Node, memory: &mut Memory, end: Nanos) -> Vec<Nanos> {
    let mut times = Vec::new();
    while let Some(due) = node.next_due().filter(|due| *due <= end) {
        turn(node, due, memory);
        times.push(due);
        assert!(times.len() < 100_000, "it does not end");
    }
    times
}

#[test]
fn a_write_comes_after_its_delay_and_again_at_each_interval() {
    let (mut node, mut memory) = (connected(), Memory::new(100, 1));
    node.accept(QPN, &Wanted { repeat: 3, ..WRITE }.message(), 1000);
    turn(&mut node, 1049, &mut memory);
    assert_eq!(memory.requests, 0, "not due");
    for (repetition, time) in [1050, 1100, 1150].into_iter().enumerate() {
        assert_eq!(node.next_due(), Some(time));
        turn(&mut node, time, &mut memory);
        let pattern = Pattern { seed: 7, repetition: repetition as u32 };
        assert_eq!(pattern.mismatch(0, &memory.bytes), None);
    }
    let [answer] = memory.answers.as_slice() else { panic!("{:?}", memory.answers) };
    assert_eq!(status(answer), (Status::Done as u32, 3));
    assert_eq!((field(answer, answer::COOKIE), field(answer, answer::TIME)), (1, 1150));
    assert_eq!(node.next_due(), None);
}

#[test]
fn orders_due_together_keep_their_order() {
    let (mut node, mut memory) = (connected(), Memory::new(8, 3));
    let add = Wanted { op: op::FETCH_ADD, len: 8, operands: [1, 0], repeat: 4, ..WRITE };
    let swap = Wanted { op: op::COMPARE_SWAP, operands: [1, 0], ..add };
    node.accept(QPN, &add.message(), 0);
    node.accept(QPN, &swap.message(), 0);
    run_until(&mut node, &mut memory, 1000);
    assert_eq!(memory.word(0), 0, "each 1 is swapped away before the next is added");
    assert_eq!(memory.answers.iter().map(|answer| field(answer, answer::OLD)).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_check_tells_where_it_finds_what() {
    let (mut node, mut memory) = (connected(), Memory::new(200_000, 2));
    let check = Wanted { op: op::CHECK, len: 200_000, repeat: 5, ..WRITE };
    Pattern { seed: 7, repetition: 0 }.fill(0, &mut memory.bytes);
    let read = Wanted { op: op::READ, ..check };
    node.accept(QPN, &Wanted { repeat: 1, ..read }.message(), 0);
    run_until(&mut node, &mut memory, 60);
    assert_eq!(status(&memory.answers[0]), (0, 1));
    assert_eq!(field(&memory.answers[0], answer::OLD), memory.word(0));
    let mut digest = Digest::default();
    digest.add(&memory.bytes);
    assert_eq!(field(&memory.answers[0], answer::DIGEST), digest.0);

    // The first repetition is right up to a late byte, after which nothing is read.
    let good = memory.bytes[150_001];
    memory.bytes[150_001] = good ^ 0xff;
    let requests = memory.requests;
    node.accept(QPN, &check.message(), 100);
    run_until(&mut node, &mut memory, 1000);
    let answer = &memory.answers[1];
    assert_eq!(status(answer), (Status::Mismatch as u32, 1));
    assert_eq!(field(answer, answer::OFFSET), 150_001);
    assert_eq!(answer[answer::FOUND..answer::FOUND + 8], memory.bytes[150_001..150_009]);
    assert_eq!(answer[answer::EXPECTED], good);
    assert_eq!(answer[answer::EXPECTED + 1..], memory.bytes[150_002..150_009]);
    assert_eq!(memory.requests - requests, 3, "no request after the one that differs");
}

/// The digest is the published FNV-1a.
#[test]
fn the_digest_is_fnv_1a() {
    let mut digest = Digest::default();
    digest.add(b"foobar");
    assert_eq!(digest.0, 0x8594_4171_f739_67e8);
}

#[test]
fn a_turn_is_bounded_and_what_is_left_goes_on() {
    let (mut node, mut memory) = (connected(), Memory::new(1 << 20, 2));
    node.accept(QPN, &Wanted { len: 1 << 20, delay: 0, repeat: 2, ..WRITE }.message(), 0);
    let mut turns = 0;
    while node.next_due().is_some() {
        let before = memory.moved;
        turn(&mut node, 5, &mut memory);
        assert!(memory.moved - before < 1 << 20);
        turns += 1;
    }
    assert_eq!(memory.moved, 2 << 20);
    assert!(turns > 2, "{turns}");
    assert_eq!(Pattern { seed: 7, repetition: 1 }.mismatch(0, &memory.bytes), None);

    let add = Wanted { op: op::FETCH_ADD, len: 8, delay: 0, repeat: MAX_REPEAT, ..WRITE };
    node.accept(QPN, &add.message(), 0);
    memory.requests = 0;
    turn(&mut node, 5, &mut memory);
    assert!((1..1000).contains(&memory.requests), "{}", memory.requests);
    assert_eq!(node.next_due(), Some(5), "the rest is due still");
}

#[test]
fn outstanding_orders_are_bounded() {
    let (mut node, mut memory) = (connected(), Memory::new(100, MAX_ORDERS));
    for _ in 0..MAX_ORDERS {
        assert_eq!(node.admit(QPN, 64), Ok(()));
        node.accept(QPN, &WRITE.message(), 0);
    }
    assert_eq!(node.admit(QPN, 64), Err(Nak::NotReady(BUSY_DELAY)));
    run_until(&mut node, &mut memory, 100);
    assert_eq!(memory.answers.len(), MAX_ORDERS);
    assert_eq!(node.admit(QPN, 64), Ok(()), "answered orders make room");
    assert_eq!(node.admit(QPN, 65), Err(Nak::InvalidRequest), "longer than an order");
    assert_eq!(node.admit(QPN + 1, 64), Err(Nak::NoAnswer), "not connected");
}

#[test]
fn a_message_that_is_no_order_is_answered() {
    let (mut node, mut memory) = (connected(), Memory::new(100, 2));
    node.accept(QPN, &[1; 10], 9);
    node.accept(QPN, &Wanted { repeat: 0, ..WRITE }.message(), 9);
    run_until(&mut node, &mut memory, 9);
    let statuses: Vec<_> = memory.answers.iter().map(|answer| status(answer)).collect();
    assert_eq!(statuses, [(Status::BadSize as u32, 0), (Status::BadRepeat as u32, 0)]);
    assert_eq!(memory.requests, 0);
}

#[test]
fn an_answer_waits_for_a_receive_but_not_for_ever() {
    let (mut node, mut memory) = (connected(), Memory::new(100, 0));
    node.accept(QPN, &WRITE.message(), 0);
    run_until(&mut node, &mut memory, 50);
    assert_eq!(node.next_due(), Some(50 + MIN_RETRY_DELAY));
    memory.receives = 1;
    run_until(&mut node, &mut memory, 50 + MIN_RETRY_DELAY);
    assert_eq!(memory.answers.len(), 1);

    node.accept(QPN, &WRITE.message(), 0);
    let times = run_until(&mut node, &mut memory, Nanos::MAX);
    assert_eq!(times.len(), 2 + ANSWER_RETRIES as usize - 1);
    assert_eq!(node.admit(QPN, 64), Err(Nak::NoAnswer), "the connection is broken");
}

#[test]
fn a_refused_request_breaks_the_connection() {
    for wanted in [
        Wanted { len: 101, ..WRITE },
        Wanted { op: op::FETCH_ADD, at: 96, len: 8, ..WRITE },
        Wanted { at: BASE.wrapping_neg() - 1, len: 4, ..WRITE },
    ] {
        let (mut node, mut memory) = (connected(), Memory::new(100, 5));
        node.accept(QPN, &wanted.message(), 0);
        node.accept(QPN, &Wanted { delay: 60, ..WRITE }.message(), 0);
        run_until(&mut node, &mut memory, Nanos::MAX);
        assert_eq!(memory.requests, 1, "the order behind it is dropped");
        assert!(memory.answers.is_empty());
        assert_eq!(node.admit(QPN, 64), Err(Nak::NoAnswer));
    }
}

#[test]
fn addresses_do_not_wrap() {
    let (mut node, mut memory) = (connected(), Memory::new(100, 1));
    let mut message = Wanted { len: 1 << 20, ..WRITE }.message();
    message[order::ADDRESS..][..8].copy_from_slice(&(u64::MAX - 10).to_le_bytes());
    node.accept(QPN, &message, 0);
    run_until(&mut node, &mut memory, Nanos::MAX);
    assert_eq!(node.admit(QPN, 64), Err(Nak::NoAnswer));
}

#[test]
fn a_new_connection_has_nothing_of_the_old() {
    let (mut node, mut memory) = (connected(), Memory::new(100, 5));
    node.connect(QPN + 1, None);
    node.accept(QPN, &WRITE.message(), 0);
    node.accept(QPN + 1, &WRITE.message(), 0);
    node.connect(QPN, None);
    run_until(&mut node, &mut memory, Nanos::MAX);
    assert_eq!(memory.answers.len(), 1, "the other connection goes on");
    node.disconnect(QPN);
    node.accept(QPN, &WRITE.message(), 0);
    assert_eq!(node.next_due(), None);
}

#[test]
fn a_plan_starts_with_each_connection() {
    let mut node = Node::default();
    let mut memory = Memory::new(100, 0);
    node.connect(QPN, Some("write@1us*2".parse().unwrap()));
    turn(&mut node, 500, &mut memory);
    assert_eq!((memory.requests, node.next_due()), (0, Some(1500)));
    assert_eq!(run_until(&mut node, &mut memory, Nanos::MAX), [1500, 2500]);
    assert_eq!(Pattern { seed: PLAN_SEED, repetition: 1 }.mismatch(0, &memory.bytes), None);
    assert!(memory.answers.is_empty(), "nobody has asked");

    memory.bytes.clear();
    node.connect(QPN, Some("check@1us".parse().unwrap()));
    run_until(&mut node, &mut memory, Nanos::MAX);
    assert_eq!((memory.requests, node.reports), (2, 2), "there is no memory to check");
    for _ in 0..MAX_ORDERS {
        assert_eq!(node.admit(QPN, 64), Ok(()), "a plan is not the guest's order");
        node.accept(QPN, &WRITE.message(), 3000);
    }
}
