//! Three servers with an honest majority and no dealer: replicated sharing of the same gate programs.
//!
//! # Sharing
//! `x = x_0 + x_1 + x_2` in Z_2^n; server `i` holds `x_i` and `x_{i+1}` (indices mod 3), so any two servers hold all of it and one holds two uniform
//! words (Araki, Furukawa, Lindell, Nof and Ohara, CCS 2016). Adjacent servers `i-1` and `i` share a key `K_i`; `α_i = F(K_i) - F(K_{i+1})` adds
//! up to zero.
//!
//! # From a gate program
//! The [`crate::Program`] is the one that two servers and a dealer run, so both evaluate the same functions in the same rings. Its linear parts run on *additive*
//! shares, the first of each server's two words, at the price of one local product a server. What the other backend opens under a mask is here
//! made replicated again: server `i` sends `x_i + α_i`, always with its zero-share, to server `i-1`, in as many bits as the opening had.
//!
//! A replicated value is at once a masked opening in three ways. Of `x = a + b` with `b = x_o + x_{o+1}`, the *owner* `o` knows `b` and both others
//! know `a`: they have opened `a = x - b`, and the owner knows the mask. So whatever a dealer deals for a mask, the owner deals here:
//! shares of a vector `v(b)`, one half from the key it has with the server before it, the other half sent to the server after it.
//!
//! | gate | the owner deals | then | rounds after the reshare |
//! |---|---|---|---|
//! | product, matrices | – | `x_i·y_i + x_i·y_{i+1} + x_{i+1}·y_i` | 0 |
//! | lift | the top bit of `b` | `x = A + B + 2^n·top(a)·top(b)`, `A` and `B` as signed numbers | 1 |
//! | Fourier series | cosines and sines of multiples of `b` | the addition theorem | 1 |
//! | table | a point function at `-b` | a sum over the domain | 1 |
//! | comparison | of each block of up to six bits of `b`, the tables of generated and propagated carries | a look-up at `a`, then a tree | 2 and more |
//! | bit to word | the XOR of its two shares of the bit | `y + z - 2yz` | 1 |
//!
//! Truncation is that of the ring (T2): the sum of three floors is the floor of the sum, in the ring smaller by the bits that are dropped, up to one and
//! a half units in the last place and unbiased. It needs no message and has no large error, ever.

mod bits;
mod cost;
mod gates;
mod party;
mod plan;
mod runner;
mod server;
mod share;
#[cfg(test)]
mod tests;
mod translate;

pub use cost::{ReplicatedCost, ReplicatedRound};
pub use party::{ReplicatedAdvance, ReplicatedParty};
pub use plan::ReplicatedProgram;
pub use runner::{ReplicatedReport, ThreeInMemory};
pub use server::Server;
pub use share::{ReplicatedWeights, decode_three, share_input_in_three, share_weights_in_three};
