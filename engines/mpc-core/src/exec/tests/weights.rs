use super::protocol::{LIMIT, chi_square};
use super::*;
use crate::exec::randomness::low;
use crate::program::{Form, Recipe, View};
use crate::{Dealer, DealerMachine, PartyMachine, WeightMasks};

const ROWS: usize = 3;
const INPUTS: usize = 8;
const OUTPUTS: usize = 16;
const BITS: u32 = 38;

/// A private layer of integers, opened in a ring two bits wider than its product's.
fn integers(layer: sprint_model::Linear) -> Recipe {
    let opened_bits = Some(BITS + 2);
    Recipe { layer, gain: 1.0, centred: false, fold: None, weight_bits: 0, bias_bits: None, opened_bits, blocks: 1 }
}

/// `x·Wᵀ` with one private layer, as a program and the layer's words.
fn layer() -> (Bench, Vec<u64>) {
    let path = sprint_model::ParamPath::new("classifier.out_proj");
    let linear = sprint_model::Linear { path, inputs: INPUTS, outputs: OUTPUTS, bias: false, lora: None };
    let mut b = Builder::new();
    let index = b.private_recipe(integers(linear));
    let input = b.input(Input::Embedded, ROWS * INPUTS);
    let weight = b.push(Op::PrivateWeight(index), OUTPUTS * INPUTS);
    let x = open(&mut b, input, BITS, false);
    let op = Op::MatMul { a: x, b: weight, batch: 1, m: ROWS, k: INPUTS, n: OUTPUTS, transposed: true, bits: BITS };
    let output = b.push(op, ROWS * OUTPUTS);
    (Bench::finish(b, ROWS * INPUTS, BITS, output), noise(40, OUTPUTS * INPUTS))
}

/// `γ·x` with one private vector, as a program and the vector's words.
fn gain() -> (Bench, Vec<u64>) {
    let path = sprint_model::ParamPath::new("encoder.layer.0.output.LayerNorm");
    let linear = sprint_model::Linear { path, inputs: 1, outputs: OUTPUTS, bias: false, lora: None };
    let mut b = Builder::new();
    let index = b.private_recipe(integers(linear));
    let input = b.input(Input::Embedded, ROWS * OUTPUTS);
    let weight = b.push(Op::PrivateWeight(index), OUTPUTS);
    let x = open(&mut b, input, BITS, false);
    let forms = [(x, View::ALL), (weight, View::columns(OUTPUTS))].map(|(open, view)| Form { open, view, negated: false });
    let output = b.push(Op::Product { forms: forms.to_vec(), bits: BITS }, ROWS * OUTPUTS);
    (Bench::finish(b, ROWS * OUTPUTS, BITS, output), noise(41, OUTPUTS))
}

fn shares(bench: &Bench, weight: &[u64], seed: u8) -> [Arc<PrivateWeights>; 2] {
    split(weight, seed).map(|bytes| Arc::new(PrivateWeights::from_bytes(&bench.program, &bytes).expect("one layer")))
}

fn openings(bench: &Bench, shares: &[Arc<PrivateWeights>; 2], seed: u8) -> [WeightOpening; 2] {
    [PartyId::P0, PartyId::P1].map(|p| {
        WeightOpening::new(&bench.program, Arc::clone(&shares[p.index()]), p, &seeds(seed)[p.index()])
            .expect("the program's weights")
    })
}

/// Dealt beforehand.
struct Dealt(Vec<u8>, usize);

impl crate::MaterialSource for Dealt {
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, crate::MachineError> {
        self.1 += bytes;
        Ok(self.0[self.1 - bytes..self.1].to_vec())
    }
}

/// `x·Wᵀ` by both parties and a dealer, and the opened operand.
fn infer(
    bench: &Bench,
    opened: &[Arc<OpenedWeights>; 2],
    masks: &Arc<WeightMasks>,
    input: &[u64],
    seed: u8,
) -> (Vec<u64>, Vec<u8>) {
    let seeds = seeds(seed);
    let mut dealer = Dealer::new(Arc::clone(&bench.program), Arc::clone(masks), [&seeds[0], &seeds[1]]);
    let mut material = [Vec::new(), Vec::new()];
    while let Some(chunk) = dealer.next_chunk().expect("deals") {
        material.iter_mut().zip(chunk.to_party).for_each(|(a, c)| a.extend(c));
    }
    let inputs = split(input, seed ^ 0x2a);
    let (mut parties, mut sources, mut frames) = (Vec::new(), Vec::new(), Vec::new());
    for (id, bytes) in [PartyId::P0, PartyId::P1].into_iter().zip(material) {
        let share = Inputs::from_bytes(&bench.program, &inputs[id.index()]).expect("the program's length");
        let (program, opened) = (Arc::clone(&bench.program), Arc::clone(&opened[id.index()]));
        let mut party = Party::new(program, bench.public(), opened, id, &seeds[id.index()], share);
        let mut source = Dealt(bytes, 0);
        let Ok(crate::Advance::Exchange { frame, .. }) = party.advance(&mut source) else { panic!("one opening") };
        parties.push(party);
        sources.push(source);
        frames.push(frame);
    }
    let mut sum = vec![0u64; ROWS * OUTPUTS];
    for (at, (party, source)) in parties.iter_mut().zip(&mut sources).enumerate() {
        party.absorb(&frames[1 - at]).expect("the right length");
        let Ok(crate::Advance::Finished { output }) = party.advance(source) else { panic!("one round") };
        sum.iter_mut().zip(words(&output)).for_each(|(s, w)| *s = s.wrapping_add(w) & low(BITS));
    }
    (sum, frames.swap_remove(0))
}

#[test]
fn one_opening_of_the_weights_serves_many_inferences() {
    let (bench, weight) = layer();
    let shares = shares(&bench, &weight, 6);
    let [first, second] = openings(&bench, &shares, 7);
    let frames = [first.frame(), second.frame()];
    assert_eq!(frames.each_ref().map(Vec::len), [bench.program.weight_frame_bytes(); 2]);
    assert_eq!(frames[0], openings(&bench, &shares, 7)[0].frame(), "a session that begins again shows nothing new");
    let masks = Arc::new(WeightMasks::new(&bench.program, [&seeds(7)[0], &seeds(7)[1]]));
    let opened = [first.finish(&frames[1]), second.finish(&frames[0])].map(|o| Arc::new(o.expect("the right length")));
    let mut seen = Vec::new();
    for seed in 20..30 {
        // The same operand twice in a row: its opening must differ all the same.
        let input = noise(seed / 2, ROWS * INPUTS);
        let (found, frame) = infer(&bench, &opened, &masks, &input, seed);
        let dot = |e: usize| {
            let (row, column) = (e / OUTPUTS, e % OUTPUTS);
            (0..INPUTS).fold(0u64, |s, l| s.wrapping_add(input[row * INPUTS + l].wrapping_mul(weight[column * INPUTS + l])))
                & low(BITS)
        };
        assert_eq!(found, (0..ROWS * OUTPUTS).map(dot).collect::<Vec<_>>());
        assert!(!seen.contains(&frame), "an operand is masked afresh in each inference");
        seen.push(frame);
    }
}

#[test]
fn one_opening_of_a_gain_serves_many_inferences() {
    let (bench, gain) = gain();
    let shares = shares(&bench, &gain, 8);
    let [first, second] = openings(&bench, &shares, 9);
    let frames = [first.frame(), second.frame()];
    let masks = Arc::new(WeightMasks::new(&bench.program, [&seeds(9)[0], &seeds(9)[1]]));
    let opened = [first.finish(&frames[1]), second.finish(&frames[0])].map(|o| Arc::new(o.expect("the right length")));
    let mut seen = Vec::new();
    for seed in 50..60 {
        let input = noise(seed / 2, ROWS * OUTPUTS);
        let (found, frame) = infer(&bench, &opened, &masks, &input, seed);
        let expected = input.iter().enumerate().map(|(i, x)| x.wrapping_mul(gain[i % OUTPUTS]) & low(BITS));
        assert_eq!(found, expected.collect::<Vec<_>>());
        assert!(!seen.contains(&frame), "an operand is masked afresh in each inference");
        seen.push(frame);
    }
}

#[test]
fn opened_weights_are_uniform_whatever_the_weights() {
    let (bench, _) = layer();
    for value in [0u64, (-5i64) as u64] {
        let mut counts = [[0u64; 16]; 2];
        for seed in 0..60 {
            let shares = shares(&bench, &[value; OUTPUTS * INPUTS], seed ^ 0x33);
            let [first, second] = openings(&bench, &shares, seed);
            let frame = second.frame();
            let opened = first.finish(&frame).expect("the right length");
            for hat in opened.layer(0).expect("one layer").0 {
                counts[0][(hat & 15) as usize] += 1;
                counts[1][(hat >> (BITS - 2)) as usize & 15] += 1;
            }
        }
        for counts in &counts {
            assert!(chi_square(counts) < LIMIT, "weights {value}: {counts:?}");
        }
    }
}

#[test]
fn a_weight_frame_of_another_length_and_weights_of_another_model_are_refused() {
    let (bench, weight) = layer();
    let shares = shares(&bench, &weight, 6);
    for bad in [0, bench.program.weight_frame_bytes() - 1, bench.program.weight_frame_bytes() + 1] {
        let [first, _] = openings(&bench, &shares, 7);
        assert!(matches!(first.finish(&vec![0; bad]), Err(crate::MachineError::Input(_))));
    }
    let other = Bench::new(4, 64, |_, x| x);
    let seed = [0; 32];
    assert!(WeightOpening::new(&other.program, Arc::clone(&shares[0]), PartyId::P0, &seed).is_err());
    let masks = Arc::new(WeightMasks::new(&bench.program, [&seed, &seed]));
    assert!(Dealer::new(Arc::clone(&other.program), masks, [&seed, &seed]).next_chunk().is_err());
}
