//! The host's SIMD instructions, one type each. The only `unsafe` of this family.
//!
//! Requires x86-64-v2 (SSE4.2) of the host. Floating point runs with the guest's MXCSR, which is loaded, used and replaced
//! by Rust's within one `asm!` block: compiled code never sees its control bits. Its exception flags, which compiled code
//! neither reads nor needs preserved, may stay behind: LDMXCSR is slow when it changes anything, so it is left out where
//! the host's MXCSR holds the guest's value already.

//! Why results do not depend on the host's vendor, by instruction; every other instruction is computed by software.
//!
//! | instructions | why every vendor's result is the same |
//! |---|---|
//! | integer arithmetic, shuffles, conversions between integers, CRC32 (`combine!`, `pmovmskb`, `crc32!`) | the manuals define every result for every operand; no flags |
//! | ADD, SUB, MUL, DIV, SQRT, MIN, MAX, horizontal and alternating sums | correctly rounded by IEEE 754; NaNs and exception flags by SDM volume 1, tables 4-7 and 11.5.2, which APM volume 1, 4.10, repeats |
//! | CVT*, ROUND* | the same; out of range gives the integer indefinite |
//! | CMP*, COMI*, UCOMI* | exact |
//!
//! `tests::model` computes the scalar ones with integers and compares on whatever host it runs. Not among them: RCP and RSQRT,
//! whose bits differ; DPPS and DPPD, whose sums are ordered differently (both are made of others here); the string
//! comparisons and MPSADBW.

use super::unbounded;
use std::arch::asm;
use std::arch::x86_64::__m128i;

/// MXCSR as Rust code requires it: exceptions masked, round to nearest, no flushing.
static RUST_MXCSR: u32 = 0x1f80;
/// The exception flags of MXCSR, which are not control bits.
const FLAGS: u32 = 0x3f;

/// An operation without flags or exceptions: the new destination from the old one, the source and the immediate.
/// Under VEX with 256 bits it applies to each lane of 128.
pub(super) trait Combine {
    /// The upper lane's source is the low lane's, shifted right by so many bits, and not its own.
    const UPPER_FROM_LOW: Option<u32> = None;
    /// The upper lane's immediate is the low lane's, shifted right by so many bits.
    const UPPER_IMMEDIATE: u32 = 0;
    fn apply(dst: u128, src: u128, imm: u8) -> u128;
}

/// An operation under MXCSR. `run` executes it and leaves in `mxcsr` the flags raised, added to those it held. All
/// exceptions must be masked in `mxcsr`.
pub(super) trait Float {
    type Left: Copy;
    type Right: Copy;
    type Out;
    fn run(left: Self::Left, right: Self::Right, mxcsr: &mut u32) -> Self::Out;
    /// Operands whose result has the same significand and a moderate exponent, where the result of these may not.
    /// `flush`: denormal operands count as zero.
    fn unbounded(left: Self::Left, right: Self::Right, _flush: bool) -> (Self::Left, Self::Right) {
        (left, right)
    }
}

/// A value in an XMM register of the host. Arithmetic passes operands as such, so that they never go through general
/// registers.
pub(super) type Lanes = __m128i;

#[inline(always)]
pub(super) fn pack(value: u128) -> Lanes {
    // SAFETY: both are 16 bytes of which every pattern is valid.
    unsafe { std::mem::transmute(value) }
}

#[inline(always)]
pub(super) fn unpack(value: Lanes) -> u128 {
    // SAFETY: as in `pack`.
    unsafe { std::mem::transmute(value) }
}

/// `*register = unpack(value)`, by one store: two halves would delay the next load of the whole.
#[inline(always)]
pub(super) fn put(register: &mut u128, value: Lanes) {
    // SAFETY: both are 16 bytes, aligned to 16, of which every pattern is valid.
    unsafe { (&raw mut *register).cast::<Lanes>().write(value) }
}

macro_rules! combine {
    (upper from low $from:expr; $($name:ident $mnemonic:literal;)*) => {$(
        pub(super) enum $name {}
        impl Combine for $name {
            const UPPER_FROM_LOW: Option<u32> = $from;
            #[inline(always)]
            fn apply(dst: u128, src: u128, _: u8) -> u128 {
                let out: __m128i;
                // SAFETY: one instruction from register to register that touches neither memory nor flags nor MXCSR.
                unsafe {
                    asm!(
                        concat!($mnemonic, " {dst}, {src}"),
                        dst = inout(xmm_reg) pack(dst) => out,
                        src = in(xmm_reg) pack(src),
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
                unpack(out)
            }
        }
    )*};
}

combine! {
    upper from low None;
    Paddb "paddb"; Paddw "paddw"; Paddd "paddd"; Paddq "paddq";
    Psubb "psubb"; Psubw "psubw"; Psubd "psubd"; Psubq "psubq";
    Paddsb "paddsb"; Paddsw "paddsw"; Paddusb "paddusb"; Paddusw "paddusw";
    Psubsb "psubsb"; Psubsw "psubsw"; Psubusb "psubusb"; Psubusw "psubusw";
    Pminub "pminub"; Pminsw "pminsw"; Pminsb "pminsb"; Pminsd "pminsd"; Pminuw "pminuw"; Pminud "pminud";
    Pmaxub "pmaxub"; Pmaxsw "pmaxsw"; Pmaxsb "pmaxsb"; Pmaxsd "pmaxsd"; Pmaxuw "pmaxuw"; Pmaxud "pmaxud";
    Pavgb "pavgb"; Pavgw "pavgw"; Psadbw "psadbw";
    Pmulhuw "pmulhuw"; Pmulhw "pmulhw"; Pmullw "pmullw"; Pmulld "pmulld"; Pmuludq "pmuludq"; Pmuldq "pmuldq";
    Pmaddwd "pmaddwd"; Pmaddubsw "pmaddubsw"; Pmulhrsw "pmulhrsw";
    Pcmpeqb "pcmpeqb"; Pcmpeqw "pcmpeqw"; Pcmpeqd "pcmpeqd"; Pcmpeqq "pcmpeqq";
    Pcmpgtb "pcmpgtb"; Pcmpgtw "pcmpgtw"; Pcmpgtd "pcmpgtd"; Pcmpgtq "pcmpgtq";
    Punpcklbw "punpcklbw"; Punpcklwd "punpcklwd"; Punpckldq "punpckldq"; Punpcklqdq "punpcklqdq";
    Punpckhbw "punpckhbw"; Punpckhwd "punpckhwd"; Punpckhdq "punpckhdq"; Punpckhqdq "punpckhqdq";
    Packsswb "packsswb"; Packssdw "packssdw"; Packuswb "packuswb"; Packusdw "packusdw";
    Phaddw "phaddw"; Phaddd "phaddd"; Phaddsw "phaddsw"; Phsubw "phsubw"; Phsubd "phsubd"; Phsubsw "phsubsw";
    Psignb "psignb"; Psignw "psignw"; Psignd "psignd"; Pabsb "pabsb"; Pabsw "pabsw"; Pabsd "pabsd";
    Pshufb "pshufb"; Phminposuw "phminposuw";
    Unpcklps "unpcklps"; Unpckhps "unpckhps"; Unpcklpd "unpcklpd"; Unpckhpd "unpckhpd";
    Movss "movss"; Movsd "movsd"; Movlhps "movlhps"; Movhlps "movhlps";
    Movsldup "movsldup"; Movshdup "movshdup"; Movddup "movddup";
}

combine! {
    // The count is that of the low lane.
    upper from low Some(0);
    Psrlw "psrlw"; Psrld "psrld"; Psrlq "psrlq"; Psraw "psraw"; Psrad "psrad";
    Psllw "psllw"; Pslld "pslld"; Psllq "psllq";
}

combine! {
    // The upper lane is made of further elements of the low one.
    upper from low Some(64);
    Pmovsxbw "pmovsxbw"; Pmovsxwd "pmovsxwd"; Pmovsxdq "pmovsxdq";
    Pmovzxbw "pmovzxbw"; Pmovzxwd "pmovzxwd"; Pmovzxdq "pmovzxdq";
    Cvtdq2pd "cvtdq2pd";
}

combine! {
    upper from low Some(32);
    Pmovsxbd "pmovsxbd"; Pmovsxwq "pmovsxwq"; Pmovzxbd "pmovzxbd"; Pmovzxwq "pmovzxwq";
}

combine! {
    upper from low Some(16);
    Pmovsxbq "pmovsxbq"; Pmovzxbq "pmovzxbq";
}

/// Sign bits of the sixteen bytes.
#[inline(always)]
pub(super) fn pmovmskb(value: u128) -> u32 {
    let out: u32;
    // SAFETY: one instruction from register to register that touches neither memory nor flags nor MXCSR.
    unsafe {
        asm!(
            "pmovmskb {out:e}, {value}",
            out = lateout(reg) out,
            value = in(xmm_reg) pack(value),
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    out
}

macro_rules! crc32 {
    ($($name:ident $word:ident $class:ident $text:literal;)*) => {$(
        /// CRC-32C of `value` after `crc`.
        #[inline(always)]
        pub(super) fn $name(crc: u32, value: $word) -> u32 {
            let mut crc = u64::from(crc);
            // SAFETY: one instruction from register to register that touches neither memory nor flags.
            unsafe {
                asm!(
                    $text,
                    crc = inout(reg) crc,
                    value = in($class) value,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            crc as u32
        }
    )*};
}

crc32! {
    crc32_u8 u8 reg_byte "crc32 {crc:e}, {value}";
    crc32_u16 u16 reg "crc32 {crc:e}, {value:x}";
    crc32_u32 u32 reg "crc32 {crc:e}, {value:e}";
    crc32_u64 u64 reg "crc32 {crc:r}, {value:r}";
}

/// Executes `$text` on `$operands` under the MXCSR at `$mxcsr`.
macro_rules! execute {
    ($mxcsr:ident, $text:expr, $($operands:tt)*) => {
        if *$mxcsr & !FLAGS == RUST_MXCSR {
            let mut host = 0_u32;
            // SAFETY: both pointers are valid for 4 bytes. The value loaded differs from the host's in exception flags at
            // most, so that every exception is masked and nothing needs to be restored.
            unsafe {
                asm!(
                    "stmxcsr [{host}]",
                    "mov {value:e}, [{mxcsr}]",
                    "cmp {value:e}, [{host}]",
                    "je 2f",
                    "ldmxcsr [{mxcsr}]",
                    "2:",
                    $text,
                    "stmxcsr [{mxcsr}]",
                    host = in(reg) &raw mut host,
                    value = out(reg) _,
                    mxcsr = in(reg) &raw mut *$mxcsr,
                    $($operands)*,
                    options(nostack)
                );
            }
        } else {
            // SAFETY: `mxcsr` is valid for 4 bytes and has every exception masked and no reserved bit set, so that neither
            // LDMXCSR nor the instruction can trap; the last instruction restores what Rust requires.
            unsafe {
                asm!(
                    "ldmxcsr [{mxcsr}]",
                    $text,
                    "stmxcsr [{mxcsr}]",
                    "ldmxcsr [rip + {rust}]",
                    mxcsr = in(reg) &raw mut *$mxcsr,
                    rust = sym RUST_MXCSR,
                    $($operands)*,
                    options(nostack)
                );
            }
        }
    };
}

macro_rules! float {
    ($($range:ident { $($name:ident $mnemonic:literal;)* })*) => {$($(
        pub(super) enum $name {}
        impl Float for $name {
            type Left = Lanes;
            type Right = Lanes;
            type Out = Lanes;
            #[inline(always)]
            fn run(dst: Lanes, src: Lanes, mxcsr: &mut u32) -> Lanes {
                let out: Lanes;
                execute!(
                    mxcsr,
                    concat!($mnemonic, " {dst}, {src}"),
                    dst = inout(xmm_reg) dst => out,
                    src = in(xmm_reg) src
                );
                out
            }
            fn unbounded(dst: Lanes, src: Lanes, flush: bool) -> (Lanes, Lanes) {
                unbounded::$range(dst, src, flush)
            }
        }
    )*)*};
}

float! {
    sum_single {
        Addps "addps"; Addss "addss"; Subps "subps"; Subss "subss"; Addsubps "addsubps";
    }
    sum_double {
        Addpd "addpd"; Addsd "addsd"; Subpd "subpd"; Subsd "subsd"; Addsubpd "addsubpd";
    }
    product_single {
        Mulps "mulps"; Mulss "mulss"; Divps "divps"; Divss "divss";
    }
    product_double {
        Mulpd "mulpd"; Mulsd "mulsd"; Divpd "divpd"; Divsd "divsd";
        Cvtpd2ps "cvtpd2ps"; Cvtsd2ss "cvtsd2ss";
    }
    horizontal_single {
        Haddps "haddps"; Hsubps "hsubps";
    }
    horizontal_double {
        Haddpd "haddpd"; Hsubpd "hsubpd";
    }
    bounded {
        Minps "minps"; Minpd "minpd"; Minss "minss"; Minsd "minsd";
        Maxps "maxps"; Maxpd "maxpd"; Maxss "maxss"; Maxsd "maxsd";
        Sqrtps "sqrtps"; Sqrtpd "sqrtpd"; Sqrtss "sqrtss"; Sqrtsd "sqrtsd";
        Cvtps2pd "cvtps2pd"; Cvtss2sd "cvtss2sd"; Cvtdq2ps "cvtdq2ps";
        Cvtps2dq "cvtps2dq"; Cvttps2dq "cvttps2dq"; Cvtpd2dq "cvtpd2dq"; Cvttpd2dq "cvttpd2dq";
    }
}

/// Operations with an immediate that follows from their parameter.
macro_rules! with_immediate {
    (<$parameter:ident> $immediate:expr; $($name:ident $mnemonic:literal;)*) => {$(
        pub(super) enum $name<const $parameter: u8> {}
        impl<const $parameter: u8> Float for $name<$parameter> {
            type Left = Lanes;
            type Right = Lanes;
            type Out = Lanes;
            #[inline(always)]
            fn run(dst: Lanes, src: Lanes, mxcsr: &mut u32) -> Lanes {
                let out: Lanes;
                execute!(
                    mxcsr,
                    concat!($mnemonic, " {dst}, {src}, {immediate}"),
                    immediate = const $immediate,
                    dst = inout(xmm_reg) dst => out,
                    src = in(xmm_reg) src
                );
                out
            }
        }
    )*};
}

with_immediate! {
    // Comparisons with predicate `P`, 0-7.
    <P> P;
    Cmpps "cmpps"; Cmppd "cmppd"; Cmpss "cmpss"; Cmpsd "cmpsd";
}

with_immediate! {
    // Rounding as MXCSR says; raises the precision exception unless `QUIET` is 8.
    <QUIET> QUIET | 4;
    Roundps "roundps"; Roundpd "roundpd"; Roundss "roundss"; Roundsd "roundsd";
}

macro_rules! from_integer {
    ($($name:ident $text:literal;)*) => {$(
        pub(super) enum $name {}
        impl Float for $name {
            type Left = Lanes;
            type Right = u64;
            type Out = Lanes;
            #[inline(always)]
            fn run(dst: Lanes, src: u64, mxcsr: &mut u32) -> Lanes {
                let out: Lanes;
                execute!(
                    mxcsr,
                    $text,
                    dst = inout(xmm_reg) dst => out,
                    src = in(reg) src
                );
                out
            }
        }
    )*};
}

from_integer! {
    Cvtsi2ss32 "cvtsi2ss {dst}, {src:e}";
    Cvtsi2ss64 "cvtsi2ss {dst}, {src:r}";
    Cvtsi2sd64 "cvtsi2sd {dst}, {src:r}";
}

macro_rules! to_integer {
    ($($name:ident $text:literal;)*) => {$(
        pub(super) enum $name {}
        impl Float for $name {
            type Left = ();
            type Right = Lanes;
            type Out = u64;
            #[inline(always)]
            fn run((): (), src: Lanes, mxcsr: &mut u32) -> u64 {
                let out: u64;
                execute!(
                    mxcsr,
                    $text,
                    dst = out(reg) out,
                    src = in(xmm_reg) src
                );
                out
            }
        }
    )*};
}

to_integer! {
    Cvtss2si32 "cvtss2si {dst:e}, {src}"; Cvtss2si64 "cvtss2si {dst:r}, {src}";
    Cvtsd2si32 "cvtsd2si {dst:e}, {src}"; Cvtsd2si64 "cvtsd2si {dst:r}, {src}";
    Cvttss2si32 "cvttss2si {dst:e}, {src}"; Cvttss2si64 "cvttss2si {dst:r}, {src}";
    Cvttsd2si32 "cvttsd2si {dst:e}, {src}"; Cvttsd2si64 "cvttsd2si {dst:r}, {src}";
}

/// ZF, PF and CF of a scalar comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub zf: bool,
    pub pf: bool,
    pub cf: bool,
}

macro_rules! order {
    ($($name:ident $mnemonic:literal;)*) => {$(
        pub(super) enum $name {}
        impl Float for $name {
            type Left = Lanes;
            type Right = Lanes;
            type Out = Order;
            #[inline(always)]
            fn run(dst: Lanes, src: Lanes, mxcsr: &mut u32) -> Order {
                let (zf, pf, cf): (u8, u8, u8);
                execute!(
                    mxcsr,
                    concat!($mnemonic, " {dst}, {src}", "\n", "setz {zf}", "\n", "setp {pf}", "\n", "setc {cf}"),
                    dst = in(xmm_reg) dst,
                    src = in(xmm_reg) src,
                    zf = out(reg_byte) zf,
                    pf = out(reg_byte) pf,
                    cf = out(reg_byte) cf
                );
                Order { zf: zf != 0, pf: pf != 0, cf: cf != 0 }
            }
        }
    )*};
}

order! { Comiss "comiss"; Comisd "comisd"; Ucomiss "ucomiss"; Ucomisd "ucomisd"; }
