use super::*;
use crate::exec::randomness::low;
use crate::program::{Form, Interval, View};

const LEN: usize = 70;

/// Kinds of operands: opened in Z_2^64, lifted from 12 bits, a bit, a negated bit.
const KINDS: usize = 4;

fn form(b: &mut Builder, input: NodeId, kind: usize, at: usize) -> Form {
    let x = slice(b, input, at * LEN, LEN);
    let (opened, negated) = match kind {
        0 => (open(b, x, 64, false), false),
        1 => (open(b, x, 12, true), false),
        _ => {
            let x = open(b, x, 12, false);
            let bits = b.push(Op::Intervals { src: x, drop: 0, intervals: vec![Interval { lo: Some(0), hi: None }] }, LEN);
            (b.push(Op::OpenBits { src: bits, bits: 64 }, LEN), kind == 3)
        }
    };
    Form { open: opened, view: View::ALL, negated }
}

fn value(word: u64, kind: usize) -> u64 {
    let small = ((word << 52) as i64) >> 52;
    match kind {
        0 => word,
        1 => small as u64,
        2 => u64::from(small >= 0),
        _ => u64::from(small < 0),
    }
}

/// Inputs whose low 12 bits are in the lifted range.
fn inputs(count: usize, seed: u8) -> Vec<u64> {
    noise(seed, count * LEN).iter().map(|w| (w & !low(12)) | ((w & low(11)).wrapping_sub(1 << 10) & low(12))).collect()
}

/// Every mix of kinds over `sources`, one source for each form.
fn check_products(sources: &[usize]) {
    for mix in 0..KINDS.pow(sources.len() as u32) {
        let kinds: Vec<usize> = (0..sources.len() as u32).map(|i| mix / KINDS.pow(i) % KINDS).collect();
        let input = inputs(4, mix as u8);
        for bits in [64, 30] {
            let bench = Bench::new(input.len(), bits, |b, x| {
                let forms = kinds.iter().zip(sources).map(|(kind, at)| form(b, x, *kind, *at)).collect();
                b.push(Op::Product { forms, bits }, LEN)
            });
            let expected: Vec<u64> = (0..LEN)
                .map(|i| kinds.iter().zip(sources).fold(1u64, |p, (k, at)| p.wrapping_mul(value(input[at * LEN + i], *k))))
                .map(|p| p & low(bits))
                .collect();
            assert_eq!(bench.run(&input, mix as u8).words, expected, "kinds {kinds:?} of sources {sources:?} in {bits} bits");
        }
    }
}

#[test]
fn products_of_two_to_four_distinct_forms_are_exact() {
    check_products(&[0, 1]);
    check_products(&[0, 1, 2]);
    check_products(&[0, 1, 2, 3]);
}

#[test]
fn products_with_repeated_forms_are_exact() {
    check_products(&[0, 0]);
    check_products(&[0, 1, 1]);
    check_products(&[0, 0, 1, 1]);
}

#[test]
fn products_longer_than_a_block_and_with_repeated_rows_are_exact() {
    const ROWS: usize = 300;
    const WIDTH: usize = 64;
    let input = inputs((ROWS * WIDTH + ROWS).div_ceil(LEN), 4);
    let bench = Bench::new(input.len(), 64, |b, x| {
        let (wide, narrow) = (slice(b, x, 0, ROWS * WIDTH), slice(b, x, ROWS * WIDTH, ROWS));
        let forms = [(wide, View::ALL), (narrow, View::rows(WIDTH))];
        let forms = forms.map(|(x, view)| Form { open: open(b, x, 12, true), view, negated: false });
        b.push(Op::Product { forms: forms.to_vec(), bits: 64 }, ROWS * WIDTH)
    });
    let expected = (0..ROWS * WIDTH).map(|i| value(input[i], 1).wrapping_mul(value(input[ROWS * WIDTH + i / WIDTH], 1)));
    assert_eq!(bench.run(&input, 1).words, expected.collect::<Vec<_>>());
}

#[test]
fn products_of_matrices_are_exact_in_both_orientations() {
    let (batch, m, k, n, bits) = (3, 5, 7, 4, 38);
    for transposed in [false, true] {
        let input = noise(8, batch * (m * k + k * n));
        let bench = Bench::new(input.len(), bits, |b, x| {
            let (left, right) = (slice(b, x, 0, batch * m * k), slice(b, x, batch * m * k, batch * k * n));
            let (a, c) = (open(b, left, bits, false), open(b, right, bits, false));
            b.push(Op::MatMul { a, b: c, batch, m, k, n, transposed, bits }, batch * m * n)
        });
        let (left, right) = input.split_at(batch * m * k);
        let mut expected = Vec::new();
        for (t, i, j) in (0..batch * m * n).map(|e| (e / (m * n), e / n % m, e % n)) {
            let right = |l: usize| right[t * k * n + if transposed { j * k + l } else { l * n + j }];
            let sum = (0..k).fold(0u64, |s, l| s.wrapping_add(left[(t * m + i) * k + l].wrapping_mul(right(l))));
            expected.push(sum & low(bits));
        }
        assert_eq!(bench.run(&input, 3).words, expected, "transposed {transposed}");
    }
}
