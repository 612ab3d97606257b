//! Where second operands come from, as types, so that every form of an instruction is a function of its own.

use super::vex;
use crate::block::Op;
use crate::fault::Fault;
use crate::state::Vcpu;
use crate::world::World;

/// Zero-extended source operand.
pub(super) trait Source {
    fn get<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u128, Fault>;
    /// The operand of an instruction with a VEX prefix: low and, if it has one, upper lane. Memory need not be aligned.
    #[inline(always)]
    fn lanes<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<[u128; 2], Fault> {
        Ok([Self::get(cpu, world, op)?, 0])
    }
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
/// A vector in memory: 16 bytes, aligned, or with VEX the vector's length.
pub(super) enum M128 {}
/// As [`M128`], of any alignment.
pub(super) enum M128U {}
/// As [`M128`], aligned to its size with VEX too.
pub(super) enum Aligned {}
/// 16 bytes of memory whatever the vector's length; aligned without VEX.
pub(super) enum Fixed128 {}
/// 8 bytes of memory, 16 for a vector of 256 bits.
pub(super) enum Part64 {}
/// 4 bytes of memory, 8 for a vector of 256 bits.
pub(super) enum Part32 {}
/// 2 bytes of memory, 4 for a vector of 256 bits.
pub(super) enum Part16 {}
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
    #[inline(always)]
    fn lanes<W: World>(cpu: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<[u128; 2], Fault> {
        Ok(vex::register(cpu, op.src))
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
    #[inline(always)]
    fn lanes<W: World>(_: &mut Vcpu, _: &mut W, op: &Op<W>) -> Result<[u128; 2], Fault> {
        Ok([u128::from(op.imm); 2])
    }
}

impl Source for M128 {
    #[inline(always)]
    fn get<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        let linear = aligned(cpu.address::<u128, W>(op)?)?;
        cpu.load(world, linear)
    }
    #[inline(always)]
    fn lanes<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<[u128; 2], Fault> {
        vex::load(cpu, world, op, false)
    }
}

impl Source for M128U {
    #[inline(always)]
    fn get<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        let linear = cpu.address::<u128, W>(op)?;
        cpu.load(world, linear)
    }
    #[inline(always)]
    fn lanes<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<[u128; 2], Fault> {
        vex::load(cpu, world, op, false)
    }
}

impl Source for Aligned {
    #[inline(always)]
    fn get<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        M128::get(cpu, world, op)
    }
    #[inline(always)]
    fn lanes<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<[u128; 2], Fault> {
        vex::load(cpu, world, op, true)
    }
}

impl Source for Fixed128 {
    #[inline(always)]
    fn get<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u128, Fault> {
        M128::get(cpu, world, op)
    }
    #[inline(always)]
    fn lanes<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<[u128; 2], Fault> {
        Ok([M128U::get(cpu, world, op)?, 0])
    }
}

macro_rules! part {
    ($($name:ident $whole:ident $double:ident;)*) => {$(
        impl Source for $name {
            #[inline(always)]
            fn get<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<u128, Fault> {
                $whole::get(cpu, world, op)
            }
            #[inline(always)]
            fn lanes<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<[u128; 2], Fault> {
                let wide = vex::is_wide(op);
                Ok([if wide { $double::get(cpu, world, op)? } else { $whole::get(cpu, world, op)? }, 0])
            }
        }
    )*};
}
part! { Part64 M64 M128U; Part32 M32 M64; Part16 M16 M32; }

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
memory! { M64 u64; M32 u32; M16 u16; M8 u8; }
