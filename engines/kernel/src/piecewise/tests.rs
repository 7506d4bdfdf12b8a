use super::*;
use crate::Prg;
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

/// What the shares add up to at `xs` under `masks`.
fn opened(cells: Cells, table: &[f64], xs: &[u64], masks: &[u64]) -> Vec<u64> {
    let (s0, s1) = (roots(1, masks.len()), roots(2, masks.len()));
    let mut keys = Vec::new();
    generate(cells, masks, &s0, &s1, &mut keys);
    assert_eq!(keys.len(), masks.len() * cells.key_len());
    let x_hat: Vec<u64> = xs.iter().zip(masks).map(|(x, r)| x.wrapping_add(*r)).collect();
    let (mut a, mut b) = (vec![9; xs.len()], vec![9; xs.len()]);
    eval(0, cells, &s0, &keys, &x_hat, table, &mut a);
    eval(1, cells, &s1, &keys, &x_hat, table, &mut b);
    assert!(a.iter().chain(&b).all(|share| *share != 0), "a share of a random value is not zero");
    a.iter().zip(&b).map(|(a, b)| a.wrapping_add(*b)).collect()
}

/// The table of one function, by its Taylor coefficients in units of a cell: `of(k, size)`.
fn table(cells: Cells, of: impl Fn(f64, f64) -> [f64; MOST]) -> Vec<f64> {
    let w = cells.width();
    let cell = |slot: u32, k: usize| {
        let octave = slot.min(cells.octaves - 1);
        let k = if slot < cells.octaves { k + w } else { k };
        of(k as f64, f64::from(cells.bits - cells.first - octave).exp2())
    };
    let list = (0..=cells.octaves).flat_map(|slot| (0..w).map(move |k| (slot, k)));
    list.flat_map(|(slot, k)| cell(slot, k)[..cells.terms()].to_vec()).collect()
}

/// Every `x` of the domain under every mask.
fn pairs(cells: Cells) -> (Vec<u64>, Vec<u64>) {
    let domain = 1u64 << cells.bits;
    let valid = if cells.octaves == 1 && cells.first == cells.bits { domain } else { domain - (domain >> cells.first) };
    (0..valid).flat_map(|x| (0..domain).map(move |r| (x, r))).unzip()
}

#[test]
fn a_table_is_looked_up_exactly_for_every_mask_and_index() {
    for bits in 1..=6 {
        let cells = Cells { bits, first: bits, octaves: 1, degree: 0 };
        // The table's upper half comes first.
        let values: Vec<f64> = words(5, 1 << bits).iter().map(|w| (w >> 12) as f64).collect();
        let (low, high) = values.split_at(values.len() / 2);
        let (xs, masks) = pairs(cells);
        let found = opened(cells, &[high, low].concat(), &xs, &masks);
        assert!(xs.iter().zip(&found).all(|(x, found)| values[*x as usize] as u64 == *found), "{bits} bits");
    }
}

#[test]
fn the_widest_table_is_looked_up_exactly() {
    let cells = Cells { bits: 13, first: 13, octaves: 1, degree: 0 };
    let values: Vec<f64> = words(5, 1 << 13).iter().map(|w| (w >> 12) as f64).collect();
    let (low, high) = values.split_at(1 << 12);
    let xs = [0, 8191, 4096, 4095, 77, 5000];
    let found = opened(cells, &[high, low].concat(), &xs, &[0, 8191, 4096, 77, 5000, 1]);
    assert_eq!(found, xs.map(|x| values[x as usize] as u64));
}

#[test]
fn one_polynomial_in_all_cells_is_that_polynomial_for_every_mask() {
    for (first, octaves, degree) in [(1, 1, 3), (1, 3, 3), (2, 4, 3), (3, 4, 2), (3, 2, 1), (6, 1, 3), (2, 5, 3)] {
        let cells = Cells { bits: 6, first, octaves, degree };
        let f = |x: f64| [1e12 + 3e11 * x, 2e10 * x * x, -5e8 * x * x * x];
        let value = |x: f64| f(x)[..=usize::from(degree > 1) + usize::from(degree > 2)].iter().sum::<f64>();
        let table = table(cells, |k, size| {
            let at = k * size;
            let square = if degree > 1 { 2e10 } else { 0.0 };
            let cube = if degree > 2 { -5e8 } else { 0.0 };
            let first = 3e11 + 2.0 * square * at + 3.0 * cube * at * at;
            [value(at), first * size, (square + 3.0 * cube * at) * size * size, cube * size * size * size]
        });
        let (xs, masks) = pairs(cells);
        for ((x, r), found) in xs.iter().zip(&masks).zip(opened(cells, &table, &xs, &masks)) {
            let (expected, found) = (value(*x as f64), found as i64 as f64);
            // Coefficients of a cell are below 2^45.
            assert!((found - expected).abs() < f64::from(1 << 26), "{cells:?} {x} under {r}: {found} for {expected}");
        }
    }
}

#[test]
fn a_value_is_in_its_own_cell_or_in_one_that_touches_it() {
    for (first, octaves) in [(1, 6), (2, 5), (3, 4), (3, 2), (4, 1)] {
        let cells = Cells { bits: 6, first, octaves, degree: 0 };
        // Each cell tells its bounds.
        let table = table(cells, |k, size| [k * size * 1024.0 + size, 0.0, 0.0, 0.0]);
        let (xs, masks) = pairs(cells);
        for ((x, r), found) in xs.iter().zip(&masks).zip(opened(cells, &table, &xs, &masks)) {
            let (start, size) = (found / 1024, found % 1024);
            assert!(x + size > start && *x < start + size, "{cells:?} {x} under {r}: the cell of {size} from {start}");
            let exact = clear(cells, *x, &table);
            assert!((exact / 1024..exact / 1024 + exact % 1024).contains(x), "{cells:?} {x}");
        }
    }
}

#[test]
fn an_inverse_over_sixteen_octaves_is_as_exact_as_its_cubics() {
    let cells = Cells { bits: 40, first: 5, octaves: 16, degree: 3 };
    let scale = f64::from(66).exp2();
    // Taylor: of 1/(k + τ), with |τ| < 1 and k of 16 at least, the error is below 16^-4.
    let table = table(cells, |k, size| {
        let k = k.max(1.0);
        let a = scale / (k * size / f64::from(20).exp2());
        [a, -a / k, a / (k * k), -a / (k * k * k)]
    });
    let x: Vec<u64> = words(3, 4000).iter().map(|x| (x >> 24 >> (x & 15)).clamp(1 << 24, (1 << 40) - (1 << 35) - 1)).collect();
    let found = opened(cells, &table, &x, &words(4, 4000));
    for (x, found) in x.iter().zip(found) {
        let expected = scale / (*x as f64 / f64::from(20).exp2());
        assert!((found as f64 / expected - 1.0).abs() < 1.0 / 65536.0, "{x}: {found} for {expected}");
        assert!((clear(cells, *x, &table) as f64 / expected - 1.0).abs() < 1.0 / 65536.0);
    }
}

#[test]
fn keys_have_the_documented_words() {
    // From a separate implementation of the construction in the module's documentation, on OpenSSL's AES.
    let cells = Cells { bits: 5, first: 2, octaves: 2, degree: 2 };
    let mut keys = Vec::new();
    generate(cells, &[0b10110], &[0x0123456789abcdef0011223344556677], &[0xfedcba98765432108899aabbccddeeff], &mut keys);
    let words: Vec<u128> = keys.as_chunks::<16>().0.iter().map(|word| u128::from_be_bytes(*word)).collect();
    let expected = [
        0x15446b775d9768a04579d6ac415e8197,
        0x340250f2e03d171d77b54480ef9f7514,
        0xe2b30a47346c610a1c18932c03008402,
        0xc4ac1a26e53fb9fb3fbdeed3adfc47c0,
        0xb302b463fe741e99e77a03bc24c3b55b,
        0x812f776118839092b8610e6f9cc4171d,
        0x0346bc9396521a780576073da94cc5b5,
    ];
    assert_eq!(words, expected);
}

#[test]
fn no_keys_are_fine() {
    assert!(opened(Cells { bits: 8, first: 3, octaves: 2, degree: 1 }, &[0.0; 24], &[], &[]).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn only_low_bits_count(bits in 6u32..=48, raw in prop::collection::vec((any::<u64>(), any::<u64>()), 1..20)) {
        let cells = Cells { bits, first: 3, octaves: 3, degree: 3 };
        let table: Vec<f64> = words(8, cells.table_len()).iter().map(|w| (w >> 20) as f64).collect();
        let valid = (1u64 << bits) - (1 << (bits - 3));
        let (xs, masks): (Vec<u64>, Vec<u64>) = raw.iter().map(|(x, r)| (x % valid, *r)).unzip();
        let junk: Vec<u64> = xs.iter().map(|x| x | u64::MAX << bits).collect();
        let narrow: Vec<u64> = masks.iter().map(|r| low(*r, bits)).collect();
        prop_assert_eq!(opened(cells, &table, &junk, &masks), opened(cells, &table, &xs, &narrow));
    }
}
