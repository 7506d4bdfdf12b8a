//! Who takes part in an inference.

use std::fmt;

use serde::{Deserialize, Serialize};
use sprint_mpc_core::{PartyId, Server};

/// One of the ends of the protocol: two parties and a dealer, or three parties, and a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// The first online server.
    #[serde(rename = "party-0")]
    Party0,
    /// The second online server.
    #[serde(rename = "party-1")]
    Party1,
    /// Makes one-time material; sees shapes only.
    #[serde(rename = "dealer")]
    Dealer,
    /// Owns the input and alone learns the output.
    #[serde(rename = "client")]
    Client,
    /// The third online server, where there are three and no dealer.
    #[serde(rename = "party-2")]
    Party2,
}

impl Role {
    /// All, in a fixed order.
    pub const ALL: [Self; 5] = [Self::Party0, Self::Party1, Self::Dealer, Self::Client, Self::Party2];

    /// The name in configuration and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Party0 => "party-0",
            Self::Party1 => "party-1",
            Self::Dealer => "dealer",
            Self::Client => "client",
            Self::Party2 => "party-2",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// The byte that stands for it on the wire.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Party0 => 0,
            Self::Party1 => 1,
            Self::Dealer => 2,
            Self::Client => 3,
            Self::Party2 => 4,
        }
    }

    /// The server, where there are three.
    pub fn server(self) -> Option<Server> {
        match self {
            Self::Party0 => Some(Server::S0),
            Self::Party1 => Some(Server::S1),
            Self::Party2 => Some(Server::S2),
            Self::Dealer | Self::Client => None,
        }
    }

    /// The party id, if it is one of two parties.
    pub fn party(self) -> Option<PartyId> {
        match self {
            Self::Party0 => Some(PartyId::P0),
            Self::Party1 => Some(PartyId::P1),
            Self::Dealer | Self::Client | Self::Party2 => None,
        }
    }
}

impl From<Server> for Role {
    fn from(server: Server) -> Self {
        match server {
            Server::S0 => Self::Party0,
            Server::S1 => Self::Party1,
            Server::S2 => Self::Party2,
        }
    }
}

impl From<PartyId> for Role {
    fn from(id: PartyId) -> Self {
        match id {
            PartyId::P0 => Self::Party0,
            PartyId::P1 => Self::Party1,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Party0 => "party 0",
            Self::Party1 => "party 1",
            Self::Dealer => "the dealer",
            Self::Client => "the client",
            Self::Party2 => "party 2",
        })
    }
}
