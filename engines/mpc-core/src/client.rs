//! The client: encodes and shares its input, and alone puts the output together.

use sprint_model::Batch;

use crate::program::{Input, Program};
use crate::{MachineError, weights::encode};

/// A client's input, encoded on the ring: embedding output and masks.
///
/// Values out of range are clipped here, by their owner: nobody else sees them.
pub struct ClientInput {
    pub(crate) words: Vec<(Input, Vec<u64>)>,
}

impl std::fmt::Debug for ClientInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientInput(redacted)")
    }
}

/// Largest size of an embedding value; the layer normalisation before it keeps real values far below.
const LIMIT: f64 = 64.0;

/// Encodes a batch padded to the program's tokens. `embedded` is the clear embedding output, `[batch, tokens, hidden]`.
pub fn encode_inputs(program: &Program, batch: &Batch, embedded: &[f32]) -> Result<ClientInput, MachineError> {
    if batch.size() != program.batch() || batch.tokens() != program.tokens() {
        let (b, t) = (program.batch(), program.tokens());
        return Err(MachineError::Input(format!(
            "a batch of {}×{} tokens where the program has {b}×{t}",
            batch.size(),
            batch.tokens()
        )));
    }
    let bits = program.input_bits;
    let mask = |bits: u32, value: &dyn Fn(usize, bool) -> f64| -> Vec<u64> {
        let rows = batch.lengths().iter().flat_map(|len| (0..batch.tokens()).map(|t| (*len, t < *len)));
        rows.map(|(len, kept)| encode(value(len, kept), bits)).collect()
    };
    let words = program.inputs.iter().map(|input| {
        let words = match input {
            Input::Embedded => embedded.iter().map(|v| encode(f64::from(*v).clamp(-LIMIT, LIMIT), bits)).collect(),
            Input::KeyMask => mask(bits, &|_, kept| if kept { 0.0 } else { -program.key_mask }),
            Input::KeepMask => mask(bits, &|_, kept| f64::from(u8::from(kept))),
            Input::MeanWeights => mask(crate::compile::MEAN_WEIGHT, &|len, kept| if kept { 1.0 / len as f64 } else { 0.0 }),
        };
        (*input, words)
    });
    let input = ClientInput { words: words.collect() };
    match input.words.iter().find(|(i, w)| w.len() != program.input_words(*i)) {
        Some((i, w)) => {
            Err(MachineError::Input(format!("{i:?} has {} words where the program has {}", w.len(), program.input_words(*i))))
        }
        None => Ok(input),
    }
}

impl ClientInput {
    /// Splits the input into two uniformly random shares, as bytes for each party.
    pub fn share(&self, mask: &mut dyn FnMut(&mut [u64])) -> [Vec<u8>; 2] {
        let mut parts = [Vec::new(), Vec::new()];
        for (_, words) in &self.words {
            let mut random = vec![0u64; words.len()];
            mask(&mut random);
            for (word, r) in words.iter().zip(&random) {
                parts[0].extend_from_slice(&r.to_le_bytes());
                parts[1].extend_from_slice(&word.wrapping_sub(*r).to_le_bytes());
            }
        }
        parts
    }
}

/// Logits `[batch][outputs]` from the two parties' output shares; refused whole if one example of the batch is.
pub fn decode_logits(program: &Program, shares: [&[u8]; 2]) -> Result<Vec<Vec<f32>>, MachineError> {
    all(decode_answers(program, shares)?)
}

/// Logits of each example, or none for an example that raised an alarm. Examples of a batch never meet, so an alarm of one says nothing of
/// the others.
pub fn decode_answers(program: &Program, shares: [&[u8]; 2]) -> Result<Vec<Option<Vec<f32>>>, MachineError> {
    let expected = program.output_len();
    if let Some(bad) = shares.iter().find(|s| s.len() != expected) {
        return Err(MachineError::Input(format!("output share of {} bytes where the program has {expected}", bad.len())));
    }
    let word = |c: &[u8]| u64::from_le_bytes(c.try_into().expect("chunks of 8"));
    let sums = shares[0].chunks_exact(8).zip(shares[1].chunks_exact(8)).map(|(a, b)| word(a).wrapping_add(word(b)));
    Ok(answers(program, &sums.collect::<Vec<_>>()))
}

/// Logits from reconstructed output words, unless an alarm among them is not 0.
pub(crate) fn logits(program: &Program, words: &[u64]) -> Result<Vec<Vec<f32>>, MachineError> {
    all(answers(program, words))
}

fn all(answers: Vec<Option<Vec<f32>>>) -> Result<Vec<Vec<f32>>, MachineError> {
    answers.into_iter().enumerate().map(|(example, a)| a.ok_or(MachineError::OutOfRange { example })).collect()
}

pub(crate) fn answers(program: &Program, words: &[u64]) -> Vec<Option<Vec<f32>>> {
    let batch = program.batch();
    let (words, alarms) = words.split_at(batch * program.outputs());
    // The window words of all examples come first, then the lift words of each.
    let of = |at: usize| if at < batch { at } else { (at - batch) / crate::program::Op::LIFT_LANES };
    let mut raised = vec![false; batch];
    alarms.iter().enumerate().filter(|(_, w)| **w != 0).for_each(|(at, _)| raised[of(at)] = true);
    let scale = f64::from(program.output_bits).exp2();
    let value = |w: &u64| (crate::exec::local::sign_extend(*w, program.output_ring) as f64 / scale) as f32;
    let rows = words.chunks_exact(program.outputs()).zip(raised);
    rows.map(|(row, raised)| (!raised).then(|| row.iter().map(value).collect())).collect()
}

#[cfg(test)]
mod tests {
    use sprint_model::{Calibration, HeadSpec, LayerRanges, ModelSpec, Pooling, Range, ScoreRange, WeightPolicy};

    use super::*;
    use crate::program::Op;
    use crate::{Mode, Options, compile};

    #[test]
    fn an_alarm_refuses_its_own_example_and_no_other() {
        let mut spec = ModelSpec::bert_tiny();
        spec.head = Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: false, dropout: 0.0 });
        let head = ScoreRange { scores: Range { low: -2.0, high: 2.0 }, log_sums: Range { low: 1.0, high: 5.0 } };
        let layer = LayerRanges { heads: vec![head; spec.heads], activation: Range { low: -4.0, high: 4.0 } };
        let ranges = Calibration::new(&spec, 1, vec![layer; spec.layers]).expect("ranges");
        let policy = WeightPolicy::PublicBase { public_a: true };
        let options = Options::new(Mode::Calibrated, policy, 3, 8).with_calibration(Some(ranges));
        let program = compile(&spec, &options).expect("compiles");
        let words = program.output_len() / 8;
        let logits = 3 * program.outputs();
        assert_eq!(words, logits + 3 + 3 * Op::LIFT_LANES, "window words, then lift words of each example");
        for (at, example) in [(logits + 1, 1), (logits + 3, 0), (logits + 3 + 3 * Op::LIFT_LANES - 1, 2)] {
            let mut output = vec![0; words];
            output[at] = 1 << 40;
            let refused: Vec<bool> = answers(&program, &output).iter().map(Option::is_none).collect();
            assert_eq!(refused, [0, 1, 2].map(|i| i == example), "word {at}");
            assert_eq!(logits_error(&program, &output), MachineError::OutOfRange { example });
        }
        assert!(answers(&program, &vec![0; words]).iter().all(Option::is_some));
    }

    fn logits_error(program: &Program, words: &[u64]) -> MachineError {
        logits(program, words).expect_err("an alarm")
    }
}
