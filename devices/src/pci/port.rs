//! The port a function sees: Device Control and bus-master enable applied, requester ID filled in.

use super::msix::Msix;
use super::{Bdf, Host, Port, Slot};
use crate::bus::Nanos;
use crate::dma::{AtomicOp, DmaAttrs, DmaError};
use crate::storage::Storage;

/// A [`Port`] lent to a device for one call.
pub(super) struct FunctionPort<'a> {
    pub slot: Slot,
    pub requester: Bdf,
    /// The function and the root port above it may master the bus.
    pub may_master: bool,
    /// The attributes that Device Control allows to be sent.
    pub allowed: DmaAttrs,
    pub msix: Option<&'a mut Msix>,
    /// The device asserts its interrupt pin.
    pub pin: &'a mut bool,
    pub host: &'a mut dyn Host,
}

impl FunctionPort<'_> {
    fn attrs(&self, wanted: DmaAttrs) -> Result<DmaAttrs, DmaError> {
        if !self.may_master {
            return Err(DmaError::BusMasterDisabled);
        }
        Ok(DmaAttrs {
            no_snoop: wanted.no_snoop && self.allowed.no_snoop,
            relaxed_ordering: wanted.relaxed_ordering && self.allowed.relaxed_ordering,
            ..wanted
        })
    }

    /// Sends pending messages that are neither masked nor held back any more.
    pub fn send_pending(&mut self) {
        if !self.may_master {
            return;
        }
        while let Some((address, data)) = self.msix.as_deref_mut().and_then(Msix::take_unmasked) {
            self.host.deliver_msi(self.requester, address, data);
        }
    }
}

impl Port for FunctionPort<'_> {
    fn now(&self) -> Nanos {
        self.host.now()
    }

    fn read(&mut self, iova: u64, buf: &mut [u8], attrs: DmaAttrs) -> Result<(), DmaError> {
        let result = self.attrs(attrs).and_then(|attrs| self.host.dma_read(self.requester, iova, buf, attrs));
        if result.is_err() {
            buf.fill(0xff);
        }
        result
    }

    fn write(&mut self, iova: u64, data: &[u8], attrs: DmaAttrs) -> Result<(), DmaError> {
        let attrs = self.attrs(attrs)?;
        self.host.dma_write(self.requester, iova, data, attrs)
    }

    fn atomic(&mut self, iova: u64, op: AtomicOp, attrs: DmaAttrs) -> Result<u64, DmaError> {
        let attrs = self.attrs(attrs)?;
        self.host.dma_atomic(self.requester, iova, op, attrs)
    }

    fn msi(&mut self, vector: u16) {
        let may_send = self.may_master;
        if let Some((address, data)) = self.msix.as_deref_mut().and_then(|msix| msix.raise(vector, may_send))
        {
            self.host.deliver_msi(self.requester, address, data);
        }
    }

    fn msix_enabled(&self) -> bool {
        self.msix.as_deref().is_some_and(Msix::is_enabled)
    }

    fn set_interrupt_pin(&mut self, asserted: bool) {
        *self.pin = asserted;
    }

    fn flush(&mut self) {
        self.host.dma_flush(self.requester);
    }

    fn schedule(&mut self, at: Nanos, token: u32) {
        self.host.schedule(self.slot, token, at);
    }

    fn cancel(&mut self, token: u32) {
        self.host.cancel(self.slot, token);
    }

    fn storage(&mut self) -> Option<&mut dyn Storage> {
        self.host.storage(self.slot)
    }

    fn output(&mut self, bytes: &[u8]) {
        self.host.output(self.slot, bytes);
    }
}
