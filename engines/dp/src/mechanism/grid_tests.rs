//! The grid mechanism's integer guarantees and its noise.

use super::*;
use crate::budget::SamplingRate;
use crate::ledger::{Ledger, MemorySink, RunId, RunTerms};
use crate::mechanism::Strategy;
use crate::randomness::Purpose;
use proptest::prelude::*;

fn config(clip: f64, sigma: f64, bits: u8) -> GridConfig {
    GridConfig {
        clip: ClipNorm::new(clip).unwrap(),
        sigma: NoiseMultiplier::new(sigma).unwrap(),
        bits: GridBits::new(bits).unwrap(),
        strategy: Strategy::default(),
    }
}

/// A ledger in memory that charges `config` against `source`.
fn ledger(config: GridConfig, dimension: usize, source: &RandomSource) -> Ledger<MemorySink> {
    let mut ledger = Ledger::open(MemorySink::default(), "test").unwrap();
    let q = SamplingRate::new(0.5).unwrap();
    let terms = RunTerms { run: RunId::new("test").unwrap(), q, config, dimension, planned: 1 };
    ledger.begin_run(terms, source).unwrap();
    ledger
}

fn norm_of(values: &[i64]) -> u128 {
    values.iter().map(|z| u128::from(z.unsigned_abs()).pow(2)).sum()
}

proptest! {
    #[test]
    fn one_example_never_exceeds_the_ball_in_integers(
        gradient in prop::collection::vec(-1e6_f32..1e6, 1..200),
        scale in -40_i32..30,
        clip in 1e-3_f64..1e3,
        bits in 16_u8..=26,
    ) {
        let gradient: Vec<f32> = gradient.iter().map(|g| g * 2f32.powi(scale)).collect();
        let mut mechanism = GridMechanism::new(config(clip, 1.0, bits), &[gradient.len()]).unwrap();
        mechanism.accumulate(&[&gradient]).unwrap();
        prop_assert!(norm_of(mechanism.integer_sums()) <= 1_u128 << (2 * u32::from(bits)));
        prop_assert_eq!(mechanism.rejected(), 0);
        // Direction and size are kept to the grid's own resolution.
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let factor = (clip / norm).min(1.0) * 2f64.powi(i32::from(bits)) / clip;
        let shrink = ((gradient.len() as f64).sqrt() / 2.0 + 1.1) / 2f64.powi(i32::from(bits)) + 2f64.powi(-29);
        for (z, g) in mechanism.integer_sums().iter().zip(&gradient) {
            let want = f64::from(*g) * factor;
            prop_assert!((*z as f64 - want).abs() <= 0.51 + want.abs() * shrink);
        }
    }

    #[test]
    fn microbatches_of_any_split_sum_to_the_same_integers(
        rows in 1_usize..9,
        a in 1_usize..40,
        b in 1_usize..2100,
        seed in any::<u64>(),
    ) {
        let mut stream = RandomSource::reproducible(seed).stream(Purpose::Dropout, 0, 0).unwrap();
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| (stream.unit() - 0.5) as f32).collect() };
        let (left, right) = (draw(rows * a), draw(rows * b));
        let keep: Vec<bool> = (0..rows).map(|r| r % 3 != 1).collect();
        let mut whole = GridMechanism::new(config(1.0, 1.0, 26), &[a, b]).unwrap();
        whole.accumulate_batch(rows, &[&left, &right], Some(&keep)).unwrap();
        let mut single = GridMechanism::new(config(1.0, 1.0, 26), &[a, b]).unwrap();
        for row in (0..rows).filter(|r| keep[*r]) {
            single.accumulate(&[&left[row * a..(row + 1) * a], &right[row * b..(row + 1) * b]]).unwrap();
        }
        prop_assert_eq!(whole.integer_sums(), single.integer_sums());
    }
}

#[test]
fn neighbouring_batches_differ_by_at_most_the_clipping_norm() {
    let mut stream = RandomSource::reproducible(8).stream(Purpose::Dropout, 0, 0).unwrap();
    let rows: Vec<f32> = (0..10 * 300).map(|_| (stream.unit() * 10.0 - 5.0) as f32).collect();
    let sums = |count: usize| {
        let mut mechanism = GridMechanism::new(config(0.7, 1.0, 26), &[300]).unwrap();
        mechanism.accumulate_rows(&rows[..count * 300], 300).unwrap();
        mechanism.integer_sums().to_vec()
    };
    let difference: Vec<i64> = sums(10).iter().zip(sums(9)).map(|(a, b)| a - b).collect();
    assert!(norm_of(&difference) <= 1 << 52);
    assert!(norm_of(&difference) as f64 > 2f64.powi(52) * 0.999, "the example was large, so its clipped norm is close to C");
}

#[test]
fn examples_that_are_not_finite_contribute_zero_and_are_counted() {
    let mut mechanism = GridMechanism::new(config(1.0, 1.0, 26), &[3]).unwrap();
    mechanism.accumulate_rows(&[0.1, f32::NAN, 0.0, f32::INFINITY, 0.0, 0.0, 0.25, 0.0, 0.0], 3).unwrap();
    assert_eq!((mechanism.rejected(), mechanism.integer_sums()), (2, &[1_i64 << 24, 0, 0][..]));
    mechanism.accumulate_rows(&[f32::MAX, f32::MAX, f32::MAX], 3).unwrap();
    assert_eq!(mechanism.rejected(), 2);
    mechanism.discard();
    assert_eq!((mechanism.rejected(), mechanism.integer_sums()), (0, &[0_i64; 3][..]));
}

#[test]
fn a_release_needs_a_charge_for_the_same_noise_clip_and_key() {
    let (right, source) = (config(1.0, 1.0, 20), RandomSource::reproducible(1));
    let mut mechanism = GridMechanism::new(right, &[4]).unwrap();
    for (field, wrong, other) in [
        ("sigma", config(1.0, 2.0, 20), RandomSource::reproducible(1)),
        ("clip", config(0.5, 1.0, 20), RandomSource::reproducible(1)),
        ("grid_bits", config(1.0, 1.0, 21), RandomSource::reproducible(1)),
        ("key_id", right, RandomSource::reproducible(2)),
    ] {
        let charge = ledger(wrong, 4, &other).charge(0).unwrap();
        let error = mechanism.finish(charge, &source).unwrap_err();
        assert!(matches!(error, MechanismError::Charge { field: got, .. } if got == field), "{error}");
    }
    let charge = ledger(right, 3, &source).charge(0).unwrap();
    assert!(matches!(mechanism.finish(charge, &source), Err(MechanismError::Charge { field: "dimension", .. })));
    let charge = ledger(right, 4, &source).charge(0).unwrap();
    let sum = mechanism.finish(charge, &source).unwrap();
    assert!(!sum.is_private());
}

#[test]
fn zero_data_releases_are_normal_with_the_stated_deviation_and_differ_by_step_and_attempt() {
    let (settings, source) = (config(0.5, 0.8, 26), RandomSource::reproducible(4));
    let dimension = 50_000;
    let mut mechanism = GridMechanism::new(settings, &[20_000, 30_000]).unwrap();
    let mut ledger = ledger(settings, dimension, &source);
    let mut release = |step| {
        let charge = ledger.charge(step).unwrap();
        mechanism.finish(charge, &source).unwrap().mean(10)
    };
    let (first, again, next) = (release(0), release(0), release(1));
    assert!((first.noise_variance() - (0.4_f64 / 10.0).powi(2)).abs() < 1e-12);
    let deviation = first.noise_variance().sqrt();
    let square: f64 = first.values().iter().map(|v| (f64::from(*v) / deviation).powi(2)).sum();
    assert!((square / dimension as f64 - 1.0).abs() < 5.0 * (2.0 / dimension as f64).sqrt(), "{square}");
    for other in [&again, &next] {
        let product: f64 = first.values().iter().zip(other.values()).map(|(a, b)| f64::from(a * b)).sum();
        let correlation = product / dimension as f64 / first.noise_variance();
        assert!(correlation.abs() < 5.0 / (dimension as f64).sqrt(), "{correlation}");
    }
    assert_eq!(first.tensors().map(<[f32]>::len).collect::<Vec<_>>(), [20_000, 30_000]);
}

/// One example moves what the strategy makes of the releases, over its whole block, by at most C‖n‖: the noise of two runs with one key cancels.
#[test]
fn one_example_moves_its_block_by_no_more_than_the_strategys_norm() {
    let strategy = Strategy::new(3).unwrap();
    let settings = GridConfig { strategy, ..config(0.5, 0.8, 26) };
    let source = RandomSource::reproducible(4);
    let (dimension, rounds) = (40, 9);
    let run = |with: Option<usize>| -> Vec<Vec<f64>> {
        let mut mechanism = GridMechanism::new(settings, &[dimension]).unwrap();
        let mut ledger = ledger(settings, dimension, &source);
        let mut release = |round: usize| {
            let others: Vec<f32> = (0..dimension).map(|i| ((i * 7 + round) % 11) as f32 - 5.0).collect();
            mechanism.accumulate(&[&others]).unwrap();
            if with == Some(round) {
                mechanism.accumulate(&[&vec![1.0; dimension]]).unwrap();
            }
            let sum = mechanism.finish(ledger.charge(round as u64).unwrap(), &source).unwrap();
            sum.values().iter().map(|v| f64::from(*v)).collect()
        };
        (0..rounds).map(&mut release).collect()
    };
    let (without, with) = (run(None), run(Some(4)));
    let weights = strategy.weights();
    let moved = |round: usize| -> f64 {
        let mixed = |i: usize| -> f64 {
            weights
                .iter()
                .enumerate()
                .filter(|(lag, _)| *lag <= round)
                .map(|(lag, n)| *n as f64 * (with[round - lag][i] - without[round - lag][i]))
                .sum()
        };
        (0..dimension).map(|i| mixed(i).powi(2)).sum::<f64>().sqrt()
    };
    let by_round: Vec<f64> = (0..rounds).map(moved).collect();
    let norm = by_round.iter().map(|m| m * m).sum::<f64>().sqrt();
    let most = 0.5 * weights.iter().map(|n| (n * n) as f64).sum::<f64>().sqrt();
    assert!(norm < most * (1.0 + 1e-4) && norm > most * 0.999, "{norm} of {most}: the example was large");
    for (round, moved) in by_round.iter().enumerate() {
        assert_eq!(*moved > 1.0, (4..7).contains(&round), "round {round}: {moved}");
    }
}

#[test]
fn banded_releases_carry_the_stated_noise_and_need_a_banded_charge() {
    let strategy = Strategy::new(8).unwrap();
    let settings = GridConfig { strategy, ..config(0.5, 0.8, 26) };
    let (source, dimension) = (RandomSource::reproducible(4), 20_000);
    let mut mechanism = GridMechanism::new(settings, &[dimension]).unwrap();
    let mut banded = ledger(settings, dimension, &source);
    let mut sum = vec![0.0; dimension];
    let check = |values: &[f64], variance: f64, what: &str| {
        let square = values.iter().map(|v| v * v).sum::<f64>() / variance / dimension as f64;
        assert!((square - 1.0).abs() < 6.0 * (2.0 / dimension as f64).sqrt(), "{what}: {square}");
    };
    let unit = strategy.deviations(24);
    for round in 0..24 {
        let released = mechanism.finish(banded.charge(round).unwrap(), &source).unwrap().mean(10);
        let stated = (0.4_f64 * unit[round as usize] / 10.0).powi(2);
        assert!((released.noise_variance() / stated - 1.0).abs() < 1e-9);
        let values: Vec<f64> = released.values().iter().map(|v| f64::from(*v)).collect();
        check(&values, stated, "one release");
        sum.iter_mut().zip(&values).for_each(|(s, v)| *s += v);
    }
    // Independent noise would leave a sum of variance 24·(σC/B)²; ten standard deviations of the estimate are below 0.02 of it.
    let independent = 24.0 * 0.04_f64.powi(2);
    let left = sum.iter().map(|v| v * v).sum::<f64>() / dimension as f64 / independent;
    assert!(left > 0.15 && left < 0.27, "{left}");
    let plain = ledger(config(0.5, 0.8, 26), dimension, &source).charge(0).unwrap();
    assert!(matches!(mechanism.finish(plain, &source), Err(MechanismError::Charge { field: "strategy", .. })));
}

#[test]
fn shapes_and_domains_are_checked() {
    assert!(GridBits::new(15).is_err() && GridBits::new(27).is_err());
    assert!(GridMechanism::new(config(1.0, 1.0, 16), &[]).is_err());
    assert!(GridMechanism::new(config(1.0, 1.0, 16), &[5_000_000]).is_err());
    assert!(GridMechanism::new(config(1.0, 1e-4, 16), &[5]).is_err());
    let mut mechanism = GridMechanism::new(config(1.0, 1.0, 16), &[5]).unwrap();
    assert!(mechanism.accumulate(&[&[0.0; 4]]).is_err());
    assert!(mechanism.accumulate_rows(&[0.0; 7], 5).is_err());
    assert!(mechanism.accumulate_batch(1, &[&[0.0; 5]], Some(&[true, true])).is_err());
}
