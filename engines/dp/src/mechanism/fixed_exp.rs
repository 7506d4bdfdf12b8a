//! e^{−x} in 126-bit fixed point: the arithmetic behind the discrete Gaussian's tables and its last-resort acceptance test.

/// Fraction bits of an argument.
pub(crate) const ARGUMENT_BITS: u32 = 120;
/// Fraction bits of a result.
pub(crate) const RESULT_BITS: u32 = 126;

/// ⌊ln 2 · 2¹²⁰⌋.
const LN_2: u128 = 0xB172_17F7_D1CF_79AB_C9E3_B398_03F2_F6AF >> 8;

/// ⌊a·b / 2^shift⌋ for 0 ≤ shift < 256, where the result fits 128 bits.
pub(crate) fn mul_shift(a: u128, b: u128, shift: u32) -> u128 {
    let low = u128::from(u64::MAX);
    let (a1, a0, b1, b0) = (a >> 64, a & low, b >> 64, b & low);
    let bottom = a0 * b0;
    let middle = a1 * b0 + (bottom >> 64);
    let other = a0 * b1 + (middle & low);
    let high = a1 * b1 + (middle >> 64) + (other >> 64);
    let lower = (other << 64) | (bottom & low);
    match shift {
        0 => lower,
        1..128 => (high << (128 - shift)) | (lower >> shift),
        _ => high >> (shift - 128),
    }
}

/// e^{−x} scaled by 2¹²⁶, for x = `argument`/2¹²⁰ < 128; absolute error below 2⁻¹¹⁸ before the final shift.
///
/// x = n·ln 2 + f with 0 ≤ f < ln 2, then Horner's form 1 − f(1 − f/2(1 − f/3(…))), every factor in (0, 1].
pub(crate) fn exp_neg(argument: u128) -> u128 {
    let n = (argument / LN_2) as u32;
    let f = (argument - u128::from(n) * LN_2) << (RESULT_BITS - ARGUMENT_BITS);
    let one = 1_u128 << RESULT_BITS;
    let mut value = one;
    for k in (1..=36_u128).rev() {
        value = one - mul_shift(f, value, RESULT_BITS) / k;
    }
    if n >= 127 { 0 } else { value >> n }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_match_small_cases_and_identities() {
        assert_eq!(mul_shift(u128::MAX, u128::MAX, 128), u128::MAX - 1);
        assert_eq!(mul_shift(7, 9, 0), 63);
        assert_eq!(mul_shift(1 << 100, 1 << 90, 150), 1 << 40);
        assert_eq!(mul_shift((1 << 127) + 12345, 1 << 5, 5), (1 << 127) + 12345);
    }

    #[test]
    fn exponential_matches_f64_and_is_multiplicative_to_115_bits() {
        let unit = 1_u128 << ARGUMENT_BITS;
        for k in 0..60_u32 {
            let x = unit / 7 * u128::from(k);
            let want = (-(x as f64 / unit as f64)).exp();
            let got = exp_neg(x) as f64 / 2f64.powi(RESULT_BITS as i32);
            assert!((got / want - 1.0).abs() < 1e-14, "{k}");
            let product = mul_shift(exp_neg(x / 3), exp_neg(x - x / 3), RESULT_BITS);
            assert!(product.abs_diff(exp_neg(x)) < 1 << (RESULT_BITS - 115), "{k}");
        }
        // e^{−1} to 38 digits, from the decimal expansion 0.36787944117144232159552377016146086744.
        let digits = 36_787_944_117_144_232_159_552_377_016_146_086_744_u128;
        let tenth = 10_u128.pow(38);
        let rounded = mul_shift(exp_neg(unit), tenth, RESULT_BITS);
        assert!(rounded.abs_diff(digits) < 2000, "{rounded}");
    }
}
