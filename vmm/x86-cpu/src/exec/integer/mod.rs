//! Integer instructions on general registers.

mod alu;
mod bits;
mod bmi;
mod decimal;
mod exchange;
mod moves;
mod multiply;
mod shift;
mod stack;

pub(crate) use alu::sub;

use crate::block::Op;
use crate::decode::Lowered;
use crate::mode::Mode;
use crate::world::World;
use iced_x86::Instruction;

pub(crate) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    let families = [
        moves::lower::<W>,
        alu::lower::<W>,
        stack::lower::<W>,
        shift::lower::<W>,
        bits::lower::<W>,
        bmi::lower::<W>,
        multiply::lower::<W>,
        exchange::lower::<W>,
        decimal::lower::<W>,
    ];
    for family in families {
        let lowered = family(instruction, mode, op);
        if lowered != Lowered::No {
            return lowered;
        }
    }
    Lowered::No
}
