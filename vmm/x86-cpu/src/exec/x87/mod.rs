//! Family x87.
use crate::block::Op;
use crate::decode::Lowered;
use crate::mode::Mode;
use crate::world::World;
use iced_x86::Instruction;

pub(crate) fn lower<W: World>(_: &Instruction, _: Mode, _: &mut Op<W>) -> Lowered {
    Lowered::No
}
