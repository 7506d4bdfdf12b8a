use super::*;
use crate::exec::local::{Who, overwrite};
use crate::exec::randomness::low;

/// Values that an n-bit lifted opening accepts, edges first.
fn in_range(bits: u32, count: usize, seed: u8) -> Vec<i64> {
    let limit = 1i64 << (bits - 2);
    let edges = [0, 1, -1, limit - 1, -limit, limit / 2, -limit / 2];
    let random = noise(seed, count).into_iter().map(|w| (w as i64).rem_euclid(2 * limit) - limit);
    edges.into_iter().chain(random).collect()
}

#[test]
fn a_lifted_opening_gives_a_share_of_the_same_integer_in_the_large_ring() {
    for bits in [3, 8, 16, 20, 38, 63] {
        for seed in 0..4 {
            let values = in_range(bits, 300, seed);
            // Only the low n bits of the input mean anything.
            let junk = noise(seed + 100, values.len());
            let input: Vec<u64> = values.iter().zip(&junk).map(|(v, j)| (*v as u64).wrapping_add(j << bits)).collect();
            let bench = Bench::new(input.len(), 64, |b, x| {
                let x = open(b, x, bits, true);
                lift(b, x)
            });
            let expected: Vec<u64> = values.iter().map(|v| *v as u64).collect();
            assert_eq!(bench.run(&input, seed).words, expected, "{bits} bits, seed {seed}");
        }
    }
}

/// What is read in a small ring is dealt in a small ring, and is as exact there.
#[test]
fn a_lifted_opening_that_is_read_in_a_small_ring_costs_what_that_ring_takes() {
    for (bits, ring) in [(20, 21), (20, 33), (12, 12), (8, 63)] {
        let values = in_range(bits, 300, 6);
        let input: Vec<u64> = values.iter().map(|v| *v as u64).collect();
        let bench = Bench::new(input.len(), ring, |b, x| {
            let x = open(b, x, bits, true);
            lift(b, x)
        });
        let outcome = bench.run(&input, 5);
        let expected: Vec<u64> = values.iter().map(|v| *v as u64 & low(ring)).collect();
        assert_eq!(outcome.words, expected, "{bits} bits read in {ring}");
        let wraps = (ring - bits).max(1);
        assert_eq!(outcome.report.dealer_bytes, [0, 2 * sprint_kernel::packed_len(wraps, input.len()) as u64]);
    }
}

/// A product, scaled, truncated and opened again is read in the ring of that opening and of the bits that truncation takes.
#[test]
fn rings_are_narrowed_through_truncation_and_local_operations() {
    let values = in_range(12, 200, 8);
    let input: Vec<u64> = values.iter().map(|v| *v as u64).collect();
    let bench = Bench::new(input.len(), 18, |b, x| {
        let len = b.len(x);
        let x = open(b, x, 12, true);
        let form = crate::program::Form { open: x, view: crate::program::View::ALL, negated: false };
        let square = b.push(Op::Product { forms: vec![form, form], bits: 64 }, len);
        let scaled = b.push(Op::Scale(square, 3), len);
        b.push(Op::Truncate { src: scaled, ring: 64, by: 6 }, len)
    });
    let narrowed = bench.program.nodes.iter().find_map(|n| match n.op {
        Op::Product { bits, .. } => Some(bits),
        _ => None,
    });
    assert_eq!(narrowed, Some(24));
    for (found, v) in bench.run(&input, 5).words.iter().zip(&values) {
        let off = found.wrapping_sub(((3 * v * v) >> 6) as u64) & low(18);
        assert!(off <= 1, "{v}: off by {off}");
    }
}

#[test]
fn an_unlifted_opening_gives_a_share_in_its_own_ring() {
    for bits in [1, 7, 33, 64] {
        let input = noise(3, 200);
        let bench = Bench::new(input.len(), bits, |b, x| {
            let x = open(b, x, bits, false);
            lift(b, x)
        });
        let expected: Vec<u64> = input.iter().map(|w| w & low(bits)).collect();
        assert_eq!(bench.run(&input, 9).words, expected, "{bits} bits");
    }
}

#[test]
fn opened_bits_have_arithmetic_shares_in_any_ring() {
    for ring in [1, 12, 64] {
        let values = in_range(12, 300, 5);
        let input: Vec<u64> = values.iter().map(|v| *v as u64).collect();
        let bench = Bench::new(input.len(), ring, |b, x| {
            let x = open(b, x, 12, false);
            let intervals = vec![crate::program::Interval { lo: Some(0), hi: None }];
            let len = b.len(x);
            let bits = b.push(Op::Intervals { src: x, drop: 0, intervals }, len);
            let bits = b.push(Op::OpenBits { src: bits, bits: ring }, len);
            lift(b, bits)
        });
        let expected: Vec<u64> = values.iter().map(|v| u64::from(*v >= 0)).collect();
        assert_eq!(bench.run(&input, 2).words, expected, "ring {ring}");
    }
}

/// In ten million truncations of values over the whole ring, and at its edges, no result is off by more than the last place.
#[test]
fn truncation_never_wraps_and_is_unbiased() {
    const CHUNK: usize = 1 << 16;
    let bench = Bench::new(1, 64, |_, x| x);
    let weights = bench.public();
    let (mut count, mut up) = (0u64, 0.0f64);
    for (i, by) in [1u32, 5, 13, 26, 27, 40, 63].into_iter().cycle().take(154).enumerate() {
        let mut values = noise(i as u8, CHUNK);
        let edges = [0, u64::MAX, 1, 1 << 63, (1 << 63) - 1, 1 << 62, (1 << 62) - 1, (1u64 << 62).wrapping_neg()];
        values[..8].copy_from_slice(&edges);
        let mut first = noise(200 - i as u8, CHUNK);
        let mut second: Vec<u64> = values.iter().zip(&first).map(|(x, r)| x.wrapping_sub(*r)).collect();
        let op = Op::Truncate { src: NodeId(0), ring: 64, by };
        overwrite(&weights, Who::First, &op, &mut first, &[]);
        overwrite(&weights, Who::Second, &op, &mut second, &[]);
        for ((x, a), b) in values.iter().zip(&first).zip(&second) {
            let floor = ((*x as i64) >> by) as u64;
            let off = a.wrapping_add(*b).wrapping_sub(floor) & low(64 - by);
            assert!(off <= 1, "{x} by {by} is off by {off}");
            count += 1;
            if by == 40 {
                up += off as f64 - (x & low(by)) as f64 / f64::from(by).exp2();
            }
        }
    }
    assert!(count >= 10_000_000, "{count}");
    // 22·2^16 samples with standard deviation below 1/2: five standard errors.
    assert!((up / (22.0 * 65536.0)).abs() < 2.5 / (22.0f64 * 65536.0).sqrt(), "{up}");
}
