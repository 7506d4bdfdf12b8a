//! What a role is waiting for, so that a stall can be named.

use std::fmt;

use crate::Role;

/// A thing one role expects of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// A TCP connection and TLS.
    Connection,
    /// The handshake.
    Hello,
    /// The peer's ledger watermark.
    Watermark,
    /// The dealer's seed of the masks of private weights.
    Seed,
    /// The opening of the private weights.
    Opening,
    /// The other half of a pair's secret.
    Pair,
    /// The start of an inference.
    Begin {
        /// Its material index.
        inference: u64,
    },
    /// A round's opening.
    Round {
        /// From 0.
        round: u32,
        /// Its material index.
        inference: u64,
    },
    /// The comparison of transcripts.
    Transcript {
        /// Its material index.
        inference: u64,
    },
    /// A client's request.
    Request,
    /// A client's share of its input.
    Input {
        /// The request's number in the session.
        request: u64,
    },
    /// The other side's material for a request.
    Ready {
        /// The request's number in the session.
        request: u64,
    },
    /// An output share.
    Output {
        /// The request's number in the session.
        request: u64,
    },
    /// A party's order for material.
    Want,
    /// Dealer material.
    Material {
        /// Its material index.
        inference: u64,
    },
    /// The measurement of the link.
    Probe,
    /// The end of the session.
    End,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection => f.write_str("a connection"),
            Self::Hello => f.write_str("the handshake"),
            Self::Watermark => f.write_str("the ledger watermark"),
            Self::Seed => f.write_str("the seed of the weights' masks"),
            Self::Opening => f.write_str("the opening of the private weights"),
            Self::Pair => f.write_str("the pair's secret"),
            Self::Begin { inference } => write!(f, "the start of inference {inference}"),
            Self::Round { round, inference } => write!(f, "round {round} of inference {inference}"),
            Self::Transcript { inference } => write!(f, "the transcript of inference {inference}"),
            Self::Request => f.write_str("a request"),
            Self::Input { request } => write!(f, "the input of request {request}"),
            Self::Ready { request } => write!(f, "the material of request {request} to be at hand"),
            Self::Output { request } => write!(f, "the output of request {request}"),
            Self::Want => f.write_str("an order for material"),
            Self::Material { inference } => write!(f, "material of inference {inference}"),
            Self::Probe => f.write_str("the measurement of the link"),
            Self::End => f.write_str("the end of the session"),
        }
    }
}

/// Who waits, for what, from whom, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The role that waits.
    pub waiter: Role,
    /// What it waits for.
    pub what: What,
    /// The role it waits for.
    pub from: Role,
    /// That role's address as seen from here.
    pub at: String,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits for {} from {} at {}", self.waiter, self.what, self.from, self.at)
    }
}
