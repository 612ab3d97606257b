//! The remote peer, seen from a driver: orders by SEND, one-sided requests into registered memory, answers.

use devices::mlx5::Mlx5Config;
use devices::mlx5::layout::commands::{OBJECT, PAGES};
use devices::mlx5::layout::contexts::mkc;
use devices::mlx5::peer::pattern::Pattern;
use devices::mlx5::peer::plan::PLAN_SEED;
use devices::mlx5::peer::protocol::{
    ANSWER_SIZE, FIRST_QPN, LID, MAX_ORDERS, ORDER_SIZE, QPN_COUNT, Status, answer, op, order,
};
use devices::random::Random;
use driver_model::mlx5_model::command;
use driver_model::mlx5_verbs::{
    AddressVector, AsyncEvent, Connection, Cq, Cqe, Pair, PairSpec, ReceiveQueue, SendRequest, Sge, Verbs,
    access, event, opcode, qp_state, syndrome, transport,
};

const RECEIVES: u64 = 16;

/// A queue pair connected to the peer, with receives posted, and memory that the peer may use.
struct Setup {
    verbs: Verbs,
    cq: Cq,
    pair: Pair,
    /// Where orders are sent from and answers go to.
    messages: u64,
    messages_key: u32,
    memory: u64,
    rkey: u32,
}

const MEMORY: u64 = 256 << 10;

fn to_peer() -> Connection {
    Connection { lid: LID, ..Connection::to(FIRST_QPN) }
}

impl Setup {
    fn new() -> Self {
        Self::with(Mlx5Config::default(), to_peer(), access::ALL)
    }

    fn with(config: Mlx5Config, to: Connection, rights: u32) -> Self {
        let mut verbs = Verbs::open_with(config);
        let cq = Cq::new(&mut verbs, 8);
        let messages = verbs.memory(64 * (RECEIVES + 1));
        let messages_key = verbs.register_with(messages, 64 * (RECEIVES + 1), access::LOCAL);
        let memory = verbs.memory(MEMORY);
        let rkey = verbs.register_with(memory, MEMORY, rights);
        let mut pair = Pair::new(&mut verbs, PairSpec::new(transport::RC, cq.cqn));
        pair.connect(&mut verbs, to);
        Self { verbs, cq, pair, messages, messages_key, memory, rkey }
    }

    fn post_receives(&mut self, count: u64) {
        for index in 1..=count {
            let place = Sge::new(self.messages + 64 * index, ANSWER_SIZE as u32, self.messages_key);
            self.pair.receive(&mut self.verbs, &[place]);
        }
    }

    fn give(&mut self, order: Wanted) {
        let message = order.message(self.rkey, self.memory);
        self.pair.send(&mut self.verbs, SendRequest::send(&[]).inline(&message));
    }

    /// What the `number`-th receive holds.
    fn answer(&self, number: u64) -> Vec<u8> {
        self.verbs.bytes(self.messages + 64 * (number + 1), ANSWER_SIZE).to_vec()
    }

    fn word(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.verbs.bytes(self.memory + at, 8).try_into().unwrap())
    }
}

#[derive(Clone, Copy)]
struct Wanted {
    op: u32,
    at: u64,
    len: u64,
    operands: [u64; 2],
    delay: u64,
    repeat: u32,
}

const WRITE: Wanted = Wanted { op: op::WRITE, at: 0, len: 1000, operands: [7, 0], delay: 100_000, repeat: 1 };
const ADD: Wanted = Wanted { op: op::FETCH_ADD, len: 8, operands: [5, 0], ..WRITE };

impl Wanted {
    fn message(self, rkey: u32, memory: u64) -> [u8; ORDER_SIZE] {
        let mut message = [0; ORDER_SIZE];
        let mut put = |at: usize, bytes: &[u8]| message[at..at + bytes.len()].copy_from_slice(bytes);
        put(order::OP, &self.op.to_le_bytes());
        put(order::RKEY, &rkey.to_le_bytes());
        put(order::ADDRESS, &(memory + self.at).to_le_bytes());
        put(order::LENGTH, &self.len.to_le_bytes());
        put(order::OPERAND, &self.operands[0].to_le_bytes());
        put(order::SWAP, &self.operands[1].to_le_bytes());
        put(order::DELAY, &self.delay.to_le_bytes());
        put(order::REPEAT, &self.repeat.to_le_bytes());
        put(order::COOKIE, &self.operands[0].to_le_bytes());
        message
    }
}

fn outcome(answer: &[u8]) -> (u32, u32, u64) {
    let word = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().unwrap());
    (word(answer::STATUS), word(answer::REPETITIONS), field(answer, answer::OLD))
}

fn field(answer: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(answer[at..at + 8].try_into().unwrap())
}

fn outcomes(cqes: &[Cqe]) -> Vec<(u8, u8, u16)> {
    cqes.iter().map(Cqe::outcome).collect()
}

#[test]
fn an_order_is_carried_out_at_its_time_and_answered() {
    let mut setup = Setup::new();
    setup.post_receives(1);
    setup.give(WRITE);
    setup.verbs.run_for(90_000);
    let sent = setup.cq.poll(&mut setup.verbs).expect("the order has left");
    assert_eq!(sent.outcome(), (opcode::REQUESTER, 0, 0));
    assert_eq!(setup.word(0), 0, "it is not time");
    let taken = setup.cq.one(&mut setup.verbs);
    assert_eq!(taken.outcome(), (opcode::SEND, 0, 0));
    assert_eq!((taken.bytes, taken.qpn), (ANSWER_SIZE as u32, setup.pair.qpn));
    let found = setup.verbs.bytes(setup.memory, 1008);
    assert_eq!(Pattern { seed: 7, repetition: 0 }.mismatch(0, &found[..1000]), None);
    assert_eq!(found[1000..], [0; 8], "not a byte more");
    let answer = setup.answer(0);
    assert_eq!(outcome(&answer), (Status::Done as u32, 1, 0));
    assert_eq!(field(&answer, answer::COOKIE), 7);
}

#[test]
fn all_operations_reach_the_memory() {
    let mut setup = Setup::new();
    setup.post_receives(5);
    let swap = Wanted { op: op::COMPARE_SWAP, operands: [15, 99], delay: 900_000, ..ADD };
    let check = Wanted { op: op::CHECK, at: 0x2000, len: 64 << 10, delay: 10, ..WRITE };
    let (memory, mut bytes) = (setup.memory, vec![0; 64 << 10]);
    Pattern { seed: 7, repetition: 0 }.fill(0, &mut bytes);
    setup.verbs.fill(memory + 0x2000, &bytes);
    for order in [Wanted { repeat: 3, ..ADD }, swap, check, Wanted { op: op::READ, delay: 999_000, ..check }]
    {
        setup.give(order);
    }
    // It checks what has been changed meanwhile, and finds the change.
    setup.verbs.run_for(100_000);
    let damaged = setup.verbs.bytes(memory + 0x2345, 1)[0] ^ 0x40;
    setup.verbs.fill(memory + 0x2345, &[damaged]);
    setup.give(check);
    setup.cq.drain(&mut setup.verbs);
    assert_eq!(setup.word(0), 99, "three additions of 5, then the swap");
    let answers: Vec<_> = (0..5).map(|number| outcome(&setup.answer(number))).collect();
    let first = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let done = Status::Done as u32;
    assert_eq!(
        answers,
        [
            (done, 1, first),
            (Status::Mismatch as u32, 1, first),
            (done, 3, 10),
            (done, 1, 15),
            (done, 1, first)
        ]
    );
    let mismatch = setup.answer(1);
    assert_eq!(field(&mismatch, answer::OFFSET), 0x345);
    assert_eq!(mismatch[answer::FOUND], damaged);
    assert_eq!(mismatch[answer::EXPECTED], bytes[0x345]);
    assert_ne!(field(&setup.answer(0), answer::DIGEST), field(&setup.answer(4), answer::DIGEST));
}

#[test]
fn an_answer_waits_for_a_receive() {
    let mut setup = Setup::new();
    setup.give(ADD);
    setup.verbs.run_for(150_000);
    assert_eq!(setup.word(0), 5, "the operation needs no receive");
    setup.post_receives(1);
    let cqes = setup.cq.drain(&mut setup.verbs);
    assert_eq!(outcomes(&cqes), [(opcode::REQUESTER, 0, 0), (opcode::SEND, 0, 0)]);
    assert_eq!(setup.pair.state(&mut setup.verbs), qp_state::READY_TO_SEND);
}

/// What breaks on the peer's side stays broken until the queue pair is connected anew.
#[test]
fn answers_that_nobody_takes_break_the_connection() {
    let mut setup = Setup::with(Mlx5Config::default(), Connection { retry: 1, ..to_peer() }, access::ALL);
    setup.give(ADD);
    setup.cq.one(&mut setup.verbs);
    let mut modify_nothing = command(0x505, 0, PAGES);
    OBJECT.set(&mut modify_nothing, setup.pair.qpn.into());
    setup.verbs.driver.succeed(&modify_nothing, 16);
    setup.post_receives(1);
    setup.give(ADD);
    assert_eq!(setup.cq.drain(&mut setup.verbs)[0].syndrome, syndrome::RETRY_EXCEEDED);
    assert_eq!(setup.word(0), 5, "the second order has not been taken");
    setup.pair.reset(&mut setup.verbs);
    setup.pair.connect(&mut setup.verbs, to_peer());
    setup.post_receives(1);
    setup.give(ADD);
    assert_eq!(setup.cq.drain(&mut setup.verbs).len(), 2);
    assert_eq!(setup.word(0), 10);
}

/// More orders than the peer takes wait in the guest's send queue, and come to their turn.
#[test]
fn orders_beyond_the_bound_wait() {
    let mut setup = Setup::new();
    setup.post_receives(RECEIVES);
    let count = MAX_ORDERS + 8;
    for _ in 0..count {
        setup.give(ADD);
    }
    setup.verbs.run_for(90_000);
    let sent = std::iter::from_fn(|| setup.cq.poll(&mut setup.verbs)).count();
    assert_eq!(sent, MAX_ORDERS);
    setup.verbs.run_for(100_000);
    setup.post_receives(8);
    let cqes = setup.cq.drain(&mut setup.verbs);
    assert_eq!(cqes.iter().filter(|cqe| cqe.opcode == opcode::SEND).count(), count);
    assert_eq!(setup.word(0), 5 * count as u64);
}

/// The guest's side of a connection that the peer's request has broken.
fn is_broken(setup: &mut Setup, kind: u8) {
    setup.verbs.settle();
    assert_eq!(setup.pair.state(&mut setup.verbs), qp_state::ERROR);
    let events = setup.verbs.async_events();
    assert!(events.contains(&AsyncEvent { kind, number: setup.pair.qpn }), "{events:?}");
    let cqes = setup.cq.drain(&mut setup.verbs);
    let flushed: Vec<_> = cqes.iter().filter(|cqe| cqe.is_error()).map(Cqe::outcome).collect();
    assert_eq!(flushed, [(opcode::RESPONDER_ERROR, syndrome::FLUSHED, 0)], "the receive, and no answer");
}

#[test]
fn rights_and_bounds_are_those_of_any_requester() {
    let beyond = Wanted { at: MEMORY - 999, ..WRITE };
    let cases = [
        (beyond, access::ALL, event::WQ_ACCESS),
        (Wanted { at: MEMORY, len: 1, ..WRITE }, access::ALL, event::WQ_ACCESS),
        (WRITE, access::ALL & !access::REMOTE_WRITE, event::WQ_ACCESS),
        (Wanted { op: op::READ, ..WRITE }, access::ALL & !access::REMOTE_READ, event::WQ_ACCESS),
        (ADD, access::ALL & !access::ATOMIC, event::WQ_ACCESS),
        (Wanted { at: 4, ..ADD }, access::ALL, event::WQ_INVALID_REQUEST),
    ];
    for (order, rights, kind) in cases {
        let mut setup = Setup::with(Mlx5Config::default(), to_peer(), rights);
        setup.post_receives(1);
        setup.give(order);
        is_broken(&mut setup, kind);
        assert!(setup.verbs.bytes(setup.memory, MEMORY as usize).iter().all(|byte| *byte == 0));
    }
    // What the queue pair itself does not allow.
    let mut setup =
        Setup::with(Mlx5Config::default(), Connection { remote_write: false, ..to_peer() }, access::ALL);
    setup.post_receives(1);
    setup.give(WRITE);
    is_broken(&mut setup, event::WQ_INVALID_REQUEST);
}

/// A key that is gone when the time comes is no key.
#[test]
fn memory_may_be_deregistered_before_the_time_comes() {
    let mut setup = Setup::new();
    setup.post_receives(1);
    setup.give(WRITE);
    setup.verbs.run_for(50_000);
    setup.verbs.destroy_key(setup.rkey);
    is_broken(&mut setup, event::WQ_ACCESS);
}

#[test]
fn a_connection_made_anew_works_and_knows_nothing_of_the_old() {
    let mut setup = Setup::new();
    setup.post_receives(2);
    setup.give(Wanted { at: MEMORY, ..WRITE });
    setup.verbs.settle();
    setup.cq.drain(&mut setup.verbs);
    for reset_early in [false, true] {
        setup.pair.reset(&mut setup.verbs);
        setup.pair.connect(&mut setup.verbs, to_peer());
        setup.post_receives(2);
        setup.give(ADD);
        if reset_early {
            setup.verbs.run_for(50_000);
        } else {
            setup.cq.drain(&mut setup.verbs);
        }
        assert_eq!(setup.word(0), 5);
    }
    setup.pair.to_error(&mut setup.verbs);
    setup.verbs.run_for(1_000_000);
    assert_eq!(setup.word(0), 5, "the order of a connection that is gone");
}

#[test]
fn messages_that_are_no_orders_are_answered_or_refused() {
    let mut setup = Setup::new();
    setup.post_receives(2);
    setup.pair.send(&mut setup.verbs, SendRequest::send(&[]).inline(&[0; 63]));
    setup.give(Wanted { op: 77, ..WRITE });
    assert_eq!(setup.cq.drain(&mut setup.verbs).len(), 4);
    let answers: Vec<_> = (0..2).map(|number| outcome(&setup.answer(number)).0).collect();
    assert_eq!(answers, [Status::BadSize as u32, Status::BadOperation as u32]);

    let refused = |request: fn(&Setup) -> SendRequest| {
        let mut setup = Setup::new();
        let request = request(&setup);
        setup.pair.send(&mut setup.verbs, request);
        setup.cq.one(&mut setup.verbs).syndrome
    };
    let sge = |setup: &Setup, len| Sge::new(setup.memory, len, setup.rkey);
    assert_eq!(
        [
            refused(|setup| SendRequest::send(&[Sge::new(setup.memory, 65, setup.rkey)])),
            refused(|setup| SendRequest::write(0, 0, &[Sge::new(setup.memory, 8, setup.rkey)])),
            refused(|setup| SendRequest::read(0, 0, &[Sge::new(setup.memory, 8, setup.rkey)])),
            refused(|setup| SendRequest::fetch_add(0, 0, 1, Sge::new(setup.memory, 8, setup.rkey))),
        ],
        [
            syndrome::REMOTE_INVALID_REQUEST,
            syndrome::REMOTE_ACCESS,
            syndrome::REMOTE_ACCESS,
            syndrome::REMOTE_ACCESS
        ]
    );
    // An order need not be inline.
    let mut setup = Setup::new();
    let message = ADD.message(setup.rkey, setup.memory);
    setup.verbs.fill(setup.memory + 0x1000, &message);
    let gather = [Sge { at: setup.memory + 0x1000, ..sge(&setup, 64) }];
    setup.post_receives(1);
    setup.pair.send(&mut setup.verbs, SendRequest::send(&gather));
    assert_eq!(setup.cq.drain(&mut setup.verbs).len(), 2);
    assert_eq!(setup.word(0), 5);
}

/// Nobody answers on numbers that the peer has not, nor to transports that it does not speak.
#[test]
fn only_reliable_connections_to_its_numbers_are_answered() {
    for (qpn, answered) in [
        (FIRST_QPN - 1, false),
        (FIRST_QPN, true),
        (FIRST_QPN + QPN_COUNT - 1, true),
        (FIRST_QPN + QPN_COUNT, false),
    ] {
        let to = Connection { qpn, retry: 1, ..to_peer() };
        let mut setup = Setup::with(Mlx5Config::default(), to, access::ALL);
        setup.post_receives(1);
        setup.give(ADD);
        let sent = setup.cq.drain(&mut setup.verbs)[0].syndrome;
        assert_eq!(sent, if answered { 0 } else { syndrome::RETRY_EXCEEDED }, "{qpn:#x}");
        assert_eq!(setup.word(0) != 0, answered, "{qpn:#x}");
    }
    let mut verbs = Verbs::open();
    let mut cq = Cq::new(&mut verbs, 4);
    let mut pair = Pair::new(&mut verbs, PairSpec::new(transport::UC, cq.cqn));
    pair.connect(&mut verbs, to_peer());
    pair.send(&mut verbs, SendRequest::send(&[]).inline(&[0; 64]));
    assert_eq!(cq.one(&mut verbs).outcome(), (opcode::REQUESTER, 0, 0), "sent, and lost");

    let mut pair = Pair::new(&mut verbs, PairSpec::new(transport::UD, cq.cqn));
    pair.connect(&mut verbs, to_peer());
    let vector = AddressVector { q_key: 0x1111_1111, qpn: FIRST_QPN, lid: LID, extended: false };
    pair.send(&mut verbs, SendRequest::send(&[]).inline(&[0; 64]).to(vector));
    assert_eq!(cq.one(&mut verbs).outcome(), (opcode::REQUESTER, 0, 0), "likewise");
}

#[test]
fn a_plan_needs_no_order() {
    let config = Mlx5Config { peer: Some("write@1ms*2".parse().unwrap()), ..Mlx5Config::default() };
    let mut setup = Setup::with(config, to_peer(), access::ALL);
    let end = setup.verbs.driver.port.now + 900_000;
    setup.verbs.run_for(900_000);
    assert!(setup.verbs.driver.port.now <= end);
    assert_eq!(setup.word(0), 0);
    setup.verbs.settle();
    let found = setup.verbs.bytes(setup.memory, MEMORY as usize);
    assert_eq!(Pattern { seed: PLAN_SEED, repetition: 1 }.mismatch(0, found), None);
    assert!(setup.cq.drain(&mut setup.verbs).is_empty(), "nothing is answered");

    // Only memory with the right to it is taken, the newest first.
    let rights = access::LOCAL | access::REMOTE_READ;
    let mut setup = Setup::with(config, to_peer(), rights);
    setup.verbs.settle();
    assert_eq!(setup.word(0), 0);
    assert_eq!(setup.pair.state(&mut setup.verbs), qp_state::READY_TO_SEND);
    let (older, newer) = (setup.verbs.memory(4096), setup.verbs.memory(4096));
    for memory in [older, newer] {
        setup.verbs.register_with(memory, 4096, access::LOCAL | access::REMOTE_WRITE);
    }
    setup.pair.reset(&mut setup.verbs);
    setup.pair.connect(&mut setup.verbs, to_peer());
    setup.verbs.settle();
    assert_eq!(setup.verbs.bytes(older, 4096), [0; 4096]);
    assert_eq!(Pattern { seed: PLAN_SEED, repetition: 1 }.mismatch(0, setup.verbs.bytes(newer, 4096)), None);
}

/// A key that a work request fills is the newest then, however long it has existed.
#[test]
fn a_plan_takes_memory_that_a_work_request_has_registered() {
    const UMR: u8 = 0x25;
    const INLINE: u8 = 1 << 7;
    const LENGTH_PAGE_SIZE_START_RIGHTS_FREE: u64 = 1 << 0 | 1 << 1 | 1 << 6 | 1 << 20 | 1 << 29;
    let config = Mlx5Config { peer: Some("write@1ms".parse().unwrap()), ..Mlx5Config::default() };
    let mut verbs = Verbs::open_with(config);
    let mut cq = Cq::new(&mut verbs, 4);
    let (older, newer) = (verbs.memory(4096), verbs.memory(4096));
    let key = verbs.free_key(false, 4);
    verbs.register(newer, 4096);
    let spec = PairSpec { receive: ReceiveQueue::None, ..PairSpec::new(transport::REGISTER, cq.cqn) };
    let mut registrar = Pair::loopback(&mut verbs, spec);
    let mut body = vec![0; 48 + mkc::SIZE + 64];
    body[0] = INLINE;
    body[5] = 4;
    body[8..16].copy_from_slice(&LENGTH_PAGE_SIZE_START_RIGHTS_FREE.to_be_bytes());
    for (field, value) in
        [(mkc::START_ADDR, older), (mkc::LEN, 4096), (mkc::LOG_PAGE_SIZE, 12), (mkc::REMOTE_WRITE, 1)]
    {
        field.set(&mut body[48..], value);
    }
    body[48 + mkc::SIZE..][..8].copy_from_slice(&(older | 3).to_be_bytes());
    registrar.send(&mut verbs, SendRequest::new(UMR).word(key).segments(&body));
    assert_eq!(cq.one(&mut verbs).syndrome, 0);
    Pair::new(&mut verbs, PairSpec::new(transport::RC, cq.cqn)).connect(&mut verbs, to_peer());
    verbs.settle();
    assert_eq!(Pattern { seed: PLAN_SEED, repetition: 0 }.mismatch(0, verbs.bytes(older, 4096)), None);
    assert_eq!(verbs.bytes(newer, 4096), [0; 4096]);
}

/// Orders without delay that never end do not keep the device from its other work.
#[test]
fn endless_orders_leave_turns_to_others() {
    let mut setup = Setup::new();
    setup.post_receives(RECEIVES);
    for _ in 1..MAX_ORDERS {
        setup.give(Wanted { delay: 0, repeat: 1 << 20, at: 8, len: 64 << 10, ..WRITE });
    }
    setup.give(Wanted { delay: 1000, ..ADD });
    setup.verbs.run_for(1_000_000);
    assert_eq!(setup.word(0), 5, "another order");
    let mut other_cq = Cq::new(&mut setup.verbs, 4);
    let mut other = Pair::loopback(&mut setup.verbs, PairSpec::new(transport::RC, other_cq.cqn));
    let place = Sge::new(setup.messages, 64, setup.messages_key);
    other.receive(&mut setup.verbs, &[place]);
    other.send(&mut setup.verbs, SendRequest::send(&[]).inline(&[1; 64]));
    setup.verbs.run_for(100_000);
    let done = std::iter::from_fn(|| other_cq.poll(&mut setup.verbs)).count();
    assert_eq!(done, 2);
}

/// A hostile guest: whatever it orders, the device comes back, other memory is untouched and new connections work.
#[test]
fn random_orders_do_no_harm() {
    let mut random = Random::new(0x5eed);
    let mut setup = Setup::new();
    let guard = setup.verbs.memory(4096);
    setup.verbs.fill(guard, &[0xa5; 4096]);
    let mut answered = 0;
    for _ in 0..300 {
        setup.post_receives(random.next_u64() % RECEIVES);
        for _ in 0..random.next_u64() % 24 {
            let mut pick = |values: &[u64]| values[(random.next_u64() % values.len() as u64) as usize];
            let order = Wanted {
                op: pick(&[0, 1, 1, 2, 3, 4, 5, 5, 6, u64::MAX]) as u32,
                at: pick(&[0, 8, 4, 64, MEMORY - 8, MEMORY, 1 << 40]),
                len: pick(&[0, 1, 8, 8, 8, 4096, MEMORY, 1 << 20, u64::MAX]),
                operands: [pick(&[0, 1, u64::MAX]), pick(&[0, 1, u64::MAX])],
                delay: pick(&[0, 1, 1000, 3_600_000_000_000, u64::MAX]),
                repeat: pick(&[0, 1, 1, 3, 1 << 20, u64::from(u32::MAX)]) as u32,
            };
            let len = pick(&[64, 64, 64, 64, 64, 1, 0]) as usize;
            let message = order.message(setup.rkey ^ pick(&[0, 0, 0, 0, 1, 0x100]) as u32, setup.memory);
            setup.pair.send(&mut setup.verbs, SendRequest::send(&[]).inline(&message[..len]));
        }
        setup.verbs.run_for(100_000);
        answered += std::iter::from_fn(|| setup.cq.poll(&mut setup.verbs))
            .filter(|cqe| cqe.opcode == opcode::SEND)
            .count();
        setup.verbs.async_events();
        setup.pair.reset(&mut setup.verbs);
        setup.pair.connect(&mut setup.verbs, to_peer());
    }
    assert!(answered > 100, "{answered}");
    assert_eq!(setup.verbs.bytes(guard, 4096), [0xa5; 4096]);
    setup.verbs.fill(setup.memory, &[0; 8]);
    setup.post_receives(1);
    setup.give(ADD);
    setup.cq.drain(&mut setup.verbs);
    assert_eq!(setup.word(0), 5);
}
