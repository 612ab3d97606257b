//! MOVS, STOS, LODS, CMPS and SCAS with their repeat prefixes.

use crate::block::Op;
use crate::decode::Lowered;
use crate::decode::operand::{effective_segment, segment};
use crate::fault::Fault;
use crate::flags::{LazyFlags, bits};
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

/// Compares as CMP does.
fn compare<T: Int>(flags: &mut LazyFlags, a: T, b: T) {
    let result = T::low(a.zext().wrapping_sub(b.zext()));
    let borrows = !a.zext() & b.zext() | (!a.zext() | b.zext()) & result.zext();
    flags.set_carries(result.sext(), borrows, T::BITS);
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
        let distance = to.wrapping_sub(from);
        if distance < len {
            // The destination overlaps what is still to be read: bytes propagate, as they must.
            len = distance / size * size;
        }
        if len < 2 * size || !cpu.is_plain_ram(world, from, false)? || !cpu.is_plain_ram(world, to, true)? {
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
        if len < 2 * size || !cpu.is_plain_ram(world, to, true)? {
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
        compare(&mut cpu.flags, a, b);
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
        compare(&mut cpu.flags, a, b);
        Ok(())
    }
}

/// Adds to an index or count register of `bits` (the address size): 32-bit writes clear the upper half.
#[inline(always)]
fn advance(cpu: &mut Vcpu, register: usize, by: u64, bits: u8) {
    let value = &mut cpu.gpr[register];
    *value = match bits {
        64 => value.wrapping_add(by),
        32 => value.wrapping_add(by) & 0xffff_ffff,
        _ => *value & !0xffff | value.wrapping_add(by) & 0xffff,
    };
}

/// The low `bits` of a register.
#[inline(always)]
fn low(value: u64, bits: u8) -> u64 {
    match bits {
        64 => value,
        32 => value & 0xffff_ffff,
        _ => value & 0xffff,
    }
}

/// Executes a string instruction: `aux` is the address size in bits, `dst` the repeat kind, `seg` the source segment.
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
    let address_bits = op.aux;
    let size = T::SIZE as u64;
    let backwards = cpu.system_flags & bits::DF != 0;
    let step = if backwards { size.wrapping_neg() } else { size };
    let mut left = MAX_ELEMENTS;
    loop {
        let count = low(cpu.gpr[reg::RCX], address_bits);
        if op.dst != NO_REPEAT && count == 0 {
            return Ok(());
        }
        if left == 0 {
            return Err(Fault::RESTART);
        }
        let resolve = |fault: Fault| fault.resolve(usize::from(op.seg) == seg::SS);
        let mut from = 0;
        if K::SOURCE {
            let offset = low(cpu.gpr[reg::RSI], address_bits);
            from = cpu.linear(usize::from(op.seg), offset, T::SIZE as u32, false).map_err(resolve)?;
        }
        let mut to = 0;
        if K::DESTINATION {
            let offset = low(cpu.gpr[reg::RDI], address_bits);
            let writes = !K::COMPARES;
            to = cpu.linear(seg::ES, offset, T::SIZE as u32, writes)?;
        }
        let mut done = 0;
        if op.dst != NO_REPEAT
            && !K::COMPARES
            && !backwards
            && cpu.mode.is_64()
            && address_bits == 64
            && !W::HOOKED
        {
            done = K::bulk::<T, W>(cpu, world, from, to, count.min(left))?;
        }
        if done == 0 {
            K::element::<T, W>(cpu, world, from, to)?;
            done = 1;
        }
        let moved = step.wrapping_mul(done);
        if K::SOURCE {
            advance(cpu, reg::RSI, moved, address_bits);
        }
        if K::DESTINATION {
            advance(cpu, reg::RDI, moved, address_bits);
        }
        if op.dst == NO_REPEAT {
            return Ok(());
        }
        advance(cpu, reg::RCX, done.wrapping_neg(), address_bits);
        left -= done.min(left);
        if K::COMPARES && cpu.flags.zf() == (op.dst == REPEAT_WHILE_NOT_EQUAL) {
            return Ok(());
        }
        // A device was touched: let it act before the next element.
        if cpu.attention && low(cpu.gpr[reg::RCX], address_bits) != 0 {
            return Err(Fault::RESTART);
        }
    }
}

fn address_bits(instruction: &Instruction) -> u8 {
    for index in 0..instruction.op_count() {
        match instruction.op_kind(index) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => return 16,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => return 32,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => return 64,
            _ => {}
        }
    }
    64
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
    op.aux = address_bits(instruction);
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
