//! Work requests of the send queue.

/// A scatter/gather element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sge {
    pub at: u64,
    pub len: u32,
    pub key: u32,
}

impl Sge {
    pub fn new(at: u64, len: u32, key: u32) -> Self {
        Self { at, len, key }
    }

    pub fn encode(self) -> [u8; 16] {
        let mut segment = [0; 16];
        segment[..4].copy_from_slice(&self.len.to_be_bytes());
        segment[4..8].copy_from_slice(&self.key.to_be_bytes());
        segment[8..].copy_from_slice(&self.at.to_be_bytes());
        segment
    }
}

/// Where a datagram goes.
#[derive(Debug, Clone, Copy)]
pub struct AddressVector {
    pub q_key: u32,
    pub qpn: u32,
    pub lid: u16,
    /// The 48-byte form, which has room for a global route.
    pub extended: bool,
}

impl AddressVector {
    fn encode(self) -> Vec<u8> {
        let mut segment = vec![0; if self.extended { 48 } else { 16 }];
        segment[..4].copy_from_slice(&self.q_key.to_be_bytes());
        segment[8..12].copy_from_slice(&(self.qpn | u32::from(self.extended) << 31).to_be_bytes());
        segment[14..16].copy_from_slice(&self.lid.to_be_bytes());
        segment
    }
}

/// Opcodes of work requests.
pub mod op {
    pub const WRITE: u8 = 0x08;
    pub const WRITE_IMMEDIATE: u8 = 0x09;
    pub const SEND: u8 = 0x0a;
    pub const SEND_IMMEDIATE: u8 = 0x0b;
    pub const READ: u8 = 0x10;
    pub const COMPARE_SWAP: u8 = 0x11;
    pub const FETCH_ADD: u8 = 0x12;
    pub const UMR: u8 = 0x25;
}

const SIGNALLED: u8 = 2 << 2;
const SOLICITED: u8 = 1 << 1;
const FENCED: u8 = 2 << 5;
const INLINE: u32 = 1 << 31;

/// A request before it has its place in a queue: the segments in the order in which the provider writes them.
#[derive(Debug, Clone)]
pub struct SendRequest {
    pub opcode: u8,
    flags: u8,
    immediate: u32,
    /// Address vector or XRC segment.
    route: Vec<u8>,
    /// Remote address, and operands of an atomic.
    remote: Vec<u8>,
    data: Vec<u8>,
}

impl SendRequest {
    /// A signalled request without segments.
    pub fn new(opcode: u8) -> Self {
        let empty = Vec::new;
        Self { opcode, flags: SIGNALLED, immediate: 0, route: empty(), remote: empty(), data: empty() }
    }

    pub fn send(gather: &[Sge]) -> Self {
        Self::new(op::SEND).gather(gather)
    }

    pub fn write(at: u64, key: u32, gather: &[Sge]) -> Self {
        Self::new(op::WRITE).remote(at, key).gather(gather)
    }

    pub fn read(at: u64, key: u32, scatter: &[Sge]) -> Self {
        Self::new(op::READ).remote(at, key).gather(scatter)
    }

    pub fn compare_swap(at: u64, key: u32, compare: u64, swap: u64, result: Sge) -> Self {
        Self::new(op::COMPARE_SWAP).remote(at, key).operands(swap, compare).gather(&[result])
    }

    pub fn fetch_add(at: u64, key: u32, add: u64, result: Sge) -> Self {
        Self::new(op::FETCH_ADD).remote(at, key).operands(add, 0).gather(&[result])
    }

    /// Makes a SEND or WRITE one with immediate data.
    pub fn immediate(mut self, value: u32) -> Self {
        self.opcode |= 1;
        self.immediate = value;
        self
    }

    /// The word that carries immediate data, or the key that a UMR is about.
    pub fn word(mut self, value: u32) -> Self {
        self.immediate = value;
        self
    }

    pub fn unsignalled(mut self) -> Self {
        self.flags &= !SIGNALLED;
        self
    }

    pub fn solicited(mut self) -> Self {
        self.flags |= SOLICITED;
        self
    }

    pub fn fenced(mut self) -> Self {
        self.flags |= FENCED;
        self
    }

    pub fn to(mut self, vector: AddressVector) -> Self {
        self.route = vector.encode();
        self
    }

    /// Addresses a multicast group, with a global route.
    pub fn for_group(mut self, q_key: u32, gid: [u8; 16]) -> Self {
        const MULTICAST_QPN: u32 = 0xff_ffff;
        const MULTICAST_LID: u16 = 0xc001;
        const HAS_GLOBAL_ROUTE: u32 = 1 << 30;
        let vector = AddressVector { q_key, qpn: MULTICAST_QPN, lid: MULTICAST_LID, extended: true };
        self.route = vector.encode();
        self.route[28..32].copy_from_slice(&HAS_GLOBAL_ROUTE.to_be_bytes());
        self.route[32..].copy_from_slice(&gid);
        self
    }

    /// Names the XRC shared receive queue at the other end.
    pub fn for_srq(mut self, srqn: u32) -> Self {
        self.route = vec![0; 16];
        self.route[..4].copy_from_slice(&srqn.to_be_bytes());
        self
    }

    fn remote(mut self, at: u64, key: u32) -> Self {
        self.remote = [&at.to_be_bytes()[..], &key.to_be_bytes(), &[0; 4]].concat();
        self
    }

    fn operands(mut self, swap_add: u64, compare: u64) -> Self {
        self.remote.extend(swap_add.to_be_bytes());
        self.remote.extend(compare.to_be_bytes());
        self
    }

    /// Elements without bytes are left out, as the provider does: a count of 0 would mean 2 GiB.
    pub fn gather(mut self, elements: &[Sge]) -> Self {
        self.data = elements.iter().filter(|sge| sge.len != 0).flat_map(|sge| sge.encode()).collect();
        self
    }

    /// The payload in the request itself.
    pub fn inline(mut self, payload: &[u8]) -> Self {
        self.data = (payload.len() as u32 | INLINE).to_be_bytes().to_vec();
        self.data.extend(payload);
        self.data.resize(self.data.len().next_multiple_of(16), 0);
        self
    }

    /// Appends segments as they are.
    pub fn segments(mut self, bytes: &[u8]) -> Self {
        self.data.extend(bytes);
        self
    }

    /// The request as block `index` of queue pair `qpn`.
    pub fn encode(&self, index: u16, qpn: u32) -> Vec<u8> {
        let body = [&self.route[..], &self.remote, &self.data].concat();
        let units = 1 + body.len() as u32 / 16;
        let mut bytes = (u32::from(index) << 8 | u32::from(self.opcode)).to_be_bytes().to_vec();
        bytes.extend((qpn << 8 | units).to_be_bytes());
        bytes.extend([0, 0, 0, self.flags]);
        bytes.extend(self.immediate.to_be_bytes());
        bytes.extend(body);
        bytes
    }
}
