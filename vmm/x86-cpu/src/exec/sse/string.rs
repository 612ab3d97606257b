//! PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM (SDM volume 1, 12.11 and volume 2, 4.1).

use super::operand::{M128U, Source, Xmm};
use super::{Choice, Gate, vex};
use crate::block::{Op, OpFn};
use crate::fault::Fault;
use crate::flags::bits;
use crate::state::{Vcpu, reg};
use crate::world::World;
use iced_x86::Code;

/// Fields of the immediate.
#[derive(Debug, Clone, Copy)]
struct Control(u8);

impl Control {
    fn words(self) -> bool {
        self.0 & 1 != 0
    }
    fn signed(self) -> bool {
        self.0 & 2 != 0
    }
    /// Elements of an operand.
    fn count(self) -> usize {
        if self.words() { 8 } else { 16 }
    }
    /// The elements of `value`, extended.
    fn elements(self, value: u128) -> [i32; 16] {
        let mut elements = [0; 16];
        for (at, element) in elements.iter_mut().take(self.count()).enumerate() {
            *element = match (self.words(), self.signed()) {
                (false, false) => i32::from((value >> (at * 8)) as u8),
                (false, true) => i32::from((value >> (at * 8)) as i8),
                (true, false) => i32::from((value >> (at * 16)) as u16),
                (true, true) => i32::from((value >> (at * 16)) as i16),
            };
        }
        elements
    }
    /// Elements before the first null.
    fn implicit_length(self, value: u128) -> usize {
        let elements = self.elements(value);
        elements.iter().take(self.count()).position(|element| *element == 0).unwrap_or(self.count())
    }
    /// The magnitude of an explicit length, saturated.
    fn explicit_length(self, length: i64) -> usize {
        length.unsigned_abs().min(self.count() as u64) as usize
    }
    /// Ones for all elements.
    fn all(self) -> u32 {
        if self.words() { 0xff } else { 0xffff }
    }
    /// IntRes2: a bit for each element of the second operand.
    fn compare(self, first: u128, first_length: usize, second: u128, second_length: usize) -> u32 {
        let set = &self.elements(first)[..first_length];
        let text = &self.elements(second)[..second_length];
        let valid = (1_u32 << second_length) - 1;
        let result = match self.0 >> 2 & 3 {
            0 => matching(text, |element| set.contains(&element)),
            1 => matching(text, |element| set.chunks_exact(2).any(|r| r[0] <= element && element <= r[1])),
            2 => {
                let pairs = set.iter().zip(text).enumerate();
                let equal = pairs.filter(|(_, (a, b))| a == b).fold(0, |bits, (at, _)| bits | 1 << at);
                // Where both strings have ended they count as equal.
                let ended = self.all() & !((1_u32 << first_length.max(second_length)) - 1);
                equal | ended
            }
            _ => {
                (0..self.count()).filter(|at| self.occurs(set, text, *at)).fold(0, |bits, at| bits | 1 << at)
            }
        };
        match self.0 >> 4 & 3 {
            1 => !result & self.all(),
            3 => result ^ valid,
            _ => result,
        }
    }
    /// Whether `set` begins at element `at` of `text`, as far as the operand reaches.
    fn occurs(self, set: &[i32], text: &[i32], at: usize) -> bool {
        let compared = &set[..set.len().min(self.count() - at)];
        text.get(at..).map_or(compared.is_empty(), |rest| rest.starts_with(compared))
    }
    /// ECX: the least or most significant element found, or their number.
    fn index(self, result: u32) -> u64 {
        if result == 0 {
            self.count() as u64
        } else if self.0 & 0x40 == 0 {
            u64::from(result.trailing_zeros())
        } else {
            u64::from(result.ilog2())
        }
    }
    /// XMM0: the bits themselves, or ones in the elements found.
    fn mask(self, result: u32) -> u128 {
        if self.0 & 0x40 == 0 {
            return u128::from(result);
        }
        let (width, ones) = if self.words() { (16, 0xffff) } else { (8, 0xff) };
        (0..self.count()).filter(|at| result >> at & 1 != 0).fold(0, |mask, at| mask | ones << (at * width))
    }
}

fn matching(text: &[i32], predicate: impl Fn(i32) -> bool) -> u32 {
    text.iter().enumerate().fold(0, |bits, (at, element)| bits | u32::from(predicate(*element)) << at)
}

/// The lengths of both strings, and what is done with the result.
trait Lengths {
    fn of(cpu: &Vcpu, control: Control, first: u128, second: u128) -> (usize, usize);
}

/// Up to the first null element.
enum Implicit {}
/// EAX and EDX.
enum Explicit32 {}
/// RAX and RDX.
enum Explicit64 {}

impl Lengths for Implicit {
    fn of(_: &Vcpu, control: Control, first: u128, second: u128) -> (usize, usize) {
        (control.implicit_length(first), control.implicit_length(second))
    }
}
impl Lengths for Explicit32 {
    fn of(cpu: &Vcpu, control: Control, _: u128, _: u128) -> (usize, usize) {
        let length = |register: usize| control.explicit_length(i64::from(cpu.gpr[register] as i32));
        (length(reg::RAX), length(reg::RDX))
    }
}
impl Lengths for Explicit64 {
    fn of(cpu: &Vcpu, control: Control, _: u128, _: u128) -> (usize, usize) {
        let length = |register: usize| control.explicit_length(cpu.gpr[register] as i64);
        (length(reg::RAX), length(reg::RDX))
    }
}

/// Compares, sets the flags and leaves an index in ECX, or with `MASK` a mask in XMM0.
fn compare<W: World, L: Lengths, S: Source, const MASK: bool>(
    cpu: &mut Vcpu,
    world: &mut W,
    op: &Op<W>,
) -> Result<(), Fault> {
    let second = S::get(cpu, world, op)?;
    let first = cpu.xmm[usize::from(op.dst & 15)];
    let control = Control(op.imm as u8);
    let (first_length, second_length) = L::of(cpu, control, first, second);
    let result = control.compare(first, first_length, second, second_length);
    let flag = |on, bit| if on { bit } else { 0 };
    cpu.flags.set_bits(
        flag(result != 0, bits::CF)
            | flag(second_length < control.count(), bits::ZF)
            | flag(first_length < control.count(), bits::SF)
            | flag(result & 1 != 0, bits::OF),
    );
    if MASK {
        cpu.xmm[0] = control.mask(result);
        if vex::is_vex(op) {
            cpu.ymm_high[0] = 0;
        }
    } else {
        cpu.gpr[reg::RCX] = control.index(result);
    }
    Ok(())
}

fn pick<W: World, L: Lengths, const MASK: bool>(memory: bool) -> OpFn<W> {
    if memory { compare::<W, L, M128U, MASK> } else { compare::<W, L, Xmm, MASK> }
}

pub(super) fn lower<W: World>(code: Code, memory: bool) -> Choice<W> {
    let run = match code {
        Code::Pcmpestri_xmm_xmmm128_imm8 => pick::<W, Explicit32, false>(memory),
        Code::Pcmpestri64_xmm_xmmm128_imm8 => pick::<W, Explicit64, false>(memory),
        Code::Pcmpestrm_xmm_xmmm128_imm8 => pick::<W, Explicit32, true>(memory),
        Code::Pcmpestrm64_xmm_xmmm128_imm8 => pick::<W, Explicit64, true>(memory),
        Code::Pcmpistri_xmm_xmmm128_imm8 => pick::<W, Implicit, false>(memory),
        Code::Pcmpistrm_xmm_xmmm128_imm8 => pick::<W, Implicit, true>(memory),
        _ => return None,
    };
    Some((Gate::Sse, run))
}
