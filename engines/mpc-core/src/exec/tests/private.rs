//! Scalar products of private vectors: each gate's equation, on every value of its short domain where it has one.

use super::protocol::{LIMIT, chi_square};
use super::*;
use crate::compile::{Lowering, Val};
use crate::exec::local::sign_extend;
use crate::exec::private;
use crate::exec::randomness::low;
use crate::program::{Choice, Digit, Field, Formula, Relation, Scale, Step};

/// What both parties end up with for these input shares; the cost is checked.
fn run_shares(bench: &Bench, shares: &[Vec<u64>; 2], seed: u8) -> [Vec<u64>; 2] {
    let bytes = shares.each_ref().map(|s| s.iter().flat_map(|w| w.to_le_bytes()).collect());
    let (report, outputs) = bench.runner().lockstep(&bytes, seeds(seed)).expect("runs");
    let cost = bench.program.cost();
    assert_eq!(
        (report.rounds, report.online_bytes, report.dealer_bytes),
        (cost.rounds, [cost.online_bytes; 2], cost.dealer_bytes)
    );
    outputs.map(|s| words(&s))
}

fn additive(input: &[u64], seed: u8) -> [Vec<u64>; 2] {
    split(input, seed).map(|s| words(&s))
}

fn xored(input: &[u64], seed: u8) -> [Vec<u64>; 2] {
    let mask = noise(seed ^ 0x2a, input.len());
    let other = input.iter().zip(&mask).map(|(x, m)| x ^ m).collect();
    [mask, other]
}

fn xor([a, b]: [Vec<u64>; 2]) -> Vec<u64> {
    a.iter().zip(&b).map(|(a, b)| a ^ b).collect()
}

/// A bench of the gates that a lowering in mode `lean` makes of its input, in Z_2^ring with `f` fractional bits.
fn lowered(len: usize, tokens: usize, (ring, f): (u32, u32), build: impl FnOnce(&mut Lowering, Val) -> Val) -> (Bench, Val) {
    let mut lowering = Lowering::bare(tokens);
    lowering.lean = true;
    let node = lowering.b.input(Input::Embedded, len);
    let out = build(&mut lowering, Val { node, ring, f });
    (Bench::finish(lowering.b, len, out.ring, out.node), out)
}

#[test]
fn signed_comparisons_are_exact_on_every_value_of_up_to_twelve_bits() {
    for bits in [5u32, 8, 9, 12] {
        let half = 1i64 << (bits - 1);
        let thresholds = [0, 1, -1, half / 4 + 1, -half / 3];
        let input: Vec<u64> = (0..1 << bits).collect();
        let (bench, _) = lowered(input.len(), 1, (64, 0), |lowering, x| {
            let reshared = lowering.reshare(x, bits);
            let node = lowering.at_least(reshared, bits, 0, &thresholds);
            Val { node, ring: thresholds.len() as u32, f: 0 }
        });
        for seed in 0..3 {
            let found = xor(run_shares(&bench, &additive(&input, seed), seed));
            for (x, found) in input.iter().map(|x| sign_extend(*x, bits)).zip(found) {
                // The difference with the threshold must not leave the ring.
                for (i, t) in thresholds.iter().enumerate().filter(|(_, t)| (-half..half).contains(&(x - **t))) {
                    assert_eq!(found >> i & 1, u64::from(x >= *t), "{x} ≥ {t} in {bits} bits");
                }
            }
        }
    }
}

#[test]
fn two_thresholds_that_share_their_lowest_bits_are_compared_exactly() {
    let (bits, thresholds) = (10, [-16, 16]);
    let input: Vec<u64> = (0..1 << bits).collect();
    let (bench, _) = lowered(input.len(), 1, (64, 0), |lowering, x| {
        let reshared = lowering.reshare(x, bits);
        Val { node: lowering.at_least_two(reshared, (bits, 0, 5), thresholds), ring: 2, f: 0 }
    });
    for seed in 0..10 {
        for (x, found) in input.iter().zip(xor(run_shares(&bench, &additive(&input, seed), seed))) {
            let x = sign_extend(*x, bits);
            if (-496..496).contains(&x) {
                assert_eq!(found, u64::from(x >= -16) | u64::from(x >= 16) << 1, "{x}");
            }
        }
    }
}

#[test]
fn fields_are_the_relations_of_every_two_digits() {
    let relations = [Relation::AtLeast, Relation::Above, Relation::Equal];
    let digits = vec![Digit { offset: 0, width: 3 }, Digit { offset: 3, width: 2 }];
    let fields = (0..2).flat_map(|digit| relations.map(|relation| [0, 5].map(|shift| Field { digit, relation, shift })));
    let fields: Vec<Field> = fields.flatten().collect();
    let scale = Scale { multiplier: 3, bits: 7, drop: 2, digits, fields: fields.clone(), tops: vec![0, 5] };
    let scales = std::slice::from_ref(&scale);
    for (x, r) in (0..128u64).flat_map(|x| (0..128u64).map(move |r| (x, r))) {
        let word = private::fields(scales, &[r], &private::digit_vectors(scales, &[x]))[0];
        let [x_number, r_number] = [x, r].map(|v| ((3 * v) & 127) >> 2);
        for (i, field) in fields.iter().enumerate() {
            let part = |n: u64| (n >> [0, 3][field.digit]) & [7, 3][field.digit];
            let [x, r] = [part(x_number), part(r_number + field.shift as u64)];
            let expected = match field.relation {
                Relation::AtLeast => x >= r,
                Relation::Above => x > r,
                Relation::Equal => x == r,
            };
            assert_eq!(word >> i & 1, u64::from(expected), "{field:?} of {x_number} and {r_number}");
        }
        let tops = private::own_tops(scales, &[x])[0] ^ private::mask_tops(scales, &[r])[0];
        for (i, shift) in [0, 5].into_iter().enumerate() {
            assert_eq!(tops >> (fields.len() + i) & 1, (x_number ^ (r_number + shift)) >> 4 & 1);
        }
    }
}

#[test]
fn formulas_of_up_to_three_factors_are_exact_on_every_word() {
    let formulas = vec![
        Formula { constant: true, linear: 0b10011, products: Vec::new() },
        Formula { constant: false, linear: 1, products: vec![vec![(2, false), (4, true)]] },
        Formula { constant: false, linear: 0, products: vec![vec![(3, false), (8, true), (16, false)]] },
        Formula {
            constant: true,
            linear: 4,
            products: vec![vec![(1, true), (2, true)], vec![(4, false), (8, false), (16, true)]],
        },
    ];
    let parity = |w: u64| w.count_ones() % 2 == 1;
    let one = |f: &Formula, w: u64| {
        let products = f.products.iter().map(|p| p.iter().all(|(mask, constant)| parity(w & mask) ^ constant));
        products.fold(f.constant ^ parity(w & f.linear), |x, p| x ^ p)
    };
    let input: Vec<u64> = (0..32).flat_map(|w| [w; 9]).collect();
    let bench = Bench::new(input.len(), 4, |b, x| b.push(Op::Boolean { src: x, formulas: formulas.clone() }, input.len()));
    for seed in 0..20 {
        let found = xor(run_shares(&bench, &xored(&input, seed), seed));
        let expected = input.iter().map(|w| formulas.iter().enumerate().fold(0, |o, (i, f)| o | u64::from(one(f, *w)) << i));
        assert_eq!(found, expected.collect::<Vec<u64>>());
    }
}

#[test]
fn selections_are_sums_of_what_their_bits_choose() {
    const LEN: usize = 5000;
    for bits in [64, 17, 1] {
        let bench = Bench::new(3 * LEN, bits, |b, x| {
            let [word, first, second] = [0, 1, 2].map(|i| slice(b, x, i * LEN, LEN));
            let choices = vec![
                Choice { bits: word, mask: 1, value: first },
                Choice { bits: word, mask: 6, value: second },
                Choice { bits: word, mask: 7, value: first },
            ];
            b.push(Op::Select { choices, bits }, LEN)
        });
        let [word, values] = [noise(3, LEN).iter().map(|w| w & 7).collect::<Vec<u64>>(), noise(4, 2 * LEN)];
        let [[a, b], [c, d]] = [xored(&word, 5), additive(&values, 6)];
        let [a, b] = run_shares(&bench, &[[a, c].concat(), [b, d].concat()], 7);
        for i in 0..LEN {
            let chosen = |mask: u64| u64::from((word[i] & mask).count_ones() % 2);
            let expected = (chosen(1) + chosen(7)).wrapping_mul(values[i]).wrapping_add(chosen(6).wrapping_mul(values[LEN + i]));
            assert_eq!(a[i].wrapping_add(b[i]) & low(bits), expected & low(bits));
        }
    }
}

#[test]
fn extensions_are_exact_on_every_value_of_their_domain() {
    for (from, to) in [(3, 64), (8, 20), (12, 13)] {
        for bias in [0u64, 1, 1 << (from - 2)] {
            let values: Vec<i64> = (0..1i64 << (from - 1)).map(|v| v - bias as i64).collect();
            let input: Vec<u64> = values.iter().map(|v| *v as u64 & low(from)).collect();
            let bench = Bench::new(input.len(), to, |b, x| b.push(Op::Extend { src: x, from, to, bias }, input.len()));
            for seed in 0..20 {
                // Shares are reduced, as truncation leaves them.
                let shares = additive(&input, seed).map(|s| s.iter().map(|w| w & low(from)).collect());
                let [a, b] = run_shares(&bench, &shares, seed);
                for ((a, b), v) in a.iter().zip(&b).zip(&values) {
                    assert_eq!(a.wrapping_add(*b) & low(to), *v as u64 & low(to), "{v} from {from} bits to {to}");
                }
            }
        }
    }
}

/// Error of `apply` at points from `lo` to `hi`, each given by every one of four seeds.
fn worst(func: sprint_model::Func, (lo, hi): (f64, f64), (ring, f): (u32, u32)) -> f64 {
    const LEN: usize = 6001;
    let at = |i: usize| lo + (hi - lo) * i as f64 / (LEN - 1) as f64;
    let input: Vec<u64> = (0..LEN).map(|i| crate::weights::encode(at(i), f)).collect();
    let (bench, out) = lowered(LEN, 1, (ring, f), |lowering, x| lowering.apply(x, func, 20).expect("offered"));
    let mut worst = 0.0f64;
    for seed in 0..4 {
        for (word, bits) in bench.run(&input, seed).words.iter().zip(&input) {
            let found = sign_extend(*word, out.ring) as f64 / f64::from(out.f).exp2();
            let x = sign_extend(*bits, ring) as f64 / f64::from(f).exp2();
            worst = worst.max((found - func.eval(x)).abs());
        }
    }
    worst
}

/// The series' 3e-4, the edges' 3.3e-4 and the noise of 11 lanes of 12 bits; beyond the edge the argument has ten fractional bits.
#[test]
fn gelu_is_its_function_on_the_whole_range() {
    use sprint_model::Func::{Gelu, GeluTanh};
    for func in [Gelu, GeluTanh] {
        let [inner, outer] = [(-4.6, 4.6), (-60.0, 60.0)].map(|range| worst(func, range, (36, 26)));
        println!("{func:?}: {inner:.2e} inside, {outer:.2e} outside");
        assert!(inner < 2e-3 && outer < 2e-3);
    }
}

/// Truncation is off by a unit of 2^-12 of the argument and one of 2^-13 of the result; below -11.5, 0 is off by 1.1e-5.
#[test]
fn the_exponential_is_its_function_from_far_below_to_above_zero() {
    let func = sprint_model::Func::ExpNonPositive;
    let [near, far] = [(-13.0, 0.4), (-480.0, 0.0)].map(|range| worst(func, range, (36, 26)));
    println!("near {near:.2e}, far {far:.2e}");
    assert!(near < 5e-4 && far < 3.8e-4);
}

#[test]
fn row_maxima_by_pairs_are_within_a_quarter_for_every_width() {
    const F: u32 = 26;
    const ROWS: usize = 3;
    for width in (1..=20).chain([63, 64, 65, 128, 129]) {
        let values: Vec<f64> = noise(width as u8, ROWS * width).iter().map(|w| (w % 200_000) as f64 / 1000.0 - 100.0).collect();
        let input: Vec<u64> = values.iter().map(|v| crate::weights::encode(*v, F)).collect();
        let (bench, most) = lowered(input.len(), width, (36, F), |lowering, x| lowering.row_maximum(x, width));
        for (row, word) in values.chunks(width).zip(bench.run(&input, 7).words) {
            let found = sign_extend(word, most.ring) as f64 / f64::from(most.f).exp2();
            let expected = row.iter().copied().fold(f64::MIN, f64::max);
            assert!((found - expected).abs() <= 0.25 + 1e-6, "width {width}: {found} for {expected}");
        }
        assert_eq!(bench.program.cost().rounds, 4 * (width as f64).log2().ceil() as u32);
    }
}

/// A frame is one party's vectors under its own masks: for each of two fixed inputs, the lowest and the highest four bits of every word, and every four
/// neighbouring bits of a bit vector, are uniform over the seeds, in either party's frame of every gate.
#[test]
fn every_masked_vector_is_uniform_whatever_the_input() {
    const LEN: usize = 64;
    let (bench, _) = lowered(LEN, LEN, (36, 26), |lowering, x| {
        let most = lowering.row_maximum(x, 4);
        let parts = [sprint_model::Func::ExpNonPositive, sprint_model::Func::Gelu];
        let [a, b] = parts.map(|f| lowering.apply(x, f, 20).expect("offered"));
        let parts = [most, a, b].map(|v| {
            let node = slice(&mut lowering.b, v.node, 0, LEN / 4);
            lowering.extend(Val { node, ring: v.ring.min(40), f: 0 }, 1 << (v.ring.min(40) - 2))
        });
        let sum = lowering.sum(parts[0], parts[1]);
        lowering.sum(sum, parts[2])
    });
    for value in [0u64, (-3i64 << 26) as u64] {
        let mut histograms: std::collections::BTreeMap<(NodeId, usize, usize), [[u64; 16]; 2]> =
            std::collections::BTreeMap::new();
        for seed in 0..100 {
            // The same shares under other keys: what is not masked afresh repeats.
            let report = bench.runner().lockstep(&split(&[value; LEN], 1), seeds(seed)).expect("runs").0;
            let exchanges = bench.program.steps.iter().filter_map(|s| match s {
                Step::Exchange { opens, .. } => Some(opens),
                Step::Run { .. } => None,
            });
            for (opens, frames) in exchanges.zip(&report.frames) {
                let mut at = 0;
                for id in opens {
                    let node = bench.program.node(*id);
                    let (widths, len) = private::lanes(&bench.program, node);
                    let end = at + bench.program.frame_bytes(*id);
                    for (lane, bits) in widths.iter().enumerate() {
                        let size = sprint_kernel::packed_len(*bits, len);
                        for (party, frame) in frames.iter().enumerate() {
                            let mut words = Vec::new();
                            sprint_kernel::unpack(*bits, &frame[at..at + size], len, &mut words).expect("packed words");
                            let entry = histograms.entry((*id, lane, party)).or_default();
                            // Bits are seen four neighbours at a time.
                            let symbols: Vec<[u64; 2]> = if *bits >= 4 {
                                words.iter().map(|s| [s & 15, s >> (bits - 4)]).collect()
                            } else {
                                let joined = |c: &[u64]| c.iter().fold(0, |s, b| s << bits | b) & 15;
                                words.chunks_exact(4).map(joined).map(|s| [s, s]).collect()
                            };
                            for symbol in symbols {
                                entry.iter_mut().zip(symbol).for_each(|(counts, s)| counts[s as usize] += 1);
                            }
                        }
                        at += size;
                    }
                    at = end;
                }
            }
        }
        assert!(histograms.len() > 40, "{}", histograms.len());
        for ((id, lane, party), both) in &histograms {
            for (which, counts) in ["low", "high"].iter().zip(both) {
                let statistic = chi_square(counts);
                let op = &bench.program.node(*id).op;
                assert!(statistic < LIMIT, "input {value}: {which} bits of lane {lane} of party {party} in {op:?}: {statistic}");
            }
        }
    }
}
