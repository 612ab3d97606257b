//! The emulated ConnectX function.
//!
//! The stock Linux drivers `mlx5_core` and `mlx5_ib` bind to it as to a virtual function of a ConnectX-5. BAR 0 holds
//! the initialization segment (`iseg`) and the doorbell pages (`uar`). The driver works through a command queue in
//! its own memory (`cmdq`): each command is executed (`command`) on the tables of objects (`hca`), one file a
//! kind of object. Work requests are executed by the data path (`data_path`). The device tells the driver what has happened through event queues (`eq`). The positions of
//! fields are data (`layout`).

mod admin;
mod caps;
mod cmdq;
mod command;
mod config;
mod connection;
mod cq;
mod data_path;
mod eq;
pub mod field;
mod hca;
mod iseg;
pub mod layout;
mod mad;
mod mkey;
mod multicast;
mod pages;
pub mod peer;
mod qp;
mod qp_modify;
mod registers;
mod resources;
mod srq;
pub mod status;
mod table;
mod uar;
mod vport;

pub use config::{Mlx5Config, NoSnoop, PortType};
pub use hca::LiveObjects;
pub use mkey::{Access as MkeyAccess, AccessMode, MemoryKey};

use crate::bus::{Access, AccessError, Nanos};
use crate::pci::{BarInfo, FunctionInfo, PciDevice, Port};
use crate::state::{State, same};
use cmdq::CommandQueue;
use hca::Hca;
use iseg::NicInterface;
use serde::{Deserialize, Serialize};

/// Mellanox.
const VENDOR_ID: u16 = 0x15b3;
/// ConnectX-5 virtual function: the driver brings a virtual function up with the fewest commands.
const DEVICE_ID: u16 = 0x1018;
const SUBSYSTEM_ID: u16 = 0x0008;
const CLASS_INFINIBAND: u32 = 0x02_07_00;
const CLASS_ETHERNET: u32 = 0x02_00_00;
const BAR_SIZE: u64 = 4 << 20;
/// MSI-X vectors of the function.
const MSIX_VECTORS: u16 = 16;
/// Event token: command slots wait for their turn.
const EVENT_COMMANDS: u32 = 0;
/// Event token: the data path has its next turn.
const EVENT_WORK: u32 = 1;
/// Event token: the time has come that something in the data path waits for.
const EVENT_TIMERS: u32 = 2;

/// The device behind BAR 0 of a ConnectX function.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mlx5 {
    queue: CommandQueue,
    interface: NicInterface,
    hca: Hca,
}

impl Mlx5 {
    /// A function in the state after power-on.
    pub fn new(config: Mlx5Config) -> Self {
        Self { queue: CommandQueue::default(), interface: NicInterface::default(), hca: Hca::new(config) }
    }

    /// How many objects the driver holds.
    pub fn live_objects(&self) -> LiveObjects {
        self.hca.live_objects()
    }

    /// The memory key with index `index` (the key's upper 24 bits), if the driver has created one.
    pub fn memory_key(&self, index: u32) -> Option<&MemoryKey> {
        self.hca.mkeys.get(index)
    }

    /// The driver has rung for the command slots in `slots`.
    fn ring_commands(&mut self, slots: u32, port: &mut dyn Port) {
        if self.interface == NicInterface::Full {
            self.queue.ring(slots);
            self.run_commands(port);
        }
    }

    fn run_commands(&mut self, port: &mut dyn Port) {
        if self.queue.run(&mut self.hca, port) {
            port.schedule(port.now().saturating_add(cmdq::TURN_DELAY), EVENT_COMMANDS);
        }
    }

    /// Drops all objects and stops the command queue.
    fn stop(&mut self, port: &mut dyn Port) {
        self.queue.stop();
        for token in [EVENT_COMMANDS, EVENT_WORK, EVENT_TIMERS] {
            port.cancel(token);
        }
        self.hca.restart(hca::Phase::Disabled);
    }

    fn read_word(&self, offset: u64, now: Nanos) -> Result<u32, AccessError> {
        if offset < iseg::SIZE {
            return Ok(self.read_segment(offset, now));
        }
        // Doorbells are written only; they read as zero where there is a page of them.
        if self.hca.uars.contains(page_of(offset)) { Ok(0) } else { Err(AccessError::NoRegister) }
    }

    fn write_word(&mut self, offset: u64, value: u32, mask: u32, port: &mut dyn Port) -> Access {
        if offset < iseg::SIZE {
            self.write_segment(offset, value, mask, port);
            return Ok(());
        }
        if mask != u32::MAX {
            return Err(AccessError::BadSize);
        }
        self.write_uar(page_of(offset), offset, value, port)
    }
}

fn page_of(offset: u64) -> u32 {
    (offset >> uar::PAGE_SHIFT) as u32
}

/// The aligned words that an access of `len` bytes at `offset` touches.
fn words(offset: u64, len: usize) -> Result<impl Iterator<Item = u64>, AccessError> {
    if !matches!(len, 1 | 2 | 4 | 8) {
        return Err(AccessError::BadSize);
    }
    let end = offset.checked_add(len as u64).filter(|&end| end <= BAR_SIZE).ok_or(AccessError::NoRegister)?;
    Ok((offset / 4..end.div_ceil(4)).map(|word| word * 4))
}

impl State for Mlx5 {
    fn accepts(&self, saved: &Self) -> Result<(), &'static str> {
        same(self.hca.has_shape_of(&saved.hca))
    }
}

impl PciDevice for Mlx5 {
    fn name(&self) -> &'static str {
        "mlx5"
    }

    fn info(&self) -> FunctionInfo {
        FunctionInfo {
            vendor_id: VENDOR_ID,
            device_id: DEVICE_ID,
            subsystem_vendor_id: VENDOR_ID,
            subsystem_id: SUBSYSTEM_ID,
            revision: 0,
            class: match self.hca.config.port {
                PortType::InfiniBand => CLASS_INFINIBAND,
                PortType::Ethernet => CLASS_ETHERNET,
            },
            bars: vec![BarInfo { index: 0, size: BAR_SIZE, is_64bit: true, prefetchable: true }],
            msix_vectors: MSIX_VECTORS,
            interrupt_pin: false,
            vendor_capabilities: Vec::new(),
        }
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8], port: &mut dyn Port) -> Access {
        if bar != 0 {
            return Err(AccessError::NoRegister);
        }
        let now = port.now();
        for word in words(offset, data.len())? {
            let bytes = self.read_word(word, now)?.to_be_bytes();
            for (at, byte) in (word..).zip(bytes) {
                if let Some(place) = at.checked_sub(offset).and_then(|i| data.get_mut(i as usize)) {
                    *place = byte;
                }
            }
        }
        Ok(())
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8], port: &mut dyn Port) -> Access {
        if bar != 0 {
            return Err(AccessError::NoRegister);
        }
        for word in words(offset, data.len())? {
            let (mut value, mut mask) = ([0; 4], [0; 4]);
            for (at, (value, mask)) in (word..).zip(value.iter_mut().zip(&mut mask)) {
                if let Some(byte) = at.checked_sub(offset).and_then(|i| data.get(i as usize)) {
                    (*value, *mask) = (*byte, 0xff);
                }
            }
            self.write_word(word, u32::from_be_bytes(value), u32::from_be_bytes(mask), port)?;
        }
        self.hca.schedule.announce(port);
        Ok(())
    }

    fn event(&mut self, token: u32, port: &mut dyn Port) {
        match token {
            EVENT_COMMANDS => self.run_commands(port),
            EVENT_WORK => self.hca.work(port),
            EVENT_TIMERS => self.hca.expire_timers(port),
            _ => {}
        }
        self.hca.schedule.announce(port);
    }

    fn reset(&mut self) {
        *self = Self::new(self.hca.config);
    }
}
