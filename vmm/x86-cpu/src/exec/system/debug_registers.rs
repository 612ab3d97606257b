//! MOV to and from debug registers (SDM volume 3, 18.2).

use crate::block::Op;
use crate::debug::{dr6, dr7};
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::fault::Fault;
use crate::flags::bits;
use crate::mode::Mode;
use crate::state::{Vcpu, cr4};
use crate::world::World;
use iced_x86::{Code, Instruction};

pub(crate) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    match instruction.code() {
        Code::Mov_r32_dr | Code::Mov_r64_dr => {
            op.dst = gpr(instruction.op0_register());
            op.src = instruction.op1_register().number() as u8;
            op.run = if op.src < 8 { read } else { crate::decode::undefined };
        }
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => {
            op.dst = instruction.op0_register().number() as u8;
            op.src = gpr(instruction.op1_register());
            op.run = if op.dst < 8 { write } else { crate::decode::undefined };
        }
        _ => return Lowered::No,
    }
    Lowered::Last
}

impl Vcpu {
    /// #DB when debug registers are accessed under DR7.GD; #UD for DR4 and DR5 under CR4.DE. Returns the register.
    fn debug_register(&mut self, number: u8) -> Result<usize, Fault> {
        let number = match number {
            4 | 5 if self.cr4 & cr4::DE != 0 => return Err(Fault::UD),
            4 | 5 => number + 2,
            _ => number,
        };
        self.require_supervisor()?;
        if self.dr[7] & dr7::GD != 0 {
            self.dr[6] |= dr6::BD;
            // This #DB is a fault, and not of an instruction breakpoint: RF is set in the image of RFLAGS.
            self.system_flags |= bits::RF;
            return Err(Fault::DB);
        }
        Ok(usize::from(number & 7))
    }
}

fn read<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let number = cpu.debug_register(op.src)?;
    cpu.set_full_register(op.dst, cpu.dr[number]);
    Ok(())
}

fn write<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let number = cpu.debug_register(op.dst)?;
    let value = cpu.full_register(op.src);
    if number >= 6 && value >> 32 != 0 {
        return Err(Fault::GP0);
    }
    cpu.dr[number] = match number {
        6 => value & dr6::WRITABLE | dr6::FIXED,
        7 => value & dr7::WRITABLE | dr7::FIXED,
        _ => value,
    };
    if number != 6 {
        cpu.update_breakpoints();
    }
    Ok(())
}
