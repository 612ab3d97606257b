//! RCPPS, RCPSS, RSQRTPS and RSQRTSS, whose results differ between processors.
//!
//! The manual bounds the relative error by 1.5 * 2^-12 (SDM volume 2). Here the result is the correctly rounded one of single
//! precision, so that it depends on no host. Denormal operands count as zero and denormal results are flushed to zero,
//! whatever MXCSR says; no exception is raised.

use super::moves::plain;

const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7f80_0000;
const QUIET: u32 = 0x0040_0000;
const INDEFINITE: u32 = 0xffc0_0000;
const SMALLEST_NORMAL: u32 = 0x0080_0000;

/// Approximation of the reciprocal of the single with the bits `x`.
fn reciprocal(x: u32) -> u32 {
    let sign = x & SIGN;
    match x & !SIGN {
        0..SMALLEST_NORMAL => sign | INFINITY,
        INFINITY => sign,
        magnitude if magnitude > INFINITY => x | QUIET,
        _ => {
            let result = ((1.0 / f64::from(f32::from_bits(x))) as f32).to_bits();
            if result & !SIGN < SMALLEST_NORMAL { sign } else { result }
        }
    }
}

/// Approximation of the reciprocal of the square root of the single with the bits `x`.
fn reciprocal_root(x: u32) -> u32 {
    let sign = x & SIGN;
    match x & !SIGN {
        0..SMALLEST_NORMAL => sign | INFINITY,
        magnitude if magnitude > INFINITY => x | QUIET,
        _ if sign != 0 => INDEFINITE,
        INFINITY => 0,
        _ => ((1.0 / f64::from(f32::from_bits(x)).sqrt()) as f32).to_bits(),
    }
}

fn each(value: u128, function: fn(u32) -> u32) -> u128 {
    (0..4).fold(0, |out, lane| out | u128::from(function((value >> (lane * 32)) as u32)) << (lane * 32))
}

fn first(dst: u128, value: u128, function: fn(u32) -> u32) -> u128 {
    dst & !0xffff_ffff | u128::from(function(value as u32))
}

plain! {
    Rcpps |_, s, _| each(s, reciprocal);
    Rcpss |d, s, _| first(d, s, reciprocal);
    Rsqrtps |_, s, _| each(s, reciprocal_root);
    Rsqrtss |d, s, _| first(d, s, reciprocal_root);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SDM volume 2, RCPPS and RSQRTPS.
    const BOUND: f64 = 1.5 / 4096.0;

    #[test]
    fn errors_stay_within_the_bound() {
        let mut x = SMALLEST_NORMAL;
        let mut checked = 0;
        while x < INFINITY {
            let exact = 1.0 / f64::from(f32::from_bits(x));
            for sign in [0, SIGN] {
                let got = reciprocal(x | sign);
                assert_eq!(got & SIGN, sign);
                let got = f64::from(f32::from_bits(got & !SIGN));
                if exact < f64::from(f32::MIN_POSITIVE) {
                    assert!(got == 0.0 || (got / exact - 1.0).abs() <= BOUND, "{x:#x}");
                } else {
                    assert!((got / exact - 1.0).abs() <= BOUND, "{x:#x}");
                }
            }
            let exact = 1.0 / f64::from(f32::from_bits(x)).sqrt();
            let got = f64::from(f32::from_bits(reciprocal_root(x)));
            assert!((got / exact - 1.0).abs() <= BOUND, "{x:#x}");
            checked += 1;
            x += 0x1fd7;
        }
        assert!(checked > 100_000);
    }

    #[test]
    fn special_cases_are_exact() {
        // Operand, RCPSS, RSQRTSS.
        for (x, rcp, rsqrt) in [
            (0, INFINITY, INFINITY),
            (SIGN, SIGN | INFINITY, SIGN | INFINITY),
            (1, INFINITY, INFINITY),
            (SIGN | 0x7f_ffff, SIGN | INFINITY, SIGN | INFINITY),
            (INFINITY, 0, 0),
            (SIGN | INFINITY, SIGN, INDEFINITE),
            (0x7fc0_1234, 0x7fc0_1234, 0x7fc0_1234),
            (0xff80_0001, 0xffc0_0001, 0xffc0_0001),
            (0xbf80_0000, 0xbf80_0000, INDEFINITE),
            (0x3f80_0000, 0x3f80_0000, 0x3f80_0000),
            (0x7f7f_ffff, 0, 0x1f80_0000),
        ] {
            assert_eq!(reciprocal(x), rcp, "{x:#x}");
            assert_eq!(reciprocal_root(x), rsqrt, "{x:#x}");
        }
    }
}
