//! The secret-sharing core: ring, gates, correlations and the gate program. Synchronous, no IO.
//!
//! Two servers hold additive shares over Z_2^64 and a dealer, who sees shapes only, makes one-time material. A [`Program`] is compiled from
//! the one model definition; a [`Dealer`] and two [`Party`]s walk through it. The adversary is semi-honest and corrupts one of the three roles; what
//! is and is not hidden is in SECURITY.md. [`ReplicatedProgram`] runs the same programs on three servers of which one may be corrupted, without a dealer.

mod client;
mod compile;
mod exec;
mod fit;
mod machine;
mod program;
mod replicated;
mod runner;
mod weights;

pub use client::{ClientInput, decode_answers, decode_logits, encode_inputs};
pub use compile::{CompileError, Mode, Options, Output, compile};
pub use exec::{Dealer, Inputs, OpenedWeights, Party, SimulateError, WeightMasks, WeightOpening, simulate};
pub use machine::{Advance, DealerChunk, DealerMachine, MachineError, MaterialSource, PartyId, PartyMachine};
pub use program::{Cost, Input, KindCost, Program, RoundName};
pub use replicated::{
    ReplicatedAdvance, ReplicatedCost, ReplicatedParty, ReplicatedProgram, ReplicatedReport, ReplicatedRound, ReplicatedWeights,
    Server, ThreeInMemory, decode_three, share_input_in_three, share_weights_in_three,
};
pub use runner::{InMemory, RunReport};
pub use weights::{PrivateWeights, PublicWeights, os_randomness};
