#[cfg(target_arch = "x86_64")]
use super::limbs::Instructions;
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
    return [Instructions::Avx2, Instructions::Avx512, Instructions::Vnni]
        .map(Kernel::Limbs)
        .into_iter()
        .chain([Kernel::Portable])
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
            let low = |words: &[u64]| words.iter().map(|w| w & (u64::MAX >> (64 - bits))).collect::<Vec<_>>();
            assert_eq!(low(&out), low(&expected), "gemm_public {kernel:?} {bits} {m} {k} {n}");
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

/// Low limbs and weights of the largest size and one sign, at every width of weights and bits: sums are as large as they can be.
#[test]
fn sums_of_low_limbs_are_exact_at_extreme_values() {
    let (m, k, n) = (19, 200, 17);
    for weight_bits in 0..=23u32 {
        let w = vec![(1 << weight_bits) - 1; n * k];
        for bits in [64, 62 - weight_bits, 61 - weight_bits] {
            // The lowest and the highest low limb, with high limbs of all ones and none.
            let half = 1u64 << (45 - weight_bits);
            for x in [half, half - 1, half.wrapping_neg(), u64::MAX] {
                let expected = (x.wrapping_mul(w[0] as u64)).wrapping_mul(k as u64) << (64 - bits);
                for kernel in kernels() {
                    let mut out = vec![0; m * n];
                    gemm_public(&vec![x; m * k], m, &PackedWeights::pack_for(kernel, &w, n, k), bits, &mut out);
                    assert!(out.iter().all(|o| o << (64 - bits) == expected), "{kernel:?} {weight_bits} {bits} {x:x}");
                }
            }
        }
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
