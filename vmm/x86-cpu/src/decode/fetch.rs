//! Fetching instruction bytes and forming blocks.

use super::{Lowered, lower, operand};
use crate::block::{Block, Link, Op};
use crate::fault::Fault;
use crate::fetched;
use crate::memory::MemoryType;
use crate::memory::tlb::PAGE_MASK;
use crate::mode::CodeSize;
use crate::probes::Probes;
use crate::shared_code::{SharedCode, Straight};
use crate::state::{Vcpu, seg};
use crate::world::{Shown, World};
use iced_x86::{Code, Decoder, DecoderError, DecoderOptions};

/// Longest block, in operations.
const MAX_OPS: usize = 48;
/// Longest instruction, bytes (SDM volume 2, 2.3.11).
const MAX_INSTRUCTION: usize = 15;
/// Bytes that are looked at for a block: more than the longest has, so that the last of its instructions is decoded as if there
/// were no end.
const WINDOW: usize = (MAX_OPS + 1) * MAX_INSTRUCTION;

/// Decodes the block at the vCPU's RIP, whose first byte is at guest-physical `phys` of memory of type `kind`, and marks its bytes as code. Another
/// machine may have decoded it before into `shared`.
///
/// # Errors
/// The fault of fetching the first instruction. A fault on a later one ends the block before it.
pub(crate) fn decode_block<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    (phys, kind): (u64, MemoryType),
    shared: Option<&SharedCode<W>>,
) -> Result<Block<W>, Fault> {
    let mode = cpu.mode;
    let cs_limit = if mode.is_64() { u64::MAX } else { u64::from(cpu.segs[seg::CS].limit) };
    if cpu.rip > cs_limit {
        return Err(Fault::GP0);
    }
    let in_page = (4096 - (phys & 0xfff)) as usize;
    let within_limit = cs_limit - cpu.rip;
    let available = in_page.min(usize::try_from(within_limit.saturating_add(1)).unwrap_or(usize::MAX));
    let mut bytes = [0; WINDOW];
    let bytes = &mut bytes[..available.min(WINDOW)];
    // Elsewhere the segment's limit has a say.
    let shared = shared.filter(|_| mode.is_64());
    let known = shared.and_then(|shared| {
        shared.find(phys, mode, bytes.len(), |known| {
            let bytes = &mut bytes[..known.len()];
            cpu.fetch_bytes(world, phys, kind, bytes);
            bytes == known
        })
    });
    let straight = match known {
        Some(straight) => straight,
        None => {
            cpu.fetch_bytes(world, phys, kind, bytes);
            let straight = decode_straight(cpu, bytes, phys, world.shown())?;
            if straight.ops.is_empty() {
                return decode_crossing(cpu, world, (phys, kind), bytes);
            }
            if let Some(shared) = shared {
                // Also what follows has a say: in whether an instruction is whole.
                shared.add(phys, mode, bytes, usize::from(straight.len) + MAX_INSTRUCTION, &straight);
            }
            straight
        }
    };
    let linear = cpu.linear_ip();
    let (straight, probed) = match world.probes() {
        Some(probes) => (end_at_probe(straight, probes, linear), probes.contains(linear)),
        None => (straight, false),
    };
    mark_code(cpu, world, phys, u64::from(straight.len));
    Ok(Block {
        first_line: fetched::first_line(&straight.ops, phys, kind, world.shown()),
        ops: straight.ops,
        phys,
        mode,
        len: straight.len,
        branches: straight.branches,
        kind,
        crosses: None,
        links: [Link::NONE; 2],
        valid: true,
        probed,
        refetched: !kind.is_fetched_cached(),
    })
}

/// `straight`, at linear address `linear`, up to the first probe in it.
fn end_at_probe<W: World>(straight: Straight<W>, probes: &Probes, linear: u64) -> Straight<W> {
    match probes.within(&straight.ops, linear) {
        Some(count) => {
            Straight { len: straight.ops[count].offset(), ops: straight.ops[..count].into(), branches: false }
        }
        None => straight,
    }
}

/// Decodes the instructions of a block from `bytes`, which all are in one page; none if the first is not whole.
fn decode_straight<W: World>(
    cpu: &Vcpu,
    bytes: &[u8],
    phys: u64,
    shown: Shown,
) -> Result<Straight<W>, Fault> {
    let mode = cpu.mode;
    let mut ops = Vec::with_capacity(8);
    let mut branches = false;
    let mut decoder = decoder(mode.code(), bytes, cpu.rip);
    while decoder.can_decode() && ops.len() < MAX_OPS {
        let offset = decoder.position() as u16;
        let instruction = decoder.decode();
        if decoder.last_error() == DecoderError::NoMoreBytes {
            decoder.set_position(usize::from(offset)).map_err(|_| Fault::UD)?;
            break;
        }
        let (mut op, lowered) = lower_one(cpu, &instruction, offset, &bytes[usize::from(offset)..]);
        let at = phys + u64::from(offset);
        fetched::mark(&mut op, &instruction, shown, at, (offset != 0).then(|| at - 1));
        ops.push(op);
        if lowered != Lowered::Straight {
            branches = lowered == Lowered::Branch;
            break;
        }
    }
    fetched::arrange(&mut ops);
    Ok(Straight { ops: ops.into(), len: decoder.position() as u16, branches })
}

/// Decodes one instruction whose bytes cross into the next page, or beyond the segment limit.
fn decode_crossing<W: World>(
    cpu: &mut Vcpu,
    world: &mut W,
    (phys, kind): (u64, MemoryType),
    head: &[u8],
) -> Result<Block<W>, Fault> {
    let mode = cpu.mode;
    let in_page = (4096 - (phys & 0xfff)) as usize;
    if head.len() < in_page.min(WINDOW) {
        // The segment ends before the page does.
        return Err(Fault::GP0);
    }
    let mut bytes = [0; MAX_INSTRUCTION];
    if head.len() >= MAX_INSTRUCTION {
        // Prefixes without end.
        return Err(Fault::GP0);
    }
    bytes[..head.len()].copy_from_slice(head);
    let linear = cpu.linear_ip().wrapping_add(head.len() as u64);
    let linear = if mode.is_64() { linear } else { linear & 0xffff_ffff };
    let (second, second_kind) = cpu.fetch_address(world, linear)?;
    cpu.fetch_bytes(world, second, second_kind, &mut bytes[head.len()..]);
    let mut decoder = decoder(mode.code(), &bytes, cpu.rip);
    let instruction = decoder.decode();
    if decoder.last_error() == DecoderError::NoMoreBytes {
        return Err(Fault::GP0);
    }
    let len = decoder.position() as u16;
    if !mode.is_64() && cpu.rip + u64::from(len) - 1 > u64::from(cpu.segs[seg::CS].limit) {
        return Err(Fault::GP0);
    }
    let (mut op, lowered) = lower_one(cpu, &instruction, 0, &bytes);
    fetched::mark(&mut op, &instruction, world.shown(), phys, None);
    let start = cpu.linear_ip();
    let probed = world.probes().is_some_and(|probes| probes.contains(start));
    mark_code(cpu, world, phys, head.len() as u64);
    mark_code(cpu, world, second, (u64::from(len)).saturating_sub(head.len() as u64).max(1));
    Ok(Block {
        first_line: fetched::first_line(std::slice::from_ref(&op), phys, kind, world.shown()),
        ops: vec![op].into(),
        phys,
        mode,
        len,
        branches: lowered == Lowered::Branch,
        kind,
        crosses: Some(second & PAGE_MASK),
        links: [Link::NONE; 2],
        valid: true,
        probed,
        refetched: !(kind.is_fetched_cached() && second_kind.is_fetched_cached()),
    })
}

const fn bits(code: CodeSize) -> u32 {
    match code {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    }
}

fn decoder(code: CodeSize, bytes: &[u8], ip: u64) -> Decoder<'_> {
    Decoder::with_ip(bits(code), bytes, ip, crate::cpuid::DECODER_OPTIONS)
}

/// Whether `bytes`, which begin with no instruction, do so because it is too long: that is #GP, not #UD (SDM volume 3,
/// 6.15, interrupt 13).
fn is_too_long(code: CodeSize, bytes: &[u8]) -> bool {
    let Some(head) = bytes.get(..MAX_INSTRUCTION - 1) else {
        return false;
    };
    let mut short = decoder(code, head, 0);
    if !short.decode().is_invalid() || short.last_error() != DecoderError::NoMoreBytes {
        return false;
    }
    // What is complete but for a prefix it must not have (LOCK) is not too long.
    let options = crate::cpuid::DECODER_OPTIONS | DecoderOptions::NO_INVALID_CHECK;
    Decoder::with_ip(bits(code), bytes, 0, options).decode().is_invalid()
}

/// `instruction`, but for PAUSE with REX.B, which the decoder knows: it is XCHG with R8, and the REP prefix means nothing
/// (SDM volume 2, XCHG; processors agree).
fn exchange_not_pause(
    code: CodeSize,
    instruction: &iced_x86::Instruction,
    bytes: &[u8],
) -> iced_x86::Instruction {
    let before_opcode = instruction.len().checked_sub(2).and_then(|at| bytes.get(at)).copied().unwrap_or(0);
    let rex_b = code == CodeSize::Bits64 && before_opcode & 0xf1 == 0x41;
    if instruction.code() != Code::Pause || !rex_b {
        return *instruction;
    }
    let options = crate::cpuid::DECODER_OPTIONS | DecoderOptions::NO_PAUSE;
    Decoder::with_ip(bits(code), bytes, instruction.ip(), options).decode()
}

/// Lowers `instruction`, decoded from the start of `bytes`.
fn lower_one<W: World>(
    cpu: &Vcpu,
    instruction: &iced_x86::Instruction,
    offset: u16,
    bytes: &[u8],
) -> (Op<W>, Lowered) {
    let mut op = Op::new(super::undefined::<W>, offset, instruction.len() as u8);
    if instruction.is_invalid() && is_too_long(cpu.mode.code(), bytes) {
        op.run = super::too_long;
        return (op, Lowered::Last);
    }
    let instruction = &exchange_not_pause(cpu.mode.code(), instruction, bytes);
    if operand::has_memory(instruction) {
        operand::fill_memory(instruction, cpu.mode, cpu.rip, &mut op);
    }
    let lowered = lower(instruction, cpu.mode, &mut op);
    (op, lowered)
}

/// Marks bytes as code, and makes this vCPU's writes to their page go the slow way from now on.
fn mark_code<W: World>(cpu: &mut Vcpu, world: &mut W, phys: u64, len: u64) {
    let pages = world.code_pages();
    if pages.mark(phys, len) {
        cpu.tlb.code_generation = pages.generation();
        cpu.tlb.guard_code_page(phys);
    }
}
