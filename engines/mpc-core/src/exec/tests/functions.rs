use super::*;
use crate::compile::{Lowering, Val};
use crate::exec::local::sign_extend;
use crate::exec::randomness::low;
use crate::program::{Fourier, Interval, Pieces};

/// Opens `bits` bits of the input and gives the interval bits as words.
fn interval_bench(len: usize, bits: u32, drop: u32, intervals: &[Interval]) -> Bench {
    Bench::new(len, 1, |b, x| {
        let x = open(b, x, bits, false);
        let count = len * intervals.len();
        let found = b.push(Op::Intervals { src: x, drop, intervals: intervals.to_vec() }, count);
        let found = b.push(Op::OpenBits { src: found, bits: 1 }, count);
        lift(b, found)
    })
}

fn inside(x: i64, interval: &Interval) -> bool {
    interval.lo.is_none_or(|lo| x >= lo) && interval.hi.is_none_or(|hi| x < hi)
}

#[test]
fn interval_bits_of_keys_are_exact_on_every_value_of_ten_bits() {
    let bounds = [None, Some(-512), Some(-400), Some(-1), Some(0), Some(1), Some(301), Some(511)];
    let pairs = bounds.iter().flat_map(|lo| bounds.iter().map(|hi| Interval { lo: *lo, hi: *hi }));
    let intervals: Vec<Interval> = pairs.filter(|i| i.lo.unwrap_or(-512) < i.hi.unwrap_or(512)).collect();
    let input: Vec<u64> = (0..1024).collect();
    for seed in 0..4 {
        let found = interval_bench(1024, 10, 0, &intervals).run(&input, seed).words;
        for (found, interval) in found.chunks(1024).zip(&intervals) {
            let expected: Vec<u64> = input.iter().map(|x| u64::from(inside(sign_extend(*x, 10), interval))).collect();
            assert_eq!(found, expected, "{interval:?}");
        }
    }
}

#[test]
fn interval_bits_of_unit_vectors_are_exact_on_every_value_of_up_to_nine_bits() {
    for bits in 1..=9u32 {
        let half = 1i64 << (bits - 1);
        let bounds = [None, Some(-half), Some(-half / 2), Some(0), Some(half / 2), Some(half - 1)];
        let pairs = bounds.iter().flat_map(|lo| bounds.iter().map(|hi| Interval { lo: *lo, hi: *hi }));
        let intervals: Vec<Interval> = pairs.filter(|i| i.lo.unwrap_or(-half) < i.hi.unwrap_or(half)).collect();
        let input: Vec<u64> = (0..1 << bits).collect();
        let found = interval_bench(input.len(), bits, 0, &intervals).run(&input, bits as u8).words;
        for (found, interval) in found.chunks(input.len()).zip(&intervals) {
            let expected: Vec<u64> = input.iter().map(|x| u64::from(inside(sign_extend(*x, bits), interval))).collect();
            assert_eq!(found, expected, "{bits} bits, {interval:?}");
        }
    }
}

/// Words are 0 where all is well; otherwise the window word is random and so is the lift word in its upper bits.
#[test]
fn alarms_are_zero_exactly_for_examples_without_a_value_out_of_range() {
    const EACH: usize = 40;
    let (bits, ring) = (12, 20);
    let limit = 1i64 << (bits - 2);
    let bench = |batch: usize| {
        Bench::new(batch * EACH, 64, |b, x| {
            let opened = b.push(Op::Open { src: x, bits, lifted: true, checked: false, share: 64 }, batch * EACH);
            let op = Op::Intervals { src: opened, drop: 4, intervals: vec![Interval { lo: Some(-32), hi: Some(33) }] };
            let inside = b.push(op, batch * EACH);
            let alarm = b.push(Op::Alarm { src: inside, coins: opened, planes: 1, examples: batch }, batch);
            let lanes = Op::LIFT_LANES * batch;
            let lift = b.push(Op::LiftCheck { wide: x, open: opened, ring, examples: batch }, lanes);
            b.push(Op::Concat(vec![alarm, lift]), batch + lanes)
        })
    };
    let honest = |seed: u8| noise(seed, 3 * EACH).into_iter().map(move |w| (w as i64).rem_euclid(limit) - limit / 2);
    for (seed, bad) in [(1, None), (2, Some(3 * limit / 2)), (3, Some(-2 * limit)), (4, Some(1 << bits)), (5, Some(-(5 << bits)))]
    {
        let mut values: Vec<i64> = honest(seed).collect();
        if let Some(bad) = bad {
            values[EACH + 7] = bad;
        }
        let input: Vec<u64> = values.iter().map(|v| *v as u64).collect();
        let words = bench(3).run(&input, seed).words;
        let alarmed = |e: usize| words[e] != 0 || words[3 + 8 * e..][..8].iter().any(|w| *w != 0);
        assert_eq!([0, 1, 2].map(alarmed), [false, bad.is_some(), false], "{bad:?}");
    }
}

#[test]
fn interval_bits_of_wide_values_meet_bounds_to_one_dropped_unit() {
    for (bits, drop) in [(16, 0), (20, 0), (20, 4), (24, 12)] {
        let unit = bits - drop;
        let interval = Interval { lo: Some(-(1 << (unit - 3))), hi: Some(1 << (unit - 4)) };
        let input = noise(bits as u8, 5000);
        let found = interval_bench(5000, bits, drop, &[interval]).run(&input, 6).words;
        for (x, found) in input.iter().zip(found) {
            let floor = sign_extend(*x, bits) >> drop;
            let allowed = [floor, if drop == 0 { floor } else { sign_extend(floor as u64 + 1, unit) }];
            assert!(allowed.iter().any(|x| u64::from(inside(*x, &interval)) == found), "{floor} of {bits} bits");
        }
    }
}

#[test]
fn differences_of_an_opening_are_compared_without_another_opening() {
    let input = noise(1, 90);
    let bench = Bench::new(90, 1, |b, x| {
        let x = open(b, x, 14, false);
        let differences = b.push(Op::Differences { src: x, count: 30, pairs: vec![(0, 1), (2, 0)] }, 60);
        let found = b.push(Op::Intervals { src: differences, drop: 0, intervals: vec![Interval { lo: Some(0), hi: None }] }, 60);
        let found = b.push(Op::OpenBits { src: found, bits: 1 }, 60);
        lift(b, found)
    });
    let compare = |a: usize, b: usize| (0..30).map(move |i| (a * 30 + i, b * 30 + i));
    let expected = compare(0, 1).chain(compare(2, 0)).map(|(a, b)| sign_extend(input[a].wrapping_sub(input[b]), 14) >= 0);
    assert_eq!(bench.run(&input, 4).words, expected.map(u64::from).collect::<Vec<_>>());
    assert_eq!(bench.program.cost().rounds, 2);
}

/// Rounding of each cosine and each coefficient: half a unit of either for every frequency and both functions.
#[test]
fn a_series_is_its_formula_up_to_the_rounding_of_its_factors() {
    let fit = Fourier { period_bits: 14, multiplier: 1, cos: vec![0.5, -1.25, 0.0, 0.125], sin: vec![0.0, 2.0, -0.75, 0.0] };
    let (coefficient_bits, trig_bits, bits) = (15, 15, 40);
    let input = noise(2, 3000);
    let bench = Bench::new(3000, bits, |b, x| {
        let x = open(b, x, 20, false);
        let fit = b.fit(fit.clone());
        b.push(Op::Series { src: x, fit, coefficient_bits, trig_bits, bits }, 3000)
    });
    let bound = (1.25 + 0.125 + 2.0 + 0.75 + 2.0 * 3.0) * 2.0 * f64::from(-15).exp2();
    for (x, word) in input.iter().zip(bench.run(&input, 8).words) {
        let angle = std::f64::consts::TAU * (x & low(14)) as f64 / f64::from(1 << 14);
        let terms = (0..4).map(|j| fit.pair(j)).enumerate();
        let expected: f64 = terms.map(|(j, (a, b))| a * (j as f64 * angle).cos() + b * (j as f64 * angle).sin()).sum();
        let found = sign_extend(word, bits) as f64 / f64::from(30).exp2();
        assert!((found - expected).abs() < bound, "{found} for {expected}");
    }
}

#[test]
fn a_polynomial_of_a_ring_word_is_exact() {
    for coefficients in [vec![3], vec![1, -2], vec![5, 7, -11], vec![-1, 2, -3, 4, 1 << 40]] {
        let input = noise(12, 100);
        let bench = Bench::new(100, 64, |b, x| {
            let x = open(b, x, 64, false);
            b.push(Op::Polynomial { src: x, coefficients: coefficients.clone() }, 100)
        });
        let horner = |x: &u64| coefficients.iter().rev().fold(0u64, |s, c| s.wrapping_mul(*x).wrapping_add(*c as u64));
        assert_eq!(bench.run(&input, 5).words, input.iter().map(horner).collect::<Vec<_>>(), "{coefficients:?}");
    }
}

#[test]
fn look_ups_are_exact_at_every_index() {
    for bits in [1u32, 2, 5, 8, 10] {
        let size = 1usize << bits;
        let entries: Vec<u64> = noise(1, size).iter().map(|w| w >> 12).collect();
        let input: Vec<u64> = (0..size as u64).collect();
        let bench = Bench::new(size, 64, |b, x| {
            let x = open(b, x, bits, false);
            let pieces = b.pieces(Pieces::look_up(&entries));
            b.push(Op::Piecewise { src: x, pieces }, size)
        });
        assert_eq!(bench.run(&input, bits as u8).words, entries, "{bits} bits");
    }
}

/// Every octave of the range, and an octave on either side, in a single opening.
#[test]
fn smooth_functions_are_within_2e_6_over_their_range() {
    const F: u32 = 28;
    const COUNT: usize = 6000;
    let (lo, hi) = (-3, 9);
    let values: Vec<f64> =
        noise(9, COUNT).iter().map(|w| (f64::from(lo - 1) + 13.95 * (w >> 11) as f64 / (1u64 << 53) as f64).exp2()).collect();
    let input: Vec<u64> = values.iter().map(|v| crate::weights::encode(*v, F)).collect();
    for (name, g) in [("inverse", (|v| 1.0 / v) as fn(f64) -> f64), ("inverse root", |v| 1.0 / v.sqrt())] {
        let mut lowering = Lowering::bare(8);
        let node = lowering.b.input(Input::Embedded, COUNT);
        let found = lowering.smooth(Val { node, ring: 64, f: F }, g, (lo, hi), (26, 32));
        let bench = Bench::finish(lowering.b, COUNT, found.ring, found.node);
        assert_eq!(bench.program.cost().rounds, 1, "{name}");
        for (v, word) in values.iter().zip(bench.run(&input, 6).words) {
            let (found, expected) = (sign_extend(word, found.ring) as f64 / f64::from(26).exp2(), g(*v));
            // A value is opened with 12 bits beyond its smallest cell of a sixteenth of an octave, 2^-4, at least.
            let unit = f64::from(lo - 1 - 4 - 12).exp2();
            let bound = expected * (2e-6 + 2.0 * unit / v) + 2.0 * f64::from(-26).exp2();
            assert!((found - expected).abs() < bound, "{name} of {v}: {found} for {expected}");
        }
    }
}

/// The tree compares values in units of 2, so the result is one of the row's coarse values, and at most one unit off the maximum.
#[test]
fn row_maxima_of_every_width_are_within_two() {
    const F: u32 = 26;
    const ROWS: usize = 3;
    for width in (1..=40).chain([63, 64, 65, 100, 127, 128, 129, 130]) {
        let values: Vec<f64> = noise(width as u8, ROWS * width).iter().map(|w| (w % 200_000) as f64 / 1000.0 - 100.0).collect();
        let input: Vec<u64> = values.iter().map(|v| crate::weights::encode(*v, F)).collect();
        let mut lowering = Lowering::bare(width);
        let node = lowering.b.input(Input::Embedded, input.len());
        let most = lowering.row_maximum(Val { node, ring: 36, f: F }, width);
        let (f, ring, node) = (most.f, most.ring, most.node);
        let bench = Bench::finish(lowering.b, input.len(), ring, node);
        let found = bench.run(&input, 7).words;
        for (row, word) in values.chunks(width).zip(found) {
            let found = sign_extend(word, ring) as f64 / f64::from(f).exp2();
            let expected = row.iter().copied().fold(f64::MIN, f64::max);
            assert!((found - expected).abs() <= 2.0 + 1e-6, "width {width}: {found} for {expected}");
        }
        let levels = 1 + (width as f64 / 8.0).log(4.0).ceil().max(0.0) as u32;
        assert!(bench.program.cost().rounds <= 2 * levels, "width {width}");
    }
}
