//! The command queue: entries in memory, mailboxes behind them, and how a command comes in and its answer goes out.
//!
//! An entry of 64 bytes holds the first 16 bytes of input and of output; more continues in chains of mailbox blocks.
//! Everything the driver has written is copied once before it is looked at. Signatures of inputs are not checked (the
//! capability `cmdif_checksum` is 0); those of outputs are written.

use super::command;
use super::eq::{Event, EventType};
use super::field::{be32, be64};
use super::hca::Hca;
use super::status::DeliveryError;
use crate::bus::Nanos;
use crate::dma::{DmaAttrs, DmaError, Object, What};
use crate::pci::Port;
use serde::{Deserialize, Serialize};

/// 2 to the power of this many slots, as the initialization segment shows it.
pub const LOG_SIZE: u32 = 5;
/// Bytes of an entry, as a power of two.
pub const LOG_STRIDE: u32 = 6;

const ENTRY_SIZE: usize = 1 << LOG_STRIDE;
const INLINE_LEN: usize = 16;
const BLOCK_DATA: usize = 512;
const BLOCK_SIZE: usize = 576;
/// Mailbox addresses have their low 9 bits clear.
const BLOCK_ALIGN: u64 = 512;
/// The only transport: commands in memory.
const TRANSPORT_PCI: u8 = 7;
const OWNED_BY_HARDWARE: u8 = 1;

/// Longest input: a memory key of 2^20 pages, which is 4 GiB in small ones.
const MAX_INPUT: usize = 272 + 8 * (1 << 20);
const MIN_INPUT: usize = 16;
const MAX_OUTPUT: usize = 64 << 10;
const MIN_OUTPUT: usize = 8;

/// Mailbox blocks moved for one doorbell, roughly, before other slots wait for their turn.
const BLOCKS_PER_TURN: usize = 8192;
/// Virtual time until waiting slots have their turn.
pub const TURN_DELAY: Nanos = 1000;

/// The queue's registers and the slots that have been rung for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CommandQueue {
    /// Bus address of slot 0; the low 12 bits are zero.
    pub address: u64,
    /// Slots whose doorbell has been rung and that have not been looked at.
    rung: u32,
}

/// A command as taken from its slot.
struct Request {
    slot: u32,
    address: u64,
    entry: [u8; ENTRY_SIZE],
    /// Attributes of all its transactions.
    attrs: DmaAttrs,
}

/// A chain of mailbox blocks, walked and checked.
struct Chain {
    blocks: Vec<u64>,
    attrs: DmaAttrs,
}

impl CommandQueue {
    /// The driver has rung for `slots`.
    pub fn ring(&mut self, slots: u32) {
        self.rung |= slots;
    }

    /// Forgets doorbells.
    pub fn stop(&mut self) {
        self.rung = 0;
    }

    /// Executes commands whose doorbells have been rung. Returns whether some are left for another turn.
    pub fn run(&mut self, hca: &mut Hca, port: &mut dyn Port) -> bool {
        let mut moved = 0;
        while self.rung != 0 && moved < BLOCKS_PER_TURN {
            let slot = self.rung.trailing_zeros();
            self.rung &= self.rung - 1;
            if let Some(request) =
                self.fetch(slot, port, hca.config.control(What::Command, Object::CommandSlot, slot))
            {
                moved += serve(&request, hca, port);
            }
        }
        self.rung != 0
    }

    /// Reads the entry of a slot, if the driver has given it to the device.
    fn fetch(&self, slot: u32, port: &mut dyn Port, attrs: DmaAttrs) -> Option<Request> {
        let address = self.address.wrapping_add(u64::from(slot) << LOG_STRIDE);
        let mut entry = [0; ENTRY_SIZE];
        if let Err(error) = port.read(address, &mut entry, attrs) {
            log::debug!("mlx5: command slot {slot} cannot be read: {error}");
            return None;
        }
        let request = Request { slot, address, entry, attrs };
        (request.entry[layout::STATUS_OWN] & OWNED_BY_HARDWARE != 0).then_some(request)
    }
}

/// Byte offsets in an entry and in a mailbox block.
mod layout {
    pub const TYPE: usize = 0;
    pub const INPUT_LEN: usize = 4;
    pub const INPUT_POINTER: usize = 8;
    pub const INPUT: usize = 16;
    pub const OUTPUT: usize = 32;
    pub const OUTPUT_POINTER: usize = 48;
    pub const OUTPUT_LEN: usize = 56;
    pub const TOKEN: usize = 60;
    pub const SIGNATURE: usize = 61;
    pub const RESERVED: [usize; 4] = [1, 2, 3, 62];
    pub const STATUS_OWN: usize = 63;

    pub const BLOCK_TRAILER: usize = 560;
    pub const BLOCK_CONTROL_SIGNATURE: usize = 574;
    pub const BLOCK_SIGNATURE: usize = 575;
}

fn xor(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum ^ byte)
}

/// Takes a command from its mailboxes, executes it and delivers its answer and event. Returns how many blocks were
/// moved.
fn serve(request: &Request, hca: &mut Hca, port: &mut dyn Port) -> usize {
    // The event for the command that creates the first command event queue is not wanted: the driver polls for it.
    let event_queue = hca.event_queue_for(EventType::Command);
    let mut moved = 1;
    let mut output = Vec::new();
    let delivery = request.execute(hca, port, &mut moved, &mut output);
    if let Err(error) = delivery {
        log::debug!("mlx5: command slot {}: {error}", request.slot);
    }
    request.complete(delivery, &output, port);
    if let Some(eqn) = event_queue {
        hca.post_event(eqn, Event::command(1 << request.slot), port);
    }
    moved
}

impl Request {
    fn execute(
        &self,
        hca: &mut Hca,
        port: &mut dyn Port,
        moved: &mut usize,
        output: &mut Vec<u8>,
    ) -> Result<(), DeliveryError> {
        if self.entry[layout::TYPE] != TRANSPORT_PCI {
            return Err(DeliveryError::Descriptor);
        }
        if layout::RESERVED.iter().any(|&at| self.entry[at] != 0) {
            return Err(DeliveryError::ReservedField);
        }
        let input = self.read_input(port)?;
        let chain = self.walk_output(port)?;
        *moved += input.len().div_ceil(BLOCK_DATA) + 2 * chain.blocks.len();
        output.resize(be32(&self.entry, layout::OUTPUT_LEN) as usize, 0);
        command::execute(hca, &input, output);
        chain.write(output, port)
    }

    fn token(&self) -> u8 {
        self.entry[layout::TOKEN]
    }

    fn read_input(&self, port: &mut dyn Port) -> Result<Vec<u8>, DeliveryError> {
        let len = be32(&self.entry, layout::INPUT_LEN) as usize;
        if !(MIN_INPUT..=MAX_INPUT).contains(&len) {
            return Err(DeliveryError::InputLength);
        }
        let mut input = self.entry[layout::INPUT..layout::INPUT + INLINE_LEN].to_vec();
        let mut next = be64(&self.entry, layout::INPUT_POINTER);
        for number in 0..(len - INLINE_LEN).div_ceil(BLOCK_DATA) {
            if !next.is_multiple_of(BLOCK_ALIGN) {
                return Err(DeliveryError::InputAlignment);
            }
            if next == 0 {
                return Err(DeliveryError::InputLength);
            }
            let mut block = [0; BLOCK_SIZE];
            port.read(next, &mut block, self.attrs).map_err(|_| DeliveryError::Firmware)?;
            let (data, trailer) = block.split_at(layout::BLOCK_TRAILER);
            next = check_trailer(trailer, number, self.token())?;
            let wanted = (len - input.len()).min(BLOCK_DATA);
            input.extend(data.iter().take(wanted));
        }
        Ok(input)
    }

    /// Finds the mailboxes of the answer before the command is executed, so that a command whose answer cannot be
    /// delivered changes nothing.
    fn walk_output(&self, port: &mut dyn Port) -> Result<Chain, DeliveryError> {
        let len = be32(&self.entry, layout::OUTPUT_LEN) as usize;
        if !(MIN_OUTPUT..=MAX_OUTPUT).contains(&len) {
            return Err(DeliveryError::OutputLength);
        }
        let mut next = be64(&self.entry, layout::OUTPUT_POINTER);
        let mut blocks = Vec::new();
        for number in 0..len.saturating_sub(INLINE_LEN).div_ceil(BLOCK_DATA) {
            if !next.is_multiple_of(BLOCK_ALIGN) {
                return Err(DeliveryError::OutputAlignment);
            }
            if next == 0 {
                return Err(DeliveryError::OutputLength);
            }
            blocks.push(next);
            let at = next.checked_add(layout::BLOCK_TRAILER as u64).ok_or(DeliveryError::Firmware)?;
            let mut trailer = [0; BLOCK_SIZE - layout::BLOCK_TRAILER];
            port.read(at, &mut trailer, self.attrs).map_err(|_| DeliveryError::Firmware)?;
            next = check_trailer(&trailer, number, self.token())?;
        }
        Ok(Chain { blocks, attrs: self.attrs })
    }

    /// Writes the entry's output half back: inline answer, signature, and ownership as the last byte.
    fn complete(&self, delivery: Result<(), DeliveryError>, output: &[u8], port: &mut dyn Port) {
        let mut entry = self.entry;
        let status = match delivery {
            Ok(()) => 0,
            Err(error) => error as u8,
        };
        let inline = &mut entry[layout::OUTPUT..layout::OUTPUT + INLINE_LEN];
        inline.fill(0);
        for (to, from) in inline.iter_mut().zip(output) {
            *to = *from;
        }
        entry[layout::STATUS_OWN] = status << 1;
        entry[layout::SIGNATURE] = 0;
        entry[layout::SIGNATURE] = !xor(&entry);
        let at = self.address.wrapping_add(layout::OUTPUT as u64);
        if let Err(error) = port.write(at, &entry[layout::OUTPUT..], self.attrs) {
            log::debug!("mlx5: command slot {} cannot be completed: {error}", self.slot);
        }
    }
}

/// Checks the last 16 bytes of block `number` and returns the address of the next.
fn check_trailer(trailer: &[u8], number: usize, token: u8) -> Result<u64, DeliveryError> {
    const NEXT: usize = 0;
    const NUMBER: usize = 8;
    const TOKEN: usize = 13;
    if be32(trailer, NUMBER) as usize != number {
        return Err(DeliveryError::BlockNumber);
    }
    if trailer.get(TOKEN) != Some(&token) {
        return Err(DeliveryError::Token);
    }
    Ok(be64(trailer, NEXT))
}

impl Chain {
    /// Writes the part of the answer that is not in the entry.
    fn write(&self, output: &[u8], port: &mut dyn Port) -> Result<(), DeliveryError> {
        let rest = output.get(INLINE_LEN..).unwrap_or_default();
        for (&address, data) in self.blocks.iter().zip(rest.chunks(BLOCK_DATA)) {
            self.write_block(address, data, port).map_err(|_| DeliveryError::Firmware)?;
        }
        Ok(())
    }

    fn write_block(&self, address: u64, data: &[u8], port: &mut dyn Port) -> Result<(), DmaError> {
        let mut block = [0; BLOCK_SIZE];
        port.read(address, &mut block, self.attrs)?;
        block[..data.len()].copy_from_slice(data);
        let control = BLOCK_DATA..layout::BLOCK_CONTROL_SIGNATURE;
        block[layout::BLOCK_CONTROL_SIGNATURE] = !xor(&block[control]);
        block[layout::BLOCK_SIGNATURE] = !xor(&block[..layout::BLOCK_SIGNATURE]);
        port.write(address, &block[..data.len()], self.attrs)?;
        let signatures = address.saturating_add(layout::BLOCK_CONTROL_SIGNATURE as u64);
        port.write(signatures, &block[layout::BLOCK_CONTROL_SIGNATURE..], self.attrs)
    }
}
