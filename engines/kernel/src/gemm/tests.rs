#[cfg(target_arch = "x86_64")]
use super::limbs::Instructions;
#[cfg(target_arch = "x86_64")]
use super::tiles::{BYTES, Columns, Unit, add_product};
use super::weights::Kernel;
use super::*;
use crate::Prg;
use proptest::prelude::*;

fn words(label: u8, count: usize) -> Vec<u64> {
    let mut words = vec![0u64; count];
    Prg::new([label; 16]).fill_u64(0, &mut words);
    words
}

/// Weights over the whole permitted range, extremes included.
fn weights(label: u8, count: usize) -> Vec<i32> {
    let extremes = [MAX_WEIGHT - 1, 1 - MAX_WEIGHT, 0, -1];
    let random = words(label, count).into_iter().map(|w| (w % (2 * MAX_WEIGHT as u64 - 1)) as i32 - (MAX_WEIGHT - 1));
    random.enumerate().map(|(i, w)| if i % 7 < 4 { extremes[i % 7] } else { w }).collect()
}

/// Every kernel for public weights that this CPU can run.
fn kernels() -> Vec<Kernel> {
    #[cfg(target_arch = "x86_64")]
    return [Instructions::Avx2, Instructions::Avx512, Instructions::Vnni, Instructions::Plain]
        .map(Kernel::Limbs)
        .into_iter()
        .chain([Kernel::Tiles(Unit::Amx), Kernel::Tiles(Unit::Plain), Kernel::Portable])
        .filter(|kernel| kernel.is_available(crate::cpu::Cpu::detected()))
        .collect();
    #[cfg(not(target_arch = "x86_64"))]
    vec![Kernel::Portable]
}

/// `out[i,j] = Σ_l a(i,l) · b(l,j)`, straight from the definition.
fn naive(m: usize, k: usize, n: usize, a: impl Fn(usize, usize) -> u64, b: impl Fn(usize, usize) -> u64) -> Vec<u64> {
    let cell = |i, j| (0..k).fold(0u64, |sum, l| sum.wrapping_add(a(i, l).wrapping_mul(b(l, j))));
    (0..m * n).map(|at| cell(at / n, at % n)).collect()
}

fn expect_products(m: usize, k: usize, n: usize) {
    let (a, b, start) = (words(1, m * k), words(2, k * n), words(3, m * n));
    let add = |x: &[u64]| -> Vec<u64> { x.iter().zip(&start).map(|(x, y)| x.wrapping_add(*y)).collect() };

    let expected = naive(m, k, n, |i, l| a[i * k + l], |l, j| b[l * n + j]);
    let mut out = start.clone();
    gemm(&a, &b, m, k, n, &mut out);
    assert_eq!(out, expected, "gemm {m} {k} {n}");
    let mut out = start.clone();
    gemm_add(&a, &b, m, k, n, &mut out);
    assert_eq!(out, add(&expected), "gemm_add {m} {k} {n}");

    let expected = naive(m, k, n, |i, l| a[i * k + l], |l, j| b[j * k + l]);
    let mut out = start.clone();
    gemm_nt(&a, &b, m, k, n, &mut out);
    assert_eq!(out, expected, "gemm_nt {m} {k} {n}");
    let mut out = start.clone();
    gemm_nt_add(&a, &b, m, k, n, &mut out);
    assert_eq!(out, add(&expected), "gemm_nt_add {m} {k} {n}");

    let w = weights(4, n * k);
    let expected = naive(m, k, n, |i, l| a[i * k + l], |l, j| i64::from(w[j * k + l]) as u64);
    for kernel in kernels() {
        let packed = PackedWeights::pack_for(kernel, &w, n, k);
        assert_eq!((packed.outputs(), packed.inputs()), (n, k));
        for bits in [64, 56, 55, 40, 39, 20] {
            let mut out = start.clone();
            gemm_public(&a, m, &packed, bits, &mut out);
            assert_eq!(low(&out, bits), low(&expected, bits), "gemm_public {kernel:?} {bits} {m} {k} {n}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    for unit in [Unit::Amx, Unit::Plain] {
        if !Kernel::Tiles(unit).is_available(crate::cpu::Cpu::detected()) {
            continue;
        }
        let expected = add(&naive(m, k, n, |i, l| a[i * k + l], |l, j| b[l * n + j]));
        let transposed: Vec<u64> = (0..n * k).map(|at| b[at % k * n + at / k]).collect();
        let right = [Columns::from_rows(unit, &b, n, k), Columns::from_columns(unit, &transposed, n, k, BYTES, |b| b)];
        for (right, bits) in right.iter().flat_map(|right| [64, 57, 33, 8, 1].map(|bits| (right, bits))) {
            let mut out = start.clone();
            // SAFETY: the unit is available.
            unsafe { add_product(&a, m, right, bits, &mut out) };
            assert_eq!(low(&out, bits), low(&expected, bits), "tiles {unit:?} {bits} {m} {k} {n}");
        }
    }

    let mut out = start.clone();
    portable::general(&a, &b, k, n, &mut out);
    assert_eq!(out, add(&naive(m, k, n, |i, l| a[i * k + l], |l, j| b[l * n + j])), "portable general {m} {k} {n}");
    let mut out = start.clone();
    portable::transposed(&a, &b, k, n, &mut out);
    assert_eq!(out, add(&naive(m, k, n, |i, l| a[i * k + l], |l, j| b[j * k + l])), "portable transposed {m} {k} {n}");
}

#[test]
fn products_wrap_at_extreme_values() {
    let (a, b) = ([u64::MAX; 6], [u64::MAX; 6]);
    let mut out = [0; 4];
    gemm(&a, &b, 2, 3, 2, &mut out);
    assert_eq!(out, [3; 4]);
    for kernel in kernels() {
        let w = PackedWeights::pack_for(kernel, &[1 - MAX_WEIGHT; 6], 2, 3);
        gemm_public(&a, 2, &w, 64, &mut out);
        assert_eq!(out, [3 * (MAX_WEIGHT as u64 - 1); 4]);
    }
}

/// Low `bits` of words.
fn low(words: &[u64], bits: u32) -> Vec<u64> {
    words.iter().map(|w| w & (u64::MAX >> (64 - bits))).collect()
}

/// Every kernel's product with public weights, at some bits, against the portable one's.
fn expect_public_products(x: &[u64], w: &[i32], (m, k, n): (usize, usize, usize), widths: impl Iterator<Item = u32> + Clone) {
    let mut expected = vec![0; m * n];
    gemm_public(x, m, &PackedWeights::pack_for(Kernel::Portable, w, n, k), 64, &mut expected);
    for kernel in kernels() {
        let packed = PackedWeights::pack_for(kernel, w, n, k);
        for bits in widths.clone() {
            let mut out = words(5, m * n);
            gemm_public(x, m, &packed, bits, &mut out);
            assert!(low(&out, bits) == low(&expected, bits), "{kernel:?} {bits} {m} {k} {n}");
        }
    }
}

/// Words whose limbs of `width` bits are all the lowest ones, then all the highest.
fn extreme_limbs(width: u32) -> [u64; 2] {
    let all = |limb: i64| (0..=64 / width).rev().fold(0u64, |x, _| (x << width).wrapping_add(limb as u64));
    [all(-1 << (width - 1)), all((1 << (width - 1)) - 1)]
}

/// Limbs and weights of the largest size and one sign, at every width of both: sums are as large as they can be.
#[test]
fn sums_of_limbs_are_exact_at_extreme_values() {
    let (m, k, n) = (2, 520, 17);
    for weight_bits in 0..=23u32 {
        for w in [(1 << weight_bits) - 1, 1 - (1 << weight_bits), (-1 << weight_bits).max(1 - MAX_WEIGHT)] {
            for x in (8..=16).flat_map(extreme_limbs).chain([u64::MAX, 1 << 63]) {
                expect_public_products(&[x; 1040], &vec![w; n * k], (m, k, n), [64, 57, 51, 41].into_iter());
            }
        }
    }
}

#[test]
fn weights_at_the_bounds_of_sixteen_bits_are_exact() {
    let bounds = [
        -32767,
        -32768,
        -32769,
        32767,
        32768,
        32769,
        1 - MAX_WEIGHT,
        MAX_WEIGHT - 1,
        0,
        -1,
        2047,
        2048,
        -2048,
        -2049,
        127,
        128,
        -128,
        -129,
        32639,
        32640,
        -32639,
        -32640,
        8_355_711,
        8_355_712,
        -8_355_711,
        -8_355_712,
    ];
    for share in [1, 7, 300] {
        let (m, k, n) = (13, 77, 70);
        let w: Vec<i32> =
            (0..n * k).map(|at| if at % share == 0 { bounds[at / share % bounds.len()] } else { at as i32 % 100 }).collect();
        expect_public_products(&words(6, m * k), &w, (m, k, n), 1..=64);
    }
}

#[test]
fn threaded_products_equal_the_definition() {
    expect_products(67, 300, 131);
    expect_products(1, 1100, 1003);
    expect_products(1030, 33, 40);
    expect_products(3, 700, 513);
}

#[test]
fn empty_products_are_zero() {
    for (m, k, n) in [(0, 3, 4), (3, 0, 4), (3, 4, 0)] {
        expect_products(m, k, n);
    }
}

#[test]
#[should_panic(expected = "23 bits")]
fn a_weight_of_24_bits_is_refused() {
    PackedWeights::pack(&[MAX_WEIGHT], 1, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn products_equal_the_definition(m in 0usize..40, k in 0usize..50, n in 0usize..70) {
        expect_products(m, k, n);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn public_products_equal_the_portable_one(
        (m, k, n) in (1usize..14, 1usize..600, 1usize..70),
        (weight_bits, bits) in (0u32..24, 1u32..65),
        outliers in prop::option::of(1usize..2000),
        label: u8,
    ) {
        let size = |w: u64, bits: u32| ((w as i64) >> (63 - bits)).clamp(1 - i64::from(MAX_WEIGHT), i64::from(MAX_WEIGHT) - 1) as i32;
        let outlier = |at: usize| outliers.is_some_and(|every| at.is_multiple_of(every));
        let w = words(label, n * k).into_iter().enumerate();
        let w: Vec<i32> = w.map(|(at, w)| size(w, if outlier(at) { 23 } else { weight_bits })).collect();
        expect_public_products(&words(label ^ 1, m * k), &w, (m, k, n), [bits, 64].into_iter());
    }
}
