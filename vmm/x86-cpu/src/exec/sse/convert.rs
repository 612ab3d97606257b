//! Conversions between integers and floating point, and between precisions.

use super::float::{compute, pick};
use super::host::*;
use super::moves::{combine, plain};
use super::operand::{Gpr32, Gpr64, M32, M64, M128, Source, Xmm};
use super::{Choice, Gate, vex};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;
use iced_x86::Code;

plain! {
    /// CVTSI2SD from 32 bits: always exact.
    Cvtsi2sd32 |d, s, _| d >> 64 << 64 | u128::from(f64::from(s as u32 as i32).to_bits());
}

/// Scalar in `xmm[dst]` from an integer.
fn from_integer<W: World, F, S>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault>
where
    F: Float<Left = Lanes, Right = u64, Out = Lanes>,
    S: Source,
{
    let [first, src] = vex::operands::<W, S>(cpu, world, op)?;
    let out = compute::<F>(cpu, pack(first[0]), src[0] as u64)?;
    vex::finish(cpu, op, [unpack(out), 0]);
    Ok(())
}

/// Integer in `gpr[dst]`, zero-extended, from a scalar.
fn to_integer<W: World, F, S>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault>
where
    F: Float<Left = (), Right = Lanes, Out = u64>,
    S: Source,
{
    let src = S::get(cpu, world, op)?;
    cpu.gpr[usize::from(op.dst & 15)] = compute::<F>(cpu, (), pack(src))?;
    Ok(())
}

fn pick_from<W: World, F, R, M>(memory: bool) -> OpFn<W>
where
    F: Float<Left = Lanes, Right = u64, Out = Lanes>,
    R: Source,
    M: Source,
{
    if memory { from_integer::<W, F, M> } else { from_integer::<W, F, R> }
}

fn pick_to<W: World, F, M>(memory: bool) -> OpFn<W>
where
    F: Float<Left = (), Right = Lanes, Out = u64>,
    M: Source,
{
    if memory { to_integer::<W, F, M> } else { to_integer::<W, F, Xmm> }
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Cvtsi2sd_xmm_rm32 if memory => combine::<W, Cvtsi2sd32, M32>,
        Code::Cvtsi2sd_xmm_rm32 => combine::<W, Cvtsi2sd32, Gpr32>,
        Code::Cvtsi2sd_xmm_rm64 => pick_from::<W, Cvtsi2sd64, Gpr64, M64>(memory),
        Code::Cvtsi2ss_xmm_rm32 => pick_from::<W, Cvtsi2ss32, Gpr32, M32>(memory),
        Code::Cvtsi2ss_xmm_rm64 => pick_from::<W, Cvtsi2ss64, Gpr64, M64>(memory),
        Code::Cvtss2si_r32_xmmm32 => pick_to::<W, Cvtss2si32, M32>(memory),
        Code::Cvtss2si_r64_xmmm32 => pick_to::<W, Cvtss2si64, M32>(memory),
        Code::Cvtsd2si_r32_xmmm64 => pick_to::<W, Cvtsd2si32, M64>(memory),
        Code::Cvtsd2si_r64_xmmm64 => pick_to::<W, Cvtsd2si64, M64>(memory),
        Code::Cvttss2si_r32_xmmm32 => pick_to::<W, Cvttss2si32, M32>(memory),
        Code::Cvttss2si_r64_xmmm32 => pick_to::<W, Cvttss2si64, M32>(memory),
        Code::Cvttsd2si_r32_xmmm64 => pick_to::<W, Cvttsd2si32, M64>(memory),
        Code::Cvttsd2si_r64_xmmm64 => pick_to::<W, Cvttsd2si64, M64>(memory),
        Code::Cvtps2pd_xmm_xmmm64 => pick::<W, Cvtps2pd, M64>(memory),
        Code::Cvtpd2ps_xmm_xmmm128 => pick::<W, Cvtpd2ps, M128>(memory),
        Code::Cvtss2sd_xmm_xmmm32 => pick::<W, Cvtss2sd, M32>(memory),
        Code::Cvtsd2ss_xmm_xmmm64 => pick::<W, Cvtsd2ss, M64>(memory),
        Code::Cvtdq2ps_xmm_xmmm128 => pick::<W, Cvtdq2ps, M128>(memory),
        Code::Cvtps2dq_xmm_xmmm128 => pick::<W, Cvtps2dq, M128>(memory),
        Code::Cvttps2dq_xmm_xmmm128 => pick::<W, Cvttps2dq, M128>(memory),
        Code::Cvtpd2dq_xmm_xmmm128 => pick::<W, Cvtpd2dq, M128>(memory),
        Code::Cvttpd2dq_xmm_xmmm128 => pick::<W, Cvttpd2dq, M128>(memory),
        _ => return None,
    };
    Some((Gate::Sse, run))
}
