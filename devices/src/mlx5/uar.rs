//! User access regions: pages of BAR 0 through which queues are rung.

use super::Mlx5;
use crate::bus::{Access, AccessError};
use crate::pci::Port;

/// Size of a UAR, as a power of two.
pub const PAGE_SHIFT: u32 = 12;
/// The pages before the first UAR hold the initialization segment.
pub const FIRST: u32 = 16;
/// One after the last UAR.
pub const END: u32 = (super::BAR_SIZE >> PAGE_SHIFT) as u32;

/// A doorbell in a UAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doorbell {
    /// First word of the CQ doorbell: arm sequence, command and consumer counter.
    CompletionQueueHigh,
    /// Second word: which completion queue to arm.
    CompletionQueueLow,
    /// Consumer counter of an event queue, which is armed.
    EventQueueArm,
    /// Consumer counter of an event queue.
    EventQueueUpdate,
    /// First word of a send doorbell: opcode and index of the work request.
    SendQueueHigh,
    /// Second word: which queue pair.
    SendQueueLow,
}

/// The doorbell at an aligned offset of the page, if there is one. Send doorbells begin every 256 bytes of the upper
/// half; what follows in each is a buffer for inline work requests, which the device does not offer (`bf` is 0).
fn doorbell_at(offset: u64) -> Option<Doorbell> {
    Some(match offset {
        0x20 => Doorbell::CompletionQueueHigh,
        0x24 => Doorbell::CompletionQueueLow,
        0x40 => Doorbell::EventQueueArm,
        0x48 => Doorbell::EventQueueUpdate,
        0x800..0x1000 if offset & 0xff == 0 => Doorbell::SendQueueHigh,
        0x800..0x1000 if offset & 0xff == 4 => Doorbell::SendQueueLow,
        _ => return None,
    })
}

impl Mlx5 {
    /// Writes the aligned word at `offset` of BAR 0, in page `page`, which is no part of the initialization segment.
    pub(super) fn write_uar(&mut self, page: u32, offset: u64, value: u32, port: &mut dyn Port) -> Access {
        let Some(uar) = self.hca.uars.get_mut(page) else { return Err(AccessError::NoRegister) };
        let in_page = offset & ((1 << PAGE_SHIFT) - 1);
        match doorbell_at(in_page) {
            Some(Doorbell::CompletionQueueHigh) => uar.cq_doorbell_high = value,
            Some(Doorbell::CompletionQueueLow) => self.hca.arm_completion_queue(page, value, port),
            Some(Doorbell::EventQueueArm) => self.ring_event_queue(page, value, true, port),
            Some(Doorbell::EventQueueUpdate) => self.ring_event_queue(page, value, false, port),
            Some(Doorbell::SendQueueLow) => self.hca.ring_send_queue(page, value),
            Some(Doorbell::SendQueueHigh) => {}
            None if in_page >= 0x800 => {}
            None => return Err(AccessError::NoRegister),
        }
        Ok(())
    }

    fn ring_event_queue(&mut self, uar: u32, value: u32, arm: bool, port: &mut dyn Port) {
        let eqn = value >> 24;
        match self.hca.eqs.get_mut(eqn).filter(|eq| eq.uar == uar) {
            Some(eq) => eq.ring(value, arm, port),
            None => log::debug!("mlx5: UAR {uar} rang for event queue {eqn}, which it has not"),
        }
    }
}
