//! Transcendental instructions against values computed at high precision (`vectors.txt`, written by `vectors.py`), and
//! against the host only where nothing is computed.

use super::guest::Guest;
use super::native::State;
use super::operands::Random;
use super::{STATES, compare};
use crate::exec::x87::format::{self, INFINITY, INTEGER, SIGN, pack};

const MASKED: u16 = 0x37f;

fn encoding(name: &str) -> [u8; 2] {
    let second = match name {
        "f2xm1" => 0xf0,
        "fyl2x" => 0xf1,
        "fptan" => 0xf2,
        "fpatan" => 0xf3,
        "fyl2xp1" => 0xf9,
        "fsincos" => 0xfb,
        "fsin" => 0xfe,
        "fcos" => 0xff,
        _ => panic!("unknown {name}"),
    };
    [0xd9, second]
}

/// An FNSAVE image with ST(0) and ST(1) full.
fn state(control: u16, st0: u128, st1: u128) -> State {
    let mut state = State { image: [0; 108], memory: [0; 128], rax: 0, rflags: 2 };
    state.image[0..2].copy_from_slice(&control.to_le_bytes());
    state.image[4..6].copy_from_slice(&0x3000_u16.to_le_bytes());
    state.image[8..10].copy_from_slice(&0x0fff_u16.to_le_bytes());
    state.image[28..38].copy_from_slice(&st0.to_le_bytes()[..10]);
    state.image[38..48].copy_from_slice(&st1.to_le_bytes()[..10]);
    state
}

/// Status word and stack registers.
fn outcome(state: &State) -> (u16, [u128; 8]) {
    let mut registers = [0; 8];
    for (register, bytes) in registers.iter_mut().zip(state.image[28..].chunks(10)) {
        *register = bytes.iter().rev().fold(0, |value, byte| value << 8 | u128::from(*byte));
    }
    (u16::from_le_bytes([state.image[4], state.image[5]]), registers)
}

/// Runs `name` and returns the status word and the registers.
fn run(name: &str, control: u16, st0: u128, st1: u128) -> (u16, [u128; 8]) {
    let mut guest = Guest::new(&encoding(name)).unwrap();
    outcome(&guest.run(&state(control, st0, st1)).unwrap())
}

/// One line of the reference: the exact result is between `mantissa` and the next, unless its last bit is clear.
struct Vector<'a> {
    name: &'a str,
    y: u128,
    x: u128,
    negative: bool,
    exponent: i32,
    mantissa: u128,
}

impl<'a> Vector<'a> {
    fn parse(line: &'a str) -> Self {
        let fields: Vec<_> = line.split(' ').collect();
        let [name, y, x, sign, exponent, mantissa] = fields[..] else { panic!("bad line {line}") };
        let hex = |field| u128::from_str_radix(field, 16).unwrap();
        let mantissa = hex(mantissa);
        assert!(mantissa >> 127 == 1, "{line}");
        let y = if y == "-" { 0 } else { hex(y) };
        Self { name, y, x: hex(x), negative: sign == "-", exponent: exponent.parse().unwrap(), mantissa }
    }
    /// The correctly rounded result and whether it was rounded up, for a rounding control of 0-3.
    fn rounded(&self, rounding: u16) -> (u128, bool) {
        let (kept, rest) = ((self.mantissa >> 64) as u64, self.mantissa as u64);
        let up = match rounding {
            0 => rest >= 1 << 63,
            1 => self.negative && rest != 0,
            2 => !self.negative && rest != 0,
            _ => false,
        };
        let (significand, carry) = kept.overflowing_add(u64::from(up));
        let exponent = self.exponent + 16383 + i32::from(carry);
        (pack(self.negative, exponent as u16, significand | u64::from(carry) << 63), up)
    }
}

/// Stronger than the documented bound: the vectors are far enough from the points where rounding changes that every
/// result must be the correctly rounded one.
#[test]
fn results_are_correctly_rounded() {
    let mut seen = 0;
    for line in include_str!("vectors.txt").lines() {
        let vector = Vector::parse(line);
        let expected_exponent = vector.exponent + 16383;
        assert!((2..0x7ffe).contains(&expected_exponent), "{line}");
        for rounding in 0..4 {
            let (status, registers) = run(vector.name, MASKED | rounding << 10, vector.x, vector.y);
            let result = if vector.name == "fptan" { registers[1] } else { registers[0] };
            let (expected, up) = vector.rounded(rounding);
            assert_eq!(result, expected, "{line} rounding {rounding}: {result:x} not {expected:x}");
            let flags = 0x20 | if up { 0x200 } else { 0 };
            assert_eq!(status & 0x27f, flags, "{line} rounding {rounding}");
        }
        seen += 1;
    }
    assert_eq!(seen, 280);
}

#[test]
fn sine_and_cosine_come_as_from_their_own_instructions() {
    let mut random = Random(7);
    for _ in 0..200 {
        let x = pack(random.below(2) == 1, 0x3fc0 + random.below(126) as u16, INTEGER | random.next());
        let (_, both) = run("fsincos", MASKED, x, 0);
        assert_eq!(both[1], run("fsin", MASKED, x, 0).1[0]);
        assert_eq!(both[0], run("fcos", MASKED, x, 0).1[0]);
        assert_eq!(both[2], 0, "ST(1) was pushed down");
    }
}

#[test]
fn arguments_beyond_2_to_the_63_are_left_for_reduction() {
    let large = pack(true, 0x3fff + 63, INTEGER);
    for name in ["fsin", "fcos", "fptan", "fsincos"] {
        let (status, registers) = run(name, MASKED, large, format::ONE);
        assert_eq!((status, registers[0], registers[1]), (0x3400, large, format::ONE), "{name}");
        let (status, _) = run(name, MASKED, large - 1, 0);
        assert_eq!(status & 0x400, 0, "{name}");
    }
    let (status, registers) = run("fptan", MASKED, format::ONE, 0);
    assert_eq!((status >> 11 & 7, registers[0]), (5, format::ONE));
}

/// SDM volume 2: the tables of FYL2X, FYL2XP1, FPATAN and F2XM1; status without TOP.
#[test]
fn special_operands_have_the_results_of_the_manual() {
    let one = format::ONE;
    let half = pack(false, 0x3ffe, INTEGER);
    let two = pack(false, 0x4000, INTEGER);
    let denormal = pack(false, 0, 5);
    let pi = pack(false, 0x4000, 0xc90f_daa2_2168_c235);
    let half_pi = pack(false, 0x3fff, 0xc90f_daa2_2168_c235);
    let quarter_pi = pack(false, 0x3ffe, 0xc90f_daa2_2168_c235);
    let three_quarters = pack(false, 0x4000, 0x96cb_e3f9_990e_91a8);
    let invalid = format::INDEFINITE;
    let rows = [
        ("fyl2x", one, two, one, 0x20),
        ("fyl2x", two, half, two | SIGN, 0x20),
        ("fyl2x", denormal, two, denormal, 0x32),
        ("fyl2x", two, one, 0, 0),
        ("fyl2x", two | SIGN, one, SIGN, 0),
        ("fyl2x", two, 0, INFINITY | SIGN, 4),
        ("fyl2x", two | SIGN, SIGN, INFINITY, 4),
        ("fyl2x", denormal, 0, INFINITY | SIGN, 4),
        ("fyl2x", INFINITY, 0, INFINITY | SIGN, 0),
        ("fyl2x", INFINITY, half, INFINITY | SIGN, 0),
        ("fyl2x", INFINITY, two, INFINITY, 0),
        ("fyl2x", INFINITY, denormal, INFINITY | SIGN, 2),
        ("fyl2x", INFINITY, one, invalid, 1),
        ("fyl2x", 0, INFINITY, invalid, 1),
        ("fyl2x", 0, 0, invalid, 1),
        ("fyl2x", 0, half, SIGN, 0),
        ("fyl2x", one, one | SIGN, invalid, 1),
        ("fyl2x", one, INFINITY, INFINITY, 0),
        ("fyl2xp1", two, 0, 0, 0),
        ("fyl2xp1", two, SIGN, SIGN, 0),
        ("fyl2xp1", two | SIGN, 0, SIGN, 0),
        ("fyl2xp1", INFINITY, 0, invalid, 1),
        ("fyl2xp1", INFINITY, half | SIGN, INFINITY | SIGN, 0),
        ("fyl2xp1", 0, denormal, 0, 2),
        ("fpatan", 0, one, 0, 0),
        ("fpatan", SIGN, one, SIGN, 0),
        ("fpatan", 0, one | SIGN, pi, 0x220),
        ("fpatan", SIGN, SIGN, pi | SIGN, 0x220),
        ("fpatan", one, 0, half_pi, 0x220),
        ("fpatan", one | SIGN, SIGN, half_pi | SIGN, 0x220),
        ("fpatan", one, INFINITY, 0, 0),
        ("fpatan", one, INFINITY | SIGN, pi, 0x220),
        ("fpatan", INFINITY, one, half_pi, 0x220),
        ("fpatan", INFINITY, INFINITY, quarter_pi, 0x220),
        ("fpatan", INFINITY | SIGN, INFINITY | SIGN, three_quarters | SIGN, 0x220),
        ("fpatan", denormal, 0, half_pi, 0x222),
        ("f2xm1", 0, one, one, 0x20),
        ("f2xm1", 0, one | SIGN, half | SIGN, 0x20),
        ("f2xm1", 0, SIGN, SIGN, 0),
        ("f2xm1", 0, INFINITY | SIGN, one | SIGN, 0),
        // x ln 2 = 3.47 units of the smallest denormal.
        ("f2xm1", 0, denormal, pack(false, 0, 3), 0x32),
        // Just below the operand, and rounded up to it.
        ("fsin", 0, denormal, denormal, 0x232),
        ("fcos", 0, denormal, one, 0x222),
        ("fsin", 0, INFINITY, invalid, 1),
    ];
    for (name, y, x, expected, flags) in rows {
        let (status, registers) = run(name, MASKED, x, y);
        assert_eq!(registers[0], expected, "{name} {y:x} {x:x}: {:x}", registers[0]);
        assert_eq!(status & 0x67f, flags, "{name} {y:x} {x:x}");
    }
}

#[test]
fn unmasked_responses_leave_or_scale() {
    let denormal = pack(false, 0, 5);
    // Denormal operand, unmasked: nothing changes.
    let (status, registers) = run("fsin", MASKED & !2, denormal, 0);
    assert_eq!((status & 0x80ff, registers[0]), (0x8082, denormal));
    // y × log2(x) above the largest number: scaled down by 2^24576.
    let (large, huge) = (pack(false, 0x7ffe, INTEGER), pack(false, 0x3fff + 2, INTEGER));
    let (status, registers) = run("fyl2x", MASKED & !8, huge, large);
    assert_eq!((status & 0x80ff, registers[0]), (0x80a8, pack(false, 0x7ffe + 1 - 0x6000, INTEGER)));
    // Underflow, unmasked: scaled up by 2^24576.
    let (status, registers) = run("fyl2xp1", MASKED & !0x10, pack(false, 1, INTEGER), format::ONE);
    let log2_e = 0xb8aa_3b29_5c17_f0bc;
    assert_eq!((status & 0x80ff, registers[0]), (0x20, pack(false, 1, log2_e)));
    let (status, registers) = run("f2xm1", MASKED & !0x10, pack(false, 1, INTEGER), 0);
    let ln_2 = 0xb172_17f7_d1cf_79ac;
    assert_eq!((status & 0x80ff, registers[0]), (0x80b0, pack(false, 0x6000, ln_2)));
}

#[test]
fn operands_that_decide_the_answer_do_so_as_on_the_host() {
    let specials = [
        0,
        SIGN,
        INFINITY,
        INFINITY | SIGN,
        INFINITY | 5,
        INFINITY | u128::from(format::QUIET) | 7,
        format::INDEFINITE,
        pack(false, 0x4000, 1),
        pack(true, 0x7fff, 0),
    ];
    for name in ["f2xm1", "fsin", "fcos", "fptan", "fsincos", "fyl2x", "fyl2xp1"] {
        for number in 0..specials.len() * specials.len() {
            let (x, y) = (specials[number % specials.len()], specials[number / specials.len()]);
            let result = compare(&encoding(name), number as u64, STATES / 50, |state| {
                state.image[28..38].copy_from_slice(&x.to_le_bytes()[..10]);
                state.image[38..48].copy_from_slice(&y.to_le_bytes()[..10]);
            });
            assert_eq!(result, Some(Ok(())), "{name}");
        }
    }
}
