use super::*;
use crate::Prg;
use proptest::prelude::*;

/// `count` root seeds of one party.
fn roots(label: u8, count: usize) -> Vec<u128> {
    let mut words = vec![0u64; 2 * count];
    Prg::new([label; 16]).fill_u64(0, &mut words);
    words.chunks(2).map(|w| u128::from(w[0]) | u128::from(w[1]) << 64).collect()
}

/// The opened bits at `points[keys, p]`.
fn open(bits: u32, alphas: &[u64], points: &[u64], p: usize) -> Vec<u8> {
    let (s0, s1) = (roots(1, alphas.len()), roots(2, alphas.len()));
    let mut keys = Vec::new();
    generate(bits, alphas, &s0, &s1, &mut keys);
    assert_eq!(keys.len(), alphas.len() * key_len(bits));
    let (mut a, mut b) = (vec![9; points.len()], vec![9; points.len()]);
    prefix(0, bits, &s0, &keys, points, p, &mut a);
    prefix(1, bits, &s1, &keys, points, p, &mut b);
    assert!(a.iter().chain(&b).all(|share| *share < 2));
    a.iter().zip(&b).map(|(a, b)| a ^ b).collect()
}

fn expect_comparison(bits: u32, alphas: &[u64], points: &[u64], p: usize) {
    for (i, opened) in open(bits, alphas, points, p).into_iter().enumerate() {
        let (alpha, x) = (alphas[i / p], points[i]);
        assert_eq!(opened == 1, alpha < x, "bits {bits} alpha {alpha} point {x}");
    }
}

#[test]
fn prefix_is_the_comparison_at_every_point_of_small_domains() {
    for bits in 1..=12 {
        let domain = 1u64 << bits;
        let alphas: Vec<u64> = if bits <= 5 {
            (0..domain).collect()
        } else {
            [0, 1, 63 % domain, 64 % domain, domain / 2 - 1, domain / 2, domain / 3, domain - 1].to_vec()
        };
        let points: Vec<u64> = alphas.iter().flat_map(|_| 0..=domain).collect();
        expect_comparison(bits, &alphas, &points, domain as usize + 1);
    }
}

#[test]
fn no_points_and_no_keys_are_fine() {
    assert!(open(16, &[], &[], 1).is_empty());
    assert!(open(16, &[5, 6], &[], 0).is_empty());
}

#[test]
fn keys_have_the_documented_bytes() {
    // From a separate implementation of the construction in the module's documentation, on OpenSSL's AES.
    let mut keys = Vec::new();
    generate(9, &[0x15a], &[0x0123456789abcdef0011223344556677], &[0xfedcba98765432108899aabbccddeeff], &mut keys);
    let words: Vec<u128> = keys.as_chunks::<16>().0.iter().map(|word| u128::from_be_bytes(*word)).collect();
    let expected = [0x15446b775d9768a04579d6ac415e8197, 0x340250f2e03d171d77b54480ef9f7514, 0xcd531d2aed40f90bc1bf0ad0b70d58c0];
    assert_eq!(words, expected);
}

#[test]
fn every_key_bit_is_balanced_for_a_fixed_point() {
    let count = 20_000;
    for alpha in [0, 0xffff] {
        let mut keys = Vec::new();
        generate(16, &vec![alpha; count], &roots(5, count), &roots(6, count), &mut keys);
        let mut ones = vec![0u32; 8 * key_len(16)];
        for key in keys.chunks(key_len(16)) {
            for (i, ones) in ones.iter_mut().enumerate() {
                *ones += u32::from(key[i / 8] >> (i % 8) & 1);
            }
        }
        // Six standard deviations of a fair coin: 6 · sqrt(20 000) / 2 = 424, over 1280 bits.
        for (i, ones) in ones.into_iter().enumerate() {
            assert!(ones.abs_diff(10_000) < 424, "alpha {alpha}, bit {i}: {ones}");
        }
    }
}

#[test]
fn one_party_alone_sees_balanced_bits() {
    let count = 20_000;
    let (s0, s1) = (roots(3, count), roots(4, count));
    let mut keys = Vec::new();
    generate(16, &vec![1000; count], &s0, &s1, &mut keys);
    for (party, seeds) in [(0, &s0), (1, &s1)] {
        let mut out = vec![0; count];
        prefix(party, 16, seeds, &keys, &vec![40_000; count], 1, &mut out);
        let ones = out.iter().map(|b| u32::from(*b)).sum::<u32>();
        // Five standard deviations of a fair coin: 5 · sqrt(20 000) / 2 = 354.
        assert!(ones.abs_diff(10_000) < 354, "party {party}: {ones}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn prefix_is_the_comparison_at_random_points(
        bits in 1u32..=32,
        p in 1usize..5,
        raw in prop::collection::vec((any::<u64>(), prop::collection::vec((any::<u64>(), any::<bool>()), 4)), 1..40),
    ) {
        let domain = 1u64 << bits;
        let alphas: Vec<u64> = raw.iter().map(|(a, _)| a % domain).collect();
        let points: Vec<u64> = raw
            .iter()
            .flat_map(|(a, xs)| xs[..p].iter().map(move |(x, near)| if *near { (a % domain + x % 3).saturating_sub(1).min(domain) } else { x % (domain + 1) }))
            .collect();
        expect_comparison(bits, &alphas, &points, p);
    }
}

#[cfg(target_arch = "x86_64")]
mod twins {
    use super::*;
    use crate::cpu::{BlockCipher, Cpu};

    type Generate = unsafe fn(u32, &[u64], &[u128], &[u128], &mut [u8]);
    type Prefix = unsafe fn(u8, u32, &[u128], &[u8], &[u64], usize, &mut [u8]);

    /// The walks of every register width that this CPU has.
    fn walks() -> Vec<(Generate, Prefix)> {
        let aes_ni = (walks::aes_ni::generate as Generate, walks::aes_ni::prefix as Prefix);
        let two = (walks::two::generate as Generate, walks::two::prefix as Prefix);
        match Cpu::detected().aes {
            BlockCipher::Portable => vec![],
            BlockCipher::AesNi => vec![aes_ni],
            BlockCipher::Two => vec![aes_ni, two],
            BlockCipher::Four => vec![aes_ni, two, (walks::four::generate, walks::four::prefix)],
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn keys_and_shares_of_every_width_equal_the_portable_ones(
            bits in 1u32..=32,
            p in 1usize..4,
            raw in prop::collection::vec((any::<u64>(), any::<u128>(), any::<u128>(), any::<[u64; 4]>()), 1..40),
        ) {
            // Unreduced points and unmasked root seeds must be treated alike too.
            let alphas: Vec<u64> = raw.iter().map(|r| r.0).collect();
            let s0: Vec<u128> = raw.iter().map(|r| r.1).collect();
            let s1: Vec<u128> = raw.iter().map(|r| r.2).collect();
            let points: Vec<u64> = raw.iter().flat_map(|r| r.3[..p].iter().map(|x| x % ((1 << bits) + 1))).collect();
            let mut expected = vec![0; raw.len() * key_len(bits)];
            portable::generate(bits, &alphas, &s0, &s1, &mut expected);
            for (generate, prefix) in walks() {
                let mut keys = vec![0; expected.len()];
                // SAFETY: only walks of this CPU are listed.
                unsafe { generate(bits, &alphas, &s0, &s1, &mut keys) };
                prop_assert_eq!(&keys, &expected);
                for (party, seeds) in [(0, &s0), (1, &s1)] {
                    let (mut a, mut b) = (vec![0; points.len()], vec![0; points.len()]);
                    portable::prefix(party, bits, seeds, &keys, &points, p, &mut a);
                    // SAFETY: only walks of this CPU are listed.
                    unsafe { prefix(party, bits, seeds, &keys, &points, p, &mut b) };
                    prop_assert_eq!(a, b);
                }
            }
        }
    }
}
