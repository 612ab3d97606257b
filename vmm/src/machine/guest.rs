//! The kernel that runs in the machine, and the ledger of its DMA mappings.

use super::Machine;
use crate::guest::{Guest, GuestError, Registers, SymbolFile};
use crate::ledger::{Ledger, Report};
use std::sync::Arc;

/// What is known of the kernel. Made anew from RAM where a machine is restored.
#[derive(Debug, Clone, Default)]
pub(super) enum KnownGuest {
    /// Nobody has asked.
    #[default]
    Unwanted,
    /// It is looked for as soon as it has said where system calls enter it.
    Wanted(Option<Arc<SymbolFile>>),
    Found(Guest),
    Missing,
}

impl Machine {
    /// Has the kernel looked for, with the symbols of `file` if it is given: for the ledger and for whoever reports what the
    /// guest does.
    pub fn look_for_guest(&mut self, file: Option<Arc<SymbolFile>>) {
        self.guest = KnownGuest::Wanted(file);
    }

    /// Has the ledger follow the guest's DMA mappings; `keeps_printed` is for [`Ledger::new`]. Needs
    /// [`Machine::look_for_guest`], and an engine that asks [`x86_cpu::World::probes`].
    pub fn follow_dma(&mut self, keeps_printed: bool) {
        self.ledger = Some(Box::new(Ledger::new(keeps_printed)));
    }

    /// Has the ledger of a machine that was restored, if it has one, take names from `file` and keep what
    /// [`Machine::follow_dma`] says; returns whether there is one.
    pub fn go_on_following(&mut self, file: Option<Arc<SymbolFile>>, keeps_printed: bool) -> bool {
        let Some(ledger) = &mut self.ledger else { return false };
        ledger.keep_printed(keeps_printed);
        self.look_for_guest(file);
        true
    }

    /// Whether [`Machine::find_guest`] is worth a try.
    #[must_use]
    pub fn wants_guest(&self) -> bool {
        matches!(self.guest, KnownGuest::Wanted(_))
    }

    /// Looks for the kernel that runs on a vCPU with these registers.
    pub fn find_guest(&mut self, registers: &Registers) {
        let KnownGuest::Wanted(file) = &self.guest else { return };
        match Guest::discover(&self.memory.ram, registers, file.as_deref()) {
            Ok(guest) => {
                if let Some(ledger) = &mut self.ledger {
                    ledger.found(&guest, &self.memory.ram);
                }
                self.guest = KnownGuest::Found(guest);
            }
            Err(GuestError::NotYet) => {}
            Err(error) => {
                log::info!("{error}");
                if let Some(ledger) = &mut self.ledger {
                    ledger.turn_off(error.to_string());
                }
                self.guest = KnownGuest::Missing;
            }
        }
    }

    /// The kernel, once it has been found.
    #[must_use]
    pub fn guest(&self) -> Option<&Guest> {
        match &self.guest {
            KnownGuest::Found(guest) => Some(guest),
            _ => None,
        }
    }

    /// The ledger, if there is one.
    #[must_use]
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_deref()
    }

    /// What has become of the ledger, if there is one.
    pub fn ledger_report(&mut self) -> Option<Report> {
        let guest = match &self.guest {
            KnownGuest::Found(guest) => Some(guest),
            _ => None,
        };
        self.ledger.as_mut().map(|ledger| ledger.report(guest, &self.memory.ram))
    }
}
