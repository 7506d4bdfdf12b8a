//! Sharing inputs and weights among three servers, and putting the output together.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::server::Server;
use crate::MachineError;
use crate::client::{ClientInput, answers};
use crate::exec::randomness::low;
use crate::program::Program;
use crate::weights::PrivateWeights;

/// Splits a client's input into three uniformly random shares, as bytes for each server.
pub fn share_input_in_three(input: &ClientInput, mask: &mut dyn FnMut(&mut [u64])) -> [Vec<u8>; 3] {
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    for (_, words) in &input.words {
        let mut masks = [0, 1].map(|_| Zeroizing::new(vec![0u64; words.len()]));
        masks.iter_mut().for_each(|m| mask(m));
        for ((word, a), b) in words.iter().zip(masks[0].iter()).zip(masks[1].iter()) {
            let shares = [*a, *b, word.wrapping_sub(*a).wrapping_sub(*b)];
            parts.iter_mut().zip(shares).for_each(|(part, share)| part.extend_from_slice(&share.to_le_bytes()));
        }
    }
    parts
}

/// Splits private weights of two shares into three, by splitting the second again.
pub fn share_weights_in_three(shares: [PrivateWeights; 2], mask: &mut dyn FnMut(&mut [u64])) -> [PrivateWeights; 3] {
    let [first, rest] = shares;
    let [second, third] = rest.resplit(mask);
    [first, second, third]
}

/// Answers of each example from the three servers' output shares; none for one that raised an alarm.
pub fn decode_three(program: &Program, shares: [&[u8]; 3]) -> Result<Vec<Option<Vec<f32>>>, MachineError> {
    let expected = program.output_len();
    if let Some(bad) = shares.iter().find(|s| s.len() != expected) {
        return Err(MachineError::Input(format!("output share of {} bytes where the program has {expected}", bad.len())));
    }
    let words = shares.map(|s| s.as_chunks::<8>().0);
    let sum = |i: usize| words.iter().fold(0u64, |sum, w| sum.wrapping_add(u64::from_le_bytes(w[i]))) & low(program.output_ring);
    Ok(answers(program, &(0..words[0].len()).map(sum).collect::<Vec<_>>()))
}

/// A server's two words of every private weight: its own share, and the one of the server after it.
///
/// The owner of the model gives one of three uniformly random shares to each server; each passes its own on to the server before it.
pub struct ReplicatedWeights {
    server: Server,
    own: Arc<PrivateWeights>,
    next: PrivateWeights,
}

impl ReplicatedWeights {
    /// Bytes that each server passes on before the first inference.
    pub fn frame_bytes(program: &Program) -> usize {
        PrivateWeights::len(program)
    }

    /// Joins a server's own share with the frame of the server after it, which are [`PrivateWeights::to_bytes`] of that one's.
    pub fn join(program: &Program, server: Server, own: Arc<PrivateWeights>, next: &[u8]) -> Result<Self, MachineError> {
        if own.recipes != program.weights_digest {
            return Err(MachineError::Input("the weights were prepared for another model".into()));
        }
        Ok(Self { server, next: PrivateWeights::from_bytes(program, next)?, own })
    }

    pub(super) fn layer(&self, layer: u32) -> [&[u64]; 2] {
        [self.own.words(layer, false), self.next.words(layer, false)]
    }

    pub(super) fn bias(&self, layer: u32) -> &[u64] {
        self.own.words(layer, true)
    }

    pub(super) fn recipes(&self) -> [u8; 32] {
        self.own.recipes
    }

    pub(super) fn server(&self) -> Server {
        self.server
    }
}

impl std::fmt::Debug for ReplicatedWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplicatedWeights({:?}, redacted)", self.server)
    }
}
