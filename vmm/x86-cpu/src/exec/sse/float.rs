//! Floating-point arithmetic and the rules of its exceptions.

use super::approximate::{Rcpps, Rcpss, Rsqrtps, Rsqrtss};
use super::host::*;
use super::moves::pick as pick_plain;
use super::operand::{M32, M64, M128, Source, Xmm};
use super::shuffle::Pshufd;
use super::{Choice, Gate, vex};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::state::{Vcpu, cr4};
use crate::world::World;
use iced_x86::Code;

/// MXCSR bits (SDM volume 1, 10.2.3).
pub(super) mod mxcsr {
    pub const IE: u32 = 1 << 0;
    pub const DE: u32 = 1 << 1;
    pub const ZE: u32 = 1 << 2;
    pub const OE: u32 = 1 << 3;
    pub const UE: u32 = 1 << 4;
    pub const PE: u32 = 1 << 5;
    /// IE, DE, ZE, OE, UE, PE.
    pub const FLAGS: u32 = 0x3f;
    pub const DAZ: u32 = 1 << 6;
    /// The mask of each flag is this many bits above it.
    pub const MASK_SHIFT: u32 = 7;
    pub const MASKS: u32 = FLAGS << MASK_SHIFT;
    pub const ROUNDING_SHIFT: u32 = 13;
    pub const ROUNDING: u32 = 3 << ROUNDING_SHIFT;
    pub const FTZ: u32 = 1 << 15;
    /// Bits that may be set.
    pub const VALID: u32 = 0xffff;
}

/// Executes `F` under the guest's MXCSR.
///
/// # Errors
/// An unmasked exception: #XM, or #UD if the operating system does not handle it. Only MXCSR has changed then.
#[inline(always)]
pub(super) fn compute<F: Float>(cpu: &mut Vcpu, left: F::Left, right: F::Right) -> Result<F::Out, Fault> {
    if cpu.mxcsr & mxcsr::MASKS == mxcsr::MASKS {
        return Ok(F::run(left, right, &mut cpu.mxcsr));
    }
    compute_unmasked::<F, 1>(cpu, [(left, right)]).map(|[out]| out)
}

/// [`compute`] on several lanes at once, whose exceptions are raised together.
///
/// # Errors
/// As [`compute`].
#[inline(always)]
pub(super) fn compute_lanes<F: Float, const N: usize>(
    cpu: &mut Vcpu,
    operands: [(F::Left, F::Right); N],
) -> Result<[F::Out; N], Fault> {
    if cpu.mxcsr & mxcsr::MASKS == mxcsr::MASKS {
        return Ok(operands.map(|(left, right)| F::run(left, right, &mut cpu.mxcsr)));
    }
    compute_unmasked::<F, N>(cpu, operands)
}

/// [`compute`] where the guest wants to be told of some exceptions: executes with all masked, then decides.
#[cold]
#[inline(never)]
fn compute_unmasked<F: Float, const N: usize>(
    cpu: &mut Vcpu,
    operands: [(F::Left, F::Right); N],
) -> Result<[F::Out; N], Fault> {
    let run = |mxcsr: &mut u32| operands.map(|(left, right)| F::run(left, right, mxcsr));
    let unmasked = !(cpu.mxcsr >> mxcsr::MASK_SHIFT) & mxcsr::FLAGS;
    let control = cpu.mxcsr & !mxcsr::FLAGS | mxcsr::MASKS;
    let mut after = control;
    let mut out = run(&mut after);
    if unmasked & mxcsr::UE != 0 {
        // Unmasked, underflow is a tiny result, exact or not, and nothing is flushed to zero (SDM volume 1, 11.5.2.5). The
        // host shows tiny results when it flushes them.
        let mut flushed = control | mxcsr::FTZ;
        run(&mut flushed);
        after = control & !mxcsr::FTZ;
        out = run(&mut after);
        after |= flushed & mxcsr::UE;
    }
    let mut raised = after & mxcsr::FLAGS;
    let trapping = raised & unmasked;
    const RANGE: u32 = mxcsr::OE | mxcsr::UE;
    if trapping & BEFORE == 0 && trapping & RANGE != 0 && raised & !unmasked & RANGE == 0 {
        let flush = cpu.mxcsr & mxcsr::DAZ != 0;
        let mut precise = control & !mxcsr::FTZ;
        for (left, right) in operands {
            let (left, right) = F::unbounded(left, right, flush);
            F::run(left, right, &mut precise);
        }
        raised &= !mxcsr::PE | precise;
    }
    raise(cpu, raised)?;
    Ok(out)
}

/// Exceptions found before a computation, which keep it from taking place if unmasked (SDM volume 1, 11.5.2).
const BEFORE: u32 = mxcsr::IE | mxcsr::DE | mxcsr::ZE;

/// Records the exceptions `raised` by an instruction.
///
/// # Errors
/// As [`compute`].
pub(super) fn raise(cpu: &mut Vcpu, raised: u32) -> Result<(), Fault> {
    let trapping = raised & !(cpu.mxcsr >> mxcsr::MASK_SHIFT) & mxcsr::FLAGS;
    cpu.mxcsr |= if trapping & BEFORE != 0 { raised & BEFORE } else { raised };
    match trapping {
        0 => Ok(()),
        _ if cpu.cr4 & cr4::OSXMMEXCPT != 0 => Err(Fault::XM),
        _ => Err(Fault::UD),
    }
}

/// `xmm[dst] = F(xmm[dst], source)`.
#[inline(always)]
pub(super) fn arithmetic<W: World, F, S>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault>
where
    F: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    S: Source,
{
    if vex::is_vex(op) {
        return vex::arithmetic::<W, F, S>(cpu, world, op);
    }
    let src = pack(S::get(cpu, world, op)?);
    let index = usize::from(op.dst & 15);
    let out = compute::<F>(cpu, pack(cpu.xmm[index]), src)?;
    put(&mut cpu.xmm[index], out);
    Ok(())
}

/// [`arithmetic`] with an XMM register, or memory of kind `M`.
pub(super) fn pick<W: World, F, M>(memory: bool) -> OpFn<W>
where
    F: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    M: Source,
{
    if memory { arithmetic::<W, F, M> } else { arithmetic::<W, F, Xmm> }
}

/// ROUNDPS and its kin: `Loud` raises the precision exception, `Quiet` does not.
fn round<W: World, Loud, Quiet, S>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault>
where
    Loud: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    Quiet: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    S: Source,
{
    let [first, src] = vex::operands::<W, S>(cpu, world, op)?;
    let imm = op.imm as u32;
    let saved = cpu.mxcsr & mxcsr::ROUNDING;
    if imm & 4 == 0 {
        cpu.mxcsr = cpu.mxcsr & !mxcsr::ROUNDING | (imm & 3) << mxcsr::ROUNDING_SHIFT;
    }
    let out = if imm & 8 == 0 {
        vex::compute::<W, Loud>(cpu, op, first, src)
    } else {
        vex::compute::<W, Quiet>(cpu, op, first, src)
    };
    cpu.mxcsr = cpu.mxcsr & !mxcsr::ROUNDING | saved;
    vex::finish(cpu, op, out?);
    Ok(())
}

fn pick_round<W: World, Loud, Quiet, M>(memory: bool) -> OpFn<W>
where
    Loud: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    Quiet: Float<Left = Lanes, Right = Lanes, Out = Lanes>,
    M: Source,
{
    if memory { round::<W, Loud, Quiet, M> } else { round::<W, Loud, Quiet, Xmm> }
}

/// Ones in the 32-bit lanes (or, with two lanes, 64-bit lanes) that `select` has a one for.
fn select(select: u8, lanes: u32) -> u128 {
    let bits = 128 / lanes;
    let lane = u128::MAX >> (128 - bits);
    (0..lanes).filter(|i| select >> i & 1 != 0).fold(0, |mask, i| mask | lane << (i * bits))
}

/// DPPS: products, then two rounds of sums, each with exceptions of its own. The order of the terms decides which of two
/// NaNs is returned; it is that of Intel's processors.
fn dot_ps<W: World, S: Source>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let [first, src] = vex::operands::<W, S>(cpu, world, op)?;
    let taken = select(op.imm as u8 >> 4, 4);
    let taken_of = |vector: [u128; 2]| vector.map(|lane| lane & taken);
    let products = vex::compute::<W, Mulps>(cpu, op, taken_of(first), taken_of(src))?;
    let swapped = products.map(|lane| Pshufd::apply(0, lane, 0b10_11_00_01));
    let pairs = vex::compute::<W, Addps>(cpu, op, swapped, products)?;
    let rotated = pairs.map(|lane| lane.rotate_left(64));
    let sums = vex::compute::<W, Addps>(cpu, op, pairs, rotated)?;
    vex::finish(cpu, op, sums.map(|lane| lane & select(op.imm as u8, 4)));
    Ok(())
}

/// DPPD.
fn dot_pd<W: World, S: Source>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let [first, src] = vex::operands::<W, S>(cpu, world, op)?;
    let taken = select(op.imm as u8 >> 4, 2);
    let products = unpack(compute::<Mulpd>(cpu, pack(first[0] & taken), pack(src[0] & taken))?);
    let sum = unpack(compute::<Addpd>(cpu, pack(products), pack(products.rotate_left(64)))?);
    vex::finish(cpu, op, [sum & select(op.imm as u8, 2), 0]);
    Ok(())
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::Addps_xmm_xmmm128 => pick::<W, Addps, M128>(memory),
        Code::Addpd_xmm_xmmm128 => pick::<W, Addpd, M128>(memory),
        Code::Addss_xmm_xmmm32 => pick::<W, Addss, M32>(memory),
        Code::Addsd_xmm_xmmm64 => pick::<W, Addsd, M64>(memory),
        Code::Subps_xmm_xmmm128 => pick::<W, Subps, M128>(memory),
        Code::Subpd_xmm_xmmm128 => pick::<W, Subpd, M128>(memory),
        Code::Subss_xmm_xmmm32 => pick::<W, Subss, M32>(memory),
        Code::Subsd_xmm_xmmm64 => pick::<W, Subsd, M64>(memory),
        Code::Mulps_xmm_xmmm128 => pick::<W, Mulps, M128>(memory),
        Code::Mulpd_xmm_xmmm128 => pick::<W, Mulpd, M128>(memory),
        Code::Mulss_xmm_xmmm32 => pick::<W, Mulss, M32>(memory),
        Code::Mulsd_xmm_xmmm64 => pick::<W, Mulsd, M64>(memory),
        Code::Divps_xmm_xmmm128 => pick::<W, Divps, M128>(memory),
        Code::Divpd_xmm_xmmm128 => pick::<W, Divpd, M128>(memory),
        Code::Divss_xmm_xmmm32 => pick::<W, Divss, M32>(memory),
        Code::Divsd_xmm_xmmm64 => pick::<W, Divsd, M64>(memory),
        Code::Minps_xmm_xmmm128 => pick::<W, Minps, M128>(memory),
        Code::Minpd_xmm_xmmm128 => pick::<W, Minpd, M128>(memory),
        Code::Minss_xmm_xmmm32 => pick::<W, Minss, M32>(memory),
        Code::Minsd_xmm_xmmm64 => pick::<W, Minsd, M64>(memory),
        Code::Maxps_xmm_xmmm128 => pick::<W, Maxps, M128>(memory),
        Code::Maxpd_xmm_xmmm128 => pick::<W, Maxpd, M128>(memory),
        Code::Maxss_xmm_xmmm32 => pick::<W, Maxss, M32>(memory),
        Code::Maxsd_xmm_xmmm64 => pick::<W, Maxsd, M64>(memory),
        Code::Sqrtps_xmm_xmmm128 => pick::<W, Sqrtps, M128>(memory),
        Code::Sqrtpd_xmm_xmmm128 => pick::<W, Sqrtpd, M128>(memory),
        Code::Sqrtss_xmm_xmmm32 => pick::<W, Sqrtss, M32>(memory),
        Code::Sqrtsd_xmm_xmmm64 => pick::<W, Sqrtsd, M64>(memory),
        Code::Haddps_xmm_xmmm128 => pick::<W, Haddps, M128>(memory),
        Code::Haddpd_xmm_xmmm128 => pick::<W, Haddpd, M128>(memory),
        Code::Hsubps_xmm_xmmm128 => pick::<W, Hsubps, M128>(memory),
        Code::Hsubpd_xmm_xmmm128 => pick::<W, Hsubpd, M128>(memory),
        Code::Addsubps_xmm_xmmm128 => pick::<W, Addsubps, M128>(memory),
        Code::Addsubpd_xmm_xmmm128 => pick::<W, Addsubpd, M128>(memory),
        Code::Roundps_xmm_xmmm128_imm8 => pick_round::<W, Roundps<0>, Roundps<8>, M128>(memory),
        Code::Roundpd_xmm_xmmm128_imm8 => pick_round::<W, Roundpd<0>, Roundpd<8>, M128>(memory),
        Code::Roundss_xmm_xmmm32_imm8 => pick_round::<W, Roundss<0>, Roundss<8>, M32>(memory),
        Code::Roundsd_xmm_xmmm64_imm8 => pick_round::<W, Roundsd<0>, Roundsd<8>, M64>(memory),
        Code::Dpps_xmm_xmmm128_imm8 if memory => dot_ps::<W, M128>,
        Code::Dpps_xmm_xmmm128_imm8 => dot_ps::<W, Xmm>,
        Code::Dppd_xmm_xmmm128_imm8 if memory => dot_pd::<W, M128>,
        Code::Dppd_xmm_xmmm128_imm8 => dot_pd::<W, Xmm>,
        Code::Rcpps_xmm_xmmm128 => pick_plain::<W, Rcpps, M128>(memory),
        Code::Rcpss_xmm_xmmm32 => pick_plain::<W, Rcpss, M32>(memory),
        Code::Rsqrtps_xmm_xmmm128 => pick_plain::<W, Rsqrtps, M128>(memory),
        Code::Rsqrtss_xmm_xmmm32 => pick_plain::<W, Rsqrtss, M32>(memory),
        _ => return None,
    };
    Some((Gate::Sse, run))
}
