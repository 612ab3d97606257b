//! Comparisons: CMPxx to masks, COMISx, UCOMISx and PTEST to flags.

use super::float::{compute, pick};
use super::host::{Cmppd, Cmpps, Cmpsd, Cmpss, Comisd, Comiss, Float, Lanes, Order, Ucomisd, Ucomiss, pack};
use super::operand::{M32, M64, M128, Source, Xmm};
use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::flags::bits;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

/// COMISx and UCOMISx: ZF, PF and CF from the order, OF, SF and AF cleared.
fn order<W: World, F, S>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault>
where
    F: Float<Left = Lanes, Right = Lanes, Out = Order>,
    S: Source,
{
    let src = S::get(cpu, world, op)?;
    let order = compute::<F>(cpu, pack(cpu.xmm[usize::from(op.dst & 15)]), pack(src))?;
    let flag = |on, bit| if on { bit } else { 0 };
    cpu.flags.set_bits(flag(order.zf, bits::ZF) | flag(order.pf, bits::PF) | flag(order.cf, bits::CF));
    Ok(())
}

/// PTEST: ZF if no bit is common, CF if the source has none outside the destination.
fn test<W: World, S: Source>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let src = S::get(cpu, world, op)?;
    let dst = cpu.xmm[usize::from(op.dst & 15)];
    let zf = if src & dst == 0 { bits::ZF } else { 0 };
    let cf = if src & !dst == 0 { bits::CF } else { 0 };
    cpu.flags.set_bits(zf | cf);
    Ok(())
}

/// The operation for the predicate in the low three bits of the immediate; the others are ignored.
macro_rules! by_predicate {
    ($imm:expr, $memory:expr, $name:ident, $source:ty) => {
        match $imm & 7 {
            0 => pick::<W, $name<0>, $source>($memory),
            1 => pick::<W, $name<1>, $source>($memory),
            2 => pick::<W, $name<2>, $source>($memory),
            3 => pick::<W, $name<3>, $source>($memory),
            4 => pick::<W, $name<4>, $source>($memory),
            5 => pick::<W, $name<5>, $source>($memory),
            6 => pick::<W, $name<6>, $source>($memory),
            _ => pick::<W, $name<7>, $source>($memory),
        }
    };
}

/// `imm` is the immediate, which chooses a predicate.
pub(super) fn lower<W: World>(code: Code, memory: bool, imm: u8) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Cmpps_xmm_xmmm128_imm8 => by_predicate!(imm, memory, Cmpps, M128),
        Code::Cmppd_xmm_xmmm128_imm8 => by_predicate!(imm, memory, Cmppd, M128),
        Code::Cmpss_xmm_xmmm32_imm8 => by_predicate!(imm, memory, Cmpss, M32),
        Code::Cmpsd_xmm_xmmm64_imm8 => by_predicate!(imm, memory, Cmpsd, M64),
        Code::Comiss_xmm_xmmm32 if memory => order::<W, Comiss, M32>,
        Code::Comiss_xmm_xmmm32 => order::<W, Comiss, Xmm>,
        Code::Comisd_xmm_xmmm64 if memory => order::<W, Comisd, M64>,
        Code::Comisd_xmm_xmmm64 => order::<W, Comisd, Xmm>,
        Code::Ucomiss_xmm_xmmm32 if memory => order::<W, Ucomiss, M32>,
        Code::Ucomiss_xmm_xmmm32 => order::<W, Ucomiss, Xmm>,
        Code::Ucomisd_xmm_xmmm64 if memory => order::<W, Ucomisd, M64>,
        Code::Ucomisd_xmm_xmmm64 => order::<W, Ucomisd, Xmm>,
        Code::Ptest_xmm_xmmm128 if memory => test::<W, M128>,
        Code::Ptest_xmm_xmmm128 => test::<W, Xmm>,
        _ => return None,
    };
    Some((Gate::Sse, run))
}
