//! Properties of the accountants that no vector shows: closed forms, composition, extremes and monotonicity.

use proptest::prelude::*;
use sprint_dp::accountant::{self, Segment, pld, prv, rdp};
use sprint_dp::budget::{Delta, Epsilon, NoiseMultiplier, SamplingRate, Steps};
use sprint_dp::calibrate::{self, Accountant};

fn segment(q: f64, sigma: f64, steps: u64) -> Segment {
    Segment { q: SamplingRate::new(q).unwrap(), sigma: NoiseMultiplier::new(sigma).unwrap(), steps: Steps::new(steps).unwrap() }
}

fn delta(value: f64) -> Delta {
    Delta::new(value).unwrap()
}

fn upper_tail(x: f64) -> f64 {
    0.5 * libm::erfc(x / std::f64::consts::SQRT_2)
}

/// δ(ε) of one subsampled Gaussian step, the larger of both directions, in closed form.
fn one_step(q: f64, sigma: f64, epsilon: f64) -> f64 {
    let z = |t: f64| {
        let inside = 1.0 + t.exp_m1() / q;
        if inside <= 0.0 { f64::NEG_INFINITY } else { sigma * sigma * inside.ln() + 0.5 }
    };
    let (x, y) = (z(epsilon) / sigma, z(-epsilon) / sigma);
    let shift = 1.0 / sigma;
    let remove = (1.0 - q) * upper_tail(x) + q * upper_tail(x - shift) - epsilon.exp() * upper_tail(x);
    let add = upper_tail(-y) - epsilon.exp() * ((1.0 - q) * upper_tail(-y) + q * upper_tail(shift - y));
    remove.max(add)
}

#[test]
fn one_step_equals_its_closed_form_and_is_never_below_it() {
    for (q, sigma) in [(0.01, 0.5), (0.3, 1.0), (0.9, 2.0), (1e-4, 0.4), (0.05, 20.0)] {
        for share in [1e-8, 1e-4, 0.05, 0.7] {
            // A δ that the curve reaches at a positive ε.
            let target = one_step(q, sigma, 0.0) * share;
            let (mut low, mut high) = (0.0, 200.0);
            for _ in 0..100 {
                let middle = 0.5 * (low + high);
                if one_step(q, sigma, middle) > target { low = middle } else { high = middle }
            }
            let got = pld::epsilon(&[segment(q, sigma, 1)], delta(target)).unwrap();
            assert!(got >= low * (1.0 - 1e-6), "q={q} sigma={sigma} delta={target}: {got} below {low}");
            assert!(got <= low * (1.0 + 1e-3) + 1e-9, "q={q} sigma={sigma} delta={target}: {got} above {low}");
        }
    }
}

#[test]
fn splitting_a_segment_changes_nothing_and_order_does_not_matter() {
    let target = delta(1e-6);
    let whole = pld::epsilon(&[segment(0.02, 0.8, 300)], target).unwrap();
    let parts = pld::epsilon(&[segment(0.02, 0.8, 100), segment(0.02, 0.8, 200)], target).unwrap();
    assert_eq!(whole, parts);
    let (a, b) = (segment(0.02, 0.8, 100), segment(0.05, 1.3, 50));
    assert_eq!(pld::epsilon(&[a, b], target).unwrap(), pld::epsilon(&[b, a], target).unwrap());
}

#[test]
fn nearly_equal_segments_compose_like_equal_ones() {
    let target = delta(1e-6);
    let whole = pld::epsilon(&[segment(0.02, 0.8, 300)], target).unwrap();
    let parts = pld::epsilon(&[segment(0.02, 0.8, 100), segment(0.02 * (1.0 + 1e-12), 0.8, 200)], target).unwrap();
    assert!((whole / parts - 1.0).abs() < 2e-4, "{whole} {parts}");
}

#[test]
fn heterogeneous_segments_cost_more_than_each_and_less_than_their_sum() {
    let target = delta(1e-6);
    let (a, b) = (segment(0.03, 0.8, 200), segment(0.01, 1.5, 1000));
    let (one, two) = (pld::epsilon(&[a], target).unwrap(), pld::epsilon(&[b], target).unwrap());
    let both = pld::epsilon(&[a, b], target).unwrap();
    assert!(both > one.max(two) && both < one + two);
    let interval = prv::epsilon(&[a, b], target, 100.0).unwrap();
    assert!(interval.lower <= both && both <= interval.upper * (1.0 + 1e-3), "{both} {interval:?}");
}

#[test]
fn tiny_deltas_need_no_special_care() {
    // A Gaussian without sampling beside a nearly free sampled segment: the exact value is the Gaussian's, from 1e-3 to 1e-40.
    for target in [1e-3, 1e-6, 1e-12, 1e-20, 1e-40] {
        let exact = accountant::exact(&[segment(1.0, 5.0, 20)], delta(target)).unwrap();
        let got = pld::epsilon(&[segment(1.0, 5.0, 20), segment(1e-9, 1000.0, 1)], delta(target)).unwrap();
        assert!(got >= exact * (1.0 - 1e-9) && got < exact * (1.0 + 2e-4), "delta {target}: {got} vs {exact}");
    }
}

#[test]
fn a_million_compositions_grow_like_the_square_root() {
    let target = delta(1e-6);
    let epsilon = |steps| pld::epsilon(&[segment(1e-4, 1.0, steps)], target).unwrap();
    let (small, large) = (epsilon(100_000), epsilon(1_600_000));
    assert!((3.8..4.6).contains(&(large / small)), "{small} {large}");
}

#[test]
fn nothing_is_spent_where_total_variation_is_below_delta() {
    assert_eq!(pld::epsilon(&[segment(1e-6, 10.0, 1000)], delta(1e-3)).unwrap(), 0.0);
    let all = accountant::epsilon_all(&[segment(1e-6, 10.0, 1000)], delta(1e-3)).unwrap();
    assert_eq!((all.pld, all.rdp, all.prv.lower), (0.0, 0.0, 0.0));
}

#[test]
fn parameters_outside_the_accountants_domain_are_errors_not_numbers() {
    assert!(pld::epsilon(&[], delta(1e-6)).is_err());
    let error = accountant::epsilon_all(&[segment(0.1, 1e-3, 10)], delta(1e-6)).unwrap_err();
    assert!(error.to_string().contains("sigma"), "{error}");
    let error = accountant::epsilon_all(&[segment(1e-12, 1.0, 10)], delta(1e-6)).unwrap_err();
    assert!(error.to_string().contains("q = "), "{error}");
    assert!(rdp::rdp_step(SamplingRate::new(0.1).unwrap(), NoiseMultiplier::new(1.0).unwrap(), 1.0).is_err());
    let unreachable = calibrate::sigma(
        Accountant::Pld,
        &[segment(1.0, 0.5, 10)],
        Epsilon::new(0.1).unwrap(),
        delta(1e-6),
        SamplingRate::new(0.1).unwrap(),
        Steps::new(10).unwrap(),
    );
    assert!(unreachable.unwrap_err().to_string().contains("no sigma"));
}

#[test]
fn a_remainder_is_calibrated_around_what_was_already_spent() {
    let (target, q) = (delta(1e-6), SamplingRate::new(0.03).unwrap());
    let epsilon = Epsilon::new(8.0).unwrap();
    let spent = [segment(0.03, 0.75, 100)];
    let sigma = calibrate::sigma(Accountant::Pld, &spent, epsilon, target, q, Steps::new(220).unwrap()).unwrap();
    let total = pld::epsilon(&[spent[0], segment(0.03, sigma.get(), 220)], target).unwrap();
    assert!(total <= 8.0 && total > 7.99, "{total}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn accountants_agree_and_are_monotone(
        log_q in -4.0_f64..-0.05,
        log_sigma in -0.5_f64..1.5,
        log_steps in 0.0_f64..4.5,
        log_delta in -10.0_f64..-2.0,
    ) {
        let (q, sigma, target) = (10f64.powf(log_q), 10f64.powf(log_sigma), delta(10f64.powf(log_delta)));
        let steps = 10f64.powf(log_steps) as u64;
        let here = [segment(q, sigma, steps)];
        let all = accountant::epsilon_all(&here, target).unwrap();
        prop_assert!(all.pld <= all.rdp * (1.0 + 1e-9), "{:?}", all);
        prop_assert!(all.prv.lower <= all.pld * (1.0 + 1e-9) && all.pld <= all.prv.upper * (1.0 + 1e-3) + 1e-6, "{:?}", all);
        let quieter = pld::epsilon(&[segment(q, sigma * 1.1, steps)], target).unwrap();
        let longer = pld::epsilon(&[segment(q, sigma, steps + steps.div_ceil(5))], target).unwrap();
        let stricter = pld::epsilon(&here, delta(target.get() * 0.5)).unwrap();
        let slack = 3e-4;
        prop_assert!(quieter <= all.pld * (1.0 + slack) + 1e-12);
        prop_assert!(longer >= all.pld * (1.0 - slack) - 1e-12);
        prop_assert!(stricter >= all.pld * (1.0 - slack) - 1e-12);
    }
}
