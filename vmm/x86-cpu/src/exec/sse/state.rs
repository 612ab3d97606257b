//! FXSAVE, FXRSTOR, LDMXCSR and STMXCSR.

use super::float::mxcsr;
use super::image;
use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

const ALIGNMENT: u64 = 16;

/// FXSAVE, with `WIDE` FXSAVE64 (SDM volume 1, 10.5.1).
fn fxsave<W: World, const WIDE: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let (linear, last) = image::ends::<W, ALIGNMENT>(cpu, op, image::SIZE, true)?;
    let mut region = [0; image::SIZE];
    image::put_x87(&mut region, &cpu.x87, WIDE);
    image::put_mxcsr(&mut region, cpu.mxcsr);
    let end = image::put_xmm(&mut region, cpu);
    cpu.check_write(world, last, 1)?;
    cpu.store_bytes(world, linear, &region[..end])
}

/// FXRSTOR, with `WIDE` FXRSTOR64.
fn fxrstor<W: World, const WIDE: bool>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let (linear, last) = image::ends::<W, ALIGNMENT>(cpu, op, image::SIZE, false)?;
    cpu.physical_address(world, last)?;
    let mut region = [0; image::SIZE];
    cpu.load_bytes(world, linear, &mut region)?;
    cpu.mxcsr = image::take_mxcsr(&region)?;
    image::take_x87(&region, &mut cpu.x87, WIDE);
    image::take_xmm(&region, cpu);
    Ok(())
}

fn ldmxcsr<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let linear = cpu.address::<u32, W>(op)?;
    let value: u32 = cpu.load(world, linear)?;
    if value & !mxcsr::VALID != 0 {
        return Err(Fault::GP0);
    }
    cpu.mxcsr = value;
    Ok(())
}

fn stmxcsr<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let linear = cpu.address_mut::<u32, W>(op)?;
    cpu.store(world, linear, cpu.mxcsr)
}

pub(super) fn lower<W: World>(code: Code, _: bool) -> Choice<W> {
    let choice: (Gate, OpFn<W>) = match code {
        Code::Fxsave_m512byte => (Gate::Mmx, fxsave::<W, false>),
        Code::Fxsave64_m512byte => (Gate::Mmx, fxsave::<W, true>),
        Code::Fxrstor_m512byte => (Gate::Mmx, fxrstor::<W, false>),
        Code::Fxrstor64_m512byte => (Gate::Mmx, fxrstor::<W, true>),
        Code::Ldmxcsr_m32 => (Gate::Sse, ldmxcsr),
        Code::Stmxcsr_m32 => (Gate::Sse, stmxcsr),
        _ => return None,
    };
    Some(choice)
}
