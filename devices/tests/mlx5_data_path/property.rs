//! Random sequences of operations: memory and completions agree with the reference after each batch.

use crate::reference::{
    AREA, Couple, End, GRH, KEYED, Local, MTU, Operation, PAGE, Piece, Receive, Received, Request, SHUFFLED,
    SHUFFLED_START, Target,
};
use driver_model::mlx5_model::PAGE as DEVICE_PAGE;
use driver_model::mlx5_verbs::{
    AddressVector, Connection, Cq, Cqe, LID, Pair, PairSpec, ReceiveQueue, SendRequest, Sge, Srq, SrqKind,
    Verbs, access, opcode, pattern, transport,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

/// What the couples are: transport, and whether the second end's receives come from a pool.
const COUPLES: [(u8, bool); 4] =
    [(transport::RC, false), (transport::RC, true), (transport::UC, false), (transport::UD, false)];
const MAX_RECEIVES: usize = 14;
const MAX_INLINE: usize = 180;
const SHUFFLED_BASE: u64 = 0x5555_0000_0000 + SHUFFLED_START as u64;
const SHUFFLED_LEN: usize = AREA - SHUFFLED_START;
const KEYED_BASE: u64 = 0x123;

#[derive(Debug, Clone)]
enum Step {
    Receive {
        couple: usize,
        end: usize,
        scatter: Vec<(u16, u16)>,
    },
    /// One batch for each of some couples, all posted before the device works on any.
    Batches(Vec<Batch>),
}

#[derive(Debug, Clone)]
struct Batch {
    couple: usize,
    end: usize,
    requests: Vec<Draft>,
}

/// A request before it is known which transport it is for.
#[derive(Debug, Clone)]
struct Draft {
    operation: u8,
    key: u8,
    target: u16,
    pieces: Vec<(u16, u16)>,
    inline: bool,
    immediate: Option<u32>,
    signalled: bool,
    operands: (u64, u64),
}

fn drafts() -> impl Strategy<Value = Draft> {
    let operands = (prop_oneof![Just(0u64), any::<u64>()], any::<u64>());
    (
        any::<u8>(),
        any::<u8>(),
        any::<u16>(),
        pieces(),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.3, any::<u32>()),
        prop::bool::weighted(0.7),
        operands,
    )
        .prop_map(|(operation, key, target, pieces, inline, immediate, signalled, operands)| Draft {
            operation,
            key,
            target,
            pieces,
            inline,
            immediate,
            signalled,
            operands,
        })
}

fn pieces() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let len = prop_oneof![4 => 0u16..300, 2 => 4000u16..4200, 1 => 0u16..9000];
    vec((any::<u16>(), len), 0..=4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (0..COUPLES.len(), 0..2usize);
    let receive =
        (place(), pieces()).prop_map(|((couple, end), scatter)| Step::Receive { couple, end, scatter });
    let batch =
        (place(), vec(drafts(), 1..8)).prop_map(|((couple, end), requests)| Batch { couple, end, requests });
    let batches = vec(batch, 1..4).prop_map(|mut batches| {
        // The two ends of a couple would race.
        let mut seen = BTreeSet::new();
        batches.retain(|batch| seen.insert(batch.couple));
        Step::Batches(batches)
    });
    vec(prop_oneof![3 => receive, 2 => batches], 1..60)
}

fn pieces_of(drawn: &[(u16, u16)]) -> Vec<Piece> {
    drawn
        .iter()
        .map(|(at, len)| {
            let len = usize::from(*len);
            Piece { at: usize::from(*at) % (AREA - len), len }
        })
        .collect()
}

impl Draft {
    fn target(&self, len: usize, aligned: bool) -> Target {
        let within = |room: usize| {
            // One in a few ends beyond the key.
            let last = (room + 8).saturating_sub(len).max(1);
            let at = usize::from(self.target) % last;
            if aligned { at / 8 * 8 } else { at }
        };
        let keyed: usize = KEYED.iter().map(|piece| piece.len).sum();
        match self.key % 16 {
            0 => Target::Wrong,
            1 => Target::ReadOnly(within(AREA)),
            2..5 if !aligned => Target::Shuffled(within(SHUFFLED_LEN)),
            5..8 if !aligned => Target::Keyed(within(keyed)),
            _ => Target::Whole(within(AREA - 16)),
        }
    }

    fn request(&self, kind: u8) -> Request {
        let mut pieces = pieces_of(&self.pieces);
        let is_reliable = kind == transport::RC;
        if kind == transport::UD {
            let mut left = MTU;
            for piece in &mut pieces {
                piece.len = piece.len.min(left);
                left -= piece.len;
            }
        }
        let len = pieces.iter().map(|piece| piece.len).sum();
        let atomic = is_reliable && matches!(self.operation % 16, 13..16);
        if atomic {
            pieces = vec![Piece { at: usize::from(self.target) % (AREA - 8), len: 8 }];
        }
        let operation = match self.operation % 16 {
            _ if kind == transport::UD => Operation::Send,
            0..5 => Operation::Send,
            10..13 if is_reliable => Operation::Read(self.target(len, false)),
            13 | 14 if is_reliable => {
                Operation::FetchAdd { target: self.target(8, true), add: self.operands.1 }
            }
            15 if is_reliable => Operation::CompareSwap {
                target: self.target(8, true),
                compare: self.operands.0,
                swap: self.operands.1,
            },
            _ => Operation::Write(self.target(len, false)),
        };
        let one_way = matches!(operation, Operation::Send | Operation::Write(_));
        let wrong_target = match operation {
            Operation::Send => false,
            _ => self.key % 16 < 2,
        };
        let local = if one_way && self.inline {
            Local::Inline(pattern(self.operands.1, len.min(MAX_INLINE)))
        } else if len != 0 && self.operation >= 250 && !wrong_target {
            Local::Wrong
        } else {
            Local::Pieces(pieces)
        };
        let immediate = self.immediate.filter(|_| one_way);
        Request { operation, local, immediate, signalled: self.signalled }
    }
}

/// Keys for one end's memory.
struct Keys {
    whole: u32,
    shuffled: u32,
    keyed: u32,
    read_only: u32,
}

/// One end of a connection at the device.
struct DeviceEnd {
    pair: Pair,
    cq: Cq,
    at: u64,
    keys: Keys,
    pool: Option<Srq>,
}

struct World {
    verbs: Verbs,
    ends: Vec<[DeviceEnd; 2]>,
    model: Vec<Couple>,
}

impl DeviceEnd {
    fn new(verbs: &mut Verbs, kind: u8, pooled: bool) -> Self {
        let cq = Cq::new(verbs, 7);
        let pool = pooled.then(|| Srq::new(verbs, SrqKind::Pool, 4, 7));
        let receive = pool.as_ref().map_or(ReceiveQueue::Own, |srq| ReceiveQueue::Shared(srq.srqn));
        let pair = Pair::new(verbs, PairSpec { receive, ..PairSpec::new(kind, cq.cqn) });
        let at = verbs.memory(AREA as u64);
        let whole = verbs.register(at, AREA as u64);
        let pages = SHUFFLED.map(|page| at + (page * PAGE) as u64);
        let list = KEYED.map(|piece| (piece.len as u32, whole, at + piece.at as u64));
        let keys = Keys {
            whole,
            shuffled: verbs.page_key(
                SHUFFLED_BASE,
                SHUFFLED_LEN as u64,
                DEVICE_PAGE.trailing_zeros(),
                &pages,
                access::ALL,
            ),
            keyed: verbs.keyed_key(KEYED_BASE, &list, access::ALL),
            read_only: verbs.register_with(at, AREA as u64, access::LOCAL | access::REMOTE_READ),
        };
        Self { pair, cq, at, keys, pool }
    }

    fn elements(&self, pieces: &[Piece]) -> Vec<Sge> {
        pieces
            .iter()
            .map(|piece| Sge::new(self.at + piece.at as u64, piece.len as u32, self.keys.whole))
            .collect()
    }

    /// Address and key of a target in this end's memory.
    fn target(&self, target: Target) -> (u64, u32) {
        let offset = target.offset() as u64;
        match target {
            Target::Whole(_) => (self.at + offset, self.keys.whole),
            Target::Shuffled(_) => (SHUFFLED_BASE + offset, self.keys.shuffled),
            Target::Keyed(_) => (KEYED_BASE + offset, self.keys.keyed),
            Target::ReadOnly(_) => (self.at + offset, self.keys.read_only),
            Target::Wrong => (self.at, 0x0fff_ff00),
        }
    }
}

impl World {
    fn new() -> Self {
        let mut verbs = Verbs::open();
        let mut ends = Vec::new();
        let mut model = Vec::new();
        for (number, (kind, pooled)) in COUPLES.into_iter().enumerate() {
            let couple = [false, pooled].map(|pooled| DeviceEnd::new(&mut verbs, kind, pooled));
            let memory = [0, 1].map(|end| pattern((2 * number + end) as u64, AREA));
            for (end, content) in couple.iter().zip(&memory) {
                verbs.fill(end.at, content);
            }
            let [first, second] = memory;
            let end = |memory, pooled| End { memory, receives: VecDeque::new(), pooled };
            model.push(Couple { transport: kind, ends: [end(first, false), end(second, pooled)] });
            ends.push(couple);
        }
        let mut world = Self { verbs, ends, model };
        for couple in 0..COUPLES.len() {
            world.connect(couple);
        }
        world
    }

    fn connect(&mut self, couple: usize) {
        let qpns = [0, 1].map(|end| self.ends[couple][end].pair.qpn);
        for end in [0, 1] {
            let connection = Connection { rnr_retry: 1, ..Connection::to(qpns[1 - end]) };
            self.ends[couple][end].pair.connect(&mut self.verbs, connection);
        }
    }

    fn reconnect(&mut self, couple: usize) {
        for end in [0, 1] {
            self.ends[couple][end].pair.reset(&mut self.verbs);
            let model = &mut self.model[couple].ends[end];
            if !model.pooled {
                model.receives.clear();
            }
        }
        self.connect(couple);
    }

    fn receive(&mut self, couple: usize, end: usize, scatter: &[(u16, u16)]) {
        let model = &mut self.model[couple];
        if model.ends[end].receives.len() >= MAX_RECEIVES {
            return;
        }
        let mut scatter = pieces_of(scatter);
        if model.transport != transport::RC {
            // What becomes of a message that does not fit is defined for a reliable connection only.
            let at = scatter.first().map_or(0, |piece| piece.at) % 1000;
            scatter =
                vec![Piece { at, len: if model.transport == transport::UD { GRH + MTU } else { 31_000 } }];
        }
        let device = &mut self.ends[couple][end];
        let elements = device.elements(&scatter);
        let index = match &mut device.pool {
            Some(pool) => pool.post(&mut self.verbs, &elements),
            None => device.pair.receive(&mut self.verbs, &elements),
        };
        model.ends[end].receives.push_back(Receive { index, scatter });
    }

    /// The request as the provider would write it.
    fn encode(&self, couple: usize, from: usize, request: &Request) -> SendRequest {
        let (own, other) = (&self.ends[couple][from], &self.ends[couple][1 - from]);
        let elements = match &request.local {
            Local::Pieces(pieces) => own.elements(pieces),
            Local::Inline(_) => Vec::new(),
            Local::Wrong => vec![Sge::new(own.at, 16, 0x0fff_fe00)],
        };
        let mut encoded = match request.operation {
            Operation::Send => SendRequest::send(&elements),
            Operation::Write(target) => {
                let (at, key) = other.target(target);
                SendRequest::write(at, key, &elements)
            }
            Operation::Read(target) => {
                let (at, key) = other.target(target);
                SendRequest::read(at, key, &elements)
            }
            Operation::CompareSwap { target, compare, swap } => {
                let (at, key) = other.target(target);
                SendRequest::compare_swap(at, key, compare, swap, elements[0])
            }
            Operation::FetchAdd { target, add } => {
                let (at, key) = other.target(target);
                SendRequest::fetch_add(at, key, add, elements[0])
            }
        };
        if let Local::Inline(data) = &request.local {
            encoded = encoded.inline(data);
        }
        if let Some(value) = request.immediate {
            encoded = encoded.immediate(value);
        }
        if COUPLES[couple].0 == transport::UD {
            let extended = request.signalled;
            encoded =
                encoded.to(AddressVector { q_key: 0x1111_1111, qpn: other.pair.qpn, lid: LID, extended });
        }
        if request.signalled { encoded } else { encoded.unsignalled() }
    }

    /// Posts all batches, lets the device work, and checks each.
    fn batches(&mut self, batches: &[Batch]) -> Result<(), TestCaseError> {
        let mut posted = Vec::new();
        for Batch { couple, end, requests } in batches {
            let requests: Vec<Request> =
                requests.iter().map(|draft| draft.request(COUPLES[*couple].0)).collect();
            let encoded: Vec<SendRequest> =
                requests.iter().map(|request| self.encode(*couple, *end, request)).collect();
            let indices = self.ends[*couple][*end].pair.post(&mut self.verbs, &encoded);
            posted.push((*couple, *end, requests, indices));
        }
        for (couple, end, requests, indices) in &posted {
            self.check(*couple, *end, requests, indices)?;
        }
        self.compare(batches)
    }

    /// Checks the completions of the batch that end `from` has posted as requests `indices`.
    fn check(
        &mut self,
        couple: usize,
        from: usize,
        batch: &[Request],
        indices: &[u16],
    ) -> Result<(), TestCaseError> {
        let outcome = self.model[couple].execute(from, batch);
        let own = self.ends[couple][from].cq.drain(&mut self.verbs);
        let other = self.ends[couple][1 - from].cq.drain(&mut self.verbs);
        let is_sent = |cqe: &&Cqe| matches!(cqe.opcode, opcode::REQUESTER | opcode::REQUESTER_ERROR);
        let sent: Vec<_> = own.iter().filter(is_sent).map(Cqe::outcome).collect();
        let expected: Vec<_> = outcome
            .sent
            .iter()
            .map(|(opcode, syndrome, number)| (*opcode, *syndrome, indices[*number]))
            .collect();
        prop_assert_eq!(sent, expected, "requester of {:?}", batch);
        let flushed: Vec<Received> = own.iter().filter(|cqe| !is_sent(cqe)).map(received).collect();
        prop_assert_eq!(flushed, outcome.flushed, "requester's receives of {:?}", batch);
        let arrived: Vec<Received> = other.iter().map(received).collect();
        prop_assert_eq!(&arrived, &outcome.received, "responder of {:?}", batch);

        let end = &mut self.ends[couple][1 - from];
        if let Some(pool) = &mut end.pool {
            for cqe in &other {
                pool.free(&mut self.verbs, cqe.wqe_counter);
            }
        }
        let at = end.at;
        for piece in &outcome.undefined {
            let place = &mut self.model[couple].ends[1 - from].memory[piece.at..piece.at + piece.len];
            place.copy_from_slice(self.verbs.bytes(at + piece.at as u64, piece.len));
        }
        if outcome.failed {
            self.reconnect(couple);
        }
        Ok(())
    }

    fn compare(&self, batches: &[Batch]) -> Result<(), TestCaseError> {
        for (couple, (ends, model)) in self.ends.iter().zip(&self.model).enumerate() {
            for (end, (device, model)) in ends.iter().zip(&model.ends).enumerate() {
                let memory = self.verbs.bytes(device.at, AREA);
                let differs = memory.iter().zip(&model.memory).position(|(got, wanted)| got != wanted);
                prop_assert_eq!(
                    differs,
                    None,
                    "memory of end {} of couple {} after {:?}",
                    end,
                    couple,
                    batches
                );
            }
        }
        Ok(())
    }
}

fn received(cqe: &Cqe) -> Received {
    let has_immediate = matches!(cqe.opcode, opcode::SEND_IMMEDIATE | opcode::WRITE_IMMEDIATE);
    Received {
        opcode: cqe.opcode,
        syndrome: cqe.syndrome,
        index: cqe.wqe_counter,
        bytes: cqe.bytes as usize,
        immediate: has_immediate.then_some(cqe.immediate),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_sequences_agree_with_the_reference(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            match step {
                Step::Receive { couple, end, scatter } => world.receive(*couple, *end, scatter),
                Step::Batches(batches) => world.batches(batches)?,
            }
        }
    }
}
