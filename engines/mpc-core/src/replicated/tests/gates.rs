use super::*;
use crate::exec::local::sign_extend;
use crate::program::{Form, Fourier, Interval, Pieces, View};
use crate::replicated::party::truncate;

fn form(open: NodeId) -> Form {
    Form { open, view: View::ALL, negated: false }
}

#[test]
fn a_lift_gives_the_same_integer_in_the_large_ring() {
    for (bits, ring) in [(3, 64), (8, 9), (16, 64), (20, 33), (38, 64), (63, 64)] {
        for seed in 0..3 {
            let values = in_range(bits, 300, seed);
            let bench = Bench::new(values.len(), ring, |b, x| {
                let x = open(b, x, bits, true);
                lift(b, x)
            });
            let outcome = bench.run(&with_junk(&values, bits, seed), seed);
            let expected: Vec<u64> = values.iter().map(|v| *v as u64 & low(ring)).collect();
            assert_eq!(outcome.words, expected, "{bits} bits in {ring}, seed {seed}");
            assert_eq!(outcome.report.rounds, 1, "what is dealt does not wait for the value");
        }
    }
}

#[test]
fn products_are_exact_in_any_mix_of_rings_bits_and_negated_bits() {
    const LEN: usize = 70;
    for kinds in 0..64usize {
        let kinds = [kinds % 4, kinds / 4 % 4, kinds / 16];
        let small = in_range(12, 3 * LEN, kinds[0] as u8);
        let input = with_junk(&small[..3 * LEN], 12, 5);
        let bench = Bench::new(input.len(), 64, |b, x| {
            let forms = kinds.iter().enumerate().map(|(at, kind)| {
                let part = slice(b, x, at * LEN, LEN);
                let (open, negated) = match kind {
                    0 => (open(b, part, 64, false), false),
                    1 => (open(b, part, 12, true), false),
                    _ => {
                        let x = open(b, part, 12, false);
                        let intervals = vec![Interval { lo: Some(0), hi: None }];
                        let bits = b.push(Op::Intervals { src: x, drop: 0, intervals }, LEN);
                        (b.push(Op::OpenBits { src: bits, bits: 64 }, LEN), *kind == 3)
                    }
                };
                Form { open, view: View::ALL, negated }
            });
            let forms = forms.collect();
            b.push(Op::Product { forms, bits: 64 }, LEN)
        });
        let value = |at: usize, i: usize| {
            let (word, small) = (input[at * LEN + i], small[at * LEN + i]);
            match kinds[at] {
                0 => word,
                1 => small as u64,
                2 => u64::from(small >= 0),
                _ => u64::from(small < 0),
            }
        };
        let expected: Vec<u64> = (0..LEN).map(|i| (0..3).fold(1u64, |p, at| p.wrapping_mul(value(at, i)))).collect();
        assert_eq!(bench.run(&input, 7).words, expected, "{kinds:?}");
    }
}

/// Above the size where bits choose in the value's own ring, the value may be anything where it is not chosen.
#[test]
fn a_large_choice_is_made_in_the_small_ring_and_is_the_same() {
    const LEN: usize = 1 << 17;
    let values = in_range(18, LEN, 1);
    let mut input = with_junk(&values[..LEN], 18, 2);
    // Signs of a second value; where it is negative, the first is out of range.
    let signs = noise(3, LEN);
    input.iter_mut().zip(&signs).filter(|(_, s)| **s >> 63 == 1).for_each(|(x, s)| *x = s >> 7);
    let both: Vec<u64> = input.iter().chain(&signs).copied().collect();
    let bench = Bench::new(2 * LEN, 64, |b, x| {
        let (value, sign) = (slice(b, x, 0, LEN), slice(b, x, LEN, LEN));
        let (value, sign) = (open(b, value, 18, true), open(b, sign, 64, false));
        let bits = b.push(Op::Intervals { src: sign, drop: 0, intervals: vec![Interval { lo: Some(0), hi: None }] }, LEN);
        let bits = b.push(Op::OpenBits { src: bits, bits: 64 }, LEN);
        b.push(Op::Product { forms: vec![form(bits), form(value)], bits: 64 }, LEN)
    });
    let expected: Vec<u64> = (0..LEN).map(|i| if signs[i] >> 63 == 0 { values[i] as u64 } else { 0 }).collect();
    assert!(bench.run(&both, 4).words == expected);
}

#[test]
fn matrix_products_are_exact_straight_and_transposed() {
    let (batch, m, k, n) = (2, 3, 5, 4);
    let input = noise(8, batch * (m * k + k * n));
    for transposed in [false, true] {
        let bench = Bench::new(input.len(), 50, |b, x| {
            let (a, c) = (slice(b, x, 0, batch * m * k), slice(b, x, batch * m * k, batch * k * n));
            let (a, c) = (open(b, a, 50, false), open(b, c, 50, false));
            b.push(Op::MatMul { a, b: c, batch, m, k, n, transposed, bits: 50 }, batch * m * n)
        });
        let (a, c) = input.split_at(batch * m * k);
        let mut expected = Vec::new();
        for i in 0..batch * m * n {
            let (at, row, column) = (i / (m * n), i / n % m, i % n);
            let word = |l: usize| c[at * k * n + if transposed { column * k + l } else { l * n + column }];
            let sum = (0..k).fold(0u64, |s, l| s.wrapping_add(a[at * m * k + row * k + l].wrapping_mul(word(l))));
            expected.push(sum & low(50));
        }
        assert_eq!(bench.run(&input, 3).words, expected, "transposed: {transposed}");
    }
}

fn interval_bits(len: usize, bits: u32, drop: u32, intervals: &[Interval]) -> Bench {
    Bench::new(len, 5, |b, x| {
        let x = open(b, x, bits, false);
        let count = len * intervals.len();
        let found = b.push(Op::Intervals { src: x, drop, intervals: intervals.to_vec() }, count);
        let found = b.push(Op::OpenBits { src: found, bits: 5 }, count);
        lift(b, found)
    })
}

fn inside(x: i64, interval: &Interval) -> bool {
    interval.lo.is_none_or(|lo| x >= lo) && interval.hi.is_none_or(|hi| x < hi)
}

#[test]
fn interval_bits_are_exact_on_half_of_every_ring_whatever_its_blocks() {
    for bits in 3..=14u32 {
        let half = 1i64 << (bits - 2);
        let bounds = [None, Some(1 - half), Some(-1), Some(0), Some(1), Some(half / 2), Some(half - 1)];
        let pairs = bounds.iter().flat_map(|lo| bounds.iter().map(|hi| Interval { lo: *lo, hi: *hi }));
        let intervals: Vec<Interval> = pairs.filter(|i| i.lo.unwrap_or(-half) < i.hi.unwrap_or(half)).collect();
        let values: Vec<i64> = (-half..half).collect();
        let input = with_junk(&values, bits, 1);
        let found = interval_bits(values.len(), bits, 0, &intervals).run(&input, bits as u8).words;
        for (found, interval) in found.chunks(values.len()).zip(&intervals) {
            let expected: Vec<u64> = values.iter().map(|x| u64::from(inside(*x, interval))).collect();
            assert_eq!(found, expected, "{bits} bits, {interval:?}");
        }
    }
    // Signs are right on the whole ring.
    let input = noise(4, 500);
    let sign = [Interval { lo: Some(0), hi: None }];
    for bits in [12, 24, 39, 64] {
        let expected: Vec<u64> = input.iter().map(|x| u64::from(sign_extend(*x, bits) >= 0)).collect();
        assert_eq!(interval_bits(500, bits, 0, &sign).run(&input, 3).words, expected, "{bits} bits");
    }
}

/// A difference with an edge does not leave the ring wherever the argument may be.
#[test]
fn soft_caps_are_right_on_the_whole_range_of_their_argument() {
    for (cap, least) in [(50.0f64, 22), (12.0, 20), (1.0, 20)] {
        let function = sprint_model::Func::SoftCap { cap };
        let most = f64::from(least as i32 - 13).exp2().max(5.0 * cap);
        let values: Vec<f64> = (-400..400).map(|i| f64::from(i) / 400.0 * most * 0.999).collect();
        let (bench, out) = Bench::lowered(values.len(), (40, 20), |lowering, x| {
            let ring = lowering.argument_ring(function, least);
            lowering.apply(x, function, ring).expect("offered")
        });
        let input: Vec<u64> = values.iter().map(|x| (x * 20f64.exp2()).round() as i64 as u64).collect();
        let found = bench.run(&input, 5).words;
        for (x, word) in values.iter().zip(found) {
            let y = sign_extend(word, out.ring) as f64 * (-f64::from(out.f)).exp2();
            let expected = cap * (x / cap).tanh();
            assert!((y - expected).abs() < 2e-3f64.max(1e-4 * cap), "cap {cap}: {y} for {expected} at {x}");
        }
    }
}

#[test]
fn dropped_bits_move_a_bound_by_less_than_one_coarse_unit() {
    let (bits, drop) = (20, 12);
    let values = in_range(bits, 4000, 6);
    let intervals = [Interval { lo: Some(-4), hi: Some(5) }, Interval { lo: Some(5), hi: None }];
    let found = interval_bits(values.len(), bits, drop, &intervals).run(&with_junk(&values, bits, 6), 6).words;
    for (found, interval) in found.chunks(values.len()).zip(&intervals) {
        for (bit, x) in found.iter().zip(&values) {
            let allowed = [x >> drop, (x >> drop) + 1].map(|x| u64::from(inside(x, interval)));
            assert!(allowed.contains(bit), "{x}: {bit} for {interval:?}");
        }
    }
}

/// Differences of slices of one opening, compared without another message for their values.
#[test]
fn differences_of_an_opening_are_compared_under_the_opening_s_deal() {
    let values = in_range(11, 3 * 64, 2);
    let input = with_junk(&values[..192], 12, 2);
    let pairs = [(0u32, 1u32), (2, 0), (1, 2)];
    let bench = Bench::new(192, 3, |b, x| {
        let x = open(b, x, 12, false);
        let differences = b.push(Op::Differences { src: x, count: 64, pairs: pairs.to_vec() }, 192);
        let bits = b.push(Op::Intervals { src: differences, drop: 0, intervals: vec![Interval { lo: Some(0), hi: None }] }, 192);
        let bits = b.push(Op::OpenBits { src: bits, bits: 3 }, 192);
        lift(b, bits)
    });
    let of = |(a, b): (u32, u32), i: usize| u64::from(values[a as usize * 64 + i] >= values[b as usize * 64 + i]);
    let expected: Vec<u64> = pairs.iter().flat_map(|p| (0..64).map(move |i| of(*p, i))).collect();
    assert_eq!(bench.run(&input, 9).words, expected);
}

#[test]
fn a_series_is_the_fourier_sum_of_the_value() {
    const TRIG: u32 = 15;
    let fit = Fourier { period_bits: 13, multiplier: 1, cos: vec![0.25, -1.5, 0.0, 0.75], sin: vec![0.0, 0.5, 2.0, -0.125] };
    let values = in_range(13, 5000, 3);
    let bench = Bench::new(values.len(), 40, |b, x| {
        let len = b.len(x);
        let x = open(b, x, 13, false);
        let fit = b.fit(fit.clone());
        b.push(Op::Series { src: x, fit, coefficient_bits: 15, trig_bits: TRIG, bits: 40 }, len)
    });
    let found = bench.run(&with_junk(&values, 13, 3), 3).words;
    for (word, x) in found.iter().zip(&values) {
        let angle = std::f64::consts::TAU * *x as f64 / f64::from(1 << 13);
        let terms = (0..4).map(|j| fit.cos[j] * (j as f64 * angle).cos() + fit.sin[j] * (j as f64 * angle).sin());
        let (expected, found) = (terms.sum::<f64>(), sign_extend(*word, 40) as f64 / f64::from(1 << 30));
        // Each of six products has two factors rounded to 2^-16.
        assert!((found - expected).abs() < 6.0 * 3.0 / 65536.0, "{x}: {found} where {expected}");
    }
}

#[test]
fn tables_are_looked_up_exactly_at_every_index() {
    let entries: Vec<u64> = noise(1, 1 << 7).iter().map(|w| w >> 12).collect();
    let input: Vec<u64> = (0..1 << 7).collect();
    let bench = Bench::new(input.len(), 64, |b, x| {
        let x = open(b, x, 7, false);
        let pieces = b.pieces(Pieces::look_up(&entries));
        b.push(Op::Piecewise { src: x, pieces }, 1 << 7)
    });
    assert_eq!(bench.run(&input, 1).words, entries);
}

#[test]
fn polynomials_are_exact() {
    let input = noise(6, 100);
    for coefficients in
        [vec![5], vec![5, -3], vec![1, 2, 3], vec![0, -7, 0, 11], vec![9, 8, -7, 6, -5], vec![1, 0, 0, 0, 0, 2, -3]]
    {
        let bench = Bench::new(input.len(), 64, |b, x| {
            let x = open(b, x, 64, false);
            b.push(Op::Polynomial { src: x, coefficients: coefficients.clone() }, 100)
        });
        let horner = |x: &u64| coefficients.iter().rev().fold(0u64, |s, c| s.wrapping_mul(*x).wrapping_add(*c as u64));
        assert_eq!(bench.run(&input, 2).words, input.iter().map(horner).collect::<Vec<_>>(), "{coefficients:?}");
    }
}

/// In ten million truncations of values over the whole ring, and at its edges, no result is off by one and a half units.
#[test]
fn truncation_of_three_never_wraps_and_is_unbiased() {
    const CHUNK: usize = 1 << 16;
    let (mut count, mut up) = (0u64, 0.0f64);
    for (i, by) in [1u32, 5, 13, 26, 27, 40, 60].into_iter().cycle().take(154).enumerate() {
        let mut values = noise(i as u8, CHUNK);
        let edges = [0, u64::MAX, 1, 1 << 63, (1 << 63) - 1, 1 << 62, (1 << 62) - 1, (1u64 << 62).wrapping_neg()];
        values[..8].copy_from_slice(&edges);
        let mut shares = [noise(200 - i as u8, CHUNK), noise(0x64 ^ i as u8, CHUNK), Vec::new()];
        shares[2] = (0..CHUNK).map(|i| values[i].wrapping_sub(shares[0][i]).wrapping_sub(shares[1][i])).collect();
        shares.iter_mut().zip(Server::ALL).for_each(|(words, server)| truncate(server, words, 64, by));
        for (at, x) in values.iter().enumerate() {
            let sum = shares.iter().fold(0u64, |s, w| s.wrapping_add(w[at]));
            let floor = ((*x as i64) >> by) as u64;
            let off = sign_extend(sum.wrapping_sub(floor), 64 - by) as f64 - (x & low(by)) as f64 / f64::from(by).exp2();
            assert!(off.abs() <= 1.5, "{x} by {by} is off by {off}");
            count += 1;
            if by == 40 {
                up += off;
            }
        }
    }
    assert!(count >= 10_000_000, "{count}");
    // 22·2^16 samples of standard deviation 1/2: five standard errors.
    assert!((up / (22.0 * 65536.0)).abs() < 2.5 / (22.0f64 * 65536.0).sqrt(), "{up}");
}

#[test]
fn what_has_no_form_for_three_servers_is_refused_with_a_fix() {
    let sources: [fn(&mut Builder, NodeId) -> NodeId; 2] = [
        |b, x| {
            let opened = open(b, x, 12, false);
            let interval = Interval { lo: Some(1024), hi: None };
            let bits = b.push(Op::Intervals { src: opened, drop: 0, intervals: vec![interval] }, 8);
            let bits = b.push(Op::OpenBits { src: bits, bits: 1 }, 8);
            lift(b, bits)
        },
        |b, x| {
            let opened = open(b, x, 12, false);
            b.push(Op::Product { forms: vec![form(opened), form(opened)], bits: 64 }, 8)
        },
    ];
    for build in sources {
        let error = ReplicatedProgram::new(program(8, 64, build)).err().expect("refused").to_string();
        assert!(error.contains("three servers") && error.contains("use mode exact"), "{error}");
    }
}
