//! The link between the peer and this device: how the guest's messages reach the peer, and its requests the guest's
//! queue pairs.

use super::guest::{Guest, MemoryArea};
use super::protocol::{self, ORDER_SIZE};
use crate::dma::AtomicOp;
use crate::mlx5::data_path::{
    Arrival, Budget, Message, Nak, Operation, Progress, Remote, Right, Source, Syndrome, Task,
};
use crate::mlx5::hca::Hca;
use crate::mlx5::qp::{QueuePair, Transport};
use crate::pci::Port;

impl QueuePair {
    /// Whether it is a reliable connection to a queue pair of the peer, which may send to it.
    pub fn is_connected_to_peer(&self) -> bool {
        let numbers = protocol::FIRST_QPN..protocol::FIRST_QPN + protocol::QPN_COUNT;
        self.transport == Transport::ReliableConnection
            && self.can_receive()
            && self.connection.lid == protocol::LID
            && numbers.contains(&self.connection.qpn)
    }
}

impl Hca {
    /// Tells the peer whether queue pair `qpn` is connected to it. To be called after each change of the queue pair's
    /// state.
    pub fn follow_connection(&mut self, qpn: u32) {
        let connected = self.qps.get(qpn).is_some_and(QueuePair::is_connected_to_peer);
        if connected == self.peer.is_connected(qpn) {
            return;
        }
        if connected {
            self.peer.connect(qpn, self.config.peer);
        } else {
            self.peer.disconnect(qpn);
        }
        self.schedule.wake(Task::Peer);
    }

    /// A message of queue pair `qpn` arrives at the peer, which takes SENDs only.
    ///
    /// # Errors
    /// Outside: the sender's own memory cannot be read. Inside: what the peer answers.
    pub fn send_to_peer(
        &mut self,
        qpn: u32,
        message: &Message,
        port: &mut dyn Port,
    ) -> Result<Result<(), Nak>, Syndrome> {
        let holder = self.qps.get(qpn).ok_or(Syndrome::Flushed)?.holder();
        let len = message.data.len();
        let admitted = match message.operation {
            Operation::Send => self.peer.admit(qpn, len),
            Operation::Write | Operation::Read | Operation::Atomic(_) => Err(Nak::RemoteAccess),
        };
        if let Err(nak) = admitted {
            return Ok(Err(nak));
        }
        let mut order = [0; ORDER_SIZE];
        let Some(order) = order.get_mut(..usize::try_from(len).unwrap_or(usize::MAX)) else {
            return Ok(Err(Nak::InvalidRequest));
        };
        self.gather(holder, &message.data, 0, order, port).map_err(|_| Syndrome::LocalProtection)?;
        self.peer.accept(qpn, order, port.now());
        self.schedule.wake(Task::Peer);
        Ok(Ok(()))
    }

    /// The peer does what is due, as far as the turn allows.
    pub fn run_peer(&mut self, budget: &mut Budget, port: &mut dyn Port) -> Progress {
        let now = port.now();
        // It is out of the way while it works on the queue pairs, and learns of their failures by what they answer.
        let mut peer = std::mem::take(&mut self.peer);
        peer.run(now, budget, &mut Link { hca: self, port });
        self.peer = peer;
        match self.peer.next_due() {
            None => Progress::Idle,
            Some(due) if due <= now => Progress::More,
            Some(due) => Progress::Until(due),
        }
    }
}

/// The way to the guest's queue pairs.
struct Link<'a> {
    hca: &'a mut Hca,
    port: &'a mut dyn Port,
}

impl Link<'_> {
    /// Sends a whole message to queue pair `qpn`, with `carry` between its beginning and its end.
    fn message<T>(
        &mut self,
        qpn: u32,
        operation: Operation,
        remote: Remote,
        len: usize,
        carry: impl FnOnce(&mut Hca, &mut dyn Port) -> Result<T, Nak>,
    ) -> Result<T, Nak> {
        let qp = self.hca.qps.get(qpn).ok_or(Nak::NoAnswer)?;
        let arrival = Arrival {
            transport: qp.transport,
            operation,
            immediate: None,
            len: len as u64,
            remote,
            srqn: None,
            solicited: operation == Operation::Send,
            source: Source { qpn: qp.connection.qpn, lid: protocol::LID, ..Source::default() },
            datagram: None,
        };
        self.hca.admit(qpn, &arrival, self.port)?;
        let result = carry(self.hca, self.port)?;
        self.hca.finish(qpn, self.port);
        Ok(result)
    }
}

impl Guest for Link<'_> {
    fn write(&mut self, qpn: u32, rkey: u32, address: u64, data: &[u8]) -> Result<(), Nak> {
        let remote = Remote { address, key: rkey };
        self.message(qpn, Operation::Write, remote, data.len(), |hca, port| hca.deliver(qpn, 0, data, port))
    }

    fn read(&mut self, qpn: u32, rkey: u32, address: u64, data: &mut [u8]) -> Result<(), Nak> {
        let remote = Remote { address, key: rkey };
        self.message(qpn, Operation::Read, remote, data.len(), |hca, port| hca.fetch(qpn, 0, data, port))
    }

    fn atomic(&mut self, qpn: u32, rkey: u32, address: u64, op: AtomicOp) -> Result<u64, Nak> {
        let remote = Remote { address, key: rkey };
        self.message(qpn, Operation::Atomic(op), remote, size_of::<u64>(), |hca, port| {
            hca.perform_atomic(qpn, op, port)
        })
    }

    fn send(&mut self, qpn: u32, message: &[u8]) -> Result<(), Nak> {
        self.message(qpn, Operation::Send, Remote::default(), message.len(), |hca, port| {
            hca.deliver(qpn, 0, message, port)
        })
    }

    fn newest_memory(&self, qpn: u32, operation: protocol::Operation) -> Option<MemoryArea> {
        let right = match operation {
            protocol::Operation::Write { .. } => Right::RemoteWrite,
            protocol::Operation::Read | protocol::Operation::Check { .. } => Right::RemoteRead,
            protocol::Operation::CompareSwap { .. } | protocol::Operation::FetchAdd { .. } => {
                Right::RemoteAtomic
            }
        };
        let pd = self.hca.qps.get(qpn)?.pd;
        let (index, key) =
            self.hca.mkeys.newest(|key| key.pd == pd && !key.free && key.len > 0 && key.grants(right))?;
        let len = u64::try_from(key.len).unwrap_or(u64::MAX);
        Some(MemoryArea { rkey: index << 8 | u32::from(key.variant), address: key.start, len })
    }
}
