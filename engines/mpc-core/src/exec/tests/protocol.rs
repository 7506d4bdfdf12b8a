use super::*;
use crate::compile::{Lowering, Val};
use crate::exec::randomness::low;
use crate::program::Step;
use crate::{Advance, Dealer, DealerMachine, MachineError, MaterialSource, PartyMachine, WeightMasks};

/// An exponential, a row maximum and an inverse: every kind of opening, and material for both parties.
fn mixed(len: usize) -> Bench {
    const F: u32 = 26;
    let mut lowering = Lowering::bare(len);
    let node = lowering.b.input(Input::Embedded, len);
    let x = Val { node, ring: 64, f: F };
    let most = lowering.row_maximum(x, 4);
    let exponential = lowering.apply(x, sprint_model::Func::ExpNonPositive, 22).expect("offered");
    let inverse = lowering.smooth(x, |v| 1.0 / v, (-2, 6), (16, 20));
    let [most, exponential, inverse] = [most.node, exponential.node, inverse.node].map(|id| {
        let part = slice(&mut lowering.b, id, 0, len / 4);
        let opened = open(&mut lowering.b, part, 12, false);
        lift(&mut lowering.b, opened)
    });
    let sum = lowering.b.push(Op::Add(most, exponential), len / 4);
    let output = lowering.b.push(Op::Add(sum, inverse), len / 4);
    Bench::finish(lowering.b, len, 12, output)
}

/// Chi-square with 15 degrees of freedom stays below 44.3 with probability 0.9999.
pub(super) const LIMIT: f64 = 44.3;

pub(super) fn chi_square(counts: &[u64; 16]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / 16.0;
    counts.iter().map(|c| (*c as f64 - expected).powi(2) / expected).sum()
}

/// What both frames of an exchange add up to is what both parties see. For each of two fixed inputs, its lowest and highest four bits are
/// uniform over the seeds, in every opening.
#[test]
fn every_opened_value_is_uniform_whatever_the_input() {
    const LEN: usize = 64;
    let bench = mixed(LEN);
    for value in [0u64, (-3i64 << 26) as u64] {
        let input = vec![value; LEN];
        let mut histograms: std::collections::BTreeMap<NodeId, [[u64; 16]; 2]> = std::collections::BTreeMap::new();
        for seed in 0..100 {
            let report = bench.run(&input, seed).report;
            let exchanges = bench.program.steps.iter().filter_map(|s| match s {
                Step::Exchange { opens, .. } => Some(opens),
                Step::Run { .. } => None,
            });
            for (opens, frames) in exchanges.zip(&report.frames) {
                let mut at = 0;
                for id in opens {
                    let (bits, len, size) =
                        (bench.program.open_bits(*id), bench.program.node(*id).len, bench.program.frame_bytes(*id));
                    let mut sum = vec![0u64; len];
                    for frame in frames {
                        let mut words = Vec::new();
                        sprint_kernel::unpack(bits, &frame[at..at + size], len, &mut words).expect("packed words");
                        sum.iter_mut().zip(words).for_each(|(s, w)| *s = s.wrapping_add(w) & low(bits));
                    }
                    at += size;
                    let entry = histograms.entry(*id).or_default();
                    // Bits are seen four neighbours at a time.
                    let symbols: Vec<[u64; 2]> = if bits >= 4 {
                        sum.iter().map(|s| [s & 15, s >> (bits - 4)]).collect()
                    } else {
                        sum.chunks_exact(4).map(|c| c.iter().fold(0, |s, b| s << 1 | b)).map(|s| [s, s]).collect()
                    };
                    for symbol in symbols {
                        entry.iter_mut().zip(symbol).for_each(|(counts, s)| counts[s as usize] += 1);
                    }
                }
            }
        }
        assert!(histograms.len() >= 6);
        for (id, both) in &histograms {
            for (which, counts) in ["low", "high"].iter().zip(both) {
                let statistic = chi_square(counts);
                assert!(statistic < LIMIT, "input {value}: {which} bits of {:?}: {statistic}", bench.program.node(*id).op);
            }
        }
    }
}

fn dealt(bench: &Bench) -> [Vec<u8>; 2] {
    let seeds = seeds(1);
    let weights = Arc::new(WeightMasks::new(&bench.program, [&seeds[0], &seeds[1]]));
    let mut dealer = Dealer::new(Arc::clone(&bench.program), weights, [&seeds[0], &seeds[1]]);
    let mut all = [Vec::new(), Vec::new()];
    while let Some(chunk) = dealer.next_chunk().expect("deals") {
        all.iter_mut().zip(chunk.to_party).for_each(|(a, c)| a.extend(c));
    }
    all
}

/// Bytes dealt beforehand.
struct Dealt(std::collections::VecDeque<u8>);

impl MaterialSource for Dealt {
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, MachineError> {
        Ok(self.0.drain(..bytes.min(self.0.len())).collect())
    }
}

fn first_frame(bench: &Bench, share: &[u8]) -> Vec<u8> {
    let mut material = Dealt(dealt(bench)[0].clone().into());
    match bench.party(PartyId::P0, share).advance(&mut material).expect("runs") {
        Advance::Exchange { frame, .. } => frame,
        Advance::Finished { .. } => panic!("the program has openings"),
    }
}

/// With a party's own input share and seed fixed, all of its material and all that it computes before it hears from its peer are the same for
/// every client input: the input moves the other share alone.
#[test]
fn a_party_alone_sees_nothing_that_depends_on_the_input() {
    let bench = mixed(16);
    let inputs = [vec![0u64; 16], noise(9, 16)];
    let [a, b] = inputs.map(|input| split(&input, 3));
    assert_eq!(a[0], b[0]);
    assert_ne!(a[1], b[1]);
    assert_eq!(first_frame(&bench, &a[0]), first_frame(&bench, &b[0]));
    assert_eq!(dealt(&bench), dealt(&bench));
}

#[test]
fn calls_out_of_turn_and_frames_of_another_length_are_refused() {
    let bench = mixed(16);
    let share = &split(&[0; 16], 3)[0];
    let mut party = bench.party(PartyId::P0, share);
    assert!(matches!(party.absorb(&[]), Err(MachineError::OutOfStep(_) | MachineError::FrameLength { .. })));
    let mut material = Dealt(dealt(&bench)[0].clone().into());
    let Ok(Advance::Exchange { frame, peer_len, round }) = party.advance(&mut material) else {
        panic!("an exchange comes first")
    };
    assert_eq!((frame.len(), round), (peer_len, 0));
    assert!(matches!(party.advance(&mut material), Err(MachineError::OutOfStep(_))));
    for bad in [peer_len - 1, peer_len + 1, 0] {
        let refused = party.absorb(&vec![0; bad]);
        assert_eq!(refused, Err(MachineError::FrameLength { round: 0, expected: peer_len, actual: bad }));
    }
    party.absorb(&frame).expect("the right length");
    assert!(party.absorb(&frame).is_err());
}

#[test]
fn material_that_ends_early_is_an_error_for_either_party() {
    for id in [PartyId::P0, PartyId::P1] {
        let bench = mixed(16);
        let all = dealt(&bench)[id.index()].clone();
        for keep in [0, 1, all.len() / 2, all.len() - 1] {
            let mut party = bench.party(id, &split(&[0; 16], 3)[id.index()]);
            let mut material = Dealt(all[..keep].to_vec().into());
            let failed = loop {
                match party.advance(&mut material) {
                    Ok(Advance::Exchange { frame, .. }) => party.absorb(&frame).expect("the right length"),
                    Ok(Advance::Finished { .. }) => panic!("{keep} of {} bytes were enough", all.len()),
                    Err(error) => break error,
                }
            };
            assert!(matches!(failed, MachineError::Material(_)), "{failed}");
        }
    }
}

#[test]
fn weights_of_another_model_and_inputs_of_another_shape_are_refused() {
    let bench = mixed(16);
    assert!(matches!(Inputs::from_bytes(&bench.program, &[0; 8]), Err(MachineError::Input(_))));
    let public = Arc::new(PublicWeights { linears: Vec::new(), vectors: Vec::new(), recipes: [1; 32] });
    let inputs = Inputs::from_bytes(&bench.program, &[0; 128]).expect("the program's length");
    let mut party = Party::new(Arc::clone(&bench.program), public, bench.opened(PartyId::P0), PartyId::P0, &[0; 32], inputs);
    assert!(matches!(party.advance(&mut Dealt(std::collections::VecDeque::default())), Err(MachineError::Input(_))));
}
