//! `privacy`: numbers from the command line, and refusals that name the field.

use crate::binary::sprint_flow;

fn epsilon(args: [&str; 4]) -> Vec<String> {
    let [q, sigma, steps, delta] = args;
    ["privacy", "epsilon", "--q", q, "--sigma", sigma, "--steps", steps, "--delta", delta, "--json"].map(str::to_owned).to_vec()
}

#[test]
fn one_gaussian_step_costs_what_balle_and_wang_say() {
    // δ(ε) = Φ(1/2 − ε) − e^ε·Φ(−1/2 − ε) for σ = 1; solved for δ = 1e-5 by bisection at 50 digits.
    let exact = 4.377_178_1;
    let got = sprint_flow(&epsilon(["1", "1", "1", "1e-5"])).expect(0).json();
    let value = |name: &str| got["epsilon"][name].as_f64().unwrap_or_else(|| panic!("{name}: {got}"));
    assert!((value("exact") - exact).abs() < 1e-4, "{got}");
    assert!(value("pld") >= exact - 1e-4 && value("pld") < exact * 1.002, "{got}");
    assert!(value("rdp") >= value("pld"), "{got}");
}

#[test]
fn the_sigma_of_a_budget_keeps_it() {
    let args = ["privacy", "sigma", "--epsilon", "8", "--delta", "1e-6", "--q", "0.02", "--steps", "300", "--json"];
    let sigma = sprint_flow(&args).expect(0).json()["sigma"]["pld"].as_f64().expect("a number");
    let spent = sprint_flow(&epsilon(["0.02", &sigma.to_string(), "300", "1e-6"])).expect(0).json();
    let spent = spent["epsilon"]["pld"].as_f64().expect("a number");
    assert!(spent <= 8.0 && spent > 7.9, "{spent}");
}

#[test]
fn numbers_outside_their_domain_exit_2_and_name_the_field() {
    let good = ["0.01", "1", "100", "1e-5"];
    for (at, name, bad) in [
        (0, "q", "1.5"),
        (0, "q", "0"),
        (0, "q", "NaN"),
        (1, "sigma", "-1"),
        (1, "sigma", "0"),
        (1, "sigma", "inf"),
        (2, "steps", "0"),
        (2, "steps", "-3"),
        (2, "steps", "1.5"),
        (3, "delta", "1"),
        (3, "delta", "0"),
        (3, "delta", "-1e-5"),
    ] {
        let mut args = good;
        args[at] = bad;
        let ended = sprint_flow(&epsilon(args)).expect(2);
        assert!(ended.stderr.contains(name), "{name} {bad}: {}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{name} {bad}: {}", ended.stdout);
    }
}

#[test]
fn the_audit_does_not_refute_the_trainer_and_finds_what_is_planted() {
    let ended = sprint_flow(&["privacy", "audit", "--quick", "--json"]).expect(0).json();
    assert!(ended["passed"] == true && ended["planted"].is_null() && ended["verdict"] == "not_refuted", "{ended}");
    for (plant, by) in [
        ("sigma-halved", "trainer_noise_variance"),
        ("no-clipping", "trainer_clipping"),
        ("noise-reused", "trainer_steps_are_independent"),
        ("wrong-divisor", "trainer_divisor_is_constant"),
        ("public-seed", "trainer_keys_are_fresh"),
    ] {
        let found = sprint_flow(&["privacy", "audit", "--quick", "--plant", plant, "--json"]).expect(1).json();
        assert!(found["passed"] == false && found["caught"] == true, "{plant}: {found}");
        let failures = found["failures"].as_array().expect("a list");
        assert!(failures.iter().any(|f| f == by), "{plant}: {found}");
    }
}
