//! What verbs promise, on plain arrays: memory at both ends of a connection, receives that wait, completions that must
//! come. Nothing here is taken from the device.

use driver_model::mlx5_verbs::{opcode, syndrome, transport};
use std::collections::VecDeque;

/// Bytes of memory at each end.
pub const AREA: usize = 32 << 10;
/// Room for a global routing header before a datagram.
pub const GRH: usize = 40;
/// Longest datagram.
pub const MTU: usize = 4096;

/// A range of an end's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub at: usize,
    pub len: usize,
}

/// How a request names the other end's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// By the key over the whole area.
    Whole(usize),
    /// By a key over pages in another order.
    Shuffled(usize),
    /// By a key over pieces of the first.
    Keyed(usize),
    /// By the key over the whole area that allows reading alone.
    ReadOnly(usize),
    /// By a key that does not exist.
    Wrong,
}

pub const PAGE: usize = 4096;
/// Order of the area's pages behind [`Target::Shuffled`], which begins in the midst of the first.
pub const SHUFFLED: [usize; 8] = [3, 1, 4, 0, 5, 7, 2, 6];
pub const SHUFFLED_START: usize = 0x123;
/// Pieces behind [`Target::Keyed`].
pub const KEYED: [Piece; 4] = [
    Piece { at: 100, len: 1000 },
    Piece { at: 20_000, len: 1 },
    Piece { at: 8191, len: 4098 },
    Piece { at: 30_000, len: 2000 },
];

impl Target {
    /// The bytes of the area that `len` bytes from the target on are, or none if the key does not cover them.
    fn resolve(self, len: usize) -> Option<Vec<usize>> {
        let behind: Vec<usize> = match self {
            Self::Whole(_) | Self::ReadOnly(_) => (0..AREA).collect(),
            Self::Shuffled(_) => {
                let pages = SHUFFLED.iter().flat_map(|page| page * PAGE..(page + 1) * PAGE);
                pages.skip(SHUFFLED_START).collect()
            }
            Self::Keyed(_) => KEYED.iter().flat_map(|piece| piece.at..piece.at + piece.len).collect(),
            Self::Wrong => return None,
        };
        let at = self.offset();
        behind.get(at..at.checked_add(len)?).map(<[usize]>::to_vec)
    }

    pub fn offset(self) -> usize {
        match self {
            Self::Whole(at) | Self::Shuffled(at) | Self::Keyed(at) | Self::ReadOnly(at) => at,
            Self::Wrong => 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Send,
    Write(Target),
    Read(Target),
    CompareSwap { target: Target, compare: u64, swap: u64 },
    FetchAdd { target: Target, add: u64 },
}

/// Where the requester's bytes come from or go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    Pieces(Vec<Piece>),
    Inline(Vec<u8>),
    /// A key that does not exist.
    Wrong,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub operation: Operation,
    pub local: Local,
    pub immediate: Option<u32>,
    pub signalled: bool,
}

/// A completion of the requester: opcode, syndrome, number of the request in its batch.
pub type Sent = (u8, u8, usize);

/// A completion of a receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub opcode: u8,
    pub syndrome: u8,
    pub index: u16,
    pub bytes: usize,
    pub immediate: Option<u32>,
}

/// What a batch must bring about, besides the memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub sent: Vec<Sent>,
    /// Completions of the other end's receives.
    pub received: Vec<Received>,
    /// Completions of the requester's own receives.
    pub flushed: Vec<Received>,
    /// Memory of the other end whose content is not defined.
    pub undefined: Vec<Piece>,
    /// A queue pair has failed: both are to be connected anew.
    pub failed: bool,
}

#[derive(Debug, Clone)]
pub struct Receive {
    pub index: u16,
    pub scatter: Vec<Piece>,
}

/// One end of a connection.
#[derive(Debug, Clone)]
pub struct End {
    pub memory: Vec<u8>,
    pub receives: VecDeque<Receive>,
    /// The receives are in a pool, which a failure of the pair leaves alone.
    pub pooled: bool,
}

/// Two connected ends.
#[derive(Debug, Clone)]
pub struct Couple {
    pub transport: u8,
    pub ends: [End; 2],
}

/// Why a request ends the batch.
struct Failure {
    syndrome: u8,
    /// The other end fails too.
    both: bool,
}

impl Failure {
    fn local(syndrome: u8) -> Self {
        Self { syndrome, both: false }
    }

    fn both(syndrome: u8) -> Self {
        Self { syndrome, both: true }
    }
}

fn indices(pieces: &[Piece]) -> Vec<usize> {
    pieces.iter().flat_map(|piece| piece.at..piece.at + piece.len).collect()
}

impl Couple {
    /// Executes a batch that end `from` has posted with one doorbell.
    pub fn execute(&mut self, from: usize, batch: &[Request]) -> Outcome {
        let mut outcome = Outcome::default();
        for (number, request) in batch.iter().enumerate() {
            if outcome.failed {
                outcome.sent.push((opcode::REQUESTER_ERROR, syndrome::FLUSHED, number));
                continue;
            }
            match self.perform(from, request, &mut outcome) {
                Ok(()) if request.signalled => outcome.sent.push((opcode::REQUESTER, 0, number)),
                Ok(()) => {}
                Err(failure) => {
                    outcome.failed = true;
                    outcome.sent.push((opcode::REQUESTER_ERROR, failure.syndrome, number));
                    if self.transport == transport::RC {
                        outcome.flushed = self.flush(from);
                    }
                    if failure.both {
                        let rest = self.flush(1 - from);
                        outcome.received.extend(rest);
                    }
                }
            }
        }
        outcome
    }

    fn flush(&mut self, end: usize) -> Vec<Received> {
        if self.ends[end].pooled {
            return Vec::new();
        }
        let flushed = |receive: Receive| Received {
            opcode: opcode::RESPONDER_ERROR,
            syndrome: syndrome::FLUSHED,
            index: receive.index,
            bytes: 0,
            immediate: None,
        };
        self.ends[end].receives.drain(..).map(flushed).collect()
    }

    /// Bytes that the requester moves.
    fn local_bytes(&self, from: usize, local: &Local) -> Result<Vec<u8>, Failure> {
        match local {
            Local::Pieces(pieces) => {
                Ok(indices(pieces).iter().map(|at| self.ends[from].memory[*at]).collect())
            }
            Local::Inline(data) => Ok(data.clone()),
            Local::Wrong => Err(Failure::local(syndrome::LOCAL_PROTECTION)),
        }
    }

    fn store_locally(&mut self, from: usize, local: &Local, data: &[u8]) {
        if let Local::Pieces(pieces) = local {
            for (at, byte) in indices(pieces).into_iter().zip(data) {
                self.ends[from].memory[at] = *byte;
            }
        }
    }

    fn perform(&mut self, from: usize, request: &Request, outcome: &mut Outcome) -> Result<(), Failure> {
        let data = self.local_bytes(from, &request.local)?;
        match request.operation {
            Operation::Send => self.arrive(from, &data, request.immediate, outcome),
            Operation::Write(target) => {
                let Some(places) = self.remote(target, data.len(), true)? else { return Ok(()) };
                if request.immediate.is_some() && !self.take_for_write(from, request, data.len(), outcome)? {
                    return Ok(());
                }
                for (at, byte) in places.into_iter().zip(data) {
                    self.ends[1 - from].memory[at] = byte;
                }
                Ok(())
            }
            Operation::Read(target) => {
                let places = self.remote(target, data.len(), false)?.unwrap_or_default();
                let read: Vec<u8> = places.iter().map(|at| self.ends[1 - from].memory[*at]).collect();
                self.store_locally(from, &request.local, &read);
                Ok(())
            }
            Operation::CompareSwap { target, compare, swap } => {
                self.atomic(from, request, target, |old| if old == compare { swap } else { old })
            }
            Operation::FetchAdd { target, add } => {
                self.atomic(from, request, target, |old| old.wrapping_add(add))
            }
        }
    }

    fn atomic(
        &mut self,
        from: usize,
        request: &Request,
        target: Target,
        change: impl Fn(u64) -> u64,
    ) -> Result<(), Failure> {
        let places = self.remote(target, 8, true)?.unwrap_or_default();
        let memory = &mut self.ends[1 - from].memory;
        let bytes: Vec<u8> = places.iter().map(|at| memory[*at]).collect();
        let old = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        for (at, byte) in places.into_iter().zip(change(old).to_le_bytes()) {
            memory[at] = byte;
        }
        self.store_locally(from, &request.local, &old.to_le_bytes());
        Ok(())
    }

    /// The bytes behind a remote key; none if the message is lost for want of a right.
    fn remote(&self, target: Target, len: usize, writes: bool) -> Result<Option<Vec<usize>>, Failure> {
        if len == 0 {
            return Ok(Some(Vec::new()));
        }
        let allowed = !(writes && matches!(target, Target::ReadOnly(_)));
        match target.resolve(len).filter(|_| allowed) {
            Some(places) => Ok(Some(places)),
            None if self.transport == transport::RC => Err(Failure::both(syndrome::REMOTE_ACCESS)),
            None => Ok(None),
        }
    }

    /// The next receive of the other end, or none if the message is lost.
    fn take(&mut self, from: usize) -> Result<Option<Receive>, Failure> {
        match self.ends[1 - from].receives.pop_front() {
            Some(receive) => Ok(Some(receive)),
            None if self.transport == transport::RC => Err(Failure::local(syndrome::RNR_RETRY_EXCEEDED)),
            None => Ok(None),
        }
    }

    fn take_for_write(
        &mut self,
        from: usize,
        request: &Request,
        len: usize,
        outcome: &mut Outcome,
    ) -> Result<bool, Failure> {
        let Some(receive) = self.take(from)? else { return Ok(false) };
        outcome.received.push(Received {
            opcode: opcode::WRITE_IMMEDIATE,
            syndrome: 0,
            index: receive.index,
            bytes: len,
            immediate: request.immediate,
        });
        Ok(true)
    }

    fn arrive(
        &mut self,
        from: usize,
        data: &[u8],
        immediate: Option<u32>,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let Some(receive) = self.take(from)? else { return Ok(()) };
        let mut places = indices(&receive.scatter);
        let header = if self.transport == transport::UD { GRH } else { 0 };
        if places.len() < header + data.len() {
            outcome.undefined = receive.scatter;
            outcome.received.push(Received {
                opcode: opcode::RESPONDER_ERROR,
                syndrome: syndrome::LOCAL_LENGTH,
                index: receive.index,
                bytes: 0,
                immediate: None,
            });
            return Err(Failure::both(syndrome::REMOTE_INVALID_REQUEST));
        }
        outcome.undefined.extend(places.drain(..header).map(|at| Piece { at, len: 1 }));
        for (at, byte) in places.into_iter().zip(data) {
            self.ends[1 - from].memory[at] = *byte;
        }
        outcome.received.push(Received {
            opcode: if immediate.is_some() { opcode::SEND_IMMEDIATE } else { opcode::SEND },
            syndrome: 0,
            index: receive.index,
            bytes: header + data.len(),
            immediate,
        });
        Ok(())
    }
}
