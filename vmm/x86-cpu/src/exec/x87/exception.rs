//! x87 exceptions: recording them in the status word, reporting them at the next waiting instruction, and the pointers to
//! the instruction that raised them (SDM volume 1, 8.1.8, 8.4 and 8.7).
//!
//! The processor modelled has FDP_EXCPTN_ONLY (CPUID.7:EBX\[6\]): the data pointer is written only by an instruction with
//! an unmasked exception; and it deprecates FCS and FDS (CPUID.7:EBX\[13\]): they read as 0. The opcode too is written
//! only with an unmasked exception (IA32_MISC_ENABLE\[2\] clear, SDM volume 1, 8.1.9.1).

use super::MEMORY;
use crate::block::Op;
use crate::fault::Fault;
use crate::state::{Vcpu, X87, cr0};
use crate::world::World;

/// Invalid operation.
pub(super) const IE: u16 = 1 << 0;
/// Denormal operand.
pub(super) const DE: u16 = 1 << 1;
/// Division by zero.
pub(super) const ZE: u16 = 1 << 2;
/// Numeric overflow.
pub(super) const OE: u16 = 1 << 3;
/// Numeric underflow.
pub(super) const UE: u16 = 1 << 4;
/// Inexact result.
pub(super) const PE: u16 = 1 << 5;
/// Stack fault.
pub(super) const SF: u16 = 1 << 6;
/// Error summary: an unmasked exception waits.
pub(super) const ES: u16 = 1 << 7;
pub(super) const C0: u16 = 1 << 8;
/// Direction of a stack fault (set: overflow) or of rounding (set: up).
pub(super) const C1: u16 = 1 << 9;
pub(super) const C2: u16 = 1 << 10;
pub(super) const C3: u16 = 1 << 14;
/// Busy: a copy of the error summary.
pub(super) const BUSY: u16 = 1 << 15;
/// The condition codes that comparisons write.
pub(super) const CODES: u16 = C0 | C1 | C2 | C3;
/// A register was empty.
pub(super) const UNDERFLOW: u16 = IE | SF;
/// A register to push into was not empty.
pub(super) const OVERFLOW: u16 = IE | SF | C1;

/// The six exceptions that have masks, at the same place in status and control word.
pub(super) const EXCEPTIONS: u16 = 0x3f;
/// Exceptions found before the operation: unmasked, they leave the destination alone.
pub(super) const BEFORE: u16 = IE | DE | ZE;

impl X87 {
    /// Recomputes ES and B after the status or control word changed.
    pub(crate) fn update_summary(&mut self) {
        let pending = self.status & !self.control & EXCEPTIONS != 0;
        self.status = self.status & !(ES | BUSY) | if pending { ES | BUSY } else { 0 };
    }
    /// The exceptions in `raised` that the control word does not mask.
    pub(super) fn unmasked(&self, raised: u16) -> u16 {
        raised & !self.control & EXCEPTIONS
    }
}

impl Vcpu {
    /// What every waiting x87 and MMX instruction checks first: an exception left unmasked by an earlier one. With CR0.NE
    /// clear a PC would be told through IRQ 13, which no machine here wires: nothing happens then.
    ///
    /// # Errors
    /// #MF.
    pub(crate) fn check_x87(&self) -> Result<(), Fault> {
        if self.x87.status & ES != 0 && self.cr0 & cr0::NE != 0 { Err(Fault::MF) } else { Ok(()) }
    }

    /// Ends a non-control instruction: notes its address, puts `raised` (exceptions and condition codes) into the status
    /// word, of whose condition codes those in `codes` are replaced, and returns whether there is a result: with an
    /// unmasked exception of those found before the operation, destination and stack stay as they are.
    pub(super) fn finish_x87<W: World>(&mut self, op: &Op<W>, raised: u16, codes: u16) -> bool {
        self.x87.instruction_pointer = self.block_ip(op.offset());
        self.x87.instruction_selector = 0;
        let unmasked = self.x87.unmasked(raised);
        let delivers = unmasked & BEFORE == 0;
        // An exception found before the operation keeps it from finding others.
        let raised = if delivers || raised & SF != 0 { raised } else { raised & (BEFORE | C0 | C2 | C3) };
        let kept = self.x87.status & !codes;
        self.x87.status = kept | raised & (codes | EXCEPTIONS | SF);
        if unmasked != 0 {
            self.x87.status |= ES | BUSY;
            self.x87.opcode = op.imm as u16;
            if op.aux & MEMORY != 0 {
                self.x87.data_pointer = self.effective_address(op);
                self.x87.data_selector = 0;
            }
        }
        delivers
    }
}
