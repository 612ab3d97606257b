//! The elementary functions behind the transcendental instructions, on [`Wide`] numbers.
//!
//! Each function reduces its argument and sums a Taylor series with a remainder below 2^-128; with the rounding of some
//! forty operations of 2^-126 each the relative error stays below 2^-119. Rounded to the 64 bits of the double-extended
//! format a result is therefore within 0.5 + 2^-54 units in the last place to nearest, within 1 + 2^-54 in the directed
//! modes.

use super::wide::Wide;

const HALF_PI: Wide = Wide::PI.shift(-1);
const QUARTER_PI: Wide = Wide::PI.shift(-2);
const LN_2: Wide = Wide::constant(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
const LOG2_E: Wide = Wide::constant(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);
const SQRT_2: Wide = Wide::constant(0, 0xb504_f333_f9de_6484_597d_89b3_754a_be9f);

/// 2/π as a binary fraction of 320 bits, least significant word first.
const TWO_OVER_PI: [u64; 5] = [
    0xb724_6e3a_424d_d2e0,
    0xfe51_63ab_debb_c561,
    0xdb62_9599_3c43_9041,
    0xfc27_57d1_f534_ddc0,
    0xa2f9_836e_4e44_1529,
];

/// atan(k/8) for k = 1…8.
const ARC_TANGENTS: [Wide; 8] = [
    Wide::constant(-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef8),
    Wide::constant(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e6),
    Wide::constant(-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    Wide::constant(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    Wide::constant(-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3748),
    Wide::constant(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f),
    Wide::constant(-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    QUARTER_PI,
];

/// The multiple of π/2 nearest to `x`, modulo 4, and the rest, of magnitude at most π/4 (or 1/2 where `x` is that small).
///
/// `x` has a 64-bit mantissa and a magnitude below 2^63.
fn reduce(x: Wide) -> (u64, Wide) {
    if x.exponent() < -1 {
        return (0, x);
    }
    // x × 2/π has its binary point `shift` bits into the highest word of the product.
    let mantissa = (x.mantissa() >> 64) as u64;
    let mut product = [0_u64; 6];
    let mut carry = 0_u64;
    for (word, factor) in product.iter_mut().zip(TWO_OVER_PI) {
        let sum = u128::from(factor) * u128::from(mantissa) + u128::from(carry);
        *word = sum as u64;
        carry = (sum >> 64) as u64;
    }
    product[5] = carry;
    let shift = (63 - x.exponent()).clamp(1, 64) as u32;
    let mut quotient = product[5].checked_shr(shift).unwrap_or(0);
    let mut fraction = [0_u64; 6];
    for i in 0..6 {
        let low = if i == 0 { 0 } else { product[i - 1].checked_shr(shift).unwrap_or(0) };
        fraction[i] = product[i] << (64 - shift) | low;
    }
    let mut negative = x.is_negative();
    if fraction[5] >> 63 != 0 {
        quotient = quotient.wrapping_add(1);
        negative = !negative;
        // The two's complement, but for a unit in the last of 384 places.
        fraction = fraction.map(|word| !word);
    }
    // The fraction is at least 2^-70 from an integer, so that four words hold 186 significant bits.
    let word = |i: usize| u128::from(fraction[i]);
    let rest = Wide::normalize(negative, -1, word(5) << 64 | word(4), word(3) << 64 | word(2));
    let quotient = if x.is_negative() { quotient.wrapping_neg() } else { quotient };
    (quotient & 3, rest.multiply(HALF_PI))
}

/// x − x³/3! + x⁵/5! …, for |x| ≤ π/4.
fn sine_series(x: Wide) -> Wide {
    let square = x.multiply(x);
    let sum = (1..=17)
        .rev()
        .fold(Wide::ONE, |sum, k| Wide::ONE.subtract(sum.multiply(square).divide_by(2 * k * (2 * k + 1))));
    sum.multiply(x)
}

/// 1 − x²/2! + x⁴/4! …, for |x| ≤ π/4.
fn cosine_series(x: Wide) -> Wide {
    let square = x.multiply(x);
    (1..=17)
        .rev()
        .fold(Wide::ONE, |sum, k| Wide::ONE.subtract(sum.multiply(square).divide_by(2 * k * (2 * k - 1))))
}

/// Sine of `x`, of a 64-bit mantissa and a magnitude below 2^63.
pub(super) fn sine(x: Wide) -> Wide {
    let (quadrant, rest) = reduce(x);
    let value = if quadrant & 1 == 0 { sine_series(rest) } else { cosine_series(rest) };
    if quadrant & 2 == 0 { value } else { value.negate() }
}

/// Cosine of `x`, as [`sine`].
pub(super) fn cosine(x: Wide) -> Wide {
    let (quadrant, rest) = reduce(x);
    let value = if quadrant & 1 == 0 { cosine_series(rest) } else { sine_series(rest) };
    if quadrant == 1 || quadrant == 2 { value.negate() } else { value }
}

/// Tangent of `x`, as [`sine`].
pub(super) fn tangent(x: Wide) -> Wide {
    let (quadrant, rest) = reduce(x);
    if quadrant & 1 != 0 {
        return cosine_series(rest).divide(sine_series(rest)).negate();
    }
    if rest.exponent() < -40 {
        // Two terms do, and tell on which side of x the result lies.
        let square = rest.multiply(rest);
        return rest.multiply(Wide::ONE.add(square.divide_by(3)));
    }
    sine_series(rest).divide(cosine_series(rest))
}

/// x − x³/3 + x⁵/5 …, for |x| ≤ 1/16.
fn arc_tangent_series(x: Wide) -> Wide {
    let square = x.multiply(x);
    let sum = (0..16).rev().fold(Wide::ONE.divide_by(33), |sum, k| {
        Wide::ONE.divide_by(2 * k + 1).subtract(sum.multiply(square))
    });
    sum.multiply(x)
}

/// Arc tangent of a number from 0 to 1.
fn arc_tangent(x: Wide) -> Wide {
    // The nearest eighth.
    let eighths = match x.exponent() {
        0 => 8,
        exponent @ -4..=-1 => {
            let shift = (123 - exponent) as u32;
            ((x.mantissa() >> shift) as usize).div_ceil(2)
        }
        _ => 0,
    };
    let Some(known) = eighths.checked_sub(1).and_then(|k| ARC_TANGENTS.get(k)) else {
        return arc_tangent_series(x);
    };
    let point = Wide::from_integer(eighths as i64).shift(-3);
    let rest = x.subtract(point).divide(Wide::ONE.add(x.multiply(point)));
    known.add(arc_tangent_series(rest))
}

/// The angle of the point (`x`, `y`), not the origin, from −π to π.
pub(super) fn angle(y: Wide, x: Wide) -> Wide {
    let (height, width) = (y.magnitude(), x.magnitude());
    let acute = if width.smaller(height) {
        HALF_PI.subtract(arc_tangent(width.divide(height)))
    } else {
        arc_tangent(height.divide(width))
    };
    let positive = if x.is_negative() { Wide::PI.subtract(acute) } else { acute };
    positive.with_sign(y.is_negative())
}

/// 2^x − 1 for |x| < 1.
pub(super) fn exp2_minus_1(x: Wide) -> Wide {
    let power = x.multiply(LN_2);
    let sum = (2..=32).rev().fold(Wide::ONE, |sum, k| Wide::ONE.add(sum.multiply(power).divide_by(k)));
    sum.multiply(power)
}

/// log2((1 + z) / (1 − z)) for |z| < 0.172: 2 log2(e) (z + z³/3 + z⁵/5 …).
fn log2_series(z: Wide) -> Wide {
    let square = z.multiply(z);
    let sum = (0..27)
        .rev()
        .fold(Wide::ONE.divide_by(55), |sum, k| Wide::ONE.divide_by(2 * k + 1).add(sum.multiply(square)));
    sum.multiply(z).multiply(LOG2_E).shift(1)
}

/// Binary logarithm of a positive number.
pub(super) fn log2(x: Wide) -> Wide {
    let mut power = x.exponent();
    let mut mantissa = x.shift(-power);
    if SQRT_2.smaller(mantissa) {
        mantissa = mantissa.shift(-1);
        power += 1;
    }
    let ratio = mantissa.subtract(Wide::ONE).divide(mantissa.add(Wide::ONE));
    log2_series(ratio).add(Wide::from_integer(i64::from(power)))
}

/// log2(1 + x) for x > −1, not losing the digits of a small `x`.
pub(super) fn log2_1_plus(x: Wide) -> Wide {
    if x.exponent() >= -2 {
        return log2(x.add(Wide::ONE));
    }
    log2_series(x.divide(x.add(Wide::from_integer(2))))
}
