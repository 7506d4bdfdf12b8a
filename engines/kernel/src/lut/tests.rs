use super::*;
use crate::Prg;
#[cfg(target_arch = "x86_64")]
use crate::cpu::{BlockCipher, Cpu};
use proptest::prelude::*;

fn words(label: u8, count: usize) -> Vec<u64> {
    let mut words = vec![0u64; count];
    Prg::new([label; 16]).fill_u64(0, &mut words);
    words
}

fn roots(label: u8, count: usize) -> Vec<u128> {
    let seed = |w: &[u64]| u128::from(w[0]) | u128::from(w[1]) << 64;
    words(label, 2 * count).chunks(2).map(seed).collect()
}

fn expect_table_values(bits: u32, alphas: &[u64], x_hat: &[u64], tables: &[&[u64]]) {
    let (s0, s1) = (roots(1, alphas.len()), roots(2, alphas.len()));
    let mut keys = Vec::new();
    generate(bits, alphas, &s0, &s1, &mut keys);
    assert_eq!(keys.len(), alphas.len() * key_len(bits));
    let (mut a, mut b) = (vec![9; x_hat.len() * tables.len()], vec![9; x_hat.len() * tables.len()]);
    eval(0, bits, &s0, &keys, x_hat, tables, &mut a);
    eval(1, bits, &s1, &keys, x_hat, tables, &mut b);
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let (key, table) = (i / tables.len(), tables[i % tables.len()]);
        let index = x_hat[key].wrapping_sub(alphas[key]) as usize % table.len();
        assert_eq!(a.wrapping_add(*b), table[index], "bits {bits} alpha {} x_hat {}", alphas[key], x_hat[key]);
        assert!(*a != 0 && *b != 0, "a share of a random value is not zero");
    }
}

#[test]
fn look_up_is_right_for_every_mask_and_index_of_small_domains() {
    for bits in 1..=5 {
        let domain = 1u64 << bits;
        let table = words(5, domain as usize);
        let alphas: Vec<u64> = (0..domain * domain).map(|i| i / domain).collect();
        let x_hat: Vec<u64> = (0..domain * domain).map(|i| i % domain).collect();
        expect_table_values(bits, &alphas, &x_hat, &[&table]);
    }
}

#[test]
fn keys_have_the_documented_bytes() {
    // From a separate implementation of the construction in the module's documentation, on OpenSSL's AES.
    let mut keys = Vec::new();
    generate(3, &[5], &[0x0123456789abcdef0011223344556677], &[0xfedcba98765432108899aabbccddeeff], &mut keys);
    let words: Vec<u128> = keys.as_chunks::<16>().0.iter().map(|word| u128::from_be_bytes(*word)).collect();
    let expected = [0x15446b775d9768a04579d6ac415e8197, 0x340250f2e03d171d77b54480ef9f7514, 0xc5ac1a26e53fb9fb3ebdfad3adfc47c0];
    assert_eq!(words, expected);
}

#[test]
fn look_up_is_right_in_the_widest_domain() {
    let (t, u) = (words(5, 1 << 13), words(6, 1 << 13));
    expect_table_values(13, &[0, 8191, 4096, 77, 5000], &[0, 0, 8191, 76, 12], &[&t, &u]);
}

#[test]
fn no_tables_and_no_keys_are_fine() {
    expect_table_values(4, &[], &[], &[&[1; 16]]);
    eval(0, 4, &[1], &[0; 64], &[3], &[], &mut []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn look_up_is_right_at_random_indices(
        bits in 1u32..=10,
        tables in 1usize..4,
        raw in prop::collection::vec((any::<u64>(), any::<u64>()), 1..30),
    ) {
        let domain = 1u64 << bits;
        let store: Vec<Vec<u64>> = (0..tables).map(|j| words(10 + j as u8, domain as usize)).collect();
        let tables: Vec<&[u64]> = store.iter().map(Vec::as_slice).collect();
        let alphas: Vec<u64> = raw.iter().map(|(a, _)| a % domain).collect();
        let x_hat: Vec<u64> = raw.iter().map(|(_, x)| x % domain).collect();
        expect_table_values(bits, &alphas, &x_hat, &tables);
    }
}

#[cfg(target_arch = "x86_64")]
type Generate = unsafe fn(u32, &[u64], &[u128], &[u128], &mut [u8]);
#[cfg(target_arch = "x86_64")]
type Eval = unsafe fn(u8, u32, &[u128], &[u8], &[u64], &[Reversed], &mut [u64]);

/// The look-ups of every register width that this CPU has.
#[cfg(target_arch = "x86_64")]
fn walks() -> Vec<(Generate, Eval)> {
    let aes_ni = (walks::aes_ni::generate as Generate, walks::aes_ni::eval as Eval);
    let two = (walks::two::generate as Generate, walks::two::eval as Eval);
    match Cpu::detected().aes {
        BlockCipher::Portable => vec![],
        BlockCipher::AesNi => vec![aes_ni],
        BlockCipher::Two => vec![aes_ni, two],
        BlockCipher::Four => vec![aes_ni, two, (walks::four::generate, walks::four::eval)],
    }
}

#[cfg(target_arch = "x86_64")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn keys_and_shares_of_every_width_equal_the_portable_ones(
        bits in 1u32..=11,
        tables in 1usize..4,
        raw in prop::collection::vec((any::<u64>(), any::<u128>(), any::<u128>(), any::<u64>()), 1..14),
    ) {
        // Unreduced points and indices and unmasked root seeds must be treated alike too.
        let alphas: Vec<u64> = raw.iter().map(|r| r.0).collect();
        let s0: Vec<u128> = raw.iter().map(|r| r.1).collect();
        let s1: Vec<u128> = raw.iter().map(|r| r.2).collect();
        let x_hat: Vec<u64> = raw.iter().map(|r| r.3).collect();
        let tables: Vec<Reversed> = (0..tables).map(|j| Reversed::new(&words(20 + j as u8, 1 << bits))).collect();
        let mut expected = vec![0; raw.len() * key_len(bits)];
        portable::generate(bits, &alphas, &s0, &s1, &mut expected);
        for (generate, eval) in walks() {
            let mut keys = vec![0; expected.len()];
            // SAFETY: only look-ups of this CPU are listed.
            unsafe { generate(bits, &alphas, &s0, &s1, &mut keys) };
            prop_assert_eq!(&keys, &expected);
            for (party, seeds) in [(0, &s0), (1, &s1)] {
                let (mut a, mut b) = (vec![0; raw.len() * tables.len()], vec![0; raw.len() * tables.len()]);
                portable::eval(party, bits, seeds, &keys, &x_hat, &tables, &mut a);
                // SAFETY: only look-ups of this CPU are listed.
                unsafe { eval(party, bits, seeds, &keys, &x_hat, &tables, &mut b) };
                prop_assert_eq!(a, b);
            }
        }
    }
}
