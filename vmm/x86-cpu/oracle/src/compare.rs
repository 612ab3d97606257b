//! What must agree between the host and the interpreter, and what the architecture leaves open.

use crate::address::operand_bytes;
use crate::generate::{Case, RCX, RDI, RSI, RSP, linear_address};
use crate::state::{Outcome, State, Width, address_of};
use crate::vendor;
use iced_x86::{Instruction, Mnemonic, OpKind, Register, RflagsBits};
use std::ops::Range;

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
/// CF, PF, AF, ZF, SF, IF, DF, OF, NT, AC, ID. (RF differs with how the state was saved.)
const COMPARED_FLAGS: u64 = CF | PF | AF | ZF | SF | OF | 1 << 9 | 1 << 10 | 1 << 14 | 1 << 18 | 1 << 21;

/// All eight registers but the stack pointer.
const POPPED_BY_POPA: [u64; 16] = {
    let mut bits = [u64::MAX; 16];
    bits[RSP] = 0;
    bits
};

/// How far results may lie from the host's, where only their error is bounded.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Approximation {
    #[default]
    Exact,
    /// RCPPS, RSQRTPS and their scalar forms.
    Reciprocal,
    /// An x87 transcendental function.
    Transcendental,
    /// A trigonometric function of this argument, whose reduction by a rounded pi adds an error in proportion to it.
    Trigonometric(f64),
    /// The argument lies where the function is not defined.
    Undefined,
}

/// Registers and memory that may differ.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) gpr: [u64; 16],
    /// Memory, by address.
    pub(crate) memory: Vec<Range<u64>>,
    /// Bases of FS and GS.
    pub(crate) segment_bases: bool,
}

/// What may differ after an instruction.
#[derive(Debug, Default)]
pub struct Undefined {
    pub rflags: u64,
    /// Flags that earlier instructions left undefined, by the address of the instruction that faults.
    rflags_at: Vec<(u64, u64)>,
    /// Condition codes in the x87 status word.
    status: u16,
    /// After it has completed.
    pub(crate) completed: Places,
    /// After it has faulted.
    faulted: Places,
    /// Any address of so many bytes may be named by a page fault.
    fault_span: u64,
    /// It uses MMX registers: processors differ in whether the x87 state has entered MMX mode when it faults.
    mmx: bool,
    approximation: Approximation,
    /// Pairs of vectors, the host's and the interpreter's, of which either may come first or stands for the other.
    pub(crate) either: Vec<(u8, u8)>,
    /// Pairs of ends, the host's and the interpreter's (the vector, or nothing if all instructions were executed), of which
    /// either is right; nothing else is compared then.
    pub(crate) excused: Vec<(Option<u8>, Option<u8>)>,
    /// The host may know an instruction that the interpreter does not; nothing is compared then.
    host_may_know: bool,
    /// MXCSR may differ.
    pub(crate) mxcsr: bool,
    /// Width in bits of the lanes of XMM registers in which one NaN stands for another; 0 if in none.
    pub(crate) nan_lanes: u32,
}

fn flag_bits(flags: u32) -> (u64, u16) {
    let pairs = [
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
        (RflagsBits::AF, AF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::SF, SF),
        (RflagsBits::OF, OF),
    ];
    let conditions = [
        (RflagsBits::C0, 1 << 8),
        (RflagsBits::C1, 1 << 9),
        (RflagsBits::C2, 1 << 10),
        (RflagsBits::C3, 1 << 14),
    ];
    let rflags = pairs.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |bits, (_, bit)| bits | bit);
    let status = conditions.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |bits, (_, bit)| bits | bit);
    (rflags, status)
}

/// The flags at their RFLAGS positions, of a set of [`RflagsBits`].
pub fn rflags(flags: u32) -> u64 {
    flag_bits(flags).0
}

/// Whether `mnemonic` shifts or rotates by a count, 0 of which changes no flag.
pub fn shifts(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
            | Mnemonic::Shld
            | Mnemonic::Shrd
    )
}

/// Size of the first operand in bits.
fn operand_bits(instruction: &Instruction) -> u64 {
    let bytes = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    };
    bytes as u64 * 8
}

/// SDM volume 2, the flags sections of the shifts and rotates; the count decides.
fn undefined_after_shift(instruction: &Instruction, before: &State, undefined: &mut Undefined) {
    let last = instruction.op_count() - 1;
    let raw = match instruction.op_kind(last) {
        OpKind::Register => before.gpr[RCX],
        _ => instruction.immediate(last),
    };
    let bits = operand_bits(instruction);
    let count = raw & if bits == 64 { 0x3f } else { 0x1f };
    let overflow = if count > 1 { OF } else { 0 };
    undefined.rflags = match instruction.mnemonic() {
        _ if count == 0 => 0,
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => overflow,
        Mnemonic::Sar => overflow | AF,
        Mnemonic::Shld | Mnemonic::Shrd if count > bits => CF | PF | AF | ZF | SF | OF,
        Mnemonic::Shld | Mnemonic::Shrd => overflow | AF,
        _ if count >= bits => overflow | AF | CF,
        _ => overflow | AF,
    };
    let double = matches!(instruction.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd);
    if double && count > bits {
        undefine_destination(instruction, before, 0xffff, undefined);
    }
}

fn undefine_destination(instruction: &Instruction, before: &State, bits: u64, undefined: &mut Undefined) {
    match instruction.op0_kind() {
        OpKind::Register => {
            undefined.completed.gpr[instruction.op0_register().full_register().number()] = bits
        }
        _ => {
            if let Some(address) = linear_address(instruction, before) {
                undefined.completed.memory.push(address..address + 8);
            }
        }
    }
}

impl Undefined {
    /// A memory fault of the host where the interpreter completes.
    pub(crate) const HOST_FAULTS: [(Option<u8>, Option<u8>); 4] =
        [(Some(12), None), (Some(13), None), (Some(14), None), (Some(17), None)];

    /// CF, PF, AF, ZF, SF and OF.
    pub(crate) const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

    /// Records that `flags` are undefined when the instruction at `ip` starts.
    pub fn open_flags_at(&mut self, ip: u64, flags: u64) {
        self.rflags_at.push((ip, flags));
    }

    /// Whether host and interpreter may end so differently that nothing else can be compared.
    pub fn excuses(&self, case: &Case, want: &Observed<'_>, got: Outcome) -> bool {
        let vector = |outcome| match outcome {
            Outcome::Completed => None,
            Outcome::Fault { vector, .. } => Some(vector),
        };
        let knows_more = want.outcome != got || want.state.rip != case.state.rip;
        let unknown = Outcome::Fault { vector: 6, address: None };
        self.excused.contains(&(vector(want.outcome), vector(got)))
            || self.host_may_know && got == unknown && knows_more
    }

    fn flags(&self, faulted: bool, ip: u64) -> u64 {
        if !faulted {
            return self.rflags;
        }
        self.rflags_at.iter().filter(|(at, _)| *at == ip).fold(0, |all, (_, flags)| all | flags)
    }

    fn places(&self, completed: bool) -> &Places {
        if completed { &self.completed } else { &self.faulted }
    }

    /// Opens the x87 registers, and these bits of the status word.
    pub(crate) fn open_x87(&mut self, status: u16) {
        self.approximation = Approximation::Undefined;
        self.status |= status;
    }

    /// What may differ after bytes that the interpreter does not know.
    pub(crate) fn after_unknown() -> Self {
        Self { host_may_know: true, ..Self::default() }
    }

    /// What the last of the instructions of `case` leaves open, given the state `before` it.
    pub fn after(instruction: &Instruction, before: &State) -> Self {
        let mut undefined = Self::default();
        (undefined.rflags, undefined.status) = flag_bits(instruction.rflags_undefined());
        match instruction.mnemonic() {
            mnemonic if shifts(mnemonic) => undefined_after_shift(instruction, before, &mut undefined),
            Mnemonic::Bswap if operand_bits(instruction) == 16 => {
                undefine_destination(instruction, before, 0xffff, &mut undefined);
            }
            // A source of 0 leaves the destination as it was; whether its upper half is cleared differs.
            Mnemonic::Bsf | Mnemonic::Bsr if operand_bits(instruction) == 32 => {
                undefine_destination(instruction, before, 0xffff_ffff_0000_0000, &mut undefined);
            }
            // Registers popped before a fault may keep their new values.
            Mnemonic::Popa | Mnemonic::Popad => undefined.faulted.gpr = POPPED_BY_POPA,
            // Linux reports #BR like #GP; it may be raised over the lower bound before the upper one is read.
            Mnemonic::Bound => undefined.either = vec![(13, 5), (13, 14)],
            // SDM volume 2, LAR: bits 16 to 19 of the access rights are not defined.
            Mnemonic::Lar if operand_bits(instruction) > 16 => {
                undefine_destination(instruction, before, 0xf_0000, &mut undefined);
            }
            // From 64-bit to 32-bit code the width of the stack pointer may be the old or the new one for the push.
            Mnemonic::Call if instruction.is_call_far_indirect() && before.gpr[RSP] >> 32 != 0 => {
                undefined.fault_span = u64::MAX;
            }
            // The words of a far return may be read in any order.
            Mnemonic::Retf | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => undefined.fault_span = 40,
            // Linux reports #OF like #GP.
            Mnemonic::Int | Mnemonic::Into => undefined.either = vec![(13, 4)],
            // The processor may push before it finds the target not canonical.
            Mnemonic::Call => {
                undefined.either = vec![(12, 13), (14, 13), (17, 13)];
                let sp = before.gpr[RSP];
                undefined.faulted.memory.push(sp.wrapping_sub(8)..sp);
            }
            Mnemonic::Rcpps
            | Mnemonic::Rcpss
            | Mnemonic::Rsqrtps
            | Mnemonic::Rsqrtss
            | Mnemonic::Vrcpps
            | Mnemonic::Vrcpss
            | Mnemonic::Vrsqrtps
            | Mnemonic::Vrsqrtss => {
                undefined.approximation = Approximation::Reciprocal;
            }
            Mnemonic::F2xm1
            | Mnemonic::Fcos
            | Mnemonic::Fsin
            | Mnemonic::Fsincos
            | Mnemonic::Fptan
            | Mnemonic::Fpatan
            | Mnemonic::Fyl2x
            | Mnemonic::Fyl2xp1 => {
                let argument = to_f64(before.fpu.st[0]);
                undefined.approximation = match instruction.mnemonic() {
                    Mnemonic::F2xm1 if argument.abs() > 1.0 => Approximation::Undefined,
                    Mnemonic::Fyl2xp1 if argument.abs() >= YL2XP1_LIMIT => Approximation::Undefined,
                    // At the least normal number, whether the result counts as tiny decides how it is scaled.
                    _ if before.fpu.control & UNDERFLOW == 0 && before.fpu.st[0] >> 64 & 0x7fff <= 1 => {
                        Approximation::Undefined
                    }
                    Mnemonic::Fcos | Mnemonic::Fsin | Mnemonic::Fsincos | Mnemonic::Fptan => {
                        Approximation::Trigonometric(argument)
                    }
                    _ => Approximation::Transcendental,
                };
                // Whether a result counts as inexact, rounded up or tiny differs with its last bits.
                undefined.status |= PRECISION | UNDERFLOW | ROUNDED_UP;
                if before.fpu.control & (PRECISION | UNDERFLOW) != PRECISION | UNDERFLOW {
                    undefined.status |= SUMMARY;
                }
                if undefined.approximation == Approximation::Undefined {
                    undefined.status |= 0xbf | SUMMARY;
                }
            }
            _ => {}
        }
        undefined.undefine_pointers_of_empty_string(instruction, before);
        undefined.undefine_parts_of_operand(instruction, before);
        undefined.mmx = (0..instruction.op_count())
            .any(|i| instruction.op_kind(i) == OpKind::Register && instruction.op_register(i).is_mm());
        vendor::open(&mut undefined, instruction, before);
        undefined
    }

    /// A repeated string instruction with 32-bit addresses: some processors clear the upper halves of the count and of
    /// the pointers even if the count is 0 or the first element faults.
    fn undefine_pointers_of_empty_string(&mut self, instruction: &Instruction, before: &State) {
        let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        let narrow = (0..instruction.op_count()).any(|i| {
            matches!(
                instruction.op_kind(i),
                OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI
            )
        });
        if !repeats || !narrow {
            return;
        }
        for register in [RCX, RSI, RDI] {
            self.faulted.gpr[register] = 0xffff_ffff_0000_0000;
            if before.gpr[RCX] as u32 == 0 {
                self.completed.gpr[register] = 0xffff_ffff_0000_0000;
            }
        }
    }

    /// The last instruction, opcode and operand of the x87, which are not modelled alike by all processors, the parts of
    /// save areas that no one defines, and what of a large operand is written before a fault.
    fn undefine_parts_of_operand(&mut self, instruction: &Instruction, before: &State) {
        let size = operand_bytes(instruction.memory_size()) as u64;
        let mask_move = matches!(
            instruction.mnemonic(),
            Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu
        );
        let Some(address) = linear_address(instruction, before) else {
            if mask_move {
                self.fault_span = 16;
            }
            return;
        };
        // Out of the canonical range and out of alignment at once: #SS or #GP.
        if size >= 16
            && instruction.memory_segment() == Register::SS
            && (address as i64) << 16 >> 16 != address as i64
        {
            self.either.extend([(12, 13), (13, 12)]);
        }
        if size > 8 && size != 16 || mask_move {
            self.fault_span = self.fault_span.max(size);
            self.faulted.memory.push(address..address.wrapping_add(size));
        }
        let parts: &[(u64, u64)] = match instruction.mnemonic() {
            Mnemonic::Fxsave | Mnemonic::Fxsave64 => &[(6, 24), (28, 32), (416, 512)],
            Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xsaveopt
            | Mnemonic::Xsaveopt64
            | Mnemonic::Xsavec
            | Mnemonic::Xsavec64 => &[(6, 24), (28, 32)],
            Mnemonic::Fnstenv | Mnemonic::Fnsave | Mnemonic::Fstenv | Mnemonic::Fsave => match size {
                14 | 94 => &[(6, 14)],
                _ => &[(12, 28)],
            },
            _ => &[],
        };
        let parts = parts.iter().map(|(start, end)| address.wrapping_add(*start)..address.wrapping_add(*end));
        self.completed.memory.extend(parts);
    }
}

/// One side's result.
#[derive(Debug)]
pub struct Observed<'a> {
    pub outcome: Outcome,
    pub state: &'a State,
}

/// The differences between what the host did (`want`) and what the interpreter did (`got`), one a line.
pub fn differences(
    case: &Case,
    undefined: &Undefined,
    want: &Observed<'_>,
    got: &Observed<'_>,
) -> Vec<String> {
    let mut lines = Vec::new();
    if undefined.excuses(case, want, got.outcome) {
        return lines;
    }
    let same = same_outcome(undefined, want.outcome, got.outcome)
        || case.instructions.last().is_some_and(|instruction| moves_two_pointers(instruction.mnemonic()))
            && faults_at_a_pointer(want)
            && faults_at_a_pointer(got);
    if !same {
        lines.push(format!("outcome: expected {:x?}, got {:x?}", want.outcome, got.outcome));
    }
    let faulted = want.outcome != Outcome::Completed;
    let places = undefined.places(!faulted);
    let mut differ = |name: &str, want: u128, got: u128, mask: u128| {
        if (want ^ got) & mask != 0 {
            let note =
                if mask & mask.wrapping_add(1) == 0 { String::new() } else { format!(" (bits {mask:#x})") };
            lines.push(format!("{name}: expected {want:#x}, got {got:#x}{note}"));
        }
    };
    let (a, b) = (want.state, got.state);
    let width = match case.width {
        Width::Bits64 => u64::MAX,
        Width::Bits32 => 0xffff_ffff,
    };
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ];
    for (i, name) in NAMES.iter().enumerate() {
        let mask = !places.gpr[i];
        differ(name, a.gpr[i].into(), b.gpr[i].into(), (mask & width).into());
    }
    let flags = COMPARED_FLAGS & !undefined.flags(faulted, a.rip);
    differ("rip", a.rip.into(), b.rip.into(), width.into());
    differ("rflags", a.rflags.into(), b.rflags.into(), flags.into());
    for (name, (want, got)) in
        ["es", "cs", "ss", "ds", "fs", "gs"].iter().zip(a.selectors.iter().zip(b.selectors))
    {
        differ(name, (*want).into(), got.into(), u128::MAX);
    }
    let bases = if places.segment_bases { 0 } else { u128::MAX };
    differ("fs base", a.fs_base.into(), b.fs_base.into(), bases);
    differ("gs base", a.gs_base.into(), b.gs_base.into(), bases);
    differ("mxcsr", a.mxcsr.into(), b.mxcsr.into(), if undefined.mxcsr { 0 } else { u128::MAX });
    differ("fcw", a.fpu.control.into(), b.fpu.control.into(), u128::MAX);
    let entering = faulted && undefined.mmx;
    let status = match faulted {
        true if entering => !0x3800,
        true => u16::MAX,
        false => !undefined.status,
    };
    differ("fsw", a.fpu.status.into(), b.fpu.status.into(), status.into());
    let tags = if entering { 0 } else { u128::MAX };
    differ("ftw (one bit a register)", a.fpu.tags.into(), b.fpu.tags.into(), tags);
    for i in 0..8 {
        let (want, got) = (a.fpu.physical(i), b.fpu.physical(i));
        if !undefined.approximation.accepts_extended(want, got) {
            differ(&format!("x87 register {i}"), want, got, u128::MAX);
        }
    }
    for (name, want, got) in [("xmm", a.xmm, b.xmm), ("upper ymm", a.ymm_high, b.ymm_high)] {
        for (i, (want, got)) in want.into_iter().zip(got).enumerate() {
            let close = undefined.approximation == Approximation::Reciprocal && close_singles(want, got);
            if !close && !same_but_for_nans(undefined.nan_lanes, want, got) {
                differ(&format!("{name}{i}"), want, got, u128::MAX);
            }
        }
    }
    lines
}

fn moves_two_pointers(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Movsb
            | Mnemonic::Movsw
            | Mnemonic::Movsd
            | Mnemonic::Movsq
            | Mnemonic::Cmpsb
            | Mnemonic::Cmpsw
            | Mnemonic::Cmpsd
            | Mnemonic::Cmpsq
    )
}

/// Whether a page fault is about the element at RSI or RDI: where both fault, either may be reported.
fn faults_at_a_pointer(observed: &Observed<'_>) -> bool {
    let Outcome::Fault { vector: 14, address: Some(address) } = observed.outcome else { return false };
    [RSI, RDI].iter().any(|register| (address.wrapping_sub(observed.state.gpr[*register]) as u32) < 8)
}

fn same_outcome(undefined: &Undefined, want: Outcome, got: Outcome) -> bool {
    match (want, got) {
        (
            Outcome::Fault { vector: a, address: Some(want) },
            Outcome::Fault { vector: b, address: Some(got) },
        ) => {
            // An address of 32 bits may have wrapped within the operand.
            let near = (want.wrapping_sub(got) as u32).min(got.wrapping_sub(want) as u32);
            a == b && (want == got || u64::from(near) < undefined.fault_span)
        }
        (Outcome::Fault { vector: a, .. }, Outcome::Fault { vector: b, .. }) => {
            want == got || undefined.either.contains(&(a, b))
        }
        _ => want == got,
    }
}

/// The differences in one page, from offset `first` of the memory image on: (address, expected, got) of the first few.
pub fn memory_differences(
    undefined: &Undefined,
    completed: bool,
    first: usize,
    want: &[u8],
    got: &[u8],
) -> Vec<String> {
    let mut lines = Vec::new();
    let ignored = &undefined.places(completed).memory;
    for (at, (a, b)) in want.iter().zip(got).enumerate() {
        let address = address_of(first + at);
        if a != b && !ignored.iter().any(|range| range.contains(&address)) && lines.len() < 16 {
            lines.push(format!("[{address:#x}]: expected {a:#04x}, got {b:#04x}"));
        }
    }
    lines
}

/// Whether `a` and `b` agree in every lane of `bits` bits, where any quiet NaN equals any other.
fn same_but_for_nans(bits: u32, a: u128, b: u128) -> bool {
    let (lanes, quiet_nan) = match bits {
        32 => (4, 0x7fc0_0000),
        64 => (2, 0x7ff8_0000_0000_0000),
        _ => return false,
    };
    (0..lanes).all(|lane| {
        let of = |value: u128| (value >> (lane * bits)) & (u128::MAX >> (128 - bits));
        let is_quiet_nan = |value: u128| value & quiet_nan == quiet_nan;
        of(a) == of(b) || is_quiet_nan(of(a)) && is_quiet_nan(of(b))
    })
}

/// Twice the error that the architecture permits RCPPS and RSQRTPS, 1.5 x 2^-12: host and interpreter may err apart.
const RECIPROCAL_TOLERANCE: f64 = 3.0 / 4096.0;

/// Results below this in magnitude may be flushed to zero (SDM volume 2, RCPPS).
const TINY: f64 = 1.001 * f32::MIN_POSITIVE as f64;

fn close_singles(a: u128, b: u128) -> bool {
    (0..4).all(|lane| {
        let (x, y) = ((a >> (lane * 32)) as u32, (b >> (lane * 32)) as u32);
        if x == y {
            return true;
        }
        let (x, y) = (f64::from(f32::from_bits(x)), f64::from(f32::from_bits(y)));
        let tiny = x.abs() < TINY && y.abs() < TINY && x.is_sign_negative() == y.is_sign_negative();
        tiny || x.is_finite() && y.is_finite() && (x - y).abs() <= x.abs() * RECIPROCAL_TOLERANCE
    })
}

/// Units in the last place by which a transcendental result may differ from the host's.
const TRANSCENDENTAL_ULPS: f64 = 4.0;
/// FYL2XP1 is defined for arguments below 1 - sqrt(2)/2 in magnitude.
const YL2XP1_LIMIT: f64 = 0.292_893_218_813_452;
/// UE, PE, C1, and ES with B in the x87 status word.
pub(crate) const UNDERFLOW: u16 = 1 << 4;
const PRECISION: u16 = 1 << 5;
const ROUNDED_UP: u16 = 1 << 9;
pub(crate) const SUMMARY: u16 = 0x8080;

impl Approximation {
    /// Whether an x87 register may hold `got` where the host's holds `want`.
    fn accepts_extended(self, want: u128, got: u128) -> bool {
        let tolerance = match self {
            Self::Exact | Self::Reciprocal => 0.0,
            Self::Undefined => return true,
            Self::Transcendental => TRANSCENDENTAL_ULPS,
            Self::Trigonometric(argument) => {
                // Pi is rounded to 66 bits by the processors that reduce least exactly.
                let result = to_f64(want).abs();
                let ratio = argument.abs() * (1.0 + result * result) / result;
                TRANSCENDENTAL_ULPS + if ratio.is_finite() { ratio / 4.0 } else { 0.0 }
            }
        };
        // Exponent and fraction make one ordered number of the magnitude.
        let magnitude = |value: u128| (value >> 64 & 0x7fff) << 63 | value & 0x7fff_ffff_ffff_ffff;
        let ulps = magnitude(want).abs_diff(magnitude(got));
        ulps == 0 && want == got || want >> 79 == got >> 79 && ulps as f64 <= tolerance
    }
}

/// An 80-bit value as a double, roughly.
fn to_f64(value: u128) -> f64 {
    let exponent = (value >> 64 & 0x7fff) as i32 - 0x3fff - 63;
    let magnitude = value as u64 as f64 * 2_f64.powi(exponent);
    if value >> 79 & 1 == 0 { magnitude } else { -magnitude }
}
