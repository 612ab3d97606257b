//! Control registers (SDM volume 3, 2.5).

use super::descriptor::kind;
use super::operand;
use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::encryption::C_BIT;
use crate::fault::Fault;
use crate::memory::paging::PHYSICAL_BITS;
use crate::mode::Mode;
use crate::state::{Vcpu, cr0, cr4, efer, seg};
use crate::world::{Shown, World};
use iced_x86::{Code, Instruction};

/// CR0 bits that exist.
const CR0_MASK: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
/// CR4 bits that go with the features CPUID advertises.
const CR4_MASK: u64 = cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::FSGSBASE
    | cr4::PCIDE
    | cr4::OSXSAVE
    | cr4::SMEP
    | cr4::SMAP;
/// CR4 bits whose change makes translations void.
const CR4_PAGING: u64 = CR4_PDPTES | cr4::PCIDE;
/// CR4 bits whose change loads the top entries of PAE paging again.
const CR4_PDPTES: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP;
/// Bit 63 of a value for CR3.
const KEEP_TRANSLATIONS: u64 = 1 << 63;
const PDPTE_RESERVED: u64 = !((1 << PHYSICAL_BITS) - 1) | 0x1e6;

pub(crate) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    match instruction.code() {
        Code::Mov_r32_cr | Code::Mov_r64_cr => {
            op.dst = gpr(instruction.op0_register());
            op.src = instruction.op1_register().number() as u8;
            if !matches!(op.src, 0 | 2 | 3 | 4 | 8) {
                op.run = crate::decode::undefined;
                return Lowered::Last;
            }
            op.run = read_control;
            Lowered::Straight
        }
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => {
            op.dst = instruction.op0_register().number() as u8;
            op.src = gpr(instruction.op1_register());
            op.run = match op.dst {
                0 => write_cr0,
                2 => write_cr2,
                3 => write_cr3,
                4 => write_cr4,
                8 => write_cr8,
                _ => crate::decode::undefined,
            };
            Lowered::Last
        }
        Code::Lmsw_rm16 | Code::Lmsw_r32m16 | Code::Lmsw_r64m16 => {
            op.src = operand(instruction, 0);
            op.run = load_machine_status;
            Lowered::Last
        }
        Code::Clts => {
            op.run = clear_task_switched;
            Lowered::Last
        }
        _ => Lowered::No,
    }
}

impl Vcpu {
    /// Whether PAE paging is in use with CR0 and CR4 as given.
    fn pae_paging(&self, cr0: u64, cr4: u64) -> bool {
        cr0 & cr0::PG != 0 && cr4 & cr4::PAE != 0 && self.efer & efer::LME == 0
    }

    /// Replaces CR0 (SDM volume 3, 2.5 and volume 2, MOV to control registers).
    pub(crate) fn write_cr0<W: World>(&mut self, world: &mut W, value: u64) -> Result<(), Fault> {
        let on = |bit: u64| value & bit != 0;
        if value >> 32 != 0 || (on(cr0::PG) && !on(cr0::PE)) || (on(cr0::NW) && !on(cr0::CD)) {
            return Err(Fault::GP0);
        }
        let value = value & CR0_MASK | cr0::ET;
        let changed = value ^ self.cr0;
        let mut new_efer = self.efer;
        if changed & cr0::PG != 0 && !on(cr0::PG) && self.cr4 & cr4::PCIDE != 0 {
            return Err(Fault::GP0);
        }
        if changed & (cr0::PG | cr0::CD | cr0::NW) != 0 && self.pae_paging(value, self.cr4) {
            self.load_pdptes(world, self.cr3)?;
        }
        if changed & cr0::PG != 0 {
            if on(cr0::PG) {
                if self.efer & efer::LME != 0 {
                    let task16 = matches!(self.tr.attr as u8 & 15, kind::TSS16 | kind::TSS16_BUSY);
                    if self.cr4 & cr4::PAE == 0 || self.segs[seg::CS].long() || task16 {
                        return Err(Fault::GP0);
                    }
                    new_efer |= efer::LMA;
                }
            } else {
                if self.mode.is_64() {
                    return Err(Fault::GP0);
                }
                new_efer &= !efer::LMA;
            }
        }
        self.cr0 = value;
        self.efer = new_efer;
        let types = changed & cr0::CD != 0 && world.shown() != Shown::Nothing;
        if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 || types {
            self.drop_translations(world, false);
        }
        self.update_mode();
        Ok(())
    }

    /// Replaces CR3: forgets all translations but those of global pages.
    pub(crate) fn write_cr3<W: World>(&mut self, world: &mut W, value: u64) -> Result<(), Fault> {
        // With PCIDs, bit 63 permits to keep the translations of the new one: none are kept here.
        let value = if self.cr4 & cr4::PCIDE != 0 { value & !KEEP_TRANSLATIONS } else { value };
        let encrypted = if self.sev { C_BIT } else { 0 };
        if self.long_mode() && (value & !encrypted) >> PHYSICAL_BITS != 0 {
            return Err(Fault::GP0);
        }
        if self.pae_paging(self.cr0, self.cr4) {
            self.load_pdptes(world, value)?;
        }
        self.cr3 = value;
        self.drop_translations(world, true);
        Ok(())
    }

    /// Replaces CR4.
    pub(crate) fn write_cr4<W: World>(&mut self, world: &mut W, value: u64) -> Result<(), Fault> {
        let changed = value ^ self.cr4;
        if value & !CR4_MASK != 0 || (self.long_mode() && changed & cr4::PAE != 0) {
            return Err(Fault::GP0);
        }
        let on = changed & value;
        if on & cr4::PCIDE != 0 && (!self.long_mode() || self.cr3 & 0xfff != 0) {
            return Err(Fault::GP0);
        }
        if self.pae_paging(self.cr0, value) && changed & CR4_PDPTES != 0 {
            self.load_pdptes(world, self.cr3)?;
        }
        self.cr4 = value;
        if changed & cr4::DE != 0 {
            self.update_breakpoints();
        }
        if changed & CR4_PAGING != 0 {
            self.drop_translations(world, false);
        }
        self.update_mode();
        Ok(())
    }

    /// PAE paging: loads the four top entries, which are checked now and not in each walk (SDM volume 3, 4.4.1).
    pub(super) fn load_pdptes<W: World>(&mut self, world: &mut W, cr3: u64) -> Result<(), Fault> {
        let table = cr3 & 0xffff_ffe0;
        let entries = [0, 8, 16, 24].map(|offset| self.physical_load::<u64, W>(world, table + offset, 0));
        let reserved = if self.sev { PDPTE_RESERVED & !C_BIT } else { PDPTE_RESERVED };
        if entries.into_iter().any(|entry| entry & 1 != 0 && entry & reserved != 0) {
            return Err(Fault::GP0);
        }
        self.pdptes = entries;
        Ok(())
    }

    /// A general register as MOV to and from control and debug registers uses it: 64 bits in 64-bit mode, else 32.
    pub(super) fn full_register(&self, index: u8) -> u64 {
        if self.mode.is_64() { self.reg::<u64>(index) } else { u64::from(self.reg::<u32>(index)) }
    }

    pub(super) fn set_full_register(&mut self, index: u8, value: u64) {
        if self.mode.is_64() {
            self.set_reg::<u64>(index, value);
        } else {
            self.set_reg::<u32>(index, value as u32);
        }
    }
}

fn read_control<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    let value = match op.src {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        _ => u64::from(world.task_priority(cpu.id)),
    };
    cpu.set_full_register(op.dst, value);
    Ok(())
}

fn write_cr0<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    cpu.write_cr0(world, cpu.full_register(op.src))
}

fn write_cr2<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    cpu.cr2 = cpu.full_register(op.src);
    Ok(())
}

fn write_cr3<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    cpu.write_cr3(world, cpu.full_register(op.src))
}

fn write_cr4<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    cpu.write_cr4(world, cpu.full_register(op.src))
}

fn write_cr8<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    let class = cpu.full_register(op.src);
    if class > 15 {
        return Err(Fault::GP0);
    }
    world.set_task_priority(cpu.id, class as u8);
    cpu.call_attention();
    Ok(())
}

/// LMSW: PE can be set, not cleared.
fn load_machine_status<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    let status = u64::from(cpu.word_operand(world, op, op.src)?);
    let low = cr0::MP | cr0::EM | cr0::TS;
    let value = cpu.cr0 & !low | status & (low | cr0::PE);
    cpu.write_cr0(world, value)
}

fn clear_task_switched<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    cpu.cr0 &= !cr0::TS;
    cpu.update_mode();
    Ok(())
}
