//! Descriptor-table and task registers, and the instructions that examine selectors.

use super::descriptor::{Descriptor, index_of, is_null, kind, rpl};
use super::{MEMORY, operand};
use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::fault::Fault;
use crate::memory::access::is_canonical;
use crate::mode::Mode;
use crate::state::{Segment, TableRegister, Vcpu, cr4};
use crate::world::World;
use iced_x86::{Instruction, Mnemonic};

pub(crate) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    use iced_x86::Code;
    let code = instruction.code();
    // For SLDT, STR and SMSW: the size of a register operand.
    let size = if instruction.op_count() > 0 { instruction.op0_register().size() as u8 } else { 0 };
    match instruction.mnemonic() {
        Mnemonic::Lgdt | Mnemonic::Lidt => {
            // The 16-bit forms load 24 bits of base.
            op.aux = u8::from(matches!(code, Code::Lgdt_m1632_16 | Code::Lidt_m1632_16));
            op.run = if instruction.mnemonic() == Mnemonic::Lgdt { load_gdt } else { load_idt };
            Lowered::Last
        }
        Mnemonic::Sgdt | Mnemonic::Sidt => {
            op.run = if instruction.mnemonic() == Mnemonic::Sgdt { store_gdt } else { store_idt };
            Lowered::Straight
        }
        Mnemonic::Lldt | Mnemonic::Ltr | Mnemonic::Verr | Mnemonic::Verw => {
            op.src = operand(instruction, 0);
            op.run = match instruction.mnemonic() {
                Mnemonic::Lldt => load_ldt,
                Mnemonic::Ltr => load_task,
                Mnemonic::Verr => verify::<false, W>,
                _ => verify::<true, W>,
            };
            Lowered::Straight
        }
        Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Smsw => {
            op.dst = operand(instruction, 0);
            op.aux = size;
            op.run = match instruction.mnemonic() {
                Mnemonic::Sldt => store_ldt,
                Mnemonic::Str => store_task,
                _ => store_machine_status,
            };
            Lowered::Straight
        }
        Mnemonic::Lar | Mnemonic::Lsl => {
            op.dst = gpr(instruction.op0_register());
            op.src = operand(instruction, 1);
            op.aux = size;
            op.run = if instruction.mnemonic() == Mnemonic::Lar { load_access_rights } else { load_limit };
            Lowered::Straight
        }
        Mnemonic::Arpl if !mode.is_64() => {
            op.dst = operand(instruction, 0);
            op.src = gpr(instruction.op1_register());
            op.run = adjust_rpl;
            Lowered::Straight
        }
        _ => Lowered::No,
    }
}

impl Vcpu {
    /// #GP(0) where CR4.UMIP hides system state from user mode.
    fn require_umip(&self) -> Result<(), Fault> {
        if self.cr4 & cr4::UMIP != 0 && self.cpl > 0 { Err(Fault::GP0) } else { Ok(()) }
    }

    /// The descriptor that LAR, LSL, VERR and VERW may see, or none.
    fn visible_descriptor<W: World>(
        &mut self,
        world: &mut W,
        selector: u16,
    ) -> Result<Option<Descriptor>, Fault> {
        if is_null(selector) {
            return Ok(None);
        }
        // A selector beyond its table clears ZF; only a page fault on the table is a fault.
        match self.descriptor(world, selector, |_| Fault::UD) {
            Ok(descriptor) => Ok(Some(descriptor)),
            Err(Fault::UD) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn may_access(&self, descriptor: Descriptor, selector: u16) -> bool {
        (descriptor.is_code() && descriptor.is_conforming())
            || (self.cpl <= descriptor.dpl() && rpl(selector) <= descriptor.dpl())
    }
}

fn read_table<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<TableRegister, Fault> {
    cpu.require_supervisor()?;
    let long = cpu.mode.is_64();
    let linear = cpu.address_sized(op, if long { 10 } else { 6 }, false)?;
    let mut data = [0; 10];
    cpu.load_bytes(world, linear, &mut data[..if long { 10 } else { 6 }])?;
    let mut base = [0; 8];
    base.copy_from_slice(&data[2..]);
    let mut base = u64::from_le_bytes(base);
    if op.aux == 1 {
        base &= 0xff_ffff;
    }
    if !is_canonical(base) {
        return Err(Fault::GP0);
    }
    Ok(TableRegister { base, limit: u16::from_le_bytes([data[0], data[1]]) })
}

fn load_gdt<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.gdtr = read_table(cpu, world, op)?;
    Ok(())
}

fn load_idt<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.idtr = read_table(cpu, world, op)?;
    Ok(())
}

fn write_table<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
    table: TableRegister,
) -> Result<(), Fault> {
    cpu.require_umip()?;
    let len = if cpu.mode.is_64() { 10 } else { 6 };
    let linear = cpu.address_sized(op, len, true)?;
    let mut data = [0; 10];
    data[..2].copy_from_slice(&table.limit.to_le_bytes());
    data[2..].copy_from_slice(&table.base.to_le_bytes());
    cpu.store_bytes(world, linear, &data[..len as usize])
}

fn store_gdt<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    write_table(cpu, world, op, cpu.gdtr)
}

fn store_idt<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    write_table(cpu, world, op, cpu.idtr)
}

/// A system segment: in long mode its descriptor has 16 bytes.
fn system_segment<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    selector: u16,
    allowed: impl Fn(u8) -> bool,
) -> Result<(Segment, Descriptor), Fault> {
    let code = index_of(selector);
    if selector & 4 != 0 {
        return Err(Fault::gp(code));
    }
    let descriptor = cpu.descriptor(world, selector, Fault::gp)?;
    if !descriptor.is_system() || !allowed(descriptor.kind()) {
        return Err(Fault::gp(code));
    }
    let mut segment = descriptor.segment(selector);
    if cpu.long_mode() {
        let high = cpu.descriptor_high(world, selector, descriptor)?;
        segment.base |= high << 32;
        if high >> 40 & 0x1f != 0 || !is_canonical(segment.base) {
            return Err(Fault::gp(code));
        }
    }
    if !descriptor.present() {
        return Err(Fault::np(code));
    }
    Ok((segment, descriptor))
}

fn load_ldt<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_protected()?;
    cpu.require_supervisor()?;
    let selector = cpu.word_operand(world, op, op.src)?;
    cpu.ldtr = if is_null(selector) {
        Segment::null(selector)
    } else {
        system_segment(cpu, world, selector, |kind| kind == kind::LDT)?.0
    };
    Ok(())
}

fn load_task<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    const BUSY: u16 = 2;
    cpu.require_protected()?;
    cpu.require_supervisor()?;
    let selector = cpu.word_operand(world, op, op.src)?;
    if is_null(selector) {
        return Err(Fault::GP0);
    }
    let long = cpu.long_mode();
    let available = |kind| kind == kind::TSS32 || (kind == kind::TSS16 && !long);
    let (mut segment, descriptor) = system_segment(cpu, world, selector, available)?;
    segment.attr |= BUSY;
    let access_byte = descriptor.address.wrapping_add(5);
    cpu.store_system(world, access_byte, segment.attr as u8).map_err(|fault| fault.resolve(false))?;
    cpu.tr = segment;
    Ok(())
}

fn store_ldt<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_protected()?;
    cpu.require_umip()?;
    cpu.set_word_operand(world, op, op.dst, op.aux, cpu.ldtr.selector)
}

fn store_task<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_protected()?;
    cpu.require_umip()?;
    cpu.set_word_operand(world, op, op.dst, op.aux, cpu.tr.selector)
}

/// SMSW: a register of more than 16 bits gets all of CR0.
fn store_machine_status<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_umip()?;
    if op.dst == MEMORY {
        return cpu.set_word_operand(world, op, op.dst, 2, cpu.cr0 as u16);
    }
    cpu.set_reg_sized(op.dst, op.aux, cpu.cr0);
    Ok(())
}

fn load_access_rights<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_protected()?;
    let selector = cpu.word_operand(world, op, op.src)?;
    let long = cpu.long_mode();
    let valid = |kind: u8| match kind {
        kind::LDT | kind::TSS32 | kind::TSS32_BUSY | kind::CALL_GATE32 => true,
        kind::TSS16 | kind::TSS16_BUSY | kind::CALL_GATE16 | kind::TASK_GATE => !long,
        _ => false,
    };
    let rights = cpu
        .visible_descriptor(world, selector)?
        .filter(|found| cpu.may_access(*found, selector) && (!found.is_system() || valid(found.kind())))
        .map(|found| found.raw >> 32 & 0x00f0_ff00);
    cpu.flags.put_zf(rights.is_some());
    if let Some(rights) = rights {
        cpu.set_reg_sized(op.dst, op.aux, rights);
    }
    Ok(())
}

fn load_limit<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_protected()?;
    let selector = cpu.word_operand(world, op, op.src)?;
    let long = cpu.long_mode();
    let valid = |kind: u8| match kind {
        kind::LDT | kind::TSS32 | kind::TSS32_BUSY => true,
        kind::TSS16 | kind::TSS16_BUSY => !long,
        _ => false,
    };
    let limit = cpu
        .visible_descriptor(world, selector)?
        .filter(|found| cpu.may_access(*found, selector) && (!found.is_system() || valid(found.kind())))
        .map(Descriptor::limit);
    cpu.flags.put_zf(limit.is_some());
    if let Some(limit) = limit {
        cpu.set_reg_sized(op.dst, op.aux, u64::from(limit));
    }
    Ok(())
}

fn verify<const WRITE: bool, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_protected()?;
    let selector = cpu.word_operand(world, op, op.src)?;
    let usable = cpu.visible_descriptor(world, selector)?.is_some_and(|found| {
        let permitted = if WRITE { found.is_writable_data() } else { found.is_readable() };
        permitted && cpu.may_access(found, selector)
    });
    cpu.flags.put_zf(usable);
    Ok(())
}

fn adjust_rpl<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_protected()?;
    let wanted = cpu.reg::<u16>(op.src) & 3;
    let adjust = |value: u16| (value & 3 < wanted).then_some(value & !3 | wanted);
    let adjusted = if op.dst == MEMORY {
        let linear = cpu.address_mut::<u16, W>(op)?;
        let adjusted = adjust(cpu.load_for_store::<u16, W>(world, linear)?);
        if let Some(value) = adjusted {
            cpu.store(world, linear, value)?;
        }
        adjusted
    } else {
        let adjusted = adjust(cpu.reg::<u16>(op.dst));
        if let Some(value) = adjusted {
            cpu.set_reg::<u16>(op.dst, value);
        }
        adjusted
    };
    cpu.flags.put_zf(adjusted.is_some());
    Ok(())
}
