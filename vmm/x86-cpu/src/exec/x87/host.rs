//! Basic x87 operations, executed by the host's x87: exact, and the same on every vendor's processor.
//!
//! Why that is so, by instruction; every other instruction is computed by software.
//!
//! | instructions | why every vendor's result is the same |
//! |---|---|
//! | FADD, FSUB, FSUBR, FMUL, FDIV, FDIVR, FSQRT | correctly rounded in every precision and mode; NaNs by SDM volume 1, table 4-7 and APM volume 1, 6.5 (`tests::model` computes them with integers) |
//! | FLD of single and double, FST, FIST, FISTP, FISTTP, FRNDINT | correctly rounded, or exact |
//! | FSCALE | exact but for the final rounding (`tests::model`) |
//! | FBSTP | correctly rounded to an integer, of which the digits are unique |
//! | FCOM, FUCOM | exact |
//!
//! Not among them: the transcendental functions, whose last bits differ; FPREM and FPREM1, whose steps differ; FXTRACT, FXAM,
//! FBLD; and when exceptions reach a store's operand, which is decided before anything is executed here.
//!
//! Each function is one assembler block that saves the host's control word, initialises the x87, loads the guest's
//! control word with its masks as they are, operates, reads the status, and puts the host's state back. An unmasked
//! exception only becomes pending in the host: the instructions that follow it (FNSTSW, FNCLEX) do not wait for it, so
//! no signal is raised and the unmasked response, such as the scaled result of an overflow, is the hardware's own.
//! Between the operation and FNCLEX the host may switch tasks or deliver signals: it saves and restores the x87 without
//! waiting too.

use super::Computed;
use super::exception::{CODES, EXCEPTIONS};
use std::arch::asm;

/// A control word with every exception masked.
static MASKED: u16 = 0x37f;

/// An operand of an arithmetic instruction or comparison.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    Extended(u128),
    Single(u32),
    Double(u64),
}

/// The arithmetic operations with two operands, numbered as in the opcode (2 and 3 are comparisons).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add = 0,
    Multiply = 1,
    Subtract = 4,
    SubtractReversed = 5,
    Divide = 6,
    DivideReversed = 7,
}

/// Defines functions that run `lines` with the addresses of their operands and of a 16-byte `out`, which comes back as
/// the value computed.
macro_rules! host {
    ($($(#[$doc:meta])* $visibility:vis fn $name:ident($($operand:ident: $type:ty),*) { $($line:literal)* })*) => {$(
        $(#[$doc])*
        $visibility fn $name(control: u16, $($operand: $type),*) -> Computed {
            let mut out = 0_u128;
            let mut saved = 0_u16;
            let status: u16;
            // SAFETY: every address is of a local variable large enough for the access; the x87 registers are declared
            // clobbered, so the stack is empty on entry, and FNINIT leaves it empty; the control word, which the calling
            // convention preserves, is restored; no Rust code runs in between. No waiting instruction executes while
            // an unmasked exception is pending.
            unsafe {
                asm!(
                    "fnstcw word ptr [{saved}]",
                    "fninit",
                    "fldcw word ptr [{control}]",
                    $($line,)*
                    "fnstsw ax",
                    "fnclex",
                    "fldcw word ptr [{masked}]",
                    "fstp tbyte ptr [{value}]",
                    "fninit",
                    "fldcw word ptr [{saved}]",
                    saved = in(reg) &raw mut saved,
                    control = in(reg) &raw const control,
                    masked = in(reg) &raw const MASKED,
                    value = in(reg) &raw mut out,
                    $($operand = in(reg) &raw const $operand,)*
                    out("ax") status,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                    options(nostack),
                );
            }
            Computed { value: out, status: status & (EXCEPTIONS | CODES) }
        }
    )*};
}

/// Defines functions that convert a value to a memory format: `line` stores to the address of `value`.
macro_rules! convert {
    ($($(#[$doc:meta])* fn $name:ident { $line:literal })*) => {$(
        $(#[$doc])*
        pub(super) fn $name(control: u16, source: u128) -> Computed {
            let mut out = 0_u128;
            let mut saved = 0_u16;
            let status: u16;
            // SAFETY: as for the operations above.
            unsafe {
                asm!(
                    "fnstcw word ptr [{saved}]",
                    "fninit",
                    "fldcw word ptr [{control}]",
                    "fld tbyte ptr [{source}]",
                    $line,
                    "fnstsw ax",
                    "fninit",
                    "fldcw word ptr [{saved}]",
                    saved = in(reg) &raw mut saved,
                    control = in(reg) &raw const control,
                    source = in(reg) &raw const source,
                    value = in(reg) &raw mut out,
                    out("ax") status,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                    options(nostack),
                );
            }
            Computed { value: out, status: status & (EXCEPTIONS | CODES) }
        }
    )*};
}

host! {
    pub(super) fn add(a: u128, b: u128) { "fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]" "fadd st, st(1)" }
    fn add_single(a: u128, b: u32) { "fld tbyte ptr [{a}]" "fadd dword ptr [{b}]" }
    fn add_double(a: u128, b: u64) { "fld tbyte ptr [{a}]" "fadd qword ptr [{b}]" }
    fn multiply(a: u128, b: u128) { "fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]" "fmul st, st(1)" }
    fn multiply_single(a: u128, b: u32) { "fld tbyte ptr [{a}]" "fmul dword ptr [{b}]" }
    fn multiply_double(a: u128, b: u64) { "fld tbyte ptr [{a}]" "fmul qword ptr [{b}]" }
    fn subtract(a: u128, b: u128) { "fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]" "fsub st, st(1)" }
    fn subtract_single(a: u128, b: u32) { "fld tbyte ptr [{a}]" "fsub dword ptr [{b}]" }
    fn subtract_double(a: u128, b: u64) { "fld tbyte ptr [{a}]" "fsub qword ptr [{b}]" }
    fn subtract_reversed(a: u128, b: u128) { "fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]" "fsubr st, st(1)" }
    fn subtract_reversed_single(a: u128, b: u32) { "fld tbyte ptr [{a}]" "fsubr dword ptr [{b}]" }
    fn subtract_reversed_double(a: u128, b: u64) { "fld tbyte ptr [{a}]" "fsubr qword ptr [{b}]" }
    fn divide(a: u128, b: u128) { "fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]" "fdiv st, st(1)" }
    fn divide_single(a: u128, b: u32) { "fld tbyte ptr [{a}]" "fdiv dword ptr [{b}]" }
    fn divide_double(a: u128, b: u64) { "fld tbyte ptr [{a}]" "fdiv qword ptr [{b}]" }
    fn divide_reversed(a: u128, b: u128) { "fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]" "fdivr st, st(1)" }
    fn divide_reversed_single(a: u128, b: u32) { "fld tbyte ptr [{a}]" "fdivr dword ptr [{b}]" }
    fn divide_reversed_double(a: u128, b: u64) { "fld tbyte ptr [{a}]" "fdivr qword ptr [{b}]" }
    fn compare_extended(a: u128, b: u128) { "fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]" "fcom st(1)" }
    fn compare_single(a: u128, b: u32) { "fld tbyte ptr [{a}]" "fcom dword ptr [{b}]" }
    fn compare_double(a: u128, b: u64) { "fld tbyte ptr [{a}]" "fcom qword ptr [{b}]" }
    /// Compares; a quiet NaN is no invalid operand.
    pub(super) fn compare_unordered(a: u128, b: u128) {
        "fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]" "fucom st(1)"
    }
    pub(super) fn square_root(a: u128) { "fld tbyte ptr [{a}]" "fsqrt" }
    /// Rounds to an integer.
    pub(super) fn round(a: u128) { "fld tbyte ptr [{a}]" "frndint" }
    /// Multiplies `a` by two to the power of the integer part of `b`.
    pub(super) fn scale(a: u128, b: u128) { "fld tbyte ptr [{b}]" "fld tbyte ptr [{a}]" "fscale" }
    /// Widens a single.
    pub(super) fn load_single(a: u32) { "fld dword ptr [{a}]" }
    /// Widens a double.
    pub(super) fn load_double(a: u64) { "fld qword ptr [{a}]" }
}

convert! {
    /// Rounds to a single.
    fn to_single { "fst dword ptr [{value}]" }
    /// Rounds to a double.
    fn to_double { "fst qword ptr [{value}]" }
    /// Rounds to a 16-bit integer.
    fn to_i16 { "fistp word ptr [{value}]" }
    /// Rounds to a 32-bit integer.
    fn to_i32 { "fistp dword ptr [{value}]" }
    /// Rounds to a 64-bit integer.
    fn to_i64 { "fistp qword ptr [{value}]" }
    /// Truncates to a 16-bit integer.
    fn truncate_i16 { "fisttp word ptr [{value}]" }
    /// Truncates to a 32-bit integer.
    fn truncate_i32 { "fisttp dword ptr [{value}]" }
    /// Truncates to a 64-bit integer.
    fn truncate_i64 { "fisttp qword ptr [{value}]" }
    /// Rounds to 18 packed decimal digits and a sign.
    fn to_decimal { "fbstp tbyte ptr [{value}]" }
}

/// Executes one of the arithmetic operations on `a` and `b`.
pub(super) fn arithmetic(operation: Arithmetic, control: u16, a: u128, b: Source) -> Computed {
    use Arithmetic::{Add, Divide, DivideReversed, Multiply, Subtract, SubtractReversed};
    use Source::{Double, Extended, Single};
    match (operation, b) {
        (Add, Extended(b)) => add(control, a, b),
        (Add, Single(b)) => add_single(control, a, b),
        (Add, Double(b)) => add_double(control, a, b),
        (Multiply, Extended(b)) => multiply(control, a, b),
        (Multiply, Single(b)) => multiply_single(control, a, b),
        (Multiply, Double(b)) => multiply_double(control, a, b),
        (Subtract, Extended(b)) => subtract(control, a, b),
        (Subtract, Single(b)) => subtract_single(control, a, b),
        (Subtract, Double(b)) => subtract_double(control, a, b),
        (SubtractReversed, Extended(b)) => subtract_reversed(control, a, b),
        (SubtractReversed, Single(b)) => subtract_reversed_single(control, a, b),
        (SubtractReversed, Double(b)) => subtract_reversed_double(control, a, b),
        (Divide, Extended(b)) => divide(control, a, b),
        (Divide, Single(b)) => divide_single(control, a, b),
        (Divide, Double(b)) => divide_double(control, a, b),
        (DivideReversed, Extended(b)) => divide_reversed(control, a, b),
        (DivideReversed, Single(b)) => divide_reversed_single(control, a, b),
        (DivideReversed, Double(b)) => divide_reversed_double(control, a, b),
    }
}

/// Compares; any NaN is an invalid operand.
pub(super) fn compare(control: u16, a: u128, b: Source) -> Computed {
    match b {
        Source::Extended(b) => compare_extended(control, a, b),
        Source::Single(b) => compare_single(control, a, b),
        Source::Double(b) => compare_double(control, a, b),
    }
}
