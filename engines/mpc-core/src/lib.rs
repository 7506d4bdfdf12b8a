//! The secret-sharing core: ring, gates, correlations and the gate program. Synchronous, no IO.

mod machine;

pub use machine::{Advance, DealerChunk, DealerMachine, MachineError, MaterialSource, PartyId, PartyMachine};
