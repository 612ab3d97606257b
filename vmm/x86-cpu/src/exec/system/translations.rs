//! INVLPG and INVPCID: forgetting translations (SDM volume 3, 4.10).

use crate::block::{AddressKind, Op};
use crate::decode::Lowered;
use crate::decode::operand::gpr;
use crate::fault::Fault;
use crate::memory::access::is_canonical;
use crate::mode::Mode;
use crate::state::{Vcpu, cr4};
use crate::world::World;
use iced_x86::{Code, Instruction};

pub(crate) fn lower<W: World>(instruction: &Instruction, _: Mode, op: &mut Op<W>) -> Lowered {
    match instruction.code() {
        Code::Invlpg_m => op.run = invalidate_page,
        Code::Invpcid_r32_m128 | Code::Invpcid_r64_m128 => {
            op.dst = gpr(instruction.op0_register());
            op.run = invalidate_by_context;
        }
        _ => return Lowered::No,
    }
    Lowered::Last
}

fn invalidate_page<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    cpu.require_supervisor()?;
    let offset = cpu.effective_address(op);
    let linear = if matches!(op.address, AddressKind::Flat64 | AddressKind::Flat64Addr32) {
        offset.wrapping_add(cpu.gpr[usize::from(op.seg_slot & 31)])
    } else {
        cpu.segs[usize::from(op.seg & 7)].base.wrapping_add(offset) & 0xffff_ffff
    };
    cpu.drop_translation(world, linear);
    Ok(())
}

/// INVPCID. No translations of a PCID but the current one are ever kept, so that its types differ in little.
fn invalidate_by_context<W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    const ADDRESS: u64 = 0;
    const CONTEXT: u64 = 1;
    const ALL_WITH_GLOBAL: u64 = 2;
    const ALL: u64 = 3;
    // Virtual-8086 mode has CPL 3.
    cpu.require_supervisor()?;
    let kind = cpu.full_register(op.dst);
    let linear = cpu.address_sized(op, 16, false)?;
    let pcid = cpu.load::<u64, W>(world, linear)?;
    let address = cpu.load::<u64, W>(world, linear.wrapping_add(8))?;
    let by_pcid = kind <= CONTEXT;
    if kind > ALL
        || pcid >> 12 != 0
        || (by_pcid && pcid != 0 && cpu.cr4 & cr4::PCIDE == 0)
        || (kind == ADDRESS && !is_canonical(address))
    {
        return Err(Fault::GP0);
    }
    match kind {
        ADDRESS => cpu.drop_translation(world, address),
        _ => cpu.drop_translations(world, kind != ALL_WITH_GLOBAL),
    }
    Ok(())
}
