//! MOVS, STOS, LODS, CMPS and SCAS with their repeat prefixes.

use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::{effective_segment, segment};
use crate::exec::index::address_size;
use crate::exec::integer::sub;
use crate::fault::Fault;
use crate::memory::word::Int;
use crate::mode::Mode;
use crate::state::{Vcpu, reg, seg};
use crate::world::World;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Elements that one execution of a repeated instruction handles at most, before it lets the machine look around. It is
/// then executed again; the instruction retires once.
const MAX_ELEMENTS: u64 = 1 << 16;

const NO_REPEAT: u8 = 0;
/// REP, and REPE for comparisons.
const REPEAT: u8 = 1;
const REPEAT_WHILE_NOT_EQUAL: u8 = 2;

/// Which of rSI and rDI an instruction uses, and what it does to one element.
trait Kind: 'static {
    const SOURCE: bool;
    const DESTINATION: bool;
    const COMPARES: bool = false;
    fn element<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, from: u64, to: u64) -> Result<(), Fault>;
    /// Handles up to `count` elements at ascending RAM addresses at once; returns how many.
    fn bulk<T: Int, W: World>(
        _: &mut Vcpu,
        _: &mut W,
        _from: u64,
        _to: u64,
        _count: u64,
    ) -> Result<u64, Fault> {
        Ok(0)
    }
}

/// Bytes left in the page of `linear`.
fn left_in_page(linear: u64) -> u64 {
    4096 - (linear & 0xfff)
}

struct Movs;
impl Kind for Movs {
    const SOURCE: bool = true;
    const DESTINATION: bool = true;
    fn element<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, from: u64, to: u64) -> Result<(), Fault> {
        let value = cpu.load::<T, W>(world, from)?;
        cpu.store(world, to, value)
    }
    fn bulk<T: Int, W: World>(
        cpu: &mut Vcpu,
        world: &mut W,
        from: u64,
        to: u64,
        count: u64,
    ) -> Result<u64, Fault> {
        let size = T::SIZE as u64;
        let mut len = left_in_page(from).min(left_in_page(to)).min(count.saturating_mul(size)) / size * size;
        if len < 2 * size {
            return Ok(0);
        }
        let (Some(source), Some(target)) =
            (cpu.plain_ram(world, from, false)?, cpu.plain_ram(world, to, true)?)
        else {
            return Ok(0);
        };
        // Where the destination overlaps what is still to be read, bytes propagate, as they must. Two linear pages may
        // be one page of RAM.
        let distance = target.wrapping_sub(source);
        if distance < len {
            len = distance / size * size;
        }
        if len < 2 * size {
            return Ok(0);
        }
        let mut buffer = [0; 4096];
        let buffer = &mut buffer[..len as usize];
        cpu.load_bytes(world, from, buffer)?;
        cpu.store_bytes(world, to, buffer)?;
        Ok(len / size)
    }
}

struct Stos;
impl Kind for Stos {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;
    fn element<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, _: u64, to: u64) -> Result<(), Fault> {
        cpu.store(world, to, cpu.reg::<T>(0))
    }
    fn bulk<T: Int, W: World>(
        cpu: &mut Vcpu,
        world: &mut W,
        _: u64,
        to: u64,
        count: u64,
    ) -> Result<u64, Fault> {
        let size = T::SIZE as u64;
        let len = left_in_page(to).min(count.saturating_mul(size)) / size * size;
        if len < 2 * size || cpu.plain_ram(world, to, true)?.is_none() {
            return Ok(0);
        }
        let mut buffer = [0; 4096];
        let buffer = &mut buffer[..len as usize];
        let pattern = cpu.reg::<T>(0).zext().to_le_bytes();
        for element in buffer.chunks_exact_mut(T::SIZE) {
            element.copy_from_slice(&pattern[..T::SIZE]);
        }
        cpu.store_bytes(world, to, buffer)?;
        Ok(len / size)
    }
}

struct Lods;
impl Kind for Lods {
    const SOURCE: bool = true;
    const DESTINATION: bool = false;
    fn element<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, from: u64, _: u64) -> Result<(), Fault> {
        let value = cpu.load::<T, W>(world, from)?;
        cpu.set_reg(0, value);
        Ok(())
    }
}

struct Cmps;
impl Kind for Cmps {
    const SOURCE: bool = true;
    const DESTINATION: bool = true;
    const COMPARES: bool = true;
    fn element<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, from: u64, to: u64) -> Result<(), Fault> {
        let a = cpu.load::<T, W>(world, from)?;
        let b = cpu.load::<T, W>(world, to)?;
        sub(&mut cpu.flags, a, b, false);
        Ok(())
    }
}

struct Scas;
impl Kind for Scas {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;
    const COMPARES: bool = true;
    fn element<T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, _: u64, to: u64) -> Result<(), Fault> {
        let b = cpu.load::<T, W>(world, to)?;
        let a = cpu.reg::<T>(0);
        sub(&mut cpu.flags, a, b, false);
        Ok(())
    }
}

/// Executes a string instruction: `aux` is the address size in bytes, `dst` the repeat kind, `seg` the source segment.
fn string<K: Kind, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let flags = cpu.flags;
    let result = elements::<K, T, W>(cpu, world, op);
    // A fault on a later element restores the flags from before the instruction (SDM volume 2, REP).
    if K::COMPARES && result.is_err() {
        cpu.flags = flags;
    }
    result
}

fn elements<K: Kind, T: Int, W: World>(cpu: &mut Vcpu, world: &mut W, op: &Op<W>) -> Result<(), Fault> {
    let address_size = op.aux;
    let step = cpu.index_step(T::SIZE);
    let forwards = step == T::SIZE as u64;
    let mut left = MAX_ELEMENTS;
    loop {
        let count = cpu.index_register(reg::RCX, address_size);
        if op.dst != NO_REPEAT && count == 0 {
            return Ok(());
        }
        if left == 0 {
            return Err(Fault::RESTART);
        }
        let resolve = |fault: Fault| fault.resolve(usize::from(op.seg) == seg::SS);
        let mut from = 0;
        if K::SOURCE {
            let offset = cpu.index_register(reg::RSI, address_size);
            from = cpu.linear(usize::from(op.seg), offset, T::SIZE as u32, false).map_err(resolve)?;
        }
        let mut to = 0;
        if K::DESTINATION {
            let offset = cpu.index_register(reg::RDI, address_size);
            let writes = !K::COMPARES;
            to = cpu.linear(seg::ES, offset, T::SIZE as u32, writes)?;
        }
        let mut done = 0;
        if op.dst != NO_REPEAT
            && !K::COMPARES
            && forwards
            && cpu.mode.is_64()
            && address_size == 8
            && !cpu.single_steps()
        {
            done = K::bulk::<T, W>(cpu, world, from, to, count.min(left))?;
        }
        if done == 0 {
            K::element::<T, W>(cpu, world, from, to)?;
            done = 1;
        }
        let moved = step.wrapping_mul(done);
        if K::SOURCE {
            cpu.move_index(reg::RSI, address_size, moved);
        }
        if K::DESTINATION {
            cpu.move_index(reg::RDI, address_size, moved);
        }
        if op.dst == NO_REPEAT {
            return Ok(());
        }
        cpu.move_index(reg::RCX, address_size, done.wrapping_neg());
        left -= done.min(left);
        if K::COMPARES && cpu.flags.zf() == (op.dst == REPEAT_WHILE_NOT_EQUAL) {
            return Ok(());
        }
        // A device was touched, or a debug trap is due: that comes before the next element.
        if cpu.stops_between_iterations() && cpu.index_register(reg::RCX, address_size) != 0 {
            return Err(Fault::RESTART);
        }
    }
}

pub(crate) fn lower<W: World>(instruction: &Instruction, mode: Mode, op: &mut Op<W>) -> Lowered {
    let is_vector = (0..instruction.op_count())
        .any(|i| instruction.op_kind(i) == OpKind::Register && !instruction.op_register(i).is_gpr());
    // MOVSD and CMPSD are also SSE instructions.
    if is_vector {
        return Lowered::No;
    }
    op.run = match instruction.mnemonic() {
        Mnemonic::Movsb => string::<Movs, u8, W>,
        Mnemonic::Movsw => string::<Movs, u16, W>,
        Mnemonic::Movsd => string::<Movs, u32, W>,
        Mnemonic::Movsq => string::<Movs, u64, W>,
        Mnemonic::Stosb => string::<Stos, u8, W>,
        Mnemonic::Stosw => string::<Stos, u16, W>,
        Mnemonic::Stosd => string::<Stos, u32, W>,
        Mnemonic::Stosq => string::<Stos, u64, W>,
        Mnemonic::Lodsb => string::<Lods, u8, W>,
        Mnemonic::Lodsw => string::<Lods, u16, W>,
        Mnemonic::Lodsd => string::<Lods, u32, W>,
        Mnemonic::Lodsq => string::<Lods, u64, W>,
        Mnemonic::Cmpsb => string::<Cmps, u8, W>,
        Mnemonic::Cmpsw => string::<Cmps, u16, W>,
        Mnemonic::Cmpsd => string::<Cmps, u32, W>,
        Mnemonic::Cmpsq => string::<Cmps, u64, W>,
        Mnemonic::Scasb => string::<Scas, u8, W>,
        Mnemonic::Scasw => string::<Scas, u16, W>,
        Mnemonic::Scasd => string::<Scas, u32, W>,
        Mnemonic::Scasq => string::<Scas, u64, W>,
        _ => return Lowered::No,
    };
    op.aux = address_size(instruction);
    op.seg = segment(effective_segment(instruction, mode));
    op.dst = if instruction.has_repne_prefix() {
        REPEAT_WHILE_NOT_EQUAL
    } else if instruction.has_repe_prefix() {
        REPEAT
    } else {
        NO_REPEAT
    };
    Lowered::Straight
}
