use std::collections::BTreeMap;

use super::*;
use crate::MachineError;
use crate::exec::Inputs;
use crate::program::{Form, Fourier, Interval, View};
use crate::replicated::{ReplicatedAdvance, ReplicatedParty, ReplicatedWeights};

/// Every kind of message but keys, in rings whose words end on bytes.
fn mixed(len: usize) -> Bench {
    Bench::new(len, 64, |b, x| {
        let opened = open(b, x, 24, true);
        let series = Fourier { period_bits: 24, multiplier: 1, cos: vec![0.0, 1.0], sin: vec![0.0, 0.5] };
        let fit = b.fit(series);
        let series = b.push(Op::Series { src: opened, fit, coefficient_bits: 15, trig_bits: 15, bits: 32 }, len);
        let series = open(b, series, 32, true);
        let bits = b.push(Op::Intervals { src: opened, drop: 0, intervals: vec![Interval { lo: Some(0), hi: None }] }, len);
        let bits = b.push(Op::OpenBits { src: bits, bits: 64 }, len);
        let forms = [bits, opened, series].map(|open| Form { open, view: View::ALL, negated: false }).to_vec();
        b.push(Op::Product { forms, bits: 64 }, len)
    })
}

fn chi_square(counts: &[u64; 256]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / 256.0;
    counts.iter().map(|c| (*c as f64 - expected).powi(2) / expected).sum()
}

/// What each server receives in each round is uniform, whatever the input: eight standard deviations of a chi-square of 255 degrees of freedom.
#[test]
fn every_received_byte_is_uniform_for_fixed_inputs() {
    const LIMIT: f64 = 255.0 + 8.0 * 22.6;
    let bench = mixed(64);
    for value in [0u64, 1 << 21, (1u64 << 22).wrapping_neg()] {
        let mut histograms = BTreeMap::new();
        for seed in 0..250 {
            // The same shares under other keys: what is not masked afresh repeats.
            let frames = bench.runner().keeping_frames().lockstep(&split(&[value; 64], 1), [seed; 32]).expect("runs").0.frames;
            for (round, servers) in frames.iter().enumerate() {
                for (server, both) in servers.iter().enumerate() {
                    for (direction, frame) in both.iter().enumerate().filter(|(_, f)| !f.is_empty()) {
                        let counts = histograms.entry((round, server, direction)).or_insert([0u64; 256]);
                        frame.iter().for_each(|b| counts[*b as usize] += 1);
                    }
                }
            }
        }
        assert!(histograms.len() >= 18, "three servers send in {} rounds and directions", histograms.len());
        for (at, counts) in &histograms {
            let statistic = chi_square(counts);
            assert!(statistic < LIMIT, "input {value}: (round, server, direction) {at:?}: {statistic}");
        }
    }
}

/// Sums of the words that two servers receive are no less uniform: nothing is sent without its share of zero.
#[test]
fn a_product_is_never_sent_without_its_share_of_zero() {
    let bench = Bench::new(8, 64, |b, x| {
        let x = open(b, x, 64, false);
        let square = b.push(Op::Product { forms: vec![Form { open: x, view: View::ALL, negated: false }; 2], bits: 64 }, 8);
        let square = open(b, square, 64, false);
        lift(b, square)
    });
    // The same input shares under other keys: of products of the same words, no message repeats.
    let shares = split(&[3; 8], 1);
    let frames = |seed| bench.runner().keeping_frames().lockstep(&shares, [seed; 32]).expect("runs").0.frames;
    let (a, b) = (frames(1), frames(2));
    assert_eq!((a.len(), a), (2, frames(1)));
    for (round, (one, other)) in frames(1).iter().zip(&b).enumerate() {
        for (server, (one, other)) in one.iter().zip(other).enumerate() {
            assert_ne!(one, other, "round {round}, server {server}");
        }
    }
}

fn alone(bench: &Bench, server: Server, share: &[u8]) -> ReplicatedParty {
    let program = bench.plan.program();
    let none = || PrivateWeights::from_bytes(program, &[]).expect("no private layers");
    let public = PublicWeights { linears: Vec::new(), vectors: Vec::new(), recipes: program.weights_digest };
    let weights = ReplicatedWeights::join(program, server, Arc::new(none()), &[]).expect("no private layers");
    let inputs = Inputs::from_bytes(program, share).expect("the program's length");
    ReplicatedParty::new(Arc::clone(&bench.plan), Arc::new(public), Arc::new(weights), server, [&[1; 32], &[2; 32]], inputs)
        .expect("the program's weights")
}

#[test]
fn calls_out_of_turn_and_frames_of_another_length_are_refused() {
    let bench = mixed(64);
    let share = &split(&[0; 64], 3)[1];
    let mut party = alone(&bench, Server::S1, share);
    assert!(matches!(party.absorb(&[], &[]), Err(MachineError::OutOfStep(_))));
    let Ok(ReplicatedAdvance::Exchange { round: 0, previous_len, next_len, .. }) = party.advance() else {
        panic!("an exchange comes first")
    };
    assert!(matches!(party.advance(), Err(MachineError::OutOfStep(_))));
    let refused = party.absorb(&vec![0; previous_len + 1], &vec![0; next_len]);
    let (expected, actual) = (previous_len, previous_len + 1);
    assert_eq!(refused, Err(MachineError::FrameLength { round: 0, expected, actual }));
    let mut party = alone(&bench, Server::S1, share);
    party.advance().expect("an exchange");
    let refused = party.absorb(&vec![0; previous_len], &[]);
    assert_eq!(refused, Err(MachineError::FrameLength { round: 0, expected: next_len, actual: 0 }));
}

#[test]
fn weights_of_another_server_are_refused() {
    let bench = mixed(64);
    let program = bench.plan.program();
    let none = || PrivateWeights::from_bytes(program, &[]).expect("no private layers");
    let public = PublicWeights { linears: Vec::new(), vectors: Vec::new(), recipes: program.weights_digest };
    let weights = ReplicatedWeights::join(program, Server::S2, Arc::new(none()), &[]).expect("no private layers");
    let inputs = Inputs::from_bytes(program, &split(&[0; 64], 3)[0]).expect("the program's length");
    let plan = Arc::clone(&bench.plan);
    let seeds = [&[1; 32], &[2; 32]];
    let refused = ReplicatedParty::new(plan, Arc::new(public), Arc::new(weights), Server::S0, seeds, inputs);
    assert!(matches!(refused, Err(MachineError::Input(_))));
}
