//! I/O ports: IN, OUT and their string forms (SDM volume 1, chapter 19).

use super::descriptor::kind;
use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::{effective_segment, segment};
use crate::exec::index::address_size;
use crate::fault::Fault;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::{Vcpu, cr0, reg, seg};
use crate::world::World;
use iced_x86::{Code, Instruction, OpKind};

/// Iterations of a repeated instruction before the machine gets a look at the time.
const CHUNK: u32 = 4096;
/// Offset of the I/O map base in a 32- and 64-bit TSS.
const IO_MAP_BASE: u32 = 0x66;

pub(crate) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    op.run = match instruction.code() {
        Code::In_AL_imm8 => input::<u8, false, W>,
        Code::In_AX_imm8 => input::<u16, false, W>,
        Code::In_EAX_imm8 => input::<u32, false, W>,
        Code::In_AL_DX => input::<u8, true, W>,
        Code::In_AX_DX => input::<u16, true, W>,
        Code::In_EAX_DX => input::<u32, true, W>,
        Code::Out_imm8_AL => output::<u8, false, W>,
        Code::Out_imm8_AX => output::<u16, false, W>,
        Code::Out_imm8_EAX => output::<u32, false, W>,
        Code::Out_DX_AL => output::<u8, true, W>,
        Code::Out_DX_AX => output::<u16, true, W>,
        Code::Out_DX_EAX => output::<u32, true, W>,
        Code::Insb_m8_DX => input_string::<u8, W>,
        Code::Insw_m16_DX => input_string::<u16, W>,
        Code::Insd_m32_DX => input_string::<u32, W>,
        Code::Outsb_DX_m8 => output_string::<u8, W>,
        Code::Outsw_DX_m16 => output_string::<u16, W>,
        Code::Outsd_DX_m32 => output_string::<u32, W>,
        _ => return Lowered::No,
    };
    op.aux = address_size(instruction);
    if op.aux != 0 {
        let source = effective_segment(instruction, mode);
        op.seg = if instruction.op0_kind() == OpKind::Register { segment(source) } else { seg::ES as u8 };
        op.imm = u64::from(instruction.has_rep_prefix() || instruction.has_repne_prefix());
    } else if (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Immediate8) {
        op.imm = u64::from(instruction.immediate8());
    }
    Lowered::Last
}

impl Vcpu {
    /// Whether `size` bytes of ports at `port` may be accessed: IOPL, else the I/O permission bitmap of the TSS.
    fn require_port<W: World>(&mut self, world: &mut W, port: u16, size: u32) -> Result<(), Fault> {
        if self.cr0 & cr0::PE == 0 || (self.cpl <= self.iopl() && !self.virtual_8086()) {
            return Ok(());
        }
        let wide = self.tr.usable() && self.tr.attr & 15 == u16::from(kind::TSS32_BUSY);
        if !wide || self.tr.limit < IO_MAP_BASE + 1 {
            return Err(Fault::GP0);
        }
        let base = self.tr.base;
        let map = self
            .load_system::<u16, W>(world, base.wrapping_add(u64::from(IO_MAP_BASE)))
            .map_err(|fault| fault.resolve(false))?;
        // Two bytes are read: the ports of one access may lie in both.
        let offset = u32::from(map) + u32::from(port >> 3);
        if offset + 1 > self.tr.limit {
            return Err(Fault::GP0);
        }
        let bits = self
            .load_system::<u16, W>(world, base.wrapping_add(u64::from(offset)))
            .map_err(|fault| fault.resolve(false))?;
        let mask = (1_u16 << size) - 1;
        if bits >> (port & 7) & mask == 0 { Ok(()) } else { Err(Fault::GP0) }
    }
}

fn port<const DX: bool, W: World>(cpu: &Vcpu, op: &Op<W>) -> u16 {
    if DX { cpu.gpr[reg::RDX] as u16 } else { op.imm as u16 }
}

fn input<T: Int, const DX: bool, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let port = port::<DX, W>(cpu, op);
    cpu.require_port(world, port, T::SIZE as u32)?;
    let value = world.io_read(cpu.id, cpu.now(), port, T::SIZE as u8);
    cpu.heed_outside(world);
    cpu.set_reg(reg::RAX as u8, T::low(u64::from(value)));
    cpu.watch_port(port, T::SIZE);
    cpu.call_attention();
    Ok(())
}

fn output<T: Int, const DX: bool, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let port = port::<DX, W>(cpu, op);
    cpu.require_port(world, port, T::SIZE as u32)?;
    let value = cpu.reg::<T>(reg::RAX as u8).zext() as u32;
    world.io_write(cpu.id, cpu.now(), port, T::SIZE as u8, value);
    cpu.heed_outside(world);
    cpu.watch_port(port, T::SIZE);
    cpu.call_attention();
    Ok(())
}

/// Runs `element` once, or with a REP prefix as often as RCX says; at most [`CHUNK`] times before a restart.
fn repeat<W: World>(
    cpu: &mut Vcpu,
    op: &Op<W>,
    mut element: impl FnMut(&mut Vcpu) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let repeated = op.imm != 0;
    if repeated && cpu.index_register(reg::RCX, op.aux) == 0 {
        return Ok(());
    }
    cpu.call_attention();
    for _ in 0..CHUNK {
        element(cpu)?;
        if !repeated {
            return Ok(());
        }
        cpu.move_index(reg::RCX, op.aux, u64::MAX);
        if cpu.index_register(reg::RCX, op.aux) == 0 {
            return Ok(());
        }
        if cpu.debug.pending != 0 || cpu.single_steps() {
            break;
        }
    }
    Err(Fault::RESTART)
}

fn input_string<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let port = cpu.gpr[reg::RDX] as u16;
    cpu.require_port(world, port, T::SIZE as u32)?;
    repeat(cpu, op, |cpu| {
        let offset = cpu.index_register(reg::RDI, op.aux);
        let linear = cpu.linear(seg::ES, offset, T::SIZE as u32, true)?;
        // The port is read once: the store after it must not fault.
        cpu.check_write(world, linear, T::SIZE)?;
        let value = world.io_read(cpu.id, cpu.now(), port, T::SIZE as u8);
        cpu.heed_outside(world);
        cpu.store(world, linear, T::low(u64::from(value)))?;
        cpu.watch_port(port, T::SIZE);
        cpu.move_index(reg::RDI, op.aux, cpu.index_step(T::SIZE));
        Ok(())
    })
}

fn output_string<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let port = cpu.gpr[reg::RDX] as u16;
    cpu.require_port(world, port, T::SIZE as u32)?;
    repeat(cpu, op, |cpu| {
        let offset = cpu.index_register(reg::RSI, op.aux);
        let linear = cpu.linear(usize::from(op.seg), offset, T::SIZE as u32, false)?;
        let value = cpu.load::<T, W>(world, linear)?;
        world.io_write(cpu.id, cpu.now(), port, T::SIZE as u8, value.zext() as u32);
        cpu.heed_outside(world);
        cpu.watch_port(port, T::SIZE);
        cpu.move_index(reg::RSI, op.aux, cpu.index_step(T::SIZE));
        Ok(())
    })
}
