//! Decimal adjustment (not in 64-bit mode).

use crate::block::Op;
use crate::decode::Lowered;
use crate::fault::Fault;
use crate::mode::Mode;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::{Instruction, Mnemonic};

const AL: u8 = 0;
const AH: u8 = 0x20;

/// Flags after an adjustment of AL: SF, ZF and PF from the result.
fn adjusted(cpu: &mut Vcpu, result: u8, cf: bool, af: bool) {
    cpu.set_reg(AL, result);
    cpu.flags.set_with(result as i8 as i64 as u64, cf, false, af);
}

/// DAA and DAS.
fn decimal<const SUBTRACT: bool, W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let old = cpu.reg::<u8>(AL);
    let (old_cf, old_af) = (cpu.flags.cf(), cpu.flags.af());
    let adjust = |value: u8, by: u8| if SUBTRACT { value.wrapping_sub(by) } else { value.wrapping_add(by) };
    let mut al = old;
    let mut cf = false;
    let af = old & 15 > 9 || old_af;
    if af {
        let carried = if SUBTRACT { old < 6 } else { old > 0xff - 6 };
        cf = old_cf || carried;
        al = adjust(al, 6);
    }
    if old > 0x99 || old_cf {
        al = adjust(al, 0x60);
        cf = true;
    } else if !SUBTRACT {
        cf = false;
    }
    adjusted(cpu, al, cf, af);
    Ok(())
}

/// AAA and AAS.
fn ascii<const SUBTRACT: bool, W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let adjust = cpu.reg::<u8>(AL) & 15 > 9 || cpu.flags.af();
    if adjust {
        let ax = cpu.reg::<u16>(AL);
        let ax = if SUBTRACT { ax.wrapping_sub(0x106) } else { ax.wrapping_add(0x106) };
        cpu.set_reg(AL, ax);
    }
    let al = cpu.reg::<u8>(AL) & 15;
    adjusted(cpu, al, adjust, adjust);
    Ok(())
}

fn aam<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let (al, base) = (cpu.reg::<u8>(AL), op.imm as u8);
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(Fault::DE);
    };
    cpu.set_reg(AH, high);
    adjusted(cpu, low, false, false);
    Ok(())
}

fn aad<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let value = cpu.reg::<u8>(AL).wrapping_add(cpu.reg::<u8>(AH).wrapping_mul(op.imm as u8));
    cpu.set_reg(AH, 0_u8);
    adjusted(cpu, value, false, false);
    Ok(())
}

/// SALC: AL all ones if CF, else 0.
fn salc<W: World>(cpu: &mut Vcpu, _: &mut W, _: &Op<W>) -> Result<(), Fault> {
    let value = if cpu.flags.cf() { 0xff_u8 } else { 0 };
    cpu.set_reg(AL, value);
    Ok(())
}

pub(super) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    op.run = match instruction.mnemonic() {
        Mnemonic::Daa => decimal::<false, W>,
        Mnemonic::Das => decimal::<true, W>,
        Mnemonic::Aaa => ascii::<false, W>,
        Mnemonic::Aas => ascii::<true, W>,
        Mnemonic::Aam => {
            op.imm = instruction.immediate(0);
            aam
        }
        Mnemonic::Aad => {
            op.imm = instruction.immediate(0);
            aad
        }
        Mnemonic::Salc => salc,
        _ => return Lowered::No,
    };
    Lowered::Straight
}
