//! Private weights, opened once under masks that many inferences share.
//!
//! For a private weight `W` the parties open `Ŵ = W + b mod 2^n` with a uniform `b` that the dealer knows. An inference opens its operand
//! `x̂ = x + a` under a fresh `a` and takes shares of `a·b`: `x·W = x̂·W + x·Ŵ - x̂·Ŵ + a·b`, where the parties hold shares of `W`, `x` and `a·b`.
//! The product is one of matrices or, with a private layer normalisation's gain, of elements.
//! `Ŵ` is one uniform value however often it is used, because `W` never changes: **a seed of masks must never meet another `W`**, which is
//! its user's to see to.
//!
//! Rounds: 1 for all layers. Bytes: `n` bits a word. Correlations: none but the masks. Opened: `Ŵ`.

use std::sync::Arc;

use sprint_kernel::{pack, packed_len, unpack};
use zeroize::Zeroizing;

use super::randomness::{Purpose, Streams, low};
use crate::program::{NodeId, Program};
use crate::weights::PrivateWeights;
use crate::{MachineError, PartyId};

/// One party's masks of a layer's weight.
fn masks<'a>(program: &'a Program, streams: &'a Streams) -> impl Iterator<Item = (u32, Zeroizing<Vec<u64>>)> + 'a {
    program.private.iter().zip(0..).map(|(recipe, layer)| {
        let bits = recipe.opened_bits.unwrap_or(64);
        (bits, Zeroizing::new(streams.words(NodeId(layer), Purpose::Mask, 0, 0, recipe.words()).keep()))
    })
}

/// The masks `b` of the private weights, as the dealer knows them.
pub struct WeightMasks {
    layers: Vec<Zeroizing<Vec<u64>>>,
    recipes: [u8; 32],
}

impl WeightMasks {
    /// From the seeds that [`WeightOpening::new`] gets at either party.
    pub fn new(program: &Program, seeds: [&[u8; 32]; 2]) -> Self {
        let streams = [PartyId::P0, PartyId::P1].map(|p| Streams::of_weights(seeds[p.index()], &program.weights_digest, p));
        let layers = masks(program, &streams[0]).zip(masks(program, &streams[1])).map(|((bits, mut a), (_, b))| {
            a.iter_mut().zip(b.iter()).for_each(|(a, b)| *a = a.wrapping_add(*b) & low(bits));
            a
        });
        Self { layers: layers.collect(), recipes: program.weights_digest }
    }

    pub(crate) fn layer(&self, layer: u32) -> &[u64] {
        self.layers.get(layer as usize).map_or(&[], |l| l)
    }

    /// Whether they are of the same weights as a program's.
    pub(crate) fn fit(&self, program: &Program) -> Result<(), MachineError> {
        fit(&self.recipes, program)
    }
}

fn fit(recipes: &[u8; 32], program: &Program) -> Result<(), MachineError> {
    if *recipes == program.weights_digest {
        return Ok(());
    }
    Err(MachineError::Input("the weights were prepared for another model".into()))
}

/// A party's side of the opening, between its frame and the peer's.
pub struct WeightOpening {
    private: Arc<PrivateWeights>,
    /// Bits and masked words of each layer.
    masked: Vec<(u32, Vec<u64>)>,
}

impl WeightOpening {
    /// Masks this party's shares. `seed` comes from the dealer and serves these weights alone.
    pub fn new(program: &Program, private: Arc<PrivateWeights>, party: PartyId, seed: &[u8; 32]) -> Result<Self, MachineError> {
        fit(&private.recipes, program)?;
        let streams = Streams::of_weights(seed, &program.weights_digest, party);
        let masked = masks(program, &streams).zip(0..).map(|((bits, mask), layer)| {
            let words = private.words(layer, false).iter().zip(mask.iter());
            (bits, words.map(|(w, b)| w.wrapping_add(*b) & low(bits)).collect())
        });
        let masked = masked.collect();
        Ok(Self { private, masked })
    }

    /// What the peer gets: [`Program::weight_frame_bytes`] bytes.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        self.masked.iter().for_each(|(bits, words)| pack(*bits, words, &mut frame));
        frame
    }

    /// Adds the peer's frame.
    pub fn finish(self, peer: &[u8]) -> Result<OpenedWeights, MachineError> {
        let expected: usize = self.masked.iter().map(|(bits, words)| packed_len(*bits, words.len())).sum();
        if peer.len() != expected {
            return Err(MachineError::Input(format!("a weight frame of {} bytes where the program has {expected}", peer.len())));
        }
        let mut rest = peer;
        let hats = self.masked.into_iter().map(|(bits, mut hat)| {
            let (part, after) = rest.split_at(packed_len(bits, hat.len()));
            rest = after;
            let mut theirs = Vec::with_capacity(hat.len());
            unpack(bits, part, hat.len(), &mut theirs)
                .map_err(|e| MachineError::Input(format!("the peer's weight frame: {e}")))?;
            hat.iter_mut().zip(&theirs).for_each(|(a, b)| *a = a.wrapping_add(*b) & low(bits));
            Ok(hat)
        });
        let hats = hats.collect::<Result<_, MachineError>>()?;
        Ok(OpenedWeights { private: self.private, hats })
    }
}

/// A party's shares of the private weights, and those weights under their masks.
pub struct OpenedWeights {
    private: Arc<PrivateWeights>,
    hats: Vec<Vec<u64>>,
}

impl OpenedWeights {
    /// `Ŵ` and this party's share of `W`.
    pub(crate) fn layer(&self, layer: u32) -> Option<(&[u64], &[u64])> {
        Some((self.hats.get(layer as usize)?, self.private.words(layer, false)))
    }

    /// This party's share of a layer's bias.
    pub(crate) fn bias(&self, layer: u32) -> &[u64] {
        self.private.words(layer, true)
    }

    pub(crate) fn fit(&self, program: &Program) -> Result<(), MachineError> {
        fit(&self.private.recipes, program)
    }
}

impl std::fmt::Debug for OpenedWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenedWeights({} layers, redacted)", self.hats.len())
    }
}
