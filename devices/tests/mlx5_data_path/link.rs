//! Two connected queue pairs, each with a completion queue and registered memory.

use driver_model::mlx5_verbs::{
    Connection, Cq, Cqe, Pair, PairSpec, SendRequest, Sge, Verbs, opcode, pattern,
};

/// Bytes of registered memory at each end.
pub const AREA: u64 = 2 << 20;

/// One end.
#[derive(Debug, Clone)]
pub struct End {
    pub pair: Pair,
    pub cq: Cq,
    /// Registered memory, and the key for it.
    pub at: u64,
    pub key: u32,
}

/// Both ends. Tests send from `a` to `b`.
#[derive(Debug, Clone)]
pub struct Link {
    pub verbs: Verbs,
    pub a: End,
    pub b: End,
}

impl End {
    /// A queue pair that is not connected.
    pub fn new(verbs: &mut Verbs, transport: u8) -> Self {
        let cq = Cq::new(verbs, 7);
        Self::on(verbs, PairSpec::new(transport, cq.cqn), cq)
    }

    pub fn on(verbs: &mut Verbs, spec: PairSpec, cq: Cq) -> Self {
        let pair = Pair::new(verbs, spec);
        let at = verbs.memory(AREA);
        let key = verbs.register(at, AREA);
        Self { pair, cq, at, key }
    }

    /// An element over registered memory.
    pub fn sge(&self, offset: u64, len: u32) -> Sge {
        Sge::new(self.at + offset, len, self.key)
    }

    pub fn state(&self, verbs: &mut Verbs) -> u64 {
        self.pair.state(verbs)
    }
}

impl Link {
    pub fn new(transport: u8) -> Self {
        Self::with(transport, |_| {})
    }

    /// Connected with attributes of both ends as `change` makes them.
    pub fn with(transport: u8, change: impl Fn(&mut Connection)) -> Self {
        let mut verbs = Verbs::open();
        let mut a = End::new(&mut verbs, transport);
        let mut b = End::new(&mut verbs, transport);
        let (to_b, to_a) = (b.pair.qpn, a.pair.qpn);
        for (end, other) in [(&mut a, to_b), (&mut b, to_a)] {
            let mut connection = Connection::to(other);
            change(&mut connection);
            end.pair.connect(&mut verbs, connection);
        }
        Self { verbs, a, b }
    }

    /// Fills `len` bytes at `a` with a pattern and returns them.
    pub fn fill(&mut self, seed: u64, len: usize) -> Vec<u8> {
        let data = pattern(seed, len);
        self.verbs.fill(self.a.at, &data);
        data
    }

    /// Posts one request at `a` and takes its completion.
    pub fn complete(&mut self, request: SendRequest) -> Cqe {
        let index = self.a.pair.send(&mut self.verbs, request);
        let cqe = self.a.cq.one(&mut self.verbs);
        assert_eq!((cqe.qpn, cqe.wqe_counter), (self.a.pair.qpn, index));
        cqe
    }

    /// Posts one request at `a` that must succeed.
    pub fn succeed(&mut self, request: SendRequest) {
        let cqe = self.complete(request);
        assert_eq!((cqe.opcode, cqe.syndrome), (opcode::REQUESTER, 0));
        assert_eq!(cqe.user_index, self.a.pair.user_index);
    }

    /// Posts one request at `a` that must fail.
    pub fn fail(&mut self, request: SendRequest, syndrome: u8) {
        let cqe = self.complete(request);
        assert_eq!((cqe.opcode, cqe.syndrome), (opcode::REQUESTER_ERROR, syndrome), "{cqe:x?}");
    }

    /// Posts a receive at `b` over `len` bytes from `offset` on.
    pub fn receive(&mut self, offset: u64, len: u32) -> u16 {
        let scatter = self.b.sge(offset, len);
        self.b.pair.receive(&mut self.verbs, &[scatter])
    }

    /// Bytes at `b`.
    pub fn at_b(&self, offset: u64, len: usize) -> &[u8] {
        self.verbs.bytes(self.b.at + offset, len)
    }

    pub fn states(&mut self) -> (u64, u64) {
        (self.a.state(&mut self.verbs), self.b.state(&mut self.verbs))
    }

    /// Nothing is left in either completion queue.
    pub fn is_quiet(&mut self) -> bool {
        self.a.cq.drain(&mut self.verbs).is_empty() && self.b.cq.drain(&mut self.verbs).is_empty()
    }
}
