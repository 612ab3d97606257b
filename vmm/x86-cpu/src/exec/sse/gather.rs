//! Gathers of AVX2 (SDM volume 2, VPGATHERDD and its kin): each element loaded is put in place and its mask cleared at once,
//! so that an instruction that faulted goes on where it was.

use super::avx::element;
use super::vex::{is_wide, register};
use super::{Choice, Gate};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::memory::Word;
use crate::state::{Vcpu, slot};
use crate::world::World;
use iced_x86::{Code, Instruction};

/// Replaces element `at` of `T`-wide elements of a register.
fn put<T: Word>(cpu: &mut Vcpu, number: u8, at: u32, value: T) {
    let number = usize::from(number & 15);
    let bit = at * T::BITS;
    let lane = if bit < 128 { &mut cpu.xmm[number] } else { &mut cpu.ymm_high[number] };
    let shift = bit % 128;
    *lane = *lane & !(u128::MAX >> (128 - T::BITS) << shift) | value.extend() << shift;
}

/// Gathers elements of type `T` by indices of type `I` (register `aux`) under the mask in register `src`.
fn gather<W: World, T: Word, I: Word>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let vector = if is_wide(op) { 256 } else { 128 };
    let count = vector / T::BITS.max(I::BITS);
    let used = count * T::BITS;
    for at in 0..count {
        if element(register(cpu, op.src), at, T::BITS) >> (T::BITS - 1) != 0 {
            let unused = 64 - I::BITS;
            let index = ((element(register(cpu, op.aux), at, I::BITS) << unused) as i64 >> unused) as u64;
            let disp = op.disp.wrapping_add(index << (op.scale & 3));
            let linear = cpu.address::<T, W>(&Op { disp, index: slot::ZERO, ..op.clone() })?;
            // The alignment of elements is not checked.
            let mut bytes = [0; 16];
            cpu.load_bytes(world, linear, &mut bytes[..T::SIZE])?;
            put(cpu, op.dst, at, T::truncate(u128::from_le_bytes(bytes)));
        }
        put(cpu, op.src, at, T::truncate(0));
    }
    let dst = usize::from(op.dst & 15);
    let mask = usize::from(op.src & 15);
    (cpu.xmm[mask], cpu.ymm_high[mask]) = (0, 0);
    if used <= 128 {
        cpu.ymm_high[dst] = 0;
        cpu.xmm[dst] &= u128::MAX >> (128 - used);
    }
    Ok(())
}

/// Moves the vector of indices out of the address, where the decoder put it.
pub(super) fn fill<W: World>(instruction: &Instruction, op: &mut Op<W>) {
    op.index = slot::ZERO;
    op.aux = op.aux & !15 | instruction.memory_index().number() as u8 & 15;
}

pub(super) fn lower<W: World>(code: Code) -> Choice<W> {
    let run: OpFn<W> = match code {
        Code::VEX_Vpgatherdd_xmm_vm32x_xmm
        | Code::VEX_Vpgatherdd_ymm_vm32y_ymm
        | Code::VEX_Vgatherdps_xmm_vm32x_xmm
        | Code::VEX_Vgatherdps_ymm_vm32y_ymm => gather::<W, u32, u32>,
        Code::VEX_Vpgatherdq_xmm_vm32x_xmm
        | Code::VEX_Vpgatherdq_ymm_vm32x_ymm
        | Code::VEX_Vgatherdpd_xmm_vm32x_xmm
        | Code::VEX_Vgatherdpd_ymm_vm32x_ymm => gather::<W, u64, u32>,
        Code::VEX_Vpgatherqd_xmm_vm64x_xmm
        | Code::VEX_Vpgatherqd_xmm_vm64y_xmm
        | Code::VEX_Vgatherqps_xmm_vm64x_xmm
        | Code::VEX_Vgatherqps_xmm_vm64y_xmm => gather::<W, u32, u64>,
        Code::VEX_Vpgatherqq_xmm_vm64x_xmm
        | Code::VEX_Vpgatherqq_ymm_vm64y_ymm
        | Code::VEX_Vgatherqpd_xmm_vm64x_xmm
        | Code::VEX_Vgatherqpd_ymm_vm64y_ymm => gather::<W, u64, u64>,
        _ => return None,
    };
    Some((Gate::Avx, run))
}
