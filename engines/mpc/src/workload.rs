//! What the roles evaluate, as far as the network has to know.

use sprint_mpc_core::{DealerMachine, MachineError, PartyId, PartyMachine};
use zeroize::Zeroizing;

use crate::Digest;

/// Bytes of the seeds under which a session opens its private weights.
pub(crate) const OPENING_SEED: usize = 32;

/// The programs of a session and how to start them. A session may hold several, one per batch and length bucket.
///
/// The dealer's implementation holds shapes only, a party's also its share of the private weights, a client's only the shapes of
/// input and output.
pub trait Workload: Send + Sync {
    /// Digest of the model the roles must agree on.
    fn model(&self) -> Digest;
    /// What precomputed material is bound to: the model, its private part aside, which the dealer does not know.
    fn material(&self) -> Digest {
        self.model()
    }
    /// Digest of all programs, with ring and encodings.
    fn program(&self) -> Digest;
    /// The programs, in the order their numbers count.
    fn shapes(&self) -> &[ProgramShape];
    /// Bytes of the frame by which each party opens what a session's inferences have in common.
    fn opening_bytes(&self) -> usize;
    /// A party's side of that. `seed` comes from the dealer and serves this model alone, in however many sessions.
    fn opening(&self, me: PartyId, seed: &[u8; OPENING_SEED]) -> Result<Box<dyn Opening>, MachineError>;
    /// The dealer's side of it, from both parties' seeds.
    fn dealing(&self, seeds: [&[u8; OPENING_SEED]; 2]) -> Result<Box<dyn Dealing>, MachineError>;
}

/// The opening of what a party's inferences have in common, between its frame and the peer's.
pub trait Opening: Send {
    /// What the peer gets, [`Workload::opening_bytes`] of it; the same for the same seed, model and party.
    fn frame(&self) -> Vec<u8>;
    /// Takes the peer's frame.
    fn finish(self: Box<Self>, peer: &[u8]) -> Result<Box<dyn Evaluation>, MachineError>;
}

/// A party that has opened what its inferences have in common.
pub trait Evaluation: Send {
    /// The machine for one inference with program number `program`.
    fn party(&self, program: u32, input: PartyInput) -> Result<Box<dyn PartyMachine>, MachineError>;
}

/// A dealer that knows what inferences have in common.
pub trait Dealing: Send + Sync {
    /// The machine for one inference with program number `program`, on fresh randomness.
    fn dealer(&self, program: u32) -> Result<Box<dyn DealerMachine>, MachineError>;
}

/// A party's share of one request.
pub struct PartyInput {
    /// Additive share of the input: little-endian words of Z_2^64.
    pub share: Zeroizing<Vec<u8>>,
    /// What both parties may see: key masks, lengths.
    pub public: Vec<u8>,
}

/// A program's interface and its declared costs, which the meters are held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramShape {
    /// Words of the input.
    pub input_words: usize,
    /// Bytes of the public side input.
    pub public_bytes: usize,
    /// Words of the output.
    pub output_words: usize,
    /// Every round, in order.
    pub rounds: Vec<RoundShape>,
    /// Material for party 0 and party 1.
    pub dealer_bytes: [u64; 2],
}

/// One round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundShape {
    /// Frame bytes that party 0 and party 1 send.
    pub bytes: [usize; 2],
    /// Part of the model, such as `layer.3.attention`; the round's time and bytes are put to its account.
    pub part: String,
    /// Kind of gate; where a round serves several, the one with the most bytes.
    pub gate: String,
}

impl ProgramShape {
    /// Bytes that a party sends, by declaration.
    pub fn sent_bytes(&self, party: PartyId) -> u64 {
        self.rounds.iter().map(|r| r.bytes[party.index()] as u64).sum()
    }
}
