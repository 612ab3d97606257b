//! Where second operands come from, as types, so that every form of an instruction is a function of its own.

use crate::block::Op;
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;

/// Zero-extended source operand.
pub(super) trait Source {
    fn get<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u128, Fault>;
}

/// The XMM register `op.src`.
pub(super) enum Xmm {}
/// The MMX register `op.src`.
pub(super) enum Mm {}
/// The general register `op.src`, 64 bits.
pub(super) enum Gpr64 {}
/// The general register `op.src`, 32 bits.
pub(super) enum Gpr32 {}
/// The immediate.
pub(super) enum Immediate {}
/// 16 bytes of memory, aligned.
pub(super) enum M128 {}
/// 16 bytes of memory, any alignment.
pub(super) enum M128U {}
/// 8 bytes of memory.
pub(super) enum M64 {}
/// 4 bytes of memory.
pub(super) enum M32 {}
/// 2 bytes of memory.
pub(super) enum M16 {}
/// 1 byte of memory.
pub(super) enum M8 {}

impl Source for Xmm {
    #[inline(always)]
    fn get<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        Ok(cpu.xmm[usize::from(op.src & 15)])
    }
}

impl Source for Mm {
    #[inline(always)]
    fn get<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        Ok(u128::from(cpu.x87.regs[usize::from(op.src & 7)] as u64))
    }
}

impl Source for Gpr64 {
    #[inline(always)]
    fn get<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        Ok(u128::from(cpu.gpr[usize::from(op.src & 15)]))
    }
}

impl Source for Gpr32 {
    #[inline(always)]
    fn get<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        Ok(u128::from(cpu.gpr[usize::from(op.src & 15)] as u32))
    }
}

impl Source for Immediate {
    #[inline(always)]
    fn get<W: World>(_: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        Ok(u128::from(op.imm))
    }
}

impl Source for M128 {
    #[inline(always)]
    fn get<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        let linear = aligned(cpu.address::<u128, W>(op)?)?;
        cpu.load(world, linear)
    }
}

/// Checks the alignment of a 16-byte operand.
///
/// # Errors
/// #GP(0), through the stack segment too.
#[inline(always)]
pub(super) fn aligned(linear: u64) -> Result<u64, Fault> {
    if linear & 15 == 0 { Ok(linear) } else { Err(Fault::GP0) }
}

macro_rules! memory {
    ($($name:ident $word:ty;)*) => {$(
        impl Source for $name {
            #[inline(always)]
            fn get<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u128, Fault> {
                let linear = cpu.address::<$word, W>(op)?;
                Ok(u128::from(cpu.load::<$word, W>(world, linear)?))
            }
        }
    )*};
}
memory! { M128U u128; M64 u64; M32 u32; M16 u16; M8 u8; }
