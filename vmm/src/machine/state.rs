//! What of a machine is saved: the state of its devices and of what they share. RAM goes a way of its own
//! ([`crate::memory::pages`]); decoded code, address maps and the host's files are made again.

use super::Machine;
use super::board::Board;
use super::ports::PortDevices;
use crate::memory::Encryption;
use devices::state::{Loader, SaveState, Saver, StateError};

/// A machine is restored into one built from the same [`super::MachineConfig`] that has not run.
impl SaveState for Machine {
    fn save(&self, to: &mut Saver) -> Result<(), StateError> {
        self.board.save(to)?;
        self.ports.save(to)?;
        self.pci.save(to)?;
        to.put(self.attachments.console())?;
        to.put(&self.random)?;
        to.put(&self.log)?;
        to.put(&self.ledger)?;
        to.put(&self.iommu)?;
        to.put(&self.memory.cache)?;
        to.put(&self.memory.encryption)?;
        to.put(&self.findings)
    }

    fn restore(&mut self, from: &mut Loader<'_>) -> Result<(), StateError> {
        self.board.restore(from)?;
        self.ports.restore(from)?;
        self.pci.restore(from)?;
        self.attachments.set_console(from.take()?);
        self.random = from.take()?;
        self.log = from.take()?;
        self.ledger = from.take()?;
        if self.ledger.is_some() {
            self.look_for_guest(None);
        }
        self.iommu = from.take()?;
        self.memory.cache = from.take()?;
        let encryption: Option<Box<Encryption>> = from.take()?;
        let end = self.memory.ram.end();
        if encryption.is_some() != self.memory.encryption.is_some()
            || encryption.as_ref().is_some_and(|encryption| !encryption.is_of(end))
        {
            return Err(StateError::unfit("page labels", "they are not those of the machine's RAM"));
        }
        self.memory.encryption = encryption;
        self.findings = from.take()?;
        Ok(())
    }
}

/// With the interrupt controllers of an engine a board cannot be saved: their state is not here.
impl SaveState for Board {
    fn save(&self, to: &mut Saver) -> Result<(), StateError> {
        if self.delegated.is_some() {
            return Err(StateError::unfit("interrupt controllers", "they are the engine's"));
        }
        self.interrupts.save(to)?;
        self.events.save(to)?;
        to.put(&self.power)?;
        to.put(&self.now)?;
        to.put(&self.pins)?;
        to.put(&self.posted)
    }

    fn restore(&mut self, from: &mut Loader<'_>) -> Result<(), StateError> {
        self.interrupts.restore(from)?;
        self.events.restore(from)?;
        self.power = from.take()?;
        self.now = from.take()?;
        self.pins = from.take()?;
        self.posted = from.take()?;
        if !self.posted.is_in_range() {
            return Err(StateError::unfit("posted writes", "more wait than can"));
        }
        Ok(())
    }
}

impl SaveState for PortDevices {
    fn save(&self, to: &mut Saver) -> Result<(), StateError> {
        self.serial.iter().try_for_each(|serial| serial.save(to))?;
        self.others.iter().try_for_each(|device| device.save(to))?;
        self.fw_cfg.save(to)
    }

    fn restore(&mut self, from: &mut Loader<'_>) -> Result<(), StateError> {
        self.serial.iter_mut().try_for_each(|serial| serial.restore(from))?;
        self.others.iter_mut().try_for_each(|device| device.restore(from))?;
        self.fw_cfg.restore(from)
    }
}
